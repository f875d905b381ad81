//! `stella-orchestrator support-bundle`: what somebody who helps wants to see, without secrets.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Context as _;
use clap::Args;
use serde_json::{Map, Value, json};
use stella_certs::{
    CertificateDer, certificate_fingerprint, certificates_from_pem, serial_hex_of_certificate,
    validity_of_certificate,
};
use stella_doctor::host::size_of;
use stella_doctor::{Bundle, CERTIFICATES_BYTES_MAX, Keep, Mask, open_regular, read_all};

use crate::authority::written;
use crate::config::{Config, Loaded};
use crate::doctor::{self, Examined, UNIT};
use crate::look;

/// Where to write it.
#[derive(Debug, Args)]
pub(crate) struct SupportArgs {
    /// The file to write; it must not exist [default: stella-orchestrator-support-SECONDS.tar.gz]
    #[arg(long, value_name = "FILE.tar.gz")]
    output: Option<PathBuf>,
}

/// Gathers everything, writes it and tells what is in it.
pub(crate) fn run(args: &SupportArgs, file: Option<&Path>) -> anyhow::Result<bool> {
    let now = SystemTime::now();
    let since_1970 = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let path = args
        .output
        .clone()
        .unwrap_or_else(|| format!("stella-orchestrator-support-{since_1970}.tar.gz").into());
    let loaded = Loaded::load(file);
    let examined = doctor::examine(&loaded);
    let mut bundle = Bundle::new("stella-orchestrator", env!("CARGO_PKG_VERSION"), now, secrets(&loaded));
    bundle.unit(UNIT);
    match &loaded {
        Ok(loaded) => gather(&mut bundle, loaded, &examined)?,
        Err(error) => {
            bundle.host(&examined.findings, &[]);
            bundle.leave_out("configuration.json", &format!("{error:#}"));
            for name in
                ["log.txt", "certificates.json", "state-folder.json", "control-plane.json", "metrics.txt"]
            {
                bundle.leave_out(name, "where it is, the configuration says, and that is not understood");
            }
        }
    }
    let manifest = bundle.write(&path).with_context(|| format!("{} cannot be written", path.display()))?;
    write!(io::stdout(), "{}", manifest.text(&path))?;
    Ok(true)
}

fn gather(bundle: &mut Bundle, loaded: &Loaded, examined: &Examined) -> anyhow::Result<()> {
    let config = &loaded.config;
    bundle.host(&examined.findings, &[&config.state_dir]);
    bundle.document("configuration.json", "each key with where it is from", shown(loaded)?);
    bundle.log_file(config.log.file.as_deref());
    certificates(bundle, config, examined.server_certificate.as_ref());
    let sizes = sizes(&config.state_dir);
    bundle.document("state-folder.json", "what in the state folder takes how many bytes", sizes);
    let (name, about) = ("control-plane.json", "the running control plane: journal, fleet, deployments");
    match &examined.look {
        Some(look) => bundle.document(name, about, look),
        None if examined.held => bundle.leave_out(name, "it does not answer; see doctor.txt"),
        None => bundle.leave_out(name, "no control plane runs on the state folder"),
    }
    match look::figures(&config.state_dir) {
        Ok(Some(text)) => bundle.text("metrics.txt", "what Prometheus would scrape", &text, Keep::Head),
        Ok(None) => bundle.leave_out("metrics.txt", "no control plane runs on the state folder"),
        Err(error) => bundle.leave_out("metrics.txt", &format!("{error:#}")),
    }
    Ok(())
}

/// What is known to be secret on this host. Of tokens, only hashes are known; secrets of releases are in no part of this.
fn secrets(loaded: &anyhow::Result<Loaded>) -> Mask {
    let mut mask = Mask::default();
    mask.hide_environment();
    let Ok(Loaded { config, .. }) = loaded else { return mask };
    for path in config.secret_files() {
        mask.hide_file(&path);
    }
    for address in config.secret_addresses() {
        mask.hide(&address);
    }
    mask
}

/// The effective configuration. Receivers' addresses are among what is masked.
fn shown(loaded: &Loaded) -> anyhow::Result<Value> {
    Ok(serde_json::to_value(loaded.effective()?)?)
}

fn certificates(bundle: &mut Bundle, config: &Config, server: Option<&CertificateDer<'_>>) {
    let facts = |certificate: &CertificateDer<'_>| {
        let ends = validity_of_certificate(certificate).ok();
        json!({
            "sha256": certificate_fingerprint(certificate).to_string(),
            "serial": serial_hex_of_certificate(certificate).ok(),
            "not_before": ends.map(|(begin, _)| written(begin)),
            "not_after": ends.map(|(_, end)| written(end)),
        })
    };
    let mut all = Map::new();
    let pki = config.state_dir.join("pki");
    for folder in [pki.clone(), pki.join("next"), pki.join("next-issuing")] {
        for path in fs::read_dir(&folder).into_iter().flatten().flatten().map(|item| item.path()) {
            if path.extension().is_none_or(|extension| extension != "crt") {
                continue;
            }
            let pem = open_regular(&path).and_then(|file| read_all(file, CERTIFICATES_BYTES_MAX));
            let found = pem.ok().and_then(|pem| certificates_from_pem(&pem).ok());
            let found = found.map_or(Value::Null, |all| all.iter().map(facts).collect());
            let name = path.strip_prefix(&config.state_dir).unwrap_or(&path);
            all.insert(name.display().to_string(), found);
        }
    }
    all.insert("the API's".to_owned(), server.map_or(Value::Null, facts));
    bundle.document("certificates.json", "the public facts of the authority's certificates", all);
}

/// The size of each item of the state folder, in bytes.
fn sizes(state_dir: &Path) -> Value {
    let items = fs::read_dir(state_dir).into_iter().flatten().flatten();
    let sized = items
        .map(|item| (item.file_name().to_string_lossy().into_owned(), Value::from(size_of(&item.path()))));
    Value::Object(sized.collect())
}
