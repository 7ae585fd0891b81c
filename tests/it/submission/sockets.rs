//! The same rules over real sockets, and what only sockets have: TLS, time, crowds, and the end of the daemon.

use std::time::{Duration, Instant};

use postrider::size::ByteSize;
use postrider::smtp::data::is_normal;
use postrider::submission::{Limits, Mode, Settings};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::server::{Client, Daemon, LONGEST, all_modes, listener};
use super::smuggling::{payload, wrong_ends};

/// How octets are cut into writes.
#[derive(Clone, Copy, Debug)]
enum Pieces {
    Whole,
    Halves,
    Octets,
}

async fn send_in(client: &mut Client, octets: &[u8], pieces: Pieces) {
    match pieces {
        Pieces::Whole => client.send(octets).await,
        Pieces::Halves => {
            let (first, second) = octets.split_at(octets.len() / 2);
            client.send(first).await;
            client.send(second).await;
        }
        Pieces::Octets => {
            for octet in octets {
                client.send(&[*octet]).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_wrong_end_of_data_makes_two_messages_on_any_listener() {
    let limits = Limits { errors_max: 10_000, ..Limits::default() };
    let daemon = Daemon::start(all_modes(), Settings { limits, ..Settings::default() });
    for listener in 0..3 {
        for pieces in [Pieces::Whole, Pieces::Halves, Pieces::Octets] {
            let mut client = daemon.sender(listener).await;
            for end in wrong_ends() {
                let what = format!("{} on {listener}, {pieces:?}", end.escape_ascii());
                let before = daemon.kept();
                client.envelope().await;
                send_in(&mut client, &payload(&end), pieces).await;
                let answer = client.reply().await;
                let new = daemon.kept() - before;
                let kept = answer.starts_with("250 2.0.0 Ok: queued as ") && new == 1;
                assert!(kept || answer.starts_with("550 5.6.0 ") && new == 0, "{what}: {answer}");
                assert_eq!(client.say("NOOP").await, "250 2.0.0 Ok\r\n", "{what}: out of step");
            }
        }
    }
    let kept = daemon.gate.kept.lock().unwrap();
    assert!(kept.len() > 400 && kept.iter().all(|submission| is_normal(&submission.message)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_arrives_whole_with_where_it_came_from() {
    let daemon = Daemon::start(all_modes(), Settings::default());
    let body = format!("Subject: x\r\n\r\n{}", "0123456789abcdef\r\n".repeat(100_000));
    for (listener, protocol, credential) in
        [(0, "ESMTPSA", Some("shop")), (1, "ESMTPSA", Some("shop")), (2, "ESMTP", None)]
    {
        let mut client = daemon.sender(listener).await;
        client.envelope().await;
        client.send(body.as_bytes()).await;
        assert_eq!(client.say(".").await, format!("250 2.0.0 Ok: queued as 00000000000{}\r\n", listener + 1));
        assert_eq!(client.say("QUIT").await, "221 2.0.0 Bye\r\n");
        assert_eq!(client.rest().await, "");
        let kept = daemon.gate.kept.lock().unwrap();
        let submission = kept.last().unwrap();
        assert_eq!(submission.message, body.as_bytes());
        assert_eq!(submission.origin.protocol, protocol);
        assert_eq!(submission.origin.credential.as_deref(), credential);
        assert_eq!(submission.origin.tls.is_some(), listener < 2);
        assert!(submission.origin.tls.as_deref().is_none_or(|tls| tls.starts_with("TLSv1.3 with cipher TLS_")));
        assert_eq!(&*submission.origin.hello, "a.example");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_that_the_gate_refuses_is_refused_at_mail() {
    let daemon = Daemon::start(all_modes(), Settings::default());
    let mut client = daemon.sender(2).await;
    assert_eq!(client.say("MAIL FROM:<evil@b.example>").await, "550 5.7.1 not yours\r\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plaintext_behind_starttls_is_never_answered_under_tls() {
    let daemon = Daemon::start(all_modes(), Settings::default());
    for injected in ["NOOP\r\n", "EHLO x\r\n", "MAIL FROM:<a@b.example>\r\n", "x"] {
        // In one segment.
        let mut client = daemon.client(0).await;
        client.say("EHLO a").await;
        let answer = client.say(&format!("STARTTLS\r\n{}", injected.trim_end())).await;
        assert!(answer.starts_with("554 5.5.0 "), "{injected}: {answer}");
        assert_eq!(client.rest().await, "");
        // In a segment of its own, before the handshake: refused, or taken for a handshake that fails.
        let mut client = daemon.client(0).await;
        client.say("EHLO a").await;
        client.send(b"STARTTLS\r\n").await;
        client.send(injected.as_bytes()).await;
        let _ = client.stream.shutdown().await;
        let mut answers = Vec::new();
        let read = tokio::io::AsyncReadExt::read_to_end(&mut client.stream, &mut answers);
        let _ = tokio::time::timeout(LONGEST, read).await.expect("the session ends");
        let answers = answers.escape_ascii().to_string();
        assert!(!answers.contains("250 ") && !answers.contains("501 "), "{injected}: {answers}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_talks_before_the_greeting_is_sent_away() {
    let settings = Settings { greeting_delay: Duration::from_secs(5), ..Settings::default() };
    let daemon = Daemon::start(all_modes(), settings);
    let mut stream = TcpStream::connect(daemon.address(2)).await.unwrap();
    stream.write_all(b"EHLO a\r\n").await.unwrap();
    let answer = Client::new(Box::new(stream)).rest().await;
    assert!(answer.starts_with("554 5.5.0 ") && !answer.contains("250"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_has_its_time_as_a_whole() {
    let settings = Settings { command_timeout: Duration::from_millis(300), ..Settings::default() };
    let daemon = Daemon::start(all_modes(), settings);
    let mut client = daemon.sender(2).await;
    let began = Instant::now();
    // An octet every now and then keeps no session alive.
    let mut writes = 0;
    let answer = loop {
        if client.stream.write_all(b"N").await.is_err() {
            break client.rest().await;
        }
        writes += 1;
        assert!(writes < 200, "it never ends");
        if let Ok(answer) = tokio::time::timeout(Duration::from_millis(20), client.reply()).await {
            break answer;
        }
    };
    assert_eq!(answer, "421 4.4.2 relay.example Error: timeout exceeded\r\n");
    assert!(began.elapsed() < Duration::from_secs(3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_time_of_a_long_message_is_not_taken_from_the_next_command() {
    let settings = Settings { command_timeout: Duration::from_millis(500), ..Settings::default() };
    let daemon = Daemon::start(all_modes(), settings);
    let mut client = daemon.sender(2).await;
    client.envelope().await;
    for _ in 0..14 {
        client.stream.write_all(b"x\r\n").await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    client.stream.write_all(b".\r\n").await.unwrap();
    assert!(client.reply().await.starts_with("250 2.0.0 Ok: queued as "));
    assert_eq!(client.say("NOOP").await, "250 2.0.0 Ok\r\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_must_keep_its_pace() {
    let settings =
        Settings { data_timeout: Duration::from_millis(300), data_rate_min: 1_000_000, ..Settings::default() };
    let daemon = Daemon::start(all_modes(), settings);
    let mut client = daemon.sender(2).await;
    client.envelope().await;
    let mut writes = 0;
    let answer = loop {
        let _ = client.stream.write_all(b"x\r\n").await;
        writes += 1;
        assert!(writes < 200, "it never ends");
        if let Ok(answer) = tokio::time::timeout(Duration::from_millis(20), client.reply()).await {
            break answer;
        }
    };
    assert_eq!(answer, "421 4.4.2 relay.example Error: timeout exceeded\r\n");
    assert_eq!(daemon.kept(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_are_counted_and_trusted_networks_are_not() {
    let settings = Settings { connections_per_client_max: 2, ..Settings::default() };
    let listeners = vec![listener(Mode::Submission, &[]), listener(Mode::Smtp, &["127.0.0.1/32"])];
    let daemon = Daemon::start(listeners, settings);
    let mut one = daemon.client(0).await;
    let _two = daemon.client(0).await;
    let refused = || async {
        let stream = TcpStream::connect(daemon.address(0)).await.unwrap();
        Client::new(Box::new(stream)).rest().await
    };
    assert_eq!(refused().await, "421 4.7.0 relay.example Error: too many connections\r\n");
    let _three = daemon.client(1).await;
    let _four = daemon.client(1).await;
    one.say("QUIT").await;
    drop(one);
    // The place comes free when the server has noticed.
    let began = Instant::now();
    loop {
        let stream = TcpStream::connect(daemon.address(0)).await.unwrap();
        if Client::new(Box::new(stream)).reply().await.starts_with("220 ") {
            break;
        }
        assert!(began.elapsed() < LONGEST);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_share_one_budget_of_memory() {
    let limits = Limits { message_size_max: 4 << 20, ..Limits::default() };
    let settings = Settings {
        limits,
        body_memory_max: ByteSize::mib(12),
        body_memory_wait: Duration::from_millis(200),
        ..Settings::default()
    };
    let daemon = Daemon::start(all_modes(), settings);
    let text = [b"\r\n".to_vec(), vec![b'x'; 3 << 20], b"\r\n.\r\n".to_vec()].concat();
    // Nothing is accepted for now: each message keeps its memory, until one finds no room.
    daemon.gate.permits.forget_permits(usize::MAX);
    let (mut waiting, mut refused) = (Vec::new(), Vec::new());
    for _ in 0..6 {
        let mut client = daemon.sender(2).await;
        client.envelope().await;
        client.send(&text).await;
        tokio::select! {
            asked = daemon.gate.asked.acquire() => {
                asked.unwrap().forget();
                waiting.push(client);
            }
            answer = client.reply() => {
                assert_eq!(answer, "452 4.3.1 Too many messages are being received: try again later\r\n");
                refused.push(client);
            }
        }
    }
    assert!(waiting.len() >= 3 && !refused.is_empty(), "{} waiting, {} refused", waiting.len(), refused.len());
    daemon.gate.permits.add_permits(100);
    for client in &mut waiting {
        assert!(client.reply().await.starts_with("250 2.0.0 "));
    }
    // All is given back.
    for client in waiting.iter_mut().chain(&mut refused) {
        client.envelope().await;
        client.send(&text).await;
        let answer = client.reply().await;
        assert!(answer.starts_with("250 2.0.0 "), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_lets_a_transaction_end_and_sends_the_idle_away() {
    let daemon = Daemon::start(all_modes(), Settings::default());
    let mut idle = daemon.sender(1).await;
    let mut busy = daemon.sender(2).await;
    busy.envelope().await;
    busy.send(b"x\r\n").await;
    let (address, gate) = (daemon.address(2), daemon.gate.clone());
    let drained = tokio::spawn(daemon.server.drain(LONGEST));
    assert_eq!(idle.rest().await, "421 4.3.2 relay.example Service is stopping; try again soon\r\n");
    assert!(busy.say(".").await.starts_with("250 2.0.0 "));
    assert_eq!(busy.rest().await, "421 4.3.2 relay.example Service is stopping; try again soon\r\n");
    assert!(drained.await.unwrap(), "all were gone in time");
    assert_eq!(gate.kept.lock().unwrap().len(), 1);
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_changes_what_new_clients_may_do() {
    let mut daemon = Daemon::start(vec![listener(Mode::Smtp, &[])], Settings::default());
    let rcpt = |mut client: Client| async move {
        client.say("EHLO a").await;
        client.say("MAIL FROM:<a@b.example>").await;
        client.say("RCPT TO:<c@d.example>").await
    };
    assert_eq!(rcpt(daemon.client(0).await).await, "554 5.7.1 <c@d.example>: Relay access denied\r\n");
    daemon.plan.listeners = vec![listener(Mode::Smtp, &["127.0.0.0/8"])];
    assert_eq!(daemon.server.reload(&daemon.plan), Vec::<String>::new());
    assert_eq!(rcpt(daemon.client(0).await).await, "250 2.1.5 Ok\r\n");
    daemon.plan.listeners = vec![listener(Mode::Submission, &[])];
    assert_eq!(daemon.server.reload(&daemon.plan).len(), 2, "one gone, one new");
}
