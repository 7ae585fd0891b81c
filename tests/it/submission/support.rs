//! What the scenarios share: a session driven by hand, a gate that keeps everything in memory, a server on loopback.

use std::sync::Arc;

use postrider::mail::{QueueId, ReversePath};
use postrider::smtp::answer::Answer;
use postrider::smtp::exercise::AnySender;
use postrider::smtp::session::{Act, Denial, Limits, Link, Message, Mode, Proof, Security, Session, Terms};

/// A receipt of a test's gate.
pub struct Kept(pub QueueId);

impl Proof for Kept {
    fn id(&self) -> QueueId {
        self.0
    }
}

/// A session without sockets. `shop` with password `secret` may log in; a message with `REFUSE` in it is refused.
pub struct Bench {
    pub session: Session,
    pub input: Vec<u8>,
    pub output: String,
    pub messages: Vec<Message>,
    pub closed: bool,
}

impl Bench {
    pub fn new(mode: Mode, link: Link, limits: Limits) -> Bench {
        let hostname = "relay.example".parse().unwrap();
        let session = Session::new(Arc::new(Terms { hostname, origin: None, mode, limits }), link);
        let mut bench =
            Bench { session, input: Vec::new(), output: String::new(), messages: Vec::new(), closed: false };
        bench.take_output();
        bench
    }

    /// Port 25, in clear, for a trusted network.
    pub fn relay() -> Bench {
        let link = Link { security: Security::Clear, loopback: false, trusted: true };
        Bench::new(Mode::Smtp, link, Limits { errors_max: 1000, ..Limits::default() })
    }

    /// Sends octets, grants every wish, and gives what was answered.
    pub fn send(&mut self, octets: &[u8]) -> String {
        self.input.extend_from_slice(octets);
        loop {
            let (used, act) = self.session.step(&self.input, &AnySender);
            self.input.drain(..used);
            self.take_output();
            match act {
                Act::Read => break,
                Act::Flush => {}
                Act::Close => {
                    self.closed = true;
                    break;
                }
                Act::StartTls => self.session.secured(),
                Act::Verify(login) => self.session.verified(match (login.name.as_str(), login.secret.as_str()) {
                    ("shop", "secret") => Ok("shop".into()),
                    ("busy", _) => Err(Denial::Busy),
                    _ => Err(Denial::Rejected),
                }),
                Act::Accept(message) if message.body.windows(6).any(|window| window == b"REFUSE") => {
                    self.session.accepted::<Kept>(Err(Answer::fixed(550, "5.7.1", "no such thing")));
                }
                Act::Accept(message) => {
                    self.messages.push(*message);
                    self.session.accepted(Ok(Kept(QueueId::from_u64(self.messages.len() as u64))));
                }
            }
        }
        std::mem::take(&mut self.output)
    }

    pub fn greeting(&mut self) -> String {
        std::mem::take(&mut self.output)
    }

    fn take_output(&mut self) {
        let out = std::mem::take(self.session.output());
        self.output.push_str(&String::from_utf8(out).unwrap());
    }
}

/// `<a@b>`, or `<>`.
pub fn bracketed(path: &ReversePath) -> String {
    format!("<{path}>")
}
