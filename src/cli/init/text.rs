//! What `init` writes and prints, as pure functions of what was decided: the config, the records, the last words.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde_json::json;

use crate::certificate::Certificate;
use crate::cli::records::{Record, both_forms};
use crate::mail::Domain;
use crate::signer;

/// The first credential's name.
pub const CREDENTIAL: &str = "app";

/// Everything that was asked, found out and generated.
pub struct Plan {
    /// The domain that mail is sent from.
    pub domain: Domain,
    /// The relay's own name.
    pub hostname: Domain,
    /// Where the config goes.
    pub directory: PathBuf,
    /// Where the spool will be.
    pub data_dir: PathBuf,
    /// The address that peers see.
    pub address: Option<Address>,
    /// For programs on this machine alone: the loopback's addresses. `None`: for clients everywhere.
    pub local: Option<Vec<IpAddr>>,
    /// Where all mail goes, instead of to the MX.
    pub smarthost: Option<String>,
    /// Whether bounces and complaints come in here.
    pub bounces: BounceSide,
    /// The credential's password.
    pub password: String,
    /// Its hash.
    pub password_hash: String,
    /// RSA, and Ed25519.
    pub dkim: [DkimKey; 2],
    /// For the time until a trusted one is there.
    pub certificate: Certificate,
}

/// The address that peers see, and whether this machine has it or a NAT in front of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Address {
    /// It can be bound.
    Local(IpAddr),
    /// Somebody else translates it.
    BehindNat(IpAddr),
}

impl Address {
    /// As peers see it.
    pub fn public(self) -> IpAddr {
        match self {
            Address::Local(address) | Address::BehindNat(address) => address,
        }
    }
}

/// Whether bounces and complaints come in here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BounceSide {
    /// They do: a listener on port 25, and return paths of ours.
    On,
    /// They would, but another program has port 25.
    PortTaken,
    /// They do not: it was said so.
    Off,
}

/// A new DKIM key.
pub struct DkimKey {
    /// Names it in DNS.
    pub selector: &'static str,
    /// The private half.
    pub pem: String,
    /// The public half.
    pub record: signer::Record,
}

/// A file to write.
pub struct NewFile {
    /// Below the config's directory.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
}

impl Plan {
    /// The files, in the order in which they are written.
    pub fn files(&self) -> Vec<NewFile> {
        let file = |path: String, text: &str| NewFile { path: self.directory.join(path), text: text.to_owned() };
        let [rsa, ed25519] = &self.dkim;
        vec![
            file(self.key_path(rsa), &rsa.pem),
            file(self.key_path(ed25519), &ed25519.pem),
            file("tls/fullchain.pem".to_owned(), &self.certificate.chain_pem),
            file("tls/privkey.pem".to_owned(), &self.certificate.key_pem),
            file("postrider.toml".to_owned(), &self.config()),
        ]
    }

    fn key_path(&self, key: &DkimKey) -> String {
        format!("dkim/{}.{}.pem", self.domain, key.selector)
    }

    /// The config, with what was asked for and with nothing that is a default anyway.
    pub fn config(&self) -> String {
        let Plan { domain, hostname, .. } = self;
        let data_dir = toml::Value::from(self.data_dir.to_string_lossy().into_owned());
        let keys = self
            .dkim
            .iter()
            .map(|key| format!("    {{ selector = \"{}\", key = \"{}\" }},\n", key.selector, self.key_path(key)));
        let keys: String = keys.collect();
        let source = match self.address {
            Some(Address::Local(address)) => format!("\n[source.default]\naddress = \"{address}\"\n"),
            Some(Address::BehindNat(address)) => {
                format!("\n[source.default]\naddress = \"0.0.0.0\"\npublic_address = \"{address}\"\n")
            }
            None => String::new(),
        };
        let (listener, return_paths) = self.bounce_side();
        let (way_in, way_out) = (self.way_in(&listener), self.way_out());
        format!(
            r#"# Written by `postrider init {domain}`. conf/postrider.toml has every key, its default and its reason.

hostname = "{hostname}"
data_dir = {data_dir}
postmaster = "postmaster@{domain}"

# A self-signed certificate, until a trusted one is put in its place (README, "A real set-up").
[tls]
certificate = "tls/fullchain.pem"
private_key = "tls/privkey.pem"

{way_in}{source}{way_out}
[[sending_domain]]
name = "{domain}"
dkim = [
{keys}]
{return_paths}"#
        )
    }

    /// The listeners, and who may use them.
    fn way_in(&self, bounce_listener: &str) -> String {
        let Plan { domain, password_hash, .. } = self;
        if let Some(addresses) = &self.local {
            let listener = |address: &IpAddr| {
                let (bind, network) =
                    (SocketAddr::new(*address, 25), if address.is_ipv4() { "127.0.0.0/8" } else { "::1/128" });
                format!("[[listener]]\nbind = \"{bind}\"\nmode = \"smtp\"\ntrusted_networks = [\"{network}\"]\n\n")
            };
            let listeners: String = addresses.iter().map(listener).collect();
            return format!(
                "# For programs on this machine. Clients elsewhere need a port with passwords: `postrider credential add`.\n{}",
                listeners.trim_end_matches('\n').to_owned() + "\n"
            );
        }
        format!(
            r#"[[listener]]
bind = "0.0.0.0:587"
mode = "submission"

[[listener]]
bind = "0.0.0.0:465"
mode = "submissions"

{bounce_listener}
[[credential]]
name = "{CREDENTIAL}"
password_hash = "{password_hash}"
from_domains = ["{domain}"]
"#
        )
    }

    fn way_out(&self) -> String {
        let Some(host) = &self.smarthost else { return String::new() };
        format!(
            r#"
[[route]]
recipient_domain = "*"
next_hop = ["{host}"]
# AUTH at the smarthost: its user, and a file whose first line is the password.
#username = "…"
#password_file = "smarthost.password"
"#
        )
    }

    /// The listener on port 25, and the line of the sending domain.
    fn bounce_side(&self) -> (String, String) {
        let bounce_domain = format!("bounce_domain = \"bounce.{}\"\n", self.domain);
        let on = r#"# Bounces and complaints come in here, from anyone: it takes mail to our return paths, to postmaster and abuse, and no other.
[[listener]]
bind = "0.0.0.0:25"
mode = "smtp"
# For programs on this machine that know nothing of passwords:
#trusted_networks = ["127.0.0.0/8"]
"#;
        let commented = |text: &str| {
            let line = |line: &str| if line.starts_with('#') { format!("{line}\n") } else { format!("#{line}\n") };
            text.lines().map(line).collect::<String>()
        };
        match self.bounces {
            BounceSide::On => (
                on.to_owned(),
                format!(
                    "# Return paths of ours, so that a bounce proves what it is about. They need the MX and SPF of that name.\n{bounce_domain}"
                ),
            ),
            BounceSide::PortTaken => (
                format!("# Another program had port 25 when this was written. Once it is free:\n{}", commented(on)),
                format!(
                    "# Return paths of ours, so that a bounce proves what it is about; together with the listener on port 25:\n#{bounce_domain}"
                ),
            ),
            BounceSide::Off => (
                r#"# For programs on this machine that know nothing of passwords:
#[[listener]]
#bind = "127.0.0.1:25"
#mode = "smtp"
#trusted_networks = ["127.0.0.0/8"]
"#
                .to_owned(),
                format!(
                    "# Return paths of ours, so that a bounce proves what it is about; it needs an smtp listener on port 25 of this \
                     machine:\n#{bounce_domain}"
                ),
            ),
        }
    }

    /// Every DNS record to set.
    pub fn records(&self) -> Vec<Record> {
        let Plan { domain, hostname, .. } = self;
        let address = self.address.map(Address::public);
        let sender = match address {
            Some(IpAddr::V4(v4)) => format!("ip4:{v4}"),
            Some(IpAddr::V6(v6)) => format!("ip6:{v6}"),
            None => format!("a:{hostname}"),
        };
        let bounce = format!("bounce.{domain}");
        let dkim = |key: &DkimKey, purpose| Record::txt(&*key.record.name, &*key.record.value, purpose);
        let [rsa, ed25519] = &self.dkim;
        let mut records = Vec::new();
        if let Some(address) = address {
            let host = hostname.as_str();
            records.push(Record::address(host, address, "A: the relay's name leads to its address"));
            records.push(Record::pointer(
                address,
                host,
                "PTR: and the address back to the name; set where the address was rented",
            ));
        }
        records.extend([
            Record::txt(
                domain.as_str(),
                format!("v=spf1 {sender} ~all"),
                "SPF: who may send for the domain; if a record is there, add the middle part to it",
            ),
            Record::txt(hostname.as_str(), "v=spf1 a -all", "SPF of the EHLO name, for bounces"),
            dkim(rsa, "DKIM, RSA: what everybody verifies"),
            dkim(ed25519, "DKIM, Ed25519: for those who verify it"),
            Record::txt(
                format!("_dmarc.{domain}"),
                format!("v=DMARC1; p=none; rua=mailto:postmaster@{domain}"),
                "DMARC: reports first; \"p=quarantine\" once they show nothing foreign",
            ),
        ]);
        if self.bounces != BounceSide::Off {
            records.extend([
                Record::exchange(&*bounce, hostname.as_str(), "bounces: for the return paths of bounce_domain"),
                Record::txt(&*bounce, format!("v=spf1 {sender} -all"), "SPF of the return path"),
            ]);
        }
        records
    }

    /// What is printed: the records, the password, and what comes next.
    pub fn report(&self, group: &str) -> String {
        let config = self.directory.join("postrider.toml");
        let config = config.display();
        let mut text = format!("Written to {}:\n\n", self.directory.display());
        for file in self.files() {
            text += &format!("  {}\n", file.path.display());
        }
        text += &format!("\n{group}\n\nDNS records to set. ");
        text += &both_forms(&self.records());
        if self.address.is_none() {
            text += &format!(
                "\nThis machine's public address cannot be seen from here. Give it (--address 203.0.113.10) to have the \
                 A and PTR\nrecords listed too; both are needed for {}.\n",
                self.hostname
            );
        }
        if self.local.is_some() {
            text += &format!("\nNext: `postrider -c {config} check`, then `systemctl enable --now postrider`.\n");
            return text;
        }
        if self.bounces == BounceSide::PortTaken {
            text += &format!(
                "\nAnother program has port 25 of this machine, so bounces and complaints do not come in here: \"bounce_domain\" and the \
                 listener\non port 25 stand in {config} as comments. Without them bounces go to the sender that the client \
                 named.\n"
            );
        }
        text += &format!(
            "\nThe credential, shown this once:\n\n  user      {CREDENTIAL}\n  password  {}\n  server    {}, port 587 with \
             STARTTLS or 465 with TLS\n",
            self.password, self.hostname
        );
        text += &format!(
            "\nNext: `postrider -c {config} check --network` once the records are set, then `systemctl enable --now \
             postrider`.\n"
        );
        text
    }

    /// The same for programs.
    pub fn report_json(&self) -> serde_json::Value {
        let files: Vec<String> = self.files().iter().map(|file| file.path.display().to_string()).collect();
        let records: Vec<serde_json::Value> = self
            .records()
            .iter()
            .map(|record| {
                json!({
                    "name": record.name, "type": record.kind, "value": record.value,
                    "purpose": record.purpose, "zone_line": record.zone_line(),
                })
            })
            .collect();
        json!({
            "files": files,
            "records": records,
            "credential": self.local.is_none().then(
                || json!({ "user": CREDENTIAL, "password": self.password, "server": self.hostname.as_str() })
            ),
        })
    }
}
