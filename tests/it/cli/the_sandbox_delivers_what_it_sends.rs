//! `sandbox --send`: the whole daemon between a client and a peer, every kind of sample, signatures verified.

use super::{postrider, said};

#[test]
fn the_sandbox_delivers_what_it_sends_and_every_signature_holds() {
    let run = postrider(&["sandbox", "--send", "10"]);
    let text = said(&run);
    assert_eq!(run.status.code(), Some(0), "{text}{}", String::from_utf8_lossy(&run.stderr));
    assert!(
        text.contains("10 of 10 delivered (2 text, 2 HTML with attachment, 2 8-bit, 2 long line, 2 dots), 10 verified")
    );
}
