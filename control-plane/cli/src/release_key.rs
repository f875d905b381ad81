//! Keys that sign releases.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use stella_api_types::hold::HoldBack;
use stella_api_types::paths;
use stella_api_types::signing::{AddReleaseKey, ReleaseKey as Dto, SetSigning};
use stella_api_types::tenant::Tenant;
use stella_signing::SigningKey;

use crate::args::{Output, ReleaseKey};
use crate::client::{Error, read};
use crate::{Context, print};

pub(crate) async fn key(context: &Context, command: ReleaseKey) -> Result<(), Error> {
    match command {
        ReleaseKey::Create { file } => create(context.output, &file),
        ReleaseKey::Add { name, public_key } => {
            let body = AddReleaseKey { name, public_key: read(&public_key)? };
            let path = context.path(paths::RELEASE_KEYS, &[])?;
            let added: Dto = context.client.post(&path, &body, None).await?;
            print::result(context.output, &added, |it| {
                format!("key {} may sign releases; its fingerprint is {}", it.name, it.id)
            })
        }
        ReleaseKey::List => {
            let keys: Vec<Dto> = context.client.list(&context.path(paths::RELEASE_KEYS, &[])?, &[]).await?;
            print::list(context.output, &keys, &["NAME", "FINGERPRINT", "ADDED", "REVOKED"], |key| {
                let revoked = key.revoked.as_ref();
                vec![
                    key.name.clone(),
                    key.id.clone(),
                    key.added_at.clone(),
                    revoked.map_or_else(|| "-".to_owned(), |it| format!("{} ({})", it.since, it.reason)),
                ]
            })
        }
        ReleaseKey::Revoke { key, reason } => {
            let path = context.path(paths::RELEASE_KEY_REVOKE, &[&key])?;
            let revoked: Dto = context.client.post(&path, &HoldBack { reason }, None).await?;
            print::result(context.output, &revoked, |it| {
                format!("key {} is revoked; nothing counts any more that it has signed", it.name)
            })
        }
        ReleaseKey::Require { needed, keys, nothing: _ } => {
            let body = SetSigning { needed: needed.unwrap_or(0), keys };
            let path = context.path(paths::TENANT_SIGNING, &[])?;
            let set: Tenant = context.client.post(&path, &body, None).await?;
            print::result(context.output, &set, |it| match &it.signing {
                None => format!("tenant {} takes releases without signatures", it.name),
                Some(rule) => {
                    let signatures = print::count(rule.needed.into(), "signature");
                    let by = if rule.keys.is_empty() { "" } else { ", by " };
                    let keys = rule.keys.join(", ");
                    format!("tenant {} demands {signatures} of every release{by}{keys}", it.name)
                }
            })
        }
    }
}

/// Makes a key pair in two files. Nothing is overwritten, and the private one is its owner's alone from the start.
pub(crate) fn create(output: Output, file: &Path) -> Result<(), Error> {
    let failed = |error: &dyn std::fmt::Display| Error::Usage(format!("no key was made: {error}"));
    let key = SigningKey::generate().map_err(|error| failed(&error))?;
    let pem = key.to_pem().map_err(|error| failed(&error))?;
    let mut public_file = file.as_os_str().to_owned();
    public_file.push(".pub");
    let public_file = PathBuf::from(public_file);
    if public_file.exists() {
        return Err(failed(&format!("{} is there already", public_file.display())));
    }
    write_new(file, 0o600, &pem)?;
    write_new(&public_file, 0o644, &key.public().to_pem())?;
    let made = serde_json::json!({
        "private_key": file, "public_key": public_file, "fingerprint": key.public().fingerprint().to_string(),
    });
    print::result(output, &made, |it| {
        format!(
            "{} holds the private key: keep it where releases are signed\n{} is the public one: stella release key add NAME {}\nfingerprint {}",
            file.display(),
            public_file.display(),
            public_file.display(),
            it["fingerprint"].as_str().unwrap_or_default()
        )
    })
}

fn write_new(path: &Path, mode: u32, text: &str) -> Result<(), Error> {
    let written = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    written
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .map_err(|error| Error::Usage(format!("{} cannot be written: {error}", path.display())))
}
