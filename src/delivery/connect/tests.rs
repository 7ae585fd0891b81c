//! Connections to scripted peers on loopback: every stage, every TLS policy.

use std::sync::Mutex;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::super::ConnectionId;
use super::super::SlotLimits;
use super::super::testing::{SHORT, impatient, play};
use super::*;
use crate::time::Timestamp;
use crate::tls::client;

/// What a peer does with one connection.
#[derive(Clone)]
struct Scene {
    /// Before TLS, or all of it.
    clear: &'static str,
    /// What follows it.
    then: Then,
}

#[derive(Clone)]
enum Then {
    End,
    /// A handshake, and this script under it.
    Tls(&'static str),
    /// Not a handshake.
    Garbage,
}

struct Theatre {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<String>>>,
    root: tempfile::NamedTempFile,
}

/// A peer that plays one scene a connection, and after the last one none.
async fn stage(scenes: Vec<Scene>) -> Theatre {
    let certified = rcgen::generate_simple_self_signed(vec!["mx.example.net".into()]).unwrap();
    let root = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(root.path(), certified.cert.pem()).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der()));
    let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let notes = heard.clone();
    tokio::spawn(async move {
        for scene in scenes {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let mut text = play(&mut tcp, scene.clear).await;
            match scene.then {
                Then::End => {}
                Then::Tls(script) => {
                    if let Ok(mut tls) = acceptor.accept(tcp).await {
                        text.push_str(&play(&mut tls, script).await);
                        let _ = tls.shutdown().await;
                    }
                }
                Then::Garbage => {
                    let mut hello = [0u8; 64];
                    let _ = tcp.read(&mut hello).await;
                    let _ = tcp.write_all(b"no TLS here at all\r\n").await;
                }
            }
            notes.lock().unwrap().push(text);
        }
    });
    Theatre { address, heard, root }
}

fn caller(root: Option<&std::path::Path>) -> Caller {
    let settings = client::Settings { extra_roots: root.map(Into::into), ..client::Settings::default() };
    Caller::new(impatient(), Client::new(&settings).unwrap(), Arc::new(Clock::default()))
}

fn plan(tls: TlsPolicy, addresses: &[SocketAddr]) -> Plan {
    let host = |address: &SocketAddr| Host {
        name: "mx.example.net".into(),
        preference: 10,
        addresses: vec![address.ip()],
        port: address.port(),
    };
    let hosts: Vec<Host> =
        addresses.iter().enumerate().map(|(n, address)| Host { preference: n as u16, ..host(address) }).collect();
    Plan {
        site: "peer".into(),
        provider: "other".into(),
        id: ConnectionId(1),
        source: Source { name: "a".into(), address: "127.0.0.2".parse().unwrap(), ehlo: "out.example.com".into() },
        hosts: hosts.into(),
        tls,
        login: None,
        trust: None,
        return_path: crate::mail::ReturnPath::Ours,
        allow_private: true,
        slots: SlotLimits::default(),
        domain: "example.net".parse().unwrap(),
    }
}

const PLAIN: &str = "S: 220 mx\nC: EHLO\nS: 250-mx\nS: 250-PIPELINING\nS: 250 SIZE 1000\nhold";
const OFFER: &str = "S: 220 mx\nC: EHLO\nS: 250-mx\nS: 250 STARTTLS\nC: STARTTLS\nS: 220 go";
const CLOSES: &str = "S: 220 mx\nC: EHLO\nS: 250-mx\nS: 250 STARTTLS\nC: STARTTLS";
const INSIDE: &str = "C: EHLO\nS: 250-mx\nS: 250 DSN\nhold";
const GREETED_INSIDE: &str = "S: 220 mx\nC: EHLO\nS: 250-mx\nS: 250 DSN\nhold";

const fn scene(clear: &'static str, then: Then) -> Scene {
    Scene { clear, then }
}

/// Policy, the peer, whether its root is believed, and: encrypted, or the stage and status of the failure.
type Row = (&'static str, TlsPolicy, Vec<Scene>, bool, Result<bool, &'static str>);

#[tokio::test]
async fn every_policy_gets_the_encryption_that_it_asks_for_or_defers() {
    use TlsPolicy::{Implicit, None, Opportunistic, Require, Verify};
    let plain = || scene(PLAIN, Then::End);
    let tls = || scene(OFFER, Then::Tls(INSIDE));
    let broken = || scene(OFFER, Then::Garbage);
    let refused = || scene("S: 220 mx\nC: EHLO\nS: 250-mx\nS: 250 STARTTLS\nC: STARTTLS\nS: 454 no\nhold", Then::End);
    let rows: Vec<Row> = vec![
        ("no offer", Opportunistic, vec![plain()], false, Ok(false)),
        ("an unknown certificate", Opportunistic, vec![tls()], false, Ok(true)),
        ("a broken handshake", Opportunistic, vec![broken(), plain()], false, Ok(false)),
        ("a refused STARTTLS", Opportunistic, vec![refused(), plain()], false, Ok(false)),
        ("closed at STARTTLS", Opportunistic, vec![scene(CLOSES, Then::End), plain()], false, Ok(false)),
        ("none", None, vec![plain()], false, Ok(false)),
        (
            "none, though offered",
            None,
            vec![scene("S: 220 mx\nC: EHLO\nS: 250-mx\nS: 250 STARTTLS\nhold", Then::End)],
            false,
            Ok(false),
        ),
        ("required and there", Require, vec![tls()], false, Ok(true)),
        ("required and not offered", Require, vec![plain()], false, Err("tls 4.7.10")),
        ("required and broken", Require, vec![broken()], false, Err("tls 4.7.5")),
        ("required and refused", Require, vec![refused()], false, Err("tls 4.0.0")),
        ("verified", Verify, vec![tls()], true, Ok(true)),
        ("verified, and unknown", Verify, vec![tls()], false, Err("tls 4.7.5")),
        ("implicit", Implicit, vec![scene("", Then::Tls(GREETED_INSIDE))], true, Ok(true)),
        ("implicit, and unknown", Implicit, vec![scene("", Then::Tls(GREETED_INSIDE))], false, Err("tls 4.7.5")),
    ];
    for (name, policy, scenes, believed, want) in rows {
        let peer = stage(scenes).await;
        let caller = caller(believed.then(|| peer.root.path()));
        let connected = caller.connect(&plan(policy, &[peer.address])).await;
        let connected = connected.map(|(session, _slot)| (session.peer.encrypted, session.offered.dsn));
        match want {
            // What is offered under TLS counts, not what was offered before.
            Ok(encrypted) => assert_eq!(connected.ok(), Some((encrypted, encrypted)), "{name}"),
            Err(text) => {
                let outcome = connected.unwrap_err();
                let NotMade::Refused(outcome) = outcome else { unreachable!("it is alone") };
                assert_eq!(format!("{} {}", outcome.stage.name(), outcome.cause.status()), text, "{name}");
            }
        }
    }
}

#[tokio::test]
async fn a_host_whose_tls_failed_is_spared_the_next_handshake() {
    let plain = || scene("S: 220 mx\nC: EHLO\nS: 250-mx\nS: 250 STARTTLS\nhold", Then::End);
    let peer = stage(vec![scene(OFFER, Then::Garbage), plain(), plain()]).await;
    let caller = caller(None);
    for _ in 0..2 {
        let (session, _slot) = caller.connect(&plan(TlsPolicy::Opportunistic, &[peer.address])).await.ok().unwrap();
        assert!(!session.peer.encrypted);
        session.close(super::super::session::Farewell::Quit, SHORT).await;
    }
    // A handshake on the first connection alone, and never for whom it is required.
    assert!(caller.clear_text.knows("mx.example.net", caller.clock.now()));
}

#[tokio::test]
async fn words_behind_the_reply_to_starttls_end_the_attempt_and_never_lead_to_clear_text() {
    let injected = scene(
        "S: 220 mx\nC: EHLO\nS: 250-mx\nS: 250 STARTTLS\nC: STARTTLS\nS- 220 go\\r\\n250-AUTH PLAIN\\r\\n250 x\\r\\n\nhold",
        Then::End,
    );
    let peer = stage(vec![injected, scene(PLAIN, Then::End)]).await;
    let Err(NotMade::Refused(outcome)) = caller(None).connect(&plan(TlsPolicy::Opportunistic, &[peer.address])).await
    else {
        unreachable!("it connected")
    };
    assert_eq!((outcome.stage, outcome.cause.status()), (Stage::Tls, EnhancedStatus::new(4, 7, 0)));
    assert!(peer.heard.lock().unwrap().iter().all(|heard| !heard.contains("AUTH")));
}

#[tokio::test]
async fn the_next_host_is_tried_after_each_failure_before_mail() {
    let failures = [
        "S: 421 4.3.2 busy\nhold",
        "S: 554 5.7.1 go away\nhold",
        "hold",
        "",
        "S: SSH-2.0-OpenSSH\nhold",
        "S: 220 mx\nC: EHLO\nS: 421 bye\nhold",
        "S: 220 mx\nC: EHLO\nS: 500 what\nC: HELO\nS: 550 no\nhold",
        "S: 220 mx\nC: EHLO",
    ];
    for failure in failures {
        let (bad, good) = (stage(vec![scene(failure, Then::End)]).await, stage(vec![scene(PLAIN, Then::End)]).await);
        let connected = caller(None).connect(&plan(TlsPolicy::None, &[bad.address, good.address])).await;
        let (session, _slot) = connected.ok().unwrap_or_else(|| unreachable!("{failure}"));
        assert!(session.offered.pipelining && session.offered.size == Some(Some(1000)), "{failure}");
    }
}

#[tokio::test]
async fn a_refusal_tells_the_peers_words_and_where_they_fell() {
    let rows = [
        ("S: 554 5.7.1 listed\nhold", "greeting", "554 5.7.1 listed"),
        ("S: 220 mx\nC: EHLO\nS: 451 later\nhold", "ehlo", "451 later"),
        ("", "greeting", "the peer closed the connection (at greeting)"),
        ("hold", "greeting", "the peer did not answer in time (at greeting)"),
    ];
    for (script, stage_name, text) in rows {
        let peer = stage(vec![scene(script, Then::End)]).await;
        let Err(NotMade::Refused(outcome)) = caller(None).connect(&plan(TlsPolicy::None, &[peer.address])).await else {
            unreachable!("it connected")
        };
        assert_eq!((outcome.stage.name(), &*outcome.cause.to_string()), (stage_name, text));
        assert_eq!((outcome.host.as_ref(), outcome.address), ("mx.example.net", Some(peer.address.ip())));
    }
}

#[tokio::test]
async fn an_old_server_is_greeted_with_helo() {
    let peer = stage(vec![scene("S: 220 mx\nC: EHLO\nS: 502 what\nC: HELO\nS: 250 hello\nhold", Then::End)]).await;
    let (session, _slot) = caller(None).connect(&plan(TlsPolicy::Opportunistic, &[peer.address])).await.ok().unwrap();
    assert_eq!(session.offered, Capabilities::default());
}

#[tokio::test]
async fn a_password_goes_only_where_nobody_listens() {
    let login = Some(("user".into(), "secret".into()));
    let auth =
        "C: EHLO\nS: 250-mx\nS: 250 AUTH LOGIN PLAIN\nC: EHLO\nS: 250-mx\nS: 250 AUTH LOGIN PLAIN\nC: AUTH PLAIN\n";
    let accepted: &'static str = Box::leak(format!("{auth}S: 235 ok\nhold").into_boxed_str());
    let refused: &'static str = Box::leak(format!("{auth}S: 535 5.7.8 no\nhold").into_boxed_str());
    let peer = stage(vec![scene(OFFER, Then::Tls(accepted)), scene(OFFER, Then::Tls(refused))]).await;
    let plan = Plan { login: login.clone(), ..plan(TlsPolicy::Require, &[peer.address]) };
    let (session, _slot) = caller(None).connect(&plan).await.ok().unwrap();
    session.close(super::super::session::Farewell::Quit, SHORT).await;
    let Err(NotMade::Refused(outcome)) = caller(None).connect(&plan).await else { unreachable!("it connected") };
    assert_eq!((outcome.stage, &*outcome.cause.to_string()), (Stage::Auth, "535 5.7.8 no"));
    // AHVzZXIAc2VjcmV0 is the password, and the first of the heard was encrypted.
    assert!(peer.heard.lock().unwrap().first().unwrap().contains("AUTH PLAIN AHVzZXIAc2VjcmV0"));
}

fn addressed(hosts: &[(u16, &[&str])], source: &str, allow_private: bool) -> Result<Vec<String>, String> {
    let host = |(n, (preference, addresses)): (usize, &(u16, &[&str]))| Host {
        name: format!("mx{n}").into(),
        preference: *preference,
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        port: 25,
    };
    let mut plan = plan(TlsPolicy::None, &[]);
    plan.hosts = hosts.iter().enumerate().map(host).collect();
    plan.source.address = source.parse().unwrap();
    plan.allow_private = allow_private;
    match targets(&plan, 5) {
        Ok(targets) => Ok(targets.iter().map(|target| target.address.ip().to_string()).collect()),
        Err(failed) => Err(failed.cause.status().to_string()),
    }
}

#[test]
fn addresses_are_chosen_by_preference_family_and_safety() {
    let v4: &[&str] = &["9.9.9.1", "9.9.9.2", "9.9.9.3", "9.9.9.4", "9.9.9.5", "9.9.9.6"];
    let by = |hosts: &[(u16, &[&str])], source| addressed(hosts, source, false);
    // Five at most, the better host first.
    assert_eq!(by(&[(1, &["9.9.9.9"]), (2, v4)], "0.0.0.0").unwrap()[0], "9.9.9.9");
    assert_eq!(by(&[(1, v4), (2, &["9.9.9.9"])], "0.0.0.0").unwrap().len(), 5);
    // Equals by turns: the single address of one is among the first two.
    assert!(by(&[(1, v4), (1, &["8.8.8.8"])], "0.0.0.0").unwrap()[..2].contains(&"8.8.8.8".to_owned()));
    // Families.
    let both: &[&str] = &["2a00::1", "9.9.9.9"];
    assert_eq!(by(&[(1, both)], "0.0.0.0"), Ok(vec!["9.9.9.9".to_owned()]));
    assert_eq!(by(&[(1, both)], "9.8.7.6"), Ok(vec!["9.9.9.9".to_owned()]));
    assert_eq!(by(&[(1, both)], "2a00::2"), Ok(vec!["2a00::1".to_owned()]));
    assert_eq!(by(&[(1, both)], "::").map(|all| all.len()), Ok(2));
    assert_eq!(by(&[(1, &["2a00::1"])], "0.0.0.0"), Err("4.4.4".to_owned()));
    assert_eq!(by(&[(1, &[])], "0.0.0.0"), Err("4.4.4".to_owned()));
    // Private ones are left out, or are all there is.
    assert_eq!(by(&[(1, &["127.0.0.1", "9.9.9.9", "10.0.0.1"])], "0.0.0.0"), Ok(vec!["9.9.9.9".to_owned()]));
    assert_eq!(by(&[(1, &["127.0.0.1"]), (2, &["192.168.1.1"])], "0.0.0.0"), Err("5.4.4".to_owned()));
    assert_eq!(addressed(&[(1, &["127.0.0.1"])], "0.0.0.0", true), Ok(vec!["127.0.0.1".to_owned()]));
}

#[tokio::test]
async fn the_connection_comes_from_the_source() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let source = Source { name: "a".into(), address: "127.0.0.2".parse().unwrap(), ehlo: "x".into() };
    let dialled = dial(&source, address, Instant::now() + SHORT * 10);
    let (dialled, accepted) = tokio::join!(dialled, listener.accept());
    assert!(dialled.is_ok());
    assert_eq!(accepted.unwrap().1.ip(), source.address);
    let absent = Source { address: "192.0.2.1".parse().unwrap(), ..source };
    let failed = dial(&absent, address, Instant::now() + SHORT * 10).await.err().unwrap();
    assert!(failed.cause.to_string().contains("192.0.2.1"));
}

#[tokio::test]
async fn what_only_an_operator_can_mend_is_an_alarm() {
    // Nobody has an address of TEST-NET-1 (RFC 5737).
    let source = Source { name: "gone".into(), address: [192, 0, 2, 1].into(), ehlo: "x".into() };
    let local = |detail| Cause::local(EnhancedStatus::new(4, 4, detail), "x");
    let reply = |code| Cause::Reply(Reply::new(code, "5.7.8 no"));
    let unusable = Some((alarm::Cause::SourceUnusable, "gone"));
    let check = |stage, cause: Cause, want| {
        let outcome = Outcome { at: Timestamp::ZERO, stage, host: "mx.example".into(), address: None, cause };
        assert_eq!(alarm_of(&outcome, &source), want, "{outcome:?}");
    };
    for (stage, cause, want) in [
        (Stage::Connect, local(3), unusable),
        (Stage::Connect, local(1), None),
        (Stage::Tls, local(3), None),
        (Stage::Auth, reply(535), Some((alarm::Cause::AuthenticationRefused, "mx.example"))),
        (Stage::Auth, reply(454), None),
        (Stage::Greeting, reply(554), None),
        (Stage::Rcpt, reply(550), None),
    ] {
        check(stage, cause, want);
    }
    let failed = dial(&source, ([127, 0, 0, 1], 25).into(), Instant::now() + Duration::from_secs(5)).await;
    let failed = failed.expect_err("no such address here");
    check(failed.stage, failed.cause, unusable);
}

#[tokio::test]
async fn an_address_that_has_all_its_connections_is_passed_over() {
    let (first, second) = (stage(vec![scene(PLAIN, Then::End)]).await, stage(vec![scene(PLAIN, Then::End)]).await);
    let (caller, limits) = (caller(None), SlotLimits { of_source: 1, of_all: 1 });
    let plan = Plan { slots: limits, ..plan(TlsPolicy::None, &[first.address, second.address]) };
    let mut open = Vec::new();
    for address in [first.address, second.address] {
        let (session, slot) = caller.connect(&plan).await.ok().unwrap();
        assert_eq!(session.peer.place, address);
        open.push((session, slot));
    }
    let Err(NotMade::Crowded(place, outcome)) = caller.connect(&plan).await else { unreachable!("there is no room") };
    assert_eq!((place, outcome.cause.status()), (second.address, EnhancedStatus::new(4, 4, 5)));
}
