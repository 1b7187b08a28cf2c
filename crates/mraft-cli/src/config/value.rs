// SPDX-License-Identifier: Apache-2.0

//! The types that a setting may have, and how each is read.
//!
//! A file is strict: a string is no number. The environment and flags know only strings, so there numbers and booleans
//! are read from text. Sizes and durations may be written with a unit everywhere but in the seed's JSON.

use std::fmt;
use std::path::PathBuf;

use mraft_types::NodeId;

use super::address::{Host, HostPort};
use super::keys::Key;
use super::layers::Layers;
use super::raw::Raw;
use super::source::{Given, Problem, Setting, Source};

/// A type that a setting may have.
pub trait Value: Sized {
    /// What documentation calls the type.
    const KIND: &'static str;

    /// The value, or what it must be.
    fn parse(raw: &Raw, strict: Strictness, key: &Key) -> Result<Self, String>;

    /// As it would be written.
    fn show(&self) -> String;

    /// What a key without any default is when nobody said anything. `None` for types that need a default.
    fn absent() -> Option<Self> {
        None
    }

    /// The setting that the layers hold for this key; a problem if it cannot be read.
    fn take(key: &'static Key, layers: &Layers, problems: &mut Vec<Problem>) -> Option<Setting<Self>> {
        let default = Raw::Text(key.default.to_owned());
        let (raw, source) = match layers.scalar(key) {
            Some((raw, source)) => (raw, source.clone()),
            None if key.default.is_empty() => {
                return Self::absent().map(|value| Setting { value, source: Source::Default });
            }
            None => (&default, Source::Default),
        };
        match Self::parse(raw, Strictness::of(&source), key) {
            Ok(value) => Some(Setting { value, source }),
            Err(expected) => {
                let given = Given { field: key.name.to_owned(), value: raw.to_string(), source };
                problems.push(Problem::Value { given, expected });
                None
            }
        }
    }
}

/// Whether numbers and booleans may come as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// A file: types are what they are.
    Strict,
    /// The environment, a flag, a default: everything is text.
    Text,
}

impl Strictness {
    /// How what came from there is read.
    pub fn of(source: &Source) -> Strictness {
        if let Source::File(_) = source { Strictness::Strict } else { Strictness::Text }
    }
}

impl<T: Value> Setting<T> {
    /// This setting as one side of a conflict.
    pub fn given(&self, field: &str) -> Given {
        Given { field: field.to_owned(), value: self.value.show(), source: self.source.clone() }
    }
}

impl Value for bool {
    const KIND: &'static str = "boolean";

    fn parse(raw: &Raw, strict: Strictness, _: &Key) -> Result<bool, String> {
        match (raw, strict) {
            (Raw::Boolean(value), _) => Ok(*value),
            (Raw::Text(text), Strictness::Text) if text == "true" => Ok(true),
            (Raw::Text(text), Strictness::Text) if text == "false" => Ok(false),
            _ => Err("true or false".to_owned()),
        }
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for u64 {
    const KIND: &'static str = "whole number";

    fn parse(raw: &Raw, strict: Strictness, key: &Key) -> Result<u64, String> {
        let number = match raw {
            Raw::Integer(number) => u64::try_from(*number).ok(),
            Raw::Text(text) if strict == Strictness::Text => decimal(text),
            _ => None,
        };
        number.filter(|number| key.range.contains(number)).ok_or_else(|| {
            let (min, max) = key.range.clone().into_inner();
            match max {
                u64::MAX => format!("a whole number of at least {min}"),
                _ => format!("a whole number from {min} to {max}"),
            }
        })
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

/// A port other than 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port(pub u16);

impl Value for Port {
    const KIND: &'static str = "port";

    fn parse(raw: &Raw, strict: Strictness, key: &Key) -> Result<Port, String> {
        let number = u64::parse(raw, strict, key)?;
        u16::try_from(number).map(Port).map_err(|_| "a port".to_owned())
    }

    fn show(&self) -> String {
        self.0.to_string()
    }
}

/// A number of bytes, as a number or with a unit ("64MiB").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

const BYTE_UNITS: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = |unit: &&(&str, u64)| self.0 >= unit.1 && self.0.is_multiple_of(unit.1);
        match BYTE_UNITS.iter().find(whole) {
            Some((name, factor)) => write!(f, "{}{name}", self.0 / factor),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl Value for Bytes {
    const KIND: &'static str = "size";

    fn parse(raw: &Raw, strict: Strictness, key: &Key) -> Result<Bytes, String> {
        let bytes = number_with_unit(raw, strict, &BYTE_UNITS);
        bytes.filter(|bytes| key.range.contains(bytes)).map(Bytes).ok_or_else(|| {
            let (min, max) = key.range.clone().into_inner();
            let form = "a number of bytes or a size such as \"64MiB\" (units B, KiB, MiB, GiB, TiB)";
            match (min, max) {
                (0, u64::MAX) => form.to_owned(),
                (min, u64::MAX) => format!("{form}, at least {}", Bytes(min)),
                (min, max) => format!("{form}, from {} to {}", Bytes(min), Bytes(max)),
            }
        })
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

/// A duration in milliseconds, as a number or with a unit ("5s").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Milliseconds(pub u64);

const TIME_UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];

impl Value for Milliseconds {
    const KIND: &'static str = "duration";

    fn parse(raw: &Raw, strict: Strictness, key: &Key) -> Result<Milliseconds, String> {
        let time = number_with_unit(raw, strict, &TIME_UNITS);
        time.filter(|time| key.range.contains(time)).map(Milliseconds).ok_or_else(|| {
            let (min, max) = key.range.clone().into_inner();
            format!(
                "a number of milliseconds or a duration such as \"5s\" (units ms, s, m, h), from {min} to {max} ms"
            )
        })
    }

    fn show(&self) -> String {
        format!("{} ms", self.0)
    }
}

impl Value for String {
    const KIND: &'static str = "string";

    fn parse(raw: &Raw, _: Strictness, key: &Key) -> Result<String, String> {
        match raw {
            Raw::Text(text) if key.choices.is_empty() || key.choices.contains(&text.as_str()) => {
                Ok(text.clone())
            }
            _ if key.choices.is_empty() => Err("a string".to_owned()),
            _ => Err(format!("one of {}", key.choices.join(", "))),
        }
    }

    fn show(&self) -> String {
        format!("{self:?}")
    }
}

impl Value for PathBuf {
    const KIND: &'static str = "path";

    fn parse(raw: &Raw, _: Strictness, _: &Key) -> Result<PathBuf, String> {
        match raw {
            Raw::Text(text) if !text.is_empty() && !text.contains('\0') => Ok(PathBuf::from(text)),
            _ => Err("a path".to_owned()),
        }
    }

    fn show(&self) -> String {
        self.display().to_string()
    }
}

impl Value for NodeId {
    const KIND: &'static str = "node id";

    fn parse(raw: &Raw, _: Strictness, _: &Key) -> Result<NodeId, String> {
        let id = match raw {
            Raw::Integer(number) => u64::try_from(*number).ok().and_then(NodeId::new),
            Raw::Text(text) => text.parse().ok(),
            _ => None,
        };
        id.ok_or_else(|| "a number from 1 to 281474976710655, or the node's \"ip:raft_port\"".to_owned())
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for Host {
    const KIND: &'static str = "host";

    fn parse(raw: &Raw, _: Strictness, _: &Key) -> Result<Host, String> {
        let host = if let Raw::Text(text) = raw { text.parse().ok() } else { None };
        host.ok_or_else(|| "an IP address or a host name, without a port".to_owned())
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for HostPort {
    const KIND: &'static str = "address";

    fn parse(raw: &Raw, _: Strictness, _: &Key) -> Result<HostPort, String> {
        let address = if let Raw::Text(text) = raw { text.parse().ok() } else { None };
        address.ok_or_else(|| "\"host:port\" (an IPv6 address in brackets)".to_owned())
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

/// Where to listen: a host, with or without a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// The interface.
    pub host: Host,
    /// The port, if it was given here.
    pub port: Option<u16>,
}

impl Value for Listen {
    const KIND: &'static str = "host or address";

    fn parse(raw: &Raw, _: Strictness, _: &Key) -> Result<Listen, String> {
        let Raw::Text(text) = raw else { return Err(LISTEN_FORM.to_owned()) };
        match (text.parse::<Host>(), text.parse::<HostPort>()) {
            (Ok(host), _) => Ok(Listen { host, port: None }),
            (_, Ok(address)) => Ok(Listen { host: address.host, port: Some(address.port) }),
            _ => Err(LISTEN_FORM.to_owned()),
        }
    }

    fn show(&self) -> String {
        match self.port {
            Some(port) => HostPort { host: self.host.clone(), port }.to_string(),
            None => self.host.to_string(),
        }
    }
}

const LISTEN_FORM: &str = "an IP address or a host name, with or without a port";

impl<T: Value> Value for Option<T> {
    const KIND: &'static str = T::KIND;

    fn parse(raw: &Raw, strict: Strictness, key: &Key) -> Result<Option<T>, String> {
        match raw {
            Raw::Text(text) if text.is_empty() => Ok(None),
            raw => T::parse(raw, strict, key).map(Some),
        }
    }

    fn show(&self) -> String {
        self.as_ref().map_or_else(|| "none".to_owned(), T::show)
    }

    fn absent() -> Option<Option<T>> {
        Some(None)
    }
}

/// A duration that names its unit, in milliseconds.
pub fn milliseconds(text: &str) -> Option<u64> {
    number_with_unit(&Raw::Text(text.to_owned()), Strictness::Strict, &TIME_UNITS)
}

fn number_with_unit(raw: &Raw, strict: Strictness, units: &[(&str, u64)]) -> Option<u64> {
    let text = match raw {
        Raw::Integer(number) => return u64::try_from(*number).ok(),
        Raw::Text(text) => text.trim(),
        _ => return None,
    };
    let digits = text.len() - text.trim_start_matches(|letter: char| letter.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start();
    let factor = match unit {
        "" if strict == Strictness::Text => 1,
        unit => units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?.1,
    };
    decimal(number)?.checked_mul(factor)
}

/// A number as it is always written: digits only.
pub fn decimal(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}
