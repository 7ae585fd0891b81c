//! Ports, and who may relay over each: `inet` services of master.cf, networks, restrictions, logins, certificates.
//!
//! Called by [`super::map`]. Nobody may relay who could not; where Postfix let more relay than a list of networks can say, it
//! becomes less, and the report says so.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::facts::View;
use super::map::Mapper;
use super::model::{Credential, Listener, Mode, Value};
use super::report::Action;
use super::restrict::{self, Client, Outcome, Step};
use super::syntax::{Service, items};
use super::table;
use crate::mail::Address;

/// The lists that must all let a client pass, in no order.
const LISTS: &[&str] = &[
    "smtpd_client_restrictions",
    "smtpd_helo_restrictions",
    "smtpd_sender_restrictions",
    "smtpd_relay_restrictions",
    "smtpd_recipient_restrictions",
    "smtpd_data_restrictions",
    "smtpd_end_of_data_restrictions",
];
/// What a service may set for itself, and is understood.
const OWN: &[&str] = &[
    "smtpd_client_restrictions",
    "smtpd_helo_restrictions",
    "smtpd_sender_restrictions",
    "smtpd_relay_restrictions",
    "smtpd_recipient_restrictions",
    "smtpd_data_restrictions",
    "smtpd_end_of_data_restrictions",
    "smtpd_tls_security_level",
    "smtpd_tls_wrappermode",
    "smtpd_tls_auth_only",
    "smtpd_sasl_auth_enable",
    "mynetworks",
    "smtpd_milters",
];
/// Networks that nobody but this machine and its private neighbours can have.
const SMALL: &[&str] = &["127.0.0.0/8", "::1/128"];

/// What a service lets relay.
struct Relaying {
    trusted: bool,
    known: bool,
    tables: Vec<String>,
    is_closed: bool,
    login_owns: bool,
}

impl Mapper<'_> {
    /// Every step about the way in.
    pub fn ports(&mut self) {
        let facts = self.facts;
        let mut access: Option<Vec<String>> = None;
        let (mut takes_logins, mut login_owns) = (false, false);
        for service in facts.services.iter().filter(|service| service.kind == "inet") {
            match service.command.as_str() {
                "smtpd" => {}
                "postscreen" => {
                    let why = "postscreen guards a port that the world brings mail to, and Postrider only sends";
                    self.refuse_of(
                        service,
                        "postscreen",
                        why,
                        "run smtpd on the port, and keep strangers out by a firewall",
                    );
                    continue;
                }
                command => {
                    let why = format!("a port of \"{command}\" is not served");
                    self.refuse_of(service, command, why, "take the service out of a copy of master.cf for the import");
                    continue;
                }
            }
            for name in OWN {
                self.understood.insert((service.line, (*name).to_owned()));
            }
            let view = facts.of(service);
            let Some(relaying) = self.relaying(service, view) else { continue };
            for name in OWN.iter().filter(|name| view.overrides(name)) {
                self.note_of(Action::Mapped, service, name, "[[listener]]");
            }
            let logs_in = view.flag("smtpd_sasl_auth_enable") && relaying.known;
            takes_logins |= logs_in;
            login_owns |= relaying.login_owns;
            let mut tables = relaying.tables.clone();
            if relaying.is_closed && !tables.is_empty() {
                tables.push("static:REJECT".to_owned());
            }
            match &access {
                None => access = Some(tables),
                Some(before) if *before == tables => {}
                Some(_) => {
                    let instead = "use one check_sender_access for every port";
                    self.refuse_of(service, "check_sender_access", "ports have different tables of senders", instead);
                }
            }
            self.listener(service, view, &relaying, logs_in);
        }
        let tables: Vec<String> = access.unwrap_or_default();
        let parents = items(&self.value("parent_domain_matches_subdomains"));
        if !tables.is_empty() && !parents.iter().any(|name| name == "smtpd_access_maps") {
            let why = "a domain in check_sender_access means those below it too here";
            self.refuse("parent_domain_matches_subdomains", why, "add smtpd_access_maps to it");
        }
        let kept: Vec<String> =
            tables.iter().filter_map(|table| self.table("smtpd_sender_restrictions", table)).collect();
        if !kept.is_empty() {
            self.target.rewrite.push(("sender_access", Value::List(kept), "check_sender_access"));
        }
        if self.target.listeners.is_empty() {
            let bind = SocketAddr::from((Ipv4Addr::LOCALHOST, 25));
            let from = "Postfix served no port; one must stand here, and serves nobody.".to_owned();
            self.target.listeners.push(Listener { bind, mode: Mode::Smtp, trusted: Vec::new(), from });
        }
        let on_wire = self.target.listeners.iter().any(|listener| !listener.bind.ip().is_loopback());
        if on_wire && self.target.local.aliases.is_some() {
            let how = "mail that strangers bring for these names is refused: trusted networks and logins alone are served; \
                       let an MX take it, and have it send what is for aliases here on";
            self.note(Action::Approximated, "mydestination", how);
        }
        self.certificate();
        self.logins(takes_logins, login_owns);
    }

    /// Walks the restrictions of a service for each kind of client.
    fn relaying(&mut self, service: &Service, view: View<'_>) -> Option<Relaying> {
        let mut lists: Vec<(&str, Vec<Step>)> = Vec::new();
        for name in LISTS {
            match restrict::steps(view, &view.value(name)) {
                Ok(steps) => lists.push((name, steps)),
                Err(error) => {
                    self.refuse_of(service, name, error, "mend the list");
                    return None;
                }
            }
        }
        let may = |client: Client| lists.iter().all(|(_, steps)| restrict::outcome(steps, client) == Outcome::Permit);
        let client = |is_trusted, is_known, is_listed| Client { is_trusted, is_known, is_listed };
        // With a listed sender if there are tables: an unlisted one is refused by sender_access then.
        let trusted = may(client(true, false, true)) || may(client(true, false, false));
        let known =
            view.flag("smtpd_sasl_auth_enable") && (may(client(false, true, true)) || may(client(false, true, false)));
        let served = [(trusted, client(true, false, false)), (known, client(false, true, false))];
        let served: Vec<Client> =
            served.into_iter().filter(|(is_served, _)| *is_served).map(|(_, client)| client).collect();
        let mut tables: Vec<(&str, String)> = Vec::new();
        let mut login_owns = false;
        for (name, steps) in &lists {
            for (place, step) in steps.iter().enumerate() {
                let reached = |client: Client| restrict::reaches(steps, place, client);
                match step {
                    Step::Refused(why) => {
                        self.refuse_of(service, name, why.clone(), "take it out of the list, if mail need not pass it");
                    }
                    Step::SenderAccess(table) if served.iter().all(|client| reached(*client)) => {
                        tables.push((name, table.clone()));
                    }
                    Step::SenderAccess(_) if served.iter().any(|client| reached(*client)) => {
                        let why = "the table of senders holds for some clients alone";
                        let instead = "put permit_mynetworks and permit_sasl_authenticated on the same side of check_sender_access";
                        self.refuse_of(service, name, why, instead);
                    }
                    Step::SenderAccess(table) => {
                        let how = format!("check_sender_access {table}: only strangers came to it, who are not served");
                        if !view.overrides(name) && !self.entries.iter().any(|entry| entry.text == how) {
                            self.note(Action::Approximated, name, how);
                        }
                    }
                    Step::Owned { by_logins, by_others } => {
                        login_owns |= *by_logins && known && reached(client(false, true, false));
                        let has_owners = !view.value("smtpd_sender_login_maps").is_empty();
                        if *by_others && has_owners && trusted && reached(client(true, false, false)) {
                            let why = "clients of mynetworks that do not log in could use no sender that somebody owns, and can here";
                            let instead =
                                "use reject_authenticated_sender_login_mismatch, or put permit_mynetworks before it";
                            self.refuse_of(service, name, why, instead);
                        }
                    }
                    Step::Neutral(word) => {
                        let how = format!("{word}: mail that it refused is taken, and bounces if it cannot be sent");
                        let is_said = self.entries.iter().any(|entry| entry.text == how);
                        if !is_said && !view.overrides(name) {
                            self.note(Action::Approximated, name, how);
                        }
                    }
                    Step::Permit | Step::Reject | Step::Trusted | Step::Known | Step::Elsewhere => {}
                }
            }
        }
        let is_local = self.is_local(service, view);
        if may(client(false, false, false)) && is_local {
            if !self.entries.iter().any(|entry| entry.parameter == "smtpd_relay_restrictions") {
                let how = "listener.trusted_networks: the port is on loopback, and all of this machine may use it";
                self.note(Action::Mapped, "smtpd_relay_restrictions", how);
            }
        } else if may(client(false, false, false)) {
            let why = "anybody may relay to anywhere over this port: it is an open relay";
            let instead =
                "end smtpd_relay_restrictions with reject_unauth_destination; name your networks in mynetworks";
            self.refuse_of(service, "smtpd_relay_restrictions", why, instead);
        } else if may(client(false, false, true)) {
            let how =
                "anybody who claimed a listed sender could relay; now the networks of mynetworks and logins alone may";
            self.note(Action::Approximated, "smtpd_relay_restrictions", how);
        }
        // All lists must let a sender pass, and ours has the tables of one.
        if let Some((first, _)) = tables.first()
            && tables.iter().any(|(name, _)| name != first)
        {
            let why = "two lists ask tables of senders, and a sender must pass both";
            self.refuse_of(service, "check_sender_access", why, "put the tables into one list");
        }
        let tables: Vec<String> = tables.into_iter().map(|(_, table)| table).collect();
        let open: Vec<bool> = served.iter().map(|client| may(*client)).collect();
        let is_closed = !tables.is_empty() && !open.contains(&true);
        if !tables.is_empty() && open.contains(&true) && open.contains(&false) {
            let why = "senders that no table lists may be used by some clients alone";
            let instead = "put permit_mynetworks and permit_sasl_authenticated on the same side of check_sender_access";
            self.refuse_of(service, "smtpd_recipient_restrictions", why, instead);
        }
        Some(Relaying { trusted, known, tables, is_closed, login_owns })
    }

    /// Whether only this machine's own programs can reach the port.
    fn is_local(&self, service: &Service, view: View<'_>) -> bool {
        let names = match service.name.rsplit_once(':') {
            Some((host, _)) => vec![host.to_owned()],
            None => items(&view.value("inet_interfaces")),
        };
        let is_loopback = |name: &String| {
            let bare = name.trim_matches(['[', ']']);
            matches!(bare, "loopback-only" | "localhost")
                || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
        };
        !names.is_empty() && names.iter().all(is_loopback)
    }

    fn listener(&mut self, service: &Service, view: View<'_>, relaying: &Relaying, logs_in: bool) {
        let Some(binds) = self.binds(service, view) else { return };
        let trusted = match relaying.trusted {
            true => self.networks(service, view),
            false => Vec::new(),
        };
        let level = view.value("smtpd_tls_security_level");
        let has_tls =
            view.flag("smtpd_use_tls") || view.flag("smtpd_enforce_tls") || matches!(&*level, "may" | "encrypt");
        let is_wrapped = view.flag("smtpd_tls_wrappermode");
        let must_encrypt = level == "encrypt" || view.flag("smtpd_enforce_tls");
        let on_wire = binds.iter().any(|bind| !bind.ip().is_loopback());
        let mode = match (is_wrapped, logs_in) {
            (true, _) => Mode::Submissions,
            (false, true) => Mode::Submission,
            (false, false) => Mode::Smtp,
        };
        if must_encrypt
            && !is_wrapped
            && on_wire
            && !trusted.is_empty()
            && trusted.iter().any(|net| !SMALL.contains(&net.as_str()))
        {
            let why = "networks of mynetworks may send without TLS over this port here, and were made to use it";
            self.refuse_of(
                service,
                "smtpd_tls_security_level",
                why,
                "give them logins, or a port with smtpd_tls_wrappermode",
            );
        }
        if logs_in && on_wire && !is_wrapped && !has_tls {
            let why = "passwords would be taken in clear, and are not here";
            self.refuse_of(
                service,
                "smtpd_sasl_auth_enable",
                why,
                "set smtpd_tls_cert_file and smtpd_tls_security_level=may",
            );
        } else if logs_in && on_wire && !is_wrapped && !must_encrypt && !view.flag("smtpd_tls_auth_only") {
            let how = "AUTH is offered under TLS alone; Postfix took passwords in clear too";
            self.note(Action::Approximated, "smtpd_tls_auth_only", how);
        }
        for bind in binds {
            let from = format!("master.cf:{}: {} inet", service.line, service.name);
            self.target.listeners.push(Listener { bind, mode, trusted: trusted.clone(), from });
        }
    }

    fn binds(&mut self, service: &Service, view: View<'_>) -> Option<Vec<SocketAddr>> {
        let (host, port) = match service.name.rsplit_once(':') {
            Some((host, port)) => (Some(host.trim_matches(['[', ']'])), port),
            None => (None, service.name.as_str()),
        };
        let port = match port {
            "smtp" => 25,
            "submission" => 587,
            "smtps" | "submissions" | "urd" | "ssmtp" => 465,
            number => match number.parse::<u16>() {
                Ok(port) if port > 0 => port,
                _ => {
                    self.refuse_of(
                        service,
                        "smtpd",
                        format!("\"{number}\" is no port that is known here"),
                        "write its number",
                    );
                    return None;
                }
            },
        };
        let protocols = view.value("inet_protocols");
        let all = items(&protocols);
        let has = |family: &str| all.iter().any(|item| item == family || item == "all");
        let (v4, v6) = (has("ipv4"), has("ipv6"));
        let mut addresses: Vec<IpAddr> = Vec::new();
        let names = match host {
            Some(host) => vec![host.to_owned()],
            None => items(&view.value("inet_interfaces")),
        };
        for name in names {
            let pair: [IpAddr; 2] = match name.as_str() {
                "all" => [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
                "loopback-only" | "localhost" => [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
                text => match text.trim_matches(['[', ']']).parse::<IpAddr>() {
                    Ok(address) => [address, address],
                    Err(_) => {
                        let why = format!("\"{text}\" is a name, and which addresses it has only DNS says");
                        self.refuse("inet_interfaces", why, "write the addresses, or all, or loopback-only");
                        return None;
                    }
                },
            };
            addresses.extend(pair.into_iter().filter(|address| if address.is_ipv4() { v4 } else { v6 }));
        }
        let any = |v4: bool| addresses.iter().any(|address| address.is_unspecified() && address.is_ipv4() == v4);
        let (any_v4, any_v6) = (any(true), any(false));
        let mut found: Vec<SocketAddr> = Vec::new();
        for address in addresses {
            let is_covered = !address.is_unspecified() && if address.is_ipv4() { any_v4 } else { any_v6 };
            let bind = SocketAddr::new(address, port);
            let is_twice = self.target.listeners.iter().any(|listener| listener.bind == bind);
            if !is_covered && !is_twice && !found.contains(&bind) {
                found.push(bind);
            }
        }
        Some(found)
    }

    /// mynetworks as networks.
    fn networks(&mut self, service: &Service, view: View<'_>) -> Vec<String> {
        let is_set = self.facts.is_set("mynetworks") || view.overrides("mynetworks");
        if !is_set {
            return self.default_networks(service, view);
        }
        let list = match view.list("mynetworks") {
            Ok(list) => list,
            Err(error) => {
                self.refuse_of(service, "mynetworks", error, "name a file that can be read");
                return Vec::new();
            }
        };
        let mut networks: Vec<Network> = Vec::new();
        for item in list {
            let texts = match item.split_once(':') {
                Some(("cidr", _)) => match table::rows(&item, self.input.read) {
                    Ok(rows) => rows.into_iter().map(|(_, key, _)| key).collect(),
                    Err(error) => {
                        self.refuse_of(service, "mynetworks", error, "name a file that can be read");
                        continue;
                    }
                },
                _ => vec![item],
            };
            for text in texts {
                match Network::read(&text) {
                    Some(network) if network.is_everybody() => {
                        let why = "the whole internet, or a great part of it, may relay: it is an open relay";
                        self.refuse_of(service, "mynetworks", why, "name your own networks");
                    }
                    Some(network) => networks.push(network),
                    None => {
                        let why = format!("\"{text}\" is no network here");
                        let instead =
                            "write networks such as 10.0.0.0/8 or [2001:db8::]/32, without tables, names or \"!\"";
                        self.refuse_of(service, "mynetworks", why, instead);
                    }
                }
            }
        }
        let wide =
            networks.iter().filter(|network| !network.is_loopback() && network.is_wide()).map(Network::to_string);
        let wide: Vec<String> = wide.collect();
        if !wide.is_empty() && !self.entries.iter().any(|entry| entry.parameter == "mynetworks") {
            let how = format!(
                "listener.trusted_networks; {} are many hosts: whoever is there may send as anybody",
                wide.join(", ")
            );
            self.note(Action::Mapped, "mynetworks", how);
        }
        let mut texts: Vec<String> = networks.iter().map(Network::to_string).collect();
        let mut seen = std::collections::HashSet::new();
        texts.retain(|text| seen.insert(text.clone()));
        texts
    }

    /// What mynetworks_style says, as far as it can be known here.
    fn default_networks(&mut self, service: &Service, view: View<'_>) -> Vec<String> {
        let style = view.value("mynetworks_style");
        let loopback = items(&view.value("inet_interfaces"))
            .iter()
            .all(|name| matches!(name.as_str(), "loopback-only" | "localhost" | "127.0.0.1"));
        let name = if self.facts.is_set("mynetworks_style") { "mynetworks_style" } else { "mynetworks" };
        if !loopback && style != "host" {
            let why =
                format!("mynetworks is not set, and mynetworks_style {style} lets this machine's whole networks relay");
            let instead = "set mynetworks to what `postconf -x -h mynetworks` says, or to less";
            self.refuse_of(service, name, why, instead);
        } else if !self.entries.iter().any(|entry| entry.parameter == name) {
            let how = "listener.trusted_networks: this machine, by its loopback addresses";
            self.note(if loopback { Action::Mapped } else { Action::Approximated }, name, how);
        }
        SMALL.iter().map(|&text| text.to_owned()).collect()
    }

    fn certificate(&mut self) {
        let (mut certificate, mut key) = (self.value("smtpd_tls_cert_file"), self.value("smtpd_tls_key_file"));
        let chain = items(&self.value("smtpd_tls_chain_files"));
        if let [file] = chain.as_slice() {
            (certificate, key) = (file.clone(), file.clone());
        } else if !chain.is_empty() {
            self.refuse("smtpd_tls_chain_files", "one certificate is shown", "put key and chain into one file");
            return;
        }
        if key.is_empty() {
            key = certificate.clone();
        }
        let is_offered = self.facts.services.iter().filter(|service| service.kind == "inet").any(|service| {
            let view = self.facts.of(service);
            matches!(&*view.value("smtpd_tls_security_level"), "may" | "encrypt")
                || ["smtpd_use_tls", "smtpd_enforce_tls", "smtpd_tls_wrappermode"].iter().any(|name| view.flag(name))
        });
        let on_wire = self.target.listeners.iter().any(|listener| !listener.bind.ip().is_loopback());
        if certificate.is_empty() || certificate == "none" || !is_offered {
            let needs = |listener: &Listener| {
                let in_clear = listener.bind.ip().is_loopback() || !listener.trusted.is_empty();
                listener.mode == Mode::Submissions || (listener.mode == Mode::Submission && !in_clear)
            };
            if self.target.listeners.iter().any(needs) {
                let why = "a port takes passwords, and there is no certificate";
                self.refuse("smtpd_tls_cert_file", why, "set smtpd_tls_cert_file and smtpd_tls_key_file");
            }
            return;
        }
        let is_snakeoil = certificate.contains("snakeoil");
        if is_snakeoil && !on_wire {
            let why =
                "a certificate that nobody trusts is not offered on loopback: Go and nodemailer clients break on it";
            for name in ["smtpd_tls_cert_file", "smtpd_tls_key_file", "smtpd_tls_security_level"] {
                if self.facts.is_set(name) {
                    self.note(Action::Ignored, name, why);
                }
            }
            return;
        }
        for (name, path) in [("smtpd_tls_cert_file", &certificate), ("smtpd_tls_key_file", &key)] {
            if let Err(error) = (self.input.read)(path) {
                self.refuse(name, format!("{path}: {error}"), "run the import as root, or name a file that is there");
                return;
            }
        }
        self.target.tls = Some((certificate, key));
    }

    /// Users, from `--users` and smtpd_sender_login_maps.
    fn logins(&mut self, takes_logins: bool, login_owns: bool) {
        let domains: Vec<String> = self.target.domains.iter().map(|domain| domain.name.clone()).collect();
        if !takes_logins {
            if self.facts.is_set("smtpd_sasl_auth_enable") && self.facts.global().flag("smtpd_sasl_auth_enable") {
                self.note(Action::Ignored, "smtpd_sasl_auth_enable", "no list lets who logged in do more than others");
            }
            return;
        }
        let Some(users) = self.input.users else {
            let instead = "write them to a file, a line `name:password` or `name:{ARGON2ID}$argon2id$…` each, and name it: \
                           --users FILE (`sasldblistusers2` and Dovecot's passwd-file know the names)";
            let why = "clients log in, and whose passwords they are stands in SASL's or Dovecot's files: they would be locked out";
            self.refuse("smtpd_sasl_auth_enable", why, instead);
            return;
        };
        let owners = self.owners(login_owns);
        for (index, line) in users.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let parsed = line.split_once(':').filter(|(name, password)| !name.is_empty() && !password.is_empty());
            let Some((name, password)) = parsed else {
                self.refuse(
                    "smtpd_sasl_auth_enable",
                    format!("--users line {}: \"name:password\" is expected", index + 1),
                    "mend it",
                );
                continue;
            };
            let hash = match password.strip_prefix("{ARGON2ID}") {
                Some(hash) => Ok(hash.to_owned()),
                None if password.starts_with('{') && !password.starts_with("{PLAIN}") => {
                    Err("passwords come as plain text, or as {ARGON2ID}".to_owned())
                }
                None => (self.input.hash)(password.trim_start_matches("{PLAIN}")),
            };
            let hash = match hash {
                Ok(hash) => hash,
                Err(error) => {
                    let why = format!("--users line {}: {error}", index + 1);
                    self.refuse("smtpd_sasl_auth_enable", why, "mend it; `postrider credential hash` makes a hash");
                    continue;
                }
            };
            let mut credential = Credential {
                name: name.to_owned(),
                hash: Some(hash),
                from_domains: domains.clone(),
                senders: Vec::new(),
            };
            if let Some(owners) = &owners {
                own(&mut credential, owners, &domains);
                for sender in shut_out(&credential, owners) {
                    let why = format!(
                        "{sender} is for others, and {name} may use all of its domain: here it could use this one too"
                    );
                    let instead = "name it beside the owners of the address, or write its senders out";
                    self.refuse("smtpd_sender_login_maps", why, instead);
                }
            }
            self.target.credentials.push(credential);
        }
        let how = match owners {
            Some(_) => "credentials of --users, each with its senders; a sender that nobody owns is nobody's here",
            None => "credentials of --users; each may use the sending domains, where Postfix let it use any sender",
        };
        let action = if owners.is_some() { Action::Mapped } else { Action::Approximated };
        self.note(action, "smtpd_sasl_auth_enable", how);
        if self.target.credentials.is_empty() {
            self.refuse("smtpd_sasl_auth_enable", "--users names nobody", "name who logs in");
        }
    }

    /// Senders and who owns each, if logins are held to theirs.
    fn owners(&mut self, login_owns: bool) -> Option<Vec<(String, Vec<String>)>> {
        if !login_owns {
            return None;
        }
        let mut owners: Vec<(String, Vec<String>)> = Vec::new();
        for map in items(&self.value("smtpd_sender_login_maps")) {
            match table::rows(&map, self.input.read) {
                Ok(rows) => {
                    for (_, key, value) in rows {
                        // The first of several wins.
                        if !owners.iter().any(|(other, _)| *other == key) {
                            owners.push((key, items(&value)));
                        }
                    }
                }
                Err(error) => {
                    self.refuse("smtpd_sender_login_maps", error, "write it as a texthash table of senders and logins");
                }
            }
        }
        Some(owners)
    }
}

/// Gives a login its senders.
fn own(credential: &mut Credential, owners: &[(String, Vec<String>)], domains: &[String]) {
    let mut whole = Vec::new();
    for (sender, _) in owners.iter().filter(|(_, names)| names.contains(&credential.name)) {
        match sender.strip_prefix('@') {
            Some(domain) => whole.push(format!("={domain}")),
            None if sender.parse::<Address>().is_ok() => credential.senders.push(sender.clone()),
            None => {}
        }
    }
    // At least one domain must stand there; one that nobody has lets it use nothing more.
    credential.from_domains = match whole.is_empty() {
        true => domains.iter().take(1).map(|domain| format!("=nobody.{domain}")).collect(),
        false => whole,
    };
}

/// Senders of others in a domain that a login owns: Postfix asks for the address first, and then for its domain.
fn shut_out(credential: &Credential, owners: &[(String, Vec<String>)]) -> Vec<String> {
    let is_own = |domain: &str| credential.from_domains.iter().any(|own| own.strip_prefix('=') == Some(domain));
    let exact = owners.iter().filter_map(|(sender, names)| Some((sender, sender.split_once('@')?, names)));
    let foreign = exact
        .filter(|(_, (local, domain), names)| !local.is_empty() && is_own(domain) && !names.contains(&credential.name));
    foreign.map(|(sender, _, _)| sender.clone()).collect()
}

/// A network, in its lowest address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Network {
    address: IpAddr,
    length: u8,
}

impl Network {
    fn read(text: &str) -> Option<Network> {
        let text = text.trim();
        let (address, length) = match text.rsplit_once('/') {
            Some((address, length)) => (address, Some(length.parse::<u8>().ok()?)),
            None => (text, None),
        };
        let address: IpAddr = address.trim_start_matches('[').trim_end_matches(']').parse().ok()?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let length = length.unwrap_or(width);
        if length > width {
            return None;
        }
        match address {
            IpAddr::V4(v4) => {
                // With bits of a host in it, Postfix takes it for a mistake and lets nobody in.
                let bits = u32::from(v4) & u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                (bits == u32::from(v4)).then_some(Network { address, length })
            }
            // ::ffff:127.0.0.0/104 is what a client of a socket for both families comes from.
            IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
                Some(v4) if length >= 96 => Network::read(&format!("{v4}/{}", length - 96)),
                _ => {
                    let bits = u128::from(v6) & u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                    (bits == u128::from(v6)).then_some(Network { address, length })
                }
            },
        }
    }

    fn is_loopback(&self) -> bool {
        self.address.is_loopback() || self.address == IpAddr::from([127, 0, 0, 0])
    }

    /// Wider than what anybody has: more than a class A of IPv4, or of IPv6 than a registry gives out; but for the addresses
    /// that everybody may use at home.
    fn is_everybody(&self) -> bool {
        match self.address {
            IpAddr::V4(_) => self.length < 8,
            IpAddr::V6(v6) => {
                self.length < 16
                    && !(v6.is_unique_local() && self.length >= 7)
                    && !(v6.is_unicast_link_local() && self.length >= 10)
            }
        }
    }

    fn is_wide(&self) -> bool {
        if self.address.is_ipv4() { self.length <= 16 } else { self.length < 48 }
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}
