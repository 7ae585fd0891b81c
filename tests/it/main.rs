//! The integration tests: one binary, one scenario a file, named as a sentence.

mod accept;
mod cli;
mod delivery;
mod fuzz_corpus;
mod harness;
mod history;
mod import;
mod metrics;
mod queue;
mod relay;
mod replies_mean_what_a_postmaster_would_say;
mod reports_are_read_as_labelled;
mod spool;
mod submission;
mod suppression;
mod tables_answer_as_postmap_does;
mod traffic;
