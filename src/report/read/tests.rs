//! Reports, as tables.
