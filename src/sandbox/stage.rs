//! What the sandbox's daemon is given: an authority and a certificate, DKIM keys, a credential, and a config.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::certificate::{Authority, CertificateError};
use crate::credential::{self, PasswordError};
use crate::mail::{Domain, DomainError};
use crate::signer::{self, Algorithm, KeyError, Record};
use crate::tls::server::{ServerTls, ServerTlsError};

/// The domain that the sandbox sends from: `.example` can never exist (RFC 2606).
pub const DOMAIN: &str = "sandbox.example";
/// The credential's name.
pub const USER: &str = "app";

/// Why the sandbox could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A file could not be written.
    #[error("{path}: {error}")]
    Write {
        /// Which.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// No certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// No DKIM key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// No password.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// The peer has no TLS.
    #[error(transparent)]
    Tls(#[from] ServerTlsError),
    /// The sandbox's domain is none.
    #[error(transparent)]
    Domain(#[from] DomainError),
}

/// A directory with everything but the config, which needs the peer's port.
pub struct Stage {
    /// Where it all is; gone when this is dropped.
    pub directory: PathBuf,
    /// What clients must trust.
    pub authority: PathBuf,
    /// The credential's password.
    pub password: String,
    /// The DKIM records that DNS would have.
    pub records: Vec<Record>,
    password_hash: String,
}

impl Stage {
    /// Makes keys and certificates in a new directory.
    ///
    /// # Errors
    /// The system refuses a file or randomness.
    pub fn build(parent: &Path) -> Result<Stage, SetupError> {
        let password = credential::random_password()?;
        let name = password.get(..8).unwrap_or_default().to_ascii_lowercase();
        let directory = parent.join(format!("postrider-sandbox-{name}"));
        let made = DirBuilder::new().mode(0o700).create(&directory);
        made.map_err(|error| SetupError::Write { path: directory.clone(), error })?;
        // From here on, dropping it removes the directory.
        let mut stage = Stage {
            authority: directory.join("ca.pem"),
            password_hash: credential::hash(&password)?,
            password,
            records: Vec::new(),
            directory,
        };
        let authority = Authority::new("Postrider sandbox")?;
        stage.write("ca.pem", authority.certificate_pem())?;
        let certificate = authority.issue(&["localhost", "127.0.0.1", "relay.sandbox.example"])?;
        stage.write("fullchain.pem", &certificate.chain_pem)?;
        stage.write("privkey.pem", &certificate.key_pem)?;
        let domain: Domain = DOMAIN.parse()?;
        for (algorithm, selector) in [(Algorithm::Rsa, "r1"), (Algorithm::Ed25519, "e1")] {
            let new = signer::generate(algorithm, selector)?;
            stage.write(&format!("{selector}.pem"), &new.pem)?;
            stage.records.push(new.key.record(&domain));
        }
        Ok(stage)
    }

    /// TLS for the peer: the same certificate.
    ///
    /// # Errors
    /// It cannot be read back.
    pub fn peer_tls(&self) -> Result<ServerTls, SetupError> {
        Ok(ServerTls::load(&self.directory.join("fullchain.pem"), &self.directory.join("privkey.pem"))?)
    }

    /// Writes the config: all mail goes to the peer. Gives its path.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_config(&self, peer: SocketAddr) -> Result<PathBuf, SetupError> {
        let (data_dir, hash) = (self.directory.join("data"), &self.password_hash);
        let data_dir = data_dir.display();
        let config = format!(
            r#"# A sandbox: everything on loopback, all mail to the catching peer.
hostname = "relay.{DOMAIN}"
data_dir = '{data_dir}'
postmaster = "postmaster@{DOMAIN}"

[tls]
certificate = "fullchain.pem"
private_key = "privkey.pem"

[[listener]]
bind = "127.0.0.1:0"
mode = "submission"

[[listener]]
bind = "127.0.0.1:0"
mode = "submissions"

[[listener]]
bind = "127.0.0.1:0"
mode = "smtp"
trusted_networks = ["127.0.0.0/8"]

[[credential]]
name = "{USER}"
password_hash = "{hash}"
from_domains = ["{DOMAIN}"]

[[sending_domain]]
name = "{DOMAIN}"
dkim = [{{ selector = "r1", key = "r1.pem" }}, {{ selector = "e1", key = "e1.pem" }}]

[[route]]
recipient_domain = "*"
next_hop = ["{peer}"]

[delivery]
allow_private_peers = true

[log]
level = "warn"
"#
        );
        self.write("postrider.toml", &config)?;
        Ok(self.directory.join("postrider.toml"))
    }

    fn write(&self, name: &str, text: &str) -> Result<(), SetupError> {
        let path = self.directory.join(name);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| SetupError::Write { path, error })
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // What cannot be removed is left to the system's cleaning of its temporary directory.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
