//! What a reply, or its absence, means: for the recipient it answered, and for the source at that site. Pure.
//!
//! Called by `delivery` for each outcome of an attempt and for refused connections, and by the command line. It never
//! looks at who the recipient is, and in doubt it says "later". What texts mean stands in `conf/replies.toml`
//! (docs/REPLIES.md), what holds whatever a peer says in [`reply`].

use std::sync::{Arc, LazyLock};

use crate::mail::{Cause, Stage};

pub use file::{Flaw, Flaws};
pub use meaning::{Class, Feedback, Meaning, Reaction, Scope, Signal, VerdictKind};
pub use rule::Rules;
pub use strikes::Strikes;

mod again;
mod file;
mod meaning;
mod proof;
mod reply;
mod rule;
mod said;
mod strikes;
#[cfg(test)]
mod tests;

/// The rules that Postrider ships.
const SHIPPED: &str = include_str!("../../conf/replies.toml");
/// How errors name them.
const SHIPPED_NAME: &str = "conf/replies.toml";

/// What was found out, and where.
#[derive(Clone, Copy, Debug)]
pub struct Observation<'a> {
    /// Which command it answers, or where we were when we found it out.
    pub stage: Stage,
    /// The peer's words, or ours.
    pub cause: &'a Cause,
    /// How many RCPTs of this transaction the peer had taken before. With pipelining DATA is answered even if none
    /// was, and its 503 or 554 then says nothing new.
    pub recipients_taken: usize,
    /// The host that said it, if known: some rules are one provider's.
    pub host: Option<&'a str>,
}

impl Rules {
    /// Our rules, with an operator's own before them: the name of their file and its text.
    ///
    /// # Errors
    /// All that is wrong with them.
    pub fn read(own: Option<(&str, &str)>) -> Result<Rules, Flaws> {
        let mut files = Vec::with_capacity(2);
        files.extend(own);
        files.push((SHIPPED_NAME, SHIPPED));
        file::read(&files)
    }

    /// Our rules alone, compiled once a process.
    pub fn shipped() -> Arc<Rules> {
        static RULES: LazyLock<Arc<Rules>> = LazyLock::new(|| {
            // Invariant: a test reads and compiles the file that is compiled in.
            Arc::new(Rules::read(None).unwrap_or_else(|flaws| panic!("{flaws}")))
        });
        RULES.clone()
    }

    /// What an outcome means.
    pub fn classify(&self, observation: &Observation) -> Meaning {
        match observation.cause {
            Cause::Reply(reply) => reply::of_reply(self, observation, reply),
            Cause::Local { status, .. } => reply::of_our_own(observation.stage, status.class),
        }
    }
}

/// A stage by its word, or by one of those that others use for it.
pub fn stage_named(word: &str) -> Option<Stage> {
    let stage = match &*word.to_ascii_lowercase() {
        "resolve" | "dns" => Stage::Resolve,
        "connect" => Stage::Connect,
        "greeting" | "banner" => Stage::Greeting,
        "ehlo" | "helo" | "hello" => Stage::Hello,
        "tls" | "starttls" => Stage::Tls,
        "auth" => Stage::Auth,
        "mail" | "mail_from" | "mailfrom" | "mail from" => Stage::Mail,
        "rcpt" | "rcpt_to" | "rcptto" | "rcpt to" => Stage::Rcpt,
        "data" => Stage::Data,
        "dot" | "final_dot" | "final-dot" | "finaldot" | "eod" | "eom" | "end_of_data" | "end-of-data" | "bdat"
        | "body" => Stage::FinalDot,
        "local" => Stage::Local,
        _ => return None,
    };
    Some(stage)
}
