//! Scenarios of queue.

mod store;
