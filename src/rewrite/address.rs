//! Addresses in the tables: which keys are asked for, in which order, and what an answer comes to.

use crate::mail::{Address, Domain, ReversePath};

use super::table::{Tables, Trouble};

/// Most rewritings of one address, and most steps from a recipient to whom it stands for: more is a loop.
pub(super) const DEPTH_MAX: usize = 100;
/// Longest text of one address in an answer. Unit: octets.
const ADDRESS_LENGTH_MAX: usize = 1000;

/// Which names are ours.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Home {
    /// Added to bare addresses.
    pub origin: Domain,
    /// Names whose recipients are local.
    pub domains: Vec<Domain>,
    /// Characters that begin an extension.
    pub delimiters: Box<str>,
}

impl Home {
    /// Whether a domain's recipients are local.
    pub fn is_local(&self, domain: &Domain) -> bool {
        self.domains.contains(domain)
    }

    /// An address, the origin added to a bare one.
    pub fn qualify(&self, text: &str) -> Option<Address> {
        match text.contains('@') {
            true => text.parse().ok(),
            false => Address::new(text, self.origin.clone()).ok(),
        }
    }

    /// A local part without its extension, and the extension with its delimiter.
    pub(super) fn split<'a>(&self, local: &'a str) -> Option<(&'a str, &'a str)> {
        // Who bears these names is nobody with an extension.
        let reserved = ["mailer-daemon", "postmaster", "double-bounce"];
        if local.starts_with('"') || reserved.iter().any(|name| local.eq_ignore_ascii_case(name)) {
            return None;
        }
        let at = local.char_indices().skip(1).find(|(_, c)| self.delimiters.contains(*c))?.0;
        // With "-" as a delimiter, owners and requests of lists would be taken for extensions.
        let (base, extension) = local.split_at(at);
        let of_list = extension.starts_with('-') && (local.starts_with("owner-") || local.ends_with("-request"));
        (!of_list).then_some((base, extension))
    }
}

/// An answer, and the extension that no key had.
struct Found {
    text: String,
    extension: String,
}

/// Asks for `user+ext@domain`, `user@domain`, `user+ext`, `user`, `@domain`, in this order; the ones without a domain only
/// where it is ours. Patterns are asked for the first alone.
fn look_up(tables: &Tables, home: &Home, address: &Address) -> Result<Option<Found>, Trouble> {
    let (local, domain) = (address.local(), address.domain());
    let found =
        |text: Option<String>, extension: &str| text.map(|text| Found { text, extension: extension.to_owned() });
    if let Some(answer) = found(tables.find(&address.to_string())?, "") {
        return Ok(Some(answer));
    }
    let split = home.split(local);
    if let Some((base, extension)) = split
        && let Some(answer) = found(tables.find_part(&format!("{base}@{domain}"))?, extension)
    {
        return Ok(Some(answer));
    }
    if *domain == home.origin || home.is_local(domain) {
        if let Some(answer) = found(tables.find_part(local)?, "") {
            return Ok(Some(answer));
        }
        if let Some((base, extension)) = split
            && let Some(answer) = found(tables.find_part(base)?, extension)
        {
            return Ok(Some(answer));
        }
    }
    Ok(found(tables.find_part(&format!("@{domain}"))?, ""))
}

/// What becomes of an extension that no key had: Postfix's propagate_unmatched_extensions, as it is unless changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unmatched {
    /// It is added to the answer: canonical(5) and virtual(5).
    Kept,
    /// generic(5), and the tables of copies.
    Dropped,
}

/// All that an address stands for by one look-up; `None`: the tables do not know it.
pub(super) fn ask(
    tables: &Tables,
    home: &Home,
    address: &Address,
    unmatched: Unmatched,
) -> Result<Option<Vec<Address>>, Trouble> {
    if tables.is_empty() {
        return Ok(None);
    }
    let Some(found) = look_up(tables, home, address)? else { return Ok(None) };
    let text = found.text.trim();
    let whole;
    let (text, extension) = match text.starts_with('@') {
        // Another domain for whoever it is.
        true => {
            whole = format!("{}{text}", address.local());
            (&*whole, "")
        }
        false if unmatched == Unmatched::Kept => (text, &*found.extension),
        false => (text, ""),
    };
    let all = list(text).into_iter().map(|text| extended(home, &text, extension).ok_or(Trouble::NoAddress));
    let all: Vec<Address> = all.collect::<Result<_, _>>()?;
    match all.is_empty() {
        true => Err(Trouble::NoAddress),
        false => Ok(Some(all)),
    }
}

fn extended(home: &Home, text: &str, extension: &str) -> Option<Address> {
    let address = home.qualify(text)?;
    match extension.is_empty() {
        true => Some(address),
        false => Address::new(&format!("{}{extension}", address.local()), address.domain().clone()).ok(),
    }
}

/// The addresses of an answer: separated by commas, each perhaps in angle brackets.
pub(super) fn list(text: &str) -> Vec<String> {
    let mut items = vec![String::new()];
    let (mut quoted, mut escaped) = (false, false);
    for c in text.chars() {
        match c {
            ',' if !quoted => items.push(String::new()),
            c => {
                if let Some(item) = items.last_mut().filter(|item| item.len() < ADDRESS_LENGTH_MAX) {
                    item.push(c);
                }
                if c == '"' && !escaped {
                    quoted = !quoted;
                }
                escaped = c == '\\' && !escaped;
            }
        }
    }
    let bare = |item: &String| {
        let item = item.trim();
        item.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')).unwrap_or(item).trim().to_owned()
    };
    items.iter().map(bare).filter(|item| !item.is_empty()).collect()
}

/// One address for another, as long as the tables know it.
pub(super) fn map(tables: &Tables, home: &Home, address: Address) -> Result<Address, Trouble> {
    let mut address = address;
    for _ in 0..DEPTH_MAX {
        let Some(next) = ask(tables, home, &address, Unmatched::Kept)?.and_then(|all| all.into_iter().next()) else {
            return Ok(address);
        };
        if same(&next, &address) {
            return Ok(next);
        }
        address = next;
    }
    Err(Trouble::Loop)
}

/// Whether two addresses are one to whoever writes tables: keys have no case.
pub(super) fn same(a: &Address, b: &Address) -> bool {
    a.domain() == b.domain() && a.local().eq_ignore_ascii_case(b.local())
}

/// Domains that stand in place of every name below them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Masquerade {
    /// In their order, each with whether it is left as it is (`!name`).
    pub domains: Vec<(Domain, bool)>,
    /// Local parts that are left as they are.
    pub exceptions: Vec<Box<str>>,
}

impl Masquerade {
    /// The address as the world shall see it.
    pub(super) fn apply(&self, address: Address) -> Address {
        if self.exceptions.iter().any(|name| address.local().eq_ignore_ascii_case(name)) {
            return address;
        }
        let covering = self.domains.iter().find(|(domain, _)| address.domain().is_within(domain));
        match covering {
            // What is this name itself has nothing to lose; what is no address any more stays one.
            Some((domain, false)) => Address::new(address.local(), domain.clone()).unwrap_or(address),
            Some((_, true)) | None => address,
        }
    }
}

/// What a table says of a sender, access(5).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Access {
    /// Nothing is said against it.
    Taken,
    /// A reply: code, status and text.
    Refused(u16, String, String),
}

/// What access(5) does, of an answer.
///
/// # Errors
/// What would be right.
pub(super) fn action(answer: &str) -> Result<Access, String> {
    let (word, text) = answer.trim().split_once(char::is_whitespace).unwrap_or((answer.trim(), ""));
    let text = text.trim();
    let refused = |code: u16, own: &str, otherwise: &str| {
        let (status, text) = match crate::mail::EnhancedStatus::split(text) {
            Some((status, text)) if u16::from(status.class) == code / 100 => (status.to_string(), text),
            Some(_) | None => (own.to_owned(), text),
        };
        Access::Refused(code, status, if text.is_empty() { otherwise.to_owned() } else { text.to_owned() })
    };
    match word.to_ascii_uppercase().as_str() {
        "OK" | "DUNNO" | "PERMIT" => Ok(Access::Taken),
        "REJECT" => Ok(refused(554, "5.7.1", "Access denied")),
        "DEFER" | "DEFER_IF_PERMIT" | "DEFER_IF_REJECT" => Ok(refused(450, "4.7.1", "Access denied; try again later")),
        number if !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) => match number.parse::<u16>() {
            // Old tables say a number for OK.
            _ if number.len() != 3 || !number.starts_with(['4', '5']) => Ok(Access::Taken),
            Ok(code) if code < 500 => Ok(refused(code, "4.7.1", "Access denied; try again later")),
            Ok(code) => Ok(refused(code, "5.7.1", "Access denied")),
            Err(_) => Ok(Access::Taken),
        },
        _ => Err(format!("OK, DUNNO, REJECT, DEFER or a reply such as \"550 5.7.1 text\" is expected, not \"{word}\"")),
    }
}

/// What the tables say of an envelope sender: asked for `user+ext@domain`, `user@domain`, the domain and each above it,
/// `user+ext@` and `user@`; `<>` is asked for as it is.
pub(super) fn access(tables: &Tables, home: &Home, sender: &ReversePath) -> Result<Access, Trouble> {
    let Some(address) = sender.address() else { return acted(tables.find("<>")?) };
    let (local, domain) = (address.local(), address.domain());
    let split = home.split(local);
    let mut keys: Vec<String> = split.iter().map(|(base, _)| format!("{base}@{domain}")).collect();
    keys.extend(parents(domain.as_str()));
    keys.push(format!("{local}@"));
    keys.extend(split.iter().map(|(base, _)| format!("{base}@")));
    // Each table by itself, as each is a restriction of its own: one that refuses all may stand behind one that lets some in.
    for table in &tables.0 {
        if let Some(answer) = table.find(&address.to_string())? {
            return acted(Some(answer));
        }
        for key in &keys {
            if let Some(answer) = table.find_part(key)? {
                return acted(Some(answer));
            }
        }
    }
    Ok(Access::Taken)
}

/// A name, and each above it; also as `.name`, which some tables write for what is below a name.
fn parents(domain: &str) -> impl Iterator<Item = String> {
    let starts = domain.match_indices('.').map(|(at, _)| at + 1);
    let above = starts.flat_map(|at| [format!(".{}", &domain[at..]), domain[at..].to_owned()]);
    std::iter::once(domain.to_owned()).chain(above)
}

fn acted(answer: Option<String>) -> Result<Access, Trouble> {
    match answer {
        None => Ok(Access::Taken),
        Some(answer) => action(&answer).map_err(|_| Trouble::NoAction),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rewrite::table::{Kind, Table};

    fn home() -> Home {
        Home {
            origin: "example.com".parse().unwrap(),
            domains: vec!["localhost".parse().unwrap(), "relay.example.com".parse().unwrap()],
            delimiters: "+".into(),
        }
    }

    fn tables(text: &str) -> Tables {
        Tables::new(vec![Table::read(Kind::Texthash, text).unwrap()])
    }

    fn mapped(table: &str, address: &str) -> String {
        match map(&tables(table), &home(), address.parse().unwrap()) {
            Ok(address) => address.to_string(),
            Err(trouble) => format!("{trouble:?}"),
        }
    }

    #[test]
    fn keys_are_asked_for_in_the_order_of_the_manual() {
        let all = "u+x@d.example 1@r\nu@d.example 2@r\n@d.example 5@r\nu+x 3@r\nu 4@r\n@example.com 6@r\n";
        for (without, address, want) in [
            ("", "u+x@d.example", "1@r"),
            ("1", "u+x@d.example", "2+x@r"),
            ("12", "u+x@d.example", "5@r"),
            // A bare key is for our own names alone.
            ("", "u+x@example.com", "3@r"),
            ("", "u+x@localhost", "3@r"),
            ("3", "u+x@relay.example.com", "4+x@r"),
            ("34", "u+x@example.com", "6@r"),
            ("3456", "u+x@example.com", "u+x@example.com"),
            ("", "U@D.EXAMPLE", "2@r"),
            ("", "other@d.example", "5@r"),
            ("", "u@x.d.example", "u@x.d.example"),
        ] {
            let table: String = all
                .lines()
                .filter(|line| !without.chars().any(|c| line.contains(&format!(" {c}@"))))
                .map(|l| format!("{l}\n"))
                .collect();
            let table = format!("{table}none none@none\n");
            assert_eq!(mapped(&table, address), want, "{without:?} {address}");
        }
    }

    #[test]
    fn an_answer_is_an_address_a_name_of_ours_or_another_domain() {
        for (table, address, want) in [
            ("a@d.example root", "a@d.example", "root@example.com"),
            ("@d.example @n.example", "a+x@d.example", "a+x@n.example"),
            ("a@d.example <b@n.example>, c@n.example", "a@d.example", "b@n.example"),
            // Again and again.
            ("a@d.example b@d.example\nb@d.example c@d.example", "a@d.example", "c@d.example"),
            ("a@d.example A@d.example", "a@d.example", "A@d.example"),
            ("a@d.example b@d.example\nb@d.example a@d.example", "a@d.example", "Loop"),
            ("a@d.example x@y@z w", "a@d.example", "NoAddress"),
            ("a@d.example \"q r\"@n.example", "a@d.example", "\"q r\"@n.example"),
        ] {
            assert_eq!(mapped(table, address), want, "{table:?} {address}");
        }
    }

    #[test]
    fn a_masquerade_covers_what_is_below_a_domain_but_for_the_exceptions() {
        let domain = |text: &str| text.parse::<Domain>().unwrap();
        let masquerade = Masquerade {
            domains: vec![(domain("keep.example.com"), true), (domain("example.com"), false)],
            exceptions: vec!["root".into()],
        };
        for (address, want) in [
            ("a@host.example.com", "a@example.com"),
            ("a@x.host.example.com", "a@example.com"),
            ("a@example.com", "a@example.com"),
            ("a@badexample.com", "a@badexample.com"),
            ("a@keep.example.com", "a@keep.example.com"),
            ("a@x.keep.example.com", "a@x.keep.example.com"),
            ("Root@host.example.com", "Root@host.example.com"),
        ] {
            assert_eq!(masquerade.apply(address.parse().unwrap()).to_string(), want);
        }
    }

    #[test]
    fn access_is_asked_by_address_domain_and_local_part() {
        let table = "a@d.example OK\nd.example REJECT not you\nx.example 450 4.7.0 later\n.y.example 550 no\nspam@ 554\n\
                     <> DUNNO\nnumber@ 12\n";
        for (sender, want) in [
            ("a@d.example", Access::Taken),
            ("a+x@d.example", Access::Taken),
            ("b@d.example", Access::Refused(554, "5.7.1".into(), "not you".into())),
            ("b@sub.d.example", Access::Refused(554, "5.7.1".into(), "not you".into())),
            ("b@x.example", Access::Refused(450, "4.7.0".into(), "later".into())),
            ("b@y.example", Access::Taken),
            ("b@s.y.example", Access::Refused(550, "5.7.1".into(), "no".into())),
            ("spam@z.example", Access::Refused(554, "5.7.1".into(), "Access denied".into())),
            ("number@z.example", Access::Taken),
            ("", Access::Taken),
        ] {
            let path = match sender {
                "" => ReversePath::Null,
                text => ReversePath::Address(text.parse().unwrap()),
            };
            assert_eq!(access(&tables(table), &home(), &path), Ok(want), "{sender}");
        }
        let mut both = tables("d.example OK\n");
        both.0.push(Table::read(Kind::Static, "REJECT").unwrap());
        for (sender, taken) in [("a@d.example", true), ("a@e.example", false)] {
            let path = ReversePath::Address(sender.parse().unwrap());
            assert_eq!(access(&both, &home(), &path) == Ok(Access::Taken), taken, "{sender}");
        }
        assert!(action("FILTER smtp:x").is_err());
    }
}
