//! The history as a library, on real files.

mod a_search_among_many_rows;
