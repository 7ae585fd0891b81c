//! The pages: plain, without script, the same in light and dark and on a phone.

use std::fmt::Write as _;

/// Allows the style below by its hash, a form to ourselves, and nothing else.
pub(super) const POLICY: &str = "default-src 'none'; style-src 'sha256-K6OADub7cx+O0Qjl2rZS4T/Ty+AMtQH7epRo3h8Jz/M='; \
                                 form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Colours with a contrast of 7 to 1 and more (WCAG 2.2, 1.4.6); a button that a thumb finds (2.5.5: 44 pixels).
const STYLE: &str = "\
:root{color-scheme:light dark;--ground:#f4f5f7;--card:#fff;--text:#1b1f24;--quiet:#454c55;--deed:#0b4fa8;--on-deed:#fff;--line:#d5d9df}\
@media(prefers-color-scheme:dark){:root{--ground:#121417;--card:#1c2025;--text:#eef1f4;--quiet:#b9c1ca;--deed:#a8cbff;--on-deed:#0a1a30;--line:#343a42}}\
*{box-sizing:border-box}\
body{margin:0;min-height:100vh;display:grid;place-items:center;padding:1.25rem;background:var(--ground);color:var(--text);font:1.0625rem/1.55 system-ui,sans-serif}\
main{width:100%;max-width:30rem;padding:2.25rem 2rem;background:var(--card);border:1px solid var(--line);border-radius:.75rem}\
h1{margin:0 0 .75rem;font-size:1.5rem;line-height:1.25}\
p{margin:0;color:var(--quiet);overflow-wrap:anywhere}\
form{margin:1.75rem 0 0}\
button{width:100%;min-height:3rem;padding:.75rem 1.25rem;border:0;border-radius:.5rem;background:var(--deed);color:var(--on-deed);font:inherit;font-weight:600;cursor:pointer}\
button:focus-visible{outline:3px solid var(--text);outline-offset:3px}\
@media(forced-colors:active){button{border:1px solid}}";

/// What is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Page {
    /// The button.
    Ask,
    /// It was pressed.
    Done,
    /// It was pressed, and could not be kept.
    Again,
    /// The token is none of ours.
    NoSuchLink,
    /// The token was ours.
    TooOld,
    /// A request that no page of ours makes.
    NoSuchRequest,
}

impl Page {
    /// The page, in which only the sender's name is not ours.
    pub(super) fn html(self, sender: &str) -> String {
        let from = match sender {
            "" => String::new(),
            sender => format!(" from {}", escaped(sender)),
        };
        let (title, text) = match self {
            Page::Ask => (
                "Unsubscribe?",
                format!(
                    "You will get no more newsletters{from}. Messages about your account and your orders still come."
                ),
            ),
            Page::Done => (
                "You are unsubscribed",
                format!("You will get no more newsletters{from}. One that is on its way already may still arrive."),
            ),
            Page::Again => (
                "Please try again",
                "Your wish could not be saved just now. Please try again in a few minutes.".to_owned(),
            ),
            Page::NoSuchLink => (
                "This link does not work",
                "It may have been cut off. Please open it from the message again, or copy all of it.".to_owned(),
            ),
            Page::TooOld => {
                ("This link is too old", "Please use the link in a newer message, or answer that message.".to_owned())
            }
            Page::NoSuchRequest => {
                ("This cannot be done here", "Please open the link from the message again.".to_owned())
            }
        };
        let button = match self {
            // Sent to the page's own address; the field is the one of RFC 8058 §3.1.
            Page::Ask | Page::Again => {
                "<form method=\"post\"><input type=\"hidden\" name=\"List-Unsubscribe\" value=\"One-Click\">\
                 <button type=\"submit\">Unsubscribe</button></form>"
            }
            Page::Done | Page::NoSuchLink | Page::TooOld | Page::NoSuchRequest => "",
        };
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
             <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
             <meta name=\"robots\" content=\"noindex\"><style>{STYLE}</style></head>\
             <body><main><h1>{title}</h1><p>{text}</p>{button}</main></body></html>\n"
        )
    }
}

/// As text of an element.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' | '>' | '&' | '"' | '\'' => {
                // Invariant: writing to a String cannot fail.
                let _ = write!(out, "&#{};", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use sha2::{Digest, Sha256};

    use super::*;

    #[test]
    fn the_policy_allows_the_style_that_stands_there() {
        let hash = STANDARD.encode(Sha256::digest(STYLE));
        assert!(POLICY.contains(&format!("'sha256-{hash}'")), "{hash}");
        assert_eq!(Page::Ask.html("").matches("<style>").count(), 1);
        assert!(Page::Ask.html("").contains(&format!("<style>{STYLE}</style>")));
    }

    #[test]
    fn a_page_shows_a_button_where_there_is_something_to_press_and_no_markup_of_the_senders() {
        let all = [Page::Ask, Page::Done, Page::Again, Page::NoSuchLink, Page::TooOld, Page::NoSuchRequest];
        for page in all {
            let html = page.html("<b>A & \"B\"</b>");
            assert_eq!(html.contains("<button"), matches!(page, Page::Ask | Page::Again), "{page:?}");
            assert!(!html.contains("<b>") && !html.contains("<script") && !html.contains("http"), "{html}");
            assert!(html.contains("lang=\"en\"") && html.contains("width=device-width"));
        }
        assert!(Page::Ask.html("Example & Co").contains("newsletters from Example &#38; Co."));
        assert!(Page::Done.html("").contains("no more newsletters."));
    }
}
