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
    static HELD: RefCell<Held> = const { RefCell::new(Held { lines: Vec::new(), is_holding: false }) };
}

struct Held {
    /// Empty if none are held; kept for those to come, unless it was an outcome for thousands.
    lines: Vec<u8>,
    is_holding: bool,
}

/// A longer buffer is not kept. Unit: octets.
const KEPT_MAX: usize = 64 * 1024;

/// Where the log writes.
#[derive(Debug)]
pub struct Stderr;

/// Makes one, as the log asks for each line.
pub fn stderr() -> Stderr {
    Stderr
}

impl Write for Stderr {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let is_held = HELD.with_borrow_mut(|held| {
            if held.is_holding {
                held.lines.extend_from_slice(octets);
            }
            held.is_holding
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
    struct End<'a>(&'a mut dyn Write);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            let mut lines = HELD.with_borrow_mut(|held| {
                held.is_holding = false;
                std::mem::take(&mut held.lines)
            });
            if !lines.is_empty() {
                // As the log itself: there is nowhere to tell of it.
                let _ = self.0.write_all(&lines);
            }
            if lines.capacity() <= KEPT_MAX {
                lines.clear();
                HELD.with_borrow_mut(|held| held.lines = lines);
            }
        }
    }
    // What is together already stays so.
    if HELD.with_borrow_mut(|held| std::mem::replace(&mut held.is_holding, true)) {
        return tell();
    }
    let end = End(out);
    let told = tell();
    drop(end);
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
        assert!(HELD.with_borrow(|held| !held.is_holding && held.lines.is_empty()));
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
        assert!(HELD.with_borrow(|held| !held.is_holding && held.lines.is_empty()));
    }
}
