//! What a token promises: it says what it was told, to whoever has a key, in every case; and nothing else is one.

use proptest::prelude::*;

use super::keys::KEYS_MAX;
use super::*;

const NOW: Timestamp = Timestamp::from_secs(1_795_255_200);

fn keys(seed: u8) -> Keys {
    Keys::of(&[seed; 32])
}

fn token(kind: Kind) -> Token {
    Token { kind, id: QueueId::from_u64(3_763_000_000_000_000_007), recipient: 3, expires_at: hour(500_000) }
}

fn hour(hours: u64) -> Timestamp {
    Timestamp::from_millis(hours * MILLIS_PER_HOUR)
}

fn link(address: &str, stream: &str) -> Link {
    let id = QueueId::from_u64(7);
    Link { address: address.parse().unwrap(), stream: stream.into(), id, recipient: 0, expires_at: hour(500_000) }
}

/// An address as long as any: 64 octets that all must be escaped, and a domain of 253.
fn longest_address() -> Address {
    let domain = format!("{0}.{0}.{0}.{1}", "d".repeat(63), "e".repeat(61));
    let address = Address::new(&"\\".repeat(64), domain.parse().unwrap()).unwrap();
    assert_eq!((address.local().len(), address.domain().as_str().len()), (130, 253));
    address
}

#[test]
fn a_token_is_always_the_same_text() {
    // Computed by another program: a version that makes other texts could not read what is on its way.
    let rows = [
        (Kind::ReturnPath, 0, "bgq4nzearzoaaoaaaa6qsa4j5repudkljm6rmn4g7eptodcy"),
        (Kind::Unsubscribe, 5, "ugq4nzearzoaaoaafa6qsaitw2hsra6pz23eiklmjb5iujji"),
        (Kind::Reference, WHOLE_ENVELOPE, "rgq4nzearzoaap777a6qsait7tzoxrjpgqtt5gn4cpdwughy"),
    ];
    let sealed = "s34kx6nbxxo5jqbw2lcfcodbqfydctpal4sf3kp5bqz6jvpmfbr5uaad7lq5lr67nklzoppk7s3uq";
    assert_eq!(keys(1).seal(&link("a@example.net", "news")), sealed);
    for (kind, recipient, want) in rows {
        let token = Token { recipient, ..token(kind) };
        let text = keys(1).make(&token);
        assert_eq!(text, want);
        assert_eq!(text.len(), LOCAL_LENGTH);
        assert!(text.bytes().all(|b| b.is_ascii_lowercase() || (b'2'..=b'7').contains(&b)), "{text}");
        assert_eq!(keys(1).read(&text, NOW), Ok(token));
        assert_eq!(keys(1).read(&text.to_ascii_uppercase(), NOW), Ok(token), "in capitals");
        let at = format!("{text}@bounce.example.com").parse::<Address>().unwrap();
        assert_eq!(at.local(), text, "it needs no quotes");
    }
}

#[test]
fn what_is_no_token_of_ours_is_told_from_one_that_is_forged_or_too_old() {
    let text = keys(1).make(&token(Kind::ReturnPath));
    let sealed = keys(1).seal(&link("a@example.net", "news"));
    let rows = [
        (String::new(), TokenFlaw::Form),
        ("postmaster".to_owned(), TokenFlaw::Form),
        (text[1..].to_owned(), TokenFlaw::Form),
        (format!("{text}a"), TokenFlaw::Form),
        (text.replacen('b', "x", 1), TokenFlaw::Form),
        // Another kind's letter, under the same MAC.
        (text.replacen('b', "u", 1), TokenFlaw::Forged),
        ("b".repeat(47) + "a", TokenFlaw::Forged),
        (format!("b{}", "1".repeat(47)), TokenFlaw::Form),
        (format!("b{}", "ü".repeat(23)) + "a", TokenFlaw::Form),
        (sealed.clone(), TokenFlaw::Form),
        (sealed[..48].to_owned(), TokenFlaw::Form),
    ];
    for (text, want) in rows {
        assert_eq!(keys(1).read(&text, NOW), Err(want), "{text}");
    }
    assert_eq!(keys(2).read(&text, NOW), Err(TokenFlaw::Forged));
    assert!(keys(1).read(&text, hour(500_000)).is_ok());
    assert_eq!(keys(1).read(&text, hour(500_001)), Err(TokenFlaw::Expired));
    assert_eq!(keys(1).open(&text, NOW), Err(TokenFlaw::Form));
    assert_eq!(keys(2).open(&sealed, NOW), Err(TokenFlaw::Forged));
    assert_eq!(keys(1).open(&sealed, hour(500_001)), Err(TokenFlaw::Expired));
    assert_eq!(keys(1).open(&"s".repeat(SEALED_LENGTH_MAX + 1), NOW), Err(TokenFlaw::Form));
}

#[test]
fn a_link_shows_neither_address_nor_stream_and_needs_no_more_than_it_may() {
    let longest = Link { address: longest_address(), stream: "s".repeat(64).into(), ..link("a@b.example", "") };
    for link in [link("Ann+x@example.net", "newsletter"), link("\"a b\"@example.net", ""), longest] {
        let text = keys(1).seal(&link);
        assert_eq!(text, keys(1).seal(&link), "it is the same at every attempt");
        assert!(text.len() <= SEALED_LENGTH_MAX, "{}", text.len());
        assert!(text.bytes().all(|b| b.is_ascii_lowercase() || (b'2'..=b'7').contains(&b)), "{text}");
        assert_eq!(keys(1).open(&text, NOW).as_ref(), Ok(&link));
        assert_eq!(keys(1).open(&text.to_ascii_uppercase(), NOW).as_ref(), Ok(&link));
        let mut octets = String::new();
        base32::encode(link.address.local().as_bytes(), &mut octets);
        assert!(!text.contains(octets.get(..4).unwrap_or(&octets)), "{text} shows the address");
    }
}

#[test]
fn a_new_key_makes_and_the_old_ones_still_read() {
    let secret = |seed: u8| Keys::file(&[seed; 32]).lines().last().unwrap().to_owned();
    let (old, new) = (keys(1), Keys::parse(&format!("{}\n# new\n\n{}\n", secret(1), secret(2))).unwrap());
    let token = token(Kind::ReturnPath);
    let link = link("a@example.net", "news");
    assert_eq!(new.count(), 2);
    assert_eq!(new.make(&token), keys(2).make(&token));
    assert_eq!(new.seal(&link), keys(2).seal(&link));
    assert_eq!(new.read(&old.make(&token), NOW), Ok(token));
    assert_eq!(new.open(&old.seal(&link), NOW), Ok(link.clone()));
    assert_eq!(old.read(&new.make(&token), NOW), Err(TokenFlaw::Forged));
    assert_eq!(old.open(&new.seal(&link), NOW), Err(TokenFlaw::Forged));
}

#[test]
fn a_key_file_is_read_or_says_which_line_is_wrong() {
    let key = "0123456789abcdef0123456789ABCDEF0123456789abcdef0123456789abcdef";
    assert_eq!(Keys::parse(&Keys::file(&[9; 32])).unwrap().count(), 1);
    assert_eq!(Keys::parse(&format!("  {key} \r\n")).unwrap().count(), 1);
    let rows = [
        (String::new(), KeysError::None),
        ("# nothing\n\n".to_owned(), KeysError::None),
        (format!("{key}\n{}", &key[1..]), KeysError::Line(2)),
        (format!("{key} {key}"), KeysError::Line(1)),
        (format!("# x\n{}", key.replace('0', "g")), KeysError::Line(2)),
        (format!("+1{}", &key[2..]), KeysError::Line(1)),
        (format!("{key}\n").repeat(KEYS_MAX + 1), KeysError::Many),
    ];
    for (text, want) in rows {
        let error = Keys::parse(&text).unwrap_err();
        assert_eq!(error, want, "{text}");
        assert!(!error.to_string().contains("abcdef"), "{error}");
    }
    assert_eq!(format!("{:?}", keys(1)), "Keys(1)");
}

fn any_token() -> impl Strategy<Value = Token> {
    let kind = prop_oneof![Just(Kind::ReturnPath), Just(Kind::Unsubscribe), Just(Kind::Reference)];
    (kind, any::<u64>(), any::<u16>(), 0..=HOURS_MAX * MILLIS_PER_HOUR).prop_map(|(kind, id, recipient, millis)| {
        Token { kind, id: QueueId::from_u64(id), recipient, expires_at: Timestamp::from_millis(millis) }
    })
}

fn any_link() -> impl Strategy<Value = Link> {
    ("[ -~ü]{1,30}", "[a-z0-9]{1,63}(\\.[a-z0-9]{1,63}){0,2}", "[a-z_.@+-]{0,64}", any_token()).prop_filter_map(
        "an address",
        |(local, domain, stream, token)| {
            let address = Address::new(&local, domain.parse().ok()?).ok()?;
            let stream = stream.into();
            Some(Link { address, stream, id: token.id, recipient: token.recipient, expires_at: token.expires_at })
        },
    )
}

proptest! {
    #[test]
    fn what_is_made_is_read_in_every_case(token in any_token(), upper in any::<u64>()) {
        let text = keys(1).make(&token);
        prop_assert_eq!(text.len(), LOCAL_LENGTH);
        let fold = |(at, c): (usize, char)| if upper >> (at % 64) & 1 == 1 { c.to_ascii_uppercase() } else { c };
        let folded: String = text.chars().enumerate().map(fold).collect();
        let read = keys(1).read(&folded, Timestamp::ZERO).unwrap();
        prop_assert_eq!(Token { expires_at: token.expires_at, ..read }, token);
        let later = read.expires_at.since(token.expires_at).as_millis();
        prop_assert!(later < u128::from(MILLIS_PER_HOUR) && read.expires_at >= token.expires_at);
    }

    #[test]
    fn every_flipped_bit_is_refused(token in any_token()) {
        let text = keys(1).make(&token);
        for bit in 0..text.len() * 8 {
            let mut octets = text.clone().into_bytes();
            octets[bit / 8] ^= 1 << (bit % 8);
            let Ok(flipped) = String::from_utf8(octets) else { continue };
            // The bit that makes a letter a capital says nothing.
            if flipped.to_ascii_lowercase() != text {
                prop_assert!(keys(1).read(&flipped, Timestamp::ZERO).is_err(), "{} {}", bit, flipped);
            }
        }
    }

    #[test]
    fn every_flipped_bit_of_a_link_is_refused(link in any_link(), choice in any::<prop::sample::Index>()) {
        let text = keys(1).seal(&link);
        let read = keys(1).open(&text, Timestamp::ZERO).unwrap();
        prop_assert_eq!(Link { expires_at: link.expires_at, ..read }, link);
        let bit = choice.index(text.len() * 8);
        let mut octets = text.clone().into_bytes();
        octets[bit / 8] ^= 1 << (bit % 8);
        if let Ok(flipped) = String::from_utf8(octets) && flipped.to_ascii_lowercase() != text {
            prop_assert!(keys(1).open(&flipped, Timestamp::ZERO).is_err());
        }
        // Nor a piece of it, nor more than it.
        prop_assert!(keys(1).open(&text[..bit / 8], Timestamp::ZERO).is_err());
        prop_assert!(keys(1).open(&(text + "a"), Timestamp::ZERO).is_err());
    }

    #[test]
    fn no_text_is_a_token_by_chance(text in "\\PC{0,80}|[busr][a-z2-7]{47}|s[a-z2-7]{0,200}") {
        prop_assert!(keys(1).read(&text, Timestamp::ZERO).is_err());
        prop_assert!(keys(1).open(&text, Timestamp::ZERO).is_err());
    }
}
