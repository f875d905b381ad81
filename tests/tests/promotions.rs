//! Promotions with real hosts: what waits survives a crash, what is approved runs once, and a shell sees how it goes.

use std::io::Read as _;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use stella_api_types::deployment::{CanaryStep, CreateDeployment, DeploymentPlan, OnFailure, Strategy};
use stella_api_types::paths;
use stella_tests::cluster::{Cluster, ENVIRONMENT, TENANT};
use stella_tests::people::{Shell, approve, ask, need_approvals, person, promotion};
use stella_tests::recipe::{release, rolling, shell};
use stella_tests::wait;

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_approvals_outlives_crashes_and_then_runs_once() -> Result<()> {
    let mut cluster = Cluster::start(2).await?;
    let qa = cluster.api.with_token(&person(&cluster.api, "qa", "approver").await?);
    let boss = cluster.api.with_token(&person(&cluster.api, "boss", "approver").await?);
    let dev = cluster.api.with_token(&person(&cluster.api, "dev", "deployer").await?);
    cluster.release(&release("1.0.0", &[], vec![shell("run", "echo ran >> ran.txt")])).await?;
    need_approvals(&cluster.api, 2).await?;
    let asked = ask(&dev, &rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop)).await?;
    ensure!(asked.status == "pending" && asked.approvals_needed == 2, "{asked:?}");
    approve(&qa, &asked).await?;

    cluster.control_plane.kill()?;
    cluster.control_plane.resume().await?;
    let found = promotion(&qa, &asked.id).await?;
    ensure!(found.status == "pending" && found.approvals.len() == 1 && found.plan == asked.plan, "{found:?}");
    for agent in &cluster.agents {
        ensure!(agent.read("ran.txt").is_empty(), "it ran before it was approved");
    }

    approve(&boss, &asked).await?;
    cluster.control_plane.kill()?;
    cluster.control_plane.resume().await?;
    let ended = cluster.wait_final(&asked.id).await?;
    ensure!(ended.deployment.status == "succeeded", "{ended:?}");
    for agent in 0..2 {
        cluster.wait_lines(agent, "ran.txt", 1).await?;
    }
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_approvals_the_last_one_grants_it() -> Result<()> {
    let mut cluster = Cluster::start(1).await?;
    cluster.release(&release("1.0.0", &[], vec![shell("run", "true")])).await?;
    need_approvals(&cluster.api, 2).await?;
    let asked = ask(&cluster.api, &rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop)).await?;
    for name in ["qa", "boss"] {
        approve(&cluster.api.with_token(&person(&cluster.api, name, "approver").await?), &asked).await?;
    }
    cluster.wait_final(&asked.id).await?;
    wait::until("both are in the log", async || {
        let log = cluster.control_plane.daemon().log();
        let by = |event: &str, name: &str| {
            let is_it = |line: &&str| line.contains(event) && line.contains(&format!("\"by\":\"{name}\""));
            log.lines().filter(is_it).count()
        };
        let found = [("voted", "qa"), ("granted", "qa"), ("voted", "boss"), ("granted", "boss")]
            .map(|(what, name)| by(&format!("\"event\":\"approval.{what}\""), name));
        ensure!(found == [1, 0, 0, 1], "{found:?} in {log}");
        Ok(())
    })
    .await?;
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_shown_for_approval_is_what_was_asked_for() -> Result<()> {
    let cluster = Cluster::start(2).await?;
    let qa = cluster.api.with_token(&person(&cluster.api, "qa", "approver").await?);
    cluster.release(&release("1.0.0", &[], vec![shell("run", "true")])).await?;
    need_approvals(&cluster.api, 1).await?;
    let wanted = rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop);
    let late = ask(&cluster.api, &wanted).await?;
    let path = paths::fill(paths::PROMOTION_PLAN, &[TENANT, &late.id]);
    let shown: DeploymentPlan = qa.get(&path).await?;
    ensure!(shown.plan == late.plan && shown.targets.len() == 2, "{shown:?}");

    let steps = vec![CanaryStep { percent: 50, soak_seconds: None }];
    let canary =
        CreateDeployment { strategy: Some(Strategy::Canary { steps, batch: None, order: None }), ..wanted };
    let first = ask(&cluster.api, &canary).await?;
    approve(&qa, &first).await?;
    wait::until("one target has the release", async || {
        let found = cluster.api.deployment(TENANT, &first.id).await?.deployment;
        ensure!(found.paused.is_some(), "{found:?}");
        Ok(())
    })
    .await?;
    let refused = qa.get::<DeploymentPlan>(&path).await.err().context("another plan was shown")?;
    let problem = refused.into_problem()?;
    ensure!(problem.status == 409 && problem.detail.contains("is changing its targets"), "{problem:?}");
    cluster.passed()
}

/// The promotion that waits, as somebody sees it.
async fn waiting(shell: &Shell<'_>) -> Result<String> {
    wait::until("a promotion waits", async || {
        let (_, said) = shell.run(&["promotion", "list", "--status", "pending", "-o", "json"])?;
        let listed: serde_json::Value = serde_json::from_str(&said).context(said)?;
        Ok(listed[0]["id"].as_str().context("none waits")?.to_owned())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_waits_for_the_decision_and_goes_on_or_ends_with_it() -> Result<()> {
    let cluster = Cluster::start(1).await?;
    cluster.release(&release("1.0.0", &[], vec![shell("run", "true")])).await?;
    let dev = Shell::of(&cluster, "dev", "deployer").await?;
    let qa = Shell::of(&cluster, "qa", "approver").await?;
    let boss = Shell::of(&cluster, "boss", "admin").await?;
    let (code, said) = boss.run(&["env", "approvals", ENVIRONMENT, "--needed", "1", "--from", "qa"])?;
    ensure!(code == Some(0) && said.contains("promotions that 1 of qa approved"), "{said}");
    let (code, said) = boss.run(&["env", "approvals", ENVIRONMENT])?;
    ensure!(code == Some(2), "{said}");
    let (_, said) = dev.run(&["deploy", "app:1.0.0", ENVIRONMENT, "--plan"])?;
    ensure!(said.contains("starts when 1 account has approved it"), "{said}");

    let deploy = ["deploy", "app:1.0.0", ENVIRONMENT, "--wait"];
    let mut waits = dev.command(&deploy)?.stdout(Stdio::piped()).spawn()?;
    let id = waiting(&qa).await?;
    let (code, said) = dev.run(&["promotion", "approve", &id])?;
    ensure!(code == Some(3) && said.contains("account dev needs the role approver"), "{said}");
    let (code, said) = qa.run(&["promotion", "show", &id])?;
    ensure!(code == Some(0) && said.contains("asked for by dev: pending (0 of 1 approvals"), "{said}");
    ensure!(said.contains("plan sha256:") && said.contains("web-1"), "{said}");
    ensure!(said.contains("1 at a time, in 1 h at most; on failure it is rolled back"), "{said}");
    ensure!(said.contains("each target: run"), "{said}");
    let (code, said) = qa.run(&["promotion", "approve", &id, "--reason", "tested"])?;
    ensure!(code == Some(0) && said.contains("has started"), "{said}");
    let mut said = String::new();
    waits.stdout.take().context("its output")?.read_to_string(&mut said)?;
    ensure!(waits.wait()?.code() == Some(0), "{said}");
    ensure!(said.contains("waits for approvals: 0 of 1") && said.contains("succeeded"), "{said}");

    let mut waits = dev.command(&deploy)?.stdout(Stdio::piped()).spawn()?;
    let id = waiting(&qa).await?;
    let reject = ["promotion", "reject", &id, "--objection", "bad-timing", "--reason", "friday"];
    let (code, rejected) = qa.run(&reject)?;
    ensure!(code == Some(0) && rejected.contains("is rejected"), "{rejected}");
    let mut said = String::new();
    waits.stdout.take().context("its output")?.read_to_string(&mut said)?;
    ensure!(waits.wait()?.code() == Some(1) && said.contains("rejected by qa: friday"), "{said}");

    let (code, said) = dev.run(&["deploy", "app:1.0.0", ENVIRONMENT])?;
    ensure!(
        code == Some(0) && said.contains("missing 1 of qa; one of them may say: stella promotion approve"),
        "{said}"
    );
    let id = waiting(&qa).await?;
    let (code, said) = dev.run(&["promotion", "withdraw", &id, "--reason", "typo"])?;
    ensure!(code == Some(0) && said.contains("is withdrawn"), "{said}");
    let (code, said) = boss.run(&["env", "approvals", ENVIRONMENT, "--nobody"])?;
    ensure!(code == Some(0) && said.contains("without approvals"), "{said}");

    let freeze =
        ["env", "freeze", ENVIRONMENT, "for-ever", "--from", "2021-01-01T00:00", "--to", "2022-01-01T00:00"];
    let more = ["--repeat", "yearly", "--zone", "Europe/Berlin", "--reason", "nobody is there"];
    let (code, said) = boss.run(&[freeze.as_slice(), &more].concat())?;
    ensure!(code == Some(0) && said.contains("is frozen until "), "{said}");
    let (code, said) = dev.run(&["deploy", "app:1.0.0", ENVIRONMENT])?;
    ensure!(code == Some(3) && said.contains("for-ever: nobody is there"), "{said}");
    let urgent = ["deploy", "app:1.0.0", ENVIRONMENT, "--override-freeze", "orders are lost", "--wait"];
    let (code, said) = dev.run(&urgent)?;
    ensure!(code == Some(3) && said.contains("needs the role operator"), "{said}");
    let (code, said) = boss.run(&urgent)?;
    ensure!(code == Some(0), "{said}");
    let (_, said) = boss.run(&["env", "list"])?;
    ensure!(said.contains("frozen until ") && said.contains("(for-ever)"), "{said}");
    let (code, said) = boss.run(&["env", "unfreeze", ENVIRONMENT, "for-ever"])?;
    ensure!(code == Some(0), "{said}");
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_each_group_approves_and_a_signature_stays_with_the_approval() -> Result<()> {
    let cluster = Cluster::start(1).await?;
    cluster.release(&release("1.0.0", &[], vec![shell("run", "true")])).await?;
    let boss = Shell::of(&cluster, "boss", "admin").await?;
    let dev = Shell::of(&cluster, "dev", "deployer").await?;
    let mut approvers = Vec::new();
    for name in ["qa", "lead", "sec"] {
        approvers.push(Shell::of(&cluster, name, "approver").await?);
    }
    let approvals = ["env", "approvals", ENVIRONMENT];
    let groups = ["--group", "1:qa,lead", "--group", "1:sec", "--on-expiry", "ask-again:2"];
    let said = boss.ok(&[&approvals[..], &groups].concat())?;
    ensure!(said.contains("and 1 of sec approved; they are asked again 2 times"), "{said}");
    let (code, said) = boss.run(&[&approvals[..], &["--group", "1:qa", "--group", "1:qa"]].concat())?;
    ensure!(code != Some(0) && said.contains("those named give 1 of 2 approvals"), "{said}");
    let said = boss.ok(&["env", "show", ENVIRONMENT])?;
    ensure!(said.contains("and 1 of sec, within 7 d; they are asked again 2 times"), "{said}");
    dev.ok(&["deploy", "app:1.0.0", ENVIRONMENT])?;
    let id = waiting(&dev).await?;

    let key = cluster.folder().join("qa.pem").display().to_string();
    boss.ok(&["release", "key", "create", &key])?;
    let shown: serde_json::Value =
        serde_json::from_str(&dev.ok(&["promotion", "show", &id, "-o", "json"])?)?;
    let plan = shown["plan"]["root"].as_str().context("no plan")?;
    let (code, said) = approvers[0].run(&["promotion", "approve", &id, "--sign-with", &key])?;
    ensure!(code == Some(2) && said.contains("--plan"), "who signs says what: {said}");
    // The whole id is signed, however it was typed.
    let short = &id[..8];
    approvers[0].ok(&["promotion", "approve", short, "--plan", plan, "--sign-with", &key])?;
    approvers[1].ok(&["promotion", "approve", &id])?;
    let said = approvers[1].ok(&["promotion", "show", &id])?;
    ensure!(said.contains("waits for 1 approval") && said.contains("and 1 of sec"), "{said}");
    ensure!(said.contains("signed by key sha256:"), "{said}");
    // A signature over something else is none, and somebody else's is not one's own.
    let shown: serde_json::Value =
        serde_json::from_str(&approvers[2].ok(&["promotion", "show", &id, "-o", "json"])?)?;
    let copied = shown["approvals"][0]["signature"].clone();
    let mut forged = copied.clone();
    forged["signature"] = serde_json::Value::from(format!("{}==", "A".repeat(86)));
    let sec = cluster.api.with_token(&approvers[2].token());
    let path = paths::fill(paths::PROMOTION_APPROVE, &[TENANT, &id]);
    for signature in [forged, copied] {
        let body = serde_json::json!({"plan": plan, "signature": signature});
        let refused = sec.post::<_, serde_json::Value>(&path, &body, None).await;
        let problem = refused.err().context("it was taken")?.into_problem()?;
        ensure!(problem.status == 422 && problem.field.as_deref() == Some("signature"), "{problem:?}");
    }
    let said = approvers[2].ok(&["promotion", "approve", &id])?;
    ensure!(said.contains("has started"), "{said}");
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_a_plan_is_proven_and_taking_a_gate_away_voids_what_was_approved() -> Result<()> {
    let cluster = Cluster::start(2).await?;
    cluster.release(&release("1.0.0", &[], vec![shell("run", "true")])).await?;
    let boss = Shell::of(&cluster, "boss", "admin").await?;
    let dev = Shell::of(&cluster, "dev", "deployer").await?;
    let qa = Shell::of(&cluster, "qa", "approver").await?;
    boss.ok(&["env", "approvals", ENVIRONMENT, "--needed", "2"])?;
    boss.ok(&["gate", "set", "manual", ENVIRONMENT, "ticket"])?;
    dev.ok(&["deploy", "app:1.0.0", ENVIRONMENT])?;
    let id = waiting(&dev).await?;
    let shown: serde_json::Value =
        serde_json::from_str(&qa.ok(&["promotion", "show", &id, "-o", "json"])?)?;
    let root = shown["plan"]["root"].as_str().context("no root")?;

    let said = qa.ok(&["promotion", "prove", &id, "--part", "guards"])?;
    ensure!(
        said.contains("\"ticket\"") && said.contains(&format!("leaf 1 of 5 in the plan {root}")),
        "{said}"
    );
    let proof = qa.ok(&["promotion", "prove", &id, "web-2", "-o", "json"])?;
    let file = cluster.folder().join("proof.json");
    let path = file.display().to_string();
    std::fs::write(&file, &proof)?;
    let verify = ["promotion", "verify", &path, "--plan", root];
    let said = qa.ok(&verify)?;
    ensure!(said.contains("the proof holds") && said.contains("\"web-2\""), "{said}");
    std::fs::write(&file, proof.replace("web-2", "web-1"))?;
    let (code, said) = qa.run(&verify)?;
    ensure!(code == Some(1) && said.contains("the proof does not hold"), "{said}");

    qa.ok(&["promotion", "approve", &id, "--plan", root])?;
    let said = boss.ok(&["gate", "remove", ENVIRONMENT, "ticket"])?;
    ensure!(said.contains(&format!("promotion {id} waited and is void now")), "{said}");
    let said = qa.ok(&["promotion", "show", &id])?;
    ensure!(said.contains("gate ticket of") && said.contains("was removed"), "{said}");
    ensure!(said.contains("that is part of what people approve"), "{said}");
    let (code, said) = boss.run(&["promotion", "approve", &id])?;
    ensure!(code == Some(3) && said.contains("is not valid any more"), "{said}");
    cluster.passed()
}
