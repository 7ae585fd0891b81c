//! `postrider traffic`: sites and sources at a glance, where their limits come from, and orders to stop and to go on.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::Paint;
use super::client::{Client, ClientError, Daemon, conclude, path_with_query};
use super::moment::{self, Now};
use crate::config::units::show_duration;
use crate::http::shapes::{
    ByKind, Explained, ExplainedValue, RateUse, ResumeRequest, Said, Site, SiteSource, Source, SuspendRequest,
    Suspended, Warmup, WarmupRequest,
};

/// Longest wait for an order: it is written to the disk.
const ORDER_WITHIN: Duration = Duration::from_secs(60);

/// Show sites and sources at a glance; stop and resume them.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List sites, the one in most trouble first: queue, connections, rate, deferrals, state and reason, by source.
    Sites(Sites),
    /// List sources: address, pools, queue, connections, state.
    Sources,
    /// Show how far each warming source is at each provider, what comes next and why; or order it about.
    Warmup(WarmupCommand),
    /// Send nothing to a site until it is resumed, over restarts too.
    Suspend(Suspend),
    /// Undo `suspend`, or `drain` with --source alone.
    Resume(Resume),
    /// Send nothing more over a source; what is being sent ends. Undone by `resume --source`.
    Drain(Drain),
}

/// `traffic sites`.
#[derive(Debug, Args)]
pub struct Sites {
    /// Only sites whose name, provider or hosts contain this text.
    #[arg(value_name = "FILTER")]
    filter: Option<String>,
    /// Those too where nothing waits, nothing is connected and nothing is wrong.
    #[arg(long)]
    all: bool,
    /// Print every limit of one site, and the line it comes from: a rule's name, a host, a recipient domain, or `other`.
    #[arg(long, value_name = "SITE", conflicts_with_all = ["filter", "all"])]
    explain: Option<String>,
}

/// `traffic warmup`.
#[derive(Debug, Args)]
pub struct WarmupCommand {
    #[command(subcommand)]
    order: Option<WarmupOrder>,
}

/// Orders to a ladder.
#[derive(Debug, Subcommand)]
pub enum WarmupOrder {
    /// Go to a stage, today.
    Set {
        #[command(flatten)]
        ladder: LadderName,
        /// Counted from 1.
        #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
        stage: u16,
    },
    /// Go to the next stage, today.
    Skip(LadderName),
    /// Keep the stage, however well days go.
    Hold(LadderName),
    /// Climb again; ends a freeze too.
    Resume(LadderName),
}

/// Which ladder.
#[derive(Debug, Args)]
pub struct LadderName {
    /// The source.
    #[arg(value_name = "SOURCE")]
    source: String,
    /// The provider. Absent: all at which the source is in use.
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
}

/// `traffic suspend`.
#[derive(Debug, Args)]
pub struct Suspend {
    /// A provider or [[site]] by name, or a host of another site.
    #[arg(value_name = "SITE")]
    site: String,
    /// Over this source alone.
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// For this long: 30m, 2h, 1d. Absent: until it is resumed.
    #[arg(long = "for", value_name = "TIME", value_parser = moment::parse_age)]
    within: Option<Duration>,
}

/// `traffic resume`.
#[derive(Debug, Args)]
pub struct Resume {
    /// The site, as it was suspended.
    #[arg(value_name = "SITE", required_unless_present = "source")]
    site: Option<String>,
    /// The source, at that site or (without SITE) everywhere.
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
}

/// `traffic drain`.
#[derive(Debug, Args)]
pub struct Drain {
    /// The source.
    #[arg(value_name = "SOURCE")]
    source: String,
    /// For this long. Absent: until it is resumed.
    #[arg(long = "for", value_name = "TIME", value_parser = moment::parse_age)]
    within: Option<Duration>,
}

/// Runs `postrider traffic …`, and prints what came of it.
///
/// # Errors
/// Standard output is closed.
pub fn run(daemon: Daemon<'_>, command: &Command, json: bool, out: &mut dyn Write) -> io::Result<ExitCode> {
    let client = Client::new(daemon)?;
    let paint = if json { Paint::Plain } else { Paint::of_stdout() };
    let suspend = |site: Option<&String>, source: Option<&String>, within: Option<Duration>| SuspendRequest {
        site: site.cloned(),
        source: source.cloned(),
        seconds: within.map(|within| within.as_secs()),
        by: operator(),
    };
    match command {
        Command::Sites(Sites { explain: Some(site), .. }) => {
            let path = path_with_query("/v1/sites/explain", &[("site", site.clone())]);
            listing::<Explained>(&client, &path, json, out, explain)
        }
        Command::Sites(Sites { filter, all, .. }) => {
            let mut query = vec![("all", all.to_string())];
            query.extend(filter.iter().map(|filter| ("filter", filter.clone())));
            let show = |sites: &Vec<Site>, out: &mut dyn Write| show_sites(sites, *all, Now::of_system(), paint, out);
            listing::<Vec<Site>>(&client, &path_with_query("/v1/sites", &query), json, out, show)
        }
        Command::Sources => {
            let show = |sources: &Vec<Source>, out: &mut dyn Write| show_sources(sources, Now::of_system(), paint, out);
            listing::<Vec<Source>>(&client, "/v1/sources", json, out, show)
        }
        Command::Warmup(WarmupCommand { order: None }) => {
            let show = |ladders: &Vec<Warmup>, out: &mut dyn Write| show_warmups(ladders, Now::of_system(), paint, out);
            listing::<Vec<Warmup>>(&client, "/v1/warmups", json, out, show)
        }
        Command::Warmup(WarmupCommand { order: Some(told) }) => {
            let (word, ladder, stage) = match told {
                WarmupOrder::Set { ladder, stage } => ("set", ladder, Some(*stage)),
                WarmupOrder::Skip(ladder) => ("skip", ladder, None),
                WarmupOrder::Hold(ladder) => ("hold", ladder, None),
                WarmupOrder::Resume(ladder) => ("resume", ladder, None),
            };
            let (source, provider) = (ladder.source.clone(), ladder.provider.clone());
            order(&client, "warmup", &WarmupRequest { source, provider, order: word.to_owned(), stage }, json, out)
        }
        Command::Suspend(Suspend { site, source, within }) => {
            order(&client, "suspend", &suspend(Some(site), source.as_ref(), *within), json, out)
        }
        Command::Drain(Drain { source, within }) => {
            order(&client, "suspend", &suspend(None, Some(source), *within), json, out)
        }
        Command::Resume(Resume { site, source }) => {
            let request = ResumeRequest { site: site.clone(), source: source.clone(), by: operator() };
            order(&client, "resume", &request, json, out)
        }
    }
}

/// Who is at the terminal: whoever became root, not root.
pub(super) fn operator() -> String {
    let named = ["SUDO_USER", "USER", "LOGNAME"].iter().filter_map(|name| std::env::var(name).ok());
    let uid = format!("uid {}", rustix::process::getuid().as_raw());
    named.filter(|name| !name.is_empty()).chain([uid]).next().unwrap_or_default()
}

pub(super) fn listing<T: DeserializeOwned>(
    client: &Client,
    path: &str,
    json: bool,
    out: &mut dyn Write,
    show: impl FnOnce(&T, &mut dyn Write) -> io::Result<()>,
) -> io::Result<ExitCode> {
    if json {
        return match client.ask::<Value>(path) {
            Ok(answer) => writeln!(out, "{answer:#}").map(|()| ExitCode::SUCCESS),
            Err(error) => Ok(conclude(Err(error))),
        };
    }
    match client.ask::<T>(path) {
        Ok(answer) => show(&answer, out).map(|()| ExitCode::SUCCESS),
        Err(error) => Ok(conclude(Err(error))),
    }
}

fn order(
    client: &Client,
    name: &str,
    request: &impl serde::Serialize,
    json: bool,
    out: &mut dyn Write,
) -> io::Result<ExitCode> {
    order_at(client, &format!("/v1/traffic/{name}"), request, json, out)
}

/// Sends an order, and prints the sentence that comes back.
pub(super) fn order_at(
    client: &Client,
    path: &str,
    request: &impl serde::Serialize,
    json: bool,
    out: &mut dyn Write,
) -> io::Result<ExitCode> {
    let said: Result<Said, ClientError> = client.tell(path, request, ORDER_WITHIN);
    match said {
        Ok(said) if json => writeln!(out, "{:#}", json!(said)).map(|()| ExitCode::SUCCESS),
        Ok(Said { said }) => writeln!(out, "{said}.").map(|()| ExitCode::SUCCESS),
        Err(error) => Ok(conclude(Err(error))),
    }
}

/// A column: its heading, and on which side it is flush.
pub(super) type Column = (&'static str, Flush);

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Flush {
    Left,
    Right,
}

const SITE_COLUMNS: [Column; 7] = [
    ("SITE", Flush::Left),
    ("SOURCE", Flush::Left),
    ("TRANS", Flush::Right),
    ("MARKET", Flush::Right),
    ("OPEN/NOW/LIMIT", Flush::Right),
    ("RATE", Flush::Left),
    ("DEFERRED", Flush::Left),
];

const SOURCE_COLUMNS: [Column; 7] = [
    ("SOURCE", Flush::Left),
    ("ADDRESS", Flush::Left),
    ("EHLO", Flush::Left),
    ("POOLS", Flush::Left),
    ("TRANS", Flush::Right),
    ("MARKET", Flush::Right),
    ("OPEN", Flush::Right),
];

/// Rows with the same columns, as wide as they need; behind them the state, below it why.
pub(super) struct Table<const N: usize> {
    pub(super) columns: [Column; N],
    pub(super) rows: Vec<([String; N], String, Option<String>)>,
}

impl<const N: usize> Table<N> {
    pub(super) fn print(&self, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
        let width = |place: usize| {
            let cells = self.rows.iter().map(|(cells, ..)| cells[place].chars().count());
            cells.chain([self.columns[place].0.len()]).max().unwrap_or_default()
        };
        let widths: Vec<usize> = (0..N).map(width).collect();
        let line = |cells: &[&str]| {
            let mut text = String::new();
            for ((cell, (_, flush)), width) in cells.iter().zip(self.columns).zip(&widths) {
                match flush {
                    Flush::Left => text += &format!("{cell:<width$}  "),
                    Flush::Right => text += &format!("{cell:>width$}  "),
                }
            }
            text
        };
        writeln!(out, "{}STATE", line(&self.columns.map(|(heading, _)| heading)))?;
        for (cells, state, why) in &self.rows {
            writeln!(out, "{}{state}", line(&cells.each_ref().map(String::as_str)))?;
            if let Some(why) = why {
                writeln!(out, "  {}", paint.dim(why))?;
            }
        }
        Ok(())
    }
}

fn show_sites(sites: &[Site], all: bool, now: Now, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
    let mut table = Table { columns: SITE_COLUMNS, rows: Vec::new() };
    for site in sites {
        let mut name = site.site.clone();
        for source in &site.sources {
            table.rows.push(site_row(std::mem::take(&mut name), source, now, paint));
        }
        if site.sources.is_empty() {
            let ByKind { transactional, marketing } = site.queued;
            let open = site.connections.to_string();
            let cells = [name, "-".to_owned(), transactional.to_string(), marketing.to_string(), open];
            let [a, b, c, d, e] = cells;
            table.rows.push(([a, b, c, d, e, String::new(), String::new()], "ready".to_owned(), None));
        }
    }
    if table.rows.is_empty() {
        let more = if all { "" } else { "; --all lists those that are known" };
        return writeln!(out, "No site has anything to do{more}.");
    }
    table.print(paint, out)
}

fn site_row(name: String, source: &SiteSource, now: Now, paint: Paint) -> ([String; 7], String, Option<String>) {
    let ByKind { transactional, marketing } = source.queued;
    let cells = [
        name,
        source.source.clone(),
        transactional.to_string(),
        marketing.to_string(),
        format!("{}/{}/{}", source.connections, source.allowed, source.limit),
        source.rate.as_ref().map(rate).unwrap_or_default(),
        match source.recent.attempts {
            0 => String::new(),
            attempts => format!("{}% of {attempts}", source.recent.deferred * 100 / attempts),
        },
    ];
    let until = || source.until.as_deref().map(|until| format!(", {}", now.until(until))).unwrap_or_default();
    let (state, why) = match (&source.suspended, source.state.as_str()) {
        (Some(suspended), _) => (paint.red(&suspended_by(suspended, now)), None),
        (None, "ready") if source.allowed < source.limit && source.cause.is_some() => {
            (paint.yellow("ready, held back"), source.cause.clone())
        }
        (None, "ready") => (paint.green("ready"), None),
        (None, other) => (paint.yellow(&format!("{other}{}", until())), source.cause.clone()),
    };
    (cells, state, why)
}

/// `97 of 100/1h`.
fn rate(used: &RateUse) -> String {
    let per = show_duration(Duration::from_secs(used.per_seconds));
    let unit = if used.unit == "messages" { String::new() } else { format!(" {}", used.unit) };
    let whose = if used.source.is_none() { " in all" } else { "" };
    format!("{} of {}/{per}{unit}{whose}", used.used, used.count)
}

fn suspended_by(suspended: &Suspended, now: Now) -> String {
    let since = suspended.since.as_deref().map(|since| format!(" {} ago", now.since(since))).unwrap_or_default();
    let until = suspended.until.as_deref().map(|until| format!(", ends {}", now.until(until))).unwrap_or_default();
    format!("suspended by {}{since}{until}", suspended.by)
}

fn show_sources(sources: &[Source], now: Now, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
    let row = |source: &Source| {
        let ByKind { transactional, marketing } = source.queued;
        let cells = [
            source.source.clone(),
            source.address.clone(),
            source.ehlo.clone(),
            source.pools.join(", "),
            transactional.to_string(),
            marketing.to_string(),
            source.connections.to_string(),
        ];
        let state = match &source.suspended {
            Some(suspended) => paint.red(&suspended_by(suspended, now)),
            None if source.pools.is_empty() => paint.yellow("in no pool"),
            None => paint.green(&source.state),
        };
        (cells, state, None)
    };
    Table { columns: SOURCE_COLUMNS, rows: sources.iter().map(row).collect() }.print(paint, out)
}

const WARMUP_COLUMNS: [Column; 7] = [
    ("SOURCE", Flush::Left),
    ("PROVIDER", Flush::Left),
    ("STAGE", Flush::Right),
    ("TODAY", Flush::Right),
    ("DELIVERED", Flush::Right),
    ("DEFERRED", Flush::Right),
    ("OVER", Flush::Right),
];

fn show_warmups(ladders: &[Warmup], now: Now, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
    if ladders.is_empty() {
        return writeln!(
            out,
            "No source is warming up: none has sent mail since the start, or none has `warmup` in the config."
        );
    }
    let row = |ladder: &Warmup| {
        let today = match ladder.budget {
            Some(budget) => format!("{}/{budget}", ladder.used),
            None => ladder.used.to_string(),
        };
        let cells = [
            ladder.source.clone(),
            ladder.provider.clone(),
            format!("{}/{}", ladder.stage.min(ladder.stages), ladder.stages),
            today,
            ladder.delivered.to_string(),
            ladder.deferred.to_string(),
            ladder.over.to_string(),
        ];
        let until = ladder.until.as_deref().map(|until| format!(", {}", now.until(until))).unwrap_or_default();
        let state = match (&ladder.waits_for, ladder.frozen) {
            _ if ladder.warm => paint.green("warm"),
            (_, true) => paint.red(&format!("frozen{until}")),
            (Some(why), _) => paint.yellow(&format!("{why}{until}")),
            (None, _) => paint.green("open"),
        };
        let next = match ladder.next_budget {
            _ if ladder.warm => None,
            Some(next) => Some(format!("today: {}; the next stage has {next}; last: {}", ladder.outlook, ladder.last)),
            None => Some(format!("today: {}; then it is warm; last: {}", ladder.outlook, ladder.last)),
        };
        (cells, state, next)
    };
    Table { columns: WARMUP_COLUMNS, rows: ladders.iter().map(row).collect() }.print(paint, out)
}

fn explain(explained: &Explained, out: &mut dyn Write) -> io::Result<()> {
    let heading = match &explained.domain {
        Some(domain) => format!("{domain} belongs to the site {}", explained.site),
        None => explained.site.clone(),
    };
    writeln!(out, "{heading} (provider {})", explained.provider)?;
    if !explained.hosts.is_empty() {
        writeln!(out, "  hosts: {}", explained.hosts.join(", "))?;
    }
    let all = explained.values.iter().chain(&explained.domain_values);
    let width = all.clone().map(|value| value.key.len()).max().unwrap_or_default();
    let shown = all.map(|value| value.value.chars().count()).max().unwrap_or_default();
    let mut group = |heading: &str, values: &[&ExplainedValue]| -> io::Result<()> {
        if values.is_empty() {
            return Ok(());
        }
        writeln!(out, "{heading}")?;
        values.iter().try_for_each(|ExplainedValue { key, value, from, .. }| {
            writeln!(out, "  {key:<width$}  {value:<shown$}  {from}")
        })
    };
    let blocks = [("", &explained.values), (" for this domain beside it", &explained.domain_values)];
    for (of_what, values) in blocks {
        let of_each: Vec<_> = values.iter().filter(|value| value.source.is_none()).collect();
        group(&format!("each source{of_what}, and all together (total_…)"), &of_each)?;
        let mut sources: Vec<&String> = values.iter().filter_map(|value| value.source.as_ref()).collect();
        sources.dedup();
        for source in sources {
            let own: Vec<_> = values.iter().filter(|value| value.source.as_ref() == Some(source)).collect();
            group(&format!("the source {source}{of_what}, where it differs"), &own)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Now {
        Now::at("2026-11-25T10:00:00Z")
    }

    fn printed(print: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        print(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn source(name: &str, state: &str) -> SiteSource {
        SiteSource {
            source: name.to_owned(),
            connections: 2,
            allowed: 20,
            limit: 20,
            state: state.to_owned(),
            ..SiteSource::default()
        }
    }

    #[test]
    fn sites_stand_in_columns_with_the_reason_below() {
        let sites = [
            Site {
                site: "google".to_owned(),
                sources: vec![
                    SiteSource {
                        suspended: Some(Suspended {
                            by: "ann".to_owned(),
                            since: Some("2026-11-25T09:00:00Z".to_owned()),
                            until: Some("2026-11-25T11:00:00Z".to_owned()),
                        }),
                        queued: ByKind { transactional: 12, marketing: 3400 },
                        ..source("a", "suspended")
                    },
                    SiteSource {
                        until: Some("2026-11-25T10:04:00Z".to_owned()),
                        cause: Some("mx.example said 421 4.7.0 slow down".to_owned()),
                        rate: Some(RateUse {
                            source: Some("bb".to_owned()),
                            unit: "messages".to_owned(),
                            used: 97,
                            count: 100,
                            per_seconds: 3600,
                        }),
                        recent: crate::http::shapes::Recent { minutes: 15, attempts: 40, deferred: 11 },
                        ..source("bb", "throttled")
                    },
                ],
                ..Site::default()
            },
            Site {
                site: "mx.example.net".to_owned(),
                sources: vec![SiteSource {
                    allowed: 3,
                    cause: Some("mx.example.net said 421 too many".to_owned()),
                    ..source("a", "ready")
                }],
                ..Site::default()
            },
        ];
        let want = "\
SITE            SOURCE  TRANS  MARKET  OPEN/NOW/LIMIT  RATE          DEFERRED   STATE
google          a          12    3400         2/20/20                           suspended by ann 60m ago, ends in 60m
                bb          0       0         2/20/20  97 of 100/1h  27% of 40  throttled, in 4m
  mx.example said 421 4.7.0 slow down
mx.example.net  a           0       0          2/3/20                           ready, held back
  mx.example.net said 421 too many
";
        assert_eq!(printed(|out| show_sites(&sites, false, now(), Paint::Plain, out)), want);
        let none = printed(|out| show_sites(&[], false, now(), Paint::Plain, out));
        assert_eq!(none, "No site has anything to do; --all lists those that are known.\n");
        let coloured = printed(|out| show_sites(&sites, false, now(), Paint::Colours, out));
        assert!(coloured.contains("\x1b[31msuspended by ann"), "{coloured}");
    }

    #[test]
    fn sources_stand_in_columns() {
        let source = |name: &str, pools: &[&str]| Source {
            source: name.to_owned(),
            address: "192.0.2.1".to_owned(),
            ehlo: "a.example".to_owned(),
            pools: pools.iter().map(|pool| (*pool).to_owned()).collect(),
            state: "ready".to_owned(),
            ..Source::default()
        };
        let want = "\
SOURCE  ADDRESS    EHLO       POOLS    TRANS  MARKET  OPEN  STATE
a       192.0.2.1  a.example  one, ts      0       0     0  ready
b       192.0.2.1  a.example               0       0     0  in no pool
";
        let sources = [source("a", &["one", "ts"]), source("b", &[])];
        assert_eq!(printed(|out| show_sources(&sources, now(), Paint::Plain, out)), want);
    }

    #[test]
    fn each_value_stands_with_its_line() {
        let value = |source: Option<&str>, key: &str, value: &str, from: &str| ExplainedValue {
            source: source.map(str::to_owned),
            key: key.to_owned(),
            value: value.to_owned(),
            from: from.to_owned(),
        };
        let explained = Explained {
            site: "google".to_owned(),
            provider: "google".to_owned(),
            hosts: vec!["google.com".to_owned()],
            values: vec![
                value(None, "connection_limit", "20", "p.toml:7"),
                value(None, "tls", "require", "providers.toml:33"),
                value(Some("a"), "connection_limit", "2", "p.toml:12"),
            ],
            domain: Some("d.example".to_owned()),
            domain_values: vec![value(None, "max_message_rate", "[\"5/1m\"]", "p.toml:20")],
        };
        let want = "\
d.example belongs to the site google (provider google)
  hosts: google.com
each source, and all together (total_…)
  connection_limit  20        p.toml:7
  tls               require   providers.toml:33
the source a, where it differs
  connection_limit  2         p.toml:12
each source for this domain beside it, and all together (total_…)
  max_message_rate  [\"5/1m\"]  p.toml:20
";
        assert_eq!(printed(|out| explain(&explained, out)), want);
    }
}
