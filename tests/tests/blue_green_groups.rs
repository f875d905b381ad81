//! Blue-green between two groups of hosts behind a real nginx: the guide in the book, under load, without a request that fails.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use stella_api_types::deployment::DeploymentDetail;
use stella_tests::cluster::{Cluster, ENVIRONMENT, TENANT};
use stella_tests::daemon::Daemon;
use stella_tests::units::Units;
use stella_tests::web::{self, Load};
use stella_tests::{ports, wait};

const NGINX: &str = "/usr/sbin/nginx";
const GROUPS: [&str; 7] =
    ["--strategy", "blue-green", "--groups", "colour", "--switch", "role=lb", "--warm-up"];

/// The first block of a language in the guide.
fn example(language: &str) -> Result<String> {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/guides/blue-green-groups.md");
    let text = fs::read_to_string(guide)?;
    let found = text.split(&format!("```{language}\n")).nth(1).and_then(|rest| rest.split("```").next());
    Ok(found.with_context(|| format!("the guide has no example in {language}"))?.to_owned())
}

/// The steps of the guide. systemd is not there, so that its steps ask the stand-in for the same.
fn steps() -> Result<Value> {
    let mut steps: Value = serde_json::from_str(&example("json")?)?;
    let mut replaced = 0;
    for step in steps.as_array_mut().context("the guide has no list of steps")? {
        if step["action"]["type"] == "systemd" {
            let (action, unit) = (step["action"]["action"].clone(), step["action"]["unit"].clone());
            step["action"] = json!({ "type": "command", "argv": ["${units}", action, unit] });
            replaced += 1;
        }
    }
    ensure!(replaced == 2, "the guide starts and stops its units with systemd");
    Ok(steps)
}

/// Two hosts in each group, and one with the load balancer.
struct Story {
    cluster: Cluster,
    units: BTreeMap<String, Units>,
    front: u16,
    steps: PathBuf,
    _balancer: Daemon,
}

/// nginx, which reads the servers of a group from the file that a link names; the target's variables.
fn balancer(folder: &Path, servers: &BTreeMap<&str, Vec<u16>>, front: u16) -> Result<(Daemon, Vec<String>)> {
    fs::create_dir_all(folder)?;
    let at = |name: &str| folder.join(name).display().to_string();
    for (group, ports) in servers {
        let lines: String = ports.iter().map(|port| format!("server 127.0.0.1:{port};\n")).collect();
        fs::write(at(&format!("{group}.upstream")), lines)?;
    }
    symlink("blue.upstream", at("live.upstream"))?;
    let config = format!(
        "daemon off; worker_processes 2; user root; pid {pid}; error_log {log} warn;\nevents {{ worker_connections 256; }}\n\
         http {{\n access_log off; client_body_temp_path {tmp}; proxy_temp_path {tmp}; fastcgi_temp_path {tmp}; uwsgi_temp_path {tmp}; scgi_temp_path {tmp};\n\
         upstream web {{ include {live}; }}\n server {{ listen 127.0.0.1:{front}; location / {{ proxy_pass http://web; }} }}\n}}\n",
        pid = at("nginx.pid"),
        log = at("error.log"),
        tmp = at("tmp"),
        live = at("live.upstream"),
    );
    fs::write(at("nginx.conf"), config)?;
    let arguments = ["-p", &at(""), "-c", &at("nginx.conf")].map(str::to_owned).to_vec();
    let mut daemon = Daemon::new("nginx", NGINX.into(), arguments, folder.join("nginx.log"));
    daemon.start()?;
    let nginx = format!("nginx={NGINX} -p {} -c {}", at(""), at("nginx.conf"));
    Ok((daemon, vec![nginx, format!("upstreams={}", folder.display()), format!("front_port={front}")]))
}

impl Story {
    async fn begin() -> Result<Self> {
        ensure!(Path::new(NGINX).is_file(), "{NGINX} is not there; run `make tools` first");
        let cluster = Cluster::start(0).await?;
        let (front, mut units, mut servers) = (ports::free()?, BTreeMap::new(), BTreeMap::new());
        let file = cluster.folder().join("web-steps.json");
        fs::write(&file, serde_json::to_string_pretty(&steps()?)?)?;
        let mut targets = Vec::new();
        let mut agents = Vec::new();
        for (name, group) in [("web-1", "blue"), ("web-2", "blue"), ("web-3", "green"), ("web-4", "green")] {
            let agent = cluster.enrolled(name, &[]).await?;
            let port = ports::free()?;
            let ports = BTreeMap::from([(group.to_owned(), port)]);
            let unit =
                Units::start(&cluster.folder().join(format!("units-{name}")), &agent.host_root(), ports)?;
            let variables = vec![format!("port={port}"), format!("units={}", unit.script())];
            targets.push((name, format!("colour={group}"), variables));
            servers.entry(group).or_insert_with(Vec::new).push(port);
            units.insert(name.to_owned(), unit);
            agents.push(agent);
        }
        let (balancer, variables) = balancer(&cluster.folder().join("front"), &servers, front)?;
        targets.push(("lb-1", "role=lb".to_owned(), variables));
        agents.push(cluster.enrolled("lb-1", &[]).await?);
        let mut story = Self { cluster, units, front, steps: file, _balancer: balancer };
        for mut agent in agents {
            agent.start()?;
            story.cluster.wait_online(agent.name()).await?;
            story.cluster.agents.push(agent);
        }
        for (name, label, variables) in targets {
            let mut create =
                vec!["target", "create", name, "--env", ENVIRONMENT, "--agent", name, "--label", &label];
            create.extend(variables.iter().flat_map(|variable| ["--var", variable.as_str()]));
            story.stella(&create)?;
        }
        for (version, good) in [("1.0.0", true), ("2.0.0", true), ("3.0.0", false)] {
            let archive = web::release_of(story.cluster.folder(), version, good)?;
            let (component, steps) =
                (format!("web={}", archive.display()), story.steps.display().to_string());
            story.stella(&[
                "release",
                "create",
                "web",
                version,
                "--component",
                &component,
                "--steps",
                &steps,
            ])?;
        }
        Ok(story)
    }

    fn stella(&self, arguments: &[&str]) -> Result<String> {
        let (code, said) = self.cluster.stella(arguments)?;
        ensure!(code == Some(0), "{arguments:?} ended with {code:?}: {said}");
        Ok(said)
    }

    /// Starts a deployment; its id.
    fn deploy(&self, version: &str, warm_up: &str, flags: &[&str]) -> Result<String> {
        let release = format!("web:{version}");
        let deploy = [&["deploy", &release, ENVIRONMENT, "-o", "json"][..], &GROUPS, &[warm_up], flags];
        let said = self.stella(&deploy.concat())?;
        let created: DeploymentDetail = serde_json::from_str(&said).context(said)?;
        Ok(created.deployment.id)
    }

    async fn ends(&self, id: &str, status: &str) -> Result<DeploymentDetail> {
        let ended = self.cluster.wait_final(id).await?;
        ensure!(ended.deployment.status == status, "{ended:?}");
        Ok(ended)
    }

    fn unit_actions(&self) -> Vec<Vec<String>> {
        self.units.values().map(Units::log).collect()
    }
}

/// The plan says which group is live, and which gets the release; while that warms up, the control plane is killed.
async fn switches_over_a_crash(story: &mut Story, load: &Load) -> Result<String> {
    let plan = [&["deploy", "web:2.0.0", ENVIRONMENT, "--plan"][..], &GROUPS, &["8s"]].concat();
    let planned = story.stella(&plan)?;
    ensure!(
        planned.contains(
            "groups: blue is live, green gets the release (2 targets); then 1 leads the traffic there"
        ) && planned.contains("web-3 (green)")
            && planned.contains("lb-1 (leads)")
            && !planned.contains("web-1"),
        "{planned}"
    );
    let id = story.deploy("2.0.0", "8s", &["--keep", "1h"])?;
    let held = wait::until("it warms up", async || {
        let found = story.cluster.api.deployment(TENANT, &id).await?.deployment;
        ensure!(found.paused_for.as_deref() == Some("warm_up"), "{found:?}");
        Ok(found)
    })
    .await?;
    ensure!(held.counts.ready == 2 && held.counts.waiting == 1, "{held:?}");
    story.cluster.control_plane.kill()?;
    story.cluster.control_plane.resume().await?;
    ensure!(load.versions()? == ["1.0.0"], "nothing is switched in the warm-up");
    let watched = story.stella(&["deployment", "watch", &id])?;
    ensure!(
        watched.contains("lb-1                 now leads to green: 2.0.0")
            && watched.contains("web-3                now has 2.0.0 (green)"),
        "{watched}"
    );
    story.ends(&id, "succeeded").await?;
    ensure!(load.versions()? == ["1.0.0", "2.0.0"], "one after the other");
    let targets = story.stella(&["target", "list"])?;
    ensure!(
        targets.contains("web:2.0.0 (leads to green)") && targets.contains("1.0.0 idle (blue)"),
        "{targets}"
    );
    Ok(id)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_while_nginx_is_led_to_the_other_group_and_back() -> Result<()> {
    let mut story = Story::begin().await?;
    let first = story.deploy("1.0.0", "1s", &[])?;
    story.ends(&first, "succeeded").await?;
    ensure!(web::version(story.front)? == "1.0.0", "the first release goes to blue");
    let load = Load::start(vec![story.front]);

    let id = switches_over_a_crash(&mut story, &load).await?;

    let before = story.unit_actions();
    let said = story.stella(&["rollback", &id, "--wait"])?;
    ensure!(said.contains("now leads to blue: 1.0.0") && !said.contains("web-1"), "{said}");
    ensure!(story.unit_actions() == before, "the old group was there, and nothing was done to it");
    wait::until("it is served", async || {
        ensure!(web::version(story.front)? == "1.0.0");
        Ok(())
    })
    .await?;
    load.versions()?;

    let bad = story.deploy("3.0.0", "1s", &[])?;
    let failed = story.ends(&bad, "failed").await?;
    ensure!(failed.rollbacks.is_empty() && load.versions()? == ["1.0.0"], "{failed:?}");

    let again = story.deploy("2.0.0", "1s", &["--keep", "1s"])?;
    story.ends(&again, "succeeded").await?;
    wait::until("the old group has ended", async || {
        for host in ["web-1", "web-2"] {
            let actions = story.units.get(host).map(Units::log).unwrap_or_default();
            ensure!(actions.last().is_some_and(|it| it == "stop web@blue.service"), "{host}: {actions:?}");
        }
        Ok(())
    })
    .await?;
    ensure!(web::version(story.front)? == "2.0.0", "it is served");
    let requests = load.end()?;
    ensure!(requests > 100, "there was no load to speak of: {requests}");

    let (code, said) = story.cluster.stella(&[
        "deploy",
        "web:2.0.0",
        ENVIRONMENT,
        "--strategy",
        "blue-green",
        "--groups",
        "colour",
    ])?;
    ensure!(code == Some(2) && said.contains("--switch"), "{said}");
    let (code, said) =
        story.cluster.stella(&["deploy", "web:2.0.0", ENVIRONMENT, "--strategy", "blue-green"])?;
    ensure!(code == Some(3) && said.contains("strategy.groups"), "{said}");
    story.cluster.passed()
}
