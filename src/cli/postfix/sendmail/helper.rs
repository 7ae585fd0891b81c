//! Runs the set-gid helper: a letter in, an id out.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use postrider_drop::{Letter, MAILDROP};

use super::super::{Fatal, Place, TEMPORARY, UNAVAILABLE};

/// Where packages put it.
const INSTALLED: &str = match option_env!("POSTRIDER_DROP") {
    Some(path) => path,
    None => "/usr/lib/postrider/postrider-drop",
};
/// Longest text of it that is read. Unit: octets.
const TEXT_LENGTH_MAX: u64 = 4096;

/// Keeps a letter. Returns the name under which it waits.
///
/// # Errors
/// It is not kept, or at most once: the code says whether another try may help.
pub(super) fn keep(place: &Place, letter: &Letter) -> Result<String, Fatal> {
    let program = program();
    let mut command = Command::new(&program);
    let maildrop = place.data_dir.join(crate::pickup::NAME);
    if maildrop.as_os_str() != MAILDROP {
        // Installed set-gid, it refuses this; it is for who keeps the maildrop in a directory of his own.
        command.arg("--maildrop").arg(&maildrop);
    }
    command.env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .map_err(|error| Fatal::new(UNAVAILABLE, format!("unable to execute {}: {error}", program.display())))?;
    // One that ended early says why by its code.
    if let Some(mut input) = child.stdin.take() {
        let _ = input.write_all(&letter.bytes());
    }
    let (mut name, mut text) = (String::new(), String::new());
    if let Some(output) = child.stdout.take() {
        let _ = output.take(TEXT_LENGTH_MAX).read_to_string(&mut name);
    }
    if let Some(output) = child.stderr.take() {
        let _ = output.take(TEXT_LENGTH_MAX).read_to_string(&mut text);
    }
    let status = child.wait().map_err(|error| Fatal::new(TEMPORARY, format!("waiting for the helper: {error}")))?;
    let said = text.trim().trim_start_matches("postrider-drop: ").to_owned();
    match status.code() {
        Some(0) => Ok(name.trim().to_owned()),
        Some(code) => {
            let code = u8::try_from(code).unwrap_or(TEMPORARY);
            Err(Fatal::new(code, if said.is_empty() { "mail system error".to_owned() } else { said }))
        }
        None => Err(Fatal::new(TEMPORARY, format!("the helper was killed ({status})"))),
    }
}

/// The installed helper, or the one beside this very program.
fn program() -> PathBuf {
    let installed = PathBuf::from(INSTALLED);
    let own = std::env::current_exe().ok();
    let beside = own.as_deref().and_then(|own| own.parent()).map(|directory| directory.join("postrider-drop"));
    match beside {
        Some(beside) if !installed.exists() && beside.exists() => beside,
        _ => installed,
    }
}
