//! TLS towards peers: one configuration for peers of whom nothing is verified, one for those whose name must be proven.
//!
//! Called by `delivery`, which decides which of the two a connection takes. Both keep their sessions for resumption, and
//! never share them.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientSessionMemoryCache, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_rustls::TlsConnector;

/// TLS sessions kept for resumption, per configuration. One is some 1 KiB; a handshake with a busy peer is saved by each.
const SESSIONS_MAX: usize = 4096;

/// Whom to believe.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    /// A PEM file of further root certificates, for smarthosts with a CA of their own. They are believed beside the
    /// system's. Default: none.
    pub extra_roots: Option<PathBuf>,
    /// A PEM file of root certificates that are believed in place of the system's. Default: none.
    pub roots: Option<PathBuf>,
}

/// What is proven about a peer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Proof {
    /// Nothing: encrypted towards whoever answers (RFC 7435). Certificates are mostly self-signed or expired at MX hosts,
    /// and refusing them would only move the mail into clear text.
    None,
    /// A certificate for its name, from a root that we believe (RFC 5280, RFC 9525).
    Name,
}

/// The client side's configurations. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    unproven: TlsConnector,
    proven: TlsConnector,
}

/// Why TLS towards peers cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The extra roots cannot be read.
    #[error("{path}: no certificates can be read: {reason}")]
    ExtraRoots {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The library refused the configuration.
    #[error("TLS: {0}")]
    Library(#[from] rustls::Error),
}

impl Client {
    /// Reads the root certificates and builds both configurations.
    ///
    /// # Errors
    /// A file of extra roots that cannot be read. A system without roots is no error: verification then fails, and says so.
    pub fn new(settings: &Settings) -> Result<Client, ClientError> {
        let mut roots = RootCertStore::empty();
        if settings.roots.is_none() {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        for path in settings.roots.iter().chain(&settings.extra_roots) {
            let unreadable = |reason: String| ClientError::ExtraRoots { path: path.clone(), reason };
            for certificate in CertificateDer::pem_file_iter(path).map_err(|error| unreadable(error.to_string()))? {
                let certificate = certificate.map_err(|error| unreadable(error.to_string()))?;
                roots.add(certificate).map_err(|error| unreadable(error.to_string()))?;
            }
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let proven = builder(&provider)?.with_root_certificates(roots).with_no_client_auth();
        let verifier = Arc::new(Unproven { provider: provider.clone() });
        let unproven = builder(&provider)?.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
        Ok(Client { unproven: connector(unproven), proven: connector(proven) })
    }

    /// The configuration for a connection.
    pub fn connector(&self, proof: Proof) -> &TlsConnector {
        match proof {
            Proof::None => &self.unproven,
            Proof::Name => &self.proven,
        }
    }
}

/// TLS 1.2 and 1.3, all that the library has (RFC 8996 forbids what is older).
fn builder(
    provider: &Arc<CryptoProvider>,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, rustls::Error> {
    ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()
}

fn connector(mut config: ClientConfig) -> TlsConnector {
    config.resumption = Resumption::store(Arc::new(ClientSessionMemoryCache::new(SESSIONS_MAX)));
    TlsConnector::from(Arc::new(config))
}

/// Believes everybody.
#[derive(Debug)]
struct Unproven {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Unproven {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        // Nothing is proven about the key, so nothing is gained from a proof of its possession; and old certificates
        // (X.509 v1, odd extensions) that the library cannot read would only push the mail into clear text.
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("roots.pem");
        let settings = Settings { extra_roots: Some(path.clone()), ..Settings::default() };
        assert!(matches!(Client::new(&settings), Err(ClientError::ExtraRoots { path: p, .. }) if p == path));
        std::fs::write(&path, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        assert!(matches!(Client::new(&settings), Err(ClientError::ExtraRoots { .. })));
        let key = rcgen::generate_simple_self_signed(vec!["ca.example".into()]).unwrap();
        std::fs::write(&path, key.cert.pem()).unwrap();
        assert!(Client::new(&settings).is_ok());
    }
}
