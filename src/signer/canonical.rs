//! What is signed: the choice of fields, and the relaxed forms of header and body (RFC 6376 §3.4, §5.4).

use mail_auth::common::crypto::HashAlgorithm;
use mail_auth::dkim::Canonicalization;

use crate::message::{Field, HeaderLimits, scan};

/// Signed as often as they stand there and once more, so that none can be added (RFC 6376 §8.15).
const OVERSIGNED: [&str; 12] = [
    "From",
    "To",
    "Cc",
    "Subject",
    "Date",
    "Reply-To",
    "Message-ID",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
    "In-Reply-To",
    "References",
];

/// Signed if present: RFC 8058 §4 and RFC 9477 §3.1 demand it, Gmail's feedback loop too.
const SIGNED: [&str; 6] =
    ["List-Unsubscribe-Post", "Feedback-ID", "CFBL-Address", "CFBL-Feedback-ID", "X-Postrider-Ref", "Sender"];

/// Every field whose name begins so is signed if present (RFC 2369, RFC 2919).
const SIGNED_PREFIX: &[u8] = b"list-";

/// Different `List-…` names signed. No list has more.
const LIST_NAMES_MAX: usize = 20;

/// The signed fields of a message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct SignedHeader {
    /// The `h=` tag.
    pub names: Vec<String>,
    /// The fields in their relaxed form, in the order of `names`.
    pub canonical: Vec<u8>,
}

/// Chooses what is signed from the added headers and the message's own. `None` without a From field.
pub(super) fn signed_header(added: &[u8], header_block: &[u8]) -> Option<SignedHeader> {
    // Cannot fail without limits.
    let added = scan(added, HeaderLimits::NONE).ok()?;
    let own = scan(header_block, HeaderLimits::NONE).ok()?;
    let fields: Vec<&Field> = added.fields.iter().chain(&own.fields).collect();
    let mut header = SignedHeader { names: Vec::with_capacity(32), canonical: Vec::with_capacity(1024) };
    for name in OVERSIGNED {
        let count = header.sign_all(name, &fields);
        if name == "From" && count == 0 {
            return None;
        }
        header.names.push(name.to_owned());
    }
    for name in SIGNED {
        header.sign_all(name, &fields);
    }
    for name in list_names(&fields) {
        header.sign_all(&name, &fields);
    }
    Some(header)
}

impl SignedHeader {
    /// Signs every field of a name, from the bottom up as a verifier counts them (RFC 6376 §5.4.2).
    fn sign_all(&mut self, name: &str, fields: &[&Field]) -> usize {
        let before = self.names.len();
        for field in fields.iter().rev().filter(|field| field.name.eq_ignore_ascii_case(name.as_bytes())) {
            self.names.push(name.to_owned());
            relaxed_field(name, field.value, &mut self.canonical);
        }
        self.names.len() - before
    }
}

/// The `List-…` names that stand there, each once, but those signed already.
fn list_names(fields: &[&Field]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for field in fields {
        let is_list = field.name.get(..SIGNED_PREFIX.len()).is_some_and(|p| p.eq_ignore_ascii_case(SIGNED_PREFIX));
        let Ok(name) = std::str::from_utf8(field.name) else { continue };
        let is_plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let is_known = SIGNED.iter().any(|known| known.eq_ignore_ascii_case(name))
            || names.iter().any(|known| known.eq_ignore_ascii_case(name));
        if is_list && is_plain && !is_known && names.len() < LIST_NAMES_MAX {
            names.push(name.to_owned());
        }
    }
    names
}

/// RFC 6376 §3.4.2.
fn relaxed_field(name: &str, value: &[u8], out: &mut Vec<u8>) {
    let begin = out.len();
    out.extend_from_slice(name.as_bytes());
    out.iter_mut().skip(begin).for_each(|octet| octet.make_ascii_lowercase());
    out.push(b':');
    let start = out.len();
    let is_space = |octet: &u8| matches!(octet, b' ' | b'\t');
    let mut in_space = false;
    // A line end is nothing by itself: what it folds begins with white space.
    for mut line in value.split(|octet| matches!(octet, b'\r' | b'\n')) {
        while let Some(first) = line.first() {
            let is_in_space = is_space(first);
            let length = line.iter().position(|octet| is_space(octet) != is_in_space).unwrap_or(line.len());
            let (run, rest) = line.split_at(length);
            line = rest;
            if is_in_space {
                in_space = true;
                continue;
            }
            if std::mem::take(&mut in_space) && out.len() > start {
                out.push(b' ');
            }
            out.extend_from_slice(run);
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// The hash of a body in its relaxed form (RFC 6376 §3.4.4).
///
/// mail-auth 0.13 keeps trailing lines of white space alone, which every other verifier drops as empty
/// (stalwartlabs/mail-auth#62); so it is given the body without its trailing white space, and ends it itself.
pub(super) fn body_hash(body: &[u8]) -> [u8; 32] {
    let digest = HashAlgorithm::Sha256.hash(Canonicalization::Relaxed.canonical_body(without_tail(body), 0));
    let mut hash = [0; 32];
    for (place, octet) in hash.iter_mut().zip(digest.as_ref()) {
        *place = *octet;
    }
    hash
}

/// A body without the spaces, tabs and line ends at its end.
pub(super) fn without_tail(body: &[u8]) -> &[u8] {
    let end = body.iter().rposition(|b| !matches!(b, b'\r' | b'\n' | b' ' | b'\t')).map_or(0, |last| last + 1);
    body.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sha2::{Digest, Sha256};

    use super::*;

    /// RFC 6376 §3.4.4, word for word and slowly.
    fn reference(body: &[u8]) -> Vec<u8> {
        let text: Vec<u8> = body.to_vec();
        let mut lines: Vec<Vec<u8>> = Vec::new();
        for line in String::from_utf8_lossy(&text).split("\r\n") {
            let mut reduced = Vec::new();
            for byte in line.bytes() {
                let byte = if byte == b'\t' { b' ' } else { byte };
                if byte != b' ' || reduced.last() != Some(&b' ') {
                    reduced.push(byte);
                }
            }
            while reduced.last() == Some(&b' ') {
                reduced.pop();
            }
            lines.push(reduced);
        }
        while lines.last().is_some_and(Vec::is_empty) {
            lines.pop();
        }
        let mut canonical = lines.join(&b"\r\n"[..]);
        if !lines.is_empty() {
            canonical.extend_from_slice(b"\r\n");
        }
        canonical
    }

    fn check(body: &[u8]) {
        let want: [u8; 32] = Sha256::digest(reference(body)).into();
        assert_eq!(body_hash(body), want, "{:?}", String::from_utf8_lossy(body));
    }

    #[test]
    fn a_body_that_ends_in_white_space_hashes_as_other_verifiers_hash_it() {
        let ends = ["", "\r\n", " \r\n", "\t\r\n\r\n", "\r\n \r\n", " \r\n \t \r\n\r\n", " ", "\r\n "];
        for start in ["", "hello", "a  b\t c", " x", "\r\nx", " \r\n\r\ny", "a \r\n \r\nb"] {
            for end in ends {
                check(format!("{start}{end}").as_bytes());
            }
        }
    }

    proptest! {
        #[test]
        fn every_body_hashes_as_the_rule_says(pieces in proptest::collection::vec(
            proptest::sample::select(vec!["\r\n", " ", "\t", "x", "word", " \r\n", "\u{e9}", "\u{c}"]), 0..60)) {
            check(pieces.concat().as_bytes());
        }
    }

    /// RFC 6376 §3.4.2, word for word and slowly.
    fn reference_field(value: &str) -> String {
        let mut unfolded = value.replace(['\r', '\n'], "").replace('\t', " ");
        while unfolded.contains("  ") {
            unfolded = unfolded.replace("  ", " ");
        }
        format!("name:{}\r\n", unfolded.trim_matches(' '))
    }

    proptest! {
        #[test]
        fn every_field_is_relaxed_as_the_rule_says(pieces in proptest::collection::vec(
            proptest::sample::select(vec!["\r\n ", "\r\n\t", " ", "\t", "x", "word", ":", "\r", "\n", "\u{e9}", "\u{c}"]), 0..30)) {
            let mut relaxed = Vec::new();
            relaxed_field("Name", pieces.concat().as_bytes(), &mut relaxed);
            prop_assert_eq!(String::from_utf8(relaxed).unwrap(), reference_field(&pieces.concat()));
        }
    }

    #[test]
    fn fields_are_oversigned_or_signed_as_they_stand() {
        let own = b"Received: no\r\nFROM: a@b.example\r\nTo: x\r\nTo : y\r\nlist-id:  <l>  \r\n\
                    List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\nSubject:\tfolded\r\n  here \r\n\r\n";
        let signed = signed_header(b"List-Unsubscribe: <https://u>\r\n", own).unwrap();
        assert_eq!(
            signed.names.join(":"),
            "From:From:To:To:To:Cc:Subject:Subject:Date:Reply-To:Message-ID:MIME-Version:Content-Type:\
             Content-Transfer-Encoding:In-Reply-To:References:List-Unsubscribe-Post:List-Unsubscribe:list-id"
        );
        assert_eq!(
            String::from_utf8(signed.canonical).unwrap(),
            "from:a@b.example\r\nto:y\r\nto:x\r\nsubject:folded here\r\n\
             list-unsubscribe-post:List-Unsubscribe=One-Click\r\nlist-unsubscribe:<https://u>\r\nlist-id:<l>\r\n"
        );
        assert_eq!(signed_header(b"", b"To: x\r\n\r\n"), None);
    }
}
