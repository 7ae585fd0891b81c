//! What a waiting envelope costs in memory, measured in a process of its own.

use std::process::Command;
use std::sync::Arc;

use postrider::clock::Clock;
use postrider::queue::measure;

use super::kit;

/// Waiting envelopes, each to another domain: the worst case for names.
const ENVELOPES: u64 = 100_000;
/// The promise. Unit: bytes of an envelope, in all of the queue's room.
const BYTES_MAX: u64 = 250;
/// Says to the test below that it is the process that measures.
const PROBE: &str = "POSTRIDER_MEMORY_PROBE";

#[test]
fn a_waiting_envelope_costs_at_most_250_bytes() {
    let probe = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "queue::memory::the_probe_of_memory_runs_alone", "--nocapture", "--test-threads=1"])
        .env(PROBE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&probe.stdout);
    let figure = said.lines().find_map(|line| line.split_once("bytes of an envelope: ")).map(|(_, figure)| figure);
    let bytes: u64 = figure.and_then(|figure| figure.trim().parse().ok()).unwrap_or_else(|| panic!("{said}"));
    assert!((64..=BYTES_MAX).contains(&bytes), "{bytes} bytes of an envelope");
}

#[test]
fn the_probe_of_memory_runs_alone() {
    if std::env::var_os(PROBE).is_none() {
        return;
    }
    let domains = (0..ENVELOPES).map(|number| format!("customer-{number}.example.com"));
    let rows = measure::Rows::new(Arc::new(Clock::default()));
    let sample = kit::sample_envelope();
    let before = resident();
    for (number, domain) in domains.enumerate() {
        rows.accept(&sample, number as u64 + 1, &domain);
    }
    let after = resident();
    assert_eq!(rows.len(), ENVELOPES as usize);
    println!("bytes of an envelope: {}", (after - before) / ENVELOPES);
}

/// Resident memory of this process. Unit: bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() * 1024
}
