//! Message octets, and the reply that they end in.

use super::super::answer::Answer;
use super::super::data::{Decoder, Fault, header_length};
use super::states::{Common, State};
use super::transaction::{ExpectChunk, TOO_BIG, Transaction, over};
use super::{Act, Proof};

/// A message too big is read to its end, so that the client gets its 552, up to this many times the limit; then
/// the session is closed.
const DRAIN_FACTOR: u64 = 4;

const NUL: Answer = Answer::fixed(550, "5.6.0", "Message contains NUL octets, which mail must not have");
const NO_MEMORY: Answer = Answer::fixed(452, "4.3.1", "Too many messages are being received: try again later");
const HEADER_TOO_BIG: Answer = Answer::fixed(552, "5.3.4", "Message header size exceeds fixed limit");
const ENDLESS: Answer = Answer::fixed(552, "5.3.4", "Message size exceeds fixed limit by far; closing");

/// After 354.
#[derive(Debug)]
pub(super) struct ExpectText {
    transaction: Transaction,
    decoder: Decoder,
}

impl ExpectText {
    pub(super) fn new(transaction: Transaction, decoder: Decoder) -> ExpectText {
        ExpectText { transaction, decoder }
    }

    pub(super) fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    pub(super) fn decoder_mut(&mut self) -> &mut Decoder {
        &mut self.decoder
    }

    pub(super) fn step(mut self, common: &mut Common, input: &[u8], used: &mut usize) -> State {
        let (consumed, ended) = self.decoder.data(input);
        *used = consumed;
        match ended {
            true => finish(common, self.transaction, self.decoder, Way::Data),
            false if is_endless(common, &self.decoder) => common.close(&ENDLESS),
            false => State::Text(self),
        }
    }
}

fn is_endless(common: &Common, decoder: &Decoder) -> bool {
    decoder.fault().is_some() && decoder.received() / DRAIN_FACTOR > common.terms.limits.message_size_max as u64
}

/// How a message came: BDAT's reply names its size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Data,
    Bdat,
}

/// The last octet is in.
fn finish(common: &mut Common, transaction: Transaction, decoder: Decoder, way: Way) -> State {
    let size = decoder.received();
    let (from, to) = transaction.named(common);
    let refusal = match decoder.finish() {
        Ok(body) if header_length(&body) <= common.terms.limits.header_size_max => {
            common.act = Some(Act::Accept(Box::new(transaction.complete(common, body))));
            return State::Receipt(ExpectReceipt { way, size, from, to });
        }
        Ok(_) => HEADER_TOO_BIG,
        Err(fault) => reason(common, fault),
    };
    common.keep_refusal(&refusal, from, to);
    common.refuse(&refusal);
    over()
}

fn reason(common: &mut Common, fault: Fault) -> Answer {
    match fault {
        _ if std::mem::take(&mut common.forsaken) => NO_MEMORY,
        Fault::TooBig => TOO_BIG,
        Fault::Nul => NUL,
    }
}

/// Inside a chunk.
#[derive(Debug)]
pub(super) struct ExpectBdat {
    left: u64,
    purpose: Purpose,
}

#[derive(Debug)]
enum Purpose {
    /// It is part of a message.
    Keep { transaction: Box<Transaction>, decoder: Decoder, size: u64, last: bool },
    /// It is read so that the next command is found, then answered so. RFC 3030 §2.
    Swallow { answer: Answer, then: Box<State>, decoder: Decoder },
}

impl ExpectBdat {
    pub(super) fn begun(transaction: Transaction, decoder: Decoder, size: u64, last: bool) -> ExpectBdat {
        let purpose = Purpose::Keep { transaction: Box::new(transaction), decoder, size, last };
        ExpectBdat { left: size, purpose }
    }

    /// A chunk that does not belong here: `then` is where the session was.
    pub(super) fn refused(size: u64, answer: Answer, then: State) -> ExpectBdat {
        let mut decoder = Decoder::for_chunks(0);
        decoder.forsake(Fault::TooBig);
        ExpectBdat { left: size, purpose: Purpose::Swallow { answer, then: Box::new(then), decoder } }
    }

    /// Begins the chunk, unless it is of a size that only an attacker would make us read.
    pub(super) fn begin(self, common: &mut Common) -> State {
        let limit = common.terms.limits.message_size_max as u64;
        match self.left / DRAIN_FACTOR > limit {
            true => common.close(&ENDLESS),
            false => State::Bdat(self),
        }
    }

    pub(super) fn left(&self) -> u64 {
        self.left
    }

    pub(super) fn decoder(&self) -> &Decoder {
        match &self.purpose {
            Purpose::Keep { decoder, .. } | Purpose::Swallow { decoder, .. } => decoder,
        }
    }

    pub(super) fn decoder_mut(&mut self) -> &mut Decoder {
        match &mut self.purpose {
            Purpose::Keep { decoder, .. } | Purpose::Swallow { decoder, .. } => decoder,
        }
    }

    pub(super) fn step(mut self, common: &mut Common, input: &[u8], used: &mut usize) -> State {
        let length = usize::try_from(self.left).unwrap_or(usize::MAX).min(input.len());
        self.decoder_mut().chunk(input.get(..length).unwrap_or_default());
        self.left -= length as u64;
        *used = length;
        match self.left {
            0 => self.end(common),
            _ => State::Bdat(self),
        }
    }

    fn end(self, common: &mut Common) -> State {
        match self.purpose {
            Purpose::Swallow { answer, then, .. } => {
                common.refuse(&answer);
                *then
            }
            Purpose::Keep { transaction, decoder, last: true, .. } => finish(common, *transaction, decoder, Way::Bdat),
            // RFC 3030 §2: a failed chunk ends the transaction; chunks pipelined behind it are swallowed one by one.
            Purpose::Keep { decoder, .. } if decoder.fault().is_some() => {
                let answer = reason(common, decoder.fault().unwrap_or(Fault::TooBig));
                common.refuse(&answer);
                over()
            }
            Purpose::Keep { transaction, decoder, size, .. } => {
                common.say(&Answer::new(250, "2.0.0", format!("Ok: {size} bytes")));
                State::Chunk(ExpectChunk { transaction: *transaction, decoder })
            }
        }
    }
}

/// The shell is making a message durable.
#[derive(Debug)]
pub(super) struct ExpectReceipt {
    way: Way,
    size: u64,
    /// For the log, if it is refused.
    from: Option<Box<str>>,
    to: Option<Box<str>>,
}

impl ExpectReceipt {
    pub(super) fn step<P: Proof>(self, common: &mut Common, outcome: Result<P, Answer>) -> State {
        match outcome {
            Ok(proof) => {
                common.forgive();
                let text = match self.way {
                    Way::Data => format!("Ok: queued as {}", proof.id()),
                    Way::Bdat => format!("Ok: {} bytes queued as {}", self.size, proof.id()),
                };
                common.say(&Answer::new(250, "2.0.0", text));
            }
            Err(answer) => {
                common.keep_refusal(&answer, self.from, self.to);
                common.refuse(&answer);
            }
        }
        over()
    }
}
