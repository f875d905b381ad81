//! Where releases say that they come from.

use super::fields;
use crate::provenance::{
    BUILDER_BYTES_MAX, COMMIT_BYTES_MAX, Provenance, REFERENCES_MAX, Reference, URI_BYTES_MAX,
};
use crate::rejection::Rejection;

/// Whether it is something that can be kept for ever.
pub(super) fn makes_sense(provenance: &Provenance) -> Result<(), Rejection> {
    let Provenance { commit, repository, build_url, builder, sboms, attestations } = provenance;
    if let Some(commit) = commit {
        word("provenance.commit", commit, COMMIT_BYTES_MAX)?;
    }
    if let Some(builder) = builder {
        line("provenance.builder", builder, BUILDER_BYTES_MAX)?;
    }
    if let Some(repository) = repository {
        uri("provenance.repository", repository)?;
    }
    if let Some(build_url) = build_url {
        uri("provenance.build_url", build_url)?;
    }
    references("provenance.sboms", sboms)?;
    references("provenance.attestations", attestations)
}

fn references(field: &str, references: &[Reference]) -> Result<(), Rejection> {
    if references.len() > REFERENCES_MAX {
        let problem = format!("there are {}; at most {REFERENCES_MAX} are allowed", references.len());
        return Err(Rejection::invalid(field, problem));
    }
    references.iter().enumerate().try_for_each(|(at, it)| uri(&format!("{field}[{at}].uri"), &it.uri))
}

/// A text of one line.
fn line(field: &str, text: &str, max: usize) -> Result<(), Rejection> {
    if text.trim().is_empty() || text.len() > max || text.contains(char::is_control) {
        let problem = format!("must have 1 to {max} bytes and no control characters");
        return Err(Rejection::invalid(field, problem));
    }
    Ok(())
}

/// A text without spaces.
fn word(field: &str, text: &str, max: usize) -> Result<(), Rejection> {
    line(field, text, max)?;
    if text.contains(char::is_whitespace) {
        return Err(Rejection::invalid(field, "must not have spaces"));
    }
    Ok(())
}

fn uri(field: &str, text: &str) -> Result<(), Rejection> {
    word(field, text, URI_BYTES_MAX)?;
    let scheme = text.split_once(':').map(|(scheme, _)| scheme).unwrap_or_default();
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
    if !is_scheme {
        let problem = format!("{:?} does not begin with a scheme, as https://… does", fields::shown(text));
        return Err(Rejection::invalid(field, problem));
    }
    let authority = text.split_once("://").map(|(_, rest)| rest.split(['/', '?', '#']).next());
    let user = authority.flatten().and_then(|authority| authority.rsplit_once('@'));
    if user.is_some_and(|(user, _)| user.contains(':')) {
        let problem = "holds a password; releases are kept for ever and seen by everybody, so leave it out";
        return Err(Rejection::invalid(field, problem));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use stella_protocol::digest::Digest;

    use super::*;

    #[test]
    fn what_no_source_looks_like_is_refused_by_field() {
        let good = || Provenance {
            commit: Some("4b825dc642cb6eb9a060e54bf8d69288fbee4904".to_owned()),
            repository: Some("ssh://git@git.example.com/web.git".to_owned()),
            build_url: Some("https://ci.example.com/builds/17?x=a:b@c".to_owned()),
            builder: Some("GitHub Actions, runner 4".to_owned()),
            sboms: vec![Reference { uri: "urn:uuid:1".to_owned(), digest: Digest([1; 32]) }],
            attestations: Vec::new(),
        };
        assert_eq!(makes_sense(&good()), Ok(()));
        let many = vec![good().sboms.remove(0); REFERENCES_MAX + 1];
        let cases: [(&str, Provenance); 8] = [
            ("commit", Provenance { commit: Some(String::new()), ..good() }),
            ("commit", Provenance { commit: Some("a b".to_owned()), ..good() }),
            ("commit", Provenance { commit: Some("x".repeat(COMMIT_BYTES_MAX + 1)), ..good() }),
            ("builder", Provenance { builder: Some("a\nb".to_owned()), ..good() }),
            ("repository", Provenance { repository: Some("git.example.com/web".to_owned()), ..good() }),
            (
                "build_url",
                Provenance { build_url: Some("https://ci:secret@example.com/".to_owned()), ..good() },
            ),
            ("attestations", Provenance { attestations: many, ..good() }),
            (
                "sboms[0].uri",
                Provenance {
                    sboms: vec![Reference { uri: "1://".to_owned(), digest: Digest([1; 32]) }],
                    ..good()
                },
            ),
        ];
        for (wanted, provenance) in cases {
            let Err(Rejection::Invalid { field, .. }) = makes_sense(&provenance) else {
                panic!("{wanted}: {provenance:?}")
            };
            assert_eq!(field, format!("provenance.{wanted}"));
        }
    }
}
