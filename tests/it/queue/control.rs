//! The control socket and its client: what an operator types, over a real socket, down to the rows.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use postrider::cli::client::Daemon;
use postrider::cli::{queue as queue_cli, spool as spool_cli, why as why_cli};
use postrider::events::Events;
use postrider::http::{self, Api};
use postrider::metrics::Page;
use postrider::queue::Queue;
use postrider::time::Timestamp;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

use super::kit::{self, lease, put, run, settle};

/// A queue with its socket.
struct Served {
    dir: tempfile::TempDir,
    queue: Queue,
    stop: oneshot::Sender<()>,
    server: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Served {
    async fn start() -> Served {
        Served::start_in(tempfile::tempdir().unwrap()).await
    }

    async fn start_in(dir: tempfile::TempDir) -> Served {
        let queue = kit::open(dir.path());
        let (stop, stopped) = oneshot::channel();
        let why: http::Explain = Arc::new(|id| {
            Box::pin(async move {
                json!([{ "kind": "connections", "text": format!("{id} waits for a connection"), "cause": "421 busy" }])
            })
        });
        let api = Api {
            queue: queue.clone(),
            events: Events::default(),
            why,
            bounce: bounce(&queue),
            probe: probe(),
            scrape: scrape(&queue),
            site_domains: site_domains(),
            pools: pools(),
            traffic: traffic(),
            suppressions: None,
        };
        let settings = http::Settings::in_dir(dir.path());
        let server = tokio::spawn(http::serve(settings, api, async { stopped.await.unwrap_or_default() }));
        let socket = dir.path().join(http::SOCKET_NAME);
        while tokio::net::UnixStream::connect(&socket).await.is_err() {
            tokio::task::yield_now().await;
        }
        Served { dir, queue, stop, server }
    }

    /// The raw answer to a request: status and JSON.
    async fn request(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let (status, text) = self.text(method, path, body).await;
        (status, serde_json::from_str(&text).unwrap_or_default())
    }

    async fn text(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let socket = self.dir.path().join(http::SOCKET_NAME);
        let mut stream = tokio::net::UnixStream::connect(socket).await.unwrap();
        let request = format!(
            "{method} {path} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// What `postrider …` prints, and its exit code.
    async fn command(&self, line: &str) -> (String, ExitCode) {
        command(self.dir.path(), line).await
    }

    async fn stop(self) -> tempfile::TempDir {
        self.stop.send(()).unwrap();
        self.server.await.unwrap().unwrap();
        assert!(!self.dir.path().join(http::SOCKET_NAME).exists());
        self.queue.close();
        self.dir
    }
}

fn scrape(queue: &Queue) -> http::Scrape {
    let queue = queue.clone();
    Arc::new(move || {
        let queue = queue.clone();
        Box::pin(async move {
            let mut page = Page::default();
            queue.census().await.write(&mut page);
            page
        })
    })
}

/// Fails the envelope, as the door does when there is nobody to tell.
fn probe() -> http::Probe {
    Arc::new(|| Box::pin(async {}))
}

/// One site, of one domain.
fn site_domains() -> http::SiteDomains {
    Arc::new(|site| {
        let domains = (site == "big").then(|| vec!["two.example".parse().unwrap(), "unheard.example".parse().unwrap()]);
        Box::pin(async move { domains })
    })
}

fn pools() -> http::Pools {
    Arc::new(|| Box::pin(async { vec!["bulk".to_owned(), "default".to_owned()] }))
}

/// Says what it was asked; no to what is about `nobody`.
fn traffic() -> http::Traffic {
    Arc::new(|ask| {
        Box::pin(async move {
            let asked = format!("{ask:?}");
            if asked.contains("nobody") { Err("there is no site \"nobody\" now".to_owned()) } else { Ok(asked.into()) }
        })
    })
}

fn bounce(queue: &Queue) -> http::Bounce {
    let queue = queue.clone();
    Arc::new(move |lease| {
        let progress = kit::after(lease.progress(), 550, Timestamp::ZERO);
        let settling = queue.settle(lease, progress, None);
        Box::pin(async move { settling })
    })
}

#[derive(Parser)]
struct Line {
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    #[command(subcommand)]
    Queue(Box<queue_cli::Command>),
    Why(why_cli::Arguments),
    #[command(subcommand)]
    Spool(spool_cli::Command),
}

async fn command(data_dir: &Path, line: &str) -> (String, ExitCode) {
    let (data_dir, words) = (data_dir.to_owned(), format!("postrider {line}"));
    let printed = tokio::task::spawn_blocking(move || {
        let Line { json, command } = Line::try_parse_from(words.split_whitespace()).unwrap();
        let daemon = Daemon { data_dir: &data_dir, config: Path::new("/etc/postrider.toml") };
        let mut out = Vec::new();
        let exit = match command {
            Command::Queue(command) => queue_cli::run(daemon, &command, json, &mut out),
            Command::Why(arguments) => why_cli::run(daemon, &arguments, json, &mut out),
            Command::Spool(command) => spool_cli::run(daemon, &command, json, &mut out),
        };
        // As the command line does with an error of the disk.
        let exit = exit.or_else(|error| writeln!(out, "{error}").map(|()| ExitCode::FAILURE));
        (String::from_utf8(out).unwrap(), exit.unwrap())
    });
    printed.await.unwrap()
}

#[test]
fn an_operator_lists_holds_releases_and_deletes() {
    run(async {
        let served = Served::start().await;
        let (text, exit) = served.command("queue list").await;
        assert_eq!((text.as_str(), exit), ("The queue is empty.\n", ExitCode::SUCCESS));
        let id = put(&served.queue, &["a@y.example", "b@y.example"]).await;
        let other = put(&served.queue, &["c@z.example"]).await;
        let first = lease(&served.queue, id).await;
        settle(&served.queue, first, 450, Timestamp::from_secs(4_000_000_000)).await;

        let (text, _) = served.command("queue list").await;
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 5, "{text}");
        assert!(lines[1].starts_with(&format!("{id}  deferred   0s")), "{text}");
        assert!(lines[1].ends_with("sender@example.com -> a@y.example and 1 more"), "{text}");
        assert_eq!(lines[2].trim(), "mx.example said: 450 later");
        assert!(lines[3].starts_with(&format!("{other}  ready ")), "{text}");
        assert_eq!(lines[4], "2 of 2 waiting envelopes.");

        let (text, _) = served.command("queue hold --domain y.example").await;
        assert_eq!(text, "hold: 1 envelope.\n");
        let (text, _) = served.command("queue list --state held --json").await;
        let listed: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(listed.as_array().map(Vec::len), Some(1));
        assert_eq!((&listed[0]["id"], &listed[0]["state"]), (&json!(id.to_string()), &json!("held")));
        assert_eq!(listed[0]["recipients"][0]["last"]["text"], "450 later");
        let (text, exit) = served.command(&format!("queue retry {id}")).await;
        assert_eq!(exit, ExitCode::FAILURE);
        assert_eq!(text, format!("{id}  it is held: release it first\nretry: 0 envelopes; not possible for 1.\n"));
        let (text, _) = served.command(&format!("queue release {id}")).await;
        assert_eq!(text, "release: 1 envelope.\n");
        let (text, _) = served.command(&format!("queue show {id}")).await;
        for fact in ["deferred", "sender@example.com", "a@y.example  pending", "at mx.example, rcpt: 450 later"] {
            assert!(text.contains(fact), "{fact} is not in {text}");
        }
        let (_, exit) = served.command("queue delete").await;
        assert_eq!(exit, ExitCode::from(2), "an order without a choice is a mistake, not an order about everything");
        assert_eq!(served.queue.len(), 2);
        let (text, _) = served.command(&format!("queue bounce {other}")).await;
        assert_eq!(text, "bounce: 1 envelope.\n");
        let (text, _) = served.command("queue delete --all").await;
        assert_eq!(text, "delete: 1 envelope.\n");
        assert!(served.queue.is_empty());
        served.stop().await;
    });
}

#[test]
fn a_campaign_is_held_by_its_tag_a_site_rerouted_and_a_schedule_shown() {
    run(async {
        let served = Served::start().await;
        let mut envelope = kit::envelope(&served.queue, &["a@one.example"]);
        envelope.marks.tags = vec!["spring-sale".into()];
        envelope.marks.metadata = vec![("order".into(), "7".into())];
        envelope.marks.engaged = true;
        let wrong = kit::put_envelope(&served.queue, envelope).await;
        let mut envelope = kit::envelope(&served.queue, &["a@two.example"]);
        envelope.release_at = envelope.accepted_at.after(std::time::Duration::from_secs(7 * 3600));
        let scheduled = kit::put_envelope(&served.queue, envelope).await;

        let (text, _) = served.command("queue hold --tag spring-sale").await;
        assert_eq!(text, "hold: 1 envelope.\n");
        let (text, _) = served.command("queue list --tag spring-sale").await;
        assert!(text.contains(&format!("\n{wrong}  held       0s")) && text.contains("1 of 2 waiting"), "{text}");
        let (text, _) = served.command(&format!("queue show {wrong}")).await;
        for fact in ["tags         spring-sale\n", "metadata     order=7\n", "engaged      yes\n"] {
            assert!(text.contains(fact), "{fact} is not in {text}");
        }
        let (text, _) = served.command("queue show --tag spring-sale --json").await;
        let shown: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((shown.as_array().map(Vec::len), &shown[0]["id"]), (Some(1), &json!(wrong.to_string())));
        assert_eq!(served.command("queue show --tag none --json").await.0, "[]\n");
        let (text, _) = served.command("queue show --all").await;
        assert!(text.starts_with(&format!("{wrong}  held\n")), "{text}");
        assert!(text.contains(&format!("\n\n{scheduled}  scheduled\n")), "{text}");
        assert_eq!(served.command("queue show").await.1, ExitCode::from(2));
        let (text, _) = served.command("queue list --state scheduled").await;
        assert!(text.contains(&format!("\n{scheduled}  scheduled  0s      in 6h    ")), "{text}");
        let (text, _) = served.command("queue reroute --pool bulk --site big").await;
        assert_eq!(text, "reroute: 1 envelope.\n");
        let (text, _) = served.command(&format!("queue show {scheduled}")).await;
        assert!(text.contains("pool         bulk\n") && text.contains("scheduled    in 6h ("), "{text}");
        let (_, exit) = served.command("queue reroute --pool paint --all").await;
        assert_eq!(exit, ExitCode::FAILURE);
        served.stop().await;
    });
}

#[test]
fn why_tells_the_reason_first() {
    run(async {
        let served = Served::start().await;
        let id = put(&served.queue, &["a@y.example"]).await;
        let (text, exit) = served.command(&format!("why {id}")).await;
        assert_eq!(exit, ExitCode::SUCCESS);
        let want = format!("{id} waits: {id} waits for a connection\n    because: 421 busy\n");
        assert!(text.starts_with(&want), "{text}");
        let (text, _) = served.command(&format!("why {id} --json")).await;
        let read: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read["constraints"][0]["kind"], "connections");
        assert_eq!(read["envelope"]["id"], id.to_string());
        let (_, exit) = served.command("why zzzzzzzzzzzz").await;
        assert_eq!(exit, ExitCode::FAILURE);
        served.stop().await;
    });
}

#[test]
fn without_a_daemon_the_exit_code_says_so() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        for line in ["queue list", "queue hold --all", "why 0123456789BC"] {
            assert_eq!(command(dir.path(), line).await.1, ExitCode::from(69), "{line}");
        }
    });
}

#[test]
fn a_wrong_request_is_refused_in_words() {
    run(async {
        let served = Served::start().await;
        let many: Vec<String> = (0..1001).map(|_| "0123456789BC".to_owned()).collect();
        let many = json!({ "ids": many }).to_string();
        let rows = [
            ("GET", "/v1/queue?limit=0", "", 400, "limit 0"),
            ("GET", "/v1/queue?limit=1001", "", 400, "limit 1001"),
            ("GET", "/v1/queue?colour=red", "", 400, "colour"),
            ("GET", "/v1/queue?domain=a%20b", "", 400, "domain name"),
            ("GET", "/v1/queue?sender=a%40%40", "", 400, "sender"),
            ("GET", "/v1/queue?state=late", "", 400, "state"),
            ("GET", "/v1/queue/short", "", 400, "queue id"),
            ("GET", "/v1/queue/0123456789BC", "", 404, "not in the queue"),
            ("GET", "/v1/queue?site=small", "", 400, "no mail waits for a site \"small\""),
            ("POST", "/v1/queue/orders/paint", "{}", 404, "paint"),
            ("POST", "/v1/queue/orders/reroute", r#"{"select":{}}"#, 400, "`pool` is needed"),
            ("POST", "/v1/queue/orders/reroute", r#"{"select":{},"pool":"x"}"#, 400, "there are: bulk, default"),
            ("POST", "/v1/queue/orders/hold", r#"{"select":{},"pool":"bulk"}"#, 400, "for `reroute` alone"),
            ("POST", "/v1/queue/orders/delete", "{}", 400, "neither"),
            ("POST", "/v1/queue/orders/delete", r#"{"ids":["0123456789BC"],"select":{}}"#, 400, "not both"),
            ("POST", "/v1/queue/orders/delete", r#"{"idz":[]}"#, 422, "idz"),
            ("POST", "/v1/queue/orders/delete", &many, 400, "1001 ids"),
            ("POST", "/v1/spool/backup", r#"{"directory":"relative"}"#, 400, "absolute"),
            ("GET", "/v1/nothing", "", 404, "no such path"),
        ];
        for (method, path, body, status, word) in rows {
            let (got, answer) = served.request(method, path, body).await;
            let text = answer["error"].as_str().unwrap_or_default();
            assert!(got == status && text.contains(word), "{method} {path}: {got} {answer}");
        }
        let (status, _) = served.request("POST", "/v1/queue/orders/delete", &"x".repeat(300_000)).await;
        assert_eq!(status, 413, "a body over the bound is not read");
        served.stop().await;
    });
}

#[test]
fn numbers_are_told_and_a_backup_can_be_opened() {
    run(async {
        let served = Served::start().await;
        let id = put(&served.queue, &["a@y.example"]).await;
        assert_eq!(served.request("GET", "/v1/health", "").await.1["waiting"], 1);
        assert_eq!(served.request("GET", "/v1/counters", "").await.1["waiting"], 1);
        assert_eq!(served.request("GET", "/v1/spool", "").await.1["live"], 1);
        let (_, metrics) = served.text("GET", "/metrics", "").await;
        let series =
            "\npostrider_queue_envelopes{stream=\"transactional\",kind=\"transactional\",state=\"waiting\"} 1\n";
        assert!(metrics.contains(series), "{metrics}");
        let to = tempfile::tempdir().unwrap();
        let body = json!({ "directory": to.path().join("spool") }).to_string();
        let (status, answer) = served.request("POST", "/v1/spool/backup", &body).await;
        assert_eq!(status, 200, "{answer}");
        let copy = kit::open(to.path());
        assert_eq!(copy.waiting().map(|row| row.id).collect::<Vec<_>>(), [id]);
        copy.close();
        served.stop().await;
    });
}

#[test]
fn only_the_owner_may_use_the_socket_and_one_daemon_serves_it() {
    run(async {
        let served = Served::start().await;
        let socket = served.dir.path().join(http::SOCKET_NAME);
        assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
        let why: http::Explain = Arc::new(|_| Box::pin(async { Value::Null }));
        let api = Api {
            queue: served.queue.clone(),
            events: Events::default(),
            why,
            bounce: bounce(&served.queue),
            probe: probe(),
            scrape: scrape(&served.queue),
            site_domains: site_domains(),
            pools: pools(),
            traffic: traffic(),
            suppressions: None,
        };
        let second = http::serve(http::Settings::in_dir(served.dir.path()), api.clone(), async {}).await;
        assert_eq!(second.unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
        served.stop().await;
    });
}

#[test]
fn traffic_is_asked_and_ordered_over_the_socket() {
    run(async {
        let served = Served::start().await;
        for (method, path, body, status, want) in [
            ("GET", "/v1/sites", "", 200, "Sites(SitesSelect { all: false, filter: None })"),
            (
                "GET",
                "/v1/sites?all=true&filter=a%20b",
                "",
                200,
                "Sites(SitesSelect { all: true, filter: Some(\\\"a b\\\") })",
            ),
            ("GET", "/v1/sites?al=true", "", 400, "unknown field"),
            ("GET", "/v1/sites/explain?site=google", "", 200, "Explain(\\\"google\\\")"),
            ("GET", "/v1/sites/explain", "", 400, "missing field"),
            ("GET", "/v1/sources", "", 200, "Sources"),
            ("POST", "/v1/traffic/suspend", r#"{"site":"google","seconds":60,"by":"ann"}"#, 200, "seconds: Some(60)"),
            ("POST", "/v1/traffic/suspend", r#"{"site":"nobody"}"#, 400, "there is no site"),
            ("POST", "/v1/traffic/suspend", r#"{"site":"google","for":"1h"}"#, 422, "unknown field"),
            ("POST", "/v1/traffic/resume", r#"{"source":"a","by":"ann"}"#, 200, "source: Some("),
            ("POST", "/v1/traffic/resume", "", 400, "EOF"),
        ] {
            let (got, text) = served.text(method, path, body).await;
            assert!(got == status && text.contains(want), "{method} {path} {body}: {got} {text}");
        }
        served.stop().await;
    });
}

#[test]
fn a_socket_that_a_crash_left_behind_is_replaced() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        drop(std::os::unix::net::UnixListener::bind(dir.path().join(http::SOCKET_NAME)).unwrap());
        assert_eq!(command(dir.path(), "queue list").await.1, ExitCode::from(69));
        let served = Served::start_in(dir).await;
        assert_eq!(served.command("queue list").await.1, ExitCode::SUCCESS);
        served.stop().await;
    });
}

#[test]
fn a_spool_is_checked_copied_rebuilt_and_restored_by_command() {
    run(async {
        let served = Served::start().await;
        let id = put(&served.queue, &["a@y.example"]).await;
        let base = tempfile::tempdir().unwrap();
        let (running, stopped) = (base.path().join("running"), base.path().join("stopped"));
        let (text, exit) = served.command("spool check").await;
        assert!(exit == ExitCode::SUCCESS && text.ends_with("Nothing is damaged.\n"), "{text}");
        let (text, exit) = served.command(&format!("spool backup {}", running.display())).await;
        assert!(exit == ExitCode::SUCCESS && text.starts_with("The spool was copied to "), "{text}");
        let (text, exit) = served.command("spool rebuild").await;
        assert!(exit == ExitCode::FAILURE && text.contains("stop it first"), "{text}");
        let (text, exit) = served.command(&format!("spool restore {}", running.display())).await;
        assert!(exit == ExitCode::FAILURE && text.contains("move it away first"), "{text}");

        let dir = served.stop().await;
        let (text, exit) = command(dir.path(), "spool rebuild").await;
        assert!(exit == ExitCode::SUCCESS && text.contains(": 1 envelopes wait, 0 records"), "{text}");
        let (text, exit) = command(dir.path(), &format!("spool backup {}", stopped.display())).await;
        assert!(exit == ExitCode::SUCCESS, "{text}");
        for copy in [running, stopped] {
            std::fs::remove_dir_all(dir.path().join("spool")).unwrap();
            assert_eq!(command(dir.path(), "spool check").await.1, ExitCode::FAILURE);
            let (text, exit) = command(dir.path(), &format!("spool restore {}", copy.display())).await;
            assert!(exit == ExitCode::SUCCESS, "{text}");
            // The index is still there and of this very spool, or it is rebuilt.
            let queue = kit::open(dir.path());
            assert_eq!(queue.waiting().map(|row| row.id).collect::<Vec<_>>(), [id]);
            queue.close();
        }
    });
}
