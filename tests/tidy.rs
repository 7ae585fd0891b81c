//! The house rules that a compiler does not check: who may import whom (`docs/ARCHITECTURE.md`, "Floors"), which room may
//! name which outside crate, and that every file says what it is. Also prints the longest functions and files, for eyes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A module of `src/`: its floor, and the outside crates that it may name beside those that every room may.
struct Room {
    name: &'static str,
    floor: u8,
    crates: &'static [&'static str],
}

const fn room(name: &'static str, floor: u8, crates: &'static [&'static str]) -> Room {
    Room { name, floor, crates }
}

/// The floors, as data.
const ROOMS: &[Room] = &[
    room("mail", 0, &["compact_str", "idna"]),
    room("metrics", 0, &[]),
    room("size", 0, &[]),
    room("time", 0, &["jiff"]),
    room("classify", 1, &["regex", "toml"]),
    room("message", 1, &["base64", "mail_parser", "serde_json", "sha2"]),
    room("postfix", 1, &["strsim"]),
    room("report", 1, &["base64", "mail_parser"]),
    room("retry", 1, &[]),
    room("rewrite", 1, &["fancy_regex"]),
    room("route", 1, &[]),
    room("smtp", 1, &["base64", "smtp_proto"]),
    room("token", 1, &["hmac", "sha2"]),
    room("evidence", 2, &["crc32fast"]),
    room("rates", 2, &[]),
    room("traffic", 2, &[]),
    room("certificate", 3, &["rcgen"]),
    room("clock", 3, &[]),
    room(
        "credential",
        3,
        &[
            "arc_swap",
            "argon2",
            "base64",
            "getrandom",
            "hmac",
            "serde",
            "serde_json",
            "sha2",
            "subtle",
            "tokio",
            "tracing",
        ],
    ),
    room("history", 3, &["crc32fast", "getrandom", "serde", "serde_json", "tracing"]),
    room("lines", 3, &["tracing", "tracing_subscriber"]),
    room("maillog", 3, &["tracing"]),
    room("dns", 3, &["fastrand", "hickory_resolver", "tokio", "tracing"]),
    room(
        "signer",
        3,
        &[
            "arc_swap",
            "base64",
            "crc32fast",
            "getrandom",
            "mail_auth",
            "mail_parser",
            "rcgen",
            "rustix",
            "rustls_pki_types",
            "sha2",
            "tokio",
            "tracing",
        ],
    ),
    room("spool", 3, &["crc32fast", "getrandom", "rustix", "tokio", "tracing"]),
    room("store", 3, &["crc32fast", "sled", "tracing"]),
    room(
        "tls",
        3,
        &[
            "arc_swap",
            "mail_send",
            "rustls",
            "rustls_native_certs",
            "rustls_pki_types",
            "tokio",
            "tokio_rustls",
            "tracing",
        ],
    ),
    room("users", 3, &[]),
    room("alarm", 4, &["tracing"]),
    room("events", 4, &["tracing", "serde"]),
    room("harm", 4, &["arc_swap", "getrandom", "tokio", "tracing"]),
    room("ledger", 4, &["tracing"]),
    room("queue", 4, &["tokio", "tracing"]),
    room("suppression", 4, &["arc_swap", "crc32fast", "getrandom", "serde_json", "tokio", "tracing"]),
    room("accept", 5, &["arc_swap", "fastrand", "getrandom", "tokio", "tracing"]),
    room(
        "delivery",
        6,
        &["arc_swap", "base64", "fastrand", "mail_send", "socket2", "tokio", "tokio_rustls", "tracing"],
    ),
    room(
        "submission",
        6,
        &["arc_swap", "fastrand", "ipnet", "rustix", "rustls", "socket2", "tokio", "tokio_rustls", "tracing"],
    ),
    room("pickup", 6, &["arc_swap", "postrider_drop", "rustix", "tokio", "tracing"]),
    room("http", 7, &["axum", "http_body_util", "serde", "serde_json", "tokio", "tracing"]),
    room(
        "sandbox",
        7,
        &["base64", "fastrand", "rcgen", "rustls", "rustls_pki_types", "tokio", "tokio_rustls", "tracing"],
    ),
    room("scheduler", 7, &["fastrand", "serde", "serde_json", "tokio", "tracing"]),
    room("showq", 7, &["arc_swap", "postrider_drop", "rustix", "serde", "serde_json", "tokio", "tracing"]),
    room("unsubscribe", 7, &["arc_swap", "axum", "hyper", "hyper_util", "tokio", "tokio_rustls", "tracing"]),
    room("app", 8, ANY),
    room("cli", 8, ANY),
    room("config", 8, ANY),
    room("main", 8, ANY),
];

/// What even the words of floor 0 are made of.
const GROUND: &[&str] = &["size", "time"];
/// Words that any room may use: `bytes` and `thiserror` make types, `memchr` finds a byte.
const EVERYWHERE: &[&str] = &["bytes", "memchr", "thiserror"];
/// The roof may name whatever it composes.
const ANY: &[&str] = &["*"];
/// Floors 0 to 2 take time, chance and the world as arguments.
const IMPURE: &[&str] =
    &["async fn", ".await", "SystemTime", "Instant::now", "std::fs", "std::net::Tcp", "std::thread", "fastrand"];

#[test]
fn no_room_imports_upward_or_sideways() {
    let mut breaches = Vec::new();
    for (path, text) in sources() {
        let Some(own) = room_of(&path) else { continue };
        for (line, used) in crate_paths(&text) {
            let Some(other) = ROOMS.iter().find(|room| room.name == used) else { continue };
            // The roof composes the house, and its rooms each other.
            let on_the_roof = own.floor == 8 && other.floor == 8;
            if other.name != own.name && other.floor >= own.floor && !GROUND.contains(&other.name) && !on_the_roof {
                breaches.push(format!(
                    "{}:{line}: floor {} `{}` names floor {} `{used}`",
                    path.display(),
                    own.floor,
                    own.name,
                    other.floor
                ));
            }
        }
    }
    assert!(breaches.is_empty(), "imports must point down:\n{}", breaches.join("\n"));
}

#[test]
fn an_outside_crate_is_named_only_in_its_rooms() {
    let dependencies = dependencies();
    assert!(dependencies.len() > 20, "Cargo.toml was not understood: {dependencies:?}");
    let mut breaches = Vec::new();
    for (path, text) in sources() {
        let Some(own) = room_of(&path) else { continue };
        if own.crates == ANY {
            continue;
        }
        for (number, line) in code_lines(&text) {
            for dependency in &dependencies {
                let allowed = EVERYWHERE.contains(&dependency.as_str()) || own.crates.contains(&dependency.as_str());
                if !allowed && names_crate(line, dependency) {
                    breaches.push(format!("{}:{number}: `{}` names the crate {dependency}", path.display(), own.name));
                }
            }
        }
    }
    assert!(breaches.is_empty(), "a wrapper per outside thing:\n{}", breaches.join("\n"));
}

#[test]
fn floors_of_rules_and_reason_are_pure() {
    let mut breaches = Vec::new();
    for (path, text) in sources() {
        let Some(own) = room_of(&path).filter(|room| room.floor <= 2) else { continue };
        for (number, line) in code_lines(&text) {
            for impure in IMPURE.iter().filter(|word| line.contains(**word)) {
                breaches.push(format!("{}:{number}: `{}` is pure, and has {impure}", path.display(), own.name));
            }
        }
    }
    assert!(breaches.is_empty(), "take it as an argument:\n{}", breaches.join("\n"));
}

#[test]
fn every_file_says_what_it_is() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = files_below(&root.join("src"));
    files.extend(files_below(&root.join("tests/it")));
    let silent: Vec<_> = files
        .iter()
        .filter(|path| !fs::read_to_string(path).unwrap_or_default().starts_with("//!"))
        .map(|path| path.display().to_string())
        .collect();
    assert!(silent.is_empty(), "begin with `//!`:\n{}", silent.join("\n"));
}

#[test]
fn every_room_stands_on_a_floor() {
    for (path, _) in sources() {
        let name = top_name(&path);
        assert!(name == "lib" || room_of(&path).is_some(), "`{name}` is missing in the table of tests/tidy.rs");
    }
    // For eyes, not a limit: run with --nocapture.
    let mut longest = BTreeMap::new();
    for (path, text) in sources() {
        longest.insert(std::cmp::Reverse(text.lines().count()), path);
    }
    for (lines, path) in longest.iter().take(10) {
        println!("{:5} lines  {}", lines.0, path.display());
    }
}

/// Every file of `src/`, relative to it, with its text up to the unit tests.
fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = files_below(&root);
    assert!(files.len() > 20, "src/ was not found");
    let relative = |path: &PathBuf| path.strip_prefix(&root).map(Path::to_path_buf).unwrap_or_default();
    files
        .iter()
        .filter(|path| !path.ends_with("tests.rs"))
        .map(|path| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let code = text.split("\n#[cfg(test)]\n").next().unwrap_or_default().to_owned();
            (relative(path), code)
        })
        .collect()
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        match path.is_dir() {
            true => found.extend(files_below(&path)),
            false if path.extension().is_some_and(|e| e == "rs") => found.push(path),
            false => {}
        }
    }
    found.sort();
    found
}

fn top_name(path: &Path) -> String {
    let first = path.components().next().map(|c| c.as_os_str().to_string_lossy().into_owned()).unwrap_or_default();
    first.trim_end_matches(".rs").to_owned()
}

fn room_of(path: &Path) -> Option<&'static Room> {
    let name = top_name(path);
    ROOMS.iter().find(|room| room.name == name)
}

fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let numbered = text.lines().enumerate().map(|(at, line)| (at + 1, line));
    numbered.filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// The first path segments after `crate::`, also of `use crate::{a::…, b::…}`.
fn crate_paths(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in code_lines(text) {
        for (at, _) in line.match_indices("crate::") {
            let rest = &line[at + "crate::".len()..];
            let names: Vec<&str> = match rest.strip_prefix('{') {
                Some(group) => group.trim_end_matches([';', '}']).split(',').map(str::trim).collect(),
                None => vec![rest],
            };
            for name in names {
                let word: String = name.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                found.push((number, word));
            }
        }
    }
    found
}

fn dependencies() -> Vec<String> {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap_or_default();
    let section = manifest.split("[dependencies]").nth(1).and_then(|rest| rest.split("\n[").next()).unwrap_or_default();
    let names = section.lines().filter_map(|line| line.split_once(" =")).map(|(name, _)| name.trim());
    names.filter(|name| !name.starts_with('#')).map(|name| name.replace('-', "_")).collect()
}

/// Whether a line of code has the crate as the head of a path: `sled::`, `use sled;`, not `crate::sled::`.
fn names_crate(line: &str, name: &str) -> bool {
    line.match_indices(name).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = &line[at + name.len()..];
        let starts = !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '.');
        let is_use = line.trim_start().starts_with("use ") && (after.starts_with(';') || after.starts_with(" as"));
        starts && (after.starts_with("::") || is_use)
    })
}

#[test]
fn the_rules_see_what_they_should() {
    let text = "use crate::{queue::Lease, spool};\nlet x = crate::mail::Reply::new(1);\n// crate::app\n";
    let names: Vec<String> = crate_paths(text).into_iter().map(|(_, name)| name).collect();
    assert_eq!(names, ["queue", "spool", "mail"]);
    assert!(names_crate("let db = sled::open(path);", "sled"));
    assert!(names_crate("use tokio::io;", "tokio"));
    assert!(!names_crate("self.sled::x", "sled"));
    assert!(!names_crate("use crate::store::sled;", "sled"));
    assert!(!names_crate("unbounded::x", "bounded"));
}
