//! The endpoint over real sockets: what a mail program, a scanner, a person and a prowler get.

use std::sync::Mutex;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::mail::QueueId;
use crate::time::Timestamp;

const NOW: Timestamp = Timestamp::from_secs(1_795_255_200);
const CLICK: &str = "List-Unsubscribe=One-Click";

fn keys() -> Keys {
    Keys::of(&[7; 32])
}

fn link() -> Link {
    let (address, expires_at) = ("ann@example.net".parse().unwrap(), NOW.after(Duration::from_secs(3600)));
    Link { address, stream: "news".into(), id: QueueId::from_u64(9), recipient: 0, expires_at }
}

/// An endpoint, what it was asked to keep, and where it is.
struct Running {
    address: std::net::SocketAddr,
    kept: Arc<Mutex<Vec<String>>>,
    broken: Arc<std::sync::atomic::AtomicBool>,
    endpoint: Unsubscribe,
    _stop: tokio::sync::oneshot::Sender<()>,
}

async fn run(tls: Option<ServerTls>) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (kept, broken) = (Arc::new(Mutex::new(Vec::new())), Arc::new(std::sync::atomic::AtomicBool::new(false)));
    let (keeping, failing) = (Arc::clone(&kept), Arc::clone(&broken));
    let suppress: Suppress = Arc::new(move |link| {
        keeping.lock().unwrap().push(format!("{} {}", link.address, link.stream));
        let failed = failing.load(std::sync::atomic::Ordering::Relaxed);
        Box::pin(async move { if failed { Err(NotKept("the disk is full".into())) } else { Ok(()) } })
    });
    let settings = Settings { keys: keys(), sender: "Example".into() };
    let endpoint = Unsubscribe::new(settings, suppress, Arc::new(|| NOW));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    tokio::spawn(endpoint.clone().serve(listener, tls, async move { drop(stopped.await) }));
    Running { address, kept, broken, endpoint, _stop: stop }
}

impl Running {
    async fn ask(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await.unwrap().unwrap();
        String::from_utf8(answer).unwrap()
    }

    async fn request(&self, method: &str, token: &str, body: &str) -> String {
        let length = body.len();
        let form = "Content-Type: application/x-www-form-urlencoded\r\n";
        let head = format!("{method} /u/{token} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{form}");
        self.ask(&format!("{head}Content-Length: {length}\r\n\r\n{body}")).await
    }

    fn kept(&self) -> Vec<String> {
        self.kept.lock().unwrap().clone()
    }
}

#[tokio::test]
async fn only_a_click_with_a_valid_token_changes_anything() {
    let running = run(None).await;
    let good = keys().seal(&link());
    let old = keys().seal(&Link { expires_at: NOW.before(Duration::from_secs(7200)), ..link() });
    let foreign = Keys::of(&[8; 32]).seal(&link());
    let rows = [
        ("GET", &*good, "", 200, "<button"),
        ("HEAD", &good, "", 200, ""),
        ("POST", &good, "", 400, "<button"),
        ("POST", &good, "List-Unsubscribe=Two-Clicks", 400, "<button"),
        ("PUT", &good, CLICK, 405, "cannot be done"),
        ("OPTIONS", &good, "", 405, "cannot be done"),
        ("GET", &foreign, "", 404, "does not work"),
        ("POST", &foreign, CLICK, 404, "does not work"),
        ("POST", &good[..good.len() - 1], CLICK, 404, "does not work"),
        ("GET", "", "", 404, "does not work"),
        ("GET", "..%2f..%2fetc", "", 404, "does not work"),
        ("GET", &old, "", 410, "too old"),
        ("POST", &old, CLICK, 410, "too old"),
    ];
    for (method, token, body, status, text) in rows {
        let answer = running.request(method, token, body).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{method} {token}: {answer}");
        assert!(answer.contains(text), "{method} {token}: {answer}");
        assert!(!answer.contains("ann@") && !answer.contains("example.net"), "{answer}");
        assert_eq!(running.kept(), Vec::<String>::new(), "{method} {token} {body}");
    }
    // A prefix of the proxy's, capitals, another form, and again: the same.
    let parts = "--b\r\nContent-Disposition: form-data; name=\"List-Unsubscribe\"\r\n\r\nOne-Click\r\n--b--\r\n";
    let multipart = format!(
        "POST /mail/unsubscribe/{}?utm=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: multipart/form-data; \
         boundary=b\r\nContent-Length: {}\r\n\r\n{parts}",
        good.to_ascii_uppercase(),
        parts.len()
    );
    for answer in [running.request("POST", &good, CLICK).await, running.ask(&multipart).await] {
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("You are unsubscribed"), "{answer}");
        // RFC 8058 §3.2: no redirect, no cookies.
        let lower = answer.to_ascii_lowercase();
        assert!(!lower.contains("\r\nlocation:") && !lower.contains("\r\nset-cookie:"), "{answer}");
    }
    assert_eq!(running.kept(), ["ann@example.net news", "ann@example.net news"]);
}

#[tokio::test]
async fn what_cannot_be_kept_is_not_said_to_be() {
    let running = run(None).await;
    running.broken.store(true, std::sync::atomic::Ordering::Relaxed);
    let answer = running.request("POST", &keys().seal(&link()), CLICK).await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after: 300"), "{answer}");
    assert!(answer.contains("<button"), "{answer}");
}

#[tokio::test]
async fn every_page_keeps_its_visitors_to_itself() {
    let running = run(None).await;
    for token in [keys().seal(&link()), "x".to_owned()] {
        let answer = running.request("GET", &token, "").await;
        for header in [
            "content-security-policy: default-src 'none';",
            "frame-ancestors 'none'",
            "referrer-policy: no-referrer",
            "x-robots-tag: noindex",
            "cache-control: no-store",
            "x-content-type-options: nosniff",
            "content-type: text/html; charset=utf-8",
        ] {
            assert!(answer.contains(header), "{header}: {answer}");
        }
    }
    // HEAD is GET without its body.
    let head = running.request("HEAD", &keys().seal(&link()), "").await;
    let get = running.request("GET", &keys().seal(&link()), "").await;
    let without_date = |text: &str| -> Vec<String> {
        let block = text.split("\r\n\r\n").next().unwrap_or_default();
        block.lines().filter(|line| !line.starts_with("date:")).map(str::to_owned).collect()
    };
    assert_eq!(without_date(&head), without_date(&get));
    assert!(head.ends_with("\r\n\r\n") && head.contains("content-length: "), "{head}");
}

#[tokio::test]
async fn what_is_too_large_is_refused_before_it_is_read() {
    let running = run(None).await;
    let good = keys().seal(&link());
    let answer = running.request("POST", &good, &format!("{CLICK}&{}", "a".repeat(5000))).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    let head = format!("POST /u/{good} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
    let answer = running.ask(&format!("{head}Content-Length: 99999999\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    let chunks = format!("1000\r\n{}\r\n", "a".repeat(4096)).repeat(2);
    let answer = running.ask(&format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    let answer = running.ask(&format!("GET /u/{good} HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(HEADER_BYTES_MAX))).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    assert_eq!(running.kept(), Vec::<String>::new());
}

#[tokio::test]
async fn a_reload_brings_new_keys_and_another_name() {
    let running = run(None).await;
    let new = Keys::of(&[9; 32]);
    assert!(running.request("GET", &new.seal(&link()), "").await.starts_with("HTTP/1.1 404 "));
    running.endpoint.reload(Settings { keys: new.clone(), sender: "Other & Co".into() });
    assert!(running.request("GET", &new.seal(&link()), "").await.contains("from Other &#38; Co."));
}

#[tokio::test]
async fn with_a_certificate_it_speaks_tls_and_nothing_else() {
    let certificate = crate::certificate::Certificate::self_signed(&["localhost"]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (chain, key) = (dir.path().join("c.pem"), dir.path().join("k.pem"));
    std::fs::write(&chain, &certificate.chain_pem).unwrap();
    std::fs::write(&key, &certificate.key_pem).unwrap();
    let running = run(Some(ServerTls::load(&chain, &key).unwrap())).await;
    let mut roots = tokio_rustls::rustls::RootCertStore::empty();
    let der = rustls_pki_types::CertificateDer::from(pem(&certificate.chain_pem));
    roots.add(der).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
    let config = tokio_rustls::rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(running.address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
    let request = format!("GET /{} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", keys().seal(&link()));
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
    // In clear there is no answer but an alert.
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "{}", String::from_utf8_lossy(&answer));
}

fn pem(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    let lines = text.lines().skip_while(|line| !line.starts_with("-----BEGIN")).skip(1);
    let body: String = lines.take_while(|line| !line.starts_with("-----END")).collect();
    base64::engine::general_purpose::STANDARD.decode(body).unwrap()
}
