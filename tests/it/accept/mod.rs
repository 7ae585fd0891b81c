//! Scenarios of accept.
