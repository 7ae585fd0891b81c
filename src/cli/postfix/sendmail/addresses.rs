//! Addresses out of a header field or an argument, as RFC 5322 §3.4 and §4.4 write them and people mistype them. Pure.
//!
//! What is found may be bare (`root`): the daemon knows what that means here.

/// Most addresses of one text.
const ADDRESSES_MAX: usize = 100_000;

/// The addresses of a list, in order: `a@x, "B" <b@x>, c (see) @x, team: d@x, e@x;`.
pub(super) fn addresses(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut reader = Reader::default();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if found.len() >= ADDRESSES_MAX {
            break;
        }
        match c {
            '(' => skip_comment(&mut chars),
            '"' => {
                let inner = quoted(&mut chars);
                let text = reader.text();
                text.push('"');
                text.push_str(&inner);
            }
            '\\' => reader.text().extend(std::iter::once('\\').chain(chars.next())),
            '<' if reader.angle.is_none() => reader.angle = Some(String::new()),
            '>' => reader.closed = reader.angle.is_some(),
            // A domain literal may hold a colon.
            '[' => {
                let inner = until(&mut chars, ']');
                let text = reader.text();
                text.push('[');
                text.push_str(&inner);
            }
            // A group's name, or a route (RFC 5322 §4.4), ends here.
            ':' => reader.text().clear(),
            ',' if reader.angle.is_some() && !reader.closed => reader.text().clear(),
            ',' | ';' => reader.finish(&mut found),
            c if c.is_whitespace() => reader.text().push(' '),
            c => reader.text().push(c),
        }
    }
    reader.finish(&mut found);
    found
}

#[derive(Default)]
struct Reader {
    phrase: String,
    angle: Option<String>,
    closed: bool,
}

impl Reader {
    /// Where the next character belongs.
    fn text(&mut self) -> &mut String {
        match (&mut self.angle, self.closed) {
            (Some(angle), false) => angle,
            (Some(_) | None, _) => &mut self.phrase,
        }
    }

    fn finish(&mut self, found: &mut Vec<String>) {
        let Reader { phrase, angle, .. } = std::mem::take(self);
        match angle {
            Some(angle) => found.push(tight(&angle)),
            None if phrase.trim().is_empty() => {}
            None => found.push(tight(&phrase)),
        }
    }
}

/// Without the white space that may stand around `@` and `.`.
fn tight(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut in_quotes = false;
    let mut space = false;
    for c in text.trim().chars() {
        if c == '"' {
            in_quotes = !in_quotes;
        }
        if c == ' ' && !in_quotes {
            space = true;
            continue;
        }
        let is_joint = |c: char| c == '@' || c == '.';
        if std::mem::take(&mut space) && !is_joint(c) && !out.ends_with(is_joint) {
            out.push(' ');
        }
        out.push(c);
    }
    out
}

/// RFC 5322 §3.2.2: comments nest.
fn skip_comment(chars: &mut std::str::Chars<'_>) {
    let mut depth = 1;
    while depth > 0 {
        match chars.next() {
            Some('(') => depth += 1,
            Some(')') => depth -= 1,
            Some('\\') => drop(chars.next()),
            Some(_) => {}
            None => return,
        }
    }
}

/// The rest of a quoted string, its closing quote included.
fn quoted(chars: &mut std::str::Chars<'_>) -> String {
    let mut out = String::new();
    while let Some(c) = chars.next() {
        out.push(c);
        match c {
            '\\' => out.extend(chars.next()),
            '"' => return out,
            _ => {}
        }
    }
    // Nobody closed it.
    out.push('"');
    out
}

fn until(chars: &mut std::str::Chars<'_>, end: char) -> String {
    let mut out = String::new();
    for c in chars.by_ref() {
        out.push(c);
        if c == end {
            break;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_as_people_write_it() {
        let rows: [(&str, &[&str]); 24] = [
            ("", &[]),
            (" ,, ", &[]),
            ("root", &["root"]),
            ("a@x.example", &["a@x.example"]),
            ("a@x.example, b@x.example", &["a@x.example", "b@x.example"]),
            ("A B <a@x.example>", &["a@x.example"]),
            ("\"B, A\" <a@x.example>, c", &["a@x.example", "c"]),
            ("<>", &[""]),
            ("A <>", &[""]),
            ("a@x.example (Ann, of (x))", &["a@x.example"]),
            ("(c) a (d) @ (e) x.example", &["a@x.example"]),
            ("a @ x . example", &["a@x.example"]),
            ("undisclosed-recipients:;", &[]),
            ("team: a@x.example, B <b@x.example>; c@x.example", &["a@x.example", "b@x.example", "c@x.example"]),
            ("<@r.example,@s.example:a@x.example>", &["a@x.example"]),
            ("\"a b\"@x.example", &["\"a b\"@x.example"]),
            ("\"a\\\"b\"@x.example", &["\"a\\\"b\"@x.example"]),
            ("a@[192.0.2.1]", &["a@[192.0.2.1]"]),
            ("a@[IPv6:2001:db8::1], b", &["a@[IPv6:2001:db8::1]", "b"]),
            ("a@x.example;b@x.example", &["a@x.example", "b@x.example"]),
            ("A <a@x.example", &["a@x.example"]),
            ("\"open", &["\"open\""]),
            ("(open", &[]),
            ("A\r\n\t<a@x.example>,\r\n b@x.example", &["a@x.example", "b@x.example"]),
        ];
        for (text, wanted) in rows {
            assert_eq!(addresses(text), wanted, "{text:?}");
        }
    }
}
