// SPDX-License-Identifier: Apache-2.0

//! Requests are JSON objects. What serde derives for a struct takes a list of its fields in their order too; here that would be a second,
//! unnamed and undocumented form of every request, whose meaning changes with each new field.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Something that is read from an object and from nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Object<T>, D::Error> {
        deserializer.deserialize_map(Named(PhantomData)).map(Object)
    }
}

struct Named<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Named<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_fields_is_no_object() {
        #[derive(Debug, Deserialize, PartialEq)]
        #[serde(deny_unknown_fields)]
        struct Point {
            x: u8,
            y: u8,
        }
        let read = |json: &str| serde_json::from_str::<Object<Point>>(json);
        assert_eq!(read(r#"{"x":1,"y":2}"#).expect("an object"), Object(Point { x: 1, y: 2 }));
        assert!(serde_json::from_str::<Point>("[1,2]").is_ok(), "otherwise this file has no reason");
        for (json, why) in [
            ("[1,2]", "invalid type: sequence, expected an object at line 1 column 0"),
            ("7", "invalid type: integer `7`, expected an object at line 1 column 1"),
            (r#"{"x":1}"#, "missing field `y` at line 1 column 7"),
            (r#"{"x":1,"y":2,"z":3}"#, "unknown field `z`, expected `x` or `y` at line 1 column 16"),
        ] {
            assert_eq!(read(json).expect_err("refused").to_string(), why);
        }
    }
}
