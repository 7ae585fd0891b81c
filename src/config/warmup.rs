//! Warm-up as it is written: `[warmup.NAME]` in the config, over the curves of `conf/warmup.toml`.

use serde::Deserialize;

use super::Named;
use super::units::Written;
use crate::time::Zone;
use crate::traffic::warmup::{Curve, SendHours, Steps};

const SHIPPED: &str = include_str!("../../conf/warmup.toml");

/// A curve: exactly one of `table`, `percent`, `start` with `factor`, `start` with `step`.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Warmup {
    /// Where the numbers come from. For readers.
    pub based_on: String,
    /// Messages a day, stage by stage. 1 to 366 stages.
    pub table: Option<Vec<u32>>,
    /// Per cent of the usual volume of a day, stage by stage.
    pub percent: Option<Vec<f64>>,
    /// Messages of the first day.
    pub start: Option<u32>,
    /// The next stage is so many times the last. Above 1, up to 10.
    pub factor: Option<f64>,
    /// The next stage has so many more messages.
    pub step: Option<u32>,
    /// Messages of the last stage. 1 to 1000000000.
    pub up_to: Option<u32>,
    /// A source's messages a day over all providers, as a multiple of the largest budget that one of them has. 1 to
    /// 1000, default 3. Not in a provider's entry.
    pub total: Option<u32>,
    /// Curves of single providers, by their names.
    pub provider: Named<Warmup>,
}

// No number that is equal to nothing passes the check.
impl Eq for Warmup {}

impl Warmup {
    /// The curve, if no provider has one of its own.
    ///
    /// # Errors
    /// The key that is wrong, and what would be right.
    pub fn curve(&self) -> Result<Curve, (&'static str, String)> {
        let one = "one of `table`, `percent`, `start` with `factor`, and `start` with `step` is expected";
        let up_to = || self.up_to.ok_or(("start", "`up_to` is needed with it: where the curve ends".to_owned()));
        let (key, steps) = match (&self.table, &self.percent, self.start, self.factor, self.step) {
            (Some(table), None, None, None, None) if self.up_to.is_none() => ("table", Steps::Table(table.clone())),
            (Some(_), None, None, None, None) => {
                return Err(("up_to", "a `table` ends with its last number".to_owned()));
            }
            (None, Some(shares), None, None, None) => {
                let up_to = self.up_to.unwrap_or(1_000_000_000);
                ("percent", Steps::Percent { shares: shares.clone(), up_to })
            }
            (None, None, Some(start), Some(factor), None) => {
                ("factor", Steps::Geometric { start, factor, up_to: up_to()? })
            }
            (None, None, Some(start), None, Some(step)) => ("step", Steps::Linear { start, step, up_to: up_to()? }),
            _ => return Err(("", one.to_owned())),
        };
        Curve::new(&steps, self.total.unwrap_or(3)).map_err(|wrong| (key, wrong.to_string()))
    }

    /// The entry that governs a provider.
    pub fn of(&self, provider: &str) -> &Warmup {
        self.provider.get(provider).unwrap_or(self)
    }
}

/// The curves that are compiled in.
pub(super) fn shipped() -> Named<Warmup> {
    #[derive(Deserialize)]
    struct File {
        warmup: Named<Warmup>,
    }
    // Invariant: the file is compiled in, and a test reads it.
    toml::from_str(SHIPPED).map(|file: File| file.warmup).unwrap_or_default()
}

impl Written for SendHours {
    const RIGHT: &'static str = "hours of one day such as \"08-20\" or \"00-24\" are expected";

    fn read(text: &str) -> Result<Self, String> {
        let hours = text.split_once('-').and_then(|(from, to)| SendHours::new(from.parse().ok()?, to.parse().ok()?));
        hours.ok_or_else(|| Self::RIGHT.to_owned())
    }
}

impl Written for Zone {
    const RIGHT: &'static str = "a time zone's name such as \"UTC\" or \"Europe/Berlin\" is expected";

    fn read(text: &str) -> Result<Self, String> {
        Zone::named(text).ok_or_else(|| Self::RIGHT.to_owned())
    }
}

#[cfg(test)]
mod tests;
