//! What a value may be where something reads the text that it is filled into. Whoever starts a run chooses values, and the template
//! alone says what is called and what is asked: a value in an address is a part of that and no other path, and one in a query is a
//! label's value and no other query.

/// What reads a text. It sees the text from its beginning to its end.
pub(crate) trait Syntax {
    /// What the template has there itself.
    fn literal(&mut self, text: &str) -> Result<(), String>;

    /// How a value is written there.
    fn value(&mut self, value: &str) -> Result<String, String>;

    /// The text is over.
    fn end(&mut self) -> Result<(), String>;
}

/// An address: a value in its path is a part of one segment, and behind its `?` a part of one value.
#[derive(Debug)]
pub(crate) struct Address {
    at: Place,
    /// What the segment has so far.
    segment: String,
    /// Whether a value is in it.
    is_filled_in: bool,
}

/// Where in an address something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Before its host, with so many slashes.
    Scheme(u8),
    Host,
    Path,
    /// Behind the path.
    Query,
}

impl Address {
    /// One that begins with its scheme.
    pub(crate) const fn whole() -> Self {
        Self::at(Place::Scheme(0))
    }

    /// What comes after the address of a destination.
    pub(crate) const fn below() -> Self {
        Self::at(Place::Path)
    }

    const fn at(at: Place) -> Self {
        Self { at, segment: String::new(), is_filled_in: false }
    }

    fn end_segment(&mut self) -> Result<(), String> {
        let (segment, is_filled_in) =
            (std::mem::take(&mut self.segment), std::mem::take(&mut self.is_filled_in));
        // Some servers take what follows a semicolon off each segment.
        match segment.split(';').next() {
            Some("") if is_filled_in => {
                Err("has a value that is empty where a segment of the path should be".to_owned())
            }
            Some(climbs @ ("." | "..")) if is_filled_in => Err(format!(
                "has a value that makes a segment of the path {climbs:?}, which would lead elsewhere"
            )),
            Some(_) | None => Ok(()),
        }
    }
}

impl Syntax for Address {
    fn literal(&mut self, text: &str) -> Result<(), String> {
        for c in text.chars() {
            match (self.at, c) {
                (Place::Scheme(0), '/') => self.at = Place::Scheme(1),
                (Place::Scheme(_), '/') => self.at = Place::Host,
                (Place::Path, '/' | '\\') => self.end_segment()?,
                (Place::Host, '/' | '\\') => self.at = Place::Path,
                (Place::Path, '?' | '#') => {
                    self.end_segment()?;
                    self.at = Place::Query;
                }
                (Place::Host, '?' | '#') => self.at = Place::Query,
                (Place::Path, c) => self.segment.push(c),
                (Place::Scheme(_) | Place::Host | Place::Query, _) => {}
            }
        }
        Ok(())
    }

    fn value(&mut self, value: &str) -> Result<String, String> {
        match self.at {
            Place::Scheme(_) | Place::Host => {
                // Somebody's name and password are no part of it either.
                let is_of_hosts = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
                match value.chars().find(|c| !is_of_hosts(*c)) {
                    Some(c) => Err(format!("has a value with {c:?} in it where the host of an address is")),
                    None => Ok(value.to_owned()),
                }
            }
            Place::Path => {
                // Encoded ones are refused when the call is made: servers do not agree on what they are.
                let is_wrong = |c: char| "/\\%;".contains(c) || c.is_control();
                if let Some(c) = value.chars().find(|c| is_wrong(*c)) {
                    return Err(format!(
                        "has a value with {c:?} in it: what an expression comes to is part of one segment of the path, without /, \\, %, ; \
                         and control characters; write slashes outside of it"
                    ));
                }
                let encoded = percent_encoded(value);
                self.segment.push_str(&encoded);
                self.is_filled_in = true;
                Ok(encoded)
            }
            Place::Query => Ok(percent_encoded(value)),
        }
    }

    fn end(&mut self) -> Result<(), String> {
        self.end_segment()
    }
}

fn percent_encoded(value: &str) -> String {
    let mut encoded = String::new();
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte))
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// A query in PromQL: a value in quotes stays in them, and one outside of them is a word, or a number.
#[derive(Debug, Default)]
pub(crate) struct Query {
    /// The quote that is open.
    quote: Option<char>,
    /// Behind a backslash in quotes.
    is_escaped: bool,
    /// Behind a `#`, until the line ends.
    is_comment: bool,
}

impl Syntax for Query {
    fn literal(&mut self, text: &str) -> Result<(), String> {
        for c in text.chars() {
            match (self.quote, c) {
                _ if self.is_escaped => self.is_escaped = false,
                (None, '\n') => self.is_comment = false,
                (None, _) if self.is_comment => {}
                (None, '#') => self.is_comment = true,
                (None, '"' | '\'' | '`') => self.quote = Some(c),
                (Some('"' | '\''), '\\') => self.is_escaped = true,
                (Some(open), c) if open == c => self.quote = None,
                (None | Some(_), _) => {}
            }
        }
        Ok(())
    }

    fn value(&mut self, value: &str) -> Result<String, String> {
        let wrong = |c: char, place: &str| Err(format!("has a value with {c:?} in it {place}"));
        match self.quote {
            Some(_) if self.is_escaped => Err("has a value right behind a backslash".to_owned()),
            // Nothing is escaped between these.
            Some(open @ '`') if value.contains(open) => wrong(open, "between quotes of that kind"),
            Some('`') => Ok(value.to_owned()),
            Some(open) => Ok(value.chars().map(|c| escaped(c, open)).collect()),
            None => {
                let is_of_words = |c: char| c.is_ascii_alphanumeric() || "_:.".contains(c);
                // A number may be below zero.
                let word = value.strip_prefix('-').filter(|it| it.parse::<f64>().is_ok()).unwrap_or(value);
                match word.chars().find(|c| !is_of_words(*c)) {
                    Some(c) => wrong(c, "outside of quotes, where only a word or a number may stand"),
                    None => Ok(value.to_owned()),
                }
            }
        }
    }

    fn end(&mut self) -> Result<(), String> {
        Ok(())
    }
}

fn escaped(c: char, quote: char) -> String {
    match c {
        '\n' => "\\n".to_owned(),
        '\r' => "\\r".to_owned(),
        '\\' => "\\\\".to_owned(),
        c if c == quote => format!("\\{c}"),
        c => c.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::super::text::render_for;
    use super::super::variables::{Meter, Variables};
    use super::*;

    fn with(value: &str) -> Variables {
        let inputs = json!({ "x": value, "dot": ".", "n": -3, "e": "" });
        Variables::new(BTreeMap::from([("inputs".to_owned(), inputs)]), Meter::default())
    }

    #[test]
    fn a_value_in_an_address_is_a_part_of_it_and_no_other_path() {
        let below = |text: &str, value: &str| render_for(Address::below(), text, &with(value));
        for (text, value, address) in [
            ("issue/${inputs.x}/comment", "A-1", "issue/A-1/comment"),
            ("issue/${inputs.x}", "a b?c#d&e=ä:@+", "issue/a%20b%3Fc%23d%26e%3D%C3%A4%3A%40%2B"),
            ("issue/v${inputs.dot}${inputs.x}", ".", "issue/v.."),
            (
                "issue?of=${inputs.x}&n=${inputs.n}",
                "a/../b&c=d%#;\n",
                "issue?of=a%2F..%2Fb%26c%3Dd%25%23%3B%0A&n=-3",
            ),
            ("issue?of=${inputs.e}", "", "issue?of="),
            ("../plain/./%2e?a;b", "", "../plain/./%2e?a;b"),
            ("${inputs.x}", "deploy", "deploy"),
            ("$${inputs.x}/${inputs.x}", "deploy", "${inputs.x}/deploy"),
        ] {
            assert_eq!(below(text, value).as_deref(), Ok(address), "{text} with {value:?}");
        }
        for value in
            ["A-1/../../user?username=evil&x=", "..", ".", "", "a/b", "a\\b", "..;a", "%2e%2e", ".\t.", "\0"]
        {
            for text in
                ["issue/${inputs.x}/comment", "issue/${inputs.x}", "${inputs.x}?a=b", "${inputs.x};v=1/x"]
            {
                assert!(below(text, value).is_err(), "{text} with {value:?}");
            }
        }
        for text in ["issue/.${inputs.x}", "issue/${inputs.dot}${inputs.x}/y", "issue/${inputs.x}.\\y"] {
            assert!(below(text, ".").unwrap_err().contains("\"..\""), "{text}");
        }
        let told = below("issue/${inputs.x}", "a/b").unwrap_err();
        assert!(told.contains("'/'") && told.contains("write slashes outside of it"), "{told}");
    }

    #[test]
    fn a_value_in_a_whole_address_may_name_its_host_and_nothing_else() {
        let whole = |text: &str, value: &str| render_for(Address::whole(), text, &with(value));
        for (text, value, address) in [
            ("https://${inputs.x}/a", "eu.example.com:8443", "https://eu.example.com:8443/a"),
            ("https://${inputs.x}", "[2001:db8::1]", "https://[2001:db8::1]"),
            ("https://h.example/${inputs.x}/b", "a b", "https://h.example/a%20b/b"),
            ("https://h.example?a=${inputs.x}", "/", "https://h.example?a=%2F"),
        ] {
            assert_eq!(whole(text, value).as_deref(), Ok(address), "{text} with {value:?}");
        }
        for value in ["evil.example/", "a@b", "a?b", "a#b", "a\\b", "a b", "%2f"] {
            assert!(whole("https://${inputs.x}.example.com/", value).is_err(), "{value}");
        }
        assert!(whole("https://h.example/${inputs.x}", "..").is_err());
    }

    #[test]
    fn a_value_in_a_query_stays_what_the_query_is_asked_about() {
        let query = |text: &str, value: &str| render_for(Query::default(), text, &with(value));
        let evil = "x\"}[1s]) or vector(0)) #";
        for (text, value, asked) in [
            ("e{v=\"${inputs.x}\"}", "2.0", "e{v=\"2.0\"}"),
            ("e{v=\"${inputs.x}\"}", evil, "e{v=\"x\\\"}[1s]) or vector(0)) #\"}"),
            ("e{v='${inputs.x}'}", "a'b\"c\\\nd", "e{v='a\\'b\"c\\\\\\nd'}"),
            ("e{v=`${inputs.x}`}", "a\"b\\", "e{v=`a\"b\\`}"),
            ("e{a=\"\\\"\", v=\"${inputs.x}\"}", "\"", "e{a=\"\\\"\", v=\"\\\"\"}"),
            ("e{a=`\\`, v=\"${inputs.x}\"}", "\"", "e{a=`\\`, v=\"\\\"\"}"),
            ("# it's\ne{v=\"${inputs.x}\"}", "\"", "# it's\ne{v=\"\\\"\"}"),
            ("rate(${inputs.x}[5m]) > ${inputs.n}", "errors:rate5m", "rate(errors:rate5m[5m]) > -3"),
            ("up${inputs.e}", "", "up"),
        ] {
            assert_eq!(query(text, value).as_deref(), Ok(asked), "{text} with {value:?}");
        }
        for (text, value) in [
            ("rate(e[${inputs.x}])", "5m]) or vector(0) #"),
            ("e > ${inputs.x}", "0 or vector(1)"),
            ("e > ${inputs.x}", "-inf-x"),
            ("e{v=`${inputs.x}`}", "`} or up{a=`"),
            ("e # ${inputs.x}", "\nor vector(1)"),
            ("e{v=\"\\${inputs.x}\"}", "n"),
        ] {
            assert!(query(text, value).is_err(), "{text} with {value:?}");
        }
    }
}
