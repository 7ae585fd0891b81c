//! Scripts in `tests/dialogs/server-*.smtp`, run against the session without sockets.
//!
//! `C:` a line that the client sends, CRLF appended; `C+` octets as they are; lines up to the next reply go in one piece.
//! `S:` the next reply line, exactly, or up to a final `*`. `M:` the next message taken: protocol, EHLO name, sender,
//! recipients, body. `X:` the session is over. `---` begins a new session. Escapes: `\r \n \0 \xNN \\`.

use postrider::smtp::session::{Limits, Link, Mode, Security};

use super::support::{Bench, bracketed};

struct Script<'a> {
    name: &'a str,
    bench: Bench,
    pending: Vec<u8>,
    replies: Vec<String>,
    messages_seen: usize,
}

impl Script<'_> {
    fn line(&mut self, at: usize, line: &str) {
        let place = format!("{}:{}", self.name, at + 1);
        let (mark, rest) = line.split_at_checked(2).unwrap_or((line, ""));
        let rest = rest.strip_prefix(' ').unwrap_or(rest);
        match mark {
            "C:" | "C+" => {
                if self.pending.is_empty() {
                    assert!(self.replies.is_empty(), "{place}: replies that the script has not: {:?}", self.replies);
                }
                self.pending.extend(unescape(rest));
                if mark == "C:" {
                    self.pending.extend(b"\r\n");
                }
            }
            "S:" => {
                self.flush();
                assert!(!self.replies.is_empty(), "{place}: no reply, expected {rest}");
                let reply = self.replies.remove(0);
                let fits = match rest.strip_suffix('*') {
                    Some(start) => reply.starts_with(start),
                    None => reply == rest,
                };
                assert!(fits, "{place}: got {reply}");
            }
            "M:" => {
                self.flush();
                let message = self.bench.messages.get(self.messages_seen);
                let message = message.unwrap_or_else(|| panic!("{place}: no message"));
                self.messages_seen += 1;
                let to: Vec<String> = message.recipients.iter().map(|(to, ..)| format!("<{to}>")).collect();
                let (from, to) = (bracketed(&message.reverse_path), to.join(","));
                let body = message.body.escape_ascii().to_string().replace("\\\"", "\"");
                let got = format!("{} {} {from} {to} {body}", message.protocol, message.hello);
                assert_eq!(got.trim_end(), rest.trim_end(), "{place}");
            }
            "X:" => {
                self.flush();
                assert!(self.bench.closed, "{place}: the session goes on");
            }
            _ => panic!("{place}: {line:?} is no line of a script"),
        }
    }

    fn flush(&mut self) {
        if !self.pending.is_empty() {
            let octets = std::mem::take(&mut self.pending);
            let replies = self.bench.send(&octets);
            self.replies.extend(replies.split_terminator("\r\n").map(str::to_owned));
        }
    }

    fn end(mut self) {
        self.flush();
        assert!(self.replies.is_empty(), "{}: replies left at the end: {:?}", self.name, self.replies);
        assert_eq!(self.messages_seen, self.bench.messages.len(), "{}: messages taken and not expected", self.name);
    }
}

fn unescape(text: &str) -> Vec<u8> {
    let mut octets = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((octet, after)) = rest.split_first() {
        (octets, rest) = match (octet, after) {
            (b'\\', [b'r', after @ ..]) => ([octets, vec![b'\r']].concat(), after),
            (b'\\', [b'n', after @ ..]) => ([octets, vec![b'\n']].concat(), after),
            (b'\\', [b'0', after @ ..]) => ([octets, vec![0]].concat(), after),
            (b'\\', [b'\\', after @ ..]) => ([octets, vec![b'\\']].concat(), after),
            (b'\\', [b'x', high, low, after @ ..]) => {
                let hex = String::from_utf8(vec![*high, *low]).unwrap();
                ([octets, vec![u8::from_str_radix(&hex, 16).unwrap()]].concat(), after)
            }
            _ => ([octets, vec![*octet]].concat(), after),
        };
    }
    octets
}

/// `listener: MODE [tls|upgradable|clear] [loopback] [trusted]`, then perhaps `limits: name=number …`.
fn bench(listener: &str, limits: &str) -> Bench {
    let words: Vec<&str> = listener.split(' ').collect();
    let mode = match words[0] {
        "submission" => Mode::Submission,
        "submissions" => Mode::Submissions,
        "smtp" => Mode::Smtp,
        other => panic!("no mode {other}"),
    };
    let has = |word| words.contains(&word);
    let security = match () {
        () if has("tls") => Security::Tls,
        () if has("upgradable") => Security::Upgradable,
        () => Security::Clear,
    };
    let link = Link { security, loopback: has("loopback"), trusted: has("trusted") };
    let mut bounds = Limits::default();
    for (name, number) in limits.split(' ').filter_map(|word| word.split_once('=')) {
        let number: usize = number.parse().unwrap();
        match name {
            "errors" => bounds.errors_max = number as u32,
            "idle" => bounds.idle_commands_max = number as u32,
            "login-failures" => bounds.login_failures_max = number as u32,
            "size" => bounds.message_size_max = number,
            "header" => bounds.header_size_max = number,
            "command" => bounds.command_length_max = number,
            "recipients" => bounds.recipients_max = number,
            "hold" => bounds.hold_max = std::time::Duration::from_secs(number as u64),
            other => panic!("no limit {other}"),
        }
    }
    Bench::new(mode, link, bounds)
}

fn run(name: &str, text: &str) {
    let mut lines: Vec<(usize, &str)> =
        text.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#')).collect();
    while !lines.is_empty() {
        let end = lines.iter().position(|(_, line)| *line == "---").unwrap_or(lines.len());
        let session: Vec<(usize, &str)> = lines.drain(..end).collect();
        lines.drain(..lines.len().min(1));
        let listener = session[0].1.strip_prefix("listener: ").expect("a session begins with its listener");
        let limits = session[1].1.strip_prefix("limits: ");
        let mut bench = bench(listener, limits.unwrap_or(""));
        let replies = vec![bench.greeting().trim_end().to_owned()];
        let mut script = Script { name, bench, pending: Vec::new(), replies, messages_seen: 0 };
        for (at, line) in &session[1 + usize::from(limits.is_some())..] {
            script.line(*at, line);
        }
        script.end();
    }
}

#[test]
fn every_server_dialog_goes_as_written() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dialogs");
    let mut names: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.retain(|path| path.file_name().unwrap().to_string_lossy().starts_with("server-"));
    names.sort();
    assert!(names.len() >= 9, "the scripts are where they belong");
    for path in names {
        run(&path.file_name().unwrap().to_string_lossy(), &std::fs::read_to_string(&path).unwrap());
    }
}
