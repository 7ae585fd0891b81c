//! The whole scheduler, with names and tasks, in a world without sockets.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use postrider::classify::{Feedback, Reaction, Signal};
use postrider::clock::Clock;
use postrider::delivery::{ConnectionId, Event, Host, Order, Plan, Source, TlsPolicy, Words};
use postrider::dns::{Failure, Finality};
use postrider::mail::{Cause, Domain, EnhancedStatus, Outcome, QueueId, Reply, Stage, StreamKind};
use postrider::queue::{Change, Waiting};
use postrider::route::{Match, Recipients};
use postrider::scheduler::NamedLimits;
use postrider::scheduler::{
    End, Found, Handle, Hop, Origin, Pool, Route, RouteWay, Scheduler, Scope, Settings, SiteRule, Task, Which, World,
};
use postrider::time::Timestamp;
use postrider::traffic::Limits;
use serde_json::Value;
use tokio::sync::mpsc;

/// What a host does, by the first word of its name: `kind`, `refuses`, `blocks`, `grumbles`, `tarpit`, `panics`, `lingers`; `null` domains have none.
#[derive(Clone, Default)]
struct Peers(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    plans: Vec<Plan>,
    looked_up: Vec<String>,
    attempts: HashMap<QueueId, u32>,
    ends: Vec<(QueueId, End)>,
    panics: u32,
    suspensions: HashMap<Bytes, Bytes>,
    disk_is_full: bool,
}

struct Town {
    peers: Peers,
    clock: Clock,
}

impl World for Town {
    fn budgets(&self) -> Vec<(Bytes, Bytes)> {
        Vec::new()
    }

    fn keep_budget(&self, _: Bytes, _: Option<Bytes>) -> Task<bool> {
        Box::pin(async { true })
    }

    fn suspensions(&self) -> Vec<(Bytes, Bytes)> {
        self.peers.0.lock().unwrap().suspensions.clone().into_iter().collect()
    }

    fn keep_suspension(&self, name: Bytes, record: Option<Bytes>) -> Task<bool> {
        let mut seen = self.peers.0.lock().unwrap();
        match record {
            Some(record) => drop(seen.suspensions.insert(name, record)),
            None => drop(seen.suspensions.remove(&name)),
        }
        let durable = !seen.disk_is_full;
        Box::pin(async move { durable })
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn mail_hosts(&self, domain: Domain) -> Task<Found<Arc<[Host]>>> {
        self.peers.0.lock().unwrap().looked_up.push(domain.to_string());
        let until = self.now().after(Duration::from_secs(60));
        Box::pin(async move {
            if domain.as_str().starts_with("null") {
                let (status, text) = (EnhancedStatus::new(5, 1, 10), "the domain takes no mail (null MX)".into());
                return Err(Failure { finality: Finality::Final, status, text, until });
            }
            Ok([host(&format!("{domain}"), 25)].into())
        })
    }

    fn host(&self, name: Arc<str>, port: u16) -> Task<Found<Host>> {
        Box::pin(async move { Ok(host(&name, port)) })
    }

    fn connect(
        &self,
        plan: Plan,
        orders: mpsc::Receiver<Order>,
        events: mpsc::Sender<(ConnectionId, Event)>,
    ) -> Task<()> {
        Box::pin(converse(plan, orders, events, self.peers.clone(), self.now()))
    }

    fn end(&self, id: QueueId, end: End) -> Task<bool> {
        self.peers.0.lock().unwrap().ends.push((id, end));
        Box::pin(async { true })
    }
}

/// Every host is at an address of its own, but those whose names end in `samehost.example`, which share one.
fn host(name: &str, port: u16) -> Host {
    let last = name.bytes().fold(7u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    let address = match name.ends_with("samehost.example") {
        true => Ipv4Addr::LOCALHOST,
        false => Ipv4Addr::from_bits(0x7f00_0000 | (last & 0x00ff_ffff)),
    };
    Host { name: name.into(), preference: 10, addresses: vec![IpAddr::V4(address)], port }
}

async fn converse(
    plan: Plan,
    mut orders: mpsc::Receiver<Order>,
    events: mpsc::Sender<(ConnectionId, Event)>,
    peers: Peers,
    now: Timestamp,
) {
    let id = plan.id;
    let first = plan.hosts[0].clone();
    let name = Arc::clone(&first.name);
    peers.0.lock().unwrap().plans.push(plan);
    let tell = async |event| events.send((id, event)).await.expect("the scheduler listens");
    if name.starts_with("refuses") {
        let cause = Cause::Reply(Reply::new(421, "4.7.0 too many of you"));
        let outcome = Outcome { at: now, stage: Stage::Greeting, host: (*name).into(), address: None, cause };
        tell(Event::Refused { outcome, signal: Feedback::Slower.into() }).await;
        return tell(Event::Eof).await;
    }
    let address = SocketAddr::new(first.addresses[0], first.port);
    tell(Event::Connected { host: Arc::clone(&name), address, transactions_max: None }).await;
    while let Some(Order::Send { id: envelope, .. }) = orders.recv().await {
        tell(Event::MailWritten(envelope)).await;
        *peers.0.lock().unwrap().attempts.entry(envelope).or_default() += 1;
        if name.starts_with("tarpit") {
            std::future::pending::<()>().await;
        }
        if name.starts_with("blocks") || name.starts_with("grumbles") {
            let cause = Cause::Reply(Reply::new(554, "5.7.1 listed"));
            let outcome = Outcome { at: now, stage: Stage::Mail, host: (*name).into(), address: None, cause };
            let trigger = if name.starts_with("blocks") { 1 } else { 9 };
            let reaction = Some(Reaction::Suspend { hold: Duration::from_secs(3600) });
            let signal = Signal { reaction, trigger, rule: 1, ..Signal::NOTHING };
            let words = Some(Box::new(Words { outcome, rule: "listed".into() }));
            let due = Some(now.after(Duration::from_secs(60)));
            tell(Event::Settled { id: envelope, due, signal, words }).await;
            continue;
        }
        let panics = name.starts_with("panics") && {
            let mut seen = peers.0.lock().unwrap();
            seen.panics += 1;
            seen.panics == 1
        };
        // Outside the lock, so that only this task is lost.
        assert!(!panics, "this connection breaks off on purpose");
        if name.starts_with("lingers") {
            // It ends, but the peer does not.
            orders.close();
            tell(Event::Settled { id: envelope, due: None, signal: Feedback::Good.into(), words: None }).await;
            return std::future::pending().await;
        }
        tell(Event::Settled { id: envelope, due: None, signal: Feedback::Good.into(), words: None }).await;
    }
    tell(Event::Eof).await;
}

fn start(settings: Settings, waiting: Vec<Waiting>) -> (Handle, Peers) {
    let peers = Peers::default();
    (start_again(settings, waiting, &peers), peers)
}

/// Another run in the same world.
fn start_again(settings: Settings, waiting: Vec<Waiting>, peers: &Peers) -> Handle {
    let scheduler = Scheduler::new(settings, Town { peers: peers.clone(), clock: Clock::default() });
    let handle = scheduler.handle();
    tokio::spawn(scheduler.run(waiting.into_iter()));
    handle
}

fn waiting(number: u64, domain: &str) -> Waiting {
    let now = Clock::default().now();
    Waiting {
        id: QueueId::from_u64(QueueId::next(QueueId::MIN, now).as_u64() + number),
        domain: domain.parse().unwrap(),
        author: None,
        stream: "transactional".into(),
        kind: StreamKind::Transactional,
        pool: "default".into(),
        credential: "shop".into(),
        priority: 50,
        engaged: false,
        attempts: 0,
        recipients: 1,
        due: now,
        expires_at: now.after(Duration::from_secs(86_400)),
        held: false,
        source: "".into(),
    }
}

/// Looks again until it is so; a minute at most.
async fn until<T>(mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "it never came to be");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

impl Peers {
    async fn attempted(&self, count: usize) {
        until(async || (self.0.lock().unwrap().attempts.len() >= count).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waited_before_and_what_comes_after_is_attempted_once() {
    let before = (0..3000).map(|n| waiting(n, &format!("kind{}.example", n % 40))).collect();
    let (handle, peers) = start(Settings::default(), before);
    let sink = handle.sink();
    for n in 3000..6000 {
        sink(Change::Waiting(waiting(n, &format!("kind{}.example", n % 40))));
    }
    peers.attempted(6000).await;
    assert_eq!(handle.stop(Duration::from_secs(10)).await, 0);
    let seen = peers.0.lock().unwrap();
    assert!(seen.attempts.values().all(|times| *times == 1));
    assert!(seen.looked_up.len() <= 40, "each domain is looked up once");
    assert!(seen.plans.iter().all(|plan| !plan.allow_private && plan.tls == TlsPolicy::Opportunistic));
}

#[tokio::test]
async fn a_route_goes_before_the_mx_and_names_its_own_hosts() {
    let route = Route {
        matches: Match::to(Recipients::Any),
        name: "to *".into(),
        way: RouteWay::Hosts(vec![Hop { name: "kind-smarthost".into(), port: 2525, mx: false }]),
        pool: None,
        trust: None,
        limits: Arc::new(NamedLimits::of_each(Limits { connections: 3, ..Limits::NONE })),
        tls: TlsPolicy::Verify,
        login: Some(("me".into(), "secret".into())),
        return_path: postrider::mail::ReturnPath::Client,
    };
    let settings = Settings { routes: vec![route], ..Settings::default() };
    let (handle, peers) = start(settings, (0..200).map(|n| waiting(n, &format!("null{}.example", n % 7))).collect());
    peers.attempted(200).await;
    handle.stop(Duration::from_secs(10)).await;
    let seen = peers.0.lock().unwrap();
    assert!(seen.looked_up.is_empty(), "no MX was asked for");
    assert!(seen.plans.len() <= 3, "the domains share the smarthost's limit: {}", seen.plans.len());
    let plan = &seen.plans[0];
    assert_eq!(plan.return_path, postrider::mail::ReturnPath::Client);
    assert_eq!((plan.hosts[0].port, plan.tls, plan.allow_private), (2525, TlsPolicy::Verify, true));
    assert!(plan.login.is_some());
}

#[tokio::test]
async fn why_names_the_peer_its_words_and_the_end_of_the_wait() {
    let envelope = waiting(1, "refuses.example");
    let id = envelope.id;
    let (handle, peers) = start(Settings::default(), vec![envelope]);
    let why = until(async || {
        let why = handle.why(id).await;
        (why[0]["kind"] == "throttled").then_some(why)
    })
    .await;
    let text = why[0]["text"].as_str().unwrap();
    assert!(text.starts_with("waits until "), "{text}");
    assert!(text.ends_with("refuses.example said 421 4.7.0 too many of you"), "{text}");
    assert_eq!(why[0]["cause"], "refuses.example said 421 4.7.0 too many of you");
    assert!(why[0]["until"].is_string());
    let sites = handle.sites(Which::Busy, "").await;
    assert_eq!(sites[0]["site"], "refuses.example");
    assert_eq!(sites[0]["waiting"]["transactional"], 1);
    assert_eq!(sites[0]["sources"][0]["state"], "throttled");
    assert!(peers.0.lock().unwrap().attempts.is_empty(), "no attempt was used up");
    assert_eq!(handle.why(QueueId::MIN).await, Value::Array(Vec::new()));
    assert_eq!(handle.stranded(vec![id, QueueId::MIN]).await, [QueueId::MIN], "it waits for the end of a pause");
}

#[tokio::test]
async fn a_reply_is_quoted_as_the_cause_once_its_rule_acts_and_not_before() {
    let limits = Limits { connections: 1, ..Limits::NONE };
    let settings = Settings { limits: Arc::new(NamedLimits::of_each(limits)), ..Settings::default() };
    let mail = [waiting(1, "blocks.example"), waiting(2, "blocks.example"), waiting(3, "grumbles.example")];
    let (handle, peers) = start(settings, mail.to_vec());
    peers.attempted(2).await;
    let sites = until(async || {
        let sites = handle.sites(Which::All, "").await;
        (sites[0]["sources"][0]["state"] == "throttled").then_some(sites)
    })
    .await;
    assert_eq!(sites[0]["site"], "blocks.example");
    assert_eq!(sites[0]["sources"][0]["cause"], "blocks.example said 554 5.7.1 listed", "{sites}");
    let left = mail.iter().take(2).find(|left| !peers.0.lock().unwrap().attempts.contains_key(&left.id)).unwrap().id;
    assert_eq!(handle.why(left).await[0]["cause"], "blocks.example said 554 5.7.1 listed");
    assert_eq!(sites[1]["site"], "grumbles.example");
    assert_eq!(sites[1]["sources"][0]["cause"], Value::Null, "{sites}");
}

#[tokio::test]
async fn mail_for_a_domain_that_takes_none_fails_and_old_mail_expires() {
    let mut old = waiting(2, "refuses.example");
    old.expires_at = Clock::default().now().after(Duration::from_millis(300));
    let (never, old_id) = (waiting(1, "null.example"), old.id);
    let never_id = never.id;
    let (_handle, peers) = start(Settings::default(), vec![never, old]);
    until(async || (peers.0.lock().unwrap().ends.len() >= 2).then_some(())).await;
    let ends: HashMap<QueueId, End> = peers.0.lock().unwrap().ends.iter().cloned().collect();
    match &ends[&never_id] {
        End::Failed(outcome) => assert_eq!(outcome.cause.status(), EnhancedStatus::new(5, 1, 10)),
        other => panic!("{other:?}"),
    }
    match &ends[&old_id] {
        End::Expired(Some(outcome)) => assert_eq!(outcome.cause.to_string(), "421 4.7.0 too many of you"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_stop_waits_for_what_is_on_its_way_and_drops_the_rest() {
    let (handle, peers) = start(Settings::default(), vec![waiting(1, "kind.example"), waiting(2, "tarpit.example")]);
    peers.attempted(2).await;
    assert_eq!(handle.stop(Duration::from_millis(100)).await, 1);
    // Later questions find nobody, and wait for nobody.
    assert_eq!(handle.stop(Duration::from_secs(60)).await, 0);
    assert_eq!(handle.why(QueueId::MIN).await, Value::Array(Vec::new()));
}

#[tokio::test]
async fn a_connection_that_breaks_off_frees_its_slot_and_its_envelope() {
    let limits = Limits { connections: 1, ..Limits::NONE };
    let settings = Settings { limits: Arc::new(NamedLimits::of_each(limits)), ..Settings::default() };
    let (handle, peers) = start(settings, (0..5).map(|n| waiting(n, "panics.example")).collect());
    let why = until(async || {
        let why = handle.why(waiting_id(&peers)?).await;
        (why[0]["kind"] == "not_due").then_some(why)
    })
    .await;
    // MAIL was written, so the peer may have it: it is not tried again at once.
    assert!(why[0]["until"].is_string());
}

fn waiting_id(peers: &Peers) -> Option<QueueId> {
    peers.0.lock().unwrap().attempts.keys().next().copied()
}

#[tokio::test]
async fn a_reload_brings_new_sources_and_leaves_old_ones() {
    let source = |name: &str, last| Source {
        name: name.into(),
        address: IpAddr::V4(Ipv4Addr::new(127, 0, 0, last)),
        ehlo: "relay.example.com".into(),
    };
    let with = |name: &str, last| Settings {
        sources: vec![source(name, last)],
        pools: vec![Pool { name: "default".into(), sources: vec![name.into()] }],
        ..Settings::default()
    };
    let (handle, peers) = start(with("a", 1), vec![waiting(1, "kind.example")]);
    peers.attempted(1).await;
    handle.reload(with("b", 2)).await;
    handle.sink()(Change::Waiting(waiting(2, "kind2.example")));
    peers.attempted(2).await;
    let source = |name: &str| Scope::Source(name.into());
    assert_eq!(
        handle.suspend(source("b"), None, "ann").await,
        Ok("the source b is suspended until it is resumed".into())
    );
    let said = handle.suspend(source("nobody"), None, "ann").await;
    assert_eq!(said, Err("there is no source \"nobody\"; there are: b".into()));
    let late = waiting(3, "kind3.example");
    handle.sink()(Change::Waiting(late.clone()));
    until(async || (handle.why(late.id).await[0]["kind"] == "suspended").then_some(())).await;
    assert_eq!(handle.resume(source("b"), "ann").await, Ok("the source b goes on".into()));
    peers.attempted(3).await;
    let names: Vec<String> = peers.0.lock().unwrap().plans.iter().map(|plan| plan.source.name.to_string()).collect();
    assert_eq!(names, ["a", "b", "b"]);
}

#[tokio::test]
async fn mail_does_not_wait_for_the_end_of_a_connection_that_takes_no_more() {
    let (handle, peers) = start(Settings::default(), vec![waiting(1, "lingers.example")]);
    peers.attempted(1).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    handle.sink()(Change::Waiting(waiting(2, "lingers.example")));
    peers.attempted(2).await;
}

/// A provider with two domains behind it, and a host that no rule governs.
fn provider() -> Settings {
    let origin = Origin { source: None, key: "connection_limit", value: "2".into(), from: "postrider.toml:7".into() };
    let mut limits = NamedLimits::of_each(Limits { connections: 2, ..Limits::NONE });
    limits.origins.push(origin);
    let rule = SiteRule {
        name: "big".into(),
        provider: "big".into(),
        mx: vec!["kind.example".parse().unwrap(), "refuses.example".parse().unwrap()],
        limits: Arc::new(limits),
        tls: TlsPolicy::default(),
    };
    Settings { sites: vec![rule], ..Settings::default() }
}

fn site(name: &str) -> Scope {
    Scope::Site(name.into())
}

#[tokio::test]
async fn a_suspended_site_waits_over_a_restart_until_it_is_resumed() {
    let (handle, peers) = start(provider(), vec![waiting(1, "kind.other.example")]);
    peers.attempted(1).await;
    for (scope, want) in [
        (site("nobody.example"), "there is no site \"nobody.example\" now; "),
        (site("a.kind.example"), "a.kind.example belongs to the site big: suspend that"),
        (Scope::At("big".into(), "b".into()), "there is no source \"b\"; there are: default"),
    ] {
        let said = handle.suspend(scope, None, "ann").await.unwrap_err();
        assert!(said.starts_with(want), "{said}");
    }
    assert_eq!(handle.resume(site("big"), "ann").await, Err("big is not suspended".into()));
    // By a rule's name, of which nothing is known yet, and by a host's.
    assert!(handle.suspend(site("big"), None, "ann").await.is_ok());
    assert!(handle.suspend(site("kind.other.example"), None, "bob").await.is_ok());
    handle.stop(Duration::from_secs(10)).await;

    let two = vec![waiting(2, "kind.example"), waiting(3, "kind.other.example"), waiting(4, "kind.free.example")];
    let ids: Vec<QueueId> = two.iter().map(|waiting| waiting.id).collect();
    let handle = start_again(provider(), two, &peers);
    peers.attempted(2).await;
    assert!(peers.0.lock().unwrap().attempts.contains_key(&ids[2]), "others go on");
    let why = until(async || Some(handle.why(ids[0]).await).filter(|why| why[0]["kind"] == "suspended")).await;
    assert_eq!(why[0]["text"], "big is suspended");
    assert!(why[0]["cause"].as_str().unwrap().starts_with("by ann at 20"), "{why}");
    assert_eq!(why.as_array().unwrap().len(), 1, "{why}");
    let sites = handle.sites(Which::All, "").await;
    let row = &sites[0]["sources"][0];
    assert_eq!((&row["state"], &sites[2]["site"]), (&"suspended".into(), &"kind.free.example".into()), "{sites:#}");
    assert_eq!(peers.0.lock().unwrap().attempts.len(), 2);

    assert_eq!(handle.resume(site("big"), "ann").await, Ok("big goes on".into()));
    peers.attempted(3).await;
    assert_eq!(handle.resume(site("kind.other.example"), "ann").await, Ok("kind.other.example goes on".into()));
    peers.attempted(4).await;
    assert!(peers.0.lock().unwrap().suspensions.is_empty(), "nothing is left to come back");
}

#[tokio::test]
async fn a_suspension_for_a_time_ends_by_itself_and_a_damaged_one_does_not() {
    let (handle, peers) = start(provider(), Vec::new());
    assert!(handle.suspend(site("big"), Some(Duration::from_millis(300)), "ann").await.is_ok());
    let envelope = waiting(1, "kind.example");
    handle.sink()(Change::Waiting(envelope.clone()));
    let why = until(async || Some(handle.why(envelope.id).await).filter(|why| why[0]["kind"] == "suspended")).await;
    assert!(why[0]["text"].as_str().unwrap().starts_with("big is suspended until "), "{why}");
    peers.attempted(1).await;
    until(async || peers.0.lock().unwrap().suspensions.is_empty().then_some(())).await;
    handle.stop(Duration::from_secs(10)).await;

    peers.0.lock().unwrap().suspensions.insert(Bytes::from_static(b"\nbig"), Bytes::new());
    let envelope = waiting(2, "kind.example");
    let handle = start_again(provider(), vec![envelope.clone()], &peers);
    let why = until(async || Some(handle.why(envelope.id).await).filter(|why| why[0]["kind"] == "suspended")).await;
    assert_eq!(why[0]["cause"], "by a record that cannot be read");
    // What cannot be written down is told, and holds until the restart.
    peers.0.lock().unwrap().disk_is_full = true;
    let said = handle.suspend(Scope::Source("default".into()), None, "ann").await.unwrap_err();
    assert!(said.ends_with("but only until a restart: it could not be written down"), "{said}");
    assert_eq!(handle.sources().await[0]["suspended"]["by"], "ann");
}

#[tokio::test]
async fn domains_behind_one_provider_share_its_site_and_its_row() {
    let mail = (0..30).map(|n| waiting(n, &format!("n{}.kind.example", n % 3))).collect();
    let (handle, peers) = start(provider(), mail);
    peers.attempted(30).await;
    let rows = until(async || {
        let sites = handle.sites(Which::All, "").await;
        (sites[0]["sources"][0]["recent"]["attempts"] == 30).then_some(sites)
    })
    .await;
    assert_eq!(rows.as_array().unwrap().len(), 1, "{rows:#}");
    assert_eq!((&rows[0]["site"], &rows[0]["provider"]), (&"big".into(), &"big".into()));
    assert_eq!(rows[0]["sources"][0]["limit"], 2);
    assert_eq!(rows[0]["sources"][0]["recent"]["deferred"], 0);
    for (filter, want) in [("big", 1), ("kind", 1), ("google", 0)] {
        let found = handle.sites(Which::All, filter).await.as_array().unwrap().len();
        assert_eq!(found, want, "{filter}");
    }
    let sources = handle.sources().await;
    assert_eq!((&sources[0]["source"], &sources[0]["state"]), (&"default".into(), &"ready".into()));
}

#[tokio::test]
async fn many_names_at_one_address_share_one_site() {
    let limits = Limits { connections: 2, ..Limits::NONE };
    let settings = Settings { limits: Arc::new(NamedLimits::of_each(limits)), ..Settings::default() };
    let names = (0..50).map(|n| waiting(n, &format!("tarpit{n}.samehost.example")));
    let others = (50..53).map(|n| waiting(n, &format!("kind{n}.example")));
    let (handle, peers) = start(settings, names.chain(others).collect());
    // Two are being sent to the one address, and the others are with theirs.
    peers.attempted(5).await;
    let sites = until(async || {
        let sites = handle.sites(Which::All, "").await;
        let queued = sites[0]["queued"]["transactional"].as_u64();
        (sites.as_array().unwrap().len() == 4 && queued == Some(50)).then_some(sites)
    })
    .await;
    assert_eq!(sites[0]["sources"][0]["connections"], 2, "{sites:#}");
    let at_one = |plan: &&Plan| plan.hosts[0].name.ends_with("samehost.example");
    assert_eq!(peers.0.lock().unwrap().plans.iter().filter(at_one).count(), 2);
    // It is found by any host that mail of it goes to, and shows some.
    for number in [0, 7, 33, 49] {
        let found = handle.sites(Which::All, &format!("tarpit{number}.samehost")).await;
        assert_eq!(found.as_array().unwrap().len(), 1, "{number}");
        assert_eq!(found[0]["hosts"].as_array().unwrap().len(), 16, "{found:#}");
    }
    // Whichever was looked up first gave the site its name.
    let said = handle.suspend(site("tarpit7.samehost.example"), None, "ann").await;
    let names_the_owner = |said: String| said.contains("belongs to the site tarpit");
    assert!(said.as_ref().is_ok() || said.clone().is_err_and(names_the_owner), "{said:?}");
}

#[tokio::test]
async fn each_value_of_a_site_is_told_with_its_line() {
    let (handle, peers) = start(provider(), vec![waiting(1, "kind.other.example")]);
    peers.attempted(1).await;
    let of = |said: Result<Value, String>| {
        let said = said.unwrap();
        (said["site"].as_str().unwrap().to_owned(), said["values"][0]["from"].as_str().unwrap_or("none").to_owned())
    };
    for (asked, site, from) in [
        ("big", "big", "postrider.toml:7"),
        // A recipient domain, looked up.
        ("mail.kind.example", "big", "postrider.toml:7"),
        ("kind.other.example", "kind.other.example", "none"),
        ("other", "other", "none"),
    ] {
        assert_eq!(of(handle.explain(asked).await), (site.to_owned(), from.to_owned()), "{asked}");
    }
    assert_eq!(handle.explain("a b").await, Err("\"a b\" is neither a site nor a domain".into()));
    assert!(handle.explain("null.example").await.unwrap_err().contains("takes no mail"));
}
