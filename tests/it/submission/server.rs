//! A server on loopback with a gate that keeps everything in memory, and a client that speaks by hand.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use postrider::accept::{Refusal, Submission};
use postrider::clock::Clock;
use postrider::credential::{Account, Credentials};
use postrider::mail::{QueueId, ReversePath};
use postrider::submission::{Gate, Listener, Mode, Plan, Server, Settings};
use postrider::tls::server::ServerTls;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;

use super::support::Kept;

/// Nothing here takes longer, or it hangs.
pub const LONGEST: Duration = Duration::from_secs(20);
/// Of the account `shop`: as hashed with the smallest parameters, so that tests spend no time on it.
pub const PASSWORD: &str = "secret";

/// Keeps what it is given.
#[derive(Clone)]
pub struct FakeGate {
    pub kept: Arc<Mutex<Vec<Submission>>>,
    /// One permit for each message that may be accepted.
    pub permits: Arc<Semaphore>,
    /// Gets a permit for each message that asks to be accepted.
    pub asked: Arc<Semaphore>,
    /// Every credential is suspended.
    pub suspended: Arc<AtomicBool>,
}

impl Gate for FakeGate {
    type Receipt = Kept;

    fn check_sender(&self, _credential: Option<&str>, path: &ReversePath) -> Result<(), Refusal> {
        match path.address().is_some_and(|address| address.local() == "evil") {
            true => Err(Refusal { code: 550, status: "5.7.1", text: "not yours".to_owned() }),
            false => Ok(()),
        }
    }

    fn why_suspended(&self, credential: &str) -> Option<String> {
        self.suspended.load(Ordering::Relaxed).then(|| format!("{credential} is suspended: a test"))
    }

    async fn accept(&self, submission: Submission) -> Result<Kept, Refusal> {
        self.asked.add_permits(1);
        self.permits.acquire().await.unwrap().forget();
        let mut kept = self.kept.lock().unwrap();
        kept.push(submission);
        Ok(Kept(QueueId::from_u64(kept.len() as u64)))
    }
}

/// A running server.
pub struct Daemon {
    pub server: Server<FakeGate>,
    pub gate: FakeGate,
    pub plan: Plan,
    pub keys: tempfile::TempDir,
    roots: Arc<rustls::RootCertStore>,
}

pub fn listener(mode: Mode, trusted: &[&str]) -> Listener {
    Listener {
        bind: "127.0.0.1:0".parse().unwrap(),
        mode,
        trusted_networks: trusted.iter().map(|network| network.parse().unwrap()).collect(),
        stream: None,
        control: postrider::message::Families::NONE,
        hide_client: false,
        suppressed: postrider::submission::Suppressed::Reported,
    }
}

/// One listener of each mode: submission, submissions, smtp for everybody on this machine.
pub fn all_modes() -> Vec<Listener> {
    vec![listener(Mode::Submission, &[]), listener(Mode::Submissions, &[]), listener(Mode::Smtp, &["127.0.0.0/8"])]
}

/// A certificate of an authority of its own: unlike a self-signed one it is shown on loopback too.
fn certificate() -> (CertificateDer<'static>, CertificateDer<'static>, PrivateKeyDer<'static>) {
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    authority.distinguished_name.push(rcgen::DnType::CommonName, "test authority");
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let root = authority.self_signed(&authority_key).unwrap().der().clone();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(["relay.example".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    (root, leaf.der().clone(), PrivateKeyDer::Pkcs8(key.serialize_der().into()))
}

pub fn account(name: &str) -> Account {
    let hash = postrider::credential::hash(PASSWORD).unwrap();
    Account { name: name.into(), password_hash: Some(hash.into()), disabled: false }
}

impl Daemon {
    pub fn start(listeners: Vec<Listener>, settings: Settings) -> Daemon {
        let (root, leaf, key) = certificate();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(root).unwrap();
        let tls = ServerTls::new(vec![leaf], key).unwrap();
        let keys = tempfile::tempdir().unwrap();
        let path = keys.path().join("credentials.json");
        let credentials = Credentials::new(Default::default(), vec![account("shop")], path).unwrap();
        let gate = FakeGate {
            kept: Arc::default(),
            permits: Arc::new(Semaphore::new(100_000)),
            asked: Arc::new(Semaphore::new(0)),
            suspended: Arc::default(),
        };
        let plan = Plan { hostname: "relay.example".parse().unwrap(), listeners, settings };
        let clock = Arc::new(Clock::default());
        let mut server = Server::bind(plan.clone(), Some(tls), credentials, gate.clone(), clock).unwrap();
        server.start();
        Daemon { server, gate, plan, keys, roots: Arc::new(roots) }
    }

    pub fn address(&self, listener: usize) -> SocketAddr {
        self.server.addresses()[listener]
    }

    pub fn kept(&self) -> usize {
        self.gate.kept.lock().unwrap().len()
    }

    /// A client past the greeting; under TLS from the start where the listener wants it.
    pub async fn client(&self, listener: usize) -> Client {
        let stream = TcpStream::connect(self.address(listener)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut client = match self.plan.listeners[listener].mode {
            Mode::Submissions => Client::new(self.handshake(stream).await),
            Mode::Submission | Mode::Smtp => Client::new(Box::new(stream)),
        };
        let greeting = client.reply().await;
        assert!(greeting.starts_with("220 relay.example ESMTP"), "{greeting}");
        client
    }

    pub async fn handshake(&self, stream: impl Duplex + 'static) -> Box<dyn Duplex> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        let name = ServerName::try_from("relay.example").unwrap();
        Box::new(TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap())
    }

    /// A client that may use MAIL, by whatever the listener asks for.
    pub async fn sender(&self, listener: usize) -> Client {
        let mut client = self.client(listener).await;
        if self.plan.listeners[listener].mode == Mode::Submission {
            client.say("EHLO a.example").await;
            assert!(client.say("STARTTLS").await.starts_with("220 2.0.0 "));
            client = Client::new(self.handshake(client.stream).await);
        }
        client.say("EHLO a.example").await;
        if self.plan.listeners[listener].mode != Mode::Smtp {
            assert!(client.say("AUTH PLAIN AHNob3AAc2VjcmV0").await.starts_with("235 2.7.0 "));
        }
        client
    }
}

/// A stream of whatever kind.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

pub struct Client {
    pub stream: Box<dyn Duplex>,
    read: Vec<u8>,
}

impl Client {
    pub fn new(stream: Box<dyn Duplex>) -> Client {
        Client { stream, read: Vec::new() }
    }

    pub async fn send(&mut self, octets: &[u8]) {
        self.stream.write_all(octets).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// One reply with all its lines; what is left at the end of the stream, if that comes first.
    pub async fn reply(&mut self) -> String {
        tokio::time::timeout(LONGEST, async {
            loop {
                if let Some(length) = whole_reply(&self.read) {
                    return String::from_utf8(self.read.drain(..length).collect()).unwrap();
                }
                // A reset after a refusal is an end too.
                if self.stream.read_buf(&mut self.read).await.unwrap_or(0) == 0 {
                    return String::from_utf8(std::mem::take(&mut self.read)).unwrap();
                }
            }
        })
        .await
        .expect("a reply in time")
    }

    pub async fn say(&mut self, line: &str) -> String {
        self.send(format!("{line}\r\n").as_bytes()).await;
        self.reply().await
    }

    /// Everything until the server closes.
    pub async fn rest(&mut self) -> String {
        let mut all = String::new();
        loop {
            match self.reply().await {
                reply if reply.is_empty() => return all,
                reply => all.push_str(&reply),
            }
        }
    }

    pub async fn envelope(&mut self) {
        assert_eq!(self.say("MAIL FROM:<a@b.example>").await, "250 2.1.0 Ok\r\n");
        assert_eq!(self.say("RCPT TO:<c@d.example>").await, "250 2.1.5 Ok\r\n");
        assert!(self.say("DATA").await.starts_with("354 "));
    }
}

fn whole_reply(octets: &[u8]) -> Option<usize> {
    let mut length = 0;
    for line in octets.split_inclusive(|octet| *octet == b'\n') {
        length += line.len();
        if line.ends_with(b"\r\n") && line.get(3) == Some(&b' ') {
            return Some(length);
        }
    }
    None
}
