//! The config of the way out: streams, pools, sources, domains, routes, sites, delivery, retry, DNS.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::inbound::Over;
use super::layers::{Key, Says, Value};
use super::pattern::{self, Member, NextHop, RecipientPattern, SenderPattern, TlsPolicy};
use super::units::{self, Written};
use crate::mail::{Address, Domain, ReturnPath, StreamKind};
use crate::time::Zone;
use crate::traffic::Rates;
use crate::traffic::warmup::SendHours;

/// A class of mail, with its own pool, priority and patience.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stream {
    /// Transactional goes first, always.
    pub kind: StreamKind,
    /// The pool whose sources carry it.
    pub pool: String,
    /// Mail older than this is expired. 1m to 30d; default 5d (RFC 5321 §4.5.4.1), 2d for marketing.
    pub max_age: Duration,
    /// Order within the kind, higher first. 0 to 100, default 50.
    pub priority: u8,
    /// Whether the envelope sender gets a bounce. Default: for transactional mail yes, for marketing no.
    pub bounces: bool,
    /// What clients' control headers call it, beside its name: a configuration set, a pool, a message stream.
    pub aliases: Vec<String>,
    /// As `[retry]`, for this stream.
    pub retry: Retry,
    /// How many recipients may be let in by time; each window exact. Default: any number.
    pub quota: Rates,
    /// How many messages one recipient may get by time. Default: any number.
    pub recipient_cap: Rates,
    /// What is done about mail over either. Default: queue.
    pub over: Over,
}

impl Stream {
    /// The stream of a kind, as it is without a line in the config.
    pub fn of_kind(kind: StreamKind, retry: &Retry) -> Stream {
        let days = match kind {
            StreamKind::Transactional => 5,
            StreamKind::Marketing => 2,
        };
        Stream {
            kind,
            pool: super::DEFAULT.to_owned(),
            max_age: Duration::from_secs(days * 86_400),
            priority: 50,
            bounces: kind == StreamKind::Transactional,
            aliases: Vec::new(),
            retry: retry.clone(),
            quota: Rates::NONE,
            recipient_cap: Rates::NONE,
            over: Over::Queue,
        }
    }
}

/// Sources that share the work of some streams.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// One or more.
    pub sources: Vec<Member>,
}

/// A local address, and the name it goes by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Source {
    /// What is bound; `0.0.0.0` or `::`: the kernel chooses.
    pub address: IpAddr,
    /// What the world sees, behind NAT; absent: `address`.
    pub public_address: Option<IpAddr>,
    /// What EHLO says; its A record and the address's PTR must agree. Default: the hostname.
    pub ehlo: Domain,
    /// Transactional and marketing mail may both leave by it. Default false; one source on the kernel's own address, which
    /// is what there is without a line in the config, may be shared in any case.
    pub shared: bool,
    /// The curve that it climbs, a name in `warmups`. Absent: warm.
    pub warmup: Option<String>,
    /// When a warming source sends marketing mail. Default 00-24.
    pub send_hours: SendHours,
    /// Where its days begin, and its hours are counted. Default UTC.
    pub time_zone: Zone,
}

impl Source {
    /// The kernel's own choice of address.
    pub fn kernel(hostname: &Domain) -> Source {
        Source {
            address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            public_address: None,
            ehlo: hostname.clone(),
            shared: false,
            warmup: None,
            send_hours: SendHours::ALL,
            time_zone: Zone::UTC,
        }
    }
}

/// A domain that mail is sent from.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SendingDomain {
    /// The name; mail from its subdomains is signed by it too, unless they have an entry of their own.
    #[serde(deserialize_with = "units::parsed")]
    pub name: Domain,
    /// Keys to sign with: one, or one RSA and one Ed25519.
    #[serde(default)]
    pub dkim: Vec<DkimKey>,
    /// Where our return paths are; its MX is our smtp listener. Absent: return paths stay the client's.
    #[serde(default, deserialize_with = "units::some_parsed")]
    pub bounce_domain: Option<Domain>,
    /// Where receivers may send complaints: CFBL-Address (RFC 9477). Absent: the field is not added.
    #[serde(default, deserialize_with = "units::some_parsed")]
    pub feedback_address: Option<Address>,
}

/// A DKIM key and where its public half is published.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DkimKey {
    /// The public key stands at `SELECTOR._domainkey.DOMAIN`.
    #[serde(deserialize_with = "units::parsed")]
    pub selector: Domain,
    /// PEM, RSA of 2048 bits or more, or Ed25519.
    pub key: PathBuf,
}

/// A table that says limits of its own: its keys, and beside them those that every such table may have. Each is absent
/// unless it is written; what holds then, `layers` knows.
macro_rules! limiting {
    ($(#[$meta:meta])* $table:ident { $($own:tt)* }) => {
        $(#[$meta])*
        #[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $table {
            $($own)*
            /// Of this source alone. Absent: of each.
            #[serde(default)]
            pub source: Option<String>,
            /// Connections at once, per source. 1 to 10000.
            #[serde(default)]
            pub connection_limit: Option<u32>,
            /// Messages on one connection. 1 to 100000.
            #[serde(default)]
            pub max_deliveries_per_connection: Option<u32>,
            /// Messages by time, per source; empty: no limit by time.
            #[serde(default, deserialize_with = "units::some_rates")]
            pub max_message_rate: Option<Rates>,
            /// Recipients by time, per source.
            #[serde(default, deserialize_with = "units::some_rates")]
            pub max_recipient_rate: Option<Rates>,
            /// New connections by time, per source.
            #[serde(default, deserialize_with = "units::some_rates")]
            pub max_connection_rate: Option<Rates>,
            /// Connections at once, of all sources together. 1 to 10000.
            #[serde(default)]
            pub total_connection_limit: Option<u32>,
            /// Messages by time, of all sources together.
            #[serde(default, deserialize_with = "units::some_rates")]
            pub total_message_rate: Option<Rates>,
            /// Recipients by time, of all sources together.
            #[serde(default, deserialize_with = "units::some_rates")]
            pub total_recipient_rate: Option<Rates>,
            /// New connections by time, of all sources together.
            #[serde(default, deserialize_with = "units::some_rates")]
            pub total_connection_rate: Option<Rates>,
            /// With a `source`, it stands in the entry without one.
            #[serde(default, deserialize_with = "pattern::tls_policy")]
            pub tls: Option<TlsPolicy>,
        }

        impl $table {
            /// What this entry says.
            pub fn says(&self) -> Says {
                vec![
                    (Key::ConnectionLimit, self.connection_limit.map(Value::Count)),
                    (Key::MaxDeliveriesPerConnection, self.max_deliveries_per_connection.map(Value::Count)),
                    (Key::MaxMessageRate, self.max_message_rate.map(Value::Rates)),
                    (Key::MaxRecipientRate, self.max_recipient_rate.map(Value::Rates)),
                    (Key::MaxConnectionRate, self.max_connection_rate.map(Value::Rates)),
                    (Key::TotalConnectionLimit, self.total_connection_limit.map(Value::Count)),
                    (Key::TotalMessageRate, self.total_message_rate.map(Value::Rates)),
                    (Key::TotalRecipientRate, self.total_recipient_rate.map(Value::Rates)),
                    (Key::TotalConnectionRate, self.total_connection_rate.map(Value::Rates)),
                    (Key::Tls, self.tls.map(Value::Tls)),
                ]
            }
        }
    };
}

limiting! {
    /// Where mail goes instead of to the MX.
    Route {
        /// For whom; the most specific route wins.
        #[serde(deserialize_with = "units::parsed")]
        pub recipient_domain: RecipientPattern,
        /// Whose mail; absent: everybody's. The most specific sender goes before the most specific recipient.
        #[serde(default, deserialize_with = "units::some_parsed")]
        pub sender: Option<SenderPattern>,
        /// Hosts, tried in this order. None: the entry says limits of a source, or what is done instead.
        #[serde(default, deserialize_with = "units::parsed_list")]
        pub next_hop: Vec<NextHop>,
        /// Tried when no next hop can be reached.
        #[serde(default, deserialize_with = "units::parsed_list")]
        pub fallback: Vec<NextHop>,
        /// Instead of hosts: status and text of a refusal at RCPT, or of a bounce.
        #[serde(default)]
        pub fail: Option<String>,
        /// Instead of hosts: status and text of why it stays in the queue.
        #[serde(default)]
        pub retry: Option<String>,
        /// Instead of hosts: it is accepted, logged and dropped.
        #[serde(default)]
        pub discard: bool,
        /// Certificates that are trusted there, PEM. Absent: the system's.
        #[serde(default)]
        pub ca_file: Option<PathBuf>,
        /// Their port, where they name none; absent: `delivery.port`.
        #[serde(default)]
        pub port: Option<u16>,
        /// AUTH at a smarthost.
        #[serde(default)]
        pub username: Option<String>,
        /// A file whose first line is the password.
        #[serde(default)]
        pub password_file: Option<PathBuf>,
        /// Whose return path MAIL FROM says there. Absent: ours, but with a `username` the client's, since services that one
        /// logs in to refuse senders that they do not know.
        #[serde(default, deserialize_with = "units::some_parsed")]
        pub return_path: Option<ReturnPath>,
    }
}

impl Route {
    /// Whether it says where mail goes, and not only limits of one source there.
    pub fn is_way(&self) -> bool {
        self.source.is_none()
            || !self.next_hop.is_empty()
            || self.fail.is_some()
            || self.retry.is_some()
            || self.discard
    }

    /// Whether two say something of the same mail.
    pub fn is_for_the_same_mail(&self, other: &Route) -> bool {
        self.recipient_domain == other.recipient_domain && self.sender == other.sender
    }
}

limiting! {
    /// Limits of a provider, or of any MX.
    Site {
        /// Its name in logs and listings. Entries of one name are one site.
        pub name: String,
        /// MX hosts, each with the hosts below it. Absent: those of another entry of this name, or of the provider.
        #[serde(default, deserialize_with = "units::some_parsed_list")]
        pub mx: Option<Vec<Domain>>,
    }
}

/// Limits that one recipient domain has beside those of its site.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecipientDomain {
    /// That domain alone.
    #[serde(deserialize_with = "units::parsed")]
    pub name: Domain,
    /// Of this source alone. Absent: of each.
    #[serde(default)]
    pub source: Option<String>,
    /// Messages by time, per source.
    #[serde(default, deserialize_with = "units::some_rates")]
    pub max_message_rate: Option<Rates>,
    /// Recipients by time, per source.
    #[serde(default, deserialize_with = "units::some_rates")]
    pub max_recipient_rate: Option<Rates>,
    /// Messages by time, of all sources together.
    #[serde(default, deserialize_with = "units::some_rates")]
    pub total_message_rate: Option<Rates>,
    /// Recipients by time, of all sources together.
    #[serde(default, deserialize_with = "units::some_rates")]
    pub total_recipient_rate: Option<Rates>,
    /// Absent: that of the site.
    #[serde(default, deserialize_with = "pattern::tls_policy")]
    pub tls: Option<TlsPolicy>,
}

impl RecipientDomain {
    /// What this entry says.
    pub fn says(&self) -> Says {
        vec![
            (Key::MaxMessageRate, self.max_message_rate.map(Value::Rates)),
            (Key::MaxRecipientRate, self.max_recipient_rate.map(Value::Rates)),
            (Key::TotalMessageRate, self.total_message_rate.map(Value::Rates)),
            (Key::TotalRecipientRate, self.total_recipient_rate.map(Value::Rates)),
            (Key::Tls, self.tls.map(Value::Tls)),
        ]
    }
}

/// How connections to peers are made and used.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Delivery {
    /// TCP port of MX hosts. 1 to 65535, default 25.
    pub port: u16,
    /// Whether loopback, private, link-local, CGNAT and NAT64 peers may be connected to; a `[[route]]` that names such
    /// an address is always allowed to. Default false: a DNS record must not reach into the network (RFC 1918).
    pub allow_private_peers: bool,
    /// Certificates that are trusted, PEM. Absent: the system's.
    pub ca_file: Option<PathBuf>,
    /// Default opportunistic: RFC 7435.
    #[serde(deserialize_with = "units::parsed")]
    pub tls: TlsPolicy,
    /// Connections at once to a site without a limit of its own, per source. 1 to 10000, default 20.
    pub connection_limit: u32,
    /// Messages on one connection. 1 to 100000, default 100.
    pub max_deliveries_per_connection: u32,
    /// Messages by time at every site that has no line of its own, per source. Default: no limit by time.
    #[serde(deserialize_with = "units::rates")]
    pub max_message_rate: Rates,
    /// Recipients by time, likewise.
    #[serde(deserialize_with = "units::rates")]
    pub max_recipient_rate: Rates,
    /// New connections by time, likewise.
    #[serde(deserialize_with = "units::rates")]
    pub max_connection_rate: Rates,
    /// Connections at once to such a site, of all sources together. 1 to 10000. Absent: what each may have.
    pub total_connection_limit: Option<u32>,
    /// Messages by time, of all sources together.
    #[serde(deserialize_with = "units::rates")]
    pub total_message_rate: Rates,
    /// Recipients by time, of all sources together.
    #[serde(deserialize_with = "units::rates")]
    pub total_recipient_rate: Rates,
    /// New connections by time, of all sources together.
    #[serde(deserialize_with = "units::rates")]
    pub total_connection_rate: Rates,
    /// Connections to all peers at once. 1 to 100000, default 1000; each needs a file descriptor.
    pub connections: u32,
    /// Longest wait for the TCP connection to one address. 1s to 5m, default 30s.
    #[serde(deserialize_with = "units::duration")]
    pub connect_timeout: Duration,
    /// Longest wait for the greeting. 10s to 1h, default 5m: RFC 5321 §4.5.3.2.1.
    #[serde(deserialize_with = "units::duration")]
    pub greeting_timeout: Duration,
    /// Longest wait for the reply to EHLO, STARTTLS, AUTH, MAIL and RCPT. 10s to 1h, default 5m: RFC 5321 §4.5.3.2.2 and 3.
    #[serde(deserialize_with = "units::duration")]
    pub command_timeout: Duration,
    /// Longest wait for the reply to DATA. 10s to 1h, default 2m: RFC 5321 §4.5.3.2.4.
    #[serde(deserialize_with = "units::duration")]
    pub data_timeout: Duration,
    /// Longest wait for one block of the message to be taken. 10s to 1h, default 3m: RFC 5321 §4.5.3.2.5.
    #[serde(deserialize_with = "units::duration")]
    pub block_timeout: Duration,
    /// Longest wait for the reply to the final dot. 1m to 1h, default 10m: RFC 5321 §4.5.3.2.6; shorter values cause
    /// duplicates.
    #[serde(deserialize_with = "units::duration")]
    pub final_dot_timeout: Duration,
    /// Longest time for one transaction, MAIL to the reply to the final dot. 1m to 1d, default 30m.
    #[serde(deserialize_with = "units::duration")]
    pub attempt_timeout: Duration,
    /// How long a connection without work is kept for the next message. 0s to 5m, default 5s.
    #[serde(deserialize_with = "units::duration")]
    pub idle_timeout: Duration,
}

impl Delivery {
    /// What holds where nothing else is said.
    pub fn says(&self) -> Says {
        vec![
            (Key::ConnectionLimit, Some(Value::Count(self.connection_limit))),
            (Key::MaxDeliveriesPerConnection, Some(Value::Count(self.max_deliveries_per_connection))),
            (Key::MaxMessageRate, Some(Value::Rates(self.max_message_rate))),
            (Key::MaxRecipientRate, Some(Value::Rates(self.max_recipient_rate))),
            (Key::MaxConnectionRate, Some(Value::Rates(self.max_connection_rate))),
            (Key::TotalConnectionLimit, self.total_connection_limit.map(Value::Count)),
            (Key::TotalMessageRate, Some(Value::Rates(self.total_message_rate))),
            (Key::TotalRecipientRate, Some(Value::Rates(self.total_recipient_rate))),
            (Key::TotalConnectionRate, Some(Value::Rates(self.total_connection_rate))),
            (Key::Tls, Some(Value::Tls(self.tls))),
        ]
    }
}

impl Default for Delivery {
    fn default() -> Self {
        Delivery {
            port: 25,
            allow_private_peers: false,
            ca_file: None,
            tls: TlsPolicy::Opportunistic,
            connection_limit: 20,
            max_deliveries_per_connection: 100,
            max_message_rate: Rates::NONE,
            max_recipient_rate: Rates::NONE,
            max_connection_rate: Rates::NONE,
            total_connection_limit: None,
            total_message_rate: Rates::NONE,
            total_recipient_rate: Rates::NONE,
            total_connection_rate: Rates::NONE,
            connections: 1000,
            connect_timeout: Duration::from_secs(30),
            greeting_timeout: Duration::from_secs(300),
            command_timeout: Duration::from_secs(300),
            data_timeout: Duration::from_secs(120),
            block_timeout: Duration::from_secs(180),
            final_dot_timeout: Duration::from_secs(600),
            attempt_timeout: Duration::from_secs(1800),
            idle_timeout: Duration::from_secs(5),
        }
    }
}

/// When deferred mail is tried again: after as long as it has waited already, within these bounds.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retry {
    /// Shortest wait. 10s to 1d, default 5m; RFC 5321 §4.5.4.1 asks for 30 minutes, and greylisting ends sooner.
    #[serde(deserialize_with = "units::duration")]
    pub first: Duration,
    /// Longest wait. `first` to 1d, default 4h.
    #[serde(deserialize_with = "units::duration")]
    pub longest: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Retry { first: Duration::from_secs(300), longest: Duration::from_secs(4 * 3600) }
    }
}

/// Who answers our DNS questions.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dns {
    /// Resolvers. Empty: the system's (`/etc/resolv.conf`). One on this machine is best: blocklists refuse public ones.
    #[serde(deserialize_with = "nameservers")]
    pub nameservers: Vec<SocketAddr>,
    /// Longest wait for one answer. 500ms to 1m, default 5s.
    #[serde(deserialize_with = "units::duration")]
    pub timeout: Duration,
}

impl Default for Dns {
    fn default() -> Self {
        Dns { nameservers: Vec::new(), timeout: Duration::from_secs(5) }
    }
}

/// An address, with port 53 unless it says otherwise.
struct Nameserver(SocketAddr);

impl Written for Nameserver {
    const RIGHT: &'static str = "an address such as \"127.0.0.1\", \"127.0.0.1:5353\" or \"[::1]:53\" is expected";

    fn read(text: &str) -> Result<Self, String> {
        let alone = || text.parse().map(|address: IpAddr| SocketAddr::new(address, 53));
        text.parse().or_else(|_| alone()).map(Nameserver).map_err(|_| Self::RIGHT.to_owned())
    }
}

fn nameservers<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<SocketAddr>, D::Error> {
    let list: Vec<Nameserver> = units::parsed_list(deserializer)?;
    Ok(list.into_iter().map(|Nameserver(address)| address).collect())
}

/// Named things of the way out.
pub type Named<T> = BTreeMap<String, T>;
