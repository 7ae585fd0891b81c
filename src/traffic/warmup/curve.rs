//! Curves: the volume of each stage. Built by `config`, read by the ladders at the start of a day.

/// Most stages of one curve: a year of sending days.
const STAGES_MAX: usize = 366;
/// Least volume of a stage that is a share of the usual volume, in messages: where nothing was measured yet, and so that
/// small senders do not warm up by ones.
const SHARE_LEAST: u32 = 50;

/// The volumes of a warm-up, stage by stage. After the last stage the source is warm.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Curve {
    steps: Shape,
    /// Largest volume of a day, messages.
    up_to: u32,
    /// A source's total over all providers, as a multiple of the largest budget that one of them has today.
    total: u32,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Shape {
    /// Messages a day.
    Volumes(Box<[u32]>),
    /// Thousandths of the usual volume.
    Shares(Box<[u32]>),
}

/// A curve as it is written.
#[derive(Clone, PartialEq, Debug)]
pub enum Steps {
    /// Messages a day, one by one.
    Table(Vec<u32>),
    /// `start`, times `factor` at each stage, until `up_to`.
    Geometric { start: u32, factor: f64, up_to: u32 },
    /// `start`, plus `step` at each stage, until `up_to`.
    Linear { start: u32, step: u32, up_to: u32 },
    /// Per cent of the usual volume of a day, but at most `up_to` messages.
    Percent { shares: Vec<f64>, up_to: u32 },
}

/// What is wrong with a curve.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Wrong {
    /// Nothing to climb.
    #[error("at least one stage is needed")]
    Empty,
    /// It would never end.
    #[error("a curve has 366 stages at most")]
    TooLong,
    /// A stage without mail is no stage.
    #[error("1 to 1000000000 messages a day are allowed")]
    Volume,
    /// A curve climbs.
    #[error("each stage must be at least as large as the one before")]
    Falls,
    /// Or it would never arrive.
    #[error("a factor above 1 and up to 10 is allowed")]
    Factor,
    /// Or it would never arrive.
    #[error("a step of 1 or more is needed")]
    Step,
    /// A share of the usual volume.
    #[error("shares above 0 and up to 100 per cent are allowed")]
    Share,
}

const VOLUME_MAX: u32 = 1_000_000_000;

impl Curve {
    /// The curve that was written. `total`: see [`Curve::total`]; 0 is read as 1.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn new(steps: &Steps, total: u32) -> Result<Curve, Wrong> {
        let (shape, up_to) = match steps {
            Steps::Table(volumes) => (Shape::Volumes(climbing(volumes)?), VOLUME_MAX),
            Steps::Geometric { start, factor, up_to } => {
                let sound = factor.is_finite() && *factor > 1.0 && *factor <= 10.0;
                let volumes = climb(*start, *up_to, |volume| volume * factor);
                (Shape::Volumes(if sound { volumes? } else { return Err(Wrong::Factor) }), *up_to)
            }
            Steps::Linear { start, step, up_to } => match step {
                0 => return Err(Wrong::Step),
                step => (Shape::Volumes(climb(*start, *up_to, |volume| volume + f64::from(*step))?), *up_to),
            },
            Steps::Percent { shares, up_to } => (Shape::Shares(thousandths(shares)?), *up_to),
        };
        match (1..=VOLUME_MAX).contains(&up_to) {
            true => Ok(Curve { steps: shape, up_to, total: total.max(1) }),
            false => Err(Wrong::Volume),
        }
    }

    /// How many stages there are.
    pub fn stages(&self) -> u16 {
        let (Shape::Volumes(steps) | Shape::Shares(steps)) = &self.steps;
        u16::try_from(steps.len()).unwrap_or(u16::MAX)
    }

    /// Messages a day at a stage, counted from 0. `usual`: messages of a day that this source would send to the provider
    /// were it warm, as measured; only curves in per cent read it. `None`: past the last stage, warm.
    pub fn budget(&self, stage: u16, usual: u32) -> Option<u32> {
        let at = usize::from(stage);
        match &self.steps {
            Shape::Volumes(volumes) => volumes.get(at).copied(),
            Shape::Shares(shares) => {
                let share = u64::from(*shares.get(at)?) * u64::from(usual) / 1000;
                let least = SHARE_LEAST.min(self.up_to);
                Some(u32::try_from(share).unwrap_or(u32::MAX).clamp(least, self.up_to))
            }
        }
    }

    /// A source's messages a day over all providers: this many times the largest budget that a provider has today.
    pub fn total(&self) -> u32 {
        self.total
    }

    /// The stage to fall back to when half of a budget is still too much.
    pub(super) fn half(&self, stage: u16, usual: u32) -> u16 {
        let budget = self.budget(stage, usual).unwrap_or(u32::MAX);
        let fits = |lower: &u16| self.budget(*lower, usual).is_some_and(|volume| volume <= budget / 2);
        (0..stage).rev().find(fits).unwrap_or(0)
    }
}

fn climbing(volumes: &[u32]) -> Result<Box<[u32]>, Wrong> {
    match volumes {
        [] => Err(Wrong::Empty),
        volumes if volumes.len() > STAGES_MAX => Err(Wrong::TooLong),
        volumes if volumes.iter().any(|volume| !(1..=VOLUME_MAX).contains(volume)) => Err(Wrong::Volume),
        volumes if !volumes.is_sorted() => Err(Wrong::Falls),
        volumes => Ok(volumes.into()),
    }
}

/// From `start` by `next` to `up_to`, which is the last stage. Multiplied step by step: alike on every machine.
fn climb(start: u32, up_to: u32, next: impl Fn(f64) -> f64) -> Result<Box<[u32]>, Wrong> {
    if start == 0 || up_to > VOLUME_MAX {
        return Err(Wrong::Volume);
    }
    if start > up_to {
        return Err(Wrong::Falls);
    }
    let (mut volume, last) = (f64::from(start), f64::from(up_to));
    let mut volumes = Vec::new();
    while volume < last {
        volumes.push(volume.round() as u32);
        volume = next(volume);
        if volumes.len() >= STAGES_MAX {
            return Err(Wrong::TooLong);
        }
    }
    volumes.push(up_to);
    climbing(&volumes)
}

fn thousandths(shares: &[f64]) -> Result<Box<[u32]>, Wrong> {
    if shares.iter().any(|share| !(share.is_finite() && *share > 0.0 && *share <= 100.0)) {
        return Err(Wrong::Share);
    }
    let parts: Vec<u32> = shares.iter().map(|share| ((share * 10.0).round() as u32).max(1)).collect();
    climbing(&parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_climb_as_they_are_written_and_end_warm() {
        let percent = |shares: &[f64], up_to| Steps::Percent { shares: shares.to_vec(), up_to };
        let rows: [(Steps, &[u32]); 4] = [
            (Steps::Table(vec![200, 500, 1000]), &[200, 500, 1000]),
            (Steps::Geometric { start: 20, factor: 1.4, up_to: 80 }, &[20, 28, 39, 55, 77, 80]),
            (Steps::Linear { start: 100, step: 50, up_to: 220 }, &[100, 150, 200, 220]),
            (percent(&[1.0, 2.5, 50.0], 4000), &[100, 250, 4000]),
        ];
        for (steps, expected) in rows {
            let curve = Curve::new(&steps, 0).unwrap();
            let stages = 0..curve.stages();
            let budgets: Vec<u32> = stages.map(|stage| curve.budget(stage, 10_000).unwrap()).collect();
            assert_eq!(budgets, expected, "{steps:?}");
            assert_eq!((curve.budget(curve.stages(), 1), curve.total()), (None, 1), "{steps:?}");
        }
        let unmeasured = Curve::new(&percent(&[1.0], 4000), 1).unwrap();
        assert_eq!(unmeasured.budget(0, 0), Some(50));
    }

    #[test]
    fn half_a_budget_is_found_below() {
        let curve = Curve::new(&Steps::Table(vec![100, 150, 200, 300]), 1).unwrap();
        let rows = [(3, 1), (2, 0), (1, 0), (0, 0), (4, 3)];
        for (stage, half) in rows {
            assert_eq!(curve.half(stage, 0), half, "from {stage}");
        }
    }

    #[test]
    fn a_curve_that_would_not_arrive_is_refused() {
        let geometric = |start, factor, up_to| Steps::Geometric { start, factor, up_to };
        let percent = |share| Steps::Percent { shares: vec![share], up_to: 10 };
        let rows = [
            (Steps::Table(vec![]), Wrong::Empty),
            (Steps::Table(vec![1; 367]), Wrong::TooLong),
            (Steps::Table(vec![0]), Wrong::Volume),
            (Steps::Table(vec![2, 1]), Wrong::Falls),
            (Steps::Table(vec![1_000_000_001]), Wrong::Volume),
            (geometric(0, 2.0, 10), Wrong::Volume),
            (geometric(11, 2.0, 10), Wrong::Falls),
            (geometric(1, 1.0, 10), Wrong::Factor),
            (geometric(1, f64::NAN, 10), Wrong::Factor),
            (geometric(1, 1.000_001, 1000), Wrong::TooLong),
            (geometric(1, 2.0, u32::MAX), Wrong::Volume),
            (Steps::Linear { start: 1, step: 0, up_to: 9 }, Wrong::Step),
            (Steps::Linear { start: 1, step: 1, up_to: 900 }, Wrong::TooLong),
            (percent(0.0), Wrong::Share),
            (percent(101.0), Wrong::Share),
            (Steps::Percent { shares: vec![], up_to: 1 }, Wrong::Empty),
            (Steps::Percent { shares: vec![1.0], up_to: 0 }, Wrong::Volume),
        ];
        for (steps, wrong) in rows {
            assert_eq!(Curve::new(&steps, 1), Err(wrong), "{steps:?}");
        }
    }
}
