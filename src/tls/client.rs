//! TLS towards peers.

/// The client side's configurations, one for each policy. Cheap to clone.
#[derive(Clone)]
pub struct Client {}
