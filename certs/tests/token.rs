//! Tokens survive copy and paste, say what is wrong with a damaged one, and never show themselves.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod common;

use common::token_id;
use proptest::prelude::*;
use stella_certs::token::{ApiToken, EnrolmentToken, ParseTokenError, hash_secret, secrets_match};
use stella_protocol::digest::Digest;
use stella_protocol::id::EnrolmentTokenId;
use uuid::Uuid;

fn any_token() -> impl Strategy<Value = EnrolmentToken> {
    (any::<u128>(), any::<[u8; 32]>(), any::<[u8; 32]>()).prop_map(|(id, secret, root)| EnrolmentToken {
        id: EnrolmentTokenId(Uuid::from_u128(id)),
        secret,
        root: Digest(root),
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_enrolment_token_is_read_as_it_was_written(token in any_token(), before in "[ \n\t]{0,3}", after in "[ \r\n]{0,3}") {
        let read: EnrolmentToken = format!("{before}{token}{after}").parse().unwrap();
        prop_assert_eq!(read.id, token.id);
        prop_assert_eq!(read.secret, token.secret);
        prop_assert_eq!(read.root, token.root);
        prop_assert_eq!(read.secret_hash(), hash_secret(&token.secret));
    }

    #[test]
    fn a_damaged_enrolment_token_is_refused(token in any_token(), at in 15_usize..127, with in "[A-Za-z0-9_-]") {
        let good = token.to_string();
        let mut bad = good.clone();
        bad.replace_range(at..=at, &with);
        prop_assume!(bad != good);
        prop_assert_eq!(bad.parse::<EnrolmentToken>().unwrap_err(), ParseTokenError::Checksum);
    }

    #[test]
    fn a_cut_enrolment_token_is_refused(token in any_token(), length in 0_usize..127) {
        let good = token.to_string();
        prop_assert!(good[..length].parse::<EnrolmentToken>().is_err());
    }

    #[test]
    fn any_text_is_read_without_a_panic(text in ".{0,200}") {
        prop_assert!(text.parse::<EnrolmentToken>().is_err());
        let almost = format!("stella-enrol-1.{text}");
        prop_assert!(almost.parse::<EnrolmentToken>().is_err());
        prop_assert!(text.parse::<ApiToken>().is_err());
    }
}

#[test]
fn an_enrolment_token_is_one_word_that_begins_with_its_kind() {
    let text = EnrolmentToken::generate(token_id(7), Digest([9; 32])).unwrap().to_string();
    assert_eq!(text.len(), 127);
    let body = text.strip_prefix("stella-enrol-1.").unwrap();
    assert!(body.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'));
}

#[test]
fn errors_say_what_to_do() {
    let good = EnrolmentToken::generate(token_id(7), Digest([9; 32])).unwrap().to_string();
    let read = |text: &str| text.parse::<EnrolmentToken>().unwrap_err();
    assert!(matches!(read("hello"), ParseTokenError::Prefix { expected: "stella-enrol-1." }));
    assert!(matches!(read(""), ParseTokenError::Prefix { .. }));
    assert!(matches!(read(&good.replace("enrol-1", "enrol-2")), ParseTokenError::Version { .. }));
    assert!(matches!(read(&format!("{good}A")), ParseTokenError::Length { actual: 113, expected: 112 }));
    assert!(matches!(read(&format!("{}é", &good[..125])), ParseTokenError::Encoding));
    assert!(matches!(read(&format!("{}+", &good[..126])), ParseTokenError::Encoding));
    // No message repeats the token.
    let secret_part = &good[40..60];
    let cut = read(&good[..100]).to_string();
    assert!(!cut.contains(secret_part) && cut.contains("copy all of it"), "{cut}");
}

#[test]
fn debug_shows_no_secret() {
    let token = EnrolmentToken::generate(token_id(7), Digest([9; 32])).unwrap();
    let shown = format!("{token:?} {token:#?}");
    assert!(shown.contains(&token.id.to_string()));
    assert!(!shown.contains("secret"), "{shown}");
    assert!(!shown.contains(&hex::encode(&token.secret[..4])), "{shown}");
    assert!(!shown.contains(&format!("{}, {}", token.secret[0], token.secret[1])), "{shown}");
    assert!(!shown.contains(&token.to_string()[36..50]), "{shown}");
    let api = ApiToken::generate().unwrap();
    assert_eq!(format!("{api:?}"), "ApiToken(redacted)");
}

#[test]
fn api_tokens_are_random_and_found_by_their_hash() {
    let (a, b) = (ApiToken::generate().unwrap(), ApiToken::generate().unwrap());
    assert_ne!(a.hash(), b.hash());
    let text = a.to_string();
    assert!(text.starts_with("stella_") && text.len() == 50, "{}", text.len());
    assert_eq!(format!(" {text}\n").parse::<ApiToken>().unwrap().hash(), a.hash());
    assert!(matches!(text[..49].parse::<ApiToken>(), Err(ParseTokenError::Length { .. })));
    assert!(matches!("Bearer x".parse::<ApiToken>(), Err(ParseTokenError::Prefix { expected: "stella_" })));
}

#[test]
fn enrolment_secrets_are_random_and_compared_by_their_hash() {
    let first = EnrolmentToken::generate(token_id(1), Digest([9; 32])).unwrap();
    let second = EnrolmentToken::generate(token_id(1), Digest([9; 32])).unwrap();
    assert!(!secrets_match(&first.secret_hash(), &second.secret_hash()));
    assert!(secrets_match(&first.secret_hash(), &hash_secret(&first.secret)));
}
