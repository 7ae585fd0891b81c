//! A page of values in Prometheus' text format.

use std::collections::HashSet;
use std::fmt::Write;

use super::count::Counted;
use super::{Description, Kind, Metric};

/// Most values of one metric on a page: whatever goes wrong with a label, a page stays small.
const SERIES_MAX: usize = 4096;

/// One value of a gauge or counter, as a room hands it over that cannot write on the page itself.
#[derive(Clone, PartialEq, Debug)]
pub struct Gauge {
    /// Which.
    pub metric: Metric,
    /// The values of its labels, in the order of the description.
    pub labels: Vec<Box<str>>,
    /// How much.
    pub value: f64,
}

/// Values in the order in which they are put; written in the order of the table.
#[derive(Debug, Default)]
pub struct Page {
    families: Vec<Family>,
}

#[derive(Debug, Default)]
struct Family {
    lines: String,
    series: HashSet<String>,
}

impl Page {
    /// Puts a value. One that was put before with the same labels stays: a page never has a series twice.
    pub fn put(&mut self, metric: Metric, labels: &[&str], value: f64) {
        debug_assert!(metric.description().kind != Kind::Histogram, "{metric:?} is a histogram");
        self.series(metric, labels, |lines, name, labels| line(lines, name, "", labels, None, value));
    }

    /// As [`Page::put`], of whole numbers.
    pub fn count(&mut self, metric: Metric, labels: &[&str], value: u64) {
        // Exact up to 2^53: nine million billion.
        self.put(metric, labels, value as f64);
    }

    /// Puts a histogram.
    pub fn histogram(&mut self, metric: Metric, labels: &[&str], counted: &Counted) {
        debug_assert!(metric.description().kind == Kind::Histogram, "{metric:?} is no histogram");
        self.series(metric, labels, |lines, name, labels| {
            let mut below = 0;
            for (bound, count) in counted.buckets() {
                below += count;
                line(lines, name, "_bucket", labels, Some(bound), below as f64);
            }
            line(lines, name, "_sum", labels, None, counted.sum_seconds);
            line(lines, name, "_count", labels, None, below as f64);
        });
    }

    /// Puts what another room handed over.
    pub fn gauges(&mut self, gauges: impl IntoIterator<Item = Gauge>) {
        for gauge in gauges {
            let labels: Vec<&str> = gauge.labels.iter().map(|label| &**label).collect();
            self.put(gauge.metric, &labels, gauge.value);
        }
    }

    fn series(&mut self, metric: Metric, values: &[&str], write: impl FnOnce(&mut String, &str, &str)) {
        let Description { name, labels, .. } = metric.description();
        debug_assert!(labels.len() == values.len(), "{metric:?} has the labels {labels:?}, not {values:?}");
        let spelt: Vec<String> =
            labels.iter().zip(values).map(|(label, value)| format!("{label}=\"{}\"", escaped(value))).collect();
        let spelt = spelt.join(",");
        let place = metric as usize;
        if self.families.len() <= place {
            self.families.resize_with(place + 1, Family::default);
        }
        let Some(family) = self.families.get_mut(place) else { return };
        if family.series.len() < SERIES_MAX && family.series.insert(spelt.clone()) {
            write(&mut family.lines, name, &spelt);
        }
    }

    /// The page as a text. Metrics without a value are left out, with their description.
    pub fn text(&self) -> String {
        let mut text = String::with_capacity(16 * 1024);
        for metric in Metric::ALL {
            let Some(family) = self.families.get(*metric as usize).filter(|family| !family.lines.is_empty()) else {
                continue;
            };
            let Description { name, kind, counts, .. } = metric.description();
            let help = counts.replace('\\', "\\\\").replace('\n', "\\n");
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {}\n{}", kind.name(), family.lines);
        }
        text
    }
}

fn line(lines: &mut String, name: &str, suffix: &str, labels: &str, bound: Option<f64>, value: f64) {
    let bound = bound.map(|bound| format!("le=\"{}\"", number(bound)));
    let labels = match (labels, bound) {
        ("", None) => String::new(),
        ("", Some(bound)) => format!("{{{bound}}}"),
        (labels, None) => format!("{{{labels}}}"),
        (labels, Some(bound)) => format!("{{{labels},{bound}}}"),
    };
    let _ = writeln!(lines, "{name}{suffix}{labels} {}", number(value));
}

/// Go's `ParseFloat` reads it, and so does every client.
fn number(value: f64) -> String {
    match value {
        _ if value == f64::INFINITY => "+Inf".to_owned(),
        _ if value == f64::NEG_INFINITY => "-Inf".to_owned(),
        _ if value.is_nan() => "NaN".to_owned(),
        _ => format!("{value}"),
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
