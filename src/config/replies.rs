//! The operator's own rules about replies: is the file there, and does it say what rules can say?
//!
//! Called by [`super::Config::load`], so that a mistake is told with the config's, and by `app` for the rules themselves.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use super::place::{Place, Places};
use super::{Config, Problem};
use crate::classify::{Flaw, Flaws, Rules};

/// Largest file of rules that is read. Ours has a tenth of this.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Our rules with those of a file before them.
///
/// # Errors
/// All that is wrong with the file.
pub fn read_rules(path: &Path) -> Result<Rules, Flaws> {
    let name = path.display().to_string();
    let unreadable = |right: String| {
        Flaws(vec![Flaw { file: name.clone(), line: 1, rule: String::new(), key: String::new(), right }])
    };
    let mut text = String::new();
    let file = File::open(path).map_err(|error| unreadable(format!("the file cannot be read: {error}")))?;
    let mut file = file.take(FILE_BYTES_MAX + 1);
    file.read_to_string(&mut text).map_err(|error| unreadable(format!("the file cannot be read: {error}")))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(unreadable(format!("it is larger than {FILE_BYTES_MAX} bytes, which are no rules")));
    }
    Rules::read(Some((&name, &text)))
}

/// What is wrong with the file that `replies` names.
pub(super) fn problems(config: &Config, file: &Path, places: &Places) -> Vec<Problem> {
    let Some(path) = &config.replies else { return Vec::new() };
    let Err(Flaws(flaws)) = read_rules(path) else { return Vec::new() };
    let problem = |flaw: Flaw| match flaw.rule.is_empty() && flaw.key.is_empty() && flaw.line == 1 {
        true => Problem::at(file, places.of_key("replies"), flaw.right),
        false => {
            let rule = if flaw.rule.is_empty() { String::new() } else { format!("rule \"{}\": ", flaw.rule) };
            let place = Place { line: flaw.line, key: flaw.key, value: String::new() };
            Problem::at(path, place, format!("{rule}{}", flaw.right))
        }
    };
    flaws.into_iter().map(problem).collect()
}
