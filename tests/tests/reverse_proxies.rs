//! An API with a certificate of somebody else's, and one behind the proxies of the page *Certificates and reverse proxies*.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use reqwest::StatusCode;
use serde_json::Value;
use stella_api_types::paths;
use stella_tests::cluster::{Cluster, TENANT, create_environment};
use stella_tests::daemon::Daemon;
use stella_tests::{binaries, ports, wait};
use time::{Duration, OffsetDateTime};

const PAGE: &str = include_str!("../../docs/reverse-proxies.md");
/// How many requests without a token an address has at once. None of them becomes free again while a test runs.
const BURST: usize = 20;

/// An authority that the control plane does not know, in a folder.
struct Site {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Site {
    fn new(folder: PathBuf) -> Result<Self> {
        fs::create_dir_all(&folder)?;
        let mut authority = CertificateParams::new(Vec::new())?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        fs::write(folder.join("ca.crt"), authority.self_signed(&key)?.pem())?;
        Ok(Self { folder, issuer: Issuer::new(authority, key) })
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    /// Writes a certificate that ends then, with its key.
    fn issue(&self, ends: OffsetDateTime) -> Result<()> {
        let names = ["localhost", "127.0.0.1", "stella.example.com"].map(str::to_owned);
        let mut own = CertificateParams::new(names)?;
        own.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        (own.not_before, own.not_after) = (ends - Duration::days(90), ends);
        let key = KeyPair::generate()?;
        let pem = own.signed_by(&key, &self.issuer)?.pem();
        fs::write(self.folder.join("api.crt"), &pem)?;
        fs::write(self.folder.join("api.key"), key.serialize_pem())?;
        // As HAProxy wants it.
        Ok(fs::write(self.folder.join("api.pem"), format!("{pem}{}", key.serialize_pem()))?)
    }
}

fn in_days(days: i64) -> OffsetDateTime {
    OffsetDateTime::now_utc() + Duration::days(days)
}

/// Adds to the configuration.
fn add(cluster: &Cluster, name: &str, text: &str) -> Result<()> {
    let folder = cluster.control_plane.config_file().with_extension("conf.d");
    fs::create_dir_all(&folder)?;
    Ok(fs::write(folder.join(name), text)?)
}

/// `stella` at an address, with a file of what to trust or with what the system trusts; how it ended and what it said.
fn stella(
    cluster: &Cluster,
    url: &str,
    ca: Option<&str>,
    arguments: &[&str],
) -> Result<(Option<i32>, String)> {
    let mut stella = Command::new(binaries::path("stella")?);
    stella.args(["--url", url, "--tenant", TENANT, "--token-file"]);
    stella.arg(cluster.control_plane.state_dir().join("admin-token")).args(arguments);
    stella.env_remove("STELLA_CA").env("HOME", cluster.folder());
    if let Some(ca) = ca {
        stella.args(["--ca", ca]);
    }
    let ended = stella.stdin(Stdio::null()).output()?;
    let said = String::from_utf8([ended.stdout, ended.stderr].concat())?;
    Ok((ended.status.code(), said))
}

/// What `stella-orchestrator doctor` found of one kind.
fn found(cluster: &Cluster, check: &str) -> Result<Value> {
    let output = cluster.control_plane.tool_output(&["doctor", "--output", "json"])?;
    let all: Vec<Value> = serde_json::from_slice(&output.stdout)?;
    all.into_iter().find(|it| it["check"] == check).with_context(|| format!("no {check}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_shows_a_certificate_of_somebody_else_and_renewals_of_it() -> Result<()> {
    let mut cluster = Cluster::start(1).await?;
    let site = Site::new(cluster.folder().join("site"))?;
    let (url, own) =
        (cluster.control_plane.api_url(), cluster.control_plane.state_dir().join("pki/roots.crt"));
    let (ca, own) = (site.path("ca.crt"), own.display().to_string());
    site.issue(in_days(60))?;
    let (crt, key) = (site.path("api.crt"), site.path("api.key"));
    let table = format!("[api]\ncertificate = {crt:?}\nkey = {key:?}\nnames = [\"stella.example.com\"]\n");
    add(&cluster, "certificate.toml", &table)?;
    cluster.control_plane.tool(&["config", "check"])?;
    let said = cluster.control_plane.tool(&["reload"])?;
    ensure!(said.contains("api.certificate: taken over") && said.contains("api.key: taken over"), "{said}");

    let (code, said) = stella(&cluster, &url, Some(&ca), &["agent", "list"])?;
    ensure!(code == Some(0) && said.contains("web-1"), "{said}");
    let (code, said) = stella(&cluster, &url, Some(&own), &["agent", "list"])?;
    ensure!(
        code == Some(4) && said.contains("of no authority that is trusted here") && said.contains(&own),
        "{said}"
    );
    let (code, said) = stella(&cluster, &url, None, &["agent", "list"])?;
    ensure!(code == Some(4) && said.contains("an authority that this system trusts"), "{said}");
    trusted_by_the_system(&cluster, &url, &ca)?;
    let (code, said) = stella(&cluster, &url, Some(&ca), &["ca", "update"])?;
    ensure!(code == Some(2) && said.contains("stays as it is"), "{said}");
    let (_, said) = stella(&cluster, &url, Some(&ca), &["doctor"])?;
    ensure!(said.contains("the file is for it"), "{said}");
    ensure!(
        found(&cluster, "port of the API")?["verdict"] == "ok",
        "{}",
        found(&cluster, "port of the API")?
    );
    ensure!(found(&cluster, "certificate of the API")?["verdict"] == "ok");

    // Renewed in the same files; soon to end.
    site.issue(in_days(5))?;
    let finding = found(&cluster, "port of the API")?;
    ensure!(finding["detail"].to_string().contains("shows another certificate"), "{finding}");
    assert_eq!(cluster.control_plane.tool(&["reload"])?, "api.certificate: taken over\n");
    assert_eq!(cluster.control_plane.tool(&["reload"])?, "nothing has changed\n");
    ensure!(found(&cluster, "certificate of the API")?["verdict"] == "warn");
    let scraped = cluster.control_plane.metrics().await?;
    let ends = scraped
        .lines()
        .find(|line| line.starts_with("stella_certificate_expiry_timestamp_seconds{certificate=\"api\"}"));
    let ends: f64 = ends.and_then(|line| line.rsplit(' ').next()).context("no series")?.parse()?;
    ensure!((ends - in_days(5).unix_timestamp() as f64).abs() < 3_600.0, "{ends}");
    refused(&mut cluster, &site, &url).await
}

/// Where the system's own list is another file.
fn trusted_by_the_system(cluster: &Cluster, url: &str, ca: &str) -> Result<()> {
    let mut stella = Command::new(binaries::path("stella")?);
    stella.args(["--url", url, "--tenant", TENANT, "--token-file"]);
    stella.arg(cluster.control_plane.state_dir().join("admin-token")).args(["agent", "list"]);
    stella.env_remove("STELLA_CA").env("HOME", cluster.folder()).env("SSL_CERT_FILE", ca);
    let ended = stella.stdin(Stdio::null()).output()?;
    ensure!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    Ok(())
}

/// What cannot be shown changes nothing, and one that has ended keeps nobody from starting.
async fn refused(cluster: &mut Cluster, site: &Site, url: &str) -> Result<()> {
    let (ca, key) = (site.path("ca.crt"), site.path("api.key"));
    let good = fs::read(&key)?;
    fs::write(&key, KeyPair::generate()?.serialize_pem())?;
    let refuses = |cluster: &Cluster, why: &str| {
        for command in [&["config", "check"][..], &["reload"]] {
            let output = cluster.control_plane.tool_output(command)?;
            let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            ensure!(!output.status.success() && said.contains(why), "{command:?}: {said}");
        }
        let (code, said) = stella(cluster, url, Some(&ca), &["agent", "list"])?;
        ensure!(code == Some(0), "{said}");
        Ok(())
    };
    refuses(cluster, "the private key is not that of the certificate")?;
    fs::write(&key, good)?;
    add(cluster, "names.toml", "[api]\nnames = [\"stella.example.com\", \"stella.example.org\"]\n")?;
    refuses(cluster, "not for \"stella.example.org\"; it is for localhost, 127.0.0.1, stella.example.com")?;
    add(cluster, "names.toml", "")?;
    site.issue(in_days(-1))?;
    refuses(cluster, "has ended")?;

    cluster.control_plane.kill()?;
    cluster.control_plane.daemon().start()?;
    wait::until("the agent is back", async || {
        let scraped = cluster.control_plane.metrics().await?;
        let online =
            scraped.lines().any(|line| line.starts_with("stella_agents_connected{") && line.ends_with(" 1"));
        ensure!(online, "{scraped}");
        Ok(())
    })
    .await?;
    let (code, said) = stella(cluster, url, Some(&ca), &["agent", "list"])?;
    ensure!(code == Some(4) && said.contains("expired"), "{said}");
    // Without it the control plane shows its own again.
    add(cluster, "certificate.toml", "")?;
    let said = cluster.control_plane.tool(&["reload"])?;
    ensure!(said.contains("api.certificate: taken over"), "{said}");
    cluster.api.get::<Value>(paths::SYSTEM).await?;
    Ok(())
}

/// A block of the page, in a language.
fn block(language: &str) -> Result<&'static str> {
    let block = PAGE.split_once(&format!("```{language}\n")).and_then(|(_, rest)| rest.split_once("```"));
    Ok(block.with_context(|| format!("the page has no {language}"))?.0)
}

fn replaced(text: &str, pairs: &[(&str, &str)]) -> Result<String> {
    let mut text = text.to_owned();
    for (from, to) in pairs {
        ensure!(text.contains(from), "the page does not say {from:?}");
        text = text.replace(from, to);
    }
    Ok(text)
}

/// The proxy of the page at a port of this machine.
fn nginx(cluster: &Cluster, site: &Site, port: u16) -> Result<Daemon> {
    let folder = cluster.folder().join("nginx");
    fs::create_dir_all(&folder)?;
    let at = |name: &str| folder.join(name).display().to_string();
    let upstream = cluster.control_plane.api_url().replace("localhost", "127.0.0.1");
    let roots = cluster.control_plane.state_dir().join("pki/roots.crt").display().to_string();
    let server = replaced(
        block("nginx")?,
        &[
            ("listen 443 ", &format!("listen 127.0.0.1:{port} ")),
            ("https://127.0.0.1:8443", &upstream),
            ("/etc/nginx/tls/stella.crt", &site.path("api.crt")),
            ("/etc/nginx/tls/stella.key", &site.path("api.key")),
            ("/etc/nginx/tls/stella-roots.crt", &roots),
        ],
    )?;
    let tmp = at("tmp");
    let config = format!(
        "daemon off; worker_processes 2; user root; pid {}; error_log {} warn;\nevents {{ worker_connections 256; }}\nhttp {{\n access_log off;\n \
         client_body_temp_path {tmp}; proxy_temp_path {tmp}; fastcgi_temp_path {tmp}; uwsgi_temp_path {tmp}; scgi_temp_path {tmp};\n{server}\n}}\n",
        at("nginx.pid"),
        at("error.log"),
    );
    fs::write(at("nginx.conf"), config)?;
    let arguments = ["-p", &at(""), "-c", &at("nginx.conf")].map(str::to_owned).to_vec();
    Ok(Daemon::new("nginx", "/usr/sbin/nginx".into(), arguments, folder.join("nginx.log")))
}

fn haproxy(cluster: &Cluster, site: &Site, port: u16) -> Result<Daemon> {
    let upstream = cluster.control_plane.api_url().replace("https://localhost", "127.0.0.1");
    let roots = cluster.control_plane.state_dir().join("pki/roots.crt").display().to_string();
    let config = replaced(
        block("haproxy")?,
        &[
            ("bind :443 ", &format!("bind 127.0.0.1:{port} ")),
            ("127.0.0.1:8443", &upstream),
            ("/etc/haproxy/stella.pem", &site.path("api.pem")),
            ("/etc/haproxy/stella-roots.crt", &roots),
        ],
    )?;
    let file = cluster.folder().join("haproxy.cfg");
    fs::write(&file, config)?;
    let arguments = vec!["-db".to_owned(), "-f".to_owned(), file.display().to_string()];
    Ok(Daemon::new("haproxy", "/usr/sbin/haproxy".into(), arguments, cluster.folder().join("haproxy.log")))
}

/// Somebody without a token, at an address of this machine.
fn stranger(site: &Site, address: [u8; 4]) -> Result<reqwest::Client> {
    let ca = reqwest::Certificate::from_pem_bundle(&fs::read(site.path("ca.crt"))?)?;
    let from = IpAddr::from(Ipv4Addr::from(address));
    Ok(reqwest::Client::builder().tls_certs_only(ca).local_address(from).build()?)
}

async fn ask(client: &reqwest::Client, url: &str, said: Option<&str>) -> Result<StatusCode> {
    let mut request = client.get(format!("{url}{}", paths::SYSTEM));
    if let Some(said) = said {
        request = request.header("x-forwarded-for", said).header("forwarded", format!("for={said}"));
    }
    Ok(request.send().await?.status())
}

/// Each caller has limits of its own, whatever it writes.
async fn limits(site: &Site, url: &str) -> Result<()> {
    let (one, other) = (stranger(site, [127, 0, 0, 2])?, stranger(site, [127, 0, 0, 3])?);
    let mut statuses = Vec::new();
    while statuses.last() != Some(&StatusCode::TOO_MANY_REQUESTS) {
        ensure!(statuses.len() < 10 * BURST, "there is no limit: {statuses:?}");
        statuses.push(ask(&one, url, None).await?);
    }
    ensure!(statuses.len() > BURST, "it has fewer than its own: {}", statuses.len());
    ensure!(statuses[..BURST].iter().all(|status| *status == StatusCode::UNAUTHORIZED), "{statuses:?}");
    assert_eq!(ask(&other, url, None).await?, StatusCode::UNAUTHORIZED, "one caller takes from another");
    // One request may have become free again by now; all of them come from the same caller.
    let mut spoofed = Vec::new();
    for n in 0..10 {
        spoofed.push(ask(&one, url, Some(&format!("198.51.100.{n}"))).await?);
    }
    ensure!(spoofed.contains(&StatusCode::TOO_MANY_REQUESTS), "callers choose their address: {spoofed:?}");
    Ok(())
}

/// A feed brings what happens when it happens, and a large archive gets through.
async fn streams(cluster: &Cluster, site: &Site, url: &str, name: &str) -> Result<()> {
    let ca = site.path("ca.crt");
    let log = cluster.folder().join(format!("events-{name}"));
    let mut follow = Daemon::new(
        "stella events",
        binaries::path("stella")?,
        [
            "--url",
            url,
            "--ca",
            &ca,
            "--tenant",
            TENANT,
            "--token-file",
            &cluster.control_plane.state_dir().join("admin-token").display().to_string(),
            "events",
            "--follow",
        ]
        .map(str::to_owned)
        .to_vec(),
        log,
    );
    follow.start()?;
    create_environment(&cluster.api, TENANT, name).await?;
    wait::until("the feed brings an event", async || {
        ensure!(follow.log().contains("environment_created"), "{}", follow.log());
        Ok(())
    })
    .await?;
    let folder = cluster.folder().join(format!("archive-{name}"));
    large_archive(&folder)?;
    let archive = format!("web={}", folder.join("web.tar").display());
    let (code, said) =
        stella(cluster, url, Some(&ca), &["release", "create", "large", "1.0.0", "--component", &archive])?;
    ensure!(code == Some(0), "{said}");
    Ok(())
}

/// Larger than what a proxy takes by default, and different each time.
fn large_archive(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let content = format!("{}\n", folder.display()).repeat(40_000);
    fs::write(folder.join("content"), content)?;
    let tar = Command::new("tar")
        .arg("-cf")
        .arg(folder.join("web.tar"))
        .arg("-C")
        .arg(folder)
        .arg("content")
        .status()?;
    ensure!(tar.success(), "tar: {tar}");
    Ok(())
}

async fn behind(name: &str, proxy: impl Fn(&Cluster, &Site, u16) -> Result<Daemon>) -> Result<()> {
    let cluster = Cluster::start(0).await?;
    let site = Site::new(cluster.folder().join("site"))?;
    site.issue(in_days(60))?;
    let table =
        format!("[api]\ntrusted_proxies = [\"127.0.0.1\"]\nrequests_per_minute = 1\nburst = {BURST}\n");
    add(&cluster, "proxies.toml", &table)?;
    let said = cluster.control_plane.tool(&["reload"])?;
    ensure!(said.contains("api.trusted_proxies: taken over"), "{said}");
    let port = ports::free()?;
    let mut proxy = proxy(&cluster, &site, port)?;
    proxy.start()?;
    let (url, probe) = (format!("https://localhost:{port}"), stranger(&site, [127, 0, 0, 9])?);
    wait::until("the proxy answers", async || {
        let status = probe.get(format!("{url}{}", paths::HEALTH_READY)).send().await?.status();
        ensure!(status.is_success(), "{status} {}", proxy.log());
        Ok(())
    })
    .await?;
    streams(&cluster, &site, &url, name).await?;
    limits(&site, &url).await
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_nginx_feeds_and_archives_get_through_and_callers_have_limits_of_their_own() -> Result<()> {
    behind("nginx", nginx).await
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_haproxy_feeds_and_archives_get_through_and_callers_have_limits_of_their_own() -> Result<()> {
    behind("haproxy", haproxy).await
}
