//! `postrider dkim`: makes signing keys, and prints the records to publish for them.
//!
//! Called by the command line, and by `init` for its first domain ([`make`]). It never touches an existing key.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;

use crate::mail::Domain;
use crate::signer::{Algorithm, Record, SigningKey, generate};

/// Where the package keeps keys.
const DIR: &str = "/etc/postrider/dkim";
/// The first selectors, of RSA and of Ed25519; later ones take over when keys are changed.
pub const SELECTORS: [&str; 2] = ["r1", "e1"];
/// The user that the service runs as.
const SERVICE_USER: &str = "postrider";

/// DKIM keys and their DNS records.
#[derive(Debug, clap::Subcommand)]
pub enum DkimCommand {
    /// Make an RSA-2048 and an Ed25519 key for a domain, and print the TXT records to publish
    New {
        /// The domain that signs; it also signs for the names below it
        domain: Domain,
        /// The selector of the RSA key; the Ed25519 key's is then this with "ed" at its end. Absent: r1 and e1
        #[arg(long)]
        selector: Option<String>,
        /// Where the keys are written, as DOMAIN.SELECTOR.pem
        #[arg(long, default_value = DIR)]
        dir: PathBuf,
    },
    /// Print the TXT records of existing keys
    Record {
        /// Key files; the name DOMAIN.SELECTOR.pem says what they are for
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// The domain, if the file's name does not say it
        #[arg(long, requires = "selector")]
        domain: Option<Domain>,
        /// The selector, if the file's name does not say it
        #[arg(long, requires = "domain")]
        selector: Option<String>,
    },
}

/// A key just made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MadeKey {
    /// `pr1`
    pub selector: String,
    /// Its file.
    pub path: PathBuf,
    /// What to publish.
    pub record: Record,
}

/// Runs `postrider dkim …`.
///
/// # Errors
/// What went wrong, in a sentence for the operator.
pub fn run(command: &DkimCommand, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    match command {
        DkimCommand::New { domain, selector, dir } => {
            let made = make(domain, selector.as_deref(), dir)?;
            let records: Vec<Record> = made.iter().map(|key| key.record.clone()).collect();
            for key in &made {
                writeln!(out, "Made {}", key.path.display())?;
            }
            writeln!(out, "\nPublish these TXT records. As lines of a zone file:\n")?;
            print(&records, out)?;
            writeln!(out, "\nThen put this into the config, and reload:\n\n{}", config(domain, &made))?;
        }
        DkimCommand::Record { files, domain, selector } => {
            let given = domain.clone().zip(selector.clone());
            let records: Vec<Record> =
                files.iter().map(|file| record(file, given.as_ref())).collect::<anyhow::Result<_>>()?;
            print(&records, out)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn print(records: &[Record], out: &mut dyn Write) -> std::io::Result<()> {
    for record in records {
        writeln!(out, "{}", record.zone_line())?;
    }
    writeln!(out, "\nOr, where name and value go into two fields of a form:\n")?;
    for record in records {
        writeln!(out, "{}\n    {}", record.name, record.value)?;
    }
    Ok(())
}

/// The lines of `[[sending_domain]]` that name these keys.
pub fn config(domain: &Domain, keys: &[MadeKey]) -> String {
    let mut text = format!("[[sending_domain]]\nname = \"{domain}\"\ndkim = [\n");
    for key in keys {
        // The debug form of a path is a TOML string too, for every path without control characters.
        text.push_str(&format!("  {{ selector = \"{}\", key = {:?} }},\n", key.selector, key.path));
    }
    text.push_str("]\n");
    text
}

/// Makes both keys of a domain. The files belong to root and can be read by the service's group (0640) if root runs
/// this and the service's user exists; else only by whoever runs this (0600).
///
/// # Errors
/// When a file exists already, or cannot be written.
pub fn make(domain: &Domain, selector: Option<&str>, dir: &Path) -> anyhow::Result<Vec<MadeKey>> {
    let group = service_group();
    let is_new = !dir.exists();
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o750)
        .create(dir)
        .with_context(|| format!("the directory {} cannot be made", dir.display()))?;
    if is_new {
        hand_over(dir, group, 0o750)?;
    }
    let mut made = Vec::new();
    let [rsa, ed25519] = match selector {
        Some(selector) => [selector.to_owned(), format!("{selector}ed")],
        None => SELECTORS.map(str::to_owned),
    };
    for (algorithm, selector) in [(Algorithm::Rsa, rsa), (Algorithm::Ed25519, ed25519)] {
        let path = dir.join(format!("{domain}.{selector}.pem"));
        // Before half a second of work, and again by `create_new`.
        anyhow::ensure!(!path.exists(), "{} exists already; choose another --selector", path.display());
        let new = generate(algorithm, &selector)?;
        write(&path, &new.pem).with_context(|| format!("the key {} cannot be written", path.display()))?;
        hand_over(&path, group, 0o640)?;
        made.push(MadeKey { record: new.key.record(domain), selector, path });
    }
    Ok(made)
}

fn write(path: &Path, pem: &str) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(pem.as_bytes())?;
    file.sync_all()
}

/// Lets the service's group in, if there is one that we may hand to.
fn hand_over(path: &Path, group: Option<u32>, mode: u32) -> anyhow::Result<()> {
    let Some(group) = group else { return Ok(()) };
    std::os::unix::fs::chown(path, Some(0), Some(group))
        .and_then(|()| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)))
        .with_context(|| format!("{} cannot be handed to the group of {SERVICE_USER}", path.display()))
}

/// The group of the service's user, if we are root and it exists.
fn service_group() -> Option<u32> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    group_in(&std::fs::read_to_string("/etc/passwd").ok()?)
}

/// `name:password:uid:gid:…`, passwd(5).
fn group_in(passwd: &str) -> Option<u32> {
    passwd.lines().find_map(|line| {
        let mut parts = line.split(':');
        if parts.next() != Some(SERVICE_USER) { None } else { parts.nth(2)?.parse().ok() }
    })
}

fn record(file: &Path, given: Option<&(Domain, String)>) -> anyhow::Result<Record> {
    let (domain, selector) = match given {
        Some((domain, selector)) => (domain.clone(), selector.clone()),
        None => name_parts(file).with_context(|| {
            format!("{} is not named DOMAIN.SELECTOR.pem: give --domain and --selector", file.display())
        })?,
    };
    Ok(SigningKey::load(&selector, file)?.record(&domain))
}

/// `example.com.pr1.pem`
fn name_parts(file: &Path) -> Option<(Domain, String)> {
    let (domain, selector) = file.file_name()?.to_str()?.strip_suffix(".pem")?.rsplit_once('.')?;
    Some((domain.parse().ok()?, selector.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_keys_are_made_once_and_their_records_printed() {
        let dir = tempfile::tempdir().unwrap();
        let keys = dir.path().join("dkim");
        let new =
            DkimCommand::New { domain: "example.com".parse().unwrap(), selector: Some("s1".into()), dir: keys.clone() };
        let mut out = Vec::new();
        run(&new, &mut out).unwrap();
        let out = String::from_utf8(out).unwrap();
        for want in [
            "s1._domainkey.example.com. IN TXT ( \"v=DKIM1; k=rsa; p=MIIB",
            "s1ed._domainkey.example.com. IN TXT ( \"v=DKIM1; k=ed25519; p=",
            "dkim = [\n  { selector = \"s1\", key = \"",
        ] {
            assert!(out.contains(want), "{want}\nis not in\n{out}");
        }
        for name in ["example.com.s1.pem", "example.com.s1ed.pem"] {
            let mode = std::fs::metadata(keys.join(name)).unwrap().permissions().mode() & 0o777;
            assert!(mode == 0o600 || mode == 0o640, "{mode:o}");
        }
        assert!(run(&new, &mut Vec::new()).unwrap_err().to_string().contains("exists already"));

        let files = vec![keys.join("example.com.s1.pem"), keys.join("example.com.s1ed.pem")];
        let mut again = Vec::new();
        run(&DkimCommand::Record { files: files.clone(), domain: None, selector: None }, &mut again).unwrap();
        assert!(out.contains(&String::from_utf8(again).unwrap()));
        let (domain, selector) = (Some("other.example".parse().unwrap()), Some("x".to_owned()));
        let mut other = Vec::new();
        run(&DkimCommand::Record { files, domain, selector }, &mut other).unwrap();
        assert!(String::from_utf8(other).unwrap().contains("x._domainkey.other.example. IN TXT"));
    }

    #[test]
    fn a_file_name_tells_domain_and_selector() {
        let rows = [
            ("/x/example.com.pr1.pem", Some(("example.com", "pr1"))),
            ("example.com.pem", Some(("example", "com"))),
            ("key.pem", None),
            ("example.com.pr1.key", None),
        ];
        for (name, want) in rows {
            let got = name_parts(Path::new(name)).map(|(domain, selector)| (domain.to_string(), selector));
            assert_eq!(got, want.map(|(d, s)| (d.to_owned(), s.to_owned())), "{name}");
        }
    }

    #[test]
    fn the_services_group_is_read_from_passwd() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\npostrider:x:990:985::/var/lib/postrider:/bin/false\n";
        assert_eq!(group_in(passwd), Some(985));
        assert_eq!(group_in("xpostrider:x:1:2::\npostrider:x:1\n"), None);
    }
}
