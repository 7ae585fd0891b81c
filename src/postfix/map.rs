//! From what a config says to our config: names, tables, sizes and times. Ports are in `inbound`, routes in `outbound`.
//!
//! Called by [`super::import`]. Everything that is set gets an entry of the report: what no step here spoke of, gets the one
//! of its row in [`super::meaning`], and what has no row is refused.

use std::collections::{BTreeSet, HashSet};
use std::panic::Location;

use super::facts::Facts;
use super::meaning::{self, Rule};
use super::model::{Key, SendingDomain, Target, Value};
use super::report::{Action, Entry, LEFT_OUT, Report};
use super::syntax::{Service, items, seconds};
use super::table::{self, Kind};
use super::{Import, Input, NewFile};
use crate::mail::{Address, Domain};

/// Largest table or key that is copied. Unit: octets.
const COPY_BYTES_MAX: usize = 64 << 20;
/// Debian's own programs, whose services are left as they are where nothing leads to them.
const STOCK: &[&str] = &[
    "pickup",
    "cleanup",
    "qmgr",
    "nqmgr",
    "oqmgr",
    "tlsmgr",
    "trivial-rewrite",
    "bounce",
    "verify",
    "flush",
    "proxymap",
    "smtp",
    "showq",
    "error",
    "discard",
    "local",
    "virtual",
    "lmtp",
    "anvil",
    "scache",
    "postlogd",
    "pipe",
    "tlsproxy",
    "dnsblog",
];

/// The import while it runs.
pub struct Mapper<'a> {
    pub facts: &'a Facts<'a>,
    pub input: &'a Input<'a>,
    pub target: Target,
    pub files: Vec<NewFile>,
    pub entries: Vec<Entry>,
    /// Overrides of services that a step understood, as (line of the service, name).
    pub understood: HashSet<(usize, String)>,
    /// Keys of `smtp_sasl_password_maps` for which a next hop was asked.
    pub logged_in: HashSet<String>,
}

/// Runs every step.
pub fn map(facts: &Facts<'_>, input: &Input<'_>) -> Import {
    let mut mapper = Mapper {
        facts,
        input,
        target: Target::default(),
        files: Vec::new(),
        entries: Vec::new(),
        understood: HashSet::new(),
        logged_in: HashSet::new(),
    };
    mapper.names();
    mapper.local();
    mapper.signing();
    mapper.ports();
    mapper.routes();
    mapper.rewriting();
    mapper.sizes();
    mapper.times();
    mapper.reports();
    mapper.log();
    mapper.programs();
    mapper.services();
    mapper.rest();
    mapper.finish()
}

impl<'a> Mapper<'a> {
    /// The expanded value of a parameter in main.cf.
    pub fn value(&self, name: &str) -> String {
        self.facts.global().value(name)
    }

    fn place(&self, name: &str) -> String {
        self.facts.line(name).map_or_else(|| "default".to_owned(), |line| format!("main.cf:{line}"))
    }

    /// Says what became of a parameter.
    #[track_caller]
    pub fn note(&mut self, action: Action, name: &str, text: impl Into<String>) {
        let (place, value) = (self.place(name), self.shown(name, &self.value(name)));
        let (text, instead, decided_at) = (text.into(), String::new(), Location::caller());
        self.entries.push(Entry { action, parameter: name.to_owned(), place, value, text, instead, decided_at });
    }

    /// Refuses a parameter: why, and what to do.
    #[track_caller]
    pub fn refuse(&mut self, name: &str, why: impl Into<String>, instead: impl Into<String>) {
        let (place, value) = (self.place(name), self.shown(name, &self.value(name)));
        self.refuse_at(name, place, value, why.into(), instead.into());
    }

    /// The same of a service's own setting, or of a service.
    #[track_caller]
    pub fn refuse_of(&mut self, service: &Service, name: &str, why: impl Into<String>, instead: impl Into<String>) {
        let own = service.overrides.iter().rev().find(|setting| setting.name == name);
        let value = own.map_or_else(|| self.facts.of(service).value(name), |setting| setting.value.clone());
        let value = self.shown(name, &value);
        self.refuse_at(name, place_of(service), value, why.into(), instead.into());
    }

    /// What became of a service's own setting.
    #[track_caller]
    pub fn note_of(&mut self, action: Action, service: &Service, name: &str, text: impl Into<String>) {
        self.understood.insert((service.line, name.to_owned()));
        let value = self.shown(name, &self.facts.of(service).value(name));
        let (text, instead, decided_at) = (text.into(), String::new(), Location::caller());
        let (parameter, place) = (name.to_owned(), place_of(service));
        self.entries.push(Entry { action, parameter, place, value, text, instead, decided_at });
    }

    #[track_caller]
    fn refuse_at(&mut self, name: &str, place: String, value: String, why: String, instead: String) {
        let is_allowed = self.input.allowed.iter().any(|allowed| allowed == name);
        let (action, text, instead) = match is_allowed {
            true => (Action::Approximated, format!("{LEFT_OUT}, although: {why}"), String::new()),
            false => (Action::Refused, why, instead),
        };
        let (parameter, decided_at) = (name.to_owned(), Location::caller());
        let entry = Entry { action, parameter, place, value, text, instead, decided_at };
        // One service after another may meet the same.
        if !self.entries.iter().any(|other| other.says_as(&entry)) {
            self.entries.push(entry);
        }
    }

    /// A value for the report: no password, also where a name of the user's stands for one.
    fn shown(&self, name: &str, value: &str) -> String {
        if name.contains("password") {
            return without_passwords(value);
        }
        let is_secret = |other: &super::syntax::Setting| {
            other.name.contains("password") && self.facts.global().value(&other.name).contains(value)
        };
        let is_own = meaning::row(name).is_none();
        let overrides = self.facts.services.iter().flat_map(|service| &service.overrides);
        match is_own && !value.is_empty() && self.facts.settings.iter().chain(overrides).any(is_secret) {
            true => "…".to_owned(),
            false => value.to_owned(),
        }
    }

    fn has_entry(&self, name: &str) -> bool {
        self.entries.iter().any(|entry| entry.parameter == name && !entry.place.starts_with("master.cf"))
    }

    /// A file beside the config; its name there.
    pub fn keep(&mut self, path: &str, text: String, is_secret: bool) -> String {
        let mut path = path.to_owned();
        while self.files.iter().any(|file| file.path == path && file.text != text) {
            path.push_str(".2");
        }
        if !self.files.iter().any(|file| file.path == path) {
            self.files.push(NewFile { path: path.clone(), text, is_secret });
        }
        path
    }

    fn names(&mut self) {
        let hostname = self.value("myhostname");
        match hostname.parse::<Domain>() {
            Ok(name) => {
                if !self.facts.is_set("myhostname") {
                    self.note(Action::Mapped, "myhostname", format!("hostname = \"{name}\", the machine's own"));
                }
                self.target.hostname = name.to_string();
            }
            Err(_) => {
                self.refuse(
                    "myhostname",
                    "it is no domain name",
                    "write the machine's full name, such as relay.example.com",
                );
                self.target.hostname = "localhost.localdomain".to_owned();
            }
        }
    }

    /// `myorigin`, whose value may be a file with the name in its first line (Debian).
    fn origin(&mut self) -> Option<String> {
        let value = self.value("myorigin");
        let text = match value.starts_with('/') {
            true => (self.input.read)(&value).map(|text| text.lines().next().unwrap_or_default().trim().to_owned()),
            false => Ok(value),
        };
        match text.map(|text| text.parse::<Domain>()) {
            Ok(Ok(domain)) => {
                self.note(Action::Mapped, "myorigin", format!("local.origin = \"{domain}\""));
                Some(domain.to_string())
            }
            Ok(Err(_)) => {
                self.refuse("myorigin", "it is no domain name", "write a domain, such as example.com");
                None
            }
            Err(error) => {
                self.refuse("myorigin", format!("the file cannot be read: {error}"), "write the domain itself");
                None
            }
        }
    }

    fn local(&mut self) {
        let origin = self.origin();
        self.target.local.origin = origin.clone().filter(|origin| *origin != self.target.hostname);
        let sending = origin.unwrap_or_else(|| self.target.hostname.clone());
        self.target.domains.push(SendingDomain { name: sending, dkim: Vec::new() });
        let delimiter = self.value("recipient_delimiter");
        let sound = |c: char| c.is_ascii_punctuation() && !"@\"\\<>(),:;[]".contains(c);
        match delimiter.len() <= 4 && delimiter.chars().all(sound) {
            true => self.target.local.delimiter = delimiter,
            false => {
                self.refuse("recipient_delimiter", "up to four signs such as \"+\" can begin an extension", "write +")
            }
        }
        if self.facts.global().flag("append_dot_mydomain") {
            let how = "names without a dot are left as they are; Postfix added its domain to them (user@host)";
            self.note(Action::Approximated, "append_dot_mydomain", how);
        }
        let Some(domains) = self.destinations() else { return };
        if domains.is_empty() {
            for name in ["alias_maps", "luser_relay"] {
                if self.facts.is_set(name) {
                    self.note(Action::Ignored, name, "mydestination is empty: nothing is local");
                }
            }
            self.note(Action::Mapped, "mydestination", "empty: nothing is local, and no aliases are read");
            return;
        }
        let transport = self.value("local_transport");
        if !["local", "error"].contains(&transport.split(':').next().unwrap_or_default()) {
            let why = "mail for local names went by this transport, and has aliases alone here";
            self.refuse(
                "local_transport",
                why,
                "empty mydestination, and name the host in relayhost or transport_maps",
            );
        }
        let hostname = self.target.hostname.clone();
        if !domains.contains(&hostname) {
            let how = "the hostname is local too, which Postfix sent on; addresses there have aliases";
            self.note(Action::Approximated, "mydestination", how);
        }
        self.target.local.domains = domains.into_iter().filter(|name| *name != hostname).collect();
        self.aliases();
    }

    fn destinations(&mut self) -> Option<BTreeSet<String>> {
        let list = match self.facts.global().list("mydestination") {
            Ok(list) => list,
            Err(error) => {
                self.refuse("mydestination", error, "name a file that can be read");
                return None;
            }
        };
        let mut domains = BTreeSet::new();
        for item in list {
            match item.parse::<Domain>() {
                Ok(domain) => drop(domains.insert(domain.to_string())),
                Err(_) => {
                    self.refuse("mydestination", format!("\"{item}\" is no domain name"), "write names, not tables")
                }
            }
        }
        Some(domains)
    }

    fn aliases(&mut self) {
        let mut unknown = None;
        if let Some(to) = self.input.local_to {
            unknown = Some(to.to_owned());
        } else if !self.value("luser_relay").is_empty() || of_recipient(self.facts.written("luser_relay")).is_some() {
            let relay = self.value("luser_relay");
            match relay.parse::<Address>() {
                _ if of_recipient(self.facts.written("luser_relay")).is_some() => {
                    let name = of_recipient(self.facts.written("luser_relay")).unwrap_or_default();
                    let why =
                        format!("${name} is another address for each recipient, and unknown names go to one here");
                    self.refuse("luser_relay", why, "write one address elsewhere, or give each name an alias");
                }
                Ok(_) => {
                    self.note(Action::Mapped, "luser_relay", "local.unknown");
                    unknown = Some(relay);
                }
                Err(_) => self.refuse("luser_relay", "it is no address alone", "write one address elsewhere"),
            }
        }
        let is_here = |text: &String| {
            let domain = text.rsplit_once('@').map_or("", |(_, domain)| domain).to_ascii_lowercase();
            domain == "localhost" || domain == self.target.hostname || self.target.local.domains.contains(&domain)
        };
        if unknown.as_ref().is_some_and(is_here) {
            self.refuse("luser_relay", "it is a local name itself", "write an address elsewhere (--local-to ADDRESS)");
            unknown = None;
        }
        let is_open = unknown.is_some();
        self.target.local.unknown = unknown;
        let maps = items(&self.value("alias_maps"));
        let file = maps.iter().map(|map| (map.clone(), table::kind(map)));
        let mut path = None;
        for (map, kind) in file {
            match kind {
                Ok(Kind::Plain(file)) if path.is_none() => path = Some(file),
                Ok(_) => {
                    self.refuse("alias_maps", format!("{map}: one file of aliases is read"), "put all into one file")
                }
                // NIS is in old defaults, and says nothing where no domain is set.
                Err(_) if map.starts_with("nis:") => {}
                Err(error) => self.refuse("alias_maps", error, "write the aliases to a file such as /etc/aliases"),
            }
        }
        let Some(path) = path else {
            self.no_aliases();
            return;
        };
        match (self.input.read)(&path) {
            Ok(text) => {
                let bad = bad_aliases(&text);
                for (line, what) in &bad {
                    let instead = "give it an address, or leave it out";
                    self.refuse("alias_maps", format!("{path}:{line}: {what}"), instead);
                }
                if bad.is_empty() {
                    let target = match path.as_str() {
                        // Programs and packages write to it.
                        "/etc/aliases" => path.clone(),
                        _ => self.keep(&format!("tables/{}", file_name(&path)), text, false),
                    };
                    let how = match is_open {
                        true => format!("local.aliases = \"{target}\""),
                        false => format!(
                            "local.aliases = \"{target}\"; a local name without an alias had a mailbox, and is refused now \
                             (550 5.1.1): --local-to ADDRESS sends its mail there"
                        ),
                    };
                    self.note(if is_open { Action::Mapped } else { Action::Approximated }, "alias_maps", how);
                    if let Some(list) = owned_list(&self.aliases_text(&path)) {
                        let how = format!(
                            "who hears that mail to {list} could not be delivered is its sender, where Postfix told \
                             owner-{list}: mail to a list of many is better sent by its owner"
                        );
                        self.note(Action::Approximated, "alias_maps", how);
                    }
                    self.target.local.aliases = Some(target);
                    self.postmaster_of(&path);
                }
            }
            Err(_) if path == "/etc/aliases" => {
                let how = "there is no such file: a local name is refused (550 5.1.1), or goes to --local-to ADDRESS";
                self.note(Action::Approximated, "alias_maps", how);
                self.no_aliases();
            }
            Err(error) => self.refuse("alias_maps", format!("{path}: {error}"), "name a file that can be read"),
        }
    }

    /// Who hears of trouble here, if the aliases say an address elsewhere.
    fn postmaster_of(&mut self, path: &str) {
        let Some(address) = alias_of(&self.aliases_text(path), "postmaster") else { return };
        let domain = address.domain().as_str();
        if domain != self.target.hostname && !self.target.local.domains.iter().any(|local| local == domain) {
            let how = format!("postmaster = \"{address}\", whom the alias of postmaster leads to: alarms go there");
            self.note(Action::Mapped, "alias_maps", how);
            self.target.postmaster = Some(address.to_string());
        }
    }

    fn aliases_text(&self, path: &str) -> String {
        (self.input.read)(path).unwrap_or_default()
    }

    /// Local names stay local where nobody has an alias: without a file, their mail would go where DNS says.
    fn no_aliases(&mut self) {
        if self.target.local.unknown.is_none() {
            let path = self.keep("tables/aliases", "# Nobody has an alias.\n".to_owned(), false);
            self.target.local.aliases = Some(path);
        }
    }

    fn signing(&mut self) {
        let mut milters: Vec<(&'static str, String)> = Vec::new();
        for name in ["smtpd_milters", "non_smtpd_milters"] {
            milters.extend(items(&self.value(name)).into_iter().map(|milter| (name, milter)));
        }
        let services = self.facts.services.iter().flat_map(|service| &service.overrides);
        let own = services.filter(|setting| setting.name == "smtpd_milters").flat_map(|setting| items(&setting.value));
        let own: Vec<String> = own.filter(|item| !item.starts_with('$')).collect();
        milters.extend(own.into_iter().map(|milter| ("smtpd_milters", milter)));
        if milters.is_empty() {
            return;
        }
        let dkim = self.input.opendkim.map(|(path, text)| (path, super::dkim::Conf::read(text)));
        let mut is_signing = false;
        for (name, milter) in milters {
            let is_dkim = match &dkim {
                Some((_, Ok(conf))) => conf.is_at(&milter),
                Some((_, Err(_))) | None => super::dkim::looks_like(&milter),
            };
            if is_dkim {
                is_signing = true;
                continue;
            }
            self.refuse(
                name,
                format!("{milter}: a milter may change, keep or refuse mail, and none is asked here"),
                "take it out; what OpenDKIM does is done here (--opendkim FILE names its config)",
            );
        }
        if !is_signing {
            return;
        }
        match dkim {
            Some((path, Ok(conf))) => self.dkim(path, &conf),
            Some((path, Err(flaw))) => self.refuse("smtpd_milters", format!("{path}: {flaw}"), "mend the file"),
            None => self.refuse(
                "smtpd_milters",
                "it is OpenDKIM, and its config was not found: mail would leave without a signature",
                "name its config: --opendkim FILE",
            ),
        }
    }

    fn dkim(&mut self, path: &str, conf: &super::dkim::Conf) {
        let keys = match conf.keys(self.input.read) {
            Ok(keys) => keys,
            Err(error) => {
                self.refuse("smtpd_milters", format!("{path}: {error}"), "sign each domain with keys of its own");
                return;
            }
        };
        let mut domains = Vec::new();
        for key in keys {
            let text = match (self.input.read)(&key.file) {
                Ok(text) if text.contains("PRIVATE KEY-----") => text,
                Ok(_) => {
                    self.refuse("smtpd_milters", format!("{}: it is no private key", key.file), "mend the KeyTable");
                    continue;
                }
                Err(error) => {
                    let instead = "run the import as root, or mend the KeyTable";
                    self.refuse("smtpd_milters", format!("{}: {error}", key.file), instead);
                    continue;
                }
            };
            let kept = self.keep(&format!("dkim/{}.{}.pem", key.domain, key.selector), text, true);
            let pair = (key.selector.clone(), kept);
            match self.target.domains.iter_mut().find(|domain| domain.name == key.domain) {
                Some(domain) if domain.dkim.contains(&pair) => {}
                Some(domain) if domain.dkim.is_empty() => domain.dkim.push(pair),
                Some(_) => {
                    let why = format!("{} has more than one key", key.domain);
                    self.refuse(
                        "smtpd_milters",
                        why,
                        "keep one RSA key in the SigningTable; an Ed25519 key is `postrider dkim new`",
                    );
                    continue;
                }
                None => self.target.domains.push(SendingDomain { name: key.domain.clone(), dkim: vec![pair] }),
            }
            domains.push(key.domain);
        }
        domains.dedup();
        let how = format!(
            "OpenDKIM: sending_domain.dkim of {}; a whole domain is signed, in relaxed form",
            domains.join(", ")
        );
        for name in ["smtpd_milters", "non_smtpd_milters"] {
            if self.facts.is_set(name) && !self.has_entry(name) {
                self.note(Action::Mapped, name, how.clone());
            }
        }
    }

    /// Tables of addresses and patterns.
    fn rewriting(&mut self) {
        for (name, key) in [
            ("canonical_maps", "canonical"),
            ("sender_canonical_maps", "sender_canonical"),
            ("recipient_canonical_maps", "recipient_canonical"),
            ("smtp_generic_maps", "generic"),
            ("sender_bcc_maps", "sender_bcc"),
            ("recipient_bcc_maps", "recipient_bcc"),
            ("header_checks", "header_checks"),
            ("smtp_header_checks", "smtp_header_checks"),
        ] {
            let tables = self.tables(name);
            self.rewrite(key, tables, name);
        }
        self.virtual_aliases();
        let mut masquerade = self.listed("masquerade_domains");
        for item in &masquerade {
            if item.trim_start_matches('!').parse::<Domain>().is_err() {
                self.refuse(
                    "masquerade_domains",
                    format!("\"{item}\" is no domain"),
                    "write domains, and !name for exceptions",
                );
            }
        }
        masquerade.retain(|item| item.trim_start_matches('!').parse::<Domain>().is_ok());
        self.rewrite("masquerade_domains", masquerade, "masquerade_domains");
        let exceptions = self.listed("masquerade_exceptions");
        self.rewrite("masquerade_exceptions", exceptions, "masquerade_exceptions");
        let bcc = self.value("always_bcc");
        if !bcc.is_empty() {
            let origin = self.target.local.origin.clone().unwrap_or_else(|| self.target.hostname.clone());
            let full = if bcc.contains('@') { bcc } else { format!("{bcc}@{origin}") };
            match full.parse::<Address>() {
                Ok(address) => {
                    let key = ("always_bcc", Value::Text(address.to_string()), "always_bcc");
                    self.target.rewrite.push(key);
                }
                Err(_) => self.refuse("always_bcc", "it is no address", "write one address"),
            }
        }
        let clients = self.value("local_header_rewrite_clients");
        if self.facts.is_set("local_header_rewrite_clients") && clients == "static:all" {
            let how = "headers of trusted clients and logins are rewritten: nobody else is served";
            self.note(Action::Mapped, "local_header_rewrite_clients", how);
        }
        let of_headers = ["canonical", "sender_canonical", "recipient_canonical", "masquerade_domains"];
        let rewrites = self.target.rewrite.iter().any(|(key, _, _)| of_headers.contains(key));
        let serves_others = self.target.listeners.iter().any(|listener| !listener.bind.ip().is_loopback());
        if rewrites && serves_others && clients != "static:all" && !clients.contains("permit_mynetworks") {
            let how = "headers of all clients that are served are rewritten; Postfix rewrote those of this machine's own mail, \
                       and of others the envelope alone";
            self.note(Action::Approximated, "local_header_rewrite_clients", how);
        }
    }

    /// A list with the files that it names; empty if one cannot be read, which is refused.
    fn listed(&mut self, name: &str) -> Vec<String> {
        self.facts.global().list(name).unwrap_or_else(|error| {
            self.refuse(name, error, "name a file that can be read");
            Vec::new()
        })
    }

    fn rewrite(&mut self, key: &'static str, items: Vec<String>, from: &'static str) {
        if !items.is_empty() {
            self.target.rewrite.push((key, Value::List(items), from));
        }
    }

    fn virtual_aliases(&mut self) {
        let name = match self.facts.is_set("virtual_maps") && !self.facts.is_set("virtual_alias_maps") {
            true => "virtual_maps",
            false => "virtual_alias_maps",
        };
        let mut tables = match self.value(name).is_empty() {
            true => Vec::new(),
            false => self.tables(name),
        };
        if !self.facts.is_set("virtual_alias_domains") {
            return self.rewrite("virtual_aliases", tables, "virtual_alias_maps");
        }
        match self.facts.global().list("virtual_alias_domains") {
            Ok(list) if list.iter().all(|item| item.parse::<Domain>().is_ok() || item.contains(':')) => {
                let mut text = String::from("# virtual_alias_domains: all others there are unknown\n");
                for item in list {
                    match item.contains(':') {
                        false => text += &format!("{item} -\n"),
                        true => match table::rows(&item, self.input.read) {
                            Ok(rows) => rows.iter().filter(|(_, key, _)| !key.contains('@')).for_each(|(_, key, _)| {
                                text += &format!("{key} -\n");
                            }),
                            Err(error) => self.refuse("virtual_alias_domains", error, "write the domains themselves"),
                        },
                    }
                }
                let path = self.keep("tables/virtual_alias_domains", text, false);
                tables.push(format!("texthash:{path}"));
                self.rewrite("virtual_aliases", tables, "virtual_alias_maps, virtual_alias_domains");
            }
            Ok(_) => self.refuse("virtual_alias_domains", "it is no list of domains", "write the domains themselves"),
            Err(error) => self.refuse("virtual_alias_domains", error, "write the domains themselves"),
        }
    }

    /// The tables of a parameter as ours, their files kept.
    pub fn tables(&mut self, name: &str) -> Vec<String> {
        let list = items(&self.value(name));
        list.iter().filter_map(|table| self.table(name, table)).collect()
    }

    /// One table as ours.
    pub fn table(&mut self, name: &str, table: &str) -> Option<String> {
        let (word, path) = match table::kind(table) {
            Ok(Kind::Patterns(word, path)) => (word, path),
            Ok(Kind::Inline(rest) | Kind::Static(rest)) if !rest.is_empty() && !name.ends_with("header_checks") => {
                return Some(table.trim_start_matches("proxy:").to_owned());
            }
            Ok(Kind::Inline(_) | Kind::Static(_)) => {
                self.refuse(name, format!("{table}: patterns, or an answer, are expected"), "use regexp or pcre");
                return None;
            }
            Ok(Kind::Plain(_)) if name.ends_with("header_checks") => {
                self.refuse(name, format!("{table}: patterns are expected"), "use regexp or pcre");
                return None;
            }
            Ok(Kind::Plain(path)) => ("texthash", path),
            Ok(Kind::Networks(_) | Kind::Random(_)) => {
                self.refuse(name, format!("{table}: it is asked for addresses here"), "use texthash, regexp or pcre");
                return None;
            }
            Err(error) => {
                self.refuse(name, error, "write it as a texthash, regexp or pcre table");
                return None;
            }
        };
        let text = match (self.input.read)(&path) {
            Ok(text) if text.len() <= COPY_BYTES_MAX => text,
            Ok(_) => {
                self.refuse(name, format!("{path}: it is larger than {COPY_BYTES_MAX} octets"), "split it");
                return None;
            }
            Err(error) => {
                let instead = format!("the text that was compiled is needed: `postmap -s {table} > {path}`");
                self.refuse(name, format!("{path}: {error}"), instead);
                return None;
            }
        };
        if word != "texthash" || name.ends_with("header_checks") {
            for (line, what) in bad_actions(&text, name) {
                self.refuse(name, format!("{path}:{line}: {what}"), "take the line out");
            }
        }
        let kept = self.keep(&format!("tables/{}", file_name(&path)), text, false);
        Some(format!("{word}:{kept}"))
    }

    fn number(&mut self, name: &'static str, key: &'static str, range: std::ops::RangeInclusive<u64>) -> Option<Key> {
        let value = self.value(name);
        let Ok(number) = value.parse::<u64>() else {
            self.refuse(name, "it is no number", "write a number");
            return None;
        };
        // Nought is no limit.
        let number = if number == 0 { *range.end() } else { number };
        let kept = number.clamp(*range.start(), *range.end());
        if kept != number {
            self.note(Action::Approximated, name, format!("{key} = {kept}, as far as it goes"));
        }
        Some((key, Value::Number(kept), name))
    }

    fn sizes(&mut self) {
        const MIB: u64 = 1 << 20;
        for (name, key, range) in [
            ("message_size_limit", "message", 64 << 10..=2048 * MIB),
            ("header_size_limit", "header_block", 16 << 10..=16 * MIB),
        ] {
            // Our own default of the header is larger than Postfix's.
            if name == "header_size_limit" && !self.facts.is_set(name) {
                continue;
            }
            if let Some((key, Value::Number(bytes), from)) = self.number(name, key, range) {
                self.target.limits.push((key, Value::Text(format!("{bytes} B")), from));
                if key == "message" && bytes > 256 * MIB {
                    let memory = ("body_memory", Value::Text(format!("{bytes} B")), from);
                    self.target.limits.push(memory);
                }
                if key == "header_block" {
                    self.note(Action::Approximated, name, "limits.header_block: a longer header is refused, not cut");
                }
            }
        }
        for (name, key, range) in [
            ("smtpd_recipient_limit", "recipients", 100..=100_000),
            ("smtpd_hard_error_limit", "errors", 1..=1000),
            ("smtpd_client_connection_count_limit", "connections_per_client", 1..=100_000),
            ("hopcount_limit", "hops", 10..=200),
        ] {
            let is_plain = self.value(name).bytes().all(|b| b.is_ascii_digit());
            if self.facts.is_set(name) && is_plain {
                let key = self.number(name, key, range);
                self.target.limits.extend(key);
            }
        }
    }

    /// A time in seconds; `None` if it is none, which is refused.
    pub fn time(&mut self, name: &str) -> Option<u64> {
        let seconds = seconds(&self.value(name), meaning::unit(name));
        if seconds.is_none() {
            self.refuse(name, "it is no time", "write a number with s, m, h, d or w");
        }
        seconds
    }

    fn bounded(&mut self, name: &'static str, key: &'static str, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
        let seconds = self.time(name)?;
        let kept = seconds.clamp(*range.start(), *range.end());
        if kept != seconds {
            self.note(Action::Approximated, name, format!("{key} = \"{kept}s\", as far as it goes"));
        }
        Some(kept)
    }

    fn times(&mut self) {
        const DAY: u64 = 86_400;
        if self.facts.is_set("maximal_queue_lifetime")
            && let Some(age) = self.bounded("maximal_queue_lifetime", "stream.transactional.max_age", 60..=30 * DAY)
        {
            self.target.max_age = Some(format!("{age}s"));
        }
        if self.facts.is_set("bounce_queue_lifetime") {
            let age = self.value("maximal_queue_lifetime");
            let (own, all) = (seconds(&self.value("bounce_queue_lifetime"), 'd'), seconds(&age, 'd'));
            if own != all {
                let how = "bounces have the age of other mail: stream.transactional.max_age";
                self.note(Action::Approximated, "bounce_queue_lifetime", how);
            }
        }
        for name in ["delay_warning_time", "confirm_delay_cleared"] {
            let value = self.value(name);
            if self.facts.is_set(name) && value != "no" && seconds(&value, 'h') != Some(0) {
                let how = "no warning is sent to senders; an alarm and `postrider why` tell of mail that waits";
                self.note(Action::Approximated, name, how);
            }
        }
        let mut first = 300;
        if self.facts.is_set("minimal_backoff_time")
            && let Some(wait) = self.bounded("minimal_backoff_time", "retry.first", 1..=DAY)
        {
            first = wait;
            self.target.retry.push(("first", Value::Text(format!("{wait}s")), "minimal_backoff_time"));
        }
        let is_longest = self.facts.is_set("maximal_backoff_time") || first > 4 * 3600;
        if is_longest && let Some(wait) = self.bounded("maximal_backoff_time", "retry.longest", first..=DAY) {
            self.target.retry.push(("longest", Value::Text(format!("{wait}s")), "maximal_backoff_time"));
        }
        for (name, key, range) in [
            ("smtp_connect_timeout", "connect_timeout", 1..=300),
            ("smtp_helo_timeout", "greeting_timeout", 10..=3600),
            ("smtp_rcpt_timeout", "command_timeout", 10..=3600),
            ("smtp_data_init_timeout", "data_timeout", 10..=3600),
            ("smtp_data_xfer_timeout", "block_timeout", 10..=3600),
            ("smtp_data_done_timeout", "final_dot_timeout", 60..=3600),
        ] {
            if !self.facts.is_set(name) {
                continue;
            }
            if let Some(seconds) = self.bounded(name, key, range) {
                self.target.delivery.push((key, Value::Text(format!("{seconds}s")), name));
            }
        }
        if self.facts.is_set("smtp_mail_timeout") {
            let how = "delivery.command_timeout, which smtp_rcpt_timeout says";
            self.note(Action::Approximated, "smtp_mail_timeout", how);
        }
    }

    /// Whom Postfix told of trouble.
    fn reports(&mut self) {
        let mut found = None;
        for name in
            ["2bounce_notice_recipient", "bounce_notice_recipient", "error_notice_recipient", "delay_notice_recipient"]
        {
            if !self.facts.is_set(name) {
                continue;
            }
            let value = self.value(name);
            let is_here = |address: &Address| {
                let domain = address.domain().to_string();
                domain == self.target.hostname || self.target.local.domains.contains(&domain)
            };
            match value.parse::<Address>() {
                Ok(address) if !is_here(&address) => {
                    found.get_or_insert(address.to_string());
                }
                _ => self.note(
                    Action::Ignored,
                    name,
                    "a name of this host: [local] and the key `postmaster` say where it goes",
                ),
            }
        }
        if let Some(address) = found {
            self.target.postmaster = Some(address);
        }
        if self.facts.is_set("notify_classes") {
            let how = "the key `postmaster` hears of alarms; copies of bounces are not sent to it";
            self.note(Action::Approximated, "notify_classes", how);
        }
    }

    /// The log that analysers read goes on where it was.
    fn log(&mut self) {
        let file = self.value("maillog_file");
        let classic = match file.as_str() {
            "" => "syslog",
            "/dev/stdout" => {
                self.note(Action::Mapped, "maillog_file", "the log goes to standard error, which the container keeps");
                return;
            }
            path if path.starts_with('/') => path,
            path => {
                self.refuse("maillog_file", format!("\"{path}\" is no absolute path"), "write one, or /dev/stdout");
                return;
            }
        };
        let from = if file.is_empty() { "syslog_facility" } else { "maillog_file" };
        self.target.log.push(("classic", Value::Text(classic.to_owned()), from));
    }

    /// What users of this machine may do.
    fn programs(&mut self) {
        for (name, key) in [
            ("authorized_submit_users", "submit_users"),
            ("authorized_mailq_users", "list_users"),
            ("authorized_flush_users", "flush_users"),
        ] {
            let list = match self.facts.global().list(name) {
                Ok(list) => list,
                Err(error) => {
                    self.refuse(name, error, "name a file that can be read");
                    continue;
                }
            };
            if !self.facts.is_set(name) || list == ["static:anyone"] || list == ["static:all"] {
                continue;
            }
            let odd = |user: &String| {
                let name = user.trim_start_matches('!');
                name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
            };
            match list.iter().any(odd) {
                true => self.refuse(name, "users in tables are not looked up", "write their names"),
                false => self.target.sendmail.push((key, Value::List(list), name)),
            }
        }
    }

    /// Services that no step spoke of, and their overrides.
    fn services(&mut self) {
        let facts = self.facts;
        for service in &facts.services {
            if service.kind != "inet" && !STOCK.contains(&service.command.as_str()) && service.command != "smtpd" {
                let why = format!("the service runs \"{}\", which is not Postfix's own", service.command);
                self.refuse_of(service, &service.command, why, "take it out of a copy of master.cf for the import");
            }
            for setting in &service.overrides {
                if self.understood.contains(&(service.line, setting.name.clone())) {
                    continue;
                }
                let is_same = facts.of(service).value(&setting.name) == facts.global().value(&setting.name);
                let is_used = service.kind == "inet" || service.command == "smtp";
                match meaning::row(&setting.name).map(|row| row.rule) {
                    _ if is_same || !is_used => {
                        self.note_of(Action::Ignored, service, &setting.name, "as it is for all, or of no use to us");
                    }
                    Some(Rule::Ignore(why)) => self.note_of(Action::Ignored, service, &setting.name, why),
                    Some(Rule::Refuse(harmless, why, instead)) => {
                        let value = facts.of(service).value(&setting.name);
                        match value.is_empty() || harmless.contains(&value.as_str()) {
                            true => self.note_of(Action::Ignored, service, &setting.name, "it does nothing"),
                            false => self.refuse_of(service, &setting.name, why, instead),
                        }
                    }
                    Some(Rule::Map(_)) => {
                        let why = "it cannot be set for one service alone";
                        self.refuse_of(service, &setting.name, why, "set it in main.cf, or for no service");
                    }
                    None => {
                        let is_named = self.is_named(&setting.name);
                        match is_named {
                            true => self.note_of(Action::Ignored, service, &setting.name, "a name for other values"),
                            false => {
                                let why = "nobody knows this parameter";
                                self.refuse_of(service, &setting.name, why, "mend its name, or take it out");
                            }
                        }
                    }
                }
            }
        }
    }

    /// Whether another value names it: `$name`.
    fn is_named(&self, name: &str) -> bool {
        let overrides = self.facts.services.iter().flat_map(|service| &service.overrides);
        let mut all = self.facts.settings.iter().chain(overrides);
        let classes = items(&self.value("smtpd_restriction_classes"));
        classes.iter().any(|class| class == name)
            || all.any(|setting| {
                setting.value.match_indices(name).any(|(at, _)| {
                    let before = setting.value[..at].trim_end().chars().next_back();
                    let after = setting.value[at + name.len()..].chars().next();
                    matches!(before, Some('$' | '{' | '('))
                        && !after.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_')
                })
            })
    }

    /// Parameters that no step spoke of.
    fn rest(&mut self) {
        let facts = self.facts;
        for setting in &facts.settings {
            let name = setting.name.as_str();
            if self.has_entry(name) {
                continue;
            }
            match meaning::row(name).map(|row| row.rule) {
                Some(Rule::Map(to)) => self.note(Action::Mapped, name, to),
                Some(Rule::Ignore(why)) => self.note(Action::Ignored, name, why),
                Some(Rule::Refuse(harmless, why, instead)) => {
                    let value = self.value(name);
                    let default = super::facts::default_of(name).unwrap_or_default();
                    let plain = |text: &str| items(text).join(", ");
                    let is_harmless = value.is_empty()
                        || setting.value == default
                        || harmless.iter().any(|text| plain(text) == plain(&value) || *text == setting.value);
                    match is_harmless {
                        true => self.note(Action::Ignored, name, "with this value it does nothing"),
                        false => self.refuse(name, why, instead),
                    }
                }
                None if self.is_named(name) => self.note(Action::Ignored, name, "a name for other values"),
                None => {
                    let why = "nobody knows this parameter: what it was meant to do is not done";
                    self.refuse(name, why, "mend its name, or take it out");
                }
            }
        }
        for name in meaning::MATTERS {
            if !self.has_entry(name)
                && let Some(Rule::Map(to)) = meaning::row(name).map(|row| row.rule)
            {
                self.note(Action::Mapped, name, to);
            }
        }
    }

    fn finish(self) -> Import {
        let mut entries = self.entries;
        let order = |entry: &Entry| {
            let (file, line) = entry.place.split_once(':').unwrap_or((&entry.place, "0"));
            let line: usize = line.split(' ').next().unwrap_or_default().parse().unwrap_or(0);
            (entry.action, file == "default", file.to_owned(), line)
        };
        entries.sort_by_key(order);
        Import { target: self.target, files: self.files, report: Report { entries } }
    }
}

fn place_of(service: &Service) -> String {
    format!("master.cf:{} ({})", service.line, service.name)
}

/// The value of a table of passwords: files by their names, and no more of what is written in place than its type.
fn without_passwords(value: &str) -> String {
    let shown = |item: &String| match table::kind(item) {
        Ok(Kind::Plain(path) | Kind::Patterns(_, path) | Kind::Networks(path)) if path.starts_with('/') => item.clone(),
        Ok(Kind::Static(_)) => "static:…".to_owned(),
        Ok(Kind::Inline(_)) => "inline:…".to_owned(),
        Ok(_) | Err(_) => "…".to_owned(),
    };
    items(value).iter().map(shown).collect::<Vec<_>>().join(", ")
}

/// The last part of a path, for a copy.
pub fn file_name(path: &str) -> String {
    let name = path.rsplit('/').find(|part| !part.is_empty()).unwrap_or("table");
    name.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' }).collect()
}

/// Lines of aliases(5) that are more than addresses.
fn bad_aliases(text: &str) -> Vec<(usize, String)> {
    let lines = match super::syntax::logical_lines(text) {
        Ok(lines) => lines,
        Err(flaw) => return vec![(flaw.line, flaw.what)],
    };
    let mut bad = Vec::new();
    for (line, text) in lines {
        let Some((name, rest)) = text.split_once(':') else {
            bad.push((line, "a line such as \"root: ops@example.com\" is expected".to_owned()));
            continue;
        };
        for item in rest.split(',').map(|item| item.trim().trim_matches('"')) {
            let what = match item.chars().next() {
                Some('|') => "a command is not run",
                Some('/') => "mail is not written to files",
                Some('\\') => "there are no mailboxes",
                Some(':') => "an :include: file is read by the daemon, and its user may not reach it",
                Some(_) | None if item.eq_ignore_ascii_case(name.trim()) => "it leads to itself, which wants a mailbox",
                Some(_) => continue,
                None => "an address is missing",
            };
            bad.push((line, format!("{}: {what} here", item)));
        }
    }
    bad
}

/// Lines of header_checks(5) whose action cannot be done.
fn bad_actions(text: &str, name: &str) -> Vec<(usize, String)> {
    if !name.ends_with("header_checks") {
        return Vec::new();
    }
    let lines = super::syntax::logical_lines(text).unwrap_or_default();
    let filter = lines.into_iter().filter_map(|(line, text)| {
        let words: Vec<String> = text.split_ascii_whitespace().map(str::to_ascii_uppercase).collect();
        words.iter().any(|word| word == "FILTER").then(|| (line, "FILTER hands mail to another program".to_owned()))
    });
    filter.collect()
}

/// What of a recipient a value of local(8) names, of which main.cf knows nothing.
fn of_recipient(written: Option<&str>) -> Option<&'static str> {
    const NAMES: [&str; 7] = ["domain", "extension", "local", "recipient", "user", "home", "shell"];
    let written = written?;
    let begins = |rest: &str, name: &str| {
        let rest = rest.trim_start_matches(['{', '(']);
        rest.strip_prefix(name).is_some_and(|after| !after.starts_with(|c: char| c == '_' || c.is_ascii_alphanumeric()))
    };
    NAMES.into_iter().find(|name| written.split('$').skip(1).any(|rest| begins(rest, name)))
}

/// A name with an alias whose owner has one too: aliases(5).
fn owned_list(text: &str) -> Option<String> {
    let lines = text.lines().filter(|line| !line.starts_with(['#', ' ', '\t']));
    let names: Vec<String> =
        lines.filter_map(|line| Some(line.split_once(':')?.0.trim().trim_matches('"').to_ascii_lowercase())).collect();
    let mut owned = names.iter().filter_map(|name| name.strip_prefix("owner-"));
    owned.find(|list| names.iter().any(|name| name == list)).map(str::to_owned)
}

/// The one address that a name leads to, over other names. `None`: several, or none.
fn alias_of(text: &str, name: &str) -> Option<Address> {
    const HOPS_MAX: usize = 10;
    let lines = super::syntax::logical_lines(text).ok()?;
    let mut name = name.to_owned();
    for _ in 0..HOPS_MAX {
        let value = lines.iter().find_map(|(_, line)| {
            let (own, value) = line.split_once(':')?;
            own.trim().trim_matches('"').eq_ignore_ascii_case(&name).then(|| value.trim().trim_matches('"').to_owned())
        })?;
        match value.contains('@') {
            true if value.contains([',', ' ', '"']) => return None,
            true => return value.parse().ok(),
            false => name = value,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_is_followed_to_the_one_address_it_leads_to() {
        for (text, want) in [
            ("postmaster: root\nroot: ops@x.example\n", Some("ops@x.example")),
            ("# Postmaster: a@x.example\nPostmaster: \"ops@x.example\"\n", Some("ops@x.example")),
            ("postmaster: root\nroot: a@x.example,\n b@x.example\n", None),
            ("postmaster: root\nroot: postmaster\n", None),
            ("postmaster: root\n", None),
            ("root: ops@x.example\n", None),
        ] {
            assert_eq!(alias_of(text, "postmaster").map(|address| address.to_string()).as_deref(), want, "{text}");
        }
    }

    #[test]
    fn a_list_with_an_owner_is_seen() {
        for (text, want) in [
            ("team: a@a.example\nowner-team: boss@a.example\n", Some("team")),
            ("Owner-Team: boss@a.example\n\"team\": a@a.example,\n  owner-x: b@a.example\n", Some("team")),
            ("owner-team: boss@a.example\n# team: a@a.example\n", None),
            ("team: a@a.example\n", None),
        ] {
            assert_eq!(owned_list(text).as_deref(), want, "{text}");
        }
    }
}
