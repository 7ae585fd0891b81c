//! `postrider rates`: what share of whose mail bounces or is complained about, who is paused for it, and the end of a pause.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};

use super::Paint;
use super::client::{Client, Daemon, path_with_query};
use super::traffic::{Column, Flush, Table, listing, operator, order_at};
use crate::http::shapes::{Rate, Rates, ResumeSender};
use crate::rates::{grouped, percent};

/// `postrider rates`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Over which time.
    #[arg(long, value_enum, default_value = "day")]
    span: Span,
    #[command(subcommand)]
    order: Option<Order>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Span {
    /// The last sixty minutes.
    Hour,
    /// The last twenty-four hours.
    Day,
    /// Today and the seven days before.
    Week,
}

#[derive(Debug, Subcommand)]
enum Order {
    /// Let a paused sender go on; its counts begin anew.
    Resume {
        /// The credential and the stream, as `rates` shows them.
        #[arg(value_name = "CREDENTIAL/STREAM")]
        sender: String,
    },
}

/// Runs `postrider rates …`.
///
/// # Errors
/// Standard output is closed.
pub fn run(daemon: Daemon<'_>, arguments: &Arguments, json: bool, out: &mut dyn Write) -> io::Result<ExitCode> {
    let client = Client::new(daemon)?;
    let paint = if json { Paint::Plain } else { Paint::of_stdout() };
    match &arguments.order {
        Some(Order::Resume { sender }) => {
            let request = ResumeSender { sender: sender.clone(), by: operator() };
            order_at(&client, "/v1/rates/resume", &request, json, out)
        }
        None => {
            let span = match arguments.span {
                Span::Hour => "hour",
                Span::Day => "day",
                Span::Week => "week",
            };
            let path = path_with_query("/v1/rates", &[("span", span.to_owned())]);
            listing::<Rates>(&client, &path, json, out, |rates, out| show(rates, paint, out))
        }
    }
}

const COLUMNS: [Column; 8] = [
    ("SCOPE", Flush::Left),
    ("NAME", Flush::Left),
    ("DELIVERED", Flush::Right),
    ("DEFERRED", Flush::Right),
    ("BOUNCED", Flush::Right),
    ("SHARE", Flush::Right),
    ("COMPLAINED", Flush::Right),
    ("SHARE", Flush::Right),
];

fn show(rates: &Rates, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
    for storm in &rates.storms {
        let (share, usual) = (percent(storm.share), percent(storm.usual));
        let text = format!(
            "{}: {share} of the recipients do not exist, {usual} is usual: nobody is suppressed for it",
            storm.site
        );
        writeln!(out, "{}", paint.yellow(&text))?;
    }
    if rates.rates.is_empty() {
        return writeln!(out, "No mail was answered in the last {}.", rates.span);
    }
    let row = |rate: &Rate| {
        let share = |share: f64, of: u64| if of > 0 { percent(share) } else { "-".to_owned() };
        let cells = [
            rate.scope.clone(),
            rate.name.clone(),
            grouped(rate.delivered),
            grouped(rate.deferred),
            grouped(rate.bounced),
            share(rate.bounced_share, rate.delivered + rate.bounced),
            grouped(rate.complained),
            share(rate.complained_share, rate.complained_of),
        ];
        let state = match (&rate.held, &*rate.scope) {
            (Some(_), "credential") => paint.red("suspended"),
            (Some(_), _) => paint.red("paused"),
            (None, _) => paint.green("goes"),
        };
        (cells, state, rate.held.clone())
    };
    Table { columns: COLUMNS, rows: rates.rates.iter().map(row).collect() }.print(paint, out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::shapes::Storm;

    #[test]
    fn shares_pauses_and_storms_are_shown() {
        let rate = Rate {
            scope: "sender".into(),
            name: "shop/news".into(),
            delivered: 5210,
            bounced: 12,
            bounced_share: 0.0023,
            complained: 21,
            complained_of: 5210,
            complained_share: 0.00403,
            held: Some("shop/news is paused: …".into()),
            ..Rate::default()
        };
        let storms = vec![Storm { site: "google".into(), since: String::new(), share: 0.9, usual: 0.01 }];
        let mut out = Vec::new();
        show(&Rates { span: "day".into(), rates: vec![rate], storms }, Paint::Plain, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(
            text,
            "google: 90.00 % of the recipients do not exist, 1.00 % is usual: nobody is suppressed for it\n\
             SCOPE   NAME       DELIVERED  DEFERRED  BOUNCED   SHARE  COMPLAINED   SHARE  STATE\n\
             sender  shop/news      5,210         0       12  0.23 %          21  0.40 %  paused\n  shop/news is paused: …\n"
        );
        let mut out = Vec::new();
        show(&Rates { span: "hour".into(), ..Rates::default() }, Paint::Plain, &mut out).unwrap();
        assert_eq!(out, b"No mail was answered in the last hour.\n");
    }
}
