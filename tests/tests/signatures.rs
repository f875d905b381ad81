//! Signed releases with real processes: keys that never leave their files, a gate that wants two of them, and a key that is lost.

use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use stella_tests::cluster::{Cluster, ENVIRONMENT, TENANT};
use stella_tests::people::Shell;
use stella_tests::wait;

/// What the shell of somebody says in JSON.
fn json(shell: &Shell<'_>, arguments: &[&str]) -> Result<Value> {
    let said = shell.ok(&[arguments, &["-o", "json"]].concat())?;
    serde_json::from_str(&said).with_context(|| format!("{arguments:?}: {said}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ci_and_qa_have_signed_is_deployed_and_a_lost_key_halts_it_on_its_way() -> Result<()> {
    let mut cluster = Cluster::start(2).await?;
    let (boss, ci) =
        (Shell::of(&cluster, "boss", "admin").await?, Shell::of(&cluster, "ci", "deployer").await?);
    let file = |name: &str| cluster.folder().join(name).display().to_string();
    for name in ["ci", "qa"] {
        let made = boss.ok(&["release", "key", "create", &file(name)])?;
        ensure!(made.contains("fingerprint sha256:"), "{made}");
        let mode = std::fs::metadata(file(name))?.permissions().mode() & 0o777;
        ensure!(mode == 0o600, "{mode:o}");
        boss.ok(&["release", "key", "add", name, &file(&format!("{name}.pub"))])?;
    }
    let (code, said) = boss.run(&["release", "key", "create", &file("ci")])?;
    ensure!(code == Some(2) && said.contains("is there already"), "nothing is overwritten: {said}");
    let (code, said) = boss.run(&["release", "key", "add", "oops", &file("ci")])?;
    ensure!(code == Some(3) && said.contains("is a private key"), "{said}");
    boss.ok(&["release", "key", "require", "--needed", "1"])?;
    boss.ok(&["gate", "set", "signature", ENVIRONMENT, "signed", "--needed", "2"])?;

    let slow = "for i in $(seq 600); do [ -e go ] && exit 0; sleep 0.1; done; exit 1";
    let steps = serde_json::json!([
        { "name": "run", "action": { "type": "command", "argv": ["/bin/sh", "-c", slow] } }
    ]);
    std::fs::write(file("steps.json"), steps.to_string())?;
    let steps = file("steps.json");
    let create = ["release", "create", "app", "9.0.0", "--steps", &steps];
    let (code, said) = ci.run(&create)?;
    ensure!(code == Some(3) && said.contains("signed releases only"), "{said}");
    let key = file("ci");
    let sbom = format!("https://ci.example.com/1/sbom.json@sha256:{}", "5".repeat(64));
    let signed = ["--sign-with", &key, "--commit", "4b825dc642cb", "--sbom", &sbom];
    let said = ci.ok(&[create.as_slice(), &signed].concat())?;
    ensure!(said.contains("signed by ci"), "{said}");
    let shown = json(&ci, &["release", "show", "app:9.0.0"])?;
    ensure!(shown["provenance"]["commit"] == "4b825dc642cb", "{shown}");

    let waits = json(&ci, &["deploy", "app:9.0.0", ENVIRONMENT, "--batch", "1", "--on-failure", "stop"])?;
    let id = waits["id"].as_str().context("it does not wait")?.to_owned();
    let said = ci.ok(&["promotion", "show", &id])?;
    ensure!(said.contains("has 1 of 2 signatures (ci)"), "{said}");
    let statement = shown["statement"].as_str().context("no statement")?;
    let (code, said) =
        ci.run(&["release", "sign", "app:9.0.0", "--key", &file("qa"), "--statement", "sha256:0"])?;
    ensure!(code == Some(2) && said.contains(statement), "{said}");
    ci.ok(&["release", "sign", "app:9.0.0", "--key", &file("qa"), "--statement", statement])?;
    let said =
        ci.ok(&["release", "verify", "app:9.0.0", "--key", &file("ci.pub"), "--key", &file("qa.pub")])?;
    ensure!(said.matches("has signed").count() == 2, "{said}");
    boss.ok(&["release", "key", "create", &file("other")])?;
    let (code, said) = ci.run(&["release", "verify", "app:9.0.0", "--key", &file("other.pub")])?;
    ensure!(code == Some(1) && said.contains("has NOT signed"), "{said}");

    wait::until("the first target is worked on", async || {
        let tasks = cluster.api.tasks(TENANT, &id).await?;
        ensure!(tasks.iter().any(|task| task.state == "running"), "{tasks:?}");
        Ok(())
    })
    .await?;
    // What counts is asked again, also by a control plane that was killed in between.
    cluster.control_plane.kill()?;
    cluster.control_plane.resume().await?;
    let (boss, ci) =
        (Shell::of(&cluster, "boss2", "admin").await?, Shell::of(&cluster, "ci2", "viewer").await?);
    boss.ok(&["release", "key", "revoke", "qa", "--reason", "the laptop is gone"])?;
    for agent in &cluster.agents {
        std::fs::write(agent.host_root().join("go"), "")?;
    }
    let ended = cluster.wait_final(&id).await?;
    let reason = ended.deployment.reason.clone().unwrap_or_default();
    ensure!(ended.deployment.status == "failed" && reason.contains("key qa was revoked"), "{ended:?}");
    let skipped = ended.targets.iter().filter(|it| it.progress == "skipped").count();
    ensure!(skipped == 1, "the second target was left alone: {ended:?}");
    let listed = ci.ok(&["release", "list"])?;
    ensure!(listed.lines().any(|line| line.contains("app:9.0.0") && line.contains(" ci ")), "{listed}");
    cluster.passed()
}
