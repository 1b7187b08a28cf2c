// SPDX-License-Identifier: Apache-2.0

//! Log files that neither grow without end nor stay for ever (row S18).
//!
//! `NAME.2026-01-31.log` is a day's first file, `NAME.2026-01-31.1.log` its second, begun when the first was full. Days are
//! UTC. After each new file the oldest beyond [`Policy::files_max`] are removed. The time is an argument.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Files kept, the current one included.
    pub files_max: usize,
    /// Most bytes in one file; a single longer line still goes into one.
    pub file_bytes_max: u64,
}

impl Policy {
    /// Two weeks of days that fit one file each; at most 3.5 GiB.
    pub const DEFAULT: Policy = Policy { files_max: 14, file_bytes_max: 256 << 20 };
}

/// Writes lines into the file of their day.
#[derive(Debug)]
pub struct RollingWriter {
    directory: PathBuf,
    name: &'static str,
    policy: Policy,
    current: Option<Current>,
}

#[derive(Debug)]
struct Current {
    file: File,
    id: FileId,
    bytes: u64,
}

/// Day since 1970, then number within the day: files in the order of their making.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct FileId {
    day: u64,
    number: u32,
}

impl RollingWriter {
    /// A writer into `directory`, which is made if need be. No file is made before the first line.
    pub fn open(directory: &Path, name: &'static str, policy: Policy) -> io::Result<RollingWriter> {
        fs::create_dir_all(directory)?;
        Ok(RollingWriter { directory: directory.to_owned(), name, policy, current: None })
    }

    /// Appends one line, newline included, written at `now`.
    pub fn write_line(&mut self, line: &[u8], now: SystemTime) -> io::Result<()> {
        let day = days_since_1970(now);
        let bytes_max = self.policy.file_bytes_max;
        let fits = |current: &Current| current.bytes == 0 || current.bytes + line.len() as u64 <= bytes_max;
        if !self.current.as_ref().is_some_and(|current| current.id.day == day && fits(current)) {
            self.current = None;
            self.current = Some(self.next(day, line.len() as u64)?);
            self.remove_oldest();
        }
        if let Some(current) = &mut self.current {
            current.file.write_all(line)?;
            current.bytes += line.len() as u64;
        }
        Ok(())
    }

    /// The day's newest file if the line still fits, as after a restart, otherwise a new one.
    fn next(&self, day: u64, line_bytes: u64) -> io::Result<Current> {
        let newest = self.files().into_iter().map(|(id, _)| id).filter(|id| id.day == day).max();
        let mut id = newest.unwrap_or(FileId { day, number: 0 });
        loop {
            let path = self.directory.join(file_name(self.name, id));
            let file = OpenOptions::new().create(true).append(true).open(path)?;
            let bytes = file.metadata()?.len();
            if bytes == 0 || bytes + line_bytes <= self.policy.file_bytes_max {
                return Ok(Current { file, id, bytes });
            }
            id.number += 1;
        }
    }

    /// Removing is a courtesy: that it fails must not stop the logging.
    fn remove_oldest(&self) {
        let mut files = self.files();
        files.sort();
        let surplus = files.len().saturating_sub(self.policy.files_max);
        for (_, path) in files.into_iter().take(surplus) {
            let _ = fs::remove_file(path);
        }
    }

    fn files(&self) -> Vec<(FileId, PathBuf)> {
        let Ok(entries) = fs::read_dir(&self.directory) else { return Vec::new() };
        let ours = |path: PathBuf| Some((parse_name(self.name, path.file_name()?.to_str()?)?, path));
        entries.filter_map(|entry| ours(entry.ok()?.path())).collect()
    }
}

fn file_name(name: &str, id: FileId) -> String {
    let (year, month, day) = civil_from_days(id.day);
    match id.number {
        0 => format!("{name}.{year:04}-{month:02}-{day:02}.log"),
        number => format!("{name}.{year:04}-{month:02}-{day:02}.{number}.log"),
    }
}

/// The file behind a name; `None` for every name that [`file_name`] would not make.
fn parse_name(name: &str, text: &str) -> Option<FileId> {
    let rest = text.strip_prefix(name)?.strip_prefix('.')?.strip_suffix(".log")?;
    let (date, number) = rest.split_once('.').unwrap_or((rest, "0"));
    let mut parts = date.splitn(3, '-').map(|part| part.parse::<u64>().ok());
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    let id = FileId { day: days_from_civil(year, month, day)?, number: number.parse().ok()? };
    (file_name(name, id) == text).then_some(id)
}

fn days_since_1970(now: SystemTime) -> u64 {
    now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() / 86_400)
}

/// The Gregorian date of a day. Counted in eras of 400 years that begin in March, so that the leap day comes last.
fn civil_from_days(days_since_1970: u64) -> (u64, u64, u64) {
    let days = days_since_1970 + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

fn days_from_civil(year: u64, month: u64, day: u64) -> Option<u64> {
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year / 400, year % 400);
    let shifted_month = if month > 2 { month - 3 } else { month + 9 };
    let of_year = (153 * shifted_month + 2) / 5 + day - 1;
    Some(era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SMALL: Policy = Policy { files_max: 3, file_bytes_max: 10 };

    fn noon(day: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(day * 86_400 + 43_200)
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).expect("readable");
        let mut names: Vec<String> =
            entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
        names.sort();
        names
    }

    #[test]
    fn each_day_has_a_file_and_the_newest_are_kept() {
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(directory.path().join("mraft.notes.log"), "mine").expect("written");
        let mut writer = RollingWriter::open(directory.path(), "mraft", SMALL).expect("open");
        for day in 20_453..20_459 {
            writer.write_line(b"one\n", noon(day)).expect("written");
            writer.write_line(b"two\n", noon(day)).expect("written");
        }
        let expected =
            ["mraft.2026-01-03.log", "mraft.2026-01-04.log", "mraft.2026-01-05.log", "mraft.notes.log"];
        assert_eq!(names(directory.path()), expected);
        let text = fs::read_to_string(directory.path().join(expected[2])).expect("readable");
        assert_eq!(text, "one\ntwo\n");
    }

    #[test]
    fn a_full_file_is_followed_by_a_numbered_one_also_after_a_restart() {
        let directory = tempfile::tempdir().expect("a directory");
        for line in ["12345\n", "6789\n", "x\n"] {
            let mut writer = RollingWriter::open(directory.path(), "mraft", SMALL).expect("open");
            writer.write_line(line.as_bytes(), noon(20_453)).expect("written");
        }
        assert_eq!(names(directory.path()), ["mraft.2025-12-31.1.log", "mraft.2025-12-31.log"]);
        let second = fs::read_to_string(directory.path().join("mraft.2025-12-31.1.log")).expect("readable");
        assert_eq!(second, "6789\nx\n");
    }

    #[test]
    fn a_line_longer_than_a_file_is_written_whole() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut writer = RollingWriter::open(directory.path(), "mraft", SMALL).expect("open");
        writer.write_line(b"longer than ten bytes\n", noon(0)).expect("written");
        writer.write_line(b"short\n", noon(0)).expect("written");
        assert_eq!(names(directory.path()), ["mraft.1970-01-01.1.log", "mraft.1970-01-01.log"]);
    }

    #[test]
    fn dates_and_days_agree() {
        for day in (0..40_000).chain([2_932_896]) {
            let (year, month, of_month) = civil_from_days(day);
            assert_eq!(days_from_civil(year, month, of_month), Some(day));
        }
        assert_eq!(civil_from_days(0), (1970, 1, 1));
        assert_eq!(civil_from_days(11_016), (2000, 2, 29));
        assert_eq!(parse_name("mraft", "mraft.2026-02-30.log"), None);
        assert_eq!(parse_name("mraft", "mraft.2026-01-01.0.log"), None);
    }
}
