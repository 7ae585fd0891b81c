//! The certificate that we show to clients, and its replacement while connections live.
//!
//! Called by `submission` (handshakes) and by the roof (load, reload at SIGHUP). It never accepts a connection itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, ServerConnection};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::time::Timestamp;

/// Why a certificate cannot be used. At a reload the old one stays in use.
#[derive(Debug, thiserror::Error)]
pub enum ServerTlsError {
    /// The file is missing, unreadable or no PEM.
    #[error("{path}: {error}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// The system's or the parser's words.
        error: rustls_pki_types::pem::Error,
    },
    /// The file has no certificate in it.
    #[error("{path}: no certificate found", path = path.display())]
    Empty {
        /// Which.
        path: PathBuf,
    },
    /// The key is of an unknown kind, or is not the certificate's.
    #[error("the private key cannot be used with this certificate: {0}")]
    Key(rustls::Error),
}

/// Server-side TLS: one certificate, replaced in place. Cheap to clone; clones share the certificate.
#[derive(Clone)]
pub struct ServerTls {
    config: Arc<ServerConfig>,
    shown: Arc<Shown>,
}

impl ServerTls {
    /// Reads a chain and its key, both PEM.
    ///
    /// # Errors
    /// See [`ServerTlsError`].
    pub fn load(certificate: &Path, private_key: &Path) -> Result<ServerTls, ServerTlsError> {
        let (chain, key) = read(certificate, private_key)?;
        ServerTls::new(chain, key)
    }

    /// From a chain and its key in memory.
    ///
    /// # Errors
    /// The key is not the certificate's.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<ServerTls, ServerTlsError> {
        let shown = Arc::new(Shown(ArcSwap::from_pointee(Certificate::new(chain, key)?)));
        let provider = Arc::new(aws_lc_rs::default_provider());
        // TLS 1.2 and 1.3, RFC 8996; rustls has none older.
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(ServerTlsError::Key)?
            .with_no_client_auth()
            .with_cert_resolver(shown.clone());
        // Sessions live in the client's ticket, not in our memory. PHP connects once a message: one ticket is enough.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = aws_lc_rs::Ticketer::new().map_err(ServerTlsError::Key)?;
        config.send_tls13_tickets = 1;
        Ok(ServerTls { config: Arc::new(config), shown })
    }

    /// Shows another certificate from the next handshake on. No connection is touched.
    ///
    /// # Errors
    /// See [`ServerTlsError`]; the old certificate stays.
    pub fn reload(&self, certificate: &Path, private_key: &Path) -> Result<(), ServerTlsError> {
        let (chain, key) = read(certificate, private_key)?;
        self.shown.0.store(Arc::new(Certificate::new(chain, key)?));
        Ok(())
    }

    /// Whether the certificate vouches for itself, so that no client can verify it.
    pub fn is_self_signed(&self) -> bool {
        self.shown.0.load().self_signed
    }

    /// When the certificate expires, if that can be read.
    pub fn expires_at(&self) -> Option<Timestamp> {
        not_after(self.shown.0.load().key.cert.first()?)
    }

    /// For handshakes.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }
}

/// `TLSv1.3 with cipher TLS_AES_256_GCM_SHA384`: how a connection is described in Received and in logs.
pub fn describe(connection: &ServerConnection) -> String {
    let version = match connection.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "TLS",
    };
    let suite = connection.negotiated_cipher_suite().map(|suite| suite.suite());
    let name = suite.and_then(|suite| suite.as_str()).unwrap_or("unknown");
    // rustls writes TLS13_AES_…, the rest of the world TLS_AES_….
    format!("{version} with cipher {}", name.replacen("TLS13_", "TLS_", 1))
}

struct Certificate {
    key: Arc<CertifiedKey>,
    self_signed: bool,
}

impl Certificate {
    fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Certificate, ServerTlsError> {
        let self_signed = chain.first().is_some_and(|end_entity| is_self_issued(end_entity));
        let key = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).map_err(ServerTlsError::Key)?;
        Ok(Certificate { key: Arc::new(key), self_signed })
    }
}

struct Shown(ArcSwap<Certificate>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load().key.clone())
    }
}

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shown")
    }
}

type Pair = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn read(certificate: &Path, private_key: &Path) -> Result<Pair, ServerTlsError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |error| ServerTlsError::File { path, error }
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(certificate).map_err(at(certificate))?.collect();
    let chain = chain.map_err(at(certificate))?;
    if chain.is_empty() {
        return Err(ServerTlsError::Empty { path: certificate.to_owned() });
    }
    let key = PrivateKeyDer::from_pem_file(private_key).map_err(at(private_key))?;
    Ok((chain, key))
}

/// Whether issuer and subject of a certificate are the same name (RFC 5280 §4.1). What cannot be read is not.
///
/// ```text
/// Certificate  SEQUENCE { tbs SEQUENCE { [0] version?, serial, algorithm, issuer, validity, subject, … } … }
/// ```
fn is_self_issued(certificate: &[u8]) -> bool {
    parts(certificate).is_some_and(|parts| parts.issuer == parts.subject)
}

/// When a certificate's validity ends: RFC 5280 §4.1.2.5, to the second.
fn not_after(certificate: &[u8]) -> Option<Timestamp> {
    let (_, _, rest) = element(parts(certificate)?.validity)?; // notBefore
    let (tag, text, _) = element(rest)?;
    let text = std::str::from_utf8(text).ok()?;
    let full = match tag {
        // UTCTime: two digits of the year, 50 and up are of the last century.
        0x17 => format!("{}{text}", if text.get(..2)? >= "50" { "19" } else { "20" }),
        // GeneralizedTime.
        0x18 => text.to_owned(),
        _ => return None,
    };
    Timestamp::parse_der(&full)
}

struct Parts<'a> {
    issuer: &'a [u8],
    validity: &'a [u8],
    subject: &'a [u8],
}

fn parts(certificate: &[u8]) -> Option<Parts<'_>> {
    let (_, outer, _) = element(certificate)?;
    let (_, tbs, _) = element(outer)?;
    let (tag, _, behind_version) = element(tbs)?;
    let rest = if tag == 0xa0 { behind_version } else { tbs };
    let (_, _, rest) = element(rest)?; // serial
    let (_, _, rest) = element(rest)?; // algorithm
    let (_, issuer, rest) = element(rest)?;
    let (_, validity, rest) = element(rest)?;
    let (_, subject, _) = element(rest)?;
    Some(Parts { issuer, validity, subject })
}

/// The first DER element: tag, content, and what follows it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        _ => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f)).filter(|(d, _)| d.len() <= 4)?;
            (digits.iter().fold(0, |sum, digit| sum << 8 | usize::from(*digit)), rest)
        }
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, Issuer, KeyPair};

    use super::*;

    fn write(path: &Path, text: &str) {
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn a_bad_certificate_leaves_the_old_one_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        let own = rcgen::generate_simple_self_signed(["relay.example".to_owned()]).unwrap();
        write(&cert, &own.cert.pem());
        write(&key, &own.signing_key.serialize_pem());
        let tls = ServerTls::load(&cert, &key).unwrap();
        assert!(tls.is_self_signed());

        write(&key, &KeyPair::generate().unwrap().serialize_pem());
        assert!(matches!(tls.reload(&cert, &key), Err(ServerTlsError::Key(_))), "another certificate's key");
        write(&key, "-----BEGIN PRIVATE KEY-----\nMIG");
        assert!(matches!(tls.reload(&cert, &key), Err(ServerTlsError::File { .. })), "a truncated key");
        write(&cert, "");
        assert!(matches!(tls.reload(&cert, &key), Err(ServerTlsError::Empty { .. })));
        assert!(tls.is_self_signed());

        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.distinguished_name.push(rcgen::DnType::CommonName, "authority");
        let issuer = Issuer::new(authority, KeyPair::generate().unwrap());
        let pair = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(["relay.example".to_owned()]).unwrap().signed_by(&pair, &issuer).unwrap();
        write(&cert, &leaf.pem());
        write(&key, &pair.serialize_pem());
        tls.reload(&cert, &key).unwrap();
        assert!(!tls.is_self_signed());
    }

    #[test]
    fn the_end_of_a_certificate_is_read_in_both_of_its_forms() {
        for (year, want) in [(2027, "2027-03-04T00:00:00.000Z"), (2050, "2050-03-04T00:00:00.000Z")] {
            let mut parameters = CertificateParams::new(["relay.example".to_owned()]).unwrap();
            parameters.not_after = rcgen::date_time_ymd(year, 3, 4);
            let own = parameters.self_signed(&KeyPair::generate().unwrap()).unwrap();
            assert_eq!(not_after(own.der()).unwrap().rfc3339(), want);
            for length in 0..100 {
                assert_eq!(not_after(own.der().get(..length).unwrap()), None, "{length}");
            }
        }
    }

    #[test]
    fn a_certificate_cut_anywhere_is_not_taken_for_self_signed() {
        let own = rcgen::generate_simple_self_signed(["relay.example".to_owned()]).unwrap();
        let der = own.cert.der();
        assert!(is_self_issued(der));
        for length in 0..der.len() {
            assert!(!is_self_issued(der.get(..length).unwrap()), "{length}");
        }
    }
}
