//! The archive and its install script, as an operator without a package manager meets them: signed by a key that is made
//! here, installed into a folder, spoiled, repeated and taken away.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use stella_tests::host::Host;
use stella_tests::packaged::{nothing_of_tasks_is_left, online, serving, start_long_task};
use stella_tests::wait;
use tempfile::TempDir;

/// A folder with the packages, the archive made of them, and a key that signed the checksums.
struct Delivery {
    folder: TempDir,
    archive: PathBuf,
}

impl Delivery {
    fn make() -> Result<Self> {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let packages = repository.join("target/packages");
        let folder = tempfile::tempdir()?;
        let listed = fs::read_dir(&packages).with_context(|| {
            format!("{} is not there; run `packaging/build dev` first", packages.display())
        })?;
        for entry in listed {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                fs::copy(&path, folder.path().join(path.file_name().context("a name")?))?;
            }
        }
        for name in ["ours", "foreign"] {
            let key = folder.path().join(format!("{name}.key"));
            let public = folder.path().join(format!("{name}.pem"));
            succeed(Command::new("openssl").args(["genpkey", "-algorithm", "ed25519", "-out"]).arg(&key))?;
            let mut derive = Command::new("openssl");
            succeed(derive.args(["pkey", "-pubout", "-in"]).arg(&key).arg("-out").arg(&public))?;
        }
        let mut pack = Command::new(repository.join("packaging/archive"));
        succeed(pack.arg(folder.path()).env("STELLA_SIGNING_KEY", folder.path().join("ours.key")))?;
        let archive = fs::read_dir(folder.path())?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.extension() == Some(OsStr::new("gz")))
            .context("no archive was made")?;
        Ok(Self { folder, archive })
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    fn script(&self) -> Command {
        let mut script = Command::new(self.folder.path().join("install.sh"));
        script.arg("--root").arg(self.root());
        script
    }

    fn install(&self, key: &str) -> Command {
        let mut script = self.script();
        script.arg("--archive").arg(&self.archive);
        script.arg("--public-key").arg(self.folder.path().join(key)).arg("stella-agent");
        script
    }
}

fn succeed(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    ensure!(output.status.success(), "{command:?}: {}", said(&output));
    Ok(said(&output))
}

fn refused(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    ensure!(!output.status.success(), "{command:?} was not refused: {}", said(&output));
    Ok(said(&output))
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn it_installs_once_keeps_configuration_and_leaves_no_program_behind() -> Result<()> {
    let delivery = Delivery::make()?;
    let program = delivery.root().join("usr/bin/stella-agent");
    let config = delivery.root().join("etc/stella/agent.toml");

    let plan = succeed(delivery.install("ours.pem").arg("--dry-run"))?;
    assert!(plan.contains("usr/bin/stella-agent"), "{plan}");
    assert!(!delivery.root().exists(), "a dry run has written something");

    succeed(&mut delivery.install("ours.pem"))?;
    let version = succeed(Command::new(&program).arg("--version"))?;
    assert!(version.starts_with("stella-agent "), "{version}");
    assert!(!delivery.root().join("usr/bin/stella").exists(), "only the agent was asked for");
    assert_eq!(succeed(&mut delivery.install("ours.pem"))?, "", "the second time there is nothing to do");

    fs::write(&config, "mine")?;
    let kept = succeed(&mut delivery.install("ours.pem"))?;
    assert!(kept.contains("stays as it is"), "{kept}");
    assert_eq!(fs::read_to_string(&config)?, "mine");

    succeed(delivery.script().args(["--uninstall", "stella-agent"]))?;
    assert_eq!(fs::read_to_string(&config)?, "mine");
    let mut rest = Command::new("find");
    let rest = succeed(rest.arg(delivery.root()).args(["-type", "f"]))?;
    assert_eq!(rest.trim(), config.display().to_string());
    let again = succeed(delivery.script().args(["--uninstall", "stella-agent"]))?;
    assert!(again.contains("nothing to do"), "{again}");
    Ok(())
}

/// The services' users have to reach what is there, also where root's files are root's alone.
#[test]
fn folders_are_for_everybody_whatever_the_umask() -> Result<()> {
    let delivery = Delivery::make()?;
    let install = delivery.install("ours.pem");
    let mut strict = Command::new("sh");
    strict.args(["-c", "umask 077; exec \"$@\"", "sh"]).arg(install.get_program()).args(install.get_args());
    succeed(&mut strict)?;
    let mut closed = Command::new("find");
    let closed = succeed(closed.arg(delivery.root()).args(["!", "-perm", "-o+r"]))?;
    assert_eq!(closed, "", "only root may read it");
    Ok(())
}

#[test]
fn nothing_is_installed_that_is_not_what_was_signed() -> Result<()> {
    let delivery = Delivery::make()?;
    let reason = refused(&mut delivery.install("foreign.pem"))?;
    assert!(reason.contains("signature"), "{reason}");

    let mut bytes = fs::read(&delivery.archive)?;
    *bytes.last_mut().context("an empty archive")? ^= 1;
    fs::write(&delivery.archive, bytes)?;
    let reason = refused(&mut delivery.install("ours.pem"))?;
    assert!(reason.contains("checksum"), "{reason}");

    fs::remove_file(delivery.folder.path().join("SHA256SUMS.sig"))?;
    let reason = refused(&mut delivery.install("ours.pem"))?;
    assert!(reason.contains("SHA256SUMS.sig is not there"), "{reason}");
    assert!(!delivery.root().exists(), "a refusal has written something");
    Ok(())
}

/// Whoever may write to the folder changes the checksums and the archive between the two looks at them.
#[test]
fn what_was_verified_is_what_is_installed() -> Result<()> {
    let delivery = Delivery::make()?;
    let programs = tempfile::tempdir()?;
    let openssl = succeed(Command::new("sh").args(["-c", "command -v openssl"]))?;
    let folder = delivery.folder.path().display();
    let swap = format!(
        "#!/bin/sh\n{} \"$@\" || exit\necho evil > {archive}\ncd {folder} && sha256sum ./{name} > SHA256SUMS\n",
        openssl.trim(),
        archive = delivery.archive.display(),
        name = delivery.archive.file_name().context("a name")?.display(),
    );
    let wrapper = programs.path().join("openssl");
    fs::write(&wrapper, swap)?;
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))?;
    let path = format!("{}:{}", programs.path().display(), std::env::var("PATH")?);
    let reason = refused(delivery.install("ours.pem").env("PATH", path))?;
    assert!(reason.contains("its checksum is not the one in"), "{reason}");
    assert_eq!(fs::read_to_string(&delivery.archive)?, "evil\n", "nothing was swapped");
    assert!(!delivery.root().exists(), "a refusal has written something");
    Ok(())
}

#[test]
fn two_archives_of_the_same_packages_have_the_same_bytes() -> Result<()> {
    let (one, other) = (Delivery::make()?, Delivery::make()?);
    ensure!(fs::read(&one.archive)? == fs::read(&other.archive)?, "the archives differ");
    Ok(())
}

/// Services go on when nothing has changed for them, and only then.
async fn repeated(host: &Host, install: &str) -> Result<()> {
    let pid = |unit: &str| host.run(&format!("systemctl show -P MainPID {unit}"));
    let units = ["stella-orchestrator", "stella-agent"];
    let before = units.map(&pid);
    host.run(install)?;
    // Restarts are queued and not waited for.
    host.run("systemctl daemon-reload; while systemctl list-jobs | grep -q stella-; do sleep 0.1; done")?;
    for (unit, before) in units.into_iter().zip(before) {
        assert_eq!(pid(unit)?, before?, "{unit} was restarted for nothing");
    }
    let before = pid("stella-agent")?;
    let other = pid("stella-orchestrator")?;
    host.run("echo >> /usr/lib/systemd/system/stella-agent.service")?;
    let said = host.run(&format!("{install} --dry-run"))?;
    ensure!(said.contains("try-restart stella-agent.service"), "{said}");
    host.run(install)?;
    wait::until("the service whose file has changed is another one", async || {
        let now = host.run("systemctl show -P MainPID stella-agent; systemctl is-active stella-agent")?;
        ensure!(!now.starts_with(&before) && now.ends_with("\nactive\n"), "{now:?}");
        Ok(())
    })
    .await?;
    assert_eq!(pid("stella-orchestrator")?, other, "nothing of the control plane has changed");
    online(host).await
}

/// On a whole system: the service's user and folders are made, systemd knows the units and forgets them again. The small
/// system has no openssl, so the checksum alone is checked here.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_with_systemd_gets_users_folders_and_units() -> Result<()> {
    let delivery = Delivery::make()?;
    let host = Host::boot("installer").await?;
    let archive = delivery.archive.file_name().context("a name")?.to_string_lossy().into_owned();
    for name in [archive.as_str(), "install.sh", "SHA256SUMS"] {
        host.put(&delivery.folder.path().join(name), &format!("/root/{name}"))?;
    }
    let programs = "stella-orchestrator stella-agent stella";
    let install = format!("cd /root && sh ./install.sh --archive {archive} --no-signature {programs}");
    host.run(&install)?;
    host.run(&install)?;
    host.run("test -d /srv/stella && getent passwd stella-orchestrator && stella --version")?;
    serving(&host).await?;
    repeated(&host, &install).await?;
    host.run("systemctl enable stella-agent-enrol stella-backup.timer")?;
    // A task that is under way would have nobody to report it.
    start_long_task(&host).await?;
    host.run(&format!("cd /root && sh ./install.sh --uninstall {programs}"))?;
    nothing_of_tasks_is_left(&host)?;
    let dangling = host.run("find /etc/systemd/system -xtype l -name 'stella*'")?;
    assert_eq!(dangling, "", "units are enabled that are gone");
    let left = host.run("systemctl is-active stella-orchestrator || ls /usr/bin | grep stella || true")?;
    assert_eq!(left.trim(), "inactive");
    host.run("test -f /etc/stella/orchestrator.toml && test -f /var/lib/stella-orchestrator/admin-token")?;
    Ok(())
}
