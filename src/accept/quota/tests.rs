//! Quotas and caps: tables, and what must hold whatever comes.

use super::*;
use crate::queue::samples;

const NOW: Timestamp = Timestamp::from_secs(1_795_255_200);

/// Windows: so many, in so many seconds.
type Quota<'a> = &'a [(u32, u64)];
/// How many recipients, and in which second they come.
type Comes<'a> = &'a [(u64, u32)];
/// A name, a quota, who comes, and in which second each may go.
type Row<'a> = (&'a str, Quota<'a>, Comes<'a>, &'a [u64]);

fn rates(all: Quota<'_>) -> Rates {
    let all: Vec<Rate> =
        all.iter().map(|(count, secs)| Rate { count: *count, per: Duration::from_secs(*secs) }).collect();
    Rates::new(&all).unwrap()
}

fn secs(secs: u64) -> Timestamp {
    NOW.after(Duration::from_secs(secs))
}

/// The times at which recipients that come like this may go, in seconds after NOW, rounded up.
fn given(meter: &mut Meter, comes: &[(u64, u32)]) -> Vec<u64> {
    let mut times = Vec::new();
    for (at, count) in comes {
        match meter.room(secs(*at), *count) {
            Room::At(time, _) => {
                meter.take(time, *count);
                times.push(time.since(NOW).as_millis().div_ceil(1000) as u64);
            }
            Room::TooSmall(_) => times.push(u64::MAX),
        }
    }
    times
}

fn meter(all: &[(u32, u64)]) -> Meter {
    let mut meter = Meter::default();
    meter.fit(rates(all));
    meter
}

#[test]
fn a_quota_lets_in_what_fits_and_spreads_the_rest_in_order() {
    let rows: [Row<'_>; 8] = [
        ("all fit", &[(3, 60)], &[(0, 1), (0, 1), (0, 1)], &[0, 0, 0]),
        // The fourth finds room when the first leaves the window; those after it follow at the quota's pace.
        ("the rest waits", &[(3, 60)], &[(0, 1), (0, 2), (0, 1), (0, 1), (0, 1), (0, 1)], &[0, 0, 61, 81, 101, 121]),
        ("a window slides", &[(2, 60)], &[(0, 1), (50, 1), (70, 1), (70, 1)], &[0, 50, 70, 111]),
        ("who comes late", &[(1, 60)], &[(0, 1), (300, 1), (301, 1)], &[0, 300, 361]),
        ("several at once", &[(10, 60)], &[(0, 8), (0, 8), (0, 2)], &[0, 61, 109]),
        ("the longer window", &[(2, 10), (3, 100)], &[(0, 2), (0, 1), (0, 1)], &[0, 11, 101]),
        ("more than ever fit", &[(5, 60)], &[(0, 6), (0, 5)], &[u64::MAX, 0]),
        ("no quota", &[], &[(0, 1000), (0, 1000)], &[0, 0]),
    ];
    for (name, quota, comes, want) in rows {
        let got = given(&mut meter(quota), comes);
        // A step of the window, rounded late, may stand on top.
        let fits = got.iter().zip(want).all(|(got, want)| got <= want && want - got <= 1);
        assert!(fits && got.len() == want.len(), "{name}: {got:?}, not {want:?}");
    }
}

/// Half-open windows of every length in `quota`, wherever they begin, never hold more than they may.
fn assert_kept(quota: &[(u32, u64)], times: &[(Timestamp, u32)], seed: u64) {
    for (count, per) in quota {
        let per = Duration::from_secs(*per);
        for (place, (begin, _)) in times.iter().enumerate() {
            let inside = times[place..].iter().take_while(|(at, _)| *at < begin.after(per));
            let sum: u32 = inside.map(|(_, count)| count).sum();
            assert!(sum <= *count, "seed {seed}: {sum} in {per:?}, {count} are allowed");
        }
    }
}

#[test]
fn no_window_is_passed_order_is_kept_and_the_quota_is_used() {
    for seed in 0..200 {
        let mut random = fastrand::Rng::with_seed(seed);
        let quota = [(random.u32(1..20), random.u64(1..30)), (random.u32(20..100), random.u64(60..4000))];
        let mut meter = meter(&quota);
        let (mut now, mut times, mut total): (Timestamp, Vec<(Timestamp, u32)>, u32) = (NOW, Vec::new(), 0);
        for _ in 0..300 {
            now = now.after(Duration::from_millis(random.u64(0..5000) * u64::from(random.bool())));
            let count = random.u32(1..=quota[0].0.min(5));
            let Room::At(at, _) = meter.room(now, count) else { panic!("seed {seed}: it fits into both windows") };
            assert!(at >= now && times.last().is_none_or(|(last, _)| at >= *last), "seed {seed}: out of order");
            meter.take(at, count);
            if random.u32(0..10) == 0 {
                meter.give_back(at, count);
            } else {
                times.push((at, count));
                total += count;
            }
            assert!(meter.kept() <= 2 * (2048 + 2), "seed {seed}: {} steps are kept", meter.kept());
        }
        assert_kept(&quota, &times, seed);
        // What is waited for is no more than the slower window asks, with its first fill for nothing, and what whole
        // messages leave unused of it.
        let slowest = quota.map(|(count, per)| per as f64 / f64::from(count + 1 - quota[0].0.min(5).min(count)));
        let slowest = slowest[0].max(slowest[1]);
        let took = times.last().unwrap().0.since(now).as_secs_f64();
        let given_back_too = f64::from(total) * 1.5 + 20.0;
        let longest = given_back_too * slowest + quota[1].1 as f64;
        assert!(took <= longest * 1.01, "seed {seed}: the last waits {took} s, {longest} s would do");
    }
}

#[test]
fn a_backlog_goes_at_the_quotas_own_rate() {
    let mut meter = meter(&[(100, 60)]);
    let times = given(&mut meter, &vec![(0, 1); 1000]);
    assert_eq!(times[..100], vec![0; 100]);
    assert!((598..=602).contains(&times[999]), "1000 at 100 a minute: {}", times[999]);
    let gaps = times[100..].windows(2).map(|pair| pair[1] - pair[0]);
    assert!(gaps.max().unwrap() <= 2, "spread, and not by the minute");
}

#[test]
fn a_new_size_of_a_window_inherits_what_was_taken() {
    let mut meter = meter(&[(10, 60)]);
    given(&mut meter, &[(0, 8)]);
    meter.fit(rates(&[(9, 60), (100, 3600)]));
    assert_eq!(given(&mut meter, &[(1, 1), (1, 1)])[0], 1, "one fits");
    assert!(matches!(meter.room(secs(2), 1), Room::At(at, _) if at > secs(59)));
    meter.fit(Rates::NONE);
    assert_eq!(meter.room(secs(2), 1000), Room::At(secs(2), Rate { count: 1000, per: Duration::ZERO }));
}

#[test]
fn a_record_gives_back_as_much_or_a_little_more() {
    let quota = [(100, 60), (1000, 86_400)];
    let mut before = meter(&quota);
    given(&mut before, &[(0, 60), (20, 40), (21, 50)]);
    let record = before.record(secs(30)).unwrap();
    assert!(record.len() < 200, "{record}");
    let mut after = Meter::from_record(&record).unwrap();
    after.fit(rates(&quota));
    for count in [1, 50, 90] {
        let (Room::At(want, _), Room::At(got, _)) = (before.room(secs(31), count), after.room(secs(31), count)) else {
            panic!("both have room at some time");
        };
        let late = got.since(want);
        assert!(got >= want || want.since(got) < Duration::from_secs(40), "{count}: {want:?} {got:?}");
        assert!(late <= Duration::from_secs(86_400 / 64), "{count}: {late:?} later");
    }
    assert_eq!(before.record(secs(2 * 86_400)), None, "nothing counts any more");
    for bad in ["", "x", "5\n60", "5\n60000 1", "5\nx 1 2", "5\n60000 1 99999999999999999999"] {
        let read = Meter::from_record(bad);
        assert!(read.is_none() || bad == "5\n60", "{bad:?}");
    }
}

fn cap(caps: &mut Caps, cap: Rates, who: u64, now: u64, from: u64) -> Option<u64> {
    match caps.room(cap, who, secs(now), secs(from)) {
        CapRoom::At(at, _) => {
            caps.take(who, at);
            Some(at.since(NOW).as_secs())
        }
        CapRoom::Crowded(_) => None,
    }
}

#[test]
fn a_recipient_gets_as_much_as_its_cap_and_no_other_is_touched() {
    let mut caps = Caps::default();
    let three_a_day = rates(&[(3, 86_400)]);
    for (who, now, from, want) in [
        (1, 0, 0, 0),
        (1, 10, 10, 10),
        (2, 10, 10, 10),
        (1, 20, 20, 20),
        (1, 30, 30, 86_400),
        (1, 31, 31, 86_410),
        (2, 40, 40, 40),
        // Scheduled after the others: it waits for nobody.
        (1, 50, 200_000, 200_000),
        // And nobody for it, where there is room before.
        (1, 86_500, 86_500, 86_500),
        (3, 86_500, 172_000, 172_000),
        (3, 86_500, 172_100, 172_100),
        (3, 86_500, 172_200, 172_200),
        // Three are within a day after it: it goes a day after the first of them.
        (3, 86_600, 172_000, 258_400),
        (3, 86_600, 85_000, 85_000),
    ] {
        assert_eq!(cap(&mut caps, three_a_day, who, now, from), Some(want), "{who} at {now} for {from}");
    }
    let number = caps.take(9, secs(86_600));
    caps.give_back(number);
    for _ in 0..3 {
        assert_eq!(cap(&mut caps, three_a_day, 9, 86_600, 86_600), Some(86_600), "what was given back counts not");
    }
}

#[test]
fn no_window_of_a_recipient_is_passed_and_nobody_waits_without_need() {
    for seed in 0..200 {
        let mut random = fastrand::Rng::with_seed(seed);
        let quota = [(random.u32(1..4), random.u64(1..60)), (random.u32(4..8), random.u64(60..600))];
        let cap = rates(&quota);
        let (mut caps, mut now) = (Caps::default(), NOW);
        let mut times: Vec<Vec<(Timestamp, u32)>> = vec![Vec::new(); 3];
        for _ in 0..200 {
            now = now.after(Duration::from_secs(random.u64(0..20)));
            let who = random.usize(0..times.len());
            let from = now.after(Duration::from_secs(random.u64(0..300) * u64::from(random.u32(0..4) == 0)));
            let CapRoom::At(at, _) = caps.room(cap, who as u64, now, from) else { panic!("seed {seed}: crowded") };
            let all = &mut times[who];
            if at > from {
                let mut sooner = all.clone();
                sooner.push((from, 1));
                sooner.sort_unstable();
                let is_over = quota.iter().any(|(count, per)| {
                    let per = Duration::from_secs(*per);
                    sooner.windows(*count as usize + 1).any(|w| w[w.len() - 1].0.since(w[0].0) < per)
                });
                assert!(is_over, "seed {seed}: it could have gone at once");
            }
            caps.take(who as u64, at);
            all.push((at, 1));
            all.sort_unstable();
            assert_kept(&quota, all, seed);
        }
    }
}

#[test]
fn memory_is_bounded_the_oldest_is_forgotten_and_a_bombed_recipient_is_refused() {
    let mut caps = Caps::default();
    let one_a_day = rates(&[(1, 86_400)]);
    for who in 0..(1 << 19) + 10 {
        caps.take(who, NOW);
    }
    assert_eq!(caps.sizes(), (1 << 19, 1 << 19));
    assert_eq!(cap(&mut caps, one_a_day, 0, 1, 1), Some(1), "forgotten: it may have more, never less");
    assert_eq!(cap(&mut caps, one_a_day, 1000, 1, 1), Some(86_400));
    assert_eq!(cap(&mut caps, one_a_day, 7_000_000, 90_000, 90_000), Some(90_000));
    assert!(caps.sizes().0 <= 3, "what ended is dropped: {:?}", caps.sizes());

    let mut caps = Caps::default();
    for round in 0..Caps::OF_ONE_MAX as u64 {
        assert_eq!(cap(&mut caps, rates(&[(5, 600)]), 1, 0, 0), Some(round / 5 * 600));
    }
    assert_eq!(cap(&mut caps, rates(&[(5, 600)]), 1, 0, 0), None);
}

struct House {
    quotas: Quotas,
    rights: Rights,
    stream: Stream,
    exempt: Exempt,
    last: u64,
}

impl House {
    fn new(rights: (&[(u32, u64)], Over), stream: (&[(u32, u64)], Over), cap: &[(u32, u64)]) -> House {
        let rights = Rights { quota: rates(rights.0), over: rights.1, ..Rights::default() };
        let stream = Stream { quota: rates(stream.0), over: stream.1, recipient_cap: rates(cap), ..Stream::default() };
        House { quotas: Quotas::default(), rights, stream, exempt: Exempt::default(), last: 1000 }
    }

    /// One message of two envelopes at most, by the number of recipients; shows each envelope as `count@seconds`.
    fn hand_in(&mut self, credential: &str, now: u64, recipients: &[&str]) -> Result<(String, Taken), Denied> {
        let rules = Rules::of(Some((credential, &self.rights)), ("otp", &self.stream));
        let recipient =
            |to: &&str| Recipient { address: to.parse().unwrap(), ..samples::envelope(1).recipients[0].clone() };
        let mut envelope = samples::envelope(1);
        (envelope.accepted_at, envelope.release_at, envelope.expires_at) = (secs(now), secs(now), secs(now + 900));
        envelope.recipients = recipients.iter().map(recipient).collect();
        let mut envelopes = vec![envelope];
        let last = &mut self.last;
        let mut next_id = || {
            *last += 1;
            QueueId::from_u64(*last)
        };
        let taken = self.quotas.admit(&rules, &mut envelopes, &self.exempt, secs(now), &mut next_id)?;
        let ids: Vec<u64> = envelopes.iter().map(|envelope| envelope.id.as_u64()).collect();
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "ids rise: {ids:?}");
        let shown = envelopes.iter().map(|envelope| {
            assert_eq!(envelope.longest_age(), Duration::from_secs(900), "its age counts from its release");
            assert_eq!(envelope.put_off_by.is_empty(), envelope.release_at == secs(now));
            let after = envelope.release_at.since(NOW).as_secs();
            format!("{}@{after} {}", envelope.recipients.len(), envelope.put_off_by).trim().to_owned()
        });
        Ok((shown.collect::<Vec<_>>().join("; "), taken))
    }

    fn shown(&mut self, credential: &str, now: u64, recipients: &[&str]) -> String {
        match self.hand_in(credential, now, recipients) {
            Ok((shown, _)) => shown,
            Err(Denied::Quota(refusal, _) | Denied::Cap(refusal)) => refusal.to_string(),
        }
    }
}

const QUEUE: Over = Over::Queue;
const REFUSE: Over = Over::Refuse;

#[test]
fn over_a_quota_mail_waits_or_is_refused_with_the_time_to_come_again() {
    let mut house = House::new((&[(2, 60)], QUEUE), (&[], QUEUE), &[]);
    assert_eq!(house.shown("shop", 0, &["a@x.example", "b@x.example"]), "2@0");
    assert_eq!(house.shown("shop", 0, &["c@x.example"]), "1@60 the quota 2/1m of the credential shop");
    assert_eq!(house.shown("other", 0, &["c@x.example"]), "1@0", "each credential has its own");
    assert_eq!(house.hand_in("shop", 0, &["c@x.example"]).unwrap().1.queued, 1);
    assert_eq!(
        house.shown("shop", 0, &["a@x.example", "b@x.example", "c@x.example"]),
        "550 5.5.3 the message has 3 recipients, and the quota 2/1m of the credential shop never has room for more than 2: \
         hand it in in parts"
    );

    let mut house = House::new((&[], QUEUE), (&[(2, 60)], REFUSE), &[]);
    assert_eq!(house.shown("shop", 0, &["a@x.example"]), "1@0");
    let refused = "451 4.7.1 the quota 2/1m of the stream otp is used up; come again in 61 seconds, at \
                   2026-11-21T10:01:01.000Z";
    assert_eq!(house.shown("shop", 0, &["a@x.example", "b@x.example"]), refused);
    assert_eq!(
        house.shown("other", 0, &["b@x.example"]),
        "1@0",
        "what was refused took nothing; all share the stream's"
    );
    assert_eq!(house.shown("shop", 0, &["b@x.example"]), refused);
    assert_eq!(house.shown("shop", 61, &["b@x.example"]), "1@61", "who comes at that time finds room");
}

#[test]
fn who_is_suppressed_uses_up_nothing_and_waits_for_nothing() {
    for over in [QUEUE, REFUSE] {
        let mut house = House::new((&[(2, 60)], over), (&[(2, 60)], over), &[(1, 60)]);
        house.exempt = ["dead@x.example", "gone@x.example"].map(|to| to.parse().unwrap()).into();
        for _ in 0..3 {
            assert_eq!(house.shown("shop", 0, &["dead@x.example", "gone@x.example", "dead@x.example"]), "3@0");
        }
        assert_eq!(house.shown("shop", 0, &["dead@x.example", "a@x.example", "b@x.example", "gone@x.example"]), "4@0");
        let full = house.shown("shop", 0, &["dead@x.example", "c@x.example"]);
        match over {
            QUEUE => assert_eq!(full, "2@60 the quota 2/1m of the credential shop"),
            REFUSE => assert!(full.starts_with("451 4.7.1 the quota 2/1m of the credential shop is used up"), "{full}"),
        }
        assert_eq!(house.shown("shop", 0, &["dead@x.example"]), "1@0", "though the quota is used up");
    }
    // By caps an envelope is split: who is suppressed goes with its first part.
    let mut house = House::new((&[], QUEUE), (&[], QUEUE), &[(1, 60)]);
    house.exempt = ["dead@x.example".parse().unwrap()].into();
    assert_eq!(house.shown("shop", 0, &["a@x.example"]), "1@0");
    let split = house.shown("shop", 0, &["a@x.example", "dead@x.example", "b@x.example"]);
    assert_eq!(split, "2@60 recipient_cap 1/1m of the stream otp; 1@0");
}

#[test]
fn what_would_wait_for_longer_than_a_month_is_refused_and_takes_nothing() {
    let mut house = House::new((&[(1, 86_400)], QUEUE), (&[], QUEUE), &[]);
    for day in 0..30 {
        let shown = house.shown("shop", 0, &["a@x.example"]);
        let at: u64 = shown.split(['@', ' ']).nth(1).unwrap().parse().unwrap();
        // A step of the window, 42 s of a day, may stand on top of each day.
        assert!((day * 86_400..=day * 86_443).contains(&at), "day {day}: {shown}");
    }
    for _ in 0..2 {
        let refused = house.shown("shop", 0, &["a@x.example"]);
        assert!(refused.starts_with("451 4.7.1 the quota 1/1d of the credential shop is used up; come again in 259"));
    }
}

#[test]
fn who_is_capped_waits_alone_and_what_was_given_back_counts_no_more() {
    let mut house = House::new((&[], QUEUE), (&[], QUEUE), &[(1, 600)]);
    assert_eq!(house.shown("shop", 0, &["a@x.example", "b@x.example"]), "2@0");
    let (shown, taken) = house.hand_in("shop", 10, &["A@x.example", "c@x.example"]).unwrap();
    assert_eq!(shown, "1@600 recipient_cap 1/10m of the stream otp; 1@10", "letters of either case are one mailbox");
    assert_eq!(taken.capped, 1);
    house.quotas.give_back(&taken);
    assert_eq!(house.shown("shop", 20, &["c@x.example"]), "1@20");

    let mut house = House::new((&[(5, 60)], QUEUE), (&[], REFUSE), &[(1, 600)]);
    assert_eq!(house.shown("shop", 0, &["a@x.example"]), "1@0");
    for _ in 0..9 {
        assert_eq!(
            house.shown("shop", 1, &["b@x.example", "a@x.example"]),
            "451 4.7.1 a@x.example got as much as recipient_cap 1/10m of the stream otp allows; come again in 599 seconds, at \
             2026-11-21T10:10:00.000Z"
        );
    }
    assert_eq!(house.shown("shop", 1, &["b@x.example", "c@x.example"]), "2@1", "the refusals took nothing");
}

#[test]
fn an_envelope_is_never_larger_than_what_it_may_have_to_wait_for() {
    let house = House::new((&[(50, 60), (7, 1)], QUEUE), (&[(3, 1)], REFUSE), &[]);
    let rules = Rules::of(Some(("shop", &house.rights)), ("otp", &house.stream));
    assert_eq!(rules.envelope_recipients_max(), 7);
    let rules = Rules::of(None, ("otp", &house.stream));
    assert_eq!(rules.envelope_recipients_max(), usize::MAX);
}

#[test]
fn what_was_taken_is_written_down_and_read_again() {
    let mut house = House::new((&[(2, 86_400)], REFUSE), (&[(9, 60)], QUEUE), &[]);
    assert_eq!(house.shown("shop", 0, &["a@x.example", "b@x.example"]), "2@0");
    let records = house.quotas.records(secs(1));
    let names: Vec<&[u8]> = records.iter().map(|(name, _)| &name[..]).collect();
    assert_eq!(names, [&b"credential shop"[..], b"stream otp"]);
    assert_eq!(house.quotas.records(secs(1)), [], "only what changed");
    house.quotas = Quotas::default();
    let strange = [("nobody x".into(), "5\n".into()), ("stream otp".into(), "?".into())];
    house.quotas.restore(records.into_iter().filter_map(|(name, record)| Some((name, record?))).chain(strange));
    assert!(house.shown("shop", 60, &["a@x.example"]).starts_with("451 4.7.1 "));
    assert_eq!(house.shown("shop", 2 * 86_400, &["a@x.example"]), "1@172800");

    let mut settings = Settings::new("relay.example.com".parse().unwrap());
    settings.credentials.insert("shop".into(), house.rights.clone());
    house.quotas.keep_only(&settings);
    assert!(house.shown("shop", 2 * 86_400, &["a@x.example", "b@x.example"]).starts_with("451 "), "it is kept");
    house.quotas.keep_only(&Settings::new("relay.example.com".parse().unwrap()));
    assert_eq!(house.shown("shop", 2 * 86_400, &["a@x.example", "b@x.example"]), "2@172800", "it was forgotten");
}
