// SPDX-License-Identifier: Apache-2.0

//! The table of settings as text: a commented TOML file, and the chapter of the manual.

use std::fmt::Write;

use super::keys::{Chapter, KEYS, Key, LATER};

/// A TOML file with every setting at its default: what `mraft config default` prints. It is itself a valid file.
pub fn default_toml() -> String {
    let mut text = String::from(
        "# Every setting with its default. Flags win over the environment (MRAFT_ and the name in capitals), that over this\n\
         # file, and this file over the defaults. Sizes may be written \"64MiB\", durations \"5s\".\n",
    );
    for chapter in Chapter::ALL {
        let _ = writeln!(text, "\n# --- {} ---", chapter.title());
        for key in KEYS.iter().filter(|key| key.chapter == chapter) {
            let _ = writeln!(text, "\n# {}", key.why);
            let _ = match key.default {
                "" if key.is_map => writeln!(text, "# [{}.GROUP]   default: {}", key.name, key.derived),
                "" => writeln!(text, "# {} =   # {}; default: {}", key.name, described(key), key.derived),
                _ => writeln!(text, "{} = {}   # {}", key.name, toml_default(key), described(key)),
            };
        }
    }
    text
}

/// The manual's page about settings (`docs/operate/config.md`).
pub fn manual() -> String {
    let mut page = String::from(MANUAL_HEAD);
    for chapter in Chapter::ALL {
        let _ = writeln!(page, "\n## {}\n", chapter.title());
        page.push_str(
            "| key | type | default | allowed | JSON | also written | why |\n|---|---|---|---|---|---|---|\n",
        );
        for key in KEYS.iter().filter(|key| key.chapter == chapter) {
            let default = if key.default.is_empty() { key.derived.to_owned() } else { code(key.default) };
            let json = key.json.map(code).unwrap_or_default();
            let aliases: Vec<String> = key.aliases.iter().map(|alias| code(alias)).collect();
            let _ = writeln!(
                page,
                "| {} | {} | {default} | {} | {json} | {} | {} |",
                code(key.name),
                key.kind,
                allowed(key),
                aliases.join(", "),
                key.why
            );
        }
    }
    page.push_str("\n## Refused until a later release\n\n| key | until then |\n|---|---|\n");
    for (name, instead) in LATER {
        let _ = writeln!(page, "| {} | {instead} |", code(name));
    }
    page
}

const MANUAL_HEAD: &str = "\
# Settings

This page is made from the table in `crates/mraft-cli/src/config/keys.rs`; a test fails when it is stale
(`UPDATE=1 cargo test -p mraft-cli` writes it anew).

A setting comes from a flag (`--set key=value`, `--data-dir`, the ports), else from the environment, else from the file, else from
what the data directory remembers of itself, else from its default. In the environment a key is `MRAFT_` and its name in capitals,
and `__` stands for a dot: `MRAFT_ELECTION_RTT=60`, `MRAFT_INITIAL_MEMBERS__0__7=10.0.0.1:13890`.

- A file that ends in `.toml` may hold every key below. A file that ends in `.json` is the start-up document of the earlier system,
  with the keys of the column *JSON* and no others; there `0`, `\"\"` and `null` mean \"not configured\". Other endings are refused.
- Sizes are bytes or `\"64MiB\"` (B, KiB, MiB, GiB, TiB), durations milliseconds or `\"5s\"` (ms, s, m, h).
- An unknown key, a wrong type or two values that do not go together stop the node before anything is written, and every
  problem is named at once with its fix. `mraft config check FILE` tells the same without starting anything.
- `initial_members` and `join` matter at a node's first start only: what they say otherwise later is reported as ignored.
- A restart needs nothing but the data directory (`mraft node --data-dir DIR`). It remembers `deployment_id`, `node_id`, `raft_address`,
  `wal_dir`, `listen_address`, `http_listen`, `http_port`, and with mutual TLS or HTTPS that they are on and where their files are; each is
  overridden by being said. So mutual TLS ends only with `mutual_tls = false`. Every other setting has its default then.
- `data_dir` and `wal_dir` may not lie in one another, and `log_dir` in neither. A node does not start with another `wal_dir` than the one
  its log is in; a WAL directory that was moved is recognised.
- `native` and `raftPeers` of old documents are reported as ignored.
";

/// The default as TOML writes it.
fn toml_default(key: &Key) -> String {
    match key.kind {
        "boolean" | "whole number" | "duration" => key.default.to_owned(),
        "size" if key.default.bytes().all(|byte| byte.is_ascii_digit()) => key.default.to_owned(),
        _ => format!("{:?}", key.default),
    }
}

fn described(key: &Key) -> String {
    match (key.unit, key.choices) {
        ("", []) => key.kind.to_owned(),
        ("", choices) => choices.join(" | "),
        (unit, _) => format!("{}, {unit}", key.kind),
    }
}

fn allowed(key: &Key) -> String {
    let (min, max) = key.range.clone().into_inner();
    let unit = if key.unit.is_empty() { String::new() } else { format!(" {}", key.unit) };
    match (key.choices, min, max) {
        ([], 0, u64::MAX) => key.unit.to_owned(),
        ([], min, u64::MAX) => format!("from {min}{unit}"),
        ([], min, max) => format!("{min} to {max}{unit}"),
        (choices, _, _) => choices.join(", "),
    }
}

fn code(text: &str) -> String {
    format!("`{text}`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Inputs, load};

    #[test]
    fn the_printed_defaults_are_a_valid_file_that_changes_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("node.toml");
        std::fs::write(&file, default_toml()).expect("written");
        let empty = directory.path().join("empty.toml");
        std::fs::write(&empty, "").expect("written");
        let load = |file| {
            let mut config =
                load(&Inputs { file: Some(file), ..Inputs::default() }, |_| Ok(None)).expect("valid");
            config.sources.clear();
            config
        };
        assert_eq!(load(file), load(empty));
        for key in KEYS {
            assert!(default_toml().contains(key.name), "{}", key.name);
        }
    }

    #[test]
    fn the_manual_is_not_stale() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/operate/config.md");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::create_dir_all(std::path::Path::new(path).parent().expect("a parent")).expect("made");
            std::fs::write(path, manual()).expect("written");
        }
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(written == manual(), "docs/operate/config.md is stale: UPDATE=1 cargo test -p mraft-cli");
    }
}
