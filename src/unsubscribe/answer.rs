//! From a request to a page: what RFC 8058 asks of the server, and what people see.

use axum::body::{Body, Bytes};
use hyper::body::Body as _;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, Response, StatusCode};
use tracing::{info, warn};

use crate::token::{Link, TokenFlaw};

use super::Unsubscribe;
use super::page::{self, Page};

/// Largest body of a POST. A form with the one field has 26 octets, with boundaries some hundreds. Unit: octets.
const BODY_BYTES_MAX: usize = 4096;
/// What is told to a program whose wish could not be kept.
const AGAIN_IN_SECONDS: &str = "300";

/// The same on every page: nothing is loaded, framed, remembered, found by search or told to the next site.
const HEADERS: [(&str, &str); 6] = [
    ("content-type", "text/html; charset=utf-8"),
    ("content-security-policy", page::POLICY),
    ("referrer-policy", "no-referrer"),
    ("x-robots-tag", "noindex, nofollow"),
    ("x-content-type-options", "nosniff"),
    ("cache-control", "no-store"),
];

impl Unsubscribe {
    /// The page for a request.
    pub(super) async fn answer(&self, request: Request<hyper::body::Incoming>) -> Response<Body> {
        let settings = self.settings.load_full();
        let (status, page) = match *request.method() {
            Method::GET | Method::HEAD => match self.link(request.uri().path()) {
                Ok(_) => (StatusCode::OK, Page::Ask),
                Err(flaw) => refused(flaw),
            },
            Method::POST => self.post(request).await,
            _ => (StatusCode::METHOD_NOT_ALLOWED, Page::NoSuchRequest),
        };
        // The server leaves the body of an answer to HEAD out.
        let mut response = Response::new(Body::from(page.html(&settings.sender)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        for (name, value) in HEADERS {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        match status {
            StatusCode::METHOD_NOT_ALLOWED => headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST")),
            StatusCode::SERVICE_UNAVAILABLE => headers.insert(RETRY_AFTER, HeaderValue::from_static(AGAIN_IN_SECONDS)),
            _ => None,
        };
        response
    }

    /// RFC 8058 §3.2: the whole wish is in the URL and the one pair of the body; a program that is asked for nothing else
    /// gives no cookies and no address.
    async fn post(&self, request: Request<hyper::body::Incoming>) -> (StatusCode, Page) {
        let link = match self.link(request.uri().path()) {
            Ok(link) => link,
            Err(flaw) => return refused(flaw),
        };
        let kind = request.headers().get(CONTENT_TYPE).map(|kind| kind.as_bytes().to_vec()).unwrap_or_default();
        let body = request.into_body();
        if body.size_hint().lower() > BODY_BYTES_MAX as u64 {
            return (StatusCode::PAYLOAD_TOO_LARGE, Page::NoSuchRequest);
        }
        let body = match axum::body::to_bytes(Body::new(body), BODY_BYTES_MAX).await {
            Ok(body) => body,
            Err(_) => return (StatusCode::PAYLOAD_TOO_LARGE, Page::NoSuchRequest),
        };
        if !is_one_click(&kind, &body) {
            return (StatusCode::BAD_REQUEST, Page::Ask);
        }
        let id = link.id;
        match (self.suppress)(link).await {
            Ok(()) => {
                info!(queue_id = %id, "a recipient unsubscribed");
                (StatusCode::OK, Page::Done)
            }
            Err(error) => {
                warn!(queue_id = %id, %error, "an unsubscribe could not be kept; whoever asked was told to try again");
                (StatusCode::SERVICE_UNAVAILABLE, Page::Again)
            }
        }
    }

    /// What the last part of a path says: what stands before it is the proxy's.
    fn link(&self, path: &str) -> Result<Link, TokenFlaw> {
        let token = path.rsplit('/').next().unwrap_or_default();
        self.settings.load().keys.open(token, (self.now)())
    }
}

/// Whoever made a token up learns no more than who cut one off. One that we made and that is too old says so.
fn refused(flaw: TokenFlaw) -> (StatusCode, Page) {
    match flaw {
        TokenFlaw::Form | TokenFlaw::Forged => (StatusCode::NOT_FOUND, Page::NoSuchLink),
        TokenFlaw::Expired => (StatusCode::GONE, Page::TooOld),
    }
}

/// Whether a form says `List-Unsubscribe=One-Click`, as RFC 8058 §3.2 has it, in either form of form (§3.1:
/// `multipart/form-data` or `application/x-www-form-urlencoded`).
fn is_one_click(content_type: &[u8], body: &Bytes) -> bool {
    let content_type = content_type.to_ascii_lowercase();
    match content_type.starts_with(b"multipart/form-data") {
        true => is_part(body),
        false => body.trim_ascii().split(|byte| *byte == b'&').any(is_pair),
    }
}

fn is_pair(pair: &[u8]) -> bool {
    let Some(equals) = memchr::memchr(b'=', pair) else { return false };
    let (name, value) = (&pair[..equals], &pair[equals + 1..]);
    // A hyphen needs no percent sign, and may have one.
    let plain = |text: &[u8]| String::from_utf8_lossy(text).to_ascii_lowercase().replace("%2d", "-");
    plain(name) == "list-unsubscribe" && plain(value) == "one-click"
}

/// RFC 7578: a part whose field is named so and says so. Its boundary is whatever stands around it.
fn is_part(body: &[u8]) -> bool {
    let text = String::from_utf8_lossy(body).to_ascii_lowercase().replace("\r\n", "\n");
    let parts = text.split("\n\n").collect::<Vec<_>>();
    parts.windows(2).any(|pair| {
        let [before, after] = pair else { return false };
        let header = before.lines().rev().take_while(|line| !line.starts_with("--"));
        let named = |line: &str| {
            let names = ["name=\"list-unsubscribe\"", "name=list-unsubscribe"];
            line.starts_with("content-disposition:") && names.iter().any(|name| line.contains(name))
        };
        header.into_iter().any(named) && after.lines().next().is_some_and(|value| value.trim() == "one-click")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_one_pair_of_the_rfc_is_a_click() {
        let form = "application/x-www-form-urlencoded";
        let multipart = "multipart/form-data; boundary=\"---x\"";
        let part = |name: &str, value: &str| {
            format!("-----x\r\nContent-Disposition: form-data; name={name}\r\n\r\n{value}\r\n-----x--\r\n")
        };
        let rows = [
            (form, "List-Unsubscribe=One-Click".to_owned(), true),
            (form, "a=b&List-Unsubscribe=One-Click&c".to_owned(), true),
            (form, "List%2DUnsubscribe=One%2dClick\r\n".to_owned(), true),
            ("", "List-Unsubscribe=One-Click".to_owned(), true),
            (form, "list-unsubscribe=one-click".to_owned(), true),
            (form, String::new(), false),
            (form, "List-Unsubscribe".to_owned(), false),
            (form, "List-Unsubscribe=".to_owned(), false),
            (form, "X-List-Unsubscribe=One-Click".to_owned(), false),
            (form, "List-Unsubscribe=One-Clicks".to_owned(), false),
            (multipart, part("\"List-Unsubscribe\"", "One-Click"), true),
            (multipart, part("List-Unsubscribe", "One-Click"), true),
            (multipart, part("\"a\"", "b") + &part("\"List-Unsubscribe\"", "One-Click"), true),
            (multipart, part("\"a\"", "List-Unsubscribe=One-Click"), false),
            (multipart, part("\"List-Unsubscribe\"", "no"), false),
            (multipart, "List-Unsubscribe=One-Click".to_owned(), false),
        ];
        for (kind, body, want) in rows {
            assert_eq!(is_one_click(kind.as_bytes(), &Bytes::from(body.clone())), want, "{kind} {body:?}");
        }
    }
}
