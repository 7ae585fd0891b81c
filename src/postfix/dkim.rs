//! OpenDKIM's config: which keys sign which domains.

use super::table;

/// What opendkim.conf says: its keys in lower case. The last one wins.
pub struct Conf(Vec<(String, String)>);

/// A key of a domain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Key {
    /// `d=`.
    pub domain: String,
    /// `s=`.
    pub selector: String,
    /// The private key.
    pub file: String,
}

/// Whether a milter's address is OpenDKIM's by custom: its port, or its name in a path.
pub fn looks_like(milter: &str) -> bool {
    milter.contains("8891") || milter.contains("opendkim") || milter.contains("dkim.sock")
}

impl Conf {
    /// # Errors
    /// A line that is no `Name value`.
    pub fn read(text: &str) -> Result<Conf, String> {
        let mut all = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let (name, value) = line
                .split_once(|c: char| c.is_ascii_whitespace())
                .ok_or_else(|| format!("line {}: \"Name value\" is expected", index + 1))?;
            all.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        Ok(Conf(all))
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Whether a milter's address in Postfix is this one's socket. A path may be relative to a chroot.
    pub fn is_at(&self, milter: &str) -> bool {
        let Some(socket) = self.value("socket") else { return looks_like(milter) };
        if let Some(rest) = socket.strip_prefix("inet:") {
            let port = rest.split('@').next().unwrap_or_default();
            return milter.starts_with("inet:") && milter.rsplit(':').next() == Some(port);
        }
        let path = socket.trim_start_matches("local:").trim_start_matches("unix:");
        let other = milter.trim_start_matches("local:").trim_start_matches("unix:");
        path == other || path.ends_with(&format!("/{}", other.trim_start_matches('/')))
    }

    /// The keys, each with the domain that it signs.
    ///
    /// # Errors
    /// What is signed otherwise than by its own domain's key.
    pub fn keys(&self, read: &dyn Fn(&str) -> Result<String, String>) -> Result<Vec<Key>, String> {
        let mode = self.value("mode").unwrap_or("sv");
        if !mode.contains('s') {
            return Err(format!("Mode {mode} signs nothing; take the milter out of Postfix's config first"));
        }
        let Some(keys) = self.value("keytable") else { return self.one_key() };
        let keys = rows(keys, read)?;
        let Some(signing) = self.value("signingtable") else {
            return Err("a SigningTable is expected beside the KeyTable".to_owned());
        };
        let mut found: Vec<Key> = Vec::new();
        for (pattern, name) in rows(signing, read)? {
            let names = name.split(':').next().unwrap_or_default();
            let row = keys.iter().find(|(key, _)| key == names);
            let (_, value) = row.ok_or_else(|| format!("the KeyTable has no key \"{names}\""))?;
            let mut parts = value.splitn(3, ':');
            let (Some(domain), Some(selector), Some(file)) = (parts.next(), parts.next(), parts.next()) else {
                return Err(format!("KeyTable {names}: \"domain:selector:/path\" is expected"));
            };
            let meant = pattern.rsplit('@').next().unwrap_or_default().trim_start_matches("*.").to_ascii_lowercase();
            if meant.parse::<crate::mail::Domain>().is_err() {
                return Err(format!("\"{pattern}\" in the SigningTable names no one domain"));
            }
            let domain = if domain == "%" { meant.clone() } else { domain.to_ascii_lowercase() };
            let is_own = meant == domain || meant.strip_suffix(&domain).is_some_and(|rest| rest.ends_with('.'));
            if !is_own {
                return Err(format!(
                    "mail of \"{pattern}\" is signed by {domain}, and a domain signs only its own mail here"
                ));
            }
            let key = Key { domain, selector: selector.to_owned(), file: file.to_owned() };
            if !found.contains(&key) {
                found.push(key);
            }
        }
        match found.is_empty() {
            true => Err("the SigningTable is empty".to_owned()),
            false => Ok(found),
        }
    }

    fn one_key(&self) -> Result<Vec<Key>, String> {
        let (Some(domains), Some(selector), Some(file)) =
            (self.value("domain"), self.value("selector"), self.value("keyfile"))
        else {
            return Err("Domain, Selector and KeyFile, or KeyTable and SigningTable, are expected".to_owned());
        };
        let names: Vec<String> = match domains.contains('/') {
            true => rows_of_names(domains)?,
            false => domains.split(',').map(|domain| domain.trim().to_ascii_lowercase()).collect(),
        };
        let key = |domain: String| Key { domain, selector: selector.to_owned(), file: file.to_owned() };
        match names.iter().any(|name| name.is_empty() || name.contains('*')) {
            true => Err(format!("Domain {domains}: names of domains are expected")),
            false => Ok(names.into_iter().map(key).collect()),
        }
    }
}

fn rows_of_names(name: &str) -> Result<Vec<String>, String> {
    Err(format!("Domain {name}: write the names themselves, or a KeyTable and a SigningTable"))
}

/// A data set: `file:PATH`, `refile:PATH`, or a path.
fn rows(name: &str, read: &dyn Fn(&str) -> Result<String, String>) -> Result<Vec<(String, String)>, String> {
    let path = match name.split_once(':') {
        Some(("file" | "refile", path)) => path,
        None => name,
        Some((kind, _)) => return Err(format!("{name}: a data set of type {kind} is not read; write it to a file")),
    };
    let rows = table::rows(&format!("texthash:{path}"), read)?;
    Ok(rows.into_iter().map(|(_, key, value)| (key, value)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_by_table_or_by_three_lines() {
        let read =
            |path: &str| match path {
                "/k" => Ok("mail._domainkey.example.com example.com:mail:/keys/example.com.private\nk2 %:s2:/keys/2\n"
                    .to_owned()),
                "/s" => Ok("*@example.com mail._domainkey.example.com\n*@b.example k2\n".to_owned()),
                "/foreign" => Ok("*@c.example mail._domainkey.example.com\n".to_owned()),
                _ => Err("there is no such file".to_owned()),
            };
        let key = |domain: &str, selector: &str, file: &str| Key {
            domain: domain.to_owned(),
            selector: selector.to_owned(),
            file: file.to_owned(),
        };
        let conf = Conf::read("# c\nKeyTable /k\nSigningTable refile:/s\nSocket inet:8891@localhost\n").unwrap();
        let want = vec![key("example.com", "mail", "/keys/example.com.private"), key("b.example", "s2", "/keys/2")];
        assert_eq!(conf.keys(&read), Ok(want));
        assert!(
            conf.is_at("inet:localhost:8891")
                && conf.is_at("inet:127.0.0.1:8891")
                && !conf.is_at("inet:localhost:11332")
        );
        let conf = Conf::read(
            "Domain example.com\nSelector s\nKeyFile /k.pem\nSocket local:/var/spool/postfix/opendkim/o.sock",
        )
        .unwrap();
        assert_eq!(conf.keys(&read), Ok(vec![key("example.com", "s", "/k.pem")]));
        assert!(
            conf.is_at("unix:opendkim/o.sock") && conf.is_at("local:/opendkim/o.sock") && !conf.is_at("unix:rspamd/o")
        );
        for bad in [
            "KeyTable /k\nSigningTable refile:/foreign",
            "KeyTable /k",
            "KeyTable dsn:x\nSigningTable /s",
            "Mode v\nDomain a\nSelector b\nKeyFile c",
            "Domain /etc/names\nSelector b\nKeyFile c",
            "Selector b",
        ] {
            assert!(Conf::read(bad).unwrap().keys(&read).is_err(), "{bad}");
        }
    }
}
