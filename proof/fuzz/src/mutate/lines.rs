// SPDX-License-Identifier: Apache-2.0

//! Changes of settings that stand one a line, `name = value`: a file's, or one of the environment.

use super::{Ingredients, bytes, json};
use crate::random::Random;

/// What may stand for a value.
const VALUES: &[&str] = &[
    "true",
    "false",
    "0",
    "1",
    "-1",
    "7",
    "60",
    "4096",
    "60000",
    "4294967296",
    "9223372036854775807",
    "281474976710655",
    "1.5",
    "1e9",
    "\"\"",
    "\"0\"",
    "\"7\"",
    "\"on\"",
    "\"-5\"",
    "\"1.5\"",
    "\"5s\"",
    "\"500ms\"",
    "\"1h\"",
    "\"2d\"",
    "\"5\u{a0}s\"",
    "\"64MiB\"",
    "\"1GiB\"",
    "\"1TB\"",
    "\"99999999999999999999GiB\"",
    "\"10.0.0.1:13890\"",
    "\"10.0.0.1\"",
    "\"[::1]:1\"",
    "\"::1\"",
    "\"localhost:0\"",
    "\"localhost:65536\"",
    "\"0.0.0.0:1\"",
    "\"a b:1\"",
    "'/d'",
    "'/d/e'",
    "\"\\u00e9\"",
    "[]",
    "{}",
];

/// The same, in forms that are rare or wrong.
const ODD_VALUES: &[&str] = &[
    "+5",
    "0x10",
    "0o7",
    "0b1",
    "1_000",
    "1__0",
    "18446744073709551615",
    "18446744073709551616",
    "9223372036854775808",
    "-9223372036854775808",
    "-0.0",
    "inf",
    "nan",
    "''",
    "\"\\u0000\"",
    "\"\\uD800\"",
    "\"\\x\"",
    "'''a'''",
    "\"\"\"a\\\n b\"\"\"",
    "2024-01-01",
    "2024-01-01T00:00:00Z",
    "00:00:01",
    "[1, 'a']",
    "[[1], {}]",
    "{ a = 1 }",
    "{ 0 = { 7 = 'a:1' } }",
    "{ 0 = { 7 = true, 7 = false } }",
    "{ 99999 = { 0 = false } }",
    "{ x = { y = 0 } }",
    "",
    "=",
    "#",
];

/// What a line may be beside a setting.
const LINES: &[&str] = &[
    "[a]",
    "[[a]]",
    "[a.b]",
    "['']",
    "[a",
    "[initial_members]",
    "[initial_members.0]",
    "[initial_members.1]",
    "[initial_members.x]",
    "[initial_members.18446744073709551616]",
    "[join.0]",
    "[join]",
    "# words",
    "a",
    "a =",
    "= 1",
    "a.b = 1",
    "'a' = 1",
    "\"a\" = 1",
    "\u{feff}",
    "\r",
    "\0",
];

/// Settings that are put in together.
const MANY: [usize; 4] = [2, 4, 16, 48];

/// A setting as a flag or of the environment: right or wrong, for a known name mostly.
pub fn made(with: &Ingredients<'_>, random: &mut Random) -> Vec<u8> {
    let name = word(with, random);
    let name = if random.one_in(2) { [b"-", name].concat() } else { variable(name) };
    [&name, &b"="[..], value(with, random).trim_ascii()].concat()
}

/// The name that a setting has in the environment.
fn variable(name: &[u8]) -> Vec<u8> {
    let name = name.to_ascii_uppercase();
    let parts: Vec<&[u8]> = name.split(|byte| *byte == b'.').collect();
    parts.join(&b"__"[..])
}

/// Makes one change. What looks like JSON is changed as that.
pub fn once(input: &mut Vec<u8>, with: &Ingredients<'_>, random: &mut Random) {
    if input.first() == Some(&b'{') && !random.one_in(8) {
        return json::once(input, with, random);
    }
    let mut lines: Vec<Vec<u8>> = split(input).map(<[u8]>::to_vec).collect();
    let others: Vec<&[u8]> = split(with.other).collect();
    let at = random.below(lines.len());
    match random.below(16) {
        0 if lines.len() > 1 => _ = lines.remove(at),
        1 => lines.insert(at, lines[at].clone()),
        2 => {
            let to = random.below(lines.len());
            lines.swap(at, to);
        }
        3 => lines.insert(at, random.pick(&others).copied().unwrap_or_default().to_vec()),
        4 => lines.insert(at, random.pick(LINES).copied().unwrap_or_default().into()),
        5 => lines.insert(at, [word(with, random), b" = ", &value(with, random)].concat()),
        6 => many(&mut lines, with, random),
        _ => setting(&mut lines[at], &others, with, random),
    }
    *input = lines.join(&b'\n');
}

fn split(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n')
}

fn word<'a>(with: &Ingredients<'a>, random: &mut Random) -> &'a [u8] {
    random.pick(with.words).copied().unwrap_or_default()
}

fn value(with: &Ingredients<'_>, random: &mut Random) -> Vec<u8> {
    match random.below(6) {
        0 => word(with, random).to_vec(),
        1 => [b"\"", word(with, random), b"\""].concat(),
        2 => random.pick(ODD_VALUES).copied().unwrap_or_default().into(),
        _ => random.pick(VALUES).copied().unwrap_or_default().into(),
    }
}

/// Puts in several settings that are not there yet, before any table begins. One value in so many is an odd one: each spoils the rest.
fn many(lines: &mut Vec<Vec<u8>>, with: &Ingredients<'_>, random: &mut Random) {
    let odd = [1, 16, 1000][random.below(3)];
    for _ in 0..MANY[random.below(MANY.len())] {
        let name = word(with, random);
        let is_name = name.len() > 2 && name.iter().all(|byte| byte.is_ascii_alphabetic() || *byte == b'_');
        if !is_name || lines.iter().any(|line| line.starts_with(name)) {
            continue;
        }
        let value = match random.below(4) {
            0 if random.one_in(odd) => value(with, random),
            0..=1 => [b"\"", word(with, random), b"\""].concat(),
            _ => random.pick(VALUES).copied().unwrap_or_default().into(),
        };
        lines.insert(0, [name, b" = ", &value].concat());
    }
}

/// Changes the name or the value of one line.
fn setting(line: &mut Vec<u8>, others: &[&[u8]], with: &Ingredients<'_>, random: &mut Random) {
    let Some(sign) = line.iter().position(|byte| *byte == b'=') else {
        return bytes::once(line, with, random);
    };
    // Of a file there is space around the sign, in the environment there is none.
    let is_spaced = line.get(sign + 1) == Some(&b' ');
    let (name, old) = (line[..sign].trim_ascii().to_vec(), line[sign + 1..].trim_ascii().to_vec());
    let (name, new) = match random.below(12) {
        0 => (word(with, random).to_vec(), old),
        1 => ([b"-", word(with, random)].concat(), old),
        2 => (variable(word(with, random)), old),
        3 => ([&name, &b"."[..], [&b"0"[..], b"7", b"0.7", b"x", b"''"][random.below(5)]].concat(), old),
        4 => {
            let other = random.pick(others).copied().unwrap_or_default();
            let behind = other.iter().position(|byte| *byte == b'=').map_or(0, |sign| sign + 1);
            (name, other[behind..].trim_ascii().to_vec())
        }
        5 if old.len() >= 2 && matches!(old[0], b'"' | b'\'') => (name, old[1..old.len() - 1].to_vec()),
        5 => (name, [b"\"", &old[..], b"\""].concat()),
        6 => (name, [b"[", &old[..], b"]"].concat()),
        7 => {
            let mut new = old;
            bytes::once(&mut new, with, random);
            (name, new)
        }
        8 => {
            let mut name = name;
            bytes::once(&mut name, with, random);
            (name, old)
        }
        _ => (name, value(with, random)),
    };
    let sign: &[u8] = if is_spaced { b" = " } else { b"=" };
    *line = [&name, sign, &new].concat();
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use mraft_fuzz::target::Shape;

    use super::*;

    #[test]
    fn what_may_be_wrong_in_a_setting_is_one_change_away() {
        let with = Ingredients {
            shape: &Shape::Lines,
            words: &[b"port", b"data_dir"],
            other: b"c = 'd'",
            constants: &[],
            bytes_max: 1000,
        };
        let mut random = Random::new(1);
        let mut seen = BTreeSet::new();
        for _ in 0..100_000 {
            let mut input = b"a = 1\nb = 'x'".to_vec();
            once(&mut input, &with, &mut random);
            seen.insert(input);
        }
        for wanted in [
            "b = 'x'",
            "a = 1\na = 1\nb = 'x'",
            "a = 1\nc = 'd'\nb = 'x'",
            "a = 1\nb = x",
            "a = [1]\nb = 'x'",
            "a = 1\nport = 'x'",
            "a.0 = 1\nb = 'x'",
            "a = \"5s\"\nb = 'x'",
            "a = \"data_dir\"\nb = 'x'",
            "[a]\na = 1\nb = 'x'",
            "port = true\na = 1\nb = 'x'",
        ] {
            assert!(seen.contains(wanted.as_bytes()), "never: {wanted}");
        }
    }
}
