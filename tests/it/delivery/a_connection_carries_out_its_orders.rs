//! A connection over a real queue, to peers on loopback that follow a script.
//!
//! `S: 250 ok` says a line, `C: MAIL` waits for a line that begins so, `C: .` for the end of a message, `hold` reads on in
//! silence until we close. At its end the peer closes.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use postrider::accept::{self, Door, Origin, Submission};
use postrider::classify::Rules;
use postrider::clock::Clock;
use postrider::delivery::{
    self, Caller, ConnectionId, Event, Feedback, Host, Order, Plan, SlotLimits, Source, Stops, TlsPolicy, Tools, run,
};
use postrider::events::Events;
use postrider::mail::{Notify, QueueId, RecipientState, ReversePath};
use postrider::queue::{self, Ground, Queue};
use postrider::signer::{self, Signer};
use postrider::size::ByteSize;
use postrider::spool::{self, FileDisk};
use postrider::tls::client;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// No event of these tests takes longer, on any machine.
const LONGEST: Duration = Duration::from_secs(20);

struct House {
    queue: Queue,
    tools: Arc<Tools>,
    _directory: tempfile::TempDir,
}

fn open(directory: &Path, clock: &Arc<Clock>) -> Queue {
    let ground = Ground {
        spool: spool::Settings { segment_size: ByteSize::mib(1), ..spool::Settings::default() },
        disk: Arc::new(FileDisk::new(&directory.join("spool")).unwrap()),
        fatal: Box::new(|reason| panic!("the spool broke: {reason}")),
        before_write: || {},
        clock: clock.clone(),
        state: Box::new(|_| ()),
    };
    Queue::open(queue::Settings::default(), ground).unwrap().0
}

impl House {
    fn build() -> House {
        let directory = tempfile::tempdir().unwrap();
        let clock = Arc::new(Clock::default());
        let queue = open(directory.path(), &clock);
        let door =
            Door::new(queue.clone(), Events::default(), accept::Settings::new("relay.example.com".parse().unwrap()));
        let settings =
            delivery::Settings { close_timeout: Duration::from_millis(500), ..delivery::Settings::default() };
        let tls = client::Client::new(&client::Settings::default()).unwrap();
        let caller = Caller::new(settings, tls, clock);
        let signer = Signer::new(&signer::Settings::default()).unwrap();
        let tools = Tools {
            queue: queue.clone(),
            door,
            signer,
            caller,
            rules: Rules::shipped().into(),
            stops: Stops::default(),
        };
        House { queue, tools: Arc::new(tools), _directory: directory }
    }

    async fn accept(&self, recipients: &[&str], body: &str) -> QueueId {
        let origin = Origin {
            client: None,
            hello: "client.example.com".into(),
            protocol: "ESMTP",
            tls: None,
            credential: None,
            from_anyone: false,
            listener_stream: None,
            listener_control: postrider::message::Families::NONE,
            hide_client: false,
            fix_headers: true,
            session: None,
        };
        let message = format!("From: <s@example.com>\r\nSubject: x\r\n\r\n{body}\r\n");
        let submission = Submission {
            origin,
            reverse_path: ReversePath::Address("s@example.com".parse().unwrap()),
            ret: None,
            envid: None,
            release_at: None,
            recipients: recipients.iter().map(|text| (text.parse().unwrap(), Notify::Default, None)).collect(),
            message: Bytes::from(message),
            received_at: self.tools.caller.clock().now(),
        };
        self.tools.door.accept(submission).await.unwrap().id
    }

    fn connect(&self, peer: SocketAddr) -> Line {
        let host = Host { name: "mx.example.net".into(), preference: 0, addresses: vec![peer.ip()], port: peer.port() };
        let plan = Plan {
            site: "peer".into(),
            provider: "other".into(),
            id: ConnectionId(7),
            source: Source { name: "a".into(), address: "0.0.0.0".parse().unwrap(), ehlo: "out.example.com".into() },
            hosts: [host].into(),
            tls: TlsPolicy::None,
            login: None,
            trust: None,
            return_path: postrider::mail::ReturnPath::Ours,
            allow_private: true,
            slots: SlotLimits::default(),
            domain: "example.net".parse().unwrap(),
        };
        let (orders, inbox) = mpsc::channel(4);
        let (outbox, events) = mpsc::channel(16);
        tokio::spawn(run(plan, inbox, outbox, self.tools.clone()));
        Line { orders, events }
    }
}

/// The scheduler's end of a connection.
struct Line {
    orders: mpsc::Sender<Order>,
    events: mpsc::Receiver<(ConnectionId, Event)>,
}

impl Line {
    async fn order(&self, order: Order) {
        self.orders.send(order).await.unwrap();
    }

    async fn event(&mut self) -> Event {
        let (id, event) = tokio::time::timeout(LONGEST, self.events.recv()).await.unwrap().unwrap();
        assert_eq!(id, ConnectionId(7));
        event
    }

    /// The events up to the end, in short.
    async fn rest(&mut self) -> String {
        let mut told = Vec::new();
        loop {
            let event = self.event().await;
            let text = match &event {
                Event::Connected { .. } => "connected",
                Event::Crowded { .. } => "crowded",
                Event::Refused { .. } => "refused",
                Event::MailWritten(_) => "mail",
                Event::Settled { due: None, signal, .. } if signal.feedback == Feedback::Good => "delivered",
                Event::Settled { due: None, .. } => "ended",
                Event::Settled { signal, .. } if signal.feedback == Feedback::Broken => "broken",
                Event::Settled { .. } => "deferred",
                Event::Postponed { .. } => "postponed",
                Event::Skipped(_) => "skipped",
                Event::Returned(_) => "returned",
                Event::Eof => "eof",
            };
            told.push(text);
            if matches!(event, Event::Eof) {
                return told.join(" ");
            }
        }
    }
}

/// A peer that plays one script; what it heard comes back.
async fn peer(script: &'static str) -> (SocketAddr, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let played = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        play(&mut stream, script).await
    });
    (address, played)
}

async fn play(stream: &mut TcpStream, script: &str) -> String {
    let (mut heard, mut at) = (Vec::new(), 0);
    for step in script.lines().map(str::trim).filter(|step| !step.is_empty()) {
        let done = match step.split_at_checked(3) {
            Some(("S: ", line)) => stream.write_all(format!("{line}\r\n").as_bytes()).await.is_ok(),
            Some(("C: ", verb)) => hear(stream, &mut heard, &mut at, verb).await,
            _ => stream.read_to_end(&mut heard).await.is_ok(),
        };
        if !done {
            break;
        }
    }
    String::from_utf8_lossy(&heard).into_owned()
}

async fn hear(stream: &mut TcpStream, heard: &mut Vec<u8>, at: &mut usize, verb: &str) -> bool {
    loop {
        while let Some(end) = heard[*at..].iter().position(|octet| *octet == b'\n') {
            let line = &heard[*at..*at + end + 1];
            *at += end + 1;
            let found = if verb == "." { line == b".\r\n" } else { line.starts_with(verb.as_bytes()) };
            if found {
                return true;
            }
        }
        if matches!(stream.read_buf(heard).await, Ok(0) | Err(_)) {
            return false;
        }
    }
}

const HELLO: &str = "S: 220 mx
    C: EHLO
    S: 250-mx
    S: 250 PIPELINING";

macro_rules! script {
    ($text:expr) => {
        Box::leak(format!("{HELLO}\n{}", $text).into_boxed_str()) as &'static str
    };
}

#[tokio::test]
async fn messages_go_one_after_another_on_one_connection() {
    let house = House::build();
    let (one, two) = (house.accept(&["a@example.net"], "one").await, house.accept(&["b@example.net"], ".two").await);
    let taken = "C: DATA\nS: 250 a\nS: 250 b\nS: 354 go\nC: .\nS: 250 2.0.0 Ok\n";
    let (address, played) = peer(script!(format!("{taken}{taken}C: QUIT\nS: 221 bye"))).await;
    let mut line = house.connect(address);
    // Both at once: the second one's commands overlap the first one's settle.
    for id in [one, two] {
        line.order(send(id)).await;
    }
    line.order(Order::Close).await;
    let told = line.rest().await;
    let heard = played.await.unwrap();
    assert!(heard.contains("one\r\n.\r\nMAIL FROM:<s@example.com>\r\nRCPT TO:<b@example.net>\r\nDATA\r\n"), "{heard}");
    assert!(heard.ends_with("\r\n..two\r\n.\r\nQUIT\r\n"), "{heard}");
    assert_eq!(told.matches("delivered").count(), 2, "{told}");
    assert!(told.starts_with("connected mail") && told.ends_with("delivered eof"), "{told}");
    assert!(house.queue.is_empty());
}

#[tokio::test]
async fn a_partial_success_leaves_the_others_waiting() {
    let house = House::build();
    let id = house.accept(&["a@example.net", "b@example.net", "c@example.net"], "x").await;
    let replies = "C: DATA\nS: 250 a\nS: 250 b\nS: 450 4.2.0 grey\nS: 550 5.1.1 no\nS: 354 go\nC: .\nS: 250 ok\nhold";
    let (address, _played) = peer(script!(replies)).await;
    let mut line = house.connect(address);
    line.order(send(id)).await;
    line.order(Order::Close).await;
    assert_eq!(line.rest().await, "connected mail deferred eof");
    let lease = house.queue.lease(id).await.unwrap().unwrap();
    let states: Vec<RecipientState> = lease.progress().recipients.iter().map(|recipient| recipient.state).collect();
    assert_eq!(states, [RecipientState::Delivered, RecipientState::Pending, RecipientState::Failed]);
    assert_eq!((lease.progress().attempts, &*lease.progress().source), (1, "a"));
}

#[tokio::test]
async fn an_answer_that_never_came_is_uncertain_and_waits_its_quarter_of_an_hour() {
    let house = House::build();
    let id = house.accept(&["a@example.net"], "x").await;
    let (address, _played) = peer(script!("C: DATA\nS: 250 a\nS: 250 b\nS: 354 go\nC: .")).await;
    let mut line = house.connect(address);
    line.order(send(id)).await;
    assert_eq!(line.rest().await, "connected mail broken eof");
    let lease = house.queue.lease(id).await.unwrap().unwrap();
    assert_eq!(lease.progress().uncertain, 1);
    assert!(lease.progress().due.since(lease.envelope().accepted_at) >= Duration::from_secs(900));
}

#[tokio::test]
async fn an_idle_peer_that_ends_the_connection_takes_no_message_with_it() {
    let house = House::build();
    let (one, two) = (house.accept(&["a@example.net"], "x").await, house.accept(&["b@example.net"], "y").await);
    let script = "C: DATA\nS: 250 a\nS: 250 b\nS: 354 go\nC: .\nS: 250 ok\nS: 421 4.4.2 idle";
    let (address, played) = peer(script!(script)).await;
    let mut line = house.connect(address);
    line.order(send(one)).await;
    // The peer has closed before the second order comes, or it comes too late for the connection: both are no attempt.
    played.await.unwrap();
    let late = line.orders.send(send(two)).await;
    let told = line.rest().await;
    assert!(told.starts_with("connected mail") && told.contains("delivered") && told.ends_with("eof"), "{told}");
    assert!(late.is_err() || told.contains("returned"), "{told}");
    let lease = house.queue.lease(two).await.unwrap().unwrap();
    assert_eq!((lease.progress().attempts, lease.progress().uncertain), (0, 0));
}

#[tokio::test]
async fn a_peer_that_refuses_the_source_gets_no_message() {
    let house = House::build();
    let id = house.accept(&["a@example.net"], "x").await;
    let (address, _played) = peer("S: 554 5.7.1 listed\nhold").await;
    let mut line = house.connect(address);
    line.order(send(id)).await;
    assert_eq!(line.rest().await, "refused returned eof");
    assert!(house.queue.lease(id).await.unwrap().is_some());
}

#[tokio::test]
async fn a_peer_of_seven_bits_gets_a_message_of_seven_bits_and_one_without_smtputf8_a_clear_failure_is_told() {
    let house = House::build();
    let (eight, utf8) = (house.accept(&["a@example.net"], "grün").await, house.accept(&["ü@example.net"], "x").await);
    let taken = "C: DATA\nS: 250 a\nS: 250 b\nS: 354 go\nC: .\nS: 250 2.0.0 Ok\nhold";
    let (address, played) = peer(script!(taken)).await;
    let mut line = house.connect(address);
    for order in [send(eight), send(utf8), Order::Close] {
        line.order(order).await;
    }
    let told = line.rest().await;
    let heard = played.await.unwrap();
    assert!(heard.is_ascii() && heard.contains("gr=C3=BCn") && heard.contains("quoted-printable"), "{heard}");
    assert!(!heard.contains("BODY=8BITMIME"));
    assert_eq!(heard.matches("MAIL FROM").count(), 1);
    assert_eq!(told, "connected mail delivered ended eof");
}

#[tokio::test]
async fn a_peer_that_takes_few_recipients_at_once_gets_them_by_turns() {
    let house = House::build();
    let id = house.accept(&["a@example.net", "b@example.net"], "x").await;
    let hello = "S: 220 mx\nC: EHLO\nS: 250-mx\nS: 250-LIMITS RCPTMAX=1\nS: 250 PIPELINING\n";
    let taken = "C: DATA\nS: 250 a\nS: 250 b\nS: 354 go\nC: .\nS: 250 2.0.0 Ok\n";
    let (address, played) = peer(Box::leak(format!("{hello}{taken}{taken}hold").into_boxed_str())).await;
    let mut line = house.connect(address);
    assert!(matches!(line.event().await, Event::Connected { transactions_max: None, .. }));
    line.order(send(id)).await;
    let due = loop {
        if let Event::Settled { due, .. } = line.event().await {
            break due.unwrap();
        }
    };
    assert!(due <= house.tools.caller.clock().now(), "the other's turn is now");
    for order in [send(id), Order::Close] {
        line.order(order).await;
    }
    assert_eq!(line.rest().await, "mail delivered eof");
    let heard = played.await.unwrap();
    assert_eq!(heard.matches("RCPT TO:<a@").count(), 1);
    assert_eq!(heard.matches("RCPT TO:<b@").count(), 1);
}

fn send(id: postrider::mail::QueueId) -> Order {
    Order::Send { id, recipients_max: u16::MAX }
}
