//! All numbers of the daemon on one page, for Prometheus. Asked by `http` at each scrape; it changes nothing.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::accept::Door;
use crate::clock::Clock;
use crate::http::Scrape;
use crate::metrics::{Metric, Page};
use crate::queue::Queue;
use crate::rates::{Scope, Span};
use crate::scheduler::Handle;
use crate::spool::Stats;
use crate::submission::Meter;
use crate::time::Timestamp;
use crate::tls::server::ServerTls;

/// The rooms that are asked. Cheap to clone.
#[derive(Clone)]
pub(super) struct House {
    pub(super) queue: Queue,
    pub(super) door: Door,
    pub(super) scheduler: Handle,
    pub(super) clients: Meter,
    pub(super) tls: Option<ServerTls>,
    pub(super) clock: Arc<Clock>,
    pub(super) started: Timestamp,
    /// Envelopes that nothing would ever happen to, as counted last.
    pub(super) stranded: Arc<AtomicU64>,
}

impl House {
    /// The page of this moment.
    pub(super) async fn page(&self) -> Page {
        let mut page = Page::default();
        self.door.events().write(&mut page);
        self.door.alarms().write(&mut page, self.clock.now());
        self.clients.write(&mut page);
        self.scheduler.write(&mut page).await;
        self.queue.census().await.write(&mut page);
        page.count(Metric::QueueNoNextEvent, &[], self.stranded.load(Ordering::Relaxed));
        let (used, failures) = self.queue.index_health();
        page.count(Metric::IndexHealthy, &[], u64::from(used));
        page.count(Metric::IndexFailures, &[], failures);
        self.write_spool(&mut page);
        self.write_harm(&mut page);
        if let Some(list) = self.door.suppressions() {
            let figures = list.figures();
            page.count(Metric::SuppressionRecords, &["files"], figures.in_files);
            page.count(Metric::SuppressionRecords, &["memory"], figures.in_memory);
            page.count(Metric::SuppressionDamaged, &[], figures.damaged);
        }
        if let Some(expiry) = self.tls.as_ref().and_then(ServerTls::expires_at) {
            page.count(Metric::CertificateExpiry, &[], expiry.as_secs());
        }
        page.put(Metric::ProcessStart, &[], self.started.as_millis() as f64 / 1000.0);
        page.count(Metric::BuildInfo, &[env!("CARGO_PKG_VERSION")], 1);
        write_process(&mut page, Path::new("/proc/self"));
        page
    }

    fn write_harm(&self, page: &mut Page) {
        let (harm, now) = (self.door.harm(), self.clock.now());
        page.count(Metric::PausedNow, &["sender"], harm.pauses().len() as u64);
        page.count(Metric::PausedNow, &["credential"], harm.suspensions().len() as u64);
        page.count(Metric::Storms, &[], harm.storms().len() as u64);
        for (span, what) in [(Span::Day, "bounced"), (Span::Week, "complained")] {
            for (scope, counts) in harm.counts(span, now) {
                let (share, of) = match span {
                    Span::Week => counts.complaint_share(),
                    Span::Hour | Span::Day => counts.bounce_share(),
                };
                let is_config = matches!(scope, Scope::Stream(_) | Scope::Source(_));
                if is_config && of > 0 {
                    page.put(Metric::RateShare, &[scope.kind(), &scope.name(), what], share);
                }
            }
        }
    }

    /// For `http`.
    pub(super) fn scrape(&self) -> Scrape {
        let house = self.clone();
        Arc::new(move || {
            let house = house.clone();
            Box::pin(async move { house.page().await })
        })
    }

    fn write_spool(&self, page: &mut Page) {
        let spool = self.queue.spool();
        let Stats {
            live: _,
            live_bytes,
            mail_bytes,
            free_bytes,
            total_bytes,
            mail_segments,
            state_segments,
            spares,
            syncs,
            sync_time,
            slow_syncs,
            records,
            moved,
            quarantined,
            refused_full,
        } = spool.stats();
        for (metric, value) in [
            (Metric::SpoolMailBytes, mail_bytes),
            (Metric::SpoolLiveBytes, live_bytes),
            (Metric::SpoolFreeBytes, free_bytes),
            (Metric::SpoolTotalBytes, total_bytes),
            (Metric::SpoolSpares, spares),
            (Metric::SpoolFull, u64::from(spool.is_full())),
            (Metric::SpoolRecords, records),
            (Metric::SpoolSyncs, syncs),
            (Metric::SpoolSlowSyncs, slow_syncs),
            (Metric::SpoolMoved, moved),
            (Metric::SpoolQuarantined, quarantined),
            (Metric::SpoolRefused, refused_full),
        ] {
            page.count(metric, &[], value);
        }
        page.count(Metric::SpoolSegments, &["mail"], mail_segments);
        page.count(Metric::SpoolSegments, &["state"], state_segments);
        page.put(Metric::SpoolSyncTime, &[], sync_time.as_secs_f64());
        page.put(Metric::SpoolSilence, &[], spool.writer_silence().as_secs_f64());
    }
}

/// What the kernel says of this process (proc(5)); what it does not say is left out.
fn write_process(page: &mut Page, proc: &Path) {
    let text = |name: &str| std::fs::read_to_string(proc.join(name)).unwrap_or_default();
    if let Some(kilobytes) = number_of(&text("status"), "VmRSS:") {
        page.count(Metric::ProcessMemory, &[], kilobytes.saturating_mul(1024));
    }
    if let Ok(files) = std::fs::read_dir(proc.join("fd")) {
        page.count(Metric::ProcessFiles, &[], files.count() as u64);
    }
    if let Some(most) = number_of(&text("limits"), "Max open files") {
        page.count(Metric::ProcessFilesMax, &[], most);
    }
}

/// The first number behind a label at the beginning of a line.
fn number_of(text: &str, label: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(label))?;
    rest.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_of_a_process_is_read_and_what_it_does_not_say_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let written = |dir: &Path| {
            let mut page = Page::default();
            write_process(&mut page, dir);
            page.text()
        };
        assert_eq!(written(dir.path()), "");
        std::fs::write(dir.path().join("status"), "Name:\tpostrider\nVmHWM:\t    9 kB\nVmRSS:\t   17204 kB\n").unwrap();
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max open files            65536                524288               files     \n";
        std::fs::write(dir.path().join("limits"), limits).unwrap();
        std::fs::create_dir(dir.path().join("fd")).unwrap();
        std::fs::write(dir.path().join("fd/3"), "").unwrap();
        let text = written(dir.path());
        for line in ["process_resident_memory_bytes 17616896", "process_open_fds 1", "process_max_fds 65536"] {
            assert!(text.contains(&format!("\n{line}\n")), "{line}\n{text}");
        }
        std::fs::write(dir.path().join("limits"), "Max open files            unlimited  unlimited  files\n").unwrap();
        assert!(!written(dir.path()).contains("process_max_fds"));
    }
}
