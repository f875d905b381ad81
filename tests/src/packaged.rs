//! The packages on hosts with systemd. `packaging/build dev` makes them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::host::Host;
use crate::wait;

/// What an installed command line needs to know on the control plane's host, and the command line.
pub const STELLA: &str = "STELLA_URL=https://localhost:8443 STELLA_CA=/var/lib/stella-orchestrator/pki/root.crt \
     STELLA_TOKEN_FILE=/var/lib/stella-orchestrator/admin-token STELLA_TENANT=acme stella";

/// The Debian packages of all three programs.
///
/// # Errors
/// If they are not there, or others beside them.
pub fn packages() -> Result<Vec<PathBuf>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/packages");
    let listed = fs::read_dir(&folder)
        .with_context(|| format!("{} is not there; run `packaging/build dev` first", folder.display()))?;
    let all = listed.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let packages: Vec<_> =
        all.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "deb")).collect();
    ensure!(packages.len() == 3, "expected three packages in {}, found {packages:?}", folder.display());
    Ok(packages)
}

/// The Debian package of one of them.
///
/// # Errors
/// If it is not there.
pub fn package(program: &str) -> Result<PathBuf> {
    let is_it = |path: &PathBuf| {
        let file = path.file_name().map(|it| it.to_string_lossy().into_owned()).unwrap_or_default();
        file.starts_with(&format!("{program}_"))
    };
    packages()?.into_iter().find(is_it).with_context(|| format!("there is no package {program}"))
}

/// Installs some of them.
///
/// # Errors
/// If one is not there, or cannot be installed.
pub fn install_only(host: &Host, programs: &[&str]) -> Result<()> {
    let mut files = Vec::new();
    for program in programs {
        let file = format!("/root/{program}.deb");
        host.put(&package(program)?, &file)?;
        files.push(file);
    }
    host.run(&format!("DEBIAN_FRONTEND=noninteractive dpkg -i {}", files.join(" "))).map(drop)
}

/// Installs all three.
///
/// # Errors
/// If they are not there, or cannot be installed.
pub fn install(host: &Host) -> Result<()> {
    for package in packages()? {
        let name = package.file_name().context("a name")?.to_string_lossy().into_owned();
        host.put(&package, &format!("/root/{name}"))?;
    }
    host.run("DEBIAN_FRONTEND=noninteractive dpkg -i /root/*.deb").map(drop)
}

/// Waits until the only agent of a control plane is online.
///
/// # Errors
/// If it is not in time.
pub async fn online(host: &Host) -> Result<()> {
    wait::until("the agent is online", async || {
        let agents = host.run(&format!("{STELLA} agent list --output json"))?;
        ensure!(agents.contains(r#""connectivity": "online""#), "{agents}");
        Ok(())
    })
    .await
}
