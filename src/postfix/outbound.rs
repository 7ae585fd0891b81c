//! Where mail goes, by whom and how: next hops, transports, logins, TLS, sources and limits.
//!
//! Called by [`super::map`]. A route of ours is chosen by the most specific sender, then the most specific recipient; Postfix
//! asks transport_maps by recipient first. So each entry of transport_maps is written once more for every sender that has a
//! route of its own.

use super::facts::View;
use super::map::{Mapper, file_name};
use super::model::{Key, RecipientDomain, Route, Source, Tls, Value, Way};
use super::report::Action;
use super::syntax::{Service, items, unbraced};
use super::table::{self, Kind};
use crate::mail::{Address, Domain};

/// Most routes: senders with a route times entries of transport_maps.
const ROUTES_MAX: usize = 20_000;
/// What a clone of smtp may set for itself, and is understood.
const OWN: &[&str] = &[
    "smtp_bind_address",
    "smtp_bind_address6",
    "smtp_helo_name",
    "myhostname",
    "inet_interfaces",
    "smtp_tls_security_level",
    "smtp_tls_wrappermode",
    "smtp_use_tls",
    "smtp_enforce_tls",
    "smtp_tls_policy_maps",
    "smtp_sasl_auth_enable",
    "smtp_sasl_password_maps",
    "smtp_sasl_security_options",
    "smtp_sasl_tls_security_options",
    "smtp_sasl_mechanism_filter",
    "smtp_fallback_relay",
    "fallback_relay",
];

/// A host to send to.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Hop {
    host: String,
    port: Option<u16>,
    is_mx: bool,
}

/// Understands a next hop: several hosts, each `host`, `[host]`, `[host]:port`.
fn hops(text: &str) -> Result<Vec<Hop>, String> {
    items(text).iter().map(|item| hop(item)).collect()
}

fn hop(text: &str) -> Result<Hop, String> {
    let wrong = || format!("\"{text}\" is no host: [smtp.example.net]:587 or example.net is expected");
    let (host, port, is_mx) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or_else(wrong)?;
            let port = match rest {
                "" => None,
                rest => Some(rest.strip_prefix(':').ok_or_else(wrong)?),
            };
            (host, port, false)
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port), true),
            None => (text, None, true),
        },
    };
    let host = host.strip_prefix("ipv6:").or_else(|| host.strip_prefix("IPv6:")).unwrap_or(host);
    let port = match port {
        None => None,
        Some("smtp") => Some(25),
        Some("submission") => Some(587),
        Some("smtps" | "submissions" | "urd") => Some(465),
        Some(port) => Some(port.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(wrong)?),
    };
    if let Ok(address) = host.parse::<std::net::IpAddr>() {
        return match is_mx {
            true => Err(format!("\"{text}\" is an address without brackets, which is looked up as a name: [{host}]")),
            false => Ok(Hop { host: address.to_string(), port, is_mx: false }),
        };
    }
    let name: Domain = host.parse().map_err(|_| wrong())?;
    let is_numeric = name.as_str().rsplit('.').next().is_some_and(|top| top.bytes().all(|b| b.is_ascii_digit()));
    match is_numeric {
        true => Err(wrong()),
        false => Ok(Hop { host: name.to_string(), port, is_mx }),
    }
}

impl std::fmt::Display for Hop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mx = if self.is_mx { "mx:" } else { "" };
        match (self.host.contains(':'), self.port) {
            (true, Some(port)) => write!(f, "[{}]:{port}", self.host),
            (false, Some(port)) => write!(f, "{mx}{}:{port}", self.host),
            (_, None) => write!(f, "{mx}{}", self.host),
        }
    }
}

/// What transport_maps or a default says: the transport, and the next hop as it is written.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Answer {
    transport: String,
    nexthop: String,
}

fn answer(text: &str) -> Answer {
    let (transport, nexthop) = text.split_once(':').unwrap_or((text, ""));
    Answer { transport: transport.trim().to_owned(), nexthop: nexthop.trim().to_owned() }
}

/// For whom a route is made.
#[derive(Clone)]
struct Whom<'a> {
    recipient: &'a str,
    sender: Option<&'a str>,
    /// The domain that an empty next hop stands for; `None`: any.
    domain: Option<&'a str>,
    parameter: &'static str,
    from: String,
}

impl Mapper<'_> {
    /// Every step about the way out.
    pub fn routes(&mut self) {
        self.sources();
        self.delivery();
        let default = answer(&self.value("default_transport"));
        let relayhost = self.value("relayhost");
        let senders = self.sender_routes(&default, &relayhost);
        let default_hop = match default.nexthop.is_empty() {
            true => relayhost.clone(),
            false => default.nexthop.clone(),
        };
        let name = if relayhost.is_empty() { "default_transport" } else { "relayhost" };
        let whom = Whom { recipient: "*", sender: None, domain: None, parameter: name, from: name.to_owned() };
        if let Some(route) = self.route(&default.transport, &default_hop, &whom)
            && self.is_needed(&route)
        {
            self.target.routes.push(route);
        }
        if self.facts.is_set("default_transport")
            && !self.entries.iter().any(|entry| entry.parameter == "default_transport")
        {
            self.note(Action::Mapped, "default_transport", "route.source, or no route: where DNS says");
        }
        self.transports(&default, &relayhost, &senders);
        self.policies(&default);
        self.authority();
        self.unused_passwords();
        self.unused_limits();
    }

    /// A route that says no more than no route does is left out.
    fn is_needed(&self, route: &Route) -> bool {
        !route.is_usual()
            || route.source.is_some()
            || route.tls.is_some()
            || !route.fallback.is_empty()
            || route.sender.is_some()
            || route.recipient != "*"
    }

    /// Where a transport sends over, and the system's own source.
    fn sources(&mut self) {
        let facts = self.facts;
        let view = facts.global();
        let protocols = items(&view.value("inet_protocols"));
        let only_v6 = protocols.iter().all(|item| item == "ipv6");
        let own = source_address(view);
        let ehlo = self.ehlo(view);
        let public = self.value("proxy_interfaces");
        let public = public
            .parse::<std::net::IpAddr>()
            .ok()
            .filter(|address| !address.is_unspecified() && !address.is_multicast());
        if self.facts.is_set("proxy_interfaces") && public.is_none() && !self.value("proxy_interfaces").is_empty() {
            self.note(
                Action::Ignored,
                "proxy_interfaces",
                "no mail is taken for these addresses; source.public_address is one",
            );
        }
        if !only_v6
            && self.facts.is_set("inet_protocols")
            && protocols.iter().any(|item| item == "all" || item == "ipv6")
        {
            let how = "ports of both families; peers are reached over IPv4: add a [source.NAME] with an IPv6 address for both";
            self.note(Action::Approximated, "inet_protocols", how);
        }
        if own.is_some() || ehlo.is_some() || only_v6 || public.is_some() {
            let any = if only_v6 { "::" } else { "0.0.0.0" };
            self.target.sources.push(Source {
                name: "default".to_owned(),
                address: own.unwrap_or_else(|| any.to_owned()),
                ehlo,
                public_address: public.map(|address| address.to_string()),
            });
        }
        for service in facts.services.iter().filter(|service| is_client(service)) {
            for name in OWN {
                self.understood.insert((service.line, (*name).to_owned()));
            }
            let view = facts.of(service);
            for name in OWN.iter().filter(|name| view.overrides(name)) {
                self.note_of(Action::Mapped, service, name, "[source.NAME], or the routes of this transport");
            }
            let is_own = ["smtp_bind_address", "smtp_bind_address6", "inet_interfaces", "smtp_helo_name", "myhostname"];
            if !is_own.iter().any(|name| view.overrides(name)) || service.name == "smtp" {
                if service.name == "smtp" && is_own.iter().any(|name| view.overrides(name)) {
                    let (address, ehlo) = (source_address(view), self.ehlo(view));
                    self.target.sources.retain(|source| source.name != "default");
                    self.target.sources.push(Source {
                        name: "default".to_owned(),
                        address: address.unwrap_or_else(|| "0.0.0.0".to_owned()),
                        ehlo,
                        public_address: None,
                    });
                }
                continue;
            }
            let is_name = |c: char| c.is_ascii_alphanumeric() || "-_.@+".contains(c);
            if service.name == "default" || service.name.len() > 64 || !service.name.chars().all(is_name) {
                self.refuse_of(service, "smtp_bind_address", "a source cannot have this name", "rename the transport");
                continue;
            }
            let (address, ehlo) = (source_address(view), self.ehlo(view));
            let address = address.unwrap_or_else(|| "0.0.0.0".to_owned());
            if view.overrides("smtp_bind_address") && view.overrides("smtp_bind_address6") {
                let how = "source.address; its IPv6 address needs a [source.NAME] of its own";
                self.note_of(Action::Approximated, service, "smtp_bind_address6", how);
            }
            self.target.sources.push(Source { name: service.name.clone(), address, ehlo, public_address: None });
        }
        if self.target.sources.is_empty() {
            return;
        }
        if !self.target.sources.iter().any(|source| source.name == "default") {
            let any = if only_v6 { "::" } else { "0.0.0.0" };
            let source =
                Source { name: "default".to_owned(), address: any.to_owned(), ehlo: None, public_address: None };
            self.target.sources.insert(0, source);
        }
        self.target.pool = vec![("default".to_owned(), 1)];
        self.random_sources();
    }

    /// `sender_dependent_default_transport_maps = randmap:{a,b}` or `default_transport = randmap…` shares mail among sources.
    fn random_sources(&mut self) {
        let name = "sender_dependent_default_transport_maps";
        let value = self.value(name);
        let [map] = items(&value).try_into().unwrap_or_else(|_: Vec<String>| [String::new()]);
        let Ok(Kind::Random(members)) = table::kind(&map) else { return };
        let mut pool: Vec<(String, u64)> = Vec::new();
        for member in members {
            let source = answer(&member);
            let is_known = self.target.sources.iter().any(|other| other.name == source.transport);
            let source_name = match source.transport.as_str() {
                "smtp" | "relay" => "default".to_owned(),
                other if is_known => other.to_owned(),
                other => {
                    self.refuse(
                        name,
                        format!("\"{other}\" is no transport with a source address"),
                        "name clones of smtp",
                    );
                    return;
                }
            };
            if !source.nexthop.is_empty() {
                self.refuse(name, "its members name next hops", "use relayhost for the next hop");
                return;
            }
            match pool.iter_mut().find(|(other, _)| *other == source_name) {
                Some((_, weight)) => *weight += 1,
                None => pool.push((source_name, 1)),
            }
        }
        if pool.is_empty() {
            self.refuse(name, "it names no transport", "name clones of smtp");
            return;
        }
        self.target.pool = pool;
        self.note(Action::Mapped, name, "pool.default: its sources share the mail");
    }

    fn ehlo(&mut self, view: View<'_>) -> Option<String> {
        let name = view.value("smtp_helo_name");
        match name.parse::<Domain>() {
            Ok(domain) if domain.as_str() == self.target.hostname => None,
            Ok(domain) => Some(domain.to_string()),
            Err(_) => {
                self.refuse("smtp_helo_name", "it is no host name", "write the name that the address resolves to");
                None
            }
        }
    }

    /// What holds for every way out.
    fn delivery(&mut self) {
        let view = self.facts.global();
        for name in ["smtp_dns_support_level", "disable_dns_lookups"] {
            let value = self.value(name);
            if matches!(&*value, "disabled" | "yes") {
                let hops = hops(&self.value("relayhost")).unwrap_or_default();
                match !hops.is_empty() && hops.iter().all(|hop| !hop.is_mx) {
                    true => self.note(
                        Action::Approximated,
                        name,
                        "names of hosts are looked up by DNS; /etc/hosts is not read",
                    ),
                    false => self.refuse(name, "MX records are looked up here", "name a relayhost in brackets"),
                }
            } else if value == "dnssec" {
                self.note(Action::Approximated, name, "DNS is asked without DNSSEC, and no level here needs it");
            }
        }
        if self.facts.is_set("smtp_host_lookup")
            && items(&self.value("smtp_host_lookup")).iter().any(|way| way == "native")
        {
            self.note(
                Action::Approximated,
                "smtp_host_lookup",
                "names of hosts are looked up by DNS; /etc/hosts is not read",
            );
        }
        // Routes to MX hosts refuse it themselves; in brackets, the next hop's name is the host's.
        let level = match &*self.value("smtp_tls_security_level") {
            "secure" => Some(Tls::Verify),
            _ => self.level("", view, "smtp_tls_security_level", true),
        };
        if let Some(tls) = level
            && tls != Tls::Implicit
        {
            self.target.delivery.push(("tls", Value::Text(tls.name().to_owned()), "smtp_tls_security_level"));
        }
        let file = self.value("smtp_tls_CAfile");
        if !file.is_empty()
            && file != "/etc/ssl/certs/ca-certificates.crt"
            && file != "/etc/pki/tls/certs/ca-bundle.crt"
        {
            match (self.input.read)(&file) {
                Ok(text) if text.contains("BEGIN CERTIFICATE") => {
                    let kept = self.keep(&format!("tls/{}", file_name(&file)), text, false);
                    self.target.delivery.push(("ca_file", Value::Text(kept), "smtp_tls_CAfile"));
                }
                Ok(_) => self.refuse("smtp_tls_CAfile", "it holds no certificate", "name a PEM file"),
                Err(error) => self.refuse("smtp_tls_CAfile", error, "name a file that can be read"),
            }
        }
        let path = self.value("smtp_tls_CApath");
        let system = ["/etc/ssl/certs", "/etc/ssl/certs/", "/etc/pki/tls/certs", "/etc/postfix/certs"];
        if !path.is_empty() && !system.contains(&path.as_str()) && level == Some(Tls::Verify) {
            self.refuse(
                "smtp_tls_CApath",
                "a directory of certificates is not read",
                "put them into one file: smtp_tls_CAfile",
            );
        }
        self.rates("smtp", |mapper, key| mapper.target.delivery.push(key));
    }

    /// `smtp_…` limits, which are those of `[delivery]`.
    fn rates(&mut self, transport: &str, push: impl Fn(&mut Self, Key)) {
        let name = format!("{transport}_destination_concurrency_limit");
        let value = self.value(&name);
        if value != "20" {
            match value.parse::<u64>() {
                Ok(limit) => {
                    let limit = if limit == 0 { 10_000 } else { limit.clamp(1, 10_000) };
                    push(self, ("connection_limit", Value::Number(limit), "smtp_destination_concurrency_limit"));
                    let how =
                        "delivery.connection_limit: connections to a site, which is all domains of one MX together";
                    self.said(&name, "default_destination_concurrency_limit", Action::Approximated, how);
                }
                Err(_) => self.refuse(&name, "it is no number", "write a number"),
            }
        }
        for (suffix, key, default) in [
            ("destination_rate_delay", "max_message_rate", "default_destination_rate_delay"),
            ("transport_rate_delay", "total_message_rate", "default_transport_rate_delay"),
        ] {
            let name = format!("{transport}_{suffix}");
            let Some(delay) = self.time(&name) else { continue };
            if delay == 0 {
                continue;
            }
            if delay > 86_400 {
                self.refuse(&name, "more than a day between messages cannot be said", "write at most 1d");
                continue;
            }
            push(self, (key, Value::List(vec![format!("1/{delay}s")]), "smtp_destination_rate_delay"));
            let how = format!("delivery.{key} = [\"1/{delay}s\"], to a site, which is all domains of one MX together");
            self.said(&name, default, Action::Approximated, &how);
        }
    }

    /// Notes the parameter that is set: the transport's own, or the default of all.
    fn said(&mut self, own: &str, default: &str, action: Action, how: &str) {
        let name = if self.facts.is_set(own) { own } else { default };
        if self.facts.is_set(name) && !self.entries.iter().any(|entry| entry.parameter == name) {
            self.note(action, name, how);
        }
    }

    /// The level of TLS that a transport has by itself, or by the policy of a next hop.
    fn level(&mut self, nexthop: &str, view: View<'_>, parameter: &str, is_default: bool) -> Option<Tls> {
        let mut level = view.value("smtp_tls_security_level");
        if level.is_empty() {
            level = match (view.flag("smtp_enforce_tls"), view.flag("smtp_use_tls")) {
                (true, _) => "verify".to_owned(),
                (false, true) => "may".to_owned(),
                (false, false) => "none".to_owned(),
            };
        }
        if !is_default && let Some(own) = self.policy(nexthop, view) {
            level = own;
        }
        if view.flag("smtp_tls_wrappermode") {
            return match level.as_str() {
                "encrypt" | "verify" | "secure" => Some(Tls::Implicit),
                _ if is_default => None,
                _ => {
                    self.refuse(
                        "smtp_tls_wrappermode",
                        "it needs level encrypt",
                        "set smtp_tls_security_level = encrypt",
                    );
                    None
                }
            };
        }
        self.tls_of(&level, parameter, nexthop)
    }

    fn tls_of(&mut self, level: &str, parameter: &str, nexthop: &str) -> Option<Tls> {
        let mut words = level.split_ascii_whitespace();
        let word = words.next().unwrap_or_default();
        let rest: Vec<&str> =
            words.filter(|word| !word.starts_with("ciphers=") && !word.starts_with("protocols=")).collect();
        if !rest.is_empty() {
            let why = format!("{}: only the host's own name is verified", rest.join(" "));
            self.refuse(parameter, why, "leave the attribute out");
        }
        match word {
            "none" => Some(Tls::None),
            "may" => Some(Tls::Opportunistic),
            "encrypt" => Some(Tls::Require),
            "verify" => Some(Tls::Verify),
            "secure" if nexthop.starts_with('[') => Some(Tls::Verify),
            "secure" => {
                let why =
                    "secure wants the certificate of the recipient's domain, and here that of the MX host is verified";
                self.refuse(parameter, why, "use verify, or a next hop in brackets");
                Some(Tls::Verify)
            }
            "dane" | "dane-only" | "half-dane" | "fingerprint" => {
                let why = format!("{word} is not spoken: connections would be less sure");
                self.refuse(parameter, why, "use encrypt or verify, or may if that is enough");
                // Where --allow takes the refusal back: a host without TLSA records was met as "may" has it.
                Some(if matches!(word, "dane" | "half-dane") { Tls::Opportunistic } else { Tls::Require })
            }
            other => {
                self.refuse(parameter, format!("\"{other}\" is no level"), "write none, may, encrypt or verify");
                None
            }
        }
    }

    /// The policy of a next hop, as it is written: with brackets and port, or a domain and those above it.
    fn policy(&mut self, nexthop: &str, view: View<'_>) -> Option<String> {
        let mut rows = Vec::new();
        for map in items(&view.value("smtp_tls_policy_maps")) {
            rows.extend(self.rows("smtp_tls_policy_maps", &map).unwrap_or_default());
        }
        let find = |key: &str| rows.iter().find(|(_, other, _)| *other == key).map(|(_, _, value)| value.clone());
        let nexthop = nexthop.to_ascii_lowercase();
        let mut rest = match nexthop.starts_with('[') || nexthop.contains(':') {
            true => "",
            false => nexthop.as_str(),
        };
        let mut found = find(&nexthop);
        while found.is_none()
            && let Some((_, parent)) = rest.split_once('.')
        {
            found = find(&format!(".{parent}"));
            rest = parent;
        }
        found
    }

    fn rows(&mut self, parameter: &str, map: &str) -> Result<Vec<(usize, String, String)>, ()> {
        table::rows(map, self.input.read).map_err(|error| {
            // What is no table may be a part of a password.
            let is_hidden = parameter.contains("password") && table::kind(map).is_err();
            let error = if is_hidden { "an item of it is no table that is read here".to_owned() } else { error };
            self.refuse(parameter, error, "write it as a texthash table of plain keys");
        })
    }

    /// The user name and password file of a route: Postfix asks by sender, by host, by the next hop as it is written.
    fn login(&mut self, dests: &[(String, Hop)], sender: Option<&str>, view: View<'_>) -> Option<(String, String)> {
        if !view.flag("smtp_sasl_auth_enable") {
            return None;
        }
        let parameter = "smtp_sasl_password_maps";
        let mut maps: Vec<Passwords> = Vec::new();
        for map in items_with_static(&view.value(parameter)) {
            match table::kind(&map) {
                Ok(Kind::Static(text)) => maps.push(Passwords::Of(text)),
                _ => maps.extend(self.rows(parameter, &map).ok().map(Passwords::Rows)),
            }
        }
        let asked = std::cell::RefCell::new(Vec::new());
        let find = |key: &str| {
            asked.borrow_mut().push(key.to_ascii_lowercase());
            maps.iter().find_map(|map| map.find(key))
        };
        let sender = sender.filter(|sender| view.flag("smtp_sender_dependent_authentication") && *sender != "<>");
        let by_sender = sender.and_then(|sender| {
            let domain = || find(&sender[sender.find('@')?..]);
            find(sender).or_else(domain)
        });
        let mut logins: Vec<Option<String>> = Vec::new();
        for (dest, hop) in dests {
            let by_host = || if hop.is_mx { None } else { find(&hop.host) };
            let login = by_sender.clone().or_else(by_host).or_else(|| find(dest));
            if !logins.contains(&login) {
                logins.push(login);
            }
        }
        self.logged_in.extend(asked.into_inner());
        if logins.len() > 1 {
            let hosts: Vec<&str> = dests.iter().map(|(dest, _)| dest.as_str()).collect();
            let why = format!("{} have not the same login, and a route shows one to all its hosts", hosts.join(", "));
            self.refuse(parameter, why, "name one next hop, or those that have the same login");
            return None;
        }
        let text = logins.pop().flatten()?;
        let Some((username, password)) = text.split_once(':').filter(|(_, password)| !password.is_empty()) else {
            self.refuse(parameter, "\"user:password\" is expected", "mend the entry");
            return None;
        };
        self.mechanisms(view);
        let host = dests.first().map_or("relay", |(_, hop)| &hop.host);
        let name = format!("passwords/{}", file_name(&format!("{host}-{username}")));
        let kept = self.keep(&name, format!("{password}\n"), true);
        Some((username.to_owned(), kept))
    }

    /// PLAIN and LOGIN are spoken, which must be allowed.
    fn mechanisms(&mut self, view: View<'_>) {
        let filter = items(&view.value("smtp_sasl_mechanism_filter"));
        let allows = |name: &str| {
            let mut words = filter.iter().map(|word| {
                let bare = word.trim_start_matches('!').to_ascii_lowercase();
                ((word.len() - word.trim_start_matches('!').len()) % 2 == 0, bare)
            });
            words.find(|(_, word)| word == name || word.starts_with("static:")).is_some_and(|(is_let, _)| is_let)
        };
        if !filter.is_empty() && !allows("plain") && !allows("login") {
            let why = "PLAIN and LOGIN are spoken at smarthosts, and neither is allowed";
            self.refuse("smtp_sasl_mechanism_filter", why, "use an app password, and allow plain or login");
        }
        let options = items(&view.value("smtp_sasl_tls_security_options"));
        if options.iter().any(|option| option.eq_ignore_ascii_case("noplaintext")) {
            let why = "the password itself was not said to the smarthost, and PLAIN under TLS is what is spoken here";
            let instead = "set smtp_sasl_tls_security_options = noanonymous, if the smarthost may see it";
            self.refuse("smtp_sasl_tls_security_options", why, instead);
        }
    }

    /// One route: what a transport does with a next hop.
    fn route(&mut self, transport: &str, nexthop: &str, whom: &Whom<'_>) -> Option<Route> {
        let facts = self.facts;
        let mut route = Route {
            recipient: whom.recipient.to_owned(),
            sender: whom.sender.map(str::to_owned),
            way: Way::Discard,
            fallback: Vec::new(),
            tls: None,
            login: None,
            source: None,
            connection_limit: None,
            rate: None,
            from: whom.from.clone(),
        };
        // A config without master.cf's usual lines has them in Postfix too.
        let service = facts.transport(transport);
        let command = service.map_or(transport, |service| service.command.as_str());
        match command {
            "smtp" | "relay" => {}
            "error" | "retry" => {
                let is_retry = transport == "retry";
                route.way = ended(nexthop, is_retry);
                let how = "retry: its mail is taken and waits in the queue; clients were told 450";
                if is_retry && !self.entries.iter().any(|entry| entry.text == how) {
                    self.note(Action::Approximated, whom.parameter, how);
                }
                return Some(route);
            }
            "discard" => return Some(route),
            command => {
                let why = format!("{transport}: \"{command}\" delivers by other means than SMTP");
                self.refuse(whom.parameter, why, "keep Postfix for it, or name a host: smtp:[host]");
                return None;
            }
        }
        let view = service.map_or_else(|| facts.global(), |service| facts.of(service));
        let hops = match hops(nexthop) {
            Ok(hops) => hops,
            Err(error) => {
                self.refuse(whom.parameter, error, "mend the next hop");
                return None;
            }
        };
        self.hosts(&mut route, view, nexthop, &hops, whom);
        if self.target.sources.iter().any(|source| source.name == transport && transport != "default") {
            route.source = Some(transport.to_owned());
        }
        if !matches!(transport, "smtp" | "relay") || service.is_some_and(|service| service.limit != "-") {
            self.limits_of(&mut route, transport, service, whom);
        }
        Some(route)
    }

    fn hosts(&mut self, route: &mut Route, view: View<'_>, nexthop: &str, hops: &[Hop], whom: &Whom<'_>) {
        let fallback = match view.value("smtp_fallback_relay") {
            value if value.is_empty() => view.value("fallback_relay"),
            value => value,
        };
        match super::outbound::hops(&fallback) {
            Ok(found) => route.fallback = found.iter().map(Hop::to_string).collect(),
            Err(error) => self.refuse("smtp_fallback_relay", error, "mend the host"),
        }
        let below = whom.recipient.starts_with('.').then_some(whom.recipient);
        let dest = match hops.is_empty() {
            true => whom.domain.or(below).unwrap_or_default(),
            false => nexthop,
        };
        let first = items(dest).into_iter().next().unwrap_or_default();
        let parameter = if self.has_policy(&first, view) { "smtp_tls_policy_maps" } else { "smtp_tls_security_level" };
        let tls = self.level(&first, view, parameter, false);
        route.way = match hops.is_empty() {
            true => Way::Hosts(vec!["mx:".to_owned()]),
            false => Way::Hosts(hops.iter().map(Hop::to_string).collect()),
        };
        if hops.is_empty() {
            if tls == Some(Tls::Implicit) {
                self.refuse(
                    "smtp_tls_wrappermode",
                    "MX hosts do not speak it",
                    "set it for the smarthost's transport alone",
                );
                return;
            }
            self.own_policies(view, whom);
            let own = self.level("", self.facts.global(), "smtp_tls_security_level", true);
            route.tls = tls.filter(|tls| Some(*tls) != own);
            if view.flag("smtp_sasl_auth_enable") && view.value("smtp_sasl_password_maps").contains("static:") {
                let why = "the password would go to every MX host";
                self.refuse("smtp_sasl_password_maps", why, "name a relayhost, or key the password by its host");
            }
            return;
        }
        let own = self.target.delivery.iter().find(|(key, _, _)| *key == "tls").map(|(_, value, _)| value.clone());
        let written = items(nexthop).into_iter().chain(items(&fallback));
        let all = hops.iter().cloned().chain(super::outbound::hops(&fallback).unwrap_or_default());
        let dests: Vec<(String, Hop)> = written.zip(all).collect();
        route.login = self.login(&dests, whom.sender, view);
        let in_clear = matches!(tls, Some(Tls::None | Tls::Opportunistic));
        let local = |hop: &Hop| {
            hop.host == "localhost" || hop.host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
        };
        route.tls = tls;
        if route.login.is_some() && in_clear && !(hops.iter().all(local) && route.fallback.is_empty()) {
            route.tls = Some(Tls::Require);
            let how =
                "route.tls = \"require\" where there is a login: a password never goes in clear, mail waits instead";
            if !self.entries.iter().any(|entry| entry.text == how) {
                self.note(Action::Approximated, "smtp_sasl_auth_enable", how);
            }
        }
        if tls == Some(Tls::Implicit) {
            let how = "route.tls = \"implicit\": and the certificate must be one for the host's name";
            if !self.entries.iter().any(|entry| entry.text == how) {
                self.note(Action::Approximated, "smtp_tls_wrappermode", how);
            }
        } else if route.login.is_none() && route.tls.map(|tls| Value::Text(tls.name().to_owned())) == own {
            route.tls = None;
        }
    }

    /// A transport's own policies are asked for one domain alone: those of many are made for all transports alike.
    fn own_policies(&mut self, view: View<'_>, whom: &Whom<'_>) {
        let name = "smtp_tls_policy_maps";
        let is_one = whom.recipient.starts_with('=') || whom.recipient.contains('@');
        if !is_one && view.overrides(name) && view.value(name) != self.value(name) {
            let why = "a transport with policies of its own sends to many domains, and policies are the same for all transports";
            self.refuse(name, why, "name the domains in transport_maps, or have one table of policies for all");
        }
    }

    fn has_policy(&mut self, nexthop: &str, view: View<'_>) -> bool {
        self.policy(nexthop, view).is_some()
    }

    /// A clone's own limits.
    fn limits_of(&mut self, route: &mut Route, transport: &str, service: Option<&Service>, whom: &Whom<'_>) {
        let to_hosts = !route.is_usual();
        let concurrency = format!("{transport}_destination_concurrency_limit");
        let processes = service.and_then(|service| service.limit.parse::<u64>().ok()).filter(|limit| *limit > 0);
        let own = self.facts.is_set(&concurrency).then(|| self.value(&concurrency).parse::<u64>().ok()).flatten();
        let own = own.filter(|limit| *limit > 0);
        let limit = match (own, processes) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        if to_hosts {
            route.connection_limit = limit.map(|limit| limit.clamp(1, 10_000));
            self.said(&concurrency, "", Action::Mapped, "route.connection_limit");
        } else if own.is_some() {
            let how = "connections start low and grow with success; a fixed limit is [[site]] connection_limit, by its MX hosts";
            self.said(&concurrency, "", Action::Approximated, how);
        }
        for suffix in ["destination_rate_delay", "transport_rate_delay"] {
            let name = format!("{transport}_{suffix}");
            if !self.facts.is_set(&name) {
                continue;
            }
            let Some(delay) = self.time(&name).filter(|delay| *delay > 0) else { continue };
            let rate = format!("1/{}s", delay.min(86_400));
            if to_hosts {
                route.rate = Some(rate);
                self.said(&name, "", Action::Mapped, "route.max_message_rate");
            } else if let Some(domain) = whom.domain {
                self.limit_domain(domain, None, Some(rate), &whom.from);
                self.said(
                    &name,
                    "",
                    Action::Approximated,
                    "recipient_domain.max_message_rate: so many messages to each domain",
                );
            } else {
                let why = "a rate of many domains cannot be said";
                self.refuse(&name, why, "name the domains in transport_maps, or use smtp_destination_rate_delay");
            }
        }
    }

    fn limit_domain(&mut self, name: &str, tls: Option<Tls>, rate: Option<String>, from: &str) {
        match self.target.recipient_domains.iter_mut().find(|domain| domain.name == name) {
            Some(domain) => {
                domain.tls = tls.or(domain.tls);
                domain.rate = rate.or(domain.rate.take());
            }
            None => self.target.recipient_domains.push(RecipientDomain {
                name: name.to_owned(),
                tls,
                rate,
                from: from.to_owned(),
            }),
        }
    }

    /// Routes by sender. Answers the senders that have one, with the transport and next hop of each.
    fn sender_routes(&mut self, default: &Answer, relayhost: &str) -> Vec<(String, Answer)> {
        let name = "sender_dependent_relayhost_maps";
        let relayhosts = self.by_sender(name);
        let name = "sender_dependent_default_transport_maps";
        if self.is_random(name) && self.target.sources.is_empty() {
            self.refuse(name, "its transports have no source address", "give them smtp_bind_address");
        }
        let transports = self.by_sender(name);
        let logins = match self.facts.global().flag("smtp_sender_dependent_authentication") {
            true => self.by_sender("smtp_sasl_password_maps"),
            false => Vec::new(),
        };
        let mut senders: Vec<(String, Answer)> = Vec::new();
        for (sender, _) in relayhosts.iter().chain(&transports).chain(&logins) {
            if senders.iter().any(|(other, _)| other == sender) {
                continue;
            }
            let own = found_for(&transports, sender).map_or_else(|| default.clone(), answer);
            let hop = found_for(&relayhosts, sender).unwrap_or(relayhost);
            let nexthop = if own.nexthop.is_empty() { hop.to_owned() } else { own.nexthop };
            senders.push((sender.clone(), Answer { transport: own.transport, nexthop }));
        }
        for (sender, answer) in senders.clone() {
            let whom = Whom {
                recipient: "*",
                sender: Some(&sender),
                domain: None,
                parameter: "sender_dependent_relayhost_maps",
                from: format!("sender-dependent: {sender}"),
            };
            let route = self.route(&answer.transport, &answer.nexthop, &whom);
            self.target.routes.extend(route);
        }
        senders
    }

    /// A table of senders: the first of several wins.
    fn by_sender(&mut self, parameter: &'static str) -> Vec<(String, String)> {
        let is_of_passwords = parameter == "smtp_sasl_password_maps";
        let mut all: Vec<(String, String)> = Vec::new();
        for map in items_with_static(&self.value(parameter)) {
            if matches!(table::kind(&map), Ok(Kind::Random(_)))
                || is_of_passwords && matches!(table::kind(&map), Ok(Kind::Static(_)))
            {
                continue;
            }
            for (_, key, value) in self.rows(parameter, &map).unwrap_or_default() {
                // There, hosts are keys too.
                if is_of_passwords && !key.contains('@') {
                    continue;
                }
                let Some(sender) = self.sender(parameter, &key) else { continue };
                if !all.iter().any(|(other, _)| *other == sender) {
                    all.push((sender, value));
                }
            }
        }
        all
    }

    fn is_random(&self, parameter: &str) -> bool {
        items(&self.value(parameter)).iter().any(|map| matches!(table::kind(map), Ok(Kind::Random(_))))
    }

    /// A key of a table of senders.
    fn sender(&mut self, parameter: &str, key: &str) -> Option<String> {
        let sound = match key.strip_prefix('@') {
            Some(domain) => domain.parse::<Domain>().is_ok(),
            None => key == "<>" || key.parse::<Address>().is_ok(),
        };
        match sound {
            true => Some(key.to_owned()),
            false => {
                self.refuse(
                    parameter,
                    format!("the key \"{key}\" is no address"),
                    "write user@example.com or @example.com",
                );
                None
            }
        }
    }

    /// transport_maps, for everybody and for every sender with a route of its own.
    fn transports(&mut self, default: &Answer, relayhost: &str, senders: &[(String, Answer)]) {
        let parameter = "transport_maps";
        let parents = items(&self.value("parent_domain_matches_subdomains"));
        let is_parent = parents.iter().any(|name| name == parameter);
        let is_random = self.is_random("sender_dependent_default_transport_maps");
        let mut seen = std::collections::HashSet::new();
        for map in items(&self.value(parameter)) {
            if matches!(table::kind(&map), Ok(Kind::Patterns(..) | Kind::Static(_))) {
                self.refuse(
                    parameter,
                    format!("{map}: routes are by address and domain"),
                    "write the domains out, as texthash",
                );
                continue;
            }
            for (line, key, value) in self.rows(parameter, &map).unwrap_or_default() {
                let Some((recipient, domain)) = self.recipient(&key, is_parent) else { continue };
                // The first of several wins, in order of tables.
                if !seen.insert(recipient.clone()) {
                    continue;
                }
                let from = match table::kind(&map) {
                    Ok(Kind::Plain(path)) => format!("transport_maps: {path}:{line}"),
                    _ => "transport_maps".to_owned(),
                };
                let own = answer(&value);
                if self.is_here(&recipient, domain.as_deref()) {
                    if !["", "local"].contains(&own.transport.as_str()) || !own.nexthop.is_empty() {
                        let why = format!("\"{key}\" is local by mydestination, and this sent its mail elsewhere");
                        self.refuse(parameter, why, "take it out of mydestination (for \"*\": empty mydestination)");
                    }
                    continue;
                }
                let every = std::iter::once(None).chain(senders.iter().map(Some));
                for sender in every {
                    let base = sender.map_or_else(
                        || Answer {
                            transport: default.transport.clone(),
                            nexthop: if default.nexthop.is_empty() {
                                relayhost.to_owned()
                            } else {
                                default.nexthop.clone()
                            },
                        },
                        |(_, answer)| answer.clone(),
                    );
                    // What is left out stays as it would be; a transport without a next hop goes where DNS says.
                    let (transport, nexthop) = match (own.transport.is_empty(), own.nexthop.is_empty()) {
                        (true, true) => (base.transport, base.nexthop),
                        (true, false) => (base.transport, own.nexthop.clone()),
                        (false, _) => (own.transport.clone(), own.nexthop.clone()),
                    };
                    let whom = Whom {
                        recipient: &recipient,
                        sender: sender.map(|(name, _)| name.as_str()),
                        domain: domain.as_deref(),
                        parameter,
                        from: from.clone(),
                    };
                    if recipient == "*" {
                        self.target
                            .routes
                            .retain(|route| route.recipient != "*" || route.sender.as_deref() != whom.sender);
                    }
                    let mut route = self.route(&transport, &nexthop, &whom);
                    // The pool is for mail whose transport nobody names.
                    if let Some(route) = route.as_mut().filter(|_| is_random && !own.transport.is_empty())
                        && route.source.is_none()
                        && matches!(route.way, Way::Hosts(_))
                    {
                        route.source = Some("default".to_owned());
                    }
                    self.target.routes.extend(route);
                    if self.target.routes.len() > ROUTES_MAX {
                        let why = format!("senders times recipients make more than {ROUTES_MAX} routes");
                        self.refuse(parameter, why, "name fewer of one of them");
                        return;
                    }
                }
            }
        }
    }

    /// Whether a key of transport_maps means local names.
    fn is_here(&self, recipient: &str, domain: Option<&str>) -> bool {
        let local = &self.target.local;
        if local.aliases.is_none() && local.unknown.is_none() {
            return false;
        }
        recipient == "*"
            || domain.is_some_and(|domain| {
                domain == self.target.hostname
                    || domain == "localhost"
                    || local.domains.iter().any(|name| name == domain)
            })
    }

    /// A key of transport_maps as ours, and the one domain that it means.
    fn recipient(&mut self, key: &str, is_parent: bool) -> Option<(String, Option<String>)> {
        if key == "*" {
            return Some(("*".to_owned(), None));
        }
        if let Some(parent) = key.strip_prefix('.') {
            if let Ok(domain) = parent.parse::<Domain>() {
                return Some((format!(".{domain}"), None));
            }
        } else if key.contains('@') {
            if let Ok(address) = key.parse::<Address>() {
                return Some((address.to_string(), Some(address.domain().to_string())));
            }
        } else if let Ok(domain) = key.parse::<Domain>() {
            let mark = if is_parent { "" } else { "=" };
            return Some((format!("{mark}{domain}"), Some(domain.to_string())));
        }
        let why = format!("the key \"{key}\" is no address or domain");
        self.refuse("transport_maps", why, "write example.com, .example.com, user@example.com or *");
        None
    }

    /// Policies of domains whose mail goes where DNS says, for every sender.
    fn policies(&mut self, default: &Answer) {
        let from = "smtp_tls_policy_maps";
        let whom = Whom { recipient: "*", sender: None, domain: None, parameter: from, from: from.to_owned() };
        let has_default = self.target.routes.iter().any(|route| route.recipient == "*" && route.sender.is_none());
        // Without a route for all, mail goes where DNS says by the default transport.
        let base = match has_default || self.value(from).is_empty() {
            true => None,
            false => self.route(&default.transport, "", &whom),
        };
        if base.is_none() && !self.target.routes.iter().any(Route::is_usual) {
            return;
        }
        let mut policies: Vec<(String, Tls)> = Vec::new();
        for map in items(&self.value(from)) {
            for (_, key, value) in self.rows(from, &map).unwrap_or_default() {
                if key.starts_with('[') || key.contains(':') || policies.iter().any(|(other, _)| *other == key) {
                    continue;
                }
                if key.trim_start_matches('.').parse::<Domain>().is_err() {
                    self.refuse(from, format!("the key \"{key}\" is no domain"), "mend the key");
                    continue;
                }
                policies.extend(self.tls_of(&value, from, &key).map(|tls| (key, tls)));
            }
        }
        // What is below a name comes after the name: it is a part of that, and narrower.
        policies.sort_by_key(|(key, _)| (!key.starts_with('.'), key.split('.').count()));
        let mut senders: Vec<Option<String>> = vec![None];
        for route in &self.target.routes {
            if !senders.contains(&route.sender) {
                senders.push(route.sender.clone());
            }
        }
        for (key, tls) in policies {
            let recipient = if key.starts_with('.') { key.clone() } else { format!("={key}") };
            for sender in &senders {
                let own = self.target.routes.iter().chain(&base).filter(|route| route.sender == *sender);
                if own.clone().any(|route| route.recipient == recipient) {
                    // It was made with this policy.
                    continue;
                }
                let widest =
                    own.filter(|route| covers(&route.recipient, &key)).max_by_key(|route| route.recipient.len());
                let Some(widest) = widest.filter(|route| route.is_usual()).cloned() else { continue };
                if !key.starts_with('.') && widest.tls.is_none() {
                    self.limit_domain(&key, Some(tls), None, from);
                    continue;
                }
                if self.target.routes.len() >= ROUTES_MAX {
                    let why = format!("senders times policies make more than {ROUTES_MAX} routes");
                    self.refuse(from, why, "name fewer of one of them");
                    return;
                }
                let (recipient, from) = (recipient.clone(), from.to_owned());
                self.target.routes.push(Route { recipient, tls: Some(tls), from, ..widest });
            }
        }
    }

    /// Where Postfix trusted nobody, so that no certificate was good enough.
    fn authority(&mut self) {
        let is_named = ["smtp_tls_CAfile", "smtp_tls_CApath"].iter().any(|name| !self.value(name).is_empty());
        let target = &self.target;
        let levels = target.routes.iter().map(|route| route.tls).chain(target.recipient_domains.iter().map(|d| d.tls));
        let all =
            target.delivery.iter().any(|(key, value, _)| *key == "tls" && *value == Value::Text("verify".to_owned()));
        let is_asked = all || levels.into_iter().any(|tls| tls == Some(Tls::Verify));
        if is_asked && !is_named && !self.facts.global().flag("tls_append_default_CA") {
            let how = "no authority is named, and Postfix trusts none then: mail at level verify waited. The system's are \
                       trusted here, so it goes";
            self.note(Action::Approximated, "smtp_tls_CAfile", how);
        }
    }

    /// Passwords of hosts that no next hop names: Postfix says them to a host that DNS names, if it comes to one.
    fn unused_passwords(&mut self) {
        let parameter = "smtp_sasl_password_maps";
        let by_dns = self.target.routes.iter().any(Route::is_usual)
            || !self.target.routes.iter().any(|route| route.recipient == "*" && route.sender.is_none());
        if !by_dns || !self.facts.global().flag("smtp_sasl_auth_enable") {
            return;
        }
        let mut unused: Vec<String> = Vec::new();
        for map in items_with_static(&self.value(parameter)) {
            if matches!(table::kind(&map), Ok(Kind::Static(_))) {
                continue;
            }
            let rows = table::rows(&map, self.input.read).unwrap_or_default();
            unused.extend(rows.into_iter().map(|(_, key, _)| key));
        }
        unused.retain(|key| !key.contains('@') && !key.starts_with('[') && !self.logged_in.contains(key));
        if !unused.is_empty() {
            let how = format!(
                "{}: no next hop has this name, and no password is said to hosts that DNS names",
                unused.join(", ")
            );
            self.note(Action::Approximated, parameter, how);
        }
    }

    /// Limits of transports that nothing leads to.
    fn unused_limits(&mut self) {
        let facts = self.facts;
        for setting in &facts.settings {
            let is_said = self.entries.iter().any(|entry| entry.parameter == setting.name);
            let of = super::facts::PER_TRANSPORT.iter().find_map(|(suffix, _)| setting.name.strip_suffix(suffix));
            let Some(transport) = of.filter(|name| !is_said && !matches!(*name, "smtp" | "default" | "")) else {
                continue;
            };
            if facts.transport(transport).is_some_and(|service| service.command == "smtp") && transport != "relay" {
                let how = "the routes of this transport have no such limit: none leads to it, or it is [[site]]'s";
                self.note(Action::Ignored, &setting.name, how);
            } else if super::facts::default_of(&setting.name).is_some()
                || transport == "relay"
                || facts.transport(transport).is_some()
            {
                self.note(Action::Ignored, &setting.name, "no mail goes by this transport");
            }
        }
    }
}

/// Whether a route's recipients hold those of a policy's key, and more.
fn covers(recipient: &str, key: &str) -> bool {
    let name = key.trim_start_matches('.');
    match recipient {
        "*" => true,
        recipient if recipient.contains('@') || recipient.starts_with('=') => false,
        recipient => match recipient.strip_prefix('.') {
            Some(_) => name.ends_with(recipient),
            None => name == recipient || name.ends_with(&format!(".{recipient}")),
        },
    }
}

fn is_client(service: &Service) -> bool {
    service.kind == "unix" && service.command == "smtp"
}

/// The address that a client binds: its own, or that of a single interface.
fn source_address(view: View<'_>) -> Option<String> {
    let own = view.value("smtp_bind_address");
    let own = if own.is_empty() || own == "0.0.0.0" { view.value("smtp_bind_address6") } else { own };
    let interfaces = items(&view.value("inet_interfaces"));
    let single = match interfaces.as_slice() {
        [one] => one.trim_matches(['[', ']']).parse::<std::net::IpAddr>().ok().filter(|address| !address.is_loopback()),
        _ => None,
    };
    let own = unbraced(&own).trim_matches(['[', ']']).parse::<std::net::IpAddr>().ok();
    let own = own.filter(|address| !address.is_multicast() && *address != std::net::IpAddr::from([255, 255, 255, 255]));
    own.or(single).map(|address| address.to_string())
}

/// Fails or waits, with a status.
fn ended(text: &str, is_retry: bool) -> Way {
    let class = if is_retry { '4' } else { '5' };
    let text: String = text.chars().map(|c| if (' '..='~').contains(&c) { c } else { '?' }).collect();
    let first = text.split(' ').next().unwrap_or_default();
    let has_status = first.starts_with(class)
        && first.split('.').count() == 3
        && first.split('.').all(|part| (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit()));
    let text = match (has_status, text.trim().is_empty()) {
        (true, _) => text,
        (false, true) => format!("{class}.0.0 mail is not sent there"),
        (false, false) => format!("{class}.0.0 {text}"),
    };
    if is_retry { Way::Retry(text) } else { Way::Fail(text) }
}

/// What a table of senders has for one: by its address, else by its domain. DUNNO is nothing, and ends the look-up.
fn found_for<'a>(rows: &'a [(String, String)], sender: &str) -> Option<&'a str> {
    let find = |key: &str| rows.iter().find(|(other, _)| other == key).map(|(_, value)| value.as_str());
    let found = find(sender).or_else(|| find(&sender[sender.find('@')?..]));
    found.filter(|value| !value.eq_ignore_ascii_case("DUNNO"))
}

/// One of `smtp_sasl_password_maps`.
enum Passwords {
    /// One for everything.
    Of(String),
    /// By key.
    Rows(Vec<(usize, String, String)>),
}

impl Passwords {
    fn find(&self, key: &str) -> Option<String> {
        match self {
            Passwords::Of(text) => Some(text.clone()),
            Passwords::Rows(rows) => {
                let key = key.to_ascii_lowercase();
                rows.iter().find(|(_, other, _)| *other == key).map(|(_, _, value)| value.clone())
            }
        }
    }
}

/// A list in which `static:user:password` stands whole.
fn items_with_static(text: &str) -> Vec<String> {
    match text.trim().strip_prefix("static:") {
        Some(_) if !text.trim().contains(char::is_whitespace) || text.contains('{') => vec![text.trim().to_owned()],
        _ => items(text),
    }
}
