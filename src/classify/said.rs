//! A reply made comparable: one case, one kind of space, no accents, its status found wherever a server hides it.
//!
//! Called once for each reply that is judged. The text is the peer's: it is bounded before anything looks at it.

use std::net::IpAddr;

use crate::mail::{EnhancedStatus, Reply};

/// Longest text that is compared. Unit: bytes. What is kept of a reply is shorter (`mail::Reply`).
const LENGTH_MAX: usize = 1200;

/// A reply as the rules see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Said {
    pub code: u16,
    /// The first one, also `#5.1.1` and `(5.1.1)` as Exchange, IronPort and qmail write it.
    pub status: Option<EnhancedStatus>,
    /// Lower case, words parted by one space, without accents, codes and repeated statuses.
    pub text: String,
}

impl Said {
    pub fn of(reply: &Reply) -> Said {
        let mut status = reply.enhanced;
        let mut text = String::with_capacity(reply.text.len());
        let code = format!("{}", reply.code);
        let mut after_code = true;
        for word in reply.text.split([' ', '\t', '\u{a0}']).filter(|word| !word.is_empty()) {
            // A log's `550-5.1.1 …` on each line; the reply reader has taken off its own.
            let bare = word.strip_prefix(&*code).and_then(|rest| rest.strip_prefix('-')).unwrap_or(word);
            let found = status_in(bare, after_code || bare.len() < word.len());
            after_code = after_code && text.is_empty() && bare == code || is_code(bare);
            if status.is_none() {
                status = found;
            }
            let is_repeated = found.is_some() && found == status;
            if is_repeated || bare.is_empty() || (text.is_empty() && bare == code) {
                continue;
            }
            if !text.is_empty() {
                text.push(' ');
            }
            push_word(&mut text, bare);
            if text.len() > LENGTH_MAX {
                break;
            }
        }
        Said { code: reply.code, status, text }
    }
}

fn is_code(word: &str) -> bool {
    word.len() == 3 && word.starts_with(['4', '5']) && word.bytes().all(|byte| byte.is_ascii_digit())
}

/// An enhanced status that is meant as one: first, behind a code, or marked by `#` or brackets.
fn status_in(word: &str, first: bool) -> Option<EnhancedStatus> {
    let inner =
        word.trim_matches(|c| matches!(c, '#' | '(' | ')' | '[' | ']' | '<' | '>' | ':' | ';' | ',' | '-' | '.'));
    let marked = first || word.starts_with(['#', '(', '[', '<']);
    if !marked || inner.len() > 9 || inner.contains(' ') {
        return None;
    }
    EnhancedStatus::split(inner).filter(|(_, rest)| rest.is_empty()).map(|(status, _)| status)
}

/// An address in brackets and an IP address are one word whatever they are: nobody's name shall be read as the peer's
/// words, and replies that differ in them alone look alike to the matcher, whose states are then found ready-made.
fn push_word(out: &mut String, word: &str) {
    // Sendmail's and its kin's "lea@example.net...User unknown", without a space.
    match word.split_once("...").filter(|(front, tail)| !front.is_empty() && !tail.is_empty()) {
        Some((front, tail)) => {
            push_one(out, front);
            out.push_str("... ");
            push_one(out, tail);
        }
        None => push_one(out, word),
    }
}

fn push_one(out: &mut String, word: &str) {
    let plain = word.strip_prefix('<').and_then(|rest| rest.split_once('>')).filter(|(inner, _)| inner.contains('@'));
    if let Some((_, tail)) = plain {
        out.push_str("<@>");
        return push_plain(out, tail);
    }
    // Bare, too: "lea@access.example: user unknown" speaks of no access.
    let bare = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    // "lea@access.example...User unknown"
    let bare = bare.split("...").next().unwrap_or(bare);
    if let Some((local, rest)) = bare.split_once('@')
        && !local.is_empty()
    {
        // "(lea@example.net:blocked)": what stands behind the domain is the peer's.
        let is_domain = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-');
        let (domain, said) = rest.split_at(rest.find(|c| !is_domain(c)).unwrap_or(rest.len()));
        if domain.contains('.') {
            let (front, tail) = word.split_once(bare).unwrap_or_default();
            push_plain(out, front);
            out.push_str("<@>");
            push_plain(out, said);
            return push_plain(out, tail);
        }
    }
    let core = bare;
    match word.split_once(core) {
        Some((front, tail)) if core.parse::<IpAddr>().is_ok() => {
            push_plain(out, front);
            out.push_str("0.0.0.0");
            push_plain(out, tail);
        }
        _ => push_plain(out, word),
    }
}

fn push_plain(out: &mut String, word: &str) {
    for c in word.chars() {
        match c {
            'A'..='Z' => out.push(c.to_ascii_lowercase()),
            '`' => out.push('\''),
            '\u{0}'..='\u{7f}' => out.push(c),
            'à'..='å' | 'À'..='Å' | 'ă' | 'ą' | 'ā' => out.push('a'),
            'ç' | 'Ç' | 'ć' | 'č' | 'Č' => out.push('c'),
            'đ' | 'ď' => out.push('d'),
            'è'..='ë' | 'È'..='Ë' | 'ě' | 'ę' | 'ē' | 'ė' => out.push('e'),
            'ğ' | 'ģ' => out.push('g'),
            'ì'..='ï' | 'Ì'..='Ï' | 'ı' | 'İ' | 'ī' | 'į' => out.push('i'),
            'ł' | 'Ł' | 'ļ' | 'ľ' => out.push('l'),
            'ñ' | 'Ñ' | 'ń' | 'ň' | 'ņ' => out.push('n'),
            'ò'..='ö' | 'Ò'..='Ö' | 'ø' | 'Ø' | 'ő' => out.push('o'),
            'ř' => out.push('r'),
            'ś' | 'š' | 'Š' | 'ş' | 'Ş' | 'ș' => out.push('s'),
            'ť' | 'ţ' | 'ț' => out.push('t'),
            'ù'..='ü' | 'Ù'..='Ü' | 'ů' | 'ű' | 'ū' | 'ų' => out.push('u'),
            'ý' | 'Ý' => out.push('y'),
            // Greek with its accents, and Vietnamese.
            'ά' | 'Ά' => out.push('α'),
            'έ' | 'Έ' => out.push('ε'),
            'ή' | 'Ή' => out.push('η'),
            'ί' | 'Ί' => out.push('ι'),
            'ό' | 'Ό' => out.push('ο'),
            'ύ' | 'Ύ' => out.push('υ'),
            'ώ' | 'Ώ' => out.push('ω'),
            '\u{1ea0}'..='\u{1eb7}' => out.push('a'),
            '\u{1eb8}'..='\u{1ec7}' => out.push('e'),
            '\u{1ec8}'..='\u{1ecb}' | 'ĩ' => out.push('i'),
            '\u{1ecc}'..='\u{1ee3}' | 'ơ' => out.push('o'),
            '\u{1ee4}'..='\u{1ef1}' | 'ư' | 'ũ' => out.push('u'),
            '\u{1ef2}'..='\u{1ef9}' => out.push('y'),
            'ź' | 'ż' | 'ž' | 'Ž' | 'Ż' => out.push('z'),
            'ß' => out.push_str("ss"),
            '\u{2018}' | '\u{2019}' => out.push('\''),
            '\u{201c}' | '\u{201d}' => out.push('"'),
            '\u{2010}'..='\u{2015}' => out.push('-'),
            _ => out.extend(c.to_lowercase()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_plain_and_its_status_is_found_wherever_it_stands() {
        let rows = [
            ("5.1.1 No  Such\u{a0}User", Some("5.1.1"), "no such user"),
            ("5.1.1 The account 550-5.1.1 does not exist", Some("5.1.1"), "the account does not exist"),
            ("#5.1.0 Address rejected.", Some("5.1.0"), "address rejected."),
            ("sorry, no mailbox here by that name (#5.1.1)", Some("5.1.1"), "sorry, no mailbox here by that name"),
            ("550 5.7.1 Blocked", Some("5.7.1"), "blocked"),
            ("550-5.7.1 a 550-5.7.1 b 550 c", Some("5.7.1"), "a b 550 c"),
            ("host said: 550 5.1.1 unknown", Some("5.1.1"), "host said: 550 unknown"),
            ("client 5.1.1 is a version", None, "client 5.1.1 is a version"),
            ("[192.0.2.1] is listed", None, "[0.0.0.0] is listed"),
            ("<no.such.user@example.net>: full", None, "<@>: full"),
            ("lea@access.example: user unknown", None, "<@>: user unknown"),
            ("lea@example.net...User unknown", None, "<@>... user unknown"),
            ("(lea@example.net:blocked)", None, "(<@>:blocked)"),
            ("lea@example.net:user not exist", None, "<@>:user not exist"),
            ("not allowed...lea@example.net", None, "not allowed... <@>"),
            ("unknown... .. ......", None, "unknown... .. ......"),
            ("Boîte pleine, über ’Quota’ Größe", None, "boite pleine, uber 'quota' grosse"),
            ("用户不存在", None, "用户不存在"),
            ("", None, ""),
        ];
        for (text, status, plain) in rows {
            let said = Said::of(&Reply::new(550, text));
            assert_eq!(said.status.map(|status| status.to_string()).as_deref(), status, "{text}");
            assert_eq!(said.text, plain, "{text}");
        }
        let long = Said::of(&Reply::new(550, &"İ".repeat(900)));
        assert!(long.text.len() <= 2 * LENGTH_MAX);
    }
}
