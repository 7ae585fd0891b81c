//! Scenarios of the command line, on the real binary.

mod a_new_set_up_passes_its_own_check;
mod programs_hand_mail_to_sendmail;
mod the_sandbox_delivers_what_it_sends;

use std::process::{Command, Output};

/// Runs `postrider` to its end.
fn postrider(arguments: &[&str]) -> Output {
    let command = Command::new(env!("CARGO_BIN_EXE_postrider")).args(arguments).output();
    command.unwrap_or_else(|error| panic!("postrider {arguments:?}: {error}"))
}

/// What it wrote to standard output.
fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}
