//! TLS: the one wrapper of rustls, towards clients (`server`) and towards peers (`client`).

pub mod client;
pub mod server;
