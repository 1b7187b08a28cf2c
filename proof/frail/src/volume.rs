// SPDX-License-Identifier: Apache-2.0

//! A file system in memory that knows of every byte and every name whether a power cut could take it away.
//!
//! It promises what POSIX does and no more: a file's bytes and length are durable when the file was synced, its name when the directory
//! was. Real file systems promise more, each something else; who relies on nothing but this may be put on any of them.
//!
//! Deliberately absent: links, renames from one directory into another, owners, times, attributes.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};

use crate::content::{Content, Sectors};
use crate::draw::Draw;
use crate::names::{Changes, Ino, Names};

/// The directory that everything is in.
pub(crate) const ROOT: Ino = 1;
/// After so many removed names it is looked for what nothing leads to any more.
const REMOVED_MAX: u64 = 64;

/// Why an operation did nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is nothing of that name.
    NotFound,
    /// There is something of that name.
    Exists,
    /// It is no directory.
    NotADirectory,
    /// It is a directory.
    IsADirectory,
    /// The directory is not empty.
    NotEmpty,
    /// From one directory into another, which this file system cannot.
    OtherDirectory,
    /// The disk cannot read or write it, or the power failed since it was opened.
    Io,
    /// There is no room.
    Full,
}

/// What an operation answers with.
pub(crate) type Result<T> = std::result::Result<T, Refusal>;

/// What the power cut took, and what it left although nobody could count on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// Unsynced sectors that survived.
    pub sectors_kept: u64,
    /// Unsynced sectors that are gone.
    pub sectors_lost: u64,
    /// Files of which some unsynced sectors survived and some did not.
    pub files_torn: u64,
    /// Unsynced changes of names that survived.
    pub names_kept: u64,
    /// Unsynced changes of names that did not happen.
    pub names_lost: u64,
}

#[derive(Clone, Debug)]
enum Node {
    File(Content),
    Directory(Names),
}

#[derive(Clone, Debug)]
struct Inode {
    node: Node,
    /// Where it is, or was before it was removed.
    parent: Ino,
    name: OsString,
    /// How often it is open.
    open: u64,
}

/// A file system.
#[derive(Clone, Debug)]
pub(crate) struct Volume {
    inodes: BTreeMap<Ino, Inode>,
    next: Ino,
    removed: u64,
}

/// What there is to know about a file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub ino: Ino,
    pub is_directory: bool,
    pub len: u64,
}

impl Volume {
    pub fn new() -> Volume {
        let root =
            Inode { node: Node::Directory(Names::default()), parent: ROOT, name: OsString::new(), open: 0 };
        Volume { inodes: BTreeMap::from([(ROOT, root)]), next: ROOT + 1, removed: 0 }
    }

    pub fn look_up(&self, parent: Ino, name: &OsStr) -> Result<Attributes> {
        self.attributes(self.names(parent)?.get(name).ok_or(Refusal::NotFound)?)
    }

    pub fn attributes(&self, ino: Ino) -> Result<Attributes> {
        let (is_directory, len) = match &self.inode(ino)?.node {
            Node::File(content) => (false, content.len()),
            Node::Directory(_) => (true, 0),
        };
        Ok(Attributes { ino, is_directory, len })
    }

    /// Name and number of everything in a directory, by number: what is made while somebody lists it comes last.
    pub fn list(&self, directory: Ino) -> Result<Vec<(OsString, Attributes)>> {
        let mut found = Vec::new();
        for (name, ino) in self.names(directory)?.iter() {
            found.push((name.clone(), self.attributes(ino)?));
        }
        found.sort_by_key(|(_, attributes)| attributes.ino);
        Ok(found)
    }

    pub fn create(&mut self, parent: Ino, name: &OsStr, is_directory: bool) -> Result<Attributes> {
        if self.names(parent)?.get(name).is_some() {
            return Err(Refusal::Exists);
        }
        let ino = self.next;
        self.next += 1;
        let node =
            if is_directory { Node::Directory(Names::default()) } else { Node::File(Content::default()) };
        self.names_mut(parent)?.add(name, ino);
        self.inodes.insert(ino, Inode { node, parent, name: name.to_owned(), open: 0 });
        self.attributes(ino)
    }

    pub fn remove(&mut self, parent: Ino, name: &OsStr, is_directory: bool) -> Result<()> {
        let found = self.look_up(parent, name)?;
        match (found.is_directory, is_directory) {
            (true, false) => return Err(Refusal::IsADirectory),
            (false, true) => return Err(Refusal::NotADirectory),
            (true, true) if !self.names(found.ino)?.is_empty() => return Err(Refusal::NotEmpty),
            _ => {}
        }
        self.names_mut(parent)?.remove(name);
        self.removed += 1;
        Ok(())
    }

    pub fn rename(&mut self, parent: Ino, from: &OsStr, to_parent: Ino, to: &OsStr) -> Result<()> {
        if parent != to_parent {
            return Err(Refusal::OtherDirectory);
        }
        let found = self.look_up(parent, from)?;
        if from == to {
            return Ok(());
        }
        if let Ok(replaced) = self.look_up(parent, to) {
            match (found.is_directory, replaced.is_directory) {
                (false, true) => return Err(Refusal::IsADirectory),
                (true, false) => return Err(Refusal::NotADirectory),
                (true, true) if !self.names(replaced.ino)?.is_empty() => return Err(Refusal::NotEmpty),
                _ => self.removed += 1,
            }
        }
        self.names_mut(parent)?.rename(from, to);
        self.inode_mut(found.ino)?.name = to.to_owned();
        Ok(())
    }

    pub fn open(&mut self, ino: Ino) -> Result<()> {
        self.inode_mut(ino)?.open += 1;
        Ok(())
    }

    pub fn close(&mut self, ino: Ino) {
        if let Ok(inode) = self.inode_mut(ino) {
            inode.open = inode.open.saturating_sub(1);
        }
    }

    pub fn read(&self, ino: Ino, offset: u64, len: usize) -> Result<Vec<u8>> {
        Ok(self.content(ino)?.read(offset, len))
    }

    pub fn write(&mut self, ino: Ino, offset: u64, bytes: &[u8]) -> Result<()> {
        self.content_mut(ino)?.write(offset, bytes);
        Ok(())
    }

    pub fn set_len(&mut self, ino: Ino, len: u64) -> Result<()> {
        self.content_mut(ino)?.set_len(len);
        Ok(())
    }

    /// Makes a file, or a directory's names, durable.
    pub fn sync(&mut self, ino: Ino) -> Result<()> {
        match &mut self.inode_mut(ino)?.node {
            Node::File(content) => content.sync(),
            Node::Directory(names) => names.sync(),
        }
        if self.removed > REMOVED_MAX {
            self.forget_unreachable();
        }
        Ok(())
    }

    /// The same fails, and what it should have made durable is not made so by a later one.
    pub fn fail_sync(&mut self, ino: Ino) {
        match self.inode_mut(ino).map(|inode| &mut inode.node) {
            Ok(Node::File(content)) => content.give_up(),
            Ok(Node::Directory(names)) => names.give_up(),
            Err(_) => {}
        }
    }

    /// Takes the power away and gives it back. Nothing is open afterwards.
    pub fn lose_power(&mut self, mut draw: Option<&mut Draw>) -> Cut {
        let mut cut = Cut::default();
        for inode in self.inodes.values_mut() {
            inode.open = 0;
            match &mut inode.node {
                Node::File(content) => {
                    let Sectors { kept, lost } = content.lose_power(draw.as_deref_mut());
                    cut.sectors_kept += kept;
                    cut.sectors_lost += lost;
                    cut.files_torn += u64::from(kept > 0 && lost > 0);
                }
                Node::Directory(names) => {
                    let Changes { kept, lost } = names.lose_power(draw.as_deref_mut());
                    cut.names_kept += kept;
                    cut.names_lost += lost;
                }
            }
        }
        self.forget_unreachable();
        let names: Vec<(Ino, Ino, OsString)> = self
            .inodes
            .iter()
            .filter_map(|(parent, inode)| match &inode.node {
                Node::Directory(names) => Some(names.iter().map(|(name, ino)| (*parent, ino, name.clone()))),
                Node::File(_) => None,
            })
            .flatten()
            .collect();
        for (parent, ino, name) in names {
            if let Ok(inode) = self.inode_mut(ino) {
                (inode.parent, inode.name) = (parent, name);
            }
        }
        cut
    }

    /// Where something is, from the root on and without a slash in front.
    pub fn path(&self, ino: Ino) -> PathBuf {
        let mut names = Vec::new();
        let mut at = ino;
        while at != ROOT {
            let Some(inode) = self.inodes.get(&at) else { break };
            names.push(&inode.name);
            at = inode.parent;
        }
        names.iter().rev().collect()
    }

    pub fn find(&self, path: &Path) -> Result<Ino> {
        let mut at = ROOT;
        for part in path.components() {
            if let Component::Normal(name) = part {
                at = self.look_up(at, name)?.ino;
            }
        }
        Ok(at)
    }

    /// Every file with its length, by path.
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let mut found = Vec::new();
        let mut left = vec![ROOT];
        while let Some(directory) = left.pop() {
            for (name, attributes) in self.list(directory).unwrap_or_default() {
                match attributes.is_directory {
                    true => left.push(attributes.ino),
                    false => found.push((self.path(directory).join(name), attributes.len)),
                }
            }
        }
        found.sort();
        found
    }

    pub fn content(&self, ino: Ino) -> Result<&Content> {
        match &self.inode(ino)?.node {
            Node::File(content) => Ok(content),
            Node::Directory(_) => Err(Refusal::IsADirectory),
        }
    }

    pub fn content_mut(&mut self, ino: Ino) -> Result<&mut Content> {
        match &mut self.inode_mut(ino)?.node {
            Node::File(content) => Ok(content),
            Node::Directory(_) => Err(Refusal::IsADirectory),
        }
    }

    fn names(&self, ino: Ino) -> Result<&Names> {
        match &self.inode(ino)?.node {
            Node::Directory(names) => Ok(names),
            Node::File(_) => Err(Refusal::NotADirectory),
        }
    }

    fn names_mut(&mut self, ino: Ino) -> Result<&mut Names> {
        match &mut self.inode_mut(ino)?.node {
            Node::Directory(names) => Ok(names),
            Node::File(_) => Err(Refusal::NotADirectory),
        }
    }

    fn inode(&self, ino: Ino) -> Result<&Inode> {
        self.inodes.get(&ino).ok_or(Refusal::NotFound)
    }

    fn inode_mut(&mut self, ino: Ino) -> Result<&mut Inode> {
        self.inodes.get_mut(&ino).ok_or(Refusal::NotFound)
    }

    /// Lets go of what neither a name nor an open file leads to, nor could after a power cut.
    fn forget_unreachable(&mut self) {
        let open = self.inodes.iter().filter(|(_, inode)| inode.open > 0).map(|(ino, _)| *ino);
        let mut left: Vec<Ino> = open.chain([ROOT]).collect();
        let mut kept: BTreeMap<Ino, Inode> = BTreeMap::new();
        while let Some(ino) = left.pop() {
            let Some(inode) = self.inodes.remove(&ino) else { continue };
            if let Node::Directory(names) = &inode.node {
                left.extend(names.reachable());
            }
            kept.insert(ino, inode);
        }
        self.inodes = kept;
        self.removed = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn name(name: &str) -> &OsStr {
        OsStr::new(name)
    }

    /// Writes a file with its directory entry, and nothing of it synced.
    fn written(volume: &mut Volume, parent: Ino, file: &str, bytes: &[u8]) -> Ino {
        let ino = match volume.look_up(parent, name(file)) {
            Ok(found) => found.ino,
            Err(_) => volume.create(parent, name(file), false).expect("free").ino,
        };
        volume.write(ino, 0, bytes).expect("a file");
        ino
    }

    /// What a file can be after a power cut, over many seeds; `None` when it is not there.
    fn outcomes(volume: &Volume, path: &str) -> BTreeSet<Option<Vec<u8>>> {
        (0..200)
            .map(|seed| {
                let mut volume = volume.clone();
                volume.lose_power(Some(&mut Draw::new(seed)));
                let ino = volume.find(Path::new(path)).ok()?;
                Some(volume.read(ino, 0, usize::MAX).expect("a file"))
            })
            .collect()
    }

    #[test]
    fn a_file_is_durable_when_it_and_its_directory_were_synced() {
        let mut volume = Volume::new();
        let ino = written(&mut volume, ROOT, "f", b"bytes");
        assert!(outcomes(&volume, "f").contains(&None));
        volume.sync(ino).expect("there");
        assert!(outcomes(&volume, "f").contains(&None), "its name is not synced");
        volume.sync(ROOT).expect("there");
        assert_eq!(outcomes(&volume, "f"), [Some(b"bytes".to_vec())].into());
    }

    #[test]
    fn a_name_may_lead_to_nothing_when_only_the_directory_was_synced() {
        let mut volume = Volume::new();
        written(&mut volume, ROOT, "f", b"bytes");
        volume.sync(ROOT).expect("there");
        let found = outcomes(&volume, "f");
        assert!(found.contains(&Some(Vec::new())) && found.contains(&Some(b"bytes".to_vec())), "{found:?}");
        assert!(!found.contains(&None));
    }

    #[test]
    fn replacing_a_file_needs_the_directory_to_be_synced() {
        let mut volume = Volume::new();
        let old = written(&mut volume, ROOT, "f", b"old");
        volume.sync(old).expect("there");
        volume.sync(ROOT).expect("there");
        let new = written(&mut volume, ROOT, "f.new", b"new");
        volume.sync(new).expect("there");
        volume.rename(ROOT, name("f.new"), ROOT, name("f")).expect("there");
        let found = outcomes(&volume, "f");
        assert_eq!(found, [Some(b"old".to_vec()), Some(b"new".to_vec())].into());
        volume.sync(ROOT).expect("there");
        assert_eq!(outcomes(&volume, "f"), [Some(b"new".to_vec())].into());
    }

    #[test]
    fn a_lost_directory_takes_everything_in_it_along() {
        let mut volume = Volume::new();
        let directory = volume.create(ROOT, name("d"), true).expect("free").ino;
        let file = written(&mut volume, directory, "f", b"bytes");
        volume.sync(file).expect("there");
        volume.sync(directory).expect("there");
        assert_eq!(outcomes(&volume, "d/f"), [None, Some(b"bytes".to_vec())].into());
        volume.sync(ROOT).expect("there");
        assert_eq!(outcomes(&volume, "d/f"), [Some(b"bytes".to_vec())].into());
    }

    #[test]
    fn a_removed_file_is_gone_only_when_that_was_synced_and_its_bytes_are_let_go_of() {
        let mut volume = Volume::new();
        let ino = written(&mut volume, ROOT, "f", b"bytes");
        volume.sync(ino).expect("there");
        volume.sync(ROOT).expect("there");
        volume.open(ino).expect("there");
        volume.remove(ROOT, name("f"), false).expect("there");
        assert_eq!(outcomes(&volume, "f"), [None, Some(b"bytes".to_vec())].into());
        volume.sync(ROOT).expect("there");
        volume.forget_unreachable();
        assert_eq!(volume.read(ino, 0, 9), Ok(b"bytes".to_vec()), "it is still open");
        volume.close(ino);
        volume.forget_unreachable();
        assert_eq!(volume.read(ino, 0, 9), Err(Refusal::NotFound));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let mut volume = Volume::new();
        let directory = volume.create(ROOT, name("d"), true).expect("free").ino;
        written(&mut volume, directory, "f", b"");
        assert_eq!(volume.create(directory, name("f"), false), Err(Refusal::Exists));
        assert_eq!(volume.remove(ROOT, name("d"), true), Err(Refusal::NotEmpty));
        assert_eq!(volume.remove(ROOT, name("d"), false), Err(Refusal::IsADirectory));
        assert_eq!(volume.remove(directory, name("f"), true), Err(Refusal::NotADirectory));
        assert_eq!(volume.rename(directory, name("f"), ROOT, name("f")), Err(Refusal::OtherDirectory));
        assert_eq!(volume.rename(ROOT, name("x"), ROOT, name("y")), Err(Refusal::NotFound));
        assert_eq!(volume.files(), [(PathBuf::from("d/f"), 0)]);
        volume.remove(directory, name("f"), false).expect("there");
        volume.remove(ROOT, name("d"), true).expect("empty");
    }
}
