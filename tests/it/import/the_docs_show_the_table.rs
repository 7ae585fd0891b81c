//! docs/FROM-POSTFIX.md ends with the table of parameters as the code has it (`POSTRIDER_BLESS=1` writes it anew).

use std::fmt::Write as _;
use std::path::Path;

use postrider::postfix::meaning::{ROWS, Row, Rule, default_of};

const MARK: &str = "<!-- The rest is made from src/postfix/meaning.rs. -->\n";

fn section(out: &mut String, title: &str, head: [&str; 3], rows: impl Iterator<Item = [String; 3]>) {
    let _ = write!(out, "\n### {title}\n\n| {} | {} | {} |\n|---|---|---|\n", head[0], head[1], head[2]);
    for [name, default, text] in rows {
        let _ = writeln!(out, "| `{name}` | {default} | {text} |");
    }
}

fn table() -> String {
    let mut out = String::new();
    let default = |row: &Row| match default_of(row.pattern).unwrap_or_default() {
        "" => String::new(),
        value => format!("`{}`", value.replace('|', "\\|")),
    };
    let of = |pick: fn(&Rule) -> Option<String>| {
        ROWS.iter().filter_map(move |row| Some([row.pattern.to_owned(), default(row), pick(&row.rule)?]))
    };
    section(
        &mut out,
        "Taken over",
        ["Parameter", "Default", "Becomes"],
        of(|rule| match rule {
            Rule::Map(to) => Some((*to).to_owned()),
            Rule::Ignore(_) | Rule::Refuse(..) => None,
        }),
    );
    section(
        &mut out,
        "Refused",
        ["Parameter", "Default", "Why, and what to do"],
        of(|rule| match rule {
            Rule::Refuse(_, why, instead) => Some(format!("{why}; {instead}")),
            Rule::Map(_) | Rule::Ignore(_) => None,
        }),
    );
    section(
        &mut out,
        "Left out",
        ["Parameter", "Default", "Nothing is missed, because"],
        of(|rule| match rule {
            Rule::Ignore(why) => Some((*why).to_owned()),
            Rule::Map(_) | Rule::Refuse(..) => None,
        }),
    );
    out
}

#[test]
fn the_page_ends_with_the_table_of_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/FROM-POSTFIX.md");
    let page = std::fs::read_to_string(&path).expect("the page");
    let (head, shown) = page.split_once(MARK).expect("the mark");
    if std::env::var_os("POSTRIDER_BLESS").is_some() {
        std::fs::write(&path, format!("{head}{MARK}{}", table())).expect("the page");
        return;
    }
    assert_eq!(shown, table());
}
