//! What became of each parameter: refused first, with what to do; then approximated, mapped, ignored.

use std::fmt::Write as _;

/// What becomes of a parameter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Action {
    /// The import stops: without it mail would go elsewhere, in clear, changed, or from strangers.
    Refused,
    /// Nearly the same.
    Approximated,
    /// The same.
    Mapped,
    /// Nothing, and nothing is missed.
    Ignored,
}

impl Action {
    /// All, in the report's order.
    pub const ALL: [Action; 4] = [Action::Refused, Action::Approximated, Action::Mapped, Action::Ignored];

    /// Its word.
    pub fn name(self) -> &'static str {
        match self {
            Action::Refused => "refused",
            Action::Approximated => "approximated",
            Action::Mapped => "mapped",
            Action::Ignored => "ignored",
        }
    }
}

/// One line of the report.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// What becomes of it.
    pub action: Action,
    /// Its name.
    pub parameter: String,
    /// Where it is set: `main.cf:12`, `master.cf:3 (submission)`, or `default`.
    pub place: String,
    /// As it is written; passwords are not shown.
    pub value: String,
    /// To which key, how, or why.
    pub text: String,
    /// What to do about a refusal; empty otherwise.
    pub instead: String,
    /// The line of the import that decided it. Not shown; by it the tests know which refusals they have seen.
    pub decided_at: &'static std::panic::Location<'static>,
}

impl Entry {
    /// Whether it says the same, wherever it was decided.
    pub fn says_as(&self, other: &Entry) -> bool {
        let told = |entry: &Entry| {
            let Entry { action, parameter, place, value, text, instead, decided_at: _ } = entry.clone();
            (action, parameter, place, value, text, instead)
        };
        told(self) == told(other)
    }
}

/// All of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// In the order of actions, then of files and lines.
    pub entries: Vec<Entry>,
}

/// How the text of a refusal begins that the operator takes back.
pub(super) const LEFT_OUT: &str = "left out, as --allow says";
/// Names that differ in more letters are not near.
const LETTERS_MAX: usize = 3;

/// Widest value that is shown.
const VALUE_CHARS_MAX: usize = 60;

impl Report {
    /// Whether something was refused.
    pub fn is_refused(&self) -> bool {
        self.entries.iter().any(|entry| entry.action == Action::Refused)
    }

    /// Why a name of `--allow` is none: `None` if a refusal of this name was taken back.
    pub fn not_allowed(&self, name: &str) -> Option<String> {
        let is_left_out = |entry: &&Entry| entry.action == Action::Approximated && entry.text.starts_with(LEFT_OUT);
        let refused = |entry: &&Entry| entry.action == Action::Refused || is_left_out(entry);
        if self.entries.iter().filter(is_left_out).any(|entry| entry.parameter == name) {
            return None;
        }
        let near = self
            .entries
            .iter()
            .filter(refused)
            .map(|entry| (strsim::levenshtein(&entry.parameter, name), &entry.parameter));
        let near = near.filter(|(letters, _)| *letters <= LETTERS_MAX).min();
        Some(match (near, self.entries.iter().find(|entry| entry.parameter == name)) {
            (Some((_, near)), None) => format!("{near} is refused, and this name is not"),
            (_, Some(entry)) => format!("it is not refused, but {}", entry.action.name()),
            (None, None) => "it is not refused, and not set".to_owned(),
        })
    }

    /// How many there are of an action.
    pub fn count(&self, action: Action) -> usize {
        self.entries.iter().filter(|entry| entry.action == action).count()
    }

    /// For eyes: grouped, aligned, counted. `heading` paints a group's title.
    pub fn text(&self, heading: &dyn Fn(Action, &str) -> String) -> String {
        let mut out = String::new();
        let width = self.entries.iter().map(|entry| entry.parameter.chars().count()).max().unwrap_or(0).min(40);
        for action in Action::ALL {
            let entries: Vec<&Entry> = self.entries.iter().filter(|entry| entry.action == action).collect();
            if entries.is_empty() {
                continue;
            }
            let title = heading(action, &format!("{} ({})", action.name(), entries.len()));
            let _ = writeln!(out, "{}{title}", if out.is_empty() { "" } else { "\n" });
            for entry in entries {
                let value = shortened(&entry.value);
                let _ = writeln!(out, "  {:width$}  {:<22}  {value}", entry.parameter, entry.place);
                let _ = writeln!(out, "  {:width$}  {}", "", entry.text);
                if !entry.instead.is_empty() {
                    let _ = writeln!(out, "  {:width$}  do: {}", "", entry.instead);
                }
            }
        }
        out
    }
}

fn shortened(value: &str) -> String {
    let value: String = value.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if value.is_empty() {
        return "(empty)".to_owned();
    }
    match value.chars().count() > VALUE_CHARS_MAX {
        true => value.chars().take(VALUE_CHARS_MAX).chain(['…']).collect(),
        false => value,
    }
}
