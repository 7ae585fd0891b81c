//! The config of the way in: listeners, TLS, credentials, limits.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;

use super::pattern::DomainPattern;
use super::units;
use crate::mail::{Address, ReturnPath};
use crate::message::Family;
use crate::size::ByteSize;
use crate::suppression::Cause;
use crate::traffic::Rates;

/// The certificate that listeners show.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// PEM, leaf first. Read again at SIGHUP.
    pub certificate: PathBuf,
    /// PEM: PKCS#8, PKCS#1 or SEC1. Others on the machine must not be able to read it.
    pub private_key: PathBuf,
}

/// What is spoken on a port, by IANA's service names.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// STARTTLS, then AUTH (RFC 6409).
    Submission,
    /// TLS from the first byte, then AUTH (RFC 8314 §3.3).
    Submissions,
    /// Relays for `trusted_networks` without AUTH.
    Smtp,
}

impl Mode {
    /// The word in the config.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Submission => "submission",
            Mode::Submissions => "submissions",
            Mode::Smtp => "smtp",
        }
    }
}

/// How much of the client the Received header shows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Received {
    /// Its address and what it said in EHLO (RFC 5321 §4.4).
    #[default]
    Full,
    /// Neither: the network behind stays private.
    HideClient,
}

/// What a recipient meets that is in the suppression list.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Suppressed {
    /// It is accepted, and its sender told as of a failure: many clients give up a whole message on one refused recipient.
    #[default]
    Report,
    /// 550 at RCPT, with cause and date.
    Refuse,
}

/// A port that clients connect to.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// Address and port; port 0 lets the kernel choose one.
    #[serde(deserialize_with = "units::parsed")]
    pub bind: SocketAddr,
    /// What is spoken there.
    pub mode: Mode,
    /// Clients that need no AUTH; they are exempt from `connections_per_client` too.
    #[serde(default, deserialize_with = "units::parsed_list")]
    pub trusted_networks: Vec<IpNet>,
    /// The stream of what comes in here without a credential; else the credential's stream holds.
    #[serde(default)]
    pub stream: Option<String>,
    /// Whose control headers count in what comes in here without a credential.
    #[serde(default, deserialize_with = "units::parsed_list")]
    pub control_headers: Vec<Family>,
    /// What the Received header shows of the client.
    #[serde(default)]
    pub received: Received,
    /// What a recipient meets that is in the suppression list. Default: report.
    #[serde(default)]
    pub suppressed: Suppressed,
}

impl Listener {
    /// A listener with defaults.
    pub fn new(bind: SocketAddr, mode: Mode) -> Listener {
        let (trusted_networks, control_headers) = (Vec::new(), Vec::new());
        let (received, suppressed) = (Received::Full, Suppressed::Report);
        Listener { bind, mode, trusted_networks, stream: None, control_headers, received, suppressed }
    }
}

/// Who may send, as whom.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credential {
    /// The user's name at AUTH.
    pub name: String,
    /// argon2id in PHC form, from `postrider credential hash`. Absent: only API keys, which do not stand in the config.
    #[serde(default)]
    pub password_hash: Option<String>,
    /// The stream of what it sends.
    #[serde(default = "Credential::default_stream")]
    pub stream: String,
    /// The domains in MAIL FROM, From and Sender that it may use.
    #[serde(deserialize_with = "units::parsed_list")]
    pub from_domains: Vec<DomainPattern>,
    /// Addresses that it may use there too, whatever their domains.
    #[serde(default, deserialize_with = "units::parsed_list")]
    pub senders: Vec<Address>,
    /// Whose control headers may choose stream, tags, metadata and time.
    #[serde(default, deserialize_with = "units::parsed_list")]
    pub control_headers: Vec<Family>,
    /// How many recipients it may hand in by time; each window exact. Default: any number.
    #[serde(default, deserialize_with = "units::rates")]
    pub quota: Rates,
    /// What is done about mail over its quota. Default: queue.
    #[serde(default)]
    pub over: Over,
    /// Whose return path its mail leaves with. Default: ours, where the sending domain has a bounce domain.
    #[serde(default, deserialize_with = "units::parsed")]
    pub return_path: ReturnPath,
    /// Causes for which the suppression list does not hold its mail back. Default: none.
    #[serde(default, deserialize_with = "units::parsed_list")]
    pub bypass_suppression: Vec<Cause>,
    /// Refused at AUTH, kept in the file.
    #[serde(default)]
    pub disabled: bool,
}

/// What is done about mail over a quota or a cap.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Over {
    /// It is accepted, and released when there is room.
    #[default]
    Queue,
    /// 451, with the time to come again.
    Refuse,
}

impl Credential {
    fn default_stream() -> String {
        super::STREAM_TRANSACTIONAL.to_owned()
    }
}

/// What a client may ask of us. Every bound answers with a reply that names it.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Longest command line, CRLF included. 512 B to 64 KiB, default 2 KiB: RFC 5321 §4.5.3.1.4 asks for 512 octets, and
    /// the parameters of extensions come on top. AUTH lines may have 12288 octets whatever stands here (RFC 4954 §4).
    #[serde(deserialize_with = "units::size")]
    pub command_line: ByteSize,
    /// Longest header block. 16 KiB to 16 MiB, default 256 KiB: mail that passed many filters has 30 KiB.
    #[serde(deserialize_with = "units::size")]
    pub header_block: ByteSize,
    /// Largest message, as SIZE announces it (RFC 1870). 64 KiB to 2 GiB, default 50 MiB: the big providers take 25 to 50.
    #[serde(deserialize_with = "units::size")]
    pub message: ByteSize,
    /// Recipients of one message. 100 (RFC 5321 §4.5.3.1.8) to 100000, default 1000.
    pub recipients: u32,
    /// Refused commands and recipients after which a session ends with 421. 1 to 1000, default 20.
    pub errors: u32,
    /// Connections from all clients at once. 1 to 100000, default 4000; each needs a file descriptor.
    pub connections: u32,
    /// Connections from one IPv4 address or IPv6 /64 at once. 1 to 100000, default 50; trusted networks are exempt.
    pub connections_per_client: u32,
    /// Longest wait for a whole command, from its first byte or the reply before. 10s to 1h, default 5m: RFC 5321
    /// §4.5.3.2.7.
    #[serde(deserialize_with = "units::duration")]
    pub command_timeout: Duration,
    /// Longest TLS handshake. 1s to 5m, default 30s.
    #[serde(deserialize_with = "units::duration")]
    pub handshake_timeout: Duration,
    /// Longest pause inside a message, and its head start on `data_rate_min`. 10s to 1h, default 3m: RFC 5321 §4.5.3.2.5.
    #[serde(deserialize_with = "units::duration")]
    pub data_timeout: Duration,
    /// Least speed of a message, per second, over its whole length. 0 B to 1 MiB, default 500 B; 0 B allows any.
    #[serde(deserialize_with = "units::size")]
    pub data_rate_min: ByteSize,
    /// Memory for the bodies that clients are sending, over all connections. 16 MiB to 64 GiB, default 256 MiB; what
    /// does not fit waits, at worst until a 452. At least as large as `message`.
    #[serde(deserialize_with = "units::size")]
    pub body_memory: ByteSize,
    /// Received fields after which a message counts as looping (RFC 5321 §6.3). 10 to 200, default 50.
    pub hops: u32,
    /// How far ahead a message may be scheduled (RFC 4865, X-Deliver-At). 0s (not at all) to 365d, default 30d.
    #[serde(deserialize_with = "units::duration")]
    pub max_hold: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            command_line: ByteSize::kib(2),
            header_block: ByteSize::kib(256),
            message: ByteSize::mib(50),
            recipients: 1000,
            errors: 20,
            connections: 4000,
            connections_per_client: 50,
            command_timeout: Duration::from_secs(300),
            handshake_timeout: Duration::from_secs(30),
            data_timeout: Duration::from_secs(180),
            data_rate_min: ByteSize(500),
            body_memory: ByteSize::mib(256),
            hops: 50,
            max_hold: Duration::from_secs(30 * 86_400),
        }
    }
}
