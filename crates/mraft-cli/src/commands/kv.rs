// SPDX-License-Identifier: Apache-2.0

//! `mraft kv`: single keys and scans.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use mraft_api::kv::SCAN_ENTRIES_MAX;
use mraft_api::{Condition, Consistency, Got, ScanAnswer, ScanEntry, ScanRequest};
use mraft_types::limits::COMMAND_BYTES_MAX;
use serde_json::Value;

use super::{client, printed};
use crate::cli::{ClientArgs, ConditionArgs, KvCommand};
use crate::exit::{CommandError, Exit};
use crate::output::{Format, Table, print, readable, shortened};

/// How much of a value a table shows.
const VALUE_CHARS_SHOWN: usize = 60;

pub(super) fn run(command: KvCommand) -> Result<Exit, CommandError> {
    match command {
        KvCommand::Put { key, value, file, condition, client } => {
            put(&key.into_vec(), &value_of(value, file.as_deref())?, condition_of(condition), &client)
        }
        KvCommand::Get { key, stale, client } => get(&key.into_vec(), consistency(stale), &client),
        KvCommand::Delete { key, condition, client } => {
            delete(&key.into_vec(), condition_of(condition), &client)
        }
        KvCommand::Scan { prefix, limit, after, stale, client } => {
            let request = ScanRequest {
                prefix: prefix.into_vec(),
                after: after.map(OsString::into_vec),
                limit: None,
                consistency: consistency(stale),
            };
            scan(request, limit as usize, &client)
        }
    }
}

fn put(key: &[u8], value: &[u8], condition: Condition, args: &ClientArgs) -> Result<Exit, CommandError> {
    let answer = client::with(args, async |client| client.put(key, value, condition).await)?;
    printed(print(args.output.format, &answer, || {
        format!("revision {} of group {}\n", answer.served.revision, answer.served.group)
    }))
}

fn get(key: &[u8], consistency: Consistency, args: &ClientArgs) -> Result<Exit, CommandError> {
    let answer = client::with(args, async |client| client.get(key, consistency).await)?;
    let Some(got) = answer else {
        return Err(CommandError::not_found(format!("there is no key {}", readable(key))));
    };
    match args.output.format {
        Format::Json => {
            let document = document_of(key, got).map_err(|error| CommandError::failed(error.to_string()))?;
            printed(print(Format::Json, &document, String::new))
        }
        Format::Table => {
            let mut out = io::stdout().lock();
            let newline: &[u8] = if io::stdout().is_terminal() { b"\n" } else { b"" };
            printed(
                out.write_all(&got.value).and_then(|()| out.write_all(newline)).and_then(|()| out.flush()),
            )
        }
    }
}

/// The entry with everything that the answer said about itself.
fn document_of(key: &[u8], got: Got) -> serde_json::Result<Value> {
    let served = got.served;
    let entry =
        ScanEntry { key: key.to_vec(), value: got.value, revision: served.revision, group: served.group };
    let mut document = serde_json::to_value(entry)?;
    if let (Value::Object(document), Value::Object(served)) = (&mut document, serde_json::to_value(served)?) {
        document.extend(served);
    }
    Ok(document)
}

fn delete(key: &[u8], condition: Condition, args: &ClientArgs) -> Result<Exit, CommandError> {
    let answer = client::with(args, async |client| client.delete(key, condition).await)?;
    printed(print(args.output.format, &answer, || {
        let said = if answer.deleted > 0 { "deleted" } else { "there was no such key" };
        format!("{said}\n")
    }))
}

fn scan(mut request: ScanRequest, limit: usize, args: &ClientArgs) -> Result<Exit, CommandError> {
    let answer = client::with(args, async |client| {
        let mut all = ScanAnswer::default();
        loop {
            // A page is bounded in entries and in bytes, so it may end before the limit.
            let left = limit.saturating_sub(all.entries.len());
            request.limit = u32::try_from(left.min(SCAN_ENTRIES_MAX)).ok();
            let page = client.scan(&request).await?;
            all.entries.extend(page.entries);
            (all.next, all.groups) = (page.next, page.groups);
            if all.next.is_none() || all.entries.len() >= limit {
                return Ok(all);
            }
            request.after = all.next.clone();
        }
    })?;
    printed(print(args.output.format, &answer, || table_of(&answer)))
}

fn table_of(answer: &ScanAnswer) -> String {
    let mut table = Table::new(&["KEY", "#REVISION", "#GROUP", "VALUE"]);
    for entry in &answer.entries {
        table.row([
            readable(&entry.key),
            entry.revision.to_string(),
            entry.group.to_string(),
            shortened(&entry.value, VALUE_CHARS_SHOWN),
        ]);
    }
    let mut text = table.render();
    if let Some(next) = &answer.next {
        text.push_str(&format!("there are more: --after {}\n", readable(next)));
    }
    text
}

fn consistency(stale: bool) -> Consistency {
    if stale { Consistency::Stale } else { Consistency::Linearizable }
}

fn condition_of(args: ConditionArgs) -> Condition {
    match args {
        ConditionArgs { if_revision: Some(revision), .. } => Condition::Revision(revision),
        ConditionArgs { if_exists: true, .. } => Condition::Exists,
        ConditionArgs { if_absent: true, .. } => Condition::Absent,
        _ => Condition::None,
    }
}

/// The value from where the user says it is. No door takes more than a command may hold, so no more is read.
fn value_of(value: Option<OsString>, file: Option<&Path>) -> Result<Vec<u8>, CommandError> {
    let (from, reader): (String, Box<dyn Read>) = match (value, file) {
        (Some(value), _) => return Ok(value.into_vec()),
        (None, Some(path)) => {
            let unreadable =
                |error| CommandError::usage(format!("{} cannot be read: {error}", path.display()));
            (path.display().to_string(), Box::new(File::open(path).map_err(unreadable)?))
        }
        (None, None) => ("standard input".to_owned(), Box::new(io::stdin())),
    };
    let mut bytes = Vec::new();
    reader
        .take(COMMAND_BYTES_MAX as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| CommandError::usage(format!("{from} cannot be read: {error}")))?;
    if bytes.len() > COMMAND_BYTES_MAX {
        return Err(CommandError::usage(format!(
            "{from} is longer than any value may be ({COMMAND_BYTES_MAX} bytes)"
        )));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use mraft_api::Served;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_read_key_as_json_says_where_it_came_from() {
        let served =
            Served { group: 3, revision: 9, index: 40, leader: Some(7), served_by: 8, stale_ms: None };
        let document = document_of(b"k\xff", Got { value: b"v".to_vec(), served }).expect("a document");
        let expected = json!({ "key_base64": "a/8=", "value": "v", "revision": 9, "group": 3, "index": 40, "leader": 7, "served_by": 8 });
        assert_eq!(document, expected);
    }

    #[test]
    fn a_scan_as_a_table_says_how_to_go_on() {
        let entry = ScanEntry { key: b"a\n".to_vec(), value: b"hello".to_vec(), revision: 12, group: 0 };
        let answer = ScanAnswer { entries: vec![entry], next: Some(b"a".to_vec()), groups: Vec::new() };
        assert_eq!(
            table_of(&answer),
            "KEY  REVISION  GROUP  VALUE\na\\n        12      0  hello\nthere are more: --after a\n"
        );
    }

    #[test]
    fn a_value_comes_from_an_argument_or_a_file_and_has_a_bound() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("value");
        std::fs::write(&file, vec![7; COMMAND_BYTES_MAX]).expect("written");
        assert_eq!(value_of(None, Some(&file)).map(|value| value.len()), Ok(COMMAND_BYTES_MAX));
        std::fs::write(&file, vec![7; COMMAND_BYTES_MAX + 1]).expect("written");
        assert_eq!(value_of(None, Some(&file)).expect_err("too long").exit, Exit::Usage);
        assert_eq!(value_of(Some("v".into()), None), Ok(b"v".to_vec()));
        assert_eq!(value_of(None, Some(Path::new("/none/such"))).expect_err("missing").exit, Exit::Usage);
    }
}
