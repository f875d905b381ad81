//! A real Prometheus finds real agents through the control plane, over HTTPS, and scrapes them.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use stella_api_types::discovery::TargetGroup;
use stella_api_types::paths;
use stella_tests::agent::Agent;
use stella_tests::cluster::{Cluster, ENVIRONMENT, TENANT, create_tenant, token};
use stella_tests::monitoring::{Bundle, Prometheus};
use stella_tests::scraping::{address, site};
use stella_tests::{cluster, ports, wait};

/// A token that may see one tenant and change nothing.
async fn viewer(cluster: &Cluster, tenant: &str) -> Result<String> {
    let roles = json!([{ "role": "viewer", "tenant": tenant }]);
    let account = json!({ "name": format!("prometheus-{tenant}"), "kind": "service", "roles": roles });
    let _created: Value = cluster.api.post(paths::ACCOUNTS, &account, None).await?;
    let token = json!({ "name": "prometheus", "account": account["name"] });
    let created: Value = cluster.api.post(paths::API_TOKENS, &token, None).await?;
    Ok(created["token"].as_str().context("the token is not in the answer")?.to_owned())
}

/// The targets that Prometheus has in its job for found agents: address, agent and health.
async fn found(prometheus: &Prometheus) -> Result<Vec<(String, String, String)>> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let targets = prometheus.targets().await?;
    let of_job = targets.iter().filter(|it| it["labels"]["job"] == "stella-agents-found");
    Ok(of_job
        .map(|it| (text(&it["labels"]["instance"]), text(&it["labels"]["agent"]), text(&it["health"])))
        .collect())
}

async fn wait_found(prometheus: &Prometheus, wanted: &[(&str, &str, &str)]) -> Result<()> {
    let what = format!("Prometheus has {wanted:?}");
    let waited = wait::until(&what, async || {
        let mut found = found(prometheus).await?;
        found.sort();
        let same = found.len() == wanted.len()
            && found
                .iter()
                .zip(wanted)
                .all(|(it, (at, agent, health))| it.0 == *at && it.1 == *agent && it.2 == *health);
        ensure!(same, "it has {found:?}");
        Ok(())
    });
    waited.await.with_context(|| prometheus.log())
}

/// The files of the site, and where they are.
struct Site(PathBuf);

impl Site {
    fn new(cluster: &Cluster) -> Result<Self> {
        Self::at(cluster.folder().join("site"))
    }

    fn at(folder: PathBuf) -> Result<Self> {
        site(&folder)?;
        Ok(Self(folder))
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    /// The section `metrics` of an agent that listens there over TLS.
    fn serves(&self, listen: &str, more: &str) -> String {
        let (certificate, key, ca) =
            (self.file("listener.crt"), self.file("listener.key"), self.file("ca.crt"));
        format!(
            "listen = {listen:?}\ncertificate = {certificate:?}\nkey = {key:?}\nclient_ca = {ca:?}\n{more}\n"
        )
    }

    /// A Prometheus with a token for the agents of one tenant, in a hurry.
    async fn prometheus(&self, cluster: &Cluster) -> Result<Prometheus> {
        let viewer = viewer(cluster, TENANT).await?;
        let none: Vec<TargetGroup> = cluster.api.with_token(&viewer).get(paths::SD_AGENTS).await?;
        ensure!(none.is_empty(), "{none:?}");
        fs::write(self.file("token"), viewer)?;
        let api = cluster.control_plane.api_url();
        let (token, ca) = (self.file("token"), self.file("ca.crt"));
        let (certificate, key) = (self.file("scraper.crt"), self.file("scraper.key"));
        let discovery = ["--url", &api, "--agents-token-file", &token];
        let tls = ["--agents-ca", &ca, "--agents-cert", &certificate, "--agents-key", &key];
        let folder = cluster.folder().join("bundle");
        let bundle = Bundle::render_with(&folder, &cluster.control_plane, &[&discovery[..], &tls].concat())?;
        bundle.hurry()?;
        bundle.replace("prometheus.yml", &[("refresh_interval: 1m", "refresh_interval: 1s")])?;
        bundle.prometheus().await
    }
}

/// An agent of another tenant, which serves its figures too.
async fn of_another_tenant(cluster: &Cluster, site: &Site) -> Result<Agent> {
    create_tenant(&cluster.api, "globex").await?;
    let mut other = Agent::new(cluster.folder(), "db-1", &cluster.control_plane.agents_address())?;
    let paper = cluster::create_token(&cluster.api, "globex", &token(Some("db-1"), 1)).await?;
    other.enrol(paper.token.as_deref().context("the token is not in the answer")?)?;
    let folder = other.config_file().with_extension("conf.d");
    fs::create_dir_all(&folder)?;
    let serves = site.serves(&format!("127.0.0.1:{}", ports::free()?), "advertise = \"db-1:9091\"");
    fs::write(folder.join("metrics.toml"), format!("[metrics]\n{serves}"))?;
    other.start()?;
    Ok(other)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prometheus_finds_agents_through_the_control_plane_and_scrapes_them() -> Result<()> {
    stella_certs::install_provider();
    let mut cluster = Cluster::start(2).await?;
    let site = Site::new(&cluster)?;
    let (seen, told) = (ports::free()?, ports::free()?);
    let prometheus = site.prometheus(&cluster).await?;
    let mut other = of_another_tenant(&cluster, &site).await?;

    // Nobody is found before somebody serves figures to others, and nobody of another tenant.
    cluster.agents[0].configure("metrics", &format!("listen = \"127.0.0.1:{seen}\"\n"))?;
    cluster.wait_online(cluster.agents[0].name()).await?;
    wait::until("the agent of the other tenant is known", async || {
        let found: Vec<TargetGroup> = cluster.api.get(paths::SD_AGENTS).await?;
        ensure!(found.len() == 1 && found[0].targets == ["db-1:9091"], "{found:?}");
        Ok(())
    })
    .await?;
    ensure!(found(&prometheus).await?.is_empty(), "an agent on loopback is found");

    cluster.agents[0].configure("metrics", &site.serves(&format!("0.0.0.0:{seen}"), ""))?;
    let advertise = format!("advertise = \"localhost:{told}\"");
    cluster.agents[1].configure("metrics", &site.serves(&format!("127.0.0.1:{told}"), &advertise))?;
    let (first, second) = (format!("127.0.0.1:{seen}"), format!("localhost:{told}"));
    wait_found(&prometheus, &[(&first, "web-1", "up"), (&second, "web-2", "up")]).await?;
    let own =
        format!("stella_agent_own_session_open{{agent=\"web-1\",tenant=\"{TENANT}\",env=\"{ENVIRONMENT}\"}}");
    let series = wait::until("its figures are there under its name", async || {
        let series = prometheus.query(&own).await?;
        ensure!(series.len() == 1, "{series:?}");
        Ok(series)
    })
    .await?;
    let id = cluster.api.agent(TENANT, "web-1").await?.id;
    ensure!(series[0]["metric"]["exported_agent"] == id.as_str(), "{series:?}");
    let (code, said) = cluster.stella(&["observability", "agents"])?;
    ensure!(code == Some(0) && said.contains(&first) && said.contains("db-1:9091"), "{said}");

    // A host that is away is a target that is down; one that serves figures no more is none, also for a control plane that was killed.
    cluster.agents[0].kill()?;
    wait_found(&prometheus, &[(&first, "web-1", "down"), (&second, "web-2", "up")]).await?;
    cluster.control_plane.kill()?;
    cluster.control_plane.resume().await?;
    let listed: Vec<TargetGroup> = cluster.api.get(paths::SD_AGENTS).await?;
    ensure!(listed.len() == 3, "what was known is gone with the process: {listed:?}");
    fs::remove_file(cluster.agents[0].config_file().with_extension("conf.d").join("metrics.toml"))?;
    cluster.agents[0].start()?;
    wait_found(&prometheus, &[(&second, "web-2", "up")]).await?;
    other.daemon().check()?;
    cluster.passed()
}

/// An agent that is named in a file, by an address that other hosts reach it by, through the job that the bundle has for such.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_named_in_a_file_is_scraped_over_https_with_a_certificate() -> Result<()> {
    stella_certs::install_provider();
    let mut cluster = Cluster::start(1).await?;
    let site = Site::new(&cluster)?;
    let listen = SocketAddr::new(address()?, ports::free()?).to_string();
    cluster.agents[0].configure("metrics", &site.serves(&listen, ""))?;
    cluster.wait_online("web-1").await?;
    let other = Site::at(cluster.folder().join("another-site"))?;
    for (name, scraper, health) in [("ours", &site, "up"), ("another's", &other, "down")] {
        let (ca, certificate, key) =
            (site.file("ca.crt"), scraper.file("scraper.crt"), scraper.file("scraper.key"));
        let flags = ["--agents", "--agents-ca", &ca, "--agents-cert", &certificate, "--agents-key", &key];
        let bundle = Bundle::render_with(&cluster.folder().join(name), &cluster.control_plane, &flags)?;
        bundle.hurry()?;
        bundle.add_agents(std::slice::from_ref(&listen), &json!({}))?;
        let prometheus = bundle.prometheus().await?;
        wait::until(&format!("the agent is {health} for a scraper of {name}"), async || {
            let targets = prometheus.targets().await?;
            let target = targets.iter().find(|it| it["labels"]["job"] == "stella-agents");
            let target = target.with_context(|| format!("{targets:?}"))?;
            ensure!(target["scrapeUrl"] == format!("https://{listen}/metrics"), "{target}");
            ensure!(target["health"] == health, "{target}");
            Ok(())
        })
        .await?;
    }
    cluster.passed()
}
