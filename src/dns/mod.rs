//! DNS: the one wrapper of the resolver. Who takes a domain's mail, and the records that `check --network` compares.
//!
//! Called by `scheduler` (hosts of a domain), and by `cli check`. It never decides when to try again: it says what is
//! known, whether that is final, and until when it is believed. Names are asked for as they are, with the final dot: no
//! search list, no hosts file.

mod cache;
mod hosts;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::mail::{Domain, EnhancedStatus};
use crate::time::Timestamp;

use cache::Cache;

/// Records kept of one answer. More is no mail set-up, but an attack on our memory.
const RECORDS_MAX: usize = 100;

/// A host to try, as DNS or a `[[route]]` gave it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Host {
    /// The name for TLS and logs; for an address literal in a route, its text.
    pub name: Arc<str>,
    /// Preference (MX); equal ones are shuffled.
    pub preference: u16,
    /// Its addresses, private ones included (refused at connect unless `allow_private`), the families by turns.
    pub addresses: Vec<IpAddr>,
    /// TCP port.
    pub port: u16,
}

/// Whether a failed look-up may have another answer later.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Finality {
    /// Again later: the server failed, or we cannot trust a first "no such name".
    Deferred,
    /// Never: the recipients fail.
    Final,
}

/// Why a domain has no hosts for us.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{status} {text}")]
pub struct Failure {
    /// Whether it is worth another look.
    pub finality: Finality,
    /// For the DSN and for `why`. Its class agrees with the finality.
    pub status: EnhancedStatus,
    /// One sentence.
    pub text: Box<str>,
    /// This answer is kept until then; asking earlier gives the same.
    pub until: Timestamp,
}

/// Which addresses are asked for: the families that some source has.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Families {
    /// IPv4 alone.
    V4,
    /// IPv6 alone.
    V6,
    /// Both.
    Both,
}

/// How names are looked up. Filled from `[dns]`, `[delivery]` and the sources in the config.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// The servers to ask. Default: absent, those of the system. A resolver on the same machine is best: its cache is
    /// shared, and nobody can forge its answers on the way.
    pub nameservers: Option<Vec<SocketAddr>>,
    /// Longest wait for one answer of one server. Unit: seconds. Default 5.
    pub timeout: Duration,
    /// Further tries after the first. Default 2.
    pub retries: usize,
    /// The port of MX hosts. Default 25.
    pub port: u16,
    /// The families that some source has. Default IPv4.
    pub families: Families,
    /// Our own names: an MX that is one of them is a loop. Default none.
    pub own_names: Vec<Domain>,
    /// Our own addresses, likewise. Default none.
    pub own_addresses: Vec<IpAddr>,
    /// A name that always resolves. While it does, "no such name" about another is believed at once; while it does not,
    /// the resolver is not (a captive portal, a broken forwarder). Default `a.root-servers.net`.
    pub known_name: Domain,
    /// Without the known name, "no such name" is final only when heard again this much later. Unit: minutes. Default 5.
    pub second_look: Duration,
    /// How long a failure of the servers is kept. Unit: seconds. Default 30.
    pub failure_ttl: Duration,
    /// Answers are kept at least this long, whatever their TTL says. Unit: seconds. Default 30.
    pub ttl_min: Duration,
    /// Answers are kept at most this long. Unit: hours. Default 24.
    pub ttl_max: Duration,
    /// Domains kept. Default 100,000, some 300 bytes each.
    pub domains_max: usize,
    /// Questions under way at once. Default 128.
    pub queries_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            nameservers: None,
            timeout: Duration::from_secs(5),
            retries: 2,
            port: 25,
            families: Families::V4,
            own_names: Vec::new(),
            own_addresses: Vec::new(),
            // Invariant: it is a domain name, which a test holds.
            known_name: KNOWN_NAME.parse().unwrap_or_else(|_| unreachable!("{KNOWN_NAME}")),
            second_look: Duration::from_secs(300),
            failure_ttl: Duration::from_secs(30),
            ttl_min: Duration::from_secs(30),
            ttl_max: Duration::from_secs(24 * 3600),
            domains_max: 100_000,
            queries_max: 128,
        }
    }
}

const KNOWN_NAME: &str = "a.root-servers.net";

/// Why a single look-up found nothing.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LookupError {
    /// NXDOMAIN: there is nothing of that name.
    #[error("there is no such name")]
    NoName,
    /// The name exists, without records of that type.
    #[error("the name has no such record")]
    NoRecord,
    /// The servers failed, refused, did not answer, or said nonsense.
    #[error("the name could not be looked up: {0}")]
    Failed(String),
}

/// The resolver cannot be set up.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("DNS cannot be set up: {0}")]
pub struct SetupError(String);

/// What an MX record points to.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Exchange {
    /// The root: the domain takes no mail (RFC 7505).
    Null,
    /// No host name.
    Unusable,
    Host(Domain),
}

/// Records, and how long they are believed.
struct Found<T> {
    records: Vec<T>,
    ttl: Duration,
}

/// The resolver's handle. Cheap to clone.
#[derive(Clone)]
pub struct Dns {
    /// Replaced whole at a reload; questions under way end on the one they began with.
    shared: Arc<RwLock<Arc<Shared>>>,
}

struct Shared {
    resolver: TokioResolver,
    settings: Settings,
    queries: Semaphore,
    cache: Cache,
}

impl Dns {
    /// Within a tokio runtime.
    ///
    /// # Errors
    /// The system's resolver configuration cannot be read.
    pub fn new(settings: Settings) -> Result<Dns, SetupError> {
        Ok(Dns { shared: Arc::new(RwLock::new(Arc::new(Shared::new(settings)?))) })
    }

    /// Follows new settings, if they are new: with an empty cache, since what was found may be our own host by now.
    ///
    /// # Errors
    /// As [`Dns::new`]; the old settings stay.
    pub fn reload(&self, settings: Settings) -> Result<(), SetupError> {
        if self.shared().settings != settings {
            let shared = Arc::new(Shared::new(settings)?);
            *self.shared.write().unwrap_or_else(PoisonError::into_inner) = shared;
        }
        Ok(())
    }

    /// The resolver itself, for a library that asks its own questions.
    pub fn resolver(&self) -> TokioResolver {
        self.shared().resolver.clone()
    }

    fn shared(&self) -> Arc<Shared> {
        self.shared.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The hosts that take a domain's mail, best first.
    ///
    /// # Errors
    /// The reason, and whether it is final.
    ///
    /// # Cancel safety
    /// Dropped, it asks for nothing more; another caller that waits for the same domain goes on.
    pub async fn mail_hosts(&self, domain: &Domain, now: Timestamp) -> Result<Arc<[Host]>, Failure> {
        let shared = self.shared();
        let look = |before| hosts::of_domain(&shared, domain, now, before);
        shared.cache.get(domain, now, look).await
    }

    /// The addresses of one named host (of a `[[route]]`'s next hop), or of an address literal.
    ///
    /// # Errors
    /// As [`Dns::mail_hosts`], but never final: a route is the operator's word, and can be mended.
    pub async fn host(&self, name: &str, port: u16, now: Timestamp) -> Result<Host, Failure> {
        let literal = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        if let Ok(address) = literal.parse::<IpAddr>() {
            return Ok(Host { name: literal.into(), preference: 0, addresses: vec![address], port });
        }
        let shared = self.shared();
        let failure = |text: String| Failure {
            finality: Finality::Deferred,
            status: EnhancedStatus::new(4, 4, 4),
            text: text.into(),
            until: now.after(shared.settings.failure_ttl),
        };
        let domain: Domain =
            name.parse().map_err(|_| failure(format!("the next hop {name} is neither a name nor an address")))?;
        match shared.addresses(&domain).await {
            Ok(found) => Ok(Host { name: domain.as_str().into(), preference: 0, addresses: found.records, port }),
            Err(error) => Err(failure(format!("the next hop {domain}: {error}"))),
        }
    }

    /// A host's addresses, of the families in the settings.
    ///
    /// # Errors
    /// Why there are none.
    pub async fn addresses(&self, name: &Domain) -> Result<Vec<IpAddr>, LookupError> {
        self.shared().addresses(name).await.map(|found| found.records)
    }

    /// TXT records, the strings of each joined (RFC 7208 §3.3), invalid UTF-8 replaced.
    ///
    /// # Errors
    /// Why there are none.
    pub async fn texts(&self, name: &Domain) -> Result<Vec<String>, LookupError> {
        let text = |record: &RData| match record {
            RData::TXT(txt) => Some(String::from_utf8_lossy(&txt.txt_data.concat()).into_owned()),
            _ => None,
        };
        self.shared().query(name, RecordType::TXT, text).await.map(|found| found.records)
    }

    /// The names that an address claims (PTR).
    ///
    /// # Errors
    /// Why there are none.
    pub async fn names_of(&self, address: IpAddr) -> Result<Vec<Domain>, LookupError> {
        let name = |record: &RData| match record {
            RData::PTR(name) => domain_of(name),
            _ => None,
        };
        self.shared().query_name(Name::from(address), RecordType::PTR, name).await.map(|found| found.records)
    }

    /// Preferences and names of a domain's MX records, as published; `None`: the null MX, or no host name.
    ///
    /// # Errors
    /// Why there are none.
    pub async fn mx(&self, domain: &Domain) -> Result<Vec<(u16, Option<Domain>)>, LookupError> {
        let name = |exchange| match exchange {
            Exchange::Host(host) => Some(host),
            Exchange::Null | Exchange::Unusable => None,
        };
        let found = self.shared().mx(domain).await?;
        Ok(found.records.into_iter().map(|(preference, exchange)| (preference, name(exchange))).collect())
    }
}

impl Shared {
    fn new(settings: Settings) -> Result<Shared, SetupError> {
        let provider = TokioRuntimeProvider::default();
        let mut builder = match &settings.nameservers {
            Some(servers) => TokioResolver::builder_with_config(servers_of(servers), provider),
            None => TokioResolver::builder(provider).map_err(|error| SetupError(error.to_string()))?,
        };
        let options = builder.options_mut();
        options.timeout = settings.timeout;
        options.attempts = settings.retries;
        options.use_hosts_file = ResolveHosts::Never;
        options.cache_size = u64::try_from(settings.domains_max).unwrap_or(u64::MAX);
        options.positive_min_ttl = Some(settings.ttl_min);
        options.positive_max_ttl = Some(settings.ttl_max);
        // A second look must be a look, not a memory: what does not exist is kept in our own cache, with its reason.
        options.negative_max_ttl = Some(settings.ttl_min);
        options.max_active_requests = settings.queries_max.max(32);
        let resolver = builder.build().map_err(|error| SetupError(error.to_string()))?;
        let queries = Semaphore::new(settings.queries_max.clamp(1, Semaphore::MAX_PERMITS));
        let cache = Cache::new(settings.domains_max);
        Ok(Shared { resolver, settings, queries, cache })
    }

    async fn mx(&self, domain: &Domain) -> Result<Found<(u16, Exchange)>, LookupError> {
        let host = |record: &RData| match record {
            RData::MX(mx) if mx.exchange.is_root() => Some((mx.preference, Exchange::Null)),
            RData::MX(mx) => Some((mx.preference, domain_of(&mx.exchange).map_or(Exchange::Unusable, Exchange::Host))),
            _ => None,
        };
        self.query(domain, RecordType::MX, host).await
    }

    /// Addresses of the families we have sources for, shuffled, the families by turns.
    async fn addresses(&self, host: &Domain) -> Result<Found<IpAddr>, LookupError> {
        let v4 = async {
            let address = |record: &RData| match record {
                RData::A(a) => Some(IpAddr::V4(a.0)),
                _ => None,
            };
            self.query(host, RecordType::A, address).await
        };
        let v6 = async {
            let address = |record: &RData| match record {
                RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
                _ => None,
            };
            self.query(host, RecordType::AAAA, address).await
        };
        match self.settings.families {
            Families::V4 => v4.await.map(|found| by_turns(found, None)),
            Families::V6 => v6.await.map(|found| by_turns(found, None)),
            Families::Both => match tokio::join!(v4, v6) {
                (Ok(v4), v6) => Ok(by_turns(v4, v6.ok())),
                (Err(_), Ok(v6)) => Ok(by_turns(v6, None)),
                // What failed may exist; only two plain answers make an absence.
                (Err(error @ LookupError::Failed(_)), Err(_)) | (Err(_), Err(error)) => Err(error),
            },
        }
    }

    async fn query<T>(
        &self,
        name: &Domain,
        kind: RecordType,
        take: impl Fn(&RData) -> Option<T>,
    ) -> Result<Found<T>, LookupError> {
        // The final dot: without it a resolver tries the machine's search list.
        let name = Name::from_ascii(format!("{name}.")).map_err(|error| LookupError::Failed(error.to_string()))?;
        self.query_name(name, kind, take).await
    }

    async fn query_name<T>(
        &self,
        mut name: Name,
        kind: RecordType,
        take: impl Fn(&RData) -> Option<T>,
    ) -> Result<Found<T>, LookupError> {
        name.set_fqdn(true);
        let failed = |reason: &str| LookupError::Failed(reason.to_owned());
        let _permit = self.queries.acquire().await.map_err(|_| failed("the resolver is closed"))?;
        let lookup = match self.resolver.lookup(name, kind).await {
            Ok(lookup) => lookup,
            Err(error) if error.is_nx_domain() => return Err(LookupError::NoName),
            Err(error) if error.is_no_records_found() => return Err(LookupError::NoRecord),
            Err(NetError::Timeout) => return Err(failed("the name servers did not answer")),
            Err(error) => return Err(LookupError::Failed(error.to_string())),
        };
        let records: Vec<T> =
            lookup.answers().iter().filter_map(|record| take(&record.data)).take(RECORDS_MAX).collect();
        if records.is_empty() {
            return Err(LookupError::NoRecord);
        }
        let ttl = lookup.valid_until().saturating_duration_since(Instant::now().into_std());
        Ok(Found { records, ttl: ttl.clamp(self.settings.ttl_min, self.settings.ttl_max) })
    }
}

/// `None` for a name that is no host name.
fn domain_of(name: &Name) -> Option<Domain> {
    name.to_ascii().parse().ok()
}

fn servers_of(servers: &[SocketAddr]) -> ResolverConfig {
    let server = |address: &SocketAddr| {
        let (mut udp, mut tcp) = (ConnectionConfig::udp(), ConnectionConfig::tcp());
        (udp.port, tcp.port) = (address.port(), address.port());
        NameServerConfig::new(address.ip(), true, vec![udp, tcp])
    };
    ResolverConfig::from_name_servers(servers.iter().map(server).collect())
}

/// Both lists shuffled, then one of each by turns, so that few tries reach both families.
fn by_turns(mut first: Found<IpAddr>, second: Option<Found<IpAddr>>) -> Found<IpAddr> {
    fastrand::shuffle(&mut first.records);
    let Some(mut second) = second else { return first };
    fastrand::shuffle(&mut second.records);
    let ttl = first.ttl.min(second.ttl);
    let mut records = Vec::with_capacity(first.records.len() + second.records.len());
    let (mut a, mut b) = (first.records.into_iter(), second.records.into_iter());
    loop {
        let (one, other) = (a.next(), b.next());
        records.extend(one.into_iter().chain(other));
        if one.is_none() && other.is_none() {
            records.truncate(RECORDS_MAX);
            return Found { records, ttl };
        }
    }
}
