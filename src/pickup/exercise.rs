//! What the fuzzer is let at: a file of the maildrop, and what is made of it. Never called by the daemon.

use postrider_drop::{Letter, Stamp};

use super::letter::{Terms, normalized, submission};
use crate::mail::is_safe_argument;
use crate::message::{Families, Family, HeaderLimits, Kind, scan};
use crate::time::Timestamp;

const HANDED_IN: Timestamp = Timestamp::from_secs(1_795_255_200);
/// Small, so that a fuzzer gets there. Unit: octets.
const SIZE_MAX: u64 = 2048;
const RECIPIENTS_MAX: usize = 4;

/// Octets as a whole file, and as the records of a letter whose stamp and sums are right, which any local user can make:
/// nothing panics, what is read is read the same after it was written again, and what is made of it is fit for the door.
pub fn octets(octets: &[u8]) {
    read(octets);
    let stamp = Stamp { time_ms: HANDED_IN.as_millis(), uid: 33, pid: 4711 };
    read(&postrider_drop::file(&stamp, octets));
}

fn read(octets: &[u8]) {
    let Ok((stamp, letter)) = postrider_drop::read(octets) else { return };
    let again = [&stamp.bytes()[..], &letter.bytes()].concat();
    assert_eq!(postrider_drop::read(&again), Ok((stamp, letter.clone())), "a letter survives");
    fits_the_door(letter);
}

fn fits_the_door(letter: Letter) {
    let terms = Terms {
        origin: "host.example".parse().expect("a domain"),
        stream: None,
        control: Family::ALL.into_iter().collect::<Families>(),
        size_max: SIZE_MAX,
        recipients_max: RECIPIENTS_MAX,
    };
    let (wanted, came) = (letter.recipients.len(), letter.message.clone());
    let Some((made, refusal)) = submission(&terms, letter, HANDED_IN, HANDED_IN) else { return };
    assert!((1..=wanted).contains(&made.recipients.len()), "somebody gets it, and nobody twice");
    for address in made.recipients.iter().map(|(address, ..)| address).chain(made.reverse_path.address()) {
        assert_eq!(address.to_string().parse().as_ref(), Ok(address), "an address is one");
    }
    assert!(made.envid.is_none_or(|envid| is_safe_argument(&envid)), "an envelope id fits a command");
    if let Some(refusal) = refusal {
        assert!((500..=599).contains(&refusal.code), "a later try is no better");
        assert!(refusal.text.len() < 500 && !refusal.text.contains(char::is_control), "a refusal is one line");
        return;
    }
    assert!(came.len() as u64 <= SIZE_MAX && made.recipients.len() <= RECIPIENTS_MAX, "it is within the limits");
    let message = &made.message[..];
    assert!(!message.contains(&0) && message.ends_with(b"\r\n"), "it has no NUL, and its last line ends");
    for pair in message.windows(2) {
        assert_eq!(pair[0] == b'\r', pair[1] == b'\n', "a CR or an LF stands alone");
    }
    let normal = normalized(&came);
    let (Ok(before), Ok(after)) = (scan(&normal, HeaderLimits::NONE), scan(message, HeaderLimits::NONE)) else {
        panic!("no limit, and yet one is passed");
    };
    assert_eq!(message[after.body_start..], normal[before.body_start..], "its body is what it was");
    let dates = |header: &crate::message::HeaderBlock| header.of(Kind::Date).count();
    assert_eq!(dates(&after), dates(&before).max(1), "it has a date");
    if dates(&before) == 0 {
        let date = after.of(Kind::Date).next().map(|field| field.value.trim_ascii());
        assert_eq!(date, Some(HANDED_IN.rfc5322().as_bytes()), "of when it was handed in");
    }
    assert!(after.fields.len() <= before.fields.len() + 2, "nobody's words make a field of their own");
}
