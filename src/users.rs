//! Who the users of this machine are: names, full names and groups, as the system's databases say.
//!
//! Called by `pickup` and `showq`, which meet user ids, and by `cli`. The files are read first; what they do not have (LDAP and its
//! like), `getent` is asked for.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Largest file, and largest answer, that is read. Unit: octets.
const FILE_LENGTH_MAX: u64 = 16 << 20;
/// Longest wait for `getent`.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// A user.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct User {
    /// The login name.
    pub name: String,
    /// The full name, without the rest of the comment that it stands in.
    pub full_name: String,
}

/// The user of this id. Blocks.
pub fn user(uid: u32) -> Option<User> {
    line("passwd", &uid.to_string(), 2).and_then(|line| read_user(&line))
}

/// The id of a group. Blocks.
pub fn group_id(name: &str) -> Option<u32> {
    line("group", name, 0)?.split(':').nth(2)?.parse().ok()
}

/// Whether a list of names lets this user in: the first that fits decides. `*` is everybody, `!name` not this one.
pub fn allows(list: &[String], uid: u32, name: Option<&str>) -> bool {
    let fits = |text: &str| text == "*" || Some(text) == name || text.parse() == Ok(uid);
    let decides = list.iter().find_map(|entry| match entry.strip_prefix('!') {
        Some(other) => fits(other).then_some(false),
        None => fits(entry).then_some(true),
    });
    decides.unwrap_or(false)
}

/// The line of a database whose field `place` is `key`.
fn line(database: &str, key: &str, place: usize) -> Option<String> {
    let mut text = String::new();
    let file = std::fs::File::open(format!("/etc/{database}")).ok();
    // A file that cannot be read has no lines.
    file.and_then(|file| file.take(FILE_LENGTH_MAX).read_to_string(&mut text).ok());
    let of_key = |line: &&str| line.split(':').nth(place) == Some(key);
    let found = text.lines().find(of_key).map(str::to_owned);
    found.or_else(|| ask(database, key).filter(|line| of_key(&line.as_str())))
}

fn ask(database: &str, key: &str) -> Option<String> {
    let mut command = Command::new("/usr/bin/getent");
    command.args([database, key]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).env_clear();
    let mut child = command.spawn().ok()?;
    let began = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => break,
            Ok(None) if began.elapsed() < ANSWER_WITHIN => std::thread::sleep(Duration::from_millis(5)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
    }
    let mut text = String::new();
    child.stdout.take()?.take(FILE_LENGTH_MAX).read_to_string(&mut text).ok()?;
    text.lines().next().map(str::to_owned)
}

/// `name:password:uid:gid:comment:home:shell`. The comment's first part is the full name, in which `&` stands for the
/// login name.
fn read_user(line: &str) -> Option<User> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty())?.to_owned();
    let comment = fields.nth(3).unwrap_or_default();
    let mut capital = name.clone();
    if let Some(first) = capital.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    let full_name = comment.split(',').next().unwrap_or_default().replace('&', &capital);
    Some(User { name, full_name })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_the_system_reads_it() {
        let read = |line| read_user(line).map(|user| (user.name, user.full_name));
        let pair = |name: &str, full: &str| Some((name.to_owned(), full.to_owned()));
        assert_eq!(read("www-data:x:33:33:www-data:/var/www:/bin/sh"), pair("www-data", "www-data"));
        assert_eq!(read("ann:x:1000:1000:Ann Example,,,:/home/ann:/bin/sh"), pair("ann", "Ann Example"));
        assert_eq!(read("root:x:0:0:& Super:/root:/bin/sh"), pair("root", "Root Super"));
        assert_eq!(read("short:x:1"), pair("short", ""));
        assert_eq!(read(""), None);
    }

    #[test]
    fn the_system_knows_root() {
        assert_eq!(user(0).map(|user| user.name).as_deref(), Some("root"));
        assert_eq!(group_id("no such group"), None);
        assert_eq!(user(4_294_967_294), None);
    }

    #[test]
    fn the_first_entry_that_fits_decides() {
        let cases: [(&[&str], bool); 8] = [
            (&["*"], true),
            (&[], false),
            (&["ann"], true),
            (&["bob"], false),
            (&["!ann", "*"], false),
            (&["*", "!ann"], true),
            (&["1000"], true),
            (&["!1000", "ann"], false),
        ];
        for (list, allowed) in cases {
            let names: Vec<String> = list.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(allows(&names, 1000, Some("ann")), allowed, "{list:?}");
        }
        assert!(!allows(&["ann".to_owned()], 1000, None));
    }
}
