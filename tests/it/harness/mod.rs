//! What the scenarios under `relay/` stand on: the daemon as a process, a client and a peer of our own that share no code
//! with it, and a data directory that goes away with the test.
//!
//! Everything here works from the outside: it knows the binary, the config file, SMTP and signals, and nothing else.

mod certificate;
mod client;
mod daemon;
pub mod data_dir;
mod ledger;
mod message;
mod peer;
pub mod port;
mod self_test;
mod small_disk;
mod zone;

pub use client::{Client, Reply, Split};
pub use daemon::{Daemon, PASSWORD, Setup, USER, write_secret};
pub use ledger::Ledger;
pub use message::{Sample, field, own_part};
pub use peer::{Answer, Behaviour, Peer, Receipt};
pub use small_disk::SmallDisk;
pub use zone::{Nameserver, Zone};

use std::time::{Duration, Instant};

/// A number from the environment, for the long forms of a test.
pub fn count(variable: &str, short: u32) -> u32 {
    std::env::var(variable).ok().and_then(|value| value.parse().ok()).unwrap_or(short)
}

/// The seed of a random test: from the environment, to repeat a run, else from the clock. Printed, so that a failure can
/// be repeated.
pub fn seed(test: &str) -> u64 {
    let seed =
        std::env::var("POSTRIDER_SEED").ok().and_then(|value| value.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("{test}: POSTRIDER_SEED={seed}");
    seed
}

/// Polls a fact of the outside world until it holds; says what did not happen otherwise.
pub fn eventually(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
