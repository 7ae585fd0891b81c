//! Bodies too large for the log: each its own file, named by the message's first queue id, durable before any record
//! names it.

use std::io;

use super::disk::{Disk, Open};
use super::log::is_full;
use super::quarantine::Quarantine;
use super::record::BodyPlace;
use super::settings::Settings;
use super::table::Table;
use super::writer::{Broken, PutFailure};
use crate::mail::{Prepared, QueueId};

/// The directory.
pub(super) const BODIES: &str = "bodies";

pub(super) fn file_name(name: QueueId) -> String {
    format!("{BODIES}/{name}")
}

/// Decides where a message's body goes, and if that is a file, writes it: contents, sync, sync of the directory.
pub(super) fn place(disk: &dyn Disk, settings: &Settings, prepared: &Prepared) -> Result<BodyPlace, PutFailure> {
    if prepared.body.len() <= settings.inline_bytes() {
        return Ok(BodyPlace::Inline);
    }
    let Some(first) = prepared.envelopes.first() else { return Ok(BodyPlace::Inline) };
    let name = file_name(first.id);
    match write(disk, &name, &prepared.body) {
        Ok(()) => {}
        Err(Step::Write(error)) if is_full(&error) => {
            let _ = disk.unlink(&name);
            return Err(PutFailure::Full);
        }
        Err(Step::Write(error)) => return Err(PutFailure::Broken(Broken(format!("writing a body: {error}")))),
        Err(Step::Sync(error)) => return Err(PutFailure::Broken(Broken(format!("syncing a body: {error}")))),
    }
    Ok(BodyPlace::File { name: first.id, len: prepared.body.len() as u64, crc: crc32fast::hash(&prepared.body) })
}

enum Step {
    Write(io::Error),
    Sync(io::Error),
}

fn write(disk: &dyn Disk, name: &str, body: &[u8]) -> Result<(), Step> {
    let file = match disk.open(name, Open::New) {
        // Left by a try that found no room for the record.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            disk.unlink(name).map_err(Step::Write)?;
            disk.open(name, Open::New).map_err(Step::Write)?
        }
        other => other.map_err(Step::Write)?,
    };
    file.write_at(body, 0).map_err(Step::Write)?;
    file.sync_data().map_err(Step::Sync)?;
    disk.sync_dir(BODIES).map_err(Step::Sync)
}

/// Reads a body's file, and tells whether it is as it was written.
pub(super) fn read(disk: &dyn Disk, name: QueueId, len: u64, crc: u32) -> io::Result<(Vec<u8>, bool)> {
    let file = disk.open(&file_name(name), Open::ReadOnly)?;
    // The file's own length bounds what is allocated, whatever the record says.
    let mut body = vec![0; len.min(file.length()?) as usize];
    let read = file.read_at(&mut body, 0)?;
    body.truncate(read);
    let sound = body.len() as u64 == len && crc32fast::hash(&body) == crc;
    Ok((body, sound))
}

/// At a start, after the whole log was read: removes files that no live record names. Where something in the log could
/// not be read, such a file may belong to it, and is put aside instead.
pub(super) fn remove_orphans(disk: &dyn Disk, table: &Table, quarantine: &mut Quarantine) -> io::Result<()> {
    let named: std::collections::HashSet<String> = table.files().map(|name| name.to_string()).collect();
    let damage = quarantine.found > 0;
    for file in disk.list(BODIES)? {
        if named.contains(&file.name) {
            continue;
        }
        let name = format!("{BODIES}/{}", file.name);
        match damage {
            true => quarantine.take_file(&name)?,
            false => disk.unlink(&name)?,
        }
    }
    Ok(())
}
