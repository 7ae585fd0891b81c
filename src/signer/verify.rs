//! Checks the DKIM signatures of a message against given records: for the sandbox and for tests. No network.

use mail_auth::common::parse::TxtRecordParser as _;
use mail_auth::common::verify::{DomainKey, VerifySignature as _};
use mail_auth::dkim::Canonicalization;
use mail_auth::{AuthenticatedMessage, Error};

use crate::time::Timestamp;

use super::canonical::without_tail;
use super::key::Record;

/// What was found out about one signature.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verified {
    /// `d=`.
    pub domain: String,
    /// `s=`.
    pub selector: String,
    /// `rsa-sha256`, `ed25519-sha256`.
    pub algorithm: &'static str,
    /// Whether it holds, or why not.
    pub result: Result<(), String>,
}

/// Every signature of a message, from the top. Empty: it has none.
pub fn verify(message: &[u8], records: &[Record], now: Timestamp) -> Vec<Verified> {
    let Some(mut parsed) = AuthenticatedMessage::parse(message) else { return Vec::new() };
    mend_relaxed_bodies(message, &mut parsed);
    let mut results = Vec::new();
    for malformed in parsed.errors.iter().filter(|field| matches!(field.header, Error::Dkim(_))) {
        let result = Err(malformed.header.to_string());
        results.push(Verified { domain: String::new(), selector: String::new(), algorithm: "unknown", result });
    }
    for field in &parsed.dkim_headers {
        results.push(Verified {
            domain: field.header.d.clone(),
            selector: field.header.s.clone(),
            algorithm: field.header.a.name(),
            result: verify_one(&parsed, field, records, now),
        });
    }
    results
}

/// Undoes the library's own error in the relaxed form of a body: see `canonical::body_hash`.
pub(super) fn mend_relaxed_bodies(message: &[u8], parsed: &mut AuthenticatedMessage) {
    let body = without_tail(message.get(parsed.body_offset()..).unwrap_or_default());
    for (form, algorithm, length, hash) in &mut parsed.body_hashes {
        if *form == Canonicalization::Relaxed && *length == 0 {
            *hash = algorithm.hash(Canonicalization::Relaxed.canonical_body(body, 0)).as_ref().to_vec();
        }
    }
}

type SignatureField<'a> = mail_auth::common::headers::Header<'a, mail_auth::dkim::Signature>;

fn verify_one(
    message: &AuthenticatedMessage,
    field: &SignatureField,
    records: &[Record],
    now: Timestamp,
) -> Result<(), String> {
    let signature = &field.header;
    if signature.x > 0 && (signature.x <= signature.t || signature.x <= now.as_secs()) {
        return Err("the signature has expired".to_owned());
    }
    let is_equal = message.body_hashes.iter().any(|(form, algorithm, length, hash)| {
        let same = *form == signature.cb && *length == signature.l;
        same && *algorithm == signature.a.into() && *hash == signature.bh
    });
    if !is_equal {
        return Err("the body hash differs".to_owned());
    }
    let name = signature.domain_key();
    let record = records.iter().find(|record| record.name.eq_ignore_ascii_case(name.trim_end_matches('.')));
    let record = record.ok_or_else(|| format!("no record {name}"))?;
    let key = DomainKey::parse(record.value.as_bytes()).map_err(|error| error.to_string())?;
    let value = without_signature(field.value);
    let mut headers = message.signed_headers(&signature.h, field.name, &value);
    key.p.verify(&mut headers, &signature.b, signature.ch, signature.a).map_err(|error| error.to_string())
}

/// The value of a DKIM-Signature field with its `b=` emptied and without its line end (RFC 6376 §3.5).
fn without_signature(value: &[u8]) -> Vec<u8> {
    let value = value.strip_suffix(b"\r\n").unwrap_or(value);
    let mut kept = Vec::with_capacity(value.len());
    for (number, tag) in value.split(|b| *b == b';').enumerate() {
        if number > 0 {
            kept.push(b';');
        }
        match tag.iter().position(|b| *b == b'=') {
            Some(equals) if tag.get(..equals).unwrap_or_default().trim_ascii() == b"b" => {
                kept.extend_from_slice(tag.get(..=equals).unwrap_or_default());
            }
            _ => kept.extend_from_slice(tag),
        }
    }
    kept
}
