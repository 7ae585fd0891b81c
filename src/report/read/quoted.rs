//! The returned message: where it stands in a report, and what of its header is left.

use super::Returned;
use super::address;
use super::field::{self, Fields};
use super::phrases;
use super::piece::{Kind, Letter};

/// Fields of our own that are handed out.
const EXTENSIONS_MAX: usize = 64;
/// Lines of a report's text that are read. Programs need some twenty.
const LINES_MAX: usize = 1500;
/// A header has this many fields in a row, a sentence has none.
const FIELDS_MIN: usize = 3;

/// What is left of the message that a report is about.
pub(super) fn original(letter: &Letter) -> Returned {
    let parts = letter.pieces.iter().filter(|piece| matches!(piece.kind, Kind::Message | Kind::Header));
    let attached = parts.map(|piece| {
        let (fields, _) = field::header(piece.body);
        match fields.is_empty() {
            true => field::header(piece.text().as_bytes()).0,
            false => fields,
        }
    });
    let fields = attached.into_iter().find(|fields| !fields.is_empty());
    let fields = fields.or_else(|| cut(&letter.words).1.map(|rest| header_within(&rest))).unwrap_or_default();
    of_fields(&fields)
}

/// What a header says.
pub(super) fn of_fields(fields: &Fields) -> Returned {
    let first = |name: &str| fields.first(name).map(|value| value.trim().into());
    let bare = |name: &str| fields.first(name).map(|value| value.trim().trim_matches(['<', '>']).into());
    let to = ["to", "cc", "x-failed-recipients"];
    let mut to: Vec<Box<str>> =
        to.iter().flat_map(|name| fields.all(name)).flat_map(address::within).take(64).map(Into::into).collect();
    // `for <user@example.net>` of the hosts that it passed, where lists and redactions have changed To.
    for hop in fields.all("received").take(8) {
        let named =
            hop.split(" for ").nth(1).and_then(|rest| rest.split(';').next()).map(address::within).unwrap_or_default();
        for address in named.into_iter().take(1) {
            if !to.iter().any(|known| known.eq_ignore_ascii_case(&address)) {
                to.push(address.into());
            }
        }
    }
    let extension = fields.iter().filter(|(name, _)| name.starts_with("x-")).take(EXTENSIONS_MAX);
    Returned {
        message_id: bare("message-id"),
        feedback_id: first("feedback-id"),
        return_path: bare("return-path").filter(|path| path.contains('@')),
        envelope_id: None,
        list_unsubscribe: first("list-unsubscribe"),
        to,
        extension: extension.map(|(name, value)| (name.into(), value.into())).collect(),
    }
}

/// Parts a text before the returned message: what the program says, and what is below.
pub(super) fn cut(text: &str) -> (Vec<&str>, Option<String>) {
    let lines: Vec<&str> = text.lines().take(LINES_MAX).collect();
    let mut is_named = false;
    let place = lines.iter().enumerate().position(|(place, line)| {
        let lower = line.trim().to_lowercase();
        // A sentence that announces the message may stand before the addresses; one that they precede may not.
        is_named = is_named || line.contains('@');
        if lower.len() <= 160 && phrases::has(&lower, phrases::RETURNED) {
            // "Please do not resend your original message." announces none.
            let asks = lower.starts_with("please") || lower.contains("not resend");
            let is_rule = lower.starts_with(['-', '*', '=', '|', '_']) || lower.ends_with([':', '-', '.', '*']);
            return is_rule && !asks && (is_named || follows_header(&lines, place + 1));
        }
        begins_header(&lower) && is_header(&lines, place)
    });
    match place {
        Some(place) => {
            let rest = lines.get(place..).unwrap_or_default().join("\n");
            (lines.get(..place).unwrap_or_default().to_vec(), Some(rest))
        }
        None => (lines, None),
    }
}

fn begins_header(lower: &str) -> bool {
    phrases::begins(
        lower,
        &[
            "received:",
            "return-path:",
            ">received:",
            ">return-path:",
            "> received:",
            "> return-path:",
            "x-originating-ip:",
            "delivered-to:",
            "dkim-signature:",
            "message-id:",
            "date:",
            "x-mailer:",
        ],
    )
}

fn follows_header(lines: &[&str], place: usize) -> bool {
    let next = lines.iter().enumerate().skip(place).take(6).find(|(_, line)| !line.trim().is_empty());
    next.is_some_and(|(place, _)| is_header(lines, place))
}

fn is_header(lines: &[&str], place: usize) -> bool {
    let mut fields = 0;
    for line in lines.iter().skip(place).take(24) {
        let line = unquoted(line);
        let is_field = line.split_once(':').is_some_and(|(name, _)| {
            !name.is_empty() && name.len() < 40 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        });
        match () {
            () if is_field => fields += 1,
            () if line.starts_with([' ', '\t']) && fields > 0 => {}
            () => break,
        }
    }
    fields >= FIELDS_MIN
}

/// A line without its mark of a quotation.
fn unquoted(line: &str) -> &str {
    match line.strip_prefix('>') {
        Some(rest) => rest.strip_prefix(' ').unwrap_or(rest),
        None => line,
    }
}

/// The header in what is below: it may be indented, quoted, or stand behind a sentence.
fn header_within(rest: &str) -> Fields {
    let lines: Vec<&str> = rest.lines().take(400).collect();
    for place in 0..lines.len().min(40) {
        if is_header(&lines, place) {
            let text = lines.get(place..).unwrap_or_default().join("\n");
            let text = text.lines().map(unquoted).collect::<Vec<_>>().join(
                "
",
            );
            return field::header(text.as_bytes()).0;
        }
    }
    // Indented as a whole.
    let text: String = lines.iter().map(|line| line.trim_start()).collect::<Vec<_>>().join("\n");
    let place = text.lines().position(|line| {
        phrases::begins(&line.to_ascii_lowercase(), &["from:", "to:", "received:", "message-id:", "subject:"])
    });
    match place {
        Some(place) => field::header(text.lines().skip(place).collect::<Vec<_>>().join("\n").as_bytes()).0,
        None => Fields::default(),
    }
}
