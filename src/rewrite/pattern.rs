//! Tables of patterns, as regexp_table(5) and pcre_table(5) have them.
//!
//! Patterns run on an engine that knows look-arounds and back-references and gives up after a bounded number of steps. What
//! POSIX writes otherwise than Perl (a backslash between brackets is itself) is translated; where alternatives of different
//! length match, the first is taken, and not the longest.

use std::sync::Arc;

use fancy_regex::{Regex, RegexBuilder};

use super::table::{Flaw, Trouble, logical_lines};

/// Longest pattern. Unit: octets.
const PATTERN_LENGTH_MAX: usize = 16 << 10;
/// Steps back before a pattern is given up: some milliseconds.
const BACKTRACKS_MAX: usize = 100_000;
/// Most memory of one compiled pattern. Unit: octets.
const COMPILED_SIZE_MAX: usize = 1 << 20;
/// Longest answer with what was put in for `$1`. Unit: octets. A header field as long as may be fits.
const ANSWER_LENGTH_MAX: usize = 256 << 10;
/// Deepest `if`.
const DEPTH_MAX: usize = 100;

/// Which manual the patterns are written by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Dialect {
    Posix,
    Perl,
}

/// One line of the file.
#[derive(Clone, Debug)]
pub(super) enum Rule {
    /// `/pattern/flags answer`
    Answer { line: usize, pattern: Pattern, written: Box<str>, parts: Box<[Part]> },
    /// `if /pattern/flags`: what is before `end` is asked only if it matches.
    If { pattern: Pattern, end: usize },
}

#[derive(Clone, Debug)]
pub(super) struct Pattern {
    regex: Arc<Regex>,
    negated: bool,
}

/// A piece of an answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Part {
    Text(Box<str>),
    Group(usize),
}

impl Rule {
    /// The answer as it is written.
    pub fn answer(&self) -> Option<(usize, &str)> {
        match self {
            Rule::Answer { line, written, .. } => Some((*line, written)),
            Rule::If { .. } => None,
        }
    }
}

/// Reads a file of patterns.
pub(super) fn read(text: &str, dialect: Dialect) -> Result<Vec<Rule>, Vec<Flaw>> {
    let mut rules: Vec<Rule> = Vec::new();
    let mut open: Vec<(usize, usize)> = Vec::new();
    let mut flaws = Vec::new();
    for (line, text) in logical_lines(text) {
        // White space that continues a line stands in the answer once.
        let text = text.replace('\n', "");
        let text = text.trim();
        let word = text.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
        let outcome = match word.to_ascii_lowercase().as_str() {
            "endif" => close(&text[5..], &mut open, &mut rules),
            "if" if open.len() >= DEPTH_MAX => Err(format!("more than {DEPTH_MAX} `if` within each other")),
            "if" => condition(text[2..].trim_start(), dialect).map(|pattern| {
                open.push((line, rules.len()));
                rules.push(Rule::If { pattern, end: usize::MAX });
            }),
            _ => answer(line, text, dialect).map(|rule| rules.push(rule)),
        };
        if let Err(right) = outcome {
            flaws.push(Flaw::new(line, right));
        }
    }
    flaws.extend(open.iter().map(|(line, _)| Flaw::new(*line, "an `endif` is missing for this `if`")));
    if flaws.is_empty() { Ok(rules) } else { Err(flaws) }
}

fn close(after: &str, open: &mut Vec<(usize, usize)>, rules: &mut [Rule]) -> Result<(), String> {
    if !after.trim().is_empty() {
        return Err("nothing may stand after `endif`".to_owned());
    }
    let (_, at) = open.pop().ok_or("there is no `if` for this `endif`")?;
    let after = rules.len();
    if let Some(Rule::If { end, .. }) = rules.get_mut(at) {
        *end = after;
    }
    Ok(())
}

fn condition(text: &str, dialect: Dialect) -> Result<Pattern, String> {
    let (pattern, rest) = pattern(text, dialect)?;
    match rest.trim().is_empty() {
        true => Ok(pattern),
        false => Err("nothing may stand after the pattern of an `if`".to_owned()),
    }
}

fn answer(line: usize, text: &str, dialect: Dialect) -> Result<Rule, String> {
    let (pattern, rest) = pattern(text, dialect)?;
    let written = rest.trim();
    if written.is_empty() {
        return Err("an answer is expected after the pattern".to_owned());
    }
    if written.chars().any(|c| c.is_control() && c != '\t') {
        return Err("control characters are not allowed in an answer".to_owned());
    }
    let parts = parts(written)?;
    let groups = if pattern.negated { 0 } else { pattern.regex.captures_len() - 1 };
    for part in &parts {
        match part {
            Part::Group(_) if pattern.negated => {
                return Err("a pattern after \"!\" has nothing that `$1` could stand for".to_owned());
            }
            Part::Group(number) if *number > groups => {
                return Err(format!("`${number}`: the pattern has {groups} parts in brackets"));
            }
            Part::Group(_) | Part::Text(_) => {}
        }
    }
    Ok(Rule::Answer { line, pattern, written: written.into(), parts: parts.into() })
}

/// `!/pattern/flags`, and what stands after it.
fn pattern(text: &str, dialect: Dialect) -> Result<(Pattern, &str), String> {
    let wrong = || "a pattern such as /^Subject: x/ is expected".to_owned();
    let bare = text.trim_start_matches(['!', ' ', '\t']);
    let negated = text[..text.len() - bare.len()].matches('!').count() % 2 == 1;
    let mark = bare.chars().next().filter(char::is_ascii_punctuation).ok_or_else(wrong)?;
    let inner = &bare[1..];
    let mut escaped = false;
    let end = inner.char_indices().find(|(_, c)| {
        let ends = !escaped && *c == mark;
        escaped = !escaped && *c == '\\';
        ends
    });
    let (end, _) = end.ok_or_else(|| format!("the pattern has no \"{mark}\" at its end"))?;
    let (source, after) = (&inner[..end], &inner[end + 1..]);
    if source.len() > PATTERN_LENGTH_MAX {
        return Err(format!("the pattern is longer than {PATTERN_LENGTH_MAX} octets"));
    }
    let flags = after.split(char::is_whitespace).next().unwrap_or_default();
    let regex = compiled(source, flags, dialect)?;
    Ok((Pattern { regex: Arc::new(regex), negated }, &after[flags.len()..]))
}

fn compiled(source: &str, flags: &str, dialect: Dialect) -> Result<Regex, String> {
    // Both manuals: case is ignored and "." matches a line end, unless the flag says otherwise.
    let (mut fold, mut lines, mut dot, mut spaced, mut anchored) = (true, false, true, false, false);
    for flag in flags.chars() {
        match (flag, dialect) {
            ('i', _) => fold = !fold,
            ('m', Dialect::Posix) => (lines, dot) = (!lines, !dot),
            ('m', Dialect::Perl) => lines = !lines,
            ('s', Dialect::Perl) => dot = !dot,
            ('x', Dialect::Perl) => spaced = !spaced,
            ('A', Dialect::Perl) => anchored = !anchored,
            // What is asked has no line end at its end, and an escape that means nothing is an error here in any case.
            ('E' | 'X', Dialect::Perl) => {}
            _ => return Err(format!("the flag \"{flag}\" is not known here")),
        }
    }
    let translated = match dialect {
        Dialect::Posix => brackets(source, Backslash::IsItself),
        Dialect::Perl => brackets(source, Backslash::Escapes),
    };
    let set: String =
        [(fold, 'i'), (lines, 'm'), (dot, 's'), (spaced, 'x')].iter().filter(|(on, _)| *on).map(|(_, c)| *c).collect();
    let start = if anchored { "\\A" } else { "" };
    let head = if set.is_empty() { String::new() } else { format!("(?{set})") };
    // The line end closes a comment of the flag x.
    let text = match (anchored, spaced) {
        (false, false) => format!("{head}{translated}"),
        (_, false) => format!("{head}{start}(?:{translated})"),
        (_, true) => format!("{head}{start}(?:{translated}\n)"),
    };
    let regex = RegexBuilder::new(&text)
        .backtrack_limit(BACKTRACKS_MAX)
        .delegate_size_limit(COMPILED_SIZE_MAX)
        .build()
        .map_err(|error| format!("the pattern is not understood: {}", one_line(&error.to_string())))?;
    Ok(regex)
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Backslash {
    Escapes,
    IsItself,
}

/// Brackets as the engine reads them: in both dialects `[` within brackets is itself unless `:`, `.` or `=` follows, and
/// `&&`, `--` and `~~` mean nothing.
fn brackets(source: &str, backslash: Backslash) -> String {
    let mut out = String::with_capacity(source.len() + 8);
    let chars: Vec<char> = source.chars().collect();
    let mut at = 0;
    while let Some(c) = chars.get(at) {
        at += 1;
        out.push(*c);
        match c {
            '\\' => {
                out.extend(chars.get(at));
                at += 1;
            }
            '[' => at = bracket(&chars, at, backslash, &mut out),
            _ => {}
        }
    }
    out
}

/// From behind a `[` to behind its `]`.
fn bracket(chars: &[char], mut at: usize, backslash: Backslash, out: &mut String) -> usize {
    if chars.get(at) == Some(&'^') {
        out.push('^');
        at += 1;
    }
    let first = at;
    while let Some(c) = chars.get(at) {
        let next = chars.get(at + 1).copied();
        match c {
            ']' if at > first => {
                out.push(']');
                return at + 1;
            }
            '[' if next == Some(':') => {
                let name: String = chars[at..].iter().take_while(|c| **c != ']').collect();
                let closed = name.ends_with(':') && name.len() > 3;
                if closed {
                    out.push_str(&name);
                    out.push(']');
                    at += name.chars().count() + 1;
                    continue;
                }
                out.push_str("\\[");
            }
            '\\' if backslash == Backslash::IsItself => out.push_str("\\\\"),
            '\\' => {
                out.push('\\');
                out.extend(next);
                at += 1;
            }
            '[' | ']' | '&' | '~' => {
                out.push('\\');
                out.push(*c);
            }
            // Two of them would be a difference of sets; at an end it is itself.
            '-' if next == Some('-') || at == first || next == Some(']') => out.push_str("\\-"),
            c => out.push(*c),
        }
        at += 1;
    }
    at
}

/// `$1`, `${1}`, `$(1)`; `$$` is a dollar.
fn parts(written: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut text = String::new();
    let mut rest = written;
    while let Some(at) = rest.find('$') {
        text.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(after) = after.strip_prefix('$') {
            text.push('$');
            rest = after;
            continue;
        }
        let word = |text: &str| text.bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').count();
        let (name, after) = match after.chars().next() {
            Some(open @ ('{' | '(')) => {
                let close = if open == '{' { '}' } else { ')' };
                let end = after.find(close).ok_or_else(|| format!("a \"{close}\" is missing after `${open}`"))?;
                (&after[1..end], &after[end + 1..])
            }
            _ => after.split_at(word(after)),
        };
        let number: usize = name.parse().map_err(|_| format!("`${name}`: a number is expected; `$$` is a dollar"))?;
        if !text.is_empty() {
            parts.push(Part::Text(std::mem::take(&mut text).into()));
        }
        parts.push(Part::Group(number));
        rest = after;
    }
    text.push_str(rest);
    if !text.is_empty() {
        parts.push(Part::Text(text.into()));
    }
    Ok(parts)
}

/// The answer of the first pattern that matches.
pub(super) fn find(rules: &[Rule], key: &str) -> Result<Option<String>, Trouble> {
    let mut at = 0;
    while let Some(rule) = rules.get(at) {
        at += 1;
        match rule {
            Rule::If { pattern, end } => {
                if !pattern.matches(key)? {
                    at = *end;
                }
            }
            Rule::Answer { pattern, parts, .. } => {
                if let Some(answer) = pattern.answer(parts, key)? {
                    return Ok(Some(answer));
                }
            }
        }
    }
    Ok(None)
}

impl Pattern {
    fn matches(&self, key: &str) -> Result<bool, Trouble> {
        let matches = self.regex.is_match(key).map_err(|_| Trouble::Endless)?;
        Ok(matches != self.negated)
    }

    fn answer(&self, parts: &[Part], key: &str) -> Result<Option<String>, Trouble> {
        if self.negated || parts.iter().all(|part| matches!(part, Part::Text(_))) {
            let text = || {
                parts.iter().filter_map(|part| match part {
                    Part::Text(text) => Some(&**text),
                    Part::Group(_) => None,
                })
            };
            return Ok(self.matches(key)?.then(|| text().collect()));
        }
        let Some(groups) = self.regex.captures(key).map_err(|_| Trouble::Endless)? else { return Ok(None) };
        let mut answer = String::new();
        for part in parts {
            answer.push_str(match part {
                Part::Text(text) => text,
                Part::Group(number) => groups.get(*number).map_or("", |group| group.as_str()),
            });
            if answer.len() > ANSWER_LENGTH_MAX {
                return Err(Trouble::Endless);
            }
        }
        Ok(Some(answer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(dialect: Dialect, text: &str, key: &str) -> Option<String> {
        find(&read(text, dialect).unwrap_or_else(|flaws| panic!("{text}: {flaws:?}")), key).unwrap()
    }

    #[test]
    fn patterns_answer_as_the_manuals_say() {
        use Dialect::{Perl, Posix};
        let rows: &[(Dialect, &str, &str, Option<&str>)] = &[
            // Case is ignored unless asked for.
            (Posix, "/^a/ yes", "ABC", Some("yes")),
            (Posix, "/^a/i yes", "ABC", None),
            (Perl, "/^a/ yes", "ABC", Some("yes")),
            (Perl, "/^a/i yes", "ABC", None),
            // "." and line ends.
            (Posix, "/a.b/ yes", "a\nb", Some("yes")),
            (Posix, "/a.b/m yes", "a\nb", None),
            (Posix, "/^b/m yes", "a\nb", Some("yes")),
            (Posix, "/^b/ yes", "a\nb", None),
            (Perl, "/a.b/ yes", "a\nb", Some("yes")),
            (Perl, "/a.b/s yes", "a\nb", None),
            (Perl, "/^b$/m yes", "a\nb", Some("yes")),
            // Other marks, and marks that are escaped.
            (Perl, "%^http://% yes", "http://x", Some("yes")),
            (Perl, "/^http:\\/\\// yes", "http://x", Some("yes")),
            (Posix, "/^http:\\/\\// yes", "http://x", Some("yes")),
            // What was matched.
            (Perl, "/^(.*)@old\\.example$/ ${1}@new.example", "a.b@old.example", Some("a.b@new.example")),
            (Posix, "/^(.*)@old\\.example$/ $(1)@new.example", "a@old.example", Some("a@new.example")),
            (Posix, "/^(a)|(b)$/ <$1$2>", "b", Some("<b>")),
            (Perl, "/a/ costs $$1", "a", Some("costs $1")),
            (Perl, "/^(x+)$/ $0!", "xx", Some("xx!")),
            // Not.
            (Perl, "!/^a/ other", "b", Some("other")),
            (Perl, "!/^a/ other", "a", None),
            (Posix, "!/^a/ other", "b", Some("other")),
            // The first that matches.
            (Perl, "/a/ one\n/ab/ two", "ab", Some("one")),
            // Only if.
            (Perl, "if /^a/\n/b$/ ab\nendif\n/b$/ b", "ab", Some("ab")),
            (Perl, "if /^a/\n/b$/ ab\nendif\n/b$/ b", "xb", Some("b")),
            (Posix, "if !/^a/\nif /c$/\n/./ deep\nendif\nendif\n/./ flat", "bc", Some("deep")),
            (Posix, "if !/^a/\nif /c$/\n/./ deep\nendif\nendif\n/./ flat", "ac", Some("flat")),
            // Perl's own.
            (Perl, "/^(?!a@).*@x$/ other", "b@x", Some("other")),
            (Perl, "/^(?!a@).*@x$/ other", "a@x", None),
            (Perl, "/(.)\\1/ twice", "abb", Some("twice")),
            (Perl, "/^a b # words\n  /x yes", "ab", Some("yes")),
            (Perl, "/b/A yes", "ab", None),
            (Perl, "/b|c/A yes", "ca", Some("yes")),
            // Brackets.
            (Perl, "/^[^[]+$/ yes", "a]b", Some("yes")),
            (Perl, "/^[[:alpha:]&&-]+$/ yes", "a&-", Some("yes")),
            (Posix, "/^[\\.]+$/ yes", "a\\.", None),
            (Posix, "/^[\\.]+$/ yes", "\\.", Some("yes")),
            (Posix, "/^[]a]+$/ yes", "a]", Some("yes")),
            (Posix, "/^[^]a]+$/ yes", "b[", Some("yes")),
            (Posix, "/^[[:space:][:digit:]]+$/ yes", "1 2", Some("yes")),
            (Perl, "/^[\\w.-]+$/ yes", "a-b.c", Some("yes")),
            (Posix, "/^[a-z0-9_-]+$/ yes", "a-b_9", Some("yes")),
        ];
        for (dialect, text, key, want) in rows {
            // A line of the flag x goes on with white space.
            assert_eq!(ask(*dialect, text, key).as_deref(), *want, "{dialect:?} {text:?} {key:?}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_told_its_line() {
        for (text, line, want) in [
            ("a b", 1, "a pattern such as /^Subject: x/ is expected"),
            ("/a/ x\n/b", 2, "the pattern has no \"/\" at its end"),
            ("/a/", 1, "an answer is expected"),
            ("/a/q x", 1, "the flag \"q\" is not known here"),
            ("/(/ x", 1, "the pattern is not understood"),
            ("/a/ $1", 1, "`$1`: the pattern has 0 parts in brackets"),
            ("/a/ $x", 1, "`$x`: a number is expected"),
            ("!/(a)/ $1", 1, "a pattern after \"!\""),
            ("if /a/\n/b/ x", 1, "an `endif` is missing"),
            ("endif", 1, "there is no `if`"),
            ("if /a/ x\nendif", 1, "nothing may stand after the pattern"),
            ("/a/ ${1", 1, "a \"}\" is missing"),
        ] {
            let flaws = read(text, Dialect::Perl).unwrap_err();
            assert!(flaws[0].line == line && flaws[0].right.starts_with(want), "{text:?}: {flaws:?}");
        }
    }

    #[test]
    fn a_pattern_without_an_end_is_trouble_and_no_answer() {
        let rules = read("/^(a+)+\\1b$/ x", Dialect::Perl).unwrap();
        assert_eq!(find(&rules, &"a".repeat(200)), Err(Trouble::Endless));
    }
}
