//! The commands under Postfix's names: for programs, scripts and fingers that know those.
//!
//! One binary is all of them: it is `sendmail` when its name is, or as `postrider sendmail …`. Options, output and exit codes are
//! Postfix's (sendmail(1), postqueue(1), postsuper(1)), which scripts parse; docs/SENDMAIL.md says where they differ.

mod aliases;
mod listing;
mod postcat;
mod postconf;
mod postqueue;
mod postsuper;
mod qshape;
mod sendmail;
mod service;

use std::ffi::OsString;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::config::{self, Config};

/// EX_USAGE.
const USAGE: u8 = 64;
/// EX_DATAERR.
const DATA: u8 = 65;
/// EX_UNAVAILABLE.
const UNAVAILABLE: u8 = 69;
/// EX_OSERR.
const SYSTEM: u8 = 71;
/// EX_TEMPFAIL.
const TEMPORARY: u8 = 75;
/// EX_NOPERM.
const FORBIDDEN: u8 = 77;

/// A command's own `main`.
type Applet = fn(&Call) -> Result<ExitCode, Fatal>;

const APPLETS: [(&str, Applet); 11] = [
    ("mailq", postqueue::mailq),
    ("newaliases", aliases::newaliases),
    ("postalias", aliases::postmap),
    ("postcat", postcat::run),
    ("postconf", postconf::run),
    ("postfix", service::run),
    ("postmap", aliases::postmap),
    ("postqueue", postqueue::run),
    ("postsuper", postsuper::run),
    ("qshape", qshape::run),
    ("sendmail", sendmail::run),
];

/// How a command was called.
struct Call {
    /// By which name.
    name: &'static str,
    /// What follows it.
    words: Vec<String>,
}

/// Why a command ends at once: `NAME: fatal: TEXT`, and this code.
#[derive(Debug)]
struct Fatal {
    code: u8,
    text: String,
}

impl Fatal {
    fn new(code: u8, text: impl Into<String>) -> Fatal {
        Fatal { code, text: text.into() }
    }
}

/// Runs the command that this process was started as, if it was one of these.
pub fn run(words: &[OsString]) -> Option<ExitCode> {
    let mut words = words.iter();
    let started_as = Path::new(words.next()?).file_name().map(|name| name.to_string_lossy().into_owned());
    let rest: Vec<String> = words.map(|word| word.to_string_lossy().into_owned()).collect();
    let of = |wanted: &str| APPLETS.iter().find(|(name, _)| *name == wanted);
    let (applet, words) = match (started_as.as_deref().and_then(of), rest.split_first()) {
        (Some(applet), _) => (applet, rest.clone()),
        (None, Some((first, rest))) => (of(first)?, rest.to_vec()),
        (None, None) => return None,
    };
    let (name, applet) = *applet;
    Some(applet(&Call { name, words }).unwrap_or_else(|fatal| {
        eprintln!("{name}: fatal: {}", fatal.text);
        ExitCode::from(fatal.code)
    }))
}

impl Call {
    /// Says something that stops nothing.
    fn warn(&self, text: impl Display) {
        eprintln!("{}: warning: {text}", self.name);
    }
}

/// One option, as getopt(3) reads it with `+`: options stand before all other words.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Flag {
    letter: char,
    value: String,
}

/// Takes options apart. In `known`, a letter with a colon wants a value.
///
/// # Errors
/// The letter that is none, or lacks its value.
fn flags<'a>(words: &'a [String], known: &str) -> Result<(Vec<Flag>, &'a [String]), char> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(word) = words.get(at).filter(|word| word.len() > 1 && word.starts_with('-')) {
        at += 1;
        if word == "--" {
            break;
        }
        for (place, letter) in word.char_indices().skip(1) {
            let rest = word.get(place + letter.len_utf8()..).unwrap_or_default();
            match known.find(letter).map(|place| known.get(place + letter.len_utf8()..).unwrap_or_default()) {
                Some(behind) if letter != ':' && behind.starts_with(':') => {
                    let value = match rest {
                        "" => {
                            at += 1;
                            words.get(at - 1).ok_or(letter)?.clone()
                        }
                        rest => rest.to_owned(),
                    };
                    found.push(Flag { letter, value });
                    break;
                }
                Some(_) if letter != ':' => found.push(Flag { letter, value: String::new() }),
                _ => return Err(letter),
            }
        }
    }
    Ok((found, words.get(at..).unwrap_or_default()))
}

/// Where the daemon and its config are.
#[derive(Clone, Debug)]
struct Place {
    /// The config file.
    config_file: PathBuf,
    data_dir: PathBuf,
    /// The config, if this user may read it.
    config: Option<Config>,
}

impl Place {
    /// By `-c DIR`, `$MAIL_CONFIG`, or where it always is. A user who may not read the config uses the default directory.
    fn find(directory: Option<&str>) -> Place {
        let directory = directory.map(PathBuf::from).or_else(|| std::env::var_os("MAIL_CONFIG").map(PathBuf::from));
        let config_file = match &directory {
            // Postfix's own directory, which scripts of Debian's name, has ours beside it.
            Some(directory) if directory.join("postrider.toml").exists() => directory.join("postrider.toml"),
            _ => PathBuf::from(config::PATH),
        };
        let text = std::fs::read_to_string(&config_file).ok();
        let config = text.and_then(|text| Config::parse(&text, &config_file).ok());
        let data_dir =
            config.as_ref().map_or_else(|| PathBuf::from(config::DATA_DIR), |config| config.data_dir.clone());
        Place { config_file, data_dir, config }
    }

    fn public(&self) -> PathBuf {
        self.data_dir.join(crate::showq::NAME)
    }

    fn daemon(&self) -> crate::cli::client::Daemon<'_> {
        crate::cli::client::Daemon { data_dir: &self.data_dir, config: &self.config_file }
    }
}

/// Whether the operator of this machine runs it.
fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str, known: &str) -> Result<(String, Vec<String>), char> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let (found, rest) = flags(&words, known)?;
        let shown: Vec<String> = found.iter().map(|flag| format!("{}={}", flag.letter, flag.value)).collect();
        Ok((shown.join(" "), rest.to_vec()))
    }

    #[test]
    fn options_are_read_as_getopt_reads_them() {
        let rows = [
            ("-ti a", "t= i=", "a"),
            ("-f a -t b", "f=a t=", "b"),
            ("-fa -oi -- -t", "f=a o=i", "-t"),
            ("-tfa b", "t= f=a", "b"),
            ("a -t", "", "a -t"),
            ("- -t", "", "- -t"),
        ];
        for (line, found, rest) in rows {
            let (shown, left) = read(line, "tif:o:").unwrap();
            assert_eq!((shown.as_str(), left.join(" ").as_str()), (found, rest), "{line}");
        }
        assert_eq!(read("-x", "t").unwrap_err(), 'x');
        assert_eq!(read("-:", "f:").unwrap_err(), ':');
        assert_eq!(read("-t -f", "tf:").unwrap_err(), 'f');
    }
}
