// SPDX-License-Identifier: Apache-2.0

//! Many commands in one Raft entry (rule E1, `docs/formats/entry.md`).
//!
//! All proposals of a group that wait at its turn become one entry: one append message, one place in the log, one step of
//! consensus for all of them. That is where the factor of four over one entry per proposal comes from (decision 2).
//!
//! ```text
//! entry   := version:u8=1  feature_level:varint  compression:u8=0  leader_unix_ms:u64  count:varint  command*
//! command := kind:u8  slot:u16  client_id:varint  series:varint  responded_to:varint  length:varint  body
//! ```

use std::fmt;

use mraft_types::codec::{DecodeError, Reader, Writer};
use mraft_types::limits::{COMMAND_BYTES_MAX, ENTRY_BYTES_MAX};

const ENTRY_VERSION: u8 = 1;
const COMPRESSION_NONE: u8 = 0;
/// Smallest encoding of a command: what bounds a count before anything is allocated for it.
const COMMAND_BYTES_MIN: usize = 7;

/// The slot of a command that belongs to no slot: users' own state machines without routing.
pub const NO_SLOT: u16 = u16::MAX;

/// What a packed command is. The numbers are persisted; never reuse one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CommandKind {
    /// A command for the state machine.
    User = 0,
    /// Moves the group's log time; reserved for time-to-live.
    TimeTick = 1,
    /// Opens a client session; reserved.
    RegisterSession = 2,
    /// Closes a client session; reserved.
    CloseSession = 3,
    /// Makes every replica hash its state here (rule E8).
    Checkpoint = 4,
    /// Changes the group's slots (rule E5); reserved.
    SetSlots = 5,
    /// Takes over imported data; reserved.
    Import = 6,
    /// The hash that a checkpoint found at the leader, for comparison (rule E8).
    CheckpointHash = 7,
    /// No hash of a checkpoint got a majority: the group does not serve, whoever leads it (rule E8).
    Dispute = 8,
}

impl CommandKind {
    fn from_byte(byte: u8) -> Option<CommandKind> {
        Some(match byte {
            0 => CommandKind::User,
            1 => CommandKind::TimeTick,
            2 => CommandKind::RegisterSession,
            3 => CommandKind::CloseSession,
            4 => CommandKind::Checkpoint,
            5 => CommandKind::SetSlots,
            6 => CommandKind::Import,
            7 => CommandKind::CheckpointHash,
            8 => CommandKind::Dispute,
            _ => return None,
        })
    }
}

/// One command inside a packed entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedCommand<'a> {
    /// What it is.
    pub kind: CommandKind,
    /// Its slot, or [`NO_SLOT`].
    pub slot: u16,
    /// Client session; 0 for none.
    pub client_id: u64,
    /// Number of the command within its session; 0 for none.
    pub series: u64,
    /// Up to which series the client has seen the answers.
    pub responded_to: u64,
    /// The command.
    pub body: &'a [u8],
}

impl<'a> PackedCommand<'a> {
    /// A command outside of any session.
    pub fn user(slot: u16, body: &'a [u8]) -> PackedCommand<'a> {
        PackedCommand { kind: CommandKind::User, slot, client_id: 0, series: 0, responded_to: 0, body }
    }
}

/// Builds the payload of one entry.
#[derive(Debug)]
pub struct EntryBuilder {
    commands: Vec<u8>,
    count: u64,
}

impl EntryBuilder {
    /// An empty entry with room for about `bytes`.
    pub fn with_capacity(bytes: usize) -> EntryBuilder {
        EntryBuilder { commands: Vec::with_capacity(bytes), count: 0 }
    }

    /// Appends a command.
    pub fn push(&mut self, command: &PackedCommand<'_>) {
        self.commands.put_u8(command.kind as u8);
        self.commands.put_u16(command.slot);
        self.commands.put_varint(command.client_id);
        self.commands.put_varint(command.series);
        self.commands.put_varint(command.responded_to);
        self.commands.put_bytes(command.body);
        self.count += 1;
    }

    /// Bytes of the commands so far.
    pub fn len(&self) -> usize {
        self.commands.len()
    }

    /// Whether nothing was pushed.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The payload, stamped.
    pub fn finish(self, feature_level: u32, leader_unix_ms: u64) -> Vec<u8> {
        let mut payload = Vec::with_capacity(self.commands.len() + 24);
        payload.put_u8(ENTRY_VERSION);
        payload.put_varint(u64::from(feature_level));
        payload.put_u8(COMPRESSION_NONE);
        payload.put_u64(leader_unix_ms);
        payload.put_varint(self.count);
        payload.put_raw(&self.commands);
        payload
    }
}

/// An entry's header, and its commands one by one.
#[derive(Clone, Debug)]
pub struct PackedEntry<'a> {
    /// The group's feature level when it was packed (rule T3).
    pub feature_level: u32,
    /// The leader's stamp, milliseconds since 1970.
    pub leader_unix_ms: u64,
    /// How many commands there are.
    pub count: usize,
    reader: Reader<'a>,
    left: usize,
}

impl<'a> PackedEntry<'a> {
    /// Reads the header. A committed entry that does not decode would be a poison for every replica, so entries are decoded
    /// before they are proposed, and what a peer sends is checked by whoever proposed it; see [`check`].
    pub fn decode(payload: &'a [u8]) -> Result<PackedEntry<'a>, DecodeError> {
        let mut reader = Reader::new(payload);
        let version = reader.u8("entry.version")?;
        if version != ENTRY_VERSION {
            return Err(DecodeError::Unknown("entry.version", u64::from(version)));
        }
        let feature_level = reader.varint("entry.feature_level")?;
        let feature_level = u32::try_from(feature_level)
            .map_err(|_| DecodeError::Invalid("entry.feature_level", feature_level))?;
        let compression = reader.u8("entry.compression")?;
        if compression != COMPRESSION_NONE {
            return Err(DecodeError::Unknown("entry.compression", u64::from(compression)));
        }
        let leader_unix_ms = reader.u64("entry.leader_unix_ms")?;
        let count = reader.bounded("entry.count", ENTRY_BYTES_MAX / COMMAND_BYTES_MIN)?;
        // Callers make room for that many.
        if count > reader.remaining() / COMMAND_BYTES_MIN {
            return Err(DecodeError::Truncated("entry.count"));
        }
        Ok(PackedEntry { feature_level, leader_unix_ms, count, reader, left: count })
    }

    /// The next command, `None` after the last one.
    pub fn next_command(&mut self) -> Result<Option<PackedCommand<'a>>, DecodeError> {
        if self.left == 0 {
            return if self.reader.remaining() == 0 {
                Ok(None)
            } else {
                Err(DecodeError::Trailing(self.reader.remaining()))
            };
        }
        self.left -= 1;
        let kind = self.reader.u8("command.kind")?;
        Ok(Some(PackedCommand {
            kind: CommandKind::from_byte(kind)
                .ok_or(DecodeError::Unknown("command.kind", u64::from(kind)))?,
            slot: self.reader.u16("command.slot")?,
            client_id: self.reader.varint("command.client_id")?,
            series: self.reader.varint("command.series")?,
            responded_to: self.reader.varint("command.responded_to")?,
            body: self.reader.bytes("command.body", COMMAND_BYTES_MAX)?,
        }))
    }
}

/// Whether an entry's payload decodes from front to back.
pub fn check(payload: &[u8]) -> Result<(), DecodeError> {
    let mut entry = PackedEntry::decode(payload)?;
    while entry.next_command()?.is_some() {}
    Ok(())
}

/// A short human description, for `inspect`.
pub fn describe(payload: &[u8]) -> impl fmt::Display {
    match PackedEntry::decode(payload) {
        Ok(entry) => format!("{} commands, stamped {} ms", entry.count, entry.leader_unix_ms),
        Err(error) => format!("not a packed entry: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed() -> Vec<u8> {
        let mut builder = EntryBuilder::with_capacity(64);
        builder.push(&PackedCommand::user(7, b"first"));
        let session =
            PackedCommand { client_id: 300, series: 9, responded_to: 8, ..PackedCommand::user(NO_SLOT, b"") };
        builder.push(&session);
        builder.finish(3, 1_700_000_000_000)
    }

    #[test]
    fn e1_a_packed_entry_comes_back_command_by_command() {
        let payload = packed();
        let mut entry = PackedEntry::decode(&payload).expect("decodes");
        assert_eq!((entry.feature_level, entry.leader_unix_ms, entry.count), (3, 1_700_000_000_000, 2));
        assert_eq!(entry.next_command(), Ok(Some(PackedCommand::user(7, b"first"))));
        let second = entry.next_command().expect("decodes").expect("is there");
        assert_eq!(
            (second.client_id, second.series, second.responded_to, second.body),
            (300, 9, 8, &b""[..])
        );
        assert_eq!(entry.next_command(), Ok(None));
    }

    #[test]
    fn e1_every_kind_of_command_comes_back_and_no_other_is_known() {
        let kinds = [
            CommandKind::User,
            CommandKind::TimeTick,
            CommandKind::RegisterSession,
            CommandKind::CloseSession,
            CommandKind::Checkpoint,
            CommandKind::SetSlots,
            CommandKind::Import,
            CommandKind::CheckpointHash,
            CommandKind::Dispute,
        ];
        for (kind, byte) in kinds.into_iter().zip(0..) {
            assert_eq!((kind as u8, CommandKind::from_byte(byte)), (byte, Some(kind)));
        }
        assert!((kinds.len() as u8..=u8::MAX).all(|byte| CommandKind::from_byte(byte).is_none()));
    }

    #[test]
    fn a_damaged_entry_is_refused_at_every_length_and_never_panics() {
        let payload = packed();
        for len in 0..payload.len() {
            assert!(check(&payload[..len]).is_err(), "cut at {len}");
        }
        let mut longer = payload.clone();
        longer.push(0);
        assert_eq!(check(&longer), Err(DecodeError::Trailing(1)));
        for at in 0..payload.len() {
            for bit in 0..8 {
                let mut flipped = payload.clone();
                flipped[at] ^= 1 << bit;
                let _ = check(&flipped);
            }
        }
    }

    #[test]
    fn a_count_that_the_bytes_cannot_hold_is_refused_before_room_is_made() {
        let mut lie = vec![ENTRY_VERSION, 1, COMPRESSION_NONE];
        lie.put_u64(1);
        lie.put_varint(100_000);
        lie.put_raw(&[0; 7]);
        assert_eq!(
            PackedEntry::decode(&lie).map(|entry| entry.count),
            Err(DecodeError::Truncated("entry.count"))
        );
    }

    #[test]
    fn e1_the_bytes_of_an_entry_do_not_drift() {
        let mut builder = EntryBuilder::with_capacity(0);
        builder.push(&PackedCommand::user(0x0102, b"ab"));
        let bytes = builder.finish(1, 0x0807_0605_0403_0201);
        let expected = [1, 1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 1, 0, 2, 1, 0, 0, 0, 2, b'a', b'b'];
        assert_eq!(bytes, expected);
    }
}
