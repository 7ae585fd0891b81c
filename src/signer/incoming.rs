//! SPF (RFC 7208) and DKIM (RFC 6376) of mail that comes in, by DNS. What it finds is written down and decides nothing.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use mail_auth::spf::verify::SpfParameters;
use mail_auth::{AuthenticatedMessage, DkimResult, MessageAuthenticator, SpfResult};

use super::verify::mend_relaxed_bodies;

/// Longest that both may take together. A verifier's usual limit for SPF is 20 s (RFC 7208 §4.6.4); nobody waits here.
const WITHIN: Duration = Duration::from_secs(10);
/// Signatures that are looked at. Each costs a look-up at whatever name it says.
const SIGNATURES_MAX: usize = 5;
/// A larger message is not hashed for this. Unit: octets. Reports that quote all of a message are smaller.
const MESSAGE_MAX: usize = 4 << 20;

/// Mail that came in.
#[derive(Clone, Copy, Debug)]
pub struct Incoming<'a> {
    /// Who brought it.
    pub client: IpAddr,
    /// What it called itself.
    pub hello: &'a str,
    /// Our own name.
    pub host: &'a str,
    /// Its envelope sender; empty: none, and SPF is asked of `hello`.
    pub sender: &'a str,
    /// Header and body.
    pub message: &'a [u8],
}

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// The result's word (RFC 8601 §2.7.2) and whose record it is: `pass mail.example`.
    pub spf: String,
    /// Of each signature the result's word (RFC 8601 §2.7.1), domain and selector, with commas between them; `none`.
    pub dkim: String,
}

/// Asks DNS. Cheap to clone.
#[derive(Clone)]
pub struct Verifier(Arc<dyn Fn() -> MessageAuthenticator + Send + Sync>);

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Verifier")
    }
}

impl Verifier {
    /// One that asks through whatever resolver is there at that time.
    pub fn new(resolver: impl Fn() -> MessageAuthenticator + Send + Sync + 'static) -> Verifier {
        Verifier(Arc::new(resolver))
    }

    /// SPF and DKIM of a message. Takes ten seconds at most.
    pub async fn verify(&self, incoming: Incoming<'_>) -> Found {
        let dns = (self.0)();
        let late = || "temperror (no answer in time)".to_owned();
        let both = async {
            tokio::join!(
                async { tokio::time::timeout(WITHIN, spf(&dns, incoming)).await.unwrap_or_else(|_| late()) },
                async { tokio::time::timeout(WITHIN, dkim(&dns, incoming.message)).await.unwrap_or_else(|_| late()) },
            )
        };
        let (spf, dkim) = both.await;
        Found { spf, dkim }
    }
}

async fn spf(dns: &MessageAuthenticator, incoming: Incoming<'_>) -> String {
    let Incoming { client, hello, host, sender, .. } = incoming;
    let asked = match sender.is_empty() {
        true => SpfParameters::verify_ehlo(client, hello, host),
        false => SpfParameters::verify_mail_from(client, hello, host, sender),
    };
    let domain = sender.rsplit_once('@').map_or(hello, |(_, domain)| domain);
    let word = match dns.verify_spf(asked).await.result() {
        SpfResult::Pass => "pass",
        SpfResult::Fail => "fail",
        SpfResult::SoftFail => "softfail",
        SpfResult::Neutral => "neutral",
        SpfResult::TempError => "temperror",
        SpfResult::PermError => "permerror",
        SpfResult::None => "none",
    };
    format!("{word} {domain}")
}

async fn dkim(dns: &MessageAuthenticator, message: &[u8]) -> String {
    if message.len() > MESSAGE_MAX {
        return format!("not checked: more than {} MiB", MESSAGE_MAX >> 20);
    }
    let Some(mut parsed) = AuthenticatedMessage::parse(message) else { return "none".to_owned() };
    mend_relaxed_bodies(message, &mut parsed);
    parsed.dkim_headers.truncate(SIGNATURES_MAX);
    let mut told = String::new();
    for output in dns.verify_dkim(&parsed).await {
        let word = match output.result() {
            DkimResult::Pass => "pass",
            DkimResult::Neutral(_) => "neutral",
            DkimResult::Fail(_) => "fail",
            DkimResult::PermError(_) => "permerror",
            DkimResult::TempError(_) => "temperror",
            DkimResult::None => "none",
        };
        let comma = if told.is_empty() { "" } else { ", " };
        // Writing to a string does not fail.
        let _ = match output.signature() {
            Some(signature) => write!(told, "{comma}{word} {} ({})", signature.d, signature.s),
            None => write!(told, "{comma}{word}"),
        };
    }
    if told.is_empty() { "none".to_owned() } else { told }
}
