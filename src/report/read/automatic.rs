//! What machines answer by themselves, and what people ask for: neither is a failure. RFC 3834, RFC 2369.

use super::piece::{Kind as Part, Letter};
use super::{Fate, Kind, Reading, Reported};
use super::{bounce, phrases, quoted};

/// Evidence of a bounce that outweighs a subject of absence.
const BOUNCE_EVIDENCE: u8 = 5;
/// A wish to be taken off is short. Unit: bytes.
const WISH_MAX: usize = 400;

/// Reads a vacation notice, a challenge or an acknowledgement.
pub(super) fn read(letter: &Letter) -> Option<Reading> {
    let passages = bounce::passages(letter, &quoted::original(letter));
    let evidence = bounce::evidence(letter, &passages);
    let is_receipt = letter.pieces.iter().any(|piece| piece.kind == Part::Disposition);
    // The subject is that of the newsletter which is answered; the wish stands below.
    let is_wish =
        !is_marked(letter) && letter.fields.first("in-reply-to").is_some() && read_unsubscribe(letter).is_some();
    let is_automatic = (is_away(letter) || is_challenge(letter)) && evidence < BOUNCE_EVIDENCE && !is_wish
        || is_marked(letter) && evidence < 4
        || is_receipt && evidence < 4;
    is_automatic.then(|| Reading::of(Kind::AutoReply))
}

/// Whether the subject says that somebody is away, or a machine that it will answer.
pub(super) fn is_away(letter: &Letter) -> bool {
    let subject = letter.subject();
    let bare = subject.trim_start_matches("re: ").trim_start_matches("aw: ");
    if phrases::begins(bare, &["undeliver", "returned mail", "delivery", "failure", "mail delivery"]) {
        return false;
    }
    let named = ["x-autoreply", "x-autorespond", "x-autoreply-from", "x-auto-reply-from"];
    phrases::has(&subject, phrases::AWAY_SUBJECTS)
        || named.iter().any(|name| letter.fields.first(name).is_some_and(|value| !value.eq_ignore_ascii_case("no")))
        || letter.fields.first("auto-submitted").is_some_and(|value| value.to_ascii_lowercase().contains("vacation"))
}

/// Whether a challenge comes in a report's dress: from a service, never from a mail system.
pub(super) fn is_service_challenge(letter: &Letter) -> bool {
    let from = letter.fields.first("from").unwrap_or_default().to_lowercase();
    is_challenge(letter) && !phrases::has(&from, phrases::DAEMONS)
}

fn is_challenge(letter: &Letter) -> bool {
    let subject = letter.subject();
    let words = letter.words.get(..letter.words.floor_char_boundary(2000)).unwrap_or_default().to_lowercase();
    phrases::has(&subject, phrases::CHALLENGES) || phrases::has(&words, phrases::CHALLENGES)
}

/// Whether the header says that a machine wrote it.
fn is_marked(letter: &Letter) -> bool {
    let says = |name: &str, words: &[&str]| {
        letter.fields.all(name).any(|value| phrases::has(&value.to_ascii_lowercase(), words))
    };
    says("auto-submitted", &["auto-replied", "auto-generated", "auto-notified"])
        || says("precedence", &["auto_reply", "auto-reply", "autoreply", "junk"])
        || says("x-precedence", &["auto_reply", "auto-reply"])
        || says("x-autoreply", &["yes", "1", "true"])
        || says("x-mailer", &["vacation", "autorespon", "autoreply"])
        || says("x-auto-response-suppress", &["all", "oof", "autoreply"])
        || letter.fields.first("x-mail-autoreply").is_some()
}

/// Reads a wish to be taken off: sent to an address made for it, or a short text that says nothing else.
pub(super) fn read_unsubscribe(letter: &Letter) -> Option<Reading> {
    let subject = letter.subject();
    let bare = subject.trim_start_matches("re: ").trim_start_matches("aw: ").trim_start_matches("fwd: ").trim();
    let is_for_it = letter.recipients().iter().any(|address| {
        let local = address.split('@').next().unwrap_or_default().to_ascii_lowercase();
        phrases::begins(
            &local,
            &[
                "unsubscribe",
                "unsub-",
                "unsub+",
                "unsub.",
                "leave-",
                "signoff",
                "optout",
                "opt-out",
                "abmelden",
                "list-unsubscribe",
            ],
        ) || local.ends_with("-unsubscribe")
            || local == "unsub"
    });
    let says = |text: &str| {
        let text = text.trim().trim_end_matches(['.', '!', ' ']);
        phrases::LEAVE.iter().any(|word| match word.len() <= 7 {
            // Short words must be all that is said.
            true => text == *word,
            false => text.starts_with(word) || text.ends_with(word),
        }) && text.len() <= 200
    };
    let (lines, _) = quoted::cut(&letter.words);
    let own = lines
        .iter()
        .map(|line| line.trim())
        .take_while(|line| !line.starts_with('>') && *line != "--")
        .filter(|line| !line.is_empty());
    let text = own.take(8).collect::<Vec<_>>().join(" ").to_lowercase();
    let is_reply = letter.fields.first("in-reply-to").is_some() || subject.starts_with("re:");
    let is_wish = is_for_it && text.len() < WISH_MAX
        || says(bare) && text.len() < WISH_MAX
        || text.len() < 200 && says(&text) && (is_reply || bare.is_empty() || says(bare));
    if !is_wish {
        return None;
    }
    let mut reading = Reading::of(Kind::Unsubscribe);
    reading.recipients.push(Reported {
        address: letter.from().map(Into::into),
        forwarded_to: None,
        fate: Fate::Passed,
        status: None,
        code: None,
        stage: None,
        text: subject.into(),
        remote_host: None,
    });
    Some(reading)
}
