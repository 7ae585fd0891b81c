//! Hosts on loopback that meet whoever sends mail in one of the ways of `tests/postfix/meet.py`, and note what they see.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::harness::port;

/// How a peer is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// STARTTLS, with a certificate for its name of an authority that counts.
    Trusted,
    /// The same for another name.
    OtherName,
    /// A certificate for its name, of its own.
    SelfSigned,
    /// No STARTTLS.
    NoTls,
    /// STARTTLS, and then no TLS.
    Broken,
    /// STARTTLS is answered 454.
    Refused,
    /// As trusted, without AUTH.
    NoAuth,
    /// As trusted, and no password is good.
    AuthRefused,
}

impl Kind {
    pub const ALL: [Kind; 8] = [
        Kind::Trusted,
        Kind::OtherName,
        Kind::SelfSigned,
        Kind::NoTls,
        Kind::Broken,
        Kind::Refused,
        Kind::NoAuth,
        Kind::AuthRefused,
    ];

    /// Its name in the record.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Trusted => "trusted",
            Kind::OtherName => "other-name",
            Kind::SelfSigned => "self-signed",
            Kind::NoTls => "no-tls",
            Kind::Broken => "broken",
            Kind::Refused => "refused",
            Kind::NoAuth => "no-auth",
            Kind::AuthRefused => "auth-refused",
        }
    }
}

/// A message that was taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Taken {
    pub id: String,
    pub recipient: String,
    pub host: String,
    pub tls: bool,
    pub login: Option<String>,
}

#[derive(Default)]
struct Book {
    visited: BTreeSet<String>,
    taken: Vec<Taken>,
    in_clear: BTreeSet<String>,
    logins: Vec<(String, String)>,
}

struct Shared {
    kind: Kind,
    hosts: Vec<(String, IpAddr)>,
    config: Arc<ServerConfig>,
    book: Mutex<Book>,
    stopping: AtomicBool,
}

/// All hosts of a zone, of one kind. Ends when dropped.
pub struct Hosts {
    shared: Arc<Shared>,
    /// Where STARTTLS is spoken, at every host.
    pub port: u16,
    /// Where TLS comes first.
    pub wrapped_port: u16,
    /// The certificate of the authority that counts, PEM.
    pub authority: String,
}

impl Hosts {
    /// Starts these hosts, each at an address of its own.
    pub fn start(kind: Kind, names: &[String]) -> Hosts {
        let address = |place: usize| IpAddr::V4(Ipv4Addr::new(127, 0, 1, u8::try_from(place + 1).expect("few hosts")));
        let hosts: Vec<(String, IpAddr)> =
            names.iter().enumerate().map(|(place, name)| (name.clone(), address(place))).collect();
        let (config, authority) = certified(kind, names);
        let shared = Shared { kind, hosts, config, book: Mutex::default(), stopping: AtomicBool::new(false) };
        let shared = Arc::new(shared);
        let [port, wrapped_port] = [false, true].map(|wrapped| {
            // A port that is free at 127.0.0.1 may be taken at another address.
            let listeners = std::iter::repeat_with(port::free).find_map(|port| {
                let all = shared.hosts.iter().map(|(_, address)| TcpListener::bind((*address, port)));
                all.collect::<io::Result<Vec<TcpListener>>>().ok().map(|listeners| (port, listeners))
            });
            let (port, listeners) = listeners.expect("a port");
            for ((name, _), listener) in shared.hosts.iter().zip(listeners) {
                let (name, shared) = (name.clone(), Arc::clone(&shared));
                std::thread::spawn(move || accept_all(&listener, &name, wrapped, &shared));
            }
            port
        });
        Hosts { shared, port, wrapped_port, authority }
    }

    /// Names and addresses.
    pub fn hosts(&self) -> &[(String, IpAddr)] {
        &self.shared.hosts
    }

    /// Whether somebody came to this host.
    pub fn is_visited(&self, host: &str) -> bool {
        self.shared.book().visited.contains(host)
    }

    /// What was taken so far.
    pub fn taken(&self) -> Vec<Taken> {
        self.shared.book().taken.clone()
    }

    /// Names and passwords as they were said, good or not.
    pub fn logins(&self) -> Vec<(String, String)> {
        self.shared.book().logins.clone()
    }

    /// The hosts at which a password was said in clear.
    pub fn in_clear(&self) -> BTreeSet<String> {
        self.shared.book().in_clear.clone()
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        for (_, address) in &self.shared.hosts {
            for port in [self.port, self.wrapped_port] {
                let _ = TcpStream::connect_timeout(&SocketAddr::new(*address, port), Duration::from_secs(1));
            }
        }
    }
}

impl Shared {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The kind's certificate, and the authority that counts.
fn certified(kind: Kind, names: &[String]) -> (Arc<ServerConfig>, String) {
    let authority_key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.distinguished_name.push(DnType::CommonName, "Postrider test authority");
    let authority = params.self_signed(&authority_key).expect("an authority");
    let issuer = Issuer::new(params, authority_key);
    let key = KeyPair::generate().expect("a key");
    let of = if kind == Kind::OtherName { vec!["elsewhere.invalid".to_owned()] } else { names.to_vec() };
    let params = CertificateParams::new(of).expect("parameters");
    let leaf = match kind {
        Kind::SelfSigned => params.self_signed(&key),
        _ => params.signed_by(&key, &issuer),
    };
    let chain = vec![leaf.expect("a certificate").der().clone()];
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("protocol versions")
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::Pkcs8(key.serialize_der().into()));
    (Arc::new(config.expect("a sound certificate")), authority.pem())
}

fn accept_all(listener: &TcpListener, host: &str, wrapped: bool, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let (shared, host) = (Arc::clone(shared), host.to_owned());
        std::thread::spawn(move || {
            let _ = stream.set_read_timeout(Some(Duration::from_secs(60)));
            let mut visit = Visit { shared: &shared, host, wire: Some(Wire::Clear(stream)), login: None };
            let _ = visit.run(wrapped);
        });
    }
}

enum Wire {
    Clear(TcpStream),
    Tls(Box<StreamOwned<ServerConnection, TcpStream>>),
}

struct Visit<'a> {
    shared: &'a Shared,
    host: String,
    /// `None` after a failure.
    wire: Option<Wire>,
    login: Option<String>,
}

impl Visit<'_> {
    fn tls(&self) -> bool {
        matches!(self.wire, Some(Wire::Tls(_)))
    }

    fn say(&mut self, text: &str) -> io::Result<()> {
        let octets = format!("{text}\r\n");
        match self.wire.as_mut() {
            Some(Wire::Clear(stream)) => stream.write_all(octets.as_bytes()),
            Some(Wire::Tls(stream)) => stream.write_all(octets.as_bytes()).and_then(|()| stream.flush()),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Octet by octet: what follows STARTTLS is not ours to read.
    fn read(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        loop {
            let mut octet = [0];
            match self.wire.as_mut() {
                Some(Wire::Clear(stream)) => stream.read_exact(&mut octet)?,
                Some(Wire::Tls(stream)) => stream.read_exact(&mut octet)?,
                None => return Err(io::ErrorKind::NotConnected.into()),
            }
            if octet == *b"\n" {
                return Ok(String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned());
            }
            line.extend(octet);
        }
    }

    fn encrypt(&mut self) -> io::Result<()> {
        let Some(Wire::Clear(mut stream)) = self.wire.take() else { return Err(io::ErrorKind::InvalidInput.into()) };
        if matches!(self.shared.kind, Kind::Broken | Kind::Refused) {
            // After the client's hello: what came before it would be taken for somebody's in between.
            let _ = stream.read(&mut [0; 4096])?;
            stream.write_all(&b"this is no TLS\r\n".repeat(4))?;
            let _ = stream.shutdown(Shutdown::Both);
            return Err(io::ErrorKind::InvalidData.into());
        }
        let config = self.shared.config.clone();
        let connection = ServerConnection::new(config).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(connection, stream);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        self.wire = Some(Wire::Tls(Box::new(stream)));
        Ok(())
    }

    fn run(&mut self, wrapped: bool) -> io::Result<()> {
        let kind = self.shared.kind;
        self.shared.book().visited.insert(self.host.clone());
        if wrapped && kind != Kind::NoTls {
            self.encrypt()?;
        }
        self.say("220 peer ESMTP")?;
        let mut recipients: Vec<String> = Vec::new();
        loop {
            let line = self.read()?;
            let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
            match verb.as_str() {
                "EHLO" => {
                    let starttls = if self.tls() || kind == Kind::NoTls { "" } else { "250-STARTTLS\r\n" };
                    let auth = if kind == Kind::NoAuth { "" } else { "250-AUTH PLAIN LOGIN\r\n" };
                    self.say(&format!("250-peer\r\n250-8BITMIME\r\n{starttls}{auth}250 ENHANCEDSTATUSCODES"))?;
                }
                "STARTTLS" if kind == Kind::Refused => self.say("454 4.7.0 TLS not available")?,
                "STARTTLS" => {
                    self.say("220 2.0.0 go on")?;
                    self.encrypt()?;
                }
                "AUTH" => self.authenticate(&line)?,
                "MAIL" => {
                    recipients.clear();
                    self.say("250 2.1.0 Ok")?;
                }
                "RCPT" => {
                    let path = line.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
                    recipients.extend(path.map(|(path, _)| path.to_owned()));
                    self.say("250 2.1.5 Ok")?;
                }
                "DATA" => {
                    self.say("354 go on")?;
                    let mut id = String::new();
                    loop {
                        let line = self.read()?;
                        if line == "." {
                            break;
                        }
                        if let Some(found) = line.strip_prefix("X-Test-Id: ") {
                            id = found.to_owned();
                        }
                    }
                    let (host, tls, login) = (self.host.clone(), self.tls(), self.login.clone());
                    let taken = recipients.iter().map(|recipient| Taken {
                        id: id.clone(),
                        recipient: recipient.clone(),
                        host: host.clone(),
                        tls,
                        login: login.clone(),
                    });
                    self.shared.book().taken.extend(taken);
                    self.say("250 2.0.0 taken")?;
                }
                "QUIT" => return self.say("221 2.0.0 bye"),
                _ => self.say("250 2.0.0 Ok")?,
            }
        }
    }

    fn authenticate(&mut self, line: &str) -> io::Result<()> {
        if !self.tls() {
            let host = self.host.clone();
            self.shared.book().in_clear.insert(host);
        }
        let decoded = |text: &str| STANDARD.decode(text).unwrap_or_default();
        let mut words = line.split(' ').skip(1);
        let mechanism = words.next().unwrap_or_default().to_ascii_uppercase();
        let prompt = if mechanism == "PLAIN" { "334 " } else { "334 VXNlcm5hbWU6" };
        let first = match words.next() {
            Some(initial) => initial.to_owned(),
            None => {
                self.say(prompt)?;
                self.read()?
            }
        };
        let (name, password) = match mechanism.as_str() {
            "PLAIN" => {
                let all = decoded(&first);
                let mut parts = all.split(|octet| *octet == 0).skip(1).map(<[u8]>::to_vec);
                (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
            }
            _ => {
                self.say("334 UGFzc3dvcmQ6")?;
                let second = self.read()?;
                (decoded(&first), decoded(&second))
            }
        };
        let [name, password] = [name, password].map(|octets| String::from_utf8_lossy(&octets).into_owned());
        self.shared.book().logins.push((name.clone(), password));
        if self.shared.kind == Kind::AuthRefused {
            return self.say("535 5.7.8 no");
        }
        self.login = Some(name);
        self.say("235 2.7.0 welcome")
    }
}
