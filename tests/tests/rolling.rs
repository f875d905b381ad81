//! Rolling deployments as hosts see them: in which order they are worked on, how many at the same time, and when it is enough.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use stella_tests::cluster::{Cluster, ENVIRONMENT, TENANT};
use stella_tests::recipe::{release, shell};

/// The hosts with the labels `rank` and `rack`. A rack of two digits comes after one of one digit, and a word after both.
const HOSTS: [(&str, &str, &str); 6] = [
    ("web-1", "10", "a"),
    ("web-2", "9", "a"),
    ("web-3", "spare", "a"),
    ("web-4", "2", "b"),
    ("web-5", "2", "b"),
    ("web-6", "1", "c"),
];

/// The hosts of a deployment, which all write to one diary.
struct Fleet {
    cluster: Cluster,
    diary: PathBuf,
}

/// What a host has written: that it began or ended, and when, in milliseconds.
struct Entry {
    begins: bool,
    host: String,
    at_ms: u64,
}

impl Fleet {
    async fn start() -> Result<Self> {
        let cluster = Cluster::start(HOSTS.len()).await?;
        let diary = cluster.folder().join("diary");
        let write = |what: &str| format!("echo {what} ${{target}} $(date +%s%3N) >> {}", diary.display());
        let script = format!(
            "{}; echo ${{version}} >> installed; sleep 0.2; {}; test ! -e broken-${{version}}",
            write("begins"),
            write("ends")
        );
        for version in ["1.0.0", "2.0.0"] {
            cluster.release(&release(version, &[], vec![shell("run", &script)])).await?;
        }
        let fleet = Self { cluster, diary };
        for (host, rank, rack) in HOSTS {
            let (rank, rack) = (format!("rank={rank}"), format!("rack={rack}"));
            fleet.ends(0, &["target", "update", host, "--label", &rank, "--label", &rack])?;
        }
        Ok(fleet)
    }

    /// Runs a command that ends with this code; what it said.
    fn ends(&self, code: i32, arguments: &[&str]) -> Result<String> {
        let (ended, said) = self.cluster.stella(arguments)?;
        ensure!(ended == Some(code), "{arguments:?} ended with {ended:?}: {said}");
        Ok(said)
    }

    /// Deploys with these flags and waits for the end, which has this code; what was said, and what the hosts have written.
    fn deploy(&self, code: i32, version: &str, flags: &[&str]) -> Result<(String, Vec<Entry>)> {
        fs::write(&self.diary, "")?;
        let release = format!("app:{version}");
        let said = self.ends(code, &[&["deploy", &release, ENVIRONMENT, "--wait"], flags].concat())?;
        let entry = |line: &str| {
            let mut words = line.split(' ');
            let (what, host, at) = (words.next()?, words.next()?.to_owned(), words.next()?);
            Some(Entry { begins: what == "begins", host, at_ms: at.parse().ok()? })
        };
        let diary = fs::read_to_string(&self.diary)?;
        let entries: Option<Vec<Entry>> = diary.lines().map(entry).collect();
        Ok((said, entries.with_context(|| format!("the diary is {diary}"))?))
    }

    fn break_release(&self, version: &str, hosts: &[usize]) -> Result<()> {
        for host in hosts {
            fs::write(self.cluster.agents[*host].host_root().join(format!("broken-{version}")), "")?;
        }
        Ok(())
    }

    fn heal(&self, version: &str, hosts: &[usize]) -> Result<()> {
        for host in hosts {
            fs::remove_file(self.cluster.agents[*host].host_root().join(format!("broken-{version}")))?;
        }
        Ok(())
    }

    /// What each host has, as its scripts have left it.
    fn installed(&self) -> Vec<String> {
        let last = |text: String| text.lines().last().unwrap_or_default().to_owned();
        self.cluster.agents.iter().map(|agent| last(agent.read("installed"))).collect()
    }
}

/// The hosts in the order in which they began.
fn begun(diary: &[Entry]) -> Vec<&str> {
    diary.iter().filter(|it| it.begins).map(|it| it.host.as_str()).collect()
}

/// How many hosts were worked on at the same time, at most.
fn at_once(diary: &[Entry]) -> usize {
    let mut busy = BTreeSet::new();
    let mut most = 0;
    for entry in diary {
        if entry.begins {
            busy.insert(&entry.host)
        } else {
            busy.remove(&entry.host)
        };
        most = most.max(busy.len());
    }
    most
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_are_taken_in_the_order_and_at_the_pace_that_was_asked_for() -> Result<()> {
    let fleet = Fleet::start().await?;
    by_rank(&fleet)?;
    spread_over_racks(&fleet)?;
    let failed = some_are_down(&fleet)?;
    the_rest_gets_it_later(&fleet, &failed)?;
    too_many_fail(&fleet).await?;
    fleet.cluster.passed()
}

/// Numbers as numbers, and before words.
fn by_rank(fleet: &Fleet) -> Result<()> {
    let wanted = ["web-6", "web-4", "web-5", "web-2", "web-1", "web-3"];
    let plan = fleet.ends(0, &["deploy", "app:1.0.0", ENVIRONMENT, "--order-by", "rank", "--plan"])?;
    let rows = plan.lines().filter_map(|row| row.split_whitespace().find(|word| word.starts_with("web-")));
    ensure!(rows.eq(wanted) && plan.contains("WAVE (rank)"), "{plan}");
    let (_, diary) = fleet.deploy(0, "1.0.0", &["--order-by", "rank"])?;
    ensure!(begun(&diary) == wanted && at_once(&diary) == 1, "{:?}", begun(&diary));

    fleet.ends(0, &["target", "update", "web-3", "--no-label", "rank"])?;
    let said = fleet.ends(3, &["deploy", "app:1.0.0", ENVIRONMENT, "--order-by", "rank"])?;
    ensure!(said.contains("targets[web-3].labels.rank: is missing"), "{said}");
    fleet.ends(0, &["target", "update", "web-3", "--label", "rank=spare"])?;
    Ok(())
}

/// The first of each rack, then the second of each; and after a batch nothing for a second.
fn spread_over_racks(fleet: &Fleet) -> Result<()> {
    let flags = ["--spread", "rack", "--batch", "3", "--pause", "1s"];
    let (said, diary) = fleet.deploy(0, "1.0.0", &flags)?;
    let begun = begun(&diary);
    let batches = begun.chunks(3).map(|batch| BTreeSet::from_iter(batch.iter().copied()));
    let wanted = [["web-1", "web-4", "web-6"], ["web-2", "web-3", "web-5"]].map(BTreeSet::from);
    ensure!(batches.eq(wanted), "{begun:?}");
    let (first, second) = diary.split_at(6);
    let pause = second.first().map(|it| it.at_ms).zip(first.last().map(|it| it.at_ms));
    ensure!(pause.is_some_and(|(next, last)| next >= last + 1_000), "{pause:?}");
    ensure!(said.contains("! paused: a batch is complete: 3 of 6 targets have the release"), "{said}");
    Ok(())
}

/// A host that has failed counts as down, so from then on fewer are worked on. The deployment's id.
fn some_are_down(fleet: &Fleet) -> Result<String> {
    let batch = ["--batch", "100%", "--minimum-healthy", "4"];
    let said = fleet.ends(3, &[&["deploy", "app:2.0.0", ENVIRONMENT], &batch[..]].concat())?;
    ensure!(said.contains("strategy.batch: is 6 of 6 targets, but at most 2 may be down"), "{said}");
    let (_, diary) = fleet.deploy(0, "1.0.0", &["--batch", "2", "--minimum-healthy", "4"])?;
    ensure!(at_once(&diary) == 2 && begun(&diary).len() == 6, "{:?}", begun(&diary));

    fleet.break_release("2.0.0", &[0])?;
    let pace = ["--batch", "2", "--max-unavailable", "2", "--tolerate", "1"];
    let (said, diary) = fleet.deploy(0, "2.0.0", &pace)?;
    let failed = diary.iter().position(|it| !it.begins && it.host == "web-1").context("web-1 has ended")?;
    // Whoever was beside it may be busy still.
    let (before, after) = diary.split_at(failed);
    ensure!(at_once(before) == 2 && at_once(after) == 1, "{:?}", begun(&diary));
    ensure!(said.contains("succeeded, but for 1 target that failed"), "{said}");
    let id = said.split([' ', ':']).skip_while(|it| *it != "deployment").nth(1).context(said.clone())?;
    Ok(id.to_owned())
}

fn the_rest_gets_it_later(fleet: &Fleet, failed: &str) -> Result<()> {
    fleet.heal("2.0.0", &[0])?;
    fs::write(&fleet.diary, "")?;
    let said = fleet.ends(0, &["deployment", "retry", failed, "--wait"])?;
    ensure!(said.contains("✓ succeeded"), "{said}");
    let written = fs::read_to_string(&fleet.diary)?;
    ensure!(written.lines().count() == 2 && written.starts_with("begins web-1 "), "{written}");
    ensure!(fleet.installed().iter().all(|it| it == "2.0.0"), "{:?}", fleet.installed());
    Ok(())
}

/// One more than is tolerated: no other host gets it, and all that have it go back.
async fn too_many_fail(fleet: &Fleet) -> Result<()> {
    let script = "echo ${version} >> installed; test ! -e broken-${version}";
    fleet.cluster.release(&release("3.0.0", &[], vec![shell("run", script)])).await?;
    fleet.break_release("3.0.0", &[1, 3])?;
    let (said, _) = fleet.deploy(1, "3.0.0", &["--tolerate", "1"])?;
    ensure!(said.contains("✗ failed: ") && said.contains("rollback "), "{said}");
    ensure!(fleet.installed().iter().all(|it| it == "2.0.0"), "{:?}", fleet.installed());
    let had_it = |agent: usize| fleet.cluster.agents[agent].read("installed").contains("3.0.0");
    ensure!((0..6).map(had_it).eq([true, true, true, true, false, false]), "{said}");
    let events = fleet.cluster.api.events(TENANT).await?;
    let failed = events.iter().rfind(|it| it.kind == "deployment_failed").context("it has failed")?;
    let reason = failed.data["reason"].as_str().unwrap_or_default();
    ensure!(reason.contains("2 of 6 targets") || reason.contains("web-4"), "{reason}");
    Ok(())
}
