//! What a first start leaves behind for the operator: a bearer token for the API, in a file that only its owner can read.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Context;
use stella_certs::ApiToken;
use stella_domain::command::{Actor, Command, Request, SystemCommand};
use stella_engine::Handle;
use stella_protocol::id::ApiTokenId;
use stella_protocol::trace::TraceContext;

/// The file in the state folder that holds the first token.
pub(crate) const TOKEN_FILE: &str = "admin-token";

/// Creates the first API token if there is none: the file first, so that a crash in between leaves no token that nobody
/// knows. A file without its token in the journal is overwritten.
pub(crate) async fn ensure_api_token(engine: &Handle, state_dir: &Path) -> anyhow::Result<()> {
    if !engine.state().system.api_tokens.is_empty() {
        return Ok(());
    }
    let token = ApiToken::generate()?;
    let path = state_dir.join(TOKEN_FILE);
    write_private(&path, &token.to_string())
        .with_context(|| format!("{} cannot be written", path.display()))?;
    let command = SystemCommand::CreateApiToken {
        id: ApiTokenId(uuid::Uuid::now_v7()),
        name: "first start".into(),
        hash: token.hash(),
        account: None,
        expires_at: None,
    };
    let request = Request {
        actor: Actor::System,
        trace: TraceContext::default(),
        idempotency: None,
        command: Command::System(command),
    };
    engine.submit(request).await.context("the first API token cannot be recorded")?;
    tracing::info!(file = %path.display(), "the first API credential is in this file; only its owner can read it");
    Ok(())
}

fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    let unfinished = path.with_extension("new");
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    writeln!(file, "{text}")?;
    file.sync_all()?;
    std::fs::rename(&unfinished, path)?;
    path.parent().map_or(Ok(()), |folder| std::fs::File::open(folder)?.sync_all())
}
