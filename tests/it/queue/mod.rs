//! Scenarios of queue.

mod control;
mod kit;
mod lifecycle;
mod memory;
mod operators;
mod restart;
mod store;
