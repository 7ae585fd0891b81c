//! The engine on a virtual clock against simulated providers, in random worlds: what peers count, in which order mail
//! goes, and that all of it comes to an end. The seed of a world that failed is printed; `POSTRIDER_WORLDS=5000` tries so
//! many, `POSTRIDER_WORLD=SEED` that one alone.

mod accountant;
mod calm;
mod days;
mod provider;
mod strangers;
mod town;
mod truth;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use days::Days;
use town::{Making, Mistake};

/// Worlds that are tried where nobody says how many.
const WORLDS: u64 = 24;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// By the seed, so that any of them can be lived again.
fn making(seed: u64) -> Making {
    let is = |n: u64| seed.is_multiple_of(n);
    Making { limits: !is(5), warmup: is(3), trouble: !is(4), mistake: None }
}

#[derive(Default)]
struct Sum {
    worlds: u64,
    sends: u64,
    dials: u64,
    crashes: u64,
    /// Worlds in which some window was full.
    full: u64,
}

fn live(seed: u64, making: Making) -> Days {
    let mut days = Days::new(seed, making);
    days.live();
    days
}

#[test]
fn in_random_worlds_every_promise_is_kept() {
    let (first, count) = chosen(WORLDS, 1);
    let mut sum = Sum::default();
    for seed in first..first + count {
        let days = catch_unwind(AssertUnwindSafe(|| live(seed, making(seed)))).unwrap_or_else(|broken| {
            println!("POSTRIDER_WORLD={seed} shows it again");
            resume_unwind(broken)
        });
        let books = &days.town.borrow().accountant;
        sum.worlds += 1;
        sum.sends += u64::from(books.sends);
        sum.dials += u64::from(books.dials);
        sum.crashes += u64::from(days.world.crashes);
        sum.full += u64::from(books.fullest >= 1000);
        if seed % 20 == 0 {
            let again = live(seed, making(seed)).world.trace;
            assert_eq!(days.world.trace, again, "seed {seed}: the same world went otherwise");
        }
    }
    let Sum { worlds, sends, dials, crashes, full } = sum;
    println!("{worlds} worlds: {sends} messages over {dials} connections, {crashes} crashes; {full} had a full window");
    let proves = full * 10 > worlds && crashes > worlds / 4;
    assert!(proves || count == 1, "they prove little: {full} full windows and {crashes} crashes in {worlds} worlds");
}

/// A full disk, a reload during a look-up, and a window of its own that shuts a domain whose hosts nobody knows.
#[test]
fn worlds_that_broke_a_promise_once_keep_it() {
    for seed in [18, 2602, 3466] {
        live(seed, making(seed));
    }
}

/// The first seed and how many: `few`, or one in `of_all` of POSTRIDER_WORLDS; from POSTRIDER_WORLD on, that one alone if
/// no number is given.
fn chosen(few: u64, of_all: u64) -> (u64, u64) {
    let first = number("POSTRIDER_WORLD");
    let many = number("POSTRIDER_WORLDS").map(|worlds| (worlds / of_all).max(few));
    (first.unwrap_or(0), many.unwrap_or(if first.is_some() { 1 } else { few }))
}

/// Lives so many worlds of a kind; the seed of one that breaks a promise is printed.
fn each(few: u64, of_all: u64, live: impl Fn(u64)) {
    let (first, count) = chosen(few, of_all);
    for seed in first..first + count {
        catch_unwind(AssertUnwindSafe(|| live(seed))).unwrap_or_else(|broken| {
            println!("POSTRIDER_WORLD={seed} shows it again");
            resume_unwind(broken)
        });
    }
}

#[test]
fn the_tightest_limit_is_used_while_mail_waits() {
    each(10, 5, |seed| {
        let used = calm::share_used(seed);
        assert!((0.98..=1.02).contains(&used), "{:.1} % of the limit", used * 100.0);
    });
}

#[test]
fn a_dead_site_delays_no_other_by_more_than_a_tick() {
    each(10, 5, |seed| {
        let delay = calm::delay_by_the_dead(seed);
        assert!(delay <= Duration::from_millis(1), "by {delay:?}");
    });
}

#[test]
fn a_provider_that_tells_nothing_refuses_rarely() {
    each(2, 50, |seed| {
        let day = strangers::day(seed);
        assert!(day.later <= 30 && day.learning <= 20 && day.used.is_none_or(|used| used >= 0.8), "{day:?}");
    });
}

/// A promise that cannot be seen broken is not checked.
#[test]
fn mistakes_that_are_made_on_purpose_are_seen() {
    for mistake in [
        Mistake::WindowOffByOne,
        Mistake::SlotFreeAtQuit,
        Mistake::MarketingOneInNine,
        Mistake::LadderOffByOne,
        Mistake::ForgetfulDisk,
        Mistake::UntoldClock,
        Mistake::QuarterForgotten,
    ] {
        let caught = (0..60).find_map(|seed| {
            let warmup = mistake == Mistake::LadderOffByOne;
            let making = Making { limits: true, trouble: true, warmup, mistake: Some(mistake) };
            let broken = catch_unwind(AssertUnwindSafe(|| live(seed, making))).err()?;
            Some((seed, broken.downcast_ref::<String>().cloned().unwrap_or_default()))
        });
        let (seed, text) = caught.unwrap_or_else(|| panic!("{mistake:?} was not seen in 60 worlds"));
        println!("{mistake:?}: world {seed}: {text}");
        let making = Making { limits: true, trouble: true, warmup: mistake == Mistake::LadderOffByOne, mistake: None };
        live(seed, making);
    }
}
