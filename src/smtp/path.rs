//! Reads `<path>` of MAIL and RCPT out of a command line: ours, because a general parser that unquotes local parts
//! hands out text that must not be written into another command (`"a@evil> SIZE=1"@x`).

use crate::mail::Address;

/// Longest path with its angle brackets, RFC 5321 §4.5.3.1.3. Source routes, which we drop, count.
const LENGTH_MAX: usize = 512;

/// What a path names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Path {
    /// `<>`
    Null,
    /// `<postmaster>`, which RFC 5321 §4.5.1 wants taken without a domain.
    Postmaster,
    /// A name without a domain, as programs on a host write their neighbours.
    Local(Box<str>),
    /// A mailbox.
    Mailbox(Address),
}

impl std::fmt::Display for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Path::Null => Ok(()),
            Path::Postmaster => f.write_str("postmaster"),
            Path::Local(name) => f.write_str(name),
            Path::Mailbox(address) => std::fmt::Display::fmt(address, f),
        }
    }
}

/// Reads a path at the start of `text`, with or without angle brackets, and gives what stands behind it.
///
/// A source route (`<@a,@b:user@c>`) is read and dropped, RFC 5321 §4.1.1.3. `user%host@relay` and `host!user@relay`
/// are mailboxes of `relay` like any other: nothing here or later reads a route out of a local part.
///
/// # Errors
/// A few words that say what is wrong.
pub fn read(text: &str) -> Result<(Path, &str), &'static str> {
    let text = text.trim_start_matches(' ');
    let (inner, rest) = match text.strip_prefix('<') {
        Some(inside) => {
            let end = unquoted(inside, '>').ok_or("the closing > is missing")?;
            let (inner, rest) = inside.split_at_checked(end).unwrap_or((inside, ">"));
            (inner, rest.strip_prefix('>').unwrap_or_default())
        }
        // Devices that leave out the brackets.
        None => text.split_at_checked(unquoted(text, ' ').unwrap_or(text.len())).unwrap_or((text, "")),
    };
    if !rest.is_empty() && !rest.starts_with(' ') {
        return Err("a space is missing after the address");
    }
    if inner.len() > LENGTH_MAX {
        return Err("the address is too long");
    }
    Ok((path(inner, text.starts_with('<'))?, rest))
}

fn path(inner: &str, bracketed: bool) -> Result<Path, &'static str> {
    let mailbox = match inner.starts_with('@') {
        true => inner.split_once(':').ok_or("the address is incomplete")?.1,
        false => inner,
    };
    if mailbox.is_empty() {
        return if bracketed && inner.is_empty() { Ok(Path::Null) } else { Err("the address is missing") };
    }
    if mailbox.eq_ignore_ascii_case("postmaster") {
        return Ok(Path::Postmaster);
    }
    let Some((local, domain)) = mailbox.rsplit_once('@') else {
        // A user's name, and nothing that somebody could take for a route.
        let sound = |b: u8| b.is_ascii_alphanumeric() || b"._-+=$".contains(&b);
        return match bracketed && mailbox == inner && mailbox.len() <= 64 && mailbox.bytes().all(sound) {
            true => Ok(Path::Local(mailbox.into())),
            false => Err("an address has the form local@domain"),
        };
    };
    if !local.starts_with('"') && local.contains(unfit_for_atom) {
        return Err("the part before the @ has characters that need quotes");
    }
    if domain.starts_with('[') {
        return Err("address literals are not accepted: use a domain name");
    }
    let domain = domain.parse().map_err(|_| "the part after the @ is no domain name")?;
    let address = Address::new(local, domain)
        .map_err(|_| "the part before the @ is longer than 64 octets or has characters that cannot be sent")?;
    Ok(Path::Mailbox(address))
}

/// What may not stand outside quotes: RFC 5321 §4.1.2 `Dot-string`, but with dots anywhere, as some providers allow.
fn unfit_for_atom(c: char) -> bool {
    c.is_ascii() && !c.is_ascii_alphanumeric() && !"!#$%&'*+-/=?^_`{|}~.".contains(c)
}

/// Where `wanted` stands first outside of quotes.
fn unquoted(text: &str, wanted: char) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if c == wanted && !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_read_as_it_stands_and_nothing_hides_in_it() {
        let rows = [
            ("<a@b.example>", "a@b.example", ""),
            (" <a@b.example> SIZE=1", "a@b.example", " SIZE=1"),
            ("a@b.example", "a@b.example", ""),
            ("a@b.example BODY=7BIT", "a@b.example", " BODY=7BIT"),
            ("<@x.example,@y.example:a@b.example>", "a@b.example", ""),
            ("<\"a@evil> SIZE=1\"@x.example>", "\"a@evil> SIZE=1\"@x.example", ""),
            ("<\"a\\\"> b\"@x.example> X=1", "\"a\\\"> b\"@x.example", " X=1"),
            ("<a%b.example@us.example>", "a%b.example@us.example", ""),
            ("<b.example!a@us.example>", "b.example!a@us.example", ""),
            ("<a@b.example.>", "a@b.example", ""),
            ("<\"a@b.example\"@us.example>", "\"a@b.example\"@us.example", ""),
            ("<a..b@docomo.example>", "\"a..b\"@docomo.example", ""),
        ];
        for (text, want, behind) in rows {
            match read(text) {
                Ok((Path::Mailbox(address), rest)) => assert_eq!((&*address.to_string(), rest), (want, behind)),
                other => panic!("{text}: {other:?}"),
            }
        }
        assert_eq!(read("<> RET=HDRS"), Ok((Path::Null, " RET=HDRS")));
        assert_eq!(read("<PostMaster>"), Ok((Path::Postmaster, "")));
        assert_eq!(read("<www-data> X=1"), Ok((Path::Local("www-data".into()), " X=1")));
    }

    #[test]
    fn what_is_no_path_is_refused() {
        let long = format!("<{}@b.example>", "a".repeat(600));
        let bad = [
            "",
            "<",
            "<a@b.example",
            "<a@b.example>x",
            "<a@b.example>>",
            "<a!b>",
            "<a%b>",
            "<a b>",
            "<\"a\">",
            "a",
            "<@>",
            "<@x.example>",
            "<@x.example:>",
            "<a@b@us.example>",
            "<a b@us.example>",
            "<a@[127.0.0.1]>",
            "<a@[IPv6:::1]>",
            "<a@b_.-example>",
            "<\"a@b.example>",
            "<a\"b@c.example>",
            "<(c)a@b.example>",
            "<a@b.example,c@d.example>",
            "<a@>",
            "<@b.example>",
            &long,
        ];
        for text in bad {
            assert!(read(text).is_err(), "{text}: {:?}", read(text));
        }
    }
}
