//! Configuration in layers: a file, a folder of files beside it, the environment, flags. The later ones win.
//!
//! A program has one table of its [`Key`]s. Unknown keys are refused by it with the one that was meant, the effective values
//! are shown by it with where each came from, and the reference page is made from it. What a value may be is the program's
//! to check, in the type that it reads the layers into.

mod reference;
mod show;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

pub use reference::{reference, with_reference};
pub use show::{MASKED, Shown, leaves, masked_address};

/// The largest file, in bytes: far more than all keys with comments, and no mistake (a device, an image) is read whole.
const FILE_BYTES_MAX: u64 = 256 * 1024;
/// How many files a folder may have.
const FILES_MAX: usize = 100;
/// From which likeness on, of 0 to 1, a known key may be what was meant.
const LIKENESS_MIN: f64 = 0.8;
/// The same for names that all begin alike, and are like one another already for that.
const VARIABLE_LIKENESS_MIN: f64 = 0.95;

/// One key of a program.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its full name: `api.listen`. With `.*` at its end it stands for everything below.
    pub name: &'static str,
    /// Its default, as the reference page shows it.
    pub default: &'static str,
    /// Unit and bounds.
    pub unit: &'static str,
    /// What it is for, one line of Markdown.
    pub about: &'static str,
    /// Whether a reload takes over another value; otherwise it needs a restart.
    pub reloads: bool,
}

impl Key {
    fn covers(&self, name: &str) -> bool {
        match self.name.strip_suffix(".*") {
            Some(section) => {
                name.strip_prefix(section).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            }
            None => self.name == name,
        }
    }

    /// Whether the value is never shown.
    #[must_use]
    pub fn is_secret(&self) -> bool {
        // A file with a secret is named for all to see.
        let is_path = self.name.ends_with("_file");
        !is_path
            && ["password", "secret", "token", "credential", "private_key"]
                .iter()
                .any(|word| self.name.contains(word))
    }
}

/// Why a configuration is not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be read.
    #[error("the configuration file {} cannot be read", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file is no TOML.
    #[error("the configuration file {} is not understood: {problem}", path.display())]
    Syntax {
        /// Which.
        path: PathBuf,
        /// Where and what.
        problem: String,
    },
    /// There is no such key.
    #[error("{origin}: there is no key {name}{}", hint(.meant.as_deref()))]
    Unknown {
        /// Where it was found.
        origin: String,
        /// The key.
        name: String,
        /// What may have been meant.
        meant: Option<String>,
    },
    /// A value is not what the key takes.
    #[error("{name} is not understood: {problem} ({origin})")]
    Value {
        /// The key.
        name: String,
        /// What is wrong.
        problem: String,
        /// Where it was found.
        origin: String,
    },
}

fn hint(meant: Option<&str>) -> String {
    meant.map(|name| format!("; did you mean {name}?")).unwrap_or_default()
}

/// The layers so far.
#[derive(Clone, Debug)]
pub struct Layers {
    keys: &'static [Key],
    merged: Table,
    origins: BTreeMap<String, String>,
    files: Vec<PathBuf>,
}

impl Layers {
    /// Nothing yet but the program's keys.
    #[must_use]
    pub fn new(keys: &'static [Key]) -> Self {
        Self { keys, merged: Table::new(), origins: BTreeMap::new(), files: Vec::new() }
    }

    /// Adds a file and, in the order of their names, the files `*.toml` of the folder beside it: `agent.toml` has
    /// `agent.conf.d/`. Two programs keep their files in one folder, so each has a folder of its own.
    ///
    /// # Errors
    /// If a file cannot be read or is not understood; or is not there and has to be.
    pub fn add_files(&mut self, file: &Path, must_be_there: bool) -> Result<(), Error> {
        match File::open(file).and_then(read) {
            Ok(text) => self.add_text(file, &text)?,
            Err(error) if !must_be_there && error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(Error::Read { path: file.to_owned(), source }),
        }
        let folder = file.with_extension("conf.d");
        let wrong = |source| Error::Read { path: folder.clone(), source };
        let mut files = Vec::new();
        match std::fs::read_dir(&folder) {
            Ok(items) => {
                for item in items {
                    let path = item.map_err(wrong)?.path();
                    if path.extension().is_some_and(|extension| extension == "toml") {
                        files.push(path);
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(wrong(error)),
        }
        if files.len() > FILES_MAX {
            return Err(wrong(io::Error::other(format!("it has more than {FILES_MAX} files"))));
        }
        files.sort();
        for path in files {
            let text = open_found(&path)
                .and_then(read)
                .map_err(|source| Error::Read { path: path.clone(), source })?;
            self.add_text(&path, &text)?;
        }
        Ok(())
    }

    fn add_text(&mut self, path: &Path, text: &str) -> Result<(), Error> {
        let table: Table = toml::from_str(text).map_err(|error| Error::Syntax {
            path: path.to_owned(),
            problem: where_and_what(text, &error),
        })?;
        self.files.push(path.to_owned());
        self.add_table("", table, &path.display().to_string())
    }

    /// Which files were read, for people.
    #[must_use]
    pub fn files_told(&self) -> String {
        match self.files.as_slice() {
            [] => "no file was found, so that it is what is set elsewhere and the defaults".to_owned(),
            files => {
                let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
                format!("read from {}", files.join(", "))
            }
        }
    }

    fn add_table(&mut self, prefix: &str, table: Table, origin: &str) -> Result<(), Error> {
        for (key, value) in table {
            let name = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
            let is_section = value.is_table() && self.is_section(&name);
            match value {
                Value::Table(inner) if is_section => self.add_table(&name, inner, origin)?,
                value @ (Value::Table(_)
                | Value::Array(_)
                | Value::String(_)
                | Value::Integer(_)
                | Value::Float(_)
                | Value::Boolean(_)
                | Value::Datetime(_)) => self.set(&name, value, origin)?,
            }
        }
        Ok(())
    }

    /// Adds all variables with a prefix: with `STELLA_ORCHESTRATOR__`, `STELLA_ORCHESTRATOR__API__LISTEN` is `api.listen`.
    /// A list is written with commas.
    ///
    /// # Errors
    /// If a variable names no key.
    pub fn add_environment(
        &mut self,
        prefix: &str,
        variables: impl Iterator<Item = (String, String)>,
    ) -> Result<(), Error> {
        for (variable, text) in variables {
            if let Some(rest) = variable.strip_prefix(prefix) {
                let name = rest.to_ascii_lowercase().replace("__", ".");
                let value = self.parse(&name, &text);
                self.set(&name, value, &format!("environment {variable}"))?;
            }
        }
        Ok(())
    }

    /// A text as the kind of value that the key has: the type that reads it has the last word.
    fn parse(&self, name: &str, text: &str) -> Value {
        let key = self.keys.iter().find(|key| key.covers(name));
        let is_list = key.is_some_and(|key| key.default.starts_with('['));
        let parsed =
            toml::from_str::<Table>(&format!("value = {text}")).ok().and_then(|mut it| it.remove("value"));
        match parsed {
            Some(list @ Value::Array(_)) => list,
            _ if is_list => {
                let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
                Value::Array(parts.map(|part| Value::String(part.to_owned())).collect())
            }
            Some(value @ (Value::Integer(_) | Value::Float(_) | Value::Boolean(_))) => value,
            Some(_) | None => Value::String(text.to_owned()),
        }
    }

    /// Puts one value on top.
    ///
    /// # Errors
    /// If there is no such key.
    pub fn set(&mut self, name: &str, value: Value, origin: &str) -> Result<(), Error> {
        if !self.keys.iter().any(|key| key.covers(name)) {
            let (name, origin) = (name.to_owned(), origin.to_owned());
            return Err(Error::Unknown { meant: self.meant(&name), origin, name });
        }
        self.origins.insert(name.to_owned(), origin.to_owned());
        let mut table = &mut self.merged;
        let mut parts = name.split('.').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                table.insert(part.to_owned(), value);
                break;
            }
            let inner = table.entry(part).or_insert_with(|| Value::Table(Table::new()));
            let Value::Table(inner) = inner else { break };
            table = inner;
        }
        Ok(())
    }

    /// Whether a table of this name has keys of its own, or would have if its name were right. The tables in an open section
    /// are values.
    fn is_section(&self, name: &str) -> bool {
        let is_within = |key: &Key| key.name.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'));
        let is_covered = |key: &Key| key.covers(name) && !is_within(key);
        !self.keys.iter().any(is_covered) && (self.keys.iter().any(is_within) || !name.contains('.'))
    }

    /// The known key that is most like this one, if one is like it at all.
    fn meant(&self, name: &str) -> Option<String> {
        let leaf = |name: &str| name.rsplit('.').next().map(str::to_owned).unwrap_or_default();
        let likeness = |key: &Key| {
            // In the wrong section, or with a typing error.
            let is_same_leaf = name.contains('.') && leaf(key.name) == leaf(name);
            strsim::jaro_winkler(key.name, name) + if is_same_leaf { 0.2 } else { 0.0 }
        };
        let best = self.keys.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
        (likeness(best) >= LIKENESS_MIN).then(|| best.name.to_owned())
    }

    /// Reads the layers into the program's type.
    ///
    /// # Errors
    /// Names the key whose value is not what it has to be, and where it was found.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_path_to_error::deserialize(Value::Table(self.merged.clone())).map_err(|error| {
            let name = error.path().to_string();
            let problem = without_strings(error.into_inner().message().trim());
            Error::Value { origin: self.origin(&name), problem, name }
        })
    }

    /// Where the value of a key came from.
    #[must_use]
    pub fn origin(&self, name: &str) -> String {
        // A value in a list or a table has the origin of what it is in.
        let within = |known: &str| {
            name.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        let found = self.origins.iter().rfind(|(known, _)| within(known));
        found.map_or_else(|| "default".to_owned(), |(_, origin)| origin.clone())
    }

    /// The program's keys.
    #[must_use]
    pub const fn keys(&self) -> &'static [Key] {
        self.keys
    }
}

/// The known name that is most like this one, if one is like it at all.
pub fn most_like<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let likeness = |known: &str| strsim::jaro_winkler(known, name);
    known
        .max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
        .filter(|best| likeness(best) >= VARIABLE_LIKENESS_MIN)
}

/// Whether a text is `host:port`, as agents dial it: a name or an address and a port, one of IPv6 in brackets.
#[must_use]
pub fn is_host_and_port(text: &str) -> bool {
    let is_name_and_port = text.rsplit_once(':').is_some_and(|(host, port)| {
        let is_name = !host.is_empty() && !host.contains([':', '/', '@', ' ']);
        is_name && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    is_name_and_port || text.parse::<SocketAddr>().is_ok()
}

/// The parser shows the line itself, which may hold a secret: it is told by its number.
fn where_and_what(text: &str, error: &toml::de::Error) -> String {
    let message = error.message().trim().replace('\n', ", ");
    match error.span() {
        Some(span) => {
            let before = &text.as_bytes()[..span.start.min(text.len())];
            format!("line {}: {message}", before.split(|byte| *byte == b'\n').count())
        }
        None => message,
    }
}

/// A message without the strings that it quotes: one may be a secret under the wrong key.
fn without_strings(message: &str) -> String {
    const QUOTED: &str = "string \"";
    let mut kept = String::with_capacity(message.len());
    let mut rest = message;
    while let Some(at) = rest.find(QUOTED) {
        let (before, quoted) = (&rest[..at], &rest[at + QUOTED.len()..]);
        kept.push_str(before);
        kept.push_str("a string");
        let mut is_escaped = false;
        let end = quoted.find(|c| {
            let is_end = c == '"' && !is_escaped;
            is_escaped = c == '\\' && !is_escaped;
            is_end
        });
        // One without its end is a string to the end.
        rest = end.map_or("", |end| &quoted[end + 1..]);
    }
    kept.push_str(rest);
    kept
}

/// A file that was not named but found. What is none is not waited for: a pipe that nobody writes to would keep the program from starting.
fn open_found(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no file")) }
}

fn read(file: File) -> io::Result<String> {
    let mut text = String::new();
    let read = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if read as u64 > FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 256 KiB"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
