//! A line of the structured log as text: `2026-11-26T14:44:53.087439Z  INFO delivered queue_id=… reply=250 2.0.0 Ok`.
//!
//! What `tracing_subscriber`'s own format writes without colour, which a test holds it to, in a third of its time: a relay under
//! load logs three lines a message, and the library passes each name and each value through three layers of styles. One thing
//! is stricter here: what could break a line, a terminal or the direction of writing never reaches the log as it is if it
//! stands in a field, whoever wrote it. On a terminal, and within a span, which nothing here has, the library's own is used.

use std::cell::RefCell;
use std::fmt::{self, Debug, Write};
use std::time::{Duration, SystemTime};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::mail::is_unprintable;
use crate::time::Timestamp;

/// Writes events as lines of text.
#[derive(Debug)]
pub struct Text {
    /// For terminals, and for what comes within a span, which nothing here does.
    styled: Format<Full>,
}

impl Default for Text {
    fn default() -> Self {
        Text { styled: Format::default().with_target(false) }
    }
}

impl<S, N> FormatEvent<S, N> for Text
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        if out.has_ansi_escapes() || context.event_scope().is_some() {
            return self.styled.format_event(context, out, event);
        }
        thread_local! {
            static LINE: RefCell<String> = const { RefCell::new(String::new()) };
        }
        LINE.with(|line| {
            // An event within the writing of another's value has no buffer to share.
            let Ok(mut line) = line.try_borrow_mut() else {
                return self.styled.format_event(context, out, event);
            };
            line.clear();
            write_time(&mut line, SystemTime::now());
            line.push_str(match *event.metadata().level() {
                Level::ERROR => " ERROR ",
                Level::WARN => "  WARN ",
                Level::INFO => "  INFO ",
                Level::DEBUG => " DEBUG ",
                Level::TRACE => " TRACE ",
            });
            let mut fields = Fields { line: &mut line, is_first: true };
            event.record(&mut fields);
            line.push('\n');
            out.write_str(&line)
        })
    }
}

/// `2026-11-26T14:44:53.087439Z`. The seconds are worked out once each.
fn write_time(line: &mut String, now: SystemTime) {
    thread_local! {
        static SECOND: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) };
    }
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    SECOND.with_borrow_mut(|(second, words)| {
        if *second != since.as_secs() {
            *second = since.as_secs();
            *words = Timestamp::from_secs(*second).rfc3339();
            // Up to the point before the parts of a second.
            words.truncate(words.rfind('.').map_or(words.len(), |point| point + 1));
        }
        line.push_str(words);
    });
    let mut digits = [b'0'; 6];
    let mut rest = since.subsec_micros();
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    line.extend(digits.map(char::from));
    line.push('Z');
}

/// The message as it is, then each field as `name=value`, a space between.
struct Fields<'a> {
    line: &'a mut String,
    is_first: bool,
}

/// What a control character in a value becomes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Breaks {
    /// Our own words may have several lines.
    Stay,
    Escaped,
}

impl Fields<'_> {
    fn name(&mut self, field: &Field) -> Breaks {
        if !std::mem::take(&mut self.is_first) {
            self.line.push(' ');
        }
        match field.name() {
            "message" => Breaks::Stay,
            name => {
                self.line.push_str(name.strip_prefix("r#").unwrap_or(name));
                self.line.push('=');
                Breaks::Escaped
            }
        }
    }

    fn value(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        let breaks = self.name(field);
        let start = self.line.len();
        // A value that cannot be written is cut where it failed.
        let _ = self.line.write_fmt(value);
        self.escape_from(start, breaks);
    }

    /// Escapes control characters (C0, DEL and C1) of what was written from here on.
    fn escape_from(&mut self, start: usize, breaks: Breaks) {
        let is_bad = |c: char| match c {
            '\n' | '\t' => breaks == Breaks::Escaped,
            c => is_unprintable(c),
        };
        let written = self.line.get(start..).unwrap_or_default();
        if written.bytes().all(|octet| (b' '..0x7f).contains(&octet)) || !written.chars().any(is_bad) {
            return;
        }
        let mut escaped = String::with_capacity(written.len() + 16);
        for c in written.chars() {
            match is_bad(c) {
                true => escaped.extend(c.escape_default()),
                false => escaped.push(c),
            }
        }
        self.line.truncate(start);
        self.line.push_str(&escaped);
    }
}

/// What the bridge from the `log` crate, which libraries use, says of where a line comes from: the library leaves it out too.
fn is_of_the_bridge(field: &Field) -> bool {
    field.name().starts_with("log.")
}

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if is_of_the_bridge(field) {
            return;
        }
        self.value(field, format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if is_of_the_bridge(field) {
            return;
        }
        let is_plain = value.bytes().all(|octet| (b' '..0x7f).contains(&octet) && octet != b'"' && octet != b'\\');
        match (field.name(), is_plain) {
            ("message", _) => self.value(field, format_args!("{value}")),
            (_, false) => self.value(field, format_args!("{value:?}")),
            (_, true) => {
                self.name(field);
                self.line.push('"');
                self.line.push_str(value);
                self.line.push('"');
            }
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.value(field, format_args!("{value}"));
        let mut source = value.source();
        let mut before = format!(" {}.sources=[", field.name());
        while let Some(cause) = source {
            self.line.push_str(&before);
            let start = self.line.len();
            let _ = write!(self.line, "{cause}");
            self.escape_from(start, Breaks::Escaped);
            source = cause.source();
            before.clear();
            before.push_str(if source.is_some() { ", " } else { "" });
            if source.is_none() {
                self.line.push(']');
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing::{error, info, warn};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(octets);
            Ok(octets.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is logged, by us or by the library, without the times.
    fn logged(by_us: bool, ansi: bool, log: impl FnOnce()) -> String {
        let _listening = crate::lines::LISTENING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let lines = Lines::default();
        let writer = lines.clone();
        let builder = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(ansi).with_target(false);
        match by_us {
            true => tracing::subscriber::with_default(builder.event_format(Text::default()).finish(), log),
            false => tracing::subscriber::with_default(builder.finish(), log),
        }
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let without_time = |line: &str| match line.split_once("Z ") {
            Some((time, rest)) if time.starts_with("20") => {
                assert_eq!(time.len(), "2026-11-26T14:44:53.087439".len(), "{time}");
                format!("TIME {rest}\n")
            }
            _ => format!("{line}\n"),
        };
        text.lines().map(without_time).collect()
    }

    fn log_samples() {
        info!("plain");
        warn!(count = 3, less = -4, share = 0.5, yes = true, none = None::<u8>, some = Some(7), "of {} kinds", "all");
        info!(text = "words", quoted = "say \"so\" \\ now", owned = %String::from("as it is"), debug = ?["a", "b"]);
        info!(log.target = "rustls", log.line = ?7, host = %"mx", "from a library");
        info!(queue_id = %"0V2g17v5s3H5", umlaut = "grün", shown = %"grün €", r#type = "keyword", "delivered");
        error!(empty = "", nothing = %"", "message with \"quotes\" and\nits second line");
        tracing::debug!("not at this level");
        let disk = io::Error::other("the disk is full");
        error!(error = &disk as &(dyn std::error::Error + 'static), "no cause behind it");
    }

    #[test]
    fn lines_are_those_of_the_library() {
        let ours = logged(true, false, log_samples);
        assert_eq!(ours, logged(false, false, log_samples));
        assert!(ours.contains("TIME  INFO plain\n"), "{ours}");
        assert!(ours.contains("quoted=\"say \\\"so\\\" \\\\ now\" owned=as it is"), "{ours}");
        assert_eq!(ours.lines().count(), 8, "{ours}");
        assert!(ours.contains("TIME  INFO from a library host=mx\n"), "{ours}");
    }

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Chained(&'static str, #[source] Option<Box<Chained>>);

    #[test]
    fn an_errors_causes_follow_it_as_the_library_writes_them() {
        let log = || {
            let root = Chained("no route", None);
            let middle = Chained("refused", Some(Box::new(root)));
            let top = Chained("no answer", Some(Box::new(middle)));
            error!(error = &top as &(dyn std::error::Error + 'static), host = %"mx", "given up");
        };
        let ours = logged(true, false, log);
        assert_eq!(ours, logged(false, false, log));
        assert!(ours.contains("error=no answer error.sources=[refused, no route] host=mx"), "{ours}");
    }

    #[test]
    fn a_terminal_and_a_span_get_the_librarys_own() {
        let within = || tracing::info_span!("outer", number = 1).in_scope(log_samples);
        assert_eq!(logged(true, false, within), logged(false, false, within));
        let coloured = logged(true, true, log_samples);
        assert!(coloured.contains('\u{1b}'), "{coloured}");
    }

    #[test]
    fn no_peer_writes_control_characters_or_lines_of_its_own() {
        let log = || {
            let reply =
                "550 \u{1b}[2Jno\r\n2026-11-26T00:00:00.000000Z  INFO delivered \u{9b}31m \u{7f}\u{202e}\u{2028}";
            info!(shown = %reply, text = reply, "failed \u{1b}[1m");
        };
        let ours = logged(true, false, log);
        assert_eq!(ours.lines().count(), 1, "{ours}");
        assert!(!ours.trim_end().chars().any(|c| c.is_control() || "\u{202e}\u{2028}".contains(c)), "{ours:?}");
        assert!(ours.contains(r"shown=550 \u{1b}[2Jno\r\n2026"), "{ours}");
    }

    #[test]
    fn seconds_and_their_parts_are_told_exactly() {
        let mut line = String::new();
        for (micros, want) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (1_795_704_293_087_439, "2026-11-26T14:44:53.087439Z"),
            (1_795_704_293_999_999, "2026-11-26T14:44:53.999999Z"),
            (1_795_704_294_000_001, "2026-11-26T14:44:54.000001Z"),
            (1_795_704_293_000_000, "2026-11-26T14:44:53.000000Z"),
        ] {
            line.clear();
            write_time(&mut line, SystemTime::UNIX_EPOCH + Duration::from_micros(micros));
            assert_eq!(line, want);
        }
    }
}
