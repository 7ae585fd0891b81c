//! The suppression list: its promises on a disk that breaks every rule, and what clients and operators meet.

mod a_crash_loses_nothing_that_was_answered;
mod what_a_suppressed_recipient_meets;
