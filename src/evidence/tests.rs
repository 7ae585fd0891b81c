//! Tables of rules, properties over random stories, and whole incidents on a simulated relay.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
const HOUR: Duration = Duration::from_secs(3600);

fn days(days: f64) -> Timestamp {
    NOW.after(Duration::from_secs_f64(days * 86_400.0))
}

/// `DAY SAID [MEANS] [lately] [storm]`, a line each, then what the list says after it: `-`, `pending HITS` or
/// `blocks DAYS HITS` (days from that line on; `for-good`).
fn check(what: &str, lines: &str) {
    let mut known = None;
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (told, want) = line.split_once('=').unwrap();
        let words: Vec<&str> = told.split_whitespace().collect();
        let now = days(words[0].parse().unwrap());
        let said = match words[1] {
            "none" => Said::NoMailbox,
            "full" => Said::Unwilling,
            "spam" => Said::Complained,
            other => panic!("{other}"),
        };
        let has = |word| words.contains(&word);
        let means = if has("report") { Means::Report } else { Means::Reply };
        let circumstances = Circumstances { delivered_lately: has("lately"), storm: has("storm") };
        let after = judge(known, said, means, circumstances, now);
        let shown = match (after.pending, after.blocks(now)) {
            (true, _) => format!("pending {}", after.hits),
            (false, false) => format!("over {}", after.hits),
            (false, true) => match after.expires_at {
                None => format!("blocks for-good {}", after.hits),
                Some(at) => format!("blocks {} {}", at.since(now).as_secs() / 86_400, after.hits),
            },
        };
        assert_eq!(shown, want.trim(), "{what}: {line}");
        known = Some(after);
    }
}

#[test]
fn a_mailbox_that_does_not_exist_is_suppressed_at_once_and_longer_each_time() {
    check(
        "the ladder",
        "0    none = blocks 30 1
         31   none = blocks 90 2
         122  none = blocks 365 3
         500  none = blocks for-good 4
         900  none = blocks for-good 5",
    );
    check(
        "mail that was on its way climbs no rung, and is no reason to be written to sooner",
        "0    none = blocks 30 1
         0.1  none = blocks 30 1
         0.9  none = blocks 30 1
         1.0  none = blocks 90 2",
    );
}

#[test]
fn an_address_that_was_delivered_to_lately_needs_a_second_reply_a_day_later() {
    check(
        "two replies",
        "0    none lately = pending 0
         0.5  none lately = pending 0
         0.99 none lately = pending 0
         1    none lately = blocks 30 1
         32   none lately = blocks 90 2",
    );
    check(
        "the first was too long ago",
        "0 none lately = pending 0
         91 none lately = pending 0
         92 none lately = blocks 30 1",
    );
    check(
        "the delivery is forgotten meanwhile",
        "0 none lately = pending 0
         0.1 none = blocks 30 1",
    );
}

#[test]
fn a_rung_climbed_before_stands_for_a_second_reply_only_where_a_success_would_have_dropped_it() {
    check(
        "replies: it took nothing since it was blocked",
        "0    none lately = pending 0
         1    none lately = blocks 30 1
         40   none lately = blocks 90 2",
    );
    check(
        "reports: what it took since says nothing, so it must be said twice, and the rung is the next one",
        "0    none lately report = pending 0
         1    none lately report = blocks 30 1
         40   none lately report = pending 1
         40.5 none lately report = pending 1
         40.6 none lately = pending 1
         41   none lately report = blocks 90 2",
    );
    check(
        "reports of one that nothing was delivered to but what they are about",
        "0    none report = blocks 30 1
         40   none report = blocks 90 2",
    );
}

#[test]
fn a_storm_proves_nothing_of_an_address_and_unblocks_none() {
    check(
        "first seen in a storm",
        "0    none storm = pending 0
         2    none storm = pending 0
         10   none = blocks 30 1",
    );
    check(
        "delivered to lately: what was said in the storm is no first reply",
        "0    none lately storm = pending 0
         2    none lately = pending 0
         2.5  none lately = pending 0
         3    none lately = blocks 30 1",
    );
    check(
        "storms of days never tell of those who were delivered to lately",
        "0  none lately storm = pending 0
         5  none lately storm = pending 0
         80 none lately storm = pending 0",
    );
    check(
        "a list that makes a storm each week: the dead of both",
        "0   none storm = pending 0
         2.9 none storm = pending 0
         7   none storm = blocks 30 1",
    );
    check(
        "what was believed stays so",
        "0   none = blocks 30 1
         5   none lately storm = blocks 25 1
         31  none lately storm = over 1
         32  none = blocks 90 2",
    );
}

#[test]
fn a_mailbox_that_is_full_for_weeks_is_left_alone() {
    check(
        "five messages over fourteen days",
        "0  full = pending 1
         4  full = pending 2
         8  full = pending 3
         12 full = pending 4
         13 full = pending 5
         14 full = blocks 30 6
         20 full = blocks 30 7
         60 full = blocks 30 8
         121 full = pending 1",
    );
    check(
        "too few",
        "0  full = pending 1
         20 full = pending 2
         40 full = pending 3
         60 full = pending 4",
    );
    check(
        "too far apart",
        "0 full = pending 1
         61 full = pending 1",
    );
    check(
        "complaints are for good",
        "0 spam report = blocks for-good 1
         9 spam report = blocks for-good 2",
    );
}

#[test]
fn what_is_kept_says_how_it_was_heard() {
    for means in Means::ALL {
        assert_eq!(Means::of(&means.tagged("550 5.1.1: no")), means);
    }
    for words in ["", "imported", "a note: reply", "reply"] {
        assert_eq!(Means::of(words), Means::Report, "{words:?}");
    }
    let pending = judge(None, Said::Unwilling, Means::Reply, Circumstances::default(), NOW);
    assert!(pending.is_dropped_by_success(NOW));
    let reported = judge(Some(pending), Said::Unwilling, Means::Report, Circumstances::default(), NOW);
    assert!(!reported.is_dropped_by_success(NOW), "a site that takes all mail first proves nothing by it");
    let believed = judge(None, Said::NoMailbox, Means::Reply, Circumstances::default(), NOW);
    assert!(!believed.is_dropped_by_success(days(29.0)));
    assert!(believed.is_dropped_by_success(days(31.0)), "it came back to life");
}

#[test]
fn a_clock_that_jumps_unblocks_nobody_early_and_breaks_nothing() {
    let calm = Circumstances::default();
    let one = judge(None, Said::NoMailbox, Means::Reply, calm, days(400.0));
    let back = judge(Some(one), Said::NoMailbox, Means::Reply, calm, NOW);
    assert_eq!((back.expires_at, back.hits), (one.expires_at, 1));
    let lately = Circumstances { delivered_lately: true, ..calm };
    let first = judge(None, Said::NoMailbox, Means::Reply, lately, days(400.0));
    let back = judge(Some(first), Said::NoMailbox, Means::Reply, lately, NOW);
    assert!(back.pending && back.hits == 0, "{back:?}");
    for extreme in [Timestamp::ZERO, Timestamp::NEVER] {
        for said in [Said::NoMailbox, Said::Unwilling, Said::Complained, Said::Unsubscribed] {
            let _ = judge(Some(one), said, Means::Reply, calm, extreme);
        }
    }
}

/// Days and circumstances of findings about one address; who was delivered to lately stays so.
fn story() -> impl Strategy<Value = (bool, Vec<(f64, bool)>)> {
    let findings = proptest::collection::vec((0.0..500.0f64, proptest::bool::weighted(0.2)), 0..12);
    (any::<bool>(), findings)
}

fn tell(lately: bool, said: Said, findings: &[(f64, bool)], until: f64) -> Option<Known> {
    let mut findings: Vec<_> = findings.iter().copied().filter(|(at, _)| *at <= until).collect();
    findings.sort_by(|a, b| a.0.total_cmp(&b.0));
    findings.iter().fold(None, |known, (at, storm)| {
        let circumstances = Circumstances { delivered_lately: lately, storm: *storm };
        Some(judge(known, said, Means::Reply, circumstances, days(*at)))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// More evidence never suppresses less: a further reply, in a storm or not, opens no day on which the address was
    /// blocked without it.
    #[test]
    fn more_evidence_never_suppresses_less((lately, findings) in story(), at in 0.0..500.0f64, storm in any::<bool>(),
                                           soft in any::<bool>()) {
        let said = if soft { Said::Unwilling } else { Said::NoMailbox };
        let mut more = findings.clone();
        more.push((at, storm));
        for day in 0..130 {
            let day = f64::from(day) * 4.0 + 0.37;
            let blocks = |findings: &[(f64, bool)]| {
                tell(lately, said, findings, day).is_some_and(|known| known.blocks(days(day)))
            };
            prop_assert!(!blocks(&findings) || blocks(&more), "day {day}: {findings:?} and {at} {storm}");
        }
    }

    /// No single storm, whatever it says how often, blocks anybody who was delivered to lately.
    #[test]
    fn nobody_who_was_delivered_to_lately_is_suppressed_by_a_storm(findings in proptest::collection::vec(0.0..90.0f64, 1..40)) {
        let findings: Vec<_> = findings.into_iter().map(|at| (at, true)).collect();
        let known = tell(true, Said::NoMailbox, &findings, 500.0).unwrap();
        prop_assert!(known.pending);
    }
}

/// A relay in small: the list, what was delivered, the sites; and what the door does with them.
struct Relay {
    now: Timestamp,
    list: HashMap<String, Known>,
    delivered: Delivered,
    sites: Sites,
    storms: usize,
    sent: usize,
    bounced: usize,
}

impl Relay {
    fn new() -> Relay {
        Relay {
            now: NOW,
            list: HashMap::new(),
            delivered: Delivered::new(Seed(7), 1 << 20),
            sites: Sites::default(),
            storms: 0,
            sent: 0,
            bounced: 0,
        }
    }

    fn send(&mut self, address: &str, exists: bool, every: Duration) {
        self.now = self.now.after(every);
        if self.blocks(address) {
            return;
        }
        self.sent += 1;
        let (hash, now) = (self.delivered.hash(address), self.now);
        let turn = self.sites.hear("google", if exists { Answer::Valid } else { Answer::Invalid }, now);
        if let Turn::Begins(_, doubt) = turn {
            self.storms += 1;
            for name in doubt {
                let known = self.list[&*name];
                self.list.insert(name.into(), doubted(known, now));
            }
        }
        if exists {
            self.delivered.mark(hash, now);
            if self.list.get(address).is_some_and(|known| known.is_dropped_by_success(now)) {
                self.list.remove(address);
            }
            return;
        }
        self.bounced += 1;
        let circumstances =
            Circumstances { delivered_lately: self.delivered.knows(hash, now), storm: self.sites.storms("google") };
        let before = self.list.get(address).copied();
        let after = judge(before, Said::NoMailbox, Means::Reply, circumstances, now);
        if after.blocks(now) && !holds_in_a_storm(before, Means::Reply, circumstances, now) {
            assert!(self.sites.believed("google", address, now), "one at a time: it was judged outside of a storm");
        }
        self.list.insert(address.to_owned(), after);
    }

    fn blocks(&self, address: &str) -> bool {
        self.list.get(address).is_some_and(|known| known.blocks(self.now))
    }

    fn blocked(&self) -> usize {
        self.list.values().filter(|known| known.blocks(self.now)).count()
    }

    fn pending(&self) -> usize {
        self.list.values().filter(|known| known.pending).count()
    }
}

fn name(kind: &str, number: usize) -> String {
    format!("{kind}{number}@gmail.com")
}

/// A month in which 6,000 people get mail every third day or so, and one address in a hundred is dead.
fn month(relay: &mut Relay) {
    for number in 0..60_000 {
        match number % 100 {
            99 => relay.send(&name("dead", number), false, Duration::from_secs(43)),
            _ => relay.send(&name("user", number % 6000), true, Duration::from_secs(43)),
        }
    }
}

#[test]
fn the_incident_of_december_2020_suppresses_nobody() {
    // Rate of answers, and which part of them is wrong.
    for (every, wrong_of_100) in [(43_000, 100), (43_000, 30), (200, 100), (200, 8), (10_000, 15)] {
        let mut relay = Relay::new();
        month(&mut relay);
        assert_eq!((relay.storms, relay.blocked(), relay.pending()), (0, 600, 0), "a usual month");
        // Seven hours of "550 5.1.1" to accounts that exist, a third of which never got mail from us.
        let every = Duration::from_millis(every);
        let count = (7 * HOUR.as_millis() / every.as_millis()) as usize;
        for number in 0..count {
            let user = if number % 3 == 0 { name("new", number) } else { name("user", number % 6000) };
            relay.send(&user, number * 37 % 100 >= wrong_of_100, every);
        }
        let what = format!("{wrong_of_100} of 100, one every {every:?}");
        assert_eq!(relay.storms, 1, "{what}");
        let valid =
            relay.list.iter().filter(|(name, known)| known.blocks(relay.now) && !name.starts_with("dead")).count();
        assert_eq!(valid, 0, "{what}: nobody who exists");
        // The handful of dead ones that were found right before is doubted with the rest.
        assert!(relay.blocked() >= 590 && relay.pending() > 0, "{what}: {}", relay.blocked());
        // The next days everybody is written to again, and what waited is dropped.
        for number in 0..count {
            let user = if number % 3 == 0 { name("new", number) } else { name("user", number % 6000) };
            relay.send(&user, true, Duration::from_secs(10).max(every));
        }
        for number in 0..6000 {
            relay.send(&name("user", number), true, Duration::from_secs(10));
        }
        let valid = relay.list.keys().filter(|address| !address.starts_with("dead")).count();
        assert_eq!(valid, 0, "{what}: nothing is kept of those who exist");
        assert!(!relay.sites.storms("google"), "{what}");
    }
}

#[test]
fn the_first_day_of_a_new_relay_can_meet_an_incident() {
    let mut relay = Relay::new();
    for number in 0..2000 {
        relay.send(&name("new", number), false, Duration::from_secs(5));
    }
    assert_eq!((relay.storms, relay.blocked(), relay.pending()), (1, 0, 2000));
}

#[test]
fn a_bought_list_waits_and_is_believed_when_it_is_sent_to_again() {
    let mut relay = Relay::new();
    month(&mut relay);
    let before = relay.blocked();
    for number in 0..3000 {
        relay.send(&name("bought", number), number % 3 != 0, Duration::from_secs(1));
    }
    assert_eq!(relay.storms, 1);
    assert!(relay.pending() >= 1000, "1,000 of the 3,000 are dead");
    assert!(relay.blocked() <= before && relay.blocked() >= before - 5, "none of them is believed");
    // A week later again: a storm again, and the dead of both are believed.
    relay.now = relay.now.after(DAY * 7);
    assert!(relay.sites.tick(relay.now).len() == 1, "by then it had ended by itself");
    for number in 0..3000 {
        relay.send(&name("bought", number), number % 3 != 0, Duration::from_secs(1));
    }
    let dead = (0..3000).filter(|number| number % 3 == 0 && relay.blocks(&name("bought", *number))).count();
    assert_eq!(dead, 1000);
    let alive = (0..3000).filter(|number| number % 3 != 0 && relay.blocks(&name("bought", *number))).count();
    assert_eq!(alive, 0);
}

#[test]
fn an_honest_list_with_a_few_dead_addresses_is_cleaned_at_once() {
    let mut relay = Relay::new();
    for number in 0..1000 {
        relay.send(&name("user", number), number % 20 != 7, Duration::from_secs(2));
    }
    assert_eq!((relay.storms, relay.blocked(), relay.bounced), (0, 50, 50));
    for number in 0..1000 {
        relay.send(&name("user", number), number % 20 != 7, Duration::from_secs(2));
    }
    assert_eq!(relay.bounced, 50, "none is written to again");
}

#[test]
fn a_storm_that_does_not_end_becomes_usual() {
    let mut relay = Relay::new();
    for number in 0..20_000 {
        relay.send(&name("any", number), number % 4 != 0, Duration::from_secs(20));
    }
    assert_eq!(relay.storms, 1);
    assert!(!relay.sites.storms("google"), "after three days");
    assert!(relay.blocked() > 400, "who is dead then is believed: {}", relay.blocked());
}

/// Another connection heard the last of twenty while this one's address was written into the list.
#[test]
fn what_is_judged_while_a_storm_begins_is_doubted_at_once() {
    let (mut sites, now) = (Sites::default(), Timestamp::from_secs(1_795_255_200));
    for number in 0..20 {
        assert!(!sites.storms("google"));
        let turn = sites.hear("google", Answer::Invalid, now);
        assert_eq!(matches!(turn, Turn::Begins(..)), number == 19, "{turn:?}");
    }
    assert!(!sites.believed("google", "late@g.example", now));
    assert!(sites.believed("yahoo", "other@y.example", now));
}

#[test]
fn a_handful_of_replies_is_no_storm() {
    let mut sites = Sites::default();
    for number in 0..19 {
        assert_eq!(sites.hear("small.example", Answer::Invalid, NOW.after(Duration::from_secs(number))), Turn::None);
    }
    assert!(!sites.storms("small.example") && !sites.storms("unknown.example"));
    for number in 0..19 {
        // Over days: old answers are not recent.
        assert_eq!(sites.hear("slow.example", Answer::Invalid, NOW.after(HOUR * number * 5)), Turn::None);
    }
    for number in 0..30 {
        assert_eq!(sites.hear("slow.example", Answer::Invalid, NOW.after(HOUR * (100 + number))), Turn::None);
    }
}

#[test]
fn a_storm_is_kept_over_a_restart_and_sites_are_bounded() {
    let mut sites = Sites::default();
    for number in 0..60 {
        sites.hear("google", Answer::Invalid, NOW.after(Duration::from_secs(number)));
    }
    assert!(sites.storms("google"));
    let mut again = Sites::default();
    for (name, record) in sites.records() {
        again.restore(&name, &record);
    }
    assert!(again.storms("google"));
    assert_eq!(again.storms_now().len(), 1);
    for bad in ["", "1", "2 0 0 0 0 0 0", "1 0 0 NaN 0 0 0", "1 0 0 -1 0 0 0", "1 x 0 0 0 0 0", "1 0 0 inf 0 0 0"] {
        again.restore("bad", bad);
        assert!(!again.storms("bad") && again.records().len() == 1, "{bad}");
    }
    for number in 0..25_000 {
        sites.hear(&format!("s{number}.example"), Answer::Valid, NOW.after(Duration::from_secs(100)));
    }
    assert!(sites.records().len() <= 10_000);
    assert!(sites.storms("google"), "a storm does not make room for strangers");
    assert_eq!(sites.tick(NOW.after(DAY)).len(), 1);
}

#[test]
fn deliveries_are_remembered_for_ninety_days_and_then_forgotten() {
    let mut table = Delivered::new(Seed(1), 1 << 20);
    let hash = table.hash("Jo@Example.com");
    assert_eq!(hash, table.hash("jo@example.COM"));
    assert!(!table.knows(hash, NOW));
    assert!(table.mark(hash, NOW) && !table.knows_twice(hash, NOW), "a report of that one message finds no other");
    assert!(
        table.mark(hash, NOW.after(HOUR)) && !table.mark(hash, NOW.after(HOUR)),
        "the second is written down, and no more"
    );
    assert!(table.knows_twice(hash, NOW));
    for (day, want) in [(0.0, true), (45.0, true), (90.0, true), (99.0, false), (400.0, false), (-30.0, true)] {
        let now = if day < 0.0 { NOW.before(DAY * 30) } else { days(day) };
        assert_eq!(table.knows(hash, now), want, "{day}");
    }
    assert!(table.mark(hash, days(60.0)), "a new week is written down");
    assert!(table.knows(hash, days(149.0)));
}

#[test]
fn the_table_grows_with_its_addresses_and_is_rarely_wrong() {
    let mut table = Delivered::new(Seed(2), 1 << 18);
    assert_eq!(table.places(), 65_536);
    let address = |number: usize| format!("someone{number}@example.com");
    for number in 0..180_000 {
        table.mark(table.hash(&address(number)), NOW);
    }
    let known = (0..180_000).filter(|number| table.knows(table.hash(&address(*number)), NOW)).count();
    assert!(known > 179_900, "{known} of 180,000 are remembered");
    let wrong = (200_000..300_000).filter(|number| table.knows(table.hash(&address(*number)), NOW)).count();
    assert!(wrong < 200, "{wrong} of 100,000 strangers are taken for known");
    let octets = 3.0 * table.places() as f64 / 180_000.0;
    assert!(octets < 5.0, "{octets} octets an address");
    // Over what it may hold, the oldest make room for the new.
    for number in 0..400_000 {
        table.mark(table.hash(&format!("new{number}@example.com")), days(30.0));
    }
    assert!(table.places() <= 1 << 18);
    let now = days(30.0);
    let fresh = (380_000..400_000).filter(|n| table.knows(table.hash(&format!("new{n}@example.com")), now)).count();
    assert!(fresh > 16_000, "{fresh} of the last 20,000");
}

#[test]
fn the_table_is_read_as_it_was_written_and_damage_is_seen() {
    let mut table = Delivered::new(Seed(3), 1 << 20);
    for number in 0..100_000u64 {
        table.mark(table.hash(&number.to_string()), NOW);
    }
    let bytes = table.encode();
    let read = Delivered::decode(&bytes, 1 << 20).unwrap();
    assert_eq!((read.places(), read.len(NOW)), (table.places(), table.len(NOW)));
    assert_eq!(read.hash("x@y"), table.hash("x@y"), "the seed is kept");
    for cut in [0, 7, 24, 25, bytes.len() / 2, bytes.len() - 1] {
        assert!(Delivered::decode(&bytes[..cut], 1 << 20).is_none(), "{cut}");
    }
    for place in (0..bytes.len()).step_by(4999) {
        let mut flipped = bytes.clone();
        flipped[place] ^= 1;
        assert!(Delivered::decode(&flipped, 1 << 20).is_none(), "{place}");
    }
    let mut log = Vec::new();
    for number in 0..100u64 {
        log.extend_from_slice(&Delivered::mark_record(read.hash(&format!("late{number}")), NOW));
    }
    let mut read = read;
    assert_eq!(read.replay(&log[..log.len() - 4]), 99, "the last one was cut short");
    assert!((0..99u64).all(|number| read.knows(read.hash(&format!("late{number}")), NOW)));
}
