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

/// A host with an installed control plane, and its only agent `web-1`, which is online and has a target of that name in `staging`.
///
/// # Errors
/// If it does not come up.
pub async fn serving(host: &Host) -> Result<()> {
    host.run("systemctl enable --now stella-orchestrator")?;
    host.run(&format!("{STELLA} tenant create acme && {STELLA} env create staging"))?;
    host.run(&format!("umask 077 && {STELLA} agent token --name web-1 --quiet > /root/token"))?;
    host.run("stella-agent enrol --server localhost:7443 --token @/root/token")?;
    host.run("systemctl enable --now stella-agent")?;
    online(host).await?;
    host.run(&format!("{STELLA} target create web-1 --env staging --agent web-1")).map(drop)
}

/// What a task runs for as long as a test takes.
const LONG: &str = "sleep 4242";

/// Whether the long task's command runs.
///
/// # Errors
/// If the host cannot be asked.
pub fn long_task_runs(host: &Host) -> Result<bool> {
    Ok(host.run(&format!("pgrep -fx '{LONG}' || true"))?.lines().count() == 1)
}

/// Deploys a release whose one task takes long, and waits until that is under way.
///
/// # Errors
/// If it does not begin.
pub async fn start_long_task(host: &Host) -> Result<()> {
    let steps = format!(
        r#"[{{"name": "hold", "timeout_ms": 6000000, "action": {{"type": "command", "argv": {:?}}}}}]"#,
        LONG.split(' ').collect::<Vec<_>>()
    );
    fs::write(host.root().join("root/long.json"), steps)?;
    host.run(&format!("{STELLA} release create web 9.0.0 --steps /root/long.json"))?;
    host.run(&format!("{STELLA} deploy web:9.0.0 staging"))?;
    wait::until("the long task is under way", async || {
        ensure!(long_task_runs(host)?, "{}", host.run(&format!("{STELLA} deployment list"))?);
        Ok(())
    })
    .await
}

/// Checks that nothing of any task runs, nor a program of Stella's that would report it.
///
/// # Errors
/// If something does.
pub fn nothing_of_tasks_is_left(host: &Host) -> Result<()> {
    // The shell that asks has the pattern in its own line.
    let left = host.run(&format!("pgrep -fa '^{LONG}|[s]tella-agent' || true"))?;
    ensure!(left.is_empty(), "left behind: {left}");
    Ok(())
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
