// SPDX-License-Identifier: Apache-2.0

//! Where events go: text on a terminal, JSON elsewhere, and JSON into rotated files.
//!
//! Files are written by a thread of their own behind a bounded queue, because a thread that steps groups must not wait for a
//! slow log disk. When the queue is full events are dropped from the file and counted; the terminal still has them.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::SystemTime;

use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

use crate::rolling::{Policy, RollingWriter};

/// Events that may wait for the file; some megabytes at usual lengths.
const QUEUE_LINES_MAX: usize = 8192;
const FILE_STEM: &str = "mraft";

/// What `log_level` must be, if it is not. A word that is no level would be the name of a part, and nothing else would be logged.
pub fn check_level(level: &str) -> Result<(), String> {
    const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
    let is_level = |word: &str| LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word));
    let is_part = |name: &str| {
        !name.is_empty() && name.chars().all(|sign| sign.is_ascii_alphanumeric() || "_:".contains(sign))
    };
    let is_known = |word: &str| match word.split_once('=') {
        Some((part, level)) => is_part(part) && is_level(level),
        None => is_level(word),
    };
    match level.split(',').find(|word| !is_known(word)) {
        None => Ok(()),
        Some(word) => Err(format!(
            "error, warn, info, debug, trace or off, or per part as in \"info,mraft_transport=debug\" (`{word}` is neither)"
        )),
    }
}

/// Installs the process's subscriber. Keep what comes back: when it is dropped, the waiting events are written.
pub fn install(level: &str, log_dir: Option<&Path>) -> Result<Logging, String> {
    let filter = EnvFilter::builder().parse(level).map_err(|error| error.to_string())?;
    let is_terminal = io::stderr().is_terminal();
    let terminal: Box<dyn Layer<Registry> + Send + Sync> = match is_terminal {
        true => fmt::layer().with_writer(io::stderr).with_ansi(true).boxed(),
        false => fmt::layer().with_writer(io::stderr).json().flatten_event(true).boxed(),
    };
    let (logging, queue) = match log_dir {
        Some(directory) => {
            let unusable = |error| format!("log_dir {} cannot be used: {error}", directory.display());
            let writer = RollingWriter::open(directory, FILE_STEM, Policy::DEFAULT).map_err(unusable)?;
            let (queue, logging) = start(writer, SystemTime::now).map_err(unusable)?;
            (logging, Some(queue))
        }
        None => (Logging { thread: None, stop: None }, None),
    };
    let file = queue
        .map(|queue| fmt::layer().with_writer(queue).with_ansi(false).json().flatten_event(true).boxed());
    let layers: Vec<Box<dyn Layer<Registry> + Send + Sync>> = std::iter::once(terminal).chain(file).collect();
    tracing_subscriber::registry().with(layers).with(filter).try_init().map_err(|error| error.to_string())?;
    Ok(logging)
}

/// The thread that writes the log files.
#[derive(Debug)]
pub struct Logging {
    thread: Option<JoinHandle<()>>,
    stop: Option<SyncSender<Line>>,
}

impl Drop for Logging {
    fn drop(&mut self) {
        // The subscriber keeps its end of the queue for ever, so the end is told rather than hung up.
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(Line::Last);
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

enum Line {
    Event(Vec<u8>),
    Last,
}

/// The subscriber's end of the queue.
#[derive(Clone, Debug)]
struct Queue {
    lines: SyncSender<Line>,
    dropped: Arc<AtomicU64>,
}

fn start(
    writer: RollingWriter,
    clock: impl Fn() -> SystemTime + Send + 'static,
) -> io::Result<(Queue, Logging)> {
    let (lines, receiver) = sync_channel(QUEUE_LINES_MAX);
    let dropped = Arc::new(AtomicU64::new(0));
    let queue = Queue { lines: lines.clone(), dropped: Arc::clone(&dropped) };
    let thread = thread::Builder::new().name("log-files".to_owned()).spawn(move || {
        // Goes to the terminal; the file's end of it waits behind what cannot be written either.
        let warn = |error: &io::Error| {
            tracing::warn!("the log file cannot be written, so events are only here until it can: {error}");
        };
        drain(&receiver, writer, &dropped, clock, warn);
    })?;
    Ok((queue, Logging { thread: Some(thread), stop: Some(lines) }))
}

/// A file that cannot be written is not worth stopping for: the terminal still has every event. It is told of once, and when the
/// file can be written again, it says how many are missing.
fn drain(
    lines: &Receiver<Line>,
    mut writer: RollingWriter,
    dropped: &AtomicU64,
    clock: impl Fn() -> SystemTime,
    warn: impl Fn(&io::Error),
) {
    let mut missing = 0;
    let mut is_told = false;
    while let Ok(Line::Event(line)) = lines.recv() {
        missing += dropped.swap(0, Ordering::Relaxed);
        match write_event(&mut writer, &mut missing, &line, clock()) {
            Ok(()) => is_told = false,
            Err(error) => {
                missing += 1;
                if !std::mem::replace(&mut is_told, true) {
                    warn(&error);
                }
            }
        }
    }
}

/// Writes an event, and before it how many are missing there.
fn write_event(
    writer: &mut RollingWriter,
    missing: &mut u64,
    line: &[u8],
    now: SystemTime,
) -> io::Result<()> {
    if *missing > 0 {
        let note = format!(
            "{{\"level\":\"WARN\",\"message\":\"{missing} events are missing here: the log disk was slow or could not be written\"}}\n"
        );
        writer.write_line(note.as_bytes(), now)?;
        *missing = 0;
    }
    writer.write_line(line, now)
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = QueueWriter<'a>;

    fn make_writer(&'a self) -> QueueWriter<'a> {
        QueueWriter { queue: self, line: Vec::new() }
    }
}

/// Gathers one event and hands it over when it is complete.
struct QueueWriter<'a> {
    queue: &'a Queue,
    line: Vec<u8>,
}

impl Write for QueueWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for QueueWriter<'_> {
    fn drop(&mut self) {
        let line = std::mem::take(&mut self.line);
        if !line.is_empty() && self.queue.lines.try_send(Line::Event(line)).is_err() {
            self.queue.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_logged_is_in_the_file_when_the_guard_is_gone() {
        let directory = tempfile::tempdir().expect("a directory");
        let writer = RollingWriter::open(directory.path(), FILE_STEM, Policy::DEFAULT).expect("open");
        let (queue, logging) = start(writer, || SystemTime::UNIX_EPOCH).expect("a thread");
        let subscriber =
            tracing_subscriber::registry().with(fmt::layer().with_writer(queue).json().flatten_event(true));
        tracing::subscriber::with_default(subscriber, || {
            for group in 0..100 {
                tracing::info!(group, "elected");
            }
        });
        drop(logging);
        let text = std::fs::read_to_string(directory.path().join("mraft.1970-01-01.log")).expect("a file");
        let events: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(events.len(), 100);
        assert_eq!((&events[7]["message"], &events[7]["group"]), (&"elected".into(), &7.into()));
    }

    #[test]
    fn a_full_queue_drops_and_says_so() {
        let (lines, receiver) = sync_channel(1);
        let dropped = Arc::new(AtomicU64::new(0));
        let queue = Queue { lines, dropped: Arc::clone(&dropped) };
        for _ in 0..3 {
            queue.make_writer().write_all(b"event\n").expect("queued or counted");
        }
        drop(queue);
        let directory = tempfile::tempdir().expect("a directory");
        let writer = RollingWriter::open(directory.path(), FILE_STEM, Policy::DEFAULT).expect("open");
        drain(&receiver, writer, &dropped, || SystemTime::UNIX_EPOCH, |error| panic!("{error}"));
        let text = std::fs::read_to_string(directory.path().join("mraft.1970-01-01.log")).expect("a file");
        assert!(text.contains("2 events are missing") && text.ends_with("event\n"), "{text}");
    }

    #[test]
    fn a_file_that_cannot_be_written_is_told_of_once_and_counted() {
        let parent = tempfile::tempdir().expect("a directory");
        let directory = parent.path().join("logs");
        let writer = RollingWriter::open(&directory, FILE_STEM, Policy::DEFAULT).expect("open");
        std::fs::remove_dir(&directory).expect("still empty");
        let (lines, receiver) = sync_channel(4);
        for event in ["one\n", "two\n", "three\n"] {
            lines.send(Line::Event(event.into())).expect("room");
        }
        drop(lines);
        let warned = AtomicU64::new(0);
        let began = AtomicU64::new(0);
        // The directory is there again when the third event is written.
        let clock = || {
            if began.fetch_add(1, Ordering::Relaxed) == 2 {
                std::fs::create_dir(&directory).expect("made");
            }
            SystemTime::UNIX_EPOCH
        };
        drain(&receiver, writer, &AtomicU64::new(0), clock, |_| _ = warned.fetch_add(1, Ordering::Relaxed));
        assert_eq!(warned.into_inner(), 1);
        let text = std::fs::read_to_string(directory.join("mraft.1970-01-01.log")).expect("a file");
        assert!(text.contains("2 events are missing") && text.ends_with("three\n"), "{text}");
    }

    #[test]
    fn levels_are_checked() {
        assert!(check_level("info").is_ok() && check_level("warn,mraft_transport=debug").is_ok());
        assert!(check_level("info,mraft=loud").is_err());
    }
}
