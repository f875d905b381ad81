//! Hosts of their own with systemd as process 1: systemd-nspawn over a Debian base system, with a network namespace that has
//! nothing but a loopback device, unless a [`crate::network::Network`] connects it. Needs root and the base system that `.ci/tools` makes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;

use crate::wait;

/// The Debian base system that hosts are layers over.
const BASE: &str = "/var/cache/stella-tests/debian-base-nginx";
/// The same with cloud-init and Ansible instead of nginx.
const PROVISION_BASE: &str = "/var/cache/stella-tests/debian-base-provision";
/// How long a boot may take on a busy machine.
const BOOT_DURATION_MAX: Duration = Duration::from_secs(120);

/// Enters the control groups that the container's systemd is to own, and becomes the container.
const BOOT: &str = r#"
for hierarchy in /sys/fs/cgroup/unified /sys/fs/cgroup/systemd /sys/fs/cgroup; do
    # The one hierarchy, or beside the older ones the two that systemd uses.
    [ -e "$hierarchy/cgroup.procs" ] || continue
    mkdir -p "$hierarchy/stella-tests/$NAME"
    echo $$ > "$hierarchy/stella-tests/$NAME/cgroup.procs"
done
export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1
exec systemd-nspawn -q -D "$ROOT" --machine="$NAME" --hostname="$NAME" --boot --register=no --keep-unit \
    --network-namespace-path="/run/netns/$NAME" --resolv-conf=off --timezone=off --console=pipe
"#;

/// A host that runs.
#[derive(Debug)]
pub struct Host {
    name: String,
    folder: TempDir,
    container: Option<Child>,
    leader: u32,
}

impl Host {
    /// Makes a host and boots it.
    ///
    /// # Errors
    /// If this machine cannot: not root, no base system, or no control groups to hand over.
    pub async fn boot(name: &str) -> Result<Self> {
        Self::boot_over(BASE, name).await
    }

    /// A host that can provision itself: it has cloud-init, which finds nothing to do until there is user data, and Ansible.
    ///
    /// # Errors
    /// As [`Self::boot`].
    pub async fn boot_for_provisioning(name: &str) -> Result<Self> {
        Self::boot_over(PROVISION_BASE, name).await
    }

    async fn boot_over(base: &str, name: &str) -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "booting a host needs root");
        ensure!(Path::new(base).is_dir(), "{base} is not there; .ci/tools makes it");
        let name = format!("{name}-{}", std::process::id());
        let folder = tempfile::tempdir()?;
        for layer in ["upper", "work", "root"] {
            fs::create_dir(folder.path().join(layer))?;
        }
        let at = folder.path().display();
        let layers = format!("lowerdir={base},upperdir={at}/upper,workdir={at}/work");
        let mut host = Self { name, folder, container: None, leader: 0 };
        here("mount", &["-t", "overlay", "overlay", "-o", &layers, &host.root().to_string_lossy()])?;
        // The installer of a real host writes it; the base system has none.
        fs::write(host.root().join("etc/hosts"), "127.0.0.1 localhost\n")?;
        here("ip", &["netns", "add", &host.name])?;
        here("ip", &["-n", &host.name, "link", "set", "lo", "up"])?;
        host.start().await?;
        Ok(host)
    }

    /// The host's file system, as this machine sees it.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// The name of its network namespace.
    #[must_use]
    pub fn network(&self) -> &str {
        &self.name
    }

    async fn start(&mut self) -> Result<()> {
        let log = fs::File::create(self.folder.path().join("console.log"))?;
        let container = Command::new("bash")
            .args(["-c", BOOT])
            .envs([("NAME", self.name.as_str()), ("ROOT", &self.root().to_string_lossy())])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let pid = container.id();
        self.container = Some(container);
        let console = self.folder.path().join("console.log");
        let up = wait::until_within(BOOT_DURATION_MAX, "the host is up", async || {
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
            self.leader = children.split_whitespace().next().context("no leader yet")?.parse()?;
            // `degraded` is up too: a base system without its network has units that fail.
            let state = self.raw("systemctl is-system-running")?;
            let state = String::from_utf8_lossy(&state.stdout).trim().to_owned();
            ensure!(matches!(state.as_str(), "running" | "degraded"), "the host is {state:?}");
            Ok(())
        });
        let up = up.await;
        up.with_context(|| format!("its console: {}", fs::read_to_string(console).unwrap_or_default()))
    }

    fn raw(&self, script: &str) -> Result<Output> {
        let leader = self.leader.to_string();
        let mut command = Command::new("nsenter");
        command.args(["-t", &leader, "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w", "--", "env", "-i"]);
        command.args(["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8"]);
        Ok(command.args(["sh", "-ec", script]).stdin(Stdio::null()).output()?)
    }

    /// Runs a script there and gives its output.
    ///
    /// # Errors
    /// If it fails, with what it printed.
    pub fn run(&self, script: &str) -> Result<String> {
        let output = self.raw(script)?;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "{script}: {}\n{out}{err}", output.status);
        Ok(out.into_owned())
    }

    /// Puts a file of this machine there.
    ///
    /// # Errors
    /// If it cannot be copied.
    pub fn put(&self, from: &Path, to: &str) -> Result<()> {
        let to = self.root().join(to.trim_start_matches('/'));
        fs::copy(from, &to).with_context(|| format!("{} to {}", from.display(), to.display()))?;
        Ok(())
    }

    /// Cuts the power, and boots again.
    ///
    /// # Errors
    /// If it does not come up.
    pub async fn cut_power(&mut self) -> Result<()> {
        self.kill();
        self.start().await
    }

    fn kill(&mut self) {
        if let Some(mut container) = self.container.take() {
            crate::process::kill_now(self.leader);
            container.wait().ok();
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.kill();
        here("umount", &["-l", &self.root().to_string_lossy()]).ok();
        here("ip", &["netns", "del", &self.name]).ok();
        for hierarchy in ["/unified", "/systemd", ""] {
            let group = format!("/sys/fs/cgroup{hierarchy}/stella-tests/{}", self.name);
            // Groups go from the leaves up, and none has a process any more.
            here("find", &[&group, "-depth", "-type", "d", "-exec", "rmdir", "{}", "+"]).ok();
        }
    }
}

fn here(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program).args(arguments).output().with_context(|| program.to_owned())?;
    if !output.status.success() {
        bail!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
