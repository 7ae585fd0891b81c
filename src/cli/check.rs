//! `postrider check`: what is wrong with the config, and with `--network` what would fail once mail is sent.

mod bounce;
mod lookups;
mod network;
mod spf;
mod world;

use std::net::{IpAddr, UdpSocket};

use serde::Serialize;

use super::{Context, Exit, Paint};
use crate::config::{Config, Source};
use crate::signer::{Record, SigningKey};
use network::Seen;

/// What `check` is told.
#[derive(clap::Args)]
pub struct Arguments {
    /// Also ask DNS, and knock at a few well-known MX: PTR, SPF, DKIM, DMARC, resolver, port 25.
    #[arg(long)]
    network: bool,
}

/// How much a finding weighs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Weight {
    /// As it should be.
    Good,
    /// Likely to be regretted, or not to be found out.
    Doubtful,
    /// Mail will be refused.
    Bad,
}

/// One thing that was looked at.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// How much it weighs.
    pub weight: Weight,
    /// What was looked at.
    pub subject: String,
    /// What was found.
    pub text: String,
    /// What to set, ready to paste; empty if there is nothing.
    pub cure: String,
}

impl Finding {
    fn good(subject: impl Into<String>, text: impl Into<String>) -> Finding {
        Finding { weight: Weight::Good, subject: subject.into(), text: text.into(), cure: String::new() }
    }

    fn doubtful(subject: impl Into<String>, text: impl Into<String>, cure: impl Into<String>) -> Finding {
        Finding { weight: Weight::Doubtful, subject: subject.into(), text: text.into(), cure: cure.into() }
    }

    fn bad(subject: impl Into<String>, text: impl Into<String>, cure: impl Into<String>) -> Finding {
        Finding { weight: Weight::Bad, subject: subject.into(), text: text.into(), cure: cure.into() }
    }

    fn shown(&self, paint: Paint) -> String {
        let mark = match self.weight {
            Weight::Good => paint.green("ok  "),
            Weight::Doubtful => paint.yellow("note"),
            Weight::Bad => paint.red("BAD "),
        };
        let mut text = format!("{mark}  {}: {}\n", self.subject, self.text);
        for line in self.cure.lines() {
            text += &format!("      {}\n", paint.bold(line));
        }
        text
    }
}

/// Runs the command: 0 if nothing is bad, 1 if mail would be refused, 78 if the config has errors.
///
/// # Errors
/// The resolver cannot be set up.
pub fn run(context: &Context, arguments: &Arguments) -> anyhow::Result<Exit> {
    let config = match context.load() {
        Ok(config) => config,
        Err(exit) => return Ok(exit),
    };
    let mut findings = vec![Finding::good("config", format!("{} is sound", context.config.display()))];
    findings.extend(config.warnings().into_iter().map(|warning| Finding::doubtful("config", warning, "")));
    let keys = keys(&config, &mut findings);
    if arguments.network {
        let sources = config.sources.iter();
        let sources: Vec<Seen<'_>> =
            sources.map(|(name, source)| Seen { name, source, public: public_address(source) }).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let network = async {
            let world = world::World::new(&config.dns)?;
            anyhow::Ok(network::findings(&config, &sources, &keys, &world).await)
        };
        findings.extend(runtime.block_on(network)?);
    }
    match show(&findings, context.json, &mut std::io::stdout().lock()) {
        // `postrider check | head` is no error.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => return Err(error.into()),
        Ok(()) | Err(_) => {}
    }
    match findings.iter().any(|finding| finding.weight == Weight::Bad) {
        true => Ok(Exit::Failed),
        false => Ok(Exit::Done),
    }
}

fn show(findings: &[Finding], json: bool, out: &mut dyn std::io::Write) -> std::io::Result<()> {
    if json {
        return writeln!(out, "{}", serde_json::to_string_pretty(findings)?);
    }
    let paint = Paint::of_stdout();
    findings.iter().try_for_each(|finding| write!(out, "{}", finding.shown(paint)))
}

/// The public halves of the config's keys. A file that is no key is a finding.
fn keys(config: &Config, findings: &mut Vec<Finding>) -> Vec<Record> {
    let mut keys = Vec::new();
    for sending in &config.sending_domains {
        for dkim in &sending.dkim {
            let name = format!("{}._domainkey.{}", dkim.selector, sending.name);
            match SigningKey::load(dkim.selector.as_str(), &dkim.key) {
                Ok(key) => keys.push(key.record(&sending.name)),
                Err(error) => findings.push(Finding::bad(format!("DKIM {name}"), error.to_string(), "")),
            }
        }
    }
    keys
}

/// The address that peers see: as configured, or the one that the kernel would send from if that is public.
fn public_address(source: &Source) -> Option<IpAddr> {
    let chosen = match source.address.is_unspecified() {
        false => Some(source.address),
        true => kernel_choice(source.address),
    };
    source.public_address.or(chosen.filter(|address| super::init::is_public(*address)))
}

/// A connected UDP socket sends nothing, and tells which address would be used.
fn kernel_choice(any: IpAddr) -> Option<IpAddr> {
    let socket = UdpSocket::bind((any, 0)).ok()?;
    let far = if any.is_ipv4() { "9.9.9.9:53" } else { "[2620:fe::9]:53" };
    socket.connect(far).ok()?;
    socket.local_addr().ok().map(|local| local.ip())
}
