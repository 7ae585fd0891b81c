//! Tests of the table and of what is written: the rules of the text format, as `promtool check metrics` has them.

use std::collections::HashSet;
use std::time::Duration;

use super::count::{Counter, Family, Histogram, NAMES_MAX, TOP_MAX, Tally, Top};
use super::faults::{faults, is_name};
use super::*;

/// Every metric once, with a label value that needs every escape.
fn full_page() -> Page {
    let mut page = Page::default();
    for metric in Metric::ALL {
        let description = metric.description();
        let labels = vec!["a \\ \"quoted\"\nvalue"; description.labels.len()];
        match description.kind {
            Kind::Histogram => {
                let histogram = Histogram::new(count::ATTEMPT_BOUNDS);
                for millis in [1, 50, 51, 700, 10_000_000] {
                    histogram.observe(Duration::from_millis(millis));
                }
                page.histogram(*metric, &labels, &histogram.read());
            }
            Kind::Counter | Kind::Gauge => page.count(*metric, &labels, 7),
        }
    }
    page
}

#[test]
fn a_full_page_keeps_the_rules_of_the_format() {
    let text = full_page().text();
    assert_eq!(faults(&text), Vec::<String>::new(), "{text}");
    assert!(text.contains(r#"stream="a \\ \"quoted\"\nvalue""#), "{text}");
    for metric in Metric::ALL {
        assert!(text.contains(&format!("# TYPE {} ", metric.description().name)), "{metric:?}");
    }
}

#[test]
fn the_rules_see_what_is_wrong() {
    let head = "# HELP a_total x\n# TYPE a_total counter\n";
    for wrong in [
        "a_total 1\na_total 2\n",
        "b_total 1\n",
        "a_total -1\n",
        "a_total{x=\"1\n",
        "a_total{x=\"\\q\"} 1\n",
        "a_total{x=\"1\",x=\"2\"} 1\n",
        "a_total{1x=\"1\"} 1\n",
        "a_total one\n",
        "a_total 1",
        "# TYPE a_total counter\n",
        "# TYPE c gauge\n",
    ] {
        assert_ne!(faults(&format!("{head}{wrong}")), Vec::<String>::new(), "{wrong}");
    }
    let histogram = "# HELP h x\n# TYPE h histogram\n";
    for wrong in [
        "h_bucket{le=\"1\"} 2\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 1\n",
        "h_bucket{le=\"1\"} 1\nh_sum 1\nh_count 1\n",
        "h_bucket{le=\"+Inf\"} 2\nh_sum 1\nh_count 3\n",
    ] {
        assert_ne!(faults(&format!("{histogram}{wrong}")), Vec::<String>::new(), "{wrong}");
    }
    assert_eq!(faults(&format!("{head}a_total{{x=\"1\"}} 1\n")), Vec::<String>::new());
}

/// The naming rules of Prometheus' documentation, which `promtool check metrics` lints for.
#[test]
fn names_say_unit_and_type_as_prometheus_wants_them() {
    let mut seen = HashSet::new();
    for metric in Metric::ALL {
        let Description { name, kind, labels, counts, high, .. } = *metric.description();
        assert!(seen.insert(name), "{name} twice");
        assert!(is_name(name, false) && name == name.to_lowercase(), "{name}");
        assert!(name.starts_with("postrider_") || name.starts_with("process_"), "{name}");
        assert_eq!(name.ends_with("_total"), kind == Kind::Counter, "{name}");
        for reserved in ["_count", "_sum", "_bucket", "_info_total"] {
            assert!(!name.ends_with(reserved), "{name}");
        }
        for other_unit in
            ["millisecond", "microsecond", "minute", "kilobyte", "megabyte", "kib", "mib", "percent", "_ms"]
        {
            assert!(!name.contains(other_unit), "{name}: base units only");
        }
        if kind == Kind::Histogram {
            assert!(name.ends_with("_seconds"), "{name}");
        }
        for label in labels {
            assert!(is_name(label, false) && !label.starts_with("__") && *label != "le", "{name}: {label}");
        }
        for text in [counts, high] {
            assert!(text.ends_with('.') && !text.contains(['|', '\n']) && !text.contains("  "), "{name}: {text:?}");
        }
    }
    let listed: usize = table::SECTIONS.iter().map(|(_, metrics)| metrics.len()).sum();
    assert_eq!(listed, Metric::ALL.len());
}

#[test]
fn the_document_is_what_the_table_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/METRICS.md");
    let want = document();
    if std::env::var_os("POSTRIDER_BLESS").is_some() {
        std::fs::write(path, &want).unwrap();
    }
    let have = std::fs::read_to_string(path).unwrap_or_default();
    assert!(have == want, "docs/METRICS.md is old: POSTRIDER_BLESS=1 cargo test --lib metrics");
}

/// A rule over a metric that does not exist never fires.
#[test]
fn the_alert_rules_and_the_manual_name_metrics_labels_and_causes_that_exist() {
    let rules = include_str!("../../conf/prometheus-rules.yml");
    let manual = include_str!("../../docs/OPERATIONS.md");
    let words = |text: &'static str| text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let mut used = HashSet::new();
    for word in words(rules).chain(words(manual)).filter(|word| word.starts_with("postrider_")) {
        let known = Metric::ALL.iter().any(|metric| metric.description().name == word);
        assert!(known, "{word} is no metric");
        used.insert(word);
    }
    assert!(used.len() >= 5, "{used:?}");
    for expected in
        ["PostriderAlarm", "PostriderDown", "PostriderTransactionalWaits", "PostriderSiteDefers", "PostriderBug"]
    {
        assert!(rules.contains(&format!("alert: {expected}\n")) && manual.contains(expected), "{expected}");
    }
    for selector in ["kind=\"transactional\"", "verdict=\"deferred\"", "(instance, site, source)", "(instance, cause)"]
    {
        assert!(rules.contains(selector), "{selector}");
    }
}

#[test]
fn a_series_is_put_once_and_an_empty_family_is_left_out() {
    let mut page = Page::default();
    page.count(Metric::QueuePastAge, &[], 1);
    page.count(Metric::QueuePastAge, &[], 2);
    page.gauges([Gauge { metric: Metric::PeersOpen, labels: vec!["a".into()], value: 3.0 }]);
    let text = page.text();
    assert!(text.contains("\npostrider_queue_past_age_envelopes 1\n") && !text.contains("envelopes 2"), "{text}");
    assert!(text.contains("\npostrider_peer_connections{source=\"a\"} 3\n"), "{text}");
    assert_eq!(text.matches("# TYPE").count(), 2);
}

#[test]
fn a_family_and_a_tally_stay_small() {
    let family: Family<count::Counter> = Family::default();
    for number in 0..10_000 {
        family.of(&format!("stream-{number}")).one();
    }
    let all = family.all();
    assert_eq!(all.len(), NAMES_MAX + 1);
    assert_eq!(all.iter().map(|(_, counter)| counter.read()).sum::<u64>(), 10_000);
    assert_eq!(family.of(OTHER).read(), 10_000 - NAMES_MAX as u64);
    let tally = Tally::default();
    tally.one("4.3.1");
    tally.one("4.3.1");
    assert_eq!(tally.all(), [("4.3.1", 2)]);
}

#[test]
fn the_sites_used_most_are_told_apart_and_the_others_together() {
    let top: Top<Counter> = Top::default();
    let read =
        |name: &str| top.all().into_iter().find(|(known, _)| &**known == name).map(|(_, counter)| counter.read());
    for number in 0..100_000 {
        top.of(&format!("mx{number}.example")).one();
        if number >= 50_000 {
            top.of("big.example").one();
        }
    }
    // Its first 19 are in `other`, for good; the first 32 of all had their names at once.
    assert_eq!((top.all().len(), read("mx31.example"), read("mx32.example")), (34, Some(1), None));
    assert_eq!((read("big.example"), read(OTHER)), (Some(49_981), Some(99_968 + 19)));

    for round in 0..100 {
        for number in 0..1000 {
            top.of(&format!("round{}.example", (number + round) % 1000)).one();
        }
    }
    assert_eq!(top.all().len(), TOP_MAX + 1, "their number is bounded");
    let all: u64 = top.all().iter().map(|(_, counter)| counter.read()).sum();
    // `big` was idle for long enough to make room, and its own count went with it.
    assert_eq!((read("big.example"), read("mx31.example"), all), (None, None, 150_000 + 100_000 - 49_981 - 32));
    top.of(OTHER).one();
    assert_eq!(top.all().iter().filter(|(name, _)| &**name == OTHER).count(), 1);
}

#[test]
fn a_duration_counts_in_the_first_bucket_that_holds_it() {
    let histogram = Histogram::new(&[0.1, 1.0]);
    for millis in [0, 100, 101, 1000, 1001, 60_000] {
        histogram.observe(Duration::from_millis(millis));
    }
    let counted = histogram.read();
    assert_eq!(counted.buckets().collect::<Vec<_>>(), [(0.1, 2), (1.0, 2), (f64::INFINITY, 2)]);
    assert_eq!(counted.total(), 6);
    assert!((counted.sum_seconds - 62.202).abs() < 1e-9);
}
