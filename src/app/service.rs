//! The daemon as a service: logs, signals, systemd's notifications and its watchdog. Called by `postrider serve`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};

use super::{Ready, Request};
use crate::config::{Config, Log, LogFormat};
use crate::lines;
use crate::spool::Spool;

/// The spool's writer shows life every second; a silence this long is a hang, and systemd restarts us.
const WRITER_SILENCE_MAX: Duration = Duration::from_secs(30);
/// Reloads that may wait.
const REQUESTS_MAX: usize = 4;

/// Runs the daemon until SIGTERM or SIGINT. SIGHUP reads the config anew.
///
/// # Errors
/// It cannot start.
pub fn serve(config: Config, path: PathBuf) -> anyhow::Result<()> {
    log_to_stderr(&config.log);
    for warning in config.warnings() {
        warn!("{warning}");
    }
    // Dropped last: what is logged on the way out is written at once.
    let _gathering = lines::gather().context("the log's thread")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("the async runtime")?;
    let outcome = runtime.block_on(async {
        let (stop, stopping) = watch::channel(false);
        let (requests, requested) = mpsc::channel(REQUESTS_MAX);
        tokio::spawn(follow_signals(path, requests, stop));
        super::run(config, requested, stopping, |ready| announce(&ready)).await
    });
    // Peers and clients that are still there have had their time.
    runtime.shutdown_timeout(Duration::from_millis(200));
    outcome
}

fn announce(ready: &Ready) {
    for address in &ready.addresses {
        info!(%address, "listening");
    }
    let _ = sd_notify::notify(false, &[NotifyState::Ready]);
    let mut interval = 0;
    if sd_notify::watchdog_enabled(false, &mut interval) {
        let spool = ready.spool.clone();
        tokio::spawn(feed_watchdog(spool, Duration::from_micros(interval) / 3));
    }
}

/// Feeds systemd's watchdog while the spool's writer thread lives: a hung disk must end in a restart, not in silence.
async fn feed_watchdog(spool: Spool, every: Duration) {
    let mut ticks = tokio::time::interval(every.max(Duration::from_millis(100)));
    loop {
        ticks.tick().await;
        let silence = spool.writer_silence();
        if silence < WRITER_SILENCE_MAX {
            let _ = sd_notify::notify(false, &[NotifyState::Watchdog]);
        } else {
            error!(seconds = silence.as_secs(), "the spool's writer is silent: is the disk hanging?");
        }
    }
}

async fn follow_signals(path: PathBuf, requests: mpsc::Sender<Request>, stop: watch::Sender<bool>) {
    let (Ok(mut term), Ok(mut int), Ok(mut hup)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()), signal(SignalKind::hangup()))
    else {
        error!("signals cannot be received: stop with kill -9, which loses nothing");
        return std::future::pending().await;
    };
    loop {
        tokio::select! {
            _ = term.recv() => break,
            _ = int.recv() => break,
            _ = hup.recv() => reload(&path, &requests).await,
        }
    }
    let _ = sd_notify::notify(false, &[NotifyState::Stopping]);
    let _ = stop.send(true);
    // The sender must outlive the stop: its loss would read as one too, harmlessly.
    std::future::pending::<()>().await;
}

/// Reads the config anew; one that has a fault leaves everything as it is.
async fn reload(path: &Path, requests: &mpsc::Sender<Request>) {
    let _ = sd_notify::notify(false, &[NotifyState::Reloading]);
    match Config::load(path) {
        Ok(config) => {
            for warning in config.warnings() {
                warn!("{warning}");
            }
            let _ = requests.send(Request::Reload(Box::new(config))).await;
        }
        Err(problems) => error!("the config was not reloaded, the old one stays in force: {problems}"),
    }
    let _ = sd_notify::notify(false, &[NotifyState::Ready]);
}

fn log_to_stderr(log: &Log) {
    use std::io::IsTerminal;
    let filter = tracing_subscriber::EnvFilter::try_from_env("POSTRIDER_LOG").unwrap_or_else(|_| {
        // The libraries' own chatter is for their developers.
        tracing_subscriber::EnvFilter::new(format!("warn,postrider={}", log.level.name()))
    });
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(lines::Stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    // A second daemon in one process (the sandbox, a test) keeps the first one's log.
    let _ = match log.format {
        LogFormat::Text => builder.event_format(lines::Text::default()).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}
