//! The spool: its promises, on a simulated disk that breaks every rule and on a real one.

mod codec;
pub mod disk;
mod flips;
mod model;
mod real;
mod scenario;
