//! What is told to those who count complaints: the Feedback-ID, and whether a field may still be added.
//!
//! Called by the door when a message is accepted. It reads the header's scan, and changes nothing.

use sha2::{Digest, Sha256};

use crate::mail::Domain;

use super::header::{HeaderBlock, Kind};

/// Hexadecimal digits of an identifier. Gmail takes 5 to 15 characters for the sender.
const DIGITS: usize = 10;

/// The value of Feedback-ID: `campaign:credential:stream:sender`, without those that are empty; the sender always last.
///
/// Each is the beginning of a hash of the sending domain and the word, so it tells a stranger nothing, is the same for
/// ever, and can be computed by who knows the word: `printf 'example.com:spring-sale' | sha256sum | cut -c1-10`. The
/// sender is the hash of `example.com:`.
pub fn feedback_id(domain: &Domain, words: [&str; 3]) -> String {
    let mut value = String::with_capacity(4 * (DIGITS + 1));
    for word in words.into_iter().filter(|word| !word.is_empty()) {
        put_identifier(&mut value, domain, word);
        value.push(':');
    }
    put_identifier(&mut value, domain, "");
    value
}

fn put_identifier(value: &mut String, domain: &Domain, word: &str) {
    let hash = Sha256::new().chain_update(domain.as_str()).chain_update(":").chain_update(word).finalize();
    for octet in hash.iter().take(DIGITS / 2) {
        let digit = |half: u8| char::from_digit(half.into(), 16).unwrap_or('0');
        value.extend([digit(octet >> 4), digit(octet & 15)]);
    }
}

/// Whether one more field of this name would break a DKIM signature that came with the message: the signature names it
/// more often than it stands there, which signs that there are no more (RFC 6376 §5.4.2, §8.15).
pub fn forbids_more(header: &HeaderBlock, name: &str) -> bool {
    let mut signatures = header.of(Kind::DkimSignature).peekable();
    if signatures.peek().is_none() {
        return false;
    }
    let is_it = |other: &[u8]| other.trim_ascii().eq_ignore_ascii_case(name.as_bytes());
    let stand = header.fields.iter().filter(|field| is_it(field.name)).count();
    signatures.any(|signature| {
        let signed = signed_names(signature.value).into_iter().flatten();
        signed.filter(|other| is_it(other)).count() > stand
    })
}

/// The names of an `h=` tag (RFC 6376 §3.5). Folding white space may stand around tags and names.
fn signed_names(value: &[u8]) -> Option<impl Iterator<Item = &[u8]>> {
    let tags = value.split(|byte| *byte == b';');
    let mut names = tags.filter_map(|tag| {
        let (name, names) = tag.split_at(tag.iter().position(|byte| *byte == b'=')?);
        (name.trim_ascii() == b"h").then_some(&names[1..])
    });
    Some(names.next_back()?.split(|byte| *byte == b':'))
}

#[cfg(test)]
mod tests {
    use super::super::header::{HeaderLimits, scan};
    use super::*;

    #[test]
    fn a_feedback_id_is_what_the_command_in_the_docs_prints() {
        let domain = "example.com".parse().unwrap();
        // printf 'example.com:WORD' | sha256sum | cut -c1-10
        assert_eq!(
            feedback_id(&domain, ["spring-sale", "shop", "marketing"]),
            "ef254ff8f9:47fd495815:0edc490bc3:30e8cd6fe4"
        );
        assert_eq!(feedback_id(&domain, ["", "", "marketing"]), "0edc490bc3:30e8cd6fe4");
    }

    #[test]
    fn a_signature_forbids_one_more_of_what_it_names_too_often() {
        let rows = [
            ("", false),
            ("DKIM-Signature: v=1; d=a.example; h=From:To; b=x\r\n", false),
            ("DKIM-Signature: v=1; h=From:List-Unsubscribe; b=x\r\n", true),
            ("DKIM-Signature: v=1; h = From :\r\n list-unsubscribe\r\n\t; b=x\r\n", true),
            ("DKIM-Signature: v=1; h=From; b=x\r\nDKIM-Signature: h=LIST-UNSUBSCRIBE\r\n", true),
            ("List-Unsubscribe: <x>\r\nDKIM-Signature: h=From:List-Unsubscribe\r\n", false),
            ("List-Unsubscribe: <x>\r\nDKIM-Signature: h=List-Unsubscribe:List-Unsubscribe\r\n", true),
            ("DKIM-Signature: z=h=List-Unsubscribe; bh=List-Unsubscribe\r\n", false),
            ("DKIM-Signature: h\r\n", false),
            ("X: h=List-Unsubscribe\r\n", false),
            ("DKIM-Signature: v=1; h=From:List-Unsubscribe-Post; b=x\r\n", false),
        ];
        for (header, want) in rows {
            let message = format!("From: a@b.example\r\n{header}\r\n");
            let block = scan(message.as_bytes(), HeaderLimits::NONE).unwrap();
            assert_eq!(forbids_more(&block, "List-Unsubscribe"), want, "{header}");
        }
    }
}
