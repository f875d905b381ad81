//! The page of concepts, for a reader who types what it shows of accounts, releases, their pace, their way and approvals, and of what
//! holds releases back: what the page says of a command is what comes of it.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use stella_tests::cluster::{Cluster, ENVIRONMENT, TENANT};
use stella_tests::guide::{Terminal, blocks, command};
use stella_tests::recipe::archive;
use stella_tests::wait;

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

    /// Waits until people have to decide about a deployment.
    async fn paused(&self, deployment: &str) -> Result<()> {
        wait::until("it asks", async || {
            let found = self.cluster.api.deployment(TENANT, deployment).await?.deployment;
            ensure!(found.paused_for.as_deref() == Some("failure"), "{found:?}");
            Ok(())
        })
        .await
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

/// A host does what its release says, unless something is in the way there.
const UNLESS_BROKEN: &str = r#"[
  {"name": "run", "action": {"type": "command", "argv": ["/bin/sh", "-c", "echo ${version} >> notes; ! [ -e broken ]"]}}
]"#;

/// What a scanner has found that the page lets through for a while.
const FOUND: &str = r#"{"ArtifactName": "web", "Results": [{"Target": "web", "Vulnerabilities": [
  {"VulnerabilityID": "CVE-2026-1234", "PkgName": "tls", "InstalledVersion": "1", "Severity": "CRITICAL"}
]}]}"#;

#[tokio::test(flavor = "multi_thread")]
async fn what_holds_releases_back_is_as_the_page_of_concepts_says() -> Result<()> {
    let cluster = Cluster::start(HOSTS).await?;
    let folder = cluster.folder().join("readers");
    fs::create_dir_all(&folder)?;
    let readers = Readers { cluster: &cluster, folder };
    let admin = readers.admin();
    admin.ok(&format!("stella env update {ENVIRONMENT} --name production"))?;
    readers.write("steps.json", UNLESS_BROKEN)?;
    admin.ok("stella release create web 1.3.0 --steps steps.json\nstella release create web 1.4.0 --steps steps.json")?;
    readers.join("boss", &format!("admin@{TENANT}"))?;
    readers.join("bob", &format!("approver@{TENANT}"))?;

    with_a_way_back(&readers)?;
    through_gates(&readers)?;
    verified(&readers)?;
    braked(&readers)?;
    guided(&readers).await?;
    drop(readers);
    cluster.passed()
}

/// The first release has nothing to go back to; whoever lets it come anyway is on record.
fn with_a_way_back(readers: &Readers<'_>) -> Result<()> {
    let admin = readers.admin();
    let said = readers.does("stella env way-back production")?;
    ensure!(said.contains("must be able to go back on every target"), "{said}");
    let deploy = "stella deploy web:1.3.0 production --all-at-once";
    let (code, said) = admin.run(deploy)?;
    ensure!(code == Some(3) && said.contains("web-1") && said.contains("web-2"), "{code:?}: {said}");
    let said = admin.ok(&format!("{deploy} --waive-way-back 'it is the first' -o json --wait"))?;
    let deployed: Value = serde_json::from_str(&said)?;
    let id = deployed["id"].as_str().context("an id")?;
    let said = admin.ok(&format!("stella deployment show {id}"))?;
    ensure!(said.contains("came although it might not be able to go back: it is the first"), "{said}");

    let block = |language: &str, words: &str| -> Result<String> {
        blocks(PAGE, language)?.into_iter().find(|it| it.contains(words)).context("no such block")
    };
    let said = admin.ok(&block("console", "way-back-proof production")?)?;
    ensure!(said == block("text", "deployments to production begin")?, "{said}");
    admin.ok("stella env way-back-proof production off\nstella env way-back production --optional").map(drop)
}

/// Each kind of gate that needs nothing but the control plane holds a release up until what the page says has happened.
fn through_gates(readers: &Readers<'_>) -> Result<()> {
    let admin = readers.admin();
    for (kind, source) in [("metric", "main"), ("http", "changes")] {
        let (code, said) = admin.run(&command(PAGE, &format!("stella gate set {kind} production"))?)?;
        ensure!(code == Some(3) && said.contains(source), "no such system is configured: {code:?}: {said}");
    }
    for name in ["ci", "qa"] {
        admin.ok(&format!(
            "stella release key create {name}.key\nstella release key add {name} {name}.key.pub"
        ))?;
    }
    readers.write("trivy.json", FOUND)?;
    let scanned = command(PAGE, "stella findings record")?;
    let signed = "stella release sign web:1.4.0 --key ci.key\nstella release sign web:1.4.0 --key qa.key";
    for (kind, gate, then) in [
        ("security", "scan", Some(scanned.as_str())),
        ("signature", "signed", Some(signed)),
        ("expression", "tier", None),
        ("manual", "ticket", None),
    ] {
        // It is long past some day.
        let set =
            command(PAGE, &format!("stella gate set {kind} production"))?.replace("2026-12-31", "2099-12-31");
        let said = admin.ok(&set)?;
        ensure!(said.contains(&format!("takes releases through gate {gate}")), "{said}");
        let said = admin.ok("stella deploy web:1.4.0 production --all-at-once")?;
        let id = promotion(&said)?;
        ensure!(said.contains(&format!("gate {gate}")), "{said}");
        match (kind, then) {
            (_, Some(then)) => drop(admin.ok(then)?),
            ("manual", _) => {
                let pass = command(PAGE, "stella gate pass")?.replace("PROMOTION", &id);
                let (code, said) = admin.run(&pass)?;
                ensure!(code == Some(3), "whoever asked for it cannot: {said}");
                readers.of("bob").ok(&pass)?;
            }
            _ => {
                let typed = command(PAGE, "stella gate override")?;
                let typed = typed.replace("PROMOTION", &id).replace("GATE", gate).replace("TEXT", "urgent");
                readers.of("boss").ok(&typed)?;
            }
        }
        admin.ok(&format!("stella deployment watch {id}\nstella gate remove production {gate}"))?;
    }
    Ok(())
}

/// A release bakes, and then somebody signs it off.
fn verified(readers: &Readers<'_>) -> Result<()> {
    let admin = readers.admin();
    let said = readers.does("stella env verify production")?;
    ensure!(said.contains("all targets have had the release for 15 min"), "{said}");
    let block =
        blocks(PAGE, "sh")?.into_iter().find(|it| it.contains("--verifies")).context("no such block")?;
    let sign_off = block.lines().find(|line| line.contains("manual")).context("no manual gate")?;
    admin.ok(sign_off)?;
    let said = admin.ok("stella deploy web:1.4.0 production --all-at-once --plan")?;
    ensure!(said.contains("for 15 min") && said.contains("sign-off"), "{said}");
    admin.ok("stella gate remove production sign-off\nstella env verify production --nothing").map(drop)
}

/// A freeze, the budget and what silence means.
fn braked(readers: &Readers<'_>) -> Result<()> {
    let admin = readers.admin();
    let said = readers.does("stella env freeze production weekend")?;
    ensure!(said.contains("frozen"), "{said}");
    let said = admin.ok("stella env show production")?;
    ensure!(said.contains("weekend") && said.contains("Europe/Berlin"), "{said}");
    admin.ok("stella env unfreeze production weekend")?;
    let said = readers.does("stella env budget production")?;
    ensure!(said.contains("at most 1 target of production may be at risk at once"), "a tenth of two: {said}");
    ensure!(readers.does("stella env list")?.contains("0/1"), "how much of it is in use");
    let said = readers.does("stella env silence production")?;
    ensure!(said.contains("more than 20% of its agents"), "{said}");
    admin.ok("stella env silence production --ignore\nstella env budget production --unlimited").map(drop)
}

/// What people decide about a target that has failed, and about all of it.
async fn guided(readers: &Readers<'_>) -> Result<()> {
    let admin = readers.admin();
    let broken = readers.cluster.agents[1].host_root().join("broken");
    let typed = |begin: &str, id: &str| -> Result<String> {
        Ok(command(PAGE, begin)?.replace(" D ", &format!(" {id} ")).replace("[--rollback]", "--rollback"))
    };
    let asks = async || -> Result<String> {
        fs::write(&broken, "")?;
        let said = admin.ok("stella deploy web:1.4.0 production --all-at-once --on-failure ask")?;
        let id = said.split_whitespace().nth(1).context("its id")?.to_owned();
        readers.paused(&id).await?;
        Ok(id)
    };
    let id = asks().await?;
    let said =
        admin.ok(&format!("stella deployment pause {id} --reason lunch\nstella deployment resume {id}"))?;
    ensure!(said.contains("is still paused: 1 target has failed") && said.contains("decide with"), "{said}");
    fs::remove_file(&broken)?;
    admin.ok(&typed("stella deployment retry-target", &id)?)?;
    admin.ok(&format!("stella deployment watch {id}"))?;

    let id = asks().await?;
    admin.ok(&typed("stella deployment skip D", &id)?)?;
    let said = admin.ok(&format!("stella deployment watch {id}\nstella deployment show {id}"))?;
    ensure!(said.contains("skipped") && said.contains("no power"), "{said}");

    let id = asks().await?;
    fs::remove_file(&broken)?;
    let said = admin.ok(&typed("stella deployment fail D", &id)?)?;
    ensure!(said.contains(&id), "{said}");
    let (code, said) = admin.run(&format!("stella deployment watch {id}"))?;
    ensure!(code == Some(1) && said.contains("it is bad"), "{code:?}: {said}");
    Ok(())
}
