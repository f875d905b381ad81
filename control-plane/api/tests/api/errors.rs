//! The codes of problems: each is documented, and none lies about what it is.

use std::collections::BTreeSet;
use std::path::Path;

use stella_api::error::ErrorCode;

#[test]
fn every_code_has_a_page_and_every_page_a_code() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/errors");
    let pages: BTreeSet<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .filter(|page| page != "README")
        .collect();
    let codes: BTreeSet<String> = ErrorCode::ALL.iter().map(|code| code.name().to_owned()).collect();
    assert_eq!(pages, codes);
    assert_eq!(codes.len(), ErrorCode::ALL.len(), "two codes have the same name");
}

#[test]
fn every_code_is_an_error_and_what_the_caller_did_wrong_is_not_retryable() {
    for code in ErrorCode::ALL {
        let status = code.status();
        assert!(status.is_client_error() || status.is_server_error(), "{code:?}");
        assert!(!code.title().is_empty());
        assert_eq!(
            code.is_retryable(),
            status.is_server_error() || code == ErrorCode::RateLimited,
            "{code:?}: trying again helps if, and only if, the request itself is good"
        );
    }
}
