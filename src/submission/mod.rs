//! Mail comes in over SMTP: sockets, TLS and time around the pure session of `smtp`.
//!
//! Started and stopped by the roof. It hands every message to a [`Gate`], which in the daemon is `accept::Door`, and
//! answers 250 only with the receipt that comes back. It never looks into a message, and never calls the scheduler.

mod admission;
mod budget;
mod connection;
mod count;
mod gate;
mod io;
mod penalty;
mod server;
mod settings;

pub use crate::smtp::session::{Limits, Mode};
pub use gate::Gate;
pub use server::{Meter, Plan, Server, StartError};
pub use settings::{Listener, Settings, Suppressed};
