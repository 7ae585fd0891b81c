//! The daemon's numbers and alarms, as a scraper and a postmaster meet them.

mod a_page_is_read_by_strict_readers;
mod an_alarm_is_mailed_once;
#[path = "../../../src/metrics/faults.rs"]
mod faults;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::harness::{Daemon, Setup};

/// Longest wait for an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// A daemon with these lines at the end of its config.
fn daemon_with(setup: Setup, more: &str) -> Daemon {
    let mut daemon = setup.prepare();
    let text = std::fs::read_to_string(&daemon.config).expect("the config");
    daemon.overwrite_config(&format!("{text}\n{more}"));
    daemon.start();
    daemon
}

/// Head and body of the answer to `GET PATH`.
fn get(mut stream: impl Read + Write, path: &str) -> (String, String) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("the request written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head.to_owned(), body.to_owned())
}

/// The page on the control socket.
fn scrape(daemon: &Daemon) -> (String, String) {
    let stream = UnixStream::connect(daemon.data_dir.join("control.sock")).expect("the control socket");
    stream.set_read_timeout(Some(ANSWER_LIMIT)).expect("a limit");
    get(stream, "/metrics")
}

/// The page on a TCP address.
fn scrape_tcp(address: SocketAddr, path: &str) -> (String, String) {
    let stream = TcpStream::connect(address).expect("the metrics' address");
    stream.set_read_timeout(Some(ANSWER_LIMIT)).expect("a limit");
    get(stream, path)
}

/// The value of a series, written as the page has it.
fn value(page: &str, series: &str) -> Option<f64> {
    page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}
