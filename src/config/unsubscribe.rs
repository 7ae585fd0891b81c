//! The config of one-click unsubscribe.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::Deserialize;

use super::units;
use crate::mail::Domain;

/// Longest URL. A line of a header has 998 octets, and a token has 664 at most.
const URL_LENGTH_MAX: usize = 200;

/// Where unsubscribe links lead, and who answers there.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Unsubscribe {
    /// `https://…`, as the recipients of mail reach it; a link has `/` and a token more. Absent: no link is made, and
    /// nothing is served.
    pub url: Option<String>,
    /// Where the daemon answers. Default 127.0.0.1:8025, behind a proxy that has the certificate.
    #[serde(deserialize_with = "units::parsed")]
    pub bind: SocketAddr,
    /// Whether it shows the certificate of `[tls]` itself. Default false: HTTP, for a proxy.
    pub tls: bool,
    /// Who the page says the mail was from. Default: nobody.
    pub sender: String,
}

impl Default for Unsubscribe {
    fn default() -> Self {
        let bind = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8025);
        Unsubscribe { url: None, bind, tls: false, sender: String::new() }
    }
}

impl Unsubscribe {
    /// The URL without slashes at its end.
    pub fn base(&self) -> Option<&str> {
        self.url.as_deref().map(|url| url.trim_end_matches('/'))
    }
}

/// Whether everybody can reach this, and be sure of whom they reached (RFC 8058 §3.1).
///
/// # Errors
/// What would be right.
pub(super) fn public_https(url: &str) -> Result<(), &'static str> {
    const RIGHT: &str = "a URL such as \"https://mail.example.com/unsubscribe\" is expected, of 200 characters at most, \
                         without ? and #";
    const PUBLIC: &str = "the recipients' programs must reach it: a public host name is expected";
    let scheme = url.get(..8).filter(|scheme| scheme.eq_ignore_ascii_case("https://"));
    let rest =
        scheme.and(url.get(8..)).ok_or("it must begin with https://: RFC 8058 allows no other one-click link")?;
    // What could end the field's `<…>` or its line, or be taken apart by a reader.
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/:%+@!$&*=".contains(&byte);
    if url.len() > URL_LENGTH_MAX || !rest.bytes().all(is_plain) {
        return Err(RIGHT);
    }
    let authority = rest.split('/').next().unwrap_or_default();
    let (host, port) = authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port)));
    if port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return Err(RIGHT);
    }
    let domain: Domain = host.parse().map_err(|_| RIGHT)?;
    let is_address =
        host.parse::<IpAddr>().is_ok() || host.rsplit('.').next().is_some_and(|end| end.parse::<u32>().is_ok());
    let local = ["localhost", "local", "localdomain", "internal", "lan", "home.arpa"];
    let is_local = local.iter().any(|name| name.parse().is_ok_and(|name| domain.is_within(&name)));
    match is_address || is_local || !domain.as_str().contains('.') {
        true => Err(PUBLIC),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_public_https_url_can_stand_in_a_header() {
        let rows = [
            ("https://mail.example.com/unsubscribe", true),
            ("https://mail.example.com", true),
            ("HTTPS://mail.example.com:8443/", true),
            ("http://mail.example.com/u", false),
            ("mailto:a@b.example", false),
            ("https://localhost/u", false),
            ("https://relay.internal/u", false),
            ("https://relay/u", false),
            ("https://127.0.0.1/u", false),
            ("https://203.0.113.5/u", false),
            ("https://[2001:db8::1]/u", false),
            ("https://a@b.example/u", false),
            ("https://mail.example.com/u?a=b", false),
            ("https://mail.example.com/u#a", false),
            ("https://mail.example.com/u>,<http://evil.example", false),
            ("https://mail.example.com/\r\nBcc: x", false),
            ("https://mail.example.com:port/u", false),
            ("https:///u", false),
            ("", false),
        ];
        for (url, want) in rows {
            assert_eq!(public_https(url).is_ok(), want, "{url}: {:?}", public_https(url));
        }
        assert!(public_https(&format!("https://mail.example.com/{}", "u".repeat(200))).is_err());
        let with_slash = Unsubscribe { url: Some("https://a.example/u//".to_owned()), ..Unsubscribe::default() };
        assert_eq!(with_slash.base(), Some("https://a.example/u"));
    }
}
