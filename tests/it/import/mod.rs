//! `postrider import postfix`: typical configs against their recorded outcome, refusals, Postfix's own answers, the command.

mod answers;
mod clients;
mod decisions;
mod outcomes;
pub mod peer;
mod peers;
mod refusals;
mod the_command_writes_all_or_nothing;
mod the_docs_show_the_table;

use std::path::{Path, PathBuf};

use postrider::postfix::{self, Import, Input};

/// The hash that stands for every password, so that outcomes are the same each time.
const HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$cG9zdHJpZGVyLWV4YW1wbGU$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// What operators are told of the differences.
const DOCS: &str = include_str!("../../../docs/FROM-POSTFIX.md");

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/postfix")
}

/// The services that Debian installs.
fn stock() -> String {
    std::fs::read_to_string(root().join("master.cf")).expect("master.cf")
}

fn cases() -> Vec<String> {
    let entries = std::fs::read_dir(root().join("cases")).expect("the cases");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// main.cf and master.cf of a case.
fn texts(case: &str) -> (String, String) {
    let directory = root().join("cases").join(case);
    let main = std::fs::read_to_string(directory.join("main.cf")).expect("main.cf");
    (main, std::fs::read_to_string(directory.join("master.cf")).unwrap_or_else(|_| stock()))
}

/// Imports a case; the files that it names are below its directory `files`.
fn import_case(case: &str) -> Import {
    let users = std::fs::read_to_string(root().join("cases").join(case).join("users")).ok();
    import_with(case, users.as_deref(), &|_| Ok(HASH.to_owned()))
}

/// The same with these users, and with hashes by which they can log in.
fn import_with(case: &str, users: Option<&str>, hash: &dyn Fn(&str) -> Result<String, String>) -> Import {
    let (main, master) = texts(case);
    let directory = root().join("cases").join(case);
    let read = |path: &str| {
        let file = directory.join("files").join(path.trim_start_matches('/'));
        std::fs::read_to_string(file).map_err(|_| "there is no such file".to_owned())
    };
    let opendkim = read("/etc/opendkim/opendkim.conf").ok();
    let input = Input {
        users,
        hash,
        opendkim: opendkim.as_deref().map(|text| ("/etc/opendkim/opendkim.conf", text)),
        ..input(&main, &master, &read)
    };
    postfix::import(&input).expect("a config that can be read")
}

fn input<'a>(main: &'a str, master: &'a str, read: &'a dyn Fn(&str) -> Result<String, String>) -> Input<'a> {
    Input {
        main,
        master,
        directory: "/etc/postfix",
        hostname: "host.example.com",
        read,
        hash: &|_| Ok(HASH.to_owned()),
        users: None,
        local_to: None,
        opendkim: None,
        allowed: &[],
    }
}
