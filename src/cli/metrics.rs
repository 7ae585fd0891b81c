//! `postrider metrics`: the page that Prometheus reads, for eyes and scripts.

use std::io::{self, Write};
use std::process::ExitCode;

use super::client::{Client, Daemon, conclude};

/// What is asked.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// Show only metrics whose names have this word, such as "queue" or "alarm".
    word: Option<String>,
}

/// Prints the page, in Prometheus' text format. docs/METRICS.md says what each number means.
///
/// # Errors
/// Standard output cannot be written.
pub fn run(daemon: Daemon<'_>, arguments: &Arguments, out: &mut dyn Write) -> io::Result<ExitCode> {
    match Client::new(daemon)?.ask_text("/metrics") {
        Ok(page) => {
            out.write_all(about(&page, arguments.word.as_deref().unwrap_or_default()).as_bytes())?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => Ok(conclude(Err(error))),
    }
}

/// The families whose name has a word, with their help.
fn about(page: &str, word: &str) -> String {
    let mut wanted = false;
    let mut lines = String::with_capacity(page.len());
    for line in page.lines() {
        // Each family begins with its help.
        if let Some(rest) = line.strip_prefix("# HELP ") {
            wanted = rest.split(' ').next().is_some_and(|name| name.contains(word));
        }
        if wanted {
            lines.push_str(line);
            lines.push('\n');
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_chooses_whole_families_by_their_names() {
        let page = "# HELP a_queue x alarm\n# TYPE a_queue gauge\na_queue{b=\"alarm\"} 1\n\
                    # HELP an_alarm y\n# TYPE an_alarm gauge\nan_alarm 0\n";
        assert_eq!(about(page, ""), page);
        assert_eq!(about(page, "alarm"), "# HELP an_alarm y\n# TYPE an_alarm gauge\nan_alarm 0\n");
        assert_eq!(about(page, "queues"), "");
    }
}
