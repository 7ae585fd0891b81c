//! A certificate authority of one test, and the daemon's certificate by it.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::CertificateDer;

/// What a client must trust.
pub struct Authority {
    certificate: CertificateDer<'static>,
}

impl Authority {
    /// Makes an authority and writes `fullchain.pem` and `privkey.pem` for `hostname` and loopback into `directory`. By an
    /// authority rather than self-signed: STARTTLS is not offered on loopback with a certificate that no client can trust.
    pub fn issue(directory: &Path, hostname: &str) -> Authority {
        let authority_key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "Postrider test authority");
        let certificate = params.self_signed(&authority_key).expect("an authority");
        let issuer = Issuer::new(params, authority_key);

        let key = KeyPair::generate().expect("a key");
        let mut leaf =
            CertificateParams::new(vec![hostname.to_owned(), "localhost".to_owned(), "127.0.0.1".to_owned()])
                .expect("parameters");
        leaf.distinguished_name.push(DnType::CommonName, hostname);
        let leaf = leaf.signed_by(&key, &issuer).expect("a certificate");
        fs::write(directory.join("fullchain.pem"), leaf.pem() + &certificate.pem()).expect("fullchain.pem");
        super::daemon::write_secret(&directory.join("privkey.pem"), &key.serialize_pem());
        Authority { certificate: certificate.der().clone() }
    }

    /// A client's TLS settings that trust this authority alone.
    pub fn client_config(&self) -> Arc<rustls::ClientConfig> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.certificate.clone()).expect("our own authority");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("protocol versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Arc::new(config)
    }
}
