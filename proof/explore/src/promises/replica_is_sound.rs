// SPDX-License-Identifier: Apache-2.0

//! A replica keeps its own invariants, and hears nothing that no peer says. That nobody is condemned who lost nothing is looked at where
//! it would happen, in `replica`.

use std::collections::BTreeMap;

use mraft_raft::Ignored;
use mraft_types::ReplicaId;

use crate::broken::{Broken, Promise};
use crate::replica::Replica;

pub(crate) fn check(replica: &Replica) -> Result<(), Broken> {
    replica.raft().check().map_err(|broken| Broken::new(Promise::ReplicaIsSound, broken))
}

/// What peers that keep the rules never say.
pub(crate) fn check_heard(id: ReplicaId, ignored: &BTreeMap<Ignored, u32>) -> Result<(), Broken> {
    let unheard_of = [Ignored::Malformed, Ignored::SecondLeader, Ignored::ContradictsCommitted];
    match ignored.keys().find(|reason| unheard_of.contains(reason)) {
        Some(reason) => {
            Err(Broken::new(Promise::ReplicaIsSound, format!("{id} ignored something as {reason:?}")))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::tests::members;

    #[test]
    fn what_no_peer_says_is_noticed() {
        let [id] = members(&[1]).into_keys().collect::<Vec<_>>()[..] else { panic!("one member") };
        let heard = |reason| check_heard(id, &BTreeMap::from([(reason, 1)])).is_err();
        assert!(
            heard(Ignored::SecondLeader) && heard(Ignored::Malformed) && heard(Ignored::ContradictsCommitted)
        );
        assert!(!heard(Ignored::Stale));
    }
}
