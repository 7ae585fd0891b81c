//! Logs in short, and what they prove.

use super::super::row::{Closed, Connected, Dialed, Lost, Started};
use super::*;
use crate::mail::Text;
use crate::time::Timestamp;

/// A log in short, a line each:
///
/// ```text
///   limits SOURCE SITE CONNECTIONS NEW MESSAGES RECIPIENTS   (`-`: empty; a site `@x`: a domain's own)
///   dial|made|end CONNECTION SOURCE SITE MS
///   mail CONNECTION SOURCE SITE DOMAIN FROM_MS TO_MS RECIPIENTS
///   start CLEAN     lost ROWS     junk
/// ```
fn log(text: &str) -> Audit {
    let mut audit = Audit::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split(' ').collect();
        let text = |place: usize| Text::from(words[place].trim_start_matches('-').replace('+', " "));
        let number = |place: usize| words[place].parse::<u64>().unwrap();
        let (source, connection) = (text(words.len().min(3) - 1), || number(1));
        let fact = match words[0] {
            "limits" => Fact::Limits(Limits {
                source: text(1),
                site: if words[2].starts_with('@') { Text::default() } else { text(2) },
                domain: words[2].strip_prefix('@').unwrap_or_default().into(),
                connections: number(3),
                new_connections: text(4),
                messages: text(5),
                recipients: text(6),
            }),
            "dial" => Fact::Dialed(Dialed {
                connection: connection(),
                source,
                site: text(3),
                domain: "x".into(),
                dialed_ms: number(4),
            }),
            "made" => Fact::Connected(Connected {
                connection: connection(),
                source,
                site: text(3),
                connected_ms: number(4),
                ..Connected::default()
            }),
            "end" => Fact::Closed(Closed {
                connection: connection(),
                source,
                site: text(3),
                closed_ms: number(4),
                ..Closed::default()
            }),
            "mail" => Fact::Attempt(Attempt {
                connection: connection(),
                source,
                site: text(3),
                domain: text(4),
                mail_ms: number(5),
                done_ms: number(6),
                recipients: number(7),
                ..Attempt::default()
            }),
            "start" => Fact::Started(Started { clean: number(1), ..Started::default() }),
            "lost" => Fact::Lost(Lost { rows: number(1) }),
            "junk" => {
                audit.line("{\"event\":\"attempt\"");
                continue;
            }
            other => panic!("{other}"),
        };
        audit.line(&serde_json::to_string(&Row { at: Timestamp::ZERO, fact }).unwrap());
    }
    audit
}

/// `SOURCE SITE UNIT LIMIT/MS most AT` of a window that was used or passed.
fn shown(window: &Use) -> String {
    let holder = &window.holder;
    let source = if holder.source.is_empty() { "all" } else { &holder.source };
    let site = if holder.site.is_empty() { format!("@{}", holder.domain) } else { holder.site.clone() };
    format!(
        "{source} {site} {:?} {}/{} {} {}",
        window.unit, window.limit, window.per_ms, window.most, window.most_at_ms
    )
}

#[test]
fn windows_are_counted_as_strictly_as_a_peer_may() {
    let two_a_second = "limits a s 0 - 2/1s -\nstart 1\n";
    #[rustfmt::skip]
    let rows: [(&str, &str, &str, &[u64]); 12] = [
        ("a message leaves its window exactly a window's length after its reply",
            "mail 1 a s x 0 10 1\nmail 1 a s x 20 30 1\nmail 1 a s x 1010 1020 1", "a s Messages 2/1000 2 20", &[]),
        ("one millisecond sooner is too soon",
            "mail 1 a s x 0 10 1\nmail 1 a s x 20 30 1\nmail 1 a s x 1009 1020 1", "a s Messages 2/1000 3 1009", &[3, 4, 5]),
        ("what is under way occupies its window from MAIL on",
            "mail 1 a s x 0 5000 1\nmail 2 a s x 10 6000 1\nmail 3 a s x 4000 4001 1", "a s Messages 2/1000 3 4000", &[3, 4, 5]),
        ("the order of the lines is not that of the beginnings",
            "dial 1 a s 0\nmail 2 a s x 500 510 1\nmail 3 a s x 520 530 1\nmail 1 a s x 100 900 1", "a s Messages 2/1000 3 520", &[4, 5, 6]),
        ("another source has its own", "mail 1 b s x 0 1 1\nmail 1 b s x 1 2 1\nmail 1 b s x 3 4 1", "a s Messages 2/1000 0 0", &[]),
        ("another site has its own", "mail 1 a t x 0 1 1\nmail 1 a t x 1 2 1\nmail 1 a t x 3 4 1", "a s Messages 2/1000 0 0", &[]),
        ("all together have theirs",
            "limits - s 0 - 1/1s -\nmail 1 a s x 1 2 1\nmail 2 b s x 1000 1001 1", "all s Messages 1/1000 2 1000", &[4, 5]),
        ("a domain has its own over all sites",
            "limits a @x 0 - - 5/10s\nmail 1 a s x 1 2 3\nmail 2 a t x 9000 9001 3", "a @x Recipients 5/10000 6 9000", &[4, 5]),
        ("recipients weigh", "limits a s 0 - - 9/1s\nmail 1 a s x 1 2 5\nmail 1 a s x 3 4 4", "a s Recipients 9/1000 9 3", &[]),
        ("new connections count from the dial to the greeting",
            "limits a s 0 1/10s - -\ndial 1 a s 1\nmade 1 a s 500\nend 1 a s 600\ndial 2 a s 10400\nmade 2 a s 10500", "a s NewConnections 1/10000 2 10400", &[4, 7]),
        ("connections at once count to their end",
            "limits a s 1 - - -\ndial 1 a s 1\nend 1 a s 600\ndial 2 a s 700\ndial 3 a s 800", "a s ConnectionsAtOnce 1/0 2 800", &[6, 7]),
        ("a start ends all connections",
            "limits a s 1 - - -\ndial 1 a s 1\nstart 0\ndial 1 a s 700", "a s ConnectionsAtOnce 1/0 1 1", &[]),
    ];
    for (what, lines, want, proof) in rows {
        let found = log(&format!("{two_a_second}{lines}")).finish();
        let windows: Vec<String> = found.windows.iter().map(shown).collect();
        assert!(windows.iter().any(|window| window == want), "{what}: {windows:?}");
        let proved: Vec<&[u64]> = found.violations.iter().map(|violation| &*violation.lines).collect();
        let wanted: Vec<&[u64]> = if proof.is_empty() { vec![] } else { vec![proof] };
        assert_eq!(proved, wanted, "{what}");
        assert_eq!(found.is_whole(), proof.is_empty(), "{what}");
    }
}

#[test]
fn a_new_window_begins_with_what_the_old_one_knows() {
    let before = "limits a s 0 - 9/10s -\nmail 1 a s x 1000 1001 1\nmail 1 a s x 1002 1003 1\n";
    for (now, after, want) in [
        ("2/5s", "mail 1 a s x 6002 6003 1", "a s Messages 2/5000 2 6002"),
        ("2/5s", "mail 1 a s x 6000 6001 1", "a s Messages 2/5000 3 6000"),
        ("9/10s", "mail 1 a s x 3000 3001 1", "a s Messages 9/10000 3 3000"),
    ] {
        let found = log(&format!("{before}limits a s 0 - {now} -\n{after}")).finish();
        let windows: Vec<String> = found.windows.iter().map(shown).collect();
        assert!(windows.iter().any(|window| window == want), "{windows:?}");
    }
}

#[test]
fn what_the_lines_do_not_tell_is_said() {
    let found = log("start 1\nlost 7\njunk\ndial 1 a s 1\nmail 1 a s x 2 3 2\nstart 0").finish();
    assert_eq!((found.lost, found.lines_unread, found.cut_off, found.unlimited), (7, 1, 1, 2));
    assert_eq!((found.attempts, found.recipients, found.connections, found.lines), (1, 2, 1, 6));
    assert!(!found.is_whole());
}

/// The definition itself, slowly: at each beginning, all whose time has begun and not ended.
fn slowly(spans: &[(u64, u64, u64)], per_ms: u64) -> u64 {
    let at = |now: u64| {
        let held = spans.iter().filter(|(begin, end, _)| *begin <= now && now < end + per_ms);
        held.map(|(_, _, weight)| weight).sum()
    };
    spans.iter().map(|(begin, ..)| at(*begin)).max().unwrap_or(0)
}

#[test]
fn many_connections_are_counted_as_the_definition_says_and_one_too_many_is_found() {
    for seed in 0..60 {
        let mut random = fastrand::Rng::with_seed(seed);
        let per_ms = 1000 * random.u64(1..20);
        // Each connection carries one message behind the other; lines come in the order of ends.
        let mut spans = Vec::new();
        for connection in 0..random.u64(1..8) {
            let mut now = random.u64(0..500);
            for _ in 0..random.usize(1..120) {
                let begin = now + random.u64(0..300);
                let longest = if random.u8(0..20) == 0 { 60_000 } else { 200 };
                let end = begin + random.u64(0..longest);
                spans.push((connection, begin, end, random.u64(1..4)));
                now = end;
            }
        }
        spans.sort_by_key(|(_, _, end, _)| *end);
        let plain: Vec<(u64, u64, u64)> = spans.iter().map(|(_, begin, end, weight)| (*begin, *end, *weight)).collect();
        let most = slowly(&plain, per_ms);
        for (limit, passes) in [(most, false), (most - 1, true)] {
            let mut text = format!("limits a s 0 - - {limit}/{}s\n", per_ms / 1000);
            for (connection, ..) in &spans {
                text.push_str(&format!("dial {connection} a s 0\n"));
            }
            for (connection, begin, end, weight) in &spans {
                text.push_str(&format!("mail {connection} a s x {begin} {end} {weight}\n"));
            }
            let found = log(&text).finish();
            assert_eq!(found.windows[0].most, most, "seed {seed}");
            assert_eq!(found.violations_count > 0, passes, "seed {seed}");
            assert_eq!(found.late, 0, "seed {seed}");
        }
    }
}

#[test]
fn memory_is_bounded_by_the_windows_and_not_by_the_log() {
    let mut audit = log("limits a s 0 - 100/1s -\ndial 1 a s 0");
    for number in 0..50_000u64 {
        let fact = Fact::Attempt(Attempt {
            connection: 1,
            source: "a".into(),
            site: "s".into(),
            mail_ms: number * 20,
            done_ms: number * 20 + 5,
            recipients: 1,
            ..Attempt::default()
        });
        audit.row(&fact);
        let held: usize = audit
            .holders
            .values()
            .flat_map(|counts| &counts.units)
            .map(|counted| {
                counted.unsorted.len() + counted.windows.iter().map(|window| window.held.len()).sum::<usize>()
            })
            .sum();
        assert!(held <= 100 + 2 * SORTED_AT, "{held}");
    }
    assert_eq!(audit.finish().windows[0].most, 51);
}

#[test]
fn windows_are_written_as_they_are_read() {
    let all = [(2, Duration::from_secs(1)), (100, Duration::from_secs(3600)), (5, Duration::from_millis(1500))];
    let text = windows_text(all.into_iter());
    assert_eq!(text, "2/1s 100/3600s 5/1500ms");
    assert_eq!(parse_windows(&text), Some(vec![(2, 1000), (100, 3_600_000), (5, 1500)]));
    for bad in ["2", "2/1", "x/1s", "2/xs", "2/99999999999999999999s"] {
        assert_eq!(parse_windows(bad), None, "{bad}");
    }
}
