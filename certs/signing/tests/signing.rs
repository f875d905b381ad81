//! What is signed, byte by byte, and what is not taken for a signature of it.
#![allow(clippy::unwrap_used, reason = "a test ends there, with the place")]

use std::collections::BTreeMap;

use serde_json::json;
use stella_protocol::digest::Digest;
use stella_signing::{
    ApprovalStatement, Component, KeyError, PublicKey, Signature, Signed as _, SigningKey, Statement,
};

/// The key of RFC 8032, section 7.1, test 1, as PKCS #8.
const KEY: &str = "-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g
-----END PRIVATE KEY-----
";
const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=
-----END PUBLIC KEY-----
";

fn statement() -> Statement {
    Statement {
        application: "web".to_owned(),
        version: "1.4.0".to_owned(),
        components: vec![Component {
            name: "web".to_owned(),
            digest: Digest([7; 32]),
            size_bytes: 1_048_576,
        }],
        steps: vec![json!({
            "timeout_ms": 300_000, "name": "install",
            "action": { "type": "artifact", "keep_releases": 3, "component": "web" },
        })],
        labels: BTreeMap::from([("tier".to_owned(), "gold\n\"é\"".to_owned())]),
        provenance: Some(json!({ "repository": "https://git.example.com/web", "commit": "4b825dc642cb" })),
    }
}

/// Whoever changes these bytes makes every signature worthless that there is: another form is another type.
#[test]
fn the_signed_bytes_are_as_committed() {
    let payload = concat!(
        r#"{"application":"web","components":[{"digest":"sha256:0707070707070707070707070707070707070707070707070707070707070707","name":"web","size_bytes":1048576}],"#,
        r#""labels":{"tier":"gold\n\"é\""},"#,
        r#""provenance":{"commit":"4b825dc642cb","repository":"https://git.example.com/web"},"#,
        r#""steps":[{"action":{"component":"web","keep_releases":3,"type":"artifact"},"name":"install","timeout_ms":300000}],"#,
        r#""version":"1.4.0"}"#,
    );
    assert_eq!(statement().payload(), payload);
    let signed = String::from_utf8(statement().signed_bytes()).unwrap();
    let head = format!("DSSEv1 38 application/vnd.stella.release.v1+json {} ", payload.len());
    assert_eq!(signed.strip_prefix(&head).unwrap(), payload);
    assert_eq!(
        statement().digest().to_string(),
        "sha256:bc22e866987116e8c382fdb6f4bc45f0a37e4caae968035d571e12caf2e5964d"
    );
    let plain = Statement { provenance: None, steps: Vec::new(), ..statement() };
    assert!(!plain.payload().contains("provenance") && plain.payload().contains(r#""steps":[]"#));
}

/// Ed25519 has no randomness: the same key and statement are the same signature, for ever. It was made with OpenSSL.
#[test]
fn the_signature_is_as_committed() {
    let key = SigningKey::from_pem(KEY).unwrap();
    assert_eq!(key.public().to_pem(), PUBLIC);
    assert_eq!(
        key.public().fingerprint().to_string(),
        "sha256:06e3fd8fda29bb60ab59557de61edb0aecdb231134be30e75b455f8e1b792fa9"
    );
    let signature = key.sign(&statement());
    assert_eq!(
        signature.to_string(),
        "MoPUHpuPRD5cAu1JWiFSLqZri4LeZwM853L4gFpLpyT7nnsclw5N5HMil1c2CTEpc06u4nO2Ski5h63cZR5JDQ=="
    );
    assert!(key.public().has_signed(&statement(), &signature));
}

#[test]
fn another_statement_another_key_and_another_signature_are_refused() {
    let key = SigningKey::from_pem(KEY).unwrap();
    let signature = key.sign(&statement());
    let mut others: Vec<Statement> = (0..7).map(|_| statement()).collect();
    others[0].application.push('x');
    others[1].version = "1.4.1".to_owned();
    others[2].components[0].digest = Digest([8; 32]);
    others[3].components[0].size_bytes += 1;
    others[4].steps[0]["action"]["keep_releases"] = 4.into();
    others[5].labels.insert("x".to_owned(), String::new());
    others[6].provenance = None;
    for (at, other) in others.iter().enumerate() {
        assert!(!key.public().has_signed(other, &signature), "statement {at}");
    }
    let another = SigningKey::generate().unwrap();
    assert!(!another.public().has_signed(&statement(), &signature));
    assert!(!key.public().has_signed(&statement(), &another.sign(&statement())));
}

#[test]
fn keys_go_through_pem_and_json() {
    let key = SigningKey::generate().unwrap();
    let pem = key.to_pem().unwrap();
    assert_eq!(SigningKey::from_pem(&pem).unwrap().public(), key.public());
    let public: PublicKey = key.public().to_pem().parse().unwrap();
    assert_eq!(public, key.public());
    let json = serde_json::to_string(&public).unwrap();
    assert_eq!(serde_json::from_str::<PublicKey>(&json).unwrap(), public);
    let signature = key.sign(&statement());
    let json = serde_json::to_string(&signature).unwrap();
    assert_eq!(serde_json::from_str::<Signature>(&json).unwrap(), signature);
    assert!(!format!("{key:?}").contains(pem.lines().nth(1).unwrap()), "a key is never shown");
}

#[test]
fn what_is_no_key_is_refused_and_a_private_key_above_all() {
    assert_eq!(KEY.parse::<PublicKey>(), Err(KeyError::Private));
    for text in ["", "x", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", &PUBLIC[..40]] {
        assert_eq!(text.parse::<PublicKey>(), Err(KeyError::NoPublicKey), "{text:?}");
        assert_eq!(SigningKey::from_pem(text).unwrap_err(), KeyError::NoPrivateKey, "{text:?}");
        assert_eq!(text.parse::<Signature>(), Err(KeyError::NoSignature), "{text:?}");
    }
    assert_eq!(SigningKey::from_pem(PUBLIC).unwrap_err(), KeyError::NoPrivateKey);
}

#[test]
fn an_approval_is_signed_as_something_of_its_own() {
    let plan = Digest([0; 32]);
    let approval = |promotion: &str, account: Option<&str>| ApprovalStatement {
        promotion: promotion.to_owned(),
        plan,
        account: account.map(str::to_owned),
    };
    let signed = |statement: &ApprovalStatement| String::from_utf8(statement.signed_bytes()).unwrap();
    let zeros = "0".repeat(64);
    let payload = format!("{{\"account\":\"a\",\"plan\":\"sha256:{zeros}\",\"promotion\":\"7\"}}");
    let of_a = approval("7", Some("a"));
    let wanted = format!("DSSEv1 39 application/vnd.stella.approval.v2+json {} {payload}", payload.len());
    assert_eq!(signed(&of_a), wanted);
    // What journals of before have.
    let payload = format!("{{\"plan\":\"sha256:{zeros}\",\"promotion\":\"7\"}}");
    let wanted = format!("DSSEv1 39 application/vnd.stella.approval.v1+json {} {payload}", payload.len());
    assert_eq!(signed(&approval("7", None)), wanted);
    let key = SigningKey::from_pem(KEY).unwrap();
    let signature = key.sign(&of_a);
    assert!(key.public().has_signed(&of_a, &signature));
    for other in [approval("8", Some("a")), approval("7", Some("b")), approval("7", None)] {
        assert!(!key.public().has_signed(&other, &signature));
    }
}
