//! `sendmail`: takes a message from a program, and gives it to the helper, whether the daemon runs or not.
//!
//! It exits 0 only after the helper said that the message is on the disk.

mod addresses;
mod helper;
mod input;
mod options;
mod session;

use std::io;
use std::process::ExitCode;

use postrider_drop::{Letter, Wanted};

use super::{Call, DATA, FORBIDDEN, Fatal, Place, SYSTEM, UNAVAILABLE, USAGE, postqueue};
use crate::showq::{LIMITS_NAME, Limits};
use crate::users::{self, User};
use input::{Dot, InputError};
use options::{Mode, Plan};

/// Longest message where the daemon has not said another. Unit: octets.
const MESSAGE_LENGTH_MAX: u64 = 128 << 20;

/// Runs it.
pub(super) fn run(call: &Call) -> Result<ExitCode, Fatal> {
    let plan = options::plan(&call.words)?;
    plan.warnings.iter().for_each(|text| call.warn(text));
    let place = Place::find(plan.config.as_deref().map(directory_of));
    match plan.mode {
        Mode::Enqueue => enqueue(call, &place, plan),
        Mode::Stdio => {
            let user = Caller::find(&place)?;
            session::run(&place, &user)
        }
        Mode::List => postqueue::list(call, &place, postqueue::Form::Text),
        Mode::Flush => postqueue::flush(&place, "all"),
        Mode::FlushId => postqueue::flush_id(&place, &plan.target),
        Mode::FlushSite => postqueue::flush_site(&place, &plan.target),
        Mode::Aliases => super::aliases::newaliases(call),
        Mode::Daemon => super::service::start(&place),
        Mode::Nothing => Ok(ExitCode::SUCCESS),
    }
}

/// `-C` names Sendmail's config file, or a directory.
fn directory_of(path: &str) -> &str {
    match std::path::Path::new(path).is_dir() {
        true => path,
        false => path.rsplit_once('/').map_or(".", |(directory, _)| directory),
    }
}

/// Who runs this, and what the daemon said of that.
struct Caller {
    uid: u32,
    user: User,
    limits: Option<Limits>,
}

impl Caller {
    fn find(place: &Place) -> Result<Caller, Fatal> {
        let uid = rustix::process::getuid().as_raw();
        let unknown = || Fatal::new(SYSTEM, format!("unable to find out login name for user ID {uid}"));
        let user = users::user(uid).ok_or_else(unknown)?;
        let limits = std::fs::read(place.public().join(LIMITS_NAME)).ok();
        let limits: Option<Limits> = limits.and_then(|text| serde_json::from_slice(&text).ok());
        let caller = Caller { uid, user, limits };
        let allowed = caller
            .limits
            .as_ref()
            .is_none_or(|limits| users::allows(&limits.submit_users, uid, Some(&caller.user.name)));
        match allowed {
            true => Ok(caller),
            false => {
                Err(Fatal::new(FORBIDDEN, format!("User {}({uid}) is not allowed to submit mail", caller.user.name)))
            }
        }
    }

    fn length_max(&self) -> u64 {
        self.limits.as_ref().map_or(MESSAGE_LENGTH_MAX, |limits| limits.message_bytes_max.min(MESSAGE_LENGTH_MAX))
    }

    /// `user(uid): text`, as all that went wrong after the command line was read.
    fn fatal(&self, code: u8, text: impl std::fmt::Display) -> Fatal {
        Fatal::new(code, format!("{}({}): {text}", self.user.name, self.uid))
    }
}

fn enqueue(call: &Call, place: &Place, plan: Plan) -> Result<ExitCode, Fatal> {
    let caller = Caller::find(place)?;
    if plan.recipients.is_empty() && !plan.from_headers {
        let text = "Recipient addresses must be specified on the command line or via the -t option";
        return Err(caller.fatal(USAGE, text));
    }
    let dot = if plan.ignore_dots { Dot::IsText } else { Dot::Ends };
    let read = input::read(&mut io::stdin().lock(), dot, plan.from_headers, caller.length_max());
    let input = read.map_err(|error| match error {
        InputError::Read(error) => caller.fatal(DATA, format!("error reading input: {error}")),
        InputError::TooBig => caller.fatal(UNAVAILABLE, "message file too big"),
        InputError::HeaderTooBig => caller.fatal(DATA, "header too long to extract recipients from"),
    })?;
    let recipients: Vec<String> = plan.recipients.into_iter().chain(input.recipients).collect();
    if recipients.is_empty() {
        return Err(caller.fatal(USAGE, "No recipient addresses found in message header"));
    }
    let full_name =
        plan.full_name.or_else(|| std::env::var("NAME").ok()).unwrap_or_else(|| caller.user.full_name.clone());
    let sender = plan.sender.unwrap_or_else(|| caller.user.name.clone());
    if plan.report {
        println!("Mail Delivery Status Report will be mailed to <{sender}>.");
    }
    let letter = Letter {
        sender: clean(&sender),
        full_name: clean(&full_name),
        envid: plan.envid,
        ret: plan.ret,
        recipients: recipients
            .iter()
            .map(|address| Wanted { address: named(clean(address)), notify: plan.notify.clone() })
            .collect(),
        message: input.message,
    };
    helper::keep(place, &letter).map_err(|fatal| caller.fatal(fatal.code, fatal.text))?;
    let _ = call;
    Ok(ExitCode::SUCCESS)
}

/// The empty recipient is whoever answers for mail without a sender.
fn named(address: String) -> String {
    if address.is_empty() { "MAILER-DAEMON".to_owned() } else { address }
}

/// A letter's words have no control characters, and are bounded.
fn clean(text: &str) -> String {
    const LENGTH_MAX: usize = 1000;
    let mut out = String::new();
    for c in text.chars().filter(|c| !c.is_control()) {
        if out.len() + c.len_utf8() > LENGTH_MAX {
            break;
        }
        out.push(c);
    }
    out
}
