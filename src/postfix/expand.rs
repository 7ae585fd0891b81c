//! `$name`, `${name}`, `$(name)`, `${name?x}`, `${name:y}`, `${name?{x}:{y}}`, `${{a} == {b} ? {x} : {y}}`, `$$`.
//!
//! Called by [`super::facts`]. The result is that of `postconf -x`.

use std::cmp::Ordering;

/// Deepest nesting, as Postfix has it.
const DEPTH_MAX: usize = 100;
/// Most names that one value may name, those of the values that they stand for included.
const STEPS_MAX: usize = 10_000;
/// Longest value. Unit: octets.
const VALUE_BYTES_MAX: usize = 1 << 20;

/// Replaces every name in a value by what it stands for, over and over; `lookup` knows the values as they are written. A
/// name that nobody knows is empty, as in Postfix.
///
/// # Errors
/// What cannot be read, or has no end.
pub fn expand(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut expander = Expander { lookup, steps: 0 };
    expander.all(text, 0)
}

struct Expander<'a> {
    lookup: &'a dyn Fn(&str) -> Option<String>,
    steps: usize,
}

impl Expander<'_> {
    fn all(&mut self, text: &str, depth: usize) -> Result<String, String> {
        if depth > DEPTH_MAX {
            return Err("the names in it name each other without an end".to_owned());
        }
        let mut out = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            match rest.chars().next() {
                Some('$') => {
                    out.push('$');
                    rest = &rest[1..];
                }
                Some(open @ ('{' | '(')) => {
                    let close = if open == '{' { '}' } else { ')' };
                    let (inner, after) =
                        balanced(rest, open, close).ok_or_else(|| format!("\"${rest}\" is not closed"))?;
                    out.push_str(&self.one(inner, depth)?);
                    rest = after;
                }
                _ => {
                    let name = name_at_start(rest);
                    if name.is_empty() {
                        return Err("a name is expected after \"$\"; a \"$\" itself is written \"$$\"".to_owned());
                    }
                    rest = &rest[name.len()..];
                    out.push_str(&self.value(name, depth)?);
                }
            }
            if out.len() > VALUE_BYTES_MAX {
                return Err(format!("the value becomes longer than {VALUE_BYTES_MAX} octets"));
            }
        }
        out.push_str(rest);
        Ok(out)
    }

    fn value(&mut self, name: &str, depth: usize) -> Result<String, String> {
        self.steps += 1;
        if self.steps > STEPS_MAX {
            return Err(format!("it names more than {STEPS_MAX} values"));
        }
        match (self.lookup)(name) {
            Some(text) => self.all(&text, depth + 1),
            None => Ok(String::new()),
        }
    }

    /// What stands between `${` and `}`.
    fn one(&mut self, inner: &str, depth: usize) -> Result<String, String> {
        let inner = inner.trim_start();
        let (is_true, value, rest) = match inner.starts_with('{') {
            true => {
                let (is_true, rest) = self.comparison(inner, depth)?;
                (is_true, String::new(), rest)
            }
            false => {
                let name = name_at_start(inner);
                if name.is_empty() {
                    return Err(format!("a name is expected in \"${{{inner}}}\""));
                }
                let value = self.value(name, depth)?;
                (!value.is_empty(), value, &inner[name.len()..])
            }
        };
        let rest = rest.trim();
        let taken = match rest.chars().next() {
            None => return Ok(value),
            Some('?') => {
                let (yes, no) = alternatives(&rest[1..])?;
                if is_true { Some(yes) } else { no }
            }
            Some(':') if !inner.starts_with('{') => {
                if is_true {
                    return Ok(value);
                }
                Some(payload(&rest[1..]))
            }
            Some(_) => return Err(format!("\"?\" or \":\" is expected in \"${{{inner}}}\"")),
        };
        taken.map_or(Ok(String::new()), |text| self.all(text, depth + 1))
    }

    fn comparison<'t>(&mut self, inner: &'t str, depth: usize) -> Result<(bool, &'t str), String> {
        let wrong = || format!("a comparison such as \"{{a}} == {{b}}\" is expected in \"{inner}\"");
        let (left, rest) = balanced(inner, '{', '}').ok_or_else(wrong)?;
        let rest = rest.trim_start();
        let length = rest.find('{').ok_or_else(wrong)?;
        let (operator, rest) = (rest[..length].trim(), &rest[length..]);
        let (right, rest) = balanced(rest, '{', '}').ok_or_else(wrong)?;
        let (left, right) = (self.all(left.trim(), depth + 1)?, self.all(right.trim(), depth + 1)?);
        let (operator, order) = match operator.strip_suffix("level") {
            Some(operator) => (operator, level(&left).cmp(&level(&right))),
            None => (operator, compared(&left, &right)),
        };
        let is_true = match operator {
            "==" => order == Ordering::Equal,
            "!=" => order != Ordering::Equal,
            "<" => order == Ordering::Less,
            "<=" => order != Ordering::Greater,
            ">" => order == Ordering::Greater,
            ">=" => order != Ordering::Less,
            _ => return Err(wrong()),
        };
        Ok((is_true, rest))
    }
}

fn compared(left: &str, right: &str) -> Ordering {
    match (left.parse::<i64>(), right.parse::<i64>()) {
        (Ok(left), Ok(right)) => left.cmp(&right),
        _ => left.cmp(right),
    }
}

/// A compatibility level: `3.6` is before `3.10`.
pub fn level(text: &str) -> [u32; 3] {
    let mut parts = text.trim().split('.').map(|part| part.parse().unwrap_or(0));
    std::array::from_fn(|_| parts.next().unwrap_or(0))
}

fn name_at_start(text: &str) -> &str {
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(text.len());
    &text[..end]
}

/// What stands in the pair that the text begins with, and what comes after.
fn balanced(text: &str, open: char, close: char) -> Option<(&str, &str)> {
    let mut depth = 0_usize;
    for (at, c) in text.char_indices() {
        if c == open {
            depth += 1;
        } else if c == close {
            depth = depth.checked_sub(1)?;
            if depth == 0 {
                return Some((&text[1..at], &text[at + 1..]));
            }
        }
    }
    None
}

/// A branch: what stands in its braces, or all of it.
fn payload(text: &str) -> &str {
    match balanced(text.trim(), '{', '}') {
        Some((inner, "")) if text.trim().starts_with('{') => inner.trim(),
        _ => text,
    }
}

/// `x`, or `{x}:{y}`.
fn alternatives(text: &str) -> Result<(&str, Option<&str>), String> {
    let trimmed = text.trim_start();
    if !trimmed.starts_with('{') {
        return Ok((text, None));
    }
    let (yes, rest) = balanced(trimmed, '{', '}').ok_or_else(|| format!("\"{text}\" is not closed"))?;
    match rest.trim_start().strip_prefix(':') {
        Some(no) => Ok((yes.trim(), Some(payload(no)))),
        None if rest.trim().is_empty() => Ok((yes.trim(), None)),
        None => Err(format!("\":\" is expected after \"{{{yes}}}\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(text: &str) -> Result<String, String> {
        let lookup = |name: &str| {
            let value = match name {
                "foo" => "bar",
                "two" => "$foo $foo",
                "level" => "3.6",
                "empty" => "",
                "loop" => "x$loop",
                "wide" => "$w1$w1$w1$w1$w1$w1$w1$w1$w1$w1",
                "w1" => "$w2$w2$w2$w2$w2$w2$w2$w2$w2$w2",
                "w2" => "$w3$w3$w3$w3$w3$w3$w3$w3$w3$w3",
                "w3" => "$w4$w4$w4$w4$w4$w4$w4$w4$w4$w4",
                "w4" => "$foo$foo$foo$foo$foo$foo$foo$foo",
                _ => return None,
            };
            Some(value.to_owned())
        };
        expand(text, &lookup)
    }

    /// The answers are those of postconf 3.7.11 -x.
    #[test]
    fn every_form_is_expanded_as_postfix_does() {
        for (text, want) in [
            ("$foo ${foo} $(foo)", "bar bar bar"),
            ("${foo?yes} ${foo:no}", "yes bar"),
            ("${nope:dflt} ${nope?x}", "dflt "),
            ("${foo?{one}:{two}} ${nope?{one}:{two}}", "one two"),
            ("$$x $nope-", "$x -"),
            ("${{$level} <level {3.6} ? {old} : {new}}", "new"),
            ("${{$level} <level {3.10} ? {old} : {new}}", "old"),
            ("${{a} == {a} ? {same}}${{a}!={a}?{x}:{diff}}", "samediff"),
            ("${foo ? {p} : {q}}", "p"),
            ("$foo.bar ${empty:wasempty} ${empty?isset}", "bar.bar wasempty "),
            ("$two", "bar bar"),
            ("[$foo]:587", "[bar]:587"),
        ] {
            assert_eq!(expanded(text).as_deref(), Ok(want), "{text}");
        }
    }

    #[test]
    fn what_has_no_end_is_refused() {
        for text in
            ["$loop", "$wide", "${foo", "$(foo", "$", "$ x", "${}", "${foo!}", "${{a} ~ {b} ? {x}}", "${foo?{a}b}"]
        {
            assert!(expanded(text).is_err(), "{text}");
        }
    }
}
