//! Workflows that do not go well, with real hosts: what is made up for, what goes on all the same, what is tried again, and what runs out of
//! time. Where the book has a template, that is the one that is run.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use axum::Router;
use axum::extract;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use parking_lot::Mutex;
use serde_json::Value;
use stella_api_types::paths;
use stella_api_types::workflow::{Run, Step};
use stella_tests::cluster::{Cluster, ENVIRONMENT, TENANT};
use stella_tests::control_plane::Settings;
use stella_tests::people::Shell;
use stella_tests::process::is_alive;
use stella_tests::recipe::{release, shell};
use stella_tests::wait;

const PAGE: &str = include_str!("../../docs/workflows.md");

/// What was posted to a path: the idempotency key and the body of each call.
type Calls = Arc<Mutex<BTreeMap<String, Vec<(String, Value)>>>>;

/// Takes whatever is told to somebody at `/tell/NAME`, and fails whatever else is called.
struct Outside {
    url: String,
    calls: Calls,
    server: tokio::task::JoinHandle<()>,
}

impl Outside {
    async fn start() -> Result<Self> {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let calls = Calls::default();
        let seen = Arc::clone(&calls);
        let answer = move |extract::Path(path): extract::Path<String>, headers: HeaderMap, body: String| async move {
            let key = headers.get("idempotency-key").and_then(|key| key.to_str().ok()).unwrap_or_default();
            let body = serde_json::from_str(&body).unwrap_or_default();
            let is_told = path.starts_with("tell/");
            seen.lock().entry(path).or_default().push((key.to_owned(), body));
            if is_told { StatusCode::OK } else { StatusCode::BAD_GATEWAY }
        };
        let app = Router::new().route("/{*path}", post(answer));
        let server = tokio::spawn(async move { drop(axum::serve(listener, app).await) });
        Ok(Self { url, calls, server })
    }

    /// A control plane that may call it, and tell it something under two names.
    fn settings(&self) -> Settings {
        let url = &self.url;
        let receiver = |name: &str| {
            format!(
                "[[notifications.receivers]]\nname = \"{name}\"\ntype = \"webhook\"\nurl = \"{url}/tell/{name}\"\n\
                 workflow_tenants = [\"{TENANT}\"]\n"
            )
        };
        let allowed = format!("[workflows]\nhttp_allowed = [\"{url}/deploys/\"]\n");
        Settings { tables: allowed + &receiver("chat") + &receiver("on-call"), ..Settings::default() }
    }

    fn calls(&self, path: &str) -> Vec<(String, Value)> {
        self.calls.lock().get(path).cloned().unwrap_or_default()
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// The first template of the page below a heading, with other words in it.
fn of_the_book(heading: &str, replaced: &[(&str, &str)]) -> Result<String> {
    let (_, rest) = PAGE.split_once(heading).context("the heading")?;
    let (_, rest) = rest.split_once("```yaml\n").context("a template")?;
    let mut template = rest.split_once("```").context("its end")?.0.to_owned();
    for (book, here) in replaced {
        ensure!(template.contains(book), "the book has no {book}: {template}");
        template = template.replace(book, here);
    }
    Ok(template)
}

/// Who is there, and what is outside.
struct Story<'c> {
    cluster: &'c Cluster,
    outside: &'c Outside,
    boss: Shell<'c>,
    dev: Shell<'c>,
    approvers: [Shell<'c>; 2],
}

impl Story<'_> {
    fn apply(&self, name: &str, template: &str) -> Result<()> {
        let file = self.cluster.folder().join(format!("{name}.yaml"));
        fs::write(&file, template)?;
        let said = self.boss.ok(&["workflow", "apply", &file.display().to_string()])?;
        ensure!(said == format!("workflow {name} has version 1\n"), "{said}");
        Ok(())
    }

    /// The id of a new run.
    fn start(&self, workflow: &str, inputs: &[&str]) -> Result<String> {
        let given = inputs.iter().flat_map(|input| ["--input", *input]);
        let asked: Vec<&str> = ["workflow", "run", workflow, "-o", "json"].into_iter().chain(given).collect();
        let run: Run = serde_json::from_str(&self.dev.ok(&asked)?)?;
        Ok(run.id)
    }

    /// Follows a run to its end; what was said, and the run. The shell ends as the run does.
    async fn follow(&self, id: &str, status: &str) -> Result<(String, Run)> {
        let (code, said) = self.dev.run(&["workflow", "watch", id])?;
        ensure!(code == Some(i32::from(status != "succeeded")), "it ended with {code:?}: {said}");
        let run: Run = self.cluster.api.get(&paths::fill(paths::RUN, &[TENANT, id])).await?;
        ensure!(run.status == status, "{run:?}");
        Ok((said, run))
    }

    /// The folder of an environment's target: a slot of one of the two hosts.
    fn folder(&self, environment: &str) -> PathBuf {
        let host = usize::from(matches!(environment, "production" | "us"));
        self.cluster.agents[host].host_root().join(environment)
    }

    /// A file there, as text; empty if it is not there.
    fn read(&self, environment: &str, file: &str) -> String {
        fs::read_to_string(self.folder(environment).join(file)).unwrap_or_default()
    }

    fn touch(&self, environment: &str, file: &str) -> Result<()> {
        fs::create_dir_all(self.folder(environment))?;
        Ok(fs::write(self.folder(environment).join(file), "")?)
    }

    fn remove(&self, environment: &str, file: &str) -> Result<()> {
        Ok(fs::remove_file(self.folder(environment).join(file))?)
    }

    /// Waits until a command has said its process id in staging.
    async fn begins(&self) -> Result<()> {
        self.cluster.wait_lines(0, "staging/pids", 1).await
    }
}

fn step<'r>(run: &'r Run, id: &str) -> Result<&'r Step> {
    run.steps.iter().find(|step| step.id == id).with_context(|| format!("{run:?} has no step {id}"))
}

/// How each step of a run has ended.
fn ends(run: &Run) -> Vec<(&str, &str)> {
    run.steps.iter().map(|step| (step.id.as_str(), step.state.as_str())).collect()
}

/// Writes what it is to the target's folder, which a host has for each slot. One version is too much for one place each.
const INSTALL: &str =
    "echo ${version} >> installed; test ${environment}-${version} != production-2.0.0 && test ! -e broken";

/// Works until it is let go, and ends at once if that has happened before.
const UNTIL_IT_MAY: &str = "echo ${version} >> installed; [ -e go ] && exit 0; echo $$ >> pids; until [ -e go ]; do sleep 0.05; done";

/// Never ends by itself, unless it was let go before.
const FOR_EVER: &str = "echo ${version} >> installed; [ -e go ] && exit 0; echo $$ >> pids; exec sleep 600";

#[tokio::test(flavor = "multi_thread")]
async fn workflows_have_bad_days() -> Result<()> {
    let outside = Outside::start().await?;
    let mut cluster = Cluster::with_settings(0, &outside.settings()).await?;
    for name in ["host-1", "host-2"] {
        let mut agent = cluster.enrolled(name, &[]).await?;
        agent.start()?;
        cluster.agents.push(agent);
        cluster.wait_online(name).await?;
    }
    for (version, script) in
        [("1.0.0", INSTALL), ("2.0.0", INSTALL), ("3.0.0", FOR_EVER), ("4.0.0", UNTIL_IT_MAY)]
    {
        cluster.release(&release(version, &[], vec![shell("run", script)])).await?;
    }
    let boss = Shell::of(&cluster, "boss", "admin").await?;
    for (environment, host) in
        [("staging", "host-1"), ("production", "host-2"), ("eu", "host-1"), ("us", "host-2")]
    {
        let target = format!("db-{environment}");
        boss.ok(&["env", "create", environment])?;
        let place = ["--env", environment, "--agent", host, "--slot", environment];
        boss.ok(&[&["target", "create", &target, "--label", "role=db"], &place[..]].concat())?;
    }
    let story = Story {
        cluster: &cluster,
        outside: &outside,
        boss,
        dev: Shell::of(&cluster, "dev", "deployer").await?,
        approvers: [
            Shell::of(&cluster, "qa", "approver").await?,
            Shell::of(&cluster, "lead", "approver").await?,
        ],
    };
    story.what_was_done_is_made_up_for().await?;
    story.a_failure_that_does_not_matter().await?;
    story.one_of_several_regions_fails().await?;
    story.somebody_else_works_on_the_target().await?;
    story.a_host_takes_too_long().await?;
    drop(story);
    cluster.passed()
}

impl Story<'_> {
    /// The book's first template: a call in vain does not matter, a failure in production takes staging back as well.
    async fn what_was_done_is_made_up_for(&self) -> Result<()> {
        let hook = format!("{}/deploys/done", self.outside.url);
        let replaced = [
            ("web:", "app:"),
            ("wait: 1h", "wait: 1s"),
            ("https://hooks.example.com/deploys/done", &hook),
            ("backoff: 10s", "backoff: 50ms"),
        ];
        self.apply("ship", &of_the_book("# Workflows", &replaced)?)?;
        let run = self.start("ship", &["version=1.0.0"])?;
        self.agree(&run).await?;
        let (said, ended) = self.follow(&run, "succeeded").await?;
        ensure!(said.contains("✗ tell (http) failed: the answer was 502"), "{said}");
        ensure!(said.trim_end().ends_with("has succeeded, but for step tell, which failed"), "{said}");
        ensure!(step(&ended, "undo_staging")?.state == "skipped", "{ended:?}");
        let calls = self.outside.calls("deploys/done");
        let keys: Vec<_> = calls.iter().map(|(key, _)| key.clone()).collect();
        ensure!(keys == [1, 2, 3, 4, 5].map(|it| format!("{run}/tell/{it}")), "{keys:?}");
        let deployment = step(&ended, "production")?.outputs["deployment"].clone();
        ensure!(calls.iter().all(|(_, body)| body["deployment"] == deployment), "{calls:?}");
        ensure!(calls[0].1["version"] == "1.0.0", "{calls:?}");

        let run = self.start("ship", &["version=2.0.0"])?;
        self.agree(&run).await?;
        let (said, ended) = self.follow(&run, "failed").await?;
        let wanted = [
            ("staging", "succeeded"),
            ("soak", "succeeded"),
            ("go", "succeeded"),
            ("production", "failed"),
            ("tell", "skipped"),
            ("undo_staging", "succeeded"),
        ];
        ensure!(ends(&ended) == wanted, "{ended:?}");
        ensure!(said.contains("✓ undo_staging (rollback) succeeded"), "{said}");
        let failed = said.split("step production: deployment ").nth(1).and_then(|it| it.split(' ').next());
        let shown = self.dev.ok(&["deployment", "show", failed.context("its deployment is not named")?])?;
        ensure!(shown.contains("db-production") && shown.contains("failed"), "{shown}");
        // There and back: production by its deployment, staging by its step.
        for environment in ["staging", "production"] {
            let installed = self.read(environment, "installed");
            ensure!(installed.lines().eq(["1.0.0", "2.0.0", "1.0.0"]), "{installed}");
        }
        let staging = step(&ended, "staging")?.outputs["deployment"].as_str().context("it was deployed")?;
        let shown = self.dev.ok(&["deployment", "show", staging])?;
        ensure!(shown.contains("taken back by "), "{shown}");
        let drawn = self.dev.ok(&["workflow", "graph", "--run", &run])?;
        ensure!(drawn.contains("✓ undo_staging (rollback) succeeded ↩ staging"), "{drawn}");
        ensure!(self.outside.calls("deploys/done").len() == 5, "it was told of what did not happen");
        Ok(())
    }

    /// Two people let a run of `ship` go on.
    async fn agree(&self, run: &str) -> Result<()> {
        self.cluster.wait_step(run, "go", "running").await?;
        for approver in &self.approvers {
            approver.ok(&["workflow", "approve", run, "go", "--reason", "tested"])?;
        }
        Ok(())
    }

    /// The book's template that tells somebody how it went.
    async fn a_failure_that_does_not_matter(&self) -> Result<()> {
        let argv = r#"[/bin/sh, -ec, 'echo "$1" >> schema; test "$1" != 43', migrate, "${inputs.to}"]"#;
        let replaced = [(r#"[/opt/app/migrate, "${inputs.to}"]"#, argv), ("backoff: 10s", "backoff: 50ms")];
        self.apply("migrate", &of_the_book("## Notifying people", &replaced)?)?;
        for (to, schema, done, wake) in
            [("42", "succeeded", "succeeded", "skipped"), ("43", "failed", "skipped", "succeeded")]
        {
            let run = self.start("migrate", &[&format!("to={to}")])?;
            let (said, ended) = self.follow(&run, "succeeded").await?;
            ensure!(ends(&ended) == [("schema", schema), ("done", done), ("wake", wake)], "{said}");
        }
        let schema = self.read("production", "schema");
        ensure!(schema == "42\n43\n", "{schema}");
        let said = |name: &str| -> Vec<_> {
            self.outside.calls(&format!("tell/{name}")).iter().map(|it| it.1["message"].clone()).collect()
        };
        ensure!(said("chat") == ["the schema is at 42"], "{:?}", said("chat"));
        let calls = self.outside.calls("tell/on-call");
        let [(_, wake)] = &calls[..] else { anyhow::bail!("{calls:?}") };
        ensure!(
            wake["severity"] == "critical"
                && wake["title"] == format!("acme: {}", wake["message"].as_str().unwrap_or_default()),
            "{wake}"
        );
        Ok(())
    }

    /// The book's template for several places, with what a person has answered as an input of the runs in it.
    async fn one_of_several_regions_fails(&self) -> Result<()> {
        let inner = "name: ship-region\ninputs:\n  region: {type: text}\n  version: {type: text}\nsteps:\n  - id: out\n    \
                     deploy: {release: \"app:${inputs.version}\", environment: \"${inputs.region}\"}\n";
        self.apply("ship-region", inner)?;
        let host = "name: ship-host\ninputs:\n  host: {type: text}\nsteps:\n  - id: out\n    \
                    deploy: {release: \"app:1.0.0\", environment: production, targets: [\"${inputs.host}\"]}\n";
        self.apply("ship-host", host)?;
        let everywhere = of_the_book("## Workflows in workflows", &[("version: 3", "version: 1")])?;
        self.apply("everywhere", &everywhere)?;
        let outer = "name: asked\nsteps:\n  - id: which\n    input: {version: {type: text}}\n  - id: all\n    needs: [which]\n    \
                     workflow: {name: everywhere, version: 1, inputs: {version: \"${steps.which.outputs.version}\"}}\n";
        self.apply("asked", outer)?;
        self.touch("us", "broken")?;

        let run = self.start("asked", &[])?;
        self.dev.ok(&["workflow", "answer", &run, "which", "--set", "version=1.0.0"])?;
        let (said, ended) = self.follow(&run, "failed").await?;
        ensure!(said.contains(" for us failed: step out: deployment "), "{said}");
        let within: Run = {
            let child = step(&ended, "all")?.runs.first().context("it has run something")?;
            self.cluster.api.get(&paths::fill(paths::RUN, &[TENANT, &child.run])).await?
        };
        ensure!(ends(&within) == [("regions", "failed"), ("databases", "skipped")], "{within:?}");
        let regions: Vec<_> = step(&within, "regions")?
            .runs
            .iter()
            .map(|it| (it.item.as_deref(), it.status.as_str()))
            .collect();
        ensure!(regions == [(Some("eu"), "succeeded"), (Some("us"), "failed")], "{regions:?}");
        ensure!(self.read("eu", "installed") == "1.0.0\n", "the other region is not held up");

        self.remove("us", "broken")?;
        let before = self.read("production", "installed");
        let run = self.start("everywhere", &["version=1.0.0"])?;
        self.follow(&run, "succeeded").await?;
        ensure!(self.read("us", "installed") == "1.0.0\n1.0.0\n", "{}", self.read("us", "installed"));
        let after = self.read("production", "installed");
        ensure!(after == format!("{before}1.0.0\n"), "each database, too: {after}");
        Ok(())
    }

    /// One deployment at a time works on a target: the step is refused, and asks again until it is free.
    async fn somebody_else_works_on_the_target(&self) -> Result<()> {
        let template = "name: patient\nsteps:\n  - id: out\n    retry: {attempts: 20, backoff: 200ms, backoff_max: 1s}\n    \
                        deploy: {release: \"app:1.0.0\", environment: staging}\n";
        self.apply("patient", template)?;
        let said = self.dev.ok(&["deploy", "app:4.0.0", ENVIRONMENT, "-o", "json"])?;
        let busy: Value = serde_json::from_str(&said)?;
        let busy = busy["id"].as_str().context("its id")?;
        self.begins().await?;
        let run = self.start("patient", &[])?;
        let waits = self.cluster.wait_step(&run, "out", "backing_off").await?;
        let reason = waits.reason.unwrap_or_default();
        ensure!(reason.contains(&format!("deployment {busy} works on target")), "{reason}");
        let said = self.dev.ok(&["workflow", "status", &run])?;
        ensure!(said.contains("! out (deploy) backing_off: ") && said.contains("(until "), "{said}");
        self.touch("staging", "go")?;
        let (said, ended) = self.follow(&run, "succeeded").await?;
        ensure!(step(&ended, "out")?.attempts > 1, "{said}");
        let installed = self.read("staging", "installed");
        ensure!(installed.ends_with("4.0.0\n1.0.0\n"), "one after the other: {installed}");
        for file in ["go", "pids"] {
            self.remove("staging", file)?;
        }
        Ok(())
    }

    /// What an attempt has begun on hosts is ended and taken back before the next one begins; and a job is ended.
    async fn a_host_takes_too_long(&self) -> Result<()> {
        let template = "name: hasty\nsteps:\n  - id: out\n    timeout: 3s\n    retry: {attempts: 5, backoff: 1s}\n    \
                        deploy: {release: \"app:3.0.0\", environment: staging}\n  - id: tidy\n    needs: [out]\n    timeout: 1s\n    \
                        on_failure: continue\n    task:\n      environment: staging\n      steps:\n        - name: work\n          \
                        command: {argv: [/bin/sh, -c, 'echo $$ >> pids; exec sleep 600']}\n  - id: ask\n    needs: [tidy]\n    \
                        timeout: 1s\n    approval: {environment: staging, message: well}\n";
        self.apply("hasty", template)?;
        let run = self.start("hasty", &[])?;
        let first = self.cluster.wait_step(&run, "out", "running").await?;
        let first = first.deployment.context("its deployment")?;
        self.begins().await?;
        self.touch("staging", "go")?;
        let (said, ended) = self.follow(&run, "failed").await?;
        ensure!(ends(&ended) == [("out", "succeeded"), ("tidy", "failed"), ("ask", "failed")], "{said}");
        ensure!(said.contains("! out (deploy) backing_off: it took longer than it may"), "{said}");
        ensure!(said.contains("✗ tidy (task) failed: it took longer than it may"), "{said}");
        ensure!(said.contains("step ask: it took longer than it may"), "{said}");
        let installed = self.read("staging", "installed");
        ensure!(installed.ends_with("3.0.0\n1.0.0\n3.0.0\n"), "there, back and there: {installed}");
        let pids: Vec<u32> =
            self.read("staging", "pids").lines().filter_map(|line| line.parse().ok()).collect();
        ensure!(pids.len() == 2 && !pids.iter().any(|pid| is_alive(*pid)), "{pids:?}");
        let shown = self.cluster.api.deployment(TENANT, &first).await?;
        let reason = shown.deployment.reason.clone().unwrap_or_default();
        ensure!(reason.contains("its step of a workflow took too long"), "{shown:?}");
        let [rollback] = &shown.rollbacks[..] else { anyhow::bail!("{shown:?}") };
        let rollback = self.cluster.api.deployment(TENANT, rollback).await?.deployment;
        let second = step(&ended, "out")?.outputs["deployment"].as_str().context("it was deployed")?;
        let second = self.cluster.api.deployment(TENANT, second).await?.deployment;
        ensure!(rollback.finished_at.is_some_and(|it| it <= second.created_at), "{second:?}");
        wait::until("the whole story is told", async || {
            let events = self.cluster.api.events(TENANT).await?;
            let of = |kind: &str| events.iter().filter(|it| it.kind == kind && it.data["run"] == run).count();
            ensure!((of("step_overdue"), of("step_backed_off")) == (2, 1), "{events:?}");
            Ok(())
        })
        .await
    }
}
