//! The header `baggage`: what the applications on the way tell each other. It is not looked into here.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::list::{NotCanonical, length, members, trimmed};

/// How many members are carried: what the recommendation asks for at least.
const MEMBERS_MAX: usize = 64;
/// How many bytes are carried: what the recommendation asks for at least.
const BYTES_MAX: usize = 8192;

/// What a caller wants carried along: at most 64 members, and 8,192 bytes.
///
/// Nobody knows what is in it, so it is not shown by `Debug`.
#[derive(Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Baggage(Option<Arc<str>>);

impl Baggage {
    /// The most that [`Self::as_str`] has, in bytes.
    pub const BYTES_MAX: usize = BYTES_MAX;

    /// What the headers of a request say. A member that is malformed is left out, and one that does not fit any more; the white space
    /// that is allowed within members is not kept.
    #[must_use]
    pub fn from_headers<'h>(headers: impl IntoIterator<Item = &'h [u8]>) -> Self {
        let mut kept: Vec<String> = Vec::new();
        let mut bytes = 0;
        for member in members(headers).flatten().filter_map(canonical) {
            if kept.len() == MEMBERS_MAX {
                break;
            }
            let with_comma = member.len() + usize::from(!kept.is_empty());
            if bytes + with_comma <= BYTES_MAX {
                bytes += with_comma;
                kept.push(member);
            }
        }
        debug_assert_eq!(bytes, length(&kept), "what is counted is what is sent");
        Self((!kept.is_empty()).then(|| kept.join(",").into()))
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The members, as they are sent on.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or_default()
    }
}

impl fmt::Debug for Baggage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Baggage({} bytes)", self.as_str().len())
    }
}

impl TryFrom<String> for Baggage {
    type Error = NotCanonical;

    fn try_from(text: String) -> Result<Self, NotCanonical> {
        let read = Self::from_headers([text.as_bytes()]);
        if read.as_str() == text { Ok(read) } else { Err(NotCanonical) }
    }
}

impl From<Baggage> for String {
    fn from(baggage: Baggage) -> Self {
        baggage.as_str().to_owned()
    }
}

/// `key=value;property;key=value`, if it is that.
fn canonical(member: &str) -> Option<String> {
    let mut parts = member.split(';');
    let (key, value) = pair(parts.next()?)?;
    let mut text = format!("{key}={value}");
    for property in parts {
        text.push(';');
        if property.contains('=') {
            let (key, value) = pair(property)?;
            text.push_str(key);
            text.push('=');
            text.push_str(value);
        } else {
            text.push_str(Some(trimmed(property)).filter(|key| is_token(key))?);
        }
    }
    Some(text)
}

fn pair(text: &str) -> Option<(&str, &str)> {
    let (key, value) = text.split_once('=')?;
    let (key, value) = (trimmed(key), trimmed(value));
    (is_token(key) && value.bytes().all(is_octet)).then_some((key, value))
}

/// RFC 9110, section 5.6.2.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

const fn is_octet(byte: u8) -> bool {
    matches!(byte, 0x21 | 0x23..=0x2b | 0x2d..=0x3a | 0x3c..=0x5b | 0x5d..=0x7e)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(headers: &[&str]) -> String {
        Baggage::from_headers(headers.iter().map(|header| header.as_bytes())).as_str().to_owned()
    }

    #[test]
    fn members_and_their_properties_are_carried() {
        let example =
            "key1=value1;property1;property2, key2 = value2, key3=value3; propertyKey=propertyValue";
        let carried = "key1=value1;property1;property2,key2=value2,key3=value3;propertyKey=propertyValue";
        assert_eq!(read(&[example]), carried);
        assert_eq!(
            read(&["userId =   alice", "serverNode = DF%2028, isProduction = false"]),
            "userId=alice,serverNode=DF%2028,isProduction=false"
        );
        assert_eq!(
            read(&["a=b=c,a=1,a=2,e="]),
            "a=b=c,a=1,a=2,e=",
            "keys may come again, values may have equal signs"
        );
    }

    #[test]
    fn a_malformed_member_is_left_out_and_the_others_are_not() {
        for wrong in [
            "a",
            "=1",
            "a b=1",
            "a=\"1\"",
            "a=1 2",
            "a=\\",
            "a=é",
            "a=1;",
            "a=1;=2",
            "a=1;b=\"2\"",
            "a=1;b c",
            "(a)=1",
        ] {
            assert_eq!(read(&[&format!("x=1,{wrong},y=2")]), "x=1,y=2", "{wrong}");
        }
        let bytes: &[u8] = b"x=1,a=\xff,y=2";
        assert_eq!(Baggage::from_headers([bytes]).as_str(), "x=1,y=2");
    }

    #[test]
    fn members_are_carried_whole_and_as_many_as_fit() {
        let many = (0..70).map(|n| format!("k{n}=1")).collect::<Vec<_>>().join(",");
        let kept = read(&[&many]);
        assert!(kept.ends_with(",k63=1"), "{kept}");
        let (half, more) = ("v".repeat(4000), "v".repeat(5000));
        let kept = read(&[&format!("a={half},b={more},c={half}")]);
        assert_eq!(kept, format!("a={half},c={half}"), "one that does not fit is left out whole");
        let exact = format!("a={}", "v".repeat(BYTES_MAX - 2));
        assert_eq!(read(&[&exact]), exact);
        assert_eq!(read(&[&format!("{exact}v")]), "");
    }

    #[test]
    fn nothing_of_it_is_shown() {
        let baggage = Baggage::from_headers(["token=s3cret".as_bytes()]);
        assert_eq!(format!("{baggage:?}"), "Baggage(12 bytes)");
    }

    #[test]
    fn a_stored_list_is_one_that_was_written_here() {
        for text in ["", "a=1;b", "a=1,b=2"] {
            assert_eq!(Baggage::try_from(text.to_owned()).unwrap().as_str(), text);
        }
        for text in ["a = 1", "a", "a=1,", &format!("a={}", "v".repeat(BYTES_MAX))] {
            assert_eq!(Baggage::try_from(text.to_owned()), Err(NotCanonical), "{text}");
        }
    }
}
