// SPDX-License-Identifier: Apache-2.0

//! A group's replicated bookkeeping: what every replica derives from the same entries, beside the user's data (rule E7).
//!
//! It reaches the disk in the same atomic step as the data it belongs to, and stands at the head of every snapshot. The genesis
//! meta is the group's beginning: index 1, term 1, the original members and slots (rule M4).

use mraft_engine::Dispute;
use mraft_types::codec::{DecodeError, Reader, Writer};
use mraft_types::{
    DeploymentId, GroupId, GroupUid, Index, LogPosition, LogStart, Membership, SLOT_COUNT, SlotRange, SlotSet,
};

/// Feature level of groups founded by this release (rule T3).
pub const FEATURE_LEVEL: u32 = 1;

/// Rule T3: a replica of a group at a higher level than this build knows must not go on with the old meaning. Says what to do.
pub(crate) fn check_level(level: u32) -> Result<(), String> {
    if level <= FEATURE_LEVEL {
        return Ok(());
    }
    Err(format!(
        "the group is at feature level {level} and this build knows {FEATURE_LEVEL}: run the newer release on this node; nothing was lost"
    ))
}

const META_VERSION: u8 = 1;
/// Of a group whose replicas do not agree: the dispute follows at the end. No other group's meta is written like this, so that only a
/// build that does not know disputes refuses it, and only then.
const META_VERSION_DISPUTED: u8 = 2;

/// The position that every group's history starts behind.
pub const GENESIS: LogPosition = LogPosition { index: 1, term: 1 };

/// Everything replicated about a group except the user's data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMeta {
    /// The group.
    pub group: GroupId,
    /// Its founding.
    pub uid: GroupUid,
    /// The last applied entry.
    pub applied: LogPosition,
    /// The membership in force there.
    pub membership: Membership,
    /// What all replicas understand (rule T3).
    pub feature_level: u32,
    /// The slots whose keys live in this group; empty for groups of users' own machines.
    pub slots: SlotSet,
    /// Grows when the slots change (rule E5).
    pub slots_epoch: u64,
    /// Largest stamp applied, milliseconds since 1970 (rule E1).
    pub log_unix_ms: u64,
    /// Hash chain over (index, entry, results) of everything applied (rule E8).
    pub chain: u128,
    /// The replicas do not agree, and no state has a majority: the group does not serve (rule E8).
    pub disputed: Option<Dispute>,
}

impl GroupMeta {
    /// A group's beginning.
    pub fn genesis(
        deployment: DeploymentId,
        group: GroupId,
        members: Membership,
        slots: SlotSet,
    ) -> GroupMeta {
        let membership = Membership { change_index: GENESIS.index, ..members };
        let uid = founding_uid(deployment, group, &membership, &slots);
        GroupMeta {
            group,
            uid,
            applied: GENESIS,
            membership,
            feature_level: FEATURE_LEVEL,
            slots,
            slots_epoch: 0,
            log_unix_ms: 0,
            chain: u128::from_le_bytes(uid.0),
            disputed: None,
        }
    }

    /// Where a log that continues this state begins.
    pub fn log_start(&self) -> LogStart {
        LogStart { position: self.applied, membership: self.membership.clone() }
    }

    /// The bytes (`docs/formats/files.md`), into a vector that is cleared first.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        self.encode_around(out, |out| self.membership.encode(out));
    }

    /// The same with the membership's bytes from the caller: it hardly ever changes, and everything else does with every entry.
    pub(crate) fn encode_around(&self, out: &mut Vec<u8>, membership: impl FnOnce(&mut Vec<u8>)) {
        out.clear();
        out.put_u8(if self.disputed.is_some() { META_VERSION_DISPUTED } else { META_VERSION });
        out.put_u64(self.group.0);
        out.put_raw(&self.uid.0);
        out.put_varint(self.applied.index);
        out.put_varint(self.applied.term);
        out.put_varint(u64::from(self.feature_level));
        out.put_varint(self.slots_epoch);
        out.put_varint(self.log_unix_ms);
        out.put_raw(&self.chain.to_le_bytes());
        out.put_varint(self.slots.ranges().len() as u64);
        for range in self.slots.ranges() {
            out.put_u16(range.first);
            out.put_u16(range.last);
        }
        membership(out);
        if let Some(dispute) = &self.disputed {
            dispute.encode(out);
        }
    }

    /// The bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.encode_into(&mut bytes);
        bytes
    }

    /// Reads what [`GroupMeta::encode_into`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<GroupMeta, DecodeError> {
        let mut reader = Reader::new(bytes);
        let version = reader.u8("meta.version")?;
        if version != META_VERSION && version != META_VERSION_DISPUTED {
            return Err(DecodeError::Unknown("meta.version", u64::from(version)));
        }
        let group = GroupId(reader.u64("meta.group")?);
        let uid = GroupUid(reader.id128("meta.uid")?);
        let applied = LogPosition { index: reader.varint("meta.index")?, term: reader.varint("meta.term")? };
        let feature_level = reader.varint("meta.feature_level")?;
        let feature_level = u32::try_from(feature_level)
            .map_err(|_| DecodeError::Invalid("meta.feature_level", feature_level))?;
        let slots_epoch = reader.varint("meta.slots_epoch")?;
        let log_unix_ms = reader.varint("meta.log_unix_ms")?;
        let chain = u128::from_le_bytes(reader.id128("meta.chain")?);
        let count = reader.bounded("meta.slots", usize::from(SLOT_COUNT))?;
        let mut ranges = Vec::new();
        for _ in 0..count {
            ranges.push(SlotRange {
                first: reader.u16("meta.slots.first")?,
                last: reader.u16("meta.slots.last")?,
            });
        }
        let slots = SlotSet::from_ranges(ranges).ok_or(DecodeError::Invalid("meta.slots", count as u64))?;
        let membership = Membership::decode(&mut reader)?;
        let disputed = match version {
            META_VERSION_DISPUTED => Some(Dispute::decode(&mut reader)?),
            _ => None,
        };
        reader.finish()?;
        Ok(GroupMeta {
            group,
            uid,
            applied,
            membership,
            feature_level,
            slots,
            slots_epoch,
            log_unix_ms,
            chain,
            disputed,
        })
    }

    /// One more entry was applied.
    pub fn advance(&mut self, position: LogPosition, entry: &[u8], results: &[u8]) {
        self.applied = position;
        self.chain = chain_hash(self.chain, position.index, entry, results);
    }
}

/// The next link of a group's hash chain (rule E8): xxh3-128 over the previous link, the index, and the lengths and bytes of the
/// entry and of its results.
pub fn chain_hash(before: u128, index: Index, entry: &[u8], results: &[u8]) -> u128 {
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    hasher.update(&before.to_le_bytes());
    hasher.update(&index.to_le_bytes());
    hasher.update(&(entry.len() as u64).to_le_bytes());
    hasher.update(entry);
    hasher.update(results);
    hasher.digest128()
}

/// The uid of a founding (rule M4): two clusters that were founded differently can never mix.
fn founding_uid(deployment: DeploymentId, group: GroupId, members: &Membership, slots: &SlotSet) -> GroupUid {
    let mut hasher = blake3::Hasher::new();
    let mut bytes = Vec::new();
    bytes.put_u64(deployment.0);
    bytes.put_u64(group.0);
    for (id, member) in &members.members {
        bytes.put_u64(id.get());
        bytes.put_u8(member.role as u8);
    }
    for range in slots.ranges() {
        bytes.put_u16(range.first);
        bytes.put_u16(range.last);
    }
    hasher.update(&bytes);
    let mut uid = [0; 16];
    uid.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    GroupUid(uid)
}

#[cfg(test)]
mod tests {
    use mraft_engine::Depth;
    use mraft_types::{Member, NodeId, ReplicaId, Role};

    use super::*;

    fn members(ids: &[u64]) -> Membership {
        let member = |id: &u64| {
            let node = NodeId::new(*id).expect("a node id");
            (ReplicaId::new(0, node), Member { role: Role::Voter, raft_address: format!("127.0.0.1:{id}") })
        };
        Membership { members: ids.iter().map(member).collect(), ..Membership::default() }
    }

    fn genesis(group: u64, ids: &[u64]) -> GroupMeta {
        GroupMeta::genesis(DeploymentId(7), GroupId(group), members(ids), SlotSet::even_share(0, 3))
    }

    #[test]
    fn e7_meta_comes_back_from_its_bytes_and_from_nothing_less() {
        let mut meta = genesis(2, &[1, 2, 3]);
        meta.advance(LogPosition { index: 900, term: 4 }, b"entry", b"results");
        for disputed in [None, Some(Dispute { index: 890, shown_by: Depth::Content })] {
            meta.disputed = disputed;
            let bytes = meta.encode();
            assert_eq!(GroupMeta::decode(&bytes).as_ref(), Ok(&meta));
            for len in 0..bytes.len() {
                assert!(GroupMeta::decode(&bytes[..len]).is_err());
            }
        }
    }

    #[test]
    fn m4_another_founding_has_another_uid() {
        let uid = genesis(2, &[1, 2, 3]).uid;
        assert_eq!(genesis(2, &[3, 2, 1]).uid, uid, "the order of the members does not matter");
        assert_ne!(genesis(1, &[1, 2, 3]).uid, uid);
        assert_ne!(genesis(2, &[1, 2, 4]).uid, uid);
        let other =
            GroupMeta::genesis(DeploymentId(8), GroupId(2), members(&[1, 2, 3]), SlotSet::even_share(0, 3));
        assert_ne!(other.uid, uid);
    }

    #[test]
    fn e8_the_chain_tells_any_difference() {
        let link = chain_hash(1, 2, b"ab", b"c");
        assert_ne!(link, chain_hash(1, 2, b"a", b"bc"), "where the entry ends");
        assert_ne!(link, chain_hash(1, 3, b"ab", b"c"));
        assert_ne!(link, chain_hash(2, 2, b"ab", b"c"));
    }
}
