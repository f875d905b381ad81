//! The authority's files: who may read them, what may be missing, and what is never replaced.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use common::{HOUR, World, agent, tenant};
use stella_certs::authority::Error;
use stella_certs::{Authority, csr};

const FILES: [&str; 4] = ["root.key", "root.crt", "issuing.key", "issuing.crt"];

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn open(dir: &Path) -> Result<Authority, Error> {
    Authority::open_or_create(dir, SystemTime::now())
}

fn pki(world: &World) -> PathBuf {
    world.dir.path().join("pki")
}

fn contents(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect();
    all.sort();
    all
}

fn issues(authority: &Authority) -> bool {
    let made = csr::generate().unwrap();
    authority.issue_agent(&made.csr_der, tenant(1), agent(1), SystemTime::now(), HOUR).is_ok()
}

#[test]
fn a_new_authority_keeps_its_keys_to_itself() {
    let world = World::new();
    let dir = pki(&world);
    assert_eq!(mode(&dir), 0o700);
    for (name, wanted) in
        [("root.key", 0o600), ("issuing.key", 0o600), ("root.crt", 0o644), ("issuing.crt", 0o644)]
    {
        assert_eq!(mode(&dir.join(name)), wanted, "{name}");
    }
    assert_eq!(contents(&dir).len(), 5, "nothing is left behind but the bundle of roots");
    assert_eq!(world.authority.roots_pem().as_bytes(), fs::read(dir.join("root.crt")).unwrap());
    assert!(!format!("{:?}", world.authority).contains("key"));
}

#[test]
fn opening_again_changes_nothing() {
    let world = World::new();
    let before = contents(&pki(&world));
    let again = open(&pki(&world)).unwrap();
    assert_eq!(contents(&pki(&world)), before);
    assert_eq!(again.root_fingerprint(), world.authority.root_fingerprint());
    assert_eq!(again.roots_der(), world.authority.roots_der());
}

#[test]
fn the_roots_key_may_be_moved_away() {
    let world = World::new();
    fs::rename(pki(&world).join("root.key"), world.dir.path().join("safe")).unwrap();
    let again = open(&pki(&world)).unwrap();
    assert!(issues(&again));
    assert_eq!(again.root_fingerprint(), world.authority.root_fingerprint());
    assert!(!pki(&world).join("root.key").exists(), "it is not made again");
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let world = World::new();
    for name in ["issuing.key", "root.key"] {
        let path = pki(&world).join(name);
        for bits in [0o644, 0o640, 0o602] {
            fs::set_permissions(&path, Permissions::from_mode(bits)).unwrap();
            let error = open(&pki(&world)).unwrap_err();
            assert!(matches!(&error, Error::Permissive { path: p, mode, .. } if *p == path && *mode == bits));
            assert!(error.to_string().contains(&format!("chmod 600 {}", path.display())), "{error}");
        }
        fs::set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
        open(&pki(&world)).unwrap();
    }
}

#[test]
fn a_directory_that_others_can_write_is_refused() {
    let world = World::new();
    fs::set_permissions(pki(&world), Permissions::from_mode(0o770)).unwrap();
    assert!(matches!(open(&pki(&world)), Err(Error::Permissive { mode: 0o770, .. })));
    fs::set_permissions(pki(&world), Permissions::from_mode(0o755)).unwrap();
    open(&pki(&world)).unwrap();
}

#[test]
fn a_creation_that_a_crash_cut_short_is_finished() {
    for written in 1..FILES.len() {
        let world = World::new();
        let dir = pki(&world);
        for name in FILES[written..].iter().chain(&["roots.crt"]) {
            fs::remove_file(dir.join(name)).unwrap();
        }
        // The next file was being written when the crash came.
        let torn = dir.join(format!(".{}.new", FILES[written]));
        fs::write(&torn, b"-----BEGIN").unwrap();
        let before = contents(&dir);
        let finished = open(&dir).unwrap();
        assert!(issues(&finished));
        assert!(!torn.exists());
        for (name, bytes) in before.iter().filter(|(name, _)| !name.starts_with('.')) {
            assert_eq!(&fs::read(dir.join(name)).unwrap(), bytes, "{name} was kept");
        }
        // What was finished is whole: it opens as it is.
        let after = contents(&dir);
        open(&dir).unwrap();
        assert_eq!(contents(&dir), after);
    }
}

#[test]
fn what_cannot_be_finished_is_refused_and_left_alone() {
    let cases: [&[&str]; 6] = [
        &["root.key", "issuing.crt"],
        &["root.key", "issuing.key", "issuing.crt"],
        &["root.crt"],
        &["root.crt", "issuing.crt"],
        &["issuing.key"],
        &["root.key", "root.crt", "issuing.crt"],
    ];
    for gone in cases {
        let world = World::new();
        for name in gone {
            fs::remove_file(pki(&world).join(name)).unwrap();
        }
        let before = contents(&pki(&world));
        let error = open(&pki(&world)).unwrap_err();
        let Error::Incomplete { missing, .. } = &error else { panic!("{gone:?}: {error}") };
        for name in gone {
            assert!(missing.contains(name), "{gone:?}: {missing}");
        }
        assert_eq!(contents(&pki(&world)), before, "{gone:?}");
    }
}

#[test]
fn files_of_another_authority_are_refused() {
    for name in FILES {
        let (ours, theirs) = (World::new(), World::new());
        fs::copy(pki(&theirs).join(name), pki(&ours).join(name)).unwrap();
        let before = contents(&pki(&ours));
        let error = open(&pki(&ours)).unwrap_err();
        assert!(matches!(error, Error::Mismatch { .. }), "{name}: {error}");
        assert_eq!(contents(&pki(&ours)), before, "{name}");
    }
}

#[test]
fn an_intermediate_that_the_root_did_not_sign_is_refused() {
    // Each pair of key and certificate fits, so that only the signature tells.
    let (ours, theirs) = (World::new(), World::new());
    for name in ["issuing.key", "issuing.crt"] {
        fs::copy(pki(&theirs).join(name), pki(&ours).join(name)).unwrap();
    }
    let error = open(&pki(&ours)).unwrap_err();
    assert!(matches!(&error, Error::Mismatch { path, .. } if path.ends_with("issuing.crt")), "{error}");
}

#[test]
fn corrupt_files_are_refused_and_kept() {
    let world = World::new();
    for name in FILES {
        let path = pki(&world).join(name);
        let good = fs::read(&path).unwrap();
        let twice = good.repeat(2);
        let huge = vec![b'a'; 70_000];
        let mut bad: Vec<&[u8]> = vec![b"", b"not PEM", &good[..good.len() / 2], &huge];
        if name.ends_with(".crt") {
            bad.push(&twice);
        }
        for bytes in bad {
            fs::write(&path, bytes).unwrap();
            let error = open(&pki(&world)).unwrap_err();
            assert!(matches!(&error, Error::Corrupt { path: p, .. } if *p == path), "{name}: {error}");
            assert_eq!(fs::read(&path).unwrap(), bytes);
        }
        fs::write(&path, good).unwrap();
    }
    open(&pki(&world)).unwrap();
}

#[test]
fn a_leaf_is_not_an_authority() {
    let world = World::new();
    let server = world.authority.issue_server(&[], SystemTime::now(), HOUR).unwrap();
    let path = pki(&world).join("issuing.crt");
    let text = pem(&server.chain[0]);
    fs::write(&path, text).unwrap();
    assert!(matches!(open(&pki(&world)), Err(Error::Corrupt { path: p, .. }) if p == path));
}

#[test]
fn an_expired_authority_is_refused() {
    let world = World::new();
    let later = SystemTime::now() + Duration::from_secs(11 * 365 * 24 * 3600);
    let error = Authority::open_or_create(&pki(&world), later).unwrap_err();
    assert!(matches!(&error, Error::Expired { path } if path.ends_with("issuing.crt")), "{error}");
    for wanted in ["is the clock right?", "ca rotate-issuing"] {
        assert!(error.to_string().contains(wanted), "{error}");
    }
}

#[test]
fn an_issuing_certificate_that_has_ended_is_replaced_with_the_roots_key() {
    let (world, other) = (World::new(), World::new());
    let (dir, key) = (pki(&world), pki(&world).join("root.key"));
    let later = SystemTime::now() + Duration::from_secs(11 * 365 * 24 * 3600);
    let right = fs::read(&key).unwrap();
    let before = contents(&dir);

    fs::remove_file(&key).unwrap();
    let error = Authority::open_with_new_issuing(&dir, later).unwrap_err();
    assert!(matches!(error, Error::RootKeyAway { .. }), "{error}");
    fs::copy(pki(&other).join("root.key"), &key).unwrap();
    let error = Authority::open_with_new_issuing(&dir, later).unwrap_err();
    assert!(matches!(error, Error::Mismatch { .. }), "{error}");
    fs::write(&key, right).unwrap();
    assert_eq!(contents(&dir), before, "nothing was replaced");

    let renewed = Authority::open_with_new_issuing(&dir, later).unwrap();
    assert_eq!(renewed.root_fingerprint(), world.authority.root_fingerprint());
    let made = csr::generate().unwrap();
    renewed.issue_agent(&made.csr_der, tenant(1), agent(1), later, HOUR).unwrap();
    assert_eq!(Authority::open_or_create(&dir, later).unwrap().status(), renewed.status());

    // For a root there is no such way.
    let much_later = later + Duration::from_secs(11 * 365 * 24 * 3600);
    let error = Authority::open_with_new_issuing(&dir, much_later).unwrap_err();
    assert!(matches!(&error, Error::Expired { path } if path.ends_with("root.crt")), "{error}");
}

#[test]
fn two_processes_do_not_create_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let other = fs::File::open(dir.path()).unwrap();
    other.try_lock().unwrap();
    assert!(matches!(open(dir.path()), Err(Error::Busy { .. })));
    assert_eq!(contents(dir.path()), []);
    drop(other);
    open(dir.path()).unwrap();
}

fn pem(certificate: &stella_certs::CertificateDer<'_>) -> String {
    use base64::Engine as _;
    let body = base64::engine::general_purpose::STANDARD.encode(certificate);
    format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
}
