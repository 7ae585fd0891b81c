//! One transaction on an open session: the dialogue's decisions, written and read within their times.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use crate::mail::{Reply, Stage};
use crate::smtp::dialog::{Ended, Letter, Next, Transaction};
use crate::smtp::encode::{EncodeError, Encoder};

use super::Settings;
use super::session::{Lost, Session, write};

/// A message up to this is encoded before MAIL and leaves in one write. Unit: octets. Longer ones go piece by piece, so
/// that a connection's memory does not grow with its messages.
const WHOLE_LENGTH_MAX: usize = 256 * 1024;
/// The piece. Unit: octets.
const PIECE_LENGTH: usize = 64 * 1024;
/// How long to look for what a peer said before it closed while we were still sending.
const LAST_WORDS_WAIT: Duration = Duration::from_secs(2);

/// A message as it goes out: header fields of this envelope alone, and what all envelopes share.
#[derive(Clone, Debug)]
pub(super) struct Content {
    /// Signature and added header fields.
    pub head: Bytes,
    /// Header block and body as accepted (or converted for this peer).
    pub body: Bytes,
    /// It has octets above 127.
    pub eight_bit: bool,
}

impl Content {
    /// Octets before dot-stuffing: what SIZE says.
    pub fn size(&self) -> usize {
        self.head.len() + self.body.len()
    }
}

/// What came of a transaction.
#[derive(Debug)]
pub(super) struct Exchange {
    /// What each of the letter's recipients was answered; `None` where the dialogue broke first.
    pub answers: Vec<Option<(Stage, Reply)>>,
    /// How many RCPTs the peer took.
    pub taken: usize,
    pub end: End,
}

/// How a transaction ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// By the peer's last reply.
    Ended(Ended),
    /// In the middle.
    Lost {
        stage: Stage,
        lost: Lost,
        /// The end of data was (or may have been) handed over, and not answered.
        uncertain: bool,
        /// The peer had answered something about this message.
        answered: bool,
    },
    /// The message has a bare line end: a fault of ours. Nothing, or no end of data, was sent.
    Unsendable(EncodeError),
}

/// A message that could not be written to its end.
enum Unwritten {
    Lost { lost: Lost, uncertain: bool },
    Unsendable(EncodeError),
}

impl<T: AsyncRead + AsyncWrite + Unpin> Session<T> {
    /// Carries out one transaction. `mail_written` runs once MAIL is on the wire; `gate` beside the commands, and no dot
    /// is sent before it is through; `dot` right before the end of data is handed to the socket.
    ///
    /// # Cancel safety
    /// None: dropped in the middle, the session is of no further use, and what was answered is lost.
    pub async fn transact(
        &mut self,
        letter: &Letter<'_>,
        content: &Content,
        settings: &Settings,
        mail_written: impl Future<Output = ()>,
        gate: impl Future<Output = ()>,
        dot: impl FnOnce(),
    ) -> Exchange {
        self.transactions = self.transactions.saturating_add(1);
        let mut transaction = Transaction::new(&self.offered, letter.places.len(), self.reset_first);
        let end = match self.encode_whole(content) {
            Ok(()) => {
                let pace = Duration::from_secs(content.size() as u64 / settings.bytes_per_second_min.max(1));
                let by = Instant::now() + settings.attempt_timeout + pace;
                let clock = Times { settings, by };
                let commands = self.converse(&mut transaction, letter, &clock, Some(mail_written));
                let (conversed, ()) = tokio::join!(commands, gate);
                match conversed {
                    Ok(()) => self.send_message(&mut transaction, letter, content, &clock, dot).await,
                    Err(lost) => lost_at(&transaction, lost),
                }
            }
            Err(error) => End::Unsendable(error),
        };
        if self.message.capacity() > WHOLE_LENGTH_MAX / 4 {
            self.message = Vec::new();
        }
        self.reset_first = end == End::Ended(Ended::NeedsReset);
        Exchange { taken: transaction.taken(), answers: transaction.answers(), end }
    }

    /// Before MAIL, so that a message that cannot be sent costs the peer nothing.
    fn encode_whole(&mut self, content: &Content) -> Result<(), EncodeError> {
        self.message.clear();
        if content.size() > WHOLE_LENGTH_MAX {
            return Ok(());
        }
        let mut encoder = Encoder::default();
        self.message.reserve(content.size() + content.size() / 64 + 8);
        encoder.encode(&content.head, &mut self.message)?;
        encoder.encode(&content.body, &mut self.message)?;
        encoder.finish(&mut self.message)
    }

    /// Writes commands and reads replies until the message's turn comes, or the end.
    async fn converse(
        &mut self,
        transaction: &mut Transaction,
        letter: &Letter<'_>,
        clock: &Times<'_>,
        mut mail_written: Option<impl Future<Output = ()>>,
    ) -> Result<(), Lost> {
        loop {
            match transaction.next() {
                Next::Write => {
                    self.out.clear();
                    transaction.write_commands(&self.offered, letter, &mut self.out);
                    let by = || clock.until(transaction.stage());
                    write(&mut self.client.stream, &self.out, by, clock.settings.block_timeout).await?;
                    if let Some(mail_written) = mail_written.take() {
                        mail_written.await;
                    }
                }
                Next::Read(stage) => transaction.take(self.reply(|| clock.until(stage)).await?),
                Next::Message | Next::Over(_) => return Ok(()),
            }
        }
    }

    async fn send_message(
        &mut self,
        transaction: &mut Transaction,
        letter: &Letter<'_>,
        content: &Content,
        clock: &Times<'_>,
        dot: impl FnOnce(),
    ) -> End {
        if let Next::Over(ended) = transaction.next() {
            return End::Ended(ended);
        }
        match self.write_message(content, clock, dot).await {
            Ok(()) => transaction.dot_written(),
            Err(Unwritten::Unsendable(error)) => return End::Unsendable(error),
            Err(Unwritten::Lost { lost, uncertain: true }) => {
                transaction.dot_written();
                return lost_at(transaction, lost);
            }
            // A peer that has seen enough says so and closes (552 too big, 554 spam): what it said is in our buffers.
            Err(Unwritten::Lost { lost, uncertain: false }) => {
                match self.reply(|| Instant::now() + LAST_WORDS_WAIT).await {
                    Ok(reply) if reply.code >= 400 => transaction.take_early(&reply),
                    Ok(_) | Err(_) => return lost_at(transaction, lost),
                }
            }
        }
        // Nothing is written any more, so the letter is only asked for by form.
        match self.converse(transaction, letter, clock, None::<std::future::Ready<()>>).await {
            Err(lost) => lost_at(transaction, lost),
            Ok(()) => match transaction.next() {
                Next::Over(ended) => End::Ended(ended),
                Next::Write | Next::Read(_) | Next::Message => End::Ended(Ended::Closing),
            },
        }
    }

    async fn write_message(
        &mut self,
        content: &Content,
        clock: &Times<'_>,
        dot: impl FnOnce(),
    ) -> Result<(), Unwritten> {
        let block = clock.settings.block_timeout;
        let certain = |lost| Unwritten::Lost { lost, uncertain: false };
        if self.message.is_empty() {
            let mut encoder = Encoder::default();
            for piece in content.head.chunks(PIECE_LENGTH).chain(content.body.chunks(PIECE_LENGTH)) {
                self.message.clear();
                encoder.encode(piece, &mut self.message).map_err(Unwritten::Unsendable)?;
                write(&mut self.client.stream, &self.message, || clock.by, block).await.map_err(certain)?;
            }
            self.message.clear();
            encoder.finish(&mut self.message).map_err(Unwritten::Unsendable)?;
        }
        dot();
        // A socket that took less than all of it has not taken the dot. Under TLS a record may be on its way though the
        // write failed.
        let uncertain = self.peer.encrypted;
        let written = write(&mut self.client.stream, &self.message, || clock.by, block).await;
        written.map_err(|lost| Unwritten::Lost { lost, uncertain })
    }
}

fn lost_at(transaction: &Transaction, lost: Lost) -> End {
    End::Lost {
        stage: transaction.stage(),
        lost,
        uncertain: transaction.is_uncertain(),
        answered: transaction.was_answered(),
    }
}

/// How long each step may take.
struct Times<'a> {
    settings: &'a Settings,
    /// The whole transaction, but for the wait after the final dot.
    by: Instant,
}

impl Times<'_> {
    fn until(&self, stage: Stage) -> Instant {
        let wait = match stage {
            // Never cut short by what went before: giving up here doubles messages.
            Stage::FinalDot => return Instant::now() + self.settings.final_dot_timeout,
            Stage::Mail => self.settings.mail_timeout,
            Stage::Rcpt => self.settings.rcpt_timeout,
            Stage::Data => self.settings.data_timeout,
            Stage::Resolve
            | Stage::Connect
            | Stage::Greeting
            | Stage::Hello
            | Stage::Tls
            | Stage::Auth
            | Stage::Local => self.settings.hello_timeout,
        };
        (Instant::now() + wait).min(self.by)
    }
}

#[cfg(test)]
mod tests;
