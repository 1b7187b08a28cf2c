// SPDX-License-Identifier: Apache-2.0

//! [`MemoryKv`]: the dumb twin. The same commands and queries over a sorted map, everything persisted by writing everything.
//!
//! It is the model that the machine on disk is tested against, and what the simulator applies to, because it touches nothing but the
//! [`Disk`] it is given.
//!
//! ```text
//! <dir>/<directory>/<file>   magic "mraftmem"  frame*
//! frame := len:u32  crc32c:u32 of the payload  payload
//! ```
//!
//! The first frame is the host's meta, the others are the chunks of a snapshot. A persisted state is a new file that the pointer names
//! once it is synced; a snapshot that comes in is file 0 of its own directory.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard};

use mraft_disk::{Disk, File, Open, is_full};
use mraft_engine::machine::{
    BackgroundJob, Command, ContentView, Lookup, MachineError, Results, SnapshotStage, SnapshotView,
    StateMachine, Urgency,
};
use mraft_types::Index;
use mraft_types::limits::{COMMAND_BYTES_MAX, KEY_BYTES_MAX};
use mraft_types::planted;

use crate::directories::{Directories, FIRST_DIRECTORY, Kind, Pointer};
use crate::execute::{self, State};
use crate::keys::{self, KeyRange};
use crate::merge::{Entries, Entry};
use crate::meta::{HOST_META_BYTES_MAX, Point, damaged};
use crate::query::{self, At, Query, Status};
use crate::scan::{self, PageLimits};
use crate::snapshot::{self, ChunkReader, ChunkWriter, Head};
use crate::value::{self, HEADER_BYTES_MAX, StoredValue};

const FILE_MAGIC: [u8; 8] = *b"mraftmem";
const FRAME_HEADER_BYTES: usize = 8;
/// Chunks of a file of our own.
const FILE_CHUNK_BYTES: usize = 1 << 20;
/// Largest frame that is believed: meta, or a chunk that ends with the largest entry.
const FRAME_BYTES_MAX: usize = HOST_META_BYTES_MAX;

const _: () = assert!(
    FILE_CHUNK_BYTES + COMMAND_BYTES_MAX + KEY_BYTES_MAX + HEADER_BYTES_MAX + (1 << 10) < FRAME_BYTES_MAX
);

/// What a node may choose.
#[derive(Clone, Debug)]
pub struct MemoryOptions {
    /// Bytes of commands after which everything is persisted anew.
    pub flush_bytes: usize,
}

impl Default for MemoryOptions {
    fn default() -> MemoryOptions {
        MemoryOptions { flush_bytes: 8 << 20 }
    }
}

/// Store keys and stored values.
type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// See the module.
pub struct MemoryKv {
    directories: Directories,
    options: MemoryOptions,
    published: Arc<RwLock<Published>>,
    /// Applied and not committed yet; `None` is a deletion.
    uncommitted: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// The group's revision, uncommitted mutations included.
    revision: u64,
    /// Something was applied since the last commit.
    is_uncommitted: bool,
    /// Bytes of commands that are not persisted.
    unpersisted_bytes: usize,
    /// Index of the point that the job at work persists, with the bytes that it covers.
    job: Option<usize>,
    place: Arc<Mutex<Place>>,
}

#[derive(Clone, Debug, Default)]
struct Published {
    map: Arc<Map>,
    point: Point,
}

/// What is on disk. Locked while a state is written, so that a late job cannot undo a switch.
#[derive(Debug)]
struct Place {
    pointer: Pointer,
    persisted: Index,
}

impl MemoryKv {
    /// A machine that persists itself below `dir`.
    pub fn new(disk: Arc<dyn Disk>, dir: PathBuf, options: MemoryOptions) -> MemoryKv {
        MemoryKv {
            directories: Directories::new(disk, dir, Kind::Memory),
            options,
            published: Arc::default(),
            uncommitted: BTreeMap::new(),
            revision: 0,
            is_uncommitted: false,
            unpersisted_bytes: 0,
            job: None,
            place: Arc::new(Mutex::new(Place {
                pointer: Pointer { directory: FIRST_DIRECTORY, file: 0 },
                persisted: 0,
            })),
        }
    }

    fn published(&self) -> Result<RwLockReadGuard<'_, Published>, MachineError> {
        self.published.read().map_err(|_| panicked())
    }

    fn committed(&self) -> Result<Published, MachineError> {
        if self.is_uncommitted {
            return Err(MachineError::Failed("something was applied and not committed".to_owned()));
        }
        Ok(self.published()?.clone())
    }

    fn load(&self, pointer: Pointer) -> Result<Published, MachineError> {
        let path = self.directories.path(pointer.directory);
        for entry in self.directories.disk.read_dir(&path)? {
            if entry.name != pointer.file.to_string() {
                self.directories.disk.remove_file(&path.join(entry.name))?;
            }
        }
        self.directories.disk.sync_dir(&path)?;
        read_state(&*self.directories.disk, &path.join(pointer.file.to_string()))
    }

    fn go_live(&mut self, state: Published, pointer: Pointer) -> Result<Vec<u8>, MachineError> {
        let host_meta = state.point.host_meta.clone();
        self.revision = state.point.revision;
        *lock(&self.place)? = Place { pointer, persisted: state.point.applied };
        *self.published.write().map_err(|_| panicked())? = state;
        self.uncommitted.clear();
        self.is_uncommitted = false;
        self.unpersisted_bytes = 0;
        Ok(host_meta)
    }

    fn writing(&self) -> Result<Writing, MachineError> {
        let state = self.committed()?;
        let directory = lock(&self.place)?.pointer.directory;
        Ok(Writing { state, directory, directories: self.directories.clone(), place: self.place.clone() })
    }
}

impl State for MemoryKv {
    fn revision_of(&mut self, key: &[u8]) -> Result<Option<u64>, MachineError> {
        let key = keys::user_key(key);
        let published = self.published()?;
        let stored = match self.uncommitted.get(&key) {
            Some(stored) => stored.as_ref(),
            None => published.map.get(&key),
        };
        let value = stored.map(|stored| StoredValue::decode(stored)).transpose();
        Ok(value.map_err(|error| damaged("a stored value", error))?.map(|value| value.revision))
    }

    fn put(&mut self, key: &[u8], revision: u64, value: &[u8]) -> Result<(), MachineError> {
        let stored = [&value::header(revision), value].concat();
        self.uncommitted.insert(keys::user_key(key), Some(stored));
        Ok(())
    }

    fn delete(&mut self, key: &[u8]) -> Result<(), MachineError> {
        self.uncommitted.insert(keys::user_key(key), None);
        Ok(())
    }
}

impl StateMachine for MemoryKv {
    fn open(&mut self, staged: Option<u64>) -> Result<Option<Vec<u8>>, MachineError> {
        const FRESH: Pointer = Pointer { directory: FIRST_DIRECTORY, file: 0 };
        self.job = None;
        match self.directories.open(staged)? {
            None => {
                self.directories.point_to(FRESH)?;
                self.go_live(Published::default(), FRESH)?;
                Ok(None)
            }
            Some(FRESH) => {
                self.go_live(Published::default(), FRESH)?;
                Ok(None)
            }
            Some(pointer) => {
                let state = self.load(pointer)?;
                self.go_live(state, pointer).map(Some)
            }
        }
    }

    fn apply(&mut self, commands: &[Command<'_>], results: &mut Results) -> Result<(), MachineError> {
        self.is_uncommitted |= !commands.is_empty();
        for command in commands {
            let mut revision = self.revision;
            let mut done = Ok(());
            results.push_with(|answer| done = execute::execute(command.body, &mut revision, self, answer));
            done?;
            self.revision = revision;
            self.unpersisted_bytes += command.body.len();
        }
        Ok(())
    }

    fn commit(&mut self, applied: Index, meta: &[u8]) -> Result<(), MachineError> {
        let mut published = self.published.write().map_err(|_| panicked())?;
        if !self.uncommitted.is_empty() {
            let map = Arc::make_mut(&mut published.map);
            for (key, stored) in std::mem::take(&mut self.uncommitted) {
                match stored {
                    Some(stored) => map.insert(key, stored),
                    None => map.remove(&key),
                };
            }
        }
        published.point = Point { applied, revision: self.revision, host_meta: meta.to_vec() };
        drop(published);
        self.is_uncommitted = false;
        Ok(())
    }

    fn persisted(&self) -> Index {
        lock(&self.place).map_or(0, |place| place.persisted)
    }

    fn background(&mut self, urgency: Urgency) -> Option<Box<dyn BackgroundJob>> {
        let wanted = match urgency {
            Urgency::Normal => self.unpersisted_bytes >= self.options.flush_bytes,
            Urgency::Pressing => self.published().ok()?.point.applied > self.persisted(),
        };
        if self.job.is_some() || self.is_uncommitted || !wanted {
            return None;
        }
        let job = self.writing().ok()?;
        self.job = Some(self.unpersisted_bytes);
        Some(Box::new(job))
    }

    fn background_done(&mut self, result: Result<(), MachineError>) -> Result<(), MachineError> {
        let covered = self.job.take().unwrap_or(0);
        match result {
            Ok(()) => {
                self.unpersisted_bytes = self.unpersisted_bytes.saturating_sub(covered);
                Ok(())
            }
            // The old file and the pointer stand; there will be another try.
            Err(MachineError::Io(error)) if is_full(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn unpersisted_bytes(&self) -> usize {
        self.unpersisted_bytes
    }

    fn lookup(&self) -> Arc<dyn Lookup> {
        Arc::new(MemoryLookup { published: self.published.clone(), place: self.place.clone() })
    }

    fn snapshot(&mut self) -> Result<Box<dyn SnapshotView>, MachineError> {
        let Published { map, point } = self.committed()?;
        let writer = ChunkWriter::new(point.applied, point.revision);
        Ok(Box::new(MemoryView { entries: MapEntries::new(map, KeyRange::replicated()), point, writer }))
    }

    fn stage(&self, directory: u64, meta: &[u8]) -> Result<Box<dyn SnapshotStage>, MachineError> {
        let path = self.directories.create(directory)?;
        let frames = FrameWriter::create(&*self.directories.disk, &path.join("0"), meta)?;
        Ok(Box::new(MemoryStage {
            disk: self.directories.disk.clone(),
            path,
            frames,
            reader: ChunkReader::new(),
        }))
    }

    fn switch(&mut self, directory: u64) -> Result<Vec<u8>, MachineError> {
        let old = lock(&self.place)?.pointer;
        if old.directory == directory {
            return Ok(self.published()?.point.host_meta.clone());
        }
        let pointer = Pointer { directory, file: 0 };
        let state = self.load(pointer)?;
        {
            let mut place = lock(&self.place)?;
            self.directories.point_to(pointer)?;
            place.pointer = pointer;
        }
        let host_meta = self.go_live(state, pointer)?;
        self.directories.remove(old.directory)?;
        Ok(host_meta)
    }

    fn is_live(&self, directory: u64) -> Result<bool, MachineError> {
        Ok(lock(&self.place)?.pointer.directory == directory)
    }

    fn discard(&mut self, directory: u64) -> Result<(), MachineError> {
        if lock(&self.place)?.pointer.directory == directory {
            return Err(MachineError::Failed(format!("directory {directory} is the live state")));
        }
        Ok(self.directories.remove(directory)?)
    }

    fn persist(&mut self) -> Result<(), MachineError> {
        Box::new(self.writing()?).run()?;
        self.unpersisted_bytes = 0;
        Ok(())
    }

    fn content_view(&mut self) -> Result<Box<dyn ContentView>, MachineError> {
        Ok(Box::new(MapContent(self.committed()?)))
    }
}

struct MapContent(Published);

impl ContentView for MapContent {
    fn hash(self: Box<Self>) -> Result<u128, MachineError> {
        let Published { map, point } = self.0;
        snapshot::content_hash(&mut MapEntries::new(map, KeyRange::replicated()), point.revision)
    }
}

/// A state on its way to disk.
struct Writing {
    state: Published,
    directory: u64,
    directories: Directories,
    place: Arc<Mutex<Place>>,
}

impl BackgroundJob for Writing {
    fn run(self: Box<Self>) -> Result<(), MachineError> {
        let Writing { state, directory, directories, place } = *self;
        let mut place = lock(&place)?;
        if place.pointer.directory != directory || place.persisted >= state.point.applied {
            return Ok(());
        }
        let disk = &*directories.disk;
        let dir = directories.path(directory);
        let file = place.pointer.file + 1;
        write_state(disk, &dir.join(file.to_string()), state.map, &state.point)?;
        disk.sync_dir(&dir)?;
        directories.point_to(Pointer { directory, file })?;
        let old = dir.join(place.pointer.file.to_string());
        *place = Place { pointer: Pointer { directory, file }, persisted: state.point.applied };
        if disk.exists(&old)? {
            disk.remove_file(&old)?;
        }
        Ok(())
    }
}

struct MemoryLookup {
    published: Arc<RwLock<Published>>,
    place: Arc<Mutex<Place>>,
}

impl Lookup for MemoryLookup {
    fn query(&self, query: &[u8], answer: &mut Vec<u8>) -> Result<(), MachineError> {
        let Published { map, point } = self.published.read().map_err(|_| panicked())?.clone();
        match Query::decode(query) {
            Ok(Query::Get { key }) => {
                let stored =
                    map.get(&keys::user_key(key)).map(|stored| StoredValue::decode(stored)).transpose();
                let found = stored.map_err(|error| damaged("a stored value", error))?;
                query::put_get(At::from(&point), found.map(|value| (value.revision, value.bytes)), answer);
            }
            Ok(Query::Scan { prefix, after, limit, max_bytes }) => {
                let mut entries = MapEntries::new(map, KeyRange::user(prefix, after));
                scan::page(
                    At::from(&point),
                    &mut entries,
                    PageLimits { entries: limit, bytes: max_bytes },
                    answer,
                )?;
            }
            Ok(Query::Status) => {
                let persisted = lock(&self.place)?.persisted;
                let (group_revision, applied) = (point.revision, point.applied);
                query::put_status(Status { group_revision, applied, persisted, ..Status::default() }, answer);
            }
            Err(refusal) => query::put_refusal(refusal, answer),
        }
        Ok(())
    }
}

/// Entries of a map that does not change.
struct MapEntries {
    map: Arc<Map>,
    rest: KeyRange,
}

impl MapEntries {
    fn new(map: Arc<Map>, range: KeyRange) -> MapEntries {
        MapEntries { map, rest: range }
    }
}

impl Entries for MapEntries {
    fn next(&mut self) -> Result<Option<Entry<'_>>, MachineError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let until = Bound::Excluded(self.rest.until.clone());
        let entry = self.map.range((self.rest.from.clone(), until)).next();
        if let Some((key, _)) = entry {
            self.rest.from = Bound::Excluded(key.clone());
        }
        Ok(entry.map(|(key, stored)| (&key[..], &stored[..])))
    }
}

struct MemoryView {
    entries: MapEntries,
    point: Point,
    writer: ChunkWriter,
}

impl SnapshotView for MemoryView {
    fn meta(&self) -> &[u8] {
        &self.point.host_meta
    }

    fn next_chunk(&mut self, max_bytes: usize, out: &mut Vec<u8>) -> Result<bool, MachineError> {
        self.writer.next_chunk(&mut self.entries, max_bytes, out)
    }
}

struct MemoryStage {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    frames: FrameWriter,
    reader: ChunkReader,
}

impl SnapshotStage for MemoryStage {
    fn write_chunk(&mut self, chunk: &[u8]) -> Result<(), MachineError> {
        self.reader.read(chunk, |_, _| Ok(()))?;
        Ok(self.frames.write(chunk)?)
    }

    fn finish(self: Box<Self>) -> Result<(), MachineError> {
        self.reader.finish()?;
        self.frames.file.sync_data()?;
        Ok(self.disk.sync_dir(&self.path)?)
    }
}

struct FrameWriter {
    file: Arc<dyn File>,
    end: u64,
}

impl FrameWriter {
    fn create(disk: &dyn Disk, path: &Path, host_meta: &[u8]) -> std::io::Result<FrameWriter> {
        let file = disk.open(path, Open::Create)?;
        file.set_len(0)?;
        file.write_all_at(&FILE_MAGIC, 0)?;
        let mut frames = FrameWriter { file, end: FILE_MAGIC.len() as u64 };
        frames.write(host_meta)?;
        Ok(frames)
    }

    fn write(&mut self, payload: &[u8]) -> std::io::Result<()> {
        let len = u32::try_from(payload.len()).ok().filter(|len| *len as usize <= FRAME_BYTES_MAX);
        let len = len.ok_or_else(|| std::io::Error::other("a frame is too long"))?;
        let mut frame = Vec::with_capacity(FRAME_HEADER_BYTES + payload.len());
        frame.extend_from_slice(&len.to_le_bytes());
        frame.extend_from_slice(&crc32c::crc32c(payload).to_le_bytes());
        frame.extend_from_slice(payload);
        self.file.write_all_at(&frame, self.end)?;
        self.end += frame.len() as u64;
        Ok(())
    }
}

fn write_state(disk: &dyn Disk, path: &Path, map: Arc<Map>, point: &Point) -> Result<(), MachineError> {
    let mut frames = FrameWriter::create(disk, path, &point.host_meta)?;
    let mut writer = ChunkWriter::new(point.applied, point.revision);
    let mut entries = MapEntries::new(map, KeyRange::replicated());
    let mut chunk = Vec::new();
    while writer.next_chunk(&mut entries, FILE_CHUNK_BYTES, &mut chunk)? {
        frames.write(&chunk)?;
        chunk.clear();
    }
    if planted!(StateUnsynced) {
        return Ok(());
    }
    Ok(frames.file.sync_data()?)
}

fn read_state(disk: &dyn Disk, path: &Path) -> Result<Published, MachineError> {
    let file = disk.open(path, Open::Read)?;
    // What is read may not be durable yet (rule D7).
    file.sync_data()?;
    let len = file.len()?;
    let mut magic = [0; FILE_MAGIC.len()];
    if len < FILE_MAGIC.len() as u64 {
        return Err(damaged_file("it is too short"));
    }
    file.read_exact_at(&mut magic, 0)?;
    if magic != FILE_MAGIC {
        return Err(damaged_file("it does not begin as such a file does"));
    }
    let mut at = FILE_MAGIC.len() as u64;
    let host_meta = read_frame(&*file, &mut at, len)?;
    let mut reader = ChunkReader::new();
    let mut map = Map::new();
    while at < len {
        let chunk = read_frame(&*file, &mut at, len)?;
        reader.read(&chunk, |key, stored| {
            map.insert(key.to_vec(), stored.to_vec());
            Ok(())
        })?;
    }
    let Head { applied, revision } = reader.finish()?;
    Ok(Published { map: Arc::new(map), point: Point { applied, revision, host_meta } })
}

fn read_frame(file: &dyn File, at: &mut u64, file_len: u64) -> Result<Vec<u8>, MachineError> {
    let mut header = [0; FRAME_HEADER_BYTES];
    if file_len - *at < FRAME_HEADER_BYTES as u64 {
        return Err(damaged_file("it ends inside a frame"));
    }
    file.read_exact_at(&mut header, *at)?;
    let [l0, l1, l2, l3, c0, c1, c2, c3] = header;
    let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    *at += FRAME_HEADER_BYTES as u64;
    if len > FRAME_BYTES_MAX || len as u64 > file_len - *at {
        return Err(damaged_file("a frame is longer than it can be"));
    }
    let mut payload = vec![0; len];
    file.read_exact_at(&mut payload, *at)?;
    *at += len as u64;
    if crc32c::crc32c(&payload) != u32::from_le_bytes([c0, c1, c2, c3]) {
        return Err(damaged_file("a checksum is wrong"));
    }
    Ok(payload)
}

fn damaged_file(what: &str) -> MachineError {
    MachineError::Damaged(format!("a state file: {what}"))
}

fn lock(place: &Mutex<Place>) -> Result<MutexGuard<'_, Place>, MachineError> {
    place.lock().map_err(|_| panicked())
}

fn panicked() -> MachineError {
    MachineError::Failed("a panic left the state half written".to_owned())
}
