//! `postfix start|stop|reload|status|flush|check|start-fg`: the daemon by the hands of systemd, or without it.

use std::io;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{Call, Fatal, Place, flags, is_root, postqueue};
use crate::cli::client::Client;
use crate::showq::SHOWQ_NAME;

/// Longest wait for a start or a stop.
const DONE_WITHIN: Duration = Duration::from_secs(60);

/// Runs it.
pub(super) fn run(call: &Call) -> Result<ExitCode, Fatal> {
    let usage = || Fatal::new(1, "usage: postfix [-c config_dir] [-Dv] command");
    let (found, rest) = flags(&call.words, "c:Dv").map_err(|_| usage())?;
    let directory = found.iter().rfind(|flag| flag.letter == 'c').map(|flag| flag.value.as_str());
    let place = Place::find(directory);
    let [order] = rest else { return Err(usage()) };
    if !is_root() && order != "status" {
        return Err(Fatal::new(1, "the Postfix command is reserved for the superuser"));
    }
    match order.as_str() {
        "status" => Ok(status(&place)),
        "start" => start(&place),
        "start-fg" => Err(serve(&place)),
        "stop" | "abort" | "quick-stop" => stop(&place),
        "reload" => signal(&place, "reload", Signal::HUP),
        "flush" => postqueue::flush(&place, "all"),
        "check" => Err(replace(&place, "check")),
        "set-permissions" | "upgrade-configuration" | "post-install" => Ok(ExitCode::SUCCESS),
        other => Err(Fatal::new(
            1,
            format!("unknown command: '{other}'. Usage: postfix start (or stop, reload, abort, flush, check, status)"),
        )),
    }
}

fn is_running(place: &Place) -> bool {
    UnixStream::connect(place.public().join(SHOWQ_NAME)).is_ok()
}

fn status(place: &Place) -> ExitCode {
    match is_running(place) {
        true => {
            let pid = pid(place).map(|pid| format!(": PID: {pid}")).unwrap_or_default();
            eprintln!("postfix/postfix-script: the Postfix mail system is running{pid}");
            ExitCode::SUCCESS
        }
        false => {
            eprintln!("postfix/postfix-script: the Postfix mail system is not running");
            ExitCode::FAILURE
        }
    }
}

/// Whom an operator's socket names.
fn pid(place: &Place) -> Option<i32> {
    let health: Value = Client::new(place.daemon()).ok()?.ask("/v1/health").ok()?;
    i32::try_from(health.get("pid")?.as_i64()?).ok()
}

/// Starts it, and waits until it answers.
pub(super) fn start(place: &Place) -> Result<ExitCode, Fatal> {
    if is_running(place) {
        return Err(Fatal::new(1, "the Postfix mail system is already running"));
    }
    if let Some(done) = by_systemd("start")? {
        return Ok(done);
    }
    let mut command = own(place, "serve")?;
    command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| Fatal::new(1, format!("cannot start the daemon: {error}")))?;
    let began = Instant::now();
    while began.elapsed() < DONE_WITHIN {
        if is_running(place) {
            return Ok(ExitCode::SUCCESS);
        }
        if let Ok(Some(status)) = child.try_wait() {
            return Err(Fatal::new(1, format!("the daemon ended ({status}): `postrider check` says why")));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err(Fatal::new(1, "the daemon does not answer yet"))
}

/// Becomes the daemon, for containers.
fn serve(place: &Place) -> Fatal {
    replace(place, "serve")
}

fn replace(place: &Place, word: &str) -> Fatal {
    match own(place, word) {
        Ok(mut command) => Fatal::new(1, command.exec().to_string()),
        Err(fatal) => fatal,
    }
}

fn own(place: &Place, word: &str) -> Result<Command, Fatal> {
    let program = std::env::current_exe().map_err(|error| Fatal::new(1, error.to_string()))?;
    let mut command = Command::new(program);
    command.arg(word).arg("-c").arg(&place.config_file);
    Ok(command)
}

fn stop(place: &Place) -> Result<ExitCode, Fatal> {
    if !is_running(place) {
        return Err(Fatal::new(1, "the Postfix mail system is not running"));
    }
    if let Some(done) = by_systemd("stop")? {
        return Ok(done);
    }
    kill(place, Signal::TERM)?;
    let began = Instant::now();
    while is_running(place) {
        if began.elapsed() > DONE_WITHIN {
            return Err(Fatal::new(1, "the daemon does not end"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(ExitCode::SUCCESS)
}

fn signal(place: &Place, word: &str, signal: Signal) -> Result<ExitCode, Fatal> {
    if !is_running(place) {
        return Err(Fatal::new(1, "the Postfix mail system is not running"));
    }
    match by_systemd(word)? {
        Some(done) => Ok(done),
        None => kill(place, signal).map(|()| ExitCode::SUCCESS),
    }
}

fn kill(place: &Place, signal: Signal) -> Result<(), Fatal> {
    let pid = pid(place).and_then(Pid::from_raw).ok_or_else(|| Fatal::new(1, "the daemon does not say who it is"))?;
    kill_process(pid, signal).map_err(|error| Fatal::new(1, io::Error::from(error).to_string()))
}

/// Where systemd runs the unit, it does it: else it would start again what was stopped.
fn by_systemd(word: &str) -> Result<Option<ExitCode>, Fatal> {
    let has_unit = ["/etc/systemd/system", "/lib/systemd/system", "/usr/lib/systemd/system"]
        .iter()
        .any(|directory| Path::new(directory).join("postrider.service").exists());
    if !has_unit || !Path::new("/run/systemd/system").exists() {
        return Ok(None);
    }
    let status = Command::new("systemctl").args([word, "postrider.service"]).status();
    let status = status.map_err(|error| Fatal::new(1, format!("systemctl: {error}")))?;
    Ok(Some(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))))
}
