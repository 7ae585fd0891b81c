//! What the config says about clients.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;

use crate::mail::{Domain, Text};
use crate::message::Families;
use crate::size::ByteSize;
use crate::smtp::session::{Limits, Mode};

/// One address that clients connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Where to listen. Port 0 takes any, for tests.
    pub bind: SocketAddr,
    /// What for.
    pub mode: Mode,
    /// Networks that may relay in mode `smtp`, and that no listener holds to `connections_per_client_max`.
    pub trusted_networks: Vec<IpNet>,
    /// The stream of mail that comes in here, if the credential names none.
    pub stream: Option<Text>,
    /// Whose control headers count in mail that comes in here without a credential.
    pub control: Families,
    /// `received = "hide-client"`: the Received header names neither client nor EHLO name.
    pub hide_client: bool,
    /// What a recipient meets that is suppressed. Default: it is accepted and reported.
    pub suppressed: Suppressed,
}

impl Listener {
    /// Whether a client's address is in the trusted networks, an IPv4 one in IPv6 clothes too.
    pub fn trusts(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        self.trusted_networks.iter().any(|network| network.contains(&client))
    }
}

/// What a recipient meets that is suppressed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Suppressed {
    /// It is accepted; the door ends it and tells its sender.
    #[default]
    Reported,
    /// 550 at RCPT.
    Refused,
}

/// Limits and times. Those of one session's dialogue are in [`Limits`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Bounds of a session: sizes, recipients, errors.
    pub limits: Limits,
    /// What a name without a domain gets. Default: our name.
    pub origin: Option<Domain>,
    /// Connections from one client address (an IPv6 client is its /64), trusted networks exempt.
    ///
    /// Range 1 to 10,000. Default 50, as Postfix has it. Over it: 421 4.7.0.
    pub connections_per_client_max: usize,
    /// Connections in all.
    ///
    /// Range 1 to 100,000, each needs a file descriptor. Default 4,000. Over it: 421 4.7.0.
    pub connections_max: usize,
    /// Memory for messages that are being received, of all connections together.
    ///
    /// Default 256 MiB; at least one message of full size is always possible. A client whose message finds no room
    /// waits for `body_memory_wait`, then gets 452 4.3.1.
    pub body_memory_max: ByteSize,
    /// Longest wait for memory. Unit: seconds. Default 10.
    pub body_memory_wait: Duration,
    /// Time for one whole command, however many pieces it comes in.
    ///
    /// Unit: seconds. Default 300: RFC 5321 §4.5.3.2.7. Then 421 4.4.2.
    pub command_timeout: Duration,
    /// Longest pause inside a message, and its head start on `data_rate_min`.
    ///
    /// Unit: seconds. Default 180: RFC 5321 §4.5.3.2.5.
    pub data_timeout: Duration,
    /// A message slower than this over its whole length is given up.
    ///
    /// Unit: octets per second; 0 allows any. Default 500: a modem is faster, an attacker that holds connections is not.
    pub data_rate_min: u64,
    /// Time for a TLS handshake. Unit: seconds. Default 30.
    pub handshake_timeout: Duration,
    /// How long we listen before we greet. Who talks before that is refused; it is no mail client.
    ///
    /// Unit: seconds. Default 0: only what is already there is noticed.
    pub greeting_delay: Duration,
    /// Wait before the answer to a failed login: this much at an address' first failed session, doubled with each more.
    ///
    /// Unit: seconds. Default 1; 0 switches it off.
    pub login_failure_delay: Duration,
    /// Longest such wait. Unit: seconds. Default 30.
    pub login_failure_delay_max: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            limits: Limits::default(),
            origin: None,
            connections_per_client_max: 50,
            connections_max: 4000,
            body_memory_max: ByteSize::mib(256),
            body_memory_wait: Duration::from_secs(10),
            command_timeout: Duration::from_secs(300),
            data_timeout: Duration::from_secs(180),
            data_rate_min: 500,
            handshake_timeout: Duration::from_secs(30),
            greeting_delay: Duration::ZERO,
            login_failure_delay: Duration::from_secs(1),
            login_failure_delay_max: Duration::from_secs(30),
        }
    }
}
