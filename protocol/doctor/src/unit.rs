//! The unit of a program, as systemd sees it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::{Findings, run};

/// Systemd has said nothing longer than this about a unit yet, in bytes.
const SHOWN_BYTES_MAX: usize = 64 * 1024;
const PROPERTIES: &str = "LoadState,ActiveState,SubState,UnitFileState,Result,NRestarts,MainPID,DropInPaths,\
     ExecMainStatus,PrivateUsers,\
     NeedDaemonReload,ConditionResult,Delegate,ControlGroup,\
     ConditionTimestampMonotonic,ProtectSystem,ReadWritePaths,SupplementaryGroups";

/// A unit.
#[derive(Clone, Debug)]
pub struct Unit {
    name: String,
    properties: BTreeMap<String, String>,
}

/// Whether systemd runs this host.
#[must_use]
pub fn is_systemd() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

impl Unit {
    /// Asks systemd about a unit; `None` if it does not run this host, or does not answer.
    #[must_use]
    pub fn ask(name: &str) -> Option<Self> {
        if !is_systemd() {
            return None;
        }
        let shown =
            run(&["systemctl", "show", "--property", PROPERTIES, "--", name], SHOWN_BYTES_MAX).ok()?;
        shown.status.success().then(|| Self::parse(name, &shown.out))
    }

    fn parse(name: &str, shown: &str) -> Self {
        let pairs = shown.lines().filter_map(|line| line.split_once('='));
        let properties = pairs.map(|(key, value)| (key.to_owned(), value.trim().to_owned())).collect();
        Self { name: name.to_owned(), properties }
    }

    fn get(&self, property: &str) -> &str {
        self.properties.get(property).map_or("", String::as_str)
    }

    /// Its main process, if it has one.
    #[must_use]
    pub fn main_pid(&self) -> Option<u32> {
        self.get("MainPID").parse().ok().filter(|pid| *pid > 0)
    }

    /// The files that change it.
    #[must_use]
    pub fn drop_ins(&self) -> Vec<PathBuf> {
        self.get("DropInPaths").split_whitespace().map(PathBuf::from).collect()
    }

    /// The folders that the unit may write to; `None` if it may write everywhere.
    #[must_use]
    pub fn confined_to(&self) -> Option<Vec<PathBuf>> {
        let paths = self.get("ReadWritePaths").split_whitespace();
        // Its own control group is no part of the system that a task could change.
        let paths = paths
            .map(|path| path.trim_start_matches(['-', '+']))
            .filter(|path| !path.starts_with("/sys/fs/cgroup/"));
        (self.get("ProtectSystem") == "strict").then(|| paths.map(PathBuf::from).collect())
    }

    /// The groups that the unit gives its processes beside those of its user.
    #[must_use]
    pub fn supplementary_groups(&self) -> Vec<&str> {
        self.get("SupplementaryGroups").split_whitespace().collect()
    }

    /// Whether it may make control groups below its own.
    #[must_use]
    pub fn delegates(&self) -> bool {
        self.get("Delegate") == "yes"
    }

    /// Where its control group is in the hierarchy, if it has one.
    #[must_use]
    pub fn control_group(&self) -> Option<&str> {
        Some(self.get("ControlGroup")).filter(|group| !group.is_empty())
    }

    /// Whether it runs.
    #[must_use]
    pub fn is_active(&self) -> bool {
        matches!(self.get("ActiveState"), "active" | "reloading")
    }

    /// Whether systemd knows it.
    #[must_use]
    pub fn is_loaded(&self) -> bool {
        self.get("LoadState") == "loaded"
    }

    /// Tells how it is.
    pub fn tell(&self, findings: &mut Findings) {
        const CHECK: &str = "service";
        let name = &self.name;
        let (active, sub) = (self.get("ActiveState"), self.get("SubState"));
        let look = match self.lacks_user_namespaces() {
            false => format!("journalctl -u {name} -n 50 --no-pager"),
            true => format!(
                "if `sysctl user.max_user_namespaces` is 0: mkdir -p /etc/systemd/system/{name}.d && printf '[Service]\\nPrivateUsers=no\\n' \
                 > /etc/systemd/system/{name}.d/users.conf && systemctl daemon-reload && systemctl restart {name}"
            ),
        };
        match (self.get("LoadState"), active) {
            ("not-found", _) => findings.warn(
                CHECK,
                format!("systemd has no unit {name}: nothing starts it at boot"),
                "install the package, or a unit of your own",
            ),
            ("masked", _) => findings.fail(
                CHECK,
                format!("{name} is masked: systemd must not start it"),
                format!("systemctl unmask {name}"),
            ),
            ("loaded", "active" | "reloading") => self.tell_of_active(findings, CHECK),
            ("loaded", "activating") if sub == "auto-restart" => {
                let detail = format!(
                    "{name} ends at once ({}) and is started again: {} times so far",
                    self.get("Result"),
                    self.get("NRestarts")
                );
                findings.fail(CHECK, detail, look);
            }
            ("loaded", "activating") => {
                findings.warn(CHECK, format!("{name} is starting ({sub}), and not ready yet"), look)
            }
            ("loaded", "failed") => findings.fail(
                CHECK,
                format!("{name} has failed ({})", self.get("Result")),
                format!("{look}; then: systemctl reset-failed {name} && systemctl start {name}"),
            ),
            ("loaded", _) if self.has_unmet_condition() => findings.warn(
                CHECK,
                format!("{name} was not started: a condition of its unit is not met"),
                format!("systemctl status {name} says which"),
            ),
            ("loaded", _) => findings.warn(
                CHECK,
                format!("{name} does not run ({active})"),
                format!("systemctl enable --now {name}"),
            ),
            (load, _) => findings.fail(
                CHECK,
                format!("systemd cannot load {name} ({load})"),
                format!("systemd-analyze verify {name}"),
            ),
        }
    }

    /// Whether it may be that its process was not started because it is to have a user namespace, and the host has switched those off.
    fn lacks_user_namespaces(&self) -> bool {
        // 217/USER, of systemd.exec(5).
        self.get("PrivateUsers") == "yes" && self.get("ExecMainStatus") == "217"
    }

    /// A unit that nobody has started has no result, and says `no`.
    fn has_unmet_condition(&self) -> bool {
        self.get("ConditionResult") == "no" && !matches!(self.get("ConditionTimestampMonotonic"), "" | "0")
    }

    fn tell_of_active(&self, findings: &mut Findings, check: &'static str) {
        let name = &self.name;
        let detail =
            format!("{name} is active, process {}, {} restarts", self.get("MainPID"), self.get("NRestarts"));
        if self.get("NeedDaemonReload") == "yes" {
            let remedy = format!("systemctl daemon-reload && systemctl restart {name}");
            findings.warn(check, format!("{detail}; its unit was changed and not read again"), remedy);
        } else if matches!(self.get("UnitFileState"), "disabled" | "indirect") {
            findings.warn(
                check,
                format!("{detail}; it is not started at boot"),
                format!("systemctl enable {name}"),
            );
        } else {
            findings.ok(check, detail);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Verdict;

    fn told(shown: &str) -> (Verdict, String) {
        let mut findings = Findings::default();
        Unit::parse("x.service", shown).tell(&mut findings);
        let [check] = findings.checks() else { panic!("{findings:?}") };
        (check.verdict, check.remedy.clone().unwrap_or_default())
    }

    #[test]
    fn each_state_of_a_unit_has_its_verdict() {
        let active = "LoadState=loaded\nActiveState=active\nSubState=running\nMainPID=7\nNRestarts=0\n";
        let unit = Unit::parse("x.service", &format!("{active}DropInPaths=/etc/a.conf /run/b.conf\n"));
        assert_eq!(unit.main_pid(), Some(7));
        assert_eq!(unit.drop_ins(), [Path::new("/etc/a.conf"), Path::new("/run/b.conf")]);
        assert!(unit.is_active() && unit.is_loaded() && unit.confined_to().is_none());
        let shown = "ProtectSystem=strict\nReadWritePaths=-/srv/a /srv/b -/sys/fs/cgroup/system.slice/x.service\nDelegate=yes\nControlGroup=/system.slice/x.service\n";
        let strict = Unit::parse("x.service", shown);
        assert!(strict.delegates() && !unit.delegates());
        let shown = "SupplementaryGroups=ssl-cert keys\n";
        assert_eq!(Unit::parse("x.service", shown).supplementary_groups(), ["ssl-cert", "keys"]);
        assert!(unit.supplementary_groups().is_empty());
        assert_eq!((strict.control_group(), unit.control_group()), (Some("/system.slice/x.service"), None));
        assert_eq!(strict.confined_to().unwrap(), [Path::new("/srv/a"), Path::new("/srv/b")]);
        for (shown, verdict, remedy) in [
            (format!("{active}UnitFileState=enabled\n"), Verdict::Ok, ""),
            (format!("{active}UnitFileState=disabled\n"), Verdict::Warn, "systemctl enable x"),
            (format!("{active}NeedDaemonReload=yes\n"), Verdict::Warn, "daemon-reload"),
            ("LoadState=not-found\nActiveState=inactive\n".into(), Verdict::Warn, "install"),
            ("LoadState=masked\nActiveState=inactive\n".into(), Verdict::Fail, "unmask"),
            ("LoadState=loaded\nActiveState=inactive\n".into(), Verdict::Warn, "enable --now"),
            (
                "LoadState=loaded\nActiveState=inactive\nConditionResult=no\nConditionTimestampMonotonic=7\n"
                    .into(),
                Verdict::Warn,
                "systemctl status",
            ),
            (
                "LoadState=loaded\nActiveState=inactive\nConditionResult=no\nConditionTimestampMonotonic=0\n"
                    .into(),
                Verdict::Warn,
                "enable --now",
            ),
            ("LoadState=loaded\nActiveState=failed\nResult=exit-code\n".into(), Verdict::Fail, "journalctl"),
            (
                "LoadState=loaded\nActiveState=activating\nSubState=auto-restart\n".into(),
                Verdict::Fail,
                "journalctl",
            ),
            (
                "LoadState=loaded\nActiveState=activating\nSubState=auto-restart\nExecMainStatus=217\nPrivateUsers=yes\n"
                    .into(),
                Verdict::Fail,
                "PrivateUsers=no",
            ),
            ("LoadState=loaded\nActiveState=activating\nSubState=start\n".into(), Verdict::Warn, "journal"),
            ("LoadState=bad-setting\nActiveState=inactive\n".into(), Verdict::Fail, "verify"),
            (String::new(), Verdict::Fail, "verify"),
        ] {
            let (found, what) = told(&shown);
            assert_eq!(found, verdict, "{shown}");
            assert!(what.contains(remedy), "{shown}: {what}");
        }
    }
}
