//! The one way in: checks, stamps, tags and splits a message, and puts it into the queue. Our own DSNs take the same door.

use std::net::SocketAddr;

use bytes::Bytes;

use crate::mail::{Address, Attempt, Notify, QueueId, Return, ReversePath};
use crate::queue::{Lease, Settling};
use crate::spool::DurableSeq;
use crate::time::Timestamp;

/// Where a submission came from: for its Received header, its stream and its rights.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The client's address; `None` for HTTP over the unix socket and for ourselves.
    pub client: Option<SocketAddr>,
    /// What it said in EHLO, a safe argument.
    pub hello: Box<str>,
    /// The Received keyword: ESMTP, ESMTPS, ESMTPA, ESMTPSA (RFC 3848), UTF8SMTPSA (RFC 6531) …
    pub protocol: &'static str,
    /// `TLSv1.3 with cipher TLS_AES_256_GCM_SHA384`, if under TLS.
    pub tls: Option<Box<str>>,
    /// The credential that authenticated; `None` for a trusted network.
    pub credential: Option<Box<str>>,
    /// The stream that the listener names, if any.
    pub listener_stream: Option<Box<str>>,
    /// `received = "hide-client"`: the Received header names neither client nor EHLO name.
    pub hide_client: bool,
    /// RFC 6409 §8: a submission, whose missing headers are added; a relayed message gets none but Received.
    pub fix_headers: bool,
}

/// A message as a client handed it in.
#[derive(Clone, Debug)]
pub struct Submission {
    /// Who from.
    pub origin: Origin,
    /// MAIL FROM.
    pub reverse_path: ReversePath,
    /// RFC 3461.
    pub ret: Option<Return>,
    /// RFC 3461, xtext as it came.
    pub envid: Option<Box<str>>,
    /// RCPT TO, in order; duplicates are removed at the door.
    pub recipients: Vec<(Address, Notify, Option<Box<str>>)>,
    /// The message after dot-unstuffing: every line ended by CRLF; no bare CR or LF, no NUL (the SMTP session saw to that).
    pub message: Bytes,
    /// When its last byte came.
    pub received_at: Timestamp,
}

/// Why a message is refused: exactly what the client is told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code} {status} {text}")]
pub struct Refusal {
    /// SMTP code.
    pub code: u16,
    /// Enhanced status, `5.7.1`.
    pub status: &'static str,
    /// One sentence that says what would be right.
    pub text: String,
}

/// A message that is now ours.
#[derive(Clone, Debug)]
pub struct Receipt {
    /// What the client reads after "queued as".
    pub id: QueueId,
    /// Proof that it may be told so.
    pub durable: DurableSeq,
}

/// The door's handle. Cheap to clone.
#[derive(Clone)]
pub struct Door {}

impl Door {
    /// Whether a credential (or a trusted network, `None`) may use this envelope sender: asked at MAIL FROM, so that the
    /// client learns it before it sends the body.
    ///
    /// # Errors
    /// The refusal to answer.
    pub fn check_sender(&self, credential: Option<&str>, path: &ReversePath) -> Result<(), Refusal> {
        let _ = (credential, path);
        todo!()
    }

    /// Takes a message over: after this returns Ok it is on the disk and ours.
    ///
    /// # Errors
    /// The refusal to answer; nothing was kept.
    pub async fn accept(&self, submission: Submission) -> Result<Receipt, Refusal> {
        let _ = submission;
        todo!()
    }

    /// Ends an attempt: settles the envelope, and writes what its sender must hear (a DSN) in the same record.
    pub fn conclude(&self, lease: Lease, attempt: Attempt, now: Timestamp) -> Settling {
        let _ = (lease, attempt, now);
        todo!()
    }
}
