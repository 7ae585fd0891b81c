//! The command line: what can be asked of `postrider`, and with which exit code it answers.
//!
//! Called by `main` alone. Each command has a file; those that ask a running daemon speak to its control socket.

pub mod audit;
mod check;
mod classify;
pub mod client;
pub mod credential;
pub mod dkim;
mod generate;
mod import;
mod init;
mod metrics;
mod moment;
mod postfix;
pub mod queue;
mod rates;
pub mod records;
mod report;
mod sandbox;
pub mod spool;
pub mod suppression;
pub mod trace;
pub mod traffic;
pub mod why;

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{self, Config};
use client::Daemon;

/// How a command ended, for scripts. 2 is clap's, for a wrong command line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// 0: done.
    Done = 0,
    /// 1: it failed, or what was asked about is not as it should be.
    Failed = 1,
    /// 69, EX_UNAVAILABLE: the command needs a running daemon, and none runs.
    NoDaemon = 69,
    /// 78, EX_CONFIG: the config has errors. The unit file does not restart at this.
    Config = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Postrider, a sending MTA: accepts mail durably, and sends it in the way that mailbox providers trust.
#[derive(Parser)]
#[command(name = "postrider", version, propagate_version = true, after_help = EXIT_CODES)]
struct Arguments {
    /// The config file.
    #[arg(short = 'c', long = "config", global = true, value_name = "FILE", default_value = config::PATH)]
    config: PathBuf,
    /// Print JSON instead of text.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str =
    "Exit codes: 0 done, 1 failed, 2 wrong command line, 69 no daemon runs, 78 the config has errors.";

#[derive(Subcommand)]
enum Command {
    /// Write a working config, keys and a credential, and print every DNS record to set.
    Init(init::Arguments),
    /// Take over the config of another MTA.
    #[command(subcommand)]
    Import(import::Command),
    /// Run the daemon.
    Serve,
    /// Say what is wrong with the config; with --network, with DNS and the way out too.
    Check(check::Arguments),
    /// Run a whole relay on loopback, with a peer that catches and shows what is delivered.
    Sandbox(sandbox::Arguments),
    /// Show and change what waits in the queue.
    #[command(subcommand)]
    Queue(queue::Command),
    /// Say why an envelope waits, who or what caused it, and when that ends.
    Why(why::Arguments),
    /// Say what a peer's reply means, as JSON; with --json and no reply, of each line of standard input.
    Classify(classify::Arguments),
    /// Say how bounces and complaints were read, and what they did; or read some from files.
    #[command(subcommand)]
    Report(report::Command),
    /// Show the daemon's numbers, as Prometheus reads them.
    Metrics(metrics::Arguments),
    /// Show sites and sources at a glance; stop and resume them.
    #[command(subcommand)]
    Traffic(traffic::Command),
    /// Show what share of whose mail bounces or is complained about; let who is paused go on.
    Rates(rates::Arguments),
    /// Say what happened to mail: every attempt, reply and decision, also long after it left.
    Trace(trace::Arguments),
    /// Count every limit's windows anew from event lines, and say whether all were kept.
    Audit(audit::Arguments),
    /// Make, list and revoke what clients log in with.
    #[command(subcommand)]
    Credential(credential::Command),
    /// Make DKIM keys, and print the records to publish.
    #[command(subcommand)]
    Dkim(dkim::DkimCommand),
    /// Verify, rebuild, back up and restore the spool.
    #[command(subcommand)]
    Spool(spool::Command),
    /// Show and change to whom nothing is sent.
    #[command(subcommand)]
    Suppression(suppression::Command),
    /// Write man pages and shell completions, for packages.
    #[command(subcommand, hide = true)]
    Generate(generate::Command),
}

/// What every command may need.
pub struct Context {
    /// The config's path.
    pub config: PathBuf,
    /// JSON was asked for.
    pub json: bool,
}

impl Context {
    /// Reads the config; errors are printed, one a line.
    ///
    /// # Errors
    /// The exit code.
    pub fn load(&self) -> Result<Config, Exit> {
        Config::load(&self.config).map_err(|problems| {
            eprintln!("{problems}");
            Exit::Config
        })
    }

    /// Reads the config's text alone, not the keys and certificates that it names: for an operator who may not read those.
    fn read(&self) -> anyhow::Result<Result<Config, Exit>> {
        let text = std::fs::read_to_string(&self.config).map_err(|error| match error.kind() {
            std::io::ErrorKind::PermissionDenied => {
                anyhow::anyhow!(
                    "{}: permission denied: run this as root or as the service's user",
                    self.config.display()
                )
            }
            _ => anyhow::anyhow!("{}: {error}", self.config.display()),
        })?;
        Ok(Config::parse(&text, &self.config).map_err(|problems| {
            eprintln!("{problems}");
            Exit::Config
        }))
    }

    /// Of the config, the data directory alone.
    fn data_dir(&self) -> anyhow::Result<PathBuf> {
        Ok(self.read()?.map_err(|_| anyhow::anyhow!("the config has errors"))?.data_dir)
    }

    /// What `credential` needs of the config.
    fn place(&self) -> anyhow::Result<credential::Place> {
        let config = self.read()?.map_err(|_| anyhow::anyhow!("the config has errors"))?;
        let names = config.credentials.into_iter().map(|credential| credential.name).collect();
        Ok(credential::Place { data_dir: config.data_dir, names })
    }

    /// Runs a command that asks the daemon. Of the config it needs the data directory alone.
    fn ask(
        &self,
        command: impl FnOnce(Daemon<'_>, &mut dyn Write) -> io::Result<ExitCode>,
    ) -> anyhow::Result<ExitCode> {
        let config = match self.read()? {
            Ok(config) => config,
            Err(exit) => return Ok(exit.into()),
        };
        let daemon = Daemon { data_dir: &config.data_dir, config: &self.config };
        match command(daemon, &mut io::stdout().lock()) {
            // `postrider queue list | head` is no error.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
            outcome => Ok(outcome?),
        }
    }
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().collect();
    if let Some(exit) = postfix::run(&words) {
        return exit;
    }
    let Arguments { config, json, command } = Arguments::parse();
    let context = Context { config, json };
    let outcome = match command {
        Command::Init(arguments) => init::run(&context, &arguments).map(ExitCode::from),
        Command::Import(command) => import::run(&context, &command, &mut io::stdout().lock()),
        Command::Serve => serve(&context).map(ExitCode::from),
        Command::Check(arguments) => check::run(&context, &arguments).map(ExitCode::from),
        Command::Sandbox(arguments) => sandbox::run(&arguments).map(ExitCode::from),
        Command::Queue(command) => context.ask(|daemon, out| queue::run(daemon, &command, context.json, out)),
        Command::Why(arguments) => context.ask(|daemon, out| why::run(daemon, &arguments, context.json, out)),
        Command::Classify(arguments) => classify::run(&context, &arguments).map(ExitCode::from),
        Command::Report(command) => report::run(&context, &command),
        Command::Metrics(arguments) => context.ask(|daemon, out| metrics::run(daemon, &arguments, out)),
        Command::Traffic(command) => context.ask(|daemon, out| traffic::run(daemon, &command, context.json, out)),
        Command::Rates(arguments) => context.ask(|daemon, out| rates::run(daemon, &arguments, context.json, out)),
        Command::Trace(arguments) => context.ask(|daemon, out| trace::run(daemon, &arguments, context.json, out)),
        Command::Audit(arguments) => {
            audit::run(&arguments, || context.data_dir(), context.json, &mut io::stdout().lock())
        }
        Command::Credential(command) => {
            match credential::run(&command, || context.place(), context.json, &mut io::stdout().lock()) {
                // Whose mail is held, the daemon knows.
                Ok(_) if command.asks_the_daemon(&context) => {
                    context.ask(|daemon, out| credential::hold(daemon, &command, context.json, out))
                }
                outcome => outcome,
            }
        }
        Command::Dkim(command) => dkim::run(&command, &mut io::stdout().lock()),
        Command::Suppression(command) => {
            context.ask(|daemon, out| suppression::run(daemon, &command, context.json, out))
        }
        Command::Generate(command) => generate::run(&command).map(ExitCode::from),
        Command::Spool(command) => context.ask(|daemon, out| spool::run(daemon, &command, context.json, out)),
    };
    match outcome {
        Ok(exit) => exit,
        Err(error) => {
            eprintln!("postrider: {error:#}");
            Exit::Failed.into()
        }
    }
}

fn serve(context: &Context) -> anyhow::Result<Exit> {
    match context.load() {
        Ok(config) => {
            let path = std::path::absolute(&context.config).unwrap_or_else(|_| context.config.clone());
            crate::app::serve(config, path).map(|()| Exit::Done)
        }
        Err(exit) => Ok(exit),
    }
}

/// Colours, on a terminal that wants them (https://no-color.org).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Paint {
    /// ANSI sequences.
    Colours,
    /// None: a file, a pipe, or `NO_COLOR`.
    Plain,
}

impl Paint {
    /// As standard output wants it.
    pub fn of_stdout() -> Paint {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        match wanted && std::io::stdout().is_terminal() {
            true => Paint::Colours,
            false => Paint::Plain,
        }
    }

    /// Good.
    pub fn green(self, text: &str) -> String {
        self.wrap("32", text)
    }

    /// To be looked at.
    pub fn yellow(self, text: &str) -> String {
        self.wrap("33", text)
    }

    /// Wrong.
    pub fn red(self, text: &str) -> String {
        self.wrap("31", text)
    }

    /// Beside the point.
    pub fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }

    /// A heading.
    pub fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    fn wrap(self, code: &str, text: &str) -> String {
        match self {
            Paint::Colours => format!("\x1b[{code}m{text}\x1b[0m"),
            Paint::Plain => text.to_owned(),
        }
    }
}

/// Strangers' text: nothing in it moves the cursor, and quotes within quotes are seen.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

/// Whether a file is there already, for commands that never overwrite.
fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_config_and_json_may_stand_before_or_after_the_command() {
        for line in [["postrider", "-c", "x.toml", "--json", "serve"], ["postrider", "serve", "--json", "-c", "x.toml"]]
        {
            let arguments = Arguments::try_parse_from(line).map_err(|error| error.to_string()).unwrap();
            assert_eq!((arguments.config.to_str(), arguments.json), (Some("x.toml"), true));
        }
    }
}
