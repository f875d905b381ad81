//! `stella support-bundle`: what somebody who helps with a command line wants to see, without secrets.

use std::path::PathBuf;
use std::time::SystemTime;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use stella_api_types::account::WhoAmI;
use stella_api_types::agent::Agent;
use stella_api_types::deployment::Deployment;
use stella_api_types::page::Page;
use stella_api_types::paths;
use stella_api_types::system::System;
use stella_doctor::{Bundle, Mask};

use crate::args::{Global, Output};
use crate::client::{Client, Error};
use crate::settings::Settings;
use crate::{doctor, print};

/// How many agents and deployments are listed.
const LISTED: &str = "200";

/// Gathers what this command line may see, and writes it.
pub(crate) async fn write(global: &Global, file: Option<PathBuf>) -> Result<(), Error> {
    let now = SystemTime::now();
    let since_1970 = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let path = file.unwrap_or_else(|| format!("stella-support-{since_1970}.tar.gz").into());
    let settings = Settings::load(global);
    let mut mask = Mask::default();
    mask.hide_environment();
    if let Some(token) = settings.as_ref().ok().and_then(Settings::token_file) {
        mask.hide_file(token);
    }
    let mut bundle = Bundle::new("stella", env!("CARGO_PKG_VERSION"), now, mask);
    bundle.host(&doctor::examine(global).await, &[]);
    match settings.and_then(|settings| Ok((settings.client()?, settings))) {
        Ok((client, settings)) => ask(&mut bundle, &client, &settings).await,
        Err(error) => bundle.leave_out("control-plane.json", &error.to_string()),
    }
    let written = bundle.write(&path);
    let manifest =
        written.map_err(|error| Error::Usage(format!("{} cannot be written: {error}", path.display())))?;
    match global.output {
        Output::Json => print::json(&manifest)?,
        Output::Text => print::line(manifest.text(&path).trim_end()),
    }
    Ok(())
}

async fn ask(bundle: &mut Bundle, client: &Client, settings: &Settings) {
    let document = json!({
        "url": settings.url(),
        "tenant": settings.tenant().ok(),
        "token_file": settings.token_file(),
        "ca": settings.ca(),
    });
    bundle.document("settings.json", "what the command line is set up with", document);
    let about = "what the control plane is and how much it holds";
    of(bundle, client, ("control-plane.json", about), paths::SYSTEM, |it: System| {
        json!({"version": it.version, "uptime_s": it.uptime, "counts": it.counts, "journal": it.journal_incarnation})
    })
    .await;
    of(bundle, client, ("whoami.json", "what the token may do"), paths::WHOAMI, |it: WhoAmI| {
        json!(it.account)
    })
    .await;
    let Ok(tenant) = settings.tenant() else {
        return bundle.leave_out("agents.json", "no tenant is chosen: give --tenant NAME");
    };
    let path = format!("{}?limit={LISTED}", paths::fill(paths::AGENTS, &[tenant]));
    of(bundle, client, ("agents.json", "agents of the tenant, 200 at most"), &path, |page: Page<Agent>| {
        let shown = page.items.iter().map(|it| {
            json!({"name": it.name, "connectivity": it.connectivity, "since": it.since, "version": it.version,
                "open_tasks": it.open_tasks, "revoked": it.revoked.is_some()})
        });
        shown.collect()
    })
    .await;
    let path = format!("{}?status=running&limit={LISTED}", paths::fill(paths::DEPLOYMENTS, &[tenant]));
    let about = ("deployments.json", "the tenant's deployments that go on, 200 at most");
    of(bundle, client, about, &path, |page: Page<Deployment>| {
        let shown = page.items.iter().map(|it| {
            json!({"id": it.id, "environment": it.environment.name, "status": it.status, "counts": it.counts,
                "created_at": it.created_at, "finished_at": it.finished_at})
        });
        shown.collect()
    })
    .await;
}

/// Adds what the API says of one thing; or why it does not.
async fn of<T: DeserializeOwned>(
    bundle: &mut Bundle,
    client: &Client,
    (name, about): (&str, &str),
    path: &str,
    show: impl FnOnce(T) -> Value,
) {
    match client.get::<T>(path).await {
        Ok(found) => bundle.document(name, about, show(found)),
        Err(error) => bundle.leave_out(name, &error.to_string()),
    }
}
