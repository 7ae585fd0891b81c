//! One simulated provider: limits that it tells nobody, moods, outages, and the words in which it refuses. What its words
//! mean the shipped rules say, and when an envelope is due again `retry` does, as in delivery.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use postrider::classify::{Feedback, Meaning, Observation, Rules, Signal, VerdictKind};
use postrider::mail::{Cause, QueueId, Reply, Stage};
use postrider::retry::{self, Schedule};
use postrider::time::Timestamp;
use postrider::traffic::{Put, SourceHandle};

use super::super::world::{Answer, Call, Greeting, Turn, secs};

/// Whose words it uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Style {
    Plain,
    Google,
    Microsoft,
    Netease,
    Yahoo,
}

pub const STYLES: [Style; 5] = [Style::Plain, Style::Google, Style::Microsoft, Style::Netease, Style::Yahoo];

/// What is wrong with a provider for a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outage {
    /// Connects are never answered.
    Silent,
    /// Connects are refused at once.
    Closed,
    /// The greeting is a 421.
    Greets,
    /// Every MAIL is deferred.
    Defers,
}

/// What a provider tells nobody. Limits are counted for each source at each of its sites.
#[derive(Clone, Debug, Default)]
pub struct Hidden {
    pub cap: Option<u16>,
    /// So many messages in any such time.
    pub rates: Vec<(usize, Duration)>,
    pub deliveries: Option<u32>,
    pub greylist: Option<Duration>,
    /// Strangers may send so many an hour; it grows with what is delivered.
    pub distrust: Option<f64>,
    pub outages: Vec<(Timestamp, Timestamp, Outage)>,
    /// A transaction takes so many milliseconds, and those on a tarpit this much more.
    pub takes_ms: (u64, u64),
    pub tarpit: Duration,
    /// Of a thousand messages, so many meet each kind of trouble of their own.
    pub trouble: u16,
}

pub struct Provider {
    pub style: Style,
    pub hidden: Hidden,
    random: fastrand::Rng,
    open: BTreeMap<(SourceHandle, u32), u16>,
    done: BTreeMap<u32, u32>,
    counted: BTreeMap<(SourceHandle, u32), Vec<VecDeque<Timestamp>>>,
    trust: BTreeMap<SourceHandle, f64>,
    met: BTreeMap<QueueId, Timestamp>,
    judge: Judge,
    /// When it refused for a limit of its own, and whom.
    pub refusals: Vec<(Timestamp, SourceHandle)>,
}

type Said = (Stage, u16, &'static str);

const NO_SUCH_USER: Said = (Stage::Rcpt, 550, "5.1.1 The email account that you tried to reach does not exist.");
const GREYLISTED: Said = (Stage::Rcpt, 450, "4.2.0 <a@example.net>: Recipient address rejected: Greylisted");
const FULL: Said = (Stage::Rcpt, 452, "4.2.2 The email account that you tried to reach is over quota.");
const SPAM: Said =
    (Stage::FinalDot, 550, "5.7.1 Our system has detected that this message is likely unsolicited mail.");
const STORAGE: Said = (Stage::FinalDot, 452, "4.3.1 Insufficient system storage");
const SENDER: Said = (Stage::Mail, 450, "4.1.8 <a@example.com>: Sender address rejected: Domain not found");
const LATER: Said = (Stage::Mail, 451, "4.3.0 Temporary server error. Please try again later");
const CLOSED: Said = (Stage::Greeting, 421, "4.3.2 Service not available, closing transmission channel");
const TAKEN: Said = (Stage::FinalDot, 250, "2.0.0 OK");
const TROUBLES: [Said; 6] = [NO_SUCH_USER, FULL, SPAM, STORAGE, SENDER, LATER];

impl Style {
    fn too_many_connections(self) -> Said {
        match self {
            Style::Netease => (Stage::Greeting, 421, "HL:ICC 163 mx13,PcCowEA"),
            _ => (Stage::Greeting, 421, "4.7.0 too many connections from 192.0.2.1"),
        }
    }

    fn too_fast(self) -> Said {
        match self {
            Style::Google => (
                Stage::Mail,
                421,
                "4.7.28 [192.0.2.1 15] Our system has detected an unusual rate of unsolicited mail originating from your IP address.",
            ),
            Style::Microsoft => (Stage::Rcpt, 451, "4.7.500 Server busy. Please try again later from [192.0.2.1]."),
            Style::Netease => (Stage::Mail, 421, "HL:IFC 163 mx8"),
            Style::Yahoo => {
                (Stage::Mail, 421, "4.7.1 [TS01] Messages from 192.0.2.1 temporarily deferred due to user complaints")
            }
            Style::Plain => (Stage::Mail, 450, "4.7.1 Rate limit exceeded, try again later"),
        }
    }

    fn too_many_on_one(self) -> Said {
        match self {
            Style::Netease => (Stage::Mail, 450, "MI:DMC 163 mx4"),
            _ => (Stage::Mail, 421, "Max message per connection reached, closing transmission channel"),
        }
    }

    fn distrusts(self) -> Said {
        match self {
            Style::Google => (
                Stage::FinalDot,
                550,
                "5.7.1 Our system has detected an unusual rate of unsolicited mail originating from your IP address. To protect our users from spam, mail sent from your IP address has been blocked.",
            ),
            Style::Yahoo => (
                Stage::Greeting,
                421,
                "4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred due to unexpected volume or user complaints",
            ),
            _ => {
                (Stage::Rcpt, 554, "5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org")
            }
        }
    }
}

/// Replies read by the shipped rules, each once.
struct Judge {
    rules: Arc<Rules>,
    known: HashMap<(Stage, u16, &'static str), Meaning>,
}

impl Judge {
    fn meaning(&mut self, (stage, code, text): Said) -> Meaning {
        *self.known.entry((stage, code, text)).or_insert_with(|| {
            let cause = Cause::Reply(Reply::new(code, text));
            let taken = usize::from(stage == Stage::FinalDot);
            self.rules.classify(&Observation { stage, cause: &cause, recipients_taken: taken, host: None })
        })
    }
}

/// When an envelope is due again after this.
fn due(meaning: &Meaning, put: &Put, now: Timestamp, jitter: f64) -> Option<Timestamp> {
    let (since, expires_at) = (put.id.made_at(), put.expires_at);
    match (meaning.verdict, meaning.again_in) {
        (VerdictKind::Delivered | VerdictKind::Failed, _) => None,
        (VerdictKind::Deferred, Some(wait)) => Some(retry::asked(wait, since, expires_at, now, jitter)),
        (VerdictKind::Deferred, None) if meaning.counts => {
            Some(retry::next_due(Schedule::default(), since, expires_at, now, jitter))
        }
        (VerdictKind::Deferred, None) => Some(retry::soon(expires_at, now, jitter)),
    }
}

impl Provider {
    pub fn new(seed: u64, style: Style, hidden: Hidden) -> Provider {
        Provider {
            style,
            hidden,
            random: fastrand::Rng::with_seed(seed),
            open: BTreeMap::new(),
            done: BTreeMap::new(),
            counted: BTreeMap::new(),
            trust: BTreeMap::new(),
            met: BTreeMap::new(),
            judge: Judge { rules: Rules::shipped(), known: HashMap::new() },
            refusals: Vec::new(),
        }
    }

    fn outage(&self, at: Timestamp) -> Option<Outage> {
        self.hidden.outages.iter().find(|(from, until, _)| (*from..*until).contains(&at)).map(|(.., outage)| *outage)
    }

    fn refuses(&mut self, said: Said, after: Duration) -> Greeting {
        Greeting { after, signal: Some(self.judge.meaning(said).signal), deliveries_max: None }
    }

    pub fn greets(&mut self, call: &Call) -> Greeting {
        let open = self.open.entry((call.source, call.site)).or_default();
        *open += 1;
        let open = *open;
        let broken = |after| Greeting { after, signal: Some(Feedback::Broken.into()), deliveries_max: None };
        match self.outage(call.at) {
            Some(Outage::Silent) => return broken(secs(30)),
            Some(Outage::Closed) => return broken(Duration::from_millis(20)),
            Some(Outage::Greets) => return self.refuses(CLOSED, Duration::from_millis(30)),
            Some(Outage::Defers) | None => {}
        }
        let after = Duration::from_millis(self.random.u64(5..60)) + self.hidden.tarpit;
        if self.hidden.cap.is_some_and(|cap| open > cap) {
            self.refusals.push((call.at, call.source));
            return self.refuses(self.style.too_many_connections(), after);
        }
        if self.style == Style::Yahoo && self.is_distrusted(call) {
            self.punish(call);
            return self.refuses(self.style.distrusts(), after);
        }
        Greeting { after, signal: None, deliveries_max: None }
    }

    /// Whether this is more within an hour than it trusts the source with.
    fn is_distrusted(&mut self, call: &Call) -> bool {
        let Some(first) = self.hidden.distrust else { return false };
        let trust = *self.trust.entry(call.source).or_insert(first);
        let hour = call.at.before(secs(3600));
        let lately = self.counted.get(&(call.source, call.site)).and_then(|all| all.last());
        lately.is_some_and(|all| all.iter().filter(|at| **at > hour).count() as f64 >= trust)
    }

    fn punish(&mut self, call: &Call) {
        self.refusals.push((call.at, call.source));
        if let Some(trust) = self.trust.get_mut(&call.source) {
            *trust = (*trust * 0.9).max(1.0);
        }
    }

    /// Counts one more; false: it is one too many.
    fn counts(&mut self, call: &Call) -> bool {
        // The last is what distrust goes by.
        let windows = self.hidden.rates.iter().copied().chain([(usize::MAX, secs(3600))]);
        let all = self.counted.entry((call.source, call.site)).or_insert_with(|| vec![VecDeque::new(); 8]);
        let mut fits = true;
        for ((count, per), seen) in windows.clone().zip(all.iter_mut()) {
            while seen.front().is_some_and(|at| at.after(per) <= call.at) {
                seen.pop_front();
            }
            fits &= seen.len() < count;
        }
        if fits {
            windows.zip(all.iter_mut()).for_each(|(_, seen)| seen.push_back(call.at));
            all.truncate(self.hidden.rates.len() + 1);
        }
        fits
    }

    pub fn answers(&mut self, call: &Call, put: &Put, now: Timestamp) -> Answer {
        let (least, most) = self.hidden.takes_ms;
        let after = Duration::from_millis(self.random.u64(least..=most)) + self.hidden.tarpit;
        let said = self.says(call, put);
        let is_lost = self.random.u16(0..4000) < self.hidden.trouble;
        let meaning = self.judge.meaning(said);
        let turn = match self.random.u16(0..4000) {
            _ if is_lost => Turn::Breaks,
            n if n < self.hidden.trouble => [Turn::Returns, Turn::Skips][usize::from(n % 2)],
            _ if said.1 == 421 => Turn::Closes,
            _ => Turn::Goes,
        };
        *self.done.entry(call.connection).or_default() += 1;
        let mail_after = Duration::from_millis(1).min(after);
        let due = due(&meaning, put, now.after(after), self.random.f64());
        Answer { mail_after, after, due, signal: meaning.signal, turn }
    }

    fn says(&mut self, call: &Call, put: &Put) -> Said {
        if self.outage(call.at) == Some(Outage::Defers) {
            return LATER;
        }
        let done = self.done.get(&call.connection).copied().unwrap_or_default();
        if self.hidden.deliveries.is_some_and(|most| done >= most) {
            self.refusals.push((call.at, call.source));
            return self.style.too_many_on_one();
        }
        if self.style != Style::Yahoo && self.is_distrusted(call) {
            self.punish(call);
            return self.style.distrusts();
        }
        if !self.counts(call) {
            self.refusals.push((call.at, call.source));
            return self.style.too_fast();
        }
        if let Some(wait) = self.hidden.greylist {
            let first = *self.met.entry(put.id).or_insert(call.at);
            if call.at < first.after(wait) {
                return GREYLISTED;
            }
        }
        match usize::from(self.random.u16(0..1000)).checked_div(usize::from(self.hidden.trouble)) {
            Some(kind) if kind < TROUBLES.len() => TROUBLES[kind],
            Some(_) | None => TAKEN,
        }
    }

    /// A transaction ended.
    pub fn hears(&mut self, call: &Call, signal: Option<Signal>) {
        let grows = signal.is_some_and(|signal| signal.feedback == Feedback::Good);
        if let Some(trust) = self.trust.get_mut(&call.source).filter(|_| grows) {
            *trust += 0.05;
        }
    }

    pub fn hung_up(&mut self, call: &Call) {
        if let Some(open) = self.open.get_mut(&(call.source, call.site)) {
            *open = open.saturating_sub(1);
        }
        self.done.remove(&call.connection);
    }

    /// All connections are gone.
    pub fn all_hung_up(&mut self) {
        self.open.clear();
        self.done.clear();
    }
}
