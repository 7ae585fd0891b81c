//! Standard error as the structured log's file: a line a write, or several lines in one.
//!
//! The roof gives it to the log; `events` says which lines belong together. It never holds a line beyond that, so that what
//! is logged is in the kernel before what follows from it is done.

mod text;

use std::cell::RefCell;
use std::io::{self, Write};

pub use text::Text;

thread_local! {
    /// The lines of this thread that go out together, if any do.
    static HELD: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// Where the log writes.
#[derive(Debug)]
pub struct Stderr;

/// Makes one, as the log asks for each line.
pub fn stderr() -> Stderr {
    Stderr
}

impl Write for Stderr {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let is_held = HELD.with_borrow_mut(|held| match held {
            Some(held) => {
                held.extend_from_slice(octets);
                true
            }
            None => false,
        });
        match is_held {
            true => Ok(octets.len()),
            false => io::stderr().write(octets),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Runs `tell`, and then writes the lines that it logged in one write, also if it panics.
pub fn together<T>(tell: impl FnOnce() -> T) -> T {
    together_to(&mut io::stderr(), tell)
}

fn together_to<T>(out: &mut dyn Write, tell: impl FnOnce() -> T) -> T {
    struct Held<'a>(&'a mut dyn Write);
    impl Drop for Held<'_> {
        fn drop(&mut self) {
            let lines = HELD.take().unwrap_or_default();
            if !lines.is_empty() {
                // As the log itself: there is nowhere to tell of it.
                let _ = self.0.write_all(&lines);
            }
        }
    }
    // What is together already stays so.
    if HELD.with_borrow(Option::is_some) {
        return tell();
    }
    HELD.set(Some(Vec::new()));
    let held = Held(out);
    let told = tell();
    drop(held);
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Remembers each write by itself.
    struct Writes(Vec<String>);

    impl Write for Writes {
        fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
            self.0.push(String::from_utf8_lossy(octets).into_owned());
            Ok(octets.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_belong_together_go_out_in_one_write_in_their_order_and_nothing_is_held_after() {
        let mut out = Writes(Vec::new());
        let told = together_to(&mut out, || {
            stderr().write_all(b"one\n").unwrap();
            together(|| stderr().write_all(b"two\n").unwrap());
            3
        });
        assert_eq!((told, out.0), (3, vec!["one\ntwo\n".to_owned()]));
        assert!(HELD.with_borrow(Option::is_none));
    }

    #[test]
    fn a_panic_loses_no_line() {
        let mut out = Writes(Vec::new());
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            together_to(&mut out, || {
                stderr().write_all(b"one\n").unwrap();
                panic!("on purpose");
            })
        }));
        assert!(ended.is_err());
        assert_eq!(out.0, ["one\n"]);
        assert!(HELD.with_borrow(Option::is_none));
    }
}
