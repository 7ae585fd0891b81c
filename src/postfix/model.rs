//! Our config as the import makes it: a typed model, and the commented TOML that it becomes.

use std::fmt::Write as _;

/// How connections are encrypted, as `delivery.tls` and `route.tls` say it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tls {
    /// Never.
    None,
    /// If the peer can.
    Opportunistic,
    /// Or not at all.
    Require,
    /// With a certificate for the host's name.
    Verify,
    /// From the first byte.
    Implicit,
}

impl Tls {
    /// The word in the config.
    pub fn name(self) -> &'static str {
        match self {
            Tls::None => "none",
            Tls::Opportunistic => "opportunistic",
            Tls::Require => "require",
            Tls::Verify => "verify",
            Tls::Implicit => "implicit",
        }
    }
}

/// What is spoken on a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Without AUTH.
    Smtp,
    /// STARTTLS, AUTH.
    Submission,
    /// TLS, AUTH.
    Submissions,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Mode::Smtp => "smtp",
            Mode::Submission => "submission",
            Mode::Submissions => "submissions",
        }
    }
}

/// A port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listener {
    /// Address and port.
    pub bind: std::net::SocketAddr,
    /// What is spoken.
    pub mode: Mode,
    /// Who needs no AUTH.
    pub trusted: Vec<String>,
    /// Where it comes from.
    pub from: String,
}

/// Who may log in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Credential {
    /// The user's name.
    pub name: String,
    /// argon2id.
    pub hash: Option<String>,
    /// Domains that it may use.
    pub from_domains: Vec<String>,
    /// Envelope senders beside them.
    pub senders: Vec<String>,
}

/// A local address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Source {
    /// Its name.
    pub name: String,
    /// What is bound.
    pub address: String,
    /// What EHLO says, if not the hostname.
    pub ehlo: Option<String>,
    /// What peers see.
    pub public_address: Option<String>,
}

/// What becomes of a route's mail.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Way {
    /// It goes to these; `mx:` is where DNS says.
    Hosts(Vec<String>),
    /// It is refused.
    Fail(String),
    /// It waits.
    Retry(String),
    /// It is dropped.
    Discard,
}

/// Where mail goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Route {
    /// Whose mail: `*`, `=example.com`, `.example.com`, `user@example.com`.
    pub recipient: String,
    /// From whom.
    pub sender: Option<String>,
    /// What becomes of it.
    pub way: Way,
    /// Hosts that are tried when these cannot be reached.
    pub fallback: Vec<String>,
    /// If not as `delivery.tls` says.
    pub tls: Option<Tls>,
    /// User name and password file.
    pub login: Option<(String, String)>,
    /// Its source, if not the pool's.
    pub source: Option<String>,
    /// Connections at once.
    pub connection_limit: Option<u64>,
    /// Messages by time.
    pub rate: Option<String>,
    /// Where it comes from.
    pub from: String,
}

impl Route {
    /// Whether it goes where DNS says.
    pub fn is_usual(&self) -> bool {
        matches!(&self.way, Way::Hosts(hops) if hops.iter().any(|hop| hop == "mx:"))
    }
}

/// Limits of one recipient domain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecipientDomain {
    /// That name alone.
    pub name: String,
    /// How it is encrypted.
    pub tls: Option<Tls>,
    /// Messages by time.
    pub rate: Option<String>,
    /// Where it comes from.
    pub from: String,
}

/// A domain that mail is sent from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SendingDomain {
    /// Its name.
    pub name: String,
    /// Selectors and key files.
    pub dkim: Vec<(String, String)>,
}

/// Local names.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Local {
    /// Added to bare names.
    pub origin: Option<String>,
    /// Names beside hostname and localhost.
    pub domains: Vec<String>,
    /// aliases(5).
    pub aliases: Option<String>,
    /// Before extensions.
    pub delimiter: String,
    /// Where others go.
    pub unknown: Option<String>,
}

/// A value of TOML.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    /// A string.
    Text(String),
    /// A number.
    Number(u64),
    /// Strings.
    List(Vec<String>),
}

/// A key with its value, and the parameter that it comes from.
pub type Key = (&'static str, Value, &'static str);

/// The whole config.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Target {
    /// Our name.
    pub hostname: String,
    /// Where postmaster's mail goes.
    pub postmaster: Option<String>,
    /// Certificate and key.
    pub tls: Option<(String, String)>,
    /// One or more.
    pub listeners: Vec<Listener>,
    /// Who logs in; none where nobody does.
    pub credentials: Vec<Credential>,
    /// Longest age of transactional mail, which is what comes in.
    pub max_age: Option<String>,
    /// None: the kernel's own.
    pub sources: Vec<Source>,
    /// Sources and weights of the pool `default`.
    pub pool: Vec<(String, u64)>,
    /// One or more.
    pub domains: Vec<SendingDomain>,
    /// In no order.
    pub routes: Vec<Route>,
    /// In no order.
    pub recipient_domains: Vec<RecipientDomain>,
    /// Keys of `[limits]`.
    pub limits: Vec<Key>,
    /// Keys of `[delivery]`.
    pub delivery: Vec<Key>,
    /// Keys of `[retry]`.
    pub retry: Vec<Key>,
    /// Local names.
    pub local: Local,
    /// Keys of `[rewrite]`.
    pub rewrite: Vec<Key>,
    /// Keys of `[sendmail]`.
    pub sendmail: Vec<Key>,
    /// Keys of `[log]`.
    pub log: Vec<Key>,
}

/// A string of TOML.
pub fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => drop(write!(out, "\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn list(items: &[String]) -> String {
    let items: Vec<String> = items.iter().map(|item| quoted(item)).collect();
    format!("[{}]", items.join(", "))
}

/// The file while it is written.
#[derive(Default)]
struct Page(String);

impl Page {
    fn section(&mut self, header: &str, from: &str) {
        self.0.push('\n');
        // What a config says of itself must not end the comment that quotes it.
        let from: String = from.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        if !from.is_empty() {
            let _ = writeln!(self.0, "# {from}");
        }
        let _ = writeln!(self.0, "{header}");
    }

    fn text(&mut self, key: &str, value: &str) {
        let _ = writeln!(self.0, "{key} = {}", quoted(value));
    }

    fn some(&mut self, key: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(key, value);
        }
    }

    fn list(&mut self, key: &str, items: &[String]) {
        let _ = writeln!(self.0, "{key} = {}", list(items));
    }

    fn keys(&mut self, header: &str, keys: &[Key]) {
        if keys.is_empty() {
            return;
        }
        self.section(header, "");
        for (key, value, from) in keys {
            let value = match value {
                Value::Text(text) => quoted(text),
                Value::Number(number) => number.to_string(),
                Value::List(items) => list(items),
            };
            let _ = writeln!(self.0, "{key} = {value}  # {from}");
        }
    }
}

impl Target {
    /// The file `postrider.toml`.
    pub fn toml(&self) -> String {
        let mut page = Page::default();
        page.0.push_str(
            "# Made from a Postfix config by `postrider import postfix`; import.txt beside it says what became of each\n\
             # parameter. Every key is explained in the shipped postrider.toml. `postrider check` judges it.\n\n",
        );
        page.text("hostname", &self.hostname);
        page.some("postmaster", self.postmaster.as_deref());
        if let Some((certificate, private_key)) = &self.tls {
            page.section("[tls]", "smtpd_tls_cert_file, smtpd_tls_key_file");
            page.text("certificate", certificate);
            page.text("private_key", private_key);
        }
        self.way_in(&mut page);
        self.way_out(&mut page);
        self.names(&mut page);
        page.0
    }

    fn way_in(&self, page: &mut Page) {
        for listener in &self.listeners {
            page.section("[[listener]]", &listener.from);
            page.text("bind", &listener.bind.to_string());
            page.text("mode", listener.mode.name());
            if !listener.trusted.is_empty() {
                page.list("trusted_networks", &listener.trusted);
            }
        }
        for credential in &self.credentials {
            page.section("[[credential]]", "From --users.");
            page.text("name", &credential.name);
            page.some("password_hash", credential.hash.as_deref());
            page.list("from_domains", &credential.from_domains);
            if !credential.senders.is_empty() {
                page.list("senders", &credential.senders);
            }
        }
        page.keys("[limits]", &self.limits);
    }

    fn way_out(&self, page: &mut Page) {
        if let Some(max_age) = &self.max_age {
            page.section("[stream.transactional]", "maximal_queue_lifetime");
            page.text("max_age", max_age);
        }
        for source in &self.sources {
            page.section(&format!("[source.{}]", bare(&source.name)), "smtp_bind_address, smtp_helo_name");
            page.text("address", &source.address);
            page.some("public_address", source.public_address.as_deref());
            page.some("ehlo", source.ehlo.as_deref());
        }
        if !self.pool.is_empty() {
            page.section("[pool.default]", "");
            let member = |(name, weight): &(String, u64)| match weight {
                1 => quoted(name),
                weight => format!("{{ source = {}, weight = {weight} }}", quoted(name)),
            };
            let members: Vec<String> = self.pool.iter().map(member).collect();
            let _ = writeln!(page.0, "sources = [{}]", members.join(", "));
        }
        for domain in &self.domains {
            page.section("[[sending_domain]]", "");
            page.text("name", &domain.name);
            if !domain.dkim.is_empty() {
                let key = |(selector, key): &(String, String)| {
                    format!("{{ selector = {}, key = {} }}", quoted(selector), quoted(key))
                };
                let keys: Vec<String> = domain.dkim.iter().map(key).collect();
                let _ = writeln!(page.0, "dkim = [{}]", keys.join(", "));
            }
        }
        for route in &self.routes {
            route.write(page);
        }
        for domain in &self.recipient_domains {
            page.section("[[recipient_domain]]", &domain.from);
            page.text("name", &domain.name);
            page.some("tls", domain.tls.map(Tls::name));
            if let Some(rate) = &domain.rate {
                page.list("max_message_rate", std::slice::from_ref(rate));
            }
        }
        page.keys("[delivery]", &self.delivery);
        page.keys("[retry]", &self.retry);
    }

    fn names(&self, page: &mut Page) {
        let local = &self.local;
        if *local != Local::default() {
            page.section("[local]", "myorigin, mydestination, alias_maps, recipient_delimiter, luser_relay");
            page.some("origin", local.origin.as_deref());
            if !local.domains.is_empty() {
                page.list("domains", &local.domains);
            }
            page.some("aliases", local.aliases.as_deref());
            if !local.delimiter.is_empty() {
                page.text("recipient_delimiter", &local.delimiter);
            }
            page.some("unknown", local.unknown.as_deref());
        }
        page.keys("[rewrite]", &self.rewrite);
        page.keys("[sendmail]", &self.sendmail);
        page.keys("[log]", &self.log);
    }
}

/// A key of TOML, quoted where it must be.
fn bare(name: &str) -> String {
    let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if plain { name.to_owned() } else { quoted(name) }
}

impl Route {
    fn write(&self, page: &mut Page) {
        page.section("[[route]]", &self.from);
        page.text("recipient_domain", &self.recipient);
        page.some("sender", self.sender.as_deref());
        match &self.way {
            Way::Hosts(hops) => page.list("next_hop", hops),
            Way::Fail(text) => page.text("fail", text),
            Way::Retry(text) => page.text("retry", text),
            Way::Discard => page.0.push_str("discard = true\n"),
        }
        if !self.fallback.is_empty() {
            page.list("fallback", &self.fallback);
        }
        page.some("tls", self.tls.map(Tls::name));
        if let Some((username, password_file)) = &self.login {
            page.text("username", username);
            page.text("password_file", password_file);
        }
        page.some("source", self.source.as_deref());
        if let Some(limit) = self.connection_limit {
            let _ = writeln!(page.0, "connection_limit = {limit}");
        }
        if let Some(rate) = &self.rate {
            page.list("max_message_rate", std::slice::from_ref(rate));
        }
    }
}
