//! A receiving SMTP server that remembers everything and can be as rude as the field: it answers 4xx and 5xx by seed, goes
//! silent, and drops connections at any stage, even between the final dot and its reply.
//!
//! It reads strictly: only CRLF.CRLF ends a message, and every bare CR or LF, NUL or overlong line is noted as a violation.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::message::{field, fingerprint};

/// Longest line a peer must take, with its CRLF (RFC 5321 §4.5.3.1.6), and the dot that stuffing may add.
const LINE_OCTETS_MAX: usize = 1001;

/// How the peer treats connections that it takes from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// 250 to everything.
    Friendly,
    /// Takes connections and closes them before the greeting.
    Closed,
    /// Never greets.
    Deaf,
    /// Takes the message and never answers its final dot.
    SilentAfterDot,
    /// 450 to recipients whose local part starts with `later`, 550 to those that start with `never`.
    Choosy,
    /// 550 5.7.26 to messages whose author is of `news.example`, at the dot.
    Distrusting,
    /// 421 to more connections at once, 450 to more transactions in any second.
    Capped {
        /// Connections.
        connections: usize,
        /// Transactions a second.
        per_second: usize,
    },
    /// At each stage, by this seed, an error or an end of the connection, each a few times in a hundred.
    Rough(u64),
}

/// What became of one message at the final dot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// 250 was written.
    Taken,
    /// The connection was ended between the dot and the reply: RFC 1047.
    Lost,
    /// This code was written.
    Refused(u16),
}

/// One message that reached its final dot.
#[derive(Clone, Debug)]
pub struct Receipt {
    /// Its X-Test-Id; empty if it has none.
    pub id: String,
    /// MAIL FROM, without brackets.
    pub from: String,
    /// The recipients that were answered 250.
    pub to: Vec<String>,
    /// Hash of what the client wrote, see [`fingerprint`].
    pub fingerprint: [u8; 32],
    /// When its final dot was read.
    pub at: std::time::Instant,
    /// The connection's number.
    pub connection: u64,
    /// What the daemon was told.
    pub answer: Answer,
    /// The whole message, unstuffed; empty unless the peer keeps bytes.
    pub bytes: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The daemon said QUIT.
    Quit,
    /// We ended it.
    Ours,
    /// The daemon vanished.
    Theirs,
}

#[derive(Default)]
struct Book {
    receipts: Vec<Receipt>,
    /// Recipients answered 5xx, at RCPT or at the dot.
    refused: HashSet<String>,
    violations: Vec<String>,
    ends: HashMap<u64, End>,
    open: HashMap<u64, TcpStream>,
    connections: u64,
    /// Transactions of the last second, and what a capped peer refused.
    recent: VecDeque<Instant>,
    capped: Vec<(Instant, &'static str)>,
    most_open: usize,
    most_in_a_second: usize,
}

struct Shared {
    behaviour: Mutex<Behaviour>,
    book: Mutex<Book>,
    keep_bytes: bool,
    stopping: AtomicBool,
}

impl Shared {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The peer. Ends its threads and connections when dropped.
pub struct Peer {
    shared: Arc<Shared>,
    address: SocketAddr,
    acceptor: Option<JoinHandle<()>>,
}

impl Peer {
    /// Listens on loopback; on .2, since the daemon is at .1 and must not take the peer for itself.
    pub fn start(behaviour: Behaviour) -> Peer {
        Peer::listen(behaviour, false)
    }

    /// The same, and keeps every message's bytes.
    pub fn keeping_bytes(behaviour: Behaviour) -> Peer {
        Peer::listen(behaviour, true)
    }

    fn listen(behaviour: Behaviour, keep_bytes: bool) -> Peer {
        let listener = TcpListener::bind("127.0.0.2:0").expect("a port on 127.0.0.2");
        let address = listener.local_addr().expect("its address");
        let shared = Arc::new(Shared {
            behaviour: Mutex::new(behaviour),
            book: Mutex::default(),
            keep_bytes,
            stopping: AtomicBool::new(false),
        });
        let theirs = Arc::clone(&shared);
        let acceptor = std::thread::spawn(move || accept_all(&listener, &theirs));
        Peer { shared, address, acceptor: Some(acceptor) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Treats connections from now on like this, and ends those that are open.
    pub fn become_(&self, behaviour: Behaviour) {
        *self.shared.behaviour.lock().unwrap_or_else(PoisonError::into_inner) = behaviour;
        for stream in self.shared.book().open.values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Everything that reached a final dot so far, in order.
    pub fn receipts(&self) -> Vec<Receipt> {
        self.shared.book().receipts.clone()
    }

    /// How many messages reached a final dot so far.
    pub fn answered(&self) -> usize {
        self.shared.book().receipts.len()
    }

    /// How often a message was answered 250.
    pub fn taken(&self, id: &str) -> usize {
        self.shared.book().receipts.iter().filter(|receipt| receipt.id == id && receipt.answer == Answer::Taken).count()
    }

    /// The ids that were answered 250.
    pub fn taken_ids(&self) -> HashSet<String> {
        let book = self.shared.book();
        book.receipts
            .iter()
            .filter(|receipt| receipt.answer == Answer::Taken)
            .map(|receipt| receipt.id.clone())
            .collect()
    }

    /// The recipients that were answered 5xx.
    pub fn refused(&self) -> HashSet<String> {
        self.shared.book().refused.clone()
    }

    /// Connections open now.
    pub fn open_connections(&self) -> usize {
        self.shared.book().open.len()
    }

    /// What a capped peer refused, and when.
    pub fn capped(&self) -> Vec<(Instant, &'static str)> {
        self.shared.book().capped.clone()
    }

    /// The most connections at once, and the most transactions in any second, refused ones included.
    pub fn most(&self) -> (usize, usize) {
        let book = self.shared.book();
        (book.most_open, book.most_in_a_second)
    }

    /// What broke the line discipline.
    pub fn violations(&self) -> Vec<String> {
        self.shared.book().violations.clone()
    }

    /// The ids that came more often than the contract allows. A second receipt is allowed only where the first one's answer
    /// was lost by us, or where it was the last on a connection that the daemon left without QUIT, as a killed one does.
    pub fn doubled_beyond_contract(&self) -> Vec<String> {
        let book = self.shared.book();
        let mut last_on: HashMap<u64, usize> = HashMap::new();
        for (place, receipt) in book.receipts.iter().enumerate() {
            last_on.insert(receipt.connection, place);
        }
        let mut earlier: HashMap<&str, Vec<usize>> = HashMap::new();
        for (place, receipt) in book.receipts.iter().enumerate() {
            if !receipt.id.is_empty() && !matches!(receipt.answer, Answer::Refused(_)) {
                earlier.entry(&receipt.id).or_default().push(place);
            }
        }
        let excused = |place: &usize| {
            let receipt = &book.receipts[*place];
            receipt.answer == Answer::Lost
                || (last_on.get(&receipt.connection) == Some(place)
                    && book.ends.get(&receipt.connection) == Some(&End::Theirs))
        };
        let doubled = earlier.iter().filter(|(_, places)| !places[..places.len() - 1].iter().all(excused));
        doubled.map(|(id, _)| (*id).to_owned()).collect()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.become_(Behaviour::Closed);
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn accept_all(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let number = {
            let mut book = shared.book();
            book.connections += 1;
            let number = book.connections;
            if let Ok(handle) = stream.try_clone() {
                book.open.insert(number, handle);
                book.most_open = book.most_open.max(book.open.len());
            }
            number
        };
        let shared = Arc::clone(shared);
        std::thread::spawn(move || {
            let behaviour = *shared.behaviour.lock().unwrap_or_else(PoisonError::into_inner);
            let mut visit = Visit::new(stream, number, behaviour, &shared);
            let end = visit.run().unwrap_or(End::Theirs);
            let mut book = shared.book();
            book.open.remove(&number);
            book.ends.insert(number, end);
        });
    }
}

/// What became of one stage.
#[derive(PartialEq, Eq)]
enum Stage {
    Agreed,
    Refused,
    /// The connection is to end here, without a word.
    Left,
}

/// One connection.
struct Visit<'a> {
    stream: BufReader<TcpStream>,
    number: u64,
    behaviour: Behaviour,
    random: fastrand::Rng,
    shared: &'a Shared,
    from: String,
    to: Vec<String>,
}

impl<'a> Visit<'a> {
    fn new(stream: TcpStream, number: u64, behaviour: Behaviour, shared: &'a Shared) -> Visit<'a> {
        let _ = stream.set_nodelay(true);
        let seed = if let Behaviour::Rough(seed) = behaviour { seed } else { 0 };
        let random = fastrand::Rng::with_seed(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let stream = BufReader::with_capacity(64 * 1024, stream);
        Visit { stream, number, behaviour, random, shared, from: String::new(), to: Vec::new() }
    }

    /// The dialogue, to its end.
    fn run(&mut self) -> io::Result<End> {
        match self.behaviour {
            Behaviour::Closed => return Ok(End::Ours),
            Behaviour::Deaf => return self.wait_for_end(),
            Behaviour::Capped { connections, .. } if self.shared.book().open.len() > connections => {
                self.shared.book().capped.push((Instant::now(), "connection"));
                self.say("421 4.7.0 Too many concurrent connections from your address")?;
                return Ok(End::Ours);
            }
            Behaviour::Capped { .. }
            | Behaviour::Friendly
            | Behaviour::SilentAfterDot
            | Behaviour::Choosy
            | Behaviour::Distrusting
            | Behaviour::Rough(_) => {}
        }
        if self.stage(2, "220 peer.example ESMTP", "421 4.3.2 busy")? != Stage::Agreed {
            return Ok(End::Ours);
        }
        loop {
            let mut line = Vec::new();
            if self.stream.read_until(b'\n', &mut line)? == 0 {
                return Ok(End::Theirs);
            }
            let Some(text) = line.strip_suffix(b"\r\n").filter(|text| !text.contains(&b'\r')) else {
                self.violation("a command line", &line);
                return Ok(End::Ours);
            };
            if let Some(end) = self.step(&String::from_utf8_lossy(text))? {
                return Ok(end);
            }
        }
    }

    /// One command. `Some`: the dialogue has ended.
    fn step(&mut self, line: &str) -> io::Result<Option<End>> {
        let verb = line.split([' ', ':']).next().unwrap_or("").to_ascii_uppercase();
        let stage = match verb.as_str() {
            "EHLO" => {
                let extensions = "250-PIPELINING\r\n250-SIZE 52428800\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-DSN";
                self.say(&format!("250-peer.example\r\n{extensions}\r\n250 ENHANCEDSTATUSCODES"))?;
                Stage::Agreed
            }
            "MAIL" => {
                self.to.clear();
                self.from = bracketed(line);
                if self.is_too_fast() {
                    self.say("450 4.7.1 Error: rate limit exceeded, slow down")?;
                    return Ok(None);
                }
                self.stage(3, "250 2.1.0 Ok", "451 4.3.0 not now")?
            }
            "RCPT" => self.recipient(bracketed(line))?,
            "DATA" => self.data()?,
            "RSET" | "NOOP" => {
                self.to.clear();
                self.say("250 2.0.0 Ok")?;
                Stage::Agreed
            }
            "QUIT" => {
                let _ = self.say("221 2.0.0 Bye");
                return Ok(Some(End::Quit));
            }
            _ => {
                self.say("502 5.5.2 what?")?;
                Stage::Refused
            }
        };
        Ok((stage == Stage::Left).then_some(End::Ours))
    }

    /// Counts a transaction; whether it is one too many in this second, for a capped peer.
    fn is_too_fast(&self) -> bool {
        let now = Instant::now();
        let mut book = self.shared.book();
        while book.recent.front().is_some_and(|at| now.duration_since(*at) >= Duration::from_secs(1)) {
            book.recent.pop_front();
        }
        let most = match self.behaviour {
            Behaviour::Capped { per_second, .. } => per_second,
            _ => usize::MAX,
        };
        let too_fast = book.recent.len() >= most;
        book.most_in_a_second = book.most_in_a_second.max(book.recent.len() + 1);
        match too_fast {
            true => book.capped.push((now, "transaction")),
            false => book.recent.push_back(now),
        }
        too_fast
    }

    fn recipient(&mut self, to: String) -> io::Result<Stage> {
        let choosy = self.behaviour == Behaviour::Choosy;
        if choosy && to.starts_with("later") {
            self.say("450 4.2.0 later")?;
            return Ok(Stage::Refused);
        }
        if (choosy && to.starts_with("never")) || self.dice(2) {
            self.shared.book().refused.insert(to);
            self.say("550 5.1.1 no such user")?;
            return Ok(Stage::Refused);
        }
        let stage = self.stage(5, "250 2.1.5 Ok", "450 4.2.0 mailbox busy")?;
        if stage == Stage::Agreed {
            self.to.push(to);
        }
        Ok(stage)
    }

    fn data(&mut self) -> io::Result<Stage> {
        if self.to.is_empty() {
            self.say("554 5.5.1 no valid recipients")?;
            return Ok(Stage::Refused);
        }
        let stage = self.stage(2, "354 go on", "451 4.3.0 not now")?;
        if stage != Stage::Agreed {
            return Ok(stage);
        }
        if self.dice(2) {
            let mut some = [0; 100];
            let _ = self.stream.read(&mut some)?;
            return Ok(Stage::Left);
        }
        let message = self.message()?;
        if self.behaviour == Behaviour::SilentAfterDot {
            self.note(&message, Answer::Lost);
            self.wait_for_end()?;
            return Ok(Stage::Left);
        }
        if self.dice(2) {
            self.note(&message, Answer::Lost);
            return Ok(Stage::Left);
        }
        if self.dice(3) {
            self.note(&message, Answer::Refused(451));
            self.say("451 4.3.0 queue file write error")?;
            return Ok(Stage::Refused);
        }
        if self.dice(1) {
            self.shared.book().refused.extend(self.to.iter().cloned());
            self.note(&message, Answer::Refused(554));
            self.say("554 5.7.1 content refused")?;
            return Ok(Stage::Refused);
        }
        if self.behaviour == Behaviour::Distrusting
            && field(&message, "From").is_some_and(|from| from.ends_with("@news.example>"))
        {
            self.note(&message, Answer::Refused(550));
            self.say("550 5.7.26 This mail has been blocked because the sender is unauthenticated")?;
            return Ok(Stage::Refused);
        }
        // Noted before it is said: what the daemon may know, we know.
        self.note(&message, Answer::Taken);
        self.say("250 2.0.0 Ok: taken")?;
        Ok(Stage::Agreed)
    }

    /// Reads to CRLF.CRLF, and nothing beyond it; unstuffed.
    fn message(&mut self) -> io::Result<Vec<u8>> {
        let mut message = Vec::new();
        let mut line = Vec::new();
        let mut after_crlf = true;
        loop {
            line.clear();
            if self.stream.read_until(b'\n', &mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if after_crlf && line == b".\r\n" {
                return Ok(message);
            }
            let content = line.strip_suffix(b"\r\n");
            if content.is_none_or(|content| content.contains(&b'\r')) || line.contains(&0) {
                self.violation("bare CR or LF, or NUL", &line);
            }
            if line.len() > LINE_OCTETS_MAX {
                self.violation("a line that is too long", &line);
            }
            let stuffed = after_crlf && line.first() == Some(&b'.');
            message.extend_from_slice(if stuffed { line.get(1..).unwrap_or_default() } else { &line });
            after_crlf = content.is_some();
        }
    }

    fn note(&self, message: &[u8], answer: Answer) {
        let receipt = Receipt {
            id: field(message, "X-Test-Id").unwrap_or_default(),
            from: self.from.clone(),
            to: self.to.clone(),
            fingerprint: fingerprint(message),
            at: std::time::Instant::now(),
            connection: self.number,
            answer,
            bytes: if self.shared.keep_bytes { message.to_vec() } else { Vec::new() },
        };
        self.shared.book().receipts.push(receipt);
    }

    fn violation(&self, what: &str, line: &[u8]) {
        let shown: String = String::from_utf8_lossy(line).escape_debug().take(200).collect();
        self.shared.book().violations.push(format!("{what}, {} octets: {shown}", line.len()));
    }

    /// Agrees, or, a few times in a hundred and if rough, refuses or leaves.
    fn stage(&mut self, percent: u8, agree: &str, refuse: &str) -> io::Result<Stage> {
        if self.dice(1) {
            return Ok(Stage::Left);
        }
        if self.dice(percent) {
            self.say(refuse)?;
            return Ok(Stage::Refused);
        }
        self.say(agree)?;
        Ok(Stage::Agreed)
    }

    fn dice(&mut self, percent: u8) -> bool {
        matches!(self.behaviour, Behaviour::Rough(_)) && self.random.u8(0..100) < percent
    }

    fn say(&mut self, reply: &str) -> io::Result<()> {
        self.stream.get_mut().write_all(format!("{reply}\r\n").as_bytes())
    }

    /// Reads until the other side gives up.
    fn wait_for_end(&mut self) -> io::Result<End> {
        let mut some = [0; 4096];
        while self.stream.read(&mut some)? > 0 {}
        Ok(End::Theirs)
    }
}

/// The path between the angle brackets of MAIL or RCPT.
fn bracketed(line: &str) -> String {
    let after = line.split_once('<').map_or("", |(_, after)| after);
    after.rsplit_once('>').map_or(after, |(path, _)| path).to_owned()
}
