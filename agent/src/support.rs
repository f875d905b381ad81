//! `stella-agent support-bundle`: what somebody who helps wants to see, without secrets.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use stella_certs::{
    CertificateDer, certificate_fingerprint, serial_hex_of_certificate, validity_of_certificate,
};
use stella_doctor::host::size_of;
use stella_doctor::{
    Bundle, CERTIFICATES_BYTES_MAX, Keep, MEMBER_BYTES_MAX, Manifest, Mask, open_regular, read_all,
};

use crate::cli::unix_s;
use crate::config::{self, Config, Loaded};
use crate::doctor::{self, Seen, UNIT, journal_of};
use crate::enrol::{JOURNAL_DIR, PENDING_FILE};
use crate::executor::reason_of;
use crate::identity::Identity;

/// How long the running agent may take for its figures.
const SCRAPE_DURATION_MAX: Duration = Duration::from_secs(10);
/// The token of an image that enrols at its first boot.
const ENROLMENT_FILE: &str = "/etc/stella/enrolment";
/// How many attempts are listed.
const ATTEMPTS_MAX: usize = 1_000;

/// Gathers everything and writes it to `path`.
///
/// # Errors
/// If the file cannot be written, or is there already.
pub(crate) async fn write(loaded: &Result<Loaded, config::Error>, path: &Path) -> io::Result<Manifest> {
    let findings = doctor::examine(loaded).await;
    let mut bundle =
        Bundle::new("stella-agent", env!("CARGO_PKG_VERSION"), SystemTime::now(), secrets(loaded));
    bundle.unit(UNIT);
    match loaded {
        Ok(loaded) => {
            let config = &loaded.config;
            bundle.host(&findings, &[&config.state_dir, &config.host_root]);
            bundle.document("configuration.json", "each key with where it is from", loaded.effective());
            bundle.log_file(config.log_file.as_deref());
            identity(&mut bundle, &config.state_dir);
            journal(&mut bundle, &config.state_dir);
            attempts(&mut bundle, &config.state_dir);
            metrics(&mut bundle, config).await;
        }
        Err(error) => {
            bundle.host(&findings, &[]);
            bundle.leave_out("configuration.json", &reason_of(error));
            for name in ["log.txt", "identity.json", "journal.json", "attempts.json", "metrics.txt"] {
                bundle.leave_out(name, "where it is, the configuration says, and that is not understood");
            }
        }
    }
    bundle.write(path)
}

/// What is known to be secret on this host. What tasks were given is in no file of the agent.
fn secrets(loaded: &Result<Loaded, config::Error>) -> Mask {
    let mut mask = Mask::default();
    mask.hide_environment();
    mask.hide_file(Path::new(ENROLMENT_FILE));
    let Ok(Loaded { config, .. }) = loaded else { return mask };
    if let Ok(identity) = Identity::load(&config.state_dir) {
        mask.hide_bytes(identity.key.secret_pkcs8_der());
    }
    let pending = open_regular(&config.state_dir.join(PENDING_FILE))
        .and_then(|file| read_all(file, CERTIFICATES_BYTES_MAX))
        .ok();
    let pending: Option<Value> = pending.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    if let Some(key) = pending.as_ref().and_then(|it| hex::decode(it["key_pkcs8_der"].as_str()?).ok()) {
        mask.hide_bytes(&key);
    }
    if let Some(tls) = config.metrics.as_ref().and_then(|metrics| metrics.tls.as_ref()) {
        mask.hide_file(&tls.key);
    }
    if let Some(headers) = &config.traces.headers_file {
        mask.hide_file(headers);
    }
    mask
}

fn identity(bundle: &mut Bundle, state_dir: &Path) {
    const NAME: &str = "identity.json";
    let certificate = |certificate: &CertificateDer<'_>| {
        let ends = validity_of_certificate(certificate).ok();
        json!({
            "sha256": certificate_fingerprint(certificate).to_string(),
            "serial": serial_hex_of_certificate(certificate).ok(),
            "not_before_unix_s": ends.map(|(begin, _)| unix_s(begin)),
            "not_after_unix_s": ends.map(|(_, end)| unix_s(end)),
        })
    };
    match Identity::load(state_dir) {
        Ok(found) => {
            let document = json!({
                "tenant_id": found.tenant,
                "agent_id": found.agent,
                "server": found.server,
                "chain": found.chain.iter().map(certificate).collect::<Vec<_>>(),
                "trusted_roots": found.roots.iter().map(certificate).collect::<Vec<_>>(),
            });
            bundle.document(NAME, "who the agent is, and the public facts of its certificates", document);
        }
        Err(error) => bundle.leave_out(NAME, &reason_of(&error)),
    }
}

fn journal(bundle: &mut Bundle, state_dir: &Path) {
    const NAME: &str = "journal.json";
    let bytes = size_of(&state_dir.join(JOURNAL_DIR));
    let document = match journal_of(state_dir) {
        Ok(Seen::Missing) => return bundle.leave_out(NAME, "the agent has not run here"),
        // Only the agent itself may look into it.
        Ok(Seen::Held) => json!({"bytes": bytes, "held": true}),
        Ok(Seen::Opened(journal, _copy)) => json!({
            "bytes": bytes,
            "held": false,
            "mark": journal.mark(),
            "control_plane": journal.control_plane(),
            "open_attempts": journal.open_attempts().len(),
        }),
        Err(error) => json!({"bytes": bytes, "problem": reason_of(&error)}),
    };
    bundle.document(NAME, "the journal's size, and its position if no agent has it open", document);
}

/// The names of attempts are ids of tasks. What is in them may be anything that a task was given or has printed.
fn attempts(bundle: &mut Bundle, state_dir: &Path) {
    const NAME: &str = "attempts.json";
    let folder = state_dir.join("attempts");
    let Ok(items) = fs::read_dir(&folder) else {
        return bundle.leave_out(NAME, "the agent has not run here, or this user may not look");
    };
    let listed = items
        .flatten()
        .take(ATTEMPTS_MAX)
        .map(|item| json!({"name": item.file_name().to_string_lossy(), "bytes": size_of(&item.path())}));
    let document = listed.collect::<Vec<_>>();
    bundle.document(NAME, "the folders of attempts, without what is in them", document);
}

async fn metrics(bundle: &mut Bundle, config: &Config) {
    const NAME: &str = "metrics.txt";
    let Some(metrics) = &config.metrics else {
        return bundle.leave_out(NAME, "metrics.listen is not set");
    };
    if metrics.tls.is_some() {
        return bundle.leave_out(NAME, "the listener asks for a scraper's certificate, which is not here");
    }
    let asked = async {
        let client = reqwest::Client::builder().timeout(SCRAPE_DURATION_MAX).no_proxy().build()?;
        let mut answer =
            client.get(format!("http://{}/metrics", metrics.listen)).send().await?.error_for_status()?;
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > MEMBER_BYTES_MAX {
                break;
            }
        }
        Ok::<_, reqwest::Error>(bytes)
    };
    match asked.await {
        Ok(bytes) => {
            bundle.text(NAME, "the agent's own figures", &String::from_utf8_lossy(&bytes), Keep::Head);
        }
        Err(error) => bundle.leave_out(NAME, &format!("the agent does not answer: {}", reason_of(&error))),
    }
}
