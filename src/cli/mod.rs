//! To be written.

pub mod dkim;
