//! Makes certificates: the self-signed one of the first days, and the sandbox's own authority.
//!
//! Called by the roof (`init`) and the sandbox. It never touches a file, and nothing that it makes is trusted by others.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

/// No certificate could be made: a name that is no host name, or a system without randomness.
#[derive(Debug, thiserror::Error)]
#[error("no certificate could be made: {0}")]
pub struct CertificateError(#[from] rcgen::Error);

/// A certificate and its key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Certificate {
    /// The chain in PEM, leaf first.
    pub chain_pem: String,
    /// PKCS#8 in PEM.
    pub key_pem: String,
}

impl Certificate {
    /// One that nobody trusts, but that encrypts: for the days until a real one is there.
    ///
    /// # Errors
    /// A name is no host name.
    pub fn self_signed(names: &[&str]) -> Result<Certificate, CertificateError> {
        let key = KeyPair::generate()?;
        let certificate = leaf(names)?.self_signed(&key)?;
        Ok(Certificate { chain_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }
}

/// An authority of one process, for the sandbox and tests.
pub struct Authority {
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes one.
    ///
    /// # Errors
    /// The system gave no randomness.
    pub fn new(name: &str) -> Result<Authority, CertificateError> {
        let mut parameters = CertificateParams::new(Vec::new())?;
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let certificate_pem = parameters.self_signed(&key)?.pem();
        Ok(Authority { certificate_pem, issuer: Issuer::new(parameters, key) })
    }

    /// What clients must trust.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Issues a server certificate for host names and addresses.
    ///
    /// # Errors
    /// A name is no host name.
    pub fn issue(&self, names: &[&str]) -> Result<Certificate, CertificateError> {
        let key = KeyPair::generate()?;
        let certificate = leaf(names)?.signed_by(&key, &self.issuer)?;
        let chain_pem = format!("{}{}", certificate.pem(), self.certificate_pem);
        Ok(Certificate { chain_pem, key_pem: key.serialize_pem() })
    }
}

fn leaf(names: &[&str]) -> Result<CertificateParams, CertificateError> {
    let mut parameters = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())?;
    if let Some(first) = names.first() {
        parameters.distinguished_name.push(DnType::CommonName, *first);
    }
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    parameters.use_authority_key_identifier_extension = true;
    Ok(parameters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_made_for_names_and_addresses() {
        let authority = Authority::new("test authority").unwrap();
        let issued = authority.issue(&["localhost", "127.0.0.1"]).unwrap();
        assert_eq!(issued.chain_pem.matches("BEGIN CERTIFICATE").count(), 2);
        let own = Certificate::self_signed(&["relay.example.com"]).unwrap();
        assert_eq!(own.chain_pem.matches("BEGIN CERTIFICATE").count(), 1);
        assert!(own.key_pem.contains("PRIVATE KEY"));
    }
}
