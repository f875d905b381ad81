//! The guide to a pipeline, as a build server follows it: block by block, by a shell.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use stella_api_types::deployment::Deployment;
use stella_api_types::paths;
use stella_tests::binaries;
use stella_tests::cluster::{Cluster, TENANT};

/// The steps of the repository that the pipeline is of.
const STEPS: &str = r#"[
  {"name": "install", "action": {"type": "artifact", "component": "web"}},
  {"name": "check", "action": {"type": "command", "argv": ["sh", "-c", "! test -e web/current/broken"]}}
]"#;

/// The blocks of a guide that a shell is to run, in their order.
fn blocks(guide: &str) -> Result<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../docs/guides/{guide}.md"));
    let page = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let blocks = page.split("```sh\n").skip(1).filter_map(|rest| rest.split_once("```"));
    Ok(blocks.map(|(block, _)| block.to_owned()).collect())
}

/// A shell of somebody, in a folder, with the settings that the guide wants.
struct Shell<'c> {
    cluster: &'c Cluster,
    folder: PathBuf,
    token_file: PathBuf,
    version: &'static str,
}

impl Shell<'_> {
    /// Runs a block; the exit code, and all that was said.
    fn run(&self, block: &str) -> Result<(Option<i32>, String)> {
        let flags = self.cluster.control_plane.stella_flags();
        let value = |flag: &str| flags.iter().skip_while(|it| *it != flag).nth(1).context("a flag");
        let program = binaries::path("stella")?;
        let path = format!("{}:{}", program.parent().context("a folder")?.display(), std::env::var("PATH")?);
        let ended = Command::new("sh")
            .args(["-ec", block])
            .current_dir(&self.folder)
            .env("PATH", path)
            .env("STELLA_URL", value("--url")?)
            .env("STELLA_CA", value("--ca")?)
            .env("STELLA_TENANT", TENANT)
            .env("STELLA_TOKEN_FILE", &self.token_file)
            .env("VERSION", self.version)
            .env("COMMIT", "4b825dc642cb")
            .output()?;
        Ok((ended.status.code(), String::from_utf8([ended.stdout, ended.stderr].concat())?))
    }

    /// Runs a block that has to go well.
    fn ok(&self, block: &str) -> Result<String> {
        let (code, said) = self.run(block)?;
        ensure!(code == Some(0), "{block} ended with {code:?}: {said}");
        Ok(said)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guide_to_a_pipeline_is_true() -> Result<()> {
    let cluster = Cluster::start(1).await?;
    let folder = cluster.folder().join("pipeline");
    fs::create_dir_all(folder.join("out"))?;
    fs::write(folder.join("steps.json"), STEPS)?;
    let flags = cluster.control_plane.stella_flags();
    let token_file = flags.iter().skip_while(|it| *it != "--token-file").nth(1).context("a token")?.into();
    let admin = Shell { cluster: &cluster, folder: folder.clone(), token_file, version: "1.4.0" };
    let ci = |version| Shell {
        cluster: &cluster,
        folder: folder.clone(),
        token_file: folder.join("ci-token"),
        version,
    };
    let blocks = blocks("pipeline")?;
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
