//! SMTP as pure machines: bytes, facts and limits in, decisions out. No socket, no clock.

pub mod dialog;
pub mod encode;
pub mod reply_reader;
