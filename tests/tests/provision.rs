//! Hosts that are provisioned: by real cloud-init with user data, by the printed line, and by real Ansible with the role of the package.
//! Each host is its own control plane; networks between hosts are the other tests' matter.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use stella_tests::host::Host;
use stella_tests::packaged::{STELLA, install_only, online, package};
use stella_tests::wait;

/// As Debian and Ubuntu mount it: what is written there cannot be run.
const NOEXEC: &str = "[Unit]\nDefaultDependencies=no\nBefore=sysinit.target\n\n\
     [Service]\nType=oneshot\nExecStart=/bin/mount -o remount,noexec /run\n\n[Install]\nWantedBy=sysinit.target\n";
/// Where the agent's package is on the host.
const PACKAGE: &str = "/root/stella-agent_1.deb";

/// A host with a control plane, and with the agent's package as a file.
async fn host(name: &str) -> Result<Host> {
    let host = Host::boot_for_provisioning(name).await?;
    install_only(&host, &["stella", "stella-orchestrator"])?;
    host.put(&package("stella-agent")?, PACKAGE)?;
    host.run("systemctl enable --now stella-orchestrator")?;
    host.run(&format!("{STELLA} tenant create acme"))?;
    Ok(host)
}

/// Gives the host user data, as the cloud of an instance that boots for the first time.
async fn boot_with(host: &mut Host, instance: &str, user_data: &str) -> Result<()> {
    let root = host.root();
    let seed = root.join("var/lib/cloud/seed/nocloud");
    fs::create_dir_all(&seed)?;
    fs::write(seed.join("meta-data"), format!("instance-id: {instance}\n"))?;
    fs::write(seed.join("user-data"), user_data)?;
    fs::write(
        root.join("etc/cloud/cloud.cfg.d/99-tests.cfg"),
        "datasource_list: [NoCloud]\nnetwork: {config: disabled}\n",
    )?;
    host.cut_power().await
}

/// What cloud-init said, for a test that fails.
fn cloud_init(host: &Host) -> String {
    let look = "cloud-init status --long; tail -n 40 /var/log/cloud-init-output.log; systemctl status --no-pager 'stella-agent*'";
    host.run(&format!("({look}) 2>&1 || true")).unwrap_or_default()
}

/// That the host is an agent of this profile, and that no token is left.
fn enrolled(host: &Host, profile: &str) -> Result<()> {
    let status = host.run("stella-agent status")?;
    ensure!(status.contains(&format!("profile      {profile}")), "{status}");
    let states = host.run("systemctl is-enabled stella-agent; systemctl is-active stella-agent")?;
    assert_eq!(states, "enabled\nactive\n");
    host.run("test ! -e /etc/stella/enrolment").map(drop)
}

/// That tasks act on these units only, and that nothing but the agent and `systemctl` is executed there.
fn names_units(host: &Host, units: &str) -> Result<()> {
    let found = host.run("stella-agent doctor || true")?;
    ensure!(found.contains(units), "{found}");
    host.run("! nsenter -t $(systemctl show -P MainPID stella-agent) -m /bin/sh -c true 2>&1").map(drop)
}

/// Takes the agent away for good, on the host and for its control plane.
fn forget(host: &Host) -> Result<()> {
    host.run(&format!(
        "name=$({STELLA} agent list --output json | grep -m 1 '\"name\"' | cut -d '\"' -f 4)
         dpkg --purge stella-agent && {STELLA} agent revoke \"$name\" --reason 'the test goes on'"
    ))
    .map(drop)
}

/// The command for a token that a shipped file names. Images and vaults are older than an hour when their tokens are used.
fn token_command(shipped: &str) -> Result<String> {
    let command = shipped.split('`').find_map(|it| it.strip_prefix("stella agent token "));
    let flags = command.context("it names no command for a token")?;
    ensure!(flags.contains("--expires-in 30d"), "{flags}: its token is good for an hour");
    Ok(format!("{STELLA} agent token {}", flags.replace('N', "1")))
}

#[tokio::test(flavor = "multi_thread")]
async fn user_data_makes_an_agent_also_if_the_control_plane_is_away_at_first() -> Result<()> {
    let mut host = host("user-data").await?;
    fs::write(host.root().join("etc/systemd/system/noexec.service"), NOEXEC)?;
    let again = host.root().join("etc/systemd/system/stella-agent-enrol.service.d");
    fs::create_dir_all(&again)?;
    fs::write(again.join("soon.conf"), "[Service]\nRestartSec=1s\n")?;
    let printed = format!("{STELLA} agent enrol-command --as cloud-init --profile full --package {PACKAGE}");
    let printed = host.run(&printed)?;
    host.run("systemctl enable noexec && systemctl disable stella-orchestrator")?;
    boot_with(&mut host, "one", &printed).await?;
    host.run("findmnt -no OPTIONS /run | grep -w noexec")?;
    wait::until("the first try has failed, and another one follows", async || {
        let tries = host.run("systemctl show -P NRestarts stella-agent-enrol")?;
        ensure!(tries.trim().parse::<u32>()? > 0, "{tries:?}\n{}", cloud_init(&host));
        Ok(())
    })
    .await?;
    ensure!(host.run("stella-agent status").is_err(), "it is enrolled without a control plane");
    host.run("systemctl start stella-orchestrator")?;
    online(&host).await.with_context(|| cloud_init(&host))?;
    enrolled(&host, "full")?;
    let said = host
        .run("nsenter -t $(systemctl show -P MainPID stella-agent) -m touch /usr/by-the-agent && ls /usr")?;
    ensure!(said.contains("by-the-agent"), "it does not run as full: {said}");

    // The file for an image that has the package, with what its first lines ask for written in.
    forget(&host)?;
    host.run(&format!("dpkg -i {PACKAGE} && systemctl enable stella-orchestrator"))?;
    let left = host.run("ls /etc/systemd/system")?;
    ensure!(!left.contains("stella-agent"), "a purge leaves drop-ins: {left}");
    let shipped = host.run("cat /usr/share/stella/provision/cloud-init.yaml")?;
    let token = host.run(&token_command(&shipped)?)?;
    let shipped = shipped.replace("stella.example.com", "localhost").replace("TOKEN", token.trim());
    boot_with(&mut host, "two", &shipped).await?;
    online(&host).await.with_context(|| cloud_init(&host))?;
    enrolled(&host, "confined")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_printed_line_and_the_role_make_agents_and_a_second_time_changes_nothing() -> Result<()> {
    let host = host("provision").await?;
    let line = host.run(&format!("{STELLA} agent enrol-command --uses 2 --package {PACKAGE}"))?;
    let said = host.run(&line)?;
    ensure!(said.contains("enrolled as agent"), "{said}");
    online(&host).await?;
    enrolled(&host, "confined")?;
    ensure!(host.run(&line)?.contains("already enrolled"), "a second time");
    forget(&host)?;

    // A host whose tasks act on named units only, by the line and by the role.
    let line =
        format!("{STELLA} agent enrol-command --package {PACKAGE} --unit web.service --unit 'web@*.service'");
    let line = host.run(&line)?;
    host.run(&line)?;
    online(&host).await?;
    names_units(&host, "web.service, web@*.service")?;

    let defaults =
        host.run("cat /usr/share/stella/provision/ansible/roles/stella_agent/defaults/main.yml")?;
    host.run(&format!(
        "umask 077 && echo \"stella_agent_token: $({} --profile full)\" > /root/vault.yml",
        token_command(&defaults)?
    ))?;
    let play = |profile: &str| {
        host.run(&format!(
            "cd /usr/share/stella/provision/ansible && ANSIBLE_BECOME_METHOD=su ansible-playbook -i localhost, -c local playbook.yml \
             -e stella_agent_package={PACKAGE} -e stella_agent_server=localhost:7443 -e @/root/vault.yml {profile}"
        ))
    };
    // On the host of named units, the role names others, once.
    let named = "-e '{\"stella_agent_units\": [\"other.service\"]}'";
    let said = play(named)?;
    ensure!(said.contains("failed=0"), "{said}");
    wait::until("the agent knows the units that the role has named", async || {
        names_units(&host, "other.service")
    })
    .await?;
    let said = play(named)?;
    ensure!(said.contains("changed=0") && said.contains("failed=0"), "{said}");
    online(&host).await?;
    forget(&host)?;

    // A host that is to be less than its token is for is not enrolled.
    ensure!(play("-e stella_agent_profile=confined").is_err(), "it was enrolled all the same");
    ensure!(host.run("stella-agent status").is_err(), "it was enrolled all the same");
    let said = play("")?;
    ensure!(said.contains("failed=0"), "{said}");
    ensure!(!said.contains("stella-enrol-"), "the token is shown: {said}");
    wait::until("the role's agent is online", async || {
        let agents = host.run(&format!("{STELLA} agent list"))?;
        ensure!(agents.contains("online"), "{agents}");
        Ok(())
    })
    .await?;
    enrolled(&host, "full")?;
    let before = host
        .run("stella-agent status --output json | grep agent_id; systemctl show -P MainPID stella-agent")?;
    let said = play("")?;
    ensure!(said.contains("changed=0") && said.contains("failed=0"), "{said}");
    let after = host
        .run("stella-agent status --output json | grep agent_id; systemctl show -P MainPID stella-agent")?;
    assert_eq!(before, after);

    // Another system, with a package manager that only writes down how it was called; and one that nobody has thought of.
    host.run("printf '#!/bin/sh\\necho \"$@\" >> /root/zypper.log\\n' > /usr/bin/zypper && chmod +x /usr/bin/zypper")?;
    let system =
        |lines: &str| host.run(&format!("rm -f /etc/os-release && printf '{lines}' > /etc/os-release"));
    system(
        "NAME=\"openSUSE Leap\"\\nID=\"opensuse-leap\"\\nVERSION_ID=\"15.6\"\\nPRETTY_NAME=\"openSUSE Leap 15.6\"\\n",
    )?;
    play("")?;
    let called = host.run("cat /root/zypper.log")?;
    assert_eq!(called.trim(), format!("--non-interactive install --allow-unsigned-rpm {PACKAGE}"));
    system("NAME=\"Arch Linux\"\\nID=arch\\nPRETTY_NAME=\"Arch Linux\"\\n")?;
    let refused = format!("{:#}", play("").err().context("it went on")?);
    ensure!(refused.contains("install the agent from the archive"), "{refused}");
    Ok(())
}
