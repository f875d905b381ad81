//! An agent's own figures: off by default, on loopback as they are, elsewhere only for who shows a certificate.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use stella_api_types::deployment::OnFailure;
use stella_tests::cluster::{Cluster, ENVIRONMENT};
use stella_tests::ports;
use stella_tests::recipe::{release, rolling, shell};
use stella_tests::scraping::site;
use stella_tests::wait;

/// What is scraped by who trusts an authority and may have a certificate of another.
async fn scrape(port: u16, trusted: &Path, own: Option<&Path>) -> Result<String> {
    let trusted = reqwest::Certificate::from_pem(&fs::read(trusted.join("ca.crt"))?)?;
    let mut client = reqwest::Client::builder().tls_certs_only([trusted]);
    if let Some(own) = own {
        let pem = [fs::read(own.join("scraper.key"))?, fs::read(own.join("scraper.crt"))?].concat();
        client = client.identity(reqwest::Identity::from_pem(&pem)?);
    }
    let answer = client.build()?.get(format!("https://localhost:{port}/metrics")).send().await?;
    Ok(answer.error_for_status()?.text().await?)
}

fn series<'t>(text: &'t str, name: &str, label: &str) -> Result<&'t str> {
    let found = text.lines().find(|line| line.starts_with(name) && line.contains(label));
    let line = found.with_context(|| format!("no {name} with {label} in {text}"))?;
    line.rsplit(' ').next().context("a line has a value")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_serves_its_figures_on_loopback_and_elsewhere_to_who_shows_a_certificate() -> Result<()> {
    stella_certs::install_provider();
    let mut cluster = Cluster::start(1).await?;
    let port = ports::free()?;
    cluster.agents[0].configure("metrics", &format!("listen = \"127.0.0.1:{port}\"\n"))?;
    cluster.wait_online(cluster.agents[0].name()).await?;
    let steps = vec![shell("fine", "true"), shell("bad", "exit 3")];
    cluster.release(&release("1.0.0", &[], steps)).await?;
    let asked = cluster.deploy(&rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop)).await?.deployment;
    ensure!(cluster.wait_final(&asked.id).await?.deployment.status == "failed");

    let url = format!("http://127.0.0.1:{port}");
    let plain = wait::until("a heartbeat was sent", async || {
        let text = reqwest::get(format!("{url}/metrics")).await?.error_for_status()?.text().await?;
        ensure!(text.contains("stella_agent_heartbeat_age_seconds{"), "{text}");
        Ok(text)
    })
    .await?;
    let ends =
        [("succeeded", "1"), ("failed", "1"), ("timed_out", "0"), ("cancelled", "0"), ("interrupted", "0")];
    for (status, count) in ends {
        let labels = format!("type=\"command\",status=\"{status}\"");
        let counted = series(&plain, "stella_agent_tasks_total{", &labels)?;
        assert_eq!(counted, count, "{status} in {plain}");
    }
    let took = series(&plain, "stella_agent_task_duration_seconds_count{", "type=\"command\"")?;
    assert_eq!(took, "2");
    let agent = cluster.api.agent(stella_tests::cluster::TENANT, cluster.agents[0].name()).await?.id;
    ensure!(
        plain.lines().filter(|it| it.starts_with("stella_agent_")).all(|it| it.contains(&agent)),
        "{plain}"
    );
    assert_eq!(series(&plain, "stella_agent_session_open{", "agent")?, "1");
    assert_eq!(reqwest::get(format!("{url}/")).await?.status(), 404);
    let posted = reqwest::Client::new().post(format!("{url}/metrics")).send().await?;
    assert_eq!(posted.status(), 405);

    let (ours, theirs) = (cluster.folder().join("ours"), cluster.folder().join("theirs"));
    site(&ours)?;
    site(&theirs)?;
    let file = |name: &str| ours.join(name).display().to_string();
    let tls = format!(
        "listen = \"127.0.0.1:{port}\"\ncertificate = {:?}\nkey = {:?}\nclient_ca = {:?}\n",
        file("listener.crt"),
        file("listener.key"),
        file("ca.crt")
    );
    cluster.agents[0].configure("metrics", &tls)?;
    let text =
        wait::until("who shows a certificate is served", async || scrape(port, &ours, Some(&ours)).await)
            .await?;
    ensure!(text.contains("stella_agent_load1{"), "{text}");
    ensure!(scrape(port, &ours, None).await.is_err(), "somebody without a certificate has the figures");
    ensure!(scrape(port, &ours, Some(&theirs)).await.is_err(), "somebody of another authority has them");
    ensure!(reqwest::get(format!("{url}/metrics")).await.is_err(), "they are served as plain HTTP");
    // Other files are taken without a restart.
    for name in ["listener.crt", "listener.key", "ca.crt"] {
        fs::copy(theirs.join(name), ours.join(name))?;
    }
    ensure!(scrape(port, &theirs, Some(&theirs)).await?.contains("stella_agent_load1{"));
    cluster.passed()
}
