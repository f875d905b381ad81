//! Going back: an older program on a state folder that a newer one has written to says so, and changes nothing.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use stella_tests::cluster::{Cluster, TENANT, create_environment};
use stella_tests::control_plane::Settings;

fn refusal(result: Result<String>, reason: &str) -> Result<()> {
    let error = format!("{:#}", result.err().context("it was not refused")?);
    ensure!(error.contains(reason), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_older_than_its_state_says_so_and_changes_nothing() -> Result<()> {
    const NEWER: &str = "version 99.4.1 has written it, and this is ";
    let mut cluster = Cluster::start(1).await?;
    create_environment(&cluster.api, TENANT, "kept").await?;
    let backup = cluster.folder().join("stella.backup").display().to_string();
    cluster.control_plane.tool(&["backup", &backup])?;
    cluster.control_plane.stop()?;
    let mark = cluster.control_plane.state_dir().join("written-by.json");
    let own = fs::read_to_string(&mark)?;
    ensure!(own.contains("\"version\":\"0."), "{own}");

    // As if the next but some had been here. None of the programs that would misread the state begins.
    let verified = cluster.control_plane.tool(&["journal", "verify"])?;
    fs::write(&mark, r#"{"version":"99.4.1","more":true}"#)?;
    refusal(cluster.control_plane.tool(&["run"]), NEWER)?;
    let other = cluster.folder().join("other.backup").display().to_string();
    refusal(cluster.control_plane.tool(&["backup", &other]), NEWER)?;
    let doctor = cluster.control_plane.tool_output(&["doctor", "--output", "json"])?;
    let found: Value = serde_json::from_slice(&doctor.stdout)?;
    ensure!(found.to_string().contains("install 99.4 or a newer one"), "{found}");
    ensure!(!doctor.status.success(), "nothing fails: {found}");
    // What is there is whole still, and can be taken out.
    assert_eq!(cluster.control_plane.tool(&["journal", "verify"])?, verified);
    fs::write(&mark, "{")?;
    refusal(cluster.control_plane.tool(&["run"]), "cannot be told")?;

    // The way that the book says: a new folder from the backup of before. A backup of a newer one is refused.
    let settings = Settings::default();
    let mut back = cluster.control_plane.elsewhere(&cluster.folder().join("older"), &settings)?;
    back.tool(&["restore", &backup])?;
    back.resume().await?;
    cluster.control_plane = back;
    cluster.api = cluster.control_plane.api()?;
    cluster.wait_online("web-1").await?;
    assert_eq!(fs::read_to_string(cluster.control_plane.state_dir().join("written-by.json"))?, own);
    cluster.passed()
}
