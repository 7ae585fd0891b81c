//! Local names: aliases(5), and what a recipient comes to by virtual aliases and by these.

use std::collections::{HashMap, HashSet};

use crate::mail::Address;

use super::address::{self, DEPTH_MAX, Home};
use super::table::{Flaw, Tables, Trouble, logical_lines};

/// Most addresses that one recipient may stand for.
const EXPANSION_MAX: usize = 10_000;
/// Deepest `:include:` within an included file.
const INCLUDES_MAX: usize = 10;

/// The aliases of a file.
#[derive(Clone, Debug, Default)]
pub struct Aliases(HashMap<Box<str>, Vec<Box<str>>>);

/// Reads the file of an `:include:`.
pub type Include<'a> = &'a mut dyn FnMut(&str) -> Result<String, String>;

impl Aliases {
    /// Reads `name: value, value …`.
    ///
    /// # Errors
    /// All that is wrong, and what cannot be done here: commands and files.
    pub fn read(text: &str, include: Include<'_>) -> Result<Aliases, Vec<Flaw>> {
        let mut names: HashMap<Box<str>, Vec<Box<str>>> = HashMap::new();
        let mut flaws = Vec::new();
        for (line, text) in logical_lines(text) {
            let text = text.replace('\n', " ");
            let parsed = name_and_rest(text.trim()).and_then(|(name, rest)| {
                let mut values = Vec::new();
                members(rest, include, 0, &mut values)?;
                match values.iter().any(|value| value.eq_ignore_ascii_case(&name)) {
                    true => Err(format!("\"{name}\" leads to itself, which wants a mailbox, and there are none here")),
                    false => Ok((name, values)),
                }
            });
            match parsed {
                Ok((name, values)) => {
                    names.entry(name.to_lowercase().into()).or_insert(values);
                }
                Err(right) => flaws.push(Flaw::new(line, right)),
            }
        }
        if flaws.is_empty() { Ok(Aliases(names)) } else { Err(flaws) }
    }

    fn of(&self, home: &Home, local: &str) -> Option<&[Box<str>]> {
        let find = |name: &str| self.0.get(&*name.to_lowercase()).map(Vec::as_slice);
        find(local).or_else(|| find(home.split(local)?.0))
    }
}

fn name_and_rest(text: &str) -> Result<(String, &str), String> {
    let wrong = || "a line such as \"root: ops@example.com\" is expected".to_owned();
    let (name, rest) = match text.strip_prefix('"') {
        Some(quoted) => {
            let (name, rest) = quoted.split_once('"').ok_or_else(wrong)?;
            (name, rest.trim_start().strip_prefix(':').ok_or_else(wrong)?)
        }
        None => text.split_once(':').ok_or_else(wrong)?,
    };
    let name = name.trim();
    match name.is_empty() || rest.trim().is_empty() {
        true => Err(wrong()),
        false => Ok((name.to_owned(), rest)),
    }
}

fn members(text: &str, include: Include<'_>, depth: usize, values: &mut Vec<Box<str>>) -> Result<(), String> {
    for item in address::list(text) {
        // A command or a path may stand in quotes whole.
        let plain = item.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(&item);
        match plain {
            _ if plain.starts_with('|') => return Err(format!("{plain}: commands are not run here; take an address")),
            _ if plain.starts_with('/') => {
                return Err(format!("{plain}: mail is not written to files here; take an address"));
            }
            _ if plain.starts_with('\\') => {
                return Err(format!("{plain}: there are no mailboxes here; take an address elsewhere"));
            }
            _ => {}
        }
        if let Some(path) = plain.strip_prefix(":include:") {
            if depth >= INCLUDES_MAX {
                return Err(format!("{path}: files include each other too deeply"));
            }
            let text = include(path)?;
            for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
                members(line, include, depth + 1, values)?;
            }
            continue;
        }
        let is_address = match item.contains('@') {
            true => item.parse::<Address>().is_ok(),
            false => item.is_ascii() && !item.contains(char::is_whitespace),
        };
        if !is_address {
            return Err(format!("{item}: a mail address is expected"));
        }
        if values.len() >= EXPANSION_MAX {
            return Err(format!("more than {EXPANSION_MAX} addresses"));
        }
        values.push(item.into());
    }
    Ok(())
}

/// What is done for local names.
#[derive(Clone, Debug, Default)]
pub struct LocalNames {
    /// By local part.
    pub aliases: Aliases,
    /// Where mail to others goes; `None`: nowhere.
    pub unknown: Option<Address>,
    /// Who is meant by postmaster and abuse, if no alias says.
    pub postmaster: Option<Address>,
}

/// Why a recipient comes to nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unexpanded {
    /// No alias of a local name.
    UnknownLocal,
    /// No alias in a domain that has nothing else.
    UnknownVirtual,
    /// The tables cannot say now.
    Trouble(Trouble),
}

impl From<Trouble> for Unexpanded {
    fn from(trouble: Trouble) -> Unexpanded {
        Unexpanded::Trouble(trouble)
    }
}

/// Everybody that a recipient stands for, in order and once. Of those that a list names and that do not exist, nothing is
/// said as long as somebody is left.
pub(super) fn expand(
    tables: &Tables,
    home: &Home,
    names: Option<&LocalNames>,
    recipient: &Address,
) -> Result<Vec<Address>, Unexpanded> {
    let mut all = Vec::new();
    let mut unknown = None;
    let mut seen = HashSet::new();
    let mut work = vec![(recipient.clone(), 0)];
    while let Some((address, depth)) = work.pop() {
        if !seen.insert(address.to_string().to_lowercase()) {
            continue;
        }
        if seen.len() > EXPANSION_MAX {
            return Err(Trouble::TooMany.into());
        }
        if depth > DEPTH_MAX {
            return Err(Trouble::Loop.into());
        }
        let mut is_end = true;
        if let Some(next) = address::ask(tables, home, &address, address::Unmatched::Kept)? {
            is_end = next.iter().any(|next| address::same(next, &address));
            work.extend(
                next.into_iter().filter(|next| !address::same(next, &address)).rev().map(|next| (next, depth + 1)),
            );
        } else if !tables.is_empty() && tables.find(address.domain().as_str())?.is_some() {
            unknown = Some(Unexpanded::UnknownVirtual);
            continue;
        }
        if !is_end {
            continue;
        }
        match names.filter(|_| home.is_local(address.domain())) {
            None => all.push(address),
            Some(names) => match local(names, home, &address) {
                Some(next) => work.extend(next.into_iter().rev().map(|next| (next, depth + 1))),
                None => unknown = Some(Unexpanded::UnknownLocal),
            },
        }
    }
    match unknown {
        Some(unknown) if all.is_empty() => Err(unknown),
        // All in a circle.
        None if all.is_empty() => Err(Trouble::Loop.into()),
        Some(_) | None => Ok(all),
    }
}

fn local(names: &LocalNames, home: &Home, address: &Address) -> Option<Vec<Address>> {
    if let Some(values) = names.aliases.of(home, address.local()) {
        return Some(values.iter().filter_map(|value| home.qualify(value)).collect());
    }
    let is_role = ["postmaster", "abuse"].iter().any(|role| address.local().eq_ignore_ascii_case(role));
    let role = names.postmaster.as_ref().filter(|_| is_role);
    role.or(names.unknown.as_ref()).map(|address| vec![address.clone()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rewrite::table::{Kind, Table};

    fn aliases(text: &str) -> Result<Aliases, Vec<Flaw>> {
        Aliases::read(text, &mut |path| match path {
            "/list" => Ok("# people\na@x.example\nb@x.example, c@x.example\n".to_owned()),
            "/loop" => Ok(":include:/loop".to_owned()),
            _ => Err(format!("{path}: there is no such file")),
        })
    }

    fn expanded(table: &str, names: Option<&str>, recipient: &str) -> String {
        let home = Home {
            origin: "example.com".parse().unwrap(),
            domains: vec!["localhost".parse().unwrap(), "relay.example.com".parse().unwrap()],
            delimiters: "+".into(),
        };
        let names = names.map(|text| LocalNames {
            aliases: aliases(text).unwrap(),
            unknown: None,
            postmaster: Some("pm@x.example".parse().unwrap()),
        });
        let tables = Tables::new(vec![Table::read(Kind::Texthash, table).unwrap()]);
        match expand(&tables, &home, names.as_ref(), &recipient.parse().unwrap()) {
            Ok(all) => all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            Err(error) => format!("{error:?}"),
        }
    }

    #[test]
    fn a_recipient_comes_to_those_it_stands_for() {
        let names = "root: ops@x.example\ncron: root@localhost, other@y.example\nlist: :include:/list\n\
                     loop: pool@localhost\npool: loop@localhost\nbare: somebody\n";
        for (table, recipient, want) in [
            ("x y", "a@d.example", "a@d.example"),
            ("a@d.example b@e.example, c@e.example", "a@d.example", "b@e.example c@e.example"),
            ("a@d.example b@d.example\nb@d.example c@e.example", "a@d.example", "c@e.example"),
            ("a@d.example a@d.example, b@e.example", "a@d.example", "a@d.example b@e.example"),
            ("a@d.example b@d.example\nb@d.example a@d.example", "a@d.example", "Trouble(Loop)"),
            ("@d.example c@e.example", "a@d.example", "c@e.example"),
            ("a@d.example b@e.example\nd.example anything", "x@d.example", "UnknownVirtual"),
            ("a@d.example b@d.example, c@e.example\nd.example anything", "a@d.example", "c@e.example"),
            ("x y", "root@localhost", "ops@x.example"),
            ("x y", "root+ext@relay.example.com", "ops@x.example"),
            ("x y", "cron@localhost", "ops@x.example other@y.example"),
            ("x y", "list@localhost", "a@x.example b@x.example c@x.example"),
            ("x y", "bare@localhost", "somebody@example.com"),
            ("x y", "loop@localhost", "Trouble(Loop)"),
            ("x y", "nobody@localhost", "UnknownLocal"),
            ("x y", "Postmaster@localhost", "pm@x.example"),
            ("x y", "root@example.com", "root@example.com"),
            ("root list@localhost", "root@localhost", "a@x.example b@x.example c@x.example"),
        ] {
            assert_eq!(expanded(table, Some(names), recipient), want, "{table:?} {recipient}");
        }
        assert_eq!(expanded("x y", None, "nobody@localhost"), "nobody@localhost", "without aliases nothing is local");
    }

    #[test]
    fn what_an_alias_cannot_do_here_is_told_its_line() {
        for (text, line, want) in [
            ("a: b@x.example\nlist: \"|/usr/bin/mailman post x\"", 2, "|/usr/bin/mailman post x: commands are not run"),
            ("a: |cmd", 1, "|cmd: commands"),
            ("a: /var/mail/a", 1, "/var/mail/a: mail is not written to files"),
            ("root: \\root, b@x.example", 1, "\\root: there are no mailboxes"),
            ("root: root", 1, "\"root\" leads to itself"),
            ("a b@x.example", 1, "a line such as"),
            ("a:", 1, "a line such as"),
            ("a: :include:/none", 1, "/none: there is no such file"),
            ("a: :include:/loop", 1, "/loop: files include each other"),
            ("a: b c@", 1, "b c@: a mail address"),
        ] {
            let flaws = aliases(text).unwrap_err();
            assert!(flaws[0].line == line && flaws[0].right.starts_with(want), "{text:?} {flaws:?}");
        }
    }
}
