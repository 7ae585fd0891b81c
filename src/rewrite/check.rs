//! header_checks(5): patterns for header fields, and what is done where one matches.

use std::borrow::Cow;
use std::ops::Range;

use crate::mail::{Address, EnhancedStatus, is_unprintable};

use super::header::{fields, name_of};
use super::table::{Flaw, Table, Tables, Trouble};

/// Deepest nesting of parts that is looked into.
const DEPTH_MAX: usize = 20;
/// Most fields of parts that are looked at.
const PART_FIELDS_MAX: usize = 10_000;
/// Most copies that a message's fields may ask for.
const COPIES_MAX: usize = 100;
/// Most that fields may grow by what is put before or in place of them. Unit: octets.
const GROWTH_MAX: usize = 1 << 20;

/// When patterns are asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moment {
    /// When a message comes in: all actions but FILTER.
    Accept,
    /// When it goes out: only those that change a field or say something.
    Send,
}

/// Tables of patterns whose answers are actions.
#[derive(Clone, Debug, Default)]
pub struct Checks(Tables);

/// What a pattern asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Action {
    Bcc(String),
    Discard(String),
    Dunno,
    Hold(String),
    Ignore,
    Info(String),
    Pass,
    Prepend(String),
    Redirect(String),
    Reject(String),
    Replace(String),
    Strip(String),
    Warn(String),
}

/// Something to be told of a field.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Note {
    /// `reject`, `warning`, `info`, `hold`, `discard` …, as Postfix's log has it.
    pub what: &'static str,
    /// The field.
    pub field: String,
    /// The action's text.
    pub text: String,
}

/// A refusal: code, status and text.
pub type Rejection = (u16, String, String);

/// What came of the checks of one message.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Checked {
    /// The message, if it changed.
    pub message: Option<Vec<u8>>,
    /// It is refused.
    pub rejected: Option<Rejection>,
    /// It is taken and dropped.
    pub discarded: bool,
    /// It is taken and held.
    pub held: bool,
    /// It goes there, and to nobody else.
    pub redirected: Option<Address>,
    /// It goes there too.
    pub copies: Vec<Address>,
    /// What is to be logged.
    pub notes: Vec<Note>,
}

impl Checks {
    /// Takes tables whose answers are actions.
    ///
    /// # Errors
    /// Answers that are none, or none that can be done at this moment.
    pub fn new(tables: Vec<Table>, moment: Moment) -> Result<Checks, Vec<Flaw>> {
        let judge = |(line, answer): (usize, &str)| judged(answer, moment).err().map(|right| Flaw::new(line, right));
        let flaws: Vec<Flaw> = tables.iter().flat_map(Table::answers).filter_map(judge).collect();
        if flaws.is_empty() { Ok(Checks(Tables::new(tables))) } else { Err(flaws) }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Looks at every field of a message, those of its parts and of messages within it included.
    ///
    /// # Errors
    /// A pattern came to no end.
    pub fn check(&self, message: &[u8]) -> Result<Checked, Trouble> {
        let mut run =
            Run { checks: self, message, edits: Vec::new(), growth: 0, checked: Checked::default(), over: false };
        if self.is_empty() {
            return Ok(run.checked);
        }
        let body = run.block(0)?;
        run.parts(body)?;
        Ok(run.finish())
    }

    /// The same for a header alone.
    ///
    /// # Errors
    /// As [`Checks::check`].
    pub fn check_header(&self, header: &[u8]) -> Result<Checked, Trouble> {
        let mut run = Run {
            checks: self,
            message: header,
            edits: Vec::new(),
            growth: 0,
            checked: Checked::default(),
            over: false,
        };
        if !self.is_empty() {
            run.block(0)?;
        }
        Ok(run.finish())
    }
}

/// The action of an answer.
fn action(answer: &str) -> Result<Action, String> {
    let (word, text) = answer.trim().split_once(char::is_whitespace).unwrap_or((answer.trim(), ""));
    let text = text.trim().to_owned();
    match word.to_ascii_uppercase().as_str() {
        "BCC" => Ok(Action::Bcc(text)),
        "DISCARD" => Ok(Action::Discard(text)),
        "DUNNO" | "OK" => Ok(Action::Dunno),
        "HOLD" => Ok(Action::Hold(text)),
        "IGNORE" => Ok(Action::Ignore),
        "INFO" => Ok(Action::Info(text)),
        "PASS" => Ok(Action::Pass),
        "PREPEND" => Ok(Action::Prepend(text)),
        "REDIRECT" => Ok(Action::Redirect(text)),
        "REJECT" => Ok(Action::Reject(text)),
        "REPLACE" => Ok(Action::Replace(text)),
        "STRIP" => Ok(Action::Strip(text)),
        "WARN" => Ok(Action::Warn(text)),
        "FILTER" => {
            Err("FILTER hands mail to another program, which there is none of here; a [[route]] chooses where \
                         mail goes"
                .to_owned())
        }
        _ => Err(format!("an action such as IGNORE, REPLACE, PREPEND, REJECT or WARN is expected, not \"{word}\"")),
    }
}

fn judged(answer: &str, moment: Moment) -> Result<(), String> {
    let is_open = answer.contains('$');
    let address = |text: &str| match is_open || text.parse::<Address>().is_ok() {
        true => Ok(()),
        false => Err("a mail address is expected after it".to_owned()),
    };
    let field = |text: &str| match is_open || name_of(text.as_bytes()).is_some() {
        true => Ok(()),
        false => Err("a field such as \"X-Name: text\" is expected after it".to_owned()),
    };
    match (action(answer)?, moment) {
        (Action::Bcc(text) | Action::Redirect(text), Moment::Accept) => address(&text),
        (Action::Prepend(text) | Action::Replace(text), _) => field(&text),
        (Action::Dunno | Action::Ignore | Action::Info(_) | Action::Strip(_) | Action::Warn(_), _) => Ok(()),
        (Action::Discard(_) | Action::Hold(_) | Action::Pass | Action::Reject(_), Moment::Accept) => Ok(()),
        (
            Action::Bcc(_)
            | Action::Discard(_)
            | Action::Hold(_)
            | Action::Pass
            | Action::Redirect(_)
            | Action::Reject(_),
            Moment::Send,
        ) => Err("on the way out DUNNO, IGNORE, INFO, PREPEND, REPLACE, STRIP and WARN can be done".to_owned()),
    }
}

/// One message being looked at.
struct Run<'a> {
    checks: &'a Checks,
    message: &'a [u8],
    /// What takes the place of which octets, in order.
    edits: Vec<(Range<usize>, Vec<u8>)>,
    growth: usize,
    checked: Checked,
    /// Nothing more is looked at.
    over: bool,
}

impl Run<'_> {
    /// Looks at the fields from here on. Returns where the body begins.
    fn block(&mut self, start: usize) -> Result<usize, Trouble> {
        let block = &self.message[start..];
        let mut end = 0;
        for field in fields(block) {
            end = field.end;
            if !self.over {
                self.field(start + field.start..start + field.end)?;
            }
        }
        let empty = block[end..].starts_with(b"\r\n");
        Ok(start + end + if empty { 2 } else { 0 })
    }

    fn field(&mut self, range: Range<usize>) -> Result<(), Trouble> {
        let octets = &self.message[range.clone()];
        let (key, encoding) = decoded(octets);
        let key = key.strip_suffix("\r\n").unwrap_or(&key).replace("\r\n", "\n");
        let Some(answer) = self.checks.0.find(&key)? else { return Ok(()) };
        let action = action(&answer).map_err(|_| Trouble::NoAction)?;
        match action {
            Action::Dunno => {}
            Action::Ignore => self.edits.push((range, Vec::new())),
            Action::Strip(text) => {
                self.note("strip", &key, &text);
                self.edits.push((range, Vec::new()));
            }
            Action::Replace(text) => match field_of(&text, encoding) {
                Some(field) => self.put(range, field),
                None => self.note("bad REPLACE text", &key, &text),
            },
            Action::Prepend(text) => match field_of(&text, encoding) {
                Some(field) => self.put(range.start..range.start, field),
                None => self.note("bad PREPEND text", &key, &text),
            },
            Action::Info(text) => self.note("info", &key, &text),
            Action::Warn(text) => self.note("warning", &key, &text),
            Action::Hold(text) => {
                self.note("hold", &key, &text);
                self.checked.held = true;
            }
            Action::Discard(text) => {
                self.note("discard", &key, &text);
                (self.checked.discarded, self.over) = (true, true);
            }
            Action::Reject(text) => {
                self.note("reject", &key, &text);
                self.checked.rejected = Some(rejection(&text));
                self.over = true;
            }
            Action::Redirect(text) => match text.parse() {
                Ok(address) => {
                    self.note("redirect", &key, &text);
                    self.checked.redirected = Some(address);
                }
                Err(_) => self.note("bad REDIRECT address", &key, &text),
            },
            Action::Bcc(text) => match text.parse() {
                Ok(address) if self.checked.copies.len() < COPIES_MAX => self.checked.copies.push(address),
                Ok(_) | Err(_) => self.note("bad BCC address", &key, &text),
            },
            Action::Pass => self.over = true,
        }
        Ok(())
    }

    fn put(&mut self, range: Range<usize>, field: Vec<u8>) {
        self.growth += field.len();
        if self.growth <= GROWTH_MAX {
            self.edits.push((range, field));
        }
    }

    fn note(&mut self, what: &'static str, field: &str, text: &str) {
        // Both may have words of the message in them, folds and all.
        let on_a_line = |text: &str, length_max| {
            text.chars().map(|c| if is_unprintable(c) { ' ' } else { c }).take(length_max).collect()
        };
        self.checked.notes.push(Note { what, field: on_a_line(field, 200), text: on_a_line(text, 1000) });
    }

    /// Looks at the headers of parts and of messages within the message.
    fn parts(&mut self, body: usize) -> Result<(), Trouble> {
        let mut boundaries: Vec<Vec<u8>> = Vec::new();
        let mut at = self.enter(0..body, body, &mut boundaries)?;
        let mut left = PART_FIELDS_MAX;
        while at < self.message.len() && !boundaries.is_empty() && !self.over {
            let end = memchr::memchr(b'\n', &self.message[at..]).map_or(self.message.len(), |end| at + end + 1);
            let line = self.message[at..end].trim_ascii_end();
            at = end;
            let Some(depth) = boundary_of(line, &boundaries) else { continue };
            let closes = line.len() >= 4 + boundaries[depth].len();
            boundaries.truncate(if closes { depth } else { depth + 1 });
            if closes {
                continue;
            }
            let body = self.block(at)?;
            left = left.saturating_sub(fields(&self.message[at..body]).len().max(1));
            if left == 0 {
                break;
            }
            at = self.enter(at..body, body, &mut boundaries)?;
        }
        Ok(())
    }

    /// Goes into what a header says follows it. Returns where to go on.
    fn enter(&mut self, header: Range<usize>, body: usize, boundaries: &mut Vec<Vec<u8>>) -> Result<usize, Trouble> {
        let (mut header, mut body) = (header, body);
        for _ in 0..DEPTH_MAX {
            let block = &self.message[header.clone()];
            let kind =
                fields(block).into_iter().map(|field| &block[field]).find(|field| is_named(field, "content-type"));
            let Some(kind) = kind.map(|kind| String::from_utf8_lossy(kind).into_owned()) else { return Ok(body) };
            let value = kind.split_once(':').map_or("", |(_, value)| value).trim_start();
            if starts_with(value, "multipart/") {
                if let Some(boundary) = boundary(value).filter(|_| boundaries.len() < DEPTH_MAX) {
                    boundaries.push(boundary);
                }
                return Ok(body);
            }
            if !starts_with(value, "message/rfc822") && !starts_with(value, "message/global") || self.over {
                return Ok(body);
            }
            let next = self.block(body)?;
            (header, body) = (body..next, next);
        }
        Ok(body)
    }

    fn finish(mut self) -> Checked {
        if self.edits.is_empty() {
            return self.checked;
        }
        let mut message = Vec::with_capacity(self.message.len() + self.growth.min(GROWTH_MAX));
        let mut copied = 0;
        for (range, text) in &self.edits {
            message.extend_from_slice(&self.message[copied..range.start.max(copied)]);
            message.extend_from_slice(text);
            copied = range.end.max(copied);
        }
        message.extend_from_slice(&self.message[copied..]);
        self.checked.message = Some(message);
        self.checked
    }
}

fn is_named(field: &[u8], name: &str) -> bool {
    name_of(field).is_some_and(|own| own.eq_ignore_ascii_case(name))
}

fn starts_with(value: &str, prefix: &str) -> bool {
    value.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// The parameter `boundary` of a Content-Type, RFC 2046 §5.1.1.
fn boundary(value: &str) -> Option<Vec<u8>> {
    let at = value.to_ascii_lowercase().find("boundary")?;
    let rest = value.get(at + "boundary".len()..)?.trim_start().strip_prefix('=')?.trim_start();
    let text = match rest.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next()?.to_owned(),
        None => rest.split(|c: char| c.is_whitespace() || c == ';').next()?.to_owned(),
    };
    (!text.is_empty() && text.len() <= 200).then(|| text.into_bytes())
}

/// The innermost of the open boundaries that a line is.
fn boundary_of(line: &[u8], boundaries: &[Vec<u8>]) -> Option<usize> {
    let text = line.strip_prefix(b"--")?;
    boundaries.iter().rposition(|boundary| text == &boundary[..] || text.strip_suffix(b"--") == Some(&boundary[..]))
}

/// How the octets of a field were read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Utf8,
    /// No UTF-8: each octet stands for the character of its number, and goes back as such.
    Octets,
}

fn decoded(octets: &[u8]) -> (Cow<'_, str>, Encoding) {
    match std::str::from_utf8(octets) {
        Ok(text) => (Cow::Borrowed(text), Encoding::Utf8),
        Err(_) => (Cow::Owned(octets.iter().map(|octet| char::from(*octet)).collect()), Encoding::Octets),
    }
}

/// A field as an action says it, with its line end; `None`: it is none. A line end of a field that was matched stays one
/// only where white space follows, so that no other field begins there.
fn field_of(text: &str, encoding: Encoding) -> Option<Vec<u8>> {
    let text = text.trim_end();
    name_of(text.as_bytes())?;
    let mut out = Vec::with_capacity(text.len() + 2);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, chars.peek()) {
            ('\n', Some(' ' | '\t')) => out.extend_from_slice(b"\r\n"),
            ('\n', _) => out.push(b' '),
            ('\r' | '\0', _) => {}
            (c, _) => match (encoding, u8::try_from(c)) {
                (Encoding::Octets, Ok(octet)) => out.push(octet),
                (_, _) => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            },
        }
    }
    out.extend_from_slice(b"\r\n");
    // A line of white space alone would end the header for some readers.
    let blank = out.split(|b| *b == b'\n').rev().skip(1).any(|line| line.trim_ascii().is_empty());
    (!blank).then_some(out)
}

fn rejection(text: &str) -> Rejection {
    let (status, text) = match EnhancedStatus::split(text) {
        Some((status, text)) if status.class != 2 => (status, text),
        Some(_) | None => (EnhancedStatus::new(5, 7, 1), text),
    };
    let code = if status.class == 4 { 450 } else { 550 };
    let text = if text.is_empty() { "message content rejected" } else { text };
    // A reply is printable ASCII.
    let text = text.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).take(400).collect();
    (code, status.to_string(), text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rewrite::table::Kind;

    fn checks(text: &str, moment: Moment) -> Result<Checks, Vec<Flaw>> {
        Checks::new(vec![Table::read(Kind::Pcre, text).unwrap()], moment)
    }

    fn changed(table: &str, message: &str) -> String {
        let checked = checks(table, Moment::Accept).unwrap().check(message.as_bytes()).unwrap();
        checked.message.map_or_else(|| "unchanged".to_owned(), |message| String::from_utf8(message).unwrap())
    }

    #[test]
    fn fields_are_removed_replaced_and_put_before() {
        let message = "Received: a\r\nSubject: hello\r\n\tworld\r\nX-Mailer: y\r\n\r\nX-Mailer: body\r\n";
        for (table, want) in [
            ("/^X-Mailer:/ IGNORE", "Received: a\r\nSubject: hello\r\n\tworld\r\n\r\nX-Mailer: body\r\n"),
            ("/^X-Mailer:/ STRIP because", "Received: a\r\nSubject: hello\r\n\tworld\r\n\r\nX-Mailer: body\r\n"),
            (
                "/^X-(Mailer): (.*)$/ REPLACE X-Was: $1 $2",
                "Received: a\r\nSubject: hello\r\n\tworld\r\nX-Was: Mailer y\r\n\r\nX-Mailer: body\r\n",
            ),
            (
                "/^(Subject: hello.*)$/ REPLACE $1!",
                "Received: a\r\nSubject: hello\r\n\tworld!\r\nX-Mailer: y\r\n\r\nX-Mailer: body\r\n",
            ),
            (
                "/^Subject:/ PREPEND X-Before: yes",
                "Received: a\r\nX-Before: yes\r\nSubject: hello\r\n\tworld\r\nX-Mailer: y\r\n\r\nX-Mailer: body\r\n",
            ),
            // What would begin another field, or is none, does not.
            (
                "/^Subject: (hello\\n)/ REPLACE Subject: ${1}X: y",
                "Received: a\r\nSubject: hello X: y\r\nX-Mailer: y\r\n\r\nX-Mailer: body\r\n",
            ),
            ("/^Subject:(.*)/ REPLACE $1", "unchanged"),
            ("/^X-Mailer:/ DUNNO\n/y/ IGNORE", "unchanged"),
            ("/^Received:/ PASS\n/./ IGNORE", "unchanged"),
        ] {
            assert_eq!(changed(table, message), want, "{table}");
        }
    }

    #[test]
    fn a_message_is_refused_held_dropped_copied_or_sent_elsewhere() {
        let message = "Subject: spam\r\nTo: a@b.c\r\n\r\n";
        let run = |table: &str| checks(table, Moment::Accept).unwrap().check(message.as_bytes()).unwrap();
        let rejected = |code, status: &str, text: &str| Some((code, status.to_owned(), text.to_owned()));
        assert_eq!(run("/spam/ REJECT").rejected, rejected(550, "5.7.1", "message content rejected"));
        assert_eq!(run("/spam/ REJECT not here").rejected, rejected(550, "5.7.1", "not here"));
        assert_eq!(run("/spam/ REJECT 4.3.0 later").rejected, rejected(450, "4.3.0", "later"));
        assert_eq!(run("/spam/ reject 5.6.0 no").rejected, rejected(550, "5.6.0", "no"));
        assert!(run("/spam/ HOLD").held && run("/spam/ DISCARD").discarded);
        assert_eq!(run("/spam/ REDIRECT x@y.z").redirected, Some("x@y.z".parse().unwrap()));
        assert_eq!(run("/^To: (\\S+)@/ BCC $1@copy.example").copies, ["a@copy.example".parse().unwrap()]);
        let noted = run("/spam/ WARN odd");
        assert_eq!(
            (noted.notes[0].what, &*noted.notes[0].field, &*noted.notes[0].text),
            ("warning", "Subject: spam", "odd")
        );
        assert_eq!(run("/x/ REJECT"), Checked::default());
        // A refusal ends it.
        assert!(!run("/spam/ REJECT\n/^To/ HOLD").held);
    }

    #[test]
    fn headers_of_parts_and_of_messages_within_are_looked_at_and_bodies_are_not() {
        let message = "Content-Type: multipart/mixed;\r\n boundary=\"o\"\r\n\r\npreamble X: 1\r\n--o\r\nX: 1\r\n\r\nX: 1\r\n--o\r\n\
                       Content-Type: multipart/alternative; boundary=i\r\nX: 2\r\n\r\n--i\r\nX: 3\r\n\r\n--i--\r\nX: 4\r\n--o\r\n\
                       Content-Type: message/rfc822\r\n\r\nX: 5\r\nContent-Type: text/plain\r\n\r\nX: 6\r\n--o--\r\nX: 7\r\n";
        let want = message
            .replacen("--o\r\nX: 1\r\n", "--o\r\n", 1)
            .replace("X: 2\r\n", "")
            .replace("X: 3\r\n", "")
            .replace("X: 5\r\n", "");
        assert_eq!(changed("/^X:/ IGNORE", message), want);
    }

    #[test]
    fn octets_that_are_no_text_stay_what_they_are() {
        let checks = checks("/^Subject: (.*)$/ REPLACE Subject: [$1]", Moment::Accept).unwrap();
        let checked = checks.check(b"Subject: caf\xe9\r\n\r\n").unwrap();
        assert_eq!(checked.message.as_deref(), Some(&b"Subject: [caf\xe9]\r\n\r\n"[..]));
    }

    #[test]
    fn an_action_that_cannot_be_done_is_told_its_line() {
        for (moment, table, line, want) in [
            (Moment::Accept, "/a/ IGNORE\n/b/ FILTER smtp:x", 2, "FILTER hands mail"),
            (Moment::Accept, "/a/ BLOCK", 1, "an action such as"),
            (Moment::Accept, "/a/ REDIRECT nobody", 1, "a mail address is expected"),
            (Moment::Accept, "/a/ PREPEND words", 1, "a field such as"),
            (Moment::Send, "/a/ REJECT", 1, "on the way out"),
            (Moment::Send, "/a/ BCC a@b.c", 1, "on the way out"),
        ] {
            let flaws = checks(table, moment).unwrap_err();
            assert!(flaws[0].line == line && flaws[0].right.starts_with(want), "{table}: {flaws:?}");
        }
    }
}
