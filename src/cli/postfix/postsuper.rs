//! `postsuper`: deletes, holds, releases, requeues and expires by id, for the superuser. The daemon carries it out, so it
//! must run; messages that still lie in the maildrop are deleted as files.

use std::io::{self, BufRead};
use std::process::ExitCode;
use std::time::Duration;

use super::{Call, Fatal, Place, UNAVAILABLE, USAGE, flags, is_root};
use crate::cli::client::{Client, ClientError};
use crate::http::shapes::{OrderAnswer, OrderRequest, Select};
use crate::mail::QueueId;
use crate::pickup::{self, Directory};

/// Envelopes of one request.
const PAGE: usize = 1000;
/// Longest wait for a page of orders.
const ANSWER_WITHIN: Duration = Duration::from_secs(600);
/// Ids of one run that are taken from standard input.
const IDS_MAX: usize = 10_000_000;

/// What one option does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Errand {
    letter: char,
    /// The API's orders, in turn.
    orders: &'static [&'static str],
    /// What is said of one message, and of all.
    one: &'static str,
    all: &'static str,
    /// The states of the messages that it is about, with ALL.
    states: &'static [&'static str],
}

const ANY: &[&str] = &["held", "ready", "active", "deferred", "scheduled"];
const ERRANDS: [Errand; 6] = [
    Errand { letter: 'd', orders: &["delete"], one: "removed", all: "Deleted", states: ANY },
    Errand {
        letter: 'h',
        orders: &["hold"],
        one: "placed on hold",
        all: "Placed on hold",
        states: &["ready", "active", "deferred", "scheduled"],
    },
    Errand {
        letter: 'H',
        orders: &["release"],
        one: "released from hold",
        all: "Released from hold",
        states: &["held"],
    },
    Errand { letter: 'r', orders: &["release", "retry"], one: "requeued", all: "Requeued", states: ANY },
    Errand { letter: 'e', orders: &["bounce"], one: "expired", all: "Force-expired", states: ANY },
    Errand { letter: 'f', orders: &["release", "bounce"], one: "expired", all: "Force-expired", states: ANY },
];

/// Runs it.
pub(super) fn run(call: &Call) -> Result<ExitCode, Fatal> {
    if !is_root() {
        return Err(Fatal::new(UNAVAILABLE, "use of this command is reserved for the superuser"));
    }
    let usage = "usage: postsuper [-c config_dir] [-d queue_id (delete)] [-e queue_id (expire)] [-h queue_id (hold)] \
                 [-H queue_id (un-hold)] [-f queue_id (expire)] [-r queue_id (requeue)] [queue...]";
    let (found, queues) = flags(&call.words, "c:d:e:f:h:H:pr:sSv").map_err(|_| Fatal::new(USAGE, usage))?;
    let directory = found.iter().rfind(|flag| flag.letter == 'c').map(|flag| flag.value.as_str());
    let place = Place::find(directory);
    let queues = states_of(queues)?;
    let runner = Runner { call, place: &place, queues };
    for errand in ERRANDS {
        let ids: Vec<&str> =
            found.iter().filter(|flag| flag.letter == errand.letter).map(|flag| flag.value.as_str()).collect();
        if !ids.is_empty() {
            let count = runner.carry_out(&errand, &ids)?;
            let plural = if count == 1 { "" } else { "s" };
            eprintln!("postsuper: {}: {count} message{plural}", errand.all);
        }
    }
    // -p, -s, -S and no option at all look after Postfix's files; the spool looks after itself.
    Ok(ExitCode::SUCCESS)
}

/// Our states of Postfix's queues. `None`: those that the errand is about.
fn states_of(queues: &[String]) -> Result<Option<Vec<&'static str>>, Fatal> {
    if queues.is_empty() {
        return Ok(None);
    }
    let mut states = Vec::new();
    for queue in queues {
        match queue.as_str() {
            "hold" => states.push("held"),
            "incoming" => states.push("ready"),
            "active" => states.extend(["active", "ready"]),
            "deferred" => states.extend(["deferred", "scheduled"]),
            "maildrop" => states.push("maildrop"),
            "corrupt" | "defer" | "bounce" | "trace" | "flush" | "saved" => {}
            other => return Err(Fatal::new(USAGE, format!("unknown queue: {other}"))),
        }
    }
    states.dedup();
    Ok(Some(states))
}

struct Runner<'a> {
    call: &'a Call,
    place: &'a Place,
    queues: Option<Vec<&'static str>>,
}

impl Runner<'_> {
    /// Returns how many messages it was done to.
    fn carry_out(&self, errand: &Errand, ids: &[&str]) -> Result<usize, Fatal> {
        if ids.contains(&"ALL") {
            return self.all(errand);
        }
        let mut count = 0;
        for id in ids {
            match *id {
                "-" => {
                    let mut page = Vec::new();
                    for line in io::stdin().lock().lines().map_while(Result::ok).take(IDS_MAX) {
                        page.extend(line.split_whitespace().next().map(str::to_owned));
                        if page.len() == PAGE {
                            count += self.some(errand, &std::mem::take(&mut page))?;
                        }
                    }
                    count += self.some(errand, &page)?;
                }
                id => count += self.some(errand, &[id.to_owned()])?,
            }
        }
        Ok(count)
    }

    fn some(&self, errand: &Errand, ids: &[String]) -> Result<usize, Fatal> {
        let (mut known, mut count) = (Vec::new(), 0);
        for id in ids {
            // What was cut out of mailq's listing may have its mark on it.
            let id = id.trim_end_matches(['*', '!', '#']);
            if id.parse::<QueueId>().is_ok() {
                known.push(id.to_owned());
            } else if pickup::is_name(id) && errand.letter == 'd' {
                count += self.delete_file(id);
            } else if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
                self.call.warn(format!("invalid mail queue id: {id}"));
            }
        }
        if known.is_empty() {
            return Ok(count);
        }
        let done = self.order(errand, OrderRequest { ids: known, ..OrderRequest::default() })?;
        Ok(count + done.0)
    }

    fn all(&self, errand: &Errand) -> Result<usize, Fatal> {
        let states = match &self.queues {
            None => errand.states.to_vec(),
            Some(chosen) => chosen.clone(),
        };
        let mut count = 0;
        for state in states {
            if state == "maildrop" {
                if errand.letter == 'd' {
                    let waiting = Directory::of(&self.place.data_dir).scan().unwrap_or_default();
                    count += waiting.iter().map(|entry| self.delete_file(&entry.name)).sum::<usize>();
                }
                continue;
            }
            let mut after = None;
            loop {
                let select = Select { state: Some(state.to_owned()), after, limit: Some(PAGE), ..Select::default() };
                let request = OrderRequest { select: Some(select), ..OrderRequest::default() };
                let (done, next) = self.order(errand, request)?;
                count += done;
                match next {
                    Some(next) => after = Some(next),
                    None => break,
                }
            }
        }
        Ok(count)
    }

    /// Carries out an errand on a page of messages: its first order finds them, the others follow.
    fn order(&self, errand: &Errand, request: OrderRequest) -> Result<(usize, Option<String>), Fatal> {
        let client = Client::new(self.place.daemon()).map_err(|error| Fatal::new(UNAVAILABLE, error.to_string()))?;
        let mut request = request;
        let mut next = None;
        let mut ended: Vec<String> = Vec::new();
        for (turn, order) in errand.orders.iter().enumerate() {
            let path = format!("/v1/queue/orders/{order}");
            let answer: OrderAnswer = client.tell(&path, &request, ANSWER_WITHIN).map_err(|error| fatal(&error))?;
            if turn == 0 {
                next = answer.next.clone();
            }
            ended =
                answer.results.iter().filter(|result| result.is_success()).map(|result| result.id.clone()).collect();
            if let Some(busy) = answer.results.iter().find(|result| !result.is_success() && result.result != "unknown")
            {
                self.call.warn(format!("{}: {}", busy.id, busy.text));
            }
            if ended.is_empty() {
                break;
            }
            request = OrderRequest { ids: ended.clone(), ..OrderRequest::default() };
        }
        for id in &ended {
            eprintln!("postsuper: {id}: {}", errand.one);
        }
        Ok((ended.len(), next))
    }

    fn delete_file(&self, name: &str) -> usize {
        let path = Directory::of(&self.place.data_dir).path().join(name);
        match std::fs::remove_file(path) {
            Ok(()) => {
                eprintln!("postsuper: {name}: removed");
                1
            }
            Err(_) => 0,
        }
    }
}

/// What the daemon's silence means to this command.
pub(super) fn fatal(error: &ClientError) -> Fatal {
    match error {
        ClientError::NoDaemon { .. } => Fatal::new(UNAVAILABLE, format!("mail system is down: {error}")),
        ClientError::Forbidden { .. } | ClientError::Refused { .. } | ClientError::Broken { .. } => {
            Fatal::new(1, error.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn postfixs_queues_are_our_states() {
        let of = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            states_of(&words).map_err(|fatal| fatal.text)
        };
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&["deferred", "hold"]), Ok(Some(vec!["deferred", "scheduled", "held"])));
        assert_eq!(of(&["maildrop"]), Ok(Some(vec!["maildrop"])));
        assert_eq!(of(&["corrupt"]), Ok(Some(Vec::new())));
        assert_eq!(of(&["qeue"]), Err("unknown queue: qeue".to_owned()));
    }
}
