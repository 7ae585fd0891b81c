//! OpenDKIM verifies our RSA signatures (it knows no Ed25519), also over bodies that end in blank lines of white space.

use bytes::Bytes;
use postrider::mail::QueueId;
use postrider::signer::{Algorithm, Form, KeyFile, Settings, Signer, SigningDomain, Unsigned, generate};
use postrider::time::Timestamp;

use super::run;

#[test]
fn a_signature_is_verified_by_opendkim() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key.pem");
    let new = generate(Algorithm::Rsa, "pr1").unwrap();
    std::fs::write(&path, &new.pem).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let domain: postrider::mail::Domain = "example.com".parse().unwrap();
    let keys = vec![KeyFile { selector: "pr1".into(), path }];
    // OpenDKIM goes by the clock, so the signature's end is left out and its beginning is now.
    let domains = vec![SigningDomain { domain: domain.clone(), keys }];
    let signer = Signer::new(&Settings { domains, valid_for: None, ..Settings::default() }).unwrap();
    let record = signer.records().remove(0);
    let (keys, config) = (dir.path().join("keys"), dir.path().join("conf"));
    std::fs::write(&keys, format!("{} {}\n", record.name, record.value)).unwrap();
    std::fs::write(&config, format!("TestPublicKeys {}\n", keys.display())).unwrap();

    let header = format!(
        "From:  \"A\"  <a@example.com>\r\nTo: b@dest.example\r\nSubject: x \t y\r\n\tfolded  \r\nReferences:{}\r\n\r\n",
        "\r\n <0123456789@id.example>".repeat(40)
    );
    for (number, body) in
        ["", "\r\n", " \r\n", "hello\r\n \r\n", "a \t b\r\n\r\n\t\r\n\r\n", "gr\u{fc}n\r\n"].iter().enumerate()
    {
        let message = format!("{header}{body}");
        let added = Bytes::from_static(b"List-Unsubscribe: <https://u.example/1>\r\n");
        let unsigned = Unsigned {
            submission: QueueId::from_u64(number as u64),
            form: Form::AsAccepted,
            variant: 0,
            author_domain: &domain,
            added_headers: &added,
            message: message.as_bytes(),
            header_bytes: header.len(),
        };
        let signature = signer.sign(&unsigned, Timestamp::from_secs(1_700_000_000)).unwrap();
        let signed = [&signature, &added, message.as_bytes()].concat();
        let arguments = ["-x", config.to_str().unwrap(), "-t", "-", "-vv"];
        let Some((_, told)) = run("opendkim", &arguments, &signed) else { return };
        assert!(told.contains("dkim=pass (2048-bit key) header.d=example.com"), "{body:?}: {told}");
    }
}
