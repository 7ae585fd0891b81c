//! The command line.

pub mod client;
mod moment;
pub mod queue;
pub mod why;
