//! To be written.
pub mod credential;
