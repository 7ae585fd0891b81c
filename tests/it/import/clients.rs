//! What Postfix does with clients of every kind on each port, by the config of each case, and what our daemon does by the
//! imported one: whether it offers STARTTLS and AUTH, who may log in, and whose mail to somewhere else it takes. The answers
//! were recorded by `tests/postfix/meet.py`.
//!
//! Ports and addresses are the real ones, so the test runs in a network namespace of its own: it starts itself again there.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};

use super::{DOCS, cases, import_with, root};
use crate::harness::{Client, Daemon, Setup, eventually, write_secret};

/// The machine, and who connects to it from elsewhere: the addresses of the record.
const MACHINE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const CLIENTS: [Ipv4Addr; 3] = [Ipv4Addr::new(10, 0, 0, 7), Ipv4Addr::new(10, 20, 0, 9), Ipv4Addr::new(203, 0, 113, 9)];
const RECIPIENT: &str = "u@example.net";
/// The passwords with which the record was made.
const USERS: &str = "app:secret of app\nboss:secret of boss\n";
/// Set in the namespace.
const INSIDE: &str = "POSTRIDER_TEST_INSIDE";

/// A kind of client, and what it met at Postfix.
#[derive(serde::Deserialize, Debug)]
struct Theirs {
    port: String,
    address: Ipv4Addr,
    tls: bool,
    /// Whether somebody listens there.
    reached: bool,
    #[serde(default)]
    starttls: bool,
    #[serde(default)]
    auth: bool,
    #[serde(default)]
    mail: Vec<Session>,
}

/// What became of mail, by sender, without a login or with one.
#[derive(serde::Deserialize, Debug)]
struct Session {
    login: String,
    password: String,
    /// To AUTH.
    said: Option<u16>,
    senders: BTreeMap<String, u16>,
}

/// One question, and both answers.
#[derive(Debug)]
struct Asked<'a> {
    case: &'a str,
    row: &'a Theirs,
    what: What<'a>,
}

#[derive(Debug)]
enum What<'a> {
    /// Whether STARTTLS is offered: theirs, ours.
    StartTls(bool, bool),
    /// Whether AUTH is offered.
    Auth(bool, bool),
    /// The reply to AUTH.
    Login(Option<u16>, u16),
    /// The last reply to MAIL and RCPT.
    Mail(&'a Session, &'a str, u16, u16),
}

impl Asked<'_> {
    fn is_same(&self) -> bool {
        match self.what {
            What::StartTls(theirs, ours) | What::Auth(theirs, ours) => theirs == ours,
            What::Login(theirs, ours) => theirs == Some(ours),
            What::Mail(_, _, theirs, ours) => theirs / 100 == ours / 100,
        }
    }

    fn is_local(&self) -> bool {
        self.row.address.is_loopback()
    }
}

type Fits = fn(&Asked<'_>) -> bool;

/// Where we differ on purpose, in the words of docs/FROM-POSTFIX.md, "What differs"; which answers those are, and how many of
/// all cases.
const DIFFERENCES: &[(&str, Fits, usize)] = &[
    (
        "STARTTLS on loopback with a snakeoil certificate",
        |a| a.is_local() && matches!(a.what, What::StartTls(true, false)) && SNAKEOIL.contains(&a.case),
        4,
    ),
    (
        "passwords in clear on port 25, unless `smtpd_tls_auth_only`",
        |a| !a.is_local() && !a.row.tls && matches!(a.what, What::Auth(true, false)),
        3,
    ),
    ("in clear on loopback", |a| a.is_local() && !a.row.tls && matches!(a.what, What::Auth(false, true)), 2),
    (
        "a login may use any sender",
        |a| match a.what {
            What::Mail(session, sender, 250, 550..=553) => {
                session.said == Some(235) && a.case == "i-hub" && !sender.ends_with("@example.com")
            }
            _ => false,
        },
        78,
    ),
    (
        "a stranger is told 4xx where a list says `defer_unauth_destination`",
        |a| matches!(a.what, What::Mail(session, _, 400..=499, 500..=599) if session.said != Some(235)),
        60,
    ),
];

/// Cases whose certificate is Debian's own.
const SNAKEOIL: &[&str] = &["a-satellite", "b-internet-site"];
#[test]
fn clients_of_every_kind_are_served_as_postfix_serves_them() {
    if std::env::var_os(INSIDE).is_some() {
        return compare_all();
    }
    let this = std::env::current_exe().expect("this test's binary");
    let name = "import::clients::clients_of_every_kind_are_served_as_postfix_serves_them";
    let ways: [&[&str]; 2] = [&["--net"], &["--user", "--map-root-user", "--net"]];
    let is_let = |way: &&&[&str]| {
        let tried = Command::new("unshare").args(**way).args(["ip", "link", "set", "lo", "up"]).output();
        tried.is_ok_and(|output| output.status.success())
    };
    let Some(way) = ways.iter().find(is_let) else {
        println!("skipped: a network namespace cannot be made here");
        return;
    };
    let mut command = Command::new("unshare");
    command.args(*way).arg(this).args(["--exact", name, "--nocapture"]).env(INSIDE, "yes");
    let output = command.output().expect("unshare");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

/// In the namespace: every address of the record is this machine's.
fn compare_all() {
    let ip = |words: &[&str]| assert!(Command::new("ip").args(words).status().expect("ip").success(), "{words:?}");
    ip(&["link", "set", "lo", "up"]);
    for address in CLIENTS.iter().chain([&MACHINE]) {
        ip(&["addr", "add", &format!("{address}/32"), "dev", "lo"]);
    }
    let (mut counts, mut asked_of, mut unnamed) = (vec![0; DIFFERENCES.len()], 0, Vec::new());
    let mut without = Vec::new();
    for case in cases() {
        let text = std::fs::read_to_string(root().join("cases").join(&case).join("clients.json")).expect("a record");
        let rows: Vec<Theirs> = serde_json::from_str(&text).expect("a record of clients");
        if rows.is_empty() {
            without.push(case);
            continue;
        }
        let daemon = start(&case);
        // Each address by itself: wrong passwords make it wait.
        let addresses: BTreeSet<Ipv4Addr> = rows.iter().map(|row| row.address).collect();
        let found: Vec<Asked<'_>> = std::thread::scope(|scope| {
            let (case, rows) = (&case, &rows);
            let runs: Vec<_> = addresses
                .into_iter()
                .map(|address| {
                    let own = move || {
                        rows.iter().filter(|row| row.address == address).flat_map(|row| ask(case, row)).collect()
                    };
                    scope.spawn(own)
                })
                .collect();
            runs.into_iter().flat_map(|run| -> Vec<Asked<'_>> { run.join().expect("a run") }).collect()
        });
        for asked in found {
            asked_of += 1;
            if asked.is_same() {
                continue;
            }
            let row = asked.row;
            match DIFFERENCES.iter().position(|(_, fits, _)| fits(&asked)) {
                Some(place) => counts[place] += 1,
                None => unnamed.push(format!("{case} {} {} tls={}: {:?}", row.port, row.address, row.tls, asked.what)),
            }
        }
        drop(daemon);
    }
    assert!(unnamed.is_empty(), "{} of {asked_of}:\n{}", unnamed.len(), unnamed.join("\n"));
    for (name, ..) in DIFFERENCES {
        assert!(DOCS.contains(name), "docs/FROM-POSTFIX.md does not say: {name}");
    }
    // Postfix's smtpd ends at once where no list keeps strangers from relaying.
    assert_eq!(without, ["c-null-client"]);
    let wanted: Vec<(&str, usize)> = DIFFERENCES.iter().map(|(name, _, count)| (*name, *count)).collect();
    let counted: Vec<(&str, usize)> =
        DIFFERENCES.iter().zip(counts).map(|((name, ..), count)| (*name, count)).collect();
    assert_eq!(counted, wanted, "of {asked_of}");
}

/// The imported config, with a certificate that can be shown and users whose passwords are known.
fn start(case: &str) -> Daemon {
    let has_users = root().join("cases").join(case).join("users").exists();
    let hash = |password: &str| postrider::credential::hash(password).map_err(|error| error.to_string());
    let mut import = import_with(case, has_users.then_some(USERS), &hash);
    let mut daemon = Setup::relaying_to(([127, 0, 0, 1], 25).into()).prepare();
    let directory = daemon.config.parent().expect("a directory").to_owned();
    for file in &import.files {
        let path = directory.join(&file.path);
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        write_secret(&path, &file.text);
    }
    let target = &mut import.target;
    if target.tls.is_some() {
        let (chain, key) = certificate(SNAKEOIL.contains(&case));
        let [chain_path, key_path] = ["chain.pem", "key.pem"].map(|name| directory.join(name));
        write_secret(&chain_path, &chain);
        write_secret(&key_path, &key);
        target.tls = Some((chain_path.display().to_string(), key_path.display().to_string()));
    }
    // The record is of IPv4, and a machine may be without IPv6.
    target.listeners.retain(|listener| listener.bind.is_ipv4());
    let first = target.listeners.first().expect("a port").bind.port();
    target.sources.iter_mut().for_each(|source| source.address = "0.0.0.0".to_owned());
    target.log.clear();
    let data_dir = format!("data_dir = \"{}\"\n\nhostname", daemon.data_dir.display());
    daemon.overwrite_config(&target.toml().replacen("hostname", &data_dir, 1));
    daemon.spawn();
    eventually("the daemon listens", Duration::from_secs(60), || {
        assert!(daemon.is_running(), "{case}: {}", daemon.log());
        TcpStream::connect((Ipv4Addr::LOCALHOST, first)).is_ok()
    });
    daemon
}

/// By an authority, or by itself; PEM, with its key.
fn certificate(by_itself: bool) -> (String, String) {
    let key = KeyPair::generate().expect("a key");
    let leaf = CertificateParams::new(["relay.example.com".to_owned()]).expect("parameters");
    let leaf = match by_itself {
        true => leaf.self_signed(&key).expect("a certificate"),
        false => {
            let mut authority = CertificateParams::new(Vec::new()).expect("parameters");
            authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            // Issuer and subject of the same name would be taken for one.
            authority.distinguished_name.push(DnType::CommonName, "Postrider test authority");
            let issuer = Issuer::new(authority, KeyPair::generate().expect("a key"));
            leaf.signed_by(&key, &issuer).expect("a certificate")
        }
    };
    (leaf.pem(), key.serialize_pem())
}

/// A connection from the row's address; EHLO is said. `None`: nobody listens.
fn connect(row: &Theirs, port: u16, is_wrapped: bool) -> Option<Client> {
    let to = if row.address.is_loopback() { Ipv4Addr::LOCALHOST } else { MACHINE };
    let tls = row.tls.then(any_certificate);
    let stream = dial(row.address, SocketAddr::from((to, port))).ok()?;
    let client = Client::over(stream, tls.clone().filter(|_| is_wrapped)).expect("a greeting");
    Some(match tls.filter(|_| !is_wrapped) {
        Some(tls) => client.start_tls(tls).expect("STARTTLS"),
        None => client,
    })
}

fn dial(from: Ipv4Addr, to: SocketAddr) -> io::Result<TcpStream> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let stream = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(IpAddr::V4(from), 0))?;
        tokio::time::timeout(Duration::from_secs(5), socket.connect(to)).await?
    })?;
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// Asks our daemon what Postfix was asked.
fn ask<'a>(case: &'a str, row: &'a Theirs) -> Vec<Asked<'a>> {
    let (port, is_wrapped) = match row.port.as_str() {
        "smtp" => (25, false),
        "submission" => (587, false),
        "submissions" => (465, true),
        number => (number.parse().expect("a port"), false),
    };
    let mut found = Vec::new();
    let mut add = |what| found.push(Asked { case, row, what });
    // Whether the way in is open in clear, where the row is about what comes after STARTTLS.
    if row.tls && !is_wrapped {
        let clear = Theirs { port: row.port.clone(), tls: false, mail: Vec::new(), ..*row };
        let offers = connect(&clear, port, false).map(|mut client| client.hello().expect("EHLO"));
        if !offers.expect("a port").announces("STARTTLS") {
            add(What::StartTls(true, false));
            return found;
        }
    }
    let client = connect(row, port, is_wrapped);
    assert_eq!(client.is_some(), row.reached, "{case}: {row:?}");
    let Some(mut client) = client else { return found };
    let offers = client.hello().expect("EHLO");
    let (starttls, auth) = (offers.announces("STARTTLS"), offers.announces("AUTH"));
    add(What::StartTls(row.starttls, starttls));
    add(What::Auth(row.auth, auth));
    for session in &row.mail {
        if !session.login.is_empty() && !auth {
            continue;
        }
        let mut client = connect(row, port, is_wrapped).expect("a port");
        client.hello().expect("EHLO");
        if !session.login.is_empty() {
            let password =
                if session.password == "right" { format!("secret of {}", session.login) } else { "wrong".to_owned() };
            use base64::Engine as _;
            let token = base64::engine::general_purpose::STANDARD.encode(format!("\0{}\0{password}", session.login));
            let said = client.command(&format!("AUTH PLAIN {token}")).expect("a reply").code;
            add(What::Login(session.said, said));
        }
        for (sender, theirs) in &session.senders {
            let mut reply = client.command(&format!("MAIL FROM:<{sender}>")).expect("a reply");
            if reply.code == 250 {
                reply = client.command(&format!("RCPT TO:<{RECIPIENT}>")).expect("a reply");
            }
            add(What::Mail(session, sender, *theirs, reply.code));
            client.command("RSET").expect("a reply");
        }
    }
    found
}

/// A client that takes any certificate: which one is shown is not the question.
fn any_certificate() -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("protocol versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Any))
        .with_no_client_auth();
    Arc::new(config)
}

#[derive(Debug)]
struct Any;

impl ServerCertVerifier for Any {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
