//! The numbers that the daemon shows: what each is called, what it counts, what a high value means, and how a page of
//! them is written for Prometheus (text format 0.0.4).
//!
//! Pure. The rooms count in the types of [`count`]; the roof collects what they counted into a [`Page`]; `http` offers
//! it. The `# HELP` lines and `docs/METRICS.md` are both made from [`table`], the one place where a metric is described.

pub mod count;
#[cfg(test)]
mod faults;
mod page;
mod table;
#[cfg(test)]
mod tests;

pub use page::{Gauge, Page};
pub use table::Metric;

/// The value of a label for everything beyond the names that are known: no label has a value that a stranger chose.
pub const OTHER: &str = "other";

/// How a metric's value moves.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// It only rises, from 0 at each start of the daemon. Use it under `rate()` or `increase()`.
    Counter,
    /// It is as it is now.
    Gauge,
    /// Counters of how many observations were at most so large, with their sum.
    Histogram,
}

impl Kind {
    /// The word of a `# TYPE` line.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// All that is said of a metric.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Description {
    /// Its name, unit and all.
    pub name: &'static str,
    /// How it moves.
    pub kind: Kind,
    /// What one of it is; Prometheus' base units only.
    pub unit: &'static str,
    /// The names of its labels, in the order of their values.
    pub labels: &'static [&'static str],
    /// What is counted: the `# HELP` line. One sentence.
    pub counts: &'static str,
    /// What a high value means, and what to do then.
    pub high: &'static str,
}

impl Metric {
    /// What is said of it.
    pub fn description(self) -> &'static Description {
        &table::DESCRIPTIONS[self as usize]
    }
}

/// `docs/METRICS.md`, whole.
pub fn document() -> String {
    let mut text = table::PREFACE.to_owned();
    for (title, metrics) in table::SECTIONS {
        text.push_str(&format!("\n## {title}\n\n| metric | what is counted | a high value |\n|---|---|---|\n"));
        for metric in *metrics {
            let Description { name, kind, unit, labels, counts, high } = metric.description();
            let labels = match labels {
                [] => String::new(),
                some => format!(" by {}", some.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ")),
            };
            text.push_str(&format!("| `{name}`<br>{} of {unit}{labels} | {counts} | {high} |\n", kind.name()));
        }
    }
    text
}
