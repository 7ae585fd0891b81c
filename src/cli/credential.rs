//! `postrider credential`: who may send. Makes hashes and config blocks, API keys, and switches credentials off.
//!
//! Works on files alone; a daemon that runs follows within a second. No secret is taken from the command line, where
//! every user of the machine could read it.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use clap::Subcommand;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use serde_json::json;

use super::client::{Client, Daemon};
use super::traffic::{operator, order_at};
use crate::clock::system_time;
use crate::credential::{self, CredentialFile, FILE_NAME};
use crate::http::shapes::HoldCredential;
use crate::mail::Domain;

/// What can be done about credentials.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a credential with a random password, and print the block to paste into the config.
    Add {
        /// What the client logs in as.
        #[arg(value_name = "NAME")]
        name: String,
        /// The stream of its mail.
        #[arg(long, default_value = "transactional")]
        stream: String,
        /// A domain that it may send as, its subdomains included; =DOMAIN is that name alone. May be repeated.
        #[arg(long = "from-domain", value_name = "DOMAIN", required = true)]
        from_domains: Vec<String>,
    },
    /// Read a password, from a prompt or a pipe, and print its hash for the config.
    Hash,
    /// Make, show and revoke API keys: passwords of a credential's programs, one for each.
    #[command(subcommand)]
    Key(Key),
    /// Switch a credential off, at once.
    Disable {
        /// As in the config.
        #[arg(value_name = "NAME")]
        name: String,
        /// Hold the mail of it that waits, too.
        #[arg(long)]
        hold_queue: bool,
    },
    /// Switch it on again.
    Enable {
        /// As in the config.
        #[arg(value_name = "NAME")]
        name: String,
    },
}

/// What can be done about API keys.
#[derive(Debug, Subcommand)]
pub enum Key {
    /// Make a key. It is shown only now.
    New {
        /// The credential that it logs in.
        #[arg(value_name = "CREDENTIAL")]
        credential: String,
        /// A word for the list: which program or machine has it.
        #[arg(long, default_value = "")]
        note: String,
    },
    /// Show all keys, without their secrets.
    List,
    /// Revoke a key, at once.
    Revoke {
        /// The part between the underscores, as `list` shows it.
        #[arg(value_name = "ID")]
        id: String,
    },
}

/// What of the config is needed.
#[derive(Debug)]
pub struct Place {
    /// Where the daemon keeps its files.
    pub data_dir: PathBuf,
    /// The names of all credentials.
    pub names: Vec<String>,
}

/// Runs `postrider credential`. `place` is asked only by commands that need the config.
///
/// # Errors
/// What to tell the user.
pub fn run(
    command: &Command,
    place: impl FnOnce() -> anyhow::Result<Place>,
    json: bool,
    out: &mut dyn Write,
) -> anyhow::Result<ExitCode> {
    match command {
        Command::Add { name, stream, from_domains } => add(name, stream, from_domains, json, out)?,
        Command::Hash => {
            let hash = credential::hash(&read_password()?)?;
            match json {
                true => writeln!(out, "{}", json!({ "password_hash": hash }))?,
                false => writeln!(out, "{hash}")?,
            }
        }
        Command::Key(key) => return run_key(key, place()?, json, out),
        Command::Disable { name, .. } => {
            let changed = open(known(&place()?, name)?)?.disable(name)?;
            tell(out, json, name, changed, "disabled", "was disabled already")?;
        }
        Command::Enable { name } => {
            let changed = open(known(&place()?, name)?)?.enable(name)?;
            tell(out, json, name, changed, "enabled", "was enabled already")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Command {
    /// Whether the daemon must hear of it: to hold mail, or to let go what it holds if it runs.
    pub fn asks_the_daemon(&self, context: &super::Context) -> bool {
        match self {
            Command::Disable { hold_queue, .. } => *hold_queue,
            Command::Enable { name } => {
                let socket = context.data_dir().map(|dir| dir.join(crate::http::SOCKET_NAME));
                let runs = socket.is_ok_and(|socket| std::os::unix::net::UnixStream::connect(socket).is_ok());
                if !runs {
                    eprintln!("The daemon does not run: if it held {name}'s mail, say this again once it does.");
                }
                runs
            }
            Command::Add { .. } | Command::Hash | Command::Key(_) => false,
        }
    }
}

/// Holds the mail of a credential that was disabled, or lets it go.
///
/// # Errors
/// Standard output is closed.
pub fn hold(daemon: Daemon<'_>, command: &Command, json: bool, out: &mut dyn Write) -> io::Result<ExitCode> {
    let (name, hold) = match command {
        Command::Disable { name, .. } => (name, true),
        Command::Enable { name } => (name, false),
        Command::Add { .. } | Command::Hash | Command::Key(_) => return Ok(ExitCode::SUCCESS),
    };
    let request = HoldCredential { name: name.clone(), hold, by: operator() };
    order_at(&Client::new(daemon)?, "/v1/credentials/hold", &request, json, out)
}

fn run_key(key: &Key, place: Place, json: bool, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    match key {
        Key::New { credential, note } => {
            ensure!(!note.contains(char::is_control), "a note is one line of text");
            let key = open(known(&place, credential)?)?.create(credential, note, system_time())?;
            match json {
                true => {
                    writeln!(out, "{}", json!({ "id": key.id(), "credential": credential, "key": key.to_string() }))?
                }
                false => {
                    writeln!(out, "{key}")?;
                    eprintln!("Shown only now. User: apikey (or {credential}); password: the line above.");
                }
            }
        }
        Key::List => list(&open(&place)?, json, out)?,
        Key::Revoke { id } => {
            // The whole key is taken too: it is what people have at hand. It was a secret until now.
            let id = credential::ApiKey::parse(id).map_or(id.clone(), |key| key.id().to_owned());
            let revoked = open(&place)?.revoke(&id)?;
            tell(out, json, &id, revoked, "revoked", "is no key")?;
            return Ok(if revoked { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list(file: &CredentialFile, json: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    let keys = file.list();
    if json {
        let rows: Vec<_> = keys
            .iter()
            .map(|key| {
                json!({
                    "id": key.id, "credential": key.credential, "created_at": key.created_at, "note": key.note,
                })
            })
            .collect();
        return Ok(writeln!(out, "{}", json!(rows))?);
    }
    if keys.is_empty() {
        return Ok(writeln!(out, "No API keys.")?);
    }
    for key in keys {
        writeln!(out, "{}  {}  {:<20}  {}", key.id, key.created_at, key.credential, key.note)?;
    }
    Ok(())
}

fn tell(out: &mut dyn Write, json: bool, name: &str, changed: bool, done: &str, not: &str) -> io::Result<()> {
    match (json, changed) {
        (true, _) => writeln!(out, "{}", json!({ "name": name, "changed": changed })),
        (false, true) => writeln!(out, "{name} {done}."),
        (false, false) => writeln!(out, "{name} {not}."),
    }
}

fn open(place: &Place) -> anyhow::Result<CredentialFile> {
    Ok(CredentialFile::open(place.data_dir.join(FILE_NAME))?)
}

fn known<'a>(place: &'a Place, name: &str) -> anyhow::Result<&'a Place> {
    if place.names.iter().any(|known| known == name) {
        return Ok(place);
    }
    bail!("the config has no credential {name:?}; it has: {}", place.names.join(", "))
}

fn add(name: &str, stream: &str, from_domains: &[String], json: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    let plain = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-@+".contains(c));
    ensure!(
        plain(name) && !name.eq_ignore_ascii_case("apikey"),
        "a name has letters, digits and . _ - @ +, and is not apikey"
    );
    ensure!(plain(stream), "{stream:?} is no stream's name");
    for domain in from_domains {
        let bare = domain.strip_prefix('=').unwrap_or(domain);
        bare.parse::<Domain>().with_context(|| format!("{domain:?}"))?;
    }
    let password = credential::random_password()?;
    let hash = credential::hash(&password)?;
    if json {
        let block = json!({ "name": name, "password": password, "password_hash": hash, "stream": stream, "from_domains": from_domains });
        return Ok(writeln!(out, "{block}")?);
    }
    let domains: Vec<String> = from_domains.iter().map(|domain| format!("{domain:?}")).collect();
    writeln!(out, "Password of {name}, shown only now:\n\n    {password}\n")?;
    writeln!(out, "Paste into the config, then reload:\n")?;
    writeln!(out, "[[credential]]\nname = {name:?}\npassword_hash = {hash:?}\nstream = {stream:?}")?;
    Ok(writeln!(out, "from_domains = [{}]", domains.join(", "))?)
}

/// A password from a prompt, twice, unseen; or the first line of a pipe.
fn read_password() -> anyhow::Result<String> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return line(&mut stdin.lock());
    }
    let quiet = tcgetattr(&stdin).context("the terminal cannot be asked")?;
    let mut hidden = quiet.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&stdin, OptionalActions::Flush, &hidden).context("the terminal would show the password")?;
    let both = ask("Password: ").and_then(|first| Ok((first, ask("Again: ")?)));
    tcsetattr(&stdin, OptionalActions::Flush, &quiet).context("the terminal stays silent: type `reset`")?;
    let (first, second) = both?;
    ensure!(first == second, "the two are not the same");
    Ok(first)
}

fn ask(prompt: &str) -> anyhow::Result<String> {
    eprint!("{prompt}");
    let text = line(&mut io::stdin().lock());
    eprintln!();
    text
}

/// The first line, without its end.
fn line(from: &mut dyn BufRead) -> anyhow::Result<String> {
    let mut text = String::new();
    io::Read::take(from, 4096).read_line(&mut text)?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bench(tempfile::TempDir);

    impl Bench {
        fn run(&self, command: &Command, json: bool) -> Result<String, String> {
            let place = || Ok(Place { data_dir: self.0.path().to_owned(), names: vec!["shop".to_owned()] });
            let mut out = Vec::new();
            let outcome = run(command, place, json, &mut out);
            outcome.map(|_| String::from_utf8(out).unwrap()).map_err(|error| format!("{error:#}"))
        }
    }

    #[test]
    fn a_key_is_made_listed_and_revoked() {
        let bench = Bench(tempfile::tempdir().unwrap());
        let new = |credential: &str| Key::New { credential: credential.to_owned(), note: "web".to_owned() };
        assert!(bench.run(&Command::Key(new("nobody")), false).unwrap_err().contains("it has: shop"));
        let key = bench.run(&Command::Key(new("shop")), false).unwrap();
        let key = credential::ApiKey::parse(key.trim_end()).expect("a key alone on its line");
        let listed = bench.run(&Command::Key(Key::List), false).unwrap();
        assert!(listed.starts_with(key.id()) && listed.contains("shop") && listed.contains("web"));
        assert!(!listed.contains(&key.to_string()));
        let revoke = Command::Key(Key::Revoke { id: key.to_string() });
        assert_eq!(bench.run(&revoke, false).unwrap(), format!("{} revoked.\n", key.id()));
        assert_eq!(bench.run(&revoke, false).unwrap(), format!("{} is no key.\n", key.id()));
        assert_eq!(bench.run(&Command::Key(Key::List), false).unwrap(), "No API keys.\n");
        assert_eq!(bench.run(&Command::Key(Key::List), true).unwrap(), "[]\n");
    }

    #[test]
    fn a_block_to_paste_holds_the_hash_of_the_password_shown() {
        let bench = Bench(tempfile::tempdir().unwrap());
        let add = |name: &str, domain: &str| Command::Add {
            name: name.to_owned(),
            stream: "transactional".to_owned(),
            from_domains: vec![domain.to_owned()],
        };
        let text = bench.run(&add("shop", "=example.com"), false).unwrap();
        let (password, block) = text.split_once("Paste").unwrap();
        let block: toml::Value = toml::from_str(block.split_once("\n\n").unwrap().1).unwrap();
        let block = &block["credential"][0];
        assert_eq!(block["from_domains"][0].as_str(), Some("=example.com"));
        assert!(block["password_hash"].as_str().unwrap().starts_with("$argon2id$"));
        assert_eq!(password.lines().nth(2).unwrap().trim().len(), 32);
        for (name, domain) in [("apikey", "example.com"), ("a b", "example.com"), ("", "example.com"), ("a", "-")] {
            assert!(bench.run(&add(name, domain), false).is_err(), "{name} {domain}");
        }
    }

    #[test]
    fn a_credential_is_switched_off_and_on() {
        let bench = Bench(tempfile::tempdir().unwrap());
        let disable = Command::Disable { name: "shop".to_owned(), hold_queue: false };
        assert_eq!(bench.run(&disable, false).unwrap(), "shop disabled.\n");
        assert_eq!(bench.run(&disable, false).unwrap(), "shop was disabled already.\n");
        let enable = Command::Enable { name: "shop".to_owned() };
        assert_eq!(bench.run(&enable, true).unwrap(), "{\"changed\":true,\"name\":\"shop\"}\n");
        assert!(bench.run(&Command::Disable { name: "nobody".to_owned(), hold_queue: false }, false).is_err());
    }

    #[test]
    fn a_piped_password_loses_its_line_end_and_nothing_else() {
        for (text, want) in [("secret\n", "secret"), ("se cret \r\nx\n", "se cret "), ("secret", "secret"), ("", "")] {
            assert_eq!(line(&mut text.as_bytes()).unwrap(), want);
        }
    }
}
