//! `newaliases`, `postalias` and `postmap`: tables are read as text here, so that there is nothing to build; what a build
//! would have found wrong is said, and `postmap -q` looks a key up.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use super::{Call, Fatal, Place, flags};

/// Largest table that is read. Unit: octets.
const TABLE_LENGTH_MAX: u64 = 256 << 20;

/// `newaliases`: `sendmail -bi`.
pub(super) fn newaliases(call: &Call) -> Result<ExitCode, Fatal> {
    let place = Place::find(None);
    let aliases = place.aliases();
    if aliases.exists() {
        check(call, &aliases, Kind::Aliases)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// How lines are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// `key: value`, aliases(5).
    Aliases,
    /// `key value`.
    Table,
}

/// `postmap` and `postalias`.
pub(super) fn postmap(call: &Call) -> Result<ExitCode, Fatal> {
    let kind = if call.name == "postalias" { Kind::Aliases } else { Kind::Table };
    let usage = || {
        Fatal::new(
            1,
            format!("usage: {} [-Nfinoprsuvw] [-c config_dir] [-d key] [-q key] [map_type:]file...", call.name),
        )
    };
    let (found, files) = flags(&call.words, "bc:d:fFhimnNopq:rsuUvw").map_err(|_| usage())?;
    if files.is_empty() {
        return Err(usage());
    }
    let of = |letter| found.iter().find(|flag| flag.letter == letter).map(|flag| flag.value.as_str());
    if of('d').is_some() || found.iter().any(|flag| matches!(flag.letter, 'i' | 's')) {
        return Err(Fatal::new(
            1,
            "tables are plain text here: change the file itself; there is no database to change",
        ));
    }
    match of('q') {
        Some("-") => {
            let mut any = false;
            for key in io::stdin().lines().map_while(Result::ok) {
                if let Some(value) = look_up(files, kind, &key)? {
                    any = true;
                    let _ = writeln!(io::stdout(), "{key}\t{value}");
                }
            }
            Ok(if any { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Some(key) => match look_up(files, kind, key)? {
            Some(value) => {
                let _ = writeln!(io::stdout(), "{value}");
                Ok(ExitCode::SUCCESS)
            }
            None => Ok(ExitCode::FAILURE),
        },
        None => {
            files.iter().try_for_each(|file| check(call, Path::new(plain(file)?), kind))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// The file of a table whose source is text.
fn plain(table: &str) -> Result<&str, Fatal> {
    match table.split_once(':') {
        Some(("hash" | "btree" | "lmdb" | "cdb" | "dbm" | "texthash" | "sdbm", file)) => Ok(file),
        Some((other, _)) if !other.contains('/') => {
            Err(Fatal::new(1, format!("unsupported map type for this operation: {other}")))
        }
        _ => Ok(table),
    }
}

fn read(file: &Path) -> Result<String, Fatal> {
    let length = std::fs::metadata(file).map(|data| data.len());
    let text = length.and_then(|length| match length > TABLE_LENGTH_MAX {
        true => Err(io::Error::new(io::ErrorKind::InvalidData, "it is longer than 256 MiB")),
        false => std::fs::read(file),
    });
    let text = text.map_err(|error| Fatal::new(1, format!("open {}: {error}", file.display())))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Logical lines with the number of their first: comments and empty lines left out, continued lines joined.
fn lines(text: &str) -> Vec<(usize, String)> {
    let mut found: Vec<(usize, String)> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.trim_start().starts_with('#') {
            continue;
        }
        match (line.starts_with([' ', '\t']), found.last_mut()) {
            (true, Some((_, last))) => last.push_str(line),
            _ => found.push((number + 1, line.to_owned())),
        }
    }
    found
}

/// Key and value of a line.
fn entry(line: &str, kind: Kind) -> Option<(String, &str)> {
    let line = line.trim();
    let (key, value) = match kind {
        Kind::Aliases => {
            // A quoted key may hold a colon.
            match line.strip_prefix('"').and_then(|rest| rest.split_once('"')) {
                Some((key, rest)) => (key, rest.trim_start().strip_prefix(':')?),
                None => line.split_once(':')?,
            }
        }
        Kind::Table => line.split_once(char::is_whitespace)?,
    };
    let (key, value) = (key.trim(), value.trim());
    if key.is_empty() || value.is_empty() { None } else { Some((key.to_ascii_lowercase(), value)) }
}

/// Says of each line that is none what Postfix says.
fn check(call: &Call, file: &Path, kind: Kind) -> Result<(), Fatal> {
    let text = read(file)?;
    let mut seen = std::collections::HashSet::new();
    for (number, line) in lines(&text) {
        match entry(&line, kind) {
            None if kind == Kind::Aliases => {
                call.warn(format!("{}, line {number}: need name:value pair", file.display()));
            }
            None => {
                call.warn(format!("{}, line {number}: expected format: key whitespace value", file.display()));
            }
            Some((key, _)) if !seen.insert(key.clone()) => {
                call.warn(format!("{}, line {number}: duplicate entry: \"{key}\"", file.display()));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

fn look_up(files: &[String], kind: Kind, key: &str) -> Result<Option<String>, Fatal> {
    let key = key.to_ascii_lowercase();
    for table in files {
        let text = read(Path::new(plain(table)?))?;
        for (_, line) in lines(&text) {
            if let Some((found, value)) = entry(&line, kind)
                && found == key
            {
                return Ok(Some(value.to_owned()));
            }
        }
    }
    Ok(None)
}

impl Place {
    /// The file of aliases.
    fn aliases(&self) -> std::path::PathBuf {
        std::path::PathBuf::from("/etc/aliases")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_read_as_postmap_reads_them() {
        let text = "# comment\nKey value one\n  and two\n\nlone\n\tof lone\n  # in between\nb\tx\n";
        let read: Vec<(usize, String)> = lines(text);
        assert_eq!(read.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [2, 5, 8]);
        assert_eq!(entry(&read[0].1, Kind::Table), Some(("key".to_owned(), "value one  and two")));
        assert_eq!(entry("lone", Kind::Table), None);
        assert_eq!(entry("root: a@x.example, b", Kind::Aliases), Some(("root".to_owned(), "a@x.example, b")));
        assert_eq!(entry("\"a:b\": c", Kind::Aliases), Some(("a:b".to_owned(), "c")));
        assert_eq!(entry("root a", Kind::Aliases), None);
        assert_eq!(plain("hash:/etc/x").unwrap(), "/etc/x");
        assert_eq!(plain("/etc/a:b").unwrap(), "/etc/a:b");
        assert!(plain("mysql:/etc/x").is_err());
    }
}
