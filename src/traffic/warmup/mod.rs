//! Warm-up: how much a new source may send to a provider today, and what a day must bring for more tomorrow.
//!
//! The engine keeps one [`Ladder`] per (source, provider) and one [`Total`] per source. It asks them before a grant and
//! tells them what came of it; `config` builds the [`Curve`]s. Nothing here reads a clock, waits or writes: days come in
//! as [`Day`], records go out as bytes. `docs/WARMUP.md` has the rules in words, and thirty days of each shipped curve.

mod curve;
mod day;
mod ladder;
mod pace;
mod record;
mod total;

pub use curve::{Curve, Steps, Wrong};
pub use day::{Day, SendHours};
pub use ladder::{Allowance, Because, Judgement, Kept, Kind, Ladder, View};
pub use record::{RECORD_BYTES, Restored};
pub use total::{TOTAL_BYTES, Total};
