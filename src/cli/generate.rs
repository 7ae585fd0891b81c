//! `postrider generate`: man pages and completions, from the definitions that `--help` prints. For packages.

use std::io;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::CommandFactory;

use super::{Arguments, Exit};

/// What to write.
#[derive(clap::Subcommand)]
pub enum Command {
    /// A page for each command, in DIRECTORY/man1 and man8.
    Man {
        /// Where to.
        directory: PathBuf,
    },
    /// A shell's completions, to standard output.
    Completions {
        /// For which.
        shell: clap_complete::Shell,
    },
}

/// Runs the command.
///
/// # Errors
/// A file cannot be written.
pub fn run(command: &Command) -> anyhow::Result<Exit> {
    match command {
        Command::Man { directory } => {
            // Commands of an operator are section 8: hier of man-pages(7).
            let section = directory.join("man8");
            std::fs::create_dir_all(&section).with_context(|| section.display().to_string())?;
            let mut command = Arguments::command();
            // Gives each its whole name.
            command.build();
            pages(&command, "", &section)?;
        }
        Command::Completions { shell } => {
            clap_complete::generate(*shell, &mut Arguments::command(), "postrider", &mut io::stdout());
        }
    }
    Ok(Exit::Done)
}

/// Writes the page of a command, and of all below it that are shown.
fn pages(command: &clap::Command, above: &str, directory: &std::path::Path) -> anyhow::Result<()> {
    let name = match above {
        "" => command.get_name().to_owned(),
        above => format!("{above}-{}", command.get_name()),
    };
    let path = directory.join(format!("{name}.8"));
    let page = clap_mangen::Man::new(command.clone()).title(name.clone()).section("8");
    let mut text = Vec::new();
    page.render(&mut text)?;
    std::fs::write(&path, text).with_context(|| path.display().to_string())?;
    command.get_subcommands().filter(|below| !below.is_hide_set()).try_for_each(|below| pages(below, &name, directory))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_that_says_what_help_says() {
        let directory = tempfile::tempdir().unwrap();
        run(&Command::Man { directory: directory.path().to_owned() }).unwrap();
        let page = |name: &str| std::fs::read_to_string(directory.path().join("man8").join(name)).unwrap();
        assert!(page("postrider.8").contains("Exit codes: 0 done"));
        assert!(page("postrider-queue-hold.8").contains("postrider queue hold"));
        let command = Arguments::command();
        for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
            let text = page(&format!("postrider-{}.8", below.get_name()));
            let about = below.get_about().map(ToString::to_string).unwrap_or_default();
            let first = about.split([',', '-', '.', '\'']).next().unwrap_or_default();
            assert!(text.contains(first), "{}: {text}", below.get_name());
        }
        assert!(!directory.path().join("man8/postrider-generate.8").exists());
    }
}
