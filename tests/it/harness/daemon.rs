//! `postrider serve -c FILE` as a process: its config, its start, its signals, its end.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use argon2::Argon2;
use argon2::password_hash::{PasswordHasher as _, SaltString};
use tempfile::TempDir;

use super::certificate::Authority;
use super::client::Client;
use super::port;

/// The one credential of the config.
pub const USER: &str = "shop";
/// Its password.
pub const PASSWORD: &str = "correct horse battery staple";

/// Longest start. An unclean one on a slow machine included.
const START_LIMIT: Duration = Duration::from_secs(60);

/// What a config is made of.
pub struct Setup {
    next_hop: SocketAddr,
    tls: bool,
    data_dir: Option<PathBuf>,
    launcher: Vec<String>,
    route: String,
    way_out: Option<String>,
    postmaster: &'static str,
}

impl Setup {
    /// Everything goes to this peer.
    pub fn relaying_to(next_hop: SocketAddr) -> Setup {
        Setup {
            next_hop,
            tls: false,
            data_dir: None,
            launcher: Vec::new(),
            route: String::new(),
            way_out: None,
            postmaster: "",
        }
    }

    /// With a certificate, and a `submissions` listener.
    pub fn with_tls(mut self) -> Setup {
        self.tls = true;
        self
    }

    /// With the data directory elsewhere than in the test's own directory.
    pub fn with_data_dir(mut self, path: &Path) -> Setup {
        self.data_dir = Some(path.to_owned());
        self
    }

    /// With further keys of the route to the peer, a line each.
    pub fn with_route(mut self, keys: &str) -> Setup {
        self.route = keys.to_owned();
        self
    }

    /// With this text in place of `[[route]]` and `[delivery]`.
    pub fn with_way_out(mut self, text: &str) -> Setup {
        self.way_out = Some(text.to_owned());
        self
    }

    /// With a postmaster, `ops@example.com`. Without one alarms are logged alone, so that a slow disk under a test adds no
    /// mail to it.
    pub fn with_postmaster(mut self) -> Setup {
        self.postmaster = "postmaster = \"ops@example.com\"\n";
        self
    }

    /// Started through another command, which must `exec` what follows it.
    pub fn launched_by(mut self, argv: &[&str]) -> Setup {
        self.launcher = argv.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Writes the config; the daemon is not started yet.
    pub fn prepare(self) -> Daemon {
        let directory = tempfile::Builder::new().prefix("postrider-test-").tempdir().expect("a temporary directory");
        let authority = self.tls.then(|| Authority::issue(directory.path(), "relay.example.com"));
        let daemon = Daemon {
            data_dir: self.data_dir.unwrap_or_else(|| directory.path().join("data")),
            config: directory.path().join("postrider.toml"),
            smtp: local(port::free()),
            submission: local(port::free()),
            submissions: local(port::free()),
            launcher: self.launcher,
            route: self.route,
            way_out: self.way_out,
            postmaster: self.postmaster,
            next_hop: self.next_hop,
            authority,
            directory,
            process: None,
        };
        daemon.write_config();
        daemon
    }

    /// Writes the config and starts the daemon.
    pub fn start(self) -> Daemon {
        let mut daemon = self.prepare();
        daemon.start();
        daemon
    }
}

/// The daemon, running or not. Killed when dropped.
pub struct Daemon {
    /// Mode `smtp`; loopback may relay.
    pub smtp: SocketAddr,
    /// Mode `submission`.
    pub submission: SocketAddr,
    /// Mode `submissions`; only with TLS.
    pub submissions: SocketAddr,
    /// Where its spool and its index are.
    pub data_dir: PathBuf,
    /// Its config file.
    pub config: PathBuf,
    directory: TempDir,
    next_hop: SocketAddr,
    route: String,
    way_out: Option<String>,
    postmaster: &'static str,
    launcher: Vec<String>,
    authority: Option<Authority>,
    process: Option<Child>,
}

impl Daemon {
    fn write_config(&self) {
        let (directory, data_dir) = (self.directory.path().display(), self.data_dir.display());
        let postmaster = self.postmaster;
        let mut text = format!("hostname = \"relay.example.com\"\ndata_dir = \"{data_dir}\"\n{postmaster}");
        if self.authority.is_some() {
            let paths =
                format!("certificate = \"{directory}/fullchain.pem\"\nprivate_key = \"{directory}/privkey.pem\"");
            text += &format!("[tls]\n{paths}\n[[listener]]\nbind = \"{}\"\nmode = \"submissions\"\n", self.submissions);
        }
        text += &format!(
            "[[listener]]\nbind = \"{}\"\nmode = \"submission\"\n\
             [[listener]]\nbind = \"{}\"\nmode = \"smtp\"\ntrusted_networks = [\"127.0.0.0/8\"]\nstream = \"transactional\"\n\
             [[credential]]\nname = \"{USER}\"\npassword_hash = \"{}\"\nstream = \"transactional\"\n\
             from_domains = [\"example.com\"]\n\
             [[sending_domain]]\nname = \"example.com\"\n",
            self.submission,
            self.smtp,
            password_hash(),
        );
        text += &self.way_out.clone().unwrap_or_else(|| {
            format!(
                "[[route]]\nrecipient_domain = \"*\"\nnext_hop = [\"{}\"]\nconnection_limit = 8\n{}\n\
                 [delivery]\nallow_private_peers = true\n",
                self.next_hop, self.route
            )
        });
        write_secret(&self.config, &text);
    }

    /// Replaces the config by this text.
    pub fn overwrite_config(&self, text: &str) {
        write_secret(&self.config, text);
    }

    /// A client's TLS settings that trust the daemon's certificate.
    pub fn client_tls(&self) -> Arc<rustls::ClientConfig> {
        self.authority.as_ref().expect("a daemon with TLS").client_config()
    }

    /// Starts the daemon and waits until it greets.
    pub fn start(&mut self) {
        self.spawn();
        if let Err(trouble) = self.wait_until_ready(START_LIMIT) {
            panic!("{trouble}; its log:\n{}", self.log());
        }
    }

    /// Starts the daemon and waits for nothing.
    pub fn spawn(&mut self) {
        assert!(self.process.is_none(), "one daemon at a time");
        let log = OpenOptions::new().create(true).append(true).open(self.log_path()).expect("the log file");
        let mut command = self.command();
        command.args(["serve", "-c"]).arg(&self.config).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("the log file")).stderr(log);
        // Not under a service manager, even if the tests are.
        command.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC");
        self.process = Some(command.spawn().expect("the daemon's process"));
    }

    /// Waits until the daemon greets, or says why it does not.
    pub fn wait_until_ready(&mut self, limit: Duration) -> Result<(), String> {
        let deadline = Instant::now() + limit;
        loop {
            if let Ok(mut client) = Client::connect(self.smtp) {
                let _ = client.command("QUIT");
                return Ok(());
            }
            let process = self.process.as_mut().expect("a started daemon");
            if let Ok(Some(status)) = process.try_wait() {
                self.process = None;
                return Err(format!("the daemon ended with {status}"));
            }
            if Instant::now() > deadline {
                return Err(format!("no greeting within {limit:?}"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("a running daemon").id()
    }

    /// Whether the process lives.
    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| matches!(process.try_wait(), Ok(None)))
    }

    /// `kill -9`, and waits for the end.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Sends a signal by name.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(rustix::process::Pid::from_raw).expect("a process id");
        rustix::process::kill_process(pid, signal).expect("the signal sent");
    }

    /// SIGTERM, and waits: how it ended and how long that took. Kills it after the limit.
    pub fn terminate(&mut self, limit: Duration) -> Option<(ExitStatus, Duration)> {
        let start = Instant::now();
        self.signal(rustix::process::Signal::TERM);
        let mut process = self.process.take().expect("a running daemon");
        while start.elapsed() < limit {
            if let Ok(Some(status)) = process.try_wait() {
                return Some((status, start.elapsed()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = process.kill();
        let _ = process.wait();
        None
    }

    /// Another command of the same binary on the same config: `queue`, `spool`, …
    pub fn run(&self, arguments: &[&str]) -> std::process::Output {
        let mut command = self.command();
        command.args(arguments).arg("-c").arg(&self.config).stdin(Stdio::null());
        command.output().expect("the command's process")
    }

    /// Makes everything that waits due now, whatever it waits for.
    pub fn retry_all(&self) {
        let output = self.run(&["queue", "retry", "--all"]);
        // 1 says that some could not be ordered about, those being attempted this moment; more is no daemon or no config.
        let code = output.status.code();
        assert!(matches!(code, Some(0 | 1)), "queue retry --all: {code:?} {}", String::from_utf8_lossy(&output.stderr));
    }

    /// The end of what the daemon wrote to stdout and stderr in all its runs.
    pub fn log(&self) -> String {
        // Some lines wait 10 ms for others, and their thread for its turn on a busy machine.
        std::thread::sleep(Duration::from_millis(60));
        let text = self.log_now();
        let tail = text.len().saturating_sub(20_000);
        String::from_utf8_lossy(text.get(tail..).unwrap_or_default()).into_owned()
    }

    /// All of what is in the log at this moment.
    pub fn log_now(&self) -> Vec<u8> {
        fs::read(self.log_path()).unwrap_or_default()
    }

    /// The binary, behind its launcher if there is one.
    fn command(&self) -> Command {
        let binary = env!("CARGO_BIN_EXE_postrider");
        match self.launcher.split_first() {
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(binary);
                command
            }
            None => Command::new(binary),
        }
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("daemon.log")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.log());
        }
    }
}

/// Writes a file that only its owner can read, as the daemon demands of secrets.
pub fn write_secret(path: &Path, text: &str) {
    let _ = fs::remove_file(path);
    let file: std::io::Result<File> = OpenOptions::new().create_new(true).write(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// The hash of [`PASSWORD`], made once: argon2id is slow by design.
fn password_hash() -> &'static str {
    static HASH: OnceLock<String> = OnceLock::new();
    HASH.get_or_init(|| {
        let salt = SaltString::encode_b64(b"a test's own salt").expect("a salt");
        Argon2::default().hash_password(PASSWORD.as_bytes(), &salt).expect("a hash").to_string()
    })
}
