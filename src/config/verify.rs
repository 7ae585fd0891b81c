//! What a config must mean, once every single value is sound: names that exist, ranges, no two ports alike, no open relay.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use super::inbound::{Listener, Mode};
use super::layers::{Key, Value};
use super::pattern::RecipientPattern;
use super::place::Places;
use super::units::show_duration;
use super::{Config, Problem, Retry, Route, Site, TableKind, TlsPolicy, Unknown, Warmup};
use crate::mail::{Domain, EnhancedStatus, StreamKind};
use crate::size::ByteSize;

/// Longest name of a stream, pool, source, site or credential, in characters.
const NAME_CHARS_MAX: usize = 64;
/// Longest name of a stream in the words of others, in characters.
const ALIAS_CHARS_MAX: usize = 128;
/// Most messages in a window of a recipient's cap: all of them are looked at for each message.
const CAP_COUNT_MAX: u32 = 100;
/// How long after a message's longest age a bounce to our return path is believed: as the door makes them.
const REPORTS_AFTER: Duration = crate::accept::REPORTS_AFTER;
/// Characters that may begin an address's extension: as many as somebody may mean.
const DELIMITERS_MAX: usize = 4;
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// Everything that is wrong, in the file's order.
pub(super) fn problems(config: &Config, file: &Path) -> Vec<Problem> {
    let mut judge = Judge { file, places: config.lines.places(), problems: Vec::new() };
    if !config.data_dir.is_absolute() {
        judge.refuse("data_dir", "an absolute path such as \"/var/lib/postrider\" is expected");
    }
    listeners(config, &mut judge);
    credentials(config, &mut judge);
    streams(config, &mut judge);
    pools(config, &mut judge);
    sharing(config, &mut judge);
    warmups(config, &mut judge);
    sending_domains(config, &mut judge);
    postmaster(config, &mut judge);
    unsubscribe(config, &mut judge);
    sendmail(config, &mut judge);
    routes(config, &mut judge);
    addresses(config, &mut judge);
    site_entries(config, "site", &config.sites, &mut judge);
    recipient_domains(config, &mut judge);
    limits(config, &mut judge);
    delivery(config, &mut judge);
    let mut problems = judge.problems;
    problems.sort_by_key(|problem| problem.line);
    problems
}

/// What is wrong with the providers of their own file.
pub(super) fn provider_problems(config: &Config, file: &Path) -> Vec<Problem> {
    let mut judge = Judge { file, places: config.provider_lines.places(), problems: Vec::new() };
    site_entries(config, "provider", &config.providers, &mut judge);
    let mut problems = judge.problems;
    problems.sort_by_key(|problem| problem.line);
    problems
}

struct Judge<'a> {
    file: &'a Path,
    places: &'a Places,
    problems: Vec<Problem>,
}

impl Judge<'_> {
    fn refuse(&mut self, path: impl AsRef<str>, right: impl Into<String>) {
        self.problems.push(Problem::at(self.file, self.places.of_key(path.as_ref()), right));
    }

    fn range<T: PartialOrd + Shown>(&mut self, path: impl AsRef<str>, value: T, allowed: RangeInclusive<T>) {
        if !allowed.contains(&value) {
            let right = format!("{} to {} is allowed", allowed.start().shown(), allowed.end().shown());
            self.refuse(path, right);
        }
    }

    /// Names stand in logs, file names, listings and URLs.
    fn name(&mut self, path: impl AsRef<str>, name: &str) {
        let sound = |c: char| c.is_ascii_alphanumeric() || "-_.@+".contains(c);
        if name.is_empty() || name.chars().count() > NAME_CHARS_MAX || !name.chars().all(sound) {
            self.refuse(path, "1 to 64 letters, digits and \"-_.@+\" are allowed in a name");
        }
    }

    /// A name that must stand among others, which are listed if it does not.
    fn known<'n>(&mut self, path: impl AsRef<str>, what: &str, name: &str, known: impl Iterator<Item = &'n String>) {
        let known: Vec<&str> = known.map(String::as_str).collect();
        if !known.contains(&name) {
            self.refuse(path, format!("there is no {what} \"{name}\"; there are: {}", known.join(", ")));
        }
    }

    /// That nothing in a list of tables stands there twice.
    fn unique<K: Ord + Display>(&mut self, paths_and_values: impl Iterator<Item = (String, K)>) {
        let mut seen: BTreeMap<K, usize> = BTreeMap::new();
        for (path, value) in paths_and_values {
            let line = self.places.of_key(&path).line;
            match seen.get(&value) {
                Some(first) => self.refuse(path, format!("\"{value}\" stands in line {first} already")),
                None => {
                    seen.insert(value, line);
                }
            }
        }
    }
}

trait Shown {
    fn shown(&self) -> String;
}

impl Shown for Duration {
    fn shown(&self) -> String {
        show_duration(*self)
    }
}

macro_rules! shown_by_display {
    ($($type:ty),*) => {$(impl Shown for $type {
        fn shown(&self) -> String {
            self.to_string()
        }
    })*};
}
shown_by_display!(u8, u16, u32, u64, ByteSize);

fn listeners(config: &Config, judge: &mut Judge<'_>) {
    if config.listeners.is_empty() {
        judge.refuse("listener", "at least one [[listener]] is needed, or none at all for the default ones");
    }
    for (index, listener) in config.listeners.iter().enumerate() {
        let path = |key: &str| format!("listener[{index}].{key}");
        if let Some(stream) = &listener.stream {
            judge.known(path("stream"), "stream", stream, config.streams.keys());
        }
        if let Some(at) = listener.trusted_networks.iter().position(|network| network.prefix_len() == 0) {
            let right = "the whole internet must not relay without a password; name your own networks";
            judge.refuse(format!("listener[{index}].trusted_networks[{at}]"), right);
        }
        let needs_tls = match listener.mode {
            Mode::Submissions => true,
            // A loopback port offers AUTH in clear; what it says reaches no wire.
            Mode::Submission => !listener.bind.ip().is_loopback() && listener.trusted_networks.is_empty(),
            Mode::Smtp => false,
        };
        if needs_tls && config.tls.is_none() {
            judge.refuse(path("mode"), "passwords are taken only under TLS: this port needs a [tls] section");
        }
        let twin = config.listeners.iter().take(index).position(|earlier| overlap(earlier, listener));
        if let Some(twin) = twin {
            let line = judge.places.of_key(&format!("listener[{twin}].bind")).line;
            judge.refuse(path("bind"), format!("the listener in line {line} has this port already"));
        }
    }
}

/// Whether two listeners would bind the same port of the same address. `[::]` is bound for IPv6 alone, so that it can
/// stand beside `0.0.0.0`.
fn overlap(a: &Listener, b: &Listener) -> bool {
    let (a, b) = (a.bind, b.bind);
    let same_family = a.is_ipv4() == b.is_ipv4();
    let any = a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() != 0 && a.port() == b.port() && same_family && (any || a.ip() == b.ip())
}

fn credentials(config: &Config, judge: &mut Judge<'_>) {
    // A port that relays for trusted networks, and nothing else, needs no password.
    let asks = config.listeners.iter().any(|listener| listener.mode != Mode::Smtp);
    if config.credentials.is_empty() && asks {
        judge.refuse(
            "credential",
            "at least one [[credential]] is needed where clients log in; `postrider credential add` makes one",
        );
    }
    for (index, credential) in config.credentials.iter().enumerate() {
        let path = |key: &str| format!("credential[{index}].{key}");
        judge.name(path("name"), &credential.name);
        if credential.name.eq_ignore_ascii_case("apikey") {
            judge.refuse(path("name"), "`apikey` is the user name that goes with every key; choose another name");
        }
        if credential.password_hash.as_deref().is_some_and(|hash| !is_argon2id(hash)) {
            let right =
                "an argon2id hash that begins \"$argon2id$v=19$\" is expected; `postrider credential hash` makes one";
            judge.refuse(path("password_hash"), right);
        }
        if credential.from_domains.is_empty() {
            judge.refuse(path("from_domains"), "at least one domain is needed, or nothing could be sent");
        }
        judge.known(path("stream"), "stream", &credential.stream, config.streams.keys());
    }
    let names = config.credentials.iter().enumerate();
    judge.unique(names.map(|(index, credential)| (format!("credential[{index}].name"), credential.name.clone())));
}

/// The PHC form: `$argon2id$v=19$m=…,t=…,p=…$salt$hash`. That it verifies is for `credential` to see.
fn is_argon2id(hash: &str) -> bool {
    let parts: Vec<&str> = hash.split('$').collect();
    let base64 = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/".contains(&b));
    match parts.as_slice() {
        ["", "argon2id", "v=19", parameters, salt, digest] => {
            ["m=", "t=", "p="].iter().all(|key| parameters.contains(key)) && base64(salt) && base64(digest)
        }
        _ => false,
    }
}

fn streams(config: &Config, judge: &mut Judge<'_>) {
    for (name, stream) in &config.streams {
        let path = |key: &str| format!("stream.{name}.{key}");
        judge.name(format!("stream.{name}"), name);
        judge.known(path("pool"), "pool", &stream.pool, config.pools.keys());
        judge.range(path("priority"), stream.priority, 0..=100);
        judge.range(path("max_age"), stream.max_age, MINUTE..=30 * DAY);
        if stream.recipient_cap.iter().any(|rate| rate.count > CAP_COUNT_MAX) {
            judge.refuse(path("recipient_cap"), "1 to 100 messages, in 1s to 1d, are allowed: \"3/1d\"");
        }
        // What is inherited from [retry] is judged there.
        if stream.retry != config.retry {
            retry(&stream.retry, [&path("retry_first"), &path("retry_longest")], judge);
        }
        for (index, alias) in stream.aliases.iter().enumerate() {
            let path = format!("stream.{name}.aliases[{index}]");
            if alias.trim() != alias || !(1..=ALIAS_CHARS_MAX).contains(&alias.chars().count()) {
                judge.refuse(&path, "1 to 128 characters are expected, without white space around them");
            }
            if config.streams.contains_key(alias) {
                judge.refuse(&path, format!("there is a stream of the name \"{alias}\""));
            }
        }
    }
    let aliases = config.streams.iter().flat_map(|(name, stream)| {
        let aliases = stream.aliases.iter().enumerate();
        aliases.map(move |(index, alias)| (format!("stream.{name}.aliases[{index}]"), alias.clone()))
    });
    judge.unique(aliases);
}

fn sendmail(config: &Config, judge: &mut Judge<'_>) {
    if let Some(stream) = &config.sendmail.stream {
        judge.known("sendmail.stream", "stream", stream, config.streams.keys());
    }
    let lists = [
        ("submit_users", &config.sendmail.submit_users),
        ("list_users", &config.sendmail.list_users),
        ("flush_users", &config.sendmail.flush_users),
    ];
    for (key, list) in lists {
        // Postfix's own ways to say it, which mean nothing here.
        if let Some(place) = list.iter().position(|name| name.is_empty() || name.contains([':', '/', ' ', ','])) {
            judge.refuse(format!("sendmail.{key}[{place}]"), "a user's name or id, \"!name\" or \"*\" is expected");
        }
    }
}

/// Streams that mail can come into: what no credential and no listener leads to needs no source of its own.
fn streams_in_use(config: &Config) -> BTreeSet<&str> {
    let families = config.credentials.iter().flat_map(|credential| &credential.control_headers);
    let families = families.chain(config.listeners.iter().flat_map(|listener| &listener.control_headers));
    let mut families = families.chain(&config.sendmail.control_headers);
    if families.next().is_some() {
        return config.streams.keys().map(String::as_str).collect();
    }
    let of_listeners = config.listeners.iter().filter_map(|listener| listener.stream.as_deref());
    let of_credentials = config.credentials.iter().map(|credential| credential.stream.as_str());
    // Bounces of ours, and trusted networks.
    let of_programs = config.sendmail.stream.as_deref();
    of_listeners.chain(of_credentials).chain(of_programs).chain([super::STREAM_TRANSACTIONAL]).collect()
}

/// A source that streams of both kinds lead to, with one of each.
struct Shared<'a> {
    source: &'a str,
    transactional: &'a str,
    marketing: &'a str,
}

fn shared_sources(config: &Config) -> Vec<Shared<'_>> {
    let in_use = streams_in_use(config);
    let stream_of = |source: &str, kind: StreamKind| {
        // A route that takes one source has it carry whatever stream.
        let by_route = config.routes.iter().any(|route| route.is_way() && route.source.as_deref() == Some(source));
        let carries = |pool: &str| {
            let pool = config.pools.get(pool);
            by_route || pool.is_some_and(|pool| pool.sources.iter().any(|member| member.source == source))
        };
        let mut streams = config.streams.iter().filter(|(name, _)| in_use.contains(name.as_str()));
        streams.find(|(_, stream)| stream.kind == kind && carries(&stream.pool)).map(|(name, _)| name.as_str())
    };
    let shared = |source| {
        let transactional = stream_of(source, StreamKind::Transactional)?;
        Some(Shared { source, transactional, marketing: stream_of(source, StreamKind::Marketing)? })
    };
    config.sources.keys().filter_map(|source| shared(source.as_str())).collect()
}

/// There is one source, on the kernel's own address: nothing could be kept apart.
fn is_alone(config: &Config) -> bool {
    config.sources.len() == 1 && config.sources.values().all(|source| source.address.is_unspecified())
}

fn sharing(config: &Config, judge: &mut Judge<'_>) {
    for Shared { source, transactional, marketing } in shared_sources(config) {
        if is_alone(config) || config.sources.get(source).is_some_and(|source| source.shared) {
            continue;
        }
        let right = format!(
            "the streams \"{transactional}\" (transactional) and \"{marketing}\" (marketing) would share this source, and a \
             complaint about one would hold back the other: give them pools without a common source, or write \
             `shared = true` here"
        );
        judge.refuse(format!("source.{source}"), right);
    }
}

fn pools(config: &Config, judge: &mut Judge<'_>) {
    for (name, pool) in &config.pools {
        judge.name(format!("pool.{name}"), name);
        if pool.sources.is_empty() {
            judge.refuse(format!("pool.{name}.sources"), "at least one source is needed");
        }
        for (index, member) in pool.sources.iter().enumerate() {
            let path = format!("pool.{name}.sources[{index}]");
            judge.known(&path, "source", &member.source, config.sources.keys());
            judge.range(&path, member.weight, 1..=1000);
        }
        let members = pool.sources.iter().enumerate();
        judge.unique(members.map(|(index, member)| (format!("pool.{name}.sources[{index}]"), member.source.clone())));
    }
    for (name, source) in &config.sources {
        judge.name(format!("source.{name}"), name);
        let unbindable = |address: IpAddr| address.is_multicast() || address == IpAddr::from([255, 255, 255, 255]);
        if unbindable(source.address) {
            judge.refuse(format!("source.{name}.address"), "an address of this machine is expected");
        }
        if source.public_address.is_some_and(|address| address.is_unspecified() || unbindable(address)) {
            judge.refuse(format!("source.{name}.public_address"), "the address that peers see is expected");
        }
    }
}

fn warmups(config: &Config, judge: &mut Judge<'_>) {
    for (name, source) in &config.sources {
        if let Some(curve) = &source.warmup {
            judge.known(format!("source.{name}.warmup"), "warm-up curve", curve, config.warmups.keys());
        }
    }
    for (name, warmup) in &config.warmups {
        let path = format!("warmup.{name}");
        judge.name(&path, name);
        curve(warmup, &path, judge);
        if let Some(total) = warmup.total {
            judge.range(format!("{path}.total"), total, 1..=1000);
        }
        for (provider, entry) in &warmup.provider {
            let path = format!("{path}.provider.{provider}");
            judge.name(&path, provider);
            curve(entry, &path, judge);
            if entry.total.is_some() {
                judge.refuse(
                    format!("{path}.total"),
                    "the total is the source's: it stands beside the provider entries",
                );
            }
            if !entry.provider.is_empty() {
                judge.refuse(format!("{path}.provider"), "a provider's entry has none of its own");
            }
        }
    }
}

fn curve(warmup: &Warmup, path: &str, judge: &mut Judge<'_>) {
    match warmup.curve() {
        Ok(_) => {}
        Err(("", right)) => judge.refuse(path, right),
        Err((key, right)) => judge.refuse(format!("{path}.{key}"), right),
    }
}

fn sending_domains(config: &Config, judge: &mut Judge<'_>) {
    let domains = config.sending_domains.iter().enumerate();
    judge.unique(domains.map(|(index, sending)| (format!("sending_domain[{index}].name"), sending.name.to_string())));
    for (domain_index, sending) in config.sending_domains.iter().enumerate() {
        let path = |index: usize| format!("sending_domain[{domain_index}].dkim[{index}].selector");
        let selectors = sending.dkim.iter().enumerate();
        judge.unique(selectors.map(|(index, dkim)| (path(index), dkim.selector.to_string())));
        if sending.dkim.len() > 2 {
            let right = "two keys are enough, one RSA and one Ed25519: each adds a signature to every message";
            judge.refuse(format!("sending_domain[{domain_index}].dkim"), right);
        }
        if let Some(address) = &sending.feedback_address {
            let path = format!("sending_domain[{domain_index}].feedback_address");
            // RFC 9477 §3.1: elsewhere it would need a signature of that domain too.
            if !address.domain().is_within(&sending.name) {
                judge.refuse(&path, format!("an address at {} or below it is expected", sending.name));
            }
            if address.needs_smtputf8() {
                judge.refuse(&path, "an address of ASCII letters is expected: it stands in a header");
            }
        }
    }
}

/// Where mail to the postmaster goes on to must not be an address whose mail goes on to the postmaster.
fn postmaster(config: &Config, judge: &mut Judge<'_>) {
    let Some(postmaster) = &config.postmaster else { return };
    let bounces = config.sending_domains.iter().filter_map(|sending| sending.bounce_domain.as_ref());
    let is_here = [&config.hostname].into_iter().chain(bounces).any(|domain| domain == postmaster.domain());
    let is_role = is_here && ["postmaster", "abuse"].iter().any(|name| postmaster.local().eq_ignore_ascii_case(name));
    let feedback = config.sending_domains.iter().filter_map(|sending| sending.feedback_address.as_ref());
    if is_role || feedback.into_iter().any(|address| address == postmaster) {
        judge.refuse(
            "postmaster",
            "another address is expected: mail to this one comes to this relay, and goes on to the postmaster",
        );
    }
}

fn unsubscribe(config: &Config, judge: &mut Judge<'_>) {
    if let Some(Err(right)) = config.unsubscribe.url.as_deref().map(super::unsubscribe::public_https) {
        judge.refuse("unsubscribe.url", right);
    }
    if config.unsubscribe.tls && config.tls.is_none() {
        judge.refuse("unsubscribe.tls", "a [tls] section with the certificate is needed for it");
    }
    let sender = &config.unsubscribe.sender;
    if sender.chars().count() > NAME_CHARS_MAX || sender.chars().any(char::is_control) {
        judge.refuse("unsubscribe.sender", "a name of 64 characters at most is expected");
    }
}

/// Whether SPF of the one aligns with From of the other in relaxed mode (RFC 9989): one stands below the other. Names side
/// by side may align too, but whether what they share is somebody's domain or everybody's, such as `co.uk`, only DNS says.
fn aligns(bounce: &Domain, sending: &Domain) -> bool {
    bounce.is_within(sending) || sending.is_within(bounce)
}

fn routes(config: &Config, judge: &mut Judge<'_>) {
    for (index, route) in config.routes.iter().enumerate() {
        let path = |key: &str| format!("route[{index}].{key}");
        // One that says hosts too goes over its source alone, and all that it says is of the whole route.
        let of_source = route.source.as_deref().filter(|_| !route.is_way());
        said(config, &format!("route[{index}]"), &route.says(), of_source, judge);
        match route.is_way() {
            true => {
                if let Some(source) = &route.source {
                    judge.known(path("source"), "source", source, config.sources.keys());
                }
                whole_route(route, path, judge);
            }
            false => {
                let of_whole = [
                    ("fallback", !route.fallback.is_empty()),
                    ("ca_file", route.ca_file.is_some()),
                    ("port", route.port.is_some()),
                    ("username", route.username.is_some()),
                    ("password_file", route.password_file.is_some()),
                    ("return_path", route.return_path.is_some()),
                ];
                for (key, _) in of_whole.iter().filter(|(_, stands)| *stands) {
                    judge.refuse(path(key), "it stands in the [[route]] without `source`");
                }
                let is_base = |other: &Route| other.is_way() && other.is_for_the_same_mail(route);
                if !config.routes.iter().any(is_base) {
                    let right = "a [[route]] for the same recipients without `source`, which says the hosts, is needed";
                    judge.refuse(path("source"), right);
                }
            }
        }
    }
    let routes = config.routes.iter().enumerate();
    let patterns = routes.map(|(index, route)| {
        let path = format!("route[{index}].recipient_domain");
        let sender = route.sender.as_ref().map(|sender| format!("\" from \"{sender}")).unwrap_or_default();
        let whom = format!("{}{sender}", route.recipient_domain);
        (path, with_source(whom, route.source.as_deref().filter(|_| !route.is_way())))
    });
    judge.unique(patterns);
}

fn whole_route(route: &Route, path: impl Fn(&str) -> String, judge: &mut Judge<'_>) {
    let ends = [("fail", route.fail.as_deref()), ("retry", route.retry.as_deref())];
    for (key, text) in ends {
        let class = if key == "fail" { '5' } else { '4' };
        let sound = |text: &str| {
            text.starts_with(class)
                && text.chars().all(|c| (' '..='~').contains(&c))
                && EnhancedStatus::split(text).is_some()
        };
        if text.is_some_and(|text| !sound(text)) {
            let right = match key {
                "fail" => "a status and a text such as \"5.7.1 not here\" are expected",
                _ => "a status and a text such as \"4.3.0 later\" are expected",
            };
            judge.refuse(path(key), right);
        }
    }
    let ways = [!route.next_hop.is_empty(), route.fail.is_some(), route.retry.is_some(), route.discard];
    match ways.iter().filter(|is_so| **is_so).count() {
        0 => judge.refuse(path("next_hop"), "at least one host is needed"),
        1 => {}
        _ => judge.refuse(path("next_hop"), "one of `next_hop`, `fail`, `retry` and `discard` is expected"),
    }
    if route.next_hop.is_empty() {
        let of_hosts = [
            ("fallback", !route.fallback.is_empty()),
            ("port", route.port.is_some()),
            ("username", route.username.is_some()),
            ("ca_file", route.ca_file.is_some()),
            ("source", route.source.is_some()),
        ];
        for (key, _) in of_hosts.iter().filter(|(_, stands)| *stands) {
            judge.refuse(path(key), "it goes with `next_hop`");
        }
    }
    if route.next_hop.iter().any(super::NextHop::is_usual) {
        if route.next_hop.len() > 1 {
            judge.refuse(path("next_hop"), "\"mx:\", where DNS says, stands alone; other hosts are its `fallback`");
        }
        let of_host = [("port", route.port.is_some()), ("username", route.username.is_some())];
        for (key, _) in of_host.iter().filter(|(_, stands)| *stands) {
            judge.refuse(path(key), "it goes with a host, and not with \"mx:\", where DNS says");
        }
        for (key, _) in route.says().iter().filter(|(key, value)| value.is_some() && *key != Key::Tls) {
            judge.refuse(path(key.name()), "the limits of MX hosts stand in [[site]] and [[recipient_domain]]");
        }
        mx_tls(path("tls"), route.tls, judge);
    }
    if route.fallback.iter().any(super::NextHop::is_usual) {
        judge.refuse(path("fallback"), "a name is expected after \"mx:\"");
    }
    if let Some(port) = route.port {
        judge.range(path("port"), port, 1..=u16::MAX);
    }
    match (&route.username, &route.password_file) {
        (Some(_), None) => judge.refuse(path("username"), "`password_file` is needed with it"),
        (None, Some(_)) => judge.refuse(path("password_file"), "`username` is needed with it"),
        (Some(_), Some(_)) | (None, None) => {}
    }
    let in_clear = matches!(route.tls, Some(TlsPolicy::None | TlsPolicy::Opportunistic));
    let local = |host: &str| host.parse().is_ok_and(|address: IpAddr| address.is_loopback()) || host == "localhost";
    let mut hops = route.next_hop.iter().chain(&route.fallback);
    if route.username.is_some() && in_clear && !hops.all(|hop| local(&hop.host) && !hop.mx) {
        judge.refuse(
            path("tls"),
            "a password needs \"require\", \"verify\" or \"implicit\"; without the line, \"verify\"",
        );
    }
}

/// What is local, and what is rewritten.
fn addresses(config: &Config, judge: &mut Judge<'_>) {
    let delimiter = &config.local.recipient_delimiter;
    let sound = |c: char| c.is_ascii_punctuation() && !"@\"\\<>(),:;[]".contains(c);
    if delimiter.len() > DELIMITERS_MAX || !delimiter.chars().all(sound) {
        judge.refuse("local.recipient_delimiter", "up to four characters such as \"+\" or \"+-\" are expected");
    }
    let is_here = |domain: &Domain| {
        *domain == config.hostname || domain.as_str() == "localhost" || config.local.domains.contains(domain)
    };
    if let Unknown::Forward(address) = &config.local.unknown
        && is_here(address.domain())
    {
        judge.refuse("local.unknown", "an address elsewhere is expected: this one is local itself");
    }
    let rewrite = &config.rewrite;
    for (index, text) in rewrite.masquerade_domains.iter().enumerate() {
        if text.trim_start_matches('!').parse::<Domain>().is_err() {
            let right = "a domain such as \"example.com\", or \"!host.example.com\" to leave it alone, is expected";
            judge.refuse(format!("rewrite.masquerade_domains[{index}]"), right);
        }
    }
    for key in ["header_checks", "smtp_header_checks"] {
        let tables = rewrite.lists().into_iter().find(|(name, _)| *name == key).map_or(&[][..], |(_, tables)| tables);
        for (index, table) in tables.iter().enumerate() {
            if !matches!(table.kind, TableKind::Regexp | TableKind::Pcre) {
                judge.refuse(format!("rewrite.{key}[{index}]"), "a table of patterns is expected, regexp: or pcre:");
            }
        }
    }
}

/// `"google"`, or `"google" of source "a"`, once it stands between quotes.
fn with_source(name: impl Display, source: Option<&str>) -> String {
    match source {
        None => name.to_string(),
        Some(source) => format!("{name}\" of source \"{source}"),
    }
}

/// The values of one entry that says limits.
fn said(config: &Config, table: &str, says: &[(Key, Option<Value>)], source: Option<&str>, judge: &mut Judge<'_>) {
    if let Some(source) = source {
        judge.known(format!("{table}.source"), "source", source, config.sources.keys());
    }
    for (key, value) in says {
        let Some(value) = value else { continue };
        let path = format!("{table}.{}", key.name());
        if source.is_some() && !key.is_of_source() {
            judge.refuse(&path, "it is not of one source: it stands in the entry without `source`");
        }
        match (key, value) {
            (Key::MaxDeliveriesPerConnection, Value::Count(count)) => judge.range(&path, *count, 1..=100_000),
            (_, Value::Count(count)) => judge.range(&path, *count, 1..=10_000),
            // Judged where they are read.
            (_, Value::Rates(_) | Value::Tls(_)) => {}
        }
    }
}

fn mx_tls(path: String, tls: Option<TlsPolicy>, judge: &mut Judge<'_>) {
    if tls == Some(TlsPolicy::Implicit) {
        judge.refuse(path, "MX hosts speak STARTTLS; \"implicit\" is for a [[route]] to port 465");
    }
}

/// Entries of `[[site]]`, or of `[[provider]]` in a file of its own.
fn site_entries(config: &Config, table: &str, entries: &[Site], judge: &mut Judge<'_>) {
    let has_hosts = |site: &Site| {
        let elsewhere =
            entries.iter().chain(&config.providers).any(|other| other.name == site.name && other.mx.is_some());
        // The file of providers was not read.
        let unknown = config.providers_file.is_some() && config.providers.is_empty();
        elsewhere || unknown
    };
    for (index, site) in entries.iter().enumerate() {
        let path = |key: &str| format!("{table}[{index}].{key}");
        judge.name(path("name"), &site.name);
        if site.mx.as_ref().is_some_and(Vec::is_empty) || !has_hosts(site) {
            judge.refuse(path("mx"), "at least one MX host is needed");
        }
        said(config, &format!("{table}[{index}]"), &site.says(), site.source.as_deref(), judge);
        mx_tls(path("tls"), site.tls, judge);
    }
    let sites = || entries.iter().enumerate();
    judge.unique(
        sites()
            .map(|(index, site)| (format!("{table}[{index}].name"), with_source(&site.name, site.source.as_deref()))),
    );
    let hosts = sites().flat_map(|(index, site)| {
        let hosts = site.mx.iter().flatten().enumerate();
        hosts.map(move |(at, host)| (format!("{table}[{index}].mx[{at}]"), host.to_string()))
    });
    judge.unique(hosts);
}

fn recipient_domains(config: &Config, judge: &mut Judge<'_>) {
    let rules = || config.recipient_domains.iter().enumerate();
    for (index, rule) in rules() {
        said(config, &format!("recipient_domain[{index}]"), &rule.says(), rule.source.as_deref(), judge);
        mx_tls(format!("recipient_domain[{index}].tls"), rule.tls, judge);
    }
    judge.unique(rules().map(|(index, rule)| {
        (format!("recipient_domain[{index}].name"), with_source(&rule.name, rule.source.as_deref()))
    }));
}

fn limits(config: &Config, judge: &mut Judge<'_>) {
    let limits = &config.limits;
    judge.range("limits.command_line", limits.command_line, ByteSize(512)..=ByteSize::kib(64));
    judge.range("limits.header_block", limits.header_block, ByteSize::kib(16)..=ByteSize::mib(16));
    judge.range("limits.message", limits.message, ByteSize::kib(64)..=ByteSize::mib(2048));
    judge.range("limits.recipients", limits.recipients, 100..=100_000);
    judge.range("limits.errors", limits.errors, 1..=1000);
    judge.range("limits.connections", limits.connections, 1..=100_000);
    judge.range("limits.connections_per_client", limits.connections_per_client, 1..=100_000);
    judge.range("limits.command_timeout", limits.command_timeout, 10 * SECOND..=HOUR);
    judge.range("limits.handshake_timeout", limits.handshake_timeout, SECOND..=5 * MINUTE);
    judge.range("limits.data_timeout", limits.data_timeout, 10 * SECOND..=HOUR);
    judge.range("limits.data_rate_min", limits.data_rate_min, ByteSize(0)..=ByteSize::mib(1));
    judge.range("limits.body_memory", limits.body_memory, ByteSize::mib(16)..=ByteSize::mib(64 << 10));
    judge.range("limits.hops", limits.hops, 10..=200);
    judge.range("limits.max_hold", limits.max_hold, Duration::ZERO..=365 * DAY);
    if limits.body_memory < limits.message {
        let right = format!("limits.message is {}, and one such message must fit", limits.message);
        judge.refuse("limits.body_memory", right);
    }
}

fn delivery(config: &Config, judge: &mut Judge<'_>) {
    let delivery = &config.delivery;
    judge.range("delivery.port", delivery.port, 1..=u16::MAX);
    judge.range("delivery.connection_limit", delivery.connection_limit, 1..=10_000);
    judge.range("delivery.max_deliveries_per_connection", delivery.max_deliveries_per_connection, 1..=100_000);
    if let Some(limit) = delivery.total_connection_limit {
        judge.range("delivery.total_connection_limit", limit, 1..=10_000);
    }
    judge.range("delivery.connections", delivery.connections, 1..=100_000);
    judge.range("delivery.connect_timeout", delivery.connect_timeout, SECOND..=5 * MINUTE);
    judge.range("delivery.greeting_timeout", delivery.greeting_timeout, 10 * SECOND..=HOUR);
    judge.range("delivery.command_timeout", delivery.command_timeout, 10 * SECOND..=HOUR);
    judge.range("delivery.data_timeout", delivery.data_timeout, 10 * SECOND..=HOUR);
    judge.range("delivery.block_timeout", delivery.block_timeout, 10 * SECOND..=HOUR);
    judge.range("delivery.final_dot_timeout", delivery.final_dot_timeout, MINUTE..=HOUR);
    judge.range("delivery.attempt_timeout", delivery.attempt_timeout, MINUTE..=DAY);
    judge.range("delivery.idle_timeout", delivery.idle_timeout, Duration::ZERO..=5 * MINUTE);
    if delivery.tls == TlsPolicy::Implicit {
        judge.refuse("delivery.tls", "MX hosts speak STARTTLS; \"implicit\" is for a [[route]] to port 465");
    }
    retry(&config.retry, ["retry.first", "retry.longest"], judge);
    let volumes = [
        ("harm.complaint_volume", config.harm.complaint_volume, 1..=1_000_000),
        ("harm.bounce_volume", config.harm.bounce_volume, 1..=1_000_000),
        ("harm.login_storm_volume", config.harm.login_storm_volume, 1..=1_000_000),
        ("harm.remembered_addresses", config.harm.remembered_addresses, 65_536..=268_435_456),
    ];
    for (key, value, range) in volumes {
        judge.range(key, value, range);
    }
    judge.range("history.keep", config.history.keep, DAY..=3650 * DAY);
    judge.range("history.keep_events", config.history.keep_events, Duration::ZERO..=3650 * DAY);
    judge.range("dns.timeout", config.dns.timeout, SECOND / 2..=MINUTE);
}

fn retry(retry: &Retry, [first, longest]: [&str; 2], judge: &mut Judge<'_>) {
    let allowed = SECOND..=DAY;
    let least = if allowed.contains(&retry.first) { retry.first } else { SECOND };
    judge.range(first, retry.first, allowed);
    judge.range(longest, retry.longest, least..=DAY);
}

/// What is allowed, and still likely to be regretted.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    let signed = |domain: &Domain| config.sending_domain(domain).is_some_and(|sending| !sending.dkim.is_empty());
    for credential in &config.credentials {
        for pattern in credential.from_domains.iter().filter(|pattern| !signed(&pattern.domain)) {
            warnings.push(format!(
                "credential \"{}\" may send from {}, for which no [[sending_domain]] has a DKIM key: \
                 that mail leaves unsigned, and the big providers refuse it",
                credential.name, pattern.domain
            ));
        }
    }
    if !signed(&config.hostname) {
        warnings.push(format!(
            "no DKIM key covers {}: our bounces leave unsigned (`postrider dkim new {}`)",
            config.hostname, config.hostname
        ));
    }
    if config.tls.is_none() {
        warnings.push("there is no [tls] section: only programs on this machine can hand in mail".to_owned());
    }
    let bounces = config.sending_domains.iter().find_map(|sending| sending.bounce_domain.as_ref());
    if let Some(bounce) = bounces.filter(|_| config.listeners.iter().all(|listener| listener.mode != Mode::Smtp)) {
        warnings.push(format!(
            "there is a bounce_domain, and no [[listener]] of mode \"smtp\": bounces and complaints to {bounce} cannot come in"
        ));
    }
    for sending in &config.sending_domains {
        if let Some(bounce) = sending.bounce_domain.as_ref().filter(|bounce| !aligns(bounce, &sending.name)) {
            warnings.push(format!(
                "bounce_domain {bounce} does not stand below {name}: SPF may not align with it (RFC 9989), so that DMARC \
                 hangs on DKIM alone; take bounce.{name}",
                name = sending.name
            ));
        }
    }
    let in_use = streams_in_use(config);
    let used = config.streams.iter().filter(|(name, _)| in_use.contains(name.as_str()));
    let reported_for = used.map(|(_, stream)| stream.max_age).max().unwrap_or_default() + REPORTS_AFTER;
    if bounces.is_some() && config.history.keep < reported_for {
        warnings.push(format!(
            "history.keep = \"{}\" is less than the {} for which a bounce may come: of an older message it is no longer known \
             whom it was to",
            show_duration(config.history.keep),
            show_duration(reported_for)
        ));
    }
    let marketing = config
        .streams
        .iter()
        .find(|(name, stream)| stream.kind == StreamKind::Marketing && in_use.contains(name.as_str()));
    if let (Some((stream, _)), None) = (marketing, &config.unsubscribe.url) {
        warnings.push(format!(
            "there is no unsubscribe.url: mail of the stream \"{stream}\" (marketing) that has no List-Unsubscribe of its own \
             leaves without one, and Gmail and Yahoo refuse bulk mail without one-click unsubscribe"
        ));
    }
    for listener in config.listeners.iter().filter(|listener| listener.mode == Mode::Smtp) {
        if listener.trusted_networks.is_empty() && bounces.is_none() {
            let bind = listener.bind;
            warnings.push(format!("the smtp listener {bind} has no trusted_networks: it refuses all mail"));
        }
    }
    if let Some(bind) = config.metrics.bind.filter(|bind| !bind.ip().to_canonical().is_loopback()) {
        warnings.push(format!(
            "metrics.bind = \"{bind}\" is not on this machine's loopback: everybody who can connect there can read the metrics"
        ));
    }
    for Shared { source, transactional, marketing } in shared_sources(config) {
        warnings.push(format!(
            "the streams \"{transactional}\" (transactional) and \"{marketing}\" (marketing) share the source \"{source}\": \
             a complaint about a newsletter can hold back a login code"
        ));
    }
    let everywhere = |route: &Route| route.recipient_domain == RecipientPattern::Any;
    if config.sending_domains.is_empty() && !config.routes.iter().any(everywhere) {
        warnings.push(
            "there is no [[sending_domain]]: nothing is signed by DKIM, and Gmail and Yahoo refuse unsigned mail"
                .to_owned(),
        );
    }
    if config.postmaster.is_none() {
        warnings.push("there is no postmaster: alarms go to the log alone".to_owned());
    }
    warnings
}
