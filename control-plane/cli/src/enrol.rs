//! One line for a host: it brings the agent there, enrols it and starts it.
//!
//! The line is for a root shell. It is a group of commands and not `sh -c '...'`, whose arguments every user of the host could read: the
//! token goes from a builtin of the shell into the agent's standard input. The control plane is pinned by the token itself.
//!
//! User data does not enrol by itself: nobody watches a first boot, so a control plane that is away then must not be the end of it.
//! It leaves the token where `stella-agent-enrol.service` takes it from, as a golden image does, and that one tries until it is let in.

use std::io::IsTerminal as _;
use std::net::IpAddr;

use stella_api_types::agent::{self, CreateEnrolmentToken, EnrolmentTokenCreated};
use stella_api_types::paths;

use crate::args::{EnrolCommand, Form, NewToken, Output, Profile};
use crate::client::Error;
use crate::{Context, print};

/// Where the profile that is not the usual one is, in the agent's package.
const FULL: &str = "/usr/share/stella-agent/profiles/full.conf";
const NAMED_UNITS: &str = "/usr/share/stella-agent/profiles/named-units.conf";
/// Which units the profile of named units names on a host.
const UNITS: &str = "/etc/stella/agent.conf.d/named-units.toml";
/// Copies a drop-in of the service there.
const DROP_IN: &str = "install -D -m 0644 -t /etc/systemd/system/stella-agent.service.d";
/// How often a first boot tries to install the package, and how long it waits in between: others install at that time too, and hold the
/// package manager's lock for minutes.
const INSTALL_TRIES_MAX: u32 = 20;
const INSTALL_PAUSE_S: u32 = 30;

pub(crate) async fn command(context: &Context, wanted: EnrolCommand) -> Result<(), Error> {
    // Before the token is made: what is refused here leaves none behind.
    let install = Install::of(&wanted)?;
    let rights = Rights::of(&wanted)?;
    let form = wanted.form;
    let created = new_token(context, &wanted.token).await?;
    let token = created.token.as_deref().unwrap_or_default();
    let (install, server) = (install.as_ref(), created.agent_address.as_str());
    let text = match form {
        Form::Line => line(&steps(install, rights, server, token)),
        Form::CloudInit => cloud_init(install, rights, server, token),
    };
    if context.output == Output::Json {
        return print::json(&serde_json::json!({ "command": text, "token": created.details }));
    }
    print::line(&text);
    // Programs that run what they are given may read both outputs.
    if let Some(note) = only_this_host(server).filter(|_| std::io::stderr().is_terminal()) {
        print::warning(&note);
    }
    Ok(())
}

/// What to say if an address for agents is a loopback one: only the control plane's own host reaches itself by it.
pub(crate) fn only_this_host(server: &str) -> Option<String> {
    let host = server.rsplit_once(':').map_or(server, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let is_loopback = host.parse::<IpAddr>().map_or(host == "localhost", |address| address.is_loopback());
    is_loopback.then(|| {
        format!(
            "Other hosts do not reach the control plane at {server}: for them, put its name into api.names (or agents.advertise) and run \
             systemctl reload stella-orchestrator"
        )
    })
}

pub(crate) async fn new_token(context: &Context, new: &NewToken) -> Result<EnrolmentTokenCreated, Error> {
    let body = CreateEnrolmentToken {
        name: new.name.clone(),
        labels: new.labels.iter().cloned().collect(),
        profile: match new.profile {
            Profile::Confined => agent::Profile::Confined,
            Profile::Full => agent::Profile::Full,
        },
        uses: new.uses,
        expires_in_seconds: new.expires_in,
    };
    context.client.post(&context.path(paths::ENROLMENT_TOKENS, &[])?, &body, None).await
}

/// What tasks may do on the host.
#[derive(Clone, Copy, Debug)]
struct Rights<'a> {
    profile: Profile,
    /// If there are any, tasks may act on these units only, and run no command.
    units: &'a [String],
}

impl<'a> Rights<'a> {
    fn of(wanted: &'a EnrolCommand) -> Result<Self, Error> {
        let rights = Self { profile: wanted.token.profile, units: &wanted.units };
        if rights.profile == Profile::Full && !rights.units.is_empty() {
            return Err(Error::Usage(
                "--unit: a host whose tasks may act on named units only is confined; leave out --profile full".to_owned(),
            ));
        }
        let is_unit = |unit: &&String| {
            let known = |it: u8| it.is_ascii_alphanumeric() || b":-_.\\@*".contains(&it);
            unit.len() > 2 && unit.contains('.') && unit.bytes().all(known)
        };
        if let Some(unit) = rights.units.iter().find(|unit| !is_unit(unit)) {
            return Err(Error::Usage(format!(
                "--unit {unit}: is no unit; name one in full, as web.service, or all instances of a template, as web@*.service"
            )));
        }
        Ok(rights)
    }

    /// The lines of the file that names the units. A string of JSON is one of TOML.
    fn named_units(self) -> [String; 3] {
        let units = serde_json::Value::from(self.units);
        [
            "[policy]".to_owned(),
            r#"allow = ["artifact", "check", "systemd"]"#.to_owned(),
            format!("units = {units}"),
        ]
    }
}

/// How the program comes to the host.
#[derive(Debug, PartialEq, Eq)]
struct Install<'a> {
    /// The address of the folder that it is fetched from; `None` if it is there already, as a file.
    base: Option<&'a str>,
    /// Its name, or its path on the host.
    file: &'a str,
    kind: Kind<'a>,
    sha256: Option<&'a str>,
}

#[derive(Debug, PartialEq, Eq)]
enum Kind<'a> {
    Deb,
    Rpm,
    /// Verified with the public key in this file on the host.
    Archive {
        public_key: &'a str,
    },
}

impl<'a> Install<'a> {
    fn of(wanted: &'a EnrolCommand) -> Result<Option<Self>, Error> {
        let Some(package) = wanted.package.as_deref() else { return Ok(None) };
        let usage = |problem: &str| Error::Usage(format!("--package {package}: {problem}"));
        let is_fetched = package.contains("://");
        let (base, file) = match package.rsplit_once('/') {
            Some((base, file)) if is_fetched => (Some(base), file),
            _ => (None, package),
        };
        if !is_fetched && !package.starts_with('/') {
            return Err(usage("is neither an address nor an absolute path on the host"));
        }
        if is_fetched && !package.starts_with("https://") && !package.starts_with("http://") {
            return Err(usage("only https:// and http:// are fetched"));
        }
        let kind = if file.ends_with(".deb") {
            Kind::Deb
        } else if file.ends_with(".rpm") {
            Kind::Rpm
        } else if file.ends_with(".tar.gz") {
            let public_key = wanted.public_key.as_deref();
            let public_key = public_key.ok_or_else(|| {
                usage("an archive is installed by its signature; give --public-key FILE, the key's path on the host")
            })?;
            Kind::Archive { public_key }
        } else {
            return Err(usage("is neither .deb, .rpm nor .tar.gz"));
        };
        let sha256 = wanted.sha256.as_deref();
        if sha256.is_some_and(|sum| sum.len() != 64 || !sum.bytes().all(|it| it.is_ascii_hexdigit())) {
            return Err(Error::Usage("--sha256: is not 64 hexadecimal digits".to_owned()));
        }
        let is_verified = sha256.is_some() || matches!(kind, Kind::Archive { .. });
        if package.starts_with("http://") && !is_verified {
            return Err(usage("anybody on the way could change it; use https://, or give --sha256"));
        }
        Ok(Some(Self { base, file, kind, sha256 }))
    }

    fn steps(&self, steps: &mut Vec<String>) {
        let mut at = quote(self.file);
        if let Some(base) = self.base {
            steps.push("dir=$(mktemp -d)".to_owned());
            steps.push("cd \"$dir\"".to_owned());
            let mut files = vec![self.file];
            if matches!(self.kind, Kind::Archive { .. }) {
                files.extend(["install.sh", "SHA256SUMS", "SHA256SUMS.sig"]);
            }
            for file in files {
                steps.push(format!("curl -fsSL -o {} {}", quote(file), quote(&format!("{base}/{file}"))));
            }
            at = quote(&format!("./{}", self.file));
        }
        if let Some(sha256) = self.sha256 {
            steps.push(format!(
                "echo {} | sha256sum -c --quiet -",
                quote(&format!("{sha256}  {}", self.file))
            ));
        }
        match &self.kind {
            // Nobody is there to be asked about a configuration file that differs.
            Kind::Deb => steps.push(format!(
                "DEBIAN_FRONTEND=noninteractive apt-get install -y -o Dpkg::Options::=--force-confdef -o \
                 Dpkg::Options::=--force-confold {at}"
            )),
            Kind::Rpm => steps.push(format!(
                "if command -v dnf >/dev/null; then dnf install -y {at}; elif command -v zypper >/dev/null; then zypper \
                 --non-interactive install --allow-unsigned-rpm {at}; else rpm -U --replacepkgs {at}; fi"
            )),
            Kind::Archive { public_key } => {
                let key = quote(public_key);
                if self.base.is_none() {
                    steps.push(format!("cd \"$(dirname {at})\""));
                }
                // The script is what is run first, so it is verified before it could verify anything itself.
                steps.push(format!(
                    "openssl pkeyutl -verify -rawin -pubin -inkey {key} -sigfile SHA256SUMS.sig -in SHA256SUMS"
                ));
                steps.push("grep ' ./install.sh$' SHA256SUMS | sha256sum -c --quiet -".to_owned());
                steps.push(format!("sh ./install.sh --archive {at} --public-key {key} stella-agent"));
            }
        }
    }
}

/// What is done on the host, in this order; the first failure ends it.
fn steps(install: Option<&Install<'_>>, rights: Rights<'_>, server: &str, token: &str) -> Vec<String> {
    let mut steps = Vec::new();
    if let Some(install) = install {
        install.steps(&mut steps);
    }
    // By a variable and not by its flag, so that an older agent, which knows neither, still enrols.
    let word = match rights.profile {
        Profile::Confined => "confined",
        Profile::Full => "full",
    };
    steps.push(format!(
        "printf %s {} | STELLA_AGENT_PROFILE={word} stella-agent enrol --server {} --token -",
        quote(token),
        quote(server)
    ));
    // After the enrolment, which says no if this host or the token is for something else.
    if rights.profile == Profile::Full {
        steps.push(format!("{DROP_IN} {FULL}"));
        steps.push("systemctl daemon-reload".to_owned());
    }
    if !rights.units.is_empty() {
        let lines = rights.named_units().map(|line| quote(&line)).join(" ");
        steps.push("mkdir -p /etc/stella/agent.conf.d".to_owned());
        steps.push(format!("printf '%s\\n' {lines} > {UNITS}"));
        steps.push(format!("{DROP_IN} {NAMED_UNITS}"));
        steps.push("systemctl daemon-reload".to_owned());
        // One that runs already knows of no limit until then.
        steps.push("systemctl enable stella-agent".to_owned());
        steps.push("systemctl restart stella-agent".to_owned());
        return steps;
    }
    steps.push("systemctl enable --now stella-agent".to_owned());
    steps
}

fn line(steps: &[String]) -> String {
    let root = "[ \"$(id -u)\" = 0 ] || { echo 'run this as root' >&2; exit 1; }";
    format!("(set -eu; {root}; {})", steps.join("; "))
}

/// User data that does the same at the first boot. It is JSON, which is YAML that needs no rules of quoting.
fn cloud_init(install: Option<&Install<'_>>, rights: Rights<'_>, server: &str, token: &str) -> String {
    // A string of JSON is one of TOML.
    let server = format!("server = {}\n", serde_json::Value::from(server));
    let file = |path: &str, permissions: &str, content: &str| serde_json::json!({ "path": path, "permissions": permissions, "owner": "root:root", "content": content });
    let mut files = vec![
        file("/etc/stella/agent.conf.d/server.toml", "0644", &server),
        file("/etc/stella/enrolment", "0600", token),
    ];
    if !rights.units.is_empty() {
        files.push(file(UNITS, "0644", &format!("{}\n", rights.named_units().join("\n"))));
    }
    if rights.profile == Profile::Full {
        files.push(file(
            "/etc/systemd/system/stella-agent-enrol.service.d/full.conf",
            "0644",
            &enrols_as_full(),
        ));
    }
    let user_data = serde_json::json!({
        "write_files": files,
        // As an argument, and not as a file that is run: file systems that a first boot can write to may be mounted `noexec`.
        "runcmd": [["sh", "-c", first_boot(install, rights)]],
    });
    format!("#cloud-config\n{user_data:#}")
}

/// What is run at the first boot. It has no secret in it.
fn first_boot(install: Option<&Install<'_>>, rights: Rights<'_>) -> String {
    let mut script = "set -eu\n".to_owned();
    if let Some(install) = install {
        let mut steps = Vec::new();
        install.steps(&mut steps);
        // Joined, since `set -e` says nothing about what a loop waits for.
        script += &format!(
            "tries=1\nuntil {}; do\n  [ \"$tries\" -lt {INSTALL_TRIES_MAX} ] || {{ echo 'stella-agent cannot be installed' >&2; exit 1; }}\n  \
             tries=$((tries + 1))\n  sleep {INSTALL_PAUSE_S}\ndone\n",
            steps.join(" && ")
        );
    }
    if !rights.units.is_empty() {
        script += &format!("{DROP_IN} {NAMED_UNITS}\n");
    }
    script += "systemctl daemon-reload\nsystemctl enable stella-agent\nsystemctl enable --now --no-block stella-agent-enrol\n";
    script
}

/// A drop-in of the service that enrols: it gives the agent the full profile once the host is enrolled for that, and before the token
/// goes, so that a host that loses power in between does it again.
fn enrols_as_full() -> String {
    format!(
        "[Service]\nEnvironment=STELLA_AGENT_PROFILE=full\nExecStartPost=\n\
         ExecStartPost=+/usr/bin/{DROP_IN} {FULL}\n\
         ExecStartPost=+/bin/systemctl daemon-reload\nExecStartPost=/bin/rm -f /etc/stella/enrolment\n"
    )
}

/// As one word for every POSIX shell.
fn quote(text: &str) -> String {
    let is_plain = |it: char| it.is_ascii_alphanumeric() || "-_./:@%+=,".contains(it);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Agent, Cli, Command};

    fn parsed(flags: &[&str]) -> EnrolCommand {
        let arguments = [&["stella", "agent", "enrol-command"], flags].concat();
        match Cli::try_parse_from(arguments).map(|cli| cli.command) {
            Ok(Command::Agent(Agent::EnrolCommand(wanted))) => *wanted,
            other => panic!("{other:?}"),
        }
    }

    fn refusal(flags: &[&str]) -> String {
        let wanted = parsed(flags);
        Install::of(&wanted).expect_err("it was taken").to_string()
    }

    #[test]
    fn words_survive_the_shell() {
        for text in ["", "a b", "it's", "$(reboot)", "`x`;\"y\"\\", "stella-enrol-1.AbC_-", "\n", "*", "ä"] {
            let script = format!("printf %s {}", quote(text));
            let said = std::process::Command::new("sh").args(["-c", &script]).output().expect("a shell");
            assert_eq!(String::from_utf8_lossy(&said.stdout), text, "{script}");
        }
        assert_eq!(quote("host.example:7443"), "host.example:7443");
    }

    #[test]
    fn an_address_that_only_its_own_host_reaches_is_told() {
        for loopback in ["localhost:7443", "127.0.0.1:7443", "[::1]:7443", "127.1.2.3:1"] {
            let note = only_this_host(loopback).expect(loopback);
            assert!(note.contains(loopback) && note.contains("api.names"), "{note}");
        }
        for other in ["stella.example.com:7443", "10.0.0.7:7443", "[fd00::1]:7443", "localhost.example:7443"]
        {
            assert_eq!(only_this_host(other), None, "{other}");
        }
    }

    #[test]
    fn what_cannot_be_verified_is_refused_before_a_token_is_made() {
        assert!(refusal(&["--package", "http://x/a.deb"]).contains("--sha256"));
        assert!(refusal(&["--package", "https://x/a.tar.gz"]).contains("--public-key"));
        assert!(refusal(&["--package", "https://x/a.exe"]).contains("neither"));
        assert!(refusal(&["--package", "a.deb"]).contains("absolute path"));
        assert!(refusal(&["--package", "ftp://x/a.deb"]).contains("https"));
        assert!(refusal(&["--package", "https://x/a.deb", "--sha256", "abc"]).contains("64"));
    }

    #[test]
    fn units_are_named_in_full_and_a_host_of_named_units_is_confined() {
        let refusal = |flags: &[&str]| Rights::of(&parsed(flags)).expect_err("it was taken").to_string();
        assert!(refusal(&["--unit", "web.service", "--profile", "full"]).contains("--profile full"));
        for unit in ["web", "a b.service", "x;reboot.service", "$(id).service", ".s"] {
            assert!(refusal(&["--unit", unit]).contains("is no unit"), "{unit}");
        }
        let wanted = parsed(&["--unit", "web.service", "--unit", "web@*.service"]);
        let [_, allow, units] = Rights::of(&wanted).expect("good").named_units();
        assert_eq!(units, r#"units = ["web.service","web@*.service"]"#);
        // It allows what the shipped file of the profile allows.
        assert!(include_str!("../../../systemd/profiles/named-units.toml").contains(&allow), "{allow}");
    }

    #[test]
    fn every_kind_of_package_makes_a_script_that_the_shell_can_read() {
        let sum = "0".repeat(64);
        for flags in [
            &["--package", "https://x.example/a b/stella-agent_1.deb"][..],
            &["--package", "http://x.example/stella-agent-1.rpm", "--sha256", &sum],
            &["--package", "/media/usb/stella-agent.deb", "--profile", "full"],
            &["--package", "https://x.example/stella.tar.gz", "--public-key", "/root/it's.pem"],
            &["--package", "/srv/stella.tar.gz", "--public-key", "/root/stella.pem"],
            &["--package", "/a.deb", "--unit", "web.service", "--unit", r"web@*.service"],
        ] {
            let wanted = parsed(flags);
            let install = Install::of(&wanted).expect("good");
            let rights = Rights::of(&wanted).expect("good");
            let line = line(&steps(install.as_ref(), rights, "stella.example.com:7443", "stella-enrol-1.x"));
            assert!(!line.contains('\n'), "{line}");
            let read = std::process::Command::new("sh").args(["-n", "-c", &line]).output().expect("a shell");
            assert!(read.status.success(), "{line}: {}", String::from_utf8_lossy(&read.stderr));
            let script = first_boot(install.as_ref(), rights);
            let read =
                std::process::Command::new("sh").args(["-n", "-c", &script]).output().expect("a shell");
            assert!(read.status.success(), "{script}: {}", String::from_utf8_lossy(&read.stderr));
        }
    }

    /// Runs what a first boot runs, with programs that only write down how they were called.
    fn boots(installer: &str) -> (bool, String) {
        let folder = tempfile::tempdir().expect("a folder");
        let calls = folder.path().join("calls");
        for (program, does) in [("apt-get", installer), ("systemctl", ""), ("sleep", "")] {
            let path = folder.path().join(program);
            let noted = format!("#!/bin/sh\necho {program} \"$@\" >> {}\n{does}\n", calls.display());
            std::fs::write(&path, noted).expect("a program");
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(&path, mode).expect("its mode");
        }
        let install = Install { base: None, file: "/a.deb", kind: Kind::Deb, sha256: None };
        let ran = std::process::Command::new("sh")
            .args(["-c", &first_boot(Some(&install), Rights { profile: Profile::Confined, units: &[] })])
            .env("PATH", format!("{}:/usr/bin:/bin", folder.path().display()))
            .output()
            .expect("a shell");
        (ran.status.success(), std::fs::read_to_string(calls).expect("calls"))
    }

    #[test]
    fn a_first_boot_installs_again_until_it_works_and_not_for_ever() {
        // The package manager's lock is held twice.
        let (went_well, calls) = boots(r#"[ "$(grep -c apt-get "${0%/*}/calls")" -gt 2 ]"#);
        assert!(went_well, "{calls}");
        assert_eq!(calls.matches("force-confold /a.deb").count(), 3, "{calls}");
        assert_eq!(calls.matches("sleep 30").count(), 2, "{calls}");
        assert!(calls.ends_with("systemctl enable --now --no-block stella-agent-enrol\n"), "{calls}");
        let (went_well, calls) = boots("false");
        assert!(!went_well && !calls.contains("systemctl"), "{calls}");
        assert_eq!(calls.matches("apt-get").count(), 20, "{calls}");
    }
}
