//! Scenarios of spool.
