//! Frame of the daemon's composition, so that the roof builds alone.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::config::Config;

/// What is bound, once the daemon takes mail.
#[derive(Clone, Debug, Default)]
pub struct Ready {
    /// The listeners, in the config's order.
    pub listeners: Vec<SocketAddr>,
}

/// Runs the daemon until `stop` turns true.
///
/// # Errors
/// Why it could not start.
pub async fn run(
    config: Config,
    stop: tokio::sync::watch::Receiver<bool>,
    ready: impl FnOnce(Ready),
) -> anyhow::Result<()> {
    let _ = (config, stop, ready);
    anyhow::bail!("this build has no daemon")
}

/// Runs the daemon as a service.
///
/// # Errors
/// Why it could not start.
pub fn serve(config: Config, path: PathBuf) -> anyhow::Result<()> {
    let _ = (config, path);
    anyhow::bail!("this build has no daemon")
}
