//! Scenarios of queue.
