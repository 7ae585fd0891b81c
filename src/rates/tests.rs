//! Thresholds, windows and records, by counted mail.

use super::*;

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

const NEWS: Mail<'static> = Mail {
    stream: "newsletter",
    kind: StreamKind::Marketing,
    credential: "shop",
    source: "a",
    domain: "shop.example",
    provider: "yahoo",
};
const ORDERS: Mail<'static> = Mail { stream: "orders", kind: StreamKind::Transactional, ..NEWS };

const DELIVERED: Became = Became::Delivered { feedback: true };
const GONE: Became = Became::Bounced { stranger: false };
const STRANGER: Became = Became::Bounced { stranger: true };

struct Bench {
    book: Book,
    limits: Thresholds,
    steps: Vec<Step>,
}

impl Bench {
    fn new() -> Bench {
        Bench { book: Book::default(), limits: Thresholds::default(), steps: Vec::new() }
    }

    fn count(&mut self, mail: &Mail<'_>, became: Became, times: usize, now: Timestamp) -> &mut Bench {
        for _ in 0..times {
            self.steps.extend(self.book.count(mail, became, &self.limits, now));
        }
        self
    }

    fn is_held(&self, mail: &Mail<'_>) -> bool {
        self.book.hold(mail.credential, mail.stream, mail.kind).is_some()
    }

    fn complaint(&mut self, delivered_at: Timestamp, now: Timestamp) -> &mut Bench {
        self.count(&NEWS, Became::Complained { delivered_at }, 1, now)
    }
}

fn sender() -> Sender {
    Sender::new("shop", "newsletter")
}

#[test]
fn complaints_warn_and_then_pause_the_sender_until_a_person_resumes_it() {
    let mut bench = Bench::new();
    bench.count(&NEWS, DELIVERED, 2000, NOW);
    let later = NOW.after(HOUR * 5);
    bench.complaint(NOW, later).complaint(NOW, later);
    assert_eq!(bench.steps, [], "two complaints say nothing");
    bench.complaint(NOW, later);
    let warned = |scope: Scope| Step::Warn(scope, 3.0 / 2000.0, 2000);
    assert_eq!(
        bench.steps,
        [warned(Scope::Sender(sender())), warned(Scope::Domain("shop.example".into()))],
        "0.15 % of 2,000"
    );
    bench.complaint(NOW, later).complaint(NOW, later);
    assert!(!bench.is_held(&NEWS), "0.25 %");
    bench.complaint(NOW, later);
    assert!(bench.is_held(&NEWS), "0.3 %");
    let Some(Step::Pause(paused, pause)) = bench.steps.last().cloned() else { panic!("{:?}", bench.steps) };
    assert_eq!((paused, pause.why, pause.of, pause.per_hour), (sender(), Why::Complaints, 2000, 0));
    assert!(!bench.is_held(&ORDERS), "transactional mail of the same credential goes on");
    assert!(!bench.is_held(&Mail { credential: "blog", ..NEWS }), "others on the stream go on");
    assert!(!bench.is_held(&Mail { stream: "offers", ..NEWS }), "its other streams go on");
    // Good mail does not end it, only a person does; the same complaints do not begin it again.
    bench.count(&NEWS, DELIVERED, 5000, later);
    assert!(bench.is_held(&NEWS));
    assert!(bench.book.resume(&sender(), NOW) && !bench.book.resume(&sender(), NOW));
    bench.complaint(NOW, later);
    assert!(!bench.is_held(&NEWS));
}

#[test]
fn complaints_are_a_share_of_the_day_on_which_their_mail_was_delivered() {
    let mut bench = Bench::new();
    // A bad day's mail, three good days since: over the week the share is small, of its day it is 0.5 %.
    bench.count(&NEWS, DELIVERED, 1200, NOW);
    for day in 1..4 {
        bench.count(&NEWS, DELIVERED, 10_000, NOW.after(DAY * day));
    }
    let now = NOW.after(DAY * 3);
    for _ in 0..6 {
        bench.complaint(NOW, now);
    }
    assert!(bench.is_held(&NEWS));
    let mut spread = Bench::new();
    for day in 0..4 {
        spread.count(&NEWS, DELIVERED, 10_000, NOW.after(DAY * day));
    }
    for day in 0..6 {
        spread.complaint(NOW.after(DAY * (day % 4)), now);
    }
    assert!(!spread.is_held(&NEWS), "the same complaints of many more deliveries");
    // Long after, they count nowhere.
    let mut late = Bench::new();
    late.count(&NEWS, DELIVERED, 2000, NOW.after(DAY * 10));
    for _ in 0..50 {
        late.complaint(NOW, NOW.after(DAY * 10));
    }
    assert_eq!(late.steps, []);
}

#[test]
fn only_deliveries_at_providers_that_send_complaints_are_counted_against_them() {
    let mut bench = Bench::new();
    bench.count(&NEWS, Became::Delivered { feedback: false }, 100_000, NOW).count(&NEWS, DELIVERED, 1000, NOW);
    for _ in 0..5 {
        bench.complaint(NOW, NOW);
    }
    assert!(bench.is_held(&NEWS), "0.5 % of 1,000, whatever Gmail took");
    let mut few = Bench::new();
    few.count(&NEWS, DELIVERED, 999, NOW);
    for _ in 0..100 {
        few.complaint(NOW, NOW);
    }
    assert!(!few.is_held(&NEWS), "too few deliveries to say");
}

#[test]
fn bounces_slow_a_sender_to_a_tenth_until_fewer_bounce() {
    let mut bench = Bench::new();
    bench.count(&NEWS, DELIVERED, 1800, NOW).count(&NEWS, GONE, 199, NOW);
    assert!(!bench.is_held(&NEWS), "9.95 %");
    bench.count(&NEWS, GONE, 5, NOW);
    assert!(bench.is_held(&NEWS) && !bench.is_held(&ORDERS));
    let pause = bench.book.pauses().next().map(|(_, pause)| pause.clone()).unwrap();
    assert_eq!((pause.why, pause.per_hour), (Why::Bounces, 200));
    // Still bad: nothing changes. Then 200 answers of which few bounce.
    bench.count(&NEWS, GONE, 20, NOW.after(HOUR)).count(&NEWS, DELIVERED, 180, NOW.after(HOUR));
    assert!(bench.is_held(&NEWS));
    bench.count(&NEWS, DELIVERED, 300, NOW.after(HOUR * 2));
    assert!(!bench.is_held(&NEWS));
    assert_eq!(bench.steps.last(), Some(&Step::Recovered(sender())));
    let mut transactional = Bench::new();
    transactional.count(&ORDERS, GONE, 900, NOW);
    assert!(!transactional.is_held(&ORDERS), "transactional mail is never paused");
    let mut small = Bench::new();
    small.count(&NEWS, GONE, 199, NOW);
    assert!(!small.is_held(&NEWS), "too few to say");
}

#[test]
fn a_worse_cause_takes_the_place_of_a_better_one() {
    let mut bench = Bench::new();
    bench.count(&NEWS, DELIVERED, 1800, NOW).count(&NEWS, GONE, 300, NOW);
    for _ in 0..6 {
        bench.complaint(NOW, NOW);
    }
    bench.count(&NEWS, DELIVERED, 5000, NOW);
    let (_, pause) = bench.book.pauses().next().unwrap();
    assert_eq!(pause.why, Why::Complaints, "and it does not end by itself");
}

#[test]
fn a_stolen_login_is_suspended_and_a_providers_bad_day_is_not_one() {
    let mut bench = Bench::new();
    bench.count(&ORDERS, DELIVERED, 200, NOW).count(&ORDERS, STRANGER, 99, NOW);
    assert!(!bench.is_held(&ORDERS));
    bench.count(&ORDERS, STRANGER, 1, NOW);
    assert!(bench.is_held(&ORDERS) && bench.is_held(&NEWS), "all that the credential sends");
    assert!(!bench.is_held(&Mail { credential: "blog", ..ORDERS }));
    assert!(bench.book.suspension("shop").is_some());
    assert_eq!(bench.steps.len(), 1);
    assert!(bench.book.unsuspend("shop", NOW) && !bench.book.unsuspend("shop", NOW));
    bench.count(&ORDERS, STRANGER, 1, NOW);
    assert!(!bench.is_held(&ORDERS), "what was counted before is forgotten");
    let mut incident = Bench::new();
    incident.count(&ORDERS, GONE, 5000, NOW);
    assert!(!incident.is_held(&ORDERS), "they were delivered to of late");
    let mut slow = Bench::new();
    for minute in 0..400 {
        slow.count(&ORDERS, STRANGER, 1, NOW.after(MINUTE * minute));
    }
    assert!(!slow.is_held(&ORDERS), "one a minute is no storm");
    let mut trusted = Bench::new();
    trusted.count(&Mail { credential: "", ..ORDERS }, STRANGER, 500, NOW);
    assert_eq!(trusted.steps, [], "a network has no login");
}

#[test]
fn windows_hold_what_they_say_and_are_exact_to_a_slot() {
    let start = Timestamp::from_secs(1_800_000_000 / 86_400 * 86_400);
    for (span, inside, outside) in
        [(Span::Hour, HOUR, MINUTE * 65), (Span::Day, DAY, HOUR * 25), (Span::Week, DAY * 7, DAY * 8)]
    {
        let mut windows = Windows::new(start);
        windows.count(DELIVERED, start);
        assert_eq!(windows.sum(span, start.after(inside)).delivered, 1, "{span:?}");
        assert_eq!(windows.sum(span, start.after(outside)).delivered, 0, "{span:?}");
        windows.count(GONE, start.after(outside));
        assert_eq!(windows.sum(span, start.after(outside)).answers(), 1, "{span:?}: the slot was emptied");
        // Set back a year: it counts on, and nothing is counted twice.
        windows.count(GONE, start.before(DAY * 365));
        assert_eq!(windows.sum(span, start.after(outside)).bounced, 2, "{span:?}");
        windows.count(GONE, start.after(DAY * 4000));
        assert_eq!(windows.sum(span, start.after(DAY * 4000)).bounced, 1, "{span:?}");
    }
}

#[test]
fn counts_and_pauses_are_kept_over_a_restart() {
    let mut bench = Bench::new();
    bench.count(&NEWS, DELIVERED, 1800, NOW).count(&NEWS, GONE, 300, NOW);
    let mut again = Book::default();
    for (scope, record) in bench.book.changed() {
        let (kind, name, record) = (scope.kind(), scope.name(), record.unwrap());
        assert_eq!(Scope::read(kind, &name), Some(scope.clone()));
        for cut in 0..record.len() {
            assert_eq!(Windows::read(&record[..cut]), None);
        }
        again.restore_counts(scope, &record);
    }
    assert!(bench.book.changed().is_empty(), "told once");
    for span in Span::ALL {
        assert_eq!(again.counts(span, NOW), bench.book.counts(span, NOW));
    }
    assert_eq!(again.counts(Span::Hour, NOW).len(), 6);
    let (paused, pause) = bench.book.pauses().next().unwrap();
    let read = Pause::read(&pause.record());
    assert_eq!((read.why, read.since, read.of, read.per_hour), (pause.why, pause.since, pause.of, pause.per_hour));
    again.restore_pause(paused.clone(), read);
    assert!(again.hold("shop", "newsletter", StreamKind::Marketing).is_some());
    assert_eq!(Pause::read("gibberish").why, Why::Complaints, "what cannot be read pauses");
    let suspension = Suspension { since: NOW, because: "by root: stolen".into() };
    assert_eq!(Suspension::read(&suspension.record()), suspension);
    bench.book.resume(&sender(), NOW);
    assert!(bench.book.changed().contains(&(Scope::Sender(sender()), None)), "what began anew is removed");
    bench.book.forget(NOW.after(DAY * 9));
    assert!(bench.book.counts(Span::Week, NOW).is_empty());
}

#[test]
fn sentences_say_what_why_and_how_it_ends() {
    let after = Counts::default();
    let pause = Pause { why: Why::Complaints, since: NOW, share: 0.0041, of: 5210, per_hour: 0, after };
    assert_eq!(
        pause.sentence(&sender()),
        "shop/newsletter is paused: complaints of 0.41 % of 5,210, since 2027-01-15 08:00 UTC; ends when an operator says \
         `postrider rates resume shop/newsletter`"
    );
    for (number, want) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
        assert_eq!(grouped(number), want);
    }
    assert_eq!(Sender::parse("/news"), Some(Sender::new("", "news")));
    for bad in ["", "news", "shop/"] {
        assert_eq!(Sender::parse(bad), None, "{bad}");
    }
}

#[test]
fn scopes_are_bounded() {
    let mut bench = Bench::new();
    for number in 0..10_000u64 {
        let domain = format!("d{number}.example");
        bench.count(&Mail { domain: &domain, ..NEWS }, DELIVERED, 1, NOW.after(Duration::from_secs(number)));
    }
    assert!(bench.book.windows.len() <= SCOPES_MAX);
}

#[test]
fn mail_that_is_held_does_not_grow_older() {
    const HOUR: Duration = Duration::from_secs(3600);
    const DAY: Duration = Duration::from_secs(86_400);
    let (news, orders) = (("shop", "newsletter", StreamKind::Marketing), ("shop", "orders", StreamKind::Transactional));
    let life = (NOW, NOW.after(2 * DAY));
    let mut bench = Bench::new();
    bench.count(&NEWS, DELIVERED, 100, NOW).count(&NEWS, GONE, 100, NOW.after(DAY));
    assert!(bench.is_held(&NEWS));
    let (book, later) = (&mut bench.book, NOW.after(10 * DAY));
    assert!(book.expiry(news, life, later) > later, "however long it lasts");
    assert_eq!(book.expiry(orders, life, later), life.1, "others expire");
    assert!(book.resume(&sender(), later));
    assert_eq!(book.expiry(news, life, later.after(HOUR)), later.after(DAY), "the day that it had");
    assert_eq!(book.expiry(news, (later, later.after(HOUR)), later), later.after(HOUR), "what came after has its own");
    // A suspension holds all; a second order changes nothing of when it began.
    for (since, because) in [(later, "by ann"), (later.after(HOUR), "by bob")] {
        assert!(book.suspend("shop", Suspension { since, because: because.into() }));
    }
    assert!(book.unsuspend("shop", later.after(3 * DAY)));
    assert_eq!(book.expiry(news, life, later.after(3 * DAY)), later.after(4 * DAY));
    assert_eq!(book.expiry(orders, (later, later.after(HOUR)), later.after(3 * DAY)), later.after(3 * DAY + HOUR));
    assert!(book.lengthens_any() && !book.holds_any());
    assert_eq!(book.drop_rests(later), []);
    assert_eq!(book.drop_rests(later.after(200 * DAY)).len(), 2);
    assert!(!book.lengthens_any());
}
