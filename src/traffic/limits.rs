//! Limits as the operator and the providers state them. Read by the engine's meters; built by `scheduler`.

use std::time::Duration;

use super::words::SourceHandle;

/// So many in any time of this length, wherever it begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// At most. 0 is read as 1: to send nothing, suspend.
    pub count: u32,
    /// One second to one day.
    pub per: Duration,
}

/// The windows of one unit, each exact. Four at most.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rates([Option<Rate>; Rates::MAX]);

impl Rates {
    /// Windows of one unit.
    pub const MAX: usize = 4;
    /// No window: no limit by time.
    pub const NONE: Rates = Rates([None; Rates::MAX]);

    /// These windows. `None`: there are more than [`Rates::MAX`].
    pub fn new(rates: &[Rate]) -> Option<Rates> {
        let mut all = Rates::NONE;
        if rates.len() > Rates::MAX {
            return None;
        }
        all.0.iter_mut().zip(rates).for_each(|(place, rate)| *place = Some(*rate));
        Some(all)
    }

    /// The windows, in the order in which they were given.
    pub fn iter(&self) -> impl Iterator<Item = Rate> + '_ {
        self.0.iter().copied().flatten()
    }

    /// Whether there is no limit.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }
}

/// Limits of one holder: a source at a site, or all sources together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Connections at once, counted until the peer's EOF. Default 20. 0 is read as 1.
    pub connections: u16,
    /// Deliveries on one connection. Default: as many as the peer takes.
    pub deliveries: Option<u32>,
    /// New connections by time.
    pub new_connections: Rates,
    /// Messages by time: transactions, whatever the peer answers.
    pub messages: Rates,
    /// Recipients by time: RCPTs that are sent, whatever the peer answers.
    pub recipients: Rates,
}

impl Limits {
    /// None at all.
    pub const NONE: Limits = Limits {
        connections: u16::MAX,
        deliveries: None,
        new_connections: Rates::NONE,
        messages: Rates::NONE,
        recipients: Rates::NONE,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Limits { connections: 20, ..Limits::NONE }
    }
}

/// The limits of a site, or those that a recipient domain has beside its site's. Shared by all that one rule governs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SiteLimits {
    /// Of each source, if nothing else is said of it.
    pub each: Limits,
    /// Of single sources, whole: what a rule does not say stands here as in `each`.
    pub sources: Box<[(SourceHandle, Limits)]>,
    /// Of all sources together. `deliveries` means nothing here.
    pub total: Limits,
}

impl SiteLimits {
    /// The same for each source, and none for all together.
    pub fn of_each(each: Limits) -> SiteLimits {
        SiteLimits { each, sources: Box::default(), total: Limits::NONE }
    }

    /// Those of one source.
    pub fn of(&self, source: SourceHandle) -> &Limits {
        self.sources.iter().find(|(other, _)| *other == source).map_or(&self.each, |(_, limits)| limits)
    }
}

impl Default for SiteLimits {
    fn default() -> Self {
        SiteLimits::of_each(Limits::default())
    }
}
