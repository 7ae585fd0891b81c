//! Signatures made here, checked here and by other people's verifiers.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::OnceLock;

use super::*;

const NOW: Timestamp = Timestamp::from_secs(1_795_255_200);

/// One RSA and one Ed25519 key for example.com: made once, since RSA takes its time.
fn keys() -> &'static [NewKey; 2] {
    static KEYS: OnceLock<[NewKey; 2]> = OnceLock::new();
    KEYS.get_or_init(|| [generate(Algorithm::Rsa, "pr1").unwrap(), generate(Algorithm::Ed25519, "pr1ed").unwrap()])
}

struct World {
    dir: tempfile::TempDir,
    settings: Settings,
}

fn write_key(path: &std::path::Path, pem: &str, mode: u32) {
    std::fs::write(path, pem).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for (new, selector) in keys().iter().zip(["pr1", "pr1ed"]) {
        let path = dir.path().join(selector);
        write_key(&path, &new.pem, 0o600);
        files.push(KeyFile { selector: selector.into(), path });
    }
    let domain = "example.com".parse().unwrap();
    let settings = Settings { domains: vec![SigningDomain { domain, keys: files }], ..Settings::default() };
    World { dir, settings }
}

fn unsigned<'a>(message: &'a [u8], author: &'a Domain, added: &'a Bytes) -> Unsigned<'a> {
    let header_bytes = crate::message::scan(message, crate::message::HeaderLimits::NONE).unwrap().body_start;
    Unsigned {
        submission: QueueId::from_u64(message.len() as u64),
        form: Form::AsAccepted,
        variant: 0,
        author_domain: author,
        added_headers: added,
        message,
        header_bytes,
    }
}

fn sign(signer: &Signer, message: &[u8], added: &'static [u8]) -> Vec<u8> {
    let (author, added) = ("mail.example.com".parse().unwrap(), Bytes::from_static(added));
    let header = signer.sign(&unsigned(message, &author, &added), NOW).unwrap();
    [&header, &added, message].concat()
}

/// Bodies at which signers and verifiers have differed, and a header of every length.
fn messages() -> Vec<Vec<u8>> {
    let bodies = [
        "",
        "\r\n",
        " \r\n",
        "hello\r\n",
        "hello\r\n \r\n",
        "hello\r\n\t \r\n\r\n",
        "\r\n\r\nhello \t x\r\n\r\n\r\n",
        " leading\r\n",
        "a\r\n \r\nb\r\n",
        "gr\u{fc}n\r\n",
        ".\r\n..\r\n",
    ];
    let headers = [
        "From: a@mail.example.com\r\n".to_owned(),
        format!(
            "From:  \"A\"  <a@mail.example.com>\r\nTo: b@c.example\r\nSubject: x \t y\r\n\tfolded  \r\nList-Id: <l>\r\n\
             References:{}\r\nX-Not-Signed: 1\r\n",
            "\r\n <0123456789@id.example>".repeat(50)
        ),
    ];
    let mut all = Vec::new();
    for header in &headers {
        for (number, body) in bodies.iter().enumerate() {
            // The number keeps the lengths, and so the ids, apart.
            all.push(format!("{header}X-N: {}\r\n\r\n{body}", "n".repeat(number * 40)).into_bytes());
        }
    }
    all
}

#[test]
fn both_signatures_of_every_message_verify() {
    let world = world();
    let signer = Signer::new(&world.settings).unwrap();
    for message in messages() {
        let signed = sign(&signer, &message, b"List-Unsubscribe: <https://u.example/1>\r\n");
        let results = verify(&signed, &signer.records(), NOW);
        let names: Vec<_> = results.iter().map(|r| (r.domain.as_str(), r.selector.as_str(), r.algorithm)).collect();
        let want = [("example.com", "pr1", "rsa-sha256"), ("example.com", "pr1ed", "ed25519-sha256")];
        assert_eq!(names, want);
        assert!(results.iter().all(|r| r.result.is_ok()), "{results:?}\n{}", String::from_utf8_lossy(&signed));
        let text = String::from_utf8_lossy(&signed);
        assert!(text.contains("; t=1795255200") && text.contains("x=1795860000") && !text.contains(" l="), "{text}");
    }
}

#[test]
fn what_was_signed_cannot_be_changed_and_nothing_can_be_added() {
    let world = world();
    let signer = Signer::new(&world.settings).unwrap();
    let message = b"From: a@example.com\r\nSubject: s\r\n\r\nbody\r\n";
    let signed = String::from_utf8(sign(&signer, message, b"")).unwrap();
    let holds = |text: &str| verify(text.as_bytes(), &signer.records(), NOW).iter().all(|r| r.result.is_ok());
    assert!(holds(&signed));
    assert!(holds(&format!("Received: by x\r\n{signed}")));
    for added in ["From: e@x.example", "Subject: t", "Reply-To: e@x.example", "To: x", "Content-Type: text/html"] {
        assert!(!holds(&format!("{added}\r\n{signed}")), "{added}");
        assert!(!holds(&signed.replace("\r\n\r\n", &format!("\r\n{added}\r\n\r\n"))), "{added}");
    }
    assert!(!holds(&signed.replace("body", "bodi")));
    assert!(!holds(&signed.replace("Subject: s", "Subject: z")));
    let late = NOW.after(Duration::from_secs(8 * 86_400));
    assert!(verify(signed.as_bytes(), &signer.records(), late).iter().all(|r| r.result.is_err()), "expired");
    assert!(verify(signed.as_bytes(), &[], NOW).iter().all(|r| r.result.is_err()), "no record");
}

#[test]
fn the_key_is_the_authors_own_or_the_nearest_above() {
    let world = world();
    let mut settings = world.settings.clone();
    let path = world.dir.path().join("pr1ed");
    let keys = vec![KeyFile { selector: "own".into(), path }];
    settings.domains.push(SigningDomain { domain: "news.example.com".parse().unwrap(), keys });
    let signer = Signer::new(&settings).unwrap();
    let rows = [
        ("example.com", Some("example.com")),
        ("a.b.example.com", Some("example.com")),
        ("news.example.com", Some("news.example.com")),
        ("x.news.example.com", Some("news.example.com")),
        ("badexample.com", None),
        ("com", None),
    ];
    for (author, want) in rows {
        let got = signer.signing_domain(&author.parse().unwrap());
        assert_eq!(got.map(|d| d.to_string()).as_deref(), want, "{author}");
    }
    let (author, added) = ("other.example".parse().unwrap(), Bytes::new());
    let message = b"From: a@other.example\r\n\r\n";
    assert!(signer.sign(&unsigned(message, &author, &added), NOW).unwrap().is_empty());
}

#[test]
fn a_signature_is_reused_until_it_is_old_or_the_keys_change() {
    let world = world();
    let signer = Signer::new(&world.settings).unwrap();
    let (author, added): (Domain, _) = ("example.com".parse().unwrap(), Bytes::new());
    let message = b"From: a@example.com\r\n\r\nx\r\n".to_vec();
    let at = |now: Timestamp| signer.sign(&unsigned(&message, &author, &added), now).unwrap();
    let first = at(NOW);
    assert_eq!(at(NOW.after(Duration::from_secs(86_399))), first);
    let second = at(NOW.after(Duration::from_secs(86_400)));
    assert_ne!(second, first);
    signer.reload(&world.settings).unwrap();
    assert_ne!(at(NOW.after(Duration::from_secs(86_401))), second);
    let other = Bytes::from_static(b"List-Id: <x>\r\n");
    assert_ne!(signer.sign(&unsigned(&message, &author, &other), NOW).unwrap(), first);
}

#[test]
fn a_key_that_others_could_use_or_that_is_weak_is_refused() {
    let world = world();
    let path = world.dir.path().join("k");
    for (mode, fits) in [(0o600, true), (0o400, true), (0o640, true), (0o644, false), (0o660, false), (0o604, false)] {
        write_key(&path, &keys()[1].pem, mode);
        let got = SigningKey::load("s", &path);
        assert_eq!(got.is_ok(), fits, "{mode:o}: {got:?}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    write_key(&path, "no key at all", 0o600);
    assert!(matches!(SigningKey::load("s", &path), Err(KeyError::Form { .. })));
    assert!(matches!(SigningKey::load("s", &world.dir.path().join("none")), Err(KeyError::Read { .. })));
    assert!(matches!(
        SigningKey::from_pem("bad selector", keys()[1].pem.as_bytes(), &path),
        Err(KeyError::Form { .. })
    ));
    let weak = SigningKey::from_pem("s", include_bytes!("testdata/rsa-1024.pem"), &path);
    assert!(matches!(weak, Err(KeyError::Bits { bits: 1024, .. } | KeyError::Form { .. })), "{weak:?}");
    let pkcs1 = SigningKey::from_pem("s", include_bytes!("testdata/rsa-2048-pkcs1.pem"), &path);
    assert_eq!(pkcs1.map(|key| key.algorithm()).ok(), Some(Algorithm::Rsa));
}

#[test]
fn a_record_is_written_as_it_is_pasted() {
    let domain = "example.com".parse().unwrap();
    let record = keys()[0].key.record(&domain);
    assert_eq!(record.name, "pr1._domainkey.example.com");
    // The well-known start of a 2048-bit SubjectPublicKeyInfo with exponent 65537.
    assert!(record.value.starts_with("v=DKIM1; k=rsa; p=MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA"));
    assert!(record.value.ends_with("IDAQAB"));
    let line = record.zone_line();
    assert!(line.starts_with("pr1._domainkey.example.com. IN TXT ( \"v=DKIM1; "));
    assert!(line.split('"').all(|string| string.len() <= 255));
    let small = keys()[1].key.record(&domain);
    assert_eq!(small.value.len(), "v=DKIM1; k=ed25519; p=".len() + 44);
}

/// Someone else's verifier, when it is installed (`pip install dkimpy pynacl`): the same messages, both algorithms.
#[test]
fn dkimpy_agrees_where_it_is_installed() {
    let has = |module: &str| std::process::Command::new("python3").args(["-c", module]).output();
    if !has("import dkim, nacl").is_ok_and(|output| output.status.success()) {
        return;
    }
    let world = world();
    let signer = Signer::new(&world.settings).unwrap();
    for (number, message) in messages().iter().enumerate() {
        std::fs::write(world.dir.path().join(format!("{number}.eml")), sign(&signer, message, b"")).unwrap();
    }
    let records: Vec<String> = signer.records().iter().map(|r| format!("{:?}: {:?}", r.name, r.value)).collect();
    let script = format!(
        "import dkim, glob, sys\nrecords = {{{}}}\n\
         def find(name, timeout=5): return records[name.decode().rstrip('.')].encode()\n\
         files = glob.glob(sys.argv[1] + '/*.eml')\n\
         for file in files:\n    for place in (0, 1):\n        \
         message = dkim.DKIM(open(file, 'rb').read())\n        \
         assert message.verify(idx=place, dnsfunc=find), (file, place)\n\
         print(len(files))",
        records.join(", ")
    );
    let output = std::process::Command::new("python3").arg("-c").arg(script).arg(world.dir.path()).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert_eq!(told.trim(), messages().len().to_string(), "{}", String::from_utf8_lossy(&output.stderr));
}
