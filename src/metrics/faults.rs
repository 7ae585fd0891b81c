//! A strict reader of the text format, for tests: of what is made here, and of what a daemon answers (`tests/it/metrics`).

use std::collections::{BTreeMap, HashSet};

/// What is wrong with a page: the format's rules and the naming rules of promtool's linter.
pub fn faults(page: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let mut types: BTreeMap<String, String> = BTreeMap::new();
    let mut helped = HashSet::new();
    let mut series = HashSet::new();
    let mut current = String::new();
    let mut buckets: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    let mut counts: BTreeMap<String, f64> = BTreeMap::new();
    if !page.is_empty() && !page.ends_with('\n') {
        faults.push("the last line is not ended".to_owned());
    }
    for line in page.lines() {
        let mut fault = |what: &str| faults.push(format!("{what}: {line}"));
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap_or((rest, ""));
            if help.is_empty() || !helped.insert(name.to_owned()) {
                fault("no help, or a second one");
            }
            continue;
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or((rest, ""));
            if !["counter", "gauge", "histogram"].contains(&kind) || types.insert(name.into(), kind.into()).is_some() {
                fault("an unknown type, or a second one");
            }
            if !helped.contains(name) {
                fault("TYPE without HELP before it");
            }
            current = name.to_owned();
            continue;
        }
        let Some(sample) = Sample::read(line) else {
            fault("not a sample");
            continue;
        };
        let kind = types.get(&current).map_or("", String::as_str);
        let family = match kind {
            "histogram" => ["_bucket", "_sum", "_count"].iter().find_map(|suffix| sample.name.strip_suffix(suffix)),
            _ => Some(&*sample.name),
        };
        if family != Some(&current) {
            fault("a sample outside of its family");
        }
        if !series.insert((sample.name.clone(), sample.labels.clone())) {
            fault("a series twice");
        }
        if kind == "counter" && (sample.value < 0.0 || sample.value.is_nan()) {
            fault("a counter below 0");
        }
        let rest: Vec<_> = sample.labels.iter().filter(|(name, _)| name != "le").cloned().collect();
        let key = format!("{current}{rest:?}");
        if sample.name.ends_with("_bucket") && kind == "histogram" {
            let bound =
                sample.labels.iter().find(|(name, _)| name == "le").map(|(_, bound)| bound.replace("+Inf", "inf"));
            let bound = bound.and_then(|bound| bound.parse().ok()).unwrap_or(f64::NAN);
            buckets.entry(key).or_default().push((bound, sample.value));
        } else if sample.name.ends_with("_count") && kind == "histogram" {
            counts.insert(key, sample.value);
        }
    }
    for (key, buckets) in buckets {
        let rising = buckets.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1);
        let whole =
            buckets.last().is_some_and(|(bound, count)| *bound == f64::INFINITY && counts.get(&key) == Some(count));
        if !rising || !whole {
            faults.push(format!("a histogram that does not add up: {key}"));
        }
    }
    faults
}

struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Sample {
    /// `name{label="value",…} number`, by the grammar of the text format.
    fn read(line: &str) -> Option<Sample> {
        let name_end = line.find(['{', ' '])?;
        let name = line[..name_end].to_owned();
        is_name(&name, true).then_some(())?;
        let mut labels = Vec::new();
        let mut rest = &line[name_end..];
        if let Some(inside) = rest.strip_prefix('{') {
            rest = inside;
            while !rest.starts_with('}') {
                let (label, after) = rest.split_once("=\"")?;
                is_name(label, false).then_some(())?;
                let (mut value, mut end, mut chars) = (String::new(), None, after.char_indices());
                while let Some((at, char)) = chars.next() {
                    match char {
                        '"' => {
                            end = Some(at);
                            break;
                        }
                        '\\' => value.push(match chars.next()?.1 {
                            'n' => '\n',
                            same @ ('\\' | '"') => same,
                            _ => return None,
                        }),
                        char => value.push(char),
                    }
                }
                if labels.iter().any(|(name, _)| name == label) {
                    return None;
                }
                labels.push((label.to_owned(), value));
                rest = &after[end? + 1..];
                rest = rest.strip_prefix(',').unwrap_or(rest);
            }
            rest = &rest[1..];
        }
        let number = rest.strip_prefix(' ')?;
        let value = number.replace("+Inf", "inf").parse().ok()?;
        Some(Sample { name, labels, value })
    }
}

/// The grammar of a metric's name, which may have colons, or a label's.
pub fn is_name(text: &str, colons: bool) -> bool {
    let sound = |c: char| c.is_ascii_alphanumeric() || c == '_' || (colons && c == ':');
    !text.is_empty() && !text.starts_with(|c: char| c.is_ascii_digit()) && text.chars().all(sound)
}
