//! Finds every mailbox in a From or Sender field that some reader could take for the author.
//!
//! The door asks this before it lets a credential send in somebody's name, so it errs towards more mailboxes, and what
//! it cannot read with certainty it refuses: a field on whose meaning two readers may differ is how one customer
//! speaks as another. It never decides who may send as whom.

use crate::mail::{Address, Domain};

use super::header::unfold;

/// Mailboxes in one field. More is no author, but an attack or a mistake.
const MAILBOXES_MAX: usize = 100;
/// Comments within comments (RFC 5322 §3.2.2).
const COMMENT_DEPTH_MAX: usize = 20;

/// Why a From or Sender field cannot be read with certainty.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AuthorError {
    /// There is no mailbox in it.
    #[error("holds no mail address")]
    Empty,
    /// A control character other than folding.
    #[error("holds a control character")]
    Control,
    /// A name, an address or a separator where none can stand.
    #[error("cannot be read with certainty; put the name in quotes and the address in angle brackets")]
    Ambiguous,
    /// What should be an address is none that we can check.
    #[error("holds an address that is not local@domain")]
    Address,
    /// More than [`MAILBOXES_MAX`].
    #[error("holds too many addresses")]
    TooMany,
}

/// All mailboxes in the value of a From or Sender field: those of the list and of its groups (RFC 6854), and any
/// address in angle brackets that hides in a quoted name, a comment or an encoded word.
///
/// # Errors
/// When there is none, or when readers could differ about them.
pub fn mailboxes(value: &[u8]) -> Result<Vec<Address>, AuthorError> {
    let flat = unfold(value);
    if let Some(address) = plain(&flat) {
        return Ok(vec![address]);
    }
    let tokens = tokens(&flat)?;
    let mut found = Vec::new();
    for token in &tokens {
        if let Token::Quoted(text) | Token::Comment(text) = token {
            hidden(text, &mut found)?;
        }
        if let Token::Atom(text) = token {
            hidden_in_encoded_word(text, &mut found)?;
        }
    }
    list(&tokens, &mut found)?;
    match found.is_empty() {
        true => Err(AuthorError::Empty),
        false => Ok(found),
    }
}

/// The common case without a token list: `local@domain` or `<local@domain>`, dot-atoms only.
fn plain(flat: &[u8]) -> Option<Address> {
    let inner = match flat.strip_prefix(b"<") {
        Some(rest) => rest.strip_suffix(b">")?,
        None => flat,
    };
    let simple = inner.iter().all(|b| b.is_ascii_alphanumeric() || b"@.-_+".contains(b));
    if !simple || inner.iter().filter(|b| **b == b'@').count() != 1 {
        return None;
    }
    let at = memchr::memchr(b'@', inner)?;
    address(inner.get(..at)?, false, inner.get(at + 1..)?)
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Token {
    /// A run of atext (RFC 5322 §3.2.3), dots and octets above 127.
    Atom(Vec<u8>),
    /// The content of a quoted string, quoted pairs resolved.
    Quoted(Vec<u8>),
    /// The content of a comment.
    Comment(Vec<u8>),
    /// `< > @ , ; :`
    Special(u8),
    /// White space, which ends an atom.
    Space,
}

fn tokens(flat: &[u8]) -> Result<Vec<Token>, AuthorError> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(&byte) = flat.get(at) {
        let rest = flat.get(at + 1..).unwrap_or_default();
        let (token, length) = match byte {
            b' ' | b'\t' => (Token::Space, 1),
            b'"' => quoted(rest)?,
            b'(' => comment(rest)?,
            b'<' | b'>' | b'@' | b',' | b';' | b':' => (Token::Special(byte), 1),
            b')' | b'[' | b']' | b'\\' => return Err(AuthorError::Ambiguous),
            0..=0x1f | 0x7f => return Err(AuthorError::Control),
            _ => {
                let text = flat.get(at..).unwrap_or_default();
                let length = text.iter().position(|b| !is_atom(*b)).unwrap_or(text.len());
                (Token::Atom(text.get(..length).unwrap_or_default().to_vec()), length.max(1))
            }
        };
        tokens.push(token);
        at += length;
    }
    Ok(tokens)
}

fn is_atom(byte: u8) -> bool {
    byte > 0x20 && byte != 0x7f && !b"\"()<>@,;:[]\\".contains(&byte)
}

/// `rest` begins after the opening quote.
fn quoted(rest: &[u8]) -> Result<(Token, usize), AuthorError> {
    let mut text = Vec::new();
    let mut bytes = rest.iter().enumerate();
    while let Some((at, &byte)) = bytes.next() {
        match byte {
            b'"' => return Ok((Token::Quoted(text), at + 2)),
            b'\\' => text.push(*bytes.next().ok_or(AuthorError::Ambiguous)?.1),
            0..=0x08 | 0x0a..=0x1f | 0x7f => return Err(AuthorError::Control),
            _ => text.push(byte),
        }
    }
    Err(AuthorError::Ambiguous)
}

/// `rest` begins after the opening parenthesis.
fn comment(rest: &[u8]) -> Result<(Token, usize), AuthorError> {
    let mut text = Vec::new();
    let mut depth = 1;
    let mut bytes = rest.iter().enumerate();
    while let Some((at, &byte)) = bytes.next() {
        match byte {
            b')' => depth -= 1,
            b'(' => depth += 1,
            0..=0x08 | 0x0a..=0x1f | 0x7f => return Err(AuthorError::Control),
            _ => {}
        }
        if depth == 0 {
            return Ok((Token::Comment(text), at + 2));
        }
        if depth > COMMENT_DEPTH_MAX {
            return Err(AuthorError::Ambiguous);
        }
        match byte {
            b'\\' => text.push(*bytes.next().ok_or(AuthorError::Ambiguous)?.1),
            _ => text.push(byte),
        }
    }
    Err(AuthorError::Ambiguous)
}

/// What may still come in the address being read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expect {
    /// A name, a local part, `<` or the end.
    Anything,
    /// Only a comment or a separator: the angle bracket is closed.
    Separator,
}

/// address-list of RFC 5322 §3.4, with `;` as a separator too (as some clients write it).
fn list(tokens: &[Token], found: &mut Vec<Address>) -> Result<(), AuthorError> {
    let mut words: Vec<Word> = Vec::new();
    let mut expect = Expect::Anything;
    let mut in_group = false;
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        at += 1;
        match token {
            Token::Space | Token::Comment(_) => {}
            Token::Atom(text) | Token::Quoted(text) => {
                if expect == Expect::Separator {
                    return Err(AuthorError::Ambiguous);
                }
                let quoted = matches!(token, Token::Quoted(_));
                words.push(Word { text, quoted });
            }
            Token::Special(b'@') => {
                // A bare address: exactly one word stood before it. (`a@b.example <c@d.example>` is no RFC 5322, but
                // sent: readers take either, so both are found.)
                let [word] = words.as_slice() else { return Err(AuthorError::Ambiguous) };
                at = domain(word, tokens, at, found)?;
                words.clear();
                // A second bare address needs a separator; a `<` does not.
                match tokens.iter().skip(at).find(|t| !matches!(t, Token::Space | Token::Comment(_))) {
                    None | Some(Token::Special(b'<' | b',' | b';')) => {}
                    Some(_) => return Err(AuthorError::Ambiguous),
                }
            }
            Token::Special(b'<') if expect == Expect::Anything => {
                at = angle(tokens, at, found)?;
                words.clear();
                expect = Expect::Separator;
            }
            Token::Special(b',' | b';') => {
                // `Doe, John <j@doe.example>` without quotes: to some readers "Doe" is a local mailbox.
                if !words.is_empty() {
                    return Err(AuthorError::Ambiguous);
                }
                in_group &= *token != Token::Special(b';');
                expect = Expect::Anything;
            }
            Token::Special(b':') if expect == Expect::Anything && !in_group && !words.is_empty() => {
                words.clear();
                in_group = true;
            }
            Token::Special(_) => return Err(AuthorError::Ambiguous),
        }
    }
    match words.is_empty() {
        true => Ok(()),
        // A name alone, or an address whose @ is missing.
        false => Err(AuthorError::Address),
    }
}

#[derive(Clone, Copy)]
struct Word<'a> {
    text: &'a [u8],
    quoted: bool,
}

/// `local@domain>`, from after the `<`. A route (`<@a,@b:c@d>`, obsolete) is refused: readers differ about it.
fn angle(tokens: &[Token], mut at: usize, found: &mut Vec<Address>) -> Result<usize, AuthorError> {
    at = skip_space(tokens, at);
    let word = match tokens.get(at) {
        Some(Token::Atom(text)) => Word { text, quoted: false },
        Some(Token::Quoted(text)) => Word { text, quoted: true },
        _ => return Err(AuthorError::Address),
    };
    at = skip_space(tokens, at + 1);
    if tokens.get(at) != Some(&Token::Special(b'@')) {
        return Err(AuthorError::Address);
    }
    at = skip_space(tokens, domain(&word, tokens, at + 1, found)?);
    match tokens.get(at) {
        Some(Token::Special(b'>')) => Ok(at + 1),
        _ => Err(AuthorError::Ambiguous),
    }
}

/// The domain after an `@`; the address goes to `found`. Returns where to read on.
fn domain(local: &Word, tokens: &[Token], at: usize, found: &mut Vec<Address>) -> Result<usize, AuthorError> {
    let at = skip_space(tokens, at);
    let Some(Token::Atom(domain)) = tokens.get(at) else { return Err(AuthorError::Address) };
    add(&address(local.text, local.quoted, domain).ok_or(AuthorError::Address)?, found)?;
    Ok(at + 1)
}

fn skip_space(tokens: &[Token], mut at: usize) -> usize {
    while matches!(tokens.get(at), Some(Token::Space | Token::Comment(_))) {
        at += 1;
    }
    at
}

fn address(local: &[u8], quoted: bool, domain: &[u8]) -> Option<Address> {
    let domain: Domain = std::str::from_utf8(domain).ok()?.parse().ok()?;
    let local = std::str::from_utf8(local).ok()?;
    // Outside quotes only a dot-atom; `Address` would quote what is none.
    let sound = quoted || local.split('.').all(|atom| !atom.is_empty());
    // A plain text that happens to begin with a quote is quoted anew by `Address`.
    let text = if quoted { format!("\"{}\"", local.replace('\\', "\\\\").replace('"', "\\\"")) } else { local.into() };
    if sound { Address::new(&text, domain).ok() } else { None }
}

fn add(address: &Address, found: &mut Vec<Address>) -> Result<(), AuthorError> {
    if found.contains(address) {
        return Ok(());
    }
    if found.len() >= MAILBOXES_MAX {
        return Err(AuthorError::TooMany);
    }
    found.push(address.clone());
    Ok(())
}

/// Addresses in angle brackets within a text that is none by the grammar: a reader that looks for the last `<` shows
/// them. An address without brackets there is a name, as contact forms write it, and stays allowed.
fn hidden(text: &[u8], found: &mut Vec<Address>) -> Result<(), AuthorError> {
    let mut rest = text;
    while let Some(open) = memchr::memchr(b'<', rest) {
        rest = rest.get(open + 1..).unwrap_or_default();
        let end = rest.iter().position(|b| matches!(b, b'<' | b'>')).unwrap_or(rest.len());
        let inner = rest.get(..end).unwrap_or_default().trim_ascii();
        if let Some(at) = memchr::memrchr(b'@', inner) {
            let (local, domain) = inner.split_at(at);
            // What looks like an address and is none that we can check is not let through.
            let sender = address(local, false, domain.get(1..).unwrap_or_default()).ok_or(AuthorError::Address)?;
            add(&sender, found)?;
        }
    }
    Ok(())
}

/// RFC 2047 in an atom: readers that decode before they parse see what it hides.
fn hidden_in_encoded_word(atom: &[u8], found: &mut Vec<Address>) -> Result<(), AuthorError> {
    let Some(inner) = atom.strip_prefix(b"=?").and_then(|rest| rest.strip_suffix(b"?=")) else { return Ok(()) };
    let mut parts = inner.splitn(3, |b| *b == b'?');
    let (_charset, encoding, text) = (parts.next(), parts.next(), parts.next());
    let text = text.unwrap_or_default();
    let decoded = match encoding {
        Some(b"q" | b"Q") => decode_q(text),
        Some(b"b" | b"B") => {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD_NO_PAD
                .decode(text.split(|b| *b == b'=').next().unwrap_or_default())
                .unwrap_or_default()
        }
        _ => return Ok(()),
    };
    // A NUL between each octet (UTF-16) hides nothing from a reader that knows the charset.
    let decoded: Vec<u8> = decoded.into_iter().filter(|b| *b != 0).collect();
    hidden(&decoded, found)
}

fn decode_q(text: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        let octet = match text.get(at + 1..at + 3) {
            Some(digits) if byte == b'=' => hex_octet(digits),
            _ => None,
        };
        decoded.push(octet.unwrap_or(byte));
        at += if octet.is_some() { 3 } else { 1 };
    }
    decoded
}

/// Two hexadecimal digits.
pub(super) fn hex_octet(digits: &[u8]) -> Option<u8> {
    let [high, low] = digits else { return None };
    let (high, low) = (char::from(*high).to_digit(16)?, char::from(*low).to_digit(16)?);
    u8::try_from(high * 16 + low).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str) -> Result<Vec<String>, AuthorError> {
        mailboxes(value.as_bytes()).map(|list| list.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn every_mailbox_that_a_reader_could_take_is_found() {
        let rows: [(&str, &[&str]); 29] = [
            ("=?utf-8?q?x?=@y.example <a@b.example>", &["=?utf-8?q?x?=@y.example", "a@b.example"]),
            ("a@b.example", &["a@b.example"]),
            (" <a@b.example>", &["a@b.example"]),
            ("Ann <a@b.example>", &["a@b.example"]),
            ("\"Ann, B.\" <a@b.example>", &["a@b.example"]),
            ("Ann B. Cee <a@b.example>", &["a@b.example"]),
            ("\"x@y.example\" <a@b.example>", &["a@b.example"]),
            ("\"<x@y.example>\" <a@b.example>", &["x@y.example", "a@b.example"]),
            ("(<x@y.example>) a@b.example", &["x@y.example", "a@b.example"]),
            ("a@b.example (Ann)", &["a@b.example"]),
            ("a(c)@(d)b.example", &["a@b.example"]),
            ("a @ b.example", &["a@b.example"]),
            ("a@b.example, c@d.example", &["a@b.example", "c@d.example"]),
            ("a@b.example; c@d.example", &["a@b.example", "c@d.example"]),
            ("Ann <a@b.example>, \"C\" <c@d.example>", &["a@b.example", "c@d.example"]),
            ("Team: a@b.example, C <c@d.example>;", &["a@b.example", "c@d.example"]),
            ("Team: a@b.example;, x@y.example", &["a@b.example", "x@y.example"]),
            ("x@y.example <a@b.example>", &["x@y.example", "a@b.example"]),
            ("=?utf-8?q?Ann_=C3=9C?= <a@b.example>", &["a@b.example"]),
            ("=?utf-8?q?=3Cx=40y.example=3E?= <a@b.example>", &["x@y.example", "a@b.example"]),
            ("=?utf-8?B?PHhAeS5leGFtcGxlPg==?= <a@b.example>", &["x@y.example", "a@b.example"]),
            ("Ann\r\n <a@b.example>", &["a@b.example"]),
            ("\"a b\"@c.example", &["\"a b\"@c.example"]),
            ("\"<x@y.example\" <a@b.example>", &["x@y.example", "a@b.example"]),
            (",,a@b.example,", &["a@b.example"]),
            ("Jos\u{e9} <a@b.example>", &["a@b.example"]),
            ("\u{fc}@b\u{fc}cher.example", &["\u{fc}@xn--bcher-kva.example"]),
            ("a@B.Example, A <a@b.example>", &["a@b.example"]),
            ("a.b+c@d.example", &["a.b+c@d.example"]),
        ];
        for (value, want) in rows {
            let want: Vec<String> = want.iter().map(|w| (*w).to_owned()).collect();
            assert_eq!(read(value), Ok(want), "{value}");
        }
    }

    #[test]
    fn what_readers_could_differ_about_is_refused() {
        let rows = [
            ("", AuthorError::Empty),
            ("undisclosed-recipients:;", AuthorError::Empty),
            ("Ann", AuthorError::Address),
            ("<>", AuthorError::Address),
            ("Ann <>", AuthorError::Address),
            ("Doe, John <a@b.example>", AuthorError::Ambiguous),
            ("a b@c.example", AuthorError::Ambiguous),
            ("<a@b.example> <c@d.example>", AuthorError::Ambiguous),
            ("<a@b.example> c@d.example", AuthorError::Ambiguous),
            ("<a@b.example>c", AuthorError::Ambiguous),
            ("a@b.example c@d.example", AuthorError::Ambiguous),
            ("a@b@c.example", AuthorError::Ambiguous),
            ("<@x.example:a@b.example>", AuthorError::Address),
            ("a@[192.0.2.1]", AuthorError::Ambiguous),
            ("a@", AuthorError::Address),
            ("@b.example", AuthorError::Ambiguous),
            ("<a@b.example", AuthorError::Ambiguous),
            ("a@b.example>", AuthorError::Ambiguous),
            ("\"open <a@b.example>", AuthorError::Ambiguous),
            ("(open a@b.example", AuthorError::Ambiguous),
            ("a@b.example\0", AuthorError::Control),
            ("A\u{1b} <a@b.example>", AuthorError::Control),
            ("=?utf-8?q?x=40y.example?=", AuthorError::Address),
            ("x: y: a@b.example;;", AuthorError::Ambiguous),
            ("\"<x@[1.2.3.4]>\" <a@b.example>", AuthorError::Address),
            ("a..b@c.example", AuthorError::Address),
        ];
        for (value, want) in rows {
            assert_eq!(read(value), Err(want), "{value}");
        }
    }

    /// What another parser makes of the same field.
    fn as_mail_parser_reads(value: &str) -> Vec<Address> {
        let message = format!("From: {value}\r\n\r\n");
        let Some(parsed) = mail_parser::MessageParser::new().parse(message.as_bytes()) else { return Vec::new() };
        let Some(from) = parsed.from() else { return Vec::new() };
        from.iter().filter_map(|mailbox| mailbox.address()?.trim().parse().ok()).collect()
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config::with_cases(4000))]
        #[test]
        fn no_other_parser_finds_an_author_that_we_did_not(
            pieces in proptest::collection::vec(proptest::sample::select(vec![
                "a@b.example", "c@d.example", "<", ">", "<a@b.example>", "<c@d.example>", "\"", "\\", "(", ")", ",", ";", ":",
                " ", "\r\n ", "Ann", "=?utf-8?q?=3Cx=40y.example=3E?=", "=?utf-8?b?PHhAeS5leGFtcGxlPg==?=", "@", ".",
                "\"q\"", "\"<x@y.example>\"", "(<x@y.example>)", "g:", "@r.example:",
            ]), 1..9)
        ) {
            let value = pieces.concat();
            if let Ok(ours) = mailboxes(value.as_bytes()) {
                for theirs in as_mail_parser_reads(&value) {
                    // Rights are about domains.
                    let is_known = ours.iter().any(|own| own.domain() == theirs.domain());
                    proptest::prop_assert!(is_known, "{value:?}: {theirs} is not in {ours:?}");
                }
            }
        }
    }

    #[test]
    fn the_number_of_mailboxes_and_of_nested_comments_is_bounded() {
        let many: Vec<String> = (0..101).map(|n| format!("a{n}@b.example")).collect();
        assert_eq!(read(&many.join(", ")), Err(AuthorError::TooMany));
        let deep = format!("{}{} a@b.example", "(".repeat(21), ")".repeat(21));
        assert_eq!(read(&deep), Err(AuthorError::Ambiguous));
    }
}
