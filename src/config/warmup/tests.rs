//! The shipped curves, and thirty days of each against three temperaments of provider: `docs/WARMUP.md`.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::time::Timestamp;
use crate::traffic::warmup::{Day, Judgement, Kind, Ladder};

/// What curves in per cent are a share of here.
const USUAL: u32 = 20_000;
const DAYS: u32 = 30;
const FIRST: u32 = 20_600;

#[derive(Clone, Copy, PartialEq)]
enum Temper {
    Agreeable,
    Strict,
    Hostile,
}

/// One day's budget, what went, and what was judged of it.
type Row = (Option<u32>, u32, Judgement);

/// A sender with mail enough for every budget.
fn thirty_days(curve: &Curve, temper: Temper) -> Vec<Row> {
    let mut ladder = Ladder::new();
    let mut trusted = 1000_u32;
    let mut rows = Vec::new();
    for number in 0..DAYS {
        let hours = SendHours::new(8, 20).unwrap();
        let day = Day::of(Zone::UTC.hour(FIRST + number, 0), &Zone::UTC, hours);
        ladder.roll(day, curve, USUAL);
        let mut at: Timestamp = day.opens;
        let (mut taken, budget) = (0, ladder.view().budget);
        while at < day.closes && budget.is_some() {
            if ladder.record_due() {
                let (_, kept) = ladder.record();
                ladder.keep(kept);
            }
            let count = ladder.allowance(at).now;
            if count == 0 {
                at = at.after(Duration::from_secs(60));
                continue;
            }
            ladder.spend(at, Kind::Marketing, count);
            let hostile = temper == Temper::Hostile && number == 8 && ladder.view().used * 2 > budget.unwrap_or(0);
            let welcome = match temper {
                // It trusts a quarter more than what it took on the best day before.
                Temper::Strict => trusted.saturating_sub(taken).min(count),
                Temper::Hostile if hostile => 0,
                Temper::Hostile | Temper::Agreeable => count,
            };
            taken += welcome;
            ladder.delivered(welcome);
            if hostile {
                ladder.blocked(curve, USUAL);
            } else {
                ladder.deferred_for_reputation(count - welcome);
            }
        }
        trusted = trusted.max(taken + taken / 4);
        rows.push((budget, ladder.view().attempted, ladder.judge()));
    }
    rows
}

fn mark(judgement: Judgement) -> &'static str {
    match judgement {
        Judgement::Passed | Judgement::New | Judgement::NotASendingDay | Judgement::Set | Judgement::Unknown => "",
        Judgement::TooFewDelivered | Judgement::Deferred | Judgement::Held => " =",
        Judgement::ManyDeferred | Judgement::Idle => " −",
        Judgement::Blocked => " ×",
    }
}

fn page() -> String {
    let mut page = include_str!("rules.md").to_owned();
    for (name, warmup) in shipped() {
        let _ = write!(page, "\n## `{name}`\n\n{}\n", warmup.based_on);
        let entries = warmup.provider.iter().map(|(provider, entry)| (provider.as_str(), entry));
        for (provider, entry) in std::iter::once(("", &warmup)).chain(entries) {
            if !provider.is_empty() {
                let _ = write!(page, "\n### `{name}` at `{provider}`\n\n{}\n", entry.based_on);
            }
            let curve = entry.curve().unwrap();
            let days = [Temper::Agreeable, Temper::Strict, Temper::Hostile].map(|temper| thirty_days(&curve, temper));
            page.push_str("\n| day | agreeable | strict | hostile on day 9 |\n|---:|---:|---:|---:|\n");
            for number in 0..DAYS as usize {
                let _ = write!(page, "| {} |", number + 1);
                for column in &days {
                    let (budget, sent, judgement) = column[number];
                    let _ = match budget {
                        None => write!(page, " warm |"),
                        Some(_) => write!(page, " {sent}{} |", mark(judgement)),
                    };
                }
                page.push('\n');
            }
        }
    }
    page
}

#[test]
fn thirty_days_of_warm_up_are_what_the_page_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/WARMUP.md");
    let page = page();
    if std::env::var_os("POSTRIDER_WRITE_DOCS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let stands = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(stands == page, "docs/WARMUP.md is not what the curves do: POSTRIDER_WRITE_DOCS=1 cargo test thirty_days");
}

#[test]
fn each_shipped_curve_is_sound_and_says_where_it_comes_from() {
    let names: Vec<String> = shipped().into_keys().collect();
    assert_eq!(names, ["cautious", "sendgrid", "ses", "sparkpost", "standard"]);
    for (name, warmup) in shipped() {
        for entry in std::iter::once(&warmup).chain(warmup.provider.values()) {
            assert!(entry.curve().is_ok() && entry.based_on.len() > 20, "{name}");
        }
    }
    let sendgrid = shipped()["sendgrid"].curve().unwrap();
    let published = [20, 28, 39, 55, 77, 108, 151, 211, 295, 413, 579, 810];
    for (stage, hourly) in (0..).zip(published) {
        let hour = sendgrid.budget(stage, 0).unwrap().div_ceil(24);
        assert!(hour.abs_diff(hourly) <= 1, "stage {stage}: {hour} for {hourly}");
    }
    assert_eq!(sendgrid.stages(), 36);
}

#[test]
fn a_curve_is_written_in_one_way() {
    let read = |text: &str| toml::from_str::<Warmup>(text).unwrap().curve().map_err(|(key, _)| key);
    let rows = [
        ("table = [1, 2]", None),
        ("start = 1\nfactor = 2\nup_to = 9", None),
        ("start = 1\nstep = 2\nup_to = 9", None),
        ("percent = [1, 50.5]", None),
        ("", Some("")),
        ("table = [1]\nup_to = 9", Some("up_to")),
        ("table = [2, 1]", Some("table")),
        ("start = 1\nfactor = 2", Some("start")),
        ("start = 1\nfactor = 0.5\nup_to = 9", Some("factor")),
        ("start = 1\nstep = 0\nup_to = 9", Some("step")),
        ("percent = [nan]", Some("percent")),
        ("table = [1]\npercent = [1]", Some("")),
        ("start = 1\nfactor = 2\nstep = 2\nup_to = 9", Some("")),
    ];
    for (text, wrong) in rows {
        assert_eq!(read(text).err(), wrong, "{text}");
    }
}
