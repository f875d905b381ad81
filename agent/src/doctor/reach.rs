//! Whether the control plane is there, and takes this agent; and whether a collector takes its spans.

use std::time::Duration;

use quinn::ConnectionError;
use stella_doctor::Findings;
use stella_otlp::Collector;
use stella_protocol::close::{Advice, CloseCode};
use tokio::net::lookup_host;
use tokio::time::timeout;

use crate::executor::reason_of;
use crate::identity::Identity;
use crate::session::{ConnectError, probe};

/// How long a name may take. Resolvers ask several servers, each for some seconds.
const RESOLVE_DURATION_MAX: Duration = Duration::from_secs(15);

/// Resolves the name of the control plane and shakes hands with it as this agent.
pub(super) async fn control_plane(server: &str, identity: &Identity, findings: &mut Findings) {
    if !resolves(server, findings).await {
        return;
    }
    match probe(server, identity).await {
        Ok(reached) => findings.ok(
            "connection",
            format!(
                "{} is the control plane of this agent and takes its certificate ({} ms)",
                reached.address,
                reached.round_trip.as_millis()
            ),
        ),
        Err(error) => refused(server, &error, findings),
    }
}

/// Sends an export without spans to the collector, if there is one.
pub(super) async fn collector(config: &stella_otlp::Config, findings: &mut Findings) {
    const CHECK: &str = "traces";
    let config = config.clone();
    let asked = tokio::task::spawn_blocking(move || {
        let Some(collector) = Collector::open(&config)? else { return Ok(None) };
        // A path may be what lets in, and is not told.
        let address = collector.address().origin().ascii_serialization();
        Ok::<_, stella_otlp::Error>(Some((address, collector.probe()?)))
    });
    match asked.await {
        Ok(Ok(None)) => {}
        Ok(Ok(Some((address, Ok(()))))) => findings.ok(CHECK, format!("{address} takes spans")),
        Ok(Ok(Some((address, Err(problem))))) => findings.fail(
            CHECK,
            format!("{address} takes no spans: {problem}"),
            "look at the collector's log, at firewalls and at traces.protocol, traces.ca and traces.headers_file; tasks go on without it, their spans are lost",
        ),
        Ok(Err(error)) => findings.fail(CHECK, reason_of(&error), "stella-agent config check"),
        Err(error) => findings.fail(CHECK, error.to_string(), "run the doctor again"),
    }
}

async fn resolves(server: &str, findings: &mut Findings) -> bool {
    const CHECK: &str = "name";
    let remedy = || {
        let host = server.rsplit_once(':').map_or(server, |(host, _)| host);
        format!("getent ahosts {host}; mend /etc/resolv.conf or /etc/hosts, or set server to an address")
    };
    let problem = match timeout(RESOLVE_DURATION_MAX, lookup_host(server)).await {
        Ok(Ok(addresses)) => {
            let addresses: Vec<_> = addresses.map(|address| address.ip().to_string()).collect();
            if !addresses.is_empty() {
                findings.ok(CHECK, format!("{server} is {}", addresses.join(", ")));
                return true;
            }
            "it has no address".to_owned()
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no resolver answered within {} s", RESOLVE_DURATION_MAX.as_secs()),
    };
    findings.fail(CHECK, format!("{server} cannot be resolved: {problem}"), remedy());
    false
}

/// What a failed handshake means, and what to do.
fn refused(server: &str, error: &ConnectError, findings: &mut Findings) {
    const CHECK: &str = "connection";
    let port = server.rsplit_once(':').map_or("7443", |(_, port)| port);
    let enrol =
        "stella-agent enrol --force --server HOST:PORT --token @FILE, with a token of `stella agent token`";
    let by_hand = match error {
        ConnectError::Silent { .. } => format!(
            "on its host: systemctl status stella-orchestrator; ss -lun 'sport = :{port}'; then let firewalls pass UDP port {port} and the answers"
        ),
        ConnectError::Connection { source: ConnectionError::ApplicationClosed(close), .. } => {
            match CloseCode::try_from(close.error_code.into_inner()) {
                Ok(CloseCode::Revoked | CloseCode::UnknownAgent | CloseCode::Unauthenticated) => {
                    enrol.to_owned()
                }
                Ok(_) | Err(_) => "wait, and look at the control plane's log".to_owned(),
            }
        }
        ConnectError::Connection { .. } if error.advice() == Advice::NeedsOperator => format!(
            "is server the control plane that this agent was enrolled with? is the clock right? else: {enrol}"
        ),
        ConnectError::Identity(_) => enrol.to_owned(),
        ConnectError::Resolve { .. }
        | ConnectError::Socket(_)
        | ConnectError::Dial { .. }
        | ConnectError::Connection { .. } => {
            format!("ip route get the address; let firewalls pass UDP port {port} and the answers")
        }
    };
    findings.fail(CHECK, meaning(error), by_hand);
}

/// The close code's own words, which say more than "closed by peer".
fn meaning(error: &ConnectError) -> String {
    if let ConnectError::Connection { address, source: ConnectionError::ApplicationClosed(close) } = error
        && let Ok(code) = CloseCode::try_from(close.error_code.into_inner())
    {
        return format!("{address} is the control plane and refuses this agent: {code}");
    }
    reason_of(error)
}
