//! The ports of the control plane: its own while it runs, free while it does not.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use stella_certs::{CONTROL_PLANE_NAME, CertificateDer, GivenCertificate, tls, validity_of_certificate};
use stella_doctor::Findings;
use stella_doctor::host::{self, Lifetime};

use super::{UNIT, dial};
use crate::config::Config;
use crate::look::Look;
use crate::pki::given_ends_soon;

/// It is made for 30 days and made anew daily.
const SERVER_ENDS_SOON: Duration = Duration::from_secs(20 * 86_400);

/// Tells whether the ports can be had.
pub(super) fn free(config: &Config, findings: &mut Findings) {
    let tcp = |address: SocketAddr| TcpListener::bind(address).map(drop);
    bindable("port of the API", "t", config.api.listen, tcp(config.api.listen), findings);
    bindable("port of metrics", "t", config.metrics.listen, tcp(config.metrics.listen), findings);
    let udp = UdpSocket::bind(config.agents.listen).map(drop);
    bindable("port of agents", "u", config.agents.listen, udp, findings);
}

fn bindable(
    check: &'static str,
    protocol: &str,
    address: SocketAddr,
    bound: io::Result<()>,
    findings: &mut Findings,
) {
    let (port, name) = (address.port(), if protocol == "u" { "UDP" } else { "TCP" });
    match bound {
        Ok(()) => findings.ok(check, format!("{name} {address} is free")),
        Err(error) if error.kind() == ErrorKind::AddrInUse => findings.fail(
            check,
            format!(
                "{name} {address} is taken by another process, and no control plane runs on this state folder"
            ),
            format!("ss -l{protocol}np 'sport = :{port}'"),
        ),
        Err(error) if error.kind() == ErrorKind::AddrNotAvailable => findings.fail(
            check,
            format!("{} is no address of this host", address.ip()),
            "ip -brief address; then mend listen in the configuration",
        ),
        // This user may not; the service's user may by its unit.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => findings.warn(
            check,
            format!("{name} {address} cannot be tried by this user"),
            "run this as root; a unit needs AmbientCapabilities=CAP_NET_BIND_SERVICE for ports below 1024",
        ),
        Err(error) => {
            findings.fail(
                check,
                format!("{name} {address} cannot be listened at: {error}"),
                "ip -brief address",
            );
        }
    }
}

/// Tells whether the running control plane answers at its ports; with which certificate.
pub(super) fn ours(config: &Config, look: &Look, findings: &mut Findings) -> Option<CertificateDer<'static>> {
    let listening = look.listening;
    for (check, wanted, found) in [
        ("port of the API", config.api.listen, listening.api),
        ("port of metrics", config.metrics.listen, listening.metrics),
        ("port of agents", config.agents.listen, listening.agents),
    ] {
        if wanted.port() != 0 && wanted != found {
            let detail = format!("it listens at {found}, and {wanted} is configured");
            findings.warn(check, detail, format!("systemctl restart {UNIT}"));
        }
    }
    findings.ok("port of agents", format!("UDP {} is the control plane's", listening.agents));
    let of_metrics = answers("port of metrics", config, listening.metrics, findings);
    let certificate = match config.api.given() {
        Ok(Some(given)) => {
            shows(&given, listening.api, findings);
            of_metrics
        }
        Ok(None) | Err(_) => answers("port of the API", config, listening.api, findings),
    };
    let validity = certificate.as_ref().and_then(|it| validity_of_certificate(it).ok());
    if let Some(validity) = validity {
        let remedy = "systemctl restart stella-orchestrator; its log says why it is not renewed";
        let wanted = Lifetime { check: "server certificate", validity, soon: SERVER_ENDS_SOON, remedy };
        host::lifetime(&wanted, SystemTime::now(), findings);
    }
    certificate
}

/// Whether the API shows the certificate that was given for it, and for how long that is good.
fn shows(given: &GivenCertificate, listening: SocketAddr, findings: &mut Findings) {
    const CHECK: &str = "port of the API";
    let shaken = dial::tcp(&local(listening).to_string(), listening.port()).and_then(|stream| {
        // As whom it is dialled does not matter to who knows the certificate.
        dial::handshake(stream, CONTROL_PLANE_NAME, Arc::new(tls::https_client_of(given.leaf())?))
    });
    match shaken {
        Ok(_) => findings.ok(CHECK, format!("TCP {listening} answers, and shows api.certificate")),
        Err(error) => {
            let remedy = format!("systemctl reload {UNIT}; journalctl -u {UNIT} -n 50 --no-pager");
            let problem =
                tls::certificate_problem(error.as_ref()).map_or_else(|| format!("{error:#}"), |it| it.text);
            findings.fail(
                CHECK,
                format!("TCP {listening}, where api.certificate should be shown: {problem}"),
                remedy,
            );
        }
    }
    let wanted = Lifetime {
        check: "certificate of the API",
        validity: given.validity(),
        soon: given_ends_soon(given.validity()),
        remedy: "have it renewed by who has issued it, then: systemctl reload stella-orchestrator",
    };
    host::lifetime(&wanted, SystemTime::now(), findings);
}

/// Where a listener is dialled from its own host.
fn local(listening: SocketAddr) -> IpAddr {
    match listening.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    }
}

/// Shakes hands with a listener, as whoever trusts this installation.
fn answers(
    check: &'static str,
    config: &Config,
    listening: SocketAddr,
    findings: &mut Findings,
) -> Option<CertificateDer<'static>> {
    let host = local(listening);
    let roots = config.state_dir.join("pki/roots.crt");
    let shaken = dial::tcp(&host.to_string(), listening.port())
        .and_then(|stream| dial::handshake(stream, CONTROL_PLANE_NAME, dial::trusting(Some(&roots))?));
    match shaken {
        Ok(certificate) => {
            findings.ok(check, format!("TCP {listening} answers, and is the control plane's"));
            Some(certificate)
        }
        Err(error) => {
            let port = listening.port();
            let remedy = format!("ss -ltnp 'sport = :{port}'; journalctl -u {UNIT} -n 50 --no-pager");
            findings.fail(check, format!("TCP {listening}: {error:#}"), remedy);
            None
        }
    }
}
