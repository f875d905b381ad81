//! The hosts, and who asks them.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use stella_tests::host::Host;
use stella_tests::network::{Cable, Network};
use stella_tests::packaged::install_only;
use stella_tests::{binaries, wait};
use tempfile::TempDir;

/// What an installed command line needs to know.
const STELLA: &str = "STELLA_URL=https://localhost:8443 STELLA_CA=/var/lib/stella-orchestrator/pki/roots.crt \
     STELLA_TOKEN_FILE=/var/lib/stella-orchestrator/admin-token STELLA_TENANT=acme stella";
/// Longer than a lost agent takes to be noticed, and to come back.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// What hosts and releases are made of, and what is done to them: the book's.
const WEB_SERVICE: &str = include_str!("../../../docs/guides/web-service.md");
pub(crate) const BLUE_GREEN: &str = include_str!("../../../docs/guides/blue-green.md");

fn guide(after: &str) -> Result<&'static str> {
    block(WEB_SERVICE, after)
}

/// The first block of code after a text of a guide.
pub(crate) fn block(guide: &'static str, after: &str) -> Result<&'static str> {
    let (_, rest) = guide.split_once(after).with_context(|| format!("the guide does not say {after:?}"))?;
    let mut parts = rest.split("```").skip(1);
    let block = parts.next().and_then(|block| block.split_once('\n'));
    Ok(block.with_context(|| format!("no code after {after:?}"))?.1)
}

/// The guide's steps with one between them that lets a test be in the middle.
fn steps() -> Result<String> {
    let mut steps: Vec<serde_json::Value> = serde_json::from_str(guide("`steps.json`")?)?;
    let hold = r#"{"name": "hold", "timeout_ms": 120000, "action": {"type": "command",
        "argv": ["sh", "-c", "echo held >> held; while [ -e hold ]; do sleep 0.1; done"]}}"#;
    steps.insert(1, serde_json::from_str(hold)?);
    Ok(serde_json::to_string(&steps)?)
}

/// The hosts, in the order of their addresses.
pub(crate) struct Fleet {
    pub(crate) control_plane: Host,
    pub(crate) web: [Host; 2],
    pub(crate) cables: [Cable; 2],
    _network: Network,
}

pub(crate) fn serve_with(host: &Host, site: &str) -> Result<()> {
    fs::write(host.root().join("etc/nginx/sites-available/default"), site)?;
    host.run("systemctl restart nginx").map(drop)
}

impl Fleet {
    /// Three hosts from the packages: a control plane with the guide's balancer, and two agents, online.
    pub(crate) async fn boot(name: &str) -> Result<Self> {
        let names = [name.to_owned(), format!("{name}-web-1"), format!("{name}-web-2")];
        let (control_plane, one, two) =
            tokio::try_join!(Host::boot(&names[0]), Host::boot(&names[1]), Host::boot(&names[2]))?;
        let mut network = Network::make(&format!("{name}-net"))?;
        network.connect(&control_plane)?;
        let cables = [network.connect(&one)?, network.connect(&two)?];
        let fleet = Self { control_plane, web: [one, two], cables, _network: network };
        install_only(&fleet.control_plane, &["stella", "stella-orchestrator"])?;
        fleet.control_plane.run("systemctl enable --now stella-orchestrator")?;
        fleet.stella("tenant create acme")?;
        for number in [1, 2] {
            fleet.enrol(number).await?;
        }
        serve_with(&fleet.control_plane, guide("on the load balancer")?)?;
        Ok(fleet)
    }

    /// The same with the web service of the guide, deployed.
    pub(crate) async fn with_web_service() -> Result<Self> {
        let fleet = Self::boot("fleet").await?;
        for host in &fleet.web {
            fs::write(
                host.root().join("etc/systemd/system/web.service"),
                guide("`/etc/systemd/system/web.service`")?,
            )?;
            fs::write(
                host.root().join("etc/nginx/sites-available/default"),
                guide("nginx stands in front")?,
            )?;
            host.run(guide("proxy_pass http://127.0.0.1:8080; }\n}\n```")?)?;
        }
        // The first release is the guide's own, word by word.
        fleet.archive("1.0.0", false)?;
        fs::write(fleet.control_plane.root().join("root/steps.json"), guide("`steps.json`")?)?;
        for line in guide("with that version's own steps")?.lines() {
            let arguments =
                line.strip_prefix("stella ").with_context(|| format!("{line:?} is no command"))?;
            fleet.stella(arguments)?;
        }
        fleet.both_serve("1.0.0")?;
        fs::write(fleet.control_plane.root().join("root/steps.json"), steps()?)?;
        Ok(fleet)
    }

    /// Installs an agent, and tells how long that takes.
    async fn enrol(&self, number: usize) -> Result<()> {
        let host = &self.web[number - 1];
        let token = self.stella(&format!("agent token --name web-{number} --quiet"))?;
        let begun = Instant::now();
        install_only(host, &["stella-agent"])?;
        fs::write(host.root().join("root/token"), token.trim())?;
        host.run("chmod 600 /root/token && stella-agent enrol --server 10.77.0.1:7443 --token @/root/token")?;
        host.run("systemctl enable --now stella-agent")?;
        self.connectivity(number, "online").await?;
        let size = host.run("dpkg-query -W -f '${Installed-Size}' stella-agent")?;
        println!("web-{number}: online {:?} after dpkg -i, {size} KiB on disk", begun.elapsed());
        Ok(())
    }

    pub(crate) fn stella(&self, arguments: &str) -> Result<String> {
        self.control_plane.run(&format!("cd /root && {STELLA} {arguments}"))
    }

    pub(crate) async fn connectivity(&self, number: usize, wanted: &str) -> Result<()> {
        wait::until_within(PATIENCE, &format!("web-{number} is {wanted}"), async || {
            let agents: serde_json::Value = serde_json::from_str(&self.stella("agent list --output json")?)?;
            let name = format!("web-{number}");
            let agent = agents.as_array().into_iter().flatten().find(|agent| agent["name"] == name.as_str());
            let is = agent.context("no such agent")?["connectivity"].clone();
            ensure!(is == wanted, "it is {is}");
            Ok(())
        })
        .await
    }

    /// An archive of the web service; a broken one is never well.
    pub(crate) fn archive(&self, version: &str, broken: bool) -> Result<()> {
        let root = self.control_plane.root();
        let folder = root.join("root").join(version);
        fs::create_dir_all(folder.join("bin"))?;
        fs::copy(binaries::path("stella-demo-web")?, folder.join("bin/demo-web"))?;
        fs::write(folder.join("VERSION"), version)?;
        if broken {
            fs::write(folder.join("BROKEN"), "")?;
        }
        let archive = format!("tar -C /root/{version} -czf /root/{version}.tar.gz .");
        self.control_plane.run(&archive).map(drop)
    }

    /// Registers a release with the steps that lie in `steps.json`.
    pub(crate) fn release(&self, version: &str, broken: bool) -> Result<()> {
        self.archive(version, broken)?;
        let create =
            format!("release create web {version} --component web={version}.tar.gz --steps steps.json");
        self.stella(&create).map(drop)
    }

    /// Begins a deployment; its id.
    pub(crate) fn begin(&self, version: &str) -> Result<String> {
        let asked = self.stella(&format!("deploy web:{version} production --output json"))?;
        let asked: serde_json::Value = serde_json::from_str(&asked)?;
        Ok(asked["id"].as_str().context("no id")?.to_owned())
    }

    /// A deployment that has to succeed.
    pub(crate) async fn succeeds(&self, deployment: &str) -> Result<()> {
        self.ends(deployment, "succeeded").await
    }

    pub(crate) async fn ends(&self, deployment: &str, wanted: &str) -> Result<()> {
        wait::until_within(PATIENCE, &format!("the deployment has {wanted}"), async || {
            let shown = self.stella(&format!("deployment show {deployment} --output json"))?;
            let shown: serde_json::Value = serde_json::from_str(&shown)?;
            ensure!(shown["status"] == wanted, "{shown}");
            Ok(())
        })
        .await
    }

    pub(crate) fn deployed(&self, version: &str) -> Result<()> {
        self.release(version, false)?;
        self.stella(&format!("deploy web:{version} production --wait"))?;
        self.both_serve(version)
    }

    pub(crate) fn both_serve(&self, version: &str) -> Result<()> {
        for address in self.cables.iter().map(|cable| cable.address.as_str()) {
            let answer = asked(self.control_plane.network(), address)?;
            ensure!(
                answer.trim() == format!("demo-web {version}"),
                "{address} serves {answer:?}, not {version}"
            );
        }
        Ok(())
    }

    /// Waits until a task on a host is in the middle, so many times in all.
    pub(crate) async fn held(&self, number: usize, times: usize) -> Result<()> {
        let file = self.web[number - 1].root().join("srv/stella/held");
        wait::until_within(PATIENCE, &format!("web-{number} is in the middle"), async || {
            let held = fs::read_to_string(&file)?;
            ensure!(held.lines().count() == times, "{held:?}");
            Ok(())
        })
        .await
    }
}

/// What a web server answers somebody in this network namespace.
pub(crate) fn asked(network: &str, address: &str) -> Result<String> {
    let asked = Command::new("ip")
        .args(["netns", "exec", network, "curl", "--silent", "--fail", "--max-time", "10"])
        .arg(format!("http://{address}/"))
        .output()?;
    ensure!(asked.status.success(), "{address}: curl ended with {}", asked.status);
    Ok(String::from_utf8(asked.stdout)?)
}

/// People who ask the balancer all the time, so often that a host's restart, however short, is met by some of them.
pub(crate) struct Load {
    asking: Vec<(Child, PathBuf)>,
    _answers: TempDir,
}

impl Load {
    pub(crate) fn begin(fleet: &Fleet) -> Result<Self> {
        let answers = tempfile::tempdir()?;
        let asking = (0..2).map(|number| {
            let codes = answers.path().join(number.to_string());
            // One process for all of its requests, each with a line of its own where nothing is buffered.
            let child = Command::new("ip")
                .args(["netns", "exec", fleet.control_plane.network()])
                .args(["curl", "--silent", "--max-time", "10", "--rate", "18000/m"])
                .args([
                    "--output",
                    "/dev/null",
                    "--write-out",
                    "%{stderr}%{http_code}\n",
                    "http://10.77.0.1/#[1-1000000]",
                ])
                .stderr(fs::File::create(&codes)?)
                .spawn()?;
            Ok((child, codes))
        });
        Ok(Self { asking: asking.collect::<Result<_>>()?, _answers: answers })
    }

    /// Nobody was ever turned away.
    pub(crate) fn end(mut self) -> Result<()> {
        let mut by_code: BTreeMap<String, usize> = BTreeMap::new();
        for (child, codes) in &mut self.asking {
            ensure!(child.try_wait()?.is_none(), "the load has ended by itself");
            stop(child);
            let said = fs::read_to_string(codes)?;
            // The last line may have been cut off.
            let (whole, _) = said.rsplit_once('\n').context("nothing was asked")?;
            for code in whole.lines() {
                *by_code.entry(code.to_owned()).or_default() += 1;
            }
        }
        println!("answers by code: {by_code:?}");
        ensure!(by_code.keys().eq(["200"]), "some requests failed; answers by code: {by_code:?}");
        Ok(())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for (child, _) in &mut self.asking {
            stop(child);
        }
    }
}

fn stop(child: &mut Child) {
    // It may have ended by itself.
    child.kill().ok();
    child.wait().ok();
}
