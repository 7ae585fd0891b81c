//! Where an entry stands in the order of the list. Pure.
//!
//! ```text
//!   | domain | 0 | local part, lower case | 0 | scope u8, [stream] | cause u8 |
//! ```
//! scope: 1 all · 2 transactional · 3 marketing · 4 one stream, with its name. A key that ends after the second 0 is a
//! *reset*: whatever older files say of the address is void. The domain comes first, so that all of one lie together.

use super::entry::{Cause, NAME_LENGTH_MAX, Scope};
use crate::mail::{Address, Domain, StreamKind};

/// Longest key that is believed: a domain, a local part in quotes, a stream. Unit: octets.
pub(super) const KEY_LENGTH_MAX: usize = 1024;

/// What all keys of an address begin with, and the key of its reset.
pub(super) fn prefix(address: &Address) -> Vec<u8> {
    let (domain, local) = (address.domain().as_str(), address.local());
    let mut out = Vec::with_capacity(domain.len() + local.len() + 16);
    out.extend_from_slice(domain.as_bytes());
    out.push(0);
    match local.is_ascii() {
        true => out.extend(local.bytes().map(|octet| octet.to_ascii_lowercase())),
        false => {
            // A letter whose small form is longer must not make a local part that no address may have.
            let lower = local.to_lowercase();
            let kept = if lower.len() <= local.len() { lower } else { local.to_ascii_lowercase() };
            out.extend_from_slice(kept.as_bytes());
        }
    }
    out.push(0);
    out
}

/// What all keys of a domain begin with.
pub(super) fn domain_prefix(domain: &Domain) -> Vec<u8> {
    [domain.as_str().as_bytes(), &[0]].concat()
}

/// The key of an entry.
pub(super) fn key(address: &Address, scope: &Scope, cause: Cause) -> Vec<u8> {
    let mut out = prefix(address);
    match scope {
        Scope::All => out.push(1),
        Scope::Kind(StreamKind::Transactional) => out.push(2),
        Scope::Kind(StreamKind::Marketing) => out.push(3),
        Scope::Stream(name) => {
            out.push(4);
            out.extend_from_slice(name.as_bytes());
        }
    }
    out.push(cause.number());
    out
}

/// The address part of a key, with both zeros. Empty: it is none.
pub(super) fn prefix_of(key: &[u8]) -> &[u8] {
    let second = memchr::memchr_iter(0, key).nth(1);
    second.and_then(|at| key.get(..=at)).unwrap_or_default()
}

/// What stands behind the address: scope and cause. The outer `None`: it is damaged; the inner: it is a reset.
pub(super) fn tail(key: &[u8]) -> Option<Option<(Scope, Cause)>> {
    let tail = key.get(prefix_of(key).len()..)?;
    let Some((cause, scope)) = tail.split_last() else { return Some(None) };
    let cause = Cause::of_number(*cause)?;
    let scope = match scope {
        [1] => Scope::All,
        [2] => Scope::Kind(StreamKind::Transactional),
        [3] => Scope::Kind(StreamKind::Marketing),
        [4, name @ ..] if name.len() <= NAME_LENGTH_MAX => Scope::Stream(std::str::from_utf8(name).ok()?.into()),
        _ => return None,
    };
    Some(Some((scope, cause)))
}

/// The address of a key.
pub(super) fn address(key: &[u8]) -> Option<Address> {
    let prefix = prefix_of(key).strip_suffix(&[0])?;
    let (domain, local) = prefix.split_at_checked(memchr::memchr(0, prefix)?)?;
    let domain = std::str::from_utf8(domain).ok()?.parse().ok()?;
    Address::new(std::str::from_utf8(local.get(1..)?).ok()?, domain).ok()
}

pub(super) fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

pub(super) fn take_number(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let (octet, after) = rest.split_first()?;
        *rest = after;
        number |= u64::from(octet & 0x7f) << shift;
        if octet & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_says_all_again() {
        for address in ["a.B+tag@Example.com", "\"a B\"@x.example", "ü@bücher.example"] {
            let address: Address = address.parse().unwrap();
            for scope in [Scope::All, Scope::Kind(StreamKind::Marketing), Scope::Stream("a\u{1}b".into())] {
                let key = key(&address, &scope, Cause::Complaint);
                assert_eq!(tail(&key), Some(Some((scope, Cause::Complaint))));
                assert_eq!(prefix_of(&key), prefix(&address));
                let read = super::address(&key).unwrap();
                assert_eq!(prefix(&read), prefix(&address));
            }
            assert_eq!(tail(&prefix(&address)), Some(None));
        }
    }

    #[test]
    fn letters_of_either_case_are_one_mailbox_and_dots_and_tags_are_not() {
        let of = |text: &str| prefix(&text.parse().unwrap());
        assert_eq!(of("Joe@EXAMPLE.com"), of("joe@example.com"));
        assert_eq!(of("\"joe\"@example.com"), of("joe@example.com"));
        assert_eq!(of("ÄB@example.com"), of("äb@example.com"));
        for other in ["j.oe@example.com", "joe+x@example.com", "joe@example.org"] {
            assert_ne!(of("joe@example.com"), of(other));
        }
    }

    #[test]
    fn what_is_no_key_is_none() {
        for bad in [&b""[..], b"x", b"x\0y", b"x\0y\0\x09", b"x\0y\0\x07\x01", b"x\0y\0\x04\xff\x01", b"x\0y\0\x01\x09"]
        {
            assert!(address(bad).is_none() || tail(bad).is_none(), "{bad:?}");
        }
    }
}
