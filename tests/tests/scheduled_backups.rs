//! Backups that are taken again and again into one folder: old ones go, and never before a good new one is there.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use stella_tests::cluster::{Cluster, TENANT, create_environment};
use stella_tests::control_plane::{ControlPlane, Settings};

fn refusal(result: Result<String>, reason: &str) -> Result<()> {
    let error = format!("{:#}", result.err().context("it was not refused")?);
    ensure!(error.contains(reason), "{error}");
    Ok(())
}

/// What is in a folder, in the order of names.
fn listed(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut all: Vec<_> = fs::read_dir(folder)?.map(|item| Ok(item?.path())).collect::<Result<Vec<_>>>()?;
    all.sort();
    Ok(all)
}

/// What its figures say of the latest backup: when, in seconds, and how many bytes.
async fn latest(control_plane: &ControlPlane) -> Result<(f64, f64)> {
    let scraped = control_plane.metrics().await?;
    let value = |series: &str| -> Result<f64> {
        let line = scraped.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.with_context(|| format!("no {series} in {scraped}"))?.parse().context("a number")
    };
    Ok((value("stella_backup_last_success_timestamp_seconds")?, value("stella_backup_last_size_bytes")?))
}

fn doctor(control_plane: &ControlPlane) -> Result<String> {
    let said = control_plane.tool_output(&["doctor"])?;
    let said = String::from_utf8(said.stdout)?;
    let line = said.lines().find(|line| line.split_whitespace().any(|word| word.starts_with("backup")));
    line.map(str::to_owned).with_context(|| format!("nothing on backups: {said}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn old_backups_go_when_a_new_one_is_there_and_figures_tell_of_it() -> Result<()> {
    let mut cluster = Cluster::start(0).await?;
    let folder = cluster.folder().join("backups");
    let name = folder.display().to_string();
    let control_plane = &cluster.control_plane;
    let take = |keep: &str| control_plane.tool(&["backup", "--into", &name, "--keep", keep]);
    // A disk that is not mounted is not mistaken for an empty folder.
    refusal(take("2"), "backups cannot be put into")?;
    fs::create_dir(&folder)?;
    assert_eq!(latest(control_plane).await?, (0.0, 0.0));
    ensure!(doctor(control_plane)?.contains("none was ever"), "{}", doctor(control_plane)?);

    // Somebody's own, and what a power cut has left.
    let own = folder.join("stella-before-upgrade.backup");
    fs::write(&own, "kept")?;
    fs::write(folder.join(".stella-abc123.unfinished"), "half")?;
    for number in 0..3 {
        create_environment(&cluster.api, TENANT, &format!("env-{number}")).await?;
        take("2")?;
    }
    let kept = listed(&folder)?;
    ensure!(kept.len() == 3 && kept.contains(&own), "{kept:?}");
    for backup in kept.iter().filter(|it| **it != own) {
        control_plane.tool(&["restore", "--check", &backup.display().to_string()])?;
    }
    let (at, bytes) = latest(control_plane).await?;
    let newest = kept.iter().rfind(|it| **it != own).context("no backup")?;
    assert_eq!(bytes, fs::metadata(newest)?.len() as f64);
    let (shown, days) = (doctor(control_plane)?, (at / 86_400.0).floor());
    ensure!(days > 20_000.0 && shown.contains("the latest is of 20"), "{at}: {shown}");

    // One that fails leaves no trace, and takes none of the others away.
    let in_the_way = control_plane.state_dir().join("in-the-way");
    std::os::unix::fs::symlink(".", &in_the_way)?;
    refusal(take("1"), "the control plane did not finish the backup")?;
    fs::remove_file(&in_the_way)?;
    let held = fs::File::open(&folder)?;
    held.lock()?;
    refusal(take("1"), "another backup is being put there")?;
    drop(held);
    // Nor does it take the control plane's room.
    control_plane.configure(&Settings { reserve_bytes: 1 << 50, ..Settings::default() })?;
    refusal(take("1"), "put backups on another disk")?;
    control_plane.configure(&Settings::default())?;
    assert_eq!(listed(&folder)?, kept);
    assert_eq!(latest(control_plane).await?, (at, bytes));
    refusal(control_plane.tool(&["backup"]), "required")?;
    refusal(control_plane.tool(&["backup", "--into", &name, "--keep", "0"]), "keep")?;

    // A stopped one is saved as well, and tells of it when it is back. What came out of a backup was never saved itself.
    cluster.control_plane.stop()?;
    cluster.control_plane.tool(&["backup", "--into", &name, "--keep", "1"])?;
    cluster.control_plane.resume().await?;
    ensure!(latest(&cluster.control_plane).await?.0 > at, "the figures are of before");
    let left = listed(&folder)?;
    ensure!(left.len() == 2, "{left:?}");
    // Where it cannot be remembered, that is told, and old ones go all the same: they would fill their disk.
    let remembered = cluster.control_plane.state_dir().join("last-backup.json");
    fs::rename(&remembered, remembered.with_extension("kept"))?;
    fs::create_dir(&remembered)?;
    refusal(cluster.control_plane.tool(&["backup", "--into", &name, "--keep", "1"]), "the backup is good")?;
    fs::remove_dir(&remembered)?;
    fs::rename(remembered.with_extension("kept"), &remembered)?;
    let newer = listed(&folder)?;
    ensure!(newer.len() == 2 && newer != left, "{newer:?}");
    let left = newer;
    let settings = Settings::default();
    let other = cluster.control_plane.elsewhere(&cluster.folder().join("other-host"), &settings)?;
    other.tool(&["restore", &left[0].display().to_string()])?;
    ensure!(doctor(&other)?.contains("none was ever"), "{}", doctor(&other)?);
    cluster.passed()
}
