//! The command: files, modes, exit codes; nothing is overwritten, and nothing is written where something is refused.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use super::root;

fn run(arguments: &[&str]) -> Output {
    let binary = env!("CARGO_BIN_EXE_postrider");
    Command::new(binary).args(["import", "postfix"]).args(arguments).output().expect("postrider")
}

/// The case's directory with a master.cf beside its main.cf.
fn prepared(case: &str, into: &Path) {
    let (main, master) = super::texts(case);
    std::fs::write(into.join("main.cf"), main).expect("main.cf");
    std::fs::write(into.join("master.cf"), master).expect("master.cf");
}

#[test]
fn a_config_is_written_whole_once_and_loads() {
    let from = tempfile::tempdir().expect("a directory");
    prepared("d-sendgrid", from.path());
    let out = from.path().join("out");
    let (dir, target) = (from.path().to_str().expect("a path"), out.to_str().expect("a path"));
    let dry = run(&[dir, "--out", target, "--dry-run"]);
    assert_eq!(dry.status.code(), Some(0), "{}", String::from_utf8_lossy(&dry.stderr));
    assert!(!out.exists());
    let done = run(&[dir, "--out", target, "--json"]);
    assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stderr));
    let json: serde_json::Value = serde_json::from_slice(&done.stdout).expect("JSON");
    assert_eq!((json["written"].as_bool(), json["counts"]["refused"].as_u64()), (Some(true), Some(0)));
    let mode = |path: &str| std::fs::metadata(out.join(path)).expect(path).permissions().mode() & 0o777;
    assert_eq!(mode("passwords/smtp.sendgrid.net-apikey"), 0o600);
    assert_eq!((mode("postrider.toml"), mode("import.txt")), (0o640, 0o640));
    let check = Command::new(env!("CARGO_BIN_EXE_postrider"))
        .args(["-c", out.join("postrider.toml").to_str().expect("a path"), "check"])
        .output()
        .expect("postrider");
    assert_eq!(check.status.code(), Some(0), "{}", String::from_utf8_lossy(&check.stderr));
    let again = run(&[dir, "--out", target]);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("is there already"));
    std::fs::write(out.join("postrider.toml"), "mine").expect("the config");
    let over = run(&[dir, "--out", target, "--replace"]);
    assert_eq!(over.status.code(), Some(0), "{}", String::from_utf8_lossy(&over.stderr));
    let text = |path: &str| std::fs::read_to_string(out.join(path)).expect(path);
    assert_eq!(text("postrider.toml.before"), "mine");
    assert!(text("postrider.toml").contains("smtp.sendgrid.net"));
}

#[test]
fn another_config_file_than_that_of_the_system_is_no_place_to_write_to() {
    // -c names what other commands read. Who gives it here means --out, and shall not find /etc/postrider replaced.
    let from = tempfile::tempdir().expect("a directory");
    prepared("d-sendgrid", from.path());
    let (out, config) = (from.path().join("out"), from.path().join("mine.toml"));
    let [dir, target, config] = [from.path(), &out, &config].map(|path| path.to_str().expect("a path"));
    for arguments in [&[dir, "-c", config, "--out", target][..], &[dir, "-c", config, "--dry-run"]] {
        let output = run(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.contains("--out DIR"), "{said}");
        assert!(!out.exists());
    }
}

#[test]
fn what_was_there_comes_back_where_the_new_config_has_errors() {
    let from = tempfile::tempdir().expect("a directory");
    prepared("d-sendgrid", from.path());
    let out = from.path().join("out");
    std::fs::create_dir_all(out.join("passwords")).expect("a directory");
    std::fs::write(out.join("postrider.toml"), "mine").expect("the config");
    // A directory where a file has to go.
    std::fs::create_dir_all(out.join("import.txt.before/full")).expect("a directory");
    std::fs::write(out.join("import.txt"), "an older report").expect("the report");
    let (dir, target) = (from.path().to_str().expect("a path"), out.to_str().expect("a path"));
    let failed = run(&[dir, "--out", target, "--replace"]);
    assert_eq!(failed.status.code(), Some(1), "{}", String::from_utf8_lossy(&failed.stderr));
    assert!(String::from_utf8_lossy(&failed.stderr).contains("import.txt cannot be moved"));
    assert_eq!(std::fs::read_to_string(out.join("postrider.toml")).expect("the config"), "mine");
}

#[test]
fn a_name_to_allow_that_was_not_refused_is_an_error_that_names_near_ones() {
    let from = tempfile::tempdir().expect("a directory");
    prepared("d-sendgrid", from.path());
    let main = from.path().join("main.cf");
    let text = std::fs::read_to_string(&main).expect("main.cf") + "content_filter = x:y\nbody_checks = regexp:/x\n";
    std::fs::write(&main, text).expect("main.cf");
    let out = from.path().join("out");
    let (dir, target) = (from.path().to_str().expect("a path"), out.to_str().expect("a path"));
    let allowed = |names: &[&str]| {
        let allow = names.iter().flat_map(|name| ["--allow", name]);
        let arguments: Vec<&str> = [dir, "--out", target].into_iter().chain(allow).collect();
        let output = run(&arguments);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned(), out.exists())
    };
    for (names, words) in [
        (&["content_filter", "body_chekcs"][..], "--allow body_chekcs: body_checks is refused, and this name is not"),
        (&["content_filter", "body_checks", "relayhost"], "--allow relayhost: it is not refused, but mapped"),
        (&["content_filter", "body_checks", "content-filter"], "--allow content-filter: content_filter is refused"),
        (&["content_filter", "body_checks", "no_such_thing"], "--allow no_such_thing: it is not refused, and not set"),
        (&["content_filter", "body_checks", ""], "--allow : it is not refused, and not set"),
    ] {
        let (code, said, is_written) = allowed(names);
        assert!((code, is_written) == (Some(1), false) && said.contains(words), "{names:?}: {code:?} {said}");
    }
    let (code, said, is_written) = allowed(&["content_filter", "body_checks"]);
    assert_eq!((code, said.as_str(), is_written), (Some(0), "", true));
}

#[test]
fn where_something_is_refused_nothing_is_written() {
    let from = tempfile::tempdir().expect("a directory");
    prepared("d-sendgrid", from.path());
    let main = from.path().join("main.cf");
    let text = std::fs::read_to_string(&main).expect("main.cf") + "content_filter = x:y\n";
    std::fs::write(&main, text).expect("main.cf");
    let out = from.path().join("out");
    let dir = from.path().to_str().expect("a path");
    let outcome = run(&[dir, "--out", out.to_str().expect("a path")]);
    assert_eq!(outcome.status.code(), Some(1));
    let shown = String::from_utf8_lossy(&outcome.stdout);
    assert!(shown.starts_with("refused (1)\n  content_filter "), "{shown}");
    assert!(!out.exists());
    let broken = std::fs::write(&main, "a b\n").map(|()| run(&[dir])).expect("main.cf");
    assert!(String::from_utf8_lossy(&broken.stderr).contains("main.cf, line 1"));
    assert!(root().is_dir());
}
