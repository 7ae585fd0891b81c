//! The words of main.cf and master.cf: logical lines, `name = value`, services with their `-o`, lists with braces.
//!
//! Called by [`super::import`]. It knows no parameter's meaning and reads no file.

use super::Flaw;

/// Largest file that is read. Unit: octets. Configs have some 10 KB; generated tables of networks may have more.
pub const FILE_BYTES_MAX: usize = 4 << 20;
/// Fields of a service in master.cf: name, type, private, unprivileged, chroot, wake-up, process limit, command.
const SERVICE_FIELDS: usize = 8;

/// A parameter that a file sets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Setting {
    /// Its name.
    pub name: String,
    /// Its value, not expanded.
    pub value: String,
    /// The line on which it begins, from 1.
    pub line: usize,
}

/// A service of master.cf.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Service {
    /// For `inet`, a port or `address:port`.
    pub name: String,
    /// `inet`, `unix`, `fifo`, `pass`, `unix-dgram`.
    pub kind: String,
    /// The process limit, `-` for the default.
    pub limit: String,
    /// The program.
    pub command: String,
    /// What `-o` sets.
    pub overrides: Vec<Setting>,
    /// The other arguments.
    pub arguments: Vec<String>,
    /// The line on which it begins, from 1.
    pub line: usize,
}

/// main.cf: what it sets, and overrides of services in the form of `postconf -P`, as (`service/type`, setting).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Main {
    /// Last ones win; each name once, in the order of the file.
    pub settings: Vec<Setting>,
    /// `service/type/parameter = value`.
    pub overrides: Vec<(String, Setting)>,
}

/// Logical lines with the number of the physical line on which each begins. Comments and blank lines do not end a line
/// that goes on after them; what begins with white space goes on.
///
/// # Errors
/// The text is too large, or begins with a continuation.
pub fn logical_lines(text: &str) -> Result<Vec<(usize, String)>, Flaw> {
    if text.len() > FILE_BYTES_MAX {
        return Err(Flaw::new(1, format!("the file is larger than {FILE_BYTES_MAX} octets")));
    }
    let mut lines: Vec<(usize, String)> = Vec::new();
    for (index, line) in text.split('\n').enumerate() {
        let line = line.strip_suffix('\r').unwrap_or(line);
        if line.trim().is_empty() || line.trim_start().starts_with('#') {
            continue;
        }
        match (line.starts_with([' ', '\t']), lines.last_mut()) {
            (true, Some((_, last))) => last.push_str(line),
            (true, None) => {
                return Err(Flaw::new(
                    index + 1,
                    "the first line begins with white space, and nothing comes before it",
                ));
            }
            (false, _) => lines.push((index + 1, line.to_owned())),
        }
    }
    Ok(lines)
}

/// Reads main.cf, or the output of `postconf -n`.
///
/// # Errors
/// The first line that is no `name = value`.
pub fn main_cf(text: &str) -> Result<Main, Flaw> {
    let mut main = Main::default();
    for (line, text) in logical_lines(text)? {
        let setting = setting(&text, line)?;
        if let Some((service, name)) = setting.name.rsplit_once('/') {
            let service = service.to_owned();
            main.overrides.push((service, Setting { name: name.to_owned(), ..setting }));
            continue;
        }
        main.settings.push(setting);
    }
    // The last one wins, at its own place.
    let mut seen = std::collections::HashSet::new();
    let mut kept: Vec<Setting> = Vec::new();
    for setting in main.settings.into_iter().rev() {
        if seen.insert(setting.name.clone()) {
            kept.push(setting);
        }
    }
    kept.reverse();
    main.settings = kept;
    Ok(main)
}

fn setting(text: &str, line: usize) -> Result<Setting, Flaw> {
    let expected = || Flaw::new(line, "a line such as \"name = value\" is expected");
    let (name, value) = text.split_once('=').ok_or_else(expected)?;
    let name = name.trim();
    let sound = !name.is_empty() && !name.contains(char::is_whitespace);
    match sound {
        true => Ok(Setting { name: name.to_owned(), value: value.trim().to_owned(), line }),
        false => Err(expected()),
    }
}

/// Reads master.cf.
///
/// # Errors
/// The first line that is no service.
pub fn master_cf(text: &str) -> Result<Vec<Service>, Flaw> {
    logical_lines(text)?.into_iter().map(|(line, text)| service(&text, line)).collect()
}

fn service(text: &str, line: usize) -> Result<Service, Flaw> {
    let mut words = words(text).into_iter();
    let fields: Vec<String> = words.by_ref().take(SERVICE_FIELDS).collect();
    let [name, kind, _private, _unprivileged, _chroot, _wakeup, limit, command] = fields.as_slice() else {
        let expected = "a service has eight fields: name, type, private, unprivileged, chroot, wake-up, limit, command";
        return Err(Flaw::new(line, expected));
    };
    if !["inet", "unix", "fifo", "pass", "unix-dgram"].contains(&kind.as_str()) {
        return Err(Flaw::new(line, format!("\"{kind}\": inet, unix, fifo, pass or unix-dgram is expected")));
    }
    let (mut overrides, mut arguments) = (Vec::new(), Vec::new());
    while let Some(word) = words.next() {
        let option = match word.strip_prefix("-o") {
            // Only the daemons of Postfix have options; of a pipe's command line they are part.
            Some("") if !is_pipe(command) => {
                words.next().ok_or_else(|| Flaw::new(line, "\"name=value\" is expected after -o"))?
            }
            Some(rest) if !is_pipe(command) => rest.to_owned(),
            Some(_) | None => {
                arguments.push(word);
                continue;
            }
        };
        overrides.push(setting(unbraced(&option), line)?);
    }
    let (name, kind, limit, command) = (name.clone(), kind.clone(), limit.clone(), command.clone());
    Ok(Service { name, kind, limit, command, overrides, arguments, line })
}

fn is_pipe(command: &str) -> bool {
    matches!(command, "pipe" | "spawn")
}

/// Words between white space; what stands in braces is one word.
pub fn words(text: &str) -> Vec<String> {
    split(text, |c| c.is_ascii_whitespace())
}

/// Items between commas and white space; what stands in braces is one item, and keeps them.
pub fn items(text: &str) -> Vec<String> {
    split(text, |c| c.is_ascii_whitespace() || c == ',')
}

fn split(text: &str, separates: impl Fn(char) -> bool) -> Vec<String> {
    let mut found = vec![String::new()];
    let mut depth = 0_usize;
    for c in text.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        match (depth == 0 && separates(c), found.last_mut()) {
            (true, _) => found.push(String::new()),
            (false, Some(last)) => last.push(c),
            (false, None) => {}
        }
    }
    found.retain(|word| !word.is_empty());
    found
}

/// What stands within one pair of braces around all of it.
pub fn unbraced(text: &str) -> &str {
    let text = text.trim();
    text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).map_or(text, str::trim)
}

/// A time with its unit, or `unit` without one, in seconds.
pub fn seconds(text: &str, unit: char) -> Option<u64> {
    let text = text.trim();
    let (number, unit) = match text.strip_suffix(|c: char| c.is_ascii_alphabetic()) {
        Some(number) => (number, text.chars().next_back()?),
        None => (text, unit),
    };
    let per = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        'w' => 604_800,
        _ => return None,
    };
    number.trim().parse::<u64>().ok()?.checked_mul(per)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logical_line_goes_on_over_comments_and_the_last_setting_wins() {
        let text = "# c\na = 1\n  2\n# within\n\n\t3\nb=x = y\r\n  # indented\nc =\na-b.c = 1\nb = z\nsmtp/inet/content_filter = f:x\n";
        let main = main_cf(text).unwrap();
        let shown: Vec<_> = main.settings.iter().map(|s| (s.line, s.name.as_str(), s.value.as_str())).collect();
        assert_eq!(shown, [(2, "a", "1  2\t3"), (9, "c", ""), (10, "a-b.c", "1"), (11, "b", "z")]);
        assert_eq!(main.overrides[0].0, "smtp/inet");
        assert_eq!(main.overrides[0].1.name, "content_filter");
    }

    #[test]
    fn what_is_no_setting_is_told_its_line() {
        for (text, line) in [("a = 1\nb", 2), ("  a = 1", 1), ("= 1", 1), ("a b = 1", 1)] {
            assert_eq!(main_cf(text).unwrap_err().line, line, "{text:?}");
        }
        for (text, line) in [
            ("smtp inet n - y - -", 1),
            ("#\nsmtp tcp n - y - - smtpd", 2),
            ("smtp inet n - y - - smtpd -o", 1),
            ("smtp inet n - y - - smtpd\n  -o x", 1),
        ] {
            assert_eq!(master_cf(text).unwrap_err().line, line, "{text:?}");
        }
    }

    #[test]
    fn services_have_overrides_in_three_forms() {
        let text = "submission inet n - y - - smtpd\n  -o a=b\n# -o c=d\n  -o { e = f, g } -oh=i -v\n\
                    p unix - n n - 5 pipe flags=F user=u argv=/bin/x -o $sender\n";
        let services = master_cf(text).unwrap();
        let all: Vec<_> = services[0].overrides.iter().map(|s| (s.name.as_str(), s.value.as_str())).collect();
        assert_eq!(all, [("a", "b"), ("e", "f, g"), ("h", "i")]);
        assert_eq!(services[0].arguments, ["-v"]);
        assert_eq!((services[1].limit.as_str(), services[1].arguments.len()), ("5", 5));
    }

    #[test]
    fn lists_and_times() {
        assert_eq!(items(" a,b , c{ d, e }f\t{g h} "), ["a", "b", "c{ d, e }f", "{g h}"]);
        assert_eq!(unbraced(" { g h } "), "g h");
        for (text, unit, want) in [
            ("5", 's', Some(5)),
            ("5d", 's', Some(432_000)),
            ("4", 'h', Some(14_400)),
            ("2w", 's', Some(1_209_600)),
            ("", 's', None),
            ("5y", 's', None),
            ("99999999999999999999d", 's', None),
        ] {
            assert_eq!(seconds(text, unit), want, "{text}");
        }
    }
}
