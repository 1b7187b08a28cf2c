// SPDX-License-Identifier: Apache-2.0

//! Whose directory it is: one that `mraft dev` made carries a marker with its plan, every other one that holds anything is
//! refused.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::plan::{Asked, DevNode, Plan};
use crate::output::complain;

const MARKER: &str = "mraft-dev.json";
const FORMAT: u32 = 1;
/// A marker is a line; anything larger is something else.
const MARKER_BYTES_MAX: u64 = 64 << 10;

/// A directory that belongs to a development cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    path: PathBuf,
    /// The cluster.
    pub plan: Plan,
    /// It was made before, and its plan stands.
    pub is_kept: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Marker {
    format: u32,
    plan: Plan,
}

impl Directory {
    /// Takes the directory for a cluster: it is new or empty, or marked and was made for what is asked. Nothing is written yet, see
    /// [`Directory::mark`].
    pub fn claim(path: &Path, asked: Asked) -> Result<Directory, String> {
        let unusable = |error: io::Error| format!("{} cannot be used: {error}", path.display());
        let path = std::path::absolute(path).map_err(unusable)?;
        let kept = read_marker(&path)?;
        let plan = Plan::of(asked, kept).map_err(|why| match kept {
            Some(_) => format!("{}: {why}", path.display()),
            None => why,
        })?;
        let foreign = if kept.is_none() { first_entry(&path).map_err(unusable)? } else { None };
        if let Some(name) = foreign {
            return Err(format!(
                "{} belongs to something else: it holds `{name}` but no {MARKER}; give an empty or a new directory",
                path.display()
            ));
        }
        Ok(Directory { path, plan, is_kept: kept.is_some() })
    }

    /// Marks it, unless it was. From then on its plan stands.
    pub fn mark(&self) -> Result<(), String> {
        if self.is_kept {
            return Ok(());
        }
        fs::create_dir_all(&self.path)
            .and_then(|()| write_marker(&self.path, self.plan))
            .map_err(|error| format!("{} cannot be used: {error}", self.path.display()))
    }

    /// Where one node lives.
    pub fn home(&self, node: &DevNode) -> PathBuf {
        self.path.join(format!("node-{}", node.number))
    }

    /// What a node must not lose: the directory that `mraft inspect --data-dir` takes.
    pub fn data(&self, node: &DevNode) -> PathBuf {
        data_of(&self.home(node))
    }

    /// Writes a node's configuration file and says where it is.
    pub fn write_configuration(&self, node: &DevNode) -> Result<PathBuf, String> {
        let home = self.home(node);
        let text = self.plan.configuration(node, &home)?;
        let file = home.join("node.toml");
        let written = fs::create_dir_all(&home).and_then(|()| fs::write(&file, text));
        written.map_err(|error| format!("{} cannot be written: {error}", file.display()))?;
        Ok(file)
    }
}

/// The data directory of the node whose home this is.
pub fn data_of(home: &Path) -> PathBuf {
    home.join("data")
}

fn read_marker(directory: &Path) -> Result<Option<Plan>, String> {
    let path = directory.join(MARKER);
    let wrong =
        |why: String| format!("{} is no marker of this release ({why}); give another --dir", path.display());
    match fs::metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(wrong(error.to_string())),
        Ok(metadata) if metadata.len() > MARKER_BYTES_MAX => return Err(wrong("too long".to_owned())),
        Ok(_) => {}
    }
    let text = fs::read_to_string(&path).map_err(|error| wrong(error.to_string()))?;
    let marker: Marker = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    if marker.format != FORMAT {
        return Err(wrong(format!("format {}, this release knows {FORMAT}", marker.format)));
    }
    marker.plan.check().map_err(wrong)?;
    Ok(Some(marker.plan))
}

/// Under another name first: a marker is there whole or not at all.
fn write_marker(directory: &Path, plan: Plan) -> io::Result<()> {
    let text = serde_json::to_string_pretty(&Marker { format: FORMAT, plan })?;
    let begun = directory.join(format!("{MARKER}.new"));
    let mut file = fs::File::create(&begun)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(begun, directory.join(MARKER))
}

/// Something that lies in the directory, if anything does; a marker that was never finished is nothing.
fn first_entry(directory: &Path) -> io::Result<Option<String>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name != format!("{MARKER}.new") {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// A directory that is removed with everything in it when this is dropped.
#[derive(Debug)]
pub struct TemporaryDirectory(PathBuf);

impl TemporaryDirectory {
    /// Makes one where the system keeps temporary files.
    pub fn new() -> io::Result<TemporaryDirectory> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let path = std::env::temp_dir().join(format!("mraft-dev-{:016x}", u64::from_be_bytes(random)));
        fs::create_dir(&path)?;
        Ok(TemporaryDirectory(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TemporaryDirectory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            complain(&format!("mraft: {} is left behind: {error}", self.0.display()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claimed_directory_remembers_its_plan() {
        let parent = tempfile::tempdir().expect("a directory");
        let path = parent.path().join("cluster");
        let asked = Asked { nodes: Some(5), groups: Some(7), ..Asked::default() };
        let first = Directory::claim(&path, asked).expect("claimed");
        assert!(!path.exists(), "nothing is written before all was checked");
        first.mark().expect("marked");
        assert_eq!(Directory::claim(&path, Asked::default()), Ok(Directory { is_kept: true, ..first }));
        let refusal =
            Directory::claim(&path, Asked { nodes: Some(3), ..Asked::default() }).expect_err("different");
        assert!(refusal.contains("--nodes 5, not 3"), "{refusal}");
    }

    #[test]
    fn a_directory_of_something_else_is_refused_and_left_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(directory.path().join("thesis.tex"), "mine").expect("written");
        let refusal = Directory::claim(directory.path(), Asked::default()).expect_err("foreign");
        assert!(refusal.contains("belongs to something else") && refusal.contains("thesis.tex"), "{refusal}");
        assert_eq!(fs::read_dir(directory.path()).expect("readable").count(), 1);
    }

    #[test]
    fn a_marker_of_another_release_is_refused() {
        for text in ["", "{}", r#"{"format":2,"plan":{"nodes":3,"groups":1,"replicas":3,"base_port":1}}"#] {
            let directory = tempfile::tempdir().expect("a directory");
            fs::write(directory.path().join(MARKER), text).expect("written");
            let refusal = Directory::claim(directory.path(), Asked::default()).expect_err(text);
            assert!(refusal.contains(MARKER), "{refusal}");
        }
    }

    #[test]
    fn an_impossible_wish_leaves_no_directory_behind() {
        let parent = tempfile::tempdir().expect("a directory");
        let path = parent.path().join("cluster");
        assert!(Directory::claim(&path, Asked { replicas: Some(5), ..Asked::default() }).is_err());
        assert!(!path.exists());
    }

    #[test]
    fn a_temporary_directory_is_gone_afterwards() {
        let directory = TemporaryDirectory::new().expect("a directory");
        let path = directory.path().to_owned();
        fs::write(path.join("file"), "x").expect("written");
        drop(directory);
        assert!(!path.exists());
    }
}
