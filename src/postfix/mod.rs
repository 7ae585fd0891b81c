//! A Postfix config, read and turned into ours: what each parameter means, what becomes of it, and what cannot be taken over.
//!
//! Called by `cli::import`, which reads the files and writes what comes out. Nothing here touches a disk: a file that the
//! config names comes through [`Input::read`]. The rule is that an import which succeeds lets nobody relay who could not,
//! and sends no mail elsewhere, in clear or with other content than Postfix did; what would is refused, with what to do.
//!
//! The way of a config: [`syntax`] → [`facts`] (with [`expand`], over the defaults of Postfix 3.7) → [`map`] → [`model`], and
//! beside it the [`report`], for which [`meaning`] has a row of every parameter.

mod dkim;
mod expand;
mod facts;
mod inbound;
mod map;
pub mod meaning;
mod model;
mod outbound;
mod report;
mod restrict;
pub mod syntax;
mod table;

pub use facts::expanded;
pub use model::{Listener, Mode, Route, Target, Tls, Value, Way};
pub use report::{Action, Entry, Report};

/// What is read: the two files, and what only the machine knows.
pub struct Input<'a> {
    /// main.cf.
    pub main: &'a str,
    /// master.cf.
    pub master: &'a str,
    /// Their directory.
    pub directory: &'a str,
    /// The machine's name, for a config that does not say it.
    pub hostname: &'a str,
    /// The text of a file that the config names; the error says why there is none.
    pub read: &'a dyn Fn(&str) -> Result<String, String>,
    /// argon2id of a password.
    pub hash: &'a dyn Fn(&str) -> Result<String, String>,
    /// Users that log in here, as `name:password` or `name:{ARGON2ID}hash` lines.
    pub users: Option<&'a str>,
    /// Where mail for local names without an alias goes.
    pub local_to: Option<&'a str>,
    /// opendkim.conf, if there is one: its path and text.
    pub opendkim: Option<(&'a str, &'a str)>,
    /// Parameters whose refusal the operator takes back.
    pub allowed: &'a [String],
}

/// What comes out.
pub struct Import {
    /// Our config.
    pub target: Target,
    /// Files beside it.
    pub files: Vec<NewFile>,
    /// What became of each parameter.
    pub report: Report,
}

/// A file beside the config.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewFile {
    /// Relative to the config.
    pub path: String,
    /// What it says.
    pub text: String,
    /// Whether only its owner may read it.
    pub is_secret: bool,
}

/// What is wrong in a file.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct Flaw {
    /// From 1.
    pub line: usize,
    /// What is wrong, and what would be right.
    pub what: String,
}

impl Flaw {
    fn new(line: usize, what: impl Into<String>) -> Flaw {
        Flaw { line, what: what.into() }
    }
}

/// Reads a config, and says what becomes of it.
///
/// # Errors
/// A file that cannot be understood, with its name.
pub fn import(input: &Input<'_>) -> Result<Import, (&'static str, Flaw)> {
    let main = syntax::main_cf(input.main).map_err(|flaw| ("main.cf", flaw))?;
    let services = syntax::master_cf(input.master).map_err(|flaw| ("master.cf", flaw))?;
    let facts = facts::Facts::new(main, services, input).map_err(|flaw| ("main.cf", flaw))?;
    Ok(map::map(&facts, input))
}
