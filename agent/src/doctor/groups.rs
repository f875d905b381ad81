//! Whether each task has a control group of its own, and its limits hold.

use std::fs;
use std::path::Path;

use nix::unistd::{AccessFlags, access};
use stella_doctor::Findings;
use stella_doctor::unit::Unit;

use crate::config::Config;

use super::UNIT;

const CHECK: &str = "task groups";
const HIERARCHY: &str = "/sys/fs/cgroup";

/// Looks at the group that the unit delegates, as the running agent sees it.
pub(super) fn look(config: &Config, unit: &Unit, findings: &mut Findings) {
    if !unit.delegates() {
        let detail = "its unit does not delegate its control group: a process that hides from its task may be missed, and no limit holds";
        return findings.warn(CHECK, detail, "install the package's unit again, or see Delegate= in it");
    }
    let (Some(pid), Some(group)) = (unit.main_pid().filter(|_| unit.is_active()), unit.control_group())
    else {
        return findings.ok(CHECK, "its unit delegates its control group; the agent does not run now");
    };
    let below = Path::new(HIERARCHY).join(group.trim_start_matches('/'));
    let seen =
        Path::new("/proc").join(pid.to_string()).join("root").join(below.strip_prefix("/").unwrap_or(&below));
    if !seen.join("cgroup.procs").exists() {
        let detail = format!(
            "the host has no cgroup v2 hierarchy at {HIERARCHY}: tasks are told apart by parents and environment"
        );
        return findings.warn(CHECK, detail, "boot the host with systemd.unified_cgroup_hierarchy=1");
    }
    if let Err(error) = access(&seen, AccessFlags::W_OK) {
        let detail = format!("{} cannot be written to by the service: {}", below.display(), error.desc());
        let remedy = format!("give the unit ReadWritePaths={}: systemctl edit {UNIT}", below.display());
        return findings.warn(CHECK, detail, remedy);
    }
    let there = fs::read_to_string(below.join("cgroup.controllers")).unwrap_or_default();
    let needed = config.limits.controllers();
    let missing: Vec<_> =
        needed.iter().filter(|name| !there.split_whitespace().any(|it| it == **name)).copied().collect();
    if !missing.is_empty() {
        let detail = format!(
            "each task has one, but limits in [tasks] do not hold: the host does not give these controllers: {}",
            missing.join(", ")
        );
        return findings.warn(
            CHECK,
            detail,
            format!("cat {HIERARCHY}/cgroup.controllers; a hierarchy of cgroup v1 may have them"),
        );
    }
    let limits = if needed.is_empty() { "without limits" } else { "with the limits of [tasks]" };
    findings.ok(CHECK, format!("each task has one, {limits}"));
}
