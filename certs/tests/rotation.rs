//! Both levels of the authority are replaced while peers are away, and while the machine fails.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use common::{Ended, World, handshake};
use stella_certs::authority::Error;
use stella_certs::authority::rotation::Phase;
use stella_certs::{Authority, CertificateDer, PrivateKey, certificate_fingerprint, tls};
use stella_protocol::digest::Digest;

/// An agent as it was enrolled: what it shows, and whom it trusts.
struct Agent {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKey,
    roots: Vec<CertificateDer<'static>>,
}

impl Agent {
    fn enrolled(world: &World) -> Self {
        let (issued, key) = world.agent();
        Self { chain: issued.chain_der, key, roots: world.authority.roots_der() }
    }

    fn gets_in(&self, world: &World) -> bool {
        let client = tls::quic_agent_client(self.chain.clone(), &self.key, &self.roots).unwrap();
        matches!(handshake(client, world.quic_server()), Ended::Done { .. })
    }
}

fn now() -> SystemTime {
    SystemTime::now()
}

fn pki(world: &World) -> PathBuf {
    world.dir.path().join("pki")
}

fn enrols_with(world: &World, root: Digest) -> bool {
    matches!(handshake(tls::quic_enrol_client(root).unwrap(), world.quic_server()), Ended::Done { .. })
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let there = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &there);
        } else {
            fs::copy(entry.path(), there).unwrap();
        }
    }
}

#[test]
fn a_new_issuing_certificate_is_no_matter_to_anybody() {
    let world = World::new();
    let agent = Agent::enrolled(&world);
    let before = world.authority.status();
    world.authority.rotate_issuing(now()).unwrap();
    let after = world.authority.status();
    assert_eq!(after.active.root, before.active.root);
    assert_ne!(after.active.issuing, before.active.issuing);
    assert!(agent.gets_in(&world), "its own certificate is of the old one");
    assert!(Agent::enrolled(&world).gets_in(&world));
    assert!(enrols_with(&world, before.active.root));
    let again = Authority::open_or_create(&pki(&world), now()).unwrap();
    assert_eq!(again.status(), after);
    assert!(!pki(&world).join("next-issuing").exists());
}

#[test]
fn an_agent_that_is_away_while_the_root_is_rotated_still_gets_in_until_the_end() {
    let world = World::new();
    let away = Agent::enrolled(&world);
    let old = world.authority.root_fingerprint();

    world.authority.start_rotation(now()).unwrap();
    let status = world.authority.status();
    let new = status.other.unwrap().root;
    assert_eq!((status.phase, status.active.root), (Some(Phase::Distributing), old));
    assert!(away.gets_in(&world) && Agent::enrolled(&world).gets_in(&world));
    assert!(enrols_with(&world, old) && !enrols_with(&world, new), "the new root has certified nobody yet");

    world.authority.switch_root(now()).unwrap();
    assert_eq!(world.authority.root_fingerprint(), new);
    let met = Agent::enrolled(&world);
    assert!(away.gets_in(&world), "by the cross-certificate");
    assert!(met.gets_in(&world));
    assert!(enrols_with(&world, old) && enrols_with(&world, new), "tokens of before and after");
    assert_eq!(world.authority.root_of(&away.chain), Some(old));
    assert_eq!(world.authority.root_of(&met.chain), Some(new));

    world.authority.finish_rotation(now()).unwrap();
    assert_eq!(world.authority.status().trusted, [new]);
    assert!(met.gets_in(&world), "although it still trusts the old root beside the new one");
    assert!(!away.gets_in(&world), "it was left behind");
    assert!(!enrols_with(&world, old) && enrols_with(&world, new));
    // Its certificate is refused as well, not only the control plane's by it.
    let stale = Agent { roots: met.roots.clone(), ..away };
    assert!(!stale.gets_in(&world));
    // Nor does one count as of the new root whose handshake began when the old one was trusted.
    assert_eq!(world.authority.root_of(&stale.chain), None);
    assert_eq!(world.authority.root_of(&met.chain), Some(new));
}

#[test]
fn the_bundle_has_what_is_trusted() {
    let world = World::new();
    let bundle = || {
        let pem = fs::read(pki(&world).join("roots.crt")).unwrap();
        stella_certs::certificates_from_pem(&pem).unwrap()
    };
    let old = bundle();
    assert_eq!(old, world.authority.roots_der());
    world.authority.start_rotation(now()).unwrap();
    assert_eq!(bundle().len(), 2);
    world.authority.switch_root(now()).unwrap();
    assert_eq!(bundle(), world.authority.roots_der());
    world.authority.finish_rotation(now()).unwrap();
    assert!(bundle() == world.authority.roots_der() && bundle() != old);
}

#[test]
fn steps_are_repeated_without_harm_and_refused_out_of_order() {
    let world = World::new();
    let not_now = |result: Result<(), Error>| matches!(result, Err(Error::NotNow { .. }));
    let authority = &world.authority;
    assert!(not_now(authority.switch_root(now())) && not_now(authority.finish_rotation(now())));
    authority.cancel_rotation(now()).unwrap();

    authority.start_rotation(now()).unwrap();
    let started = authority.status();
    authority.start_rotation(now()).unwrap();
    assert_eq!(authority.status(), started);
    assert!(not_now(authority.finish_rotation(now())) && not_now(authority.rotate_issuing(now())));
    authority.cancel_rotation(now()).unwrap();
    assert_eq!(authority.status().phase, None);
    assert!(!pki(&world).join("next").exists());

    authority.start_rotation(now()).unwrap();
    assert_ne!(authority.status().other, started.other, "a new one, not the one that was given up");
    authority.switch_root(now()).unwrap();
    authority.switch_root(now()).unwrap();
    assert!(not_now(authority.start_rotation(now())) && not_now(authority.cancel_rotation(now())));
    authority.finish_rotation(now()).unwrap();
    assert!(not_now(authority.finish_rotation(now())));
    authority.start_rotation(now()).unwrap();
}

#[test]
fn a_rotation_goes_on_where_it_was_after_a_restart() {
    let world = World::new();
    world.authority.start_rotation(now()).unwrap();
    let again = Authority::open_or_create(&pki(&world), now()).unwrap();
    assert_eq!(again.status(), world.authority.status());
    again.switch_root(now()).unwrap();
    let switched = again.status();
    let again = Authority::open_or_create(&pki(&world), now()).unwrap();
    assert_eq!(again.status(), switched);
}

#[test]
fn a_start_that_was_cut_short_leaves_the_old_root_and_goes_on() {
    let world = World::new();
    world.authority.start_rotation(now()).unwrap();
    let made = world.authority.status().other.unwrap();
    // All files are there; what says that they are in use is not.
    fs::remove_file(pki(&world).join("rotation")).unwrap();
    let again = Authority::open_or_create(&pki(&world), now()).unwrap();
    assert_eq!((again.status().phase, again.roots_der().len()), (None, 1));
    // Less than all of them.
    fs::remove_file(pki(&world).join("next/cross.crt")).unwrap();
    fs::remove_file(pki(&world).join("next/issuing.crt")).unwrap();
    again.start_rotation(now()).unwrap();
    assert_eq!(again.status().other.unwrap().root, made.root);
}

#[test]
fn a_finish_that_was_cut_short_anywhere_is_finished_at_the_next_start() {
    for with_root_key in [true, false] {
        let world = World::new();
        world.authority.start_rotation(now()).unwrap();
        world.authority.switch_root(now()).unwrap();
        let new = world.authority.status().active;
        if !with_root_key {
            fs::remove_file(pki(&world).join("next/root.key")).unwrap();
        }
        let steps = ["root.key", "root.crt", "issuing.key", "issuing.crt"];
        for done in 0..=steps.len() {
            let dir = world.dir.path().join(format!("cut-{done}"));
            copy(&pki(&world), &dir);
            fs::write(dir.join("rotation"), "finishing\n").unwrap();
            for step in &steps[..done] {
                let next = dir.join("next").join(step);
                if next.exists() {
                    fs::rename(next, dir.join(step)).unwrap();
                } else {
                    fs::remove_file(dir.join(step)).unwrap();
                }
            }
            let authority = Authority::open_or_create(&dir, now()).unwrap();
            assert_eq!(authority.status().active, new, "cut after {done}");
            assert_eq!(authority.status().phase, None);
            assert_eq!(dir.join("root.key").exists(), with_root_key, "cut after {done}");
            assert!(!dir.join("next").exists() && !dir.join("rotation").exists());
        }
    }
}

#[test]
fn a_new_issuing_pair_that_was_cut_short_is_put_in_place_or_is_nothing() {
    let world = World::new();
    let dir = pki(&world);
    let old = world.authority.status().active;
    // A pair of a second authority under the same root, as a rotation leaves it before it puts it in place.
    let (rotated, next) = (world.dir.path().join("rotated"), dir.join("next-issuing"));
    copy(&dir, &rotated);
    Authority::open_or_create(&rotated, now()).unwrap().rotate_issuing(now()).unwrap();
    let new = Authority::open_or_create(&rotated, now()).unwrap().status().active;
    fs::create_dir(&next).unwrap();

    // The key alone is nothing.
    fs::copy(rotated.join("issuing.key"), next.join("issuing.key")).unwrap();
    assert_eq!(Authority::open_or_create(&dir, now()).unwrap().status().active, old);
    assert!(!next.exists());

    // Of a whole pair, the key may be in its place already.
    fs::create_dir(&next).unwrap();
    fs::copy(rotated.join("issuing.crt"), next.join("issuing.crt")).unwrap();
    fs::copy(rotated.join("issuing.key"), dir.join("issuing.key")).unwrap();
    assert_eq!(Authority::open_or_create(&dir, now()).unwrap().status().active, new);
}

#[test]
fn without_the_roots_key_nothing_is_rotated_and_nothing_is_left() {
    let world = World::new();
    fs::rename(pki(&world).join("root.key"), world.dir.path().join("safe")).unwrap();
    for result in [world.authority.rotate_issuing(now()), world.authority.start_rotation(now())] {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::RootKeyAway { .. }), "{error}");
    }
    assert!(!pki(&world).join("next").exists() && !pki(&world).join("next-issuing").exists());
}

#[test]
fn a_file_that_says_something_else_is_not_guessed_at() {
    let world = World::new();
    world.authority.start_rotation(now()).unwrap();
    fs::write(pki(&world).join("rotation"), "later\n").unwrap();
    let error = Authority::open_or_create(&pki(&world), now()).unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
}

#[test]
fn a_certificate_that_others_are_added_to_is_of_its_own_root() {
    let world = World::new();
    let thief = Agent::enrolled(&world);
    let old = world.authority.root_fingerprint();
    world.authority.start_rotation(now()).unwrap();
    world.authority.switch_root(now()).unwrap();
    let (new, honest) = (world.authority.root_fingerprint(), Agent::enrolled(&world));
    // The new issuing certificate is public. TLS does not mind that it is of no use.
    let dressed = Agent { chain: [&thief.chain[..], &honest.chain[1..]].concat(), ..thief };
    assert!(dressed.gets_in(&world));
    assert_eq!(world.authority.root_of(&dressed.chain), Some(old));
    assert_eq!(world.authority.root_of(&honest.chain), Some(new));
    let backwards: Vec<_> = honest.chain[..1].iter().chain(honest.chain[1..].iter().rev()).cloned().collect();
    assert_eq!(world.authority.root_of(&backwards), Some(new));
    world.authority.finish_rotation(now()).unwrap();
    assert_eq!(world.authority.root_of(&dressed.chain), None, "its session is cut");
    assert_eq!(world.authority.root_of(&honest.chain), Some(new));
    assert_eq!(world.authority.root_of(&[]), None);
}

#[test]
fn roots_are_told_apart_by_name_and_by_signature() {
    let world = World::new();
    world.authority.start_rotation(now()).unwrap();
    let roots = world.authority.roots_der();
    assert_ne!(certificate_fingerprint(&roots[0]), certificate_fingerprint(&roots[1]));
    let (theirs, _) = World::new().agent();
    assert_eq!(world.authority.root_of(&theirs.chain_der), None);
}

#[test]
fn what_issues_no_more_or_not_yet_may_have_ended() {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
    let dir = tempfile::tempdir().unwrap();
    let pki = dir.path().join("pki");
    let begin = now();
    let authority = Authority::open_or_create(&pki, begin).unwrap();
    authority.start_rotation(begin + YEAR * 5).unwrap();

    // Nine years and a half: the old one still issues. Ten and a half: it does not.
    let (before, after) = (begin + YEAR * 19 / 2, begin + YEAR * 21 / 2);
    Authority::open_or_create(&pki, before).unwrap();
    let error = Authority::open_or_create(&pki, after).unwrap_err();
    assert!(matches!(&error, Error::Expired { path } if path == &pki.join("issuing.crt")), "{error}");
    authority.switch_root(before).unwrap();
    let switched = Authority::open_or_create(&pki, after).unwrap();
    let status = switched.status();
    assert_eq!(status.phase, Some(Phase::Switched));
    assert!(status.other.unwrap().issuing_not_after < after, "the old one has ended");
    switched.issue_server(&[], after, YEAR).unwrap();

    // The new one may not, once it issues.
    let error = Authority::open_or_create(&pki, begin + YEAR * 31 / 2).unwrap_err();
    assert!(matches!(&error, Error::Expired { path } if path == &pki.join("next/issuing.crt")), "{error}");
    let error = Authority::open_with_new_issuing(&pki, begin + YEAR * 31 / 2).unwrap_err();
    assert!(matches!(error, Error::NotNow { .. }), "{error}");
    switched.finish_rotation(after).unwrap();
    assert_eq!(Authority::open_or_create(&pki, after).unwrap().status().phase, None);
}

#[test]
fn a_new_root_that_has_ended_before_it_is_used_is_not_switched_to() {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
    let world = World::new();
    let dir = pki(&world);
    // Made when the clock was far behind: its issuing certificate ends before the old one's.
    world.authority.start_rotation(now() - YEAR * 9).unwrap();
    let later = now() + YEAR * 2;
    let again = Authority::open_or_create(&dir, later).unwrap();
    let error = again.switch_root(later).unwrap_err();
    assert!(matches!(error, Error::Expired { .. }), "{error}");
    again.cancel_rotation(later).unwrap();
    assert_eq!(Authority::open_or_create(&dir, later).unwrap().status().phase, None);
}
