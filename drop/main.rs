//! `postrider-drop`, set-gid to the maildrop's group: takes a message on standard input and keeps it until the daemon
//! fetches it. All it does stands in `src/helper.rs`.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    postrider_drop::helper::main()
}
