//! Python's smtplib asks for streams, tags and metadata in the words of each service; the queue shows them, and the peer
//! never sees the words.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Behaviour, Daemon, PASSWORD, Peer, Setup, USER, eventually};

/// Sends each message of a JSON array, and prints what became of each, a JSON array too.
const SCRIPT: &str = r#"
import json, smtplib, sys
from email.message import EmailMessage
task = json.load(sys.stdin)
answers = []
with smtplib.SMTP(*task["server"]) as client:
    client.login(task["user"], task["password"])
    for number, fields in enumerate(task["messages"]):
        message = EmailMessage()
        message["From"], message["To"] = "shop@example.com", f"later.{number}@dest.example"
        message["Subject"], message["X-Test-Id"] = "headers", f"h{number}"
        for name, value in fields:
            message[name] = value
        message.set_content("body\n")
        try:
            client.send_message(message)
            answers.append("250")
        except smtplib.SMTPDataError as error:
            answers.append(f"{error.smtp_code} {error.smtp_error.decode()}")
print(json.dumps(answers))
"#;

const FAMILIES: &str = "[\"postrider\", \"postmark\", \"mailgun\", \"ses\", \"sendgrid\", \"sparkpost\", \"mandrill\"]";

fn start(peer: &Peer) -> Daemon {
    let mut daemon = Setup::relaying_to(peer.address()).prepare();
    let text = fs::read_to_string(&daemon.config).unwrap();
    let text = text.replace("from_domains", &format!("control_headers = {FAMILIES}\nfrom_domains"))
        + "[stream.otp]\nkind = \"transactional\"\nmax_age = \"1h\"\naliases = [\"warm pool\"]\n\
           [stream.marketing]\naliases = [\"broadcast\", \"news-set\"]\n";
    daemon.overwrite_config(&text);
    daemon.start();
    daemon
}

/// `None` where there is no python3.
fn send(daemon: &Daemon, messages: &[Value]) -> Option<Vec<String>> {
    let task = json!({
        "server": [daemon.submission.ip().to_string(), daemon.submission.port()],
        "user": USER,
        "password": PASSWORD,
        "messages": messages,
    });
    let mut python = Command::new("python3")
        .args(["-c", SCRIPT])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .inspect_err(|error| println!("python3: {error}; not tested here"))
        .ok()?;
    python.stdin.take().unwrap().write_all(task.to_string().as_bytes()).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success(), "the script failed");
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

#[test]
fn each_services_headers_choose_stream_tags_and_metadata_and_stay_here() {
    let peer = Peer::keeping_bytes(Behaviour::Choosy);
    let daemon = start(&peer);
    let long = "a campaign of a name that is long enough to be folded by whoever writes it into a header field";
    let smtpapi = json!({
        "category": ["spring-sale", long], "unique_args": { "order": 7 }, "ip_pool": "warm pool",
    });
    let msys =
        json!({ "campaign_id": "spring-sale", "metadata": { "order": "7" }, "options": { "transactional": false } });
    let rows = [
        // Of a family that is not enabled: it means nothing, and a smarthost may be waiting for it.
        (json!([["X-MJ-CustomID", "7"]]), "transactional", json!([]), json!(null)),
        (
            json!([["X-Stream", "otp"], ["X-Tag", "Frühling"], ["X-Metadata-Order", "7"]]),
            "otp",
            json!(["Frühling"]),
            json!({ "Order": "7" }),
        ),
        (
            json!([["X-PM-Message-Stream", "broadcast"], ["X-PM-Tag", "spring-sale"], ["X-PM-Metadata-order", "7"]]),
            "marketing",
            json!(["spring-sale"]),
            json!({ "order": "7" }),
        ),
        (
            json!([["X-Mailgun-Tag", "a"], ["X-Mailgun-Tag", "b"], ["X-Mailgun-Variables", "{\"order\": \"7\"}"]]),
            "transactional",
            json!(["a", "b"]),
            json!({ "order": "7" }),
        ),
        (
            json!([["X-SES-CONFIGURATION-SET", "news-set"], ["X-SES-MESSAGE-TAGS", "order=7"]]),
            "marketing",
            json!(["order=7"]),
            json!({ "order": "7" }),
        ),
        (json!([["X-SMTPAPI", smtpapi.to_string()]]), "otp", json!(["spring-sale", long]), json!({ "order": "7" })),
        (json!([["X-MSYS-API", msys.to_string()]]), "marketing", json!(["spring-sale"]), json!({ "order": "7" })),
        (json!([["X-MC-Tags", "a,b"], ["X-MC-IpPool", "otp"]]), "otp", json!(["a", "b"]), json!(null)),
    ];
    let messages: Vec<Value> = rows.iter().map(|(fields, ..)| fields.clone()).collect();
    let Some(answers) = send(&daemon, &messages) else { return };
    assert_eq!(answers, vec!["250"; rows.len()]);

    let listed = daemon.run(&["queue", "list", "--json", "--limit", "0"]);
    let listed: Vec<Value> = serde_json::from_slice(&listed.stdout).unwrap();
    for (number, (fields, stream, tags, metadata)) in rows.iter().enumerate() {
        let to = format!("later.{number}@dest.example");
        let envelope = listed.iter().find(|envelope| envelope["recipients"][0]["address"] == to.as_str());
        let envelope = envelope.unwrap_or_else(|| panic!("{to} is not in {listed:#?}"));
        assert_eq!(envelope["stream"], *stream, "{fields}");
        assert_eq!(envelope.get("tags").unwrap_or(&json!([])), tags, "{fields}");
        assert_eq!(envelope.get("metadata").unwrap_or(&json!(null)), metadata, "{fields}");
    }

    peer.become_(Behaviour::Friendly);
    eventually("all arrive", Duration::from_secs(20), || {
        daemon.retry_all();
        peer.taken_ids().len() == rows.len()
    });
    for receipt in peer.receipts().iter().filter(|receipt| !receipt.bytes.is_empty()) {
        let text = String::from_utf8_lossy(&receipt.bytes);
        for word in ["X-Stream", "X-Tag", "X-Metadata", "X-PM", "X-Mailgun", "X-SES", "X-SMTPAPI", "X-MSYS", "X-MC"] {
            assert!(!text.contains(word), "{word} left: {text}");
        }
        assert!(text.contains("Subject: headers"), "{text}");
        assert_eq!(text.contains("X-MJ-CustomID: 7\r\n"), receipt.id == "h0", "{text}");
    }
}

#[test]
fn what_cannot_be_honoured_is_refused_and_says_why() {
    let peer = Peer::start(Behaviour::Friendly);
    let daemon = start(&peer);
    let rows = [
        (
            json!([["X-SMTPAPI", "{\"to\": [\"a@x.example\"]}"]]),
            "550 5.7.1 X-SMTPAPI's to cannot be honoured: recipients",
        ),
        (
            json!([["X-SMTPAPI", "{\"sub\": {\"%n%\": [\"a\"]}}"]]),
            "550 5.7.1 X-SMTPAPI's sub cannot be honoured: content",
        ),
        (json!([["X-SMTPAPI", "{\"to\": "]]), "550 5.6.0 X-SMTPAPI cannot be read: this is not JSON"),
        (
            json!([["X-PM-Message-Stream", "outbound"]]),
            "550 5.7.1 X-PM-Message-Stream names the stream \"outbound\", which is unknown; there are marketing, otp, tra",
        ),
        (json!([["X-Mailgun-Drop-Message", "yes"]]), "550 5.7.1 X-Mailgun-Drop-Message cannot be honoured"),
    ];
    let messages: Vec<Value> = rows.iter().map(|(fields, _)| fields.clone()).collect();
    let Some(answers) = send(&daemon, &messages) else { return };
    for ((fields, want), answer) in rows.iter().zip(&answers) {
        assert!(answer.starts_with(want), "{fields}: {answer}");
    }
    let listed = daemon.run(&["queue", "list"]);
    assert_eq!(String::from_utf8_lossy(&listed.stdout), "The queue is empty.\n");
}
