//! The file as it is written, before the defaults that depend on other keys are filled in.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::inbound::{Credential, Limits, Listener, Mode, Over, Tls};
use super::layers::Lines;
use super::outbound::{Delivery, Dns, Named, Pool, RecipientDomain, Retry, Route, SendingDomain, Site, Source, Stream};
use super::pattern::Member;
use super::warmup::{self, Warmup};
use super::{
    Config, DATA_DIR, DEFAULT, Harm, History, Local, Log, Metrics, Rewrite, STREAM_MARKETING, STREAM_TRANSACTIONAL,
    Unsubscribe, units,
};
use crate::mail::{Address, Domain, ReturnPath, StreamKind};
use crate::message::Family;
use crate::time::Zone;
use crate::traffic::Rates;
use crate::traffic::warmup::SendHours;

/// The file's top level.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    #[serde(deserialize_with = "units::parsed")]
    hostname: Domain,
    data_dir: Option<PathBuf>,
    #[serde(default, deserialize_with = "units::some_parsed")]
    postmaster: Option<Address>,
    replies: Option<PathBuf>,
    tls: Option<Tls>,
    listener: Option<Vec<Listener>>,
    #[serde(default)]
    credential: Vec<Credential>,
    #[serde(default)]
    stream: Named<StreamText>,
    #[serde(default)]
    pool: Named<Pool>,
    #[serde(default)]
    source: Named<SourceText>,
    #[serde(default)]
    warmup: Named<Warmup>,
    #[serde(default)]
    sending_domain: Vec<SendingDomain>,
    #[serde(default)]
    route: Vec<Route>,
    #[serde(default)]
    site: Vec<Site>,
    #[serde(default)]
    recipient_domain: Vec<RecipientDomain>,
    providers: Option<PathBuf>,
    #[serde(default)]
    limits: Limits,
    #[serde(default)]
    delivery: Delivery,
    #[serde(default)]
    retry: Retry,
    #[serde(default)]
    dns: Dns,
    #[serde(default)]
    history: History,
    #[serde(default)]
    harm: Harm,
    #[serde(default)]
    local: Local,
    #[serde(default)]
    rewrite: Rewrite,
    #[serde(default)]
    log: Log,
    #[serde(default)]
    metrics: Metrics,
    #[serde(default)]
    unsubscribe: Unsubscribe,
    #[serde(default)]
    sendmail: super::Sendmail,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct StreamText {
    #[serde(deserialize_with = "kind")]
    kind: Option<StreamKind>,
    pool: Option<String>,
    #[serde(deserialize_with = "units::some_duration")]
    max_age: Option<Duration>,
    priority: Option<u8>,
    bounces: Option<bool>,
    aliases: Vec<String>,
    #[serde(deserialize_with = "units::some_duration")]
    retry_first: Option<Duration>,
    #[serde(deserialize_with = "units::some_duration")]
    retry_longest: Option<Duration>,
    #[serde(deserialize_with = "units::rates")]
    quota: Rates,
    #[serde(deserialize_with = "units::rates")]
    recipient_cap: Rates,
    over: Over,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct SourceText {
    #[serde(deserialize_with = "units::some_parsed")]
    address: Option<IpAddr>,
    #[serde(deserialize_with = "units::some_parsed")]
    public_address: Option<IpAddr>,
    #[serde(deserialize_with = "units::some_parsed")]
    ehlo: Option<Domain>,
    shared: bool,
    warmup: Option<String>,
    #[serde(deserialize_with = "units::some_parsed")]
    send_hours: Option<SendHours>,
    #[serde(deserialize_with = "units::some_parsed")]
    time_zone: Option<Zone>,
}

impl units::Written for Family {
    const RIGHT: &'static str = "a service's name such as \"postrider\", \"postmark\" or \"sendgrid\" is expected";

    fn read(text: &str) -> Result<Self, String> {
        let known = Family::ALL.into_iter().find(|family| family.name() == text);
        let names = || Family::ALL.map(Family::name).join(", ");
        known.ok_or_else(|| format!("one of {} is expected", names()))
    }
}

impl units::Written for StreamKind {
    const RIGHT: &'static str = "\"transactional\" or \"marketing\" is expected";

    fn read(text: &str) -> Result<Self, String> {
        let kinds = [StreamKind::Transactional, StreamKind::Marketing];
        kinds.into_iter().find(|kind| kind.name() == text).ok_or_else(|| Self::RIGHT.to_owned())
    }
}

impl units::Written for ReturnPath {
    const RIGHT: &'static str = "\"ours\" or \"client\" is expected";

    fn read(text: &str) -> Result<Self, String> {
        match text {
            "ours" => Ok(ReturnPath::Ours),
            "client" => Ok(ReturnPath::Client),
            _ => Err(Self::RIGHT.to_owned()),
        }
    }
}

fn kind<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<StreamKind>, D::Error> {
    units::parsed(deserializer).map(Some)
}

impl File {
    /// The config, every default filled in.
    ///
    /// # Errors
    /// The names of streams that must say their kind and do not.
    pub(super) fn complete(self) -> Result<Config, Vec<String>> {
        let hostname = self.hostname;
        let streams = complete_streams(self.stream, &self.retry)?;
        let sources: Named<Source> = match self.source.is_empty() {
            true => Named::from([(DEFAULT.to_owned(), Source::kernel(&hostname))]),
            false => self.source.into_iter().map(|(name, text)| (name, text.complete(&hostname))).collect(),
        };
        let mut warmups = warmup::shipped();
        warmups.extend(self.warmup);
        let mut pools = self.pool;
        let all = || Pool { sources: sources.keys().map(|name| Member::new(name)).collect() };
        pools.entry(DEFAULT.to_owned()).or_insert_with(all);
        Ok(Config {
            listeners: self.listener.unwrap_or_else(|| default_listeners(self.tls.is_some())),
            data_dir: self.data_dir.unwrap_or_else(|| PathBuf::from(DATA_DIR)),
            postmaster: self.postmaster,
            replies: self.replies,
            tls: self.tls,
            credentials: self.credential,
            streams,
            pools,
            sources,
            warmups,
            sending_domains: self.sending_domain,
            routes: self.route,
            sites: self.site,
            recipient_domains: self.recipient_domain,
            providers_file: self.providers,
            providers: Vec::new(),
            lines: Lines::default(),
            provider_lines: Lines::default(),
            limits: self.limits,
            delivery: self.delivery,
            retry: self.retry,
            dns: self.dns,
            history: self.history,
            harm: self.harm,
            local: self.local,
            rewrite: self.rewrite,
            log: self.log,
            metrics: self.metrics,
            unsubscribe: self.unsubscribe,
            sendmail: self.sendmail,
            hostname,
        })
    }
}

/// What is listened on without a `[[listener]]`: the submission ports if there is a certificate to show, else this
/// machine's own programs alone.
fn default_listeners(with_tls: bool) -> Vec<Listener> {
    let any = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port);
    match with_tls {
        true => vec![Listener::new(any(587), Mode::Submission), Listener::new(any(465), Mode::Submissions)],
        false => {
            let local = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 587);
            vec![Listener::new(local, Mode::Submission)]
        }
    }
}

/// The streams of the file and the two that always exist.
fn complete_streams(texts: Named<StreamText>, retry: &Retry) -> Result<Named<Stream>, Vec<String>> {
    let mut texts = texts;
    for name in [STREAM_TRANSACTIONAL, STREAM_MARKETING] {
        texts.entry(name.to_owned()).or_default();
    }
    let mut without_kind = Vec::new();
    let mut streams = Named::new();
    for (name, text) in texts {
        let implied = match name.as_str() {
            STREAM_TRANSACTIONAL => Some(StreamKind::Transactional),
            STREAM_MARKETING => Some(StreamKind::Marketing),
            _ => None,
        };
        match text.kind.or(implied) {
            Some(kind) => {
                streams.insert(name, text.complete(kind, retry));
            }
            None => without_kind.push(name),
        }
    }
    match without_kind.is_empty() {
        true => Ok(streams),
        false => Err(without_kind),
    }
}

impl StreamText {
    fn complete(self, kind: StreamKind, retry: &Retry) -> Stream {
        let plain = Stream::of_kind(kind, retry);
        Stream {
            kind,
            pool: self.pool.unwrap_or(plain.pool),
            max_age: self.max_age.unwrap_or(plain.max_age),
            priority: self.priority.unwrap_or(plain.priority),
            bounces: self.bounces.unwrap_or(plain.bounces),
            aliases: self.aliases,
            quota: self.quota,
            recipient_cap: self.recipient_cap,
            over: self.over,
            retry: Retry {
                first: self.retry_first.unwrap_or(plain.retry.first),
                longest: self.retry_longest.unwrap_or(plain.retry.longest),
            },
        }
    }
}

impl SourceText {
    fn complete(self, hostname: &Domain) -> Source {
        let plain = Source::kernel(hostname);
        Source {
            address: self.address.unwrap_or(plain.address),
            public_address: self.public_address,
            ehlo: self.ehlo.unwrap_or(plain.ehlo),
            shared: self.shared,
            warmup: self.warmup,
            send_hours: self.send_hours.unwrap_or(plain.send_hours),
            time_zone: self.time_zone.unwrap_or(plain.time_zone),
        }
    }
}

/// A file of providers.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Providers {
    #[serde(default)]
    pub provider: Vec<Site>,
}
