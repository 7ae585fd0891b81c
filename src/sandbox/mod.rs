//! A whole relay on loopback, to try and to show: certificates, keys, a config, a peer that catches what is delivered, and
//! sample mail.
//!
//! Called by `postrider sandbox` (and tests), which runs the real daemon between [`client`] and [`peer`]. Nothing here
//! reaches beyond this machine, and nothing of it is used by the daemon in service.

pub mod client;
pub mod peer;
pub mod samples;
pub mod show;
pub mod stage;

pub use peer::{Caught, Peer};
pub use samples::Sample;
pub use stage::{SetupError, Stage};

#[cfg(test)]
mod tests;
