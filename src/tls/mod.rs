//! TLS: certificates that we show, and what we ask of peers. The only room that names rustls' configs.

pub mod server;
