// SPDX-License-Identifier: Apache-2.0

//! Changes of a JSON document. What is generated for a type has a branch for each place at which a document may be wrong: a value of
//! another type, a name that is missing, twice or unknown, a list in the place of an object, an end or a sign where none may be. All of
//! these are one change away from a document that is right.

use super::{Ingredients, bytes};
use crate::random::Random;

/// What may stand for a value.
const VALUES: &[&[u8]] = &[
    b"null",
    b"true",
    b"false",
    b"0",
    b"7",
    b"-1",
    b"-0",
    b"1.5",
    b"-2.5e-3",
    b"1E5",
    b"1e400",
    b"1e-400",
    b"-9223372036854775808",
    b"-9223372036854775809",
    b"18446744073709551615",
    b"18446744073709551616",
    b"123456789012345678901234567890",
    b"123456789012345678901234567890.5",
    b"12345678901234567890.12345678901234567890e-7",
    b"1.7976931348623159e308",
    b"0.0000000000000000000000000000000001e-300",
    b"1e-330",
    b"0e99999999999",
    b"1e99999999999",
    b"1.5e-99999999999",
    b"1.0E+5",
    b"0.0",
    b"1.x",
    b"1.5ex",
    b"4294967296",
    b"65536",
    b"256",
    b"01",
    b"1.",
    b"-",
    b"1e",
    b"1e+",
    b"nul",
    b"nulL",
    b"tru",
    b"trux",
    b"fals",
    b"falsy",
    b"\"\"",
    b"\"7\"",
    b"\"x\"",
    b"\"AA\"",
    b"\"key\"",
    b"\"\\u0041\"",
    b"\"\\ud83d\\ude00\"",
    b"[]",
    b"{}",
    b"[0]",
    b"[null]",
    b"[[]]",
    b"[1,2,3]",
    b"[1,]",
    b"[1 2]",
    b"{\"a\":0}",
    b"{\"a\":null,\"a\":[]}",
    b"{\"a\":{\"b\":[{}]}}",
    b"{\"a\" 0}",
    b"{0:0}",
    b"{\"a\":0,}",
    b"{\"a\":0 \"b\":0}",
    b"[[[[[[[[[[[[[[[[",
    b"@",
];

/// What may stand between values, right or wrong.
const SIGNS: &[&[u8]] = &[
    b"{", b"}", b"[", b"]", b":", b",", b"null", b"0", b"\"\"", b"\"a\":", b"\"", b"-", b"x", b"\\", b"\x00",
    b"\xff", b" ", b"\n", b"\t", b"\r",
];

/// What may stand within a text, right or wrong.
const INSIDE: &[&[u8]] = &[
    b"\\n",
    b"\\\"",
    b"\\\\",
    b"\\/",
    b"\\b\\f\\r\\t",
    b"\\u0041",
    b"\\u0000",
    b"\\ud83d\\ude00",
    b"\\ud83d",
    b"\\ude00",
    b"\\ud83d\\u0041",
    b"\\ud83dx",
    b"\\u00",
    b"\\u00zz",
    b"\\x",
    b"\\",
    b"\n",
    b"\x00",
    b"\x1f",
    b"\x7f",
    b"\xff",
    b"\xc3\xa9",
    b"\xe2\x82\xac",
    b"\xf0\x9f\x98\x80",
    b"\xc3",
    b"a",
    b"0",
    b"1234567890123456789012345678901234567890",
];

/// How deep lists are put into one another: the parser takes 128.
const DEEP: usize = 130;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Open,
    Close,
    Comma,
    Colon,
    Text,
    /// Numbers, words, and what is nothing.
    Plain,
}

/// A piece of a document, space aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Token {
    kind: Kind,
    start: usize,
    end: usize,
}

/// Makes one change. What is no document is bytes; what is before it stays.
pub fn once(input: &mut Vec<u8>, with: &Ingredients<'_>, random: &mut Random) {
    let begin = input.iter().position(|byte| matches!(byte, b'{' | b'[' | b'"'));
    let Some(begin) = begin else { return bytes::once(input, with, random) };
    let mut document = input.split_off(begin);
    let tokens = tokens(&document);
    match random.below(13) {
        0..=2 => signs(&mut document, &tokens, random),
        3 => spaces(&mut document, &tokens, random),
        4..=6 => value(&mut document, &tokens, with, random),
        7 => text(&mut document, &tokens, random),
        8 if random.one_in(4) => escape_names(&mut document, &tokens),
        8 => name(&mut document, &tokens, with, random),
        _ => parts(&mut document, &tokens, with, random),
    }
    input.append(&mut document);
}

fn tokens(document: &[u8]) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(byte) = document.get(at) {
        let start = at;
        at += 1;
        let kind = match byte {
            b' ' | b'\n' | b'\r' | b'\t' => continue,
            b'{' | b'[' => Kind::Open,
            b'}' | b']' => Kind::Close,
            b',' => Kind::Comma,
            b':' => Kind::Colon,
            b'"' => {
                while let Some(byte) = document.get(at) {
                    at += if *byte == b'\\' { 2 } else { 1 };
                    if *byte == b'"' {
                        break;
                    }
                }
                at = at.min(document.len());
                Kind::Text
            }
            _ => {
                while document.get(at).is_some_and(|byte| {
                    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.' | b'_')
                }) {
                    at += 1;
                }
                Kind::Plain
            }
        };
        tokens.push(Token { kind, start, end: at });
    }
    tokens
}

/// The last token of the value that begins with this one.
fn end_of(tokens: &[Token], first: usize) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(first) {
        match token.kind {
            Kind::Open => depth += 1,
            Kind::Close => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    tokens.len() - 1
}

fn is_name(tokens: &[Token], at: usize) -> bool {
    tokens[at].kind == Kind::Text && tokens.get(at + 1).is_some_and(|next| next.kind == Kind::Colon)
}

/// Where each value begins and ends.
fn values(tokens: &[Token]) -> Vec<(usize, usize)> {
    let begins = |at: &usize| match tokens[*at].kind {
        Kind::Open | Kind::Plain => true,
        Kind::Text => !is_name(tokens, *at),
        _ => false,
    };
    let span = |at: usize| (tokens[at].start, tokens[end_of(tokens, at)].end);
    (0..tokens.len()).filter(begins).map(span).collect()
}

/// What is between the signs of a list or an object: from where to where, and where the value begins.
fn parts_of(tokens: &[Token], open: usize) -> Vec<(usize, usize, usize)> {
    let mut parts = Vec::new();
    let mut at = open + 1;
    while at < tokens.len() && tokens[at].kind != Kind::Close {
        if tokens[at].kind == Kind::Comma {
            at += 1;
            continue;
        }
        let value = if is_name(tokens, at) { (at + 2).min(tokens.len() - 1) } else { at };
        let last =
            if matches!(tokens[value].kind, Kind::Close | Kind::Comma) { at } else { end_of(tokens, value) };
        parts.push((tokens[at].start, tokens[last].end, tokens[value].start.min(tokens[last].end)));
        at = last + 1;
    }
    parts
}

/// Changes a sign: where something ends, what is between values, where space is.
fn signs(document: &mut Vec<u8>, tokens: &[Token], random: &mut Random) {
    let Some(token) = random.pick(tokens).copied() else { return };
    let Token { start, end, .. } = token;
    let sign = random.pick(SIGNS).copied().unwrap_or_default();
    match random.below(8) {
        0 => _ = document.drain(start..end),
        1 => {
            let copy = document[start..end].to_vec();
            document.splice(start..start, copy);
        }
        2 => _ = document.splice(start..start, sign.iter().copied()),
        3 => _ = document.splice(start..end, sign.iter().copied()),
        4 => document.truncate(if random.one_in(2) { start } else { end }),
        5 => document.truncate(start + random.below(end - start)),
        6 => {
            let space = [b' ', b'\n', b'\t', b'\r'][random.below(4)];
            document.insert(if random.one_in(2) { start } else { end }, space);
        }
        _ => {
            let Some(other) = random.pick(tokens).copied() else { return };
            let copy = document[other.start..other.end].to_vec();
            document.splice(start..end, copy);
        }
    }
}

/// Puts every kind of space between things, everywhere or at some places. At the end there is something else behind it now and then.
fn spaces(document: &mut Vec<u8>, tokens: &[Token], random: &mut Random) {
    let places = [1, 4, 16][random.below(3)];
    let mut spaced = Vec::with_capacity(document.len() * 2);
    let mut from = 0;
    for token in tokens {
        spaced.extend_from_slice(&document[from..token.start]);
        if random.one_in(places) {
            space(&mut spaced, random);
        }
        spaced.extend_from_slice(&document[token.start..token.end]);
        from = token.end;
    }
    if random.one_in(2) {
        space(&mut spaced, random);
        if random.one_in(4) {
            spaced.extend_from_slice(random.pick(SIGNS).copied().unwrap_or_default());
        }
    }
    *document = spaced;
}

/// All four kinds in a row, or one of them.
fn space(to: &mut Vec<u8>, random: &mut Random) {
    let at = random.below(4);
    let all = b" \n\t\r \n\t\r";
    to.extend_from_slice(&all[at..at + [1, 4][random.below(2)]]);
}

/// Writes the first letter of each name with an escape: whoever reads it cannot point at the bytes any more.
fn escape_names(document: &mut Vec<u8>, tokens: &[Token]) {
    for at in (0..tokens.len()).rev().filter(|at| is_name(tokens, *at)) {
        let first = tokens[at].start + 1;
        if let Some(letter @ (b'a'..=b'z' | b'_')) = document.get(first).copied() {
            document.splice(first..=first, format!("\\u{letter:04x}").into_bytes());
        }
    }
}

/// Puts something else in the place of a value, or the value into something.
fn value(document: &mut Vec<u8>, tokens: &[Token], with: &Ingredients<'_>, random: &mut Random) {
    let all = values(tokens);
    let Some((start, end)) = random.pick(&all).copied() else { return };
    let new = match random.below(10) {
        0..=5 => random.pick(VALUES).copied().unwrap_or_default().to_vec(),
        6 => {
            let (start, end) = random.pick(&all).copied().unwrap_or_default();
            document[start..end].to_vec()
        }
        7 => {
            let tokens = self::tokens(with.other);
            let (start, end) = random.pick(&values(&tokens)).copied().unwrap_or_default();
            with.other[start..end].to_vec()
        }
        8 if random.one_in(32) => [&b"["[..]; DEEP].concat(),
        8 => [b"[", &document[start..end], b"]"].concat(),
        _ => [b"{\"a\":", &document[start..end], b"}"].concat(),
    };
    document.splice(start..end, new);
}

/// Puts something into a text, or writes it with an escape.
fn text(document: &mut Vec<u8>, tokens: &[Token], random: &mut Random) {
    let texts: Vec<Token> = tokens
        .iter()
        .filter(|token| token.kind == Kind::Text && token.end > token.start + 1)
        .copied()
        .collect();
    let Some(Token { start, end, .. }) = random.pick(&texts).copied() else { return };
    let at = start + 1 + random.below(end - start - 1);
    match (document.get(at).copied(), random.below(3)) {
        (Some(letter @ b' '..=b'~'), 0) if !matches!(letter, b'"' | b'\\') => {
            document.splice(at..=at, format!("\\u{letter:04x}").into_bytes());
        }
        (_, 1) => _ = document.drain(at..end.max(at + 1) - 1),
        _ => {
            let inside = random.pick(INSIDE).copied().unwrap_or_default();
            document.splice(at..at, inside.iter().copied());
        }
    }
}

/// Gives a value another name, a known one mostly.
fn name(document: &mut Vec<u8>, tokens: &[Token], with: &Ingredients<'_>, random: &mut Random) {
    let names: Vec<usize> = (0..tokens.len()).filter(|at| is_name(tokens, *at)).collect();
    let Some(at) = random.pick(&names).copied() else { return };
    let Token { start, end, .. } = tokens[at];
    let new = if random.one_in(3) {
        let other = tokens[random.pick(&names).copied().unwrap_or_default()];
        document[other.start..other.end].to_vec()
    } else {
        name_of(with, random)
    };
    document.splice(start..end, new);
}

/// A name among the words, with its quotes.
fn name_of(with: &Ingredients<'_>, random: &mut Random) -> Vec<u8> {
    let names: Vec<&[u8]> = with.words.iter().filter_map(|word| word.strip_suffix(b":")).collect();
    random.pick(&names).map_or_else(|| b"\"a\"".to_vec(), |name| name.to_vec())
}

/// Changes which parts a list or an object has.
fn parts(document: &mut Vec<u8>, tokens: &[Token], with: &Ingredients<'_>, random: &mut Random) {
    let opens: Vec<usize> = (0..tokens.len()).filter(|at| tokens[*at].kind == Kind::Open).collect();
    let Some(open) = random.pick(&opens).copied() else { return value(document, tokens, with, random) };
    let (start, end) = (tokens[open].start, tokens[end_of(tokens, open)].end);
    let spans = parts_of(tokens, open);
    let mut parts: Vec<Vec<u8>> = spans.iter().map(|(from, to, _)| document[*from..*to].to_vec()).collect();
    let mut is_object = document[start] == b'{';
    let at = random.below(parts.len());
    match random.below(9) {
        0..=1 if !parts.is_empty() => _ = parts.remove(at),
        2 if !parts.is_empty() => parts.insert(at, parts[at].clone()),
        3 if !parts.is_empty() => {
            let to = random.below(parts.len());
            parts.swap(at, to);
        }
        4 => parts.truncate(at),
        // Whoever reads an object takes a list of its values as well.
        5..=6 if is_object => {
            is_object = false;
            parts = spans.iter().map(|(_, to, value)| document[*value..*to].to_vec()).collect();
            if random.one_in(2) {
                parts.truncate(random.below(parts.len() + 1));
            }
        }
        7 => {
            let new = random.pick(VALUES).copied().unwrap_or_default();
            let new =
                if is_object { [&name_of(with, random), &b":"[..], new].concat() } else { new.to_vec() };
            parts.insert(at, new);
        }
        _ => {
            let tokens = self::tokens(with.other);
            let opens: Vec<usize> = (0..tokens.len()).filter(|at| tokens[*at].kind == Kind::Open).collect();
            let Some(open) = random.pick(&opens) else { return };
            let others = parts_of(&tokens, *open);
            let Some((from, to, _)) = random.pick(&others) else { return };
            parts.insert(at, with.other[*from..*to].to_vec());
        }
    }
    let (open, close) = if is_object { (b"{", b"}") } else { (b"[", b"]") };
    let new = [&open[..], &parts.join(&b','), close].concat();
    document.splice(start..end, new);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use mraft_fuzz::target::Shape;

    use super::*;

    #[test]
    fn a_document_is_taken_apart() {
        let document = br#"{"a": [1, "x\"y"], "b":null}"#;
        let tokens = tokens(document);
        let text = |(start, end): (usize, usize)| std::str::from_utf8(&document[start..end]).unwrap_or("?");
        let values: Vec<&str> = values(&tokens).into_iter().map(text).collect();
        assert_eq!(values, [r#"{"a": [1, "x\"y"], "b":null}"#, r#"[1, "x\"y"]"#, "1", r#""x\"y""#, "null"]);
        let parts: Vec<(&str, &str)> = parts_of(&tokens, 0)
            .into_iter()
            .map(|(from, to, value)| (text((from, to)), text((value, to))))
            .collect();
        assert_eq!(parts, [(r#""a": [1, "x\"y"]"#, r#"[1, "x\"y"]"#), (r#""b":null"#, "null")]);
    }

    #[test]
    fn what_may_be_wrong_in_a_document_is_one_change_away() {
        let with = Ingredients {
            shape: &Shape::Json,
            words: &[b"\"node\":", b"something"],
            other: br#"{"c":9}"#,
            constants: &[],
            bytes_max: 1000,
        };
        let mut random = Random::new(1);
        let mut seen = BTreeSet::new();
        for _ in 0..400_000 {
            let mut input = b"\x04{\"a\":1,\"b\":\"x\"}".to_vec();
            once(&mut input, &with, &mut random);
            assert_eq!(input[0], 4, "what is before the document was changed");
            seen.insert(input[1..].to_vec());
        }
        for wanted in [
            r#"{"b":"x"}"#,
            r#"{"a":1,"a":1,"b":"x"}"#,
            r#"{"a":null,"b":"x"}"#,
            r#"{"a":1,"b":{}}"#,
            r#"{"node":1,"b":"x"}"#,
            r#"{"a":1,"c":9,"b":"x"}"#,
            r#"[1,"x"]"#,
            r#"[1]"#,
            r#"{"a":1,"b""x"}"#,
            r#"{"a":1,"b":"x","#,
            r#"{"a":1,"b":"x"} "#,
            r#"{"a":1,"b":"\u0078"}"#,
            r#"{"\u0061":1,"b":"x"}"#,
            r#"{"\u0061":1,"\u0062":"x"}"#,
            "{\"a\":1,\"b\":\"x\"} \n\t\r",
            "\n{\"a\":1,\"b\":\"x\"}",
            r#"{"a":1"#,
            r#""#,
        ] {
            assert!(seen.contains(wanted.as_bytes()), "never: {wanted}");
        }
    }
}
