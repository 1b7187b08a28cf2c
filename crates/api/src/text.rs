// SPDX-License-Identifier: Apache-2.0

//! Bytes in JSON: a text under the plain name when they are UTF-8, base64 under `…_base64` otherwise. Never both.

use std::fmt;

use serde::ser::SerializeStruct;

use crate::base64;

/// Why a pair of fields is not one sequence of bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadBytes(String);

impl fmt::Display for BadBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadBytes {}

/// The bytes behind `name` and `name_base64`, exactly one of which must be there.
pub fn bytes_of(name: &str, text: Option<String>, base64: Option<String>) -> Result<Vec<u8>, BadBytes> {
    optional_bytes_of(name, text, base64)?
        .ok_or_else(|| BadBytes(format!("`{name}` or `{name}_base64` is missing")))
}

/// The bytes behind `name` and `name_base64`, at most one of which may be there.
pub fn optional_bytes_of(
    name: &str,
    text: Option<String>,
    base64: Option<String>,
) -> Result<Option<Vec<u8>>, BadBytes> {
    match (text, base64) {
        (Some(_), Some(_)) => Err(BadBytes(format!("`{name}` and `{name}_base64` are both given"))),
        (Some(text), None) => Ok(Some(text.into_bytes())),
        (None, Some(text)) => match base64::decode(&text) {
            Some(bytes) => Ok(Some(bytes)),
            None => Err(BadBytes(format!("`{name}_base64` is not base64 with padding"))),
        },
        (None, None) => Ok(None),
    }
}

/// Writes the bytes as field `name` or as field `name_base64`.
pub(crate) fn put_field<S: SerializeStruct>(
    out: &mut S,
    name: &'static str,
    name_base64: &'static str,
    bytes: &[u8],
) -> Result<(), S::Error> {
    match std::str::from_utf8(bytes) {
        Ok(text) => out.serialize_field(name, text),
        Err(_) => out.serialize_field(name_base64, &base64::encode(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_both_names_is_taken() {
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(bytes_of("key", text("a"), None), Ok(b"a".to_vec()));
        assert_eq!(bytes_of("key", None, text("/w==")), Ok(vec![0xff]));
        for (plain, encoded) in [(None, None), (text("a"), text("YQ==")), (None, text("YQ"))] {
            assert!(bytes_of("key", plain, encoded).is_err());
        }
    }
}
