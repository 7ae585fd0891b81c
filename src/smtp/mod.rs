//! SMTP, pure: octets and facts in, replies and decisions out. The server's side is driven by `submission`, the client's
//! by `delivery`.

pub mod answer;
pub mod auth;
pub mod command;
pub mod data;
pub mod exercise;
pub mod line;
pub mod parameter;
pub mod path;
pub mod session;
