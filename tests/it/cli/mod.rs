//! Scenarios of cli.
