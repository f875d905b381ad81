//! The page of concepts, for a reader who types what it shows of accounts, releases, their pace, their way and approvals: what the page
//! says of a command is what comes of it.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use stella_tests::cluster::{Cluster, TENANT};
use stella_tests::guide::{Terminal, blocks, command};
use stella_tests::recipe::archive;

const PAGE: &str = "concepts";

/// How many hosts there are; each has a target in production.
const HOSTS: usize = 2;

/// What a host is sent in the readers' release.
const STEPS: &str = r#"[
  {"name": "install", "action": {"type": "artifact", "component": "web"}},
  {"name": "note", "action": {"type": "command", "argv": ["/bin/sh", "-c", "echo ${version} >> ../notes"]}}
]"#;

/// Readers of the page, in one folder.
struct Readers<'c> {
    cluster: &'c Cluster,
    folder: PathBuf,
}

impl Readers<'_> {
    fn admin(&self) -> Terminal<'_> {
        Terminal::open(self.cluster, &self.folder, None)
    }

    /// The terminal of an account whose token is in a file.
    fn of(&self, name: &str) -> Terminal<'_> {
        Terminal::open(self.cluster, &self.folder, Some(&format!("{name}-token")))
    }

    /// A new account, with its token in a file.
    fn join(&self, name: &str, role: &str) -> Result<()> {
        self.admin().ok(&format!(
            "stella account create {name} --role {role}\nstella token create laptop --account {name} --quiet > {name}-token"
        ))?;
        Ok(())
    }

    fn write(&self, file: &str, content: impl AsRef<[u8]>) -> Result<()> {
        Ok(fs::write(self.folder.join(file), content)?)
    }

    /// Runs the command in the text of the page that begins so.
    fn does(&self, begin: &str) -> Result<String> {
        self.admin().ok(&command(PAGE, begin)?)
    }
}

/// The id in what is said of a promotion that waits.
fn promotion(said: &str) -> Result<String> {
    let line = said.lines().find_map(|line| line.strip_prefix("promotion "));
    Ok(line
        .and_then(|line| line.split(' ').next())
        .with_context(|| format!("no promotion in {said}"))?
        .to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn releases_and_their_way_are_as_the_page_of_concepts_says() -> Result<()> {
    let mut cluster = Cluster::start(0).await?;
    for number in 1..=HOSTS {
        let mut agent = cluster.enrolled(&format!("host-{number}"), &[]).await?;
        agent.start()?;
        cluster.wait_online(agent.name()).await?;
        cluster.agents.push(agent);
    }
    let folder = cluster.folder().join("readers");
    fs::create_dir_all(&folder)?;
    let readers = Readers { cluster: &cluster, folder };
    let [accounts, signing, channels, ..] = &blocks(PAGE, "console")?[..] else {
        anyhow::bail!("the page has other blocks")
    };
    let [path, ..] = &blocks(PAGE, "sh")?[..] else { anyhow::bail!("the page has other blocks") };

    let said = readers.admin().ok(accounts)?;
    ensure!(said.contains("alice") && said.contains("laptop"), "{said}");
    places(&readers)?;
    signed(&readers, signing)?;
    in_channels(&readers, channels)?;
    at_a_pace(&readers)?;
    on_a_path(&readers, path)?;
    by_people(&readers)?;
    drop(readers);
    cluster.passed()
}

/// An environment that is renamed, and ten targets, five in slots of each host.
fn places(readers: &Readers<'_>) -> Result<()> {
    let admin = readers.admin();
    for environment in ["live", "hotfix", "eu", "us"] {
        admin.ok(&format!("stella env create {environment}"))?;
    }
    let said = readers.does("stella env update live")?;
    ensure!(said.contains("environment production") && said.contains("(order 20)"), "{said}");
    for number in 1..=10 {
        let (host, rack) = (number % HOSTS + 1, number % 3);
        admin.ok(&format!(
            "stella target create web-{number} --env production --agent host-{host} --slot s{number} --label rack={rack}"
        ))?;
    }
    admin.ok("stella target create web-0 --env staging --agent host-1 --slot s0").map(drop)
}

fn signed(readers: &Readers<'_>, block: &str) -> Result<()> {
    let admin = readers.admin();
    readers.write("web.tar.gz", archive(&[("web", "1.4.0")])?)?;
    readers.write("steps.json", STEPS)?;
    // The other signer is there already.
    admin.ok("stella release key create qa.key\nstella release key add qa qa.key.pub")?;
    let said = admin.ok(block)?;
    for told in
        ["signed by ci", "is signed by ci, qa", "demands 1 signature of every release", "key qa is revoked"]
    {
        ensure!(said.contains(told), "{told}: {said}");
    }
    let (code, said) = admin.run("stella release create web 1.4.1 --component web=./web.tar.gz")?;
    ensure!(code == Some(3) && said.contains("signature"), "{code:?}: {said}");
    let said = admin.ok("stella release statement web:1.4.0")?;
    ensure!(said.contains("4b825dc") && said.contains("\"web\""), "{said}");
    Ok(())
}

/// Channels are a release's when it is registered, so the one from before is in none.
fn in_channels(readers: &Readers<'_>, block: &str) -> Result<()> {
    let admin = readers.admin();
    let (rules, deploy) = block.trim_end().rsplit_once('\n').context("a deployment at the end")?;
    admin.ok(rules)?;
    let (code, said) = admin.run(deploy)?;
    ensure!(code == Some(3) && said.contains("stable"), "{code:?}: {said}");
    let create = "--component web=./web.tar.gz --steps steps.json --sign-with ci.key";
    admin.ok(&format!(
        "stella release create web 1.4.2 {create}\nstella release create web 1.5.0-beta.1 {create}"
    ))?;
    let said = admin.ok("stella release list --channel beta")?;
    ensure!(said.contains("1.5.0-beta.1") && !said.contains("1.4.2"), "{said}");
    admin.ok(&format!("{deploy} --all-at-once --wait"))?;
    admin.ok("stella env channels production --any").map(drop)
}

/// Batches and canaries as the page has them, with shorter pauses.
fn at_a_pace(readers: &Readers<'_>) -> Result<()> {
    let admin = readers.admin();
    let rolling = command(PAGE, "stella deploy web:1.4.0 production --batch")?;
    let said = admin.ok(&format!("{rolling} --plan"))?;
    ensure!(
        said.contains(
            "25% at a time, at least 70% healthy, 1 min of pause after each batch, one rack after the other"
        ),
        "{said}"
    );
    let said = admin.ok(&format!("{} --wait", rolling.replace("--pause 60", "--pause 1")))?;
    ensure!(said.contains("! paused: a batch is complete") && said.contains("✓ succeeded"), "{said}");

    let canary = command(PAGE, "stella deploy web:1.4.0 production --canary")?;
    let said = admin.ok(&format!("{canary} --plan"))?;
    ensure!(said.contains("canary: 10% (1) until 10 min have passed, 50% (5) until"), "{said}");
    let said = readers.does("stella env strategy production")?;
    ensure!(said.contains("10%"), "{said}");
    let said = admin.ok("stella deploy web:1.4.2 production --plan")?;
    ensure!(said.contains("canary: 10% (1) until 10 min have passed"), "{said}");
    admin.ok("stella env strategy production --any")?;

    let plan = "stella deploy web:1.4.2 production --plan --target web-1";
    let said = admin.ok(plan)?;
    ensure!(!said.contains("../notes"), "what is in a command's environment is not shown unasked: {said}");
    let said = admin.ok(&format!("{plan} --tasks"))?;
    ensure!(said.contains("echo 1.4.2 >> ../notes"), "{said}");
    Ok(())
}

fn on_a_path(readers: &Readers<'_>, block: &str) -> Result<()> {
    let admin = readers.admin();
    let (any, all) = block.trim_end().split_once('\n').context("two paths")?;
    let said = admin.ok(any)?;
    ensure!(said.contains("staging (+1 d) or hotfix (+1 h)"), "{said}");
    let said = admin.ok(all)?;
    ensure!(said.contains("eu (+1 h) and us (+1 h)"), "{said}");
    let said = readers.does("stella env path production --after staging --soak")?;
    ensure!(said.contains("staging") && said.contains("1 h"), "{said}");
    let deploy = "stella deploy web:1.4.0 production --all-at-once";
    let (code, said) = admin.run(deploy)?;
    ensure!(code == Some(3) && said.contains("must succeed on all targets of staging"), "{code:?}: {said}");
    admin.ok(&format!("{deploy} --override-path 'orders are lost' --wait"))?;
    admin.ok("stella env path production --nothing").map(drop)
}

/// Who approves, what, and how it is checked without asking anybody.
fn by_people(readers: &Readers<'_>) -> Result<()> {
    for name in ["bob", "carol", "ada"] {
        readers.join(name, &format!("approver@{TENANT}"))?;
    }
    let said = readers.does("stella env approvals production --needed 2")?;
    ensure!(said.contains("2 of alice, bob, carol"), "{said}");
    let said = readers.does("stella env approvals production --group")?;
    ensure!(said.contains("that 1 of bob, ada and 1 of carol approved"), "{said}");
    let said = readers.of("alice").ok("stella deploy web:1.4.2 production --all-at-once")?;
    let id = promotion(&said)?;
    let admin = readers.admin();
    let shown: Value = serde_json::from_str(&admin.ok(&format!("stella promotion show {id} -o json"))?)?;
    let root = shown["plan"]["root"].as_str().context("a root")?;
    let typed = |begin: &str| -> Result<String> {
        let command = command(PAGE, begin)?.replace("PROMOTION", &id);
        Ok(command.replace("sha256:ROOT", root).replace("ROOT", root))
    };
    let said = admin.ok(&typed("stella promotion show PROMOTION --target")?)?;
    ensure!(said.contains("echo 1.4.2 >> ../notes") && said.contains("to go back to 1.4.0:"), "{said}");
    admin.ok(&typed("stella promotion prove")?)?;
    let said = admin.ok(&typed("stella promotion verify")?)?;
    ensure!(said.contains("the proof holds"), "{said}");

    admin.ok("stella release key create qa.pem")?;
    readers.of("carol").ok(&typed("stella promotion approve")?)?;
    let said = admin.ok(&format!("stella promotion show {id}"))?;
    ensure!(
        said.contains("signed by key sha256:") && said.contains("still missing: 1 of bob, ada"),
        "{said}"
    );
    readers.of("bob").ok(&format!("stella promotion approve {id}"))?;
    admin.ok(&format!("stella deployment watch {id}"))?;
    admin.ok("stella env approvals production --nobody").map(drop)
}
