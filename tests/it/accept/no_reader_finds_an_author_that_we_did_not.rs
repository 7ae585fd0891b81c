//! Python reads From fields (both its old and its new way) and finds no domain that our rules did not check.

use postrider::mail::Address;
use postrider::message::mailboxes;

use super::run;

const PIECES: [&str; 26] = [
    "a@b.example",
    "c@d.example",
    "<",
    ">",
    "<a@b.example>",
    "<c@d.example>",
    "\"",
    "\\",
    "(",
    ")",
    ",",
    ";",
    ":",
    " ",
    "\r\n ",
    "Ann",
    "=?utf-8?q?=3Cx=40y.example=3E?=",
    "=?utf-8?b?PHhAeS5leGFtcGxlPg==?=",
    "@",
    ".",
    "\"q\"",
    "\"<x@y.example>\"",
    "(<x@y.example>)",
    "g:",
    "@r.example:",
    "x@y.example",
];

const SCRIPT: &str = r#"
import email.utils, email.headerregistry, json, sys
registry = email.headerregistry.HeaderRegistry()
def read(value):
    flat = value.replace('\r\n', '')
    old = [address for _, address in email.utils.getaddresses([flat])]
    try:
        new = [address.addr_spec for address in registry('From', flat).addresses]
    except Exception:
        new = []
    return old + new
print(json.dumps([read(value) for value in json.load(sys.stdin)]))
"#;

#[test]
fn no_reader_finds_an_author_that_we_did_not() {
    let mut random = fastrand::Rng::with_seed(7);
    let mut accepted: Vec<(String, Vec<Address>)> = Vec::new();
    while accepted.len() < 3000 {
        let value: String = (0..random.usize(1..7)).map(|_| PIECES[random.usize(..PIECES.len())]).collect();
        if let Ok(found) = mailboxes(value.as_bytes()) {
            accepted.push((value, found));
        }
    }
    let values: Vec<&String> = accepted.iter().map(|(value, _)| value).collect();
    let Some((fits, told)) = run("python3", &["-c", SCRIPT], &serde_json::to_vec(&values).unwrap()) else { return };
    assert!(fits, "{told}");
    let theirs: Vec<Vec<String>> = serde_json::from_str(&told).unwrap();
    assert_eq!(theirs.len(), accepted.len());
    for ((value, ours), theirs) in accepted.iter().zip(theirs) {
        for address in theirs.iter().filter_map(|text| text.parse::<Address>().ok()) {
            let is_known = ours.iter().any(|own| own.domain() == address.domain());
            assert!(is_known, "{value:?}: {address} is not in {ours:?}");
        }
    }
}
