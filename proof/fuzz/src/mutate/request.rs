// SPDX-License-Identifier: Apache-2.0

//! Changes of HTTP requests: method, segments of the path, parameters, fields of the head, body, several in a row.

use super::{Ingredients, bytes, json};
use crate::random::Random;

const METHODS: &[&[u8]] =
    &[b"GET", b"HEAD", b"PUT", b"POST", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE", b"CONNECT", b"get", b"X"];

const VERSIONS: &[&[u8]] = &[b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/0.9", b"HTTP/1.12", b"", b"x"];

/// What may stand for a segment of a path or for a parameter's value.
const VALUES: &[&[u8]] = &[
    b"",
    b"0",
    b"1",
    b"7",
    b"8",
    b"8#1",
    b"8%231",
    b"10.0.0.8:13890",
    b"-1",
    b"+1",
    b"01",
    b"1000",
    b"65535",
    b"65536",
    b"4294967296",
    b"18446744073709551615",
    b"18446744073709551616",
    b"true",
    b"false",
    b"TRUE",
    b"yes",
    b"stale",
    b"linearizable",
    b"lease",
    b"k",
    b"ka",
    b"kb",
    b"nothing",
    b"{t}a",
    b"%7Bt%7Da",
    b"%6b",
    b"%6B%2F",
    b"%2F",
    b"%2f%2F",
    b"%00",
    b"%ff",
    b"%FFk",
    b"%",
    b"%4",
    b"%zz",
    b"a+b",
    b"aw==",
    b"aw%3D%3D",
    b"a2I",
    b"_-8",
    b"/+8=",
    b"=",
    b"..",
    b".",
    b"*",
    b"\xc3\xa9",
    b"\xff",
];

/// Whole fields of the head.
const FIELDS: &[&[u8]] = &[
    b"host: x",
    b"host:",
    b"if-match: *",
    b"if-match: \"7\"",
    b"if-match: \"6\"",
    b"if-match: W/\"7\"",
    b"if-match: \"7\", \"8\"",
    b"if-match: \"07\"",
    b"if-match: \"x\"",
    b"if-match: 7",
    b"if-match: ,",
    b"if-match: \"",
    b"if-match: \"18446744073709551616\"",
    b"if-match: \xff",
    b"if-none-match: *",
    b"if-none-match: \"7\"",
    b"if-none-match: W/\"7\", \"8\"",
    b"if-none-match: \"x\"",
    b"content-type: application/json",
    b"content-type: text/plain",
    b"content-type: application/x-www-form-urlencoded",
    b"accept: application/json",
    b"accept: text/event-stream",
    b"accept-encoding: gzip",
    b"content-encoding: gzip",
    b"content-length: 0",
    b"content-length: 3",
    b"content-length: 257",
    b"content-length: 99999999",
    b"content-length: -1",
    b"content-length: 18446744073709551616",
    b"content-length: 1, 1",
    b"transfer-encoding: chunked",
    b"transfer-encoding: gzip, chunked",
    b"transfer-encoding: gzip",
    b"transfer-encoding: identity",
    b"expect: 100-continue",
    b"expect: x",
    b"connection: close",
    b"connection: keep-alive",
    b"connection: upgrade",
    b"upgrade: h2c",
    b"range: bytes=0-1",
    b"origin: http://x",
    b"authorization: Bearer x",
    b"x-request-id: 1",
    b" folded",
    b"no colon",
    b": no name",
    b"a b: c",
    b"a: \x00",
];

/// Makes one change to a request.
pub fn once(input: &mut Vec<u8>, with: &Ingredients<'_>, random: &mut Random) {
    let Some(end) = end_of_head(input) else { return bytes::once(input, with, random) };
    let body = input.split_off(end + 4);
    input.truncate(end);
    let mut lines: Vec<Vec<u8>> = split(input, b"\r\n").into_iter().map(<[u8]>::to_vec).collect();
    let mut body = body;
    match random.below(16) {
        0..=7 => target(&mut lines[0], with, random),
        8..=11 => field(&mut lines, with, random),
        12..=14 => content(&mut lines, &mut body, with, random),
        _ => {
            // Another request behind this one, or what is left of it.
            let from = if random.one_in(2) { 0 } else { random.below(with.other.len()) };
            body.extend_from_slice(with.other.get(from..).unwrap_or_default());
        }
    }
    *input = [&lines.join(&b"\r\n"[..]), &b"\r\n\r\n"[..], &body].concat();
}

fn end_of_head(request: &[u8]) -> Option<usize> {
    request.windows(4).position(|window| window == b"\r\n\r\n")
}

fn split<'a>(mut text: &'a [u8], by: &[u8]) -> Vec<&'a [u8]> {
    let mut parts = Vec::new();
    while let Some(at) = text.windows(by.len()).position(|window| window == by) {
        parts.push(&text[..at]);
        text = &text[at + by.len()..];
    }
    parts.push(text);
    parts
}

/// Changes the first line.
fn target(line: &mut Vec<u8>, with: &Ingredients<'_>, random: &mut Random) {
    let parts = split(line, b" ");
    let [method, middle @ .., version] = &parts[..] else { return bytes::once(line, with, random) };
    let target = middle.join(&b' ');
    let (path, query) = match target.iter().position(|byte| *byte == b'?') {
        Some(at) => (&target[..at], Some(&target[at + 1..])),
        None => (&target[..], None),
    };
    let (mut method, mut version) = (method.to_vec(), version.to_vec());
    let mut segments: Vec<Vec<u8>> = split(path, b"/").into_iter().map(<[u8]>::to_vec).collect();
    let parameters = query.map(|query| split(query, b"&")).unwrap_or_default();
    let mut parameters: Vec<Vec<u8>> = parameters.into_iter().map(<[u8]>::to_vec).collect();
    match random.below(12) {
        0 => method = random.pick(METHODS).copied().unwrap_or_default().to_vec(),
        1 if random.one_in(4) => version = random.pick(VERSIONS).copied().unwrap_or_default().to_vec(),
        1..=2 => {
            let paths: Vec<&[u8]> =
                with.words.iter().copied().filter(|word| word.starts_with(b"/")).collect();
            let path = random.pick(&paths).copied().unwrap_or(b"/");
            segments = split(path, b"/").into_iter().map(<[u8]>::to_vec).collect();
        }
        3..=5 => list(&mut segments, with, random, |random, _| value(random)),
        6 if random.one_in(4) => {
            let at = random.below(segments.len());
            segments[at] = vec![b'k'; [256, 257, 300, 1000][random.below(4)]];
        }
        _ => list(&mut parameters, with, random, |random, old| {
            let name = match old.iter().position(|byte| *byte == b'=') {
                Some(at) if !random.one_in(3) => old[..at].to_vec(),
                _ => parameter(with, random),
            };
            if random.one_in(12) { name } else { [&name, &b"="[..], &value(random)].concat() }
        }),
    }
    let mut target = segments.join(&b'/');
    if !parameters.is_empty() || (query.is_some() && random.one_in(4)) {
        target.push(b'?');
        target.extend_from_slice(&parameters.join(&b'&'));
    }
    *line = [method, target, version].join(&b' ');
}

fn value(random: &mut Random) -> Vec<u8> {
    random.pick(VALUES).copied().unwrap_or_default().to_vec()
}

/// A parameter's name among the words.
fn parameter(with: &Ingredients<'_>, random: &mut Random) -> Vec<u8> {
    let names: Vec<&[u8]> = with
        .words
        .iter()
        .filter_map(|word| word.strip_prefix(b"?").or(word.strip_prefix(b"&")))
        .filter_map(|word| word.split(|byte| *byte == b'=').next())
        .collect();
    random.pick(&names).map_or_else(Vec::new, |name| name.to_vec())
}

/// Changes one of several parts, or which there are.
fn list(
    parts: &mut Vec<Vec<u8>>,
    with: &Ingredients<'_>,
    random: &mut Random,
    new: impl Fn(&mut Random, &[u8]) -> Vec<u8>,
) {
    let at = random.below(parts.len());
    let old = parts.get(at).cloned().unwrap_or_default();
    match random.below(8) {
        0 if !parts.is_empty() => _ = parts.remove(at),
        1 => parts.insert(at, old),
        2 if !parts.is_empty() => bytes::once(&mut parts[at], with, random),
        3..=5 if !parts.is_empty() => parts[at] = new(random, &old),
        _ => parts.insert(random.below(parts.len() + 1), new(random, &[])),
    }
}

/// Changes the fields of the head.
fn field(lines: &mut Vec<Vec<u8>>, with: &Ingredients<'_>, random: &mut Random) {
    let new = random.pick(FIELDS).copied().unwrap_or_default().to_vec();
    let at = 1 + random.below(lines.len());
    if at >= lines.len() {
        return lines.push(new);
    }
    match random.below(6) {
        0 => _ = lines.remove(at),
        1 => lines.insert(at, lines[at].clone()),
        2 => bytes::once(&mut lines[at], with, random),
        3 => lines[at] = new,
        4 => {
            let name = split(&lines[at], b":").first().map_or_else(Vec::new, |name| name.to_vec());
            let value = split(&new, b": ").last().map_or_else(Vec::new, |value| value.to_vec());
            lines[at] = [name, value].join(&b": "[..]);
        }
        _ => lines.insert(at, new),
    }
}

/// Changes the body, or how its length is told.
fn content(lines: &mut Vec<Vec<u8>>, body: &mut Vec<u8>, with: &Ingredients<'_>, random: &mut Random) {
    match random.below(8) {
        0 => bytes::once(body, with, random),
        1 => *body = vec![b'v'; [255, 256, 257, 600][random.below(4)]],
        2 => {
            // The last chunk may be missing, and a length may be wrong.
            let mut chunked = Vec::new();
            let size = 1 + random.below(16);
            for chunk in body.chunks(size) {
                let len = if random.one_in(16) { random.below(40) } else { chunk.len() };
                chunked.extend_from_slice(format!("{len:x}").as_bytes());
                chunked.extend_from_slice(if random.one_in(8) { b";a=b\r\n" } else { b"\r\n" });
                chunked.extend_from_slice(chunk);
                chunked.extend_from_slice(b"\r\n");
            }
            let ends: [&[u8]; 4] = [b"0\r\n\r\n", b"0\r\na: b\r\n\r\n", b"0\r\n", b""];
            chunked.extend_from_slice(ends[random.below(4)]);
            *body = chunked;
            lines.push(b"transfer-encoding: chunked".to_vec());
        }
        3 => {
            let theirs = end_of_head(with.other).map_or(&[][..], |end| &with.other[end + 4..]);
            *body = theirs.to_vec();
        }
        _ => {
            let theirs = end_of_head(with.other).map_or(&[][..], |end| &with.other[end + 4..]);
            json::once(body, &Ingredients { other: theirs, ..*with }, random);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use mraft_fuzz::target::Shape;

    use super::*;

    #[test]
    fn what_may_be_wrong_in_a_request_is_one_change_away() {
        let with = Ingredients {
            shape: &Shape::Request,
            words: &[b"/v1/scan", b"?prefix=", b"&limit="],
            other: b"PUT / HTTP/1.1\r\n\r\nvalue",
            constants: &[],
            bytes_max: 1000,
        };
        let mut random = Random::new(1);
        let mut seen = BTreeSet::new();
        for _ in 0..200_000 {
            let mut input = b"GET /a/b?c=1 HTTP/1.1\r\nhost: x\r\n\r\n{\"d\":1}".to_vec();
            once(&mut input, &with, &mut random);
            seen.insert(input);
        }
        for wanted in [
            "DELETE /a/b?c=1 HTTP/1.1\r\nhost: x\r\n\r\n{\"d\":1}",
            "GET /v1/scan?c=1 HTTP/1.1\r\nhost: x\r\n\r\n{\"d\":1}",
            "GET /a/b HTTP/1.1\r\nhost: x\r\n\r\n{\"d\":1}",
            "GET /a/b?c=true HTTP/1.1\r\nhost: x\r\n\r\n{\"d\":1}",
            "GET /a/b?c=1&limit=8 HTTP/1.1\r\nhost: x\r\n\r\n{\"d\":1}",
            "GET /a/%ff?c=1 HTTP/1.1\r\nhost: x\r\n\r\n{\"d\":1}",
            "GET /a/b?c=1 HTTP/1.1\r\n\r\n{\"d\":1}",
            "GET /a/b?c=1 HTTP/1.1\r\nhost: x\r\nif-match: *\r\n\r\n{\"d\":1}",
            "GET /a/b?c=1 HTTP/1.1\r\nhost: x\r\n\r\n[1]",
            "GET /a/b?c=1 HTTP/1.1\r\nhost: x\r\n\r\nvalue",
            "GET /a/b?c=1 HTTP/1.1\r\nhost: x\r\n\r\n{\"d\":1}PUT / HTTP/1.1\r\n\r\nvalue",
        ] {
            // Fields of a head are in bytes, most of them text.
            assert!(seen.contains(wanted.as_bytes()), "never: {wanted}");
        }
    }
}
