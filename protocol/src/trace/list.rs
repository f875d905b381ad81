//! What the two lists have in common: members between commas, with optional white space around them.

/// A text that is not one that would have been written here: malformed, out of bounds, or not in its shortest form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a list of members in the form in which they are sent on")]
pub struct NotCanonical;

/// The members of all headers of one name, in order. Empty ones are allowed, and left out.
pub(super) fn members<'h>(
    headers: impl IntoIterator<Item = &'h [u8]>,
) -> impl Iterator<Item = Option<&'h str>> {
    let members = headers.into_iter().flat_map(|header| header.split(|byte| *byte == b','));
    members
        .map(|member| str::from_utf8(member).ok().map(trimmed))
        .filter(|member| member.is_none_or(|text| !text.is_empty()))
}

/// Without the optional white space around it.
pub(super) fn trimmed(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

/// How long a list of members is, with the commas between them.
pub(super) fn length<S: AsRef<str>>(members: &[S]) -> usize {
    let bytes: usize = members.iter().map(|member| member.as_ref().len()).sum();
    bytes + members.len().saturating_sub(1)
}
