//! DNS records as they are pasted: a zone file's lines, and the name, type and value of a web form.
//!
//! Called by `init` and `dkim`. It publishes nothing.

use std::fmt::Write as _;
use std::net::IpAddr;

use serde::Serialize;

/// Longest character-string of a TXT record (RFC 1035 §3.3).
const STRING_OCTETS_MAX: usize = 255;

/// One record to set.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Record {
    /// Full name without the final dot.
    pub name: String,
    /// `A`, `AAAA`, `PTR`, `MX`, `TXT`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// As a web form takes it: no quotes, no final dot.
    pub value: String,
    /// What it is for.
    pub purpose: &'static str,
}

impl Record {
    /// A text record.
    pub fn txt(name: impl Into<String>, value: impl Into<String>, purpose: &'static str) -> Record {
        Record { name: name.into(), kind: "TXT", value: value.into(), purpose }
    }

    /// A or AAAA.
    pub fn address(name: impl Into<String>, address: IpAddr, purpose: &'static str) -> Record {
        let kind = if address.is_ipv4() { "A" } else { "AAAA" };
        Record { name: name.into(), kind, value: address.to_string(), purpose }
    }

    /// The name of an address. Whoever owns the address sets it: the hoster.
    pub fn pointer(address: IpAddr, name: impl Into<String>, purpose: &'static str) -> Record {
        Record { name: reverse_name(address), kind: "PTR", value: name.into(), purpose }
    }

    /// A mail exchanger.
    pub fn exchange(name: impl Into<String>, host: &str, purpose: &'static str) -> Record {
        Record { name: name.into(), kind: "MX", value: format!("10 {host}"), purpose }
    }

    /// The line of a zone file (RFC 1035 §5.1): absolute names, a long text in strings of 255 octets.
    pub fn zone_line(&self) -> String {
        let data = match self.kind {
            "TXT" => strings(&self.value).join(" "),
            "PTR" | "MX" => format!("{}.", self.value),
            _ => self.value.clone(),
        };
        match self.kind == "TXT" && self.value.len() > STRING_OCTETS_MAX {
            true => format!("{}. 3600 IN {} ( {data} )", self.name, self.kind),
            false => format!("{}. 3600 IN {} {data}", self.name, self.kind),
        }
    }
}

/// `10.2.0.192.in-addr.arpa`, `…ip6.arpa` (RFC 1035 §3.5, RFC 3596 §2.5).
pub fn reverse_name(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(v6) => {
            let nibbles = v6.octets().into_iter().rev().flat_map(|octet| [octet & 15, octet >> 4]);
            let mut name = String::new();
            for nibble in nibbles {
                // Writing to a String cannot fail.
                let _ = write!(name, "{nibble:x}.");
            }
            name + "ip6.arpa"
        }
    }
}

/// All records: first the zone's lines, then a table for web forms.
pub fn both_forms(records: &[Record]) -> String {
    let mut text = String::from("As a zone file has them:\n\n");
    for record in records {
        text += &format!("; {}\n{}\n", record.purpose, record.zone_line());
    }
    text += "\nAs a web form asks for them (name, type, value):\n\n";
    let width = records.iter().map(|record| record.name.len()).max().unwrap_or_default();
    for record in records {
        text += &format!("{:width$}  {:4}  {}\n", record.name, record.kind, record.value);
    }
    text
}

/// A text as quoted strings of at most 255 octets each.
fn strings(text: &str) -> Vec<String> {
    let mut strings = Vec::new();
    let mut current = String::new();
    for c in text.chars() {
        if current.len() + c.len_utf8() > STRING_OCTETS_MAX {
            strings.push(std::mem::take(&mut current));
        }
        current.push(c);
    }
    strings.push(current);
    strings.iter().map(|string| format!("\"{}\"", string.replace('\\', "\\\\").replace('"', "\\\""))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_written_as_a_zone_file_takes_them() {
        let v4: IpAddr = "192.0.2.10".parse().unwrap();
        let v6: IpAddr = "2001:db8::1".parse().unwrap();
        for (record, want) in [
            (Record::address("a.example", v4, ""), "a.example. 3600 IN A 192.0.2.10"),
            (Record::address("a.example", v6, ""), "a.example. 3600 IN AAAA 2001:db8::1"),
            (Record::pointer(v4, "a.example", ""), "10.2.0.192.in-addr.arpa. 3600 IN PTR a.example."),
            (
                Record::pointer(v6, "a.example", ""),
                "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa. 3600 IN PTR a.example.",
            ),
            (Record::exchange("b.example", "a.example", ""), "b.example. 3600 IN MX 10 a.example."),
            (Record::txt("b.example", "v=spf1 -all", ""), "b.example. 3600 IN TXT \"v=spf1 -all\""),
            (Record::txt("b.example", "a\"b", ""), "b.example. 3600 IN TXT \"a\\\"b\""),
        ] {
            assert_eq!(record.zone_line(), want);
        }
    }

    #[test]
    fn a_long_text_is_split_in_strings_of_255_octets_that_join_to_the_same_text() {
        for length in [254, 255, 256, 400, 510, 511] {
            let text: String = (0..length).map(|i| char::from(b'a' + (i % 26) as u8)).collect();
            let line = Record::txt("d.example", text.clone(), "").zone_line();
            let parts: Vec<&str> = line.split('"').skip(1).step_by(2).collect();
            assert_eq!(parts.concat(), text);
            assert!(parts.iter().all(|part| part.len() <= 255));
            assert_eq!(line.contains('('), length > 255, "{line}");
        }
    }
}
