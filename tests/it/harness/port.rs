//! Ports for a daemon that must be told where to listen.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the kernel's ephemeral range, so that no outgoing connection takes one between this look and the daemon's bind.
const FIRST: u16 = 10_000;
const COUNT: u16 = 20_000;

/// A port of 127.0.0.1 that nobody listens on, different at each call in this process. Processes start at different
/// places, so that tests side by side rarely look at the same one.
pub fn free() -> u16 {
    static STEP: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id().wrapping_mul(61) % u32::from(COUNT)) as u16;
    loop {
        let step = STEP.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + (start + step % COUNT) % COUNT;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}
