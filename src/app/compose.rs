//! What each room is told of the config. Called at start and at every reload; decides nothing.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;

use crate::accept::{self, Bounces, Rights, SenderDomain};
use crate::classify::Rules;
use crate::config::{self, Config, Mode, Received, RecipientPattern, Retry, Route, TlsPolicy, Windows};
use crate::credential::Account;
use crate::dns::Families;
use crate::retry::Schedule;
use crate::scheduler::{NamedLimits, Recipients};
use crate::signer::SigningDomain;
use crate::smtp::session;
use crate::traffic::Limits;
use crate::{credential, delivery, dns, scheduler, signer, submission, tls};

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

/// The door: names, streams and rights.
pub fn door(config: &Config) -> accept::Settings {
    let mut settings = accept::Settings::new(config.hostname.clone());
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
        };
        (name.as_str().into(), told)
    });
    settings.streams = streams.collect();
    let credentials = config.credentials.iter().map(|credential| {
        let domains = credential.from_domains.iter().map(|pattern| match pattern.alone {
            true => SenderDomain::Exactly(pattern.domain.clone()),
            false => SenderDomain::Within(pattern.domain.clone()),
        });
        let rights = Rights { stream: Some(credential.stream.as_str().into()), from_domains: domains.collect() };
        (credential.name.as_str().into(), rights)
    });
    settings.credentials = credentials.collect();
    settings.header_size_max = config.limits.header_block;
    settings.received_max = config.limits.hops as usize;
    settings
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
        hide_client: listener.received == Received::HideClient,
    });
    let settings = submission::Settings {
        limits: session::Limits {
            message_size_max: limits.message.as_usize(),
            header_size_max: limits.header_block.as_usize(),
            recipients_max: limits.recipients as usize,
            command_length_max: limits.command_line.as_usize(),
            errors_max: limits.errors,
            ..session::Limits::default()
        },
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

/// TLS towards peers.
pub fn tls_client(_config: &Config) -> tls::client::Settings {
    tls::client::Settings::default()
}

/// Sources, pools, routes, sites.
///
/// # Errors
/// A smarthost's password cannot be read.
pub fn scheduler(config: &Config) -> anyhow::Result<scheduler::Settings> {
    let told = &config.delivery;
    let limits = |connections: Option<u32>, deliveries: Option<u32>| Limits {
        connections: u16::try_from(connections.unwrap_or(told.connection_limit)).unwrap_or(u16::MAX),
        deliveries: Some(deliveries.unwrap_or(told.max_deliveries_per_connection)).filter(|most| *most > 0),
        ..Limits::NONE
    };
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
    let sites = config.sites.iter().map(|site| scheduler::SiteRule {
        name: site.name.as_str().into(),
        mx: site.mx.clone(),
        limits: named(
            limits(site.connection_limit, site.max_deliveries_per_connection),
            (site.each(), site.total()),
            site.total_connection_limit,
        ),
        tls: site.tls.unwrap_or(told.tls),
    });
    let mut routes = Vec::with_capacity(config.routes.len());
    for route in &config.routes {
        routes.push(scheduler::Route {
            recipients: match &route.recipient_domain {
                RecipientPattern::Any => Recipients::Any,
                RecipientPattern::Domain(pattern) if pattern.alone => Recipients::Only(pattern.domain.clone()),
                RecipientPattern::Domain(pattern) => Recipients::Within(pattern.domain.clone()),
            },
            next_hops: route
                .next_hop
                .iter()
                .map(|hop| (hop.host.as_str().into(), hop.port.or(route.port).unwrap_or(told.port)))
                .collect(),
            limits: named(
                limits(route.connection_limit, None),
                (route.each(), route.total()),
                route.total_connection_limit,
            ),
            // A password goes to a proven host alone, unless the operator says otherwise.
            tls: route.tls.unwrap_or(if route.username.is_some() { TlsPolicy::Verify } else { told.tls }),
            login: login(route)?,
        });
    }
    Ok(scheduler::Settings {
        sources: sources.collect(),
        pools: pools.collect(),
        routes,
        sites: sites.collect(),
        limits: Arc::new(NamedLimits::of_each(limits(None, None))),
        tls: told.tls,
        allow_private_peers: told.allow_private_peers,
        connections: told.connections,
        idle_timeout: told.idle_timeout,
        ..scheduler::Settings::default()
    })
}

/// Limits with their windows, for each source and in total.
fn named(each: Limits, (own, all): (Windows, Windows), total_connections: Option<u32>) -> Arc<NamedLimits> {
    let with = |limits: Limits, windows: Windows| Limits {
        messages: windows.messages,
        recipients: windows.recipients,
        new_connections: windows.connections,
        ..limits
    };
    let connections = total_connections.and_then(|most| u16::try_from(most).ok()).unwrap_or(u16::MAX);
    let total = with(Limits { connections, ..Limits::NONE }, all);
    Arc::new(NamedLimits { each: with(each, own), sources: Vec::new(), total })
}

/// User and password of a smarthost. The file's last line end is not part of the password.
fn login(route: &Route) -> anyhow::Result<Option<(Arc<str>, Arc<str>)>> {
    let (Some(user), Some(file)) = (&route.username, &route.password_file) else { return Ok(None) };
    let text = std::fs::read_to_string(file).with_context(|| format!("password_file {}", file.display()))?;
    let password = text.strip_suffix('\n').map_or(&*text, |line| line.strip_suffix('\r').unwrap_or(line));
    Ok(Some((user.as_str().into(), password.into())))
}
