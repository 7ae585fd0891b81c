//! `postconf`: shows a main.cf that was imported, for scripts that ask it. It changes nothing: the config is postrider.toml.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::{Call, Fatal, Place, flags};

/// Largest main.cf that is read. Unit: octets.
const FILE_LENGTH_MAX: u64 = 4 << 20;
/// How deep `$name` is followed.
const DEPTH_MAX: usize = 20;
/// Longest expanded value. Unit: octets.
const VALUE_LENGTH_MAX: usize = 64 * 1024;

/// What main.cf says where it says nothing: what scripts ask for most.
const DEFAULTS: [(&str, &str); 22] = [
    ("alias_database", "hash:/etc/aliases"),
    ("alias_maps", "hash:/etc/aliases"),
    ("command_directory", "/usr/sbin"),
    ("compatibility_level", "0"),
    ("inet_interfaces", "all"),
    ("inet_protocols", "all"),
    ("local_recipient_maps", "proxy:unix:passwd.byname $alias_maps"),
    ("mail_name", "Postfix"),
    ("mail_owner", "postrider"),
    ("mail_version", "3.7.11"),
    ("maximal_queue_lifetime", "5d"),
    ("mydestination", "$myhostname, localhost.$mydomain, localhost"),
    ("mynetworks_style", "host"),
    ("myorigin", "$myhostname"),
    ("recipient_delimiter", ""),
    ("relay_domains", ""),
    ("relayhost", ""),
    ("sendmail_path", "/usr/sbin/sendmail"),
    ("setgid_group", postrider_drop::GROUP),
    ("smtp_tls_security_level", ""),
    ("smtpd_banner", "$myhostname ESMTP $mail_name"),
    ("transport_maps", ""),
];

/// How values are shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Form {
    values_only: bool,
    names_only: bool,
    expanded: bool,
}

/// Runs it.
pub(super) fn run(call: &Call) -> Result<ExitCode, Fatal> {
    let usage = || Fatal::new(1, "usage: postconf [-c config_dir] [-dhHnx] [name...]");
    let (found, names) = flags(&call.words, "aAb:c:C:deEfFhHlmMnNoOpPqrtTvxX#").map_err(|_| usage())?;
    let has = |letter| found.iter().any(|flag| flag.letter == letter);
    if has('e') || has('#') || has('X') || has('E') || has('M') || has('F') || has('P') {
        let text = "Postrider does not read main.cf and master.cf: change /etc/postrider/postrider.toml instead, or \
                    change main.cf with an editor and run `postrider import postfix` again";
        return Err(Fatal::new(1, text));
    }
    let directory = found.iter().rfind(|flag| flag.letter == 'c').map(|flag| flag.value.clone());
    let place = Place::find(directory.as_deref());
    let configured = match has('d') {
        true => BTreeMap::new(),
        false => main_cf(&directory.map_or_else(|| PathBuf::from("/etc/postfix"), PathBuf::from)),
    };
    let all = known(&place, &configured);
    let form = Form { values_only: has('h'), names_only: has('H'), expanded: has('x') };
    let mut out = io::stdout().lock();
    let mut unknown = false;
    let shown: Vec<&String> = match names {
        [] if has('n') => configured.keys().collect(),
        [] => all.keys().collect(),
        names => names.iter().filter(|name| !has('n') || configured.contains_key(*name)).collect(),
    };
    for name in shown {
        match all.get(name) {
            Some(value) => {
                let _ = out.write_all(line(name, value, form, &all).as_bytes());
            }
            None => {
                unknown = true;
                call.warn(format!("{name}: unknown parameter"));
            }
        }
    }
    Ok(if unknown { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn line(name: &str, value: &str, form: Form, all: &BTreeMap<String, String>) -> String {
    let expanded = if form.expanded { expand(value, all, 0) } else { value.to_owned() };
    match form {
        Form { names_only: true, .. } => format!("{name}\n"),
        Form { values_only: true, .. } => format!("{expanded}\n"),
        _ if expanded.is_empty() => format!("{name} =\n"),
        _ => format!("{name} = {expanded}\n"),
    }
}

/// What is true here, below what main.cf says.
fn known(place: &Place, configured: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut all: BTreeMap<String, String> =
        DEFAULTS.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let mut own = vec![
        ("config_directory", place.config_file.parent().unwrap_or(Path::new("/")).display().to_string()),
        ("queue_directory", place.data_dir.display().to_string()),
        ("data_directory", place.data_dir.display().to_string()),
    ];
    if let Some(config) = &place.config {
        let hostname = config.hostname.to_string();
        let domain = hostname.split_once('.').map_or(hostname.as_str(), |(_, domain)| domain).to_owned();
        own.push(("mydomain", domain));
        own.push(("myhostname", hostname));
        own.push(("message_size_limit", config.limits.message.bytes().to_string()));
    }
    all.extend(own.into_iter().map(|(name, value)| (name.to_owned(), value)));
    all.extend(configured.clone());
    all
}

/// The parameters of a main.cf; the last of each name counts.
fn main_cf(directory: &Path) -> BTreeMap<String, String> {
    let file = directory.join("main.cf");
    let is_small = std::fs::metadata(&file).is_ok_and(|data| data.len() <= FILE_LENGTH_MAX);
    let text = if is_small { std::fs::read(&file).unwrap_or_default() } else { Vec::new() };
    parameters(&String::from_utf8_lossy(&text))
}

/// postconf(5): a line that begins with white space goes on with the one before; `#` begins a comment line.
fn parameters(text: &str) -> BTreeMap<String, String> {
    let mut logical: Vec<String> = Vec::new();
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            continue;
        }
        match (line.starts_with([' ', '\t']), logical.last_mut()) {
            (true, Some(last)) => {
                last.push(' ');
                last.push_str(trimmed);
            }
            _ => logical.push(trimmed.to_owned()),
        }
    }
    let pairs = logical.iter().filter_map(|line| line.split_once('='));
    pairs.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned())).collect()
}

/// `$name`, `${name}`, `$(name)`, `${name?then}` and `${name:else}`.
fn expand(value: &str, all: &BTreeMap<String, String>, depth: usize) -> String {
    let mut out = String::new();
    let mut rest = value;
    while let Some((before, behind)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(behind) = behind.strip_prefix('$') {
            out.push('$');
            rest = behind;
            continue;
        }
        let close = behind.chars().next().and_then(|open| match open {
            '{' => Some('}'),
            '(' => Some(')'),
            _ => None,
        });
        let (inner, behind) = match close {
            Some(close) => behind.get(1..).and_then(|inside| inside.split_once(close)).unwrap_or((behind, "")),
            None => {
                let end = behind.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(behind.len());
                behind.split_at_checked(end).unwrap_or((behind, ""))
            }
        };
        let of = |name: &str| match depth < DEPTH_MAX && out.len() < VALUE_LENGTH_MAX {
            true => all.get(name.trim()).map(|value| expand(value, all, depth + 1)).unwrap_or_default(),
            false => String::new(),
        };
        let said = match (inner.split_once('?'), inner.split_once(':')) {
            (Some((name, then)), _) => {
                if of(name).is_empty() {
                    String::new()
                } else {
                    expand(then, all, depth + 1)
                }
            }
            (None, Some((name, other))) => {
                Some(of(name)).filter(|found| !found.is_empty()).unwrap_or_else(|| other.to_owned())
            }
            (None, None) => of(inner),
        };
        out.push_str(&said);
        rest = behind;
    }
    out.push_str(rest);
    out.truncate(out.floor_char_boundary(VALUE_LENGTH_MAX));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_main_cf_is_shown_as_postconf_shows_it() {
        let text = "# c\nmyhostname = mx.example.com\nmydestination = $myhostname,\n\tlocalhost\n\nrelayhost =\n\
                    mydomain=example.com\nmyorigin = ${mydomain}\nmyorigin = $mydomain\nloop = $loop\nalso = ${none:x} ${mydomain?y} $$\n";
        let all = parameters(text);
        let show = |name: &str, form| line(name, &all[name], form, &all);
        assert_eq!(show("mydestination", Form::default()), "mydestination = $myhostname, localhost\n");
        assert_eq!(show("relayhost", Form::default()), "relayhost =\n");
        let expanded = Form { expanded: true, values_only: true, ..Form::default() };
        assert_eq!(show("mydestination", expanded), "mx.example.com, localhost\n");
        assert_eq!(show("also", expanded), "x y $\n");
        assert_eq!(show("loop", expanded), "\n", "a circle ends");
        assert_eq!(show("myorigin", Form { names_only: true, ..Form::default() }), "myorigin\n");
    }
}
