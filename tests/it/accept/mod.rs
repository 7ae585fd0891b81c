//! Scenarios of accept: what messages look like, seen through other people's programs where those are installed.

mod a_report_is_read_by_pythons_email;
mod a_signature_is_verified_by_opendkim;
mod malicious_structure_costs_no_more_than_its_length;
mod no_reader_finds_an_author_that_we_did_not;

use std::io::Write as _;
use std::process::{Command, Stdio};

/// Runs a program with `input` on its standard input; `None` where it is not installed.
fn run(program: &str, arguments: &[&str], input: &[u8]) -> Option<(bool, String)> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .ok()?;
    // A program that ends before it read all is judged by its status.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(input));
    let output = child.wait_with_output().ok()?;
    let told = [output.stdout, output.stderr].concat();
    Some((output.status.success(), String::from_utf8_lossy(&told).into_owned()))
}
