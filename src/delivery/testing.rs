//! Peers that follow a script, for the tests of this room.
//!
//! A script has a line for each step: `S: 250 ok` says a line, `S- 25` says it without a line end (`\r` and `\n` mean those), `C: MAIL` waits for a
//! line that begins so, `C: .` for the end of a message, `hold` reads on in silence until we close. At its end the peer
//! closes.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::mail::{BodyFacts, Envelope, Notify, QueueId, Recipient, ReversePath, StreamKind};
use crate::time::Timestamp;

use super::Settings;

/// Long enough for a loaded machine, short enough for a test that waits for it.
pub const SHORT: Duration = Duration::from_millis(500);

/// Every wait is short.
pub fn impatient() -> Settings {
    Settings {
        connect_timeout: SHORT * 10,
        greeting_timeout: SHORT,
        hello_timeout: SHORT,
        tls_timeout: SHORT * 10,
        auth_timeout: SHORT,
        mail_timeout: SHORT,
        rcpt_timeout: SHORT,
        data_timeout: SHORT,
        block_timeout: SHORT,
        final_dot_timeout: SHORT,
        close_timeout: SHORT,
        ..patient()
    }
}

/// Waits that no test reaches.
pub fn patient() -> Settings {
    Settings::default()
}

pub fn envelope(recipients: usize) -> Envelope {
    let recipient = |n: usize| Recipient {
        address: format!("r{n}@example.net").parse().unwrap(),
        notify: Notify::Default,
        original: None,
    };
    Envelope {
        id: QueueId::from_u64(1),
        submission: QueueId::from_u64(1),
        accepted_at: Timestamp::from_secs(1000),
        release_at: Timestamp::from_secs(1000),
        put_off_by: "".into(),
        held: false,
        expires_at: Timestamp::from_secs(1000 + 5 * 86_400),
        stream: "transactional".into(),
        kind: StreamKind::Transactional,
        priority: 50,
        credential: "".into(),
        pool: "".into(),
        reverse_path: ReversePath::Address("s@example.com".parse().unwrap()),
        return_path: None,
        ret: None,
        envid: None,
        author_domain: None,
        message_id: "".into(),
        marks: crate::mail::Marks::default(),
        added_headers: Default::default(),
        body: BodyFacts::default(),
        recipients: (0..recipients).map(recipient).collect(),
    }
}

/// Follows a script to its end, or to ours. Returns all that it heard.
pub async fn play<T: AsyncRead + AsyncWrite + Unpin>(stream: &mut T, script: &str) -> String {
    let (mut heard, mut at) = (Vec::new(), 0);
    for step in script.lines().map(str::trim).filter(|step| !step.is_empty()) {
        let done = match step.split_at_checked(3) {
            Some(("S: ", line)) => stream.write_all(format!("{line}\r\n").as_bytes()).await.is_ok(),
            Some(("S- ", text)) => {
                stream.write_all(text.replace("\\r", "\r").replace("\\n", "\n").as_bytes()).await.is_ok()
            }
            Some(("C: ", ".")) => hear(stream, &mut heard, &mut at, |line| line == b".\r\n").await,
            Some(("C: ", verb)) => hear(stream, &mut heard, &mut at, |line| line.starts_with(verb.as_bytes())).await,
            _ if step == "hold" => stream.read_to_end(&mut heard).await.is_ok(),
            _ => unreachable!("{step}"),
        };
        if !done {
            break;
        }
    }
    String::from_utf8_lossy(&heard).into_owned()
}

/// Reads on to a line of that kind. `false`: we closed first.
async fn hear<T: AsyncRead + Unpin>(
    stream: &mut T,
    heard: &mut Vec<u8>,
    at: &mut usize,
    wanted: impl Fn(&[u8]) -> bool,
) -> bool {
    loop {
        while let Some(end) = heard[*at..].iter().position(|octet| *octet == b'\n') {
            let line = &heard[*at..*at + end + 1];
            *at += end + 1;
            if wanted(line) {
                return true;
            }
        }
        if matches!(stream.read_buf(heard).await, Ok(0) | Err(_)) {
            return false;
        }
    }
}
