//! The timeouts and bounds of delivery.

/// To be filled in.
#[derive(Clone, Debug, Default)]
pub struct Settings {}
