//! Backups: taken while the control plane works, restored elsewhere, and refused when they are not what was written.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, ensure};
use stella_api_types::deployment::{Deployment, OnFailure};
use stella_api_types::environment::Environment;
use stella_api_types::paths;
use stella_api_types::task::{SettleTask, Task};
use stella_tests::api::Api;
use stella_tests::binaries;
use stella_tests::cluster::{Cluster, ENVIRONMENT, TENANT, create_environment, create_target, target};
use stella_tests::control_plane::Settings;
use stella_tests::people::Shell;
use stella_tests::recipe::{self, artifact, rolling, shell};
use stella_tests::wait;
use tokio::task::JoinHandle;

/// The value of a line `name: value` that a tool printed.
fn said<'a>(printed: &'a str, name: &str) -> Result<&'a str> {
    let lines = || printed.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    lines().next_back().with_context(|| format!("no {name} in {printed}"))
}

fn refusal(result: Result<String>, reason: &str) -> Result<()> {
    let error = format!("{:#}", result.err().context("it was not refused")?);
    ensure!(error.contains(reason), "{error}");
    Ok(())
}

/// Deploys and creates environments, one after the other, until it is told to stop; how many of each were answered.
fn load(api: Api, stop: Arc<AtomicBool>) -> JoinHandle<Result<u64>> {
    tokio::spawn(async move {
        let mut rounds = 0;
        while !stop.load(Ordering::Acquire) {
            rounds += 1;
            create_environment(&api, TENANT, &format!("load-{rounds}")).await?;
            let started = api.deploy(TENANT, &rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop), None).await?;
            while !api.deployment(TENANT, &started.deployment.id).await?.deployment.is_final {
                tokio::task::yield_now().await;
            }
        }
        Ok(rounds)
    })
}

async fn environments(api: &Api) -> Result<Vec<String>> {
    let all: Vec<Environment> = api.list(&paths::fill(paths::ENVIRONMENTS, &[TENANT]), &[]).await?;
    Ok(all.into_iter().map(|it| it.name).collect())
}

/// Waits until the load has done this many rounds more.
async fn more_rounds(api: &Api, count: usize) -> Result<()> {
    let before = environments(api).await?.len();
    wait::until("the load goes on", async || {
        let now = environments(api).await?.len();
        ensure!(now >= before + count, "{before} then, {now} now");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_was_taken_under_load_is_restored_on_another_host_with_the_same_state() -> Result<()> {
    const GATED: &str = "echo run >> runs; until [ -e gate ]; do sleep 0.05; done; echo done >> ends";
    // Small, so that snapshots are taken meanwhile too.
    let settings = Settings { snapshot_every_events: 50, ..Settings::default() };
    let mut cluster = Cluster::with_settings(2, &settings).await?;
    let archive = recipe::archive(&[("bin/hello", "hello")])?;
    let digest = cluster.api.upload(TENANT, &archive).await?;
    let steps = vec![artifact("web"), shell("note", "echo 1.0.0 >> versions")];
    cluster.release(&recipe::release("1.0.0", &[("web", &digest)], steps)).await?;
    cluster.release(&recipe::release("2.0.0", &[], vec![shell("gated", GATED)])).await?;

    let stop = Arc::new(AtomicBool::new(false));
    let load = load(cluster.api.clone(), Arc::clone(&stop));
    more_rounds(&cluster.api, 3).await?;
    let file = cluster.folder().join("stella.backup").display().to_string();
    let taken = cluster.control_plane.tool(&["backup", &file])?;
    let state = said(&taken, "state")?.to_owned();
    more_rounds(&cluster.api, 2).await?;
    stop.store(true, Ordering::Release);
    let rounds = load.await??;
    assert_eq!(fs::metadata(&file)?.permissions().mode() & 0o777, 0o600);
    refusal(cluster.control_plane.tool(&["backup", &file]), "it is there already")?;

    // What the backup knows nothing of: one that has ended, and one that ends while no control plane is there.
    let later = cluster.deploy(&rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop)).await?;
    assert_eq!(cluster.wait_final(&later.deployment.id).await?.deployment.status, "succeeded");
    cluster.api.deploy(TENANT, &rolling(ENVIRONMENT, "2.0.0", OnFailure::Stop), None).await?;
    cluster.wait_lines(0, "runs", 1).await?;
    cluster.control_plane.kill()?;
    fs::write(cluster.agents[0].host_root().join("gate"), "")?;
    cluster.wait_lines(0, "ends", 1).await?;

    let other = cluster.control_plane.elsewhere(&cluster.folder().join("other-host"), &settings)?;
    let checked = other.tool(&["restore", "--check", &file])?;
    ensure!(said(&checked, "state")? == state, "{checked}");
    ensure!(!other.state_dir().exists(), "a check writes nothing");
    let restored = other.tool(&["restore", &file])?;
    ensure!(said(&restored, "state")? == state, "{restored}");
    ensure!(restored.contains("that is the state that the backup was taken of"), "{restored}");
    let verified = other.tool(&["journal", "verify"])?;
    ensure!(said(&verified, "state")? == state, "{verified}");
    refusal(other.tool(&["restore", &file]), "is not empty")?;

    cluster.control_plane = other;
    cluster.control_plane.resume().await?;
    cluster.api = cluster.control_plane.api()?;
    for agent in &cluster.agents {
        cluster.wait_online(agent.name()).await?;
    }
    let known = environments(&cluster.api).await?;
    ensure!(known.contains(&"load-3".to_owned()) && !known.contains(&format!("load-{rounds}")), "{known:?}");
    // The result of an attempt that this journal has never heard of is put on record, and changes nothing.
    wait::until("the unknown result is on record", async || {
        let events = cluster.api.events(TENANT).await?;
        let ignored = events.iter().filter(|event| event.kind == "report_ignored");
        ensure!(ignored.count() > 0, "{} events", events.len());
        Ok(())
    })
    .await?;
    // A host that has nothing yet gets the archive from the backup.
    let mut third = cluster.enrolled("web-3", &[]).await?;
    create_target(&cluster.api, TENANT, &target(ENVIRONMENT, "web-3", "web-3")).await?;
    third.start()?;
    cluster.agents.push(third);
    cluster.wait_online("web-3").await?;
    // What was open in the backup is settled before something else is let in.
    let all: Vec<Deployment> = cluster.api.list(&paths::fill(paths::DEPLOYMENTS, &[TENANT]), &[]).await?;
    for open in all.iter().filter(|it| !it.is_final) {
        settle(&cluster, &open.id).await?;
    }
    let next = cluster.deploy(&rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop)).await?;
    let ended = cluster.wait_final(&next.deployment.id).await?;
    assert_eq!(ended.deployment.status, "succeeded", "{ended:?}");
    assert_eq!(cluster.agents[2].read("versions"), "1.0.0\n");
    cluster.passed()
}

/// Says of what was under way in the backup that it succeeded, as a person who has looked at the hosts would.
async fn settle(cluster: &Cluster, deployment: &str) -> Result<()> {
    let how = SettleTask { succeeded: true, reason: "looked at the host".to_owned() };
    wait::until("the deployment of the backup has ended", async || {
        for task in cluster.api.tasks(TENANT, deployment).await? {
            if task.state == "unknown" {
                let path = paths::fill(paths::TASK_SETTLE, &[TENANT, &task.id]);
                let _settled: Task = cluster.api.post(&path, &how, None).await?;
            }
        }
        let detail = cluster.api.deployment(TENANT, deployment).await?;
        ensure!(detail.deployment.is_final, "it is {}", detail.deployment.status);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_was_cut_off_or_changed_is_refused_and_nothing_is_written() -> Result<()> {
    let cluster = Cluster::start(0).await?;
    let file = cluster.folder().join("stella.backup");
    cluster.control_plane.tool(&["backup", &file.display().to_string()])?;
    let whole = fs::read(&file)?;
    let other =
        cluster.control_plane.elsewhere(&cluster.folder().join("other-host"), &Settings::default())?;
    let bad = cluster.folder().join("bad.backup");
    let bad_name = bad.display().to_string();
    let refused = |bytes: &[u8], reason: &str| -> Result<()> {
        fs::write(&bad, bytes)?;
        for arguments in [&["restore", "--check", &bad_name][..], &["restore", &bad_name]] {
            refusal(other.tool(arguments), reason)?;
        }
        ensure!(!other.state_dir().exists(), "something was written");
        Ok(())
    };
    for length in [0, 1_000, whole.len() / 2, whole.len() - 512, whole.len() - 1] {
        let reason = if length < 2_048 { "too short" } else { "was cut off" };
        refused(&whole[..length], reason)?;
    }
    for place in [0, 700, whole.len() / 2, whole.len() - 3_000] {
        let mut changed = whole.clone();
        changed[place] ^= 0x10;
        refused(&changed, "was changed")?;
    }
    refused(&[&whole[..], b"more"].concat(), "was cut off")?;
    refusal(other.tool(&["restore", "/nonexistent.backup"]), "cannot be read")?;
    // The whole one is good all the same.
    other.tool(&["restore", &file.display().to_string()])?;
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_goes_back_to_a_time_or_an_event() -> Result<()> {
    let mut cluster = Cluster::start(0).await?;
    create_environment(&cluster.api, TENANT, "wanted").await?;
    let wanted = cluster.api.events(TENANT).await?.pop().context("no event")?;
    // Journal time counts milliseconds; the mistake is in a later one.
    wait::until("a millisecond has passed", async || {
        ensure!(stella_tests::sim::now() > stella_api_types::time::parse_rfc3339(&wanted.at)?, "not yet");
        Ok(())
    })
    .await?;
    create_environment(&cluster.api, TENANT, "mistake").await?;
    // A stopped control plane is backed up by its folder.
    cluster.control_plane.stop()?;
    let file = cluster.folder().join("stella.backup").display().to_string();
    let taken = cluster.control_plane.tool(&["backup", &file])?;
    let verified = cluster.control_plane.tool(&["journal", "verify"])?;
    assert_eq!(said(&taken, "state")?, said(&verified, "state")?);

    let settings = Settings::default();
    let event = format!("{TENANT}@{}", wanted.position);
    for (folder, until) in [("by-time", wanted.at.as_str()), ("by-event", &event)] {
        let mut other = cluster.control_plane.elsewhere(&cluster.folder().join(folder), &settings)?;
        let restored = other.tool(&["restore", &file, "--until", until])?;
        ensure!(said(&restored, "left out")?.ends_with(" later events"), "{restored}");
        ensure!(said(&restored, "state")? != said(&taken, "state")?, "{restored}");
        other.resume().await?;
        let there = environments(&other.api()?).await?;
        ensure!(there.contains(&"wanted".to_owned()), "{there:?}");
        ensure!(!there.contains(&"mistake".to_owned()), "{there:?}");
        other.stop()?;
    }
    let other = cluster.control_plane.elsewhere(&cluster.folder().join("none"), &settings)?;
    refusal(other.tool(&["restore", &file, "--until", "acme@999999"]), "there is no event 999999 of acme")?;
    refusal(other.tool(&["restore", &file, "--until", "nobody@1"]), "is no tenant in this backup")?;
    refusal(other.tool(&["restore", &file, "--until", "2001-01-01T00:00:00Z"]), "the first event is of")?;
    refusal(other.tool(&["restore", &file, "--until", "yesterday"]), "write a time as in")?;
    ensure!(!other.state_dir().exists(), "something was written");
    cluster.control_plane.resume().await?;
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_did_not_finish_is_not_taken_for_a_control_plane() -> Result<()> {
    let mut cluster = Cluster::start(0).await?;
    let file = cluster.folder().join("stella.backup").display().to_string();
    cluster.control_plane.tool(&["backup", &file, "--without-artifacts", "--without-output"])?;
    let settings = Settings::default();
    let mut other = cluster.control_plane.elsewhere(&cluster.folder().join("other-host"), &settings)?;
    fs::create_dir(other.state_dir())?;
    let mark = other.state_dir().join("restore-unfinished");
    fs::write(&mark, "")?;
    for arguments in [&["restore", &file][..], &["run"]] {
        refusal(other.tool(arguments), "did not finish: empty the folder and restore again")?;
    }
    fs::remove_file(&mark)?;
    // Root restores for the user that the folder belongs to.
    let is_root = nix::unistd::geteuid().is_root();
    if is_root {
        give(&cluster, other.state_dir())?;
    }
    let restored = other.tool(&["restore", &file])?;
    ensure!(restored.contains("missing: the backup was taken without the output of tasks"), "{restored}");
    other.tool(&["journal", "verify"])?;
    if is_root {
        check_owner(other.state_dir())?;
        std::os::unix::fs::chown(other.state_dir(), Some(0), Some(0))?;
    }
    cluster.control_plane.stop()?;
    other.resume().await?;
    other.stop()?;
    cluster.control_plane.resume().await?;
    cluster.passed()
}

/// Gives a state folder to somebody who is nobody on this host, and lets them come to it.
fn give(cluster: &Cluster, state_dir: &Path) -> Result<()> {
    for folder in state_dir.ancestors().skip(1).take_while(|it| it.starts_with(cluster.folder())) {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o711))?;
    }
    let given = Command::new("chown").args(["-R", "54321:54322"]).arg(state_dir).status()?;
    ensure!(given.success(), "{given}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_folders_user_plants_in_it_gives_them_nothing_of_roots() -> Result<()> {
    let mut cluster = Cluster::start(0).await?;
    if !nix::unistd::geteuid().is_root() {
        return cluster.passed();
    }
    cluster.control_plane.stop()?;
    let state_dir = cluster.control_plane.state_dir().to_owned();
    give(&cluster, &state_dir)?;
    let (secret, file) = (cluster.folder().join("secret"), cluster.folder().join("stella.backup"));
    fs::write(&secret, "root's own")?;
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600))?;
    let whose = |path: &Path| fs::symlink_metadata(path).map(|it| it.uid());

    // Another name of the file, and a link to it: neither is given away, and neither is read for who may not read it.
    let planted = state_dir.join("planted");
    fs::hard_link(&secret, &planted)?;
    cluster.control_plane.tool(&["journal", "verify"])?;
    cluster.control_plane.tool(&[
        "journal",
        "export",
        &cluster.folder().join("events").display().to_string(),
    ])?;
    ensure!(whose(&secret)? == 0, "it was given to the folder's user");
    let name = file.display().to_string();
    for plant in [true, false] {
        refusal(
            cluster.control_plane.tool(&["backup", &name]),
            "planted cannot be copied: Permission denied",
        )?;
        fs::remove_file(&planted)?;
        if plant {
            std::os::unix::fs::symlink(&secret, &planted)?;
        }
    }
    ensure!(!file.exists() && whose(&secret)? == 0, "something was left");
    cluster.control_plane.tool(&["backup", &name])?;
    ensure!(whose(&file)? == 0, "the backup is of who has taken it");

    // In place of the journal itself it is worse: a tool writes there.
    fs::rename(state_dir.join("journal/db"), state_dir.join("db"))?;
    std::os::unix::fs::symlink(&secret, state_dir.join("journal/db"))?;
    ensure!(
        cluster.control_plane.tool(&["journal", "verify"]).is_err(),
        "a file of root's was taken for a journal"
    );
    assert_eq!(fs::read_to_string(&secret)?, "root's own");
    fs::rename(state_dir.join("db"), state_dir.join("journal/db"))?;
    cluster.control_plane.tool(&["journal", "verify"])?;
    check_owner(&state_dir)?;
    cluster.control_plane.resume().await?;
    cluster.passed()
}

fn check_owner(folder: &Path) -> Result<()> {
    for item in fs::read_dir(folder)? {
        let path = item?.path();
        let metadata = fs::symlink_metadata(&path)?;
        ensure!((metadata.uid(), metadata.gid()) == (54_321, 54_322), "{} is another's", path.display());
        if metadata.is_dir() {
            check_owner(&path)?;
        }
    }
    Ok(())
}

/// The commands of the page, in its order; consecutive lines of one block are together.
fn commands(page: &str) -> Vec<String> {
    let blocks = page.split("```sh\n").skip(1).filter_map(|rest| rest.split_once("```"));
    blocks.flat_map(|(block, _)| block.lines().map(str::to_owned)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_on_disaster_recovery_is_true() -> Result<()> {
    let page_of =
        |name: &str| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name));
    let page = page_of("docs/disaster-recovery.md")?;
    let mut cluster = Cluster::start(1).await?;
    let backups = cluster.folder().join("backups");
    fs::create_dir(&backups)?;
    let lib = cluster.folder().join("control-plane/state").display().to_string();
    let bin = binaries::path("stella-orchestrator")?;
    let bin = bin.parent().context("it is in a folder")?.display();
    let config = cluster.control_plane.config_file();
    let (mut ran, mut moved, mut last) = (0, false, String::new());
    for command in commands(&page) {
        match command.as_str() {
            "systemctl stop stella-orchestrator"
            | "systemctl disable --now stella-backup.timer stella-orchestrator" => {
                last = cluster.api.events(TENANT).await?.last().context("no event")?.position.to_string();
                cluster.control_plane.stop()?;
            }
            "systemctl start stella-orchestrator"
            | "systemctl enable --now stella-orchestrator stella-backup.timer" => {
                cluster.control_plane.resume().await?;
                cluster.api = cluster.control_plane.api()?;
                cluster.wait_online("web-1").await?;
            }
            "systemctl enable --now stella-backup.timer" => {
                ensure!(
                    page_of("systemd/stella-backup.timer")?.contains("WantedBy=timers.target"),
                    "it is never started"
                );
            }
            script => {
                // The other host has an empty folder, here in the place of the old one.
                if script.contains("restore /var/backups/stella-moved") && !moved {
                    fs::rename(&lib, format!("{lib}.old-host"))?;
                    moved = true;
                }
                let unit = page_of("systemd/stella-backup.service")?;
                let started = unit.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/bin/"));
                let started = started.context("the unit starts nothing")?;
                let script = script
                    .replace("systemctl start stella-backup.service", started)
                    .replace("/etc/stella/orchestrator.toml", &config.display().to_string())
                    .replace("/var/lib/stella-backup", &backups.display().to_string())
                    .replace("acme@1234", &format!("acme@{last}"))
                    .replace(" -o stella-orchestrator -g stella-orchestrator", "")
                    .replace("/var/lib/stella-orchestrator", &lib)
                    .replace("/var/backups", &backups.display().to_string());
                let path = format!("{bin}:{}", std::env::var("PATH")?);
                let output = Command::new("sh")
                    .args(["-ec", &script])
                    .env("PATH", path)
                    .env("STELLA_CONFIG", &config)
                    .output()?;
                ensure!(output.status.success(), "{script}: {output:?}");
            }
        }
        ran += 1;
    }
    ensure!(ran > 15 && moved, "the page has {ran} commands");
    cluster.passed()
}

fn counted(metrics: &str) -> BTreeSet<String> {
    let business = metrics.lines().filter(|it| it.starts_with("stella_deployments_total"));
    business.map(str::to_owned).collect()
}

/// What has left memory is shown by the API and the command line, after a kill and on another host too.
#[tokio::test(flavor = "multi_thread")]
async fn what_has_ended_leaves_memory_and_is_shown_as_before_here_and_on_another_host() -> Result<()> {
    let tables = "[retention]\nmemory_max = 1\nmemory_seconds_min = 0\nmemory_interval_s = 1\n".to_owned();
    let settings = Settings { snapshot_every_events: 20, ..Settings::default() };
    let mut cluster = Cluster::with_settings(1, &settings).await?;
    let steps = vec![shell("note", "echo this was said by a task")];
    cluster.release(&recipe::release("1.0.0", &[], steps)).await?;
    let mut shown = Vec::new();
    for _ in 0..4 {
        let started = cluster.deploy(&rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop)).await?;
        let ended = cluster.wait_final(&started.deployment.id).await?;
        assert_eq!(ended.deployment.status, "succeeded");
        shown.push(ended);
    }
    let before = counted(&cluster.control_plane.metrics().await?);
    cluster.control_plane.configure(&Settings { tables, ..settings.clone() })?;
    cluster.control_plane.kill()?;
    cluster.control_plane.resume().await?;
    cluster.api = cluster.control_plane.api()?;
    let gone = format!("stella_archived{{tenant=\"{TENANT}\",kind=\"deployments\"}} 3");
    wait::until("three have left memory", async || {
        let metrics = cluster.control_plane.metrics().await?;
        ensure!(metrics.contains(&gone), "{metrics}");
        Ok(())
    })
    .await?;
    assert_eq!(counted(&cluster.control_plane.metrics().await?), before);

    let is_all_shown = async |cluster: &Cluster| -> Result<()> {
        for wanted in &shown {
            let id = &wanted.deployment.id;
            let found = cluster.api.deployment(TENANT, id).await?;
            ensure!(serde_json::to_value(&found)? == serde_json::to_value(wanted)?, "{found:?}");
            let tasks = cluster.api.tasks(TENANT, id).await?;
            ensure!(tasks.len() == 1 && tasks[0].state == "succeeded", "{tasks:?}");
        }
        let path = paths::fill(paths::DEPLOYMENTS, &[TENANT]);
        let all: Vec<Deployment> = cluster.api.list(&path, &[]).await?;
        let wanted: Vec<_> = shown.iter().map(|it| &it.deployment.id).collect();
        ensure!(all.iter().map(|it| &it.id).collect::<Vec<_>>() == wanted, "{all:?}");
        Ok(())
    };
    is_all_shown(&cluster).await?;
    let oldest = &shown[0].deployment.id;
    let task = cluster.api.tasks(TENANT, oldest).await?[0].id.clone();
    {
        let shell = Shell::of(&cluster, "alice", "operator").await?;
        let listed = shell.ok(&["deployment", "list", "--all"])?;
        ensure!(shown.iter().all(|it| listed.contains(&it.deployment.id)), "{listed}");
        let one = shell.ok(&["deployment", "show", oldest])?;
        ensure!(one.contains("succeeded"), "{one}");
        let said = shell.ok(&["task", "logs", &task])?;
        ensure!(said.contains("this was said by a task"), "{said}");
        let (code, refused) = shell.run(&["rollback", oldest])?;
        ensure!(code != Some(0) && refused.contains("is in the archive"), "{code:?}: {refused}");
    }
    let metrics = cluster.control_plane.metrics().await?;
    ensure!(metrics.contains("stella_cache_hits_total{cache=\"deployments\"}"), "{metrics}");

    let file = cluster.folder().join("stella.backup").display().to_string();
    let taken = cluster.control_plane.tool(&["backup", &file])?;
    cluster.control_plane.kill()?;
    let other = cluster.control_plane.elsewhere(&cluster.folder().join("other-host"), &settings)?;
    let restored = other.tool(&["restore", &file])?;
    assert_eq!(said(&restored, "state")?, said(&taken, "state")?);
    let verified = other.tool(&["journal", "verify"])?;
    ensure!(!verified.contains(" 0 records in the archive"), "{verified}");
    cluster.control_plane = other;
    cluster.control_plane.resume().await?;
    cluster.api = cluster.control_plane.api()?;
    is_all_shown(&cluster).await?;
    cluster.passed()
}
