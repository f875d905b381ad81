//! `stella doctor` finds what is wrong, says what to do, and says nothing when nothing is.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use stella_tests::binaries;
use stella_tests::cluster::{Cluster, TENANT};

/// What it says, and how it exits. The flags of the command line come after those of the cluster, and win.
fn doctor(cluster: &Cluster, token: &Path, ca: &Path, tenant: &str) -> Result<(Option<i32>, Value)> {
    let url = cluster.control_plane.stella_flags().get(1).context("the address")?.clone();
    let mut stella = Command::new(binaries::path("stella")?);
    stella.args(["--url", &url, "-t", tenant, "--output", "json", "doctor"]);
    stella.arg("--token-file").arg(token).arg("--ca").arg(ca);
    let ran = stella.env("HOME", cluster.folder()).env_remove("XDG_CONFIG_HOME").output()?;
    let said: Value = serde_json::from_slice(&ran.stdout)
        .with_context(|| format!("{}", String::from_utf8_lossy(&ran.stderr)))?;
    Ok((ran.status.code(), said))
}

/// The verdict on one thing, with what to do.
fn verdict<'s>(said: &'s Value, check: &str) -> Result<(&'s str, &'s str)> {
    let found = said.as_array().and_then(|all| all.iter().find(|it| it["check"] == check));
    let found = found.with_context(|| format!("nothing about {check} in {said}"))?;
    Ok((found["verdict"].as_str().unwrap_or_default(), found["remedy"].as_str().unwrap_or_default()))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_is_found_with_its_remedy() -> Result<()> {
    let mut cluster = Cluster::start(0).await?;
    let state = cluster.control_plane.state_dir().to_owned();
    let (token, ca) = (cluster.folder().join("token"), cluster.folder().join("ca.crt"));
    fs::copy(state.join("admin-token"), &token)?;
    fs::copy(state.join("pki/roots.crt"), &ca)?;

    let (code, said) = doctor(&cluster, &token, &ca, TENANT)?;
    assert_eq!(code, Some(0), "{said}");
    for check in [
        "configuration",
        "token file",
        "certificates",
        "connection",
        "clock",
        "control plane",
        "version",
        "token",
        "tenant",
        "trust",
    ] {
        assert_eq!(verdict(&said, check)?.0, "ok", "{said}");
    }

    fs::set_permissions(&token, fs::Permissions::from_mode(0o644))?;
    cluster.control_plane.tool(&["ca", "rotate", "start"])?;
    let (code, said) = doctor(&cluster, &token, &ca, "nobody")?;
    assert_eq!(code, Some(1), "{said}");
    ensure!(verdict(&said, "token file")?.1.contains("chmod 600"), "{said}");
    assert_eq!(
        verdict(&said, "trust")?,
        ("warn", "run `stella ca update` before the old root is trusted no more")
    );
    assert_eq!(verdict(&said, "tenant")?.0, "fail");

    let foreign = cluster.folder().join("foreign");
    fs::write(&foreign, format!("stella_{}", "A".repeat(43)))?;
    let (code, said) = doctor(&cluster, &foreign, &ca, TENANT)?;
    assert_eq!((code, verdict(&said, "token")?.0), (Some(1), "fail"), "{said}");
    ensure!(!said.to_string().contains(&"A".repeat(43)), "a credential is repeated");
    let (code, said) = doctor(&cluster, &token, &token, TENANT)?;
    assert_eq!((code, verdict(&said, "certificates")?.0), (Some(1), "fail"), "{said}");

    cluster.control_plane.stop()?;
    let (code, said) = doctor(&cluster, &token, &ca, TENANT)?;
    assert_eq!((code, verdict(&said, "connection")?.0), (Some(1), "fail"), "{said}");
    cluster.control_plane.resume().await?;
    cluster.passed()
}
