//! Tests of the queue over a real spool.
