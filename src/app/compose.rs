//! What each room is told of the config. Called at start and at every reload; decides nothing.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;

use crate::accept::{self, Bounces, Rights, SenderDomain};
use crate::classify::Rules;
use crate::config::layers::{Key, Layered, Told, Value, Values};
use crate::config::units;
use crate::config::{self, Classic, Config, Mode, Received, RecipientPattern, Retry, Route, SenderPattern, TlsPolicy};
use crate::credential::Account;
use crate::dns::Families;
use crate::mail::{EnhancedStatus, ReturnPath};
use crate::retry::Schedule;
use crate::route::{Match, Recipients, Senders};
use crate::scheduler::{NamedLimits, Origin, RouteWay};
use crate::signer::SigningDomain;
use crate::smtp::session;
use crate::token::Keys;
use crate::traffic::{Limits, Rates};
use crate::{
    credential, delivery, dns, history, maillog, pickup, scheduler, showq, signer, submission, tls, unsubscribe,
};
use crate::{harm, rates};

/// The file of the keys in the data directory.
const TOKEN_KEYS: &str = "token.keys";

/// Where the mail and state logs are.
pub fn spool_dir(config: &Config) -> PathBuf {
    config.data_dir.join("spool")
}

/// Where the queue's index is. Anyone may delete it while no daemon runs.
pub fn index_dir(config: &Config) -> PathBuf {
    config.data_dir.join("index")
}

/// Where API keys, and what the command line switched off, are kept.
pub fn credential_file(config: &Config) -> PathBuf {
    config.data_dir.join(credential::FILE_NAME)
}

/// Where the history is.
pub fn history_dir(config: &Config) -> PathBuf {
    config.data_dir.join("history")
}

/// Where the log in the classic form goes.
pub fn maillog(config: &Config) -> Option<maillog::Target> {
    match &config.log.classic {
        Classic::Off => None,
        Classic::Syslog => Some(maillog::Target::Syslog),
        Classic::Journal => Some(maillog::Target::Journal),
        Classic::File(path) => Some(maillog::Target::File(path.clone())),
    }
}

/// What happened, and how long that is kept.
pub fn history(config: &Config) -> history::Settings {
    let told = &config.history;
    history::Settings { directory: history_dir(config), keep: told.keep, keep_events: told.keep_events }
}

/// Where the keys of return paths and unsubscribe links are.
pub fn token_keys_file(config: &Config) -> PathBuf {
    config.data_dir.join(TOKEN_KEYS)
}

/// The door: names, streams and rights, and what it makes return paths and unsubscribe links with.
///
/// # Errors
/// A table that was sound when the config was read is not so any more.
pub fn door(config: &Config, tokens: Keys) -> anyhow::Result<accept::Settings> {
    let mut settings = accept::Settings::new(config.hostname.clone());
    settings.tokens = Some(tokens);
    settings.unsubscribe_url = config.unsubscribe.base().map(Into::into);
    let sendings = config.sending_domains.iter().map(|sending| accept::Sending {
        domain: sending.name.clone(),
        bounce_domain: sending.bounce_domain.clone(),
        feedback_address: sending.feedback_address.clone(),
        signed: !sending.dkim.is_empty(),
    });
    settings.sendings = sendings.collect();
    settings.postmaster = config.postmaster.clone();
    let streams = config.streams.iter().map(|(name, stream)| {
        let told = accept::Stream {
            kind: stream.kind,
            pool: stream.pool.as_str().into(),
            max_age: stream.max_age,
            priority: stream.priority,
            bounces: match stream.bounces {
                true => Bounces::ByDefault,
                false => Bounces::OnRequest,
            },
            quota: stream.quota,
            recipient_cap: stream.recipient_cap,
            over: over(stream.over),
        };
        (name.as_str().into(), told)
    });
    settings.streams = streams.collect();
    let aliases = config
        .streams
        .iter()
        .flat_map(|(name, stream)| stream.aliases.iter().map(|alias| (alias.as_str().into(), name.as_str().into())));
    settings.stream_aliases = aliases.collect();
    let credentials = config.credentials.iter().map(|credential| {
        let domains = credential.from_domains.iter().map(|pattern| match pattern.alone {
            true => SenderDomain::Exactly(pattern.domain.clone()),
            false => SenderDomain::Within(pattern.domain.clone()),
        });
        let rights = Rights {
            stream: Some(credential.stream.as_str().into()),
            from_domains: domains.collect(),
            senders: credential.senders.clone(),
            control: credential.control_headers.iter().copied().collect(),
            quota: credential.quota,
            over: over(credential.over),
            return_path: credential.return_path,
            bypass: credential.bypass_suppression.clone(),
        };
        (credential.name.as_str().into(), rights)
    });
    settings.credentials = credentials.collect();
    settings.header_size_max = config.limits.header_block;
    settings.received_max = config.limits.hops as usize;
    settings.hold_max = config.limits.max_hold;
    let (rewriting, outgoing) = config::rewriting(config).map_err(config::Problems)?;
    (settings.rewriting, settings.outgoing) = (rewriting, Arc::new(outgoing));
    let refuses = |route: &Route| match way(config, route) {
        RouteWay::Nowhere(status, text) if status.class == 5 => Some((status, text.into())),
        RouteWay::Nowhere(..) | RouteWay::Hosts(_) | RouteWay::Usual(..) | RouteWay::Discard => None,
    };
    let routes = config.routes.iter().filter(|route| route.is_way()).map(|route| accept::RouteRule {
        matches: matches(route),
        name: route_name(route).into(),
        refuses: refuses(route),
    });
    settings.routes = routes.collect();
    settings.routes_by_more = settings.routes.iter().any(|route| !route.matches.is_by_domain());
    Ok(settings)
}

/// What programs of this machine hand to `sendmail`.
pub fn pickup(config: &Config) -> pickup::Settings {
    let told = &config.sendmail;
    pickup::Settings {
        origin: config.local.origin.clone().unwrap_or_else(|| config.hostname.clone()),
        stream: told.stream.as_deref().map(Into::into),
        control: told.control_headers.iter().copied().collect(),
        size_max: config.limits.message.bytes(),
        recipients_max: config.limits.recipients as usize,
        submit_users: told.submit_users.clone(),
    }
}

/// What any user of this machine may ask.
pub fn showq(config: &Config) -> showq::Settings {
    let told = &config.sendmail;
    showq::Settings {
        list_users: told.list_users.clone(),
        flush_users: told.flush_users.clone(),
        limits: showq::Limits {
            message_bytes_max: config.limits.message.bytes(),
            submit_users: told.submit_users.clone(),
        },
    }
}

fn over(told: config::Over) -> accept::Over {
    match told {
        config::Over::Queue => accept::Over::Queue,
        config::Over::Refuse => accept::Over::Refuse,
    }
}

/// What looks at SPF and DKIM of reports: through the resolver that is in use then.
pub fn verifier(dns: dns::Dns) -> signer::Verifier {
    signer::Verifier::new(move || mail_auth::MessageAuthenticator(dns.resolver()))
}

/// Who may log in.
pub fn accounts(config: &Config) -> Vec<Account> {
    let account = |credential: &crate::config::Credential| Account {
        name: credential.name.as_str().into(),
        password_hash: credential.password_hash.as_deref().map(Into::into),
        disabled: credential.disabled,
    };
    config.credentials.iter().map(account).collect()
}

/// Listeners and what clients may ask.
pub fn submission(config: &Config) -> submission::Plan {
    let limits = &config.limits;
    let listeners = config.listeners.iter().map(|listener| submission::Listener {
        bind: listener.bind,
        mode: match listener.mode {
            Mode::Submission => submission::Mode::Submission,
            Mode::Submissions => submission::Mode::Submissions,
            Mode::Smtp => submission::Mode::Smtp,
        },
        trusted_networks: listener.trusted_networks.clone(),
        stream: listener.stream.as_deref().map(Into::into),
        control: listener.control_headers.iter().copied().collect(),
        hide_client: listener.received == Received::HideClient,
        suppressed: match listener.suppressed {
            config::Suppressed::Report => submission::Suppressed::Reported,
            config::Suppressed::Refuse => submission::Suppressed::Refused,
        },
    });
    let settings = submission::Settings {
        limits: session::Limits {
            message_size_max: limits.message.as_usize(),
            header_size_max: limits.header_block.as_usize(),
            recipients_max: limits.recipients as usize,
            hold_max: limits.max_hold,
            command_length_max: limits.command_line.as_usize(),
            errors_max: limits.errors,
            ..session::Limits::default()
        },
        origin: config.local.origin.clone(),
        connections_per_client_max: limits.connections_per_client as usize,
        connections_max: limits.connections as usize,
        body_memory_max: limits.body_memory,
        command_timeout: limits.command_timeout,
        data_timeout: limits.data_timeout,
        data_rate_min: limits.data_rate_min.bytes(),
        handshake_timeout: limits.handshake_timeout,
        ..submission::Settings::default()
    };
    submission::Plan { hostname: config.hostname.clone(), listeners: listeners.collect(), settings }
}

/// The unsubscribe page.
pub fn unsubscribe(config: &Config, keys: Keys) -> unsubscribe::Settings {
    unsubscribe::Settings { keys, sender: config.unsubscribe.sender.as_str().into() }
}

/// The keys that sign.
pub fn signer(config: &Config) -> signer::Settings {
    let domains = config.sending_domains.iter().map(|sending| SigningDomain {
        domain: sending.name.clone(),
        keys: sending
            .dkim
            .iter()
            .map(|dkim| signer::KeyFile { selector: dkim.selector.as_str().into(), path: dkim.key.clone() })
            .collect(),
    });
    signer::Settings { domains: domains.collect(), ..signer::Settings::default() }
}

/// How names are looked up, and which answers would be ourselves.
pub fn dns(config: &Config) -> dns::Settings {
    let sources: Vec<IpAddr> = config.sources.values().map(|source| source.address).collect();
    let (four, six) = (sources.iter().any(IpAddr::is_ipv4), sources.iter().any(IpAddr::is_ipv6));
    let public = config.sources.values().filter_map(|source| source.public_address);
    let bound = config.listeners.iter().map(|listener| listener.bind.ip());
    let own = sources.iter().copied().chain(public).chain(bound).filter(|address| !address.is_unspecified());
    let mut names = vec![config.hostname.clone()];
    names.extend(config.sources.values().map(|source| source.ehlo.clone()));
    dns::Settings {
        nameservers: (!config.dns.nameservers.is_empty()).then(|| config.dns.nameservers.clone()),
        timeout: config.dns.timeout,
        port: config.delivery.port,
        families: match (four, six) {
            (true, true) => Families::Both,
            (false, true) => Families::V6,
            (true, false) | (false, false) => Families::V4,
        },
        own_names: names,
        own_addresses: own.filter(|address| !address.is_loopback()).collect(),
        ..dns::Settings::default()
    }
}

/// Timeouts towards peers.
pub fn delivery(config: &Config) -> delivery::Settings {
    let told = &config.delivery;
    let streams = config.streams.iter();
    delivery::Settings {
        connect_timeout: told.connect_timeout,
        greeting_timeout: told.greeting_timeout,
        hello_timeout: told.command_timeout,
        mail_timeout: told.command_timeout,
        rcpt_timeout: told.command_timeout,
        auth_timeout: told.command_timeout,
        data_timeout: told.data_timeout,
        block_timeout: told.block_timeout,
        final_dot_timeout: told.final_dot_timeout,
        attempt_timeout: told.attempt_timeout,
        retry: schedule(&config.retry),
        stream_retry: streams.map(|(name, stream)| (name.as_str().into(), schedule(&stream.retry))).collect(),
        ..delivery::Settings::default()
    }
}

fn schedule(retry: &Retry) -> Schedule {
    Schedule { minimum: retry.first, maximum: retry.longest }
}

/// What replies mean: our rules, and before them the operator's.
///
/// # Errors
/// The file of rules cannot be read, or has mistakes.
pub fn rules(config: &Config) -> anyhow::Result<Arc<Rules>> {
    match &config.replies {
        Some(file) => Ok(Arc::new(config::read_rules(file)?)),
        None => Ok(Rules::shipped()),
    }
}

/// What mail's harm is judged by.
pub fn harm(config: &Config) -> harm::Settings {
    let own = &config.harm;
    let share = |share: units::Share| f64::from(share.0) / 1e6;
    harm::Settings {
        thresholds: rates::Thresholds {
            complaint_warn: share(own.complaint_warn),
            complaint_pause: share(own.complaint_pause),
            complaint_volume: own.complaint_volume,
            bounce_pause: share(own.bounce_pause),
            bounce_volume: own.bounce_volume,
            login_storm: share(own.login_storm),
            login_storm_volume: own.login_storm_volume,
        },
        feedback_providers: own.complaint_providers.iter().map(|name| name.as_str().into()).collect(),
        complaint_stops_all: own.complaint_stops_transactional,
        addresses_max: usize::try_from(own.remembered_addresses).unwrap_or(usize::MAX),
    }
}

/// TLS towards peers.
pub fn tls_client(config: &Config) -> tls::client::Settings {
    tls::client::Settings { roots: config.delivery.ca_file.clone(), ..tls::client::Settings::default() }
}

/// Sources, pools, routes, sites.
///
/// # Errors
/// A smarthost's password cannot be read.
pub fn scheduler(config: &Config) -> anyhow::Result<scheduler::Settings> {
    let told = &config.delivery;
    let sources = config.sources.iter().map(|(name, source)| delivery::Source {
        name: name.as_str().into(),
        address: source.address,
        ehlo: source.ehlo.as_str().into(),
    });
    let pools = config.pools.iter().map(|(name, pool)| {
        let shares = pool
            .sources
            .iter()
            .flat_map(|member| std::iter::repeat_n(Arc::from(member.source.as_str()), member.weight as usize));
        scheduler::Pool { name: name.as_str().into(), sources: shares.collect() }
    });
    let sites = config.layered_sites().into_iter().map(|site| scheduler::SiteRule {
        tls: tls_of(&site.limits).unwrap_or(told.tls),
        limits: named(&site.limits),
        name: site.name.into(),
        provider: site.provider.into(),
        mx: site.mx,
    });
    let domains = config.domain_limits().into_iter().map(|(domain, limits)| scheduler::DomainRule {
        domain,
        tls: tls_of(&limits),
        limits: named(&limits),
    });
    let mut routes = Vec::with_capacity(config.routes.len());
    let mut trusts: HashMap<&Path, delivery::Trust> = HashMap::new();
    for (place, route) in config.routes.iter().enumerate().filter(|(_, route)| route.is_way()) {
        routes.push(scheduler::Route {
            matches: matches(route),
            name: route_name(route).into(),
            way: way(config, route),
            pool: route.source.as_deref().map(pool_of_source),
            limits: named(&config.route_limits(place)),
            // A password goes to a proven host alone, unless the operator says otherwise.
            tls: route.tls.unwrap_or(if route.username.is_some() { TlsPolicy::Verify } else { told.tls }),
            login: login(route)?,
            trust: match &route.ca_file {
                Some(file) => Some(trust(file, &mut trusts)?),
                None => None,
            },
            return_path: route.return_path.unwrap_or(match route.username.is_some() {
                true => ReturnPath::Client,
                false => ReturnPath::Ours,
            }),
        });
    }
    let mut of_one_source: Vec<&str> =
        config.routes.iter().filter(|route| route.is_way()).filter_map(|route| route.source.as_deref()).collect();
    of_one_source.sort_unstable();
    of_one_source.dedup();
    let of_one_source = of_one_source
        .into_iter()
        .map(|source| scheduler::Pool { name: pool_of_source(source), sources: vec![source.into()] });
    let warmups = config.sources.iter().filter_map(|(name, source)| warmup_of(config, name, source));
    Ok(scheduler::Settings {
        warmups: warmups.collect(),
        sources: sources.collect(),
        pools: pools.chain(of_one_source).collect(),
        routes,
        sites: sites.collect(),
        domains: domains.collect(),
        limits: named(&config.default_limits()),
        tls: told.tls,
        allow_private_peers: told.allow_private_peers,
        connections: told.connections,
        idle_timeout: told.idle_timeout,
        ..scheduler::Settings::default()
    })
}

/// Whom a route is for.
fn matches(route: &Route) -> Match {
    Match {
        recipients: match &route.recipient_domain {
            RecipientPattern::Any => Recipients::Any,
            RecipientPattern::Domain(pattern) if pattern.alone => Recipients::Only(pattern.domain.clone()),
            RecipientPattern::Domain(pattern) => Recipients::Within(pattern.domain.clone()),
            RecipientPattern::Below(parent) => Recipients::Below(parent.clone()),
            RecipientPattern::Address(address) => Recipients::Address(address.clone()),
        },
        senders: match &route.sender {
            None => Senders::Any,
            Some(SenderPattern::Null) => Senders::Null,
            Some(SenderPattern::Domain(domain)) => Senders::Domain(domain.clone()),
            Some(SenderPattern::Address(address)) => Senders::Address(address.clone()),
        },
    }
}

/// Which routes have a source of their own.
pub fn route_sources(config: &Config) -> Vec<(String, Option<&str>)> {
    let routes = config.routes.iter().filter(|route| route.is_way());
    routes.map(|route| (route_name(route), route.source.as_deref())).collect()
}

/// What tells a route from all others, also in the next config.
fn route_name(route: &Route) -> String {
    match &route.sender {
        Some(sender) => format!("{sender} to {}", route.recipient_domain),
        None => format!("to {}", route.recipient_domain),
    }
}

/// The pool of one source alone. A name with a space is nobody's in the config.
fn pool_of_source(source: &str) -> Arc<str> {
    format!("source {source}").into()
}

fn way(config: &Config, route: &Route) -> RouteWay {
    let hop = |hop: &config::NextHop| scheduler::Hop {
        name: hop.host.as_str().into(),
        port: hop.port.or(route.port).unwrap_or(config.delivery.port),
        mx: hop.mx,
    };
    let ending = |text: &str| EnhancedStatus::split(text).map(|(status, text)| RouteWay::Nowhere(status, text.into()));
    if let Some(way) = route.fail.as_deref().or(route.retry.as_deref()).and_then(ending) {
        return way;
    }
    if route.discard {
        return RouteWay::Discard;
    }
    match route.next_hop.iter().any(config::NextHop::is_usual) {
        true => RouteWay::Usual(route.tls, route.fallback.iter().map(hop).collect()),
        false => RouteWay::Hosts(route.next_hop.iter().chain(&route.fallback).map(hop).collect()),
    }
}

/// TLS with the certificates of a file, read once for all routes that name it.
fn trust<'a>(file: &'a Path, known: &mut HashMap<&'a Path, delivery::Trust>) -> anyhow::Result<delivery::Trust> {
    if let Some(trust) = known.get(file) {
        return Ok(trust.clone());
    }
    let settings = tls::client::Settings { roots: Some(file.to_owned()), ..tls::client::Settings::default() };
    let client = tls::client::Client::new(&settings).with_context(|| format!("ca_file {}", file.display()))?;
    let trust = delivery::Trust { file: file.to_string_lossy().into(), client };
    known.insert(file, trust.clone());
    Ok(trust)
}

/// How a source warms up. A config whose curves are wrong was refused before.
fn warmup_of(config: &Config, name: &str, source: &config::Source) -> Option<scheduler::WarmupRule> {
    let warmup = config.warmups.get(source.warmup.as_deref()?)?;
    let curves = warmup.provider.iter();
    let providers = curves.filter_map(|(name, own)| Some((name.as_str().into(), Arc::new(own.curve().ok()?))));
    Some(scheduler::WarmupRule {
        source: name.into(),
        curve: Arc::new(warmup.curve().ok()?),
        providers: providers.collect(),
        zone: source.time_zone.clone(),
        hours: source.send_hours,
    })
}

fn tls_of(limits: &Layered) -> Option<TlsPolicy> {
    match limits.each.get(&Key::Tls)?.value {
        Value::Tls(tls) => Some(tls),
        Value::Count(_) | Value::Rates(_) => None,
    }
}

/// Limits as the scheduler takes them, each value with its line.
fn named(layered: &Layered) -> Arc<NamedLimits> {
    let count = |values: &Values, key| match values.get(&key)?.value {
        Value::Count(count) => Some(count),
        Value::Rates(_) | Value::Tls(_) => None,
    };
    let rates = |values: &Values, key| match values.get(&key).map(|told| told.value) {
        Some(Value::Rates(rates)) => rates,
        Some(Value::Count(_) | Value::Tls(_)) | None => Rates::NONE,
    };
    let connections = |most: Option<u32>| most.and_then(|most| u16::try_from(most).ok()).unwrap_or(u16::MAX);
    let each = |values: &Values| Limits {
        connections: connections(count(values, Key::ConnectionLimit)),
        deliveries: count(values, Key::MaxDeliveriesPerConnection),
        messages: rates(values, Key::MaxMessageRate),
        recipients: rates(values, Key::MaxRecipientRate),
        new_connections: rates(values, Key::MaxConnectionRate),
    };
    let all = &layered.each;
    Arc::new(NamedLimits {
        each: each(all),
        sources: layered.sources.iter().map(|(name, values)| (name.as_str().into(), each(values))).collect(),
        total: Limits {
            connections: connections(count(all, Key::TotalConnectionLimit)),
            deliveries: None,
            messages: rates(all, Key::TotalMessageRate),
            recipients: rates(all, Key::TotalRecipientRate),
            new_connections: rates(all, Key::TotalConnectionRate),
        },
        origins: origins(layered),
    })
}

/// What is told of where each value stands: those of each source, then what single sources have otherwise.
fn origins(layered: &Layered) -> Vec<Origin> {
    let origin = |source: Option<&str>, key: Key, told: &Told| Origin {
        source: source.map(Into::into),
        key: key.name(),
        value: told.value.to_string().into(),
        from: Arc::clone(&told.from),
    };
    let mut all: Vec<Origin> = layered.each.iter().map(|(key, told)| origin(None, *key, told)).collect();
    for (source, values) in &layered.sources {
        let own = values.iter().filter(|(key, told)| key.is_of_source() && layered.each.get(key) != Some(told));
        all.extend(own.map(|(key, told)| origin(Some(source), *key, told)));
    }
    all
}

/// User and password of a smarthost. The file's last line end is not part of the password.
fn login(route: &Route) -> anyhow::Result<Option<(Arc<str>, Arc<str>)>> {
    let (Some(user), Some(file)) = (&route.username, &route.password_file) else { return Ok(None) };
    let text = std::fs::read_to_string(file).with_context(|| format!("password_file {}", file.display()))?;
    let password = text.strip_suffix('\n').map_or(&*text, |line| line.strip_suffix('\r').unwrap_or(line));
    Ok(Some((user.as_str().into(), password.into())))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_route_with_a_login_keeps_the_clients_return_path_unless_it_says_ours() {
        let dir = tempfile::tempdir().unwrap();
        let password = dir.path().join("password");
        std::fs::write(&password, "secret").unwrap();
        let login = format!("username = \"u\"\npassword_file = \"{}\"", password.display());
        let rows = [
            (String::new(), ReturnPath::Ours),
            ("return_path = \"client\"".to_owned(), ReturnPath::Client),
            (login.clone(), ReturnPath::Client),
            (login + "\nreturn_path = \"ours\"", ReturnPath::Ours),
        ];
        for (keys, want) in rows {
            let text = format!(
                "hostname = \"r.example\"\n[[credential]]\nname = \"a\"\nfrom_domains = [\"e.example\"]\n\
                 [[sending_domain]]\nname = \"e.example\"\n\
                 [[route]]\nrecipient_domain = \"*\"\nnext_hop = [\"h.example\"]\n{keys}\n"
            );
            let config = Config::parse(&text, Path::new("p.toml")).unwrap();
            assert_eq!(scheduler(&config).unwrap().routes[0].return_path, want, "{keys}");
        }
    }
}
