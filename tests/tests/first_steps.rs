//! What people type first: the commands of the pages Quick start and Installation, word by word, on a host with systemd that has nothing of
//! Stella yet. Only what the pages leave to people is done here: to edit a file, to copy two, to bring a token to the host.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context as _, Result, ensure};
use stella_tests::host::Host;
use stella_tests::packaged::{install_only, packages};
use stella_tests::wait;

const QUICK_START: &str = include_str!("../../docs/quick-start.md");
const INSTALL: &str = include_str!("../../docs/install.md");
/// What the pages call the control plane's host.
const NAME: &str = "stella.example.com";
/// Where the reader works on the host.
const DESK: &str = "cd /root";

/// The first commands of a page after a text of it.
fn commands(page: &'static str, after: &str) -> Result<&'static str> {
    let (_, rest) = page.split_once(after).with_context(|| format!("the page does not say {after:?}"))?;
    let block = rest.split_once("```console\n").and_then(|(_, rest)| rest.split_once("```"));
    Ok(block.with_context(|| format!("no commands after {after:?}"))?.0)
}

async fn host(name: &str) -> Result<Host> {
    let host = Host::boot(name).await?;
    host.run(&format!("echo '127.0.0.1 {NAME}' >> /etc/hosts"))?;
    Ok(host)
}

fn program(host: &Host, path: &str, text: &str) -> Result<()> {
    let path = host.root().join(path);
    fs::write(&path, text)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

/// What the pages ask for: the token that a command has printed, in a file for root alone.
fn keep_token(host: &Host, said: &str) -> Result<()> {
    let token = said.split_whitespace().find(|word| word.starts_with("stella-enrol-"));
    let token = token.with_context(|| format!("no token was printed: {said}"))?;
    host.run(&format!("umask 077 && echo '{token}' > /root/token")).map(drop)
}

async fn online(host: &Host, exports: &str) -> Result<()> {
    wait::until("the agent is online", async || {
        let agents = host.run(&format!("{DESK}\n{exports}\nstella agent list"))?;
        ensure!(agents.contains("online"), "{agents}");
        Ok(())
    })
    .await
}

/// The line of a block that says where the control plane is.
fn exports(block: &'static str) -> Result<&'static str> {
    block.lines().find(|line| line.starts_with("export STELLA_URL=")).context("nothing is exported")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_installation_is_what_its_page_says() -> Result<()> {
    let host = host("install").await?;
    for package in packages()? {
        let name = package.file_name().context("a name")?.to_string_lossy().into_owned();
        host.put(&package, &format!("/root/{name}"))?;
    }
    // Who edits the file takes the comment away.
    program(&host, "usr/local/bin/editor", "#!/bin/sh\nsed -i 's/^#names = /names = /' \"$1\"\n")?;
    let path = "export PATH=/usr/local/bin:$PATH DEBIAN_FRONTEND=noninteractive";
    let said = host.run(&format!("{DESK}\n{path}\n{}", commands(INSTALL, "\n## Control plane\n")?))?;
    ensure!(said.contains("the configuration is good"), "{said}");
    host.run(&format!(
        "{DESK}\ncp /var/lib/stella-orchestrator/pki/root.crt /var/lib/stella-orchestrator/admin-token ."
    ))?;
    let people = commands(INSTALL, "which command lines need:")?;
    keep_token(&host, &host.run(&format!("{DESK}\n{people}"))?)?;
    host.run(&format!("{DESK}\n{path}\n{}", commands(INSTALL, "\n## Agent\n")?))?;
    // Its last command has returned, so the control plane has welcomed it.
    let agents = host.run(&format!("{DESK}\n{}\nstella agent list", exports(people)?))?;
    ensure!(agents.contains("web-1") && agents.contains("online"), "{agents}");
    // And back: what is stopped and disabled, and then what is kept.
    host.run("apt-get remove -y stella-agent && test -e /var/lib/stella-agent/identity.json")?;
    host.run("apt-get purge -y stella-agent && test ! -e /var/lib/stella-agent")?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quick_start_by_hand_ends_with_a_release_on_its_host() -> Result<()> {
    let host = host("quick-start").await?;
    // Instead of building: the two lines that do are the only ones that are not run.
    install_only(&host, &["stella", "stella-orchestrator", "stella-agent"])?;
    let block = commands(QUICK_START, "makes a certificate authority and an API token")?;
    let (build, start) = block.split_once("cat > ").context("no file is written")?;
    assert_eq!(build, "cargo build --release\nexport PATH=\"$PWD/target/release:$PATH\"\n");
    let (prepare, run) = start.trim_end().rsplit_once('\n').context("nothing is run")?;
    let said = host.run(&format!("{DESK}\ncat > {prepare}"))?;
    ensure!(said.contains("the configuration is good"), "{said}");
    host.run(&format!("{DESK}\nnohup {run} > control-plane.log 2>&1 &"))?;
    wait::until("the control plane has made what the reader copies", async || {
        host.run(&format!("{DESK}\ngrep -q ready control-plane.log")).map(drop)
    })
    .await?;
    let copy = commands(QUICK_START, "from the state folder to where you work.")?;
    host.run(&format!("{DESK}\n{copy}"))?;
    let people = commands(QUICK_START, "Point the command line at the control plane.")?;
    keep_token(&host, &host.run(&format!("{DESK}\n{people}"))?)?;

    let block = commands(QUICK_START, "On the host, as root.")?;
    let (enrol, run) = block.trim_end().rsplit_once('\n').context("nothing is run")?;
    let run = run.split('#').next().unwrap_or(run);
    let said = host.run(&format!("{DESK}\n{enrol}\nnohup {run} > agent.log 2>&1 &"))?;
    ensure!(said.contains("enrolled as agent"), "{said}");
    online(&host, exports(people)?).await?;

    let deploy = commands(QUICK_START, "describe the target and the release")?;
    let said = host.run(&format!("{DESK}\n{}\n{deploy}", exports(people)?))?;
    ensure!(said.contains("succeeded"), "{said}");
    assert_eq!(host.run("cat /srv/stella/web/current/VERSION")?.trim(), "1.0.0");
    Ok(())
}
