// SPDX-License-Identifier: Apache-2.0

//! One group's consensus as a pure value.

#![forbid(unsafe_code)]

pub mod config;
pub mod effect;
pub mod event;
pub mod message;

pub use config::{Config, Restored};
pub use effect::{Effect, Write};
pub use event::{ChangeError, Event, ProposeRefused, ReadRefused};
pub use message::{AppendReply, Body, Message};
