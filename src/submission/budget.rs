//! One budget of memory for all messages that are being received.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What is counted. Unit: octets. Semaphores count to 2^61, acquire up to 2^32: 4 TiB of message is room enough.
const UNIT: usize = 1024;
/// The first share of a message: most need no second.
const FIRST_SHARE: usize = 64 * 1024;
/// Shares double up to this.
const SHARE_MAX: usize = 1024 * 1024;

/// The budget. Cheap to clone.
#[derive(Clone)]
pub(super) struct Budget {
    left: Arc<Semaphore>,
    units: usize,
}

/// What one message has of it. Given back when dropped.
#[derive(Default)]
pub(super) struct Share(Option<OwnedSemaphorePermit>);

impl Budget {
    pub(super) fn new(octets: usize) -> Budget {
        let units = (octets / UNIT).clamp(1, Semaphore::MAX_PERMITS);
        Budget { left: Arc::new(Semaphore::new(units)), units }
    }

    /// What is given away, and what there is in all.
    pub(super) fn octets(&self) -> (usize, usize) {
        let used = self.units.saturating_sub(self.left.available_permits());
        (used.saturating_mul(UNIT), self.units.saturating_mul(UNIT))
    }

    /// Makes `share` at least `octets` big; waits for others to finish if it must, but not longer than `wait`.
    pub(super) async fn grow(&self, share: &mut Share, octets: usize, wait: Duration) -> Result<(), NoMemory> {
        let held = share.octets();
        if octets <= held {
            return Ok(());
        }
        let step = held.clamp(FIRST_SHARE, SHARE_MAX);
        let missing = octets.next_multiple_of(step).saturating_sub(held).div_ceil(UNIT);
        let missing = u32::try_from(missing).map_err(|_| NoMemory)?;
        let permit = match self.left.clone().try_acquire_many_owned(missing) {
            Ok(permit) => permit,
            Err(_) => {
                let waiting = self.left.clone().acquire_many_owned(missing);
                tokio::time::timeout(wait, waiting).await.ok().and_then(Result::ok).ok_or(NoMemory)?
            }
        };
        match &mut share.0 {
            Some(held) => held.merge(permit),
            none => *none = Some(permit),
        }
        Ok(())
    }
}

impl Share {
    /// What may be used.
    pub(super) fn octets(&self) -> usize {
        self.0.as_ref().map_or(0, |permit| permit.num_permits() * UNIT)
    }
}

/// No room came free in time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct NoMemory;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_grow_in_steps_and_give_everything_back() {
        let budget = Budget::new(1024 * 1024);
        let wait = Duration::from_millis(5);
        let (mut one, mut two) = (Share::default(), Share::default());
        budget.grow(&mut one, 10, wait).await.unwrap();
        assert_eq!(one.octets(), FIRST_SHARE);
        budget.grow(&mut one, 700_000, wait).await.unwrap();
        assert!(one.octets() >= 700_000 && one.octets() < 800_000);
        assert_eq!(budget.grow(&mut two, 700_000, wait).await, Err(NoMemory));
        budget.grow(&mut two, 100_000, wait).await.unwrap();
        let (used, all) = budget.octets();
        assert!(all == 1024 * 1024 && used >= 800_000 && used <= all);
        drop(one);
        budget.grow(&mut two, 900_000, wait).await.unwrap();
        drop(two);
        assert_eq!(budget.left.available_permits(), 1024);
    }
}
