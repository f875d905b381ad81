//! The guide on containers on single hosts, with Podman and real containers.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use stella_tests::cluster::Cluster;
use stella_tests::guide::Guide;
use stella_tests::{ports, wait};

const PODMAN: &str = "/usr/bin/podman";
/// What serves, from nothing but one program.
const CONTAINERFILE: &str = "FROM scratch\nCOPY busybox /bin/busybox\nCOPY www /www\nSTOPSIGNAL SIGKILL\n\
    ENTRYPOINT [\"/bin/busybox\", \"sh\", \"-c\", \"exec /bin/busybox httpd -f -p 127.0.0.1:$PORT -h /www\"]\n";

/// Podman with images and containers of its own: that of a build machine, or that of a host.
struct Podman {
    script: PathBuf,
}

impl Podman {
    fn install(folder: &Path) -> Result<Self> {
        ensure!(Path::new(PODMAN).is_file(), "Podman is not there; run `make tools` first");
        fs::create_dir_all(folder)?;
        let at = folder.display();
        // Limits that this machine may set, whatever it is itself.
        let limits = "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=4096:4096\"]\n";
        fs::write(folder.join("containers.conf"), limits)?;
        let script = folder.join("podman");
        let text = format!(
            "#!/bin/sh\nexport CONTAINERS_CONF={at}/containers.conf\nexec {PODMAN} --root {at}/root --runroot {at}/run --tmpdir {at}/tmp \\\n\
             --storage-driver vfs --runtime runc --cgroup-manager cgroupfs \"$@\"\n"
        );
        fs::write(&script, text)?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
        Ok(Self { script })
    }

    fn run(&self, arguments: &[&str]) -> Result<String> {
        said(&Command::new(&self.script).args(arguments).output()?)
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // There may be none.
        self.run(&["rm", "--force", "--all", "--time", "0"]).ok();
    }
}

fn said(ended: &Output) -> Result<String> {
    ensure!(ended.status.success(), "{} {}", ended.status, String::from_utf8_lossy(&ended.stderr));
    Ok(String::from_utf8_lossy(&ended.stdout).trim().to_owned())
}

/// Builds a version by the guide's lines; the image's ID.
fn build(guide: &Guide, builder: &Podman, version: &str, is_good: bool) -> Result<String> {
    let folder = guide.folder();
    fs::write(folder.join("Containerfile"), CONTAINERFILE)?;
    fs::create_dir_all(folder.join("www"))?;
    fs::copy("/usr/bin/busybox", folder.join("busybox"))?;
    fs::remove_file(folder.join("www/index.html")).ok();
    fs::write(folder.join(if is_good { "www/index.html" } else { "www/other.html" }), version)?;
    let lines = guide.block("with a `Containerfile` of yours")?;
    let path =
        format!("{}:{}", builder.script.parent().context("no folder")?.display(), std::env::var("PATH")?);
    let mut shell = Command::new("sh");
    shell.args(["-ec", lines]).env("VERSION", version).env("PATH", path).current_dir(folder);
    said(&shell.output()?)?;
    builder.run(&["image", "inspect", "--format", "{{.Id}}", &format!("web:{version}")])
}

async fn serves(port: u16, version: &str) -> Result<()> {
    wait::until(&format!("{version} is served"), async || {
        let body =
            reqwest::get(format!("http://127.0.0.1:{port}/")).await?.error_for_status()?.text().await?;
        ensure!(body == version, "{body} is");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_comes_as_an_archive_and_runs_by_its_id_and_a_bad_one_goes_back() -> Result<()> {
    let mut cluster = Cluster::start(0).await?;
    let builder = Podman::install(&cluster.folder().join("builder"))?;
    let host = Podman::install(&cluster.folder().join("container-host"))?;
    let mut agent = cluster.enrolled("web-1", &[]).await?;
    agent.start()?;
    cluster.wait_online("web-1").await?;
    cluster.agents.push(agent);
    let guide = Guide::open("containers", &cluster)?;
    guide.write("`steps.template.json`:", "steps.template.json")?;
    let port = ports::free()?;
    guide.run_all("stella env create")?;
    let target = guide.commands("stella target create").concat();
    guide.run(&format!("{target} --var port={port} --var podman={}", host.script.display()))?;

    let first = build(&guide, &builder, "1.0.0", true)?;
    guide.run_all("stella release create")?;
    guide.run_all("stella deploy")?;
    serves(port, "1.0.0").await?;
    assert_eq!(host.run(&["inspect", "--format", "{{.Image}}", "web"])?, first, "another image runs");

    let release = |version: &str| {
        guide.run(&format!("stella release create web {version} --component image=web-{version}.tar.gz --steps steps-{version}.json"))
    };
    let second = build(&guide, &builder, "1.1.0", true)?;
    release("1.1.0")?;
    guide.run("stella deploy web:1.1.0 production --wait")?;
    serves(port, "1.1.0").await?;
    assert_eq!(host.run(&["inspect", "--format", "{{.Image}}", "web"])?, second);

    // A container outlives the agent, and one that is not well goes back.
    cluster.agents[0].kill()?;
    serves(port, "1.1.0").await?;
    cluster.agents[0].start()?;
    cluster.wait_online("web-1").await?;
    serves(port, "1.1.0").await?;
    build(&guide, &builder, "1.2.0", false)?;
    release("1.2.0")?;
    let failed = guide.command("stella deploy web:1.2.0 production --wait")?.output()?;
    assert_eq!(failed.status.code(), Some(1), "{}", String::from_utf8_lossy(&failed.stdout));
    serves(port, "1.1.0").await?;
    assert_eq!(host.run(&["inspect", "--format", "{{.Image}}", "web"])?, second);
    host.run(&["rm", "--force", "web"])?;
    the_lines_of_the_unit(&guide, &cluster, &host, &second).await?;
    cluster.passed()
}

/// What systemd would run, and what it would stop it with.
async fn the_lines_of_the_unit(guide: &Guide, cluster: &Cluster, host: &Podman, image: &str) -> Result<()> {
    let port = ports::free()?;
    let unit = guide.block("once on each host")?;
    let line = |key: &str| -> Result<Command> {
        let found = unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        let text = found.with_context(|| format!("the unit has no {key}"))?;
        let root = format!("{}/", cluster.agents[0].host_root().display());
        let text = text.replace(PODMAN, &host.script.display().to_string()).replace("/srv/stella/", &root);
        let text = text.replace("$IMAGE", image).replace("PORT=8080", &format!("PORT={port}"));
        let mut words = text.split(' ');
        let mut command = Command::new(words.next().context("an empty line")?);
        command.args(words);
        Ok(command)
    };
    said(&line("ExecStartPre")?.output()?)?;
    let mut container = line("ExecStart")?.spawn()?;
    let served = serves(port, "1.1.0").await;
    let stopped = line("ExecStop")?.output();
    container.wait()?;
    served?;
    said(&stopped?)?;
    Ok(())
}
