//! The page for an incident, as somebody follows it whose release breaks things right now: each command does what the page says, and not
//! what it says that it does not.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use stella_tests::cluster::{Cluster, ENVIRONMENT, TENANT};
use stella_tests::guide::{Terminal, blocks};
use stella_tests::recipe::{release, shell};
use stella_tests::wait;

/// Says that it has begun, and works until it may end.
const UNTIL_IT_MAY: &str = "echo ${version} >> installed; echo began >> began; until [ -e go ]; do sleep 0.05; done; echo ended >> ended";

struct Incident<'c> {
    cluster: &'c Cluster,
    terminal: Terminal<'c>,
}

impl Incident<'_> {
    /// Runs a line of the page, or several, for the bad release and this deployment.
    fn run(&self, block: &str, deployment: &str) -> (String, Result<(Option<i32>, String)>) {
        let line =
            block.replace("APP:VERSION", "app:2.0.0").replace("ENV", ENVIRONMENT).replace("ID", deployment);
        let ended = self.terminal.run(&line);
        (line, ended)
    }

    fn ok(&self, block: &str, deployment: &str) -> Result<String> {
        let (line, ended) = self.run(block, deployment);
        let (code, said) = ended?;
        ensure!(code == Some(0), "{line} ended with {code:?}: {said}");
        Ok(said)
    }

    fn refused(&self, command: &str, words: &str) -> Result<()> {
        let (code, said) = self.terminal.run(command)?;
        ensure!(code == Some(3) && said.contains(words), "{command} ended with {code:?}: {said}");
        Ok(())
    }

    /// Starts a deployment and waits until it works on so many hosts.
    async fn deploy(&self, version: &str, flags: &str, hosts: usize) -> Result<String> {
        let said = self.terminal.ok(&format!("stella deploy app:{version} {ENVIRONMENT} {flags}"))?;
        let id = said.split_whitespace().nth(1).context("its id")?.to_owned();
        wait::until("hosts work", async || {
            let began = self.cluster.agents.iter().filter(|agent| !agent.read("began").is_empty());
            ensure!(began.count() == hosts, "{said}");
            Ok(())
        })
        .await?;
        Ok(id)
    }

    fn let_go(&self, agent: usize) -> Result<()> {
        Ok(fs::write(self.cluster.agents[agent].host_root().join("go"), "")?)
    }

    /// All hosts as if nothing had happened there, but for what they have.
    fn calm_down(&self) {
        for agent in &self.cluster.agents {
            for file in ["go", "began", "ended"] {
                // Not every host has all of them.
                fs::remove_file(agent.host_root().join(file)).ok();
            }
        }
    }

    fn installed(&self) -> Vec<String> {
        let last = |text: String| text.lines().last().unwrap_or_default().to_owned();
        self.cluster.agents.iter().map(|agent| last(agent.read("installed"))).collect()
    }

    async fn is(&self, deployment: &str, status: &str) -> Result<()> {
        wait::until(&format!("it is {status}"), async || {
            let found = self.cluster.api.deployment(TENANT, deployment).await?.deployment;
            ensure!(found.status == status, "{found:?}");
            Ok(())
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_release_is_stopped_by_the_page_for_it() -> Result<()> {
    let cluster = Cluster::start(3).await?;
    cluster.release(&release("1.0.0", &[], vec![shell("run", "echo ${version} >> installed")])).await?;
    cluster.release(&release("2.0.0", &[], vec![shell("run", UNTIL_IT_MAY)])).await?;
    let pages = blocks("stop-a-release", "console")?;
    let [find, block, pause, lock, back, cancel] = &pages[..] else {
        anyhow::bail!("the page has other blocks: {pages:#?}")
    };
    let (pause, resume) = pause.split_once('\n').context("a pause and its end")?;
    let incident = Incident { cluster: &cluster, terminal: Terminal::open(&cluster, cluster.folder(), None) };
    incident.terminal.ok(&format!("stella deploy app:1.0.0 {ENVIRONMENT} --all-at-once --wait"))?;

    paused(&incident, find, pause, resume).await?;
    locked_and_taken_back(&incident, lock, back)?;
    let cancelled = cancelled(&incident, cancel).await?;
    retried_and_taken_back(&incident, &cancelled, back).await?;
    blocked(&incident, block).await?;
    cluster.passed()
}

/// A pause starts no further target and ends none; and nothing goes back.
async fn paused(incident: &Incident<'_>, find: &str, pause: &str, resume: &str) -> Result<()> {
    let id = incident.deploy("2.0.0", "--batch 1", 1).await?;
    ensure!(incident.ok(find, &id)?.matches(&id).count() == 2, "it is found");
    incident.ok(pause, &id)?;
    incident.let_go(0)?;
    incident.cluster.wait_lines(0, "ended", 1).await?;
    wait::until("the first host has it", async || {
        let counts = incident.cluster.api.deployment(TENANT, &id).await?.deployment.counts;
        ensure!((counts.succeeded, counts.waiting) == (1, 2), "{counts:?}");
        Ok(())
    })
    .await?;
    ensure!(incident.installed() == ["2.0.0", "1.0.0", "1.0.0"], "{:?}", incident.installed());
    incident.let_go(1)?;
    incident.let_go(2)?;
    incident.ok(resume, &id)?;
    incident.is(&id, "succeeded").await
}

/// A lock keeps everything away but the way back.
fn locked_and_taken_back(incident: &Incident<'_>, lock: &str, back: &str) -> Result<()> {
    let said =
        incident.terminal.ok(&format!("stella deployment list --env {ENVIRONMENT} --limit 1 -o json"))?;
    let listed: serde_json::Value = serde_json::from_str(&said)?;
    let id = listed[0]["id"].as_str().context("a deployment")?.to_owned();
    incident.ok(lock, &id)?;
    incident.refused(&format!("stella deploy app:1.0.0 {ENVIRONMENT}"), "is locked (incident 4711)")?;
    let plan = incident.terminal.ok(&format!("stella rollback {id} --plan"))?;
    ensure!(plan.matches("2.0.0").count() >= 3 && incident.installed() == ["2.0.0"; 3], "{plan}");
    let plan = incident.terminal.ok(&format!("stella rollback {id} --plan --target web-2"))?;
    ensure!(plan.contains("left as it is: web-1, web-3: it is not among the chosen targets"), "{plan}");
    incident.ok(back, &id)?;
    ensure!(incident.installed() == ["1.0.0"; 3], "{:?}", incident.installed());
    incident.terminal.ok(&format!("stella env unlock {ENVIRONMENT}")).map(drop)
}

/// What runs is stopped with all that it has started, and what is there stays there.
async fn cancelled(incident: &Incident<'_>, cancel: &str) -> Result<String> {
    incident.calm_down();
    let id = incident.deploy("2.0.0", "--batch 2", 2).await?;
    incident.ok(cancel, &id)?;
    incident.is(&id, "cancelled").await?;
    ensure!(incident.installed() == ["2.0.0", "2.0.0", "1.0.0"], "{:?}", incident.installed());
    let ended = incident.cluster.agents.iter().filter(|agent| !agent.read("ended").is_empty());
    ensure!(ended.count() == 0, "nothing came to its own end");
    let shown = incident.terminal.ok(&format!("stella deployment show {id}"))?;
    ensure!(shown.contains("superseded") && shown.contains("web-3"), "{shown}");
    Ok(id)
}

/// What was retried on one target keeps the others from nothing: it is named, and taken back by itself.
async fn retried_and_taken_back(incident: &Incident<'_>, id: &str, back: &str) -> Result<()> {
    incident.let_go(0)?;
    let said = incident.terminal.ok(&format!("stella deployment retry {id} --target web-1"))?;
    let newer = said.split_whitespace().nth(1).context("its id")?.to_owned();
    incident.is(&newer, "succeeded").await?;
    let left = format!("left as it is: web-1: deployment {newer} has come there since; roll that one back");
    let plan = incident.terminal.ok(&format!("stella rollback {id} --plan"))?;
    ensure!(plan.contains(&left) && plan.contains("web-2"), "{plan}");
    let said = incident.ok(back, id)?;
    ensure!(said.contains(&left), "{said}");
    ensure!(incident.installed() == ["2.0.0", "1.0.0", "1.0.0"], "{:?}", incident.installed());
    let taken_back = incident.cluster.api.deployment(TENANT, id).await?.rollbacks;
    let rollback = incident.cluster.api.deployment(TENANT, &taken_back[0]).await?;
    let found: Vec<_> =
        rollback.left_out.iter().map(|it| (&*it.target.name, &*it.why, it.deployment.as_deref())).collect();
    ensure!(found == [("web-1", "overtaken", Some(newer.as_str()))], "{found:?}");
    incident.ok(back, &newer)?;
    ensure!(incident.installed() == ["1.0.0"; 3], "{:?}", incident.installed());
    incident.refused(&format!("stella rollback {id}"), "is back already on web-1, web-2")
}

/// The one command that works everywhere: what is on its way halts and goes back, and nobody begins it anew.
async fn blocked(incident: &Incident<'_>, block: &str) -> Result<()> {
    incident.calm_down();
    let id = incident.deploy("2.0.0", "--batch 1", 1).await?;
    incident.ok(block, &id)?;
    incident.is(&id, "halting").await?;
    ensure!(incident.cluster.agents[0].read("ended").is_empty(), "a step that runs is not stopped");
    incident.let_go(0)?;
    let said = incident.terminal.run(&format!("stella deployment watch {id}"))?;
    ensure!(said.0 == Some(1) && said.1.contains("errors at checkout"), "{said:?}");
    ensure!(incident.cluster.agents[0].read("ended") == "ended\n", "it was finished");
    ensure!(incident.installed() == ["1.0.0"; 3], "{:?}", incident.installed());
    incident.refused(&format!("stella deploy app:2.0.0 {ENVIRONMENT}"), "is blocked (errors at checkout)")?;
    incident.terminal.ok("stella release clear app:2.0.0 --reason 'it was the database'")?;
    let events = incident.terminal.ok("stella events --limit 500")?;
    for told in ["deployment_paused", "environment_locked", "release_blocked", "it was the database"] {
        ensure!(events.contains(told), "{told} is not in {events}");
    }
    Ok(())
}
