//! The guide to a pipeline, as a build server follows it: block by block, by a shell.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use stella_api_types::deployment::Deployment;
use stella_api_types::paths;
use stella_tests::cluster::{Cluster, TENANT};
use stella_tests::guide::{Terminal, blocks};

/// The steps of the repository that the pipeline is of.
const STEPS: &str = r#"[
  {"name": "install", "action": {"type": "artifact", "component": "web"}},
  {"name": "check", "action": {"type": "command", "argv": ["sh", "-c", "! test -e web/current/broken"]}}
]"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_guide_to_a_pipeline_is_true() -> Result<()> {
    let cluster = Cluster::start(1).await?;
    let folder = cluster.folder().join("pipeline");
    fs::create_dir_all(folder.join("out"))?;
    fs::write(folder.join("steps.json"), STEPS)?;
    let admin = Terminal::open(&cluster, &folder, None).with("VERSION", "1.4.0");
    let ci = |version| {
        let terminal = Terminal::open(&cluster, &folder, Some("ci-token"));
        terminal.with("VERSION", version).with("COMMIT", "4b825dc642cb")
    };
    let blocks = blocks("guides/pipeline", "sh")?;
    let [account, require, job, plan, promote, revoke] = &blocks[..] else {
        anyhow::bail!("the guide has other blocks: {blocks:#?}")
    };
    admin.ok(account)?;
    admin.ok(require)?;

    let said = ci("1.4.0").ok(job)?;
    ensure!(said.contains("signed by ci") && said.contains("now has 1.4.0"), "{said}");
    // Started again from its last line, the job follows what there is.
    let deploy = job.lines().last().context("a line")?;
    ci("1.4.0").ok(deploy)?;
    let path = paths::fill(paths::DEPLOYMENTS, &[TENANT]);
    let deployments: Vec<Deployment> = cluster.api.list(&path, &[]).await?;
    ensure!(deployments.len() == 1, "{deployments:?}");
    // The same again is fine; another release of the same version is refused, and a broken one fails and goes back.
    ci("1.4.0").ok(job)?;
    fs::write(folder.join("out/broken"), "")?;
    let (code, said) = ci("1.4.0").run(job)?;
    ensure!(code != Some(0) && said.contains("component web"), "{code:?}: {said}");
    let (code, said) = ci("1.4.1").run(job)?;
    ensure!(code == Some(1) && said.contains("rollback"), "{code:?}: {said}");

    let said = ci("1.4.0").ok(plan)?;
    ensure!(said.contains("web-1"), "{said}");
    let (code, said) = ci("1.4.0").run(promote)?;
    ensure!(code == Some(3) && said.contains("forbidden"), "a pipeline sets no rules: {said}");
    admin.ok(promote)?;
    admin.ok(revoke)?;
    let (code, said) = ci("1.4.0").run(plan)?;
    ensure!(code == Some(3) && said.contains("unauthenticated"), "{code:?}: {said}");
    cluster.passed()
}
