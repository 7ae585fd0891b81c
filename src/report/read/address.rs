//! Addresses, as reports write them: typed, in brackets, in quotes, encoded, or in the middle of a sentence.

use std::fmt::Write as _;

/// Addresses that one line may have.
const FOUND_MAX: usize = 50;

/// Every address in a text, in its order.
pub(super) fn within(text: &str) -> Vec<String> {
    let octets = text.as_bytes();
    let mut found: Vec<String> = Vec::new();
    let mut from = 0;
    for at in memchr::memchr_iter(b'@', octets) {
        if at < from || found.len() >= FOUND_MAX {
            continue;
        }
        let front = text.get(from..at).unwrap_or_default();
        let local = match front.strip_suffix('"').and_then(|quoted| quoted.rfind('"').map(|start| (quoted, start))) {
            Some((_, start)) => front.get(start..).unwrap_or_default(),
            None => {
                // Chinese and Japanese write no space between words and an address.
                let is_plain = front.ends_with(|c: char| !is_wide(c));
                let begin = front.rfind(|c: char| !is_local(c) || (is_plain && is_wide(c))).map_or(0, |place| {
                    place + front.get(place..).and_then(|rest| rest.chars().next()).map_or(1, char::len_utf8)
                });
                let local = front.get(begin..).unwrap_or_default();
                untyped(local).trim_start_matches(['.', '\'', '=', '/', '*', '|', '`', '-'])
            }
        };
        let back = text.get(at + 1..).unwrap_or_default();
        let is_plain = back.starts_with(|c: char| !is_wide(c));
        let ends = |c: char| !(c.is_alphanumeric() || c == '.' || c == '-') || (is_plain && is_wide(c));
        let end = back.find(ends).unwrap_or(back.len());
        // "user@example.net...User unknown": a reply begins behind the dots.
        let domain = back.get(..end).unwrap_or_default().split("..").next().unwrap_or_default();
        let domain = domain.trim_end_matches(['.', '-']);
        from = at + 1;
        let is_domain = domain.contains('.') && !domain.starts_with(['.', '-']) && domain.len() <= 255;
        if !local.is_empty() && local.len() <= 128 && is_domain && !local.contains(char::is_control) {
            from = at + 1 + domain.len();
            found.push(format!("{local}@{domain}"));
        }
    }
    found
}

/// X.400 and Exchange write `SMTP=user@example.net`.
fn untyped(local: &str) -> &str {
    match local.rsplit_once('=') {
        Some((kind, rest)) if ["smtp", "rfc822", "rfc-822"].iter().any(|name| kind.eq_ignore_ascii_case(name)) => rest,
        _ => local,
    }
}

fn is_wide(c: char) -> bool {
    c >= '\u{2e80}'
}

fn is_local(c: char) -> bool {
    c.is_alphanumeric() || "!#$%&'*+-/=?^_`{|}~.".contains(c)
}

/// The address of `rfc822; user@example.net`, whatever is around it. Without a domain it is what is written there.
pub(super) fn typed(value: &str) -> Option<String> {
    let (kind, rest) = match value.split_once(';') {
        Some((kind, rest)) if !kind.contains('@') => (kind.trim().to_ascii_lowercase(), rest),
        _ => (String::new(), value),
    };
    if kind == "x400" || kind.starts_with("x-unix") {
        return None;
    }
    let rest = rest.split(['\n']).next().unwrap_or_default().trim();
    let rest = if kind == "utf-8" { unembedded(rest) } else { rest.to_owned() };
    let rest = unxtext(&rest);
    if let Some(found) = within(&rest).pop() {
        // A source route (RFC 5321 §4.1.1.3) has the mailbox last.
        return Some(found);
    }
    let bare = rest.trim_matches(['<', '>', '"', ' ', '\'']).split([' ', '(']).next().unwrap_or_default();
    Some(bare.to_owned()).filter(|bare| !bare.is_empty() && bare.len() <= 256 && !bare.contains(char::is_control))
}

/// `\x{HEX}` of utf-8-addr-xtext and utf-8-addr-unitext, RFC 6533 §3.
fn unembedded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((front, back)) = rest.split_once("\\x{") {
        out.push_str(front);
        let Some((hex, tail)) = back.split_once('}') else {
            out.push_str("\\x{");
            rest = back;
            continue;
        };
        match u32::from_str_radix(hex, 16).ok().and_then(char::from_u32).filter(|c| !c.is_control()) {
            Some(c) => out.push(c),
            None => {
                let _ = write!(out, "\\x{{{hex}}}");
            }
        }
        rest = tail;
    }
    out.push_str(rest);
    out
}

/// `+2B` and `+3D` of xtext, RFC 3461 §4. Nothing else is decoded, because a tag such as `+42` is a tag.
fn unxtext(text: &str) -> String {
    text.replace("+2B", "+").replace("+3D", "=").replace("+40", "@").replace("+20", " ")
}

/// Whether two addresses are one mailbox as a host may rename it: in case, or by a name below the domain.
pub fn same_mailbox(one: &str, other: &str) -> bool {
    let (Some((local, domain)), Some((local2, domain2))) = (one.rsplit_once('@'), other.rsplit_once('@')) else {
        let bare = |address: &str| address.split('@').next().unwrap_or_default().to_lowercase();
        return bare(one) == bare(other);
    };
    let (domain, domain2) = (domain.to_lowercase(), domain2.to_lowercase());
    let below = |long: &str, short: &str| {
        long.strip_suffix(short).is_some_and(|front| front.is_empty() || front.ends_with('.'))
    };
    local.to_lowercase() == local2.to_lowercase() && (below(&domain, &domain2) || below(&domain2, &domain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_found_wherever_they_stand() {
        let rows: [(&str, &[&str]); 13] = [
            ("<lea@example.net>:", &["lea@example.net"]),
            ("a.b+c@x.example, and (d@y.example).", &["a.b+c@x.example", "d@y.example"]),
            ("\"odd name\"@example.net", &["\"odd name\"@example.net"]),
            ("用户lea@example.net不存在", &["lea@example.net"]),
            ("收件人 lea@example.net 不存在", &["lea@example.net"]),
            ("RCPT TO:<lea@example.net>", &["lea@example.net"]),
            ("mailto:lea@example.net", &["lea@example.net"]),
            ("me@localhost @ x@", &[]),
            ("'lea@example.net'", &["lea@example.net"]),
            ("o'neil@example.net", &["o'neil@example.net"]),
            ("dda:SMTP=lea@example.net; on Friday", &["lea@example.net"]),
            ("lea@example.net...User unknown", &["lea@example.net"]),
            ("", &[]),
        ];
        for (text, want) in rows {
            assert_eq!(within(text), want, "{text}");
        }
    }

    #[test]
    fn a_typed_address_is_decoded() {
        let rows = [
            ("rfc822; lea@example.net", Some("lea@example.net")),
            ("RFC822;<Lea@Example.net>", Some("Lea@Example.net")),
            ("lea@example.net", Some("lea@example.net")),
            ("rfc822;@hub.example:lea@example.net", Some("lea@example.net")),
            ("rfc822;lea+2Btag@example.net", Some("lea+tag@example.net")),
            ("rfc822;lea+42@example.net", Some("lea+42@example.net")),
            ("utf-8; l\\x{E9}a@example.net", Some("léa@example.net")),
            ("LOCAL; lea", Some("lea")),
            ("x-unix; |/usr/bin/procmail", None),
            ("x400; /S=lea/", None),
            ("", None),
        ];
        for (value, want) in rows {
            assert_eq!(typed(value).as_deref(), want, "{value}");
        }
    }

    #[test]
    fn one_mailbox_may_have_two_spellings() {
        let rows = [
            ("lea@example.net", "LEA@EXAMPLE.NET", true),
            ("lea@example.net", "lea@mx.example.net", true),
            ("lea@example.net", "lea@example.org", false),
            ("lea@example.net", "lea@notexample.net", false),
            ("lea@example.net", "leo@example.net", false),
            ("lea@example.net", "lea", true),
        ];
        for (one, other, want) in rows {
            assert_eq!(same_mailbox(one, other), want, "{one} {other}");
        }
    }
}
