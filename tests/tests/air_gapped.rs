//! The guide on air-gapped sites, in a network that has nothing but the site itself: a loopback device.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use stella_api_types::deployment::Deployment;
use stella_api_types::paths;
use stella_tests::agent::Agent;
use stella_tests::cluster::{Cluster, TENANT};
use stella_tests::guide::Guide;
use stella_tests::recipe::archive;

/// Set for the process that is in the network.
const INSIDE: &str = "STELLA_TEST_AIR_GAPPED";
const NAME: &str = "a_site_without_a_route_to_anything_else_has_all_that_it_needs";

/// How often something was sent that no route leads to, by this process and all beside it in its network.
fn sent_without_a_route() -> Result<u64> {
    let text = fs::read_to_string("/proc/self/net/snmp")?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Ip: "));
    let (names, values) = (lines.next().context("no names")?, lines.next().context("no values")?);
    let at = names.split(' ').position(|name| name == "OutNoRoutes").context("no OutNoRoutes")?;
    let v4: u64 = values.split(' ').nth(at).context("no value")?.parse()?;
    // A machine may have no IPv6 at all.
    let Ok(text) = fs::read_to_string("/proc/self/net/snmp6") else { return Ok(v4) };
    let v6 =
        text.lines().find_map(|line| line.strip_prefix("Ip6OutNoRoutes")).context("no Ip6OutNoRoutes")?;
    Ok(v4 + v6.trim().parse::<u64>()?)
}

#[test]
fn a_site_without_a_route_to_anything_else_has_all_that_it_needs() -> Result<()> {
    if std::env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        return runtime.block_on(within());
    }
    let script = "ip link set lo up && exec \"$0\" --exact \"$1\" --nocapture";
    let mut unshare = Command::new("unshare");
    unshare.args(["--net", "sh", "-ec", script]).arg(std::env::current_exe()?).arg(NAME);
    let ended = unshare.env(INSIDE, "yes").output().context("unshare")?;
    let said = String::from_utf8_lossy(&[ended.stdout, ended.stderr].concat()).into_owned();
    ensure!(ended.status.success() && said.contains("1 passed"), "{said}");
    Ok(())
}

async fn within() -> Result<()> {
    let routes = Command::new("ip").args(["route", "show"]).output()?;
    ensure!(routes.status.success() && routes.stdout.is_empty(), "there is a route: {routes:?}");
    let before = sent_without_a_route()?;
    let mut cluster = Cluster::start(0).await?;
    let guide = Guide::open("air-gapped", &cluster)?;
    what_was_brought_in_is_checked(&guide)?;
    let line = guide.run(guide.commands("stella agent enrol-command").first().context("no line")?)?;
    ensure!(line.contains(&cluster.control_plane.agents_address()) && !line.contains("http"), "{line}");
    let mut agent = cluster.enrolled("web-1", &[]).await?;
    agent.start()?;
    cluster.wait_online("web-1").await?;
    cluster.agents.push(agent);
    let agent = &cluster.agents[0];

    guide.run_all("stella release key")?;
    guide.run_all("stella env create")?;
    guide.run_all("stella target create")?;
    guide.write("`steps.json` names nothing outside", "steps.json")?;
    for version in ["1.0.0", "1.1.0"] {
        let start = format!("#!/bin/sh\necho web {version}\n");
        fs::write(guide.folder().join(format!("web-{version}.tar.gz")), archive(&[("start", &start)])?)?;
    }
    for (begin, version) in
        [("stella release create web 1.0.0", "1.0.0"), ("stella release create web 1.1.0", "1.1.0")]
    {
        guide.run_all(begin)?;
        guide.run_all(&format!("stella deploy web:{version}"))?;
        assert_eq!(agent.read("started"), format!("web {version}\n"));
    }
    back_without_another_archive(&cluster, &guide, agent).await?;

    // Nobody has signed this one.
    let unsigned = "stella release create web 1.2.0 --component web=web-1.1.0.tar.gz --steps steps.json";
    let refused = guide.command(unsigned)?.output()?;
    let said = String::from_utf8_lossy(&[refused.stdout, refused.stderr].concat()).into_owned();
    ensure!(!refused.status.success() && said.contains("signed releases only"), "{said}");
    for ran in [cluster.control_plane.tool_output(&["doctor"])?, agent.tool(&["doctor"])?] {
        ensure!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stdout));
    }

    // Nobody has tried to get out; who does is counted.
    assert_eq!(sent_without_a_route()?, before, "something tried to reach what is outside");
    ensure!(std::net::TcpStream::connect("192.0.2.1:443").is_err());
    ensure!(sent_without_a_route()? > before, "tries to get out are not counted");
    cluster.passed()
}

/// The guide's lines, on a delivery that is whole and on one that is not.
fn what_was_brought_in_is_checked(guide: &Guide) -> Result<()> {
    let folder = guide.folder().join("delivery");
    fs::create_dir_all(&folder)?;
    let shell = |script: &str| Command::new("sh").args(["-ec", script]).current_dir(&folder).output();
    let made = shell(
        "echo package > stella-agent.deb; sha256sum stella-agent.deb > SHA256SUMS; echo 'f00  not-brought-along' >> SHA256SUMS
         openssl genpkey -algorithm ed25519 -out key; openssl pkey -in key -pubout -out stella.pem
         openssl pkeyutl -sign -inkey key -rawin -in SHA256SUMS -out SHA256SUMS.sig",
    )?;
    ensure!(made.status.success(), "{made:?}");
    let lines = guide.block("check them again")?;
    let whole = shell(lines)?;
    ensure!(whole.status.success(), "{whole:?}");
    fs::write(folder.join("stella-agent.deb"), "another package\n")?;
    ensure!(!shell(lines)?.status.success(), "another package passes");
    shell("sha256sum stella-agent.deb > SHA256SUMS")?;
    ensure!(!shell(lines)?.status.success(), "other checksums pass");
    Ok(())
}

/// What is taken back was on the host already.
async fn back_without_another_archive(cluster: &Cluster, guide: &Guide, agent: &Agent) -> Result<()> {
    let all: Vec<Deployment> = cluster.api.list(&paths::fill(paths::DEPLOYMENTS, &[TENANT]), &[]).await?;
    let newest = all.iter().max_by(|a, b| a.id.cmp(&b.id)).context("nothing was deployed")?;
    guide.run(&format!("stella rollback {} --wait", newest.id))?;
    assert_eq!(agent.read("started"), "web 1.0.0\n");
    Ok(())
}
