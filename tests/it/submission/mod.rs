//! Scenarios of submission.
