//! Scenarios of submission: the session alone, then over real sockets.

mod dialogs;
mod login;
mod server;
mod smuggling;
mod sockets;
mod states;
mod support;
