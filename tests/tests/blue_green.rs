//! Blue-green with real load balancers: the release of the guide in the book, on two hosts under load, without a request that fails.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use stella_api_types::deployment::DeploymentDetail;
use stella_tests::agent::Agent;
use stella_tests::cluster::{Cluster, ENVIRONMENT, TENANT};
use stella_tests::daemon::Daemon;
use stella_tests::people::Shell;
use stella_tests::units::Units;
use stella_tests::web::{self, Load};
use stella_tests::{ports, wait};

const NGINX: &str = "/usr/sbin/nginx";
const HAPROXY: &str = "/usr/sbin/haproxy";

/// What is in front of a host's service.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Front {
    Nginx,
    HaProxy,
}

/// A host: its load balancer, and its units.
struct Host {
    name: String,
    front: u16,
    units: Units,
    variables: Vec<String>,
    _balancer: Daemon,
}

fn host(kind: Front, agent: &Agent, folder: &Path) -> Result<Host> {
    let (front, blue, green) = (ports::free()?, ports::free()?, ports::free()?);
    let folder = folder.join(format!("front-{}", agent.name()));
    fs::create_dir_all(&folder)?;
    let at = |name: &str| folder.join(name).display().to_string();
    let (balancer, own) = match kind {
        Front::Nginx => {
            fs::write(at("web.upstream"), format!("server 127.0.0.1:{blue};\n"))?;
            let config = format!(
                "daemon off; worker_processes 2; user root; pid {pid}; error_log {log} warn;\nevents {{ worker_connections 256; }}\n\
                 http {{\n access_log off; client_body_temp_path {tmp}; proxy_temp_path {tmp}; fastcgi_temp_path {tmp}; uwsgi_temp_path {tmp}; scgi_temp_path {tmp};\n\
                 upstream web {{ include {upstream}; }}\n server {{ listen 127.0.0.1:{front}; location / {{ proxy_pass http://web; }} }}\n}}\n",
                pid = at("nginx.pid"),
                log = at("error.log"),
                tmp = at("tmp"),
                upstream = at("web.upstream"),
            );
            fs::write(at("nginx.conf"), config)?;
            let arguments = ["-p", &at(""), "-c", &at("nginx.conf")].map(str::to_owned).to_vec();
            let daemon = Daemon::new("nginx", NGINX.into(), arguments, folder.join("nginx.log"));
            let nginx = format!("nginx={NGINX} -p {} -c {}", at(""), at("nginx.conf"));
            (daemon, vec![nginx, format!("upstream={}", at("web.upstream"))])
        }
        Front::HaProxy => {
            fs::write(at("live.map"), "web blue\n")?;
            let config = example("haproxy", 0)?
                .replace("/run/haproxy/admin.sock", &at("admin.sock"))
                .replace("/etc/haproxy/live.map", &at("live.map"))
                .replace(":80\n", &format!("127.0.0.1:{front}\n"))
                .replace("127.0.0.1:8001", &format!("127.0.0.1:{blue}"))
                .replace("127.0.0.1:8002", &format!("127.0.0.1:{green}"));
            fs::write(at("haproxy.cfg"), config)?;
            let arguments = ["-db", "-f", &at("haproxy.cfg")].map(str::to_owned).to_vec();
            let daemon = Daemon::new("haproxy", HAPROXY.into(), arguments, folder.join("haproxy.log"));
            (daemon, vec![format!("haproxy={}", at("admin.sock")), format!("live_map={}", at("live.map"))])
        }
    };
    let mut balancer = balancer;
    balancer.start()?;
    let ports = BTreeMap::from([("blue".to_owned(), blue), ("green".to_owned(), green)]);
    let units = Units::start(&folder.join("units"), &agent.host_root(), ports)?;
    let mut variables = own;
    variables.extend([
        format!("port_blue={blue}"),
        format!("port_green={green}"),
        format!("front_port={front}"),
        format!("units={}", units.script()),
    ]);
    Ok(Host { name: agent.name().to_owned(), front, units, variables, _balancer: balancer })
}

/// The code block of a language in the guide, by its number.
fn example(language: &str, number: usize) -> Result<String> {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/guides/blue-green.md");
    let text = fs::read_to_string(guide)?;
    let found = text.split(&format!("```{language}\n")).nth(number + 1);
    let block = found.and_then(|rest| rest.split("```").next());
    Ok(block.with_context(|| format!("the guide has no example {number} in {language}"))?.to_owned())
}

/// The steps of the guide. systemd is not there, so that its steps ask the stand-in for the same.
fn steps(kind: Front) -> Result<Value> {
    let mut steps: Value = serde_json::from_str(&example("json", 0)?)?;
    let all = steps.as_array_mut().context("the guide has no list of steps")?;
    if kind == Front::HaProxy {
        let switch: Value = serde_json::from_str(&example("json", 1)?)?;
        let place = all.iter_mut().find(|step| step["name"] == "switch").context("no switch")?;
        *place = switch;
    }
    let mut replaced = 0;
    for step in all {
        if step["action"]["type"] == "systemd" {
            let (action, unit) = (step["action"]["action"].clone(), step["action"]["unit"].clone());
            step["action"] = json!({ "type": "command", "argv": ["${units}", action, unit] });
            replaced += 1;
        }
    }
    ensure!(replaced == 2, "the guide starts and stops its units with systemd");
    Ok(steps)
}

/// Two hosts with load balancers, and releases of the guide.
struct Story {
    cluster: Cluster,
    hosts: Vec<Host>,
    steps: PathBuf,
}

impl Story {
    async fn begin(kind: Front) -> Result<Self> {
        for program in [NGINX, HAPROXY] {
            ensure!(Path::new(program).is_file(), "{program} is not there; run `make tools` first");
        }
        let mut cluster = Cluster::start(0).await?;
        let mut hosts = Vec::new();
        for name in ["web-1", "web-2"] {
            let mut agent = cluster.enrolled(name, &[]).await?;
            let host = host(kind, &agent, cluster.folder())?;
            agent.start()?;
            cluster.wait_online(name).await?;
            cluster.agents.push(agent);
            hosts.push(host);
        }
        let file = cluster.folder().join("web-steps.json");
        fs::write(&file, serde_json::to_string_pretty(&steps(kind)?)?)?;
        let story = Self { cluster, hosts, steps: file };
        for host in &story.hosts {
            let mut create =
                vec!["target", "create", &host.name, "--env", ENVIRONMENT, "--agent", &host.name];
            create.extend(host.variables.iter().flat_map(|variable| ["--var", variable.as_str()]));
            story.stella(&create)?;
        }
        Ok(story)
    }

    fn stella(&self, arguments: &[&str]) -> Result<String> {
        let (code, said) = self.cluster.stella(arguments)?;
        ensure!(code == Some(0), "{arguments:?} ended with {code:?}: {said}");
        Ok(said)
    }

    fn release(&self, version: &str, good: bool) -> Result<()> {
        let file = web::release_of(self.cluster.folder(), version, good)?;
        let (component, steps) = (format!("web={}", file.display()), self.steps.display().to_string());
        self.stella(&["release", "create", "web", version, "--component", &component, "--steps", &steps])?;
        Ok(())
    }

    /// Starts a deployment; its id.
    fn deploy(&self, version: &str, flags: &[&str]) -> Result<String> {
        let release = format!("web:{version}");
        let deploy = ["deploy", &release, ENVIRONMENT, "--strategy", "blue-green", "-o", "json"];
        let said = self.stella(&[&deploy, flags].concat())?;
        let created: DeploymentDetail = serde_json::from_str(&said).context(said)?;
        Ok(created.deployment.id)
    }

    async fn ends(&self, id: &str, status: &str) -> Result<DeploymentDetail> {
        let ended = self.cluster.wait_final(id).await?;
        ensure!(ended.deployment.status == status, "{ended:?}");
        Ok(ended)
    }

    async fn serve(&self, version: &str) -> Result<()> {
        wait::until(&format!("every host serves {version}"), async || {
            for host in &self.hosts {
                let found = web::version(host.front)?;
                ensure!(found == version, "{} serves {found}", host.name);
            }
            Ok(())
        })
        .await
    }

    fn fronts(&self) -> Vec<u16> {
        self.hosts.iter().map(|host| host.front).collect()
    }

    fn unit_actions(&self) -> Vec<Vec<String>> {
        self.hosts.iter().map(|host| host.units.log()).collect()
    }
}

/// Release 2.0.0 is planned, prepared and warms up while the control plane is killed, and is switched to afterwards; its deployment.
async fn warms_up_over_a_crash(story: &mut Story, load: &Load) -> Result<String> {
    let planned = story.stella(&[
        "deploy",
        "web:2.0.0",
        ENVIRONMENT,
        "--strategy",
        "blue-green",
        "--warm-up",
        "8s",
        "--plan",
    ])?;
    ensure!(
        planned.contains(
            "blue-green: all prepared, 8 s of warm-up and another check, then all switched at a time"
        ) && planned
            .contains("prepare: install -> start -> healthy | switch: switch -> verify | retire, when")
            && planned.contains("web-1 (green)"),
        "{planned}"
    );
    let id = story.deploy("2.0.0", &["--warm-up", "8s"])?;
    let held = wait::until("it warms up", async || {
        let found = story.cluster.api.deployment(TENANT, &id).await?.deployment;
        ensure!(found.paused_for.as_deref() == Some("warm_up"), "{found:?}");
        Ok(found)
    })
    .await?;
    ensure!(held.counts.ready == 2 && held.stage.as_deref() == Some("prepare"), "{held:?}");
    story.cluster.control_plane.kill()?;
    story.cluster.control_plane.resume().await?;
    ensure!(load.versions()? == ["1.0.0"], "nothing is switched in the warm-up");
    let watched = story.stella(&["deployment", "watch", &id])?;
    ensure!(watched.contains("• switches") && watched.contains("now has 2.0.0 (green)"), "{watched}");
    story.ends(&id, "succeeded").await?;
    story.serve("2.0.0").await?;
    ensure!(load.versions()? == ["1.0.0", "2.0.0"], "one after the other");
    let targets = story.stella(&["target", "list"])?;
    ensure!(targets.contains("web:2.0.0 (green), web:1.0.0 idle (blue)"), "{targets}");
    Ok(id)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_while_nginx_is_switched_there_and_back_over_a_crash() -> Result<()> {
    let mut story = Story::begin(Front::Nginx).await?;
    for version in ["1.0.0", "2.0.0"] {
        story.release(version, true)?;
    }
    story.release("3.0.0", false)?;
    let first = story.deploy("1.0.0", &[])?;
    story.ends(&first, "succeeded").await?;
    story.serve("1.0.0").await?;
    let load = Load::start(story.fronts());

    let id = warms_up_over_a_crash(&mut story, &load).await?;

    let before = story.unit_actions();
    let said = story.stella(&["rollback", &id, "--wait"])?;
    ensure!(said.contains("now has 1.0.0 (blue)"), "{said}");
    story.serve("1.0.0").await?;
    ensure!(story.unit_actions() == before, "the old colour was there and was not started again");

    let bad = story.deploy("3.0.0", &[])?;
    load.versions()?;
    let failed = wait_for_failure(&story, &bad).await?;
    ensure!(failed.rollbacks.is_empty(), "{failed:?}");
    ensure!(load.versions()? == ["1.0.0"], "what does not become healthy is never switched to");

    let again = story.deploy("2.0.0", &["--keep", "1s"])?;
    story.ends(&again, "succeeded").await?;
    wait::until("the old colour has ended", async || {
        for actions in story.unit_actions() {
            let last = actions.last().context("nothing was asked of the units")?;
            ensure!(last == "stop web@blue.service", "{last}");
        }
        Ok(())
    })
    .await?;
    wait::until("the retirement has ended", async || {
        let listed = story.stella(&["deployment", "list"])?;
        ensure!(listed.contains("succeeded (retirement)"), "{listed}");
        Ok(())
    })
    .await?;
    ensure!(load.versions()?.contains(&"2.0.0".to_owned()), "it is served");
    let requests = load.end()?;
    ensure!(requests > 100, "there was no load to speak of: {requests}");
    story.cluster.passed()
}

async fn wait_for_failure(story: &Story, id: &str) -> Result<DeploymentDetail> {
    let failed = story.ends(id, "failed").await?;
    ensure!(
        failed.deployment.reason.as_deref().is_some_and(|reason| reason.contains("healthy")),
        "{:?}",
        failed.deployment
    );
    Ok(failed)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_while_haproxy_is_switched_when_somebody_confirms_it() -> Result<()> {
    let story = Story::begin(Front::HaProxy).await?;
    for version in ["1.0.0", "2.0.0"] {
        story.release(version, true)?;
    }
    let first = story.deploy("1.0.0", &[])?;
    story.ends(&first, "succeeded").await?;
    story.serve("1.0.0").await?;
    let load = Load::start(story.fronts());
    let id = story.deploy("2.0.0", &["--confirm", "--batch", "1"])?;
    wait::until("it waits for somebody", async || {
        let shown = story.stella(&["deployment", "show", &id])?;
        ensure!(shown.contains("2 of 2 targets are prepared; resume it to switch them"), "{shown}");
        Ok(())
    })
    .await?;
    ensure!(load.versions()? == ["1.0.0"], "nobody has confirmed it");
    story.stella(&["deployment", "resume", &id])?;
    story.ends(&id, "succeeded").await?;
    story.serve("2.0.0").await?;
    let said = story.stella(&["rollback", &id, "--wait"])?;
    ensure!(said.contains("now has 1.0.0 (blue)"), "{said}");
    story.serve("1.0.0").await?;
    let (code, said) = story.cluster.stella(&["deployment", "retire", &first])?;
    ensure!(code == Some(3) && said.contains("has left nothing idle"), "{said}");
    let retired = story.stella(&["deployment", "retire", &id, "--wait"])?;
    ensure!(retired.contains("has ended 2.0.0 (green)"), "{retired}");
    let requests = load.end()?;
    ensure!(requests > 100, "there was no load to speak of: {requests}");
    story.cluster.passed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_that_mixes_strategies_up_is_told_so() -> Result<()> {
    let cluster = Cluster::start(1).await?;
    let shell = Shell::of(&cluster, "dora", "deployer").await?;
    let plain = stella_tests::recipe::release("1.0.0", &[], vec![stella_tests::recipe::shell("run", "true")]);
    cluster.release(&plain).await?;
    let deploy = |flags: &[&str]| shell.run(&[&["deploy", "app:1.0.0", ENVIRONMENT], flags].concat());
    for (flags, code, why) in [
        (&["--warm-up", "30s"][..], 2, "--warm-up is only for --strategy blue-green"),
        (
            &["--strategy", "blue-green", "--pause", "5"],
            2,
            "--pause has no meaning with --strategy blue-green",
        ),
        (&["--strategy", "blue-green", "--warm-up", "soon"], 2, "\"soon\" is no length of time"),
        (&["--strategy", "blue-green", "--warm-up", "30s", "--confirm"], 2, "cannot be used with"),
        (&["--strategy", "blue-green"], 3, "has no step of the phase switch"),
    ] {
        let (ended, said) = deploy(flags)?;
        ensure!(ended == Some(code) && said.contains(why), "{flags:?}: {ended:?} {said}");
    }
    cluster.passed()
}
