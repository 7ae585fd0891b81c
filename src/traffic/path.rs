//! One source at one site: how many connections it may have now, learned from what the peer does.
//!
//! A small state machine of its own, driven by the engine. It never knows who waits; what it learned of rates is a
//! [`Lesson`]'s.
//!
//! What a refusal lowered comes back by *probes*: one at a time, of connections, rate and deliveries in turn, a minute
//! apart at first. A probe that is refused doubles the time to the next, up to an hour; two that are not halve it. Below
//! what was refused, connections grow freely: an outage is no limit.

use std::time::Duration;

use super::lesson::{self, Lesson};
use super::limits::Rate;
use super::meter::take;
use crate::time::Timestamp;

/// Connections to a site that has not taken a message yet.
const WINDOW_UNKNOWN: f32 = 2.0;
/// Connections after its first success.
const WINDOW_PROVEN: f32 = 5.0;
/// First pause after a refusal, doubled up to the longest.
const PAUSE_MIN_S: u16 = 60;
const PAUSE_MAX_S: u16 = 3600;
const PAUSE_MIN: Duration = Duration::from_secs(PAUSE_MIN_S as u64);
const PAUSE_MAX: Duration = Duration::from_secs(PAUSE_MAX_S as u64);
/// Refusals within this time are one: connections that were dialed together.
const SAME_REFUSAL: Duration = Duration::from_secs(5);
/// Transactional mail waits so long for a source's windows before one that warms up is taken instead.
const HURRY: Duration = Duration::from_secs(2);
/// After this many pauses without a refusal, the pauses start small again.
const FORGIVEN_AFTER: u32 = 4;
/// How long a path that was refused is remembered after it was last used; one that was not, see `site.rs`.
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);

/// There is one for each source that was refused at a site, so it is kept small: a hundred thousand dead sites, ten sources.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Path {
    /// From Dial to Eof.
    pub open: u16,
    /// Of these, told to close or found broken.
    pub closing: u16,
    /// Of these, held by marketing mail.
    pub marketing: u16,
    /// Of these, not connected yet.
    pub dialing: u16,
    window: f32,
    /// So many connections were refused once; more than one below it are probes. 0: nothing is known.
    ceiling: u16,
    /// Deliveries on one connection that it takes. 0: nothing is known.
    most: u32,
    /// What it takes by time. `None`: nothing was taken or refused yet.
    lesson: Option<Box<Lesson>>,
    /// The last rule that lowered something.
    pub because: u16,
    /// The last pause, while no success came after it. Zero: none. Unit: seconds.
    pause_s: u16,
    throttled_until: Timestamp,
    /// Nothing goes over open connections either before this: a reply said so.
    blocked_until: Timestamp,
    /// The site's windows had no room for this source before this.
    full_until: Timestamp,
    /// The next probe is not before this.
    growth_from: Timestamp,
    /// The time between probes. Unit: seconds.
    probe_s: u16,
    /// Whose turn the next probe is.
    turn: u8,
    /// Probes since the last that was refused.
    quiet: u8,
    /// One connection may carry more than `most`, for a probe.
    tries_more: bool,
    refused_at: Timestamp,
}

/// What a success raised.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Raised {
    /// There may be one more connection.
    pub connections: bool,
    /// [`Lesson::rate`] changed.
    pub rate: bool,
    /// It is worth writing down.
    pub probe: bool,
}

/// What a path can be probed for, in turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Probe {
    Connections,
    Rate,
    Deliveries,
}

const PROBES: [Probe; 3] = [Probe::Connections, Probe::Rate, Probe::Deliveries];
/// So many probes without a refusal halve the time to the next.
const QUIET: u8 = 2;
/// Deliveries on a connection above this are no limit.
const MOST_MAX: u32 = 10_000;

impl Default for Path {
    fn default() -> Self {
        Path::NEW
    }
}

impl Path {
    /// Of a source of which nothing is known at a site.
    pub const NEW: Path = Path {
        open: 0,
        closing: 0,
        marketing: 0,
        dialing: 0,
        window: WINDOW_UNKNOWN,
        ceiling: 0,
        most: 0,
        lesson: None,
        because: 0,
        pause_s: 0,
        throttled_until: Timestamp::ZERO,
        blocked_until: Timestamp::ZERO,
        full_until: Timestamp::ZERO,
        growth_from: Timestamp::ZERO,
        probe_s: 0,
        turn: 0,
        quiet: 0,
        tries_more: false,
        refused_at: Timestamp::ZERO,
    };

    /// Messages by time, as learned.
    pub fn rate(&self) -> Option<Rate> {
        self.lesson.as_ref()?.rate()
    }

    /// See [`Lesson::knows_window`].
    pub fn knows_window(&self) -> bool {
        self.lesson.as_ref().is_some_and(|lesson| lesson.knows_window())
    }

    fn lesson(&mut self) -> &mut Lesson {
        self.lesson.get_or_insert_default()
    }

    fn probe_wait(&self) -> Duration {
        Duration::from_secs(u64::from(self.probe_s))
    }

    /// Connections allowed now: by feedback, and never above the limit.
    pub fn allowed(&self, limit: u16) -> u16 {
        (self.window as u16).clamp(1, limit.max(1))
    }

    /// Until when the site refuses this source, if it does.
    pub fn throttled(&self, now: Timestamp) -> Option<Timestamp> {
        let until = self.throttled_until.max(self.blocked_until);
        (until > now).then_some(until)
    }

    /// Whether a reply stopped this source here: nothing goes over open connections either.
    pub fn is_blocked(&self, now: Timestamp) -> bool {
        self.blocked_until > now
    }

    /// Its windows have no room. True: for long, and that is new.
    pub fn fills(&mut self, now: Timestamp, until: Timestamp) -> bool {
        let was = self.is_full(now);
        self.full_until = until;
        !was && self.is_full(now)
    }

    /// Whether its windows have no room for longer than mail in a hurry may wait.
    pub fn is_full(&self, now: Timestamp) -> bool {
        self.full_until > now.after(HURRY)
    }

    /// Deliveries on one connection, as learned.
    pub fn most(&self) -> Option<u32> {
        (self.most > 0).then_some(self.most)
    }

    /// It is not tried before this, for a reason of ours.
    pub fn wait(&mut self, until: Timestamp) {
        self.throttled_until = self.throttled_until.max(until);
    }

    /// An operator wants it tried now.
    pub fn end_pause(&mut self) {
        (self.throttled_until, self.blocked_until) = (Timestamp::ZERO, Timestamp::ZERO);
    }

    /// The site took a message. Connections grow by one for each windowful of successes, up to one below what was
    /// refused; and only while all of them are in use, since a success says nothing about connections that were not
    /// there. Beyond that, and for the rate if `rate_in_use`, there are probes.
    pub fn good(&mut self, now: Timestamp, limit: u16, rate_in_use: bool) -> Raised {
        self.pause_s = 0;
        self.lesson().took(now);
        let before = self.allowed(limit);
        // One slot may be kept from marketing, and is then unused by order.
        let in_use = self.open + 1 >= before && before < limit;
        if in_use && (self.ceiling == 0 || before + 1 < self.ceiling) {
            let step = 1.0 / self.window.max(1.0);
            self.window = match self.refused_at == Timestamp::ZERO {
                true => (self.window + step).max(WINDOW_PROVEN),
                false => self.window + step,
            };
            let below_ceiling = if self.ceiling == 0 { limit } else { limit.min(self.ceiling - 1) };
            self.window = self.window.min(f32::from(below_ceiling));
            return Raised { connections: self.allowed(limit) > before, ..Raised::default() };
        }
        if now < self.growth_from {
            return Raised::default();
        }
        self.probe(now, limit, in_use && self.ceiling > 0, rate_in_use)
    }

    fn probe(&mut self, now: Timestamp, limit: u16, connections: bool, rate: bool) -> Raised {
        let able = |probe: &Probe| match probe {
            Probe::Connections => connections,
            Probe::Rate => rate && self.lesson.as_ref().is_some_and(|lesson| lesson.may_raise(now)),
            Probe::Deliveries => self.most > 0 && !self.tries_more,
        };
        let turns = (0..PROBES.len()).map(|step| PROBES[(usize::from(self.turn) + step) % PROBES.len()]);
        let Some(probe) = turns.into_iter().find(able) else { return Raised::default() };
        let mut raised = Raised { probe: true, ..Raised::default() };
        match probe {
            Probe::Connections => {
                let before = self.allowed(limit);
                self.window = f32::from(before.saturating_add(1).min(limit));
                self.ceiling = self.ceiling.max(before.saturating_add(2));
                raised.connections = true;
            }
            Probe::Rate => {
                self.lesson().raise(now);
                raised.rate = true;
            }
            Probe::Deliveries => {
                // Not quiet before one connection carried more.
                self.tries_more = true;
                self.quiet = self.quiet.saturating_sub(1);
            }
        }
        let place = PROBES.iter().position(|other| *other == probe).unwrap_or(0);
        self.turn = ((place + 1) % PROBES.len()) as u8;
        self.quiet = self.quiet.saturating_add(1);
        if self.quiet > QUIET {
            (self.quiet, self.probe_s) = (1, (self.probe_s / 2).max(PAUSE_MIN_S));
        }
        self.growth_from = now.after(self.probe_wait().max(PAUSE_MIN));
        raised
    }

    /// Whether a connection that carried all that one may is to carry a little more: one alone, so that a probe costs one
    /// refusal. So many at most.
    pub fn try_more(&mut self) -> Option<u32> {
        std::mem::take(&mut self.tries_more).then(|| self.more())
    }

    fn more(&self) -> u32 {
        self.most.saturating_add((self.most / 10).max(1))
    }

    /// A connection carried so many, and none was refused.
    pub fn carried(&mut self, deliveries: u32) {
        if self.most > 0 && deliveries >= self.more() {
            self.most = if deliveries > MOST_MAX { 0 } else { deliveries };
            self.quiet = self.quiet.saturating_add(1);
        }
    }

    /// A refusal that is not the same as the last: the next probe waits longer if there was one just before.
    fn note(&mut self, now: Timestamp, jitter: f64) {
        let since = now.since(self.refused_at);
        if self.refused_at == Timestamp::ZERO || since > self.probe_wait() * FORGIVEN_AFTER {
            self.probe_s = PAUSE_MIN_S;
        } else if since > SAME_REFUSAL {
            self.probe_s = (self.probe_s * 2).min(PAUSE_MAX_S);
        }
        self.refused_at = now;
        self.quiet = 0;
        self.growth_from = self.growth_from.max(now.after(spread(self.probe_wait(), jitter)));
    }

    /// The site refused a connection, said 421, or broke one. `others`: connections of this path that were not refused.
    pub fn refused(&mut self, now: Timestamp, jitter: f64, others: u16) {
        self.note(now, jitter);
        if others > 0 {
            self.keep_to(others);
        } else {
            self.pause_s = (self.pause_s * 2).clamp(PAUSE_MIN_S, PAUSE_MAX_S);
            self.throttled_until = now.after(spread(Duration::from_secs(u64::from(self.pause_s)), jitter));
            self.window = 1.0;
        }
    }

    /// It takes some of us: that many are right for now.
    fn keep_to(&mut self, connections: u16) {
        self.window = self.window.min(f32::from(connections)).max(1.0);
        self.ceiling = self.window as u16 + 1;
    }

    /// A reply said that there are too many connections, or how many there may be.
    pub fn fewer_connections(&mut self, now: Timestamp, jitter: f64, most: u16) {
        self.note(now, jitter);
        self.keep_to(most.max(1));
    }

    /// A reply said that a connection carried too much.
    pub fn fewer_deliveries(&mut self, now: Timestamp, jitter: f64, most: u32) {
        self.note(now, jitter);
        let most = most.max(1);
        self.most = if self.most == 0 { most } else { self.most.min(most) };
    }

    /// A reply spoke of our rate. False: it is the refusal that is known.
    pub fn slower(&mut self, now: Timestamp, jitter: f64, named: Option<Rate>, hold: Duration) -> bool {
        if !self.lesson().refused(now, named) {
            return false;
        }
        self.note(now, jitter);
        self.growth_from = self.growth_from.max(now.after(hold));
        true
    }

    /// A reply said that nothing is taken from this source for now.
    pub fn block(&mut self, now: Timestamp, jitter: f64, hold: Duration) {
        self.note(now, jitter);
        self.blocked_until = self.blocked_until.max(now.after(hold));
        self.window = 1.0;
    }

    /// Whether forgetting it changes nothing that matters.
    pub fn is_forgettable(&self, now: Timestamp) -> bool {
        let remembered = self.refused_at != Timestamp::ZERO && now.since(self.refused_at) < REMEMBERED;
        self.open == 0 && !remembered && !self.is_blocked(now)
    }

    /// What was learned, as it is written down. `shift_ms` is added to all times.
    ///
    /// ```text
    ///   | version u8 | ceiling u16 | window f32 | most u32 | because u16 | quiet u8 | turn u8 | probe_ms u64
    ///   | growth_from u64 | throttled_until u64 | blocked_until u64 | refused_at u64 | lesson 25 octets |
    /// ```
    pub fn written(&self, shift_ms: i64) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.ceiling.to_le_bytes());
        out.extend_from_slice(&self.window.to_bits().to_le_bytes());
        out.extend_from_slice(&self.most.to_le_bytes());
        out.extend_from_slice(&self.because.to_le_bytes());
        out.extend_from_slice(&[self.quiet, self.turn]);
        out.extend_from_slice(&(self.probe_wait().as_millis() as u64).to_le_bytes());
        for at in [self.growth_from, self.throttled_until, self.blocked_until, self.refused_at] {
            out.extend_from_slice(&shifted(at.as_millis(), shift_ms).to_le_bytes());
        }
        out.extend_from_slice(&self.lesson.as_deref().unwrap_or(&Lesson::default()).written(shift_ms));
        out
    }

    /// Takes over what an earlier run wrote down; `shift_ms` is added to its times. Bytes that cannot be read mean the strictest: nothing for a minute,
    /// then one connection and one message in ten minutes, until probes say otherwise.
    pub fn restore(&mut self, bytes: &[u8], now: Timestamp, shift_ms: i64) {
        *self = read(bytes, now, shift_ms).unwrap_or(Path {
            window: 1.0,
            ceiling: 2,
            lesson: Some(Box::new(Lesson::strictest(now))),
            throttled_until: now.after(PAUSE_MIN),
            growth_from: now.after(PAUSE_MIN),
            probe_s: PAUSE_MIN_S,
            refused_at: now,
            ..Path::default()
        });
    }
}

const VERSION: u8 = 2;

fn read(bytes: &[u8], now: Timestamp, shift_ms: i64) -> Option<Path> {
    let mut rest = bytes;
    let [version] = take(&mut rest)?;
    if !(1..=VERSION).contains(&version) {
        return None;
    }
    let ceiling = u16::from_le_bytes(take(&mut rest)?);
    let window = f32::from_bits(u32::from_le_bytes(take(&mut rest)?));
    let most = u32::from_le_bytes(take(&mut rest)?);
    let because = u16::from_le_bytes(take(&mut rest)?);
    let [quiet, turn] = take(&mut rest)?;
    let mut number = || Some(u64::from_le_bytes(take(&mut rest)?));
    let probe = Duration::from_millis(number()?);
    // A clock that was set back must not make a pause last for ever.
    let mut time = |most: Duration| Some(Timestamp::from_millis(shifted(number()?, shift_ms)).min(now.after(most)));
    let growth_from = time(REMEMBERED)?;
    let throttled_until = time(PAUSE_MAX * 2)?;
    let blocked_until = time(REMEMBERED)?;
    let refused_at = time(Duration::ZERO)?;
    let lesson = match version {
        1 => Lesson::read(&take::<{ lesson::WRITTEN_FIRST }>(&mut rest)?, shift_ms)?,
        _ => Lesson::read(&take::<{ lesson::WRITTEN }>(&mut rest)?, shift_ms)?,
    };
    let sane = rest.is_empty() && (1.0..=f32::from(u16::MAX)).contains(&window) && usize::from(turn) < PROBES.len();
    let probe_s = probe.as_secs().clamp(u64::from(PAUSE_MIN_S), u64::from(PAUSE_MAX_S)) as u16;
    sane.then_some(Path {
        window,
        ceiling,
        most,
        lesson: (lesson != Lesson::default()).then(|| Box::new(lesson)),
        because,
        throttled_until,
        blocked_until,
        growth_from,
        probe_s,
        turn,
        quiet,
        refused_at,
        ..Path::default()
    })
}

/// A time that is none stays so.
pub(super) fn shifted(at_ms: u64, by_ms: i64) -> u64 {
    if at_ms == 0 { 0 } else { at_ms.saturating_add_signed(by_ms) }
}

/// ± 10 %, so that what was refused together does not come back together.
fn spread(pause: Duration, jitter: f64) -> Duration {
    pause.mul_f64(0.9 + 0.2 * jitter.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_secs(1_800_000_000 + secs)
    }

    #[test]
    fn the_window_grows_by_one_for_each_windowful_of_successes() {
        let mut path = Path { open: 100, ..Path::default() };
        assert_eq!(path.allowed(20), 2);
        path.good(at(0), 20, false);
        assert_eq!(path.allowed(20), 5);
        let mut successes = 0;
        while path.allowed(20) < 10 {
            path.good(at(1), 20, false);
            successes += 1;
        }
        assert!((30..=45).contains(&successes), "{successes}");
        for _ in 0..1000 {
            path.good(at(2), 20, false);
        }
        assert_eq!(path.allowed(20), 20);
        assert_eq!(path.allowed(3), 3);
    }

    #[test]
    fn an_unused_window_does_not_grow() {
        let mut path = Path { open: 1, ..Path::default() };
        for _ in 0..100 {
            path.good(at(0), 20, false);
        }
        assert_eq!(path.allowed(20), 5);
    }

    #[test]
    fn a_refusal_beside_working_connections_shrinks_to_these_and_probes_ever_more_rarely() {
        let mut path = Path { open: 6, window: 6.0, ..Path::default() };
        let (mut now, mut refusals) = (0, 0);
        while now < 86_400 {
            path.open = path.allowed(20);
            if path.open > 5 {
                path.refused(at(now), 0.5, 5);
                refusals += 1;
                assert_eq!(path.allowed(20), 5);
                assert_eq!(path.throttled(at(now)), None);
            } else {
                path.good(at(now), 20, false);
            }
            now += 1;
        }
        assert!((20..=35).contains(&refusals), "{refusals} refusals a day");
    }

    #[test]
    fn a_site_that_takes_nobody_is_left_alone_for_longer_and_longer() {
        let mut path = Path::default();
        let mut now = 0;
        let mut pauses = Vec::new();
        for _ in 0..9 {
            path.refused(at(now), 0.5, 0);
            let until = path.throttled(at(now)).map(|until| until.since(at(now)).as_secs());
            pauses.extend(until);
            now += until.unwrap_or_default();
            assert_eq!(path.throttled(at(now)), None);
            assert_eq!(path.allowed(20), 1);
        }
        assert_eq!(pauses, [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]);
        path.good(at(now), 20, false);
        path.refused(at(now), 0.5, 0);
        assert_eq!(path.throttled(at(now)), Some(at(now + 60)));
    }

    #[test]
    fn connections_refused_together_count_once() {
        let mut path = Path { open: 5, window: 5.0, ..Path::default() };
        path.refused(at(0), 0.5, 4);
        path.refused(at(1), 0.5, 3);
        path.refused(at(2), 0.5, 2);
        assert_eq!(path.allowed(20), 2);
        assert_eq!(path.probe_wait(), PAUSE_MIN);
    }

    #[test]
    fn an_outage_is_no_limit_and_a_cap_is() {
        let mut path = Path { open: 20, window: 20.0, ..Path::default() };
        path.refused(at(0), 0.5, 0);
        assert_eq!(path.allowed(20), 1);
        (0..300).for_each(|_| {
            path.good(at(100), 20, false);
        });
        assert_eq!(path.allowed(20), 20, "back as fast as it works");
        path.fewer_connections(at(200), 0.5, 3);
        (0..300).for_each(|_| {
            path.good(at(210), 20, false);
        });
        assert_eq!(path.allowed(20), 3);
        // Probes: one more each, ever sooner while none is refused.
        let mut now = 210;
        while path.allowed(20) < 20 && now < 86_400 {
            path.open = path.allowed(20);
            path.good(at(now), 20, false);
            now += 1;
        }
        assert!((600..3600).contains(&now), "{now}");
    }

    #[test]
    fn probes_take_turns() {
        let mut path = Path { open: 9, window: 5.0, ..Path::default() };
        path.fewer_connections(at(0), 0.5, 5);
        path.slower(at(10), 0.5, Some(Rate { count: 5, per: Duration::from_secs(1) }), Duration::ZERO);
        path.fewer_deliveries(at(20), 0.5, 20);
        let mut seen = Vec::new();
        for now in 0..4000 {
            let raised = path.good(at(now), 20, true);
            if raised.probe {
                seen.push((raised.connections, raised.rate));
            }
        }
        assert_eq!(seen[..4], [(true, false), (false, true), (false, false), (true, false)]);
    }

    #[test]
    fn one_connection_alone_tries_more_deliveries() {
        let mut path = Path::default();
        path.fewer_deliveries(at(0), 0.5, 20);
        assert_eq!((path.most(), path.try_more()), (Some(20), None));
        assert!(path.good(at(100), 20, false).probe);
        assert_eq!((path.try_more(), path.try_more(), path.most()), (Some(22), None, Some(20)));
        path.carried(21);
        assert_eq!(path.most(), Some(20), "it is not done");
        path.carried(22);
        assert_eq!(path.most(), Some(22));
        // Refused, it leaves what was right.
        path.good(at(200), 20, false);
        assert_eq!(path.try_more(), Some(24));
        path.fewer_deliveries(at(210), 0.5, 22);
        assert_eq!((path.most(), path.try_more()), (Some(22), None));
    }

    #[test]
    fn a_block_stops_open_connections_too_and_ends_by_itself() {
        let mut path = Path { open: 2, ..Path::default() };
        path.block(at(0), 0.5, Duration::from_secs(7200));
        assert!(path.is_blocked(at(7199)) && !path.is_blocked(at(7200)));
        assert_eq!(path.throttled(at(10)), Some(at(7200)));
        assert_eq!(path.allowed(20), 1);
    }

    #[test]
    fn what_is_written_down_is_read_again_and_nonsense_is_the_strictest() {
        let mut path = Path { window: 9.0, ..Path::default() };
        path.fewer_connections(at(0), 0.5, 5);
        path.slower(at(10), 0.5, None, Duration::ZERO);
        path.block(at(20), 0.5, Duration::from_secs(3600));
        path.because = 7;
        let mut other = Path::default();
        other.restore(&path.written(0), at(30), 0);
        assert_eq!(other.written(0), path.written(0));
        let mut strict = Path::default();
        strict.restore(&[1, 2, 3], at(30), 0);
        assert_eq!((strict.allowed(20), strict.throttled(at(30)).is_some()), (1, true));
        assert!(strict.rate().is_some());
    }
}
