//! The identity's file: whole or not there, private, and checked when it is read. Enrolment: safe to repeat.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::wildcard_enum_match_arm, reason = "a test waits for one thing and passes over the others")]

mod control_plane;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::SystemTime;

use control_plane::{ControlPlane, DAY, Home, ders, read_frame, soon};
use stella_agent::enrol::{self, Enrolled, Options, enrol};
use stella_agent::identity::{Error, Identity};
use stella_agent::journal::Journal;
use stella_agent::profile;
use stella_certs::tls::QuicPeer;
use stella_certs::{EnrolmentToken, csr};
use stella_protocol::frame;
use stella_protocol::id::{AgentId, EnrolmentTokenId, TenantId};
use stella_protocol::message::{EnrolRequest, EnrolRequestFor, EnrolResponse, Granted, Profile};
use uuid::Uuid;

#[tokio::test]
async fn an_identity_comes_back_whole_and_is_private() {
    let control_plane = ControlPlane::start();
    let home = Home::enrolled(&control_plane);
    let identity = Identity::load(&home.state()).unwrap();
    assert_eq!(identity.agent, AgentId(Uuid::from_u128(2)));
    assert_eq!(identity.server, control_plane.server());
    let path = home.state().join("identity.json");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    // A crash before the rename leaves the new file beside the old one.
    fs::write(home.state().join("identity.new"), b"{\"torn").unwrap();
    assert_eq!(Identity::load(&home.state()).unwrap().chain, identity.chain);
    let renewed = control_plane.enrol(&home.state(), DAY);
    let loaded = Identity::load(&home.state()).unwrap();
    assert_eq!(loaded.chain, renewed.chain);
    assert_ne!(loaded.chain, identity.chain);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_key_with_another_keys_certificate_is_refused() {
    let control_plane = ControlPlane::start();
    let home = Home::enrolled(&control_plane);
    let path = home.state().join("identity.json");
    let mut mixed: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    control_plane.enrol(&home.state(), DAY);
    let other: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    mixed["key_pkcs8_der"] = other["key_pkcs8_der"].clone();
    fs::write(&path, serde_json::to_vec(&mixed).unwrap()).unwrap();
    let error = Identity::load(&home.state()).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
    let key = mixed["key_pkcs8_der"].as_str().unwrap();
    assert!(!format!("{error:?} {error}").contains(key));

    fs::write(&path, &serde_json::to_vec(&mixed).unwrap()[..200]).unwrap();
    assert!(matches!(Identity::load(&home.state()), Err(Error::Damaged { .. })));
    fs::remove_file(&path).unwrap();
    let error = Identity::load(&home.state()).unwrap_err();
    assert!(error.to_string().contains("stella-agent enrol"), "{error}");
}

#[tokio::test]
async fn a_certificate_of_another_agent_is_no_renewal() {
    let control_plane = ControlPlane::start();
    let home = Home::enrolled(&control_plane);
    let identity = Identity::load(&home.state()).unwrap();
    let made = csr::generate().unwrap();
    let other = AgentId(Uuid::from_u128(999));
    let issued = control_plane
        .authority
        .issue_agent(&made.csr_der, identity.tenant, other, SystemTime::now(), DAY)
        .unwrap();
    let roots = ders(&control_plane.authority.roots_der());
    assert!(identity.renewed(&ders(&issued.chain_der), &roots, made.key_der).is_err());
}

/// Takes one enrolment and gives the request; answers it if `answer` is there.
async fn serve_one(control_plane: &ControlPlane, answer: Option<EnrolResponse>) -> EnrolRequest {
    let (connection, peer) = control_plane.accept().await;
    assert_eq!(peer, QuicPeer::Enrolling { takes_profile: true, says_profile: true });
    let (mut send, mut receive) = soon("a stream", connection.accept_bi()).await.unwrap();
    let EnrolRequestFor { request, .. } = read_frame(&mut receive).await.unwrap();
    if let Some(answer) = answer {
        send.write_all(&frame::encode(&answer).unwrap()).await.unwrap();
        send.finish().unwrap();
        soon("the end", connection.closed()).await;
    }
    request
}

fn grant(control_plane: &ControlPlane, request: &EnrolRequest, agent: u128) -> EnrolResponse {
    let (tenant, agent) = (TenantId(Uuid::from_u128(1)), AgentId(Uuid::from_u128(agent)));
    let issued =
        control_plane.authority.issue_agent(&request.csr_der, tenant, agent, SystemTime::now(), DAY).unwrap();
    let (chain_der, roots_der) = (ders(&issued.chain_der), ders(&control_plane.authority.roots_der()));
    EnrolResponse::Granted { tenant, agent, chain_der, roots_der }
}

/// Serves an enrolment whose answer depends on the request.
async fn grant_one(control_plane: &ControlPlane, agent: u128) -> EnrolRequest {
    let (connection, _) = control_plane.accept().await;
    let (mut send, mut receive) = soon("a stream", connection.accept_bi()).await.unwrap();
    let EnrolRequestFor { request, .. } = read_frame(&mut receive).await.unwrap();
    send.write_all(&frame::encode(&grant(control_plane, &request, agent)).unwrap()).await.unwrap();
    send.finish().unwrap();
    soon("the end", connection.closed()).await;
    request
}

fn options(control_plane: &ControlPlane, home: &Home) -> Options {
    let id = EnrolmentTokenId(Uuid::from_u128(3));
    let token = EnrolmentToken::generate(id, control_plane.authority.root_fingerprint()).unwrap();
    Options { token, server: control_plane.server(), state_dir: home.state(), profile: None, force: false }
}

#[tokio::test]
async fn a_lost_reply_burns_nothing_and_a_second_time_changes_nothing() {
    let control_plane = ControlPlane::start();
    let home = Home::new();
    let options = options(&control_plane, &home);

    // The reply is lost: the connection is dropped after the request.
    let (lost, first) = tokio::join!(enrol(&options), serve_one(&control_plane, None));
    assert!(matches!(lost, Err(enrol::Error::Broken(_))), "{lost:?}");
    assert!(!Identity::exists(&home.state()));
    assert_eq!(first.secret, options.token.secret);

    // The same key comes again, so the control plane can give the same identity.
    let (enrolled, second) = tokio::join!(enrol(&options), grant_one(&control_plane, 7));
    let Enrolled::New(identity, _) = enrolled.unwrap() else { panic!("not new") };
    assert_eq!(csr::fingerprint(&first.csr_der).unwrap(), csr::fingerprint(&second.csr_der).unwrap());
    assert_eq!(identity.agent, AgentId(Uuid::from_u128(7)));
    assert_eq!(Identity::load(&home.state()).unwrap().chain, identity.chain);
    assert!(!home.state().join("enrolling.json").exists(), "the key is in one place");

    let Enrolled::Already(again) = enrol(&options).await.unwrap() else { panic!("enrolled twice") };
    assert_eq!(again.chain, identity.chain);

    let forced = Options { force: true, ..options };
    let (enrolled, third) = tokio::join!(enrol(&forced), grant_one(&control_plane, 8));
    let Enrolled::New(identity, _) = enrolled.unwrap() else { panic!("not new") };
    assert_eq!(identity.agent, AgentId(Uuid::from_u128(8)));
    assert_ne!(csr::fingerprint(&third.csr_der).unwrap(), csr::fingerprint(&second.csr_der).unwrap());
}

/// Serves an enrolment with a token that is for this profile.
async fn grant_for(control_plane: &ControlPlane, agent: u128, profile: Profile) {
    let (connection, _) = control_plane.accept().await;
    let (mut send, mut receive) = soon("a stream", connection.accept_bi()).await.unwrap();
    let EnrolRequestFor { request, .. } = read_frame(&mut receive).await.unwrap();
    let granted = grant(control_plane, &request, agent).into_granted().unwrap();
    let answer = EnrolResponse::from(Granted { profile: Some(profile), ..granted });
    send.write_all(&frame::encode(&answer).unwrap()).await.unwrap();
    send.finish().unwrap();
    soon("the end", connection.closed()).await;
}

#[tokio::test]
async fn what_the_token_is_for_is_kept_and_another_wish_keeps_nothing() {
    let control_plane = ControlPlane::start();
    let home = Home::new();
    let options = Options { profile: Some(Profile::Full), ..options(&control_plane, &home) };
    let (refused, ()) = tokio::join!(enrol(&options), grant_for(&control_plane, 7, Profile::Confined));
    let error = refused.unwrap_err();
    assert!(
        matches!(error, enrol::Error::OtherProfile { .. }) && error.to_string().contains("confined"),
        "{error}"
    );
    assert!(!Identity::exists(&home.state()));
    let key = || fs::read(home.state().join("enrolling.json")).unwrap();
    let first = key();
    let (refused, ()) = tokio::join!(enrol(&options), grant_for(&control_plane, 7, Profile::Confined));
    assert!(refused.is_err() && key() == first, "this host asks with the same key, and burns no other use");

    // A control plane or a token of before there were profiles says nothing, and goes on working.
    let elsewhere = Home::new();
    let silent = Options { state_dir: elsewhere.state(), ..options.clone() };
    let (enrolled, _) = tokio::join!(enrol(&silent), grant_one(&control_plane, 9));
    let Ok(Enrolled::New(unbound, None)) = enrolled else { panic!("{enrolled:?}") };
    assert_eq!(profile::enrolled_for(&elsewhere.state(), &unbound).unwrap(), None);
    let any = Options { profile: None, ..options.clone() };
    let (enrolled, ()) = tokio::join!(enrol(&any), grant_for(&control_plane, 7, Profile::Confined));
    let Enrolled::New(identity, profile) = enrolled.unwrap() else { panic!("not new") };
    assert_eq!(profile, Some(Profile::Confined));
    let kept = || profile::enrolled_for(&home.state(), &Identity::load(&home.state()).unwrap()).unwrap();
    assert_eq!(kept(), profile);
    // It stays what it is until somebody forces a new identity.
    let refused = enrol(&options).await.unwrap_err();
    assert!(matches!(refused, enrol::Error::EnrolledFor { .. }), "{refused}");
    assert!(matches!(enrol(&any).await, Ok(Enrolled::Already(_))));
    let forced = Options { force: true, ..options };
    let (enrolled, ()) = tokio::join!(enrol(&forced), grant_for(&control_plane, 8, Profile::Full));
    assert!(matches!(enrolled, Ok(Enrolled::New(_, Some(Profile::Full)))), "{enrolled:?}");
    assert_eq!(kept(), Some(Profile::Full));
    assert_ne!(Identity::load(&home.state()).unwrap().agent, identity.agent);
}

/// Whose results are in it nobody can tell any more: not the new agent's.
#[tokio::test]
async fn a_forced_enrolment_over_a_damaged_identity_sets_the_journal_aside() {
    let control_plane = ControlPlane::start();
    let home = Home::new();
    let options = options(&control_plane, &home);
    let (enrolled, _) = tokio::join!(enrol(&options), grant_one(&control_plane, 7));
    enrolled.unwrap();
    let forced = Options { force: true, ..options.clone() };
    for (agent, aside) in [(8, "journal-of-unknown"), (9, "journal-of-unknown-2")] {
        drop(Journal::open(&home.state().join("journal"), 0).unwrap());
        fs::write(home.state().join("identity.json"), "{").unwrap();
        let refused = enrol(&options).await.unwrap_err();
        assert!(matches!(refused, enrol::Error::Identity(Error::Damaged { .. })), "{refused}");
        let (enrolled, _) = tokio::join!(enrol(&forced), grant_one(&control_plane, agent));
        assert!(matches!(enrolled, Ok(Enrolled::New(..))), "{enrolled:?}");
        assert!(home.state().join(aside).is_dir(), "{aside}");
        assert!(!home.state().join("journal").exists(), "it is the new agent's");
    }
}

#[tokio::test]
async fn an_enrolment_without_an_identity_sets_aside_the_journal_that_is_there() {
    let control_plane = ControlPlane::start();
    let home = Home::new();
    let options = options(&control_plane, &home);
    let (enrolled, _) = tokio::join!(enrol(&options), grant_one(&control_plane, 7));
    enrolled.unwrap();
    drop(Journal::open(&home.state().join("journal"), 0).unwrap());
    fs::remove_file(home.state().join("identity.json")).unwrap();
    let (enrolled, _) = tokio::join!(enrol(&options), grant_one(&control_plane, 8));
    assert!(matches!(enrolled, Ok(Enrolled::New(..))), "{enrolled:?}");
    assert!(home.state().join("journal-of-unknown").is_dir());
    assert!(!home.state().join("journal").exists(), "it is the new agent's");
}

#[tokio::test]
async fn a_refusal_is_told_and_leaves_no_identity() {
    let control_plane = ControlPlane::start();
    let home = Home::new();
    let refusal = EnrolResponse::Refused { reason: "the token has expired; ask for a new one".to_owned() };
    let options = options(&control_plane, &home);
    let (refused, _) = tokio::join!(enrol(&options), serve_one(&control_plane, Some(refusal)));
    assert!(refused.unwrap_err().to_string().contains("the token has expired"));
    assert!(!Identity::exists(&home.state()));
}

#[tokio::test]
async fn a_token_of_another_control_plane_sends_nothing() {
    let (control_plane, other) = (ControlPlane::start(), ControlPlane::start());
    let home = Home::new();
    let mut options = options(&control_plane, &home);
    options.server = other.server();
    let asked = async {
        let incoming = soon("a connection", other.endpoint.accept()).await.unwrap();
        incoming.await.is_err()
    };
    let (refused, was_broken_off) = tokio::join!(enrol(&options), asked);
    assert!(matches!(refused, Err(enrol::Error::Connect(_))), "{refused:?}");
    assert!(was_broken_off, "the secret must not reach a server that the token does not name");
}
