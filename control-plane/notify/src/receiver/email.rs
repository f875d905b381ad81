//! Mail by SMTP.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use lettre::Address;
use lettre::address::Envelope;
use lettre::message::header::ContentType;
use lettre::message::{Mailbox, MessageBuilder};
use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::transport::smtp::response::Response;
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Message as Mail, Tokio1Executor};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::{DeliveryError, shown};
use crate::message::Message;
use crate::notice::Notice;

/// How long one step of the conversation may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest subject, in characters.
const SUBJECT_CHARS_MAX: usize = 200;

/// How often a mail is sent to those for whom the server does not take it yet. What comes next in the same group waits meanwhile.
const TRIES_MAX: u32 = 5;
/// Of how many mails it is known at a time who has them: of each group one, and of steps of workflows.
const PARTLY_SENT_MAX: usize = 64;

/// The server closes, or wants another login: to try each address would only ask for that again.
const NOT_ABOUT_AN_ADDRESS: [u16; 6] = [421, 454, 530, 534, 535, 538];

/// How the connection is protected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Security {
    /// It begins in the clear and must become TLS.
    #[default]
    Starttls,
    /// It is TLS from the beginning on.
    Tls,
    /// It is in the clear: for a relay on the same host.
    None,
}

/// Mail to some addresses by one server.
pub struct Email {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
    to: Vec<Mailbox>,
    /// Mails that some have and others do not, the oldest first.
    partly_sent: Mutex<VecDeque<PartlySent>>,
}

/// A mail that is sent to each on their own, and how far that has come. A restart forgets it: then it comes again, as the same mail.
#[derive(Debug, Default)]
struct PartlySent {
    id: String,
    tries: u32,
    /// Who has it, and for whom the server will never take it.
    settled: BTreeSet<Address>,
    taken: Option<String>,
    without: String,
}

impl std::fmt::Debug for Email {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Email").field("from", &self.from).field("to", &self.to).finish_non_exhaustive()
    }
}

/// Where mail goes, and how.
pub struct Settings<'s> {
    /// The server's name.
    pub host: &'s str,
    /// Its port.
    pub port: u16,
    /// How the connection is protected.
    pub security: Security,
    /// A user and a password, if it asks for them.
    pub login: Option<(&'s str, Zeroizing<String>)>,
    /// The authorities (PEM) that the certificate may be under; the system's if there are none.
    pub ca: Option<&'s [u8]>,
    /// Who it is from.
    pub from: &'s str,
    /// Whom it is to.
    pub to: &'s [String],
}

impl std::fmt::Debug for Settings<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings").field("host", &self.host).field("to", &self.to).finish_non_exhaustive()
    }
}

impl Email {
    /// Checks what can be checked without a connection.
    ///
    /// # Errors
    /// If an address is none, a password would be sent in the clear, or the authorities are none.
    pub fn new(settings: &Settings<'_>) -> Result<Self, String> {
        let mailbox =
            |text: &str| text.parse::<Mailbox>().map_err(|_| format!("{text:?} is no mail address"));
        let from = mailbox(settings.from)?;
        let to: Vec<_> = settings.to.iter().map(|it| mailbox(it)).collect::<Result<_, _>>()?;
        if to.is_empty() {
            return Err("it is to nobody".to_owned());
        }
        if settings.security == Security::None && settings.login.is_some() {
            return Err("a password is only sent by starttls or tls".to_owned());
        }
        let mut parameters = TlsParameters::builder(settings.host.to_owned());
        if let Some(pem) = settings.ca {
            let found = reqwest::Certificate::from_pem_bundle(pem).unwrap_or_default();
            let certificate = Certificate::from_pem(pem).ok().filter(|_| !found.is_empty());
            let certificate = certificate.ok_or("the file of the authorities holds no certificate")?;
            parameters = parameters.add_root_certificate(certificate);
        }
        let parameters = || parameters.clone().build().map_err(|error| error.to_string());
        let tls = match settings.security {
            Security::Starttls => Tls::Required(parameters()?),
            Security::Tls => Tls::Wrapper(parameters()?),
            Security::None => Tls::None,
        };
        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(settings.host)
            .port(settings.port)
            .tls(tls)
            .timeout(Some(STEP_TIMEOUT));
        if let Some((user, password)) = &settings.login {
            builder = builder.credentials(Credentials::new((*user).to_owned(), password.to_string()));
        }
        Ok(Self { transport: builder.build(), from, to, partly_sent: Mutex::default() })
    }

    pub(super) async fn tell(&self, message: &Message) -> Result<String, DeliveryError> {
        self.send(message.id(), self.mail(message)).await
    }

    pub(super) async fn notify(&self, notice: &Notice) -> Result<String, DeliveryError> {
        let mark = notice.severity.name();
        let head = (format!("[{mark}] {}", notice.title()), notice.key.clone());
        let conversation = notice.run.clone();
        let body = format!("{}\n\n-- \n{}\n", notice.message, notice.origin());
        self.send(notice.key.clone(), self.written(head, &conversation, body)).await
    }

    /// Sends it to all at once; if the server does not take that, to each on their own, because one address that it refuses must not
    /// keep the mail from the others, and who has it must not get it again and again. It is sent if anybody gets it: who does not is
    /// said in the log.
    async fn send(
        &self,
        id: String,
        mail: Result<Mail, lettre::error::Error>,
    ) -> Result<String, DeliveryError> {
        let mail = mail.map_err(|error| DeliveryError::Refused(error.to_string()))?;
        let content = mail.formatted();
        let is_begun = self.partly_sent.lock().iter().any(|it| it.id == id);
        if !is_begun {
            match self.transport.send_raw(mail.envelope(), &content).await {
                Ok(response) => return Ok(answered(&response)),
                Err(error) if mail.envelope().to().len() > 1 && is_about_an_address(&error) => {}
                Err(error) => return Err(undelivered(&error)),
            }
        }
        self.send_each(&id, mail.envelope(), &content).await
    }

    async fn send_each(
        &self,
        id: &str,
        envelope: &Envelope,
        content: &[u8],
    ) -> Result<String, DeliveryError> {
        let tries = self.with(id, |it| {
            it.tries += 1;
            it.tries
        });
        let mut waits = None;
        for to in envelope.to() {
            if self.with(id, |it| it.settled.contains(to)) {
                continue;
            }
            let of_one = Envelope::new(envelope.from().cloned(), vec![to.clone()]);
            let of_one = of_one.map_err(|error| DeliveryError::Refused(error.to_string()))?;
            let error = match self.transport.send_raw(&of_one, content).await {
                Ok(response) => {
                    self.with(id, |it| {
                        it.settled.insert(to.clone());
                        it.taken = Some(answered(&response));
                    });
                    continue;
                }
                Err(error) if is_about_an_address(&error) => error,
                // Nobody answers any more.
                Err(error) => return Err(undelivered(&error)),
            };
            let why = undelivered(&error);
            if !error.is_permanent() && tries < TRIES_MAX {
                waits = Some(why);
                continue;
            }
            tracing::warn!(address = %to, error = %why, "somebody got no mail: the server does not take it for this address");
            self.with(id, |it| {
                it.settled.insert(to.clone());
                it.without.push_str(&format!("; not for {to}: {why}"));
            });
        }
        if let Some(why) = waits {
            return Err(why);
        }
        let mut partly_sent = self.partly_sent.lock();
        let at = partly_sent.iter().position(|it| it.id == id);
        let sent = at.and_then(|at| partly_sent.remove(at)).unwrap_or_default();
        let nobody = || DeliveryError::Refused(format!("nobody got the mail{}", sent.without));
        sent.taken.map(|taken| taken + &sent.without).ok_or_else(nobody)
    }

    /// Looks at how far a mail has come, from its first time on.
    fn with<T>(&self, id: &str, look: impl FnOnce(&mut PartlySent) -> T) -> T {
        let mut partly_sent = self.partly_sent.lock();
        let at = partly_sent.iter().position(|it| it.id == id).unwrap_or_else(|| {
            if partly_sent.len() >= PARTLY_SENT_MAX {
                partly_sent.pop_front();
            }
            partly_sent.push_back(PartlySent { id: id.to_owned(), ..PartlySent::default() });
            partly_sent.len() - 1
        });
        look(&mut partly_sent[at])
    }

    /// All mails about one group of incidents are one conversation, and a mail that comes twice has the same id.
    fn mail(&self, message: &Message) -> Result<Mail, lettre::error::Error> {
        let conversation = format!("{}/{}", message.group, message.began_at.0);
        let mark = if message.open.is_empty() { "over" } else { message.severity.name() };
        let head = (format!("[{mark}] {}", message.title()), message.id());
        let body = format!("{}\n\n{}\n", message.title(), message.lines().join("\n"));
        self.written(head, &conversation, body)
    }

    /// A mail with a subject and an id, in a conversation.
    fn written(
        &self,
        (subject, id): (String, String),
        conversation: &str,
        body: String,
    ) -> Result<Mail, lettre::error::Error> {
        let named = |text: &str| {
            let digits = hex::encode(Sha256::digest(text));
            format!("<{}@{}>", &digits[..32], self.from.email.domain())
        };
        let subject: String = subject.chars().take(SUBJECT_CHARS_MAX).collect();
        let builder: MessageBuilder = Mail::builder()
            .from(self.from.clone())
            .subject(subject)
            .message_id(Some(named(&id)))
            .references(named(conversation))
            .header(ContentType::TEXT_PLAIN);
        let builder = self.to.iter().fold(builder, |builder, to| builder.to(to.clone()));
        builder.body(body)
    }
}

fn answered(response: &Response) -> String {
    let text: Vec<_> = response.message().collect();
    format!("{}: {}", response.code(), shown(&text.join(" ")))
}

fn undelivered(error: &Error) -> DeliveryError {
    let source = std::error::Error::source(error).map(|it| format!(": {it}"));
    let text = shown(&format!("{error}{}", source.unwrap_or_default()));
    if error.is_permanent() { DeliveryError::Refused(text) } else { DeliveryError::Unreachable(text) }
}

/// Whether the server's answer may be about one of the recipients: it is there, and speaks with whoever sends.
fn is_about_an_address(error: &Error) -> bool {
    let code = error.status().map(u16::from);
    code.is_some_and(|code| !NOT_ABOUT_AN_ADDRESS.contains(&code))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

    use super::*;

    #[test]
    fn wrong_settings_are_refused_by_name() {
        stella_certs::install_provider();
        let to = ["ops@example.com".to_owned()];
        let good = || Settings {
            host: "127.0.0.1",
            port: 25,
            security: Security::None,
            login: None,
            ca: None,
            from: "Stella <stella@example.com>",
            to: &to,
        };
        Email::new(&good()).unwrap();
        let login = Some(("me", Zeroizing::new("hunter2".to_owned())));
        let wrong = [
            (Settings { from: "stella", ..good() }, "no mail address"),
            (Settings { to: &[], ..good() }, "nobody"),
            (Settings { login, ..good() }, "only sent by starttls"),
            (Settings { security: Security::Tls, ca: Some(b"x"), ..good() }, "holds no certificate"),
        ];
        for (settings, says) in wrong {
            let error = Email::new(&settings).unwrap_err();
            assert!(error.contains(says) && !error.contains("hunter2"), "{error}");
        }
    }

    /// A server that takes mail for everybody but `late@`, for whom it does so from the third time on. Who has got what.
    async fn relay() -> (u16, std::sync::Arc<Mutex<Vec<String>>>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let got = std::sync::Arc::<Mutex<Vec<String>>>::default();
        let taken = std::sync::Arc::clone(&got);
        tokio::spawn(async move {
            let mut asked = 0;
            while let Ok((stream, _)) = listener.accept().await {
                let mut stream = BufReader::new(stream);
                let mut to = Vec::new();
                stream.write_all(b"220 here\r\n").await.unwrap();
                let mut line = String::new();
                while stream.read_line(&mut line).await.is_ok_and(|read| read > 0) {
                    let answer: &[u8] = match &line[..4] {
                        "RCPT" if line.contains("late@") && asked < 2 => {
                            asked += 1;
                            b"450 not now\r\n"
                        }
                        "RCPT" => {
                            to.push(line.split(['<', '>']).nth(1).unwrap().to_owned());
                            b"250 ok\r\n"
                        }
                        "DATA" => b"354 go ahead\r\n",
                        _ => b"250 ok\r\n",
                    };
                    let is_data = line.starts_with("DATA");
                    stream.write_all(answer).await.unwrap();
                    line.clear();
                    while is_data && !line.ends_with("\r\n.\r\n") {
                        stream.read_line(&mut line).await.unwrap();
                    }
                    if is_data {
                        taken.lock().append(&mut to);
                        stream.write_all(b"250 taken\r\n").await.unwrap();
                        line.clear();
                    }
                }
            }
        });
        (port, got)
    }

    #[tokio::test]
    async fn who_has_the_mail_does_not_get_it_again_while_it_is_tried_for_others() {
        stella_certs::install_provider();
        let (port, got) = relay().await;
        let to = ["ops@example.com".to_owned(), "late@example.com".to_owned()];
        let settings = Settings {
            host: "127.0.0.1",
            port,
            security: Security::None,
            login: None,
            ca: None,
            from: "Stella <stella@example.com>",
            to: &to,
        };
        let email = Email::new(&settings).unwrap();
        let send = async || {
            let head = ("subject".to_owned(), "id".to_owned());
            email.send("id".to_owned(), email.written(head, "conversation", "body".to_owned())).await
        };
        // At once to both, and to each on their own: it is for one of them not taken yet, both times.
        let waits = send().await;
        assert!(matches!(waits, Err(DeliveryError::Unreachable(_))), "{waits:?}");
        assert_eq!(*got.lock(), ["ops@example.com"]);
        let sent = send().await;
        assert!(sent.as_ref().is_ok_and(|said| !said.contains("not for")), "{sent:?}");
        assert_eq!(*got.lock(), ["ops@example.com", "late@example.com"]);
        assert!(email.partly_sent.lock().is_empty());
    }
}
