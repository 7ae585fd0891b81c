//! Scenarios of traffic.
