//! SMTP, pure: octets and facts in, replies and decisions out. The server's side is driven by `submission`, the client's
//! by `delivery`. No socket, no clock.

pub mod answer;
pub mod auth;
pub mod command;
pub mod data;
pub mod dialog;
pub mod encode;
pub mod exercise;
pub mod line;
pub mod parameter;
pub mod path;
pub mod reply_reader;
pub mod session;
