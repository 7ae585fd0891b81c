//! The exchanges of AUTH PLAIN (RFC 4616) and AUTH LOGIN: base64 lines in, a name and a password out. Pure.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::answer::Answer;

/// Longest name. Unit: octets.
const NAME_LENGTH_MAX: usize = 255;
/// Longest password or key. Unit: octets. Enough for any; hashing takes no more than that.
const SECRET_LENGTH_MAX: usize = 1024;

/// What a client wants to be taken for.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The credential's name, or `apikey`.
    pub name: String,
    /// Password or API key.
    pub secret: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("name", &self.name).finish_non_exhaustive()
    }
}

/// An exchange that waits for the client's next line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Exchange {
    /// PLAIN without an initial response.
    Plain,
    /// LOGIN: the name.
    LoginName,
    /// LOGIN: the password of this name.
    LoginSecret(String),
}

/// What a line leads to.
#[derive(PartialEq, Eq, Debug)]
pub enum Turn {
    /// Send this challenge and wait.
    Ask(Exchange, Answer),
    /// All is known.
    Done(Login),
    /// Send this; the exchange is over.
    Failed(Answer),
}

const EMPTY: Answer = Answer::fixed(334, "", "");
const ASK_NAME: Answer = Answer::fixed(334, "", "VXNlcm5hbWU6");
const ASK_SECRET: Answer = Answer::fixed(334, "", "UGFzc3dvcmQ6");
const CANCELLED: Answer = Answer::fixed(501, "5.7.0", "Authentication cancelled");
const NOT_BASE64: Answer = Answer::fixed(501, "5.5.2", "Not valid base64");
const NOT_PLAIN: Answer = Answer::fixed(501, "5.5.2", "AUTH PLAIN takes authzid NUL authcid NUL password");
const OTHER_IDENTITY: Answer = Answer::fixed(535, "5.7.8", "Acting for another name is not possible");
const UNKNOWN_MECHANISM: Answer = Answer::fixed(504, "5.5.4", "Mechanism not supported: use PLAIN or LOGIN");

/// Begins an exchange.
pub fn begin(mechanism: &str, initial: Option<&str>) -> Turn {
    let plain = mechanism.eq_ignore_ascii_case("PLAIN");
    if !plain && !mechanism.eq_ignore_ascii_case("LOGIN") {
        return Turn::Failed(UNKNOWN_MECHANISM);
    }
    let exchange = if plain { Exchange::Plain } else { Exchange::LoginName };
    match initial {
        None if plain => Turn::Ask(exchange, EMPTY),
        None => Turn::Ask(exchange, ASK_NAME),
        // RFC 4954 §4: an initial response of no octets.
        Some("=") => exchange.answer(b""),
        Some(initial) => exchange.answer(initial.as_bytes()),
    }
}

impl Exchange {
    /// Takes the client's line, without its end.
    pub fn answer(self, line: &[u8]) -> Turn {
        if line == b"*" {
            return Turn::Failed(CANCELLED);
        }
        let Some(text) = STANDARD.decode(line).ok().and_then(|octets| String::from_utf8(octets).ok()) else {
            return Turn::Failed(NOT_BASE64);
        };
        match self {
            Exchange::Plain => plain(&text),
            Exchange::LoginName => Turn::Ask(Exchange::LoginSecret(text), ASK_SECRET),
            Exchange::LoginSecret(name) => login(&name, &text),
        }
    }
}

fn plain(text: &str) -> Turn {
    let mut parts = text.split('\0');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        // A client that gives an authzid means it: taking no notice would let it act as somebody it did not name.
        (Some(authzid), Some(name), Some(_), None) if !authzid.is_empty() && authzid != name => {
            Turn::Failed(OTHER_IDENTITY)
        }
        (Some(_), Some(name), Some(secret), None) => login(name, secret),
        _ => Turn::Failed(NOT_PLAIN),
    }
}

fn login(name: &str, secret: &str) -> Turn {
    let sound = name.len() <= NAME_LENGTH_MAX && secret.len() <= SECRET_LENGTH_MAX && !secret.contains('\0');
    match sound && !name.is_empty() && !name.contains(char::is_control) {
        true => Turn::Done(Login { name: name.to_owned(), secret: secret.to_owned() }),
        false => Turn::Failed(Answer::fixed(501, "5.5.2", "A name and a password of sensible length are needed")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base64(text: &str) -> String {
        STANDARD.encode(text)
    }

    fn done(name: &str, secret: &str) -> Turn {
        Turn::Done(Login { name: name.to_owned(), secret: secret.to_owned() })
    }

    #[test]
    fn both_mechanisms_come_to_the_same_login() {
        let plain = base64("\0shop\0secret");
        assert_eq!(begin("plain", Some(&plain)), done("shop", "secret"));
        assert_eq!(begin("PLAIN", Some(&base64("shop\0shop\0secret"))), done("shop", "secret"));
        assert_eq!(begin("PLAIN", None), Turn::Ask(Exchange::Plain, EMPTY));
        assert_eq!(Exchange::Plain.answer(plain.as_bytes()), done("shop", "secret"));
        let ask_secret = || Turn::Ask(Exchange::LoginSecret("shop".to_owned()), ASK_SECRET);
        assert_eq!(begin("LOGIN", None), Turn::Ask(Exchange::LoginName, ASK_NAME));
        assert_eq!(begin("LOGIN", Some(&base64("shop"))), ask_secret());
        assert_eq!(Exchange::LoginName.answer(base64("shop").as_bytes()), ask_secret());
        let last = Exchange::LoginSecret("shop".to_owned());
        assert_eq!(last.answer(base64("secret").as_bytes()), done("shop", "secret"));
    }

    #[test]
    fn what_is_no_login_fails_with_its_code() {
        let long = base64(&format!("\0{}\0p", "n".repeat(256)));
        let rows = [
            (begin("CRAM-MD5", None), 504),
            (begin("PLAIN", Some("=")), 501),
            (begin("PLAIN", Some("!")), 501),
            (begin("PLAIN", Some(&base64("a\0b"))), 501),
            (begin("PLAIN", Some(&base64("\0a\0b\0c"))), 501),
            (begin("PLAIN", Some(&base64("\0\0b"))), 501),
            (begin("PLAIN", Some(&base64("root\0shop\0secret"))), 535),
            (begin("PLAIN", Some(&long)), 501),
            (begin("PLAIN", Some("gA==")), 501),
            (Exchange::Plain.answer(b"*"), 501),
            (Exchange::LoginName.answer(b"*"), 501),
            (Exchange::LoginSecret("a".to_owned()).answer(b"*"), 501),
            (Exchange::LoginSecret("a".to_owned()).answer(b"MAIL FROM:<a@b>"), 501),
            (Exchange::LoginSecret(String::new()).answer(b""), 501),
        ];
        for (turn, code) in rows {
            assert!(matches!(&turn, Turn::Failed(answer) if answer.code == code), "{turn:?}, not {code}");
        }
    }
}
