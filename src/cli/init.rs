//! `postrider init DOMAIN`: a working config, keys, a certificate for the first days, a credential, and every DNS record.
//!
//! It never overwrites: if one of its files is there, nothing is written at all.

mod text;

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use super::dkim::SELECTORS;
use super::{Context, Exit};
use crate::certificate::Certificate;
use crate::config;
use crate::credential;
use crate::mail::Domain;
use crate::signer::{self, Algorithm};
use text::{Address, BounceSide, DkimKey, NewFile, Plan};

/// Where mail comes in from anyone.
const SMTP_PORT: u16 = 25;
/// The service's group, which may read the keys.
const GROUP: &str = "postrider";
/// Keys and config: the owner writes, the group reads.
const FILE_MODE: u32 = 0o640;
const DIRECTORY_MODE: u32 = 0o750;

/// What `init` is told.
#[derive(clap::Args)]
pub struct Arguments {
    /// The domain that mail is sent from, such as example.com.
    domain: Domain,
    /// The relay's own name [default: relay.DOMAIN].
    #[arg(long)]
    hostname: Option<Domain>,
    /// Where the config and keys go.
    #[arg(long, default_value = "/etc/postrider", value_name = "DIRECTORY")]
    dir: PathBuf,
    /// Where the spool will be.
    #[arg(long, default_value = config::DATA_DIR, value_name = "DIRECTORY")]
    data_dir: PathBuf,
    /// For programs on this machine alone: port 25 of the loopback, without passwords.
    #[arg(long)]
    local: bool,
    /// A server that takes all mail and delivers it, such as smtp.example.net:587 [default: deliver to the MX].
    #[arg(long, value_name = "HOST[:PORT]")]
    smarthost: Option<String>,
    /// The address that peers see [default: this machine's, if it has a public one].
    #[arg(long, value_name = "IP")]
    address: Option<IpAddr>,
    /// No listener on port 25 and no return paths of ours: bounces go to the sender that the client named.
    #[arg(long)]
    no_bounces: bool,
}

/// Runs the command.
///
/// # Errors
/// A file is there already, or cannot be written; what was written is removed again.
pub fn run(context: &Context, arguments: &Arguments) -> anyhow::Result<Exit> {
    let plan = plan(arguments)?;
    // What was asked for stands in it: a wrong smarthost is told here, and not at the first start.
    config::Config::parse(&plan.config(), Path::new("postrider.toml"))
        .map_err(|problems| anyhow::anyhow!("{problems}"))?;
    let files = plan.files();
    if let Some(file) = files.iter().find(|file| super::exists(&file.path)) {
        bail!("{} is there already; nothing was written", file.path.display());
    }
    let mut written = Vec::new();
    if let Err(error) = files.iter().try_for_each(|file| write(file, &mut written)) {
        // A half of a set-up would stop the next `init`.
        written.iter().for_each(|path| drop(std::fs::remove_file(path)));
        return Err(error);
    }
    let group = hand_over(&plan.directory, &files)?;
    match context.json {
        true => println!("{:#}", plan.report_json()),
        false => print!("{}", plan.report(&group)),
    }
    Ok(Exit::Done)
}

fn plan(arguments: &Arguments) -> anyhow::Result<Plan> {
    let Arguments { domain, hostname, dir, data_dir, address, local, smarthost, no_bounces } = arguments;
    let hostname = match hostname {
        Some(hostname) => hostname.clone(),
        None => format!("relay.{domain}").parse().context("the domain is too long for a name below it")?,
    };
    let password = credential::random_password()?;
    Ok(Plan {
        address: address.or_else(own_public_address).map(located),
        bounces: if *no_bounces || *local { BounceSide::Off } else { bounce_side(SMTP_PORT) },
        password_hash: credential::hash(&password)?,
        password,
        dkim: [new_key(Algorithm::Rsa, SELECTORS[0], domain)?, new_key(Algorithm::Ed25519, SELECTORS[1], domain)?],
        certificate: Certificate::self_signed(&[hostname.as_str()])?,
        domain: domain.clone(),
        local: local.then(loopbacks),
        smarthost: smarthost.clone(),
        directory: std::path::absolute(dir).context("--dir")?,
        data_dir: std::path::absolute(data_dir).context("--data-dir")?,
        hostname,
    })
}

fn new_key(algorithm: Algorithm, selector: &'static str, domain: &Domain) -> anyhow::Result<DkimKey> {
    let new = signer::generate(algorithm, selector)?;
    Ok(DkimKey { selector, record: new.key.record(domain), pem: new.pem })
}

/// The address that the kernel would send from, if the world can answer to it. A connected UDP socket sends nothing.
fn own_public_address() -> Option<IpAddr> {
    // Quad9, only as an example of "far away".
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("9.9.9.9:53").ok()?;
    let address = socket.local_addr().ok()?.ip();
    is_public(address).then_some(address)
}

/// Where programs on this machine connect to: what of the loopback there is.
fn loopbacks() -> Vec<IpAddr> {
    let all = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    all.into_iter().filter(|address| address.is_ipv4() || UdpSocket::bind((*address, 0)).is_ok()).collect()
}

pub(super) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            let shared = a == 100 && (64..128).contains(&b);
            !(v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_unspecified()
                || v4.is_documentation()
                || shared)
        }
        IpAddr::V6(v6) => v6.segments().first().is_some_and(|first| first & 0xe000 == 0x2000),
    }
}

/// Whether a listener would find its port.
fn bounce_side(port: u16) -> BounceSide {
    match TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => BounceSide::PortTaken,
        // Who may not bind it now is not who runs the daemon.
        Ok(_) | Err(_) => BounceSide::On,
    }
}

fn located(address: IpAddr) -> Address {
    match UdpSocket::bind((address, 0)).is_ok() {
        true => Address::Local(address),
        false => Address::BehindNat(address),
    }
}

fn write(file: &NewFile, written: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let path = &file.path;
    if let Some(directory) = path.parent() {
        let made = DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(directory);
        made.with_context(|| format!("{} cannot be made", directory.display()))?;
    }
    let context = || format!("{} cannot be written", path.display());
    let mut target =
        OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path).with_context(context)?;
    written.push(path.clone());
    target.write_all(file.text.as_bytes()).and_then(|()| target.sync_all()).with_context(context)
}

/// Gives the files to the service's group, if there is one, and says how it stands.
fn hand_over(directory: &Path, files: &[NewFile]) -> anyhow::Result<String> {
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let Some(gid) = group_id(&groups, GROUP) else {
        return Ok(format!(
            "There is no group \"{GROUP}\" yet, so only the owner of these files can use them. Once there is:\n\
             chgrp -R {GROUP} {}",
            directory.display()
        ));
    };
    let inner = [directory.to_owned(), directory.join("dkim"), directory.join("tls")];
    for path in inner.iter().chain(files.iter().map(|file| &file.path)) {
        if let Err(error) = std::os::unix::fs::chown(path, None, Some(gid)) {
            return Ok(format!(
                "{} could not be given to the group \"{GROUP}\" ({error}). As root:\nchgrp -R {GROUP} {}",
                path.display(),
                directory.display()
            ));
        }
    }
    Ok(format!("The group \"{GROUP}\" may read them, others may not."))
}

fn group_id(groups: &str, name: &str) -> Option<u32> {
    let line = groups.lines().find(|line| line.split(':').next() == Some(name))?;
    line.split(':').nth(2)?.parse().ok()
}

#[cfg(test)]
mod tests;
