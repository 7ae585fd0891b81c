//! Whether the words of a reply, all of them, say that its recipient is dead and nothing else.
//!
//! Called by `Rules::first` for rules that would blame the recipient. A list of the words of blocks, limits and policies is
//! never complete, and an address that is given up in error is not missed by anyone. So it goes the other way about: what a
//! dead mailbox's reply may say is a closed list (`[dead]` in conf/replies.toml), and one word that is not on it is a doubt
//! for which the address is kept.

use std::borrow::Cow;
use std::collections::HashSet;

use regex::bytes::Regex;

use super::said::Said;
use crate::mail::{EnhancedStatus, Stage};

/// Longest entry of the closed list in a script without spaces. Unit: characters.
const ENTRY_LENGTH_MAX: usize = 12;
/// Behind these a name may stand bare: "mailbox lea not found", "no such user: lea".
const NAMED: [&str; 11] = [
    "user",
    "mailbox",
    "account",
    "recipient",
    "address",
    "alias",
    "username",
    "part",
    "named",
    "utilisateur",
    "benutzer",
];
/// And behind these with a colon, at the end: "mailbox not found: lea".
const SAID_OF: [&str; 6] = ["found", "unknown", "invalid", "known", "exist", "exists"];
/// And before these.
const AFTER_NAME: [&str; 13] =
    ["not", "unknown", "is", "does", "doesn't", "was", "has", "in", "on", "at", "here", "inconnu", "unbekannt"];

/// The closed list, and what is said of it.
#[derive(Debug)]
pub(super) struct Proof {
    /// Set phrases of mail servers that are harmless though their words are not. Taken out first.
    pub formulae: Regex,
    /// What speaks of anything but the recipient: it always wins.
    pub veto: Regex,
    /// All words that may stand beside.
    pub words: HashSet<Box<str>>,
}

impl Proof {
    /// Reads the whole text: for every rule the same.
    pub fn holds(&self, said: &Said) -> bool {
        let rest = self.formulae.replace_all(said.text.as_bytes(), &b" "[..]);
        !self.veto.is_match(&rest) && self.knows_all(&String::from_utf8_lossy(&rest))
    }

    fn knows_all(&self, rest: &str) -> bool {
        let mut before = "";
        let mut words = rest.split(' ').filter(|word| !word.is_empty()).peekable();
        while let Some(word) = words.next() {
            let after = words.peek().map_or("", |word| bare(word));
            let is_named = NAMED.contains(&bare(before)) || (before.ends_with(':') && SAID_OF.contains(&bare(before)));
            let is_name =
                is_named && if before.ends_with(':') { after.is_empty() } else { AFTER_NAME.contains(&after) };
            let said = match word.split_once(':') {
                // "lea:user unknown"
                Some((name, tail)) if before.is_empty() && !name.is_empty() => tail,
                _ => word,
            };
            if !is_name && !is_mark(said) && !said.split(is_gap).all(|piece| self.knows(piece)) {
                return false;
            }
            before = word;
        }
        true
    }

    fn knows(&self, piece: &str) -> bool {
        let ends = ["n't", "'s", "'"];
        let stem = ends.iter().find_map(|end| piece.strip_suffix(end)).unwrap_or(piece);
        piece.len() <= 2
            || self.words.contains(piece)
            || self.words.contains(stem)
            // l'adresse, d'utilisateur, n'existe.
            || piece.split_once('\'').is_some_and(|(front, back)| front.len() <= 2 && self.words.contains(back))
            || (!piece.is_ascii() && self.is_made_of_words(piece))
    }

    /// Chinese, Japanese and Korean put no spaces between words.
    fn is_made_of_words(&self, piece: &str) -> bool {
        let mut rest = piece;
        while !rest.is_empty() {
            let ends = rest.char_indices().map(|(at, c)| at + c.len_utf8()).take(ENTRY_LENGTH_MAX);
            let known = ends.filter_map(|end| rest.split_at_checked(end)).filter(|(front, _)| {
                !front.is_ascii() && front.chars().all(is_without_spaces) && self.words.contains(*front)
            });
            match known.last() {
                Some((_, back)) => rest = back,
                None => return false,
            }
        }
        true
    }
}

/// Whether a reply there may say at all that a recipient is dead, by a phrase or by its status alone.
pub(super) fn may_say(stage: Stage, status: Option<EnhancedStatus>, has_phrase: bool) -> bool {
    let is_named = || status.is_some_and(|status| status.subject == 1 && matches!(status.detail, 0..=6 | 10 | 351));
    match stage {
        Stage::Rcpt => has_phrase || is_named(),
        // The whole message was judged by now: a phrase must say that it was its recipient, and no status otherwise.
        Stage::Data | Stage::FinalDot => has_phrase && (status.is_none() || is_named()),
        // No recipient was named yet.
        Stage::Resolve
        | Stage::Connect
        | Stage::Greeting
        | Stage::Hello
        | Stage::Tls
        | Stage::Auth
        | Stage::Mail
        | Stage::Local => false,
    }
}

fn bare(word: &str) -> &str {
    word.trim_matches(|c: char| !c.is_alphanumeric())
}

fn is_gap(c: char) -> bool {
    !c.is_alphanumeric() && c != '\''
}

/// What is no word: an address, a host, a URL, an id, a name in quotes.
fn is_mark(word: &str) -> bool {
    let core = bare(word);
    let is_quoted = word.starts_with(['"', '\'', '<'])
        && word.trim_end_matches(['.', ',', ':', ';', '!']).ends_with(['"', '\'', '>']);
    let has_inner_dot = core.split('.').count() > 1;
    is_quoted
        || has_inner_dot
        || core.contains(['@', '='])
        || core.contains("://")
        || core.bytes().any(|byte| byte.is_ascii_digit())
}

/// Han, kana and hangul.
fn is_without_spaces(c: char) -> bool {
    matches!(c, '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}' | '\u{ac00}'..='\u{d7af}')
}

/// The list as the file writes it: words parted by white space.
pub(super) fn words<'a>(texts: impl Iterator<Item = Cow<'a, str>>) -> HashSet<Box<str>> {
    texts.flat_map(|text| text.split_whitespace().map(Box::from).collect::<Vec<_>>()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::meaning::Class;
    use super::super::{Observation, Rules};
    use super::*;
    use crate::mail::{Cause, Reply};

    #[test]
    fn one_word_that_is_not_on_the_list_keeps_the_address() {
        let rows = [
            (Stage::Rcpt, "5.1.1 User unknown", true),
            (Stage::Rcpt, "User unknown", true),
            (Stage::Rcpt, "5.1.1 <spam@block.example>: Recipient address rejected: User unknown", true),
            (Stage::Rcpt, "5.1.1 User unknown in relay recipient table", true),
            (Stage::Rcpt, "5.1.1 User unknown to the ferryman", false),
            (Stage::Rcpt, "5.1.1 User unknown (embargo)", false),
            (Stage::Rcpt, "5.1.1 User unknown, your server is new", false),
            (Stage::Rcpt, "5.1.1 Sender address rejected: User unknown in relay recipient table", false),
            (Stage::Rcpt, "5.1.1 User unknown; https://postmaster.example.net/blocked", false),
            (Stage::Rcpt, "5.1.1 User unknown [192.0.2.1]", false),
            (Stage::Rcpt, "5.1.1 User unknown [2001:db8::1]", false),
            (Stage::Rcpt, "5.1.1 <a@example.net>", true),
            (Stage::Rcpt, "5.1.1 <a@example.net> sold out", false),
            (Stage::Rcpt, "5.1.1 mailbox lea not found", true),
            (Stage::Rcpt, "no such user: lea", true),
            (Stage::Rcpt, "Mailbox not found: lea", true),
            (Stage::Rcpt, "Mailbox not found: blacklisted", false),
            (Stage::Rcpt, "lea: user unknown", true),
            (Stage::Rcpt, "no such user: lea or any other of that kin", false),
            (Stage::Rcpt, "L'utilisateur n'existe pas", true),
            (Stage::Rcpt, "L'utilisateur n'existe pas pour vous", false),
            (Stage::Rcpt, "用户不存在", true),
            (Stage::Rcpt, "用户不存在于白名单", false),
            (Stage::FinalDot, "5.1.1 User unknown", true),
            (Stage::FinalDot, "5.6.0 User unknown", false),
            (Stage::FinalDot, "5.1.1 <a@example.net>", false),
            (Stage::Mail, "5.1.1 User unknown", false),
            (Stage::Greeting, "5.1.1 User unknown", false),
        ];
        let rules = Rules::shipped();
        for (stage, text, dead) in rows {
            let cause = Cause::Reply(Reply::new(550, text));
            let meaning = rules.classify(&Observation { stage, cause: &cause, recipients_taken: 1, host: None });
            assert_eq!(meaning.suppress, dead, "{stage:?} {text}");
            assert_eq!(meaning.class == Class::RecipientInvalid, dead, "{stage:?} {text}");
        }
    }
}
