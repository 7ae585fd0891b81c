//! Audit: counts every window anew from event lines alone, as strictly as a peer may. Pure.
//!
//! A peer counts a message at some moment between MAIL and the reply that ends its transaction, and we cannot know when.
//! So a message occupies its windows from the one until their length after the other, and a window is kept if these
//! times never overlap more often than it allows. A new connection is counted in the same way between the dial and its
//! greeting; connections at once from the dial to the end.
//!
//! Lines come in the order in which things ended. Beginnings are brought in order first: nothing that is still under
//! way can have begun before what its connection last ended, so that all before that is known. Memory is bounded by the
//! limits themselves, and by what ends while the slowest transaction of a site goes on.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::time::Duration;

use serde::Serialize;

use super::row::{Attempt, Fact, Limits, Row};

/// Violations that are kept; all are counted.
const VIOLATIONS_MAX: usize = 100;
/// Lines that are kept as the proof of one.
const PROOF_MAX: usize = 10_000;
/// Holders of limits that are followed; lines of what comes after these are counted as unread.
const HOLDERS_MAX: usize = 1_000_000;
/// Below this many, beginnings are not worth being brought in order.
const SORTED_AT: usize = 64;

/// Windows as a limits line has them: `200/1s 5000/3600s`.
pub fn windows_text(windows: impl Iterator<Item = (u32, Duration)>) -> String {
    let one = |(count, per): (u32, Duration)| match per.subsec_millis() {
        0 => format!("{count}/{}s", per.as_secs()),
        _ => format!("{count}/{}ms", per.as_millis()),
    };
    windows.map(one).collect::<Vec<_>>().join(" ")
}

fn parse_windows(text: &str) -> Option<Vec<(u64, u64)>> {
    let one = |word: &str| {
        let (count, per) = word.split_once('/')?;
        let ms = match per.strip_suffix("ms") {
            Some(ms) => ms.parse().ok()?,
            None => per.strip_suffix('s')?.parse::<u64>().ok()?.checked_mul(1000)?,
        };
        Some((count.parse().ok()?, ms))
    };
    text.split_ascii_whitespace().map(one).collect()
}

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Transactions.
    Messages,
    /// RCPTs.
    Recipients,
    /// Connections, when they are made.
    NewConnections,
    /// Connections that are open.
    ConnectionsAtOnce,
}

impl Unit {
    /// The word in what people read.
    pub fn name(self) -> &'static str {
        match self {
            Unit::Messages => "messages",
            Unit::Recipients => "recipients",
            Unit::NewConnections => "new connections",
            Unit::ConnectionsAtOnce => "connections at once",
        }
    }
}

/// Whose limits: of a source (or of all, if empty) at a site, or for a recipient domain.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize)]
pub struct Holder {
    /// Empty: all together.
    pub source: String,
    /// Empty: a recipient domain's own limits.
    pub site: String,
    /// Empty: a site's limits.
    pub domain: String,
}

/// A window, and how full it was at its fullest.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Use {
    /// Whose.
    #[serde(flatten)]
    pub holder: Holder,
    /// Of what.
    pub unit: Unit,
    /// At most so many.
    pub limit: u64,
    /// In any time of this length; 0: at once.
    pub per_ms: u64,
    /// So many at most there were.
    pub most: u64,
    /// When first; 0: never any.
    pub most_at_ms: u64,
}

/// A window that held more than its limit.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Violation {
    /// Which.
    #[serde(flatten)]
    pub of: Use,
    /// The lines that it held then: each of them occupied it at `most_at_ms`. The first 10,000.
    pub lines: Vec<u64>,
}

/// What the lines prove.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Certificate {
    /// All limits that were in force, the fullest first.
    pub windows: Vec<Use>,
    /// The first of each window that was passed.
    pub violations: Vec<Violation>,
    /// How often a window was passed.
    pub violations_count: u64,
    /// Lines that were read.
    pub lines: u64,
    /// Lines that are no event line.
    pub lines_unread: u64,
    /// Transactions.
    pub attempts: u64,
    /// Their recipients.
    pub recipients: u64,
    /// Connections that were dialed.
    pub connections: u64,
    /// Transactions and connections that no limit line speaks of.
    pub unlimited: u64,
    /// Rows that the daemon says it dropped: the counts are too low by as many at most.
    pub lost: u64,
    /// Connections that were open when a run ended uncleanly: each may have carried one message that no line tells of.
    pub cut_off: u64,
    /// Lines whose beginning was no longer in order: the log begins in the middle of them.
    pub late: u64,
}

impl Certificate {
    /// Whether no window was passed, and nothing is missing.
    pub fn is_whole(&self) -> bool {
        self.violations_count == 0 && self.lost == 0 && self.lines_unread == 0
    }
}

/// The count.
#[derive(Debug, Default)]
pub struct Audit {
    holders: BTreeMap<Holder, Counts>,
    links: HashMap<u64, Link>,
    found: Certificate,
}

#[derive(Debug)]
struct Link {
    source: String,
    site: String,
    /// Nothing that is under way on it began before.
    free_ms: u64,
    /// Its dial's line, or the first that names it.
    line: u64,
    /// It is being made.
    dialing: bool,
}

#[derive(Debug, Default)]
struct Counts {
    at_once: Option<Window>,
    /// Open connections, and the lines of their dials.
    open: BTreeMap<u64, u64>,
    units: [Counted; 3],
}

/// One unit of one holder.
#[derive(Debug, Default)]
struct Counted {
    windows: Vec<Window>,
    unsorted: BinaryHeap<Reverse<Span>>,
    /// How many were left by the last sorting: it is worth it again at twice as many.
    left: usize,
    /// All before this is counted.
    sorted_ms: u64,
}

/// In the order of beginnings.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Span {
    begin_ms: u64,
    end_ms: u64,
    line: u64,
    weight: u64,
}

#[derive(Debug, Default)]
struct Window {
    limit: u64,
    per_ms: u64,
    load: u64,
    /// What it holds: until when, of which line, how many.
    held: BinaryHeap<Reverse<(u64, u64, u64)>>,
    most: u64,
    most_at_ms: u64,
    /// No longer in force: shown, not counted on.
    over: bool,
    passed: u64,
    proof: Vec<u64>,
}

const COUNTED: [Unit; 3] = [Unit::Messages, Unit::Recipients, Unit::NewConnections];

impl Audit {
    /// A count of nothing.
    pub fn new() -> Audit {
        Audit::default()
    }

    /// The next line of the log.
    pub fn line(&mut self, text: &str) {
        let text = text.trim();
        self.found.lines += 1;
        if text.is_empty() {
            return;
        }
        match serde_json::from_str::<Row>(text) {
            Ok(row) => self.row(&row.fact),
            Err(_) => self.found.lines_unread += 1,
        }
    }

    fn row(&mut self, fact: &Fact) {
        let line = self.found.lines;
        match fact {
            Fact::Started(started) => {
                if started.clean == 0 {
                    self.found.cut_off += self.links.len() as u64;
                }
                self.end_run();
            }
            Fact::Lost(lost) => self.found.lost += lost.rows,
            Fact::Limits(limits) => self.limits(limits),
            Fact::Dialed(it) => {
                self.found.connections += 1;
                self.open(it.connection, &it.source, &it.site, line, it.dialed_ms);
            }
            Fact::Connected(it) => self.made(it.connection, it.connected_ms),
            Fact::Closed(it) => {
                self.made(it.connection, it.closed_ms);
                self.links.remove(&it.connection);
                for holder in of_site(&it.source, &it.site) {
                    if let Some(counts) = self.holders.get_mut(&holder) {
                        counts.open.remove(&it.connection);
                    }
                }
            }
            Fact::Attempt(it) => self.attempt(it, line),
            Fact::Accepted(_)
            | Fact::Outcome(_)
            | Fact::Decided(_)
            | Fact::Reported(_)
            | Fact::CameBack(_)
            | Fact::Authenticated(_) => {}
        }
    }

    fn limits(&mut self, limits: &Limits) {
        let units = [&limits.messages, &limits.recipients, &limits.new_connections].map(|text| parse_windows(text));
        let holder = Holder {
            source: limits.source.to_string(),
            site: limits.site.to_string(),
            domain: limits.domain.to_string(),
        };
        let known = self.holders.contains_key(&holder);
        if (!known && self.holders.len() >= HOLDERS_MAX) || units.iter().any(Option::is_none) {
            self.found.lines_unread += 1;
            return;
        }
        // What ended before this line is counted by the limits of then.
        if known {
            self.sort(&holder, Sorting::Now);
        }
        let counts = self.holders.entry(holder.clone()).or_default();
        match &mut counts.at_once {
            Some(window) if window.limit == limits.connections => window.over = false,
            _ if limits.connections == 0 => counts.at_once = None,
            _ => {
                // Connections of before may be more than a lower limit allows: they end by themselves.
                let window = Window { limit: limits.connections, ..Window::default() };
                counts.at_once = Some(window);
            }
        }
        if !known {
            let links = self.links.iter().filter(|(_, link)| of_site(&link.source, &link.site).contains(&holder));
            counts.open = links.map(|(number, link)| (*number, link.line)).collect();
        }
        for (counted, windows) in counts.units.iter_mut().zip(units) {
            counted.change(&windows.unwrap_or_default());
        }
    }

    fn open(&mut self, number: u64, source: &str, site: &str, line: u64, at_ms: u64) {
        let link = Link { source: source.to_owned(), site: site.to_owned(), free_ms: at_ms, line, dialing: true };
        self.links.insert(number, link);
        let mut limited = false;
        for holder in of_site(source, site) {
            let Some(counts) = self.holders.get_mut(&holder) else { continue };
            limited = true;
            counts.open.insert(number, line);
            let open = counts.open.len() as u64;
            if let Some(window) = &mut counts.at_once {
                window.most_of(open, at_ms);
                if open > window.limit {
                    window.pass(counts.open.values().copied());
                    self.found.violations_count += 1;
                }
            }
        }
        self.found.unlimited += u64::from(!limited);
    }

    /// A connection is made, or will not be.
    fn made(&mut self, number: u64, at_ms: u64) {
        let Some(link) = self.links.get_mut(&number) else { return };
        if !std::mem::take(&mut link.dialing) {
            return;
        }
        let line = link.line;
        let span = Span { begin_ms: link.free_ms, end_ms: at_ms.max(link.free_ms), line, weight: 1 };
        let holders = of_site(&link.source, &link.site);
        link.free_ms = span.end_ms;
        for holder in holders {
            self.count(&holder, Unit::NewConnections, span);
        }
    }

    fn attempt(&mut self, it: &Attempt, line: u64) {
        self.found.attempts += 1;
        self.found.recipients += it.recipients;
        let end_ms = it.done_ms.max(it.mail_ms);
        let link = self.links.entry(it.connection).or_insert_with(|| Link {
            source: it.source.to_string(),
            site: it.site.to_string(),
            free_ms: it.mail_ms,
            line,
            dialing: false,
        });
        link.free_ms = link.free_ms.max(end_ms);
        let span = Span { begin_ms: it.mail_ms, end_ms, line, weight: 1 };
        let all = ["", &it.source].map(|source| Holder { source: source.to_owned(), ..Holder::default() });
        let of_domain = all.map(|holder| Holder { domain: it.domain.to_string(), ..holder });
        let mut limited = false;
        for holder in of_site(&it.source, &it.site).iter().chain(&of_domain) {
            limited |= self.count(holder, Unit::Messages, span);
            self.count(holder, Unit::Recipients, Span { weight: it.recipients, ..span });
        }
        self.found.unlimited += u64::from(!limited);
    }

    /// False: nothing limits it.
    fn count(&mut self, holder: &Holder, unit: Unit, span: Span) -> bool {
        let Some(counts) = self.holders.get_mut(holder) else { return false };
        let counted = &mut counts.units[unit as usize];
        if counted.windows.iter().all(|window| window.over) || span.weight == 0 {
            return true;
        }
        self.found.late += u64::from(span.begin_ms < counted.sorted_ms);
        counted.unsorted.push(Reverse(span));
        if counted.unsorted.len() >= SORTED_AT.max(counted.left * 2) {
            self.sort(holder, Sorting::AsFarAsKnown);
        }
        true
    }

    fn sort(&mut self, holder: &Holder, how: Sorting) {
        let until_ms = match how {
            Sorting::Now => u64::MAX,
            Sorting::AsFarAsKnown => {
                let site = &holder.site;
                let links = self.links.values().filter(|link| site.is_empty() || link.site == *site);
                links.map(|link| link.free_ms).min().unwrap_or(u64::MAX)
            }
        };
        let Some(counts) = self.holders.get_mut(holder) else { return };
        for counted in &mut counts.units {
            self.found.violations_count += counted.sort(until_ms);
        }
    }

    /// All connections ended, and nothing is under way.
    fn end_run(&mut self) {
        let dialing: Vec<u64> = self.links.iter().filter(|(_, link)| link.dialing).map(|(number, _)| *number).collect();
        for number in dialing {
            let at_ms = self.links.get(&number).map_or(0, |link| link.free_ms);
            self.made(number, at_ms);
        }
        self.links.clear();
        for counts in self.holders.values_mut() {
            counts.open.clear();
            for counted in &mut counts.units {
                self.found.violations_count += counted.sort(u64::MAX);
            }
        }
    }

    /// What all lines together prove.
    pub fn finish(mut self) -> Certificate {
        self.end_run();
        for (holder, counts) in self.holders {
            let of = |unit, window: &Window| Use {
                holder: holder.clone(),
                unit,
                limit: window.limit,
                per_ms: window.per_ms,
                most: window.most,
                most_at_ms: window.most_at_ms,
            };
            let timed = COUNTED.iter().zip(&counts.units);
            let timed = timed.flat_map(|(unit, counted)| counted.windows.iter().map(|window| (*unit, window)));
            let at_once = counts.at_once.iter().map(|window| (Unit::ConnectionsAtOnce, window));
            for (unit, window) in timed.chain(at_once) {
                if window.passed > 0 && self.found.violations.len() < VIOLATIONS_MAX {
                    let violation = Violation { of: of(unit, window), lines: window.proof.clone() };
                    self.found.violations.push(violation);
                }
                self.found.windows.push(of(unit, window));
            }
        }
        self.found.windows.sort_by_key(|window| Reverse(window.most * 1000 / window.limit.max(1)));
        self.found
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sorting {
    Now,
    AsFarAsKnown,
}

fn of_site(source: &str, site: &str) -> [Holder; 2] {
    ["", source].map(|source| Holder { source: source.to_owned(), site: site.to_owned(), domain: String::new() })
}

impl Counted {
    /// Other windows are in force. A new one begins with what the longest of the others holds.
    fn change(&mut self, windows: &[(u64, u64)]) {
        let longest = self.windows.iter().filter(|window| !window.over).max_by_key(|window| window.per_ms);
        let known: Vec<(u64, u64, u64)> = longest
            .map(|window| {
                let ended = window.held.iter().map(|Reverse((until, line, weight))| (*until, *line, *weight));
                ended.map(|(until, line, weight)| (until - window.per_ms, line, weight)).collect()
            })
            .unwrap_or_default();
        self.windows.iter_mut().for_each(|window| window.over = true);
        for (limit, per_ms) in windows {
            match self.windows.iter_mut().find(|window| (window.limit, window.per_ms) == (*limit, *per_ms)) {
                Some(window) if !window.held.is_empty() || known.is_empty() => window.over = false,
                Some(window) => window.begin(&known),
                None => {
                    let mut window = Window { limit: *limit, per_ms: *per_ms, ..Window::default() };
                    window.begin(&known);
                    self.windows.push(window);
                }
            }
        }
        // What is over is shown, and holds nothing: should it come again, it begins anew.
        for window in self.windows.iter_mut().filter(|window| window.over) {
            window.held.clear();
            window.load = 0;
        }
    }

    fn sort(&mut self, until_ms: u64) -> u64 {
        let mut passed = 0;
        while let Some(Reverse(span)) = self.unsorted.peek().copied() {
            if span.begin_ms >= until_ms {
                break;
            }
            self.unsorted.pop();
            self.sorted_ms = self.sorted_ms.max(span.begin_ms);
            for window in self.windows.iter_mut().filter(|window| !window.over) {
                passed += u64::from(window.add(span));
            }
        }
        self.left = self.unsorted.len();
        passed
    }
}

impl Window {
    fn begin(&mut self, known: &[(u64, u64, u64)]) {
        self.over = false;
        self.held = known.iter().map(|(end, line, weight)| Reverse((end + self.per_ms, *line, *weight))).collect();
        self.load = known.iter().map(|(_, _, weight)| weight).sum();
    }

    /// True: it holds more than it may.
    fn add(&mut self, span: Span) -> bool {
        while let Some(Reverse((until_ms, _, weight))) = self.held.peek().copied() {
            if until_ms > span.begin_ms {
                break;
            }
            self.held.pop();
            self.load -= weight;
        }
        self.load += span.weight;
        self.held.push(Reverse((span.end_ms.saturating_add(self.per_ms), span.line, span.weight)));
        self.most_of(self.load, span.begin_ms);
        let passed = self.load > self.limit;
        if passed {
            let mut lines: Vec<u64> = match self.passed {
                0 => self.held.iter().map(|Reverse((_, line, _))| *line).collect(),
                _ => Vec::new(),
            };
            lines.sort_unstable();
            self.pass(lines.into_iter());
        }
        passed
    }

    fn most_of(&mut self, load: u64, at_ms: u64) {
        if load > self.most {
            (self.most, self.most_at_ms) = (load, at_ms);
        }
    }

    fn pass(&mut self, proof: impl Iterator<Item = u64>) {
        if self.passed == 0 {
            self.proof = proof.take(PROOF_MAX).collect();
        }
        self.passed += 1;
    }
}

#[cfg(test)]
mod tests;
