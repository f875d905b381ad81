//! `artifact` tasks. The source is in memory here; in the product it is a stream of the control plane's connection.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use common::artifacts::{Fixture, archive, digest_of, gzip, name_of, raw_entry, web};
use common::{dispatch, failure};
use stella_protocol::digest::Digest;
use stella_protocol::message::{Dispatch, TaskOutcome};
use stella_protocol::spec::{ArtifactSpec, TaskSpec};
use tar::{Builder, EntryType, Header};

#[tokio::test]
async fn a_release_is_unpacked_and_switched_to() {
    let fixture = Fixture::new();
    let bytes = gzip(&archive(|archive| {
        raw_entry(archive, EntryType::XGlobalHeader, "pax_global_header", "", b"20 comment=abcdefg\n");
        raw_entry(archive, EntryType::Directory, "./", "", b"");
        raw_entry(archive, EntryType::Directory, "bin/", "", b"");
        let mut header = Header::new_gnu();
        header.set_mode(0o6755);
        header.set_size(3);
        archive.append_data(&mut header, "bin/run", &b"run"[..]).unwrap();
        raw_entry(archive, EntryType::Regular, "deep/er/file", "", b"deep");
        raw_entry(archive, EntryType::Symlink, "deep/er/link", "../../bin/run", b"");
        raw_entry(archive, EntryType::Link, "hard", "bin/run", b"");
        let mut header = Header::new_gnu();
        header.set_mode(0o600);
        header.set_size(4);
        archive.append_data(&mut header, format!("{}/end", "long".repeat(40)), &b"long"[..]).unwrap();
    }));
    let spec = fixture.spec("1.0.0", bytes);
    let (outcome, output) = fixture.host.run(TaskSpec::Artifact(spec.clone())).await;
    assert_eq!(outcome, TaskOutcome::Succeeded, "{output:?}");

    let current = fixture.component().join("current");
    assert_eq!(std::fs::read_link(&current).unwrap(), Path::new("releases").join(name_of(&spec)));
    let mode = |path: &str| std::fs::metadata(current.join(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode("bin/run"), 0o755, "the set-uid and set-gid bits go, the others stay");
    assert_eq!(mode(&format!("{}/end", "long".repeat(40))), 0o600);
    for path in ["bin/run", "deep/er/link", "hard"] {
        assert_eq!(std::fs::read(current.join(path)).unwrap(), b"run");
    }
    assert!(fixture.names_in(".incoming").is_empty());
}

#[tokio::test]
async fn a_rollback_needs_no_source() {
    let fixture = Fixture::new();
    let old = fixture.deploy("1.0.0").await;
    fixture.deploy("2.0.0").await;
    assert_eq!(fixture.current_version(), "2.0.0");
    fixture.source.artifacts.lock().unwrap().clear();
    fixture.source.offsets.lock().unwrap().clear();
    assert_eq!(fixture.run(&old).await, TaskOutcome::Succeeded);
    assert_eq!(fixture.current_version(), "1.0.0");
    assert!(fixture.source.offsets.lock().unwrap().is_empty(), "the source was asked");
}

#[tokio::test]
async fn a_release_that_was_damaged_is_replaced_before_it_is_gone_back_to() {
    let fixture = Fixture::new();
    let old = fixture.deploy("1.0.0").await;
    let new = fixture.deploy("2.0.0").await;
    let release = |spec: &ArtifactSpec| fixture.component().join("releases").join(name_of(spec));
    std::fs::write(release(&old).join("version.txt"), "1.0.1").unwrap();
    std::fs::write(release(&old).join("cache"), "added").unwrap();
    let (outcome, output) = fixture.host.run(TaskSpec::Artifact(old.clone())).await;
    assert_eq!((outcome, fixture.current_version()), (TaskOutcome::Succeeded, "1.0.0".to_owned()));
    assert!(output.agent.contains("damaged: version.txt is not what was unpacked"), "{output:?}");
    assert_eq!(fixture.release_names().len(), 2, "it has taken the place of the damaged one");
    assert!(!release(&old).join("cache").exists() && fixture.names_in(".incoming").is_empty());

    // In use, the same.
    std::fs::remove_file(release(&old).join("version.txt")).unwrap();
    assert_eq!(fixture.run(&old).await, TaskOutcome::Succeeded);
    assert_eq!(fixture.current_version(), "1.0.0");

    // What was added is no damage: programs leave their caches there.
    std::fs::write(release(&new).join("cache"), "added").unwrap();
    fixture.source.offsets.lock().unwrap().clear();
    assert_eq!(fixture.run(&new).await, TaskOutcome::Succeeded);
    assert!(fixture.source.offsets.lock().unwrap().is_empty() && release(&new).join("cache").exists());
}

#[tokio::test]
async fn what_is_damaged_and_cannot_be_replaced_is_not_switched_to() {
    let fixture = Fixture::new();
    let old = fixture.deploy("1.0.0").await;
    fixture.deploy("2.0.0").await;
    let version = fixture.component().join("releases").join(name_of(&old)).join("version.txt");
    std::fs::remove_file(&version).unwrap();
    let lost = std::mem::take(&mut *fixture.source.artifacts.lock().unwrap());
    let outcome = fixture.run(&old).await;
    let reason = failure(&outcome);
    assert!(
        reason.contains("damaged (version.txt is missing), and cannot be replaced: the artifact"),
        "{reason}"
    );
    assert_eq!(fixture.current_version(), "2.0.0");
    // Put back by hand it is as good as before, and needs no source.
    std::fs::write(&version, "1.0.0").unwrap();
    assert_eq!(fixture.run(&old).await, TaskOutcome::Succeeded);
    assert_eq!(fixture.current_version(), "1.0.0");
    drop(lost);
}

#[tokio::test]
async fn a_release_of_which_nobody_knows_the_files_is_gone_back_to_and_that_is_said() {
    let fixture = Fixture::new();
    let old = fixture.deploy("1.0.0").await;
    fixture.deploy("2.0.0").await;
    std::fs::remove_file(fixture.component().join(format!("releases/.{}.files", name_of(&old)))).unwrap();
    fixture.source.artifacts.lock().unwrap().clear();
    let (outcome, output) = fixture.host.run(TaskSpec::Artifact(old)).await;
    assert_eq!((outcome, fixture.current_version()), (TaskOutcome::Succeeded, "1.0.0".to_owned()));
    assert!(
        output.agent.contains("is not known: it was unpacked by an agent that kept no list"),
        "{output:?}"
    );
}

#[tokio::test]
async fn a_release_without_its_marker_is_fetched_again() {
    let fixture = Fixture::new();
    let spec = fixture.deploy("1.0.0").await;
    let release = fixture.component().join("releases").join(name_of(&spec));
    std::fs::remove_file(fixture.component().join(format!("releases/.{}.digest", name_of(&spec)))).unwrap();
    std::fs::write(release.join("version.txt"), "damaged").unwrap();
    assert_eq!(fixture.run(&spec).await, TaskOutcome::Succeeded);
    assert_eq!(fixture.current_version(), "1.0.0");
    assert!(fixture.names_in(".incoming").is_empty());
}

#[tokio::test]
async fn old_releases_go_and_the_previous_one_stays() {
    let fixture = Fixture::new();
    let mut specs = Vec::new();
    for version in ["1", "2", "3", "4"] {
        specs.push(fixture.deploy(version).await);
    }
    let mut expected: Vec<String> = specs[1..].iter().map(name_of).collect();
    expected.sort();
    assert_eq!(fixture.release_names(), expected, "keep_releases is 3");

    // Back to the oldest that is there; then only one may stay: that and the one before the switch.
    let back = ArtifactSpec { keep_releases: 1, ..specs[1].clone() };
    assert_eq!(fixture.run(&back).await, TaskOutcome::Succeeded);
    let mut expected = vec![name_of(&specs[1]), name_of(&specs[3])];
    expected.sort();
    assert_eq!(fixture.release_names(), expected);
    assert_eq!(fixture.names_in("releases").len(), 6, "a marker or a list was left");
    // A second try of the same finds it done, and still leaves a way back.
    assert_eq!(fixture.run(&back).await, TaskOutcome::Succeeded);
    assert_eq!(fixture.release_names(), expected);
}

#[tokio::test]
async fn a_download_goes_on_where_it_broke_off() {
    let fixture = Fixture::new();
    let spec = fixture.spec("1.0.0", web("1.0.0"));
    *fixture.source.cut_after.lock().unwrap() = Some(1000);
    assert_eq!(fixture.run(&spec).await, TaskOutcome::Succeeded);
    assert_eq!(fixture.current_version(), "1.0.0");
    assert_eq!(*fixture.source.offsets.lock().unwrap(), [0, 1000, 2000]);
}

#[tokio::test]
async fn a_later_attempt_goes_on_with_what_an_earlier_one_fetched() {
    let fixture = Fixture::new();
    let bytes = web("1.0.0");
    let spec = fixture.spec("1.0.0", bytes.clone());
    let incoming = fixture.component().join(".incoming");
    let partial = incoming.join(format!("{}.part", spec.digest.to_hex()));
    std::fs::create_dir_all(&incoming).unwrap();
    std::fs::write(&partial, &bytes[..700]).unwrap();
    std::fs::create_dir(incoming.join("left-behind.unpack")).unwrap();
    assert_eq!(fixture.run(&spec).await, TaskOutcome::Succeeded);
    assert_eq!(*fixture.source.offsets.lock().unwrap(), [700]);
    assert!(fixture.names_in(".incoming").is_empty());

    // What is there and wrong costs a second download, not the task.
    let other = fixture.spec("2.0.0", web("2.0.0"));
    let partial = incoming.join(format!("{}.part", other.digest.to_hex()));
    std::fs::write(&partial, [b'x'; 700]).unwrap();
    fixture.source.offsets.lock().unwrap().clear();
    assert_eq!(fixture.run(&other).await, TaskOutcome::Succeeded);
    assert_eq!(*fixture.source.offsets.lock().unwrap(), [700, 0]);
    assert_eq!(fixture.current_version(), "2.0.0");
}

/// Runs a task that has to fail; its reason. Afterwards everything is as it was.
async fn refused(fixture: &Fixture, spec: &ArtifactSpec) -> String {
    let releases = fixture.names_in("releases");
    let outcome = fixture.run(spec).await;
    assert_eq!(fixture.current_version(), "good", "current was switched: {outcome:?}");
    assert_eq!(fixture.names_in("releases"), releases, "{outcome:?}");
    let left: Vec<String> =
        fixture.names_in(".incoming").into_iter().filter(|name| !name.ends_with(".part")).collect();
    assert!(left.is_empty(), "{left:?} was left");
    failure(&outcome).to_owned()
}

#[tokio::test]
async fn archives_that_reach_out_are_refused() {
    let fixture = Fixture::new();
    fixture.deploy("good").await;
    let outside = fixture.host.folder.path().join("outside");
    std::fs::write(&outside, "untouched").unwrap();
    let absolute = outside.to_str().unwrap();
    type Build<'a> = Box<dyn FnOnce(&mut Builder<Vec<u8>>) + 'a>;
    let file = |path: &'static str| -> Build<'static> {
        Box::new(move |archive| raw_entry(archive, EntryType::Regular, path, "", b"evil"))
    };
    let link = |kind, path: &'static str, target: &'static str| -> Build<'static> {
        Box::new(move |archive| raw_entry(archive, kind, path, target, b""))
    };
    let attacks: Vec<(Build<'_>, &str)> = vec![
        (file("../outside"), "\"../outside\" has .. in its path"),
        (file("a/../../outside"), "has .. in its path"),
        (
            Box::new(|archive| raw_entry(archive, EntryType::Regular, absolute, "", b"evil")),
            "has an absolute path",
        ),
        (
            link(EntryType::Symlink, "link", "../../../../outside"),
            "\"link\" is a link that leaves the release",
        ),
        (link(EntryType::Symlink, "link", "/etc/passwd"), "is a link that leaves the release"),
        (link(EntryType::Symlink, "a/link", "../b/../../.."), "is a link that leaves the release"),
        (
            Box::new(|archive| {
                raw_entry(archive, EntryType::Symlink, "link", ".", b"");
                raw_entry(archive, EntryType::Regular, "link/file", "", b"evil");
            }),
            "goes through a link",
        ),
        (
            Box::new(|archive| {
                raw_entry(archive, EntryType::Symlink, "link", "file", b"");
                raw_entry(archive, EntryType::Regular, "link", "", b"evil");
            }),
            "is in the archive twice",
        ),
        (link(EntryType::Link, "hard", "../../../../outside"), "is a hard link to"),
        (link(EntryType::Link, "hard", "/etc/passwd"), "is a hard link to"),
        (
            Box::new(|archive| {
                raw_entry(archive, EntryType::Symlink, "link", "file", b"");
                raw_entry(archive, EntryType::Link, "hard", "link", b"");
            }),
            "is a hard link to",
        ),
        (link(EntryType::Char, "null", ""), "\"null\" is a device"),
        (link(EntryType::Block, "disk", ""), "is a device"),
        (link(EntryType::Fifo, "pipe", ""), "is a named pipe"),
        (Box::new(|_| {}), "has no entries"),
    ];
    for (build, word) in attacks {
        // Something good comes first: what was written before the refusal goes, too.
        let bytes = archive(|archive| {
            if word != "has no entries" {
                raw_entry(archive, EntryType::Regular, "version.txt", "", b"evil");
            }
            build(archive);
        });
        let reason = refused(&fixture, &fixture.spec("6.6.6", bytes)).await;
        assert!(reason.contains(word), "{word:?} is not in {reason:?}");
    }
    assert_eq!(std::fs::read_to_string(outside).unwrap(), "untouched");
}

#[tokio::test]
async fn bytes_that_are_not_the_releases_are_refused() {
    let fixture = Fixture::new();
    fixture.deploy("good").await;

    let spec = fixture.spec("2.0.0", web("2.0.0"));
    let mut forged = web("2.0.0");
    forged[512] ^= 1;
    fixture.source.artifacts.lock().unwrap().insert(spec.digest, forged.clone());
    let reason = refused(&fixture, &spec).await;
    assert!(reason.contains(&format!("digest is {}", digest_of(&forged))), "{reason}");
    assert!(fixture.names_in(".incoming").is_empty(), "bytes that are wrong are kept for a later attempt");

    let size_bytes = spec.size_bytes - 1;
    let reason = refused(&fixture, &ArtifactSpec { size_bytes, ..spec.clone() }).await;
    assert!(reason.contains("the release says"), "{reason}");

    let unknown = ArtifactSpec { digest: Digest([7; 32]), ..spec.clone() };
    let reason = refused(&fixture, &unknown).await;
    assert!(reason.contains("no artifact with this digest"), "{reason}");

    *fixture.source.cut_after.lock().unwrap() = Some(0);
    let reason = refused(&fixture, &spec).await;
    assert!(reason.contains("ended after 0 of"), "{reason}");
}

#[tokio::test]
async fn archives_that_are_none_or_are_cut_off_are_refused() {
    let fixture = Fixture::new();
    fixture.deploy("good").await;
    let whole = archive(|archive| raw_entry(archive, EntryType::Regular, "file", "", &[7; 100_000]));
    let zipped = gzip(&whole);
    for bytes in [
        whole[..50_000].to_vec(),
        zipped[..zipped.len() / 2].to_vec(),
        b"PK\x03\x04 is no tar".repeat(100),
        vec![0xff; 3],
    ] {
        let reason = refused(&fixture, &fixture.spec("2.0.0", bytes)).await;
        assert!(reason.contains("cannot be read as .tar") || reason.contains("is cut off"), "{reason}");
    }
}

#[tokio::test]
async fn bombs_are_refused() {
    let fixture = Fixture::new();
    fixture.deploy("good").await;
    // 100 MB of zeros in 100 KB.
    let data = vec![0; 100_000_000];
    let bomb = gzip(&archive(|archive| raw_entry(archive, EntryType::Regular, "zeros", "", &data)));
    let reason = refused(&fixture, &fixture.spec("2.0.0", bomb)).await;
    assert!(reason.contains("\"zeros\" brings the unpacked archive beyond"), "{reason}");

    // A name of 100 MB, which would be held in memory.
    let bomb = gzip(&archive(|archive| raw_entry(archive, EntryType::GNULongName, "name", "", &data)));
    let reason = refused(&fixture, &fixture.spec("2.0.0", bomb)).await;
    assert!(reason.contains("names are too large"), "{reason}");
}

#[tokio::test]
async fn what_is_taken_away_for_a_task_is_bounded_by_its_time() {
    let fixture = Fixture::new();
    fixture.deploy("1").await;
    let left = fixture.component().join(".incoming/left-behind.unpack");
    std::fs::create_dir(&left).unwrap();
    for number in 0..2_000 {
        std::fs::write(left.join(number.to_string()), "").unwrap();
    }
    let spec = ArtifactSpec { timeout_ms: 1, ..fixture.spec("2", web("2")) };
    assert_eq!(fixture.run(&spec).await, TaskOutcome::TimedOut);
    assert!(left.exists(), "it has gone on after its time");
    assert_eq!(fixture.run(&ArtifactSpec { timeout_ms: 60_000, ..spec }).await, TaskOutcome::Succeeded);
    assert!(fixture.names_in(".incoming").is_empty());
}

#[tokio::test]
async fn names_that_lead_elsewhere_are_refused() {
    let fixture = Fixture::new();
    let spec = fixture.deploy("good").await;
    for spec in [
        ArtifactSpec { component: "../web".to_owned(), ..spec.clone() },
        ArtifactSpec { component: ".ssh".to_owned(), ..spec.clone() },
        ArtifactSpec { version: "../../1".to_owned(), ..spec.clone() },
        ArtifactSpec { version: String::new(), ..spec.clone() },
    ] {
        let reason = refused(&fixture, &spec).await;
        assert!(reason.contains("is no plain name"), "{reason}");
    }
}

#[tokio::test]
async fn a_component_that_is_a_link_out_of_the_root_is_not_followed() {
    let fixture = Fixture::new();
    let elsewhere = fixture.host.folder.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, fixture.component()).unwrap();
    let outcome = fixture.run(&fixture.spec("1.0.0", web("1.0.0"))).await;
    assert!(failure(&outcome).contains("is a link"), "{outcome:?}");
    assert_eq!(std::fs::read_dir(elsewhere).unwrap().count(), 0);
}

#[tokio::test]
async fn a_link_that_the_user_of_one_slot_has_planted_does_not_lead_to_another() {
    let fixture = Fixture::new();
    let in_slot = async |slot: &str, version: &str| {
        let spec = TaskSpec::Artifact(fixture.spec(version, web(version)));
        let task = Dispatch { slot: Some(slot.to_owned()), ..dispatch(spec) };
        fixture.host.start_dispatch(task).run.await.unwrap()
    };
    assert_eq!(in_slot("prod", "1.0.0").await, TaskOutcome::Succeeded);
    let slots = fixture.host.root.path();
    std::fs::create_dir(slots.join("staging")).unwrap();
    std::os::unix::fs::symlink("../prod/web", slots.join("staging/web")).unwrap();
    let outcome = in_slot("staging", "6.6.6").await;
    let reason = failure(&outcome);
    assert!(reason.contains("staging/web\" is a link") && reason.contains("Remove it"), "{reason}");
    let running = std::fs::read_to_string(slots.join("prod/web/current/version.txt")).unwrap();
    assert_eq!(running, "1.0.0");
    assert_eq!(
        std::fs::read_dir(slots.join("prod/web/releases")).unwrap().count(),
        3,
        "and nothing is added"
    );
}

#[tokio::test]
async fn current_is_not_taken_from_somebody_else() {
    let fixture = Fixture::new();
    std::fs::create_dir_all(fixture.component().join("current")).unwrap();
    let outcome = fixture.run(&fixture.spec("1.0.0", web("1.0.0"))).await;
    assert!(failure(&outcome).contains("is no link to a release"), "{outcome:?}");
}

#[tokio::test]
async fn two_tasks_of_one_component_come_one_after_the_other() {
    let fixture = Fixture::new();
    let (one, two) = (fixture.spec("1.0.0", web("1.0.0")), fixture.spec("2.0.0", web("2.0.0")));
    let (first, second) = tokio::join!(fixture.run(&one), fixture.run(&two));
    assert_eq!((first, second), (TaskOutcome::Succeeded, TaskOutcome::Succeeded));
    assert_eq!(fixture.release_names().len(), 2);
}
