// SPDX-License-Identifier: Apache-2.0

//! Chain hashes are equal (rule E8): replicas that applied the same index say the same of everything up to it.

use std::collections::BTreeMap;

use mraft_types::{GroupId, Index, NodeId};

use super::Broken;

/// See the module.
pub const PROMISE: &str = "chain hashes are equal";

/// Hash chains at the indexes where a replica ended a batch; a chain covers everything before it.
#[derive(Clone, Debug, Default)]
pub struct Chains(BTreeMap<(GroupId, Index), u128>);

impl Chains {
    /// What was above this index never was (rule D9).
    pub fn give_up(&mut self, group: GroupId, from: Index) {
        self.0.retain(|(of, index), _| *of != group || *index <= from);
    }

    /// A replica ended a batch here.
    pub fn applied(&mut self, group: GroupId, node: NodeId, index: Index, chain: u128) -> Result<(), Broken> {
        let known = *self.0.entry((group, index)).or_insert(chain);
        if known == chain {
            return Ok(());
        }
        let how = format!(
            "node {node} has applied other entries or results than others up to {index} of group {group}"
        );
        Err(Broken::new(PROMISE, how))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{GROUP, node};
    use super::*;

    #[test]
    fn another_chain_is_found() {
        let mut chains = Chains::default();
        chains.applied(GROUP, node(1), 5, 77).expect("the first");
        chains.applied(GROUP, node(2), 5, 77).expect("the same");
        assert!(chains.applied(GROUP, node(3), 5, 78).is_err());
    }
}
