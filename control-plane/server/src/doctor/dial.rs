//! TCP and TLS, and not a byte of what is spoken over them.

use std::io::{self, ErrorKind};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt as _;
use stella_certs::CertificateDer;
use stella_doctor::{CERTIFICATES_BYTES_MAX, open_configured, read_all};

/// How long a connection may take, and how long a handshake.
const DURATION_MAX: Duration = Duration::from_secs(5);
/// How many addresses of a name are tried.
const ADDRESSES_MAX: usize = 4;

/// Connects to the first address that answers. Resolving a name takes as long as the system's resolver lets it.
pub(super) fn tcp(host: &str, port: u16) -> anyhow::Result<TcpStream> {
    let addresses = (host, port).to_socket_addrs().with_context(|| format!("{host} cannot be resolved"))?;
    let mut last = None;
    for address in addresses.take(ADDRESSES_MAX) {
        match TcpStream::connect_timeout(&address, DURATION_MAX) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Some((address, error)),
        }
    }
    let (address, error) = last.with_context(|| format!("{host} has no address"))?;
    Err(error).with_context(|| format!("{address} cannot be connected to"))
}

/// Whom a server's certificate may be from: an authority in this file, or the system's.
pub(super) fn trusting(ca: Option<&Path>) -> anyhow::Result<Arc<ClientConfig>> {
    let builder = ClientConfig::builder_with_provider(stella_certs::provider())
        .with_safe_default_protocol_versions()?;
    let config = match ca {
        None => builder.with_platform_verifier()?.with_no_client_auth(),
        Some(path) => {
            let wrong = || format!("{} cannot be used", path.display());
            let pem = open_configured(path).and_then(|file| read_all(file, CERTIFICATES_BYTES_MAX));
            let pem = pem.with_context(wrong)?;
            let mut roots = RootCertStore::empty();
            for root in stella_certs::certificates_from_pem(&pem).with_context(wrong)? {
                roots.add(root).with_context(wrong)?;
            }
            builder.with_root_certificates(roots).with_no_client_auth()
        }
    };
    Ok(Arc::new(config))
}

/// Shakes hands; the certificate of the other end, which is whom it should be.
pub(super) fn handshake(
    mut stream: TcpStream,
    name: &str,
    config: Arc<ClientConfig>,
) -> anyhow::Result<CertificateDer<'static>> {
    let name = ServerName::try_from(name.to_owned()).context("the name is none of a server")?;
    let mut session = ClientConnection::new(config, name)?;
    let deadline = Instant::now() + DURATION_MAX;
    stream.set_write_timeout(Some(DURATION_MAX))?;
    while session.is_handshaking() {
        while session.wants_write() {
            session.write_tls(&mut stream)?;
        }
        if !session.is_handshaking() || !session.wants_read() {
            continue;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            bail!("it does not shake hands; does it speak TLS there?");
        }
        stream.set_read_timeout(Some(left))?;
        match session.read_tls(&mut stream) {
            Ok(0) => bail!("it ends the connection in the middle of the handshake"),
            Ok(_) => {}
            Err(error) if is_timeout(&error) => continue,
            Err(error) => return Err(error.into()),
        }
        if let Err(error) = session.process_new_packets() {
            // It is told why, if it still listens.
            session.write_tls(&mut stream).ok();
            return Err(error).context("the handshake failed");
        }
    }
    let chain = session.peer_certificates().and_then(|chain| chain.first());
    Ok(chain.context("it shows no certificate")?.clone().into_owned())
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn who_does_not_speak_tls_is_told_and_who_is_not_there_too() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let other = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_exact(&mut [0; 10]).unwrap();
            stream.write_all(b"220 mail.example.com ESMTP\r\n").unwrap();
        });
        let stream = tcp("127.0.0.1", port).unwrap();
        let error = handshake(stream, "localhost", trusting(None).unwrap()).unwrap_err();
        assert!(format!("{error:#}").contains("the handshake failed"), "{error:#}");
        other.join().unwrap();
        let error = format!("{:#}", tcp("127.0.0.1", port).unwrap_err());
        assert!(error.contains("cannot be connected to"), "{error}");
        let error = format!("{:#}", tcp("no.such.host.invalid", 1).unwrap_err());
        assert!(error.contains("no.such.host.invalid cannot be resolved"), "{error}");
        let error = format!("{:#}", trusting(Some(Path::new("/dev/null"))).unwrap_err());
        assert!(error.contains("/dev/null cannot be used"), "{error}");
    }
}
