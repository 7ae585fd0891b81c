//! "Try again in N minutes": the wait that a peer asks for, in several wordings and languages.
//!
//! Called for replies that defer. It obeys between 30 seconds and 4 hours: less would hammer, more is no retry and would
//! let a stranger hold mail for as long as he likes.

use std::sync::LazyLock;
use std::time::Duration;

use regex::Regex;

/// The shortest wait that is obeyed; a shorter one becomes this.
pub const SHORTEST: Duration = Duration::from_secs(30);
/// The longest wait that is obeyed; a longer one becomes this.
pub const LONGEST: Duration = Duration::from_secs(4 * 3600);

/// Words that ask to come again, before the number: English, German, French, Spanish, Italian, Portuguese, Dutch, Polish,
/// Russian, Chinese, Japanese. Accents are gone by now.
const ASKS: &str = "again|retry|retries|retried|retrying|wait|come back|reconnect|resend|try in|try after|delayed (?:for|by)\
    |deferred for|greylist(?:ed|ing)?(?: in action)?|graylist(?:ed|ing)?|blocked for|locked for|suspended for\
    |erneut|nochmals?|wieder|warten sie|versuchen sie es in|fruhestens\
    |reessay(?:er|ez)|ressay(?:er|ez)|essay(?:er|ez)|attend(?:re|ez)|patient(?:er|ez)\
    |reintent[a-z]*|intente(?:lo)?|espere|vuelva|riprov[a-z]*|attend(?:ere|i)|tente|aguarde|opnieuw|wacht\
    |sprobuj|ponownie|повтор[а-я]*|попробуйте|подождите|через|请在|稍后|重试|再试|等待|再送|再試行";
const UNITS: &str = "milliseconds?|seconds?|secs?|s|sekunden?|secondes?|segundos?|secondi|seconden|sekund[a-z]*|секунд[а-я]*|сек|秒\
    |minutes?|mins?|m|minuten?|minutos?|minuti|minuut|minut[a-z]*|минут[а-я]*|мин|分钟|分鐘|分\
    |hours?|hrs?|h|stunden?|heures?|horas?|or[ae]|uur|uren|godzin[a-z]*|час[а-я]*|小时|小時|时间|時間\
    |days?|d|tage?n?|jours?|dias?|giorn[io]|dagen?|dni|дн[а-я]*|天|日";
const NUMBERS: &str =
    "[0-9]{1,7}|an?|one|two|three|five|ten|fifteen|thirty|sixty|einer?|une?|un[ao]?|zwei|deux|dos|cinq|funf|zehn|dix";

/// "again in 5 minutes", "again (at most) in 00:05:00".
static BEFORE: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(&format!(
        "(?:^|[^a-z])(?:{ASKS})(?:[^0-9.;!]{{0,40}}[^0-9a-z.;!])??[^0-9a-z.;!]?(?:([0-9]{{1,2}}):([0-9]{{2}}):([0-9]{{2}})|({NUMBERS})[ -]?\\(?({UNITS})(?:$|[^a-zа-я]))"
    ))
    .ok()
});
/// "wait 5 minutes" is above; here "5 minutes later", "5 minutes before retrying", "300秒后".
static BEHIND: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(&format!(
        "(?:^|[^0-9a-z:])({NUMBERS})[ -]?({UNITS})(?: ?(?:之后|以后|后|後)| (?:later|before|from now|and (?:try|retry)|until|erneut|plus tard|spater|mas tarde|piu tardi|to (?:try|retry)|delay|retry))"
    ))
    .ok()
});

/// The wait that a text asks for, within what is obeyed.
pub(super) fn asked(text: &str) -> Option<Duration> {
    let wait = before(text).or_else(|| behind(text))?;
    Some(wait.clamp(SHORTEST, LONGEST))
}

fn before(text: &str) -> Option<Duration> {
    let found = BEFORE.as_ref()?.captures(text)?;
    let group = |index| found.get(index).map(|group| group.as_str());
    if let (Some(hours), Some(minutes), Some(seconds)) = (group(1), group(2), group(3)) {
        let number = |digits: &str| digits.parse::<u64>().ok();
        return Some(Duration::from_secs(number(hours)? * 3600 + number(minutes)? * 60 + number(seconds)?));
    }
    wait(group(4)?, group(5)?)
}

fn behind(text: &str) -> Option<Duration> {
    let found = BEHIND.as_ref()?.captures(text)?;
    wait(found.get(1)?.as_str(), found.get(2)?.as_str())
}

fn wait(number: &str, unit: &str) -> Option<Duration> {
    let count = match number {
        "two" | "zwei" | "deux" | "dos" => 2,
        "three" => 3,
        "five" | "cinq" | "funf" => 5,
        "ten" | "zehn" | "dix" => 10,
        "fifteen" => 15,
        "thirty" => 30,
        "sixty" => 60,
        digits if digits.starts_with(|c: char| c.is_ascii_digit()) => digits.parse::<u64>().ok()?,
        _ => 1,
    };
    let is = |starts: &[&str]| starts.iter().any(|start| unit.starts_with(start));
    let seconds = if is(&["milli"]) {
        return Some(Duration::from_millis(count));
    } else if is(&["s", "сек", "秒"]) {
        1
    } else if is(&["m", "мин", "分"]) {
        60
    } else if is(&["h", "stund", "or", "uu", "ur", "godz", "час", "小", "时", "時"]) {
        3600
    } else {
        86_400
    };
    Some(Duration::from_secs(count.saturating_mul(seconds)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::Reply;

    #[test]
    fn the_wait_a_peer_asks_for_is_understood_in_many_words() {
        let rows = [
            ("Greylisted, try again in 5 minutes", Some(300)),
            ("Greylisting in effect, please come back in 00:05:00", Some(300)),
            ("please try again after 300 seconds", Some(300)),
            ("Please retry in 90s", Some(90)),
            ("try again in 10min", Some(600)),
            ("Try again in 1 hour.", Some(3600)),
            ("Please wait an hour before retrying", Some(3600)),
            ("Wait 600 seconds, then retry", Some(600)),
            ("Retry after two minutes", Some(120)),
            ("Too many messages. You must wait 15 minutes before sending more", Some(900)),
            ("temporarily deferred, 20 minutes before next attempt", Some(1200)),
            ("graylisted - retry-after: 120 seconds", Some(120)),
            ("Bitte versuchen Sie es in 10 Minuten erneut", Some(600)),
            ("Bitte in 300 Sekunden erneut versuchen", Some(300)),
            ("Veuillez réessayer dans 15 minutes", Some(900)),
            ("Merci de patienter 2 heures", Some(7200)),
            ("Inténtelo de nuevo en 5 minutos", Some(300)),
            ("Riprova tra 10 minuti", Some(600)),
            ("Повторите через 5 минут", Some(300)),
            ("请在300秒后重试", Some(300)),
            ("请稍后 10分钟后重试", Some(600)),
            ("try again in 2 seconds", Some(30)),
            ("try again in 500 milliseconds", Some(30)),
            ("try again in 30 days", Some(4 * 3600)),
            ("try again in 9999999 hours", Some(4 * 3600)),
            ("try again later", None),
            ("try again in a few minutes", None),
            ("try again later. Limit is 100 messages per 60 seconds", None),
            ("too many connections from 192.0.2.1", None),
            ("message 300 seconds old", None),
            ("", None),
        ];
        for (text, seconds) in rows {
            let said = super::super::said::Said::of(&Reply::new(450, text));
            assert_eq!(asked(&said.text).map(|wait| wait.as_secs()), seconds, "{text}");
        }
    }
}
