//! The config: one TOML file, read whole, judged whole, and every error with its line, value and what would be right.
//!
//! Called by the roof (`app`, `cli`), which fills the rooms' settings from it. It never starts anything, and reads no
//! file but the config and, to see whether the daemon could, the keys and certificates that it names.

mod error;
mod file;
mod inbound;
pub mod layers;
mod local;
mod outbound;
mod pattern;
mod place;
mod replies;
mod secrets;
mod sendmail;
mod tables;
#[cfg(test)]
mod tests;
pub mod units;
mod unsubscribe;
mod verify;
mod warmup;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

pub use error::{Problem, Problems};
pub use inbound::{Credential, Limits, Listener, Mode, Over, Received, Suppressed, Tls};
pub use local::{Local, Rewrite, TableKind, TableName, Unknown};
pub use outbound::{
    Delivery, DkimKey, Dns, Named, Pool, RecipientDomain, Retry, Route, SendingDomain, Site, Source, Stream,
};
pub use pattern::{DomainPattern, Member, NextHop, RecipientPattern, SenderPattern, TlsPolicy};
pub use replies::read_rules;
pub use secrets::private;
pub use sendmail::Sendmail;
pub use tables::rewriting;
pub use unsubscribe::Unsubscribe;
pub use warmup::Warmup;

use crate::mail::{Address, Domain};
use file::{File, Providers};
use layers::Lines;
use place::Places;

/// Where the config is without `-c`.
pub const PATH: &str = "/etc/postrider/postrider.toml";
/// Where the spool is without `data_dir`.
pub const DATA_DIR: &str = "/var/lib/postrider";
/// The name of the pool and the source that exist without a line in the config.
pub const DEFAULT: &str = "default";
/// The stream of credentials that name none, and of trusted networks.
pub const STREAM_TRANSACTIONAL: &str = "transactional";
/// The other stream that exists without a line in the config.
pub const STREAM_MARKETING: &str = "marketing";
/// The providers that are known without a file of the user's.
const PROVIDERS: &str = include_str!("../../conf/providers.toml");
/// How they are named where the place of a value is told.
const PROVIDERS_NAME: &str = "providers.toml";
/// Largest config file that is read.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Everything the daemon is told, with every default filled in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// What we call ourselves: EHLO, banner, Received, Message-ID.
    pub hostname: Domain,
    /// The spool, the index and the control socket.
    pub data_dir: PathBuf,
    /// Who hears of trouble that no sender can be told of.
    pub postmaster: Option<Address>,
    /// The operator's own rules about replies, which go before ours (docs/REPLIES.md).
    pub replies: Option<PathBuf>,
    /// The certificate for STARTTLS and `submissions`.
    pub tls: Option<Tls>,
    /// One or more.
    pub listeners: Vec<Listener>,
    /// One or more.
    pub credentials: Vec<Credential>,
    /// `transactional` and `marketing` are always among them.
    pub streams: Named<Stream>,
    /// `default` is always among them.
    pub pools: Named<Pool>,
    /// One or more.
    pub sources: Named<Source>,
    /// Curves of warming sources: those of the file over those that are compiled in.
    pub warmups: Named<Warmup>,
    /// One or more.
    pub sending_domains: Vec<SendingDomain>,
    /// In the file's order.
    pub routes: Vec<Route>,
    /// In the file's order.
    pub sites: Vec<Site>,
    /// In the file's order.
    pub recipient_domains: Vec<RecipientDomain>,
    /// The file of providers that takes the place of the built-in one.
    pub providers_file: Option<PathBuf>,
    /// The providers that are known, in their file's order.
    pub providers: Vec<Site>,
    /// Where the keys of the file stand.
    pub lines: Lines,
    /// Where those of the providers' file stand.
    pub provider_lines: Lines,
    /// What clients may ask of us.
    pub limits: Limits,
    /// Connections to peers.
    pub delivery: Delivery,
    /// When again.
    pub retry: Retry,
    /// Resolvers.
    pub dns: Dns,
    /// What happened, and how long that is known.
    pub history: History,
    /// When mail does harm, and what is done about it.
    pub harm: Harm,
    /// What this host's own names mean.
    pub local: Local,
    /// What is done to addresses and headers.
    pub rewrite: Rewrite,
    /// Logging.
    pub log: Log,
    /// Where Prometheus may ask.
    pub metrics: Metrics,
    /// One-click unsubscribe.
    pub unsubscribe: Unsubscribe,
    /// What local users may do.
    pub sendmail: Sendmail,
}

/// Where metrics are offered besides the control socket.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// `/metrics` over HTTP, for everybody who can connect. Default: nowhere.
    #[serde(deserialize_with = "units::some_parsed")]
    pub bind: Option<SocketAddr>,
}

/// When mail does harm, and what is done about it.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Harm {
    /// Share of complaints at which a person is told.
    #[serde(deserialize_with = "units::parsed")]
    pub complaint_warn: units::Share,
    /// Share of complaints that pauses a sender.
    #[serde(deserialize_with = "units::parsed")]
    pub complaint_pause: units::Share,
    /// Deliveries that a share of complaints is taken of, at least. 1 to 1,000,000.
    pub complaint_volume: u64,
    /// Providers that send reports of complaints.
    pub complaint_providers: Vec<String>,
    /// Who complained gets no transactional mail either.
    pub complaint_stops_transactional: bool,
    /// Share of recipients that do not exist that pauses a sender.
    #[serde(deserialize_with = "units::parsed")]
    pub bounce_pause: units::Share,
    /// Recipients that this share is taken of, at least. 1 to 1,000,000.
    pub bounce_volume: u64,
    /// Share of strangers that suspends a credential.
    #[serde(deserialize_with = "units::parsed")]
    pub login_storm: units::Share,
    /// Such strangers within an hour, at least. 1 to 1,000,000.
    pub login_storm_volume: u64,
    /// Addresses whose deliveries are remembered. 65,536 to 268,435,456.
    pub remembered_addresses: u64,
}

impl Default for Harm {
    fn default() -> Harm {
        let names = ["yahoo", "outlook", "comcast", "fastmail", "zoho", "mail.ru", "yandex", "seznam", "laposte"];
        Harm {
            complaint_warn: units::Share(1_000),
            complaint_pause: units::Share(3_000),
            complaint_volume: 1_000,
            complaint_providers: names.map(str::to_owned).into(),
            complaint_stops_transactional: false,
            bounce_pause: units::Share(100_000),
            bounce_volume: 200,
            login_storm: units::Share(300_000),
            login_storm_volume: 100,
            remembered_addresses: 16_777_216,
        }
    }
}

/// How long it is known what happened.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct History {
    /// What `trace` knows. 1d to 3650d, default 30d; whole days.
    #[serde(deserialize_with = "units::duration")]
    pub keep: Duration,
    /// Event lines, which `audit` reads. 0s to 3650d, default 7d; 0s: none are written.
    #[serde(deserialize_with = "units::duration")]
    pub keep_events: Duration,
}

impl Default for History {
    fn default() -> Self {
        let days = |days: u64| Duration::from_secs(days * 86_400);
        History { keep: days(30), keep_events: days(7) }
    }
}

/// What is logged, and how.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// Default info: one line for each message that changed state.
    pub level: Level,
    /// Default text.
    pub format: LogFormat,
    /// A log as Postfix writes it, beside this one: `off`, `syslog`, `journal`, or a file's absolute path.
    pub classic: Classic,
}

impl Default for Log {
    fn default() -> Self {
        Log { level: Level::Info, format: LogFormat::Text, classic: Classic::Off }
    }
}

/// From which weight on lines are logged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// We broke a promise.
    Error,
    /// An operator should look today.
    Warn,
    /// A message changed state.
    Info,
    /// Every command and reply.
    Debug,
    /// What only a developer asks for.
    Trace,
}

impl Level {
    /// The word in the config, and the filter directive.
    pub fn name(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
            Level::Trace => "trace",
        }
    }
}

/// Where the classic log goes.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "String")]
pub enum Classic {
    /// Nowhere.
    Off,
    /// `/dev/log`.
    Syslog,
    /// systemd's journal.
    Journal,
    /// A file.
    File(PathBuf),
}

impl TryFrom<String> for Classic {
    type Error = String;

    fn try_from(text: String) -> Result<Classic, String> {
        match text.as_str() {
            "off" => Ok(Classic::Off),
            "syslog" => Ok(Classic::Syslog),
            "journal" => Ok(Classic::Journal),
            path if path.starts_with('/') => Ok(Classic::File(path.into())),
            other => Err(format!("{other:?} is none of \"off\", \"syslog\", \"journal\", and no absolute path")),
        }
    }
}

/// The shape of a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For eyes.
    Text,
    /// One JSON object a line.
    Json,
}

impl Config {
    /// Reads a config, and looks whether the files that it names can be read by this process and by no stranger.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn load(path: &Path) -> Result<Config, Problems> {
        let text = secrets::read_config(path, FILE_BYTES_MAX).map_err(alone)?;
        let mut config = assemble(&text, path)?;
        config.anchor_paths(path);
        match &config.providers_file {
            Some(file) => {
                let text = secrets::read_config(file, FILE_BYTES_MAX).map_err(alone)?;
                let file = file.clone();
                config.know_providers(&text, &file)?;
            }
            None => config.know_providers(PROVIDERS, Path::new(PROVIDERS_NAME))?,
        }
        let mut problems = verify::problems(&config, path);
        if problems.is_empty() {
            problems = secrets::problems(&config, path, config.lines.places());
            problems.extend(replies::problems(&config, path, config.lines.places()));
            problems.extend(tables::problems(&config, path, config.lines.places()));
        }
        match problems.is_empty() {
            true => Ok(config),
            false => Err(Problems(problems)),
        }
    }

    /// Reads a config from a text; `path` is only named in errors. Touches no disk: a file of providers that the text
    /// names is not read, and there are none then.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn parse(text: &str, path: &Path) -> Result<Config, Problems> {
        let mut config = assemble(text, path)?;
        if config.providers_file.is_none() {
            config.know_providers(PROVIDERS, Path::new(PROVIDERS_NAME))?;
        }
        let problems = verify::problems(&config, path);
        match problems.is_empty() {
            true => Ok(config),
            false => Err(Problems(problems)),
        }
    }

    /// Takes in a file of providers.
    fn know_providers(&mut self, text: &str, path: &Path) -> Result<(), Problems> {
        let table = toml::de::DeTable::parse(text).map_err(|error| alone(Problem::of_syntax(path, text, &error)))?;
        let places = Places::of(text, table.get_ref());
        let file: Providers = toml::from_str(text).map_err(|error| alone(Problem::of_value(path, &places, &error)))?;
        self.providers = file.provider;
        self.provider_lines = Lines::new(path, places);
        let problems = verify::provider_problems(self, path);
        if problems.is_empty() { Ok(()) } else { Err(Problems(problems)) }
    }

    /// What is allowed, and still likely to be regretted. One sentence each.
    pub fn warnings(&self) -> Vec<String> {
        verify::warnings(self)
    }

    /// The longest-matching sending domain of a domain: whose keys sign for it.
    pub fn sending_domain(&self, domain: &Domain) -> Option<&SendingDomain> {
        let covering = self.sending_domains.iter().filter(|sending| domain.is_within(&sending.name));
        covering.max_by_key(|sending| sending.name.as_str().len())
    }

    /// Makes paths that the file gives relative start at the file's directory, and takes what systemd handed over for
    /// files that this process may not read.
    fn anchor_paths(&mut self, path: &Path) {
        let base = path.parent().unwrap_or(Path::new(""));
        let anchor = |path: &mut PathBuf| *path = secrets::handed_over(base.join(&path));
        self.replies.iter_mut().for_each(anchor);
        if let Some(tls) = &mut self.tls {
            anchor(&mut tls.certificate);
            anchor(&mut tls.private_key);
        }
        self.sending_domains.iter_mut().flat_map(|sending| &mut sending.dkim).for_each(|dkim| anchor(&mut dkim.key));
        self.routes.iter_mut().filter_map(|route| route.password_file.as_mut()).for_each(anchor);
        self.routes.iter_mut().filter_map(|route| route.ca_file.as_mut()).for_each(anchor);
        self.delivery.ca_file.iter_mut().for_each(anchor);
        self.local.aliases.iter_mut().for_each(anchor);
        self.rewrite.tables_mut().for_each(|table| table.anchor(base));
        self.providers_file.iter_mut().for_each(anchor);
    }
}

fn alone(problem: Problem) -> Problems {
    Problems(vec![problem])
}

/// A config whose single values are sound, without providers.
fn assemble(text: &str, path: &Path) -> Result<Config, Problems> {
    let table = toml::de::DeTable::parse(text).map_err(|error| alone(Problem::of_syntax(path, text, &error)))?;
    let places = Places::of(text, table.get_ref());
    let file: File = toml::from_str(text).map_err(|error| alone(Problem::of_value(path, &places, &error)))?;
    let mut config = file.complete().map_err(|streams| {
        let right = "a stream of this name needs `kind = \"transactional\"` or `kind = \"marketing\"`";
        let problem = |name: &String| Problem::at(path, places.of_key(&format!("stream.{name}")), right);
        Problems(streams.iter().map(problem).collect())
    })?;
    config.lines = Lines::new(path, places);
    Ok(config)
}
