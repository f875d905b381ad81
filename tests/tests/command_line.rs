//! The command line as a shell sees it.

use std::process::{Command, Stdio};

use anyhow::Result;
use stella_tests::binaries;
use stella_tests::cluster::Cluster;

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_has_seen_enough_ends_it_quietly() -> Result<()> {
    let cluster = Cluster::start(0).await?;
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    let mut stella = Command::new(binaries::path("stella")?);
    stella.args(cluster.control_plane.stella_flags()).args(["tenant", "list"]);
    let ended = stella.stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped()).output()?;
    assert_eq!((ended.status.code(), String::from_utf8(ended.stderr)?.as_str()), (Some(141), ""));

    // A full disk is another matter.
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full")?;
    let mut stella = Command::new(binaries::path("stella")?);
    stella.args(cluster.control_plane.stella_flags()).args(["tenant", "list"]);
    let ended = stella.stdin(Stdio::null()).stdout(full).stderr(Stdio::piped()).output()?;
    assert_eq!(ended.status.code(), Some(2));
    assert!(String::from_utf8(ended.stderr)?.contains("the output cannot be written"));
    Ok(())
}
