// SPDX-License-Identifier: Apache-2.0

//! A disk: a volume together with what goes wrong with it at present, shared by the file system that is mounted and by whoever hurts it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::draw::Draw;
use crate::names::Ino;
use crate::pattern::Pattern;
use crate::volume::{Attributes, Cut, Refusal, Result, Volume};

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Reads bytes of a file.
    Read,
    /// Writes bytes of a file, sets its length, or reserves room for it.
    Write,
    /// Makes a file durable.
    Sync,
    /// Makes the names of a directory durable.
    SyncNames,
    /// Makes, renames or removes a file or directory.
    Names,
    /// Looks something up, opens it or lists it.
    Look,
}

/// All of them.
pub const EVERYTHING: &[Kind] =
    &[Kind::Read, Kind::Write, Kind::Sync, Kind::SyncNames, Kind::Names, Kind::Look];
/// What a slow or hung device is slow at: everything that does not come out of a cache.
pub const TRANSFERS: &[Kind] = &[Kind::Read, Kind::Write, Kind::Sync, Kind::SyncNames];

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It fails with EIO. Of a write the first half of its bytes is there; what a sync should have made durable never will be.
    Fails,
    /// It fails with ENOSPC and changes nothing.
    NoRoom,
    /// It takes so much longer.
    Takes(Duration),
    /// It does not end until it is let go.
    Hangs,
    /// A sync answers that all is well and makes nothing durable: a disk that lies, or a program that forgot to sync.
    Lies,
}

/// How often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Times {
    /// The next such operation only.
    Once,
    /// Until it is mended.
    Always,
}

/// Something that goes wrong, to be mended again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TroubleId(u64);

/// A bit that was flipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flip {
    /// In which file.
    pub path: PathBuf,
    /// Its number, eight for each byte.
    pub bit: u64,
}

#[derive(Debug)]
struct Rule {
    kinds: &'static [Kind],
    paths: Pattern,
    trouble: Trouble,
    times: Times,
    hits: u64,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Power {
    #[default]
    On,
    /// Nothing gets through any more, and nobody is told so.
    Off,
    /// Whoever still waits is told that it failed.
    Released,
}

#[derive(Debug)]
struct State {
    volume: Volume,
    rules: BTreeMap<TroubleId, Rule>,
    next_rule: u64,
    power: Power,
    /// What is open, by the number that the kernel was given for it. Numbers are not used twice, so that one from before a power cut leads
    /// nowhere.
    handles: BTreeMap<u64, Ino>,
    next_handle: u64,
    waiting: u64,
    /// Operations so far, but for looking.
    operations: u64,
    /// With which of them the power fails.
    power_until: Option<u64>,
}

/// A disk. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Disk(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// What an operation is about.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target<'a> {
    Inode(Ino),
    Handle(u64),
    Name(Ino, &'a OsStr),
    Rename(Ino, &'a OsStr, &'a OsStr),
}

/// What goes wrong with an operation that has begun.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fate {
    /// It ends when none of these is left, at the earliest.
    hangs: Vec<TroubleId>,
    /// The same, or when the time is over.
    slow: Vec<TroubleId>,
    takes: Duration,
    end: End,
}

/// What comes of it in the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum End {
    /// It is done.
    #[default]
    Done,
    /// It fails.
    Fails(Refusal),
    /// It seems to be done.
    Lie,
    /// The power failed before it was.
    Cut,
}

/// How an operation goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Passage {
    /// At once.
    Now(End),
    /// When [`Disk::wait`] says so; the caller should not wait on a thread that others need.
    Later(Fate),
}

impl Disk {
    /// An empty disk on which nothing goes wrong.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Disk {
        let state = State {
            volume: Volume::new(),
            rules: BTreeMap::new(),
            next_rule: 0,
            power: Power::On,
            handles: BTreeMap::new(),
            next_handle: 1,
            waiting: 0,
            operations: 0,
            power_until: None,
        };
        Disk(Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() }))
    }

    /// From now on this goes wrong with operations of these kinds on these files and directories. A rename is about both of its names.
    pub fn trouble(
        &self,
        kinds: &'static [Kind],
        paths: impl Into<Pattern>,
        trouble: Trouble,
        times: Times,
    ) -> TroubleId {
        let mut state = self.lock();
        let id = TroubleId(state.next_rule);
        state.next_rule += 1;
        state.rules.insert(id, Rule { kinds, paths: paths.into(), trouble, times, hits: 0 });
        id
    }

    /// How many operations it has hit.
    pub fn hits(&self, id: TroubleId) -> u64 {
        self.lock().rules.get(&id).map_or(0, |rule| rule.hits)
    }

    /// It goes wrong no more; what hung because of it goes on.
    pub fn mend(&self, id: TroubleId) {
        self.lock().rules.remove(&id);
        self.0.changed.notify_all();
    }

    /// Nothing goes wrong any more, and the power is there.
    pub fn mend_all(&self) {
        let mut state = self.lock();
        state.rules.clear();
        state.power_until = None;
        if state.power != Power::On {
            state.power = Power::Released;
        }
        drop(state);
        self.0.changed.notify_all();
    }

    /// Operations that have begun and do not get on: they hang, or wait for their time to be over, or there is no power.
    pub fn waiting(&self) -> u64 {
        self.lock().waiting
    }

    /// The power fails. From this moment nothing is read, written or synced, and whoever tries is kept waiting: a machine without power
    /// tells nobody. Its processes are to be killed now, then [`Disk::let_go`] lets them die.
    pub fn cut_power(&self) {
        self.lock().power = Power::Off;
    }

    /// The power fails when so many operations more have begun, before the last of them is carried out. Those that only look do not count.
    pub fn cut_power_after(&self, operations: u64) {
        let mut state = self.lock();
        state.power_until = Some(state.operations + operations.max(1));
    }

    /// Whether it has power.
    pub fn has_power(&self) -> bool {
        self.lock().power == Power::On
    }

    /// Operations that have begun so far, but for those that only look.
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// Lets go of whoever was waiting, with an error; nobody should be left to see it.
    pub fn let_go(&self) {
        self.lock().power = Power::Released;
        self.0.changed.notify_all();
    }

    /// The power is back, after the last process died. What was not durable is lost, torn or there after all, as the seed decides. What
    /// goes wrong otherwise, still does.
    pub fn restore_power(&self, seed: u64) -> Cut {
        self.power_is_back(Some(seed))
    }

    /// The same, and nothing survives that was not durable.
    pub fn restore_power_with_nothing_else(&self) -> Cut {
        self.power_is_back(None)
    }

    fn power_is_back(&self, seed: Option<u64>) -> Cut {
        let mut state = self.lock();
        state.handles.clear();
        state.power_until = None;
        let cut = state.volume.lose_power(seed.map(Draw::new).as_mut());
        state.power = Power::On;
        cut
    }

    /// Every file with its length, by path.
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        self.lock().volume.files()
    }

    /// The files that a pattern covers.
    pub fn files_like(&self, paths: impl Into<Pattern>) -> Vec<PathBuf> {
        let paths = paths.into();
        self.files().into_iter().map(|(path, _)| path).filter(|path| paths.covers(path)).collect()
    }

    /// A file's bytes as they stand; `None` when there is no such file.
    pub fn read(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.lock();
        let ino = state.volume.find(path).ok()?;
        state.volume.read(ino, 0, usize::MAX).ok()
    }

    /// Flips a bit at rest. `false` when there is no such bit.
    pub fn flip(&self, flip: &Flip) -> bool {
        let mut state = self.lock();
        let Ok(ino) = state.volume.find(&flip.path) else { return false };
        state.volume.content_mut(ino).is_ok_and(|content| content.flip(flip.bit))
    }

    /// Flips a bit of a byte that was written and is not zero, in one of these files, both chosen by the seed. Which one; `None` when
    /// there is none.
    pub fn flip_one(&self, paths: impl Into<Pattern>, seed: u64) -> Option<Flip> {
        let mut draw = Draw::new(seed);
        let mut files = self.files_like(paths);
        while !files.is_empty() {
            let path = files.swap_remove(usize::try_from(draw.below(files.len() as u64)).unwrap_or(0));
            let flip = {
                let state = self.lock();
                let Ok(content) = state.volume.find(&path).and_then(|ino| state.volume.content(ino)) else {
                    continue;
                };
                let written = content.written().count() as u64;
                let byte = content.written().nth(usize::try_from(draw.below(written)).unwrap_or(0));
                byte.map(|byte| Flip { path, bit: byte * 8 + draw.below(8) })
            };
            if let Some(flip) = flip
                && self.flip(&flip)
            {
                return Some(flip);
            }
        }
        None
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the mounted file system needs.
impl Disk {
    /// An operation begins: what goes wrong with it is decided, and counted.
    pub(crate) fn enter(&self, kind: Kind, target: Target<'_>) -> Passage {
        let mut state = self.lock();
        state.operations += u64::from(kind != Kind::Look);
        if state.power_until.is_some_and(|last| state.operations >= last) {
            state.power_until = None;
            state.power = Power::Off;
        }
        let fate = if state.rules.is_empty() { Fate::default() } else { state.fate(kind, target) };
        match fate.hangs.is_empty() && fate.slow.is_empty() && state.power == Power::On {
            true => Passage::Now(fate.end),
            false => Passage::Later(fate),
        }
    }

    /// Waits until it may go on.
    pub(crate) fn wait(&self, fate: &Fate) -> End {
        let until = Instant::now() + fate.takes;
        let mut state = self.lock();
        state.waiting += 1;
        let end = loop {
            let is_there = |ids: &[TroubleId]| ids.iter().any(|id| state.rules.contains_key(id));
            let left = until.saturating_duration_since(Instant::now());
            if state.power == Power::Released {
                break End::Cut;
            } else if state.power == Power::Off || is_there(&fate.hangs) {
                state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            } else if !left.is_zero() && is_there(&fate.slow) {
                let waited = self.0.changed.wait_timeout(state, left);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            } else {
                break fate.end;
            }
        };
        state.waiting -= 1;
        end
    }

    pub(crate) fn look_up(&self, parent: Ino, name: &OsStr) -> Result<Attributes> {
        self.lock().volume.look_up(parent, name)
    }

    pub(crate) fn attributes(&self, ino: Ino) -> Result<Attributes> {
        self.lock().volume.attributes(ino)
    }

    pub(crate) fn list(&self, directory: Ino) -> Result<Vec<(std::ffi::OsString, Attributes)>> {
        self.lock().volume.list(directory)
    }

    pub(crate) fn make(&self, parent: Ino, name: &OsStr, is_directory: bool) -> Result<Attributes> {
        self.lock().volume.create(parent, name, is_directory)
    }

    pub(crate) fn remove(&self, parent: Ino, name: &OsStr, is_directory: bool) -> Result<()> {
        self.lock().volume.remove(parent, name, is_directory)
    }

    pub(crate) fn rename(&self, parent: Ino, from: &OsStr, to_parent: Ino, to: &OsStr) -> Result<()> {
        self.lock().volume.rename(parent, from, to_parent, to)
    }

    pub(crate) fn open(&self, ino: Ino) -> Result<u64> {
        let mut state = self.lock();
        state.volume.open(ino)?;
        let handle = state.next_handle;
        state.next_handle += 1;
        state.handles.insert(handle, ino);
        Ok(handle)
    }

    pub(crate) fn close(&self, handle: u64) {
        let mut state = self.lock();
        if let Some(ino) = state.handles.remove(&handle) {
            state.volume.close(ino);
        }
    }

    pub(crate) fn read_at(&self, handle: u64, offset: u64, len: usize) -> Result<Vec<u8>> {
        let state = self.lock();
        state.volume.read(state.opened(handle)?, offset, len)
    }

    pub(crate) fn write_at(&self, handle: u64, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut state = self.lock();
        let ino = state.opened(handle)?;
        state.volume.write(ino, offset, bytes)
    }

    pub(crate) fn set_len(&self, ino: Ino, len: u64) -> Result<()> {
        self.lock().volume.set_len(ino, len)
    }

    /// The file is at least so long.
    pub(crate) fn reserve(&self, handle: u64, len: u64) -> Result<()> {
        let mut state = self.lock();
        let ino = state.opened(handle)?;
        if state.volume.attributes(ino)?.len < len {
            state.volume.set_len(ino, len)?;
        }
        Ok(())
    }

    pub(crate) fn sync(&self, ino: Ino) -> Result<()> {
        self.lock().volume.sync(ino)
    }

    pub(crate) fn fail_sync(&self, ino: Ino) {
        self.lock().volume.fail_sync(ino);
    }
}

impl State {
    fn opened(&self, handle: u64) -> Result<Ino> {
        self.handles.get(&handle).copied().ok_or(Refusal::Io)
    }

    fn fate(&mut self, kind: Kind, target: Target<'_>) -> Fate {
        let paths = self.paths(target);
        let mut fate = Fate::default();
        for (id, rule) in &mut self.rules {
            let end = rule.trouble.end();
            if !rule.concerns(kind, &paths) || (end != End::Done && fate.end != End::Done) {
                continue;
            }
            rule.hits += 1;
            match rule.trouble {
                Trouble::Fails | Trouble::NoRoom | Trouble::Lies => fate.end = end,
                Trouble::Hangs => fate.hangs.push(*id),
                Trouble::Takes(long) => {
                    fate.slow.push(*id);
                    fate.takes += long;
                }
            }
        }
        fate
    }

    fn paths(&self, target: Target<'_>) -> Vec<PathBuf> {
        match target {
            Target::Inode(ino) => vec![self.volume.path(ino)],
            Target::Handle(handle) => {
                self.handles.get(&handle).map(|ino| self.volume.path(*ino)).into_iter().collect()
            }
            Target::Name(parent, name) => vec![self.volume.path(parent).join(name)],
            Target::Rename(parent, from, to) => {
                let parent = self.volume.path(parent);
                vec![parent.join(from), parent.join(to)]
            }
        }
    }
}

impl Rule {
    fn concerns(&self, kind: Kind, paths: &[PathBuf]) -> bool {
        let is_over = self.times == Times::Once && self.hits > 0;
        !is_over && self.kinds.contains(&kind) && paths.iter().any(|path| self.paths.covers(path))
    }
}

impl Trouble {
    fn end(self) -> End {
        match self {
            Trouble::Fails => End::Fails(Refusal::Io),
            Trouble::NoRoom => End::Fails(Refusal::Full),
            Trouble::Lies => End::Lie,
            Trouble::Takes(_) | Trouble::Hangs => End::Done,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;
    use crate::volume::ROOT;

    fn file(disk: &Disk, name: &str) -> (Ino, u64) {
        let ino = disk.make(ROOT, OsStr::new(name), false).expect("free").ino;
        (ino, disk.open(ino).expect("there"))
    }

    #[test]
    fn trouble_hits_what_it_is_meant_for_as_often_as_it_is_meant_to() {
        let disk = Disk::new();
        let (bad, good) = (file(&disk, "bad").0, file(&disk, "good").0);
        let once = disk.trouble(&[Kind::Sync], "bad", Trouble::Fails, Times::Once);
        assert_eq!(disk.enter(Kind::Sync, Target::Inode(good)), Passage::Now(End::Done));
        assert_eq!(disk.enter(Kind::Read, Target::Inode(bad)), Passage::Now(End::Done));
        assert_eq!(disk.hits(once), 0);
        assert_eq!(disk.enter(Kind::Sync, Target::Inode(bad)), Passage::Now(End::Fails(Refusal::Io)));
        assert_eq!(disk.enter(Kind::Sync, Target::Inode(bad)), Passage::Now(End::Done));
        assert_eq!(disk.hits(once), 1);
        let always = disk.trouble(&[Kind::Names], "new", Trouble::NoRoom, Times::Always);
        let rename = Target::Rename(ROOT, OsStr::new("good"), OsStr::new("new"));
        for _ in 0..3 {
            assert_eq!(disk.enter(Kind::Names, rename), Passage::Now(End::Fails(Refusal::Full)));
        }
        assert_eq!(disk.hits(always), 3);
        disk.mend(always);
        assert_eq!(disk.enter(Kind::Names, rename), Passage::Now(End::Done));
    }

    #[test]
    fn what_hangs_goes_on_when_it_is_mended() {
        let disk = Disk::new();
        let (ino, _) = file(&disk, "f");
        let hangs = disk.trouble(TRANSFERS, "*", Trouble::Hangs, Times::Always);
        let Passage::Later(fate) = disk.enter(Kind::Sync, Target::Inode(ino)) else { panic!("it hangs") };
        let (done, ended) = channel();
        let (other, waiter) = (disk.clone(), fate.clone());
        let thread = thread::spawn(move || done.send(other.wait(&waiter)).expect("somebody listens"));
        while disk.waiting() == 0 {
            thread::yield_now();
        }
        assert!(ended.try_recv().is_err());
        disk.mend(hangs);
        assert_eq!(ended.recv(), Ok(End::Done));
        thread.join().expect("no panic");
        assert_eq!(
            (disk.waiting(), disk.enter(Kind::Sync, Target::Inode(ino))),
            (0, Passage::Now(End::Done))
        );
    }

    #[test]
    fn without_power_nothing_gets_through_and_afterwards_old_handles_lead_nowhere() {
        let disk = Disk::new();
        let (ino, handle) = file(&disk, "f");
        disk.write_at(handle, 0, b"bytes").expect("open");
        disk.sync(ino).expect("there");
        disk.sync(ROOT).expect("there");
        disk.write_at(handle, 0, b"BYTES").expect("open");
        disk.cut_power();
        let Passage::Later(fate) = disk.enter(Kind::Sync, Target::Inode(ino)) else { panic!("no power") };
        disk.let_go();
        assert_eq!(disk.wait(&fate), End::Cut);
        disk.restore_power(1);
        assert_eq!(disk.read_at(handle, 0, 9), Err(Refusal::Io));
        let found = disk.read(Path::new("f")).expect("durable");
        assert!(found == b"bytes" || found == b"BYTES", "{found:?}");
        assert_eq!(disk.enter(Kind::Sync, Target::Inode(ino)), Passage::Now(End::Done));
    }

    #[test]
    fn the_power_fails_with_the_operation_that_was_named() {
        let disk = Disk::new();
        let (ino, _) = file(&disk, "f");
        disk.cut_power_after(2);
        assert_eq!(disk.enter(Kind::Look, Target::Inode(ino)), Passage::Now(End::Done));
        assert_eq!(disk.enter(Kind::Write, Target::Inode(ino)), Passage::Now(End::Done));
        assert!(disk.has_power());
        assert_eq!(disk.enter(Kind::Sync, Target::Inode(ino)), Passage::Later(Fate::default()));
        assert_eq!((disk.has_power(), disk.operations()), (false, 2));
    }

    #[test]
    fn a_flip_is_chosen_by_its_seed_among_bytes_that_were_written() {
        let disk = Disk::new();
        assert_eq!(disk.flip_one("f", 1), None);
        let (ino, handle) = file(&disk, "f");
        disk.reserve(handle, 1 << 20).expect("open");
        disk.write_at(handle, 5000, b"bytes").expect("open");
        disk.sync(ino).expect("there");
        let flip = disk.flip_one("*", 7).expect("there are bytes");
        assert!((5000..5005).contains(&(flip.bit / 8)), "{flip:?}");
        assert_ne!(disk.read_at(handle, 5000, 5), Ok(b"bytes".to_vec()));
        assert!(disk.flip(&flip));
        assert_eq!(disk.read_at(handle, 5000, 5), Ok(b"bytes".to_vec()));
        assert_eq!(disk.flip_one("*", 7), Some(flip), "the same seed, the same bit");
    }
}
