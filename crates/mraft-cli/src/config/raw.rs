// SPDX-License-Identifier: Apache-2.0

//! What a file, the environment or a flag says before anybody has judged it.
//!
//! One shape for JSON and TOML, so that everything behind it is written once. Unlike the usual generic values it refuses a
//! key that is given twice in one table: which of the two was meant is not ours to guess.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// One unjudged value.
#[derive(Clone, Debug, PartialEq)]
pub enum Raw {
    /// JSON's null.
    Null,
    /// true or false.
    Boolean(bool),
    /// A whole number: every u64 and i64 fits.
    Integer(i128),
    /// A number with a fraction or beyond 64 bits.
    Float(f64),
    /// A string; also everything that comes from the environment or a flag.
    Text(String),
    /// A list.
    List(Vec<Raw>),
    /// A table or object, in the order of the document.
    Table(Vec<(String, Raw)>),
}

impl Raw {
    /// What a message calls this kind of value.
    pub fn kind(&self) -> &'static str {
        match self {
            Raw::Null => "null",
            Raw::Boolean(_) => "a boolean",
            Raw::Integer(_) => "a whole number",
            Raw::Float(_) => "a fraction",
            Raw::Text(_) => "a string",
            Raw::List(_) => "a list",
            Raw::Table(_) => "a table",
        }
    }
}

impl fmt::Display for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Raw::Null => f.write_str("null"),
            Raw::Boolean(value) => write!(f, "{value}"),
            Raw::Integer(value) => write!(f, "{value}"),
            Raw::Float(value) => write!(f, "{value:?}"),
            Raw::Text(value) => write!(f, "{value:?}"),
            Raw::List(_) | Raw::Table(_) => f.write_str(self.kind()),
        }
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Raw, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Boolean(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Integer(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Integer(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Raw::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Raw, A::Error> {
        let mut seen = std::collections::BTreeSet::new();
        let mut table = Vec::new();
        while let Some((key, value)) = entries.next_entry::<String, Raw>()? {
            if !seen.insert(key.clone()) {
                return Err(A::Error::custom(format!("`{key}` is given twice")));
            }
            table.push((key, value));
        }
        Ok(Raw::Table(table))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_and_toml_become_the_same_values() {
        let from_json: Raw = serde_json::from_str(r#"{"a":{"0":true,"1":"x"},"b":7}"#).expect("json");
        let from_toml: Raw = toml::from_str("a.0 = true\na.1 = 'x'\nb = 7").expect("toml");
        assert_eq!(from_json, from_toml);
    }

    #[test]
    fn a_key_given_twice_is_refused() {
        let error = serde_json::from_str::<Raw>(r#"{"ip":"a","ip":"b"}"#).expect_err("twice");
        assert!(error.to_string().contains("`ip` is given twice"), "{error}");
        assert!(toml::from_str::<Raw>("ip = 'a'\nip = 'b'").is_err());
    }

    #[test]
    fn every_u64_survives() {
        let value: Raw = serde_json::from_str("18446744073709551615").expect("a number");
        assert_eq!(value, Raw::Integer(i128::from(u64::MAX)));
    }
}
