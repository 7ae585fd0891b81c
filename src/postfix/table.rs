//! Tables that a config names: `TYPE:PATH`, and the lines of their source texts.

use super::syntax::{items, logical_lines, unbraced};

/// Types whose source is a text of `key value` lines under the table's own name.
const PLAIN: &[&str] = &["hash", "btree", "lmdb", "cdb", "dbm", "sdbm", "texthash"];

/// What a table is read from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `key value` lines of a file.
    Plain(String),
    /// Patterns of a file, with their type.
    Patterns(&'static str, String),
    /// Networks of a file.
    Networks(String),
    /// Written in place.
    Inline(String),
    /// One answer to everything.
    Static(String),
    /// One of several, by chance.
    Random(Vec<String>),
}

/// Understands `TYPE:REST`.
///
/// # Errors
/// A type that is not read, and what to do about it.
pub fn kind(name: &str) -> Result<Kind, String> {
    let name = name.strip_prefix("proxy:").unwrap_or(name);
    let (word, rest) =
        name.split_once(':').ok_or_else(|| format!("\"{name}\" is no table: \"type:path\" is expected"))?;
    let rest = rest.trim();
    match word {
        _ if PLAIN.contains(&word) => Ok(Kind::Plain(rest.to_owned())),
        "regexp" => Ok(Kind::Patterns("regexp", rest.to_owned())),
        "pcre" => Ok(Kind::Patterns("pcre", rest.to_owned())),
        "cidr" => Ok(Kind::Networks(rest.to_owned())),
        "inline" => Ok(Kind::Inline(rest.to_owned())),
        "static" => Ok(Kind::Static(unbraced(rest).to_owned())),
        "randmap" => Ok(Kind::Random(items(unbraced(rest)))),
        _ => Err(format!(
            "tables of type \"{word}\" are not read here; write its keys out to a text and name it \"texthash:PATH\""
        )),
    }
}

/// Keys and values of a table, with the line of each.
///
/// # Errors
/// It cannot be read, or lists no keys.
pub fn rows(name: &str, read: &dyn Fn(&str) -> Result<String, String>) -> Result<Vec<(usize, String, String)>, String> {
    match kind(name)? {
        Kind::Plain(path) | Kind::Networks(path) => {
            let text =
                read(&path).map_err(|error| format!("{path}: {error}; `postmap -s {name}` shows what was compiled"))?;
            let lines = logical_lines(&text).map_err(|flaw| format!("{path}: {flaw}"))?;
            Ok(lines
                .into_iter()
                .map(|(line, text)| {
                    let (key, value) = key_and_value(&text);
                    (line, key, value)
                })
                .collect())
        }
        Kind::Inline(text) => {
            let pairs = items(unbraced(&text)).into_iter().map(|item| {
                let (key, value) =
                    unbraced(&item).split_once('=').map(|(k, v)| (k.trim().to_owned(), v.trim().to_owned()))?;
                Some((0, key, value))
            });
            let pairs: Option<Vec<_>> = pairs.collect();
            // Its text may hold passwords.
            pairs.ok_or_else(|| "inline: \"key=value\" items are expected".to_owned())
        }
        Kind::Static(_) | Kind::Patterns(..) | Kind::Random(_) => {
            let word = name.split(':').next().unwrap_or_default();
            Err(format!("{word}: a table of plain keys is expected"))
        }
    }
}

/// A key may stand in quotes, with white space in it.
fn key_and_value(text: &str) -> (String, String) {
    let text = text.trim();
    let (key, value) = match text.strip_prefix('"').and_then(|rest| rest.split_once('"')) {
        Some((key, value)) => (key, value),
        None => text.split_once(|c: char| c.is_ascii_whitespace()).unwrap_or((text, "")),
    };
    (key.to_ascii_lowercase(), value.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_every_plain_type() {
        let read = |path: &str| match path {
            "/t" => Ok("# c\nA@b  x y\n  z\n\"c d\" e\nf\n".to_owned()),
            _ => Err("there is no such file".to_owned()),
        };
        for name in ["hash:/t", "lmdb:/t", "proxy:btree:/t"] {
            let rows = rows(name, &read).unwrap();
            let shown: Vec<_> = rows.iter().map(|(line, key, value)| (*line, key.as_str(), value.as_str())).collect();
            assert_eq!(shown, [(2, "a@b", "x y  z"), (4, "c d", "e"), (5, "f", "")]);
        }
        let rows_of = |name: &str| rows(name, &read);
        assert_eq!(rows_of("inline:{ a=b, {c = d e} }").unwrap()[1], (0, "c".to_owned(), "d e".to_owned()));
        for bad in ["hash:/none", "mysql:/t", "static:x", "regexp:/t", "/t", "inline:{a}"] {
            assert!(rows_of(bad).is_err(), "{bad}");
        }
        assert_eq!(kind("randmap:{a, b}"), Ok(Kind::Random(vec!["a".to_owned(), "b".to_owned()])));
    }
}
