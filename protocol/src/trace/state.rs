//! The header `tracestate`: what each tracing system on the way says, the newest first.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::list::{NotCanonical, length, members, trimmed};

/// Our member's key. Its value is the id of the span in the `traceparent` beside it: whoever gets both sees whether somebody
/// who does not speak `tracestate` came in between.
const OWN: &str = "stella";
/// How many members a list may have, ours included.
const MEMBERS_MAX: usize = 32;
/// How much of what others said is carried, in bytes: what the recommendation asks for at least.
const BYTES_MAX: usize = 512;
/// What is longer goes first when something has to go.
const LONG_MEMBER_BYTES: usize = 128;
const KEY_BYTES_MAX: usize = 256;
const TENANT_BYTES_MAX: usize = 241;
const SYSTEM_BYTES_MAX: usize = 14;
const VALUE_BYTES_MAX: usize = 256;

/// What other tracing systems said about a trace: at most 31 members, and 512 bytes. Ours is not among them: it is added when it leaves.
#[derive(Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TraceState(Option<Arc<str>>);

impl TraceState {
    /// The most that [`Self::as_str`] has, in bytes.
    pub const BYTES_MAX: usize = BYTES_MAX;

    /// What the headers of a request say. Nothing if one member is malformed, or there are more than 32: then nobody can tell
    /// which others to believe. Of two members with one key the first stands. What is too long loses members of more than 128 bytes first, then
    /// the last ones.
    #[must_use]
    pub fn from_headers<'h>(headers: impl IntoIterator<Item = &'h [u8]>) -> Self {
        read(headers).map_or_else(Self::default, |kept| Self::of(&kept))
    }

    fn of(members: &[&str]) -> Self {
        Self((!members.is_empty()).then(|| members.join(",").into()))
    }

    /// Whether nobody said anything.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The members, as they are sent on.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or_default()
    }

    /// The header as it leaves with a span of ours: our member comes first, in the place of an older one.
    #[must_use]
    pub fn with_own(&self, span_id: u64) -> String {
        let others = self.0.as_deref().map(|others| format!(",{others}"));
        format!("{OWN}={span_id:016x}{}", others.unwrap_or_default())
    }
}

impl fmt::Debug for TraceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TraceState({:?})", self.as_str())
    }
}

impl TryFrom<String> for TraceState {
    type Error = NotCanonical;

    fn try_from(text: String) -> Result<Self, NotCanonical> {
        let read = Self::from_headers([text.as_bytes()]);
        if read.as_str() == text { Ok(read) } else { Err(NotCanonical) }
    }
}

impl From<TraceState> for String {
    fn from(state: TraceState) -> Self {
        state.as_str().to_owned()
    }
}

fn read<'h>(headers: impl IntoIterator<Item = &'h [u8]>) -> Option<Vec<&'h str>> {
    let mut kept: Vec<(&str, &str)> = Vec::new();
    for (number, member) in members(headers).enumerate() {
        let member = member.filter(|_| number < MEMBERS_MAX)?;
        let (key, value) = member.split_once('=')?;
        if !is_key(key) || !is_value(value) {
            return None;
        }
        if key != OWN && kept.iter().all(|(known, _)| *known != key) {
            kept.push((key, member));
        }
    }
    let mut kept: Vec<&str> = kept.into_iter().map(|(_, member)| member).collect();
    kept.truncate(MEMBERS_MAX - 1);
    while length(&kept) > BYTES_MAX {
        let long = kept.iter().rposition(|member| member.len() > LONG_MEMBER_BYTES);
        kept.remove(long.unwrap_or(kept.len() - 1));
    }
    Some(kept)
}

/// `system` or `tenant@system`.
fn is_key(key: &str) -> bool {
    let may_follow = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/');
    let is_name = |name: &str, may_begin: fn(&u8) -> bool, max: usize| {
        name.len() <= max && name.as_bytes().first().is_some_and(may_begin) && name.bytes().all(may_follow)
    };
    match key.split_once('@') {
        None => is_name(key, u8::is_ascii_lowercase, KEY_BYTES_MAX),
        Some((tenant, system)) => {
            is_name(tenant, |b| b.is_ascii_lowercase() || b.is_ascii_digit(), TENANT_BYTES_MAX)
                && is_name(system, u8::is_ascii_lowercase, SYSTEM_BYTES_MAX)
        }
    }
}

/// Printable, and it does not end with a space: that would be taken for the white space around a member.
fn is_value(value: &str) -> bool {
    let is_part = |b: u8| matches!(b, b' '..=b'~') && b != b',' && b != b'=';
    (1..=VALUE_BYTES_MAX).contains(&value.len()) && value.bytes().all(is_part) && !trimmed(value).is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(headers: &[&str]) -> String {
        TraceState::from_headers(headers.iter().map(|header| header.as_bytes())).as_str().to_owned()
    }

    #[test]
    fn members_are_carried_in_their_order_and_ours_is_renewed_in_front() {
        assert_eq!(
            read(&["rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"]),
            "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"
        );
        assert_eq!(
            read(&["a=1 , ,\tb= 2", "fw529a3039@dt=c"]),
            "a=1,b= 2,fw529a3039@dt=c",
            "headers are joined"
        );
        assert_eq!(read(&["a=1,b=2,a=3"]), "a=1,b=2", "the first of a key stands");
        let state = TraceState::from_headers(["a=1,stella=00000000000000aa,b=2".as_bytes()]);
        assert_eq!(state.with_own(0xbb), "stella=00000000000000bb,a=1,b=2");
        assert_eq!(TraceState::default().with_own(1), "stella=0000000000000001");
    }

    #[test]
    fn what_is_malformed_takes_the_whole_list_with_it() {
        let long_key = format!("{}=1", "k".repeat(257));
        let long_tenant = format!("{}@v=1", "t".repeat(242));
        let long_value = format!("a={}", "v".repeat(257));
        let many = (0..33).map(|n| format!("k{n}=1")).collect::<Vec<_>>().join(",");
        for text in [
            "foo",
            "foo=",
            "=1",
            "foo =1",
            "FOO=1",
            "foo.bar=1",
            "foo=1=2",
            "foo=b\u{e9}r",
            "foo=b\tr",
            "@foo=1",
            "foo@=1",
            "foo@@bar=1",
            "foo@bar@baz=1",
            "1foo=1",
            "foo@1bar=1",
            "foo@systemlongerthan=1",
            "a=1,;b=2",
            &long_key,
            &long_tenant,
            &long_value,
            &many,
        ] {
            assert_eq!(read(&["ok=1", text]), "", "{text}");
        }
        let most = (0..32).map(|n| format!("k{n}=1")).collect::<Vec<_>>().join(",");
        let state = TraceState::from_headers([most.as_bytes()]);
        assert_eq!(state.with_own(1).split(',').count(), MEMBERS_MAX, "the last one makes room for ours");
        assert_eq!(read(&[&format!("{}=1", "k".repeat(256))]).len(), 258);
        assert_eq!(read(&["0a@v=1"]), "0a@v=1", "a tenant may begin with a digit");
    }

    #[test]
    fn what_is_too_long_loses_long_members_first_and_then_the_last() {
        let long = format!("long={}", "v".repeat(200));
        let short = |n: usize| format!("k{n}={}", "v".repeat(90));
        let all: Vec<String> = [short(0), long, short(1), short(2), short(3), short(4), short(5)].into();
        let kept = read(&[&all.join(",")]);
        let keys: Vec<&str> = kept.split(',').map(|it| it.split_once('=').unwrap().0).collect();
        assert_eq!(keys, ["k0", "k1", "k2", "k3", "k4"]);
        assert!(kept.len() <= BYTES_MAX);
        let exact = format!("a={},b={}", "v".repeat(254), "v".repeat(253));
        assert_eq!((exact.len(), read(&[&exact])), (BYTES_MAX, exact.clone()), "512 bytes are carried");
    }

    #[test]
    fn a_stored_list_is_one_that_was_written_here() {
        for text in ["", "a=1", "a=1,b=2"] {
            assert_eq!(TraceState::try_from(text.to_owned()).unwrap().as_str(), text);
        }
        for text in ["a=1, b=2", "stella=1", "a", "a=1,", &"a".repeat(600)] {
            assert_eq!(TraceState::try_from(text.to_owned()), Err(NotCanonical), "{text}");
        }
    }
}
