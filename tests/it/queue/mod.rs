//! Scenarios of queue.

mod control;
mod kit;
mod lifecycle;
mod operators;
mod restart;
mod store;
mod streams;
