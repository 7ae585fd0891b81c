//! What waits takes the routes of the newest config, as Postfix resolves each message anew whenever it is tried.
//!
//! Where the recipients' domain says the route, the scheduler asks it anew at every reload, and at every start. A route that goes
//! by the sender or by one address was chosen by the door, and is kept with the envelope: only its record says who it is from
//! and to. So once such routes came or went, all records are read once, and each envelope whose route is another one now is
//! given it. For which routes that was done last is kept in a file, so that it is done after a restart with another config
//! too, and after a crash in the middle.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::accept::Door;
use crate::mail::{QueueId, RecipientState};
use crate::queue::{Filter, LISTING_MAX, Listed, Ordered, Queue};
use crate::route;

/// The file in the data directory that says for which routes the queue was looked through last.
const FILE_NAME: &str = "routes";
/// What the file says during a walk: no config's routes.
const UNDER_WAY: &str = "under way\n";
/// When what was being attempted is looked at again.
const AGAIN_AFTER: Duration = Duration::from_secs(2);

/// A message's id is made at most so long before it is in the queue.
const LATE: Duration = Duration::from_secs(120);

/// Keeps the queue's routes up to date.
pub struct Ways {
    queue: Queue,
    door: Door,
    file: PathBuf,
    running: Option<JoinHandle<()>>,
}

impl Ways {
    /// Of this queue, with what was done last in this directory.
    pub fn new(queue: Queue, door: Door, data_dir: &Path) -> Ways {
        Ways { queue, door, file: data_dir.join(FILE_NAME), running: None }
    }

    /// The door has the routes of now: looks through the queue if they choose otherwise than those of before.
    pub fn follow(&mut self) {
        if let Some(before) = self.running.take() {
            before.abort();
        }
        let wanted = self.door.choices();
        if !begin(&self.file, &wanted) {
            return;
        }
        let (queue, door, file) = (self.queue.clone(), self.door.clone(), self.file.clone());
        self.running = Some(tokio::spawn(async move {
            let late = QueueId::next(QueueId::MIN, crate::clock::system_time().before(LATE));
            let moved = walk(&queue, &door, QueueId::MIN).await;
            info!(envelopes = moved, "what waits takes the routes of the new config");
            // A message that was being accepted under the old routes is in the queue only once it is on the disk.
            tokio::time::sleep(AGAIN_AFTER).await;
            walk(&queue, &door, late).await;
            if let Err(error) = keep(&file, &wanted) {
                warn!(%error, file = %file.display(), "the next start looks through the queue's routes again");
            }
        }));
    }
}

/// Gives every envelope after an id its route. Returns how many had another one.
async fn walk(queue: &Queue, door: &Door, mut after: QueueId) -> usize {
    let (mut moved, mut busy) = (0, Vec::new());
    loop {
        let page = queue.list(Filter::default(), after, LISTING_MAX).await;
        for listed in &page.rows {
            match give(queue, door, listed).await {
                Some(Ordered::Done) => moved += 1,
                Some(Ordered::Busy) => busy.push(listed.waiting.id),
                Some(_) | None => {}
            }
        }
        match page.next {
            Some(next) => after = next,
            None => break,
        }
    }
    // Bounded by the attempts that were under way, each of which ends.
    while !busy.is_empty() {
        tokio::time::sleep(AGAIN_AFTER).await;
        for id in std::mem::take(&mut busy) {
            let Some(listed) = queue.show(id).await else { continue };
            match give(queue, door, &listed).await {
                Some(Ordered::Done) => moved += 1,
                Some(Ordered::Busy) => busy.push(id),
                Some(_) | None => {}
            }
        }
    }
    moved
}

/// Gives one envelope its route. `None`: it has it.
async fn give(queue: &Queue, door: &Door, listed: &Listed) -> Option<Ordered> {
    let stored = listed.stored.as_ref().ok()?;
    let envelope = &stored.envelope;
    let both = envelope.recipients.iter().zip(&stored.progress.recipients);
    let pending = both.filter(|(_, progress)| progress.state == RecipientState::Pending);
    let mut routes = pending.map(|(who, _)| door.route_of(&envelope.reverse_path, &who.address));
    let route = routes.next()?;
    if !routes.all(|other| other == route) {
        // An envelope is one transaction at one peer. Mail that comes from now on is parted by its routes.
        warn!(queue_id = %envelope.id, "its recipients would take several routes now; it keeps the one that it has");
        return None;
    }
    let (_, before) = route::split(&listed.waiting.pool);
    match before == route.as_deref() {
        true => None,
        false => Some(queue.take_route(envelope.id, route.as_deref()).await),
    }
}

/// Whether a walk is needed for these routes. From its first envelope to its last the queue is of no one config: who goes
/// back to the config of before in the middle, or after a crash there, needs a walk too.
fn begin(file: &Path, wanted: &str) -> bool {
    // One that cannot be read is looked through for nothing, and written anew.
    if fs::read_to_string(file).unwrap_or_default() == wanted {
        return false;
    }
    if let Err(error) = keep(file, UNDER_WAY) {
        warn!(%error, file = %file.display(), "a return to the routes of before may leave some mail on the new ones");
    }
    true
}

fn keep(file: &Path, text: &str) -> io::Result<()> {
    let temporary = file.with_extension("new");
    fs::write(&temporary, text)?;
    fs::rename(temporary, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_that_was_cut_short_is_undone_by_a_return_to_the_config_of_before() {
        for before in ["", "+\nold\n"] {
            let directory = tempfile::tempdir().unwrap();
            let file = directory.path().join(FILE_NAME);
            if !before.is_empty() {
                keep(&file, before).unwrap();
            }
            assert!(!begin(&file, before));
            assert!(begin(&file, "+\nnew\n"));
            assert!(begin(&file, before), "the queue is half of the new routes");
            keep(&file, before).unwrap();
            assert!(!begin(&file, before));
        }
    }
}
