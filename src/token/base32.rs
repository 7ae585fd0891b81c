//! RFC 4648 §6 in lower case and without padding; read in any case, in its one form only.

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Appends the text of some octets.
pub(super) fn encode(octets: &[u8], out: &mut String) {
    let (mut bits, mut count) = (0u16, 0u32);
    for octet in octets {
        bits = bits << 8 | u16::from(*octet);
        count += 8;
        while count >= 5 {
            count -= 5;
            out.push(letter(bits >> count));
        }
    }
    if count > 0 {
        out.push(letter(bits << (5 - count)));
    }
}

fn letter(bits: u16) -> char {
    char::from(ALPHABET[usize::from(bits & 31)])
}

/// The octets of a text. `None` for another character, a length that nothing has, or bits left over that are not zero:
/// what reads the same must be the same text but for its case.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    let mut octets = Vec::with_capacity(text.len() * 5 / 8);
    let (mut bits, mut count) = (0u16, 0u32);
    for byte in text.bytes() {
        let value = match byte.to_ascii_lowercase() {
            letter @ b'a'..=b'z' => letter - b'a',
            digit @ b'2'..=b'7' => digit - b'2' + 26,
            _ => return None,
        };
        bits = bits << 5 | u16::from(value);
        count += 5;
        if count >= 8 {
            count -= 8;
            octets.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    (count < 5 && bits == 0).then_some(octets)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_are_those_of_the_rfc_in_lower_case() {
        // RFC 4648 §10.
        let rows = [
            ("", ""),
            ("f", "my"),
            ("fo", "mzxq"),
            ("foo", "mzxw6"),
            ("foob", "mzxw6yq"),
            ("fooba", "mzxw6ytb"),
            ("foobar", "mzxw6ytboi"),
        ];
        for (plain, text) in rows {
            let mut out = String::new();
            encode(plain.as_bytes(), &mut out);
            assert_eq!(out, text);
            assert_eq!(decode(text), Some(plain.as_bytes().to_vec()));
            assert_eq!(decode(&text.to_uppercase()), Some(plain.as_bytes().to_vec()));
        }
        // Bits left over, lengths that nothing has, padding, other characters.
        for bad in ["mz", "mzxr", "m", "mzx", "mzxw6y", "my======", "m1", "m8", "m-", "m ", "m\u{131}"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(octets in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut text = String::new();
            encode(&octets, &mut text);
            prop_assert_eq!(text.len(), (octets.len() * 8).div_ceil(5));
            prop_assert_eq!(decode(&text), Some(octets));
        }

        #[test]
        fn what_is_read_is_written_so(text in "[a-z2-7]{0,40}") {
            if let Some(octets) = decode(&text) {
                let mut again = String::new();
                encode(&octets, &mut again);
                prop_assert_eq!(again, text);
            }
        }
    }
}
