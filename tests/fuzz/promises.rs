//! What each fuzz target promises about arbitrary octets: it does not panic, and what it lets through is well-formed.
//!
//! One function a target, named as its directory under `corpus/`. Called by `fuzz_targets/*.rs` (libFuzzer) and by
//! `tests/it/fuzz_corpus.rs`, which replays the corpus in `cargo test`. Never part of the daemon.

use std::path::Path;

use postrider::classify::{Class, Observation, Rules, VerdictKind};
use postrider::config::Config;
use postrider::history;
use postrider::mail::{Cause, Marks, QueueId, Reply, Stage};
use postrider::message::{self, Families, Family, HeaderLimits, Kind, Missing, Trace};
use postrider::pickup;
use postrider::postfix::Input;
use postrider::report;
use postrider::rewrite::{Aliases, Checks, Kind as TableKind, Moment, Table};
use postrider::smtp::dialog::Capabilities;
use postrider::smtp::encode::Encoder;
use postrider::smtp::exercise;
use postrider::smtp::reply_reader::{ReplyError, ReplyReader};
use postrider::spool;
use postrider::suppression::foreign::{COLUMNS, Reader, Row, Terms, csv_line, json_of};
use postrider::time::Timestamp;
use postrider::token::{self, Keys, Link, Token};

/// A target: its name, and the promise it tests.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 18] = [
    ("bdat", bdat),
    ("classify", classify),
    ("config", config),
    ("control", control),
    ("egress_encode", egress_encode),
    ("header_checks", header_checks),
    ("history_block", history_block),
    ("maildrop", maildrop),
    ("message", message),
    ("postfix_main_cf", postfix_main_cf),
    ("postfix_master_cf", postfix_master_cf),
    ("reply_reader", reply_reader),
    ("report", report),
    ("session", session),
    ("spool_record", spool_record),
    ("suppression_import", suppression_import),
    ("tables", tables),
    ("token", token),
];

/// Longest line that may leave, without its CRLF (RFC 5321 §4.5.3.1.6), and the dot that stuffing may add.
const LINE_OCTETS_MAX: usize = 998;
/// The magic of the segment that the spool's seeds were written for.
const SEGMENT_MAGIC: u64 = 0x0123_4567_89ab_cdef;

/// The server's session, from the greeting to the end: the replies are replies, what is accepted has only CRLF line ends.
pub fn session(octets: &[u8]) {
    exercise::session(octets);
}

/// Tables: what is sound answers within its bounds, whatever is asked.
pub fn tables(octets: &[u8]) {
    let Ok(text) = std::str::from_utf8(octets) else { return };
    for kind in [TableKind::Texthash, TableKind::Regexp, TableKind::Pcre, TableKind::Inline, TableKind::Static] {
        let Ok(table) = Table::read(kind, text) else { continue };
        for key in ["user+ext@example.com", "@example.com", "Subject: a\n\tb", text.get(..64).unwrap_or(text)] {
            if let Ok(Some(answer)) = table.find(key) {
                assert!(answer.len() <= text.len() + (256 << 10), "an answer is bounded");
            }
        }
    }
    let _ = Aliases::read(text, &mut |path| Err(path.to_owned()));
}

/// Header checks: the first line is a pattern file's, the rest a message. What is changed has the same line ends as before.
pub fn header_checks(octets: &[u8]) {
    let Some(end) = octets.windows(2).position(|pair| pair == b"\n\n") else { return };
    let Ok(text) = std::str::from_utf8(&octets[..end]) else { return };
    // As the session hands a message on.
    let mut message = Vec::new();
    for line in octets[end + 2..].split(|octet| *octet == b'\n') {
        message.extend(line.iter().filter(|octet| !matches!(octet, b'\r' | 0)));
        message.extend_from_slice(b"\r\n");
    }
    for kind in [TableKind::Regexp, TableKind::Pcre] {
        let Ok(table) = Table::read(kind, text) else { continue };
        let Ok(checks) = Checks::new(vec![table], Moment::Accept) else { continue };
        let Ok(checked) = checks.check(&message) else { continue };
        let Some(new) = checked.message else { continue };
        assert!(new.len() <= message.len() + (1 << 20), "what is added is bounded");
        for (at, octet) in new.iter().enumerate() {
            match octet {
                b'\n' => assert!(at > 0 && new[at - 1] == b'\r', "a bare line feed"),
                b'\r' => assert_eq!(new.get(at + 1), Some(&b'\n'), "a bare carriage return"),
                _ => {}
            }
        }
    }
}

/// Tokens and links: what is read is what was made, in its one form; what arbitrary octets say reads back as it was said.
pub fn token(octets: &[u8]) {
    // The keys that the seeds were made with.
    let keys = Keys::of(&[1; 32]);
    if let Ok(text) = std::str::from_utf8(octets) {
        let _ = Keys::parse(text);
        if let Ok(read) = keys.read(text, Timestamp::ZERO) {
            assert_eq!(keys.make(&read), text.to_ascii_lowercase(), "a token has one form");
        }
        if let Ok(link) = keys.open(text, Timestamp::ZERO) {
            assert_eq!(keys.seal(&link), text.to_ascii_lowercase(), "a link has one form");
        }
        if let Ok(address) = text.parse::<postrider::mail::Address>() {
            let link =
                Link { address, stream: "s".into(), id: QueueId::MIN, recipient: 0, expires_at: Timestamp::ZERO };
            let sealed = keys.seal(&link);
            assert!(sealed.len() <= token::SEALED_LENGTH_MAX, "a link is bounded");
            assert_eq!(keys.open(&sealed, Timestamp::ZERO), Ok(link));
        }
    }
    let Some((fixed, rest)) = octets.split_first_chunk::<10>() else { return };
    let id = QueueId::from_u64(u64::from_be_bytes(fixed[..8].try_into().expect("eight octets")));
    let recipient = u16::from_be_bytes([fixed[8], fixed[9]]);
    for kind in [token::Kind::ReturnPath, token::Kind::Unsubscribe, token::Kind::Reference] {
        let made = Token { kind, id, recipient, expires_at: Timestamp::ZERO };
        let mut text = keys.make(&made).into_bytes();
        assert_eq!(text.len(), token::LOCAL_LENGTH);
        // What the rest turns into something else is no token any more.
        text.iter_mut().zip(rest).for_each(|(octet, change)| *octet ^= change);
        let Ok(changed) = String::from_utf8(text) else { continue };
        let read = keys.read(&changed, Timestamp::ZERO);
        assert_eq!(read.is_ok(), changed.to_ascii_lowercase() == keys.make(&made), "{changed}");
    }
}

/// Chunks of BDAT: cut or whole, they make the same message.
pub fn bdat(octets: &[u8]) {
    exercise::chunks(octets);
}

/// Blocks and index runs of the history: what is read is read the same after it was written again.
pub fn history_block(octets: &[u8]) {
    history::exercise::octets(octets);
}

/// A file of the maildrop, as any local user can make one: what is made of it is fit for the door.
pub fn maildrop(octets: &[u8]) {
    pickup::exercise::octets(octets);
}

/// A list from elsewhere: each row is an entry, left out, or bad; what is an entry reads the same after our own export.
pub fn suppression_import(octets: &[u8]) {
    let now = Timestamp::from_secs(1_795_255_200);
    let terms = Terms { about: None, cause: None, scope: None, expires_at: None, now };
    let Ok(reader) = Reader::new(octets, terms.clone()) else { return };
    for row in reader {
        let (line, row) = row.expect("octets in memory can be read");
        assert!(line >= 1 && line <= octets.len() as u64 + 1);
        let Row::Entry(address, entry) = row else { continue };
        assert!(entry.added_at <= entry.last_at && entry.added_at <= now);
        let csv = format!("{COLUMNS}\n{}\n", csv_line(&address, &entry, now));
        let json = format!("{}\n", json_of(&address, &entry, now));
        for text in [csv, json] {
            let read = Reader::new(text.as_bytes(), terms.clone()).expect("our own form");
            let rows: Vec<Row> = read.map(|row| row.expect("octets in memory can be read").1).collect();
            let [Row::Entry(other, _)] = rows.as_slice() else { panic!("{text:?} reads as {rows:?}") };
            assert_eq!(other, &address, "{text:?}");
        }
    }
}

/// A peer's replies: cut or whole, the same ones come out, and none is longer than what may be kept.
pub fn reply_reader(octets: &[u8]) {
    let Some((cut, octets)) = octets.split_first() else { return };
    let whole = replies(octets, octets.len().max(1));
    let pieces = replies(octets, usize::from(*cut).max(1));
    assert_eq!(whole, pieces, "cutting changes no reply");
}

fn replies(octets: &[u8], piece: usize) -> (Vec<(u16, String)>, Option<ReplyError>) {
    let mut reader = ReplyReader::default();
    let mut found = Vec::new();
    for piece in octets.chunks(piece) {
        reader.space().extend_from_slice(piece);
        loop {
            match reader.next_reply() {
                Ok(Some(answer)) => {
                    let reply = answer.reply();
                    let _ = Capabilities::parse(&answer);
                    let text = reply.text.to_string();
                    assert!((200..=599).contains(&answer.code()), "a reply has a reply's code");
                    assert!(text.len() <= 2000 && !text.contains(char::is_control), "a kept reply is harmless");
                    found.push((answer.code(), text));
                }
                Ok(None) => break,
                Err(error) => return (found, Some(error)),
            }
        }
    }
    (found, None)
}

/// The encoder of what leaves: it refuses bare CR and LF and nothing else, ends exactly once, and can be undone.
pub fn egress_encode(octets: &[u8]) {
    let Some((cut, octets)) = octets.split_first() else { return };
    let mut encoder = Encoder::default();
    let mut out = Vec::new();
    let mut result = Ok(());
    for piece in octets.chunks(usize::from(*cut).max(1)) {
        result = result.and_then(|()| encoder.encode(piece, &mut out));
    }
    let result = result.and_then(|()| encoder.finish(&mut out));
    assert_eq!(result.is_ok(), !has_bare_line_end(octets), "refused if and only if it has a bare CR or LF");
    if result.is_ok() {
        assert_leaves_well(&out);
        let mut expected = octets.to_vec();
        if !expected.is_empty() && !expected.ends_with(b"\r\n") {
            expected.extend_from_slice(b"\r\n");
        }
        assert_eq!(unstuffed(&out), expected, "the peer reads what was written");
    }
}

/// The rules about messages, in the order of the door and of delivery: what comes out can leave.
pub fn message(octets: &[u8]) {
    // The session hands over CRLF line ends only, no NUL, and a last line that is ended.
    let message = normal(octets);
    let limits = HeaderLimits { bytes_max: 64 * 1024, fields_max: 500 };
    let Ok(header) = message::scan(&message, limits) else { return };
    for field in header.of(Kind::From) {
        for mailbox in message::mailboxes(field.value).into_iter().flatten() {
            let text = mailbox.to_string();
            assert!(!text.contains(char::is_control), "an address is one line");
            // In a quoted local part a bracket is text (RFC 5321 §4.1.2).
            let quoted = mailbox.local().starts_with('"') && mailbox.local().ends_with('"');
            let bare = if quoted { mailbox.domain().as_str() } else { &text };
            assert!(!bare.contains(['<', '>', ' ']), "an address can stand between < and >");
        }
    }
    let facts = message::facts(&message, &header);
    let (short, _) = message::shorten_lines(&message);
    let mut out = Vec::new();
    let mut encoder = Encoder::default();
    encoder.encode(&short, &mut out).and_then(|()| encoder.finish(&mut out)).expect("CRLF line ends stay so");
    assert_leaves_well(&out);
    for line in short.split(|octet| *octet == b'\n') {
        assert!(line.len() <= LINE_OCTETS_MAX + 1, "a line of {} octets", line.len());
    }
    let (again, _) = message::shorten_lines(&short);
    assert_eq!(again, short, "short lines are left alone");
    if let Ok(seven_bit) = message::downgrade_8bit(&short) {
        assert!(seven_bit.is_ascii(), "downgraded means ASCII");
        assert!(!has_bare_line_end(&seven_bit), "and CRLF line ends");
    }
    let _ = facts;
}

/// Control headers: what is kept of them is within its bounds and harmless, a refusal is one line, and none leaves.
pub fn control(octets: &[u8]) {
    let message = normal(octets);
    let limits = HeaderLimits { bytes_max: 64 * 1024, fields_max: 500 };
    let Ok(mut header) = message::scan(&message, limits) else { return };
    let all: Families = Family::ALL.into_iter().collect();
    let control = match message::control(&mut header, all) {
        Ok(control) => control,
        Err(error) => {
            let text = error.to_string();
            assert!(!text.is_empty() && text.len() < 1000, "a refusal says something, and not everything");
            return;
        }
    };
    let Marks { tags, metadata, .. } = &control.marks;
    assert!(tags.len() <= Marks::TAGS_MAX && metadata.len() <= Marks::PAIRS_MAX);
    let words = tags.iter().chain(metadata.iter().map(|(key, _)| key));
    for word in words {
        assert!((1..=Marks::WORD_LENGTH_MAX).contains(&word.len()) && !word.contains(char::is_control), "{word:?}");
    }
    let values: usize = metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
    assert!(values <= Marks::METADATA_LENGTH_MAX);
    assert!(metadata.iter().all(|(_, value)| !value.contains(char::is_control)));
    let by = "relay.example.com".parse().expect("a domain");
    let trace = Trace {
        hello: None,
        client: None,
        tls: None,
        by: &by,
        protocol: "ESMTPSA",
        id: QueueId::MIN,
        recipient: None,
        at: Timestamp::ZERO,
    };
    let kept = message::stamp(&message, &header, &trace, Missing::Left).message;
    let mut header = message::scan(&kept, HeaderLimits::NONE).expect("no limit");
    let again = message::control(&mut header, all).expect("nothing to refuse");
    assert!(again == Default::default() && header.of(Kind::Control).next().is_none(), "no control header leaves");
}

/// A record of the spool, and its front alone, which is what a forger with a right checksum could choose.
pub fn spool_record(octets: &[u8]) {
    let _ = spool::decode_record(octets, SEGMENT_MAGIC);
    let _ = spool::decode_front(octets);
}

/// What a reply means: a stage, a number of recipients, a reply as it stands in a log. No words of a peer fail anyone at
/// a 4xx or before MAIL, nor suppress but for a dead recipient, nor ask for more than a day.
pub fn classify(octets: &[u8]) {
    const STAGES: [Stage; 11] = [
        Stage::Resolve,
        Stage::Connect,
        Stage::Greeting,
        Stage::Hello,
        Stage::Tls,
        Stage::Auth,
        Stage::Mail,
        Stage::Rcpt,
        Stage::Data,
        Stage::FinalDot,
        Stage::Local,
    ];
    let [stage, taken, reply @ ..] = octets else { return };
    let stage = STAGES[usize::from(*stage) % STAGES.len()];
    let text = String::from_utf8_lossy(reply);
    let (code, words) = text.split_at_checked(3).unwrap_or(("550", &text));
    let code = code.parse().unwrap_or(550);
    let cause = Cause::Reply(Reply::new(code, words.trim_start()));
    let observation = Observation { stage, cause: &cause, recipients_taken: usize::from(*taken), host: None };
    let meaning = Rules::shipped().classify(&observation);
    let failed = meaning.verdict == VerdictKind::Failed;
    assert!(!failed || (500..=599).contains(&code), "only a 5xx fails");
    assert!(!failed || matches!(stage, Stage::Mail | Stage::Rcpt | Stage::Data | Stage::FinalDot), "from MAIL on");
    assert!(!meaning.suppress || failed && meaning.class == Class::RecipientInvalid, "a dead recipient failed");
    assert!(meaning.again_in.is_none_or(|wait| (30..=86_400).contains(&wait.as_secs())), "a wait is bounded");
}

/// Bounces and complaints: whatever is read is bounded and harmless to show, and the words are a refusal's.
pub fn report(octets: &[u8]) {
    let reading = report::read(octets);
    assert!(reading.recipients.len() <= report::RECIPIENTS_MAX, "a report speaks of so many");
    let counts = matches!(reading.kind, report::Kind::Bounce | report::Kind::Complaint | report::Kind::Unsubscribe);
    assert!(!counts || !reading.recipients.is_empty(), "what counts, counts for somebody");
    for reported in &reading.recipients {
        for shown in [&reported.address, &reported.forwarded_to, &reported.remote_host].into_iter().flatten() {
            assert!(!shown.contains(char::is_control), "an address is one line");
        }
        let Cause::Reply(reply) = reported.cause() else { unreachable!("a report repeats a reply") };
        assert!((400..=599).contains(&reply.code) && !reply.text.contains(char::is_control), "a refusal, harmless");
        assert!(reading.kind != report::Kind::Bounce || reported.fate == report::Fate::Failed, "only failures count");
        let _ = reported.names_another();
    }
    for shown in [&reading.reporter, &reading.feedback_type].into_iter().flatten() {
        assert!(!shown.contains(char::is_control), "what is shown is one line");
    }
}

/// The config: an error names a line, and what is read can be asked for its warnings.
pub fn config(octets: &[u8]) {
    let Ok(text) = std::str::from_utf8(octets) else { return };
    match Config::parse(text, Path::new("postrider.toml")) {
        Ok(config) => drop(config.warnings()),
        Err(problems) => assert!(!problems.to_string().is_empty(), "an error says something"),
    }
}

/// What a session makes of any octets, here without its dots: CRLF line ends, no NUL, the last line ended.
fn normal(octets: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(octets.len() + 2);
    let mut after_cr = false;
    for octet in octets.iter().filter(|octet| **octet != 0) {
        match octet {
            b'\r' if !after_cr => after_cr = true,
            b'\r' => out.extend_from_slice(b"\r\n"),
            b'\n' => {
                out.extend_from_slice(b"\r\n");
                after_cr = false;
            }
            _ => {
                if after_cr {
                    out.extend_from_slice(b"\r\n");
                    after_cr = false;
                }
                out.push(*octet);
            }
        }
    }
    if after_cr || !out.ends_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
    out
}

fn has_bare_line_end(octets: &[u8]) -> bool {
    let bare_lf = octets.iter().enumerate().any(|(at, octet)| *octet == b'\n' && (at == 0 || octets[at - 1] != b'\r'));
    let bare_cr = octets.iter().enumerate().any(|(at, octet)| *octet == b'\r' && octets.get(at + 1) != Some(&b'\n'));
    bare_lf || bare_cr
}

/// Exactly one end of data, at the very end, by the strictest and by the laxest reader's rule.
fn assert_leaves_well(out: &[u8]) {
    assert!(!has_bare_line_end(out), "no bare CR or LF leaves");
    let from_line_start = [b"\r\n", out].concat();
    let ends = from_line_start.windows(5).filter(|window| window == b"\r\n.\r\n").count();
    assert_eq!(ends, 1, "exactly one end of data");
    assert!(out.ends_with(b".\r\n"));
}

/// What a peer makes of the data: dots removed, the end cut off.
fn unstuffed(out: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(out.len());
    for line in out.strip_suffix(b".\r\n").unwrap_or(out).split_inclusive(|octet| *octet == b'\n') {
        message.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
    }
    message
}

/// main.cf: whatever it says, an import ends, and what it does not refuse our own loader takes.
pub fn postfix_main_cf(octets: &[u8]) {
    let Ok(main) = std::str::from_utf8(octets) else { return };
    let master = "25 inet n - n - - smtpd\nsmtp unix - - n - - smtp\nerror unix - - n - - error\n";
    imported(main, master);
}

/// master.cf: as main.cf, beside a config that is sound.
pub fn postfix_master_cf(octets: &[u8]) {
    let Ok(master) = std::str::from_utf8(octets) else { return };
    imported("compatibility_level = 3.6\nmyhostname = a.example\nmydestination =\nmynetworks = 127.0.0.0/8\n", master);
}

fn imported(main: &str, master: &str) {
    let read = |path: &str| match path {
        "/t" => Ok("a.example smtp:[b.example]\n.c.example discard:\n@d.example [e.example]:25\n".to_owned()),
        _ => Err("there is no such file".to_owned()),
    };
    let input = Input {
        main,
        master,
        directory: "/etc/postfix",
        hostname: "host.example.com",
        read: &read,
        hash: &|_| Err("no users are given".to_owned()),
        users: None,
        local_to: None,
        opendkim: None,
        allowed: &[],
    };
    let Ok(import) = postrider::postfix::import(&input) else { return };
    let _ = import.report.text(&|_, title| title.to_owned());
    let toml = import.target.toml();
    let outcome = Config::parse(&toml, Path::new("postrider.toml"));
    assert!(import.report.is_refused() || outcome.is_ok(), "{toml}\n{:?}", outcome.err());
}
