//! The command line of `sendmail`, as Postfix reads it. Pure: words in, a plan out.

use super::super::{Fatal, Flag, UNAVAILABLE, USAGE};
use super::addresses::addresses;

/// The options of Postfix's sendmail(1), for getopt.
const KNOWN: &str = "A:B:C:F:GIL:N:O:R:UV:X:b:ce:f:h:imno:p:r:q:tvx";

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Mode {
    /// Take a message from standard input.
    #[default]
    Enqueue,
    /// `-bs`.
    Stdio,
    /// `-bp`.
    List,
    /// `-q`.
    Flush,
    /// `-qIid`.
    FlushId,
    /// `-qRsite`.
    FlushSite,
    /// `-bi`, `-I`.
    Aliases,
    /// `-bd`, `-bl`: the daemon is started by the system.
    Daemon,
    /// Nothing, successfully: `-bh`, `-bH`, `-q30m`.
    Nothing,
}

/// A command line that was understood.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Plan {
    pub mode: Mode,
    /// `-t`.
    pub from_headers: bool,
    /// `-i`: a line with a lone dot is no end.
    pub ignore_dots: bool,
    /// `-f`, an address or empty for the null sender. Absent: the user.
    pub sender: Option<String>,
    /// `-F`.
    pub full_name: Option<String>,
    /// `-N`, as the letter has it.
    pub notify: String,
    /// `-R`.
    pub ret: String,
    /// `-V`.
    pub envid: String,
    /// `-v`.
    pub report: bool,
    /// `-C`.
    pub config: Option<String>,
    /// What `-qI` and `-qR` name.
    pub target: String,
    pub recipients: Vec<String>,
    /// What is wrong and stops nothing.
    pub warnings: Vec<String>,
}

/// Understands a command line.
///
/// # Errors
/// It cannot be: 64.
pub(super) fn plan(words: &[String]) -> Result<Plan, Fatal> {
    let mut plan = Plan::default();
    let mut left = words;
    // A bare -q stands for itself; getopt would take the next word for its value.
    while let Some((word, rest)) = left.split_first() {
        if word == "-q" {
            plan.mode = Mode::Flush;
            left = rest;
            continue;
        }
        if word == "--" {
            left = rest;
            break;
        }
        if !word.starts_with('-') || word.len() < 2 {
            break;
        }
        let (letter_words, value_words) = cluster(left)?;
        for flag in &letter_words {
            take(&mut plan, flag)?;
        }
        left = value_words;
    }
    finish(&mut plan, left)?;
    Ok(plan)
}

/// The options of the first word, with the value that the next word may be.
fn cluster(words: &[String]) -> Result<(Vec<Flag>, &[String]), Fatal> {
    let bad = |letter| {
        eprintln!("sendmail: invalid option -- '{letter}'");
        Fatal::new(USAGE, "usage: sendmail [options]")
    };
    // One word; and the next, only if its last option wants a value.
    for count in [1, 2] {
        let (some, rest) = words.split_at_checked(count).unwrap_or((words, &[]));
        match super::super::flags(some, KNOWN) {
            Ok((found, [])) => return Ok((found, rest)),
            Ok(_) | Err(_) if count == 1 && words.len() > 1 => {}
            Ok((found, _)) => return Ok((found, rest)),
            Err(letter) => return Err(bad(letter)),
        }
    }
    Err(bad('-'))
}

fn take(plan: &mut Plan, flag: &Flag) -> Result<(), Fatal> {
    let value = flag.value.as_str();
    match flag.letter {
        'B' => match value.to_ascii_uppercase().as_str() {
            "8BITMIME" | "7BIT" => {}
            _ => return Err(Fatal::new(USAGE, "-B option needs 8BITMIME or 7BIT")),
        },
        'C' => plan.config = Some(value.to_owned()),
        'F' => plan.full_name = Some(value.to_owned()),
        'I' => plan.mode = Mode::Aliases,
        'N' => match notify(value) {
            Some(notify) => plan.notify = notify,
            None => plan.warnings.push("bad -N option value -- ignored".to_owned()),
        },
        'R' => match value.to_ascii_lowercase().as_str() {
            "full" => plan.ret = "F".to_owned(),
            "hdrs" => plan.ret = "H".to_owned(),
            _ => plan.warnings.push("bad -R option value -- ignored".to_owned()),
        },
        'V' => match value.len() <= 100 && !value.is_empty() && value.bytes().all(|b| (0x20..0x7f).contains(&b)) {
            true => plan.envid = xtext(value),
            false => plan.warnings.push("-V option value is too long or not printable -- ignored".to_owned()),
        },
        'X' if value.starts_with('V') => {
            let text = "-XV: VERP is not done here; sending_domain.bounce_domain gives each recipient a return path of its own";
            return Err(Fatal::new(UNAVAILABLE, text));
        }
        'X' => return Err(Fatal::new(USAGE, format!("unsupported: -X{value}"))),
        'b' => plan.mode = mode(value)?,
        'f' | 'r' => plan.sender = Some(sender(plan, value)),
        'i' => plan.ignore_dots = true,
        'n' => return Err(Fatal::new(USAGE, "-n option not supported")),
        'o' => match value {
            "i" => plan.ignore_dots = true,
            "A" | "7" | "8" | "m" => {}
            // -odX, -oeX and all that Sendmail has besides mean nothing here.
            _ => {}
        },
        'q' => queue(plan, value)?,
        't' => plan.from_headers = true,
        'v' => plan.report = true,
        // -A -G -L -O -U -c -e -h -m -p -x are taken for Sendmail's sake.
        _ => {}
    }
    Ok(())
}

fn mode(value: &str) -> Result<Mode, Fatal> {
    match value {
        "m" => Ok(Mode::Enqueue),
        "s" => Ok(Mode::Stdio),
        "p" => Ok(Mode::List),
        "i" => Ok(Mode::Aliases),
        "d" | "l" => Ok(Mode::Daemon),
        "h" | "H" => Ok(Mode::Nothing),
        "v" => Err(Fatal::new(
            UNAVAILABLE,
            "-bv: recipients are not probed here; `postrider check --network` looks at the way out",
        )),
        other => Err(Fatal::new(USAGE, format!("unsupported: -b{other}"))),
    }
}

fn queue(plan: &mut Plan, value: &str) -> Result<(), Fatal> {
    let (mode, target) = match value.split_at_checked(1) {
        Some((first, _)) if first.as_bytes()[0].is_ascii_digit() => (Mode::Nothing, ""),
        Some(("I", id)) => (Mode::FlushId, id),
        Some(("R", site)) => (Mode::FlushSite, site),
        Some((first, _)) => return Err(Fatal::new(USAGE, format!("-q{first} is not implemented"))),
        None => (Mode::Flush, ""),
    };
    // An interval is for a daemon.
    if mode != Mode::Nothing || plan.mode == Mode::Enqueue {
        plan.mode = mode;
    }
    plan.target = target.to_owned();
    Ok(())
}

/// The first address; more than one is told.
fn sender(plan: &mut Plan, value: &str) -> String {
    let found = addresses(value);
    if found.len() > 1 {
        plan.warnings.push(format!("-f option specified malformed sender: {value}"));
    }
    found.into_iter().next().unwrap_or_default()
}

/// RFC 3461 §4.1, as the letter has it.
fn notify(value: &str) -> Option<String> {
    let mut letters = String::new();
    for word in value.split(',') {
        let letter = match word.trim().to_ascii_lowercase().as_str() {
            "never" => 'N',
            "success" => 'S',
            "failure" => 'F',
            "delay" => 'D',
            _ => return None,
        };
        if !letters.contains(letter) {
            letters.push(letter);
        }
    }
    let mixed = letters.len() > 1 && letters.contains('N');
    if mixed { None } else { Some(letters) }
}

/// RFC 3461 §4.
pub(super) fn xtext(value: &str) -> String {
    let mut out = String::new();
    for byte in value.bytes() {
        match byte {
            b'+' | b'=' | 0..=0x20 | 0x7f.. => out.push_str(&format!("+{byte:02X}")),
            byte => out.push(char::from(byte)),
        }
    }
    out
}

fn finish(plan: &mut Plan, words: &[String]) -> Result<(), Fatal> {
    let wrong = |text: &str| Err(Fatal::new(USAGE, text));
    match plan.mode {
        Mode::Stdio if plan.from_headers => return wrong("-t option cannot be used with -bs"),
        Mode::List if plan.from_headers => return wrong("-t option cannot be used with -bp"),
        Mode::List if !words.is_empty() => return wrong("display queue mode requires no recipient"),
        Mode::Aliases if !words.is_empty() => return wrong("alias initialization mode requires no recipient"),
        Mode::Flush | Mode::FlushId | Mode::FlushSite if !words.is_empty() => {
            return wrong("flush queue mode requires no recipient");
        }
        Mode::Stdio if !words.is_empty() => return wrong("stand-alone mode requires no recipient"),
        Mode::Enqueue => {
            for word in words {
                let found = addresses(word);
                // A word without an address is the empty recipient.
                let none = found.is_empty().then(String::new);
                plan.recipients.extend(found.into_iter().chain(none));
            }
        }
        Mode::Stdio | Mode::List | Mode::Aliases | Mode::Flush | Mode::FlushId | Mode::FlushSite => {}
        Mode::Daemon | Mode::Nothing => {}
    }
    if plan.report && plan.notify.is_empty() {
        plan.notify = "SFD".to_owned();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Plan, String> {
        let words: Vec<String> = line.split(' ').filter(|word| !word.is_empty()).map(|w| w.replace("''", "")).collect();
        plan(&words).map_err(|fatal| format!("{} {}", fatal.code, fatal.text))
    }

    /// The callers of reference: Debian's cron, cronie, PHP, PHPMailer, nodemailer, git, mailx, Perl's and Ruby's modules.
    #[test]
    fn what_programs_say_is_understood() {
        let rows = [
            ("-i -FCronDaemon -B8BITMIME -oem root", "i F=CronDaemon to=root"),
            ("-FCronDaemon -i -odi -oem -oi -t -f root", "t i F=CronDaemon f=root"),
            ("-FCronDaemon -odi -oem -oi -t", "t i F=CronDaemon"),
            ("-t -i", "t i"),
            ("-t -i -fbounce@a.example", "t i f=bounce@a.example"),
            ("-fs@a.example -i -t", "t i f=s@a.example"),
            ("-i -f s@a.example r@b.example q@b.example", "i f=s@a.example to=r@b.example,q@b.example"),
            ("-i -f s@a.example -- -r@b.example", "i f=s@a.example to=-r@b.example"),
            ("-oi -f s@a.example r@b.example", "i f=s@a.example to=r@b.example"),
            ("-t -oi -oem", "t i"),
            ("-f '' root", "f= to=root"),
            ("-f <> root", "f= to=root"),
            ("-ti", "t i"),
            ("-it -f a@x.example", "t i f=a@x.example"),
            ("root -t", "to=root,-t"),
            ("-r a@x.example root", "f=a@x.example to=root"),
            ("-N never root", "N=N to=root"),
            ("-N failure,delay root", "N=FD to=root"),
            ("-v root", "N=SFD to=root"),
            ("-V id+1 -R hdrs root", "V=id+2B1 R=H to=root"),
            ("-bm -- a@x.example,b@x.example", "to=a@x.example,b@x.example"),
            ("-G -U -m -x -h 3 -e m -A c -L tag -p ESMTP -O smtputf8=yes root", "to=root"),
            ("-bs -i", "i Stdio"),
            ("-bs", "Stdio"),
            ("-bp", "List"),
            ("-q", "Flush"),
            ("-q30m", "Nothing"),
            ("-bd -q30m", "Daemon"),
            ("-qIABC", "FlushId q=ABC"),
            ("-qRx.example", "FlushSite q=x.example"),
            ("-bi", "Aliases"),
            ("-I", "Aliases"),
            ("-bh", "Nothing"),
        ];
        for (line, wanted) in rows {
            let plan = read(line).unwrap_or_else(|error| panic!("{line}: {error}"));
            let mut shown = Vec::new();
            shown.extend(plan.from_headers.then(|| "t".to_owned()));
            shown.extend(plan.ignore_dots.then(|| "i".to_owned()));
            shown.extend(plan.full_name.map(|name| format!("F={name}")));
            shown.extend(plan.sender.map(|sender| format!("f={sender}")));
            for (name, value) in [("N", plan.notify), ("V", plan.envid), ("R", plan.ret)] {
                shown.extend(Some(format!("{name}={value}")).filter(|_| !value.is_empty()));
            }
            shown.extend(Some(format!("{:?}", plan.mode)).filter(|_| plan.mode != Mode::Enqueue));
            shown.extend(Some(format!("q={}", plan.target)).filter(|_| !plan.target.is_empty()));
            shown.extend(Some(format!("to={}", plan.recipients.join(","))).filter(|_| !plan.recipients.is_empty()));
            assert_eq!(shown.join(" "), wanted, "{line}");
            assert_eq!(plan.warnings, Vec::<String>::new(), "{line}");
        }
    }

    #[test]
    fn what_postfix_refuses_is_refused_in_its_words() {
        let rows = [
            ("-Z root", "64 usage: sendmail [options]"),
            ("-n root", "64 -n option not supported"),
            ("-bx", "64 unsupported: -bx"),
            ("-B8bit root", "64 -B option needs 8BITMIME or 7BIT"),
            ("-t -bs", "64 -t option cannot be used with -bs"),
            ("-Xq root", "64 unsupported: -Xq"),
            ("-bp root", "64 display queue mode requires no recipient"),
            ("-qS1", "64 -qS is not implemented"),
            ("-f", "64 usage: sendmail [options]"),
            ("-bv root", "69 -bv: recipients are not probed here; `postrider check --network` looks at the way out"),
        ];
        for (line, wanted) in rows {
            assert_eq!(read(line).unwrap_err(), wanted, "{line}");
        }
        assert!(read("-XV root").unwrap_err().starts_with("69 -XV: VERP"));
    }

    #[test]
    fn what_means_nothing_is_warned_of() {
        let rows = [
            ("-N bad root", "bad -N option value -- ignored"),
            ("-N never,failure root", "bad -N option value -- ignored"),
            ("-R all root", "bad -R option value -- ignored"),
            ("-f a,b root", "-f option specified malformed sender: a,b"),
        ];
        for (line, wanted) in rows {
            assert_eq!(read(line).unwrap().warnings, [wanted], "{line}");
        }
        assert_eq!(read("-f a,b root").unwrap().sender.as_deref(), Some("a"));
    }
}
