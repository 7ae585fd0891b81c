//! Logging in over sockets.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use postrider::credential::CredentialFile;
use postrider::submission::Settings;
use postrider::time::Timestamp;

use super::server::{Daemon, all_modes};

fn settings() -> Settings {
    Settings { login_failure_delay: Duration::from_millis(50), ..Settings::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_in_clear_is_taken_on_loopback() {
    let daemon = Daemon::start(all_modes(), settings());
    let mut client = daemon.client(0).await;
    let offers = client.say("EHLO a").await;
    // The certificate has an issuer: STARTTLS is offered beside it.
    assert!(offers.contains("250-AUTH PLAIN LOGIN\r\n") && offers.contains("250-STARTTLS\r\n"), "{offers}");
    assert!(client.say("AUTH PLAIN AHNob3AAc2VjcmV0").await.starts_with("235 2.7.0 "));
    client.envelope().await;
    assert!(client.say("x\r\n.").await.starts_with("250 2.0.0 Ok: queued as "));
    let kept = daemon.gate.kept.lock().unwrap();
    assert_eq!(kept[0].origin.protocol, "ESMTPA");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_key_logs_in_as_apikey() {
    let daemon = Daemon::start(all_modes(), settings());
    let file = CredentialFile::open(daemon.keys.path().join("credentials.json")).unwrap();
    let key = file.create("shop", "", Timestamp::from_secs(1_800_000_000)).unwrap().to_string();
    let mut client = daemon.client(0).await;
    client.say("EHLO a").await;
    // The daemon looks for a changed file once a second.
    let began = Instant::now();
    loop {
        use base64::Engine;
        let login = base64::engine::general_purpose::STANDARD.encode(format!("\0apikey\0{key}"));
        let answer = client.say(&format!("AUTH PLAIN {login}")).await;
        if answer.starts_with("235 ") {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(10), "{answer}");
        client = daemon.client(0).await;
        client.say("EHLO a").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_wait_longer_each_session_and_the_session_goes_on() {
    let daemon = Daemon::start(all_modes(), settings());
    for (session, least) in [50, 100, 200].into_iter().enumerate() {
        let mut client = daemon.client(1).await;
        client.say("EHLO a").await;
        let began = Instant::now();
        let answer = client.say("AUTH PLAIN AHNob3AAd3Jvbmc=").await;
        assert_eq!(answer, "535 5.7.8 Error: authentication failed: name or password is wrong\r\n");
        assert!(began.elapsed() >= Duration::from_millis(least), "session {session}");
        // As Go takes its leave.
        assert!(client.say("*").await.starts_with("500 5.5.1 "));
        if session == 2 {
            assert!(client.say("AUTH PLAIN AHNob3AAc2VjcmV0").await.starts_with("235 "), "the right one still works");
        }
        assert_eq!(client.say("QUIT").await, "221 2.0.0 Bye\r\n");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspended_credential_is_told_so_at_once_and_guesses_nothing() {
    let slow = Settings { login_failure_delay: Duration::from_secs(60), ..Settings::default() };
    let daemon = Daemon::start(all_modes(), slow);
    daemon.gate.suspended.store(true, Ordering::Relaxed);
    let mut client = daemon.client(1).await;
    client.say("EHLO a").await;
    // As often as ends a session of who guesses, and each would wait for a minute.
    for _ in 0..6 {
        assert_eq!(client.say("AUTH PLAIN AHNob3AAc2VjcmV0").await, "535 5.7.8 This credential is suspended\r\n");
    }
    assert!(client.say("MAIL FROM:<a@b.example>").await.starts_with("530 5.7.0 "), "nobody is logged in");
    daemon.gate.suspended.store(false, Ordering::Relaxed);
    assert!(client.say("AUTH PLAIN AHNob3AAc2VjcmV0").await.starts_with("235 "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_credential_switched_off_sends_nothing_more_in_a_session_of_its_own() {
    let daemon = Daemon::start(all_modes(), settings());
    let mut client = daemon.sender(1).await;
    assert_eq!(client.say("MAIL FROM:<a@b.example>").await, "250 2.1.0 Ok\r\n");
    let file = CredentialFile::open(daemon.keys.path().join("credentials.json")).unwrap();
    file.disable("shop").unwrap();
    // The daemon looks for a changed file once a second.
    let began = Instant::now();
    loop {
        client.say("RSET").await;
        let answer = client.say("MAIL FROM:<a@b.example>").await;
        if answer == "535 5.7.8 This credential is no longer valid\r\n" {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(10), "{answer}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
