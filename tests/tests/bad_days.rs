//! Bad days of promotions and deployments with real agents, as people live through them at a command line.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use stella_tests::api::by_people;
use stella_tests::cluster::{Cluster, ENVIRONMENT, TENANT};
use stella_tests::people::Shell;
use stella_tests::process::is_alive;
use stella_tests::wait;

/// Longer than the minute after which a promotion expires, or a cancellation is not waited for any more.
const OVER_A_MINUTE: Duration = Duration::from_secs(120);

/// Works until somebody lets it go, on a host of its own.
const UNTIL_IT_MAY: &str =
    "echo began >> began; for i in $(seq 600); do [ -e go ] && exit 0; sleep 0.1; done; exit 1";

/// Who is there, and what they say to the command line.
struct Story<'c> {
    cluster: &'c Cluster,
    boss: Shell<'c>,
    dev: Shell<'c>,
    qa: Shell<'c>,
}

/// A command that goes on, and what it has said so far.
struct Watch {
    process: Child,
    said: String,
}

impl Watch {
    fn start(shell: &Shell<'_>, arguments: &[&str]) -> Result<Self> {
        Ok(Self { process: shell.command(arguments)?.stdout(Stdio::piped()).spawn()?, said: String::new() })
    }

    /// Reads on until it has said this.
    fn until(&mut self, words: &str) -> Result<()> {
        let output = self.process.stdout.take().context("nothing is left to read")?;
        let mut reader = BufReader::with_capacity(1, output);
        while !self.said.contains(words) {
            let bytes = reader.read_line(&mut self.said)?;
            ensure!(bytes > 0, "it never said {words:?}: {}", self.said);
        }
        self.process.stdout = Some(reader.into_inner());
        Ok(())
    }

    /// All that it said, once it has ended with this exit code.
    fn ended(mut self, code: i32) -> Result<String> {
        let mut output = self.process.stdout.take().context("nothing is left to read")?;
        output.read_to_string(&mut self.said)?;
        let ended = self.process.wait()?.code();
        ensure!(ended == Some(code), "it ended with {ended:?}: {}", self.said);
        Ok(self.said)
    }
}

/// The id in what is said about something that was asked for: `promotion ID waits …`, `deployment ID started …`.
fn id_of(said: &str) -> Result<String> {
    let line = said.lines().find(|line| line.starts_with("promotion ") || line.starts_with("deployment "));
    let id = line.and_then(|line| line.split(' ').nth(1)).with_context(|| format!("no id in {said}"))?;
    Ok(id.trim_end_matches(':').to_owned())
}

impl<'c> Story<'c> {
    async fn of(cluster: &'c Cluster) -> Result<Self> {
        let boss = Shell::of(cluster, "boss", "admin").await?;
        let dev = Shell::of(cluster, "dev", "deployer").await?;
        let qa = Shell::of(cluster, "qa", "approver").await?;
        Ok(Self { cluster, boss, dev, qa })
    }

    /// A release of `app` that runs a script.
    fn release(&self, version: &str, tier: &str, script: &str) -> Result<()> {
        let action = json!({"type": "command", "argv": ["/bin/sh", "-c", script]});
        let file = self.cluster.folder().join(format!("steps-{version}.json"));
        std::fs::write(&file, json!([{"name": "run", "timeout_ms": 120_000, "action": action}]).to_string())?;
        let (file, tier) = (file.display().to_string(), format!("tier={tier}"));
        self.boss.ok(&["release", "create", "app", version, "--steps", &file, "--label", &tier])?;
        Ok(())
    }

    /// Deploys to the environment of the stories; what was said.
    fn deploy(&self, version: &str, flags: &[&str]) -> Result<String> {
        self.dev.ok(&[&["deploy", &format!("app:{version}"), ENVIRONMENT], flags].concat())
    }

    /// What is shown of something to programs.
    fn shown(&self, what: &str, id: &str) -> Result<Value> {
        let said = self.boss.ok(&[what, "show", id, "-o", "json"])?;
        serde_json::from_str(&said).context(said)
    }

    async fn wait_shown(&self, what: &str, id: &str, field: &str, wanted: &str) -> Result<Value> {
        wait::until_within(OVER_A_MINUTE, &format!("{field} of {what} {id} is {wanted}"), async || {
            let shown = self.shown(what, id)?;
            ensure!(shown[field] == wanted, "{shown}");
            Ok(shown)
        })
        .await
    }

    /// A command that is refused with these words, and changes nothing.
    async fn refused(&self, shell: &Shell<'_>, arguments: &[&str], words: &str) -> Result<()> {
        let before = by_people(self.cluster.api.events(TENANT).await?);
        let (code, said) = shell.run(arguments)?;
        ensure!(code == Some(3) && said.contains(words), "{arguments:?} ended with {code:?}: {said}");
        let after = by_people(self.cluster.api.events(TENANT).await?);
        ensure!(
            before == after,
            "{arguments:?} was refused, and {} things happened",
            after.len() - before.len()
        );
        Ok(())
    }

    fn let_go(&self, agent: usize) -> Result<()> {
        Ok(std::fs::write(self.cluster.agents[agent].host_root().join("go"), "")?)
    }
}

// === a promotion's ===

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_has_bad_days() -> Result<()> {
    let mut cluster = Cluster::start(2).await?;
    let mut shared = cluster.enrolled("shared", &[]).await?;
    shared.start()?;
    cluster.agents.push(shared);
    cluster.wait_online("shared").await?;
    let story = Story::of(&cluster).await?;
    story.release("1.0.0", "iron", "true")?;
    story.release("1.1.0", "gold", "true")?;
    story.release("2.0.0", "gold", UNTIL_IT_MAY)?;
    let forgotten = story.nobody_decides("later", "late", "expire")?;
    let silenced = story.nobody_decides("never", "quiet", "reject")?;
    story.an_expression_says_no()?;
    story.somebody_says_no_and_then_yes().await?;
    story.a_freeze_comes_on_its_way().await?;
    story.something_changes_after_an_approval().await?;
    story.it_could_not_go_back().await?;
    story.a_release_turns_out_bad().await?;
    story.wait_shown("promotion", &forgotten, "status", "expired").await?;
    story.refused(&story.qa, &["promotion", "approve", &forgotten], "has expired; deploy again").await?;
    let shown = story.wait_shown("promotion", &silenced, "status", "rejected").await?;
    ensure!(shown["objection"] == "unanswered", "{shown}");
    story.an_environment_is_not_needed_any_more(&forgotten).await?;
    drop(story);
    cluster.passed()
}

impl Story<'_> {
    async fn an_environment_is_not_needed_any_more(&self, forgotten: &str) -> Result<()> {
        let remove = ["env", "remove", "later"];
        self.refused(&self.boss, &remove, "it has the targets late-1 (stella target remove)").await?;
        self.refused(&self.dev, &remove, "needs the role admin").await?;
        self.boss.ok(&["target", "remove", "late-1"])?;
        let said = self.boss.ok(&["env", "update", "later", "--name", "sooner", "--order", "7"])?;
        ensure!(said.contains("environment sooner") && said.contains("(order 7)"), "{said}");
        self.boss.ok(&["env", "remove", "sooner"])?;
        let said = self.boss.ok(&["env", "list"])?;
        ensure!(!said.contains("sooner") && !said.contains("later"), "{said}");
        // What was asked for there is still told with its name, and so is what happened.
        let shown = self.shown("promotion", forgotten)?;
        ensure!(shown["environment"]["name"] == "sooner", "{shown}");
        let said = self.boss.ok(&["events", "--type", "promotion_expired"])?;
        ensure!(said.contains("sooner"), "{said}");
        Ok(())
    }

    /// A promotion to a new environment, for which silence means this.
    fn nobody_decides(&self, place: &str, slot: &str, on_expiry: &str) -> Result<String> {
        self.boss.ok(&["env", "create", place])?;
        let target = format!("{slot}-1");
        self.boss.ok(&["target", "create", &target, "--env", place, "--agent", "shared", "--slot", slot])?;
        let rule = ["--needed", "1", "--expires-in", "1m", "--on-expiry", on_expiry];
        self.boss.ok(&[&["env", "approvals", place][..], &rule].concat())?;
        let said = self.dev.ok(&["deploy", "app:1.0.0", place])?;
        ensure!(said.contains("waits for approvals: 0 of 1"), "{said}");
        id_of(&said)
    }

    fn an_expression_says_no(&self) -> Result<()> {
        let gold = "release.labels['tier'] == 'gold'";
        self.boss.ok(&["gate", "set", "expression", ENVIRONMENT, "tier", gold])?;
        let said = self.deploy("1.0.0", &[])?;
        ensure!(said.contains("waits for gate tier failed"), "{said}");
        let said = self.dev.ok(&["promotion", "withdraw", &id_of(&said)?, "--reason", "it is no gold"])?;
        ensure!(said.contains("is withdrawn"), "{said}");
        let said = self.deploy("1.1.0", &["--wait"])?;
        ensure!(said.contains("succeeded"), "{said}");
        self.boss.ok(&["gate", "remove", ENVIRONMENT, "tier"]).map(drop)
    }

    async fn somebody_says_no_and_then_yes(&self) -> Result<()> {
        self.boss.ok(&["gate", "set", "manual", ENVIRONMENT, "change"])?;
        let said = self.deploy("1.1.0", &[])?;
        ensure!(said.contains("somebody else may say: stella gate pass"), "{said}");
        let id = id_of(&said)?;
        let pass = ["gate", "pass", &id, "change", "--reason", "CHG-1042"];
        self.refused(&self.dev, &pass, "needs the role").await?;
        self.qa.ok(&["gate", "fail", &id, "change", "--reason", "not on a Friday"])?;
        // It is followed from here on, through its gate and to the end of its deployment.
        let mut watch = Watch::start(&self.dev, &["promotion", "watch", &id])?;
        watch.until("gate change failed: not on a Friday")?;
        self.qa.ok(&pass)?;
        let said = watch.ended(0)?;
        ensure!(said.contains(&format!("deployment {id}")) && said.contains("✓ succeeded"), "{said}");
        self.boss.ok(&["gate", "remove", ENVIRONMENT, "change"]).map(drop)
    }

    async fn a_freeze_comes_on_its_way(&self) -> Result<()> {
        let id = id_of(&self.deploy("2.0.0", &["--batch", "1"])?)?;
        self.cluster.wait_task(&id, "web-1", "run", "running").await?;
        let always = ["--from", "2021-01-01T00:00", "--to", "2022-01-01T00:00", "--repeat", "yearly"];
        let freeze = ["env", "freeze", ENVIRONMENT, "sale", "--reason", "the shop is full"];
        self.boss.ok(&[freeze.as_slice(), &always].concat())?;
        self.let_go(0)?;
        self.wait_shown("deployment", &id, "paused_for", "freeze").await?;
        wait::until("the first target has ended", async || {
            let shown = self.shown("deployment", &id)?;
            ensure!(shown["targets"][0]["progress"] == "succeeded", "{shown}");
            ensure!(shown["targets"][1]["progress"] == "waiting" && shown["status"] == "running", "{shown}");
            Ok(())
        })
        .await?;
        self.refused(&self.dev, &["deploy", "app:1.0.0", ENVIRONMENT], "sale: the shop is full").await?;
        ensure!(self.cluster.agents[1].read("began").is_empty(), "it went on in the freeze");
        self.boss.ok(&["env", "unfreeze", ENVIRONMENT, "sale"])?;
        self.cluster.wait_lines(1, "began", 1).await?;
        self.let_go(1)?;
        let said = self.dev.ok(&["deployment", "watch", &id])?;
        ensure!(said.contains("✓ succeeded"), "{said}");
        Ok(())
    }

    async fn something_changes_after_an_approval(&self) -> Result<()> {
        self.boss.ok(&["env", "approvals", ENVIRONMENT, "--needed", "2"])?;
        let id = id_of(&self.deploy("1.1.0", &[])?)?;
        self.qa.ok(&["promotion", "approve", &id, "--reason", "tested"])?;
        // Whoever follows the deployment that is to come sees the same.
        let mut watch = Watch::start(&self.dev, &["deployment", "watch", &id])?;
        watch.until("waits for approvals: 1 of 2")?;
        let third =
            ["target", "create", "web-3", "--env", ENVIRONMENT, "--agent", "shared", "--slot", "three"];
        self.boss.ok(&third)?;
        let said = watch.ended(1)?;
        ensure!(said.contains("invalidated") && said.contains("it has 3 targets now, and had 2"), "{said}");
        self.refused(&self.qa, &["promotion", "approve", &id], "is not valid any more").await?;
        self.boss.ok(&["env", "approvals", ENVIRONMENT, "--nobody"]).map(drop)
    }

    async fn it_could_not_go_back(&self) -> Result<()> {
        self.boss.ok(&["env", "way-back", ENVIRONMENT, "--required"])?;
        let deploy = ["deploy", "app:1.1.0", ENVIRONMENT];
        self.refused(&self.dev, &deploy, "could not go back on web-3 (nothing was deployed to it before)")
            .await?;
        let waived = [deploy.as_slice(), &["--waive-way-back", "web-3 is new", "--wait"]].concat();
        self.refused(&self.dev, &waived, "needs the role operator").await?;
        let said = self.boss.ok(&waived)?;
        ensure!(said.contains("✓ succeeded"), "{said}");
        let shown = self.shown("promotion", &id_of(&said)?)?;
        ensure!(shown["waive_way_back"] == "web-3 is new", "{shown}");
        self.boss.ok(&["env", "way-back", ENVIRONMENT, "--optional"]).map(drop)
    }

    async fn a_release_turns_out_bad(&self) -> Result<()> {
        self.boss.ok(&["release", "deprecate", "app:1.1.0", "--reason", "it is slow"])?;
        let said = self.deploy("1.1.0", &["--wait"])?;
        ensure!(said.contains("app:1.1.0 is deprecated") && said.contains("it is slow"), "{said}");
        self.boss.ok(&["env", "approvals", ENVIRONMENT, "--needed", "1"])?;
        let id = id_of(&self.deploy("1.1.0", &[])?)?;
        self.boss.ok(&["release", "block", "app:1.1.0", "--reason", "it loses orders"])?;
        let shown = self.shown("promotion", &id)?;
        let reason = shown["reason"].as_str().unwrap_or_default();
        ensure!(shown["status"] == "invalidated" && reason.contains("it loses orders"), "{shown}");
        self.refused(&self.dev, &["deploy", "app:1.1.0", ENVIRONMENT], "it loses orders").await?;
        self.boss.ok(&["release", "clear", "app:1.1.0", "--reason", "it was the database"])?;
        self.boss.ok(&["env", "approvals", ENVIRONMENT, "--nobody"])?;
        let said = self.deploy("1.1.0", &["--wait"])?;
        ensure!(said.contains("✓ succeeded") && !said.contains("deprecated"), "{said}");
        Ok(())
    }
}

// === a deployment's ===

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_has_bad_days() -> Result<()> {
    let cluster = Cluster::start(2).await?;
    let story = Story::of(&cluster).await?;
    story.some_targets_fail_and_are_tried_again().await?;
    story.two_want_the_same_targets().await?;
    story.scanners_report_in_their_own_forms().await?;
    drop(story);
    cluster.passed()
}

impl Story<'_> {
    async fn some_targets_fail_and_are_tried_again(&self) -> Result<()> {
        self.release("1.0.0", "iron", "echo ran >> ran; [ -e well ]")?;
        let heal = |agent: usize| std::fs::write(self.cluster.agents[agent].host_root().join("well"), "");
        heal(0)?;
        let (code, said) = self.dev.run(&[
            "deploy",
            "app:1.0.0",
            ENVIRONMENT,
            "--all-at-once",
            "--on-failure",
            "stop",
            "--wait",
        ])?;
        ensure!(code == Some(1) && said.contains("✗ failed"), "{said}");
        let id = id_of(&said)?;
        heal(1)?;
        let said = self.dev.ok(&["deployment", "retry", &id, "--wait"])?;
        ensure!(said.contains("1 target") && said.contains("✓ succeeded"), "{said}");
        self.cluster.wait_lines(0, "ran", 1).await?;
        self.cluster.wait_lines(1, "ran", 2).await?;
        self.refused(&self.dev, &["deployment", "retry", &id], "has come to target web-2 since; deploy anew")
            .await
    }

    async fn two_want_the_same_targets(&self) -> Result<()> {
        self.release("2.0.0", "iron", UNTIL_IT_MAY)?;
        let id = id_of(&self.deploy("2.0.0", &["--all-at-once"])?)?;
        for target in ["web-1", "web-2"] {
            self.cluster.wait_task(&id, target, "run", "running").await?;
        }
        self.refused(
            &self.dev,
            &["deploy", "app:1.0.0", ENVIRONMENT],
            &format!("deployment {id} works on target"),
        )
        .await?;
        self.let_go(0)?;
        self.let_go(1)?;
        self.dev.ok(&["deployment", "watch", &id]).map(drop)
    }

    /// Records what a scanner says of 1.0.0; what was answered.
    fn record(&self, scanner: &str, report: &Value) -> Result<String> {
        let file = self.cluster.folder().join(format!("{scanner}.json"));
        std::fs::write(&file, report.to_string())?;
        let file = file.display().to_string();
        self.dev.ok(&["findings", "record", "app:1.0.0", &file, "--scanner", scanner])
    }

    async fn scanners_report_in_their_own_forms(&self) -> Result<()> {
        let said = self.record("codeql", &sarif(&["js/sql-injection"]))?;
        ensure!(said.contains("1 critical"), "{said}");
        let said = self.record("grype", &grype())?;
        ensure!(said.contains("1 medium"), "{said}");
        let said = self.record("trivy-sbom", &cyclonedx())?;
        ensure!(said.contains("1 high") && said.contains("0 critical"), "{said}");
        let said = self.dev.ok(&["findings", "show", "app:1.0.0", "--from", "high"])?;
        for there in ["js/sql-injection", "src/db.js", "CVE-2026-1", "tls@1.0.2"] {
            ensure!(said.contains(there), "no {there} in {said}");
        }
        ensure!(!said.contains("CVE-2026-3"), "{said}");
        let other = self.cluster.folder().join("other.json");
        std::fs::write(&other, "{\"findings\": []}")?;
        let other = other.display().to_string();
        let record = ["findings", "record", "app:1.0.0", &other, "--scanner", "mine"];
        self.refused(&self.dev, &record, "SARIF").await?;

        let limits = ["--limit", "critical=0", "--scanner", "codeql"];
        self.boss.ok(&[&["gate", "set", "security", ENVIRONMENT, "scan"], limits.as_slice()].concat())?;
        let said = self.deploy("1.0.0", &[])?;
        ensure!(said.contains("1 critical finding") && said.contains("js/sql-injection"), "{said}");
        let mut watch = Watch::start(&self.dev, &["deployment", "watch", &id_of(&said)?])?;
        watch.until("gate scan failed")?;
        self.record("codeql", &sarif(&[]))?;
        let said = watch.ended(0)?;
        ensure!(said.contains("✓ succeeded"), "{said}");
        self.boss.ok(&["gate", "remove", ENVIRONMENT, "scan"]).map(drop)
    }
}

fn sarif(found: &[&str]) -> Value {
    let place = json!({"physicalLocation": {"artifactLocation": {"uri": "src/db.js"}}});
    let result =
        |id: &&str| json!({"ruleId": id, "level": "error", "message": {"text": "x"}, "locations": [place]});
    let results: Vec<Value> = found.iter().map(result).collect();
    let rules = json!([{"id": "js/sql-injection", "properties": {"security-severity": "9.8"}}]);
    let driver = json!({"name": "CodeQL", "rules": rules});
    json!({"version": "2.1.0", "runs": [{"tool": {"driver": driver}, "results": results}]})
}

fn cyclonedx() -> Value {
    let component = json!({"type": "library", "bom-ref": "pkg:tls", "name": "tls", "version": "1.0.2"});
    let of = |id: &str, severity: &str, state: &str| json!({"id": id, "ratings": [{"severity": severity}], "analysis": {"state": state}, "affects": [{"ref": "pkg:tls"}]});
    let vulnerabilities =
        [of("CVE-2026-1", "high", "exploitable"), of("CVE-2026-2", "critical", "not_affected")];
    json!({"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "components": [component], "vulnerabilities": vulnerabilities})
}

fn grype() -> Value {
    let vulnerability = json!({"id": "CVE-2026-3", "severity": "Medium"});
    let artifact = json!({"name": "zlib", "version": "1.3", "type": "deb"});
    json!({"matches": [{"vulnerability": vulnerability, "artifact": artifact}], "descriptor": {"name": "grype"}})
}

// === a host's that is cut off ===

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_is_confirmed_when_the_host_that_was_cut_off_is_back() -> Result<()> {
    let cluster = Cluster::start(2).await?;
    let story = Story::of(&cluster).await?;
    story.release("1.0.0", "iron", "true")?;
    story.release("2.0.0", "iron", "echo $$ > pid; echo began >> began; sleep 600")?;
    let id = id_of(&story.deploy("2.0.0", &["--target", "web-1"])?)?;
    cluster.wait_lines(0, "began", 1).await?;
    let (agent, command) = (cluster.agents[0].pid()?, cluster.agents[0].read("pid").trim().parse()?);
    signal("-STOP", agent)?;
    cluster.wait_connectivity("web-1", "suspect").await?;

    let said = story.dev.ok(&["deployment", "cancel", &id, "--reason", "it is the wrong release"])?;
    ensure!(said.contains("is cancelling"), "{said}");
    // The deployment ends, and the target stays shut: nobody knows what goes on there.
    story.wait_shown("deployment", &id, "status", "cancelled").await?;
    let task = cluster.wait_task(&id, "web-1", "run", "unknown").await?.id;
    ensure!(is_alive(command), "nobody could tell the host");
    let again = ["deploy", "app:1.0.0", ENVIRONMENT, "--target", "web-1"];
    let words = format!("nobody knows what became of task {task} on target web-1");
    story.refused(&story.dev, &again, &words).await?;
    story.dev.ok(&["deploy", "app:1.0.0", ENVIRONMENT, "--target", "web-2", "--wait"])?;

    signal("-CONT", agent)?;
    cluster.wait_task(&id, "web-1", "run", "cancelled").await?;
    ensure!(!is_alive(command), "it is called cancelled, and goes on");
    let shown = story.shown("deployment", &id)?;
    ensure!(shown["status"] == "cancelled", "{shown}");
    story.dev.ok(&[again.as_slice(), &["--wait"]].concat())?;
    drop(story);
    cluster.passed()
}

fn signal(signal: &str, process: u32) -> Result<()> {
    let sent = Command::new("kill").args([signal, &process.to_string()]).status()?;
    ensure!(sent.success(), "kill {signal} {process}: {sent}");
    Ok(())
}
