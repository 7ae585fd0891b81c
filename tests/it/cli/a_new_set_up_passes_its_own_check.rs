//! `init`, then `check`: what the one writes the other must find sound; and a mistake is told with its line and exit code.

use super::{postrider, said};

#[test]
fn a_new_set_up_passes_its_own_check_and_a_mistake_in_it_is_told_by_line() {
    let base = tempfile::tempdir().unwrap();
    let directory = base.path().join("etc");
    let (dir, data) = (directory.to_string_lossy(), base.path().join("data"));
    let init = postrider(&["init", "example.com", "--dir", &dir, "--data-dir", &data.to_string_lossy(), "--json"]);
    let told: serde_json::Value = serde_json::from_slice(&init.stdout).unwrap();
    assert_eq!(told["credential"]["user"], "app");
    assert!(told["records"].as_array().is_some_and(|records| records.len() >= 7), "{told:#}");

    let config = directory.join("postrider.toml");
    let path = config.to_string_lossy().into_owned();
    let check = postrider(&["-c", &path, "check"]);
    assert_eq!(check.status.code(), Some(0), "{}", said(&check));
    assert!(!said(&check).contains("BAD"), "{}", said(&check));

    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("mode = \"submissions\"", "mode = \"smtps\"")).unwrap();
    let check = postrider(&["-c", &path, "check"]);
    let error = String::from_utf8_lossy(&check.stderr).into_owned();
    assert_eq!(check.status.code(), Some(78), "{error}");
    assert!(error.contains(".toml:18: listener.mode = \"smtps\": \"submission\""), "{error}");
}

#[test]
fn commands_that_need_a_daemon_say_that_none_runs() {
    let base = tempfile::tempdir().unwrap();
    let directory = base.path().join("etc");
    let data = base.path().join("data");
    let (dir, data) = (directory.to_string_lossy(), data.to_string_lossy());
    assert!(postrider(&["init", "example.com", "--dir", &dir, "--data-dir", &data]).status.success());
    let path = directory.join("postrider.toml");
    let list = postrider(&["-c", &path.to_string_lossy(), "queue", "list"]);
    assert_eq!(list.status.code(), Some(69));
    assert!(String::from_utf8_lossy(&list.stderr).contains("no daemon is running"));
}
