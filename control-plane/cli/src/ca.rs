//! The certificates that the control plane's own certificate is verified with. They come over a connection that was verified with
//! those before.

use std::fs;
use std::io::Write;
use std::path::Path;

use stella_api_types::paths;
use stella_api_types::system::System;

use crate::args::Ca;
use crate::client::Error;
use crate::{Context, print};

pub(crate) async fn ca(context: &Context, command: &Ca) -> Result<(), Error> {
    let system: System = context.client.get(paths::SYSTEM).await?;
    if system.roots_pem.is_empty() {
        return Err(Error::Usage("this control plane is too old to tell its certificates".into()));
    }
    match command {
        Ca::Bundle => {
            let bundle = serde_json::json!({ "roots_pem": system.roots_pem });
            print::result(context.output, &bundle, |_| system.roots_pem.trim_end().to_owned())
        }
        Ca::Update => {
            let Some(file) = context.settings.ca() else {
                return Err(Error::Usage("which file? give --ca FILE, or set STELLA_CA".into()));
            };
            let there = fs::read_to_string(file).unwrap_or_default();
            let is_changed = there != system.roots_pem;
            if is_changed {
                if !context.settings.would_trust(file, &system.roots_pem).await? {
                    return Err(Error::Usage(format!(
                        "{} stays as it is: what {} shows is no certificate of the control plane's own authority (it has one of \
                         somebody else's, or a proxy is in front), and with that authority alone it would not be trusted",
                        file.display(),
                        context.settings.url()
                    )));
                }
                replace(file, &system.roots_pem).map_err(|error| {
                    Error::Usage(format!("{} cannot be written: {error}", file.display()))
                })?;
            }
            let result = serde_json::json!({ "file": file, "changed": is_changed });
            print::result(context.output, &result, |_| {
                let what = if is_changed { "has the certificates of now" } else { "has them already" };
                format!("{} {what}", file.display())
            })
        }
    }
}

/// In one step: a command that runs beside this one reads the old file or the new one.
fn replace(file: &Path, text: &str) -> std::io::Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut new = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(folder.unwrap_or_else(|| Path::new(".")))?;
    new.write_all(text.as_bytes())?;
    new.as_file().sync_all()?;
    new.persist(file).map(drop).map_err(|error| error.error)
}
