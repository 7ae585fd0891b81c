//! The watchman: looks at the spool, the index, the certificate and the queue now and then, raises alarms, and has them
//! mailed to the postmaster. Started by the daemon; it decides nothing about mail.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{error, warn};

use super::page::House;
use crate::accept::Door;
use crate::alarm::{Alarms, Cause, Notice};
use crate::clock::Clock;
use crate::harm::When;
use crate::mail::QueueId;
use crate::spool::Stats;
use crate::suppression::Suppressions;
use crate::time::Timestamp;
use crate::tls::server::ServerTls;

/// How often spool, index and certificate are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How often the queue is counted.
const COUNT_EVERY: Duration = Duration::from_secs(60);
/// What changes hands while it is counted is looked at again after this.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// Envelopes asked about in one go: mail goes on between two of them.
const PAGE_ROWS: usize = 128;
/// Suspects that are remembered; there should be none.
const SUSPECTS_MAX: usize = 10_000;
/// The spool's writer shows life once a second.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// Certificates are renewed a month before their end; two weeks before it nobody did.
const EXPIRES_SOON: Duration = Duration::from_secs(14 * 86_400);
/// A disk is nearly full below this share of it, and below this much.
const FREE_SHARE_MIN: u64 = 20;
const FREE_BYTES_MIN: u64 = 10 << 30;
/// Notices on their way to the courier, and kept by it while the disk is full. More causes there are not many.
const NOTICES_MAX: usize = 64;
/// When a mail is tried again that was not accepted.
const MAIL_AGAIN: Duration = Duration::from_secs(30);

/// What was seen at the last look.
#[derive(Default)]
struct Seen {
    quarantined: u64,
    slow_syncs: u64,
    index_failures: u64,
}

/// Looks until `stop`.
pub(super) async fn run(house: House, mut stop: watch::Receiver<bool>) {
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut seen, mut counted) = (Seen::default(), Instant::now());
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            _ = looks.tick() => {}
        }
        let (alarms, now) = (house.door.alarms(), house.clock.now());
        let spool = house.queue.spool();
        look_at_spool(alarms, &spool.stats(), spool.is_full(), &mut seen, now);
        look_at_writer(alarms, spool.writer_silence(), now);
        look_at_suppressions(alarms, house.door.suppressions(), now);
        house.door.keep_harm(When::Now, now).await;
        look_at_index(alarms, house.queue.index_health(), &mut seen, now);
        look_at_certificate(alarms, house.tls.as_ref().and_then(ServerTls::expires_at), now);
        if counted.elapsed() >= COUNT_EVERY {
            counted = Instant::now();
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = count(&house) => {}
            }
            house.door.keep_quotas(house.clock.now()).await;
        }
        alarms.tick(house.clock.now());
    }
}

/// Raises an alarm while something is so, and clears it when it is no more.
fn report(alarms: &Alarms, cause: Cause, found: Option<String>, now: Timestamp) {
    match found {
        Some(detail) => alarms.state(cause, "", &detail, now),
        None => alarms.clear(cause, ""),
    }
}

fn look_at_spool(alarms: &Alarms, stats: &Stats, is_full: bool, seen: &mut Seen, now: Timestamp) {
    let free = || format!("{} of {} MiB are free", stats.free_bytes >> 20, stats.total_bytes >> 20);
    let few = stats.free_bytes < (stats.total_bytes / FREE_SHARE_MIN).min(FREE_BYTES_MIN);
    report(alarms, Cause::DiskFull, is_full.then(free), now);
    report(alarms, Cause::DiskNearlyFull, (few && !is_full).then(free), now);
    if stats.quarantined > seen.quarantined {
        let detail = format!("{} records since the start", stats.quarantined);
        alarms.event(Cause::Quarantined, "", &detail, now);
    }
    if stats.slow_syncs > seen.slow_syncs {
        let detail = format!("{} syncs of a second or more since the start", stats.slow_syncs);
        alarms.event(Cause::SlowSync, "", &detail, now);
    }
    (seen.quarantined, seen.slow_syncs) = (stats.quarantined, stats.slow_syncs);
}

fn look_at_writer(alarms: &Alarms, silence: Duration, now: Timestamp) {
    let detail = || format!("silent for {} seconds", silence.as_secs());
    report(alarms, Cause::SpoolSilent, (silence >= SILENCE_MAX).then(detail), now);
}

fn look_at_suppressions(alarms: &Alarms, list: Option<&Suppressions>, now: Timestamp) {
    let Some(list) = list else { return };
    list.tick();
    let figures = list.figures();
    let damaged = (figures.damaged > 0).then(|| format!("{} blocks or files are damaged", figures.damaged));
    let failed = figures.failed.map(|why| format!("the last file could not be written: {why}"));
    let found = [damaged, failed].into_iter().flatten().collect::<Vec<_>>().join("; ");
    report(alarms, Cause::SuppressionList, (!found.is_empty()).then_some(found), now);
}

fn look_at_index(alarms: &Alarms, (used, failures): (bool, u64), seen: &mut Seen, now: Timestamp) {
    // It is not in use for the first second of a run, and that is no failure.
    if failures > seen.index_failures || (failures > 0 && !used) {
        let detail = format!("given up {failures} times since the start");
        alarms.state(Cause::IndexBad, "", &detail, now);
    } else {
        alarms.clear(Cause::IndexBad, "");
    }
    seen.index_failures = failures;
}

fn look_at_certificate(alarms: &Alarms, expires: Option<Timestamp>, now: Timestamp) {
    let soon = expires.filter(|expires| now.after(EXPIRES_SOON) >= *expires);
    let detail = |expires: Timestamp| match expires <= now {
        true => format!("it expired at {}", expires.rfc3339()),
        false => format!("it expires at {}", expires.rfc3339()),
    };
    report(alarms, Cause::CertificateExpiring, soon.map(detail), now);
}

/// Both of these counts must stay 0.
async fn count(house: &House) {
    let past_age = house.queue.census().await.past_age();
    let stranded = stranded(house).await;
    house.stranded.store(stranded.len() as u64, Ordering::Relaxed);
    let (alarms, now) = (house.door.alarms(), house.clock.now());
    report(alarms, Cause::MessagesPastAge, (past_age > 0).then(|| format!("{past_age} envelopes")), now);
    let detail = stranded.first().map(|first| format!("{} envelopes, {first} among them", stranded.len()));
    report(alarms, Cause::NoNextEvent, detail, now);
}

/// Envelopes, not held, that nothing would ever happen to.
async fn stranded(house: &House) -> Vec<QueueId> {
    let (mut suspects, mut after) = (Vec::new(), QueueId::MIN);
    loop {
        let ids = house.queue.unheld_after(after, PAGE_ROWS);
        let Some(last) = ids.last() else { break };
        after = *last;
        suspects.extend(house.scheduler.stranded(ids).await);
        suspects.truncate(SUSPECTS_MAX);
    }
    if suspects.is_empty() {
        return suspects;
    }
    // Between a settle and its announcement neither of the two has it: only who is found twice is stranded.
    tokio::time::sleep(LOOK_AGAIN).await;
    let suspects = house.scheduler.stranded(house.queue.still_unheld(suspects)).await;
    house.queue.still_unheld(suspects)
}

/// Has notices mailed from now on. What cannot be accepted now, the disk being full, is kept and tried again.
pub(super) fn start_courier(door: Door, clock: Arc<Clock>) {
    let (sender, notices) = mpsc::channel(NOTICES_MAX);
    let alarms = door.alarms().clone();
    let (unmailed, postmaster) = (alarms.clone(), door.clone());
    alarms.set_courier(Arc::new(move |notice| {
        if postmaster.postmaster().is_some() && sender.try_send(notice).is_err() {
            unmailed.mailed(None);
        }
    }));
    tokio::spawn(carry(door, clock, notices));
}

async fn carry(door: Door, clock: Arc<Clock>, mut notices: mpsc::Receiver<Notice>) {
    let mut kept: VecDeque<Notice> = VecDeque::new();
    loop {
        let next = match kept.is_empty() {
            true => notices.recv().await,
            false => match tokio::time::timeout(MAIL_AGAIN, notices.recv()).await {
                Ok(next) => next,
                Err(_) => kept.pop_front(),
            },
        };
        let Some(notice) = next else { return };
        match door.tell_postmaster(&notice, clock.now()).await {
            Ok(Some(receipt)) => door.alarms().mailed(Some(receipt.id)),
            // The postmaster left the config.
            Ok(None) => {}
            Err(refusal) if refusal.code < 500 && kept.len() < NOTICES_MAX => {
                warn!(cause = notice.cause.name(), %refusal, "the mail of an alarm was not accepted; it is tried again");
                kept.push_back(notice);
            }
            Err(refusal) => {
                error!(cause = notice.cause.name(), %refusal, "the mail of an alarm could not be accepted");
                door.alarms().mailed(None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn now() -> Timestamp {
        Timestamp::from_secs(1_800_000_000)
    }

    fn active(alarms: &Alarms) -> Vec<(&'static str, String)> {
        alarms.active(now()).iter().map(|active| (active.cause.name(), active.detail.to_string())).collect()
    }

    fn stats(free_mebibytes: u64, total_mebibytes: u64) -> Stats {
        Stats { free_bytes: free_mebibytes << 20, total_bytes: total_mebibytes << 20, ..Stats::default() }
    }

    #[test]
    fn a_disk_is_nearly_full_below_a_twentieth_and_ten_gibibytes() {
        let (alarms, mut seen) = (Alarms::default(), Seen::default());
        for (free, total, is_full, want) in [
            (51, 1000, false, None),
            (49, 1000, false, Some("disk_nearly_full")),
            (49, 1000, true, Some("disk_full")),
            (0, 1000, true, Some("disk_full")),
            (10_241, 10_000_000, false, None),
            (10_239, 10_000_000, false, Some("disk_nearly_full")),
            (900, 1000, false, None),
        ] {
            look_at_spool(&alarms, &stats(free, total), is_full, &mut seen, now());
            let found: Vec<_> = active(&alarms).into_iter().map(|(cause, _)| cause).collect();
            assert_eq!(found, want.into_iter().collect::<Vec<_>>(), "{free} of {total}");
        }
    }

    #[test]
    fn each_quarantined_record_and_slow_sync_is_noticed_once() {
        let (alarms, mut seen) = (Alarms::default(), Seen::default());
        let noticed = || {
            let mut page = crate::metrics::Page::default();
            alarms.write(&mut page, now());
            let text = page.text();
            ["quarantined", "slow_sync"].map(|cause| {
                let series = format!("postrider_alarms_total{{cause=\"{cause}\"}} ");
                text.lines().find_map(|line| line.strip_prefix(&series)).unwrap().parse::<u64>().unwrap()
            })
        };
        for (quarantined, slow_syncs, want) in [(0, 0, [0, 0]), (1, 0, [1, 0]), (1, 0, [1, 0]), (3, 2, [2, 1])] {
            let stats = Stats { quarantined, slow_syncs, ..stats(500, 1000) };
            look_at_spool(&alarms, &stats, false, &mut seen, now());
            assert_eq!(noticed(), want);
        }
    }

    #[test]
    fn an_index_that_never_failed_or_is_back_is_no_alarm() {
        let (alarms, mut seen) = (Alarms::default(), Seen::default());
        for (health, want) in [
            ((false, 0), false),
            ((true, 0), false),
            ((false, 1), true),
            ((false, 1), true),
            ((true, 1), false),
            ((true, 2), true),
            ((true, 2), false),
        ] {
            look_at_index(&alarms, health, &mut seen, now());
            assert_eq!(!active(&alarms).is_empty(), want, "{health:?}");
        }
    }

    #[test]
    fn a_certificate_is_told_of_two_weeks_before_its_end() {
        let alarms = Alarms::default();
        for (expires, want) in [
            (None, None),
            (Some(now().after(15 * DAY)), None),
            (Some(now().after(13 * DAY)), Some("it expires at 2027-01-28T08:00:00.000Z")),
            (Some(now()), Some("it expired at 2027-01-15T08:00:00.000Z")),
            (Some(now().after(90 * DAY)), None),
        ] {
            look_at_certificate(&alarms, expires, now());
            let found = active(&alarms).into_iter().map(|(_, detail)| detail).next();
            assert_eq!(found.as_deref(), want, "{expires:?}");
        }
        look_at_writer(&alarms, Duration::from_secs(6), now());
        assert_eq!(active(&alarms), [("spool_silent", "silent for 6 seconds".to_owned())]);
        look_at_writer(&alarms, Duration::ZERO, now());
        assert_eq!(active(&alarms), []);
    }
}
