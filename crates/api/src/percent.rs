// SPDX-License-Identifier: Apache-2.0

//! Percent-encoding of arbitrary bytes (RFC 3986 §2.1): keys in paths, keys and values in queries.
//!
//! A key in a path is everything after the route, decoded once and never normalised: `%2F` and `/` are the same byte, `%00` is a
//! byte like any other, `+` is a plus. In a query `+` is a blank, since that is what every form and URL library writes.

use std::borrow::Cow;
use std::fmt;

/// A `%` that two hexadecimal digits do not follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadEscape {
    /// Where the `%` stands, in bytes.
    pub at: usize,
}

impl fmt::Display for BadEscape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the `%` at byte {} is not followed by two hexadecimal digits", self.at)
    }
}

impl std::error::Error for BadEscape {}

/// Decodes a part of a path.
pub fn decode_path(raw: &str) -> Result<Cow<'_, [u8]>, BadEscape> {
    decode(raw, false)
}

/// Decodes a name or a value of a query, where `+` is a blank.
pub fn decode_query(raw: &str) -> Result<Cow<'_, [u8]>, BadEscape> {
    decode(raw, true)
}

/// Appends these bytes so that both decoders give them back: everything but RFC 3986's unreserved characters is escaped.
pub fn encode(bytes: &[u8], out: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(*byte));
        } else {
            out.push('%');
            out.push(char::from(DIGITS[usize::from(byte >> 4)]));
            out.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
    }
}

fn decode(raw: &str, plus_is_blank: bool) -> Result<Cow<'_, [u8]>, BadEscape> {
    let bytes = raw.as_bytes();
    if !bytes.iter().any(|byte| *byte == b'%' || (plus_is_blank && *byte == b'+')) {
        return Ok(Cow::Borrowed(bytes));
    }
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'%' => {
                let digit = |offset: usize| bytes.get(at + offset).and_then(|byte| hexadecimal(*byte));
                match (digit(1), digit(2)) {
                    (Some(high), Some(low)) => decoded.push(high << 4 | low),
                    _ => return Err(BadEscape { at }),
                }
                at += 3;
            }
            b'+' if plus_is_blank => {
                decoded.push(b' ');
                at += 1;
            }
            other => {
                decoded.push(*other);
                at += 1;
            }
        }
    }
    Ok(Cow::Owned(decoded))
}

fn hexadecimal(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_survives_a_path_and_a_query() {
        let all: Vec<u8> = (0..=255).collect();
        let mut text = String::new();
        encode(&all, &mut text);
        assert_eq!(decode_path(&text).as_deref(), Ok(&all[..]));
        assert_eq!(decode_query(&text).as_deref(), Ok(&all[..]));
    }

    #[test]
    fn plus_is_a_plus_in_a_path_and_a_blank_in_a_query() {
        assert_eq!(decode_path("a+b%2Bc").as_deref(), Ok(&b"a+b+c"[..]));
        assert_eq!(decode_query("a+b%2Bc").as_deref(), Ok(&b"a b+c"[..]));
    }

    #[test]
    fn slashes_dots_and_nul_are_bytes_like_any_other() {
        assert_eq!(decode_path("..//a%2f%00%2e").as_deref(), Ok(&b"..//a/\0."[..]));
    }

    #[test]
    fn a_broken_escape_says_where_it_is() {
        for (text, at) in [("%", 0), ("a%", 1), ("a%4", 1), ("%zz", 0), ("%4g", 0), ("%%41", 0), ("%+1", 0)] {
            assert_eq!(decode_path(text), Err(BadEscape { at }), "{text}");
        }
    }
}
