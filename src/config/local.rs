//! The config of names and addresses: what is local here, and what is done to addresses and headers on their way.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::units::{self, Written};
use crate::mail::{Address, Domain};

/// What this host's own names mean.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Local {
    /// Added to bare addresses. Absent: the hostname.
    #[serde(deserialize_with = "units::some_parsed")]
    pub origin: Option<Domain>,
    /// Names whose recipients are looked up in the aliases, beside the hostname and `localhost`.
    #[serde(deserialize_with = "units::parsed_list")]
    pub domains: Vec<Domain>,
    /// aliases(5). Absent: there are none.
    pub aliases: Option<PathBuf>,
    /// Characters that begin an address's extension. At most 4.
    pub recipient_delimiter: String,
    /// What becomes of mail to a local name without an alias.
    #[serde(deserialize_with = "units::parsed")]
    pub unknown: Unknown,
}

impl Default for Local {
    fn default() -> Self {
        Local {
            origin: None,
            // Invariant: a name by any measure.
            domains: Vec::from_iter("localhost".parse()),
            aliases: None,
            recipient_delimiter: String::new(),
            unknown: Unknown::Refuse,
        }
    }
}

impl Local {
    /// Whether there are local recipients at all. Without aliases their mail goes where DNS says.
    pub fn is_some(&self) -> bool {
        self.aliases.is_some() || self.unknown != Unknown::Refuse
    }
}

/// What becomes of mail to a local name without an alias.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unknown {
    /// 550 5.1.1.
    Refuse,
    /// It goes to this address.
    Forward(Address),
}

impl Written for Unknown {
    const RIGHT: &'static str = "\"refuse\", or an address such as \"ops@example.com\", is expected";

    fn read(text: &str) -> Result<Self, String> {
        match text {
            "refuse" => Ok(Unknown::Refuse),
            _ => text.parse().map(Unknown::Forward).map_err(|_| Self::RIGHT.to_owned()),
        }
    }
}

/// What is done to addresses and headers. Each list is asked in order; the first table that knows an address answers.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rewrite {
    /// canonical(5): senders and recipients, in the envelope and in the header.
    #[serde(deserialize_with = "units::parsed_list")]
    pub canonical: Vec<TableName>,
    /// Senders alone, before `canonical`.
    #[serde(deserialize_with = "units::parsed_list")]
    pub sender_canonical: Vec<TableName>,
    /// Recipients alone, before `canonical`.
    #[serde(deserialize_with = "units::parsed_list")]
    pub recipient_canonical: Vec<TableName>,
    /// Domains that stand for all below them; `!name` is left as it is.
    pub masquerade_domains: Vec<String>,
    /// Local parts that are left as they are.
    pub masquerade_exceptions: Vec<String>,
    /// virtual(5): recipients of the envelope.
    #[serde(deserialize_with = "units::parsed_list")]
    pub virtual_aliases: Vec<TableName>,
    /// generic(5): on the way out, in the envelope and in the header.
    #[serde(deserialize_with = "units::parsed_list")]
    pub generic: Vec<TableName>,
    /// A copy of all mail.
    #[serde(deserialize_with = "units::some_parsed")]
    pub always_bcc: Option<Address>,
    /// A copy by sender.
    #[serde(deserialize_with = "units::parsed_list")]
    pub sender_bcc: Vec<TableName>,
    /// A copy by recipient.
    #[serde(deserialize_with = "units::parsed_list")]
    pub recipient_bcc: Vec<TableName>,
    /// header_checks(5) on the way in.
    #[serde(deserialize_with = "units::parsed_list")]
    pub header_checks: Vec<TableName>,
    /// header_checks(5) on the way out.
    #[serde(deserialize_with = "units::parsed_list")]
    pub smtp_header_checks: Vec<TableName>,
    /// access(5), asked of MAIL FROM.
    #[serde(deserialize_with = "units::parsed_list")]
    pub sender_access: Vec<TableName>,
}

impl Rewrite {
    /// The lists of tables, with their keys.
    pub fn lists(&self) -> [(&'static str, &[TableName]); 10] {
        [
            ("canonical", &self.canonical),
            ("sender_canonical", &self.sender_canonical),
            ("recipient_canonical", &self.recipient_canonical),
            ("virtual_aliases", &self.virtual_aliases),
            ("generic", &self.generic),
            ("sender_bcc", &self.sender_bcc),
            ("recipient_bcc", &self.recipient_bcc),
            ("header_checks", &self.header_checks),
            ("smtp_header_checks", &self.smtp_header_checks),
            ("sender_access", &self.sender_access),
        ]
    }

    /// Every table, to make its path absolute.
    pub(super) fn tables_mut(&mut self) -> impl Iterator<Item = &mut TableName> {
        let lists = [
            &mut self.canonical,
            &mut self.sender_canonical,
            &mut self.recipient_canonical,
            &mut self.virtual_aliases,
            &mut self.generic,
            &mut self.sender_bcc,
            &mut self.recipient_bcc,
            &mut self.header_checks,
            &mut self.smtp_header_checks,
            &mut self.sender_access,
        ];
        lists.into_iter().flatten()
    }
}

pub use crate::rewrite::Kind as TableKind;

/// `TYPE:PATH`, as Postfix writes it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct TableName {
    /// The type as it is read here.
    pub kind: TableKind,
    /// The type as it was written: `hash` is read as `texthash`.
    word: String,
    /// A path, or the table itself.
    pub rest: String,
}

impl TableName {
    /// Whether it is a file.
    pub fn is_file(&self) -> bool {
        match self.kind {
            TableKind::Texthash | TableKind::Regexp | TableKind::Pcre => true,
            TableKind::Inline | TableKind::Static => false,
        }
    }

    /// Makes a relative path start at the config's directory.
    pub(super) fn anchor(&mut self, base: &Path) {
        if self.is_file() {
            self.rest = base.join(&self.rest).to_string_lossy().into_owned();
        }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.word, self.rest)
    }
}

impl Written for TableName {
    const RIGHT: &'static str =
        "a table such as \"texthash:/etc/postrider/canonical\" or \"pcre:header_checks\" is expected";

    fn read(text: &str) -> Result<Self, String> {
        let (word, rest) = text.split_once(':').ok_or_else(|| Self::RIGHT.to_owned())?;
        let kind = match word {
            // Their source text has the same form; the compiled file beside it is not read.
            "texthash" | "hash" | "btree" | "lmdb" | "cdb" | "dbm" => TableKind::Texthash,
            "regexp" => TableKind::Regexp,
            "pcre" => TableKind::Pcre,
            "inline" => TableKind::Inline,
            "static" => TableKind::Static,
            "cidr" => return Err("a cidr table is asked for network addresses, and here mail addresses are".to_owned()),
            _ => {
                return Err(format!(
                    "tables of type \"{word}\" are not read here; write it out as a text (`postmap -s`), and name it \
                     \"texthash:PATH\"; known are texthash, regexp, pcre, inline and static"
                ));
            }
        };
        match rest.is_empty() {
            true => Err(Self::RIGHT.to_owned()),
            false => Ok(TableName { kind, word: word.to_owned(), rest: rest.to_owned() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_named_by_type_and_path() {
        for (text, kind) in [
            ("texthash:/a", TableKind::Texthash),
            ("hash:/etc/postfix/virtual", TableKind::Texthash),
            ("lmdb:/a:b", TableKind::Texthash),
            ("regexp:/a", TableKind::Regexp),
            ("pcre:a", TableKind::Pcre),
            ("inline:{ a=b }", TableKind::Inline),
            ("static:REJECT", TableKind::Static),
        ] {
            let name = TableName::read(text).unwrap();
            assert_eq!((name.kind, name.to_string().as_str()), (kind, text));
        }
        for bad in ["", "/etc/a", "mysql:/a", "cidr:/a", "pcre:", ":a"] {
            assert!(TableName::read(bad).is_err(), "{bad:?}");
        }
        let mut name = TableName::read("pcre:checks").unwrap();
        name.anchor(Path::new("/etc/postrider"));
        assert_eq!(name.to_string(), "pcre:/etc/postrider/checks");
    }
}
