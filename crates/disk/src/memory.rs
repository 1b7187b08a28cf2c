// SPDX-License-Identifier: Apache-2.0

//! A disk in memory that behaves as badly as it is told to.
//!
//! What was written but not synced is kept apart from what is durable, for contents and for names alike. [`MemoryDisk::crash`]
//! takes the power away: of every unsynced write each 512-byte sector is kept or lost, of every unsynced change of a directory's
//! names all or nothing, as the seed decides. Everything is deterministic: there is no other source of chance.
//!
//! It is as slow as its owner makes it: [`MemoryDisk::set_before`] is called before each operation and may take its time or wait for
//! something. Or the owner counts [`MemoryDisk::operations`] and turns them into virtual time.
//!
//! Deliberately absent: permissions, links.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::atomic::directory;
use crate::{DirEntry, Disk, File, Lock, Open};

/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

/// A disk in memory. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct MemoryDisk {
    state: Arc<Mutex<State>>,
    before: Arc<Mutex<Hook>>,
}

/// What an operation is about to do to the file or directory of a path (a file is known by the path it was opened with).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access<'a> {
    /// Reads bytes.
    Read,
    /// Writes these bytes from an offset on; none for zeros.
    Write {
        /// Where the first of them goes.
        offset: u64,
        /// They themselves.
        bytes: &'a [u8],
    },
    /// Makes bytes or names durable.
    Sync,
    /// Anything with names and lengths: opening, listing, renaming, removing, cutting.
    Meta,
}

/// Called before each operation, on the thread that asks for it and without a lock: while it has not come back, the operation has not
/// begun, and others go on.
pub type Before = Arc<dyn Fn(&Path, Access<'_>) + Send + Sync>;

#[derive(Clone, Default)]
struct Hook(Option<Before>);

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Hook(set)" } else { "Hook(none)" })
    }
}

/// Faults that happen from now on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Every operation with this number and above fails with EIO and changes nothing more: the moment before a crash.
    pub all_from_operation: Option<u64>,
    /// The operation with this number fails with EIO, once.
    pub once_at_operation: Option<u64>,
    /// Syncs answer success and make nothing durable: the lying disk, or the skipped fsync of a planted bug.
    pub ignore_syncs: bool,
    /// Bytes that all files together may have; growing beyond fails with ENOSPC.
    pub capacity_bytes: Option<u64>,
    /// Every sync fails with EIO.
    pub syncs_fail: bool,
    /// Every read fails with EIO.
    pub reads_fail: bool,
    /// Every write fails with EIO.
    pub writes_fail: bool,
}

type Inode = u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    Directory,
    File(Inode),
}

#[derive(Clone, Debug, Default)]
struct Content {
    durable: Vec<u8>,
    current: Vec<u8>,
    /// Ranges written since the last sync; their sectors may each be lost.
    unsynced: Vec<(usize, usize)>,
}

/// Files and directories by their paths, ordered by bytes, which is cheaper than component by component.
type Names = BTreeMap<OsString, Node>;

#[derive(Debug, Default)]
struct State {
    names: Names,
    durable_names: Names,
    contents: BTreeMap<Inode, Content>,
    locked: BTreeMap<PathBuf, u64>,
    next_inode: Inode,
    operations: u64,
    /// Grows at each crash: handles and locks from before are dead.
    power_cycle: u64,
    faults: Faults,
    stray: Option<Stray>,
    /// By the path that it was opened with, the range of the last write to a file.
    last_writes: BTreeMap<PathBuf, (u64, u64)>,
}

/// A write that the disk says it made and did not, or not where it was told to.
#[derive(Clone, Debug)]
struct Stray {
    /// Below this directory; the next one.
    directory: PathBuf,
    /// How far off it goes; lost without.
    off_bytes: Option<u64>,
    /// The write, once it came, until another one in that directory is durable.
    made: Option<(PathBuf, Inode, u64, Vec<u8>)>,
}

impl MemoryDisk {
    /// An empty disk without faults.
    pub fn new() -> MemoryDisk {
        MemoryDisk::default()
    }

    /// Operations so far: opens, reads, writes, syncs, renames, removals.
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// Sets what goes wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.lock().faults = faults;
    }

    /// What goes wrong at present.
    pub fn faults(&self) -> Faults {
        self.lock().faults
    }

    /// Lets every operation with this number and above fail; see [`Faults::all_from_operation`].
    pub fn fail_from_operation(&self, number: u64) {
        self.lock().faults.all_from_operation = Some(number);
    }

    /// Sets what is called before each operation from now on.
    pub fn set_before(&self, before: impl Fn(&Path, Access<'_>) + Send + Sync + 'static) {
        self.hook().0 = Some(Arc::new(before));
    }

    /// Takes the power away and gives it back: what was not durable is lost, torn or kept as the seed decides, handles and locks are
    /// gone, faults are cleared.
    pub fn crash(&self, seed: u64) {
        let mut state = self.lock();
        state.bring_stray_home();
        let mut draw = Draw(seed);
        let mut kept = Names::new();
        let mut by_directory: BTreeMap<PathBuf, bool> = BTreeMap::new();
        let all: Vec<OsString> = state.names.keys().chain(state.durable_names.keys()).cloned().collect();
        for path in all {
            let keep_new = *by_directory
                .entry(directory(Path::new(&path)).to_owned())
                .or_insert_with(|| draw.next() & 1 == 0);
            let source = if keep_new { &state.names } else { &state.durable_names };
            if let Some(node) = source.get(&path) {
                kept.insert(path, *node);
            }
        }
        // A name whose directory is gone is gone with it.
        let reachable: Names = kept
            .iter()
            .filter(|(path, _)| is_reachable(&kept, Path::new(path)))
            .map(|(path, node)| (path.clone(), *node))
            .collect();
        for content in state.contents.values_mut() {
            content.crash(&mut draw);
        }
        let alive: Vec<Inode> = reachable
            .values()
            .filter_map(|node| if let Node::File(inode) = node { Some(*inode) } else { None })
            .collect();
        state.contents.retain(|inode, _| alive.contains(inode));
        state.names = reachable.clone();
        state.durable_names = reachable;
        state.locked.clear();
        state.power_cycle += 1;
        state.faults = Faults::default();
    }

    /// Kills the process but not the machine: everything written stays, handles and locks are gone.
    pub fn kill(&self) {
        let mut state = self.lock();
        state.bring_stray_home();
        state.locked.clear();
        state.power_cycle += 1;
        state.faults = Faults { capacity_bytes: state.faults.capacity_bytes, ..Faults::default() };
    }

    /// Nothing that no sync made durable is left, as after a cut of the power at which nothing that was under way got through: with
    /// [`Faults::ignore_syncs`] the disk is as it was when that began.
    pub fn drop_unsynced(&self) {
        let mut state = self.lock();
        for content in state.contents.values_mut() {
            content.unsynced.clear();
            let Content { durable, current, .. } = content;
            current.clone_from(durable);
        }
        state.names = state.durable_names.clone();
    }

    /// Everything is durable, whether somebody asked for it or not.
    pub fn make_durable(&self) {
        let mut state = self.lock();
        for content in state.contents.values_mut() {
            content.unsynced.clear();
            let Content { durable, current, .. } = content;
            durable.clone_from(current);
        }
        state.durable_names = state.names.clone();
    }

    /// Flips a bit of a file at rest. `false` when the file does not have that bit.
    pub fn flip_bit(&self, path: &Path, bit: u64) -> bool {
        let mut state = self.lock();
        let Some(Node::File(inode)) = state.names.get(path.as_os_str()).copied() else { return false };
        let Some(content) = state.contents.get_mut(&inode) else { return false };
        let (byte, mask) = ((bit / 8) as usize, 1 << (bit % 8));
        for bytes in [&mut content.durable, &mut content.current] {
            if let Some(byte) = bytes.get_mut(byte) {
                *byte ^= mask;
            }
        }
        byte < content.current.len()
    }

    /// The next write below a directory gets lost although it succeeds, or goes so many bytes off. Should the power go or the process end
    /// before anything else but zeros is durable there, in a file of the same kind, it was only late: a disk that loses the very last write
    /// cannot be found out. What a new file begins with is left alone.
    pub fn stray_next_write(&self, directory: PathBuf, off_bytes: Option<u64>) {
        self.lock().stray = Some(Stray { directory, off_bytes, made: None });
    }

    /// What a file holds, whatever goes wrong with the disk.
    pub fn peek(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.lock();
        let Some(Node::File(inode)) = state.names.get(path.as_os_str()) else { return None };
        state.contents.get(inode).map(|content| content.current.clone())
    }

    /// Where the last write to a file began and ended; zeros do not count.
    pub fn last_write(&self, path: &Path) -> Option<(u64, u64)> {
        self.lock().last_writes.get(path).copied()
    }

    /// Every file with its length, sorted.
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let state = self.lock();
        let len = |inode: &Inode| state.contents.get(inode).map_or(0, |content| content.current.len() as u64);
        state
            .names
            .iter()
            .filter_map(
                |(path, node)| {
                    if let Node::File(inode) = node { Some((path.into(), len(inode))) } else { None }
                },
            )
            .collect()
    }

    /// A copy of everything as it stands, without what [`MemoryDisk::set_before`] set, for tests that try many crashes from one point.
    pub fn fork(&self) -> MemoryDisk {
        let state = self.lock();
        MemoryDisk {
            state: Arc::new(Mutex::new(State {
                names: state.names.clone(),
                durable_names: state.durable_names.clone(),
                contents: state.contents.clone(),
                locked: BTreeMap::new(),
                next_inode: state.next_inode,
                operations: state.operations,
                power_cycle: state.power_cycle,
                faults: state.faults,
                stray: None,
                last_writes: state.last_writes.clone(),
            })),
            before: Arc::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hook(&self) -> MutexGuard<'_, Hook> {
        self.before.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an operation and lets it take its time, and fail if it is to.
    fn operation(&self, path: &Path, access: Access<'_>) -> io::Result<MutexGuard<'_, State>> {
        let before = self.hook().0.clone();
        if let Some(before) = before {
            before(path, access);
        }
        let mut state = self.lock();
        let number = state.operations;
        state.operations += 1;
        if state.faults.all_from_operation.is_some_and(|from| number >= from)
            || state.faults.once_at_operation == Some(number)
        {
            return Err(eio());
        }
        Ok(state)
    }
}

impl Content {
    fn crash(&mut self, draw: &mut Draw) {
        let mut after = self.durable.clone();
        // Whether a grown or cut length got through is one more unsynced change of metadata.
        if self.current.len() != self.durable.len() && draw.next() & 1 == 0 {
            set_len(&mut after, self.current.len());
        }
        for (start, end) in std::mem::take(&mut self.unsynced) {
            let mut at = start;
            while at < end {
                let sector_end = end.min((at / SECTOR_BYTES + 1) * SECTOR_BYTES);
                if draw.next() & 1 == 0 && sector_end <= after.len() && sector_end <= self.current.len() {
                    after[at..sector_end].copy_from_slice(&self.current[at..sector_end]);
                }
                at = sector_end;
            }
        }
        self.durable.clone_from(&after);
        self.current = after;
    }
}

impl State {
    /// The end of a process or of the power: a stray write that nothing durable followed was made after all.
    fn bring_stray_home(&mut self) {
        let Some((_, inode, offset, bytes)) = self.stray.take().and_then(|stray| stray.made) else { return };
        let Some(content) = self.contents.get_mut(&inode) else { return };
        let (start, end) = (offset as usize, offset as usize + bytes.len());
        for copy in [&mut content.durable, &mut content.current] {
            if copy.len() >= end {
                copy[start..end].copy_from_slice(&bytes);
            }
        }
    }

    fn used_bytes(&self) -> u64 {
        self.contents.values().map(|content| content.current.len() as u64).sum()
    }

    fn has_room(&self, growth: u64) -> io::Result<()> {
        match self.faults.capacity_bytes {
            Some(capacity) if growth > 0 && self.used_bytes() + growth > capacity => {
                Err(io::Error::from(io::ErrorKind::StorageFull))
            }
            _ => Ok(()),
        }
    }

    fn parent_exists(&self, path: &Path) -> io::Result<()> {
        let parent = directory(path);
        if parent == Path::new("/")
            || parent == Path::new(".")
            || self.names.get(parent.as_os_str()) == Some(&Node::Directory)
        {
            Ok(())
        } else {
            Err(missing())
        }
    }

    fn unlink(&mut self, path: &OsStr) {
        if let Some(Node::File(inode)) = self.names.remove(path) {
            self.free(inode);
        }
    }

    /// Drops a content that no name leads to any more. One that a durable name leads to stays: a crash may bring the name back.
    fn free(&mut self, inode: Inode) {
        let named = |names: &Names| names.values().any(|node| *node == Node::File(inode));
        if !named(&self.names) && !named(&self.durable_names) {
            self.contents.remove(&inode);
        }
    }
}

/// What lies directly in a directory.
fn children<'a>(names: &'a Names, parent: &Path) -> impl Iterator<Item = (&'a OsString, &'a Node)> {
    let mut prefix = parent.as_os_str().to_owned();
    if !prefix.as_encoded_bytes().ends_with(b"/") {
        prefix.push("/");
    }
    let from = names.range::<OsStr, _>((Bound::Excluded(prefix.as_os_str()), Bound::Unbounded));
    let within =
        move |bytes: &[u8]| bytes.strip_prefix(prefix.as_encoded_bytes()).map(|rest| rest.contains(&b'/'));
    // Deeper ones stand between them, and nothing else does.
    from.map_while(move |(path, node)| Some((path, node, within(path.as_encoded_bytes())?)))
        .filter(|(.., is_deeper)| !is_deeper)
        .map(|(path, node, _)| (path, node))
}

/// A path and everything below it.
fn below(names: &Names, top: &Path) -> Vec<(OsString, Node)> {
    let from = names.range::<OsStr, _>((Bound::Included(top.as_os_str()), Bound::Unbounded));
    let bytes = top.as_os_str().as_encoded_bytes();
    from.take_while(|(path, _)| path.as_encoded_bytes().starts_with(bytes))
        .filter(|(path, _)| matches!(path.as_encoded_bytes().get(bytes.len()), None | Some(b'/')))
        .map(|(path, node)| (path.clone(), *node))
        .collect()
}

fn is_reachable(names: &Names, path: &Path) -> bool {
    let parent = directory(path);
    parent == path
        || parent == Path::new("/")
        || parent == Path::new(".")
        || (names.get(parent.as_os_str()) == Some(&Node::Directory) && is_reachable(names, parent))
}

impl Disk for MemoryDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        let mut state = self.operation(path, Access::Meta)?;
        let inode = match (state.names.get(path.as_os_str()).copied(), how) {
            (Some(Node::Directory), _) => return Err(io::Error::from(io::ErrorKind::IsADirectory)),
            (Some(Node::File(_)), Open::CreateNew) => {
                return Err(io::Error::from(io::ErrorKind::AlreadyExists));
            }
            (Some(Node::File(inode)), _) => inode,
            (None, Open::Read | Open::Write) => return Err(missing()),
            (None, Open::CreateNew | Open::Create) => {
                state.parent_exists(path)?;
                let inode = state.next_inode;
                state.next_inode += 1;
                state.contents.insert(inode, Content::default());
                state.names.insert(path.into(), Node::File(inode));
                inode
            }
        };
        let power_cycle = state.power_cycle;
        let (disk, path, writable) = (self.clone(), path.to_owned(), how != Open::Read);
        Ok(Arc::new(MemoryFile { disk, path, inode, power_cycle, writable }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.operation(path, Access::Meta)?;
        let mut made = PathBuf::new();
        for part in path.components() {
            made.push(part);
            if made == Path::new("/") || made == Path::new(".") {
                continue;
            }
            match state.names.get(made.as_os_str()) {
                Some(Node::Directory) => {}
                Some(Node::File(_)) => return Err(io::Error::from(io::ErrorKind::NotADirectory)),
                None => {
                    state.names.insert(made.clone().into(), Node::Directory);
                    state.durable_names.insert(made.clone().into(), Node::Directory);
                }
            }
        }
        Ok(())
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let state = self.operation(path, Access::Meta)?;
        if state.names.get(path.as_os_str()) != Some(&Node::Directory) && path != Path::new("/") {
            return Err(missing());
        }
        let mut entries = Vec::new();
        for (child, node) in children(&state.names, path) {
            let name = Path::new(child)
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default();
            let (is_dir, len) = match node {
                Node::Directory => (true, 0),
                Node::File(inode) => {
                    (false, state.contents.get(inode).map_or(0, |content| content.current.len() as u64))
                }
            };
            entries.push(DirEntry { name, is_dir, len });
        }
        entries.sort();
        Ok(entries)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.operation(from, Access::Meta)?;
        state.parent_exists(to)?;
        if !state.names.contains_key(from.as_os_str()) {
            return Err(missing());
        }
        let moved = below(&state.names, from);
        for (path, _) in below(&state.names, to) {
            state.unlink(&path);
        }
        for (path, node) in moved {
            state.names.remove(&path);
            let renamed = match Path::new(&path).strip_prefix(from) {
                Ok(rest) if rest.as_os_str().is_empty() => to.to_owned(),
                Ok(rest) => to.join(rest),
                Err(_) => continue,
            };
            state.names.insert(renamed.into(), node);
        }
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.operation(path, Access::Meta)?;
        match state.names.get(path.as_os_str()) {
            Some(Node::File(_)) => {
                state.unlink(path.as_os_str());
                Ok(())
            }
            Some(Node::Directory) => Err(io::Error::from(io::ErrorKind::IsADirectory)),
            None => Err(missing()),
        }
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.operation(path, Access::Meta)?;
        if state.names.get(path.as_os_str()) != Some(&Node::Directory) {
            return Err(missing());
        }
        for (name, _) in below(&state.names, path) {
            state.unlink(&name);
        }
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.operation(path, Access::Sync)?;
        if state.faults.syncs_fail {
            return Err(eio());
        }
        if state.faults.ignore_syncs {
            return Ok(());
        }
        let State { names, durable_names, .. } = &mut *state;
        let before: Vec<(OsString, Node)> =
            children(durable_names, path).map(|(child, node)| (child.clone(), *node)).collect();
        let now: Vec<(OsString, Node)> =
            children(names, path).map(|(child, node)| (child.clone(), *node)).collect();
        if before == now {
            return Ok(());
        }
        before.iter().for_each(|(child, _)| _ = durable_names.remove(child));
        durable_names.extend(now);
        for (_, node) in before {
            if let Node::File(inode) = node {
                state.free(inode);
            }
        }
        Ok(())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        Ok(self.lock().names.contains_key(path.as_os_str()))
    }

    fn free_bytes(&self, _path: &Path) -> io::Result<u64> {
        let state = self.lock();
        Ok(state
            .faults
            .capacity_bytes
            .map_or(u64::MAX, |capacity| capacity.saturating_sub(state.used_bytes())))
    }

    fn try_lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        self.open(path, Open::Create)?;
        let mut state = self.lock();
        let power_cycle = state.power_cycle;
        if state.locked.contains_key(path) {
            return Err(io::Error::from(io::ErrorKind::WouldBlock));
        }
        state.locked.insert(path.to_owned(), power_cycle);
        Ok(Box::new(MemoryLock { disk: self.clone(), path: path.to_owned(), power_cycle }))
    }
}

struct MemoryLock {
    disk: MemoryDisk,
    path: PathBuf,
    power_cycle: u64,
}

impl Lock for MemoryLock {}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        let mut state = self.disk.lock();
        if state.power_cycle == self.power_cycle {
            state.locked.remove(&self.path);
        }
    }
}

#[derive(Debug)]
struct MemoryFile {
    disk: MemoryDisk,
    path: PathBuf,
    inode: Inode,
    power_cycle: u64,
    writable: bool,
}

impl MemoryFile {
    /// Runs an operation on the content; the process that held this handle died with the last crash.
    fn with<T>(&self, access: Access<'_>, part: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.disk.operation(&self.path, access)?;
        if state.power_cycle != self.power_cycle {
            return Err(eio());
        }
        part(&mut state)
    }

    fn write(&self, state: &mut State, bytes: &[u8], offset: u64) -> io::Result<()> {
        if !self.writable {
            return Err(io::Error::from(io::ErrorKind::PermissionDenied));
        }
        if state.faults.writes_fail {
            return Err(eio());
        }
        if bytes.iter().any(|byte| *byte != 0) {
            state.last_writes.insert(self.path.clone(), (offset, offset + bytes.len() as u64));
        }
        let mut offset = offset;
        let is_there = state.contents.get(&self.inode).map_or(0, |content| content.current.len() as u64);
        if let Some(stray) = &mut state.stray
            && stray.made.is_none()
            && self.path.starts_with(&stray.directory)
            && !bytes.is_empty()
            && offset.max(is_there) > 0
        {
            let aside =
                stray.off_bytes.map(|off| offset + off).filter(|to| to + bytes.len() as u64 <= is_there);
            stray.made = Some((self.path.clone(), self.inode, offset, bytes.to_vec()));
            match aside {
                Some(aside) => offset = aside,
                None => return Ok(()),
            }
        }
        let (start, end) = (offset as usize, offset as usize + bytes.len());
        let len = state.contents.get(&self.inode).map_or(0, |content| content.current.len());
        state.has_room(end.saturating_sub(len) as u64)?;
        let content = state.contents.entry(self.inode).or_default();
        if content.current.len() < end {
            set_len(&mut content.current, end);
        }
        content.current[start..end].copy_from_slice(bytes);
        content.unsynced.push((start, end));
        Ok(())
    }
}

impl MemoryFile {
    /// What a failed sync was to make durable passes for synced from then on and is not: it stays readable until the power goes. That is
    /// what Linux does (PostgreSQL found out in 2018). A process that is dying by [`Faults::all_from_operation`] did not sync at all.
    fn forget_unsynced(&self) {
        let mut state = self.disk.lock();
        let is_dying = state.faults.all_from_operation.is_some_and(|from| state.operations > from);
        if !is_dying
            && state.power_cycle == self.power_cycle
            && let Some(content) = state.contents.get_mut(&self.inode)
        {
            content.unsynced.clear();
        }
    }
}

impl File for MemoryFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.with(Access::Read, |state| {
            if state.faults.reads_fail {
                return Err(eio());
            }
            let bytes = state.contents.get(&self.inode).map_or(&[][..], |content| &content.current);
            let start = offset as usize;
            match bytes.get(start..start.saturating_add(buffer.len())) {
                Some(found) => {
                    buffer.copy_from_slice(found);
                    Ok(())
                }
                None => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            }
        })
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.with(Access::Write { offset, bytes }, |state| self.write(state, bytes, offset))
    }

    fn sync_data(&self) -> io::Result<()> {
        let synced = self.with(Access::Sync, |state| {
            if state.faults.syncs_fail {
                return Err(eio());
            }
            if !state.faults.ignore_syncs {
                let Content { durable, current, unsynced } = state.contents.entry(self.inode).or_default();
                set_len(durable, current.len());
                let wrote = !unsynced.is_empty();
                for (start, end) in unsynced.drain(..) {
                    durable[start..end].copy_from_slice(&current[start..end]);
                }
                let is_behind = |stray: &mut Stray| {
                    let last = state.last_writes.get(&self.path).copied();
                    let made =
                        stray.made.as_ref().filter(|(path, ..)| path.extension() == self.path.extension());
                    made.zip(last).is_some_and(|((path, _, offset, _), (from, _))| {
                        *path != self.path || from != *offset
                    })
                };
                if wrote {
                    // It is lost for good.
                    state.stray.take_if(is_behind);
                }
            }
            Ok(())
        });
        if synced.is_err() {
            self.forget_unsynced();
        }
        synced
    }

    fn prefill(&self, len: u64) -> io::Result<()> {
        self.with(Access::Write { offset: 0, bytes: &[] }, |state| {
            self.write(state, &vec![0; len as usize], 0)
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(Access::Meta, |state| {
            let now = state.contents.get(&self.inode).map_or(0, |content| content.current.len() as u64);
            state.has_room(len.saturating_sub(now))?;
            let content = state.contents.entry(self.inode).or_default();
            set_len(&mut content.current, len as usize);
            content.unsynced.retain(|(start, _)| *start < len as usize);
            for (_, end) in &mut content.unsynced {
                *end = (*end).min(len as usize);
            }
            Ok(())
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.with(Access::Meta, |state| {
            Ok(state.contents.get(&self.inode).map_or(0, |content| content.current.len() as u64))
        })
    }
}

/// As [`Vec::resize`] with zeros, which a debug build does byte by byte: tests fill large files.
fn set_len(bytes: &mut Vec<u8>, len: usize) {
    bytes.truncate(len);
    bytes.extend_from_slice(&vec![0; len - bytes.len()]);
}

/// SplitMix64: the seed's decisions, one after the other.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut number = self.0;
        number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        number ^ (number >> 31)
    }
}

fn eio() -> io::Error {
    io::Error::other("input/output error")
}

fn missing() -> io::Error {
    io::Error::from(io::ErrorKind::NotFound)
}

#[cfg(test)]
mod tests;
