//! The daemon: composes the rooms, starts them in order, reloads them, and stops them.
//!
//! Called by `cli` (serve) and by the sandbox. What each room is told stands in [`compose`]; systemd, signals and logs in
//! [`service`].

pub mod compose;
mod holds;
mod page;
mod passable;
mod service;
mod tokens;
mod watchman;
mod ways;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use crate::accept::Door;
use crate::alarm::{Alarms, Cause as Alarm};
use crate::clock::Clock;
use crate::config::Config;
use crate::credential::{self, Credentials};
use crate::delivery::{Caller, Stops, Tools};
use crate::dns::Dns;
use crate::events::Events;
use crate::harm::{Harm, When};
use crate::history::{self, History};
use crate::http;
use crate::ledger::Ledger;
use crate::maillog::Maillog;
use crate::pickup::{self, Pickup};
use crate::queue::{self, Ground, Queue};
use crate::rates::Sender;
use crate::scheduler::{Handle, Live, Scheduler, Scope, Which};
use crate::showq::Showq;
use crate::signer::Signer;
use crate::spool::{self, Disk, FileDisk};
use crate::submission;
use crate::suppression::Suppressions;
use crate::tls::client::Client;
use crate::tls::server::ServerTls;
use crate::token::Keys;
use crate::traffic::WarmupOrder;
use crate::unsubscribe::{NotKept, Suppress, Unsubscribe};

pub use service::serve;

use page::House;
use ways::Ways;

/// How long a stop may take, whatever clients and peers do. What is past its final dot by then is uncertain.
const STOP_WITHIN: Duration = Duration::from_secs(10);
/// Of these, how long clients may take to finish the message that they are sending.
const CLIENTS_WITHIN: Duration = Duration::from_secs(4);
/// Of these, how long peers may take to answer.
const PEERS_WITHIN: Duration = Duration::from_secs(8);

/// What a started daemon tells.
#[derive(Clone)]
pub struct Ready {
    /// The listeners in the config's order, with the ports that the system chose.
    pub addresses: Vec<SocketAddr>,
    /// Tells how long its writer has been silent: for the watchdog.
    pub spool: spool::Spool,
    /// Envelopes found waiting.
    pub waiting: usize,
}

/// What can be asked of a running daemon.
#[derive(Debug)]
pub enum Request {
    /// Follow this config.
    Reload(Box<Config>),
}

/// Runs a daemon until `stop` becomes true (or its sender is gone). `ready` is called once clients can connect.
///
/// # Errors
/// It cannot start; nothing is left running. The message says what to do.
pub async fn run(
    config: Config,
    requests: mpsc::Receiver<Request>,
    stop: watch::Receiver<bool>,
    ready: impl FnOnce(Ready),
) -> anyhow::Result<()> {
    let daemon = Daemon::start(config).await?;
    ready(Ready {
        addresses: daemon.server.addresses(),
        spool: daemon.queue.spool().clone(),
        waiting: daemon.queue.len(),
    });
    daemon.attend(requests, stop).await
}

struct Daemon {
    config: Config,
    clock: Arc<Clock>,
    queue: Queue,
    door: Door,
    tools: Arc<Tools>,
    signer: Signer,
    credentials: Credentials,
    server_tls: Option<ServerTls>,
    dns: Dns,
    server: submission::Server<Door>,
    scheduler: Handle,
    tokens: Keys,
    unsubscribe: Unsubscribe,
    pickup: tokio::task::JoinHandle<()>,
    pickup_settings: Arc<arc_swap::ArcSwap<pickup::Settings>>,
    ways: Ways,
    showq: Showq,
    api: tokio::task::JoinHandle<std::io::Result<()>>,
    api_stop: watch::Sender<bool>,
}

/// What is ready before a socket is bound.
struct Opened {
    clock: Arc<Clock>,
    events: Events,
    signer: Signer,
    client: Client,
    server_tls: Option<ServerTls>,
    credentials: Credentials,
    dns: Dns,
    queue: Queue,
    suppressions: Suppressions,
    harm: Harm,
    /// Whether the last run ended cleanly.
    clean: bool,
    tokens: Keys,
}

impl Daemon {
    async fn start(config: Config) -> anyhow::Result<Daemon> {
        let clock = Arc::new(Clock::default());
        let events = Events::default();
        // What the config names is read before the spool is touched: a bad key must not cost a recovery.
        let signer = Signer::new(&compose::signer(&config)).context("DKIM")?;
        let client = Client::new(&compose::tls_client(&config)).context("TLS towards peers")?;
        let server_tls = server_tls(&config)?;
        let credentials = Credentials::new(
            credential::Settings::default(),
            compose::accounts(&config),
            compose::credential_file(&config),
        )
        .context("credentials")?;
        let dns = Dns::new(compose::dns(&config)).context("DNS")?;

        passable::make(&config.data_dir)?;
        let tokens = tokens::keys_at_start(&compose::token_keys_file(&config)).context("token keys")?;
        let (queue, clean, suppressions) = open_queue(&config, clock.clone(), &events).await?;
        let (settings, directory) = (compose::harm(&config), config.data_dir.join("delivered"));
        let (spool, now) = (queue.spool().clone(), clock.now());
        let harm = tokio::task::spawn_blocking(move || Harm::open(settings, spool, directory, now)).await?;
        let events = events.with_history(open_history(&config, &clock, clean));
        let events = events.with_maillog(open_maillog(&config, &clock)?);
        let opened = Opened {
            clock,
            events,
            signer,
            client,
            server_tls,
            credentials,
            dns,
            queue: queue.clone(),
            suppressions,
            harm,
            clean,
            tokens,
        };
        let started = Daemon::assemble(config, opened);
        if started.is_err() {
            // A port that is taken must not make the next start a recovery, nor leave the spool locked.
            let _ = tokio::task::spawn_blocking(move || queue.close()).await;
        }
        started
    }

    /// Composes what runs on the open spool.
    fn assemble(config: Config, opened: Opened) -> anyhow::Result<Daemon> {
        let Opened {
            clock,
            events,
            signer,
            client,
            server_tls,
            credentials,
            dns,
            queue,
            suppressions,
            harm,
            clean,
            tokens,
        } = opened;
        let metrics_listener = config.metrics.bind.map(|bind| bound("metrics.bind", bind)).transpose()?;
        let told = &config.unsubscribe;
        let page_listener = told.base().map(|_| bound("unsubscribe.bind", told.bind)).transpose()?;
        let started = clock.now();
        let door = Door::new(queue.clone(), events.clone(), compose::door(&config, tokens.clone())?)
            .with_alarms(Alarms::default())
            .with_suppressions(suppressions)
            .with_harm(harm)
            .with_verifier(compose::verifier(dns.clone()));
        door.set_rules(compose::rules(&config)?);
        door.restore_quotas();
        watchman::start_courier(door.clone(), clock.clone());
        queue.set_reporter(door.reporter());
        let (harm, respite_clock) = (door.harm().clone(), clock.clone());
        queue.set_respite(Arc::new(move |life| {
            let whose = (life.credential, life.stream, life.kind);
            harm.expiry(whose, (life.accepted_at, life.expires_at), respite_clock.now())
        }));
        let mut server = submission::Server::bind(
            compose::submission(&config),
            server_tls.clone(),
            credentials.clone(),
            door.clone(),
            clock.clone(),
        )?;
        let caller = Caller::new(compose::delivery(&config), client, clock.clone());
        let ledger = Ledger::new(queue.spool().clone());
        let tools = Arc::new(Tools {
            queue: queue.clone(),
            door: door.clone(),
            signer: signer.clone(),
            caller,
            rules: compose::rules(&config)?.into(),
            stops: Stops::kept(ledger.clone(), clock.now()),
        });
        // Before anything in the queue may move: what the last run fetched of the maildrop is told from what it did not.
        let maildrop = pickup::Directory::of(&config.data_dir);
        maildrop.make().with_context(|| format!("the maildrop {}", maildrop.path().display()))?;
        let settled = pickup::settle(&queue, &ledger, &maildrop).context("the maildrop")?;
        let mut settings = compose::scheduler(&config)?;
        if !clean {
            settings.first_dial = clock.now().after(AFTER_UNCLEAN_END);
        }
        let scheduler = Scheduler::new(settings, Live { dns: dns.clone(), tools: tools.clone(), ledger });
        let handle = scheduler.handle();
        let waiting = queue.set_sink(handle.sink());
        tokio::spawn(scheduler.run(waiting));
        let scheduler = handle;

        let (api_stop, mut stopped) = watch::channel(false);
        let asked = scheduler.clone();
        let why: http::Explain = Arc::new(move |id| {
            let asked = asked.clone();
            Box::pin(async move { asked.why(id).await })
        });
        let (returning, time) = (door.clone(), clock.clone());
        let bounce: http::Bounce = Arc::new(move |lease| {
            let (door, now) = (returning.clone(), time.now());
            Box::pin(async move { door.bounce(lease, now).await })
        });
        let asked = scheduler.clone();
        let probe: http::Probe = Arc::new(move || {
            let asked = asked.clone();
            Box::pin(async move { asked.probe().await })
        });
        let asked = scheduler.clone();
        let site_domains: http::SiteDomains = Arc::new(move |site| {
            let asked = asked.clone();
            Box::pin(async move { asked.site_domains(site).await })
        });
        let asked = scheduler.clone();
        let pools: http::Pools = Arc::new(move || {
            let asked = asked.clone();
            Box::pin(async move { asked.pools().await })
        });
        let house = House {
            queue: queue.clone(),
            door: door.clone(),
            scheduler: scheduler.clone(),
            clients: server.meter(),
            tls: server_tls.clone(),
            clock: clock.clone(),
            started,
            stranded: Arc::default(),
        };
        let scrape = house.scrape();
        tokio::spawn(watchman::run(house, stopped.clone()));
        if let Some(listener) = metrics_listener {
            let (listener, mut stopped) = (tokio::net::TcpListener::from_std(listener)?, stopped.clone());
            let until = async move {
                let _ = stopped.wait_for(|stop| *stop).await;
            };
            tokio::spawn(http::serve_metrics(listener, scrape.clone(), until));
        }
        let time = clock.clone();
        let unsubscribe = Unsubscribe::new(
            compose::unsubscribe(&config, tokens.clone()),
            suppress(door.clone(), clock.clone()),
            Arc::new(move || time.now()),
        );
        if let Some(listener) = page_listener {
            let (listener, mut stopped) = (tokio::net::TcpListener::from_std(listener)?, stopped.clone());
            let until = async move {
                let _ = stopped.wait_for(|stop| *stop).await;
            };
            let tls = server_tls.clone().filter(|_| config.unsubscribe.tls);
            tokio::spawn(unsubscribe.clone().serve(listener, tls, until));
        }
        let follower = holds::Follower::new(queue.clone(), door.clone(), scheduler.clone(), clock.clone());
        tokio::spawn(follower.run(stopped.clone()));
        let traffic = traffic_of(scheduler.clone(), door.clone(), clock.clone());
        let suppressions = door.suppressions().cloned();
        let queued = queue.clone();
        let (api_probe, stopped_showq, stopped_pickup) = (probe.clone(), stopped.clone(), stopped.clone());
        let api =
            http::Api { queue: queued, events, why, bounce, probe, site_domains, pools, scrape, traffic, suppressions };
        let until = async move {
            let _ = stopped.wait_for(|stop| *stop).await;
        };
        let api = tokio::spawn(http::serve(http::Settings::in_dir(&config.data_dir), api, until));
        let showq = Showq::new(queue.clone(), maildrop.clone(), api_probe, compose::showq(&config));
        showq.start(&config.data_dir, stopped_showq);
        let clerk = Pickup::new(door.clone(), queue.clone(), clock.clone(), maildrop, compose::pickup(&config));
        let pickup_settings = clerk.settings();
        let pickup = tokio::spawn(clerk.run(settled, stopped_pickup));
        let mut ways = Ways::new(queue.clone(), door.clone(), &config.data_dir);
        ways.follow();
        server.start();
        Ok(Daemon {
            config,
            pickup,
            pickup_settings,
            ways,
            showq,
            clock,
            queue,
            door,
            tools,
            signer,
            credentials,
            server_tls,
            dns,
            server,
            scheduler,
            tokens,
            unsubscribe,
            api,
            api_stop,
        })
    }

    /// Serves requests until it must stop, then stops.
    async fn attend(
        mut self,
        mut requests: mpsc::Receiver<Request>,
        mut stop: watch::Receiver<bool>,
    ) -> anyhow::Result<()> {
        loop {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                failed = &mut self.api => {
                    // The mail flows without it; only the command line is blind.
                    warn!(?failed, "the control socket is closed; restart to have it back");
                    self.api = tokio::spawn(std::future::pending());
                }
                Some(request) = requests.recv() => match request {
                    Request::Reload(config) => self.reload(*config).await,
                },
            }
        }
        self.stop().await
    }

    /// Follows a new config, room by room. What was checked by `config` and still fails here keeps its old state.
    async fn reload(&mut self, config: Config) {
        for what in needs_restart(&self.config, &config) {
            warn!("{what} needs a restart to change");
        }
        if let Err(error) = self.signer.reload(&compose::signer(&config)) {
            warn!(%error, "the DKIM keys stay as they were");
        }
        if let Err(error) = self.credentials.reload(compose::accounts(&config)) {
            warn!(%error, "the credentials stay as they were");
        }
        if let (Some(server), Some(tls)) = (&self.server_tls, &config.tls)
            && let Err(error) = server.reload(&tls.certificate, &tls.private_key)
        {
            warn!(%error, "the certificate stays as it was");
        }
        if self.server_tls.is_some() != config.tls.is_some() {
            warn!("[tls] needs a restart to be added or removed");
        }
        if let Err(error) = self.dns.reload(compose::dns(&config)) {
            warn!(%error, "the resolver stays as it was");
        }
        match tokens::keys(&compose::token_keys_file(&config)) {
            Ok(tokens) => self.tokens = tokens,
            Err(error) => warn!("the token keys stay as they were: {error:#}"),
        }
        match compose::door(&config, self.tokens.clone()) {
            Ok(settings) => self.door.reload(settings),
            Err(error) => warn!(%error, "the door and its tables stay as they were"),
        }
        self.door.harm().reload(compose::harm(&config));
        self.pickup_settings.store(Arc::new(compose::pickup(&config)));
        self.showq.reload(compose::showq(&config));
        self.unsubscribe.reload(compose::unsubscribe(&config, self.tokens.clone()));
        self.door.events().history().reload(compose::history(&config));
        match compose::scheduler(&config) {
            Ok(settings) => {
                self.scheduler.reload(settings).await;
                // Over which pool an envelope goes was told when it came, and its route may say another one now.
                if compose::route_sources(&config) != compose::route_sources(&self.config) {
                    self.scheduler.tell_again(Box::new(self.queue.waiting().map(Some))).await;
                }
            }
            Err(error) => warn!("routes and sources stay as they were: {error:#}"),
        }
        self.ways.follow();
        match compose::rules(&config) {
            Ok(rules) => {
                self.door.set_rules(rules.clone());
                self.tools.rules.store(rules);
            }
            Err(error) => warn!("what replies mean stays as it was: {error:#}"),
        }
        for unchanged in self.server.reload(&compose::submission(&config)) {
            warn!("{unchanged}");
        }
        self.config = config;
        info!("the config was reloaded");
    }

    /// Stops taking mail, lets what is under way end, and closes the spool: all within ten seconds.
    async fn stop(self) -> anyhow::Result<()> {
        let began = Instant::now();
        info!("stopping");
        let clients = self.server.drain(CLIENTS_WITHIN);
        let peers = self.scheduler.stop(PEERS_WITHIN);
        let (clients_gone, peers_dropped) = tokio::join!(clients, peers);
        let _ = self.api_stop.send(true);
        let _ = tokio::time::timeout(Duration::from_millis(500), self.api).await;
        // What it holds at the moment is put and forgotten, or found by the next start.
        let _ = tokio::time::timeout(Duration::from_millis(500), self.pickup).await;
        let kept = self.door.keep_quotas(self.clock.now());
        let _ = tokio::time::timeout(Duration::from_millis(500), kept).await;
        let kept = self.door.keep_harm(When::Stop, self.clock.now());
        let _ = tokio::time::timeout(HARM_WITHIN, kept).await;
        if let Some(list) = self.door.suppressions() {
            let _ = tokio::time::timeout(Duration::from_millis(500), list.close()).await;
        }
        let queue = self.queue;
        let (history, maillog) = (self.door.events().history().clone(), self.door.events().maillog().clone());
        let closed = tokio::task::spawn_blocking(move || {
            queue.close();
            history.close();
            maillog.close();
        });
        let left = STOP_WITHIN.saturating_sub(began.elapsed()).max(Duration::from_millis(500));
        let closed = tokio::time::timeout(left, closed).await.is_ok();
        info!(clients_gone, peers_dropped, closed, seconds = began.elapsed().as_secs_f64(), "stopped");
        Ok(())
    }
}

/// Keeps the wish of an unsubscribe link.
fn suppress(door: Door, clock: Arc<Clock>) -> Suppress {
    Arc::new(move |link| {
        let (door, now) = (door.clone(), clock.now());
        Box::pin(async move { door.unsubscribe(&link, now).await.map_err(NotKept) })
    })
}

/// How long a stop waits for the books of rates and deliveries.
const HARM_WITHIN: Duration = Duration::from_secs(1);

/// How the API asks about sites, sources and senders.
fn traffic_of(scheduler: Handle, door: Door, clock: Arc<Clock>) -> http::Traffic {
    Arc::new(move |ask| {
        let (scheduler, door, now) = (scheduler.clone(), door.clone(), clock.now());
        Box::pin(async move {
            match ask {
                http::Ask::Sites(select) => {
                    let which = if select.all { Which::All } else { Which::Busy };
                    Ok(scheduler.sites(which, select.filter.as_deref().unwrap_or_default()).await)
                }
                http::Ask::Sources => Ok(scheduler.sources().await),
                http::Ask::Explain(site) => scheduler.explain(&site).await,
                http::Ask::Warmups => Ok(scheduler.warmups().await),
                http::Ask::Warmup(request) => {
                    let order = warmup_order(&request.order, request.stage)?;
                    scheduler.warmup(&request.source, request.provider.as_deref(), order).await.map(Into::into)
                }
                http::Ask::Rates(span) => holds::rates(door.harm(), &span, now),
                http::Ask::ResumeSender(request) => {
                    let sender = Sender::parse(&request.sender)
                        .ok_or_else(|| "a sender is CREDENTIAL/STREAM, as `postrider rates` shows it".to_owned())?;
                    tracing::info!(%sender, by = %request.by, "resumed");
                    let done = door.harm().resume(&sender, now).await?;
                    door.alarms().clear(Alarm::SenderPaused, &sender.to_string());
                    Ok(done.into())
                }
                http::Ask::HoldCredential(request) => match request.hold {
                    true => door.harm().suspend(&request.name, &request.by, now).await.map(Into::into),
                    false => {
                        let done = door.harm().unsuspend(&request.name, now).await?;
                        door.alarms().clear(Alarm::CredentialSuspended, &request.name);
                        Ok(done.unwrap_or_else(|| format!("{}'s mail was not held", request.name)).into())
                    }
                },
                http::Ask::Suspend(request) => {
                    let within = request.seconds.map(Duration::from_secs);
                    let scope = scope_of(request.site, request.source)?;
                    scheduler.suspend(scope, within, &request.by).await.map(Into::into)
                }
                http::Ask::Resume(request) => {
                    let scope = scope_of(request.site, request.source)?;
                    scheduler.resume(scope, &request.by).await.map(Into::into)
                }
            }
        })
    })
}

fn warmup_order(word: &str, stage: Option<u16>) -> Result<WarmupOrder, String> {
    match (word, stage) {
        ("set", Some(stage @ 1..)) => Ok(WarmupOrder::Set(stage - 1)),
        ("set", _) => Err("set needs a stage, counted from 1".to_owned()),
        ("skip", _) => Ok(WarmupOrder::Skip),
        ("hold", _) => Ok(WarmupOrder::Hold),
        ("resume", _) => Ok(WarmupOrder::Resume),
        (other, _) => Err(format!("order {other:?}: set, skip, hold or resume is expected")),
    }
}

fn scope_of(site: Option<String>, source: Option<String>) -> Result<Scope, String> {
    match (site, source) {
        (Some(site), Some(source)) => Ok(Scope::At(site.into(), source.into())),
        (Some(site), None) => Ok(Scope::Site(site.into())),
        (None, Some(source)) => Ok(Scope::Source(source.into())),
        (None, None) => Err("a site, a source, or both are expected".to_owned()),
    }
}

/// What a reload does not follow.
fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let changes = [
        ("hostname", old.hostname != new.hostname),
        ("data_dir", old.data_dir != new.data_dir),
        ("[log]", old.log != new.log),
        ("turning [tls] on or off", old.tls.is_some() != new.tls.is_some()),
        ("[metrics]", old.metrics != new.metrics),
        ("[unsubscribe]'s bind and tls, and adding or removing its url,", listening(old) != listening(new)),
        ("limits.body_memory", old.limits.body_memory != new.limits.body_memory),
        ("delivery.ca_file", old.delivery.ca_file != new.delivery.ca_file),
        ("[delivery]'s timeouts, and [retry],", compose::delivery(old) != compose::delivery(new)),
    ];
    changes.iter().filter(|(_, changed)| *changed).map(|(what, _)| *what).collect()
}

/// What the unsubscribe page is offered on.
fn listening(config: &Config) -> Option<(SocketAddr, bool)> {
    config.unsubscribe.base().map(|_| (config.unsubscribe.bind, config.unsubscribe.tls))
}

fn server_tls(config: &Config) -> anyhow::Result<Option<ServerTls>> {
    let Some(tls) = &config.tls else { return Ok(None) };
    let loaded = ServerTls::load(&tls.certificate, &tls.private_key).context("[tls]")?;
    Ok(Some(loaded))
}

/// After an unclean end nothing is dialed for this long: the peers shall have seen the last run's connections end.
const AFTER_UNCLEAN_END: Duration = Duration::from_secs(1);

/// Opens spool, index and suppression list, and says whether the last run ended cleanly. On a thread of their own: a recovery may read gigabytes.
async fn open_queue(
    config: &Config,
    clock: Arc<Clock>,
    events: &Events,
) -> anyhow::Result<(Queue, bool, Suppressions)> {
    let (spool_dir, index_dir) = (compose::spool_dir(config), compose::index_dir(config));
    passable::make(&config.data_dir)?;
    let settings = queue::Settings { index_dir: Some(index_dir), ..queue::Settings::default() };
    let shown: PathBuf = spool_dir.clone();
    let opening = tokio::task::spawn_blocking(move || -> anyhow::Result<_> {
        let disk: Arc<dyn Disk> =
            Arc::new(FileDisk::new(&spool_dir).with_context(|| format!("{}", spool_dir.display()))?);
        let ground = Ground {
            spool: spool::Settings::default(),
            disk: disk.clone(),
            fatal: Box::new(abort),
            before_write: crate::lines::flush,
            clock,
            state: Box::new(|_| {}),
        };
        let (queue, report) = Queue::open(settings, ground)?;
        match Suppressions::open(queue.spool().clone(), disk) {
            Ok(suppressions) => Ok((queue, report, suppressions)),
            Err(failure) => {
                queue.close();
                Err(failure.into())
            }
        }
    });
    let (queue, report, suppressions) = opening.await?.with_context(|| format!("the spool at {}", shown.display()))?;
    if report.quarantined > 0 {
        warn!(
            records = report.quarantined,
            "records of the spool could not be read and were copied to {}: see `postrider spool check`",
            shown.join("quarantine").display()
        );
    }
    events.quarantined(report.quarantined);
    Ok((queue, report.clean, suppressions))
}

/// The log in the classic form, if one is wanted.
fn open_maillog(config: &Config, clock: &Arc<Clock>) -> anyhow::Result<Maillog> {
    let Some(target) = compose::maillog(config) else { return Ok(Maillog::default()) };
    let now = {
        let clock = clock.clone();
        Arc::new(move || clock.now())
    };
    Maillog::open(target, config.hostname.as_str(), now).context("the classic log")
}

/// Opens the history. Mail is worth more than its past: without a history the daemon runs all the same.
fn open_history(config: &Config, clock: &Arc<Clock>, clean: bool) -> History {
    let (now, steady) = (Arc::clone(clock), Arc::clone(clock));
    let clocks: (history::Clock, history::Clock) = (Arc::new(move || now.now()), Arc::new(move || steady.steady()));
    History::open(compose::history(config), clocks, clean).unwrap_or_else(|error| {
        tracing::error!("the history cannot be kept: {error}: `trace` and `audit` will not know of this run");
        History::default()
    })
}

/// A failed sync means that what was promised may not be on the disk: nothing more may be promised (fsync on Linux
/// reports an error once, and forgets it).
fn abort(reason: &str) {
    tracing::error!("{reason}: ending the process, so that nothing more is answered 250");
    crate::lines::flush();
    std::process::abort();
}

/// A listener on the address of a key.
fn bound(key: &str, address: SocketAddr) -> anyhow::Result<std::net::TcpListener> {
    let bound = std::net::TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    bound.with_context(|| format!("{key} = \"{address}\": cannot listen there"))
}
