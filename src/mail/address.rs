//! Mail addresses, as safe to write into an SMTP command as they are to compare.

use std::fmt;
use std::str::FromStr;

use super::Text;
use super::domain::Domain;

/// RFC 5321 §4.5.3.1.1.
const LOCAL_LENGTH_MAX: usize = 64;

/// A mailbox, `local@domain`.
///
/// The local part is kept in its SMTP form (dot-string, or quoted where it must be), its case untouched; the domain is
/// an A-label in lower case. No value holds a control character, and outside quotes none holds `<`, `>` or a space,
/// so it can stand in a command as it is (`reference` of this rule: CVE-2025-7962 and its like).
/// Address literals (`a@[192.0.2.1]`) are refused: they would be a way around every rule about next hops.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    local: Text,
    domain: Domain,
}

impl Address {
    /// From a local part, quoted or not, and a domain.
    ///
    /// # Errors
    /// When the local part is empty, longer than 64 octets, or holds what no quoting makes safe.
    pub fn new(local: &str, domain: Domain) -> Result<Address, AddressError> {
        Ok(Address { local: smtp_form(local)?, domain })
    }

    /// The local part in its SMTP form, in quotes where it needs them.
    pub fn local(&self) -> &str {
        &self.local
    }

    /// The domain.
    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// `local@domain`, made without a memory of its own where it is short.
    pub fn text(&self) -> Text {
        let domain = self.domain.as_str();
        let mut text = Text::with_capacity(self.local.len() + 1 + domain.len());
        text.push_str(&self.local);
        text.push('@');
        text.push_str(domain);
        text
    }

    /// Whether the local part can be sent only to a peer with SMTPUTF8 (RFC 6531).
    pub fn needs_smtputf8(&self) -> bool {
        !self.local.is_ascii()
    }
}

/// Why a text is no mail address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// There is no `@`, or nothing before it.
    #[error("an address has the form local@domain")]
    Form,
    /// The local part is too long or has characters that cannot be sent.
    #[error("the part before the @ is longer than 64 octets or has characters that cannot be sent")]
    Local,
    /// The domain is no domain name.
    #[error("the part after the @ is no domain name")]
    Domain,
}

impl FromStr for Address {
    type Err = AddressError;

    /// Reads `local@domain` without angle brackets; the last `@` divides.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (local, domain) = text.rsplit_once('@').ok_or(AddressError::Form)?;
        let domain = domain.parse().map_err(|_| AddressError::Domain)?;
        Address::new(local, domain)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.local, self.domain)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{self}>")
    }
}

/// Who hears of trouble: an address, or nobody (`<>`, RFC 5321 §4.5.5).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ReversePath {
    /// `MAIL FROM:<>`: mail that must never cause other mail.
    Null,
    /// The envelope sender.
    Address(Address),
}

impl ReversePath {
    /// What stands between the angle brackets.
    pub fn text(&self) -> Text {
        self.address().map(Address::text).unwrap_or_default()
    }

    /// The address, unless null.
    pub fn address(&self) -> Option<&Address> {
        match self {
            ReversePath::Null => None,
            ReversePath::Address(address) => Some(address),
        }
    }
}

impl fmt::Display for ReversePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReversePath::Null => Ok(()),
            ReversePath::Address(address) => fmt::Display::fmt(address, f),
        }
    }
}

/// Whether a text can stand as one argument of an SMTP command: printable ASCII without spaces, 1 to 500 octets.
///
/// What ENVID, ORCPT, an EHLO name or a parameter must pass before it is kept or sent on.
pub fn is_safe_argument(text: &str) -> bool {
    (1..=500).contains(&text.len()) && text.bytes().all(|b| (0x21..=0x7e).contains(&b))
}

/// RFC 5322 §3.2.3 `atext`, with RFC 6532's non-ASCII.
fn is_atom_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c) || !c.is_ascii()
}

fn is_dot_string(local: &str) -> bool {
    local.split('.').all(|atom| !atom.is_empty() && atom.chars().all(is_atom_char))
}

/// The local part as it may be written: a dot-string as it is, anything else quoted anew from its plain content.
fn smtp_form(local: &str) -> Result<Text, AddressError> {
    // At most every octet is escaped, and quotes stand around.
    if local.is_empty() || local.len() > LOCAL_LENGTH_MAX * 2 + 2 {
        return Err(AddressError::Local);
    }
    // C0, DEL, C1, and the line separators that some log readers break at.
    if local.chars().any(|c| c.is_control() || c == '\u{2028}' || c == '\u{2029}') {
        return Err(AddressError::Local);
    }
    let plain = match local.strip_prefix('"') {
        Some(rest) => unquote(rest.strip_suffix('"').ok_or(AddressError::Local)?)?.into(),
        None => Text::from(local),
    };
    if plain.len() > LOCAL_LENGTH_MAX {
        return Err(AddressError::Local);
    }
    if is_dot_string(&plain) {
        return Ok(plain);
    }
    let mut quoted = String::with_capacity(plain.len() + 4);
    quoted.push('"');
    for c in plain.chars() {
        if c == '"' || c == '\\' {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    Ok(quoted.into())
}

fn unquote(inner: &str) -> Result<String, AddressError> {
    let mut plain = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => plain.push(chars.next().ok_or(AddressError::Local)?),
            '"' => return Err(AddressError::Local),
            _ => plain.push(c),
        }
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_kept_in_the_one_form_that_can_be_sent() {
        let good = [
            ("a@B.Example", "a@b.example"),
            ("A.b+tag@example.com", "A.b+tag@example.com"),
            ("\"a b\"@example.com", "\"a b\"@example.com"),
            ("\"plain\"@example.com", "plain@example.com"),
            ("a b@example.com", "\"a b\"@example.com"),
            ("a@evil> SIZE=1@x.example", "\"a@evil> SIZE=1\"@x.example"),
            (".dot.@example.com", "\".dot.\"@example.com"),
            ("\"\"@example.com", "\"\"@example.com"),
            ("\"q\\\"q\"@example.com", "\"q\\\"q\"@example.com"),
            ("ü@bücher.example", "ü@xn--bcher-kva.example"),
        ];
        for (text, want) in good {
            assert_eq!(text.parse::<Address>().map(|a| a.to_string()), Ok(want.to_owned()), "{text}");
            assert_eq!(want.parse::<Address>().map(|a| a.to_string()), Ok(want.to_owned()), "{want}");
        }
    }

    #[test]
    fn the_longest_local_part_reads_back() {
        let address = Address::new(&"\\".repeat(64), "example.com".parse().unwrap()).unwrap();
        assert_eq!(address.local().len(), 130);
        assert_eq!(address.to_string().parse(), Ok(address));
    }

    #[test]
    fn what_could_break_out_of_a_command_is_refused() {
        let long = format!("{}@example.com", "a".repeat(65));
        let bad = [
            "",
            "a",
            "@",
            "@b",
            "a@",
            "a@[192.0.2.1]",
            "a\r\nb@c.d",
            "a\0@b.c",
            "a@b\r\n",
            "\"a@b.c",
            "\"a\"b\"@c.d",
            "\"a\\\"@b.c",
            "a\u{85}@b.c",
            "a\u{2028}@b.c",
            "a\u{7f}@b.c",
            &long,
        ];
        for text in bad {
            assert!(text.parse::<Address>().is_err(), "{text:?}");
        }
    }
}
