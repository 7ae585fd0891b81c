//! The tables that `[rewrite]` and `[local]` name: are they there, can nobody else change them, and do they say what they can?
//!
//! Called by [`super::Config::load`], so that a mistake is told with its file and line, and by `app` for what is done by them.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::local::{TableName, Unknown};
use super::place::{Place, Places};
use super::{Config, Problem};
use crate::mail::Domain;
use crate::rewrite::{Aliases, Checks, Flaw, Home, LocalNames, Masquerade, Moment, Outgoing, Rewriting, Table, Tables};

/// Largest file of a table. Half a million addresses fit.
const FILE_BYTES_MAX: u64 = 32 << 20;
/// Most files that aliases may include.
const INCLUDES_MAX: usize = 1000;
/// Mode bits that let somebody besides the owner change a file: who can, sends mail where they like.
const FOREIGN_WRITE: u32 = 0o022;

/// What is done on the way in and on the way out.
///
/// # Errors
/// All that is wrong with the tables; problems that no file has name the config's key.
pub fn rewriting(config: &Config) -> Result<(Rewriting, Outgoing), Vec<Problem>> {
    let mut reader =
        Reader { file: Path::new(""), places: &Places::default(), problems: Vec::new(), known: HashMap::new() };
    let both = reader.all(config);
    if reader.problems.is_empty() { Ok(both) } else { Err(reader.problems) }
}

/// What is wrong with the tables of a config that is read from this file.
pub(super) fn problems(config: &Config, file: &Path, places: &Places) -> Vec<Problem> {
    let mut reader = Reader { file, places, problems: Vec::new(), known: HashMap::new() };
    reader.all(config);
    reader.problems
}

struct Reader<'a> {
    file: &'a Path,
    places: &'a Places,
    problems: Vec<Problem>,
    /// Tables that were read for another key.
    known: HashMap<TableName, Table>,
}

impl Reader<'_> {
    fn all(&mut self, config: &Config) -> (Rewriting, Outgoing) {
        let (told, home) = (&config.rewrite, home(config));
        let exceptions = told.masquerade_exceptions.iter().map(|name| name.as_str().into());
        let rewriting = Rewriting {
            canonical: self.tables("canonical", &told.canonical),
            sender_canonical: self.tables("sender_canonical", &told.sender_canonical),
            recipient_canonical: self.tables("recipient_canonical", &told.recipient_canonical),
            masquerade: Masquerade {
                domains: told.masquerade_domains.iter().filter_map(|text| masqueraded(text)).collect(),
                exceptions: exceptions.collect(),
            },
            virtual_aliases: self.tables("virtual_aliases", &told.virtual_aliases),
            local: config.local.is_some().then(|| self.local(config)),
            always_bcc: told.always_bcc.clone(),
            sender_bcc: self.tables("sender_bcc", &told.sender_bcc),
            recipient_bcc: self.tables("recipient_bcc", &told.recipient_bcc),
            header_checks: self.checks("header_checks", &told.header_checks, Moment::Accept),
            sender_access: self.access("sender_access", &told.sender_access),
            qualifies: config.local.origin.is_some() || config.local.is_some(),
            home: home.clone(),
        };
        let outgoing = Outgoing {
            home,
            generic: self.tables("generic", &told.generic),
            header_checks: self.checks("smtp_header_checks", &told.smtp_header_checks, Moment::Send),
        };
        (rewriting, outgoing)
    }

    fn tables(&mut self, key: &str, names: &[TableName]) -> Tables {
        Tables::new(self.each(key, names).into_iter().map(|(_, table)| table).collect())
    }

    fn access(&mut self, key: &str, names: &[TableName]) -> Tables {
        let tables = self.each(key, names);
        for (at, table) in &tables {
            if let Some(name) = names.get(*at) {
                self.tell(key, *at, name, crate::rewrite::access_flaws(table));
            }
        }
        Tables::new(tables.into_iter().map(|(_, table)| table).collect())
    }

    fn checks(&mut self, key: &str, names: &[TableName], moment: Moment) -> Checks {
        let mut tables = Vec::new();
        for (at, table) in self.each(key, names) {
            match Checks::new(vec![table.clone()], moment) {
                Ok(_) => tables.push(table),
                Err(flaws) => {
                    if let Some(name) = names.get(at) {
                        self.tell(key, at, name, flaws);
                    }
                }
            }
        }
        Checks::new(tables, moment).unwrap_or_default()
    }

    /// The tables of a list that can be read, with their places in it.
    fn each(&mut self, key: &str, names: &[TableName]) -> Vec<(usize, Table)> {
        let mut tables = Vec::with_capacity(names.len());
        for (at, name) in names.iter().enumerate() {
            if let Some(table) = self.known.get(name) {
                tables.push((at, table.clone()));
                continue;
            }
            let text = match name.is_file() {
                true => read(Path::new(&name.rest)),
                false => Ok(name.rest.clone()),
            };
            match text.map(|text| Table::read(name.kind, &text)) {
                Ok(Ok(table)) => {
                    self.known.insert(name.clone(), table.clone());
                    tables.push((at, table));
                }
                Ok(Err(flaws)) => self.tell(key, at, name, flaws),
                Err(right) => self.refuse(&format!("rewrite.{key}[{at}]"), right),
            }
        }
        tables
    }

    fn local(&mut self, config: &Config) -> LocalNames {
        let unknown = match &config.local.unknown {
            Unknown::Refuse => None,
            Unknown::Forward(address) => Some(address.clone()),
        };
        let aliases = config.local.aliases.as_deref().map(|path| self.aliases(path)).unwrap_or_default();
        LocalNames { aliases, unknown, postmaster: config.postmaster.clone() }
    }

    fn aliases(&mut self, path: &Path) -> Aliases {
        let text = match read(path) {
            Ok(text) => text,
            Err(right) => {
                self.refuse("local.aliases", right);
                return Aliases::default();
            }
        };
        let mut left = INCLUDES_MAX;
        let mut include = |path: &str| {
            left = left.checked_sub(1).ok_or_else(|| format!("more than {INCLUDES_MAX} files are included"))?;
            read(Path::new(path))
        };
        Aliases::read(&text, &mut include).unwrap_or_else(|flaws| {
            self.problems.extend(flaws.into_iter().map(|flaw| in_file(path, flaw)));
            Aliases::default()
        })
    }

    fn tell(&mut self, key: &str, at: usize, name: &TableName, flaws: Vec<Flaw>) {
        for flaw in flaws {
            match name.is_file() {
                true => self.problems.push(in_file(Path::new(&name.rest), flaw)),
                false => self.refuse(&format!("rewrite.{key}[{at}]"), flaw.right),
            }
        }
    }

    fn refuse(&mut self, key: &str, right: String) {
        self.problems.push(Problem::at(self.file, self.places.of_key(key), right));
    }
}

fn in_file(path: &Path, flaw: Flaw) -> Problem {
    Problem::at(path, Place { line: flaw.line, key: String::new(), value: String::new() }, flaw.right)
}

/// Which names are ours. Recipients at a bounce domain are tokens, and looked up nowhere.
fn home(config: &Config) -> Home {
    let local = config.local.is_some();
    let localhost = "localhost".parse().ok();
    let own = [config.hostname.clone()].into_iter().chain(localhost).chain(config.local.domains.iter().cloned());
    let mut domains: Vec<Domain> = own.filter(|_| local).collect();
    domains.dedup();
    Home {
        origin: config.local.origin.clone().unwrap_or_else(|| config.hostname.clone()),
        domains,
        delimiters: config.local.recipient_delimiter.as_str().into(),
    }
}

fn masqueraded(text: &str) -> Option<(Domain, bool)> {
    let name = text.trim_start_matches('!');
    let kept = (text.len() - name.len()) % 2 == 1;
    name.parse().ok().map(|domain| (domain, kept))
}

fn read(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let unreadable = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => format!("there is no file {shown}"),
        _ => format!("{shown} cannot be read: {error}"),
    };
    let file = File::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.mode() & 0o777;
    if mode & FOREIGN_WRITE != 0 {
        return Err(format!("others than its owner can change {shown} (mode {mode:04o}); `chmod 0644 {shown}`"));
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("{shown} is larger than {FILE_BYTES_MAX} bytes"));
    }
    String::from_utf8(bytes).map_err(|_| format!("{shown} is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_in_a_table_is_told_with_its_file_and_line() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("good", "a@d.example b@d.example\n");
        write("bad", "# text\na@d.example\n");
        write("checks", "/^Subject:/ IGNORE\n/^To:/ FILTER smtp:x\n");
        write("out", "/^To:/ REJECT\n");
        write("aliases", "root: ops@x.example\nlist: \"|/bin/cat\"\n");
        write("access", "a.example OK\nb.example HOLD\n");
        let load = |extra: &str| {
            let text = format!(
                "hostname = \"relay.example.com\"\npostmaster = \"ops@x.example\"\n\
                 [[credential]]\nname = \"a\"\nfrom_domains = [\"example.com\"]\n\
                 [[sending_domain]]\nname = \"example.com\"\n{extra}\n"
            );
            let path = dir.path().join("p.toml");
            std::fs::write(&path, text).unwrap();
            Config::load(&path).map_err(|problems| problems.to_string())
        };
        for (extra, want) in [
            ("[rewrite]\ncanonical = [\"hash:bad\"]", "bad:2: a key, white space and a value are expected"),
            (
                "[rewrite]\ncanonical = [\"hash:none\"]",
                "p.toml:9: rewrite.canonical = \"hash:none\": there is no file ",
            ),
            (
                "[rewrite]\ngeneric = [\"inline:{ a }\"]",
                "p.toml:9: rewrite.generic = \"inline:{ a }\": a table such as",
            ),
            ("[rewrite]\nheader_checks = [\"pcre:checks\"]", "checks:2: FILTER hands mail to another program"),
            ("[rewrite]\nsmtp_header_checks = [\"regexp:out\"]", "out:1: on the way out DUNNO, IGNORE, INFO"),
            ("[rewrite]\nsender_access = [\"texthash:access\"]", "access:2: OK, DUNNO, REJECT, DEFER or a reply"),
            ("[local]\naliases = \"aliases\"", "aliases:2: |/bin/cat: commands are not run here"),
            ("[local]\naliases = \"none\"", "p.toml:9: local.aliases = \"none\": there is no file "),
        ] {
            let said = load(extra).map(|_| ()).unwrap_err();
            assert!(said.contains(want), "{extra}\n  says  {said}\n  wants {want}");
        }
        let config = load("[rewrite]\nvirtual_aliases = [\"hash:good\", \"static:c@d.example\"]").unwrap();
        let (rewriting, outgoing) = rewriting(&config).unwrap();
        assert!(rewriting.is_some() && outgoing.is_none());
        let all = rewriting.expand(&"a@d.example".parse().unwrap()).unwrap();
        assert_eq!(all, ["c@d.example".parse().unwrap()]);
    }
}
