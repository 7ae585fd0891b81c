//! The client's side of an SMTP dialogue: what to write, and what the peer's replies mean for each recipient.
//!
//! Driven by `delivery`: [`Transaction::write_commands`] says what goes out as one write, [`Transaction::take`] is fed every
//! reply, [`Transaction::next`] says what to do. It knows no socket and no time, and judges nothing: it says which
//! recipient was answered what, and at which stage (`classify` judges).

use std::collections::VecDeque;
use std::io::Write;

use crate::mail::{EnhancedStatus, Envelope, Notify, Recipient, Reply, Return, ReturnPath, Stage};

use super::reply_reader::Answer;

/// RCPTs written before their replies are read: so many replies fit into any socket's buffer, and neither side can
/// block the other (RFC 2920 §3.1).
const RCPT_GROUP_MAX: usize = 100;

/// What a peer offered in its reply to EHLO.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Capabilities {
    /// RFC 2920.
    pub pipelining: bool,
    /// RFC 6152.
    pub eight_bit_mime: bool,
    /// RFC 6531.
    pub smtputf8: bool,
    /// RFC 3461.
    pub dsn: bool,
    /// RFC 3207.
    pub starttls: bool,
    /// RFC 4954: PLAIN.
    pub auth_plain: bool,
    /// AUTH LOGIN, which many smarthosts have and no RFC defines.
    pub auth_login: bool,
    /// RFC 1870: offered, and the longest message if it was given. Unit: octets.
    pub size: Option<Option<u64>>,
    /// RFC 9422 RCPTMAX: recipients in one transaction.
    pub recipients_max: Option<usize>,
    /// RFC 9422 MAILMAX: transactions on one connection.
    pub transactions_max: Option<u32>,
}

impl Capabilities {
    /// From the 250 to EHLO. What is not understood is not offered.
    pub fn parse(answer: &Answer<'_>) -> Capabilities {
        let mut offered = Capabilities::default();
        // The first line names the host.
        for line in answer.lines().skip(1).filter_map(|line| std::str::from_utf8(line).ok()) {
            // "AUTH=LOGIN PLAIN" is what servers wrote before RFC 2554; some still do, beside the right form.
            let mut words = line.split([' ', '\t', '=']).filter(|word| !word.is_empty());
            let Some(keyword) = words.next() else { continue };
            match keyword.to_ascii_uppercase().as_str() {
                "PIPELINING" => offered.pipelining = true,
                "8BITMIME" => offered.eight_bit_mime = true,
                "SMTPUTF8" => offered.smtputf8 = true,
                "DSN" => offered.dsn = true,
                "STARTTLS" => offered.starttls = true,
                // RFC 1870 §4: 0 means no fixed limit.
                "SIZE" => offered.size = Some(words.next().and_then(|n| n.parse().ok()).filter(|n| *n > 0)),
                "AUTH" => words.for_each(|mechanism| match mechanism.to_ascii_uppercase().as_str() {
                    "PLAIN" => offered.auth_plain = true,
                    "LOGIN" => offered.auth_login = true,
                    _ => {}
                }),
                "LIMITS" => offered.limits(line),
                _ => {}
            }
        }
        offered
    }

    /// RFC 9422 §3: `LIMITS MAILMAX=10 RCPTMAX=100`; a value of zero is an error of the peer, and ignored.
    fn limits(&mut self, line: &str) {
        for limit in line.split_ascii_whitespace().skip(1) {
            let Some((name, value)) = limit.split_once('=') else { continue };
            match name.to_ascii_uppercase().as_str() {
                "RCPTMAX" => self.recipients_max = value.parse().ok().filter(|n| *n > 0),
                "MAILMAX" => self.transactions_max = value.parse().ok().filter(|n| *n > 0),
                _ => {}
            }
        }
    }
}

/// What a message needs of the peer, as it will be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Needs {
    /// Octets with all headers, before dot-stuffing.
    pub size_bytes: u64,
    /// It has octets above 127: BODY=8BITMIME.
    pub eight_bit: bool,
    /// An address or the header block needs SMTPUTF8.
    pub smtputf8: bool,
}

/// Why this peer cannot be given this message at all. Nothing was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unsendable {
    /// Its SIZE is smaller. RFC 1870 §6.
    #[error("the message has {size} octets and the peer takes {limit} at most")]
    TooBig {
        /// The message's.
        size: u64,
        /// The peer's.
        limit: u64,
    },
    /// An address or a header has non-ASCII characters. RFC 6531 §3.2.
    #[error("an address or a header has non-ASCII characters, and the peer does not offer SMTPUTF8")]
    NeedsSmtputf8,
    /// RFC 6152 §3; the caller converts the message and asks again.
    #[error("the message has 8-bit content, and the peer does not offer 8BITMIME")]
    Needs8BitMime,
}

impl Unsendable {
    /// For the DSN.
    pub fn status(self) -> EnhancedStatus {
        match self {
            Unsendable::TooBig { .. } => EnhancedStatus::new(5, 3, 4),
            Unsendable::NeedsSmtputf8 => EnhancedStatus::new(5, 6, 7),
            Unsendable::Needs8BitMime => EnhancedStatus::new(5, 6, 3),
        }
    }
}

/// Whether a peer can take a message.
///
/// # Errors
/// Why not.
pub fn check(offered: &Capabilities, needs: Needs) -> Result<(), Unsendable> {
    if let Some(Some(limit)) = offered.size
        && needs.size_bytes > limit
    {
        return Err(Unsendable::TooBig { size: needs.size_bytes, limit });
    }
    if needs.smtputf8 && !offered.smtputf8 {
        return Err(Unsendable::NeedsSmtputf8);
    }
    // RFC 6531 §3.1 (8): a peer with SMTPUTF8 has 8BITMIME; some forget to say so.
    if needs.eight_bit && !offered.eight_bit_mime && !offered.smtputf8 {
        return Err(Unsendable::Needs8BitMime);
    }
    Ok(())
}

/// What the caller does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Call [`Transaction::write_commands`] and send what it wrote.
    Write,
    /// Read one reply, the answer to this stage, and [`Transaction::take`] it.
    Read(Stage),
    /// Send the message and the end of data, call [`Transaction::dot_written`], go on.
    Message,
    /// The transaction is over.
    Over(Ended),
}

/// How a transaction ended, for the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// The peer holds no rest of it: MAIL may follow.
    Clean,
    /// RSET must come before the next MAIL.
    NeedsReset,
    /// The peer said 421, or something that makes no sense: no more on this connection.
    Closing,
}

/// Which reply comes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Expected {
    Reset,
    Mail,
    /// By place in `recipients`.
    Rcpt(usize),
    Data,
    Dot,
    /// To the dot that ends a message for nobody.
    EmptyDot,
}

/// How far the writing is.
///
/// ```text
///   Commands ──354, some accepted──► Message ──dot──► Dot ──reply──► Over
///      │ └────354, none accepted (a pipelined DATA)──► EmptyDot ──reply──► Over
///      └──MAIL, DATA or all RCPT refused, 421──► Over
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Commands,
    Message,
    /// 354 came though nobody was accepted: a lone dot is to be written (RFC 2920 §3.1).
    EmptyDot,
    Replies,
    Over(Ended),
}

/// A recipient in a transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Heard {
    /// RCPT not yet answered.
    Nothing,
    /// 2yz to RCPT: shares the fate of DATA and the dot.
    Accepted,
    /// Its answer.
    Answer(Stage, Reply),
}

/// One MAIL, its RCPTs, DATA, the message, the final dot.
#[derive(Debug)]
pub struct Transaction {
    recipients: Vec<Heard>,
    pipelining: bool,
    reset_first: bool,
    mail_written: bool,
    mail_accepted: bool,
    rcpts_written: usize,
    rcpts_taken: usize,
    data_written: bool,
    expected: VecDeque<Expected>,
    phase: Phase,
    /// The end of data was handed to the socket and not yet answered.
    dot_open: bool,
    /// A transaction of ours may be open at the peer.
    open: bool,
}

impl Transaction {
    /// A transaction for so many recipients; `reset_first`: RSET goes before MAIL.
    pub fn new(offered: &Capabilities, recipients: usize, reset_first: bool) -> Transaction {
        Transaction {
            recipients: vec![Heard::Nothing; recipients],
            pipelining: offered.pipelining,
            reset_first,
            mail_written: false,
            mail_accepted: false,
            rcpts_written: 0,
            rcpts_taken: 0,
            data_written: false,
            expected: VecDeque::with_capacity(recipients.min(RCPT_GROUP_MAX) + 3),
            phase: Phase::Commands,
            dot_open: false,
            open: false,
        }
    }

    /// What to do now.
    pub fn next(&self) -> Next {
        match (self.phase, self.expected.front()) {
            (Phase::Over(ended), _) => Next::Over(ended),
            (_, Some(expected)) => Next::Read(expected.stage()),
            (Phase::Message, None) => Next::Message,
            (Phase::Commands | Phase::EmptyDot | Phase::Replies, None) => Next::Write,
        }
    }

    /// Appends the next group of commands: everything up to DATA where the peer has PIPELINING and they are few, else
    /// as much as may be written before the next reply is read.
    pub fn write_commands(&mut self, offered: &Capabilities, letter: &Letter<'_>, out: &mut Vec<u8>) {
        match self.phase {
            Phase::Commands => {}
            Phase::EmptyDot => {
                out.extend_from_slice(b".\r\n");
                self.expected.push_back(Expected::EmptyDot);
                self.phase = Phase::Replies;
                return;
            }
            Phase::Message | Phase::Replies | Phase::Over(_) => return,
        }
        let mut rcpts = 0;
        while let Some(expected) = self.next_command(rcpts) {
            match expected {
                Expected::Reset => {
                    self.reset_first = false;
                    out.extend_from_slice(b"RSET\r\n");
                }
                Expected::Mail => {
                    self.mail_written = true;
                    letter.mail(offered, out);
                }
                Expected::Rcpt(place) => {
                    self.rcpts_written += 1;
                    rcpts += 1;
                    letter.rcpt(place, offered, out);
                }
                Expected::Data | Expected::Dot | Expected::EmptyDot => {
                    self.data_written = true;
                    self.phase = Phase::Replies;
                    out.extend_from_slice(b"DATA\r\n");
                }
            }
            self.expected.push_back(expected);
            // RFC 2920 §3.1: DATA may only be the last of a group.
            if !self.pipelining || self.data_written {
                break;
            }
        }
    }

    fn next_command(&self, rcpts_in_group: usize) -> Option<Expected> {
        if self.reset_first {
            return Some(Expected::Reset);
        }
        if !self.mail_written {
            return Some(Expected::Mail);
        }
        if self.rcpts_written < self.recipients.len() {
            return (rcpts_in_group < RCPT_GROUP_MAX).then_some(Expected::Rcpt(self.rcpts_written));
        }
        (!self.data_written).then_some(Expected::Data)
    }

    /// Takes the peer's next reply.
    pub fn take(&mut self, reply: Reply) {
        let Some(expected) = self.expected.pop_front() else {
            // A reply to nothing: we and the peer no longer agree on what was asked.
            self.phase = Phase::Over(Ended::Closing);
            return;
        };
        // RFC 5321 §3.8: 421 to any command; the peer closes. It answers everything that is open.
        if reply.code == 421 {
            self.dot_open = false;
            self.answer_rest(expected.stage(), &reply);
            return self.over(Ended::Closing);
        }
        match expected {
            // A peer that refuses RSET is in no state that we know; its words do not concern this message.
            Expected::Reset if !reply.is_positive() => self.over(Ended::Closing),
            Expected::Reset => {}
            Expected::Mail => self.mail_reply(&reply),
            Expected::Rcpt(place) => self.rcpt_reply(place, reply),
            Expected::Data => self.data_reply(&reply),
            Expected::Dot => {
                self.dot_open = false;
                self.answer_accepted(Stage::FinalDot, &reply);
                self.over(Ended::Clean);
            }
            Expected::EmptyDot => self.over(Ended::Clean),
        }
    }

    fn mail_reply(&mut self, reply: &Reply) {
        self.mail_accepted = reply.is_positive();
        self.open = self.mail_accepted;
        if !self.mail_accepted {
            // What follows in the group answers a transaction that does not exist.
            self.answer_rest(Stage::Mail, reply);
            self.end_unless_open_replies();
        }
    }

    fn rcpt_reply(&mut self, place: usize, reply: Reply) {
        if let Some(heard @ Heard::Nothing) = self.recipients.get_mut(place) {
            *heard = match reply.is_positive() {
                true => {
                    self.rcpts_taken += 1;
                    Heard::Accepted
                }
                false => Heard::Answer(Stage::Rcpt, reply),
            };
        }
        // In lock-step, or over many groups, DATA is not even asked for when nobody is left.
        let all_refused = self.rcpts_written == self.recipients.len() && self.accepted() == 0;
        if self.mail_accepted && !all_refused {
            return;
        }
        self.end_unless_open_replies();
    }

    fn data_reply(&mut self, reply: &Reply) {
        let go_ahead = reply.code / 100 == 3;
        match (go_ahead, self.accepted() > 0) {
            (true, true) => self.phase = Phase::Message,
            // RFC 2920 §3.1: a peer may say 354 though it accepted nobody; it gets an empty message for nobody.
            (true, false) => self.phase = Phase::EmptyDot,
            (false, some) => {
                if some {
                    self.answer_accepted(Stage::Data, reply);
                }
                // 2yz to DATA is no answer that the protocol knows: what the peer now waits for is unknown.
                let ended = if reply.is_positive() { Ended::Closing } else { self.ended() };
                self.over(ended);
            }
        }
    }

    /// Ends here, unless replies to a group are still to come.
    fn end_unless_open_replies(&mut self) {
        if self.expected.is_empty() && !self.data_written {
            self.over(self.ended());
        }
    }

    fn ended(&self) -> Ended {
        if self.open { Ended::NeedsReset } else { Ended::Clean }
    }

    fn over(&mut self, ended: Ended) {
        self.expected.clear();
        self.phase = Phase::Over(ended);
    }

    /// The message and its end of data are in the socket.
    pub fn dot_written(&mut self) {
        self.dot_open = true;
        self.expected.push_back(Expected::Dot);
        self.phase = Phase::Replies;
    }

    /// Takes a refusal that came while the message was still being sent, from a peer that then closed.
    pub fn take_early(&mut self, reply: &Reply) {
        self.answer_accepted(Stage::Data, reply);
        self.over(Ended::Closing);
    }

    /// Whether the peer may have taken the message though it has not said so: an end now is uncertain (RFC 1047).
    pub fn is_uncertain(&self) -> bool {
        self.dot_open
    }

    /// Where the dialogue is: the stage of the reply that is waited for, or of what is being written.
    pub fn stage(&self) -> Stage {
        match (self.phase, self.expected.front()) {
            (_, Some(expected)) => expected.stage(),
            (Phase::Message, None) => Stage::Data,
            (Phase::EmptyDot, None) => Stage::Data,
            (_, None) if !self.mail_written => Stage::Mail,
            (_, None) if !self.data_written => Stage::Rcpt,
            (_, None) => Stage::Data,
        }
    }

    /// Whether the peer has answered anything of this transaction.
    pub fn was_answered(&self) -> bool {
        self.mail_accepted || self.recipients.iter().any(|heard| *heard != Heard::Nothing)
    }

    /// Recipients that the peer accepted so far and that have no other answer yet.
    pub fn accepted(&self) -> usize {
        self.recipients.iter().filter(|heard| **heard == Heard::Accepted).count()
    }

    /// How many RCPTs the peer took, whatever it said afterwards.
    pub fn taken(&self) -> usize {
        self.rcpts_taken
    }

    /// What each recipient was answered, in order; `None` where the dialogue broke first.
    pub fn answers(self) -> Vec<Option<(Stage, Reply)>> {
        let answer = |heard| match heard {
            Heard::Answer(stage, reply) => Some((stage, reply)),
            Heard::Nothing | Heard::Accepted => None,
        };
        self.recipients.into_iter().map(answer).collect()
    }

    fn answer_accepted(&mut self, stage: Stage, reply: &Reply) {
        for heard in self.recipients.iter_mut().filter(|heard| **heard == Heard::Accepted) {
            *heard = Heard::Answer(stage, reply.clone());
        }
    }

    fn answer_rest(&mut self, stage: Stage, reply: &Reply) {
        for heard in self.recipients.iter_mut().filter(|heard| !matches!(heard, Heard::Answer(..))) {
            *heard = Heard::Answer(stage, reply.clone());
        }
    }
}

impl Expected {
    fn stage(self) -> Stage {
        match self {
            Expected::Reset | Expected::Mail => Stage::Mail,
            Expected::Rcpt(_) => Stage::Rcpt,
            Expected::Data | Expected::EmptyDot => Stage::Data,
            Expected::Dot => Stage::FinalDot,
        }
    }
}

/// What the commands of one transaction say.
#[derive(Clone, Copy, Debug)]
pub struct Letter<'a> {
    /// Paths and parameters.
    pub envelope: &'a Envelope,
    /// Which of its recipients are in this transaction.
    pub places: &'a [usize],
    /// What MAIL must ask for.
    pub needs: Needs,
    /// Whose return path MAIL says.
    pub return_path: ReturnPath,
}

impl Letter<'_> {
    fn mail(&self, offered: &Capabilities, out: &mut Vec<u8>) {
        let envelope = self.envelope;
        match envelope.mail_from(self.return_path) {
            Some(address) => append(out, format_args!("MAIL FROM:<{address}>")),
            None => out.extend_from_slice(b"MAIL FROM:<>"),
        }
        if offered.size.is_some() {
            append(out, format_args!(" SIZE={}", self.needs.size_bytes));
        }
        if self.needs.eight_bit && offered.eight_bit_mime {
            out.extend_from_slice(b" BODY=8BITMIME");
        }
        if self.needs.smtputf8 && offered.smtputf8 {
            out.extend_from_slice(b" SMTPUTF8");
        }
        if offered.dsn {
            match envelope.ret {
                Some(Return::Full) => out.extend_from_slice(b" RET=FULL"),
                Some(Return::Headers) => out.extend_from_slice(b" RET=HDRS"),
                None => {}
            }
            if let Some(envid) = &envelope.envid {
                append(out, format_args!(" ENVID={envid}"));
            }
        }
        out.extend_from_slice(b"\r\n");
    }

    fn rcpt(&self, place: usize, offered: &Capabilities, out: &mut Vec<u8>) {
        let recipient = self.places.get(place).and_then(|place| self.envelope.recipients.get(*place));
        let Some(Recipient { address, notify, original }) = recipient else { return };
        append(out, format_args!("RCPT TO:<{address}>"));
        if offered.dsn {
            // RFC 3461 §5.2.7.3, as a list that puts its own return path: what comes to us is for us. Success is reported by
            // us, when the peer took it; a failure is what we want to hear of, unless nobody may.
            let notify = match (notify, self.envelope.is_ours(self.return_path)) {
                (Notify::On { .. }, true) => Notify::On { success: false, failure: true, delay: false },
                (notify, _) => *notify,
            };
            if let Some(notify) = notify.parameter() {
                append(out, format_args!(" NOTIFY={notify}"));
            }
            if let Some(original) = original {
                append(out, format_args!(" ORCPT={original}"));
            }
        }
        out.extend_from_slice(b"\r\n");
    }
}

fn append(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // Invariant: writing to a Vec does not fail.
    let _ = out.write_fmt(text);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mail::{BodyFacts, QueueId, ReversePath, StreamKind};
    use crate::smtp::reply_reader::ReplyReader;
    use crate::time::Timestamp;

    fn envelope(recipients: usize) -> Envelope {
        let recipient = |n: usize| Recipient {
            address: format!("r{n}@example.net").parse().unwrap(),
            notify: Notify::On { success: true, failure: true, delay: false },
            original: Some(format!("rfc822;r{n}@example.net").into()),
        };
        Envelope {
            id: QueueId::from_u64(1),
            submission: QueueId::from_u64(1),
            accepted_at: Timestamp::ZERO,
            release_at: Timestamp::ZERO,
            put_off_by: "".into(),
            held: false,
            expires_at: Timestamp::NEVER,
            stream: "transactional".into(),
            kind: StreamKind::Transactional,
            priority: 50,
            credential: "".into(),
            pool: "".into(),
            reverse_path: ReversePath::Address("s@example.com".parse().unwrap()),
            return_path: None,
            ret: Some(Return::Headers),
            envid: Some("QQ314159".into()),
            author_domain: None,
            message_id: "".into(),
            marks: crate::mail::Marks::default(),
            added_headers: Default::default(),
            body: BodyFacts::default(),
            recipients: (0..recipients).map(recipient).collect(),
        }
    }

    const NEEDS: Needs = Needs { size_bytes: 1234, eight_bit: false, smtputf8: false };

    fn offered(words: &str) -> Capabilities {
        let mut reader = ReplyReader::default();
        let lines: String = words.split(", ").map(|word| format!("250-{word}\r\n")).collect();
        reader.space().extend_from_slice(format!("250-mx.example.net\r\n{lines}250 HELP\r\n").as_bytes());
        Capabilities::parse(&reader.next_reply().unwrap().unwrap())
    }

    #[test]
    fn a_return_path_of_ours_is_said_where_it_is_taken_and_success_is_not_asked_for_then() {
        let offered = offered("PIPELINING, DSN, SIZE 0");
        let mut own = envelope(1);
        own.return_path = Some("b234@bounce.example.com".parse().unwrap());
        let mut never = own.clone();
        never.recipients[0].notify = Notify::Never;
        let mut silent = own.clone();
        silent.recipients[0].notify = Notify::Default;
        let mut null = envelope(1);
        null.reverse_path = ReversePath::Null;
        let (ours, theirs) = ("b234@bounce.example.com", "s@example.com");
        let rows = [
            (&own, ReturnPath::Ours, ours, " NOTIFY=FAILURE"),
            (&own, ReturnPath::Client, theirs, " NOTIFY=SUCCESS,FAILURE"),
            (&envelope(1), ReturnPath::Ours, theirs, " NOTIFY=SUCCESS,FAILURE"),
            (&never, ReturnPath::Ours, ours, " NOTIFY=NEVER"),
            (&silent, ReturnPath::Ours, ours, ""),
            (&null, ReturnPath::Ours, "", " NOTIFY=SUCCESS,FAILURE"),
        ];
        for (envelope, return_path, from, notify) in rows {
            let letter = Letter { envelope, places: &[0], needs: NEEDS, return_path };
            let mut out = Vec::new();
            Transaction::new(&offered, 1, false).write_commands(&offered, &letter, &mut out);
            let want = format!(
                "MAIL FROM:<{from}> SIZE=1234 RET=HDRS ENVID=QQ314159\r\n\
                 RCPT TO:<r0@example.net>{notify} ORCPT=rfc822;r0@example.net\r\nDATA\r\n"
            );
            assert_eq!(String::from_utf8(out).unwrap(), want);
        }
    }

    /// Writes as `C: a|b` per write, answers as `0:stage code`, and the end.
    fn dialogue(
        capabilities: &str,
        recipients: usize,
        reset_first: bool,
        replies: &[u16],
    ) -> (Vec<String>, String, String) {
        let (offered, envelope) = (offered(capabilities), envelope(recipients));
        let places: Vec<usize> = (0..recipients).collect();
        let letter = Letter { envelope: &envelope, places: &places, needs: NEEDS, return_path: ReturnPath::Ours };
        let mut transaction = Transaction::new(&offered, recipients, reset_first);
        let (mut written, mut replies) = (Vec::new(), replies.iter());
        let ended = loop {
            match transaction.next() {
                Next::Write => {
                    let mut out = Vec::new();
                    transaction.write_commands(&offered, &letter, &mut out);
                    assert!(!out.is_empty(), "asked to write, and wrote nothing");
                    let text = String::from_utf8(out).unwrap();
                    let verbs = text.lines().map(|line| line.split_once(' ').map_or(line, |(verb, _)| verb));
                    written.push(verbs.collect::<Vec<_>>().join("|"));
                }
                Next::Read(_) => match replies.next() {
                    Some(code) => transaction.take(Reply::new(*code, "x")),
                    None => break format!("lost at {}", transaction.stage().name()),
                },
                Next::Message => {
                    written.push("message".into());
                    transaction.dot_written();
                }
                Next::Over(ended) => break format!("{ended:?}"),
            }
        };
        let ended = if transaction.is_uncertain() { format!("{ended}, uncertain") } else { ended };
        let answers = transaction.answers().into_iter().map(|answer| match answer {
            Some((stage, reply)) => format!("{} {}", stage.name(), reply.code),
            None => "-".to_owned(),
        });
        (written, answers.collect::<Vec<_>>().join(", "), ended)
    }

    #[test]
    fn every_answer_reaches_the_recipients_that_it_concerns() {
        /// Offered, RSET first, replies; then writes, answers, end.
        type Row<'a> = (&'a str, bool, &'a [u16], &'a [&'a str], &'a str, &'a str);
        let group = "MAIL|RCPT|RCPT|DATA";
        let rows: &[Row<'_>] = &[
            // One group, then the message.
            ("PIPELINING", false, &[250, 250, 250, 354, 250], &[group, "message"], "dot 250, dot 250", "Clean"),
            (
                "PIPELINING",
                true,
                &[250, 250, 250, 250, 354, 250],
                &["RSET|MAIL|RCPT|RCPT|DATA", "message"],
                "dot 250, dot 250",
                "Clean",
            ),
            ("PIPELINING", false, &[250, 250, 550, 354, 250], &[group, "message"], "dot 250, rcpt 550", "Clean"),
            ("PIPELINING", false, &[250, 450, 251, 354, 554], &[group, "message"], "rcpt 450, dot 554", "Clean"),
            // All refused: 354 gets a lone dot; 503 and 554 end it.
            ("PIPELINING", false, &[250, 550, 450, 354, 554], &[group, "."], "rcpt 550, rcpt 450", "Clean"),
            ("PIPELINING", false, &[250, 550, 450, 554], &[group], "rcpt 550, rcpt 450", "NeedsReset"),
            ("PIPELINING", false, &[452, 503, 503, 503], &[group], "mail 452, mail 452", "Clean"),
            ("PIPELINING", false, &[550, 250, 250, 354, 250], &[group, "."], "mail 550, mail 550", "Clean"),
            ("PIPELINING", false, &[250, 250, 550, 451], &[group], "data 451, rcpt 550", "NeedsReset"),
            ("PIPELINING", false, &[250, 250, 250, 250], &[group], "data 250, data 250", "Closing"),
            // 421 at each place: it answers what is open and nothing that was answered.
            ("PIPELINING", true, &[421], &["RSET|MAIL|RCPT|RCPT|DATA"], "mail 421, mail 421", "Closing"),
            ("PIPELINING", true, &[502], &["RSET|MAIL|RCPT|RCPT|DATA"], "-, -", "Closing"),
            ("PIPELINING", false, &[421], &[group], "mail 421, mail 421", "Closing"),
            ("PIPELINING", false, &[250, 550, 421], &[group], "rcpt 550, rcpt 421", "Closing"),
            ("PIPELINING", false, &[250, 250, 550, 421], &[group], "data 421, rcpt 550", "Closing"),
            ("PIPELINING", false, &[250, 250, 550, 354, 421], &[group, "message"], "dot 421, rcpt 550", "Closing"),
            // A group that breaks in the middle keeps what came before the break.
            ("PIPELINING", false, &[], &[group], "-, -", "lost at mail"),
            ("PIPELINING", false, &[250], &[group], "-, -", "lost at rcpt"),
            ("PIPELINING", false, &[250, 550], &[group], "rcpt 550, -", "lost at rcpt"),
            ("PIPELINING", false, &[250, 550, 250], &[group], "rcpt 550, -", "lost at data"),
            ("PIPELINING", false, &[250, 550, 250, 354], &[group, "message"], "rcpt 550, -", "lost at dot, uncertain"),
            ("PIPELINING", false, &[250, 550, 550, 354], &[group, "."], "rcpt 550, rcpt 550", "lost at data"),
            // In lock-step, nothing is written before its time.
            (
                "SIZE",
                false,
                &[250, 250, 550, 354, 250],
                &["MAIL", "RCPT", "RCPT", "DATA", "message"],
                "dot 250, rcpt 550",
                "Clean",
            ),
            (
                "SIZE",
                true,
                &[250, 250, 250, 550, 354, 250],
                &["RSET", "MAIL", "RCPT", "RCPT", "DATA", "message"],
                "dot 250, rcpt 550",
                "Clean",
            ),
            ("SIZE", false, &[550], &["MAIL"], "mail 550, mail 550", "Clean"),
            ("SIZE", false, &[250, 550, 550], &["MAIL", "RCPT", "RCPT"], "rcpt 550, rcpt 550", "NeedsReset"),
            (
                "SIZE",
                false,
                &[250, 550, 250, 451],
                &["MAIL", "RCPT", "RCPT", "DATA"],
                "rcpt 550, data 451",
                "NeedsReset",
            ),
            ("SIZE", false, &[250, 421], &["MAIL", "RCPT"], "rcpt 421, rcpt 421", "Closing"),
        ];
        for (capabilities, reset, replies, writes, answers, ended) in rows {
            let (written, answered, end) = dialogue(capabilities, 2, *reset, replies);
            assert_eq!((written.join(" / "), &*answered, &*end), (writes.join(" / "), *answers, *ended), "{replies:?}");
        }
    }

    #[test]
    fn many_recipients_go_in_groups_of_a_hundred() {
        let replies = [vec![250; 1 + 250], vec![354, 250]].concat();
        let (written, _, ended) = dialogue("PIPELINING", 250, false, &replies);
        let counts: Vec<usize> = written.iter().map(|write| write.matches("RCPT").count()).collect();
        assert_eq!(counts, [100, 100, 50, 0]);
        assert!(written[2].ends_with("RCPT|DATA") && ended == "Clean");
        // All of the first group refused, the rest too: no DATA goes out after the last group but the one within it.
        let (written, _, ended) = dialogue("PIPELINING", 200, false, &[vec![250], vec![550; 200], vec![503]].concat());
        assert_eq!((written.len(), &*ended), (2, "NeedsReset"));
    }

    #[test]
    fn parameters_are_asked_for_only_where_offered_and_needed() {
        let eight = Needs { eight_bit: true, ..NEEDS };
        let utf8 = Needs { eight_bit: true, smtputf8: true, ..NEEDS };
        let rows = [
            ("HELP", NEEDS, "MAIL FROM:<s@example.com>", "RCPT TO:<r0@example.net>"),
            ("SIZE 5000, 8BITMIME, SMTPUTF8", NEEDS, "MAIL FROM:<s@example.com> SIZE=1234", "RCPT TO:<r0@example.net>"),
            ("8bitmime", eight, "MAIL FROM:<s@example.com> BODY=8BITMIME", "RCPT TO:<r0@example.net>"),
            (
                "8BITMIME, SMTPUTF8",
                utf8,
                "MAIL FROM:<s@example.com> BODY=8BITMIME SMTPUTF8",
                "RCPT TO:<r0@example.net>",
            ),
            (
                "DSN",
                NEEDS,
                "MAIL FROM:<s@example.com> RET=HDRS ENVID=QQ314159",
                "RCPT TO:<r0@example.net> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;r0@example.net",
            ),
        ];
        for (capabilities, needs, mail, rcpt) in rows {
            let (offered, envelope) = (offered(capabilities), envelope(1));
            let letter = Letter { envelope: &envelope, places: &[0], needs, return_path: ReturnPath::Ours };
            let mut out = Vec::new();
            letter.mail(&offered, &mut out);
            letter.rcpt(0, &offered, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), format!("{mail}\r\n{rcpt}\r\n"), "{capabilities}");
        }
    }

    #[test]
    fn a_peer_that_cannot_take_a_message_is_not_given_it() {
        let eight = Needs { eight_bit: true, ..NEEDS };
        let utf8 = Needs { smtputf8: true, ..NEEDS };
        let rows = [
            ("HELP", NEEDS, Ok(())),
            ("SIZE", NEEDS, Ok(())),
            ("SIZE 0", NEEDS, Ok(())),
            ("SIZE 1234", NEEDS, Ok(())),
            ("SIZE 1233", NEEDS, Err(Unsendable::TooBig { size: 1234, limit: 1233 })),
            ("SIZE x", NEEDS, Ok(())),
            ("8BITMIME", eight, Ok(())),
            ("SMTPUTF8", eight, Ok(())),
            ("HELP", eight, Err(Unsendable::Needs8BitMime)),
            ("8BITMIME", utf8, Err(Unsendable::NeedsSmtputf8)),
        ];
        for (capabilities, needs, want) in rows {
            assert_eq!(check(&offered(capabilities), needs), want, "{capabilities}");
        }
    }

    #[test]
    fn capabilities_are_read_from_every_form_in_use() {
        let all = offered(
            "pipelining, SIZE 10485760, AUTH=LOGIN, AUTH PLAIN CRAM-MD5, STARTTLS, DSN, LIMITS RCPTMAX=5 MAILMAX=7 X=1",
        );
        assert!(all.pipelining && all.starttls && all.dsn && all.auth_plain && all.auth_login);
        assert!(!all.eight_bit_mime && !all.smtputf8);
        assert_eq!((all.size, all.recipients_max, all.transactions_max), (Some(Some(10_485_760)), Some(5), Some(7)));
        let none = offered("LIMITS RCPTMAX=0 MAILMAX=-1, LIMITSX RCPTMAX=3, SIZE 99999999999999999999999");
        assert_eq!((none.size, none.recipients_max, none.transactions_max), (Some(None), None, None));
    }

    proptest! {
        #[test]
        fn whatever_the_peer_says_the_dialogue_ends_and_no_message_goes_to_nobody(
            pipelining in any::<bool>(),
            reset in any::<bool>(),
            recipients in 1usize..230,
            replies in proptest::collection::vec(
                prop_oneof![8 => Just(250u16), 3 => Just(550), 2 => Just(450), 2 => Just(354), 1 => Just(421), 1 => 200u16..600],
                0..260,
            ),
        ) {
            let capabilities = if pipelining { "PIPELINING" } else { "HELP" };
            let (written, answers, ended) = dialogue(capabilities, recipients, reset, &replies);
            let all = written.join("|");
            prop_assert!(all.matches("DATA").count() <= 1 && all.matches("message").count() <= 1);
            prop_assert!(written.iter().all(|write| write.matches("RCPT").count() <= RCPT_GROUP_MAX));
            // DATA ends its group; the message follows a 354 to it, for at least one recipient.
            prop_assert!(written.iter().all(|write| !write.contains("DATA|")));
            if all.contains("message") {
                let taken = answers.split(", ").filter(|answer| answer.starts_with("dot") || *answer == "-").count();
                prop_assert!(taken > 0);
            }
            prop_assert_eq!(ended.contains("uncertain"), ended.starts_with("lost at dot"));
            prop_assert!(!answers.contains("dot") || all.contains("message"));
            if !ended.starts_with("lost") && !ended.starts_with("Closing") {
                prop_assert!(!answers.split(", ").any(|answer| answer == "-"));
            }
        }
    }
}
