//! Bounces that are no RFC 3464: qmail, Exim, old Exchange and sendmail, Gmail, gateways and carriers. Their words are read
//! as a person would: who returned it, which addresses stand out, and what is said beside each.

use super::answer::{self, Answer};
use super::piece::{self, Letter};
use super::{Fate, Kind, RECIPIENTS_MAX, Reading, Reported, Returned};
use super::{address, phrases, quoted};
use crate::mail::Stage;

/// Points at which a message is taken for a bounce; each of who, how and what gives two or more.
const EVIDENCE_MIN: u8 = 4;
/// Longest passage that gives a reason. Unit: lines.
const PASSAGE_MAX: usize = 24;
/// Recipients that words alone may name. Each is looked for in every line.
const NAMED_MAX: usize = 64;
/// Addresses that are looked at.
const LOOKED_MAX: usize = 1000;
/// What of a line is looked at. Unit: bytes.
const LINE_MAX: usize = 1000;

/// Reads a message that looks returned.
pub(super) fn read(letter: &Letter, original: &Returned) -> Option<Reading> {
    let passages = passages(letter, original);
    if evidence(letter, &passages) < EVIDENCE_MIN {
        return None;
    }
    let lower = passages.lines.join("\n").to_lowercase();
    let subject = letter.subject();
    let is_delay = phrases::has(&subject, phrases::DELAY_SUBJECTS) || phrases::has(&lower, phrases::DELAYS);
    let fate = match is_delay && !phrases::has(&lower, phrases::GIVEN_UP) {
        true => Fate::Delayed,
        false => Fate::Failed,
    };
    let mut reading = Reading::of(if fate == Fate::Failed { Kind::Bounce } else { Kind::Other });
    let mut named = passages.named.clone();
    if named.is_empty() {
        // The program names nobody: it was for whom the returned message was for.
        named = match (bare_name(letter, &passages.lines), original.to.as_slice()) {
            (Some(name), _) => vec![name],
            (None, [only]) => vec![only.to_string()],
            _ => rcpt_to(&letter.words).into_iter().collect(),
        };
    }
    // A target's origin is told once, with it.
    let all = named.clone();
    named.retain(|address| !passages.is_origin_of_any(address, &all));
    let count = named.len();
    let to = named.into_iter().map(Some).chain((count == 0).then_some(None));
    for address in to.take(RECIPIENTS_MAX) {
        let said = passages.reason_of(address.as_deref(), count.max(1)).unwrap_or_default();
        let stage = said.stage.or_else(|| passages.stage_of(address.as_deref(), count.max(1)));
        let (address, forwarded_to) = match address.as_deref().and_then(|address| passages.origin_of(address)) {
            Some((origin, target)) => (Some(origin), Some(target)),
            None => (address, None),
        };
        reading.recipients.push(Reported {
            address: address.map(Into::into),
            forwarded_to: forwarded_to.map(Into::into),
            fate,
            status: said.status,
            code: said.code,
            stage,
            text: said.text.into(),
            remote_host: said.host.map(Into::into),
        });
    }
    Some(reading)
}

/// How much speaks for a bounce.
pub(super) fn evidence(letter: &Letter, passages: &Passages) -> u8 {
    let mut who = 0;
    let from = letter.fields.first("from").unwrap_or_default().to_lowercase();
    let sender = letter.fields.first("return-path").map(str::trim);
    who += if phrases::has(&from, phrases::DAEMONS) { 2 } else { 0 };
    who += if sender == Some("<>") || sender == Some("") { 1 } else { 0 };
    // Nobody writes a vacation notice from nobody.
    who += if from.trim() == "<>" { 2 } else { 0 };
    who += if letter.fields.first("x-failed-recipients").is_some() { 4 } else { 0 };
    let content = letter.fields.first("content-type").unwrap_or_default().to_ascii_lowercase();
    who += if content.contains("multipart/report") && !content.contains("disposition") { 2 } else { 0 };
    let mut points = who + if phrases::has(&letter.subject(), phrases::FAILURE_SUBJECTS) { 2 } else { 0 };
    let lower = passages.lines.join("\n").to_lowercase();
    points += if phrases::has(&lower, phrases::FAILURES) { 2 } else { 0 };
    points += if passages.lines.iter().take(200).any(|line| answer::has_code(line)) { 1 } else { 0 };
    let returned = letter.pieces.iter().any(|piece| matches!(piece.kind, piece::Kind::Message | piece::Kind::Header));
    points += if returned || passages.has_returned { 1 } else { 0 };
    // People and newsletters write of bounces, too, but not with the address on a line of its own.
    if who == 0 && !returned && !passages.has_returned && !passages.has_list() {
        return 0;
    }
    let is_receipt = letter.pieces.iter().any(|piece| piece.kind == piece::Kind::Disposition);
    // A receipt is no failure, but for the one that says that the message was thrown back (RFC 5429, Dovecot).
    if is_receipt && !phrases::has(&lower, &["automatically rejected"]) {
        return 0;
    }
    points
}

/// What the program that returned the message says, apart from the returned message, and whom it names.
pub(super) struct Passages {
    lines: Vec<String>,
    /// The same in lower case.
    lowers: Vec<String>,
    has_returned: bool,
    /// The recipients, in their order.
    named: Vec<String>,
    /// Those that were made of another: the target, and whom the message was sent to.
    origins: Vec<(String, String)>,
}

/// What stands for a target that is not told.
const UNDISCLOSED: &str = "an undisclosed address";

/// Finds what a program says, and whom it names.
pub(super) fn passages(letter: &Letter, original: &Returned) -> Passages {
    let (lines, rest) = quoted::cut(&letter.words);
    let short = |line: &str| line.get(..line.floor_char_boundary(LINE_MAX)).unwrap_or_default().trim_end().to_owned();
    let lines: Vec<String> = lines.into_iter().map(short).collect();
    let lowers = lines.iter().map(|line| line.to_lowercase()).collect();
    let origins = origins(&lines);
    let named = named(letter, original, &lines, &origins);
    Passages { lines, lowers, has_returned: rest.is_some(), named, origins }
}

/// Where a line says that an address was made of another: Exim, Postfix and sendmail.
fn origin_place(line: &str) -> Option<usize> {
    let lower = line.to_ascii_lowercase();
    ["generated from", "expanded from"].iter().find_map(|words| lower.find(words).map(|place| place + words.len()))
}

/// The addresses that were made of another, by an alias or a forwarder.
fn origins(lines: &[String]) -> Vec<(String, String)> {
    let mut origins: Vec<(String, String)> = Vec::new();
    let mut last: Option<String> = None;
    for (number, line) in lines.iter().enumerate() {
        if let Some(place) = origin_place(line) {
            let (front, back) = (line.get(..place).unwrap_or_default(), line.get(place..).unwrap_or_default());
            let target = address::within(front).pop().or(last.take());
            // Postfix folds its lines.
            let below = lines.get(number + 1).map_or("", String::as_str);
            let origin = address::within(back).into_iter().chain(address::within(below)).next();
            if let Some(origin) = origin.filter(|_| origins.len() < NAMED_MAX) {
                let target = target.unwrap_or_else(|| UNDISCLOSED.to_owned());
                if !target.eq_ignore_ascii_case(&origin) {
                    origins.push((target, origin));
                }
            }
        } else if !line.trim_start().starts_with('(') && !line.trim().is_empty() {
            last = address::within(line).pop();
        }
    }
    origins
}

/// The one word where the recipients should stand: hosts that write to their own users leave the domain out.
fn bare_name(letter: &Letter, lines: &[String]) -> Option<String> {
    let from = letter.from()?;
    let (_, domain) = from.rsplit_once('@')?;
    let filled: Vec<&str> = lines.iter().map(|line| line.trim()).filter(|line| !line.is_empty()).collect();
    filled.windows(2).take(100).find_map(|pair| {
        let [lead, word] = pair else { return None };
        let leads = lead.ends_with(':') && phrases::has(&lead.to_lowercase(), LEADS);
        let is_word = (2..=64).contains(&word.len())
            && word.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"._-+".contains(&octet))
            && word.bytes().any(|octet| octet.is_ascii_alphabetic());
        (leads && is_word).then(|| format!("{word}@{domain}"))
    })
}

/// Ranks every address that stands in the words.
fn named(letter: &Letter, original: &Returned, lines: &[String], origins: &[(String, String)]) -> Vec<String> {
    let failed: Vec<String> = letter.fields.all("x-failed-recipients").flat_map(address::within).collect();
    if !failed.is_empty() {
        return failed.into_iter().take(NAMED_MAX).collect();
    }
    let mut looked = 0;
    let own: Vec<Box<str>> = ["to", "delivered-to"]
        .iter()
        .flat_map(|name| letter.fields.all(name))
        .flat_map(address::within)
        .map(Into::into)
        .collect();
    let from = letter.from().unwrap_or_default();
    let mut ranked: Vec<(i32, String)> = Vec::new();
    // Those that stand in more than a repeated header.
    let mut told: Vec<String> = Vec::new();
    let mut before = String::new();
    for line in lines {
        let lower = line.trim().to_lowercase();
        if looked >= LOOKED_MAX {
            break;
        }
        for found in address::within(line) {
            looked += 1;
            let made = origins.iter().find(|(_, origin)| origin.eq_ignore_ascii_case(&found));
            if origin_place(line).is_some_and(|place| line.get(place..).is_some_and(|back| back.contains(&found))) {
                // It is told beside its target, unless that is not disclosed.
                if made.is_some_and(|(target, _)| target == UNDISCLOSED) {
                    told.push(found.to_lowercase());
                    ranked.push((5, found));
                }
                continue;
            }
            if !phrases::begins(&lower, ECHOES) {
                told.push(found.to_lowercase());
            }
            let is_known = |list: &[Box<str>]| list.iter().any(|known| known.eq_ignore_ascii_case(&found));
            let is_target = is_known(&original.to);
            let mut rank = 0;
            rank += if stands_out(&lower, &found.to_lowercase()) { 3 } else { 0 };
            rank += if is_target { 3 } else { 0 };
            rank += if phrases::has(&lower, LABELS) || phrases::has(&before, LEADS) { 2 } else { 0 };
            rank += if answer::has_code(line) { 1 } else { 0 };
            let is_sender = is_known(&own) || from.eq_ignore_ascii_case(&found);
            rank -= if is_sender && !is_target { 10 } else { 0 };
            rank -= if phrases::begins(&lower, NOT_RECIPIENTS)
                || phrases::has(&lower, CONTACTS) && !stands_out(&lower, &found.to_lowercase())
            {
                10
            } else {
                0
            };
            let is_author =
                lower.find(&found.to_lowercase()).and_then(|place| lower.get(..place)).is_some_and(|front| {
                    let front = front.trim_end_matches(['<', '"', '\'', ' ', '(', '[']);
                    front.ends_with(" from")
                });
            rank -= if is_author { 10 } else { 0 };
            let local = found.split('@').next().unwrap_or_default().to_ascii_lowercase();
            rank -= if !is_target && OFFICES.contains(&local.as_str()) { 10 } else { 0 };
            let count = ranked.len();
            match ranked.iter_mut().find(|(_, known)| known.eq_ignore_ascii_case(&found)) {
                Some((best, _)) => *best = rank.max(*best),
                None if count < NAMED_MAX => ranked.push((rank, found)),
                None => {}
            }
        }
        if !lower.is_empty() {
            before = lower;
        }
    }
    let best = ranked.iter().map(|(rank, _)| *rank).max().unwrap_or(0);
    ranked.retain(|(rank, _)| *rank >= 2 && *rank >= best - 3);
    // Exchange repeats To above the recipients that it did not reach.
    let is_told = |address: &str| told.contains(&address.to_lowercase());
    if ranked.iter().any(|(_, address)| is_told(address)) {
        ranked.retain(|(_, address)| is_told(address));
    }
    ranked.into_iter().map(|(_, address)| address).collect()
}

/// The line is the address, or begins with it.
fn stands_out(lower: &str, address: &str) -> bool {
    let bare = lower.trim_start_matches(|c: char| !(c.is_alphanumeric() || c == '"' || c == '_'));
    let bare = bare.strip_prefix("mailto:").unwrap_or(bare);
    let bare = bare.strip_prefix("smtp:").unwrap_or(bare);
    bare.starts_with(address)
}

/// Words beside an address that is a recipient.
const LABELS: &[&str] = &[
    "recipient",
    "rcpt to",
    "rcpt:",
    "user:",
    "user <",
    "user (",
    "following user",
    "user unknown",
    "userid",
    "was addressed",
    "unknown",
    "deliver",
    "failed",
    "addressed to",
    "address:",
    "mailbox",
    "account",
    "error-for",
    "sent to",
    "no such",
    "reject",
    "message to",
    "mail to",
    "not reach",
    "could not be",
    "destinat",
    "empfänger",
    "benutzer",
    "adresse",
    "destinatario",
    "utente",
    "получател",
    "адрес",
    "收件人",
    "宛先",
    "ontvanger",
    "odbiorc",
    "undeliverable",
    "send to",
    "for <",
    "to: <",
    "does not exist",
    "not found",
];
/// Words of the line before one.
const LEADS: &[&str] = &[
    "recipient",
    "following address",
    "address(es)",
    "addresses",
    "delivered to",
    "could not be delivered",
    "did not reach",
    "deliver to",
    "delivery to",
    "message to",
    "failed",
    "empfänger",
    "adressen",
    "destinatari",
    "destinataire",
    "收件人",
    "宛先",
    "アドレス",
    "user(s)",
    "users",
    "addressee",
    "адрес",
    "following e-mail",
];
/// Fields that name others.
const NOT_RECIPIENTS: &[&str] = &[
    "from:",
    "from :",
    "sender",
    "reply-to",
    "message-id",
    "in-reply-to",
    "references",
    "return-path",
    "mail from",
    "received",
    "x-mailer",
    "x-sender",
    "subject:",
    "original sender",
    "von:",
    "absender",
    "de:",
    "da:",
    "reporting-mta",
    "envelope-from",
    "errors-to",
    "message id",
    "queue-id",
    "发件人",
    "発信者",
    "差出人",
    "отправитель",
    "remitente",
    "mittente",
    "expéditeur",
    ">>> mail from",
    "-> mail from",
    "the original message was received",
    "message from",
    "messageid",
    "x-",
    "<<< 250",
    "250 ",
];
/// Fields of the returned message that a program repeats.
const ECHOES: &[&str] = &["to:", "cc:", "to :", "cc :", "an:", "para:", "à:", "a:", "aan:", "кому:"];
/// Sentences that name whom to ask.
const CONTACTS: &[&str] = &[
    "please contact",
    "please send mail to",
    "send mail to <postmaster",
    "for further assistance",
    "for assistance",
    "contact your",
    "help desk",
    "helpdesk",
    "questions",
    "write to",
    "if you do so",
    "report this",
    "forward this",
    "e-mail us",
    "email us",
    "kontaktieren",
    "wenden sie sich",
    "contactez",
    "обратитесь",
    "联系",
    "message-id",
    "sent by",
    "on behalf of",
    "sent from",
];
/// Mailboxes of a house, which are named as whom to ask.
const OFFICES: &[&str] = &[
    "postmaster",
    "mailer-daemon",
    "abuse",
    "support",
    "helpdesk",
    "admin",
    "administrator",
    "hostmaster",
    "root",
    "webmaster",
    "noreply",
    "no-reply",
];

/// The recipient of a repeated SMTP command.
fn rcpt_to(words: &str) -> Option<String> {
    let line = words.lines().take(4000).find(|line| line.to_ascii_lowercase().contains("rcpt to:"))?;
    let place = line.to_ascii_lowercase().find("rcpt to:")?;
    address::within(line.get(place..)?).into_iter().next()
}

impl Passages {
    /// Whether a recipient stands out of the text.
    fn has_list(&self) -> bool {
        let named: Vec<String> = self.named.iter().map(|address| address.to_lowercase()).collect();
        self.lines.iter().any(|line| {
            let lower = line.trim().to_lowercase();
            named.iter().any(|address| stands_out(&lower, address))
        })
    }

    /// Whether one of the addresses is a target that was made of this one.
    fn is_origin_of_any(&self, address: &str, all: &[String]) -> bool {
        let is_named = |target: &str| all.iter().any(|known| known.eq_ignore_ascii_case(target));
        self.origins.iter().any(|(target, origin)| origin.eq_ignore_ascii_case(address) && is_named(target))
    }

    /// Whom the message was sent to, of which a target was made, and that target.
    pub fn origin_of(&self, address: &str) -> Option<(String, String)> {
        let is_it = |known: &str| known.eq_ignore_ascii_case(address);
        let found =
            self.origins.iter().find(|(target, origin)| is_it(target) || target == UNDISCLOSED && is_it(origin));
        found.map(|(target, origin)| (origin.clone(), target.clone()))
    }

    /// The reason that stands beside an address: the repeated reply that names it, else what is said below it, else above
    /// it, else anywhere.
    pub fn reason_of(&self, address: Option<&str>, count: usize) -> Option<Answer> {
        let Some((wanted, place)) = address.and_then(|address| {
            let wanted = address.to_lowercase();
            let has = |line: &&String| line.contains(&wanted);
            let told = |line: &String| has(&line) && !phrases::begins(line.trim_start(), ECHOES);
            let place = self.lowers.iter().position(told).or_else(|| self.lowers.iter().position(|line| has(&line)))?;
            Some((wanted, place))
        }) else {
            return self.anywhere(count);
        };
        // sendmail says it below the address; what stands in its transcript beside the address is its own translation.
        let below = self.lines.iter().skip(place + 1).take(3).map(|line| line.trim());
        if let Some(reason) =
            below.take_while(|line| line.starts_with('(')).find_map(|line| line.strip_prefix("(reason: "))
        {
            let said = answer::of(reason.trim_end_matches(')'));
            if said.code.is_some() || said.status.is_some() {
                return Some(Answer { stage: said.stage.or_else(|| self.stage_of(address, count)), ..said });
            }
        }
        // A transcript has the reply to the very command.
        let sought = wanted.as_str();
        let pairs = || self.lines.iter().zip(&self.lowers).enumerate();
        let named = || pairs().filter(move |(_, (_, lower))| lower.contains(sought));
        if let Some((place, _)) = named().find(|(_, (line, _))| is_command(line))
            && let Some(found) = self.answered(place)
        {
            return Some(found);
        }
        // A reply that repeats the address is about it.
        if let Some((place, _)) = named().find(|(_, (line, _))| !is_command(line) && answer::has_code(line)) {
            return Some(answer::of(&self.paragraph(place, &wanted)));
        }
        // Below the address, to the next one that stands out.
        let others: Vec<String> =
            self.named.iter().map(|other| other.to_lowercase()).filter(|other| *other != wanted).collect();
        let is_other = |lower: &String| others.iter().any(|other| lower.contains(other) && stands_out(lower, other));
        let end =
            self.lowers.iter().skip(place + 1).position(is_other).map_or(self.lines.len(), |count| place + 1 + count);
        let below = self.blocks(place, end);
        let shared = self.blocks(end, self.lines.len());
        let mut above = self.blocks(0, place);
        above.reverse();
        // Beside it, then a repeated reply of the whole report, which is about it if it is alone, then any words.
        let own = below.get(..1).unwrap_or_default();
        let rest = below.get(1..).unwrap_or_default();
        let alone = |blocks: &[String]| replied(blocks).filter(|_| count == 1);
        let found = replied(&below)
            .or_else(|| in_words(own, &wanted))
            .or_else(|| alone(&above))
            .or_else(|| alone(&shared))
            .or_else(|| in_words(rest, &wanted))
            .or_else(|| in_words(&above, &wanted))
            .or_else(|| in_words(&shared, &wanted));
        let bare = || below.iter().map(|block| without(block, &wanted)).find(|block| block.trim().len() > 8);
        found.or_else(|| bare().map(|block| answer::of(&block)))
    }

    /// What a reply answered, where the words beside it say so.
    pub fn stage_of(&self, address: Option<&str>, count: usize) -> Option<Stage> {
        let wanted = address?.to_lowercase();
        let place = self.lowers.iter().position(|line| line.contains(&wanted))?;
        let end = if count == 1 { self.lines.len() } else { place + 8 };
        self.blocks(place, end.min(self.lines.len())).iter().find_map(|block| answer::of(block).stage)
    }

    fn anywhere(&self, count: usize) -> Option<Answer> {
        if count > 1 {
            return None;
        }
        let blocks = self.blocks(0, self.lines.len());
        replied(&blocks).or_else(|| in_words(&blocks, ""))
    }

    /// The reply lines behind a repeated command.
    fn answered(&self, place: usize) -> Option<Answer> {
        let next = self.lines.iter().skip(place + 1).map(|line| line.trim_start());
        let replies: Vec<&str> =
            next.take_while(|line| line.starts_with("<<<")).map(|line| line.trim_start_matches(['<', ' '])).collect();
        let text = replies.join(" ");
        answer::has_code(&text).then(|| Answer { stage: Some(Stage::Rcpt), ..answer::of(&text) })
    }

    /// From a line to the end of its paragraph, before any other address's.
    fn paragraph(&self, place: usize, wanted: &str) -> String {
        let mut text = String::new();
        for (count, line) in self.lines.iter().skip(place).take(PASSAGE_MAX).enumerate() {
            let lower = line.trim().to_lowercase();
            let is_other = count > 0
                && self
                    .named
                    .iter()
                    .any(|other| other.to_lowercase() != wanted && lower.contains(&other.to_lowercase()));
            if lower.is_empty() || is_other || is_rule(&lower) {
                break;
            }
            text.push_str(line.trim());
            text.push(' ');
        }
        text
    }

    /// The paragraphs of some lines, each as one line.
    fn blocks(&self, from: usize, to: usize) -> Vec<String> {
        let mut blocks = Vec::new();
        let mut block = String::new();
        for line in self.lines.get(from..to).unwrap_or_default() {
            let lower = line.trim().to_lowercase();
            let is_end = lower.is_empty() || is_rule(&lower) || lower.starts_with("subject:");
            if !is_end && block.len() < 4000 {
                block.push_str(line.trim());
                block.push(' ');
            }
            if is_end && !block.is_empty() {
                blocks.push(std::mem::take(&mut block));
            }
            if blocks.len() > 100 {
                break;
            }
        }
        blocks.extend(Some(block).filter(|block| !block.is_empty()));
        blocks
    }
}

/// A ruled line parts what is said from what is said of it.
fn is_rule(lower: &str) -> bool {
    lower.starts_with("---") && (lower.ends_with("---") || lower.len() < 60)
        || lower.starts_with("===")
        || lower.starts_with("***") && lower.ends_with("***")
}

/// A repeated command of a transcript.
fn is_command(line: &str) -> bool {
    line.trim_start().starts_with(">>>")
}

/// The first block that repeats a reply, else the first that has a status.
fn replied(blocks: &[String]) -> Option<Answer> {
    let is_sent = |block: &&String| !is_command(block) || block.contains("<<<");
    let coded = blocks.iter().filter(is_sent).find(|block| answer::has_code(block));
    let found = coded.or_else(|| blocks.iter().find(|block| answer::has_status(block)))?;
    Some(answer::of(&transcript(found)))
}

/// The first block whose words give a reason.
fn in_words(blocks: &[String], wanted: &str) -> Option<Answer> {
    let plain = blocks.iter().map(|block| without(block, wanted)).find(|block| {
        let lower = block.to_lowercase();
        phrases::has(&lower, phrases::REASONS) && !is_greeting(&lower)
    })?;
    Some(answer::of(&reason_sentence(&plain)))
}

/// Of a transcript, from the first refusal on.
fn transcript(block: &str) -> String {
    match block.find("<<< 5").or_else(|| block.find("<<< 4")) {
        Some(place) => {
            let front = block.get(..place).unwrap_or_default();
            let rest = block.get(place + 4..).unwrap_or_default().replace("<<< ", "");
            let stage = front.rfind(">>>").and_then(|place| front.get(place..)).unwrap_or_default();
            // The command stays, because it tells the stage; the reply stands first.
            format!("{} {}", rest.split(">>>").next().unwrap_or_default(), stage)
        }
        None => block.to_owned(),
    }
}

/// Openings that no reason stands in, though their words would look like one.
fn is_greeting(lower: &str) -> bool {
    phrases::begins(
        lower,
        &[
            "hi. this is",
            "this is the mail system",
            "i'm sorry to have to inform",
            "this message was created automatically",
            "this is an automatically generated",
            "the original message was received",
            "this is a permanent error; i've given up",
        ],
    ) && !lower.contains("because")
}

/// The sentences of a block. A dot within a host's name or an address ends none.
fn sentences(block: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut from = 0;
    for (place, mark) in block.match_indices(['.', '。', ':']) {
        let end = place + mark.len();
        if mark == "。" || block.get(end..).is_none_or(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
        {
            found.extend(block.get(from..end));
            from = end;
        }
    }
    found.extend(block.get(from..).filter(|rest| !rest.is_empty()));
    found
}

/// Of a paragraph that opens with a greeting, the sentences from the reason on.
fn reason_sentence(block: &str) -> String {
    if block.len() < 160 {
        return block.to_owned();
    }
    let sentences = sentences(block);
    let found = sentences.iter().position(|sentence| {
        let lower = sentence.to_lowercase();
        phrases::has(&lower, phrases::REASONS)
    });
    found.map_or_else(
        || block.to_owned(),
        |place| sentences.get(place..(place + 3).min(sentences.len())).unwrap_or_default().concat(),
    )
}

/// A block without the address and what clings to it.
fn without(block: &str, wanted: &str) -> String {
    if wanted.is_empty() {
        return block.to_owned();
    }
    let lower = block.to_lowercase();
    match lower.find(wanted) {
        // Lower case may change the length of other scripts: then the address stays, which harms nothing.
        Some(place) if lower.len() == block.len() => {
            let (front, back) =
                (block.get(..place).unwrap_or_default(), block.get(place + wanted.len()..).unwrap_or_default());
            let front = front.trim_end_matches(['<', '"', '\'', ' ', '(']);
            let back = back.trim_start_matches(['>', '"', '\'', ':', ' ', ')', ',', ';', '.']);
            format!("{front} {back}").trim().to_owned()
        }
        _ => block.to_owned(),
    }
}
