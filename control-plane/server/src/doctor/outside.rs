//! Whom the configuration names outside: whether they can be connected to. Nothing is said to them but a TLS handshake.

use std::thread;

use stella_doctor::Findings;
use stella_doctor::host::quoted;

use super::dial;
use crate::config::{Config, Destination};
use crate::look::Look;

/// How many are tried at once.
const AT_ONCE_MAX: usize = 8;
/// What HTTP clients go through, if it is set.
const PROXIES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];

/// Tells of each whether it can be connected to.
pub(super) fn reachable(config: &Config, findings: &mut Findings) {
    let proxied = PROXIES.iter().any(|name| std::env::var_os(name).is_some());
    for some in config.destinations().chunks(AT_ONCE_MAX) {
        let tried: Vec<_> = thread::scope(|scope| {
            let tries = some.iter().map(|(_, destination)| {
                scope.spawn(|| match destination {
                    Ok(destination) => connect(destination),
                    Err(error) => Err(anyhow::anyhow!("{error:#}")),
                })
            });
            let tries: Vec<_> = tries.collect();
            let ended = |it: thread::ScopedJoinHandle<'_, anyhow::Result<String>>| {
                it.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the try has failed in itself")))
            };
            tries.into_iter().map(ended).collect()
        });
        for ((name, destination), outcome) in some.iter().zip(tried) {
            tell(name, destination.as_ref().ok(), outcome, proxied, findings);
        }
    }
}

/// Tells of sources of gates, and of where workflows may call, that nobody has given to any tenant: with a second tenant, they close for all.
pub(super) fn whose(config: &Config, look: &Look, findings: &mut Findings) {
    let tenants = look.tenants.len() + look.tenants_left_out;
    if tenants < 2 {
        return;
    }
    for name in config.gates.for_one_tenant_only() {
        let detail = format!(
            "has no tenants, and there are {tenants}: no gate may ask it, and whatever waits for one is held"
        );
        let remedy = format!(
            "name them in gates.prometheus.{name}.tenants, or [\"*\"] for all; then: systemctl reload stella-orchestrator"
        );
        findings.warn(format!("tenants of gate source {name}"), detail, remedy);
    }
    for (name, key) in config.workflows.for_one_tenant_only() {
        let detail = format!("has no tenants, and there are {tenants}: no workflow may call it");
        let remedy =
            format!("name them in {key}, or [\"*\"] for all; then: systemctl reload stella-orchestrator");
        findings.warn(format!("tenants of {name}"), detail, remedy);
    }
}

fn tell(
    name: &str,
    destination: Option<&Destination>,
    outcome: anyhow::Result<String>,
    proxied: bool,
    findings: &mut Findings,
) {
    let name = name.to_owned();
    let problem = match outcome {
        Ok(detail) => return findings.ok(name, detail),
        Err(problem) => problem,
    };
    let Some(Destination { host, port, tls, by_http, ca }) = destination else {
        return findings.fail(name, format!("{problem:#}"), "stella-orchestrator config check");
    };
    let authorities = ca.as_ref().map(|path| format!(" -CAfile {}", quoted(path))).unwrap_or_default();
    let remedy = if *tls {
        format!("openssl s_client -connect {host}:{port} -servername {host}{authorities} </dev/null")
    } else {
        format!("getent ahosts {host}; nc -vz {host} {port}; then look at firewalls and at the other end")
    };
    let detail = format!("{host}:{port}: {problem:#}");
    if proxied && *by_http {
        findings.warn(name, format!("{detail}; a proxy is set, which this try did not go through"), remedy);
    } else {
        findings.fail(name, detail, remedy);
    }
}

fn connect(destination: &Destination) -> anyhow::Result<String> {
    let Destination { host, port, tls, ca, .. } = destination;
    let stream = dial::tcp(host, *port)?;
    if !tls {
        return Ok(format!("{host}:{port} can be connected to"));
    }
    dial::handshake(stream, host, dial::trusting(ca.as_deref())?)?;
    Ok(format!("{host}:{port} can be connected to, and its certificate is good"))
}
