//! Sending domains that a site does not want for now: `stop-domain`, the one reaction that the traffic engine leaves to
//! delivery, since the author's domain is known to the envelope alone.
//!
//! [`Book`] is pure: replies are counted as the engine counts its own (so many under one rule within an hour, from two
//! recipient domains or more), and a stop binds one sending domain at the site that said it, over every source, and never
//! anything beyond. [`Stops`] is the book that all connections share, with the records that outlive a restart. It is asked
//! after the lease and before MAIL; it never touches the queue.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use crate::classify::Strikes;
use crate::ledger::Ledger;
use crate::mail::Domain;
use crate::time::Timestamp;

/// Counts that there may be at once.
const STRIKES_MAX: usize = 1000;
/// Stops that there may be at once; the one that ends first makes room.
const STOPS_MAX: usize = 1000;
/// The longest stop, whatever a rule or a record says.
const HOLD_MAX: Duration = Duration::from_secs(7 * 86_400);
/// What is kept of a peer's words. Unit: characters.
const WORDS_CHARS_MAX: usize = 400;
/// A time of day says which day is meant within so long.
const CLOCK_WITHIN: Duration = Duration::from_secs(12 * 3600);

/// A site and a sending domain, a line each: also the key of a record. No name of a site has a line break.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Pair(Box<str>);

impl Pair {
    fn new(site: &str, domain: &Domain) -> Pair {
        Pair(format!("{site}\n{}", domain.as_str()).into())
    }

    fn read(key: &[u8]) -> Option<Pair> {
        let key = std::str::from_utf8(key).ok()?;
        let (_, domain) = key.rsplit_once('\n')?;
        domain.parse::<Domain>().ok()?;
        Some(Pair(key.into()))
    }

    fn key(&self) -> Bytes {
        Bytes::copy_from_slice(self.0.as_bytes())
    }
}

/// A reply that asks for a stop.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heard<'a> {
    /// Where it was said.
    pub site: &'a str,
    /// Of whose mail.
    pub domain: &'a Domain,
    /// To mail for whom.
    pub recipient_domain: &'a Domain,
    /// The rule that it falls under.
    pub rule: &'a str,
    /// Stop only from so many such replies within an hour on; 0 and 1: at once.
    pub trigger: u16,
    /// For how long.
    pub hold: Duration,
    /// The peer's words.
    pub words: &'a str,
}

/// Mail of a sending domain does not go to a site.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Stop {
    pub until: Timestamp,
    /// What the peer said.
    pub words: Box<str>,
}

impl Stop {
    /// `1`, until (ms), the words; a line each.
    fn written(&self) -> Bytes {
        Bytes::from(format!("1\n{}\n{}", self.until.as_millis(), self.words))
    }

    /// What cannot be read is no stop: the site's next replies make a new one.
    fn read(record: &[u8], now: Timestamp) -> Option<Stop> {
        let mut lines = std::str::from_utf8(record).ok()?.splitn(3, '\n');
        let (version, until, words) = (lines.next()?, lines.next()?, lines.next()?);
        // A clock that was set back must not make a stop last for ever.
        let until = Timestamp::from_millis(until.parse().ok()?).min(now.after(HOLD_MAX));
        (version == "1").then(|| Stop { until, words: shortened(words) })
    }

    /// The sentence that `why` and listings quote.
    pub fn sentence(&self, site: &str, domain: &Domain, now: Timestamp) -> String {
        format!(
            "mail from {} to {site} is stopped until {}: \"{}\"",
            domain.as_str(),
            clock(self.until, now),
            self.words
        )
    }
}

fn shortened(words: &str) -> Box<str> {
    words.chars().take(WORDS_CHARS_MAX).collect::<String>().into()
}

/// `15:30 UTC`, with the date where that is not clear.
fn clock(at: Timestamp, now: Timestamp) -> String {
    let text = at.rfc3339();
    match (text.get(..10), text.get(11..16)) {
        (Some(_), Some(clock)) if at.since(now) < CLOCK_WITHIN => format!("{clock} UTC"),
        (Some(date), Some(clock)) => format!("{date} {clock} UTC"),
        _ => text,
    }
}

/// All counts and stops. Pure: `now` is an argument.
#[derive(Debug, Default)]
struct Book {
    /// By sending domain at a site, and rule.
    strikes: Strikes<(Pair, Box<str>), Domain, STRIKES_MAX>,
    stops: BTreeMap<Pair, Stop>,
}

impl Book {
    /// Counts a reply. `Some`: by it, the sending domain is stopped at the site; also who had to make room.
    fn hear(&mut self, heard: &Heard, now: Timestamp) -> Option<(Pair, Stop, Option<Pair>)> {
        let pair = Pair::new(heard.site, heard.domain);
        if self.stops.get(&pair).is_some_and(|stop| stop.until > now) {
            // What was on its way when the stop began makes it no longer.
            return None;
        }
        let (key, domain) = ((pair.clone(), Box::from(heard.rule)), heard.recipient_domain.clone());
        if !self.strikes.hear(key, heard.trigger, Some(domain), now) {
            return None;
        }
        // One stop is enough: what other rules counted so far is answered by it.
        self.strikes.forget(|(of, _)| *of == pair);
        let stop = Stop { until: now.after(heard.hold.min(HOLD_MAX)), words: shortened(heard.words) };
        let first = self.stops.iter().min_by_key(|(_, stop)| stop.until).map(|(first, _)| first.clone());
        let room = first.filter(|_| self.stops.len() >= STOPS_MAX && !self.stops.contains_key(&pair));
        if let Some(room) = &room {
            self.stops.remove(room);
        }
        self.stops.insert(pair.clone(), stop.clone());
        Some((pair, stop, room))
    }

    fn in_force(&self, site: &str, domain: &Domain, now: Timestamp) -> Option<&Stop> {
        if self.stops.is_empty() {
            return None;
        }
        self.stops.get(&Pair::new(site, domain)).filter(|stop| stop.until > now)
    }

    /// Takes out those that are over.
    fn over(&mut self, now: Timestamp) -> Vec<Pair> {
        let is_over = |stop: &Stop| stop.until <= now;
        if !self.stops.values().any(is_over) {
            return Vec::new();
        }
        let over: Vec<Pair> =
            self.stops.iter().filter(|(_, stop)| is_over(stop)).map(|(pair, _)| pair.clone()).collect();
        self.stops.retain(|_, stop| !is_over(stop));
        over
    }

    fn end_all(&mut self) {
        self.stops.values_mut().for_each(|stop| stop.until = Timestamp::ZERO);
        self.strikes = Strikes::default();
    }
}

/// The stops of all connections.
#[derive(Default)]
pub struct Stops {
    book: Mutex<Book>,
    ledger: Option<Ledger>,
}

impl Stops {
    /// Those of the last run, and a place for new ones to be written down. Blocks. [`Stops::default`] forgets all at its
    /// end.
    pub fn kept(ledger: Ledger, now: Timestamp) -> Stops {
        let read = |(key, record): (Bytes, Bytes)| Some((Pair::read(&key)?, Stop::read(&record, now)?));
        let stops = ledger.stops().into_iter().filter_map(read).take(STOPS_MAX).collect();
        Stops { book: Mutex::new(Book { stops, ..Book::default() }), ledger: Some(ledger) }
    }

    /// Ends all stops: an operator ordered mail to be tried now. The site's next replies are counted from zero.
    pub fn end_all(&self) {
        self.book().end_all();
    }

    /// Whether mail of this sending domain is stopped at the site now, and why.
    pub(super) async fn in_force(&self, site: &str, domain: &Domain, now: Timestamp) -> Option<Stop> {
        let (stop, over) = {
            let mut book = self.book();
            let over = book.over(now);
            (book.in_force(site, domain, now).cloned(), over)
        };
        for pair in over {
            self.keep(&pair, None).await;
        }
        stop
    }

    /// A reply asks for a stop. `Some`: its trigger is reached, and the stop is in force and written down.
    pub(super) async fn hear(&self, heard: &Heard<'_>, now: Timestamp) -> Option<Stop> {
        let (pair, stop, room) = self.book().hear(heard, now)?;
        if let Some(room) = room {
            self.keep(&room, None).await;
        }
        // One that could not be written down was told in the log, and lasts as long as the process.
        self.keep(&pair, Some(stop.written())).await;
        Some(stop)
    }

    async fn keep(&self, pair: &Pair, record: Option<Bytes>) {
        if let Some(ledger) = &self.ledger {
            ledger.keep_stop(pair.key(), record).await;
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Stops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stops").field("book", &self.book).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
    const HOUR: Duration = Duration::from_secs(3600);

    fn domain(name: &str) -> Domain {
        name.parse().unwrap()
    }

    /// `MINUTE SITE SENDING RECIPIENT RULE TRIGGER`, a reply a line; `*` behind it: it stops the domain.
    fn check(what: &str, replies: &str) -> Book {
        let mut book = Book::default();
        for line in replies.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let now = NOW.after(Duration::from_secs(60 * words[0].parse::<u64>().unwrap()));
            let (sending, recipient) = (domain(words[2]), domain(words[3]));
            let heard = Heard {
                site: words[1],
                domain: &sending,
                recipient_domain: &recipient,
                rule: words[4],
                trigger: words[5].parse().unwrap(),
                hold: HOUR,
                words: "550 5.7.26 no",
            };
            let stops = book.hear(&heard, now);
            assert_eq!(stops.is_some(), words.last() == Some(&"*"), "{what}: {line}");
            if let Some((_, stop, _)) = stops {
                assert_eq!(stop, Stop { until: now.after(HOUR), words: "550 5.7.26 no".into() });
                assert_eq!(book.in_force(words[1], &sending, now), Some(&stop), "{what}");
            }
        }
        book
    }

    #[test]
    fn a_stop_needs_its_rules_replies_within_an_hour_from_two_recipient_domains() {
        check("at once without a trigger", "0 google a.test x.test dmarc 0 *");
        check("at once with a trigger of one", "0 google a.test x.test dmarc 1 *");
        check(
            "the third",
            "0 google a.test x.test dmarc 3
             1 google a.test x.test dmarc 3
             2 google a.test y.test dmarc 3 *",
        );
        check(
            "one recipient domain alone never, until another says so",
            "0 google a.test x.test dmarc 2
             1 google a.test x.test dmarc 2
             2 google a.test x.test dmarc 2
             3 google a.test y.test dmarc 2 *",
        );
        check(
            "not over an hour",
            "0 google a.test x.test dmarc 2
             60 google a.test y.test dmarc 2
             119 google a.test x.test dmarc 2 *",
        );
        check(
            "each rule, each site and each sending domain by itself",
            "0 google a.test x.test dmarc 2
             1 google a.test y.test listed 2
             1 yahoo a.test y.test dmarc 2
             1 google b.test y.test dmarc 2
             2 google a.test z.test dmarc 2 *
             3 google b.test x.test dmarc 2 *",
        );
        check(
            "what comes meanwhile makes it no longer, and after its end it is counted anew",
            "0 google a.test x.test dmarc 2
             1 google a.test y.test dmarc 2 *
             2 google a.test y.test dmarc 1
             30 google a.test x.test listed 2
             61 google a.test y.test dmarc 2
             62 google a.test x.test dmarc 2 *",
        );
    }

    #[test]
    fn a_stop_binds_its_domain_at_its_site_until_it_ends() {
        let mut book = check("one", "0 google a.test x.test dmarc 1 *");
        let rows = [
            ("google", "a.test", 0, true),
            ("google", "a.test", 3599, true),
            ("google", "a.test", 3600, false),
            ("google", "b.test", 0, false),
            ("google", "sub.a.test", 0, false),
            ("yahoo", "a.test", 0, false),
        ];
        for (site, sending, secs, want) in rows {
            let now = NOW.after(Duration::from_secs(secs));
            assert_eq!(book.in_force(site, &domain(sending), now).is_some(), want, "{site} {sending} {secs}");
        }
        assert!(book.over(NOW).is_empty());
        assert_eq!(book.over(NOW.after(HOUR)), [Pair::new("google", &domain("a.test"))]);
        assert!(book.stops.is_empty());
        let mut book = check("one", "0 google a.test x.test dmarc 1 *");
        book.end_all();
        assert!(book.in_force("google", &domain("a.test"), NOW).is_none());
        assert_eq!(book.over(NOW).len(), 1, "its record is removed");
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_oldest_makes_room() {
        let mut book = Book::default();
        let (recipient, other) = (domain("x.test"), domain("y.test"));
        for number in 0..STOPS_MAX as u64 + 10 {
            let sending = domain(&format!("d{number}.test"));
            let now = NOW.after(Duration::from_millis(number));
            let heard = |trigger, recipient_domain| Heard {
                site: "google",
                domain: &sending,
                recipient_domain,
                rule: "r",
                trigger,
                hold: HOUR,
                words: "",
            };
            assert!(book.hear(&heard(2, &recipient), now).is_none());
            if number < STOPS_MAX as u64 {
                let (_, _, room) = book.hear(&heard(2, &other), now).unwrap();
                assert_eq!(room, None);
            }
        }
        assert_eq!((book.stops.len(), book.strikes.len()), (STOPS_MAX, 10));
        let heard = Heard {
            site: "yahoo",
            domain: &recipient,
            recipient_domain: &other,
            rule: "r",
            trigger: 1,
            hold: HOUR,
            words: "",
        };
        let (_, _, room) = book.hear(&heard, NOW).unwrap();
        assert_eq!(room, Some(Pair::new("google", &domain("d0.test"))));
        assert_eq!(book.stops.len(), STOPS_MAX);
        for number in 0..2 * STRIKES_MAX as u64 {
            let sending = domain(&format!("s{number}.test"));
            book.hear(&Heard { domain: &sending, trigger: 2, ..heard }, NOW.after(Duration::from_millis(number)));
        }
        assert_eq!(book.strikes.len(), STRIKES_MAX);
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_anything_else_is_no_stop() {
        let stop = Stop { until: NOW.after(HOUR), words: "550 5.7.26 \"no\"\nindeed".into() };
        assert_eq!(Stop::read(&stop.written(), NOW), Some(stop.clone()));
        let late = Stop { until: NOW.after(HOLD_MAX * 9), ..stop };
        assert_eq!(Stop::read(&late.written(), NOW).map(|stop| stop.until), Some(NOW.after(HOLD_MAX)));
        let long = format!("1\n5\n{}", "é".repeat(9000));
        assert_eq!(Stop::read(long.as_bytes(), NOW).map(|stop| stop.words.chars().count()), Some(WORDS_CHARS_MAX));
        for bad in [&b""[..], b"1", b"1\n5", b"2\n5\nx", b"1\n-5\nx", b"1\nx\nx", b"1\n5\n\xff"] {
            assert_eq!(Stop::read(bad, NOW), None, "{bad:?}");
        }
        for (key, want) in [
            (&b"mx.a, mx.b:26\na.test"[..], true),
            (b"a.test", false),
            (b"", false),
            (b"x\nnot a domain", false),
            (b"\xff\na", false),
        ] {
            assert_eq!(Pair::read(key).map(|pair| pair.key() == key), want.then_some(true), "{key:?}");
        }
    }

    #[test]
    fn the_sentence_quotes_the_peer_and_says_when_it_ends() {
        let stop = Stop { until: NOW.after(HOUR), words: "550 5.7.26 no".into() };
        let text = stop.sentence("google", &domain("a.test"), NOW);
        assert_eq!(text, "mail from a.test to google is stopped until 09:00 UTC: \"550 5.7.26 no\"");
        let text = stop.sentence("google", &domain("a.test"), NOW.before(HOUR * 24));
        assert_eq!(text, "mail from a.test to google is stopped until 2027-01-15 09:00 UTC: \"550 5.7.26 no\"");
    }
}
