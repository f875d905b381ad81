//! Somebody's mail server, as far as a sender sees it: SMTP with STARTTLS and a login, on the loopback address.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// The longest mail that is taken, in bytes.
const MAIL_BYTES_MAX: usize = 256 * 1024;

/// A mail as it came.
#[derive(Clone, Debug, Default)]
pub struct Mail {
    /// Whom it is to, by the envelope.
    pub to: Vec<String>,
    /// Who logged in, and with what, in base64 as it was sent; empty without a login.
    pub login: String,
    /// Headers and body.
    pub text: String,
}

/// A mail server. It stops listening when this is dropped.
#[derive(Debug)]
pub struct MailServer {
    port: u16,
    mails: Arc<Mutex<Vec<Mail>>>,
    task: JoinHandle<()>,
}

impl MailServer {
    /// Starts to listen, with a certificate and its key (PEM), which are used after STARTTLS.
    ///
    /// # Errors
    /// If there is no port, or the certificate is none.
    pub async fn start(certificate: &str, key: &str) -> Result<Self> {
        stella_certs::install_provider();
        let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes())?];
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())?;
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let mails = Arc::new(Mutex::new(Vec::new()));
        let taken = Arc::clone(&mails);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A client that goes away in between sends again.
                drop(converse(stream, &acceptor, &taken).await);
            }
        });
        Ok(Self { port, mails, task })
    }

    /// Starts to listen, with a certificate of its own. Where that is, for whoever has to trust it: a file in `folder`.
    ///
    /// # Errors
    /// If there is no port, or the file cannot be written.
    pub async fn with_own_certificate(folder: &Path) -> Result<(Self, PathBuf)> {
        let key = rcgen::KeyPair::generate()?;
        let certificate = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()])?.self_signed(&key)?;
        let path = folder.join("mail-ca.pem");
        std::fs::write(&path, certificate.pem())?;
        Ok((Self::start(&certificate.pem(), &key.serialize_pem()).await?, path))
    }

    /// Its port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Everything so far, oldest first.
    #[must_use]
    pub fn mails(&self) -> Vec<Mail> {
        self.mails.lock().clone()
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn converse(mut stream: TcpStream, acceptor: &TlsAcceptor, mails: &Mutex<Vec<Mail>>) -> Result<()> {
    stream.write_all(b"220 mail.example.com ESMTP\r\n").await?;
    let mut stream = BufReader::new(stream);
    loop {
        let line = line(&mut stream).await?;
        match line.split_whitespace().next().map(str::to_ascii_uppercase).as_deref() {
            Some("EHLO") => stream.write_all(b"250-mail.example.com\r\n250 STARTTLS\r\n").await?,
            Some("STARTTLS") => {
                stream.write_all(b"220 go ahead\r\n").await?;
                let encrypted = acceptor.accept(stream.into_inner()).await?;
                return take_mail(BufReader::new(encrypted), mails).await;
            }
            Some("QUIT") => return Ok(stream.write_all(b"221 bye\r\n").await?),
            _ => stream.write_all(b"530 STARTTLS first\r\n").await?,
        }
    }
}

async fn take_mail<S>(mut stream: BufReader<S>, mails: &Mutex<Vec<Mail>>) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut mail = Mail::default();
    loop {
        let line = line(&mut stream).await?;
        let answer: &[u8] = match line.split_whitespace().next().map(str::to_ascii_uppercase).as_deref() {
            Some("EHLO") => b"250-mail.example.com\r\n250 AUTH PLAIN\r\n",
            Some("AUTH") => {
                line.split_whitespace().last().context("no login")?.clone_into(&mut mail.login);
                b"235 welcome\r\n"
            }
            Some("MAIL") if mail.login.is_empty() => b"530 log in first\r\n",
            Some("MAIL" | "NOOP" | "RSET") => b"250 ok\r\n",
            Some("RCPT") if line.contains("nobody@") => b"550 no such user here\r\n",
            Some("RCPT") => {
                mail.to.push(line.split(['<', '>']).nth(1).context("no address")?.to_owned());
                b"250 ok\r\n"
            }
            Some("DATA") => {
                stream.write_all(b"354 go ahead\r\n").await?;
                mail.text = data(&mut stream).await?;
                let login = mail.login.clone();
                mails.lock().push(std::mem::take(&mut mail));
                mail.login = login;
                b"250 taken as 4711\r\n"
            }
            Some("QUIT") => return Ok(stream.write_all(b"221 bye\r\n").await?),
            _ => b"502 what?\r\n",
        };
        stream.write_all(answer).await?;
    }
}

async fn data<S: AsyncRead + Unpin>(stream: &mut BufReader<S>) -> Result<String> {
    let mut text = String::new();
    loop {
        match line(stream).await?.as_str() {
            "." => return Ok(text),
            line => {
                text.push_str(line);
                text.push('\n');
            }
        }
        anyhow::ensure!(text.len() <= MAIL_BYTES_MAX, "the mail is too large");
    }
}

async fn line<S: AsyncRead + Unpin>(stream: &mut BufReader<S>) -> Result<String> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        bail!("the sender is gone");
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
