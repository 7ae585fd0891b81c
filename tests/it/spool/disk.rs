//! A disk in memory that loses what it may lose: unsynced bytes by the sector, unsynced names, and all that a failed
//! sync had promised; that fails any call, is full when told, and stops dead at any call.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use postrider::spool::disk::{Entry, Open, Space};
use postrider::spool::{Disk, DiskFile};

const SECTOR: usize = 512;

/// What happens at a chosen call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The machine or the process stops; the call may have had any part of its effect.
    Stop,
    /// The call fails.
    Eio,
    /// The call finds no room.
    Enospc,
}

/// How it ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// The process is gone; the page cache lives on.
    Kill,
    /// Power is gone, and with it any part of what was not synced.
    PowerCut,
}

#[derive(Clone, Debug)]
enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

#[derive(Clone, Default, Debug)]
struct Inode {
    /// As processes see it.
    cached: Vec<u8>,
    /// As the platters have it.
    durable: Vec<u8>,
    /// What a sync would bring there.
    pending: Vec<Change>,
}

#[derive(Clone, Debug)]
struct NameChange {
    removed: Option<String>,
    added: Option<(String, usize)>,
}

#[derive(Clone, Debug)]
struct State {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    pending_names: Vec<NameChange>,
    dirs: BTreeSet<String>,
    random: fastrand::Rng,
    calls: u64,
    fault: Option<(u64, Fault)>,
    stopped: bool,
    /// Bytes that files may have in all.
    capacity: Option<u64>,
    /// How often it ended.
    life: u64,
}

/// The disk. Clones are the same disk, in the hands of the same process: what one had when it ended does nothing any more,
/// however long its threads go on.
#[derive(Clone, Debug)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
    life: u64,
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    inode: usize,
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>, keep: &mut dyn FnMut() -> bool) {
        match self {
            // Not resize: that writes byte by byte in a debug build.
            Change::Length(len) if bytes.len() < *len && keep() => bytes.extend_from_slice(&vec![0; len - bytes.len()]),
            Change::Length(_) => {}
            Change::Write(at, data) => {
                let mut from = 0;
                while from < data.len() {
                    // Sectors of the device, not of the write.
                    let upto = ((at + from) / SECTOR * SECTOR + SECTOR - at).min(data.len());
                    if keep() {
                        if bytes.len() < at + upto {
                            bytes.extend_from_slice(&vec![0; at + upto - bytes.len()]);
                        }
                        bytes[at + from..at + upto].copy_from_slice(&data[from..upto]);
                    }
                    from = upto;
                }
            }
        }
    }
}

fn directory(name: &str) -> &str {
    name.split_once('/').map_or("", |(directory, _)| directory)
}

impl NameChange {
    fn concerns(&self, dir: &str) -> bool {
        let added = self.added.as_ref().map(|(name, _)| directory(name));
        self.removed.as_deref().map(directory) == Some(dir) || added == Some(dir)
    }

    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        if let Some(name) = &self.removed {
            names.remove(name);
        }
        if let Some((name, inode)) = &self.added {
            names.insert(name.clone(), *inode);
        }
    }
}

impl State {
    /// Counts a call. `Err`: it fails, without effect. `Ok(true)`: it has its effect and then all stops.
    fn call(&mut self) -> io::Result<bool> {
        if self.stopped {
            return Err(io::Error::other("the machine has stopped"));
        }
        self.calls += 1;
        match self.fault {
            Some((at, fault)) if at == self.calls => {
                self.fault = None;
                match fault {
                    Fault::Eio => Err(io::Error::from_raw_os_error(5)),
                    Fault::Enospc => Err(io::ErrorKind::StorageFull.into()),
                    Fault::Stop => {
                        self.stopped = true;
                        match self.random.bool() {
                            true => Ok(true),
                            false => Err(io::Error::other("the machine has stopped")),
                        }
                    }
                }
            }
            _ => Ok(false),
        }
    }

    fn used(&self) -> u64 {
        let live: BTreeSet<usize> = self.names.values().copied().collect();
        live.iter().map(|inode| self.inodes[*inode].cached.len() as u64).sum()
    }

    fn grow(&self, more: usize) -> io::Result<()> {
        match self.capacity {
            Some(capacity) if more > 0 && self.used() + more as u64 > capacity => {
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => Ok(()),
        }
    }
}

fn after(stopped: bool) -> io::Result<()> {
    if stopped { Err(io::Error::other("the machine has stopped")) } else { Ok(()) }
}

impl SimDisk {
    pub fn new(seed: u64) -> SimDisk {
        let state = State {
            inodes: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending_names: Vec::new(),
            dirs: BTreeSet::from([String::new()]),
            random: fastrand::Rng::with_seed(seed),
            calls: 0,
            fault: None,
            stopped: false,
            capacity: None,
            life: 0,
        };
        SimDisk { state: Arc::new(Mutex::new(state)), life: 0 }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// For a process that lives.
    fn living(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.state();
        match state.life == self.life {
            true => Ok(state),
            false => Err(io::Error::other("the process is gone")),
        }
    }

    /// A disk with the same contents.
    pub fn copy(&self) -> SimDisk {
        SimDisk { state: Arc::new(Mutex::new(self.state().clone())), life: self.life }
    }

    /// From now on, this happens at the given call.
    pub fn fault_at(&self, calls_from_now: u64, fault: Fault) {
        let mut state = self.state();
        state.fault = Some((state.calls + calls_from_now, fault));
    }

    /// Takes a fault back that has not happened yet: the calls until then, and what.
    pub fn take_fault(&self) -> Option<(u64, Fault)> {
        let mut state = self.state();
        let (at, fault) = state.fault.take()?;
        Some((at - state.calls, fault))
    }

    pub fn is_stopped(&self) -> bool {
        self.state().stopped
    }

    /// No more room than `more` bytes beyond what is used; `None`: as much as anyone likes.
    pub fn fill_up(&self, more: Option<u64>) {
        let mut state = self.state();
        state.capacity = more.map(|more| state.used() + more);
    }

    /// Whether every byte that any process wrote is on the platters.
    pub fn is_synced(&self) -> bool {
        let state = self.state();
        state.names.values().all(|inode| state.inodes[*inode].pending.is_empty())
    }

    /// All files with their lengths.
    pub fn files(&self) -> Vec<(String, u64)> {
        let state = self.state();
        state.names.iter().map(|(name, inode)| (name.clone(), state.inodes[*inode].cached.len() as u64)).collect()
    }

    /// Changes one byte on the platters and in the cache.
    pub fn flip(&self, name: &str, at: usize, with: u8) {
        let mut state = self.state();
        let inode = state.names[name];
        let inode = &mut state.inodes[inode];
        inode.cached[at] ^= with;
        if let Some(byte) = inode.durable.get_mut(at) {
            *byte ^= with;
        }
    }

    /// The process, or the machine, is gone; what comes next sees what is left.
    pub fn end(&mut self, end: End) {
        let state = self.state.clone();
        let mut state = state.lock().unwrap();
        state.life += 1;
        self.life = state.life;
        state.stopped = false;
        state.fault = None;
        if end == End::Kill {
            return;
        }
        // Nothing of it, all of it, whole calls, or single sectors.
        let style = state.random.u8(0..4);
        let mut random = state.random.fork();
        for inode in &mut state.inodes {
            for change in std::mem::take(&mut inode.pending) {
                let whole = random.bool();
                let mut keep = || match style {
                    0 => false,
                    1 => true,
                    2 => whole,
                    _ => random.bool(),
                };
                change.apply(&mut inode.durable, &mut keep);
            }
            inode.cached = inode.durable.clone();
        }
        let mut names = std::mem::take(&mut state.durable_names);
        for change in std::mem::take(&mut state.pending_names) {
            let keep = match style {
                0 => false,
                1 => true,
                _ => random.bool(),
            };
            if keep {
                change.apply(&mut names);
            }
        }
        // A name of a file whose other name came back: the rename happened or it did not, never both.
        let mut seen = BTreeSet::new();
        names.retain(|_, inode| seen.insert(*inode));
        state.durable_names = names.clone();
        state.names = names;
    }
}

impl Disk for SimDisk {
    fn open(&self, name: &str, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.living()?;
        let stopped = state.call()?;
        let inode = match (how, state.names.get(name).copied()) {
            (Open::New, Some(_)) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Open::New, None) => {
                state.grow(1)?;
                assert!(state.dirs.contains(directory(name)), "no such directory");
                state.inodes.push(Inode::default());
                let inode = state.inodes.len() - 1;
                state.names.insert(name.to_owned(), inode);
                state.pending_names.push(NameChange { removed: None, added: Some((name.to_owned(), inode)) });
                inode
            }
            (Open::Existing | Open::ReadOnly, Some(inode)) => inode,
            (Open::Existing | Open::ReadOnly, None) => return Err(io::ErrorKind::NotFound.into()),
        };
        after(stopped)?;
        Ok(Arc::new(SimFile { disk: self.clone(), inode }))
    }

    fn make_dir(&self, name: &str) -> io::Result<()> {
        let mut state = self.living()?;
        let stopped = state.call()?;
        state.dirs.insert(name.to_owned());
        after(stopped)
    }

    fn sync_dir(&self, name: &str) -> io::Result<()> {
        let mut state = self.living()?;
        let stopped = state.call()?;
        let (now, later) = std::mem::take(&mut state.pending_names).into_iter().partition(|c| c.concerns(name));
        state.pending_names = later;
        let now: Vec<NameChange> = now;
        for change in now {
            change.apply(&mut state.durable_names);
        }
        after(stopped)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.living()?;
        let stopped = state.call()?;
        let inode = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), inode);
        state.pending_names.push(NameChange { removed: Some(from.to_owned()), added: Some((to.to_owned(), inode)) });
        after(stopped)
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        let mut state = self.living()?;
        let stopped = state.call()?;
        state.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
        state.pending_names.push(NameChange { removed: Some(name.to_owned()), added: None });
        after(stopped)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<Entry>> {
        let mut state = self.living()?;
        after(state.call()?)?;
        let here = state.names.iter().filter(|(name, _)| directory(name) == dir);
        Ok(here
            .map(|(name, inode)| Entry {
                name: name.rsplit('/').next().unwrap().to_owned(),
                len: state.inodes[*inode].cached.len() as u64,
            })
            .collect())
    }

    fn space(&self) -> io::Result<Space> {
        let state = self.living()?;
        let total = state.capacity.unwrap_or(1 << 40);
        Ok(Space { free: total.saturating_sub(state.used()), total })
    }

    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        after(self.living()?.call()?)?;
        Ok(Box::new(()))
    }

    fn link_out(&self, _name: &str, _to: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.living()?;
        after(state.call()?)?;
        let bytes = &state.inodes[self.inode].cached;
        let rest = bytes.get(offset as usize..).unwrap_or_default();
        let len = rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.living()?;
        after(state.stopped)?;
        let failed = state.call();
        let old_len = state.inodes[self.inode].cached.len();
        if failed.is_ok() {
            state.grow((offset as usize + bytes.len()).saturating_sub(old_len))?;
        }
        // Whatever it says, a part of a failed write may have been done.
        let part = match (&failed, state.random.u8(0..4)) {
            (Ok(false), _) | (_, 0) => bytes.len(),
            (_, 1) => state.random.usize(0..=bytes.len()),
            (_, _) => 0,
        };
        let change = Change::Write(offset as usize, bytes[..part].to_vec());
        let inode = &mut state.inodes[self.inode];
        change.apply(&mut inode.cached, &mut || true);
        inode.pending.push(change);
        after(failed?)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.living()?;
        after(state.stopped)?;
        let called = state.call();
        let mut random = state.random.fork();
        let stopped = state.stopped;
        let inode = &mut state.inodes[self.inode];
        let pending = std::mem::take(&mut inode.pending);
        match called {
            Ok(_) => {
                for change in pending {
                    change.apply(&mut inode.durable, &mut || true);
                }
            }
            Err(_) if stopped => inode.pending = pending,
            // The kernel tells it once, calls the pages clean, and shows them as if they had been written.
            Err(_) => inode.pending = pending.into_iter().filter(|_| random.bool()).collect(),
        }
        after(called?)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.disk.living()?.inodes[self.inode].cached.len() as u64)
    }

    fn names(&self) -> io::Result<u64> {
        Ok(1)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.living()?;
        let stopped = state.call()?;
        let old_len = state.inodes[self.inode].cached.len();
        state.grow((len as usize).saturating_sub(old_len))?;
        let change = Change::Length(len as usize);
        let inode = &mut state.inodes[self.inode];
        change.apply(&mut inode.cached, &mut || true);
        inode.pending.push(change);
        after(stopped)
    }
}
