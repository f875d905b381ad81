//! The packages, on a host of its own with a real systemd: installed, configured, enrolled, deployed to, killed, without power,
//! upgraded and purged. Control plane and agent share the host; networks between hosts are the other tests' matter.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use stella_tests::host::Host;
use stella_tests::packaged::{STELLA, install, install_only, online, packages};
use stella_tests::{guide, wait};

/// A release that is brought there, and writes down that it ran.
const STEPS: &str = r#"[
  {"name": "install", "timeout_ms": 60000, "action": {"type": "artifact", "component": "web", "keep_releases": 3}},
  {"name": "run", "timeout_ms": 60000,
   "action": {"type": "command", "argv": ["sh", "-c", "cp web/current/version web/running"]}}
]"#;

#[test]
fn lintian_finds_nothing() -> Result<()> {
    for package in packages()? {
        let lintian = Command::new("lintian")
            .args(["--allow-root", "--fail-on", "error,warning"])
            .arg(&package)
            .output()?;
        let said = String::from_utf8_lossy(&lintian.stdout);
        ensure!(lintian.status.success(), "{}: {said}", package.display());
    }
    Ok(())
}

/// The files of a folder with this ending, at any depth.
fn files(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files(&path, ending, found)?;
        } else if path.extension().is_some_and(|it| it == ending) {
            found.push(path);
        }
    }
    Ok(())
}

/// On a host whose control plane is down, the book is what there is.
#[test]
fn the_services_bring_the_book_and_no_link_in_it_is_dead() -> Result<()> {
    for package in packages()? {
        let folder = tempfile::tempdir()?;
        let unpacked = Command::new("dpkg-deb").arg("-x").arg(&package).arg(folder.path()).status()?;
        ensure!(unpacked.success(), "{}", package.display());
        let docs = folder.path().join("usr/share/doc");
        let mut pages = Vec::new();
        files(&docs, "md", &mut pages)?;
        let name = package.display().to_string();
        ensure!(pages.len() > 60 || name.contains("/stella_"), "{name} has {} pages", pages.len());
        for page in pages {
            let text = fs::read_to_string(&page)?;
            for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
                let file = link.split('#').next().unwrap_or_default();
                let is_page = file.ends_with(".md") && !file.contains("://");
                let there = page.parent().context("a folder")?.join(file);
                ensure!(!is_page || there.is_file(), "{}: {link}", page.display());
            }
        }
        // What configuration files and units send people to.
        let mut texts = Vec::new();
        for ending in ["toml", "service", "conf"] {
            files(folder.path(), ending, &mut texts)?;
        }
        for text in texts.iter().map(fs::read_to_string) {
            let text = text?;
            for shared in ["usr/share/doc/stella", "usr/share/stella"] {
                let named = text.split(shared).skip(1).filter_map(|it| it.split_whitespace().next());
                for path in named.map(|it| it.trim_end_matches(['.', ';', ',', '`'])) {
                    ensure!(
                        folder.path().join(format!("{shared}{path}")).exists(),
                        "{name} has no {shared}{path}"
                    );
                }
            }
        }
    }
    Ok(())
}

/// The exposure that `systemd-analyze security` finds, from 0 (confined) to 10.
fn exposure(host: &Host, unit: &str) -> Result<f64> {
    let said = host.run(&format!("systemd-analyze security --no-pager {unit} | tail -n 1"))?;
    number(&said)
}

/// The verdict of `systemd-analyze security`.
fn number(said: &str) -> Result<f64> {
    let words = said.split("exposure level for").nth(1).with_context(|| format!("no verdict in {said:?}"))?;
    let number = words.split_whitespace().nth(1).with_context(|| format!("no number in {said:?}"))?;
    Ok(number.parse()?)
}

/// How exposed the units are by the page, each with the profile that is in force, if one was asked for.
fn exposures() -> Result<Vec<(String, Option<String>, f64)>> {
    let table = include_str!("../../docs/install.md").split_once("| unit | exposure |\n|---|---|\n");
    let rows = table.context("the page has no table")?.1.lines().take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        let [_, unit, stated, _] = row.split('|').map(str::trim).collect::<Vec<_>>()[..] else {
            anyhow::bail!("{row}");
        };
        let name = unit.split('`').nth(1).context("a unit")?.to_owned();
        Ok((name, unit.split('`').nth(3).map(str::to_owned), stated.parse()?))
    })
    .collect()
}

/// Units use nothing that the oldest systemd that is let in does not know, and everybody says the same of which one that is.
#[test]
fn every_place_names_the_same_oldest_systemd() -> Result<()> {
    let repo = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let read = |path: &str| fs::read_to_string(repo.join(path)).with_context(|| path.to_owned());
    for (path, before, after) in [
        ("docs/install.md", "need systemd ", " or newer"),
        ("agent/Cargo.toml", "$auto, systemd (>= ", ")"),
        ("control-plane/server/Cargo.toml", "$auto, systemd (>= ", ")"),
        ("packaging/rpm/stella-agent.requires", "Requires: systemd >= ", "\n"),
        ("packaging/rpm/stella-orchestrator.requires", "Requires: systemd >= ", "\n"),
        ("packaging/install.sh", "systemd_min=", "\n"),
    ] {
        let text = read(path)?;
        let number = text.split_once(before).and_then(|(_, rest)| rest.split_once(after));
        ensure!(number.is_some_and(|(number, _)| number == "249"), "{path} names no or another version");
    }
    let mut units = Vec::new();
    for ending in ["service", "timer", "conf"] {
        files(&repo.join("systemd"), ending, &mut units)?;
    }
    // Newer: the specifier for the folder of credentials (251), and a pace of restarts that grows (254).
    for unit in units {
        let text = fs::read_to_string(&unit)?;
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let is_newer = line.contains("%d") || line.starts_with("RestartSteps=");
            ensure!(!is_newer, "{}: {line}", unit.display());
        }
    }
    Ok(())
}

/// On an installed host the book is where the package puts it, and not in the folder of the sources.
#[test]
fn the_pages_that_programs_send_people_to_are_in_the_book() -> Result<()> {
    let repo = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut sources = Vec::new();
    for room in ["agent/src", "control-plane/server/src", "protocol/doctor/src"] {
        files(&repo.join(room), "rs", &mut sources)?;
    }
    let mut named = 0;
    for source in sources {
        let text = fs::read_to_string(&source)?;
        for page in text.split("{BOOK}/").skip(1).filter_map(|rest| rest.split_once(".md")) {
            let page = format!("docs/{}.md", page.0);
            ensure!(repo.join(&page).is_file(), "{} names {page}", source.display());
            named += 1;
        }
        let told = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        for line in told.filter(|line| line.contains("docs/") && line.contains(".md")) {
            ensure!(line.contains("CARGO_MANIFEST_DIR"), "{}: {line}", source.display());
        }
    }
    ensure!(named > 5, "only {named} pages are named");
    Ok(())
}

/// What a newer systemd may count that the one before did not.
const TOLERANCE: f64 = 0.1;

#[test]
fn units_are_as_confined_as_the_page_says() -> Result<()> {
    let repo = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let stated = exposures()?;
    let mut units = Vec::new();
    files(&repo.join("systemd"), "service", &mut units)?;
    for unit in &units {
        let name = unit.file_name().context("a name")?.to_string_lossy().into_owned();
        ensure!(stated.iter().any(|(known, ..)| *known == name), "the page does not state {name}");
    }
    let folder = tempfile::tempdir()?;
    for (name, profile, stated) in stated {
        let unit = folder.path().join(&name);
        fs::copy(repo.join("systemd").join(&name), &unit)?;
        let drop_ins = folder.path().join(format!("{name}.d"));
        if let Some(profile) = &profile {
            let file = format!("{profile}.conf");
            fs::create_dir_all(&drop_ins)?;
            fs::copy(repo.join("systemd/profiles").join(&file), drop_ins.join(&file))?;
        }
        let mut analyze = Command::new("systemd-analyze");
        let output = analyze.args(["security", "--offline=true", "--no-pager"]).arg(&unit).output()?;
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        let found = number(&said)?;
        ensure!((found - stated).abs() <= TOLERANCE, "{name}: the page says {stated}, systemd {found}");
        if profile.is_some() {
            fs::remove_dir_all(drop_ins)?;
        }
    }
    Ok(())
}

/// The id of the host's agent, as it knows it itself.
fn identity(host: &Host) -> Result<String> {
    host.run("stella-agent status --output json | grep agent_id")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_golden_image_enrols_at_its_first_boot_and_never_twice() -> Result<()> {
    let mut host = Host::boot("image").await?;
    install(&host)?;
    host.run("systemctl enable --now stella-orchestrator")?;
    host.run(&format!("{STELLA} tenant create acme"))?;
    // What an image is made with: a token that is good for many hosts, and both services enabled. Nothing is started.
    host.run(&format!("umask 077 && {STELLA} agent token --uses 100 --quiet > /etc/stella/enrolment"))?;
    host.run(
        "mkdir -p /etc/stella/agent.conf.d && echo 'server = \"localhost:7443\"' > /etc/stella/agent.conf.d/server.toml
         systemctl enable stella-agent stella-agent-enrol && systemd-analyze verify --man=no stella-agent-enrol.service",
    )?;
    host.cut_power().await?;
    online(&host).await?;
    let first = identity(&host)?;
    let status = host.run("stella-agent status")?;
    ensure!(status.contains("profile      confined"), "{status}");
    host.run("test ! -e /etc/stella/enrolment")?;
    ensure!(host.run("systemctl is-active stella-agent")? == "active\n");

    // A token on what is enrolled already, as power that was lost before the first one was deleted leaves it: it goes, and that is all.
    host.run(&format!("umask 077 && {STELLA} agent token --quiet > /etc/stella/enrolment"))?;
    host.cut_power().await?;
    online(&host).await?;
    assert_eq!(identity(&host)?, first);
    host.run("test ! -e /etc/stella/enrolment")?;
    let agents = host.run(&format!("{STELLA} agent list --output json"))?;
    assert_eq!(agents.matches("\"hostname\"").count(), 1, "{agents}");
    Ok(())
}

/// The commands of the book for a move, on two hosts that are both rebooted afterwards, as hosts are.
#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_that_has_moved_stays_on_the_new_host_when_both_are_rebooted() -> Result<()> {
    const PARTS: &str = "stella-orchestrator stella-backup.timer";
    let (mut old, mut new) = tokio::try_join!(Host::boot("old"), Host::boot("new"))?;
    for host in [&old, &new] {
        install_only(host, &["stella", "stella-orchestrator"])?;
    }
    old.run(&format!("systemctl enable --now {PARTS} && {STELLA} tenant create acme"))?;
    let moves = guide::blocks("disaster-recovery", "sh")?;
    let of = |begin: &str| moves.iter().find(|it| it.starts_with(begin)).with_context(|| begin.to_owned());
    old.run(of("systemctl disable --now")?)?;
    let backup = "var/backups/stella-moved.backup";
    new.put(&old.root().join(backup), backup)?;
    new.run(of("stella-orchestrator restore /var/backups/stella-moved.backup")?)?;
    for host in [&mut old, &mut new] {
        host.cut_power().await?;
    }
    assert_eq!(new.run(&format!("systemctl is-active {PARTS}"))?, "active\nactive\n");
    let tenants = new.run(&format!("{STELLA} tenant list"))?;
    ensure!(tenants.contains("acme"), "{tenants}");
    assert_eq!(old.run(&format!("systemctl is-active {PARTS} || true"))?, "inactive\ninactive\n");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_leaves_nothing_where_folders_are_mount_points_and_a_backup_is_being_taken() -> Result<()> {
    const MOUNTED: &str =
        "/var/lib/stella-orchestrator /var/lib/stella-backup /var/log/stella /var/lib/stella-agent";
    let host = Host::boot("mounts").await?;
    host.run(&format!("for folder in {MOUNTED}; do mkdir -p $folder && mount -t tmpfs none $folder; done"))?;
    install_only(&host, &["stella", "stella-orchestrator", "stella-agent"])?;
    host.run("systemctl enable --now stella-orchestrator")?;
    host.run(&format!(
        "{STELLA} tenant create acme && umask 077 && {STELLA} agent token --quiet > /root/token"
    ))?;
    host.run("stella-agent enrol --server localhost:7443 --token @/root/token")?;
    host.run(
        "mkdir -p /etc/systemd/system/stella-backup.service.d
         printf '[Service]\\nExecStart=\\nExecStart=/bin/sleep infinity\\n' > /etc/systemd/system/stella-backup.service.d/slow.conf
         systemctl daemon-reload && systemctl start --no-block stella-backup
         until pgrep -u stella-orchestrator -x sleep; do sleep 0.1; done",
    )?;
    host.run("dpkg --purge stella-agent stella-orchestrator stella")?;
    let left = host.run(&format!("find {MOUNTED} -mindepth 1"))?;
    ensure!(left.is_empty(), "left behind: {left}");
    let left = host.run("ls -d /etc/stella /etc/systemd/system/stella* 2>/dev/null || true")?;
    ensure!(left.is_empty(), "left behind: {left}");
    let user = host.run("getent passwd stella-orchestrator || true; pgrep -x sleep || true")?;
    ensure!(user.is_empty(), "{user}");
    Ok(())
}

async fn restarted(host: &Host, unit: &str, before: &str) -> Result<()> {
    wait::until(&format!("systemd has brought {unit} back"), async || {
        let now = host.run(&format!("systemctl show -P MainPID {unit}; systemctl is-active {unit}"))?;
        ensure!(now != before && now.ends_with("\nactive\n"), "{unit}: {now:?}");
        Ok(())
    })
    .await
}

/// The service feeds systemd's watchdog, and one that is stuck is replaced.
async fn watched(host: &Host, unit: &str) -> Result<()> {
    let drop_in = format!("/etc/systemd/system/{unit}.service.d");
    host.run(&format!(
        "mkdir -p {drop_in} && printf '[Service]\\nWatchdogSec=3s\\n' > {drop_in}/watchdog.conf
         systemctl daemon-reload && systemctl restart {unit}"
    ))?;
    let show = format!("systemctl show -P MainPID {unit}; systemctl is-active {unit}");
    let before = host.run(&show)?;
    wait::until(&format!("{unit} has lived for three times its watchdog's patience"), async || {
        let now = host.run(&show)?;
        ensure!(now == before, "it was {before:?} and is {now:?}");
        let since_boot = |property: &str| -> Result<u64> {
            Ok(host.run(&format!("systemctl show -P {property} {unit}"))?.trim().parse()?)
        };
        let active = since_boot("ActiveEnterTimestampMonotonic")?;
        let fed = since_boot("WatchdogTimestampMonotonic")?;
        ensure!(fed > active + 9_000_000, "fed at {fed} us, active since {active} us");
        Ok(())
    })
    .await?;
    host.run(&format!("systemctl kill --kill-who=main --signal=STOP {unit}"))?;
    restarted(host, unit, &before).await?;
    let result = host.run(&format!("journalctl -u {unit} | grep -c 'Watchdog timeout'"))?;
    ensure!(result.trim() == "1", "{result:?} watchdog time-outs");
    Ok(())
}

/// Secrets that the services' users may not read come from systemd.
fn handed_over(host: &Host) -> Result<()> {
    host.run("umask 077 && echo 'Authorization: Basic c3RlbGxh' > /etc/stella/collector-headers")?;
    for (unit, program) in [("stella-orchestrator", "orchestrator"), ("stella-agent", "agent")] {
        host.run(&format!(
            "install -D -m 0644 /usr/share/doc/{unit}/examples/credentials.conf /etc/systemd/system/{unit}.service.d/credentials.conf
             printf '[traces]\\nendpoint = \"http://127.0.0.1:4318\"\\n' > /etc/stella/{program}.conf.d/traces.toml
             systemctl daemon-reload && systemd-analyze verify --man=no {unit}.service
             systemctl restart {unit} || {{ journalctl --sync; journalctl -u {unit} -n 10 -o cat >&2; exit 1; }}"
        ))?;
        let said = host.run(&format!(
            "tr '\\0' '\\n' < /proc/$(systemctl show -P MainPID {unit})/environ | grep HEADERS_FILE=/run/credentials/{unit}.service/collector-headers
             journalctl --sync; journalctl -u {unit} -o cat | grep -i 'headers_file\\|collector-headers' || true"
        ))?;
        ensure!(said.lines().count() == 1, "{unit} has a complaint: {said}");
        host.run(&format!(
            "rm /etc/systemd/system/{unit}.service.d/credentials.conf /etc/stella/{program}.conf.d/traces.toml
             systemctl daemon-reload && systemctl restart {unit}"
        ))?;
    }
    host.run("rm /etc/stella/collector-headers").map(drop)
}

/// The timer takes backups under its confinement, of a control plane that runs and of one that is stopped.
fn backed_up(host: &Host) -> Result<()> {
    host.run("systemctl enable --now stella-backup.timer && systemctl is-active stella-backup.timer")?;
    let take = "systemctl start stella-backup || { journalctl --sync; journalctl -u stella-backup -n 20 -o cat >&2; exit 1; }";
    host.run(take)?;
    host.run(&format!(
        "systemctl stop stella-orchestrator && {take} && systemctl start stella-orchestrator"
    ))?;
    let taken = host.run("ls /var/lib/stella-backup")?;
    ensure!(taken.lines().count() == 2, "{taken}");
    host.run("for backup in /var/lib/stella-backup/*; do stella-orchestrator restore --check $backup; done")?;
    host.run("test $(stat -c %U:%a /var/lib/stella-backup) = stella-orchestrator:700")?;
    let figures = host.run("cat /var/lib/stella-orchestrator/last-backup.json")?;
    ensure!(figures.contains("taken_at"), "{figures}");
    // The control plane has their user, and its unit does not let it touch them.
    let touched = host.run(
        "nsenter -t $(systemctl show -P MainPID stella-orchestrator) -m touch /var/lib/stella-backup/planted 2>&1 || true",
    )?;
    ensure!(touched.contains("Read-only file system"), "{touched:?}");
    // One is kept.
    host.run(&format!(
        "mkdir -p /etc/systemd/system/stella-backup.service.d
         sed -n 's/--keep 7/--keep 1/; /^ExecStart=/{{s/^/[Service]\\nExecStart=\\n/;p}}' /usr/lib/systemd/system/stella-backup.service \
             > /etc/systemd/system/stella-backup.service.d/keep.conf
         systemctl daemon-reload; {take}"
    ))?;
    let left = host.run("ls /var/lib/stella-backup")?;
    ensure!(left.lines().count() == 1 && !taken.contains(left.trim()), "{taken}: {left}");
    Ok(())
}

fn deployed(host: &Host, version: &str) -> Result<()> {
    host.run(&format!(
        "mkdir -p /root/{version} && echo {version} > /root/{version}/version && tar -C /root/{version} -czf /root/{version}.tar.gz version"
    ))?;
    host.run(&format!(
        "{STELLA} release create web {version} --component web=/root/{version}.tar.gz --steps /root/steps.json"
    ))?;
    host.run(&format!("{STELLA} deploy web:{version} staging --wait"))?;
    let running = host.run("cat /srv/stella/web/running")?;
    ensure!(running.trim() == version, "{running:?} runs, not {version}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn packages_install_serve_survive_upgrade_and_leave_nothing() -> Result<()> {
    let mut host = Host::boot("packages").await?;
    install(&host)?;
    // Nothing is started that nobody has configured, and the units are sound and confined.
    host.run("systemd-analyze verify --man=no stella-backup.service stella-backup.timer")?;
    let enabled = host.run("systemctl is-enabled stella-backup.timer || true")?;
    ensure!(enabled.trim() == "disabled", "the timer is {enabled}");
    for unit in ["stella-orchestrator", "stella-agent"] {
        let state = host.run(&format!("systemctl is-active {unit} || true"))?;
        ensure!(state.trim() == "inactive", "{unit} is {state}");
        host.run(&format!("systemd-analyze verify --man=no {unit}.service"))?;
    }
    for (unit, _, stated) in exposures()?.into_iter().filter(|(_, profile, _)| profile.is_none()) {
        let found = exposure(&host, &unit)?;
        ensure!(found <= stated + TOLERANCE, "{unit} is exposed: {found}, and the page says {stated}");
    }
    // An agent that is not enrolled is left alone, not failed.
    host.run("systemctl start stella-agent")?;
    let state = host.run("systemctl is-active stella-agent || true")?;
    ensure!(state.trim() == "inactive", "an agent without an identity is {state}");

    host.run("systemctl enable --now stella-orchestrator")?;
    host.run(&format!("{STELLA} tenant create acme && {STELLA} env create staging"))?;
    host.run(&format!("umask 077 && {STELLA} agent token --name web-1 --quiet > /root/token"))?;
    host.run("stella-agent enrol --server localhost:7443 --token @/root/token")?;
    host.run("systemctl enable --now stella-agent")?;
    online(&host).await?;
    // What ships logs reads files, which the confined agent may write; its folder is not the control plane's.
    host.run(
        "mkdir -p /etc/stella/agent.conf.d /etc/stella/orchestrator.conf.d
         printf '[log]\\nfile = \"/var/log/stella-agent/agent.log\"\\n' > /etc/stella/agent.conf.d/log.toml
         printf '[log]\\nfile = \"/var/log/stella/orchestrator.log\"\\n' > /etc/stella/orchestrator.conf.d/log.toml
         systemctl restart stella-orchestrator stella-agent
         grep -q 'welcomed by the control plane' /var/log/stella-agent/agent.log
         grep -q agent.connected /var/log/stella/orchestrator.log
         test $(stat -c %U:%a /var/log/stella-agent) = root:750",
    )?;
    // The journal knows what is serious.
    host.run(
        "journalctl --sync; test -n \"$(journalctl -u stella-orchestrator -o cat -p 6..6 | grep '^{')\"",
    )?;
    // And whose lines they are, whatever their unit is called.
    for (program, name) in [("agent", "stella-agent"), ("control-plane", "stella-orchestrator")] {
        let line = host.run(&format!("journalctl STELLA_PROGRAM={program} -n 1 -o json"))?;
        ensure!(line.contains(&format!("\"SYSLOG_IDENTIFIER\":\"{name}\"")), "{program}: {line:?}");
    }
    let serious =
        host.run("journalctl -u stella-orchestrator -o cat -p 3 | grep '\"level\":\"info\"' || true")?;
    ensure!(serious.is_empty(), "{serious}");
    handed_over(&host)?;
    backed_up(&host)?;
    online(&host).await?;
    host.run(&format!("{STELLA} target create web-1 --env staging --agent web-1"))?;
    fs::write(host.root().join("root/steps.json"), STEPS)?;
    deployed(&host, "1.0.0")?;

    // The confined agent's tasks change nothing outside of their folder.
    let written =
        host.run("nsenter -t $(systemctl show -P MainPID stella-agent) -m touch /usr/planted 2>&1 || true")?;
    ensure!(written.contains("Read-only file system"), "{written:?}");

    for unit in ["stella-orchestrator", "stella-agent"] {
        let before = host.run(&format!("systemctl show -P MainPID {unit}; systemctl is-active {unit}"))?;
        host.run(&format!("systemctl kill --kill-who=main --signal=KILL {unit}"))?;
        restarted(&host, unit, &before).await?;
    }
    online(&host).await?;
    deployed(&host, "1.1.0")?;

    host.cut_power().await?;
    online(&host).await?;
    let state = host.run("systemctl is-active stella-orchestrator stella-agent")?;
    ensure!(state == "active\nactive\n", "{state:?}");
    deployed(&host, "1.2.0")?;

    // The same version again keeps what was configured, and starts what ran.
    host.run("echo '# by hand' >> /etc/stella/agent.toml")?;
    let before = host.run("systemctl show -P MainPID stella-agent; systemctl is-active stella-agent")?;
    host.run("DEBIAN_FRONTEND=noninteractive dpkg -i /root/*.deb")?;
    restarted(&host, "stella-agent", &before).await?;
    host.run("grep -q '# by hand' /etc/stella/agent.toml")?;
    online(&host).await?;
    deployed(&host, "1.3.0")?;

    watched(&host, "stella-orchestrator").await?;
    watched(&host, "stella-agent").await?;
    online(&host).await?;

    // Full rights are asked for by name.
    host.run(
        "install -D -m 0644 -t /etc/systemd/system/stella-agent.service.d \
             /usr/share/stella-agent/profiles/full.conf
         systemctl daemon-reload && systemctl restart stella-agent && systemd-analyze verify --man=no stella-agent.service
         nsenter -t $(systemctl show -P MainPID stella-agent) -m touch /usr/planted && rm /usr/planted",
    )?;
    // And not on a host that was enrolled as confined: whoever made its token has promised that.
    let shown = host.run(&format!("{STELLA} agent show web-1"))?;
    ensure!(shown.contains("runs        full") && shown.contains("refuses every task"), "{shown}");
    let refused = host.run(&format!("{STELLA} deploy web:1.2.0 staging --wait 2>&1 || true"))?;
    ensure!(refused.contains("was enrolled as confined"), "{refused}");
    host.run("grep -q 1.3.0 /srv/stella/web/running")?;

    // What an administrator has put there for the service stays, and its group's number may be another's soon.
    host.run(
        "install -d -m 0750 -g stella-orchestrator /etc/stella/tls
         install -m 0640 -g stella-orchestrator /dev/null /etc/stella/tls/web.key",
    )?;
    host.run("dpkg --purge stella-agent stella-orchestrator stella")?;
    assert_eq!(host.run("stat -c %G /etc/stella/tls /etc/stella/tls/web.key")?, "root\nroot\n");
    host.run("rm -r /etc/stella")?;
    // Backups outlive the control plane, and are no longer of a user whose number somebody else may get.
    host.run("test $(stat -c %U:%a /var/lib/stella-backup) = root:700")?;
    ensure!(host.run("stat -c %U:%a /var/lib/stella-backup/*.backup")? == "root:600\n");
    host.run("rm -r /var/lib/stella-backup")?;
    let left = host.run("find / -xdev -name '*stella*' -not -path '/proc/*' -not -path '/root/*' -not -path '/srv/stella*' -not -path '/var/cache/*'")?;
    ensure!(left.is_empty(), "left behind:\n{left}");
    let left = host.run("ls -A /etc/stella 2>/dev/null || true")?;
    ensure!(left.is_empty(), "a host that is installed again would be configured by:\n{left}");
    let user = host.run("getent passwd stella-orchestrator || true")?;
    ensure!(user.is_empty(), "{user}");
    // What was deployed may serve users at this moment.
    host.run("grep -q 1.3.0 /srv/stella/web/running")?;

    // Where images are made no systemd runs, and units are enabled all the same.
    host.run(
        "unshare --mount sh -ec 'mount -t tmpfs none /run/systemd
             dpkg -i /root/stella-agent_*.deb /root/stella-orchestrator_*.deb
             systemctl enable stella-agent stella-agent-enrol stella-orchestrator stella-backup.timer
             dpkg --remove stella-agent stella-orchestrator'",
    )?;
    let dangling = host.run("find /etc/systemd/system -xtype l -name 'stella*'")?;
    ensure!(dangling.is_empty(), "units are enabled that are gone: {dangling}");
    Ok(())
}
