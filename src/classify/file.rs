//! The rules' file: TOML in, compiled rules out, and every mistake with its line, rule, key and what would be right.
//!
//! Called by `Rules::read`. It reads no disk. The keys are told in docs/REPLIES.md; [`KEYS`] is their list.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use regex::bytes::Regex;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::meaning::{Class, Reaction, Scope, VerdictKind};
use super::proof::{self, Proof};
use super::rule::{self, Death, Rule, Rules, StatusRange, Then, When};
use super::{Observation, SHIPPED_NAME, stage_named};
use crate::mail::{Cause, Domain, Reply, Stage};

/// Rules of all files together.
const RULES_MAX: usize = 2000;
/// Longest text of a rule as written. Unit: bytes.
const PATTERN_LENGTH_MAX: usize = 8000;
/// `hold` of `slow` without a `rate`: as soon as the engine probes anything. What it took of late is near the truth, so
/// that a longer wait would cost more than a probe that is refused.
const LEARNED_HOLD: Duration = Duration::from_secs(60);
/// Bounds of `again` and `hold`.
const WAITS: RangeInclusive<u64> = 30..=7 * 86_400;

const KEYS: [&str; 21] = [
    "name",
    "reason",
    "stage",
    "code",
    "status",
    "text",
    "unless",
    "mx",
    "class",
    "scope",
    "verdict",
    "suppress",
    "again",
    "action",
    "rate",
    "hold",
    "most",
    "trigger",
    "reputation",
    "block",
    "alarm",
];
const SAMPLES: &str = "samples";
/// The table of what a reply of a dead mailbox may say.
const DEAD: &str = "dead";
const DURATION: &str = "a duration such as \"30s\", \"15m\", \"2h\" or \"1d\", 30s to 7d, is expected";

/// One thing that is wrong with a file of rules.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Flaw {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The rule's name, if it has one.
    pub rule: String,
    /// The key; empty if none is to blame.
    pub key: String,
    /// What would be right.
    pub right: String,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)?;
        if !self.rule.is_empty() {
            write!(f, ": rule \"{}\"", self.rule)?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.right)
    }
}

/// All that is wrong. Never empty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Flaws(pub Vec<Flaw>);

impl fmt::Display for Flaws {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, flaw) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{flaw}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Flaws {}

/// A reply that a rule is for, from the file.
#[derive(Debug)]
pub(super) struct Sample {
    pub rule: String,
    pub place: Place,
    pub stage: Stage,
    pub host: Option<String>,
    pub reply: Reply,
}

/// Where something stands.
#[derive(Clone, Debug)]
pub(super) struct Place {
    file: String,
    line: usize,
}

/// Reads files in their order, and tries every sample of all but the last: ours are tried by a test.
pub(super) fn read(files: &[(&str, &str)]) -> Result<Rules, Flaws> {
    let (rules, samples) = read_all(files)?;
    let own: Vec<&str> = files.iter().rev().skip(1).map(|(name, _)| *name).collect();
    let flaws: Vec<Flaw> =
        samples.iter().filter(|sample| own.contains(&&*sample.place.file)).filter_map(|s| s.flaw(&rules)).collect();
    if flaws.is_empty() { Ok(rules) } else { Err(Flaws(flaws)) }
}

/// The rules, and the samples that they were written from.
pub(super) fn read_all(files: &[(&str, &str)]) -> Result<(Rules, Vec<Sample>), Flaws> {
    let mut all = All::default();
    for (file, text) in files {
        let mut reader = Reader { file, text, rule: String::new(), all: &mut all };
        reader.file();
    }
    let All { rules, samples, proof, flaws, .. } = all;
    if flaws.is_empty() { Ok((Rules::new(rules, proof), samples)) } else { Err(Flaws(flaws)) }
}

impl Sample {
    /// What is wrong if another rule takes it, or none.
    pub fn flaw(&self, rules: &Rules) -> Option<Flaw> {
        let cause = Cause::Reply(self.reply.clone());
        let host = self.host.as_deref();
        let meaning = rules.classify(&Observation { stage: self.stage, cause: &cause, recipients_taken: 1, host });
        let taken = rules.name(meaning.signal.rule);
        if taken == Some(&*self.rule) {
            return None;
        }
        let by = taken.map_or("by no rule".to_owned(), |name| format!("by the rule \"{name}\""));
        Some(Flaw {
            file: self.place.file.clone(),
            line: self.place.line,
            rule: self.rule.clone(),
            key: SAMPLES.to_owned(),
            right: format!("\"{}\" at {} is taken {by}", self.reply, self.stage.name()),
        })
    }
}

#[derive(Default)]
struct All {
    rules: Vec<Rule>,
    samples: Vec<Sample>,
    names: BTreeSet<String>,
    proof: Option<Proof>,
    flaws: Vec<Flaw>,
}

/// A key's value, with where it stands.
type Value<'a> = Spanned<DeValue<'a>>;

struct Reader<'t> {
    file: &'t str,
    text: &'t str,
    rule: String,
    all: &'t mut All,
}

impl Reader<'_> {
    fn line(&self, offset: usize) -> usize {
        self.text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
    }

    fn flaw(&mut self, offset: usize, key: &str, right: impl Into<String>) {
        let (file, rule) = (self.file.to_owned(), self.rule.clone());
        let line = self.line(offset);
        self.all.flaws.push(Flaw { file, line, rule, key: key.to_owned(), right: right.into() });
    }

    fn file(&mut self) {
        let table = match DeTable::parse(self.text) {
            Ok(table) => table,
            Err(error) => {
                let offset = error.span().map_or(0, |span| span.start);
                let message = error.message().split_whitespace().collect::<Vec<_>>().join(" ");
                return self.flaw(offset, "", format!("this is not TOML: {message}"));
            }
        };
        for (key, value) in table.get_ref() {
            match value.get_ref() {
                DeValue::Array(rules) if key.get_ref() == "rule" => {
                    for rule in rules.iter() {
                        match rule.get_ref() {
                            DeValue::Table(table) => self.rule(rule.span().start, table),
                            _ => self.flaw(rule.span().start, "rule", "a table [[rule]] is expected"),
                        }
                    }
                }
                DeValue::Table(table) if key.get_ref() == DEAD && self.file == SHIPPED_NAME => {
                    self.proof(value.span().start, table);
                }
                _ => self.flaw(key.span().start, key.get_ref(), "only tables [[rule]] are expected here"),
            }
        }
    }

    /// `[dead]`: what a reply of a dead mailbox may say. Ours alone, since all rules rest on it.
    fn proof(&mut self, at: usize, table: &DeTable<'_>) {
        let formulae = self.pattern(table, "formulae");
        let veto = self.pattern(table, "veto");
        let words: Vec<(usize, String)> = match table.get("words").map(|words| words.get_ref()) {
            Some(DeValue::Table(words)) => {
                words.iter().flat_map(|(key, _)| self.strings(words, key.get_ref())).collect()
            }
            _ => Vec::new(),
        };
        match (formulae, veto) {
            (Some(formulae), Some(veto)) if !words.is_empty() => {
                let words = proof::words(words.iter().map(|(_, text)| Cow::Borrowed(&**text)));
                self.all.proof = Some(Proof { formulae, veto, words });
            }
            _ => self.flaw(at, DEAD, "formulae, veto and words are needed"),
        }
    }

    fn rule(&mut self, at: usize, table: &DeTable<'_>) {
        self.rule = String::new();
        for (key, _) in table {
            let known = KEYS.contains(&&**key.get_ref()) || key.get_ref() == SAMPLES;
            if !known {
                self.flaw(
                    key.span().start,
                    key.get_ref(),
                    format!("there is no such key; known are {} and {SAMPLES}", KEYS.join(", ")),
                );
            }
        }
        let Some(name) = self.string(table, "name") else {
            return self.flaw(at, "name", "a name is needed, such as \"gmail-user-unknown\"");
        };
        self.rule = name.clone();
        if !self.all.names.insert(name.clone()) {
            self.flaw(at, "name", "another rule has this name");
        }
        if self.all.rules.len() >= RULES_MAX {
            return self.flaw(at, "", format!("at most {RULES_MAX} rules are allowed"));
        }
        if self.string(table, "reason").is_none_or(|reason| reason.trim().is_empty()) {
            self.flaw(at, "reason", "a sentence that says why is needed");
        }
        let before = self.all.flaws.len();
        let when = self.when(at, table);
        let then = self.then(at, table);
        self.samples(at, table, &when);
        if let (Some(then), true) = (then, self.all.flaws.len() == before) {
            self.all.rules.push(Rule { name: name.into(), when, then });
        }
    }

    fn when(&mut self, at: usize, table: &DeTable<'_>) -> When {
        let is_empty = ["stage", "code", "status", "text", "mx"].iter().all(|key| !table.contains_key(*key));
        if is_empty {
            self.flaw(at, "", "a rule needs at least one of stage, code, status, text and mx");
        }
        const STAGES: &str = "one of greeting, ehlo, tls, auth, mail, rcpt, data and dot is expected";
        const CODES: &str = "\"550\", \"550-554\" or \"5xx\" is expected, 400 to 599";
        const STATUSES: &str = "\"5.1.1\", \"*.7.1\", \"5.7.*\" or \"5.7.606-649\" is expected";
        const HOSTS: &str = "a host name such as \"mx.example.net\" is expected";
        let host = |text: &str| text.parse::<Domain>().ok().map(|host| host.as_str().to_ascii_lowercase().into());
        When {
            stages: self.each(table, "stage", STAGES, stage_named),
            codes: self.each(table, "code", CODES, codes),
            statuses: self.each(table, "status", STATUSES, statuses),
            text: self.pattern(table, "text"),
            unless: self.pattern(table, "unless"),
            mx: self.each(table, "mx", HOSTS, host),
        }
    }

    fn then(&mut self, at: usize, table: &DeTable<'_>) -> Option<Then> {
        let words = |all: Vec<&str>| format!("one of {} is expected", all.join(", "));
        let classes = words(Class::ALL.iter().map(|class| class.name()).collect());
        let scopes = words(Scope::ALL.iter().map(|scope| scope.name()).collect());
        let class = |word: &str| Class::ALL.iter().copied().find(|class| class.name() == word);
        let scope = |word: &str| Scope::ALL.iter().copied().find(|scope| scope.name() == word);
        let verdict = |word: &str| match word {
            "defer" => Some(VerdictKind::Deferred),
            "fail" => Some(VerdictKind::Failed),
            _ => None,
        };
        if !table.contains_key("class") {
            self.flaw(at, "class", classes);
            return None;
        }
        let class = self.one(table, "class", &classes, class)?;
        let death = match self.flag(table, "suppress") {
            None if class == Class::RecipientInvalid => Death::IfProven,
            None | Some(false) => Death::No,
            Some(true) => Death::Vouched,
        };
        if death == Death::Vouched && class != Class::RecipientInvalid {
            let right = "only class = \"recipient-invalid\" may suppress: anything else is not the address's fault";
            self.flaw(self.place(table, "suppress", at), "suppress", right);
        }
        let is_reputation = matches!(class, Class::ReputationIp | Class::ReputationDomain);
        let trigger = match self.number(table, "trigger") {
            None => 1,
            Some(count) => u16::try_from(count).ok().filter(|count| *count > 0).unwrap_or_else(|| {
                self.flaw(self.place(table, "trigger", at), "trigger", "1 to 65535 replies within an hour are allowed");
                1
            }),
        };
        Some(Then {
            class,
            scope: self.one(table, "scope", &scopes, scope).unwrap_or(class.scope()),
            verdict: self.one(table, "verdict", "\"defer\" or \"fail\" is expected", verdict),
            death,
            again_in: self.one(table, "again", DURATION, duration),
            reaction: self.reaction(at, table),
            trigger,
            reputation: self.flag(table, "reputation").unwrap_or(is_reputation),
            block: self.flag(table, "block").unwrap_or(false),
            alarm: self.flag(table, "alarm").unwrap_or(false),
        })
    }

    fn reaction(&mut self, at: usize, table: &DeTable<'_>) -> Option<Reaction> {
        const ACTIONS: &str =
            "\"slow\", \"suspend\", \"stop-domain\", \"fewer-connections\" or \"fewer-deliveries\" is expected";
        let Some(action) = self.string(table, "action") else {
            for key in ["rate", "hold", "most", "trigger"].iter().filter(|key| table.contains_key(**key)) {
                self.flaw(self.place(table, key, at), key, "this belongs to an action, and the rule has none");
            }
            return None;
        };
        let takes: &[&str] = match &*action {
            "slow" => &["rate", "hold"],
            "suspend" | "stop-domain" => &["hold"],
            "fewer-connections" | "fewer-deliveries" => &["most"],
            _ => {
                self.flaw(self.place(table, "action", at), "action", ACTIONS);
                return None;
            }
        };
        for key in ["rate", "hold", "most"].iter().filter(|key| table.contains_key(**key) && !takes.contains(*key)) {
            self.flaw(self.place(table, key, at), key, format!("\"{action}\" takes no such key"));
        }
        let slows_as_learned = action == "slow" && !table.contains_key("rate");
        if takes.contains(&"hold") && !slows_as_learned && !table.contains_key("hold") {
            let with = if action == "slow" { " with a rate" } else { "" };
            self.flaw(at, "hold", format!("\"{action}\"{with} needs this key"));
        }
        let most = self.number(table, "most").filter(|most| *most > 0);
        if table.contains_key("most") && most.is_none() {
            self.flaw(self.place(table, "most", at), "most", "a whole number from 1 is expected");
        }
        Some(match &*action {
            "slow" if slows_as_learned => {
                let hold = match table.contains_key("hold") {
                    true => self.one(table, "hold", DURATION, duration)?,
                    false => LEARNED_HOLD,
                };
                Reaction::Slow { count: 0, per: Duration::ZERO, hold }
            }
            "slow" => {
                let (count, per) =
                    self.one(table, "rate", "messages by time, such as \"10/1m\", are expected", rate)?;
                Reaction::Slow { count, per, hold: self.one(table, "hold", DURATION, duration)? }
            }
            "suspend" => Reaction::Suspend { hold: self.one(table, "hold", DURATION, duration)? },
            "stop-domain" => Reaction::StopDomain { hold: self.one(table, "hold", DURATION, duration)? },
            "fewer-deliveries" => Reaction::FewerDeliveries { most },
            _ => Reaction::FewerConnections { most: most.map(|most| u16::try_from(most).unwrap_or(u16::MAX)) },
        })
    }

    fn samples(&mut self, at: usize, table: &DeTable<'_>, when: &When) {
        let usual = when.stages.first().copied().unwrap_or(Stage::Rcpt);
        let samples = self.strings(table, SAMPLES);
        if samples.is_empty() {
            self.flaw(at, SAMPLES, "at least one reply that the rule is for is needed: it is tried at every start");
        }
        for (offset, written) in samples {
            let place = Place { file: self.file.to_owned(), line: self.line(offset) };
            match sample(&written, usual) {
                Some((stage, host, reply)) => {
                    self.all.samples.push(Sample { rule: self.rule.clone(), place, stage, host, reply });
                }
                None => self.flaw(
                    offset,
                    SAMPLES,
                    "\"550 5.1.1 No such user\" is expected, or with stage and host \"dot mx.example.net: 550 …\"",
                ),
            }
        }
    }

    /// The texts of a key as one pattern: any of them.
    fn pattern(&mut self, table: &DeTable<'_>, key: &str) -> Option<Regex> {
        let texts = self.strings(table, key);
        let offset = texts.first()?.0;
        for (offset, text) in &texts {
            if text.is_empty() || text.len() > PATTERN_LENGTH_MAX {
                self.flaw(*offset, key, format!("a regular expression of 1 to {PATTERN_LENGTH_MAX} bytes is expected"));
            } else if text.chars().any(char::is_uppercase) && !text.contains('\\') && !text.contains("(?i)") {
                self.flaw(*offset, key, "the text is compared in lower case and without accents: write it so");
            }
        }
        let all: Vec<String> = texts.iter().map(|(_, text)| format!("(?:{text})")).collect();
        let error = match rule::pattern(&all.join("|")) {
            Ok(pattern) => return Some(pattern),
            Err(error) => error,
        };
        // Compiling takes long: each alone only to find the one at fault.
        let alone = texts.iter().find_map(|(offset, text)| Some((*offset, rule::pattern(text).err()?)));
        let (offset, error) = alone.unwrap_or((offset, error));
        self.flaw(offset, key, format!("this is no regular expression that may be used: {error}"));
        None
    }

    fn place(&self, table: &DeTable<'_>, key: &str, otherwise: usize) -> usize {
        table.get(key).map_or(otherwise, |value| value.span().start)
    }

    fn each<T>(&mut self, table: &DeTable<'_>, key: &str, right: &str, read: impl Fn(&str) -> Option<T>) -> Vec<T> {
        let mut values = Vec::new();
        for (offset, text) in self.strings(table, key) {
            match read(&text) {
                Some(value) => values.push(value),
                None => self.flaw(offset, key, format!("{right}, not \"{text}\"")),
            }
        }
        values
    }

    fn one<T>(&mut self, table: &DeTable<'_>, key: &str, right: &str, read: impl Fn(&str) -> Option<T>) -> Option<T> {
        let text = self.string(table, key)?;
        let value = read(&text);
        if value.is_none() {
            self.flaw(self.place(table, key, 0), key, format!("{right}, not \"{text}\""));
        }
        value
    }

    /// A text in quotes.
    fn string(&mut self, table: &DeTable<'_>, key: &str) -> Option<String> {
        let value = table.get(key)?;
        let text = text_of(value);
        if text.is_none() {
            self.flaw(value.span().start, key, "a text in quotes is expected");
        }
        text
    }

    /// A text in quotes, or a list of some.
    fn strings(&mut self, table: &DeTable<'_>, key: &str) -> Vec<(usize, String)> {
        let Some(value) = table.get(key) else { return Vec::new() };
        let items: Vec<&Value<'_>> = match value.get_ref() {
            DeValue::Array(items) => items.iter().collect(),
            _ => vec![value],
        };
        let mut texts = Vec::with_capacity(items.len());
        for item in items {
            match text_of(item) {
                Some(text) => texts.push((item.span().start, text)),
                None => self.flaw(item.span().start, key, "a text in quotes, or a list of texts, is expected"),
            }
        }
        texts
    }

    fn flag(&mut self, table: &DeTable<'_>, key: &str) -> Option<bool> {
        let value = table.get(key)?;
        match value.get_ref() {
            DeValue::Boolean(flag) => Some(*flag),
            _ => {
                self.flaw(value.span().start, key, "true or false without quotes is expected");
                None
            }
        }
    }

    fn number(&mut self, table: &DeTable<'_>, key: &str) -> Option<u32> {
        let value = table.get(key)?;
        let number = match value.get_ref() {
            DeValue::Integer(digits) if digits.radix() == 10 => digits.as_str().parse().ok(),
            _ => None,
        };
        if number.is_none() {
            self.flaw(value.span().start, key, "a whole number without quotes is expected");
        }
        number
    }
}

fn text_of(value: &Value<'_>) -> Option<String> {
    match value.get_ref() {
        DeValue::String(text) => Some(text.to_string()),
        _ => None,
    }
}

/// `550`, `550-554`, `5xx`.
fn codes(text: &str) -> Option<RangeInclusive<u16>> {
    let range = match text {
        "4xx" => 400..=499,
        "5xx" => 500..=599,
        _ => match text.split_once('-') {
            Some((first, last)) => first.parse().ok()?..=last.parse().ok()?,
            None => {
                let code = text.parse().ok()?;
                code..=code
            }
        },
    };
    (400 <= *range.start() && range.start() <= range.end() && *range.end() <= 599).then_some(range)
}

fn statuses(text: &str) -> Option<StatusRange> {
    let mut parts = text.split('.');
    let (class, subject, detail) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let class = match class {
        "*" => None,
        "4" => Some(4),
        "5" => Some(5),
        _ => return None,
    };
    let subject = match subject {
        "*" => None,
        digits => Some(digits.parse().ok()?),
    };
    let details = match detail {
        "*" => 0..=999,
        range => match range.split_once('-') {
            Some((first, last)) => first.parse().ok()?..=last.parse().ok()?,
            None => {
                let detail = range.parse().ok()?;
                detail..=detail
            }
        },
    };
    (details.start() <= details.end()).then_some(StatusRange { class, subject, details })
}

fn duration(text: &str) -> Option<Duration> {
    seconds(text).filter(|seconds| WAITS.contains(seconds)).map(Duration::from_secs)
}

fn seconds(text: &str) -> Option<u64> {
    let cut = text.len().checked_sub(1)?;
    let (digits, unit) = text.split_at_checked(cut)?;
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

/// `10/1m`
fn rate(text: &str) -> Option<(u32, Duration)> {
    let (count, per) = text.split_once('/')?;
    let count = count.parse().ok().filter(|count| *count > 0)?;
    let seconds = seconds(per).filter(|seconds| (1..=86_400).contains(seconds))?;
    Some((count, Duration::from_secs(seconds)))
}

/// `550 5.1.1 text`, with a stage and a host before it if it needs them: `dot mx.example.net: 550 text`.
fn sample(text: &str, usual: Stage) -> Option<(Stage, Option<String>, Reply)> {
    let (place, words) = match text.starts_with(|c: char| c.is_ascii_digit()) {
        true => ("", text),
        false => text.split_once(": ")?,
    };
    let mut places = place.split(' ').filter(|word| !word.is_empty());
    let stage = match places.next() {
        Some(word) => stage_named(word)?,
        None => usual,
    };
    let host = places.next().map(str::to_owned);
    let (code, rest) = words.split_once(' ').unwrap_or((words, ""));
    let code = code.parse().ok().filter(|code| (400..=599).contains(code))?;
    Some((stage, host, Reply::new(code, rest)))
}
