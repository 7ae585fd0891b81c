//! Scenarios of relay.
