//! Postrider: a sending MTA. `docs/ARCHITECTURE.md` says which module is what and who may import whom.
#![forbid(unsafe_code)]

// Floor 0: words.
pub mod mail;
pub mod metrics;
pub mod size;
pub mod time;
// Floor 1: rules.
pub mod classify;
pub mod message;
pub mod postfix;
pub mod report;
pub mod retry;
pub mod rewrite;
pub mod route;
pub mod smtp;
pub mod token;
// Floor 2: reason.
pub mod evidence;
pub mod rates;
pub mod traffic;
// Floor 3: materials.
pub mod certificate;
pub mod clock;
pub mod credential;
pub mod dns;
pub mod history;
pub mod lines;
pub mod maillog;
pub mod signer;
pub mod spool;
pub mod store;
pub mod tls;
pub mod users;
// Floor 4: rooms.
pub mod alarm;
pub mod events;
pub mod harm;
pub mod ledger;
pub mod queue;
pub mod suppression;
// Floor 5: the door.
pub mod accept;
// Floor 6: hands.
pub mod delivery;
pub mod pickup;
pub mod submission;
// Floor 7: clerks.
pub mod http;
pub mod sandbox;
pub mod scheduler;
pub mod showq;
pub mod unsubscribe;
// Floor 8: roof.
pub mod app;
pub mod cli;
pub mod config;
