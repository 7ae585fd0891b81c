//! `tests/tables/postmap.json` has tables, keys, and what Postfix 3.7's `postmap -q` answered. Our tables answer the same;
//! and where `postmap` is installed, it is asked again, so that the file stays true.

use std::path::Path;
use std::process::Command;

use postrider::rewrite::{Kind, Table};
use serde_json::Value;

fn kind(name: &str) -> Kind {
    match name {
        "texthash" => Kind::Texthash,
        "regexp" => Kind::Regexp,
        "inline" => Kind::Inline,
        "static" => Kind::Static,
        other => panic!("{other}: not recorded"),
    }
}

/// What the installed `postmap` says; `None`: there is none.
fn asked_anew(name: &str, text: &str, key: &str) -> Option<Option<String>> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let table = match name {
        "texthash" | "regexp" => format!("{name}:{}", file.path().display()),
        _ => format!("{name}:{text}"),
    };
    let output = Command::new("postmap").args(["-q", key, &table]).output().ok()?;
    let answer = String::from_utf8(output.stdout).unwrap();
    Some(output.status.success().then(|| answer.trim_end_matches('\n').to_owned()))
}

#[test]
fn every_recorded_answer_is_ours_and_postfix_s() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tables/postmap.json");
    let recorded: Vec<Value> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let has_postmap =
        Command::new("postmap").args(["-q", "a", "inline:{ a=a }"]).output().is_ok_and(|o| o.status.success());
    let (mut asked, mut wrong) = (0, Vec::new());
    for entry in &recorded {
        let (name, text) = (entry["kind"].as_str().unwrap(), entry["text"].as_str().unwrap());
        let table = Table::read(kind(name), text).unwrap_or_else(|flaws| panic!("{name} {text}: {flaws:?}"));
        for pair in entry["answers"].as_array().unwrap() {
            let (key, want) = (pair[0].as_str().unwrap(), pair[1].as_str().map(str::to_owned));
            let ours = table.find(key).unwrap();
            if ours != want {
                wrong.push(format!("{name} {key:?}: {ours:?}, and Postfix {want:?}"));
            }
            if has_postmap {
                let theirs = asked_anew(name, text, key).unwrap();
                assert_eq!(theirs, want, "{name} {key:?}: the record is not what this postmap says");
            }
            asked += 1;
        }
    }
    assert!(asked > 50, "{asked}");
    assert_eq!(wrong, Vec::<String>::new());
}
