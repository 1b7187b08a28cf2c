// SPDX-License-Identifier: Apache-2.0

//! The log's time never goes back and follows no wrong clock (rule E1).

use std::collections::BTreeMap;

use mraft_types::{GroupId, Index};

use super::Broken;

/// See the module.
pub const PROMISE: &str = "the log's time never goes back and follows no wrong clock";

/// The groups' time at the indexes where a replica ended a batch.
#[derive(Clone, Debug, Default)]
pub struct LogTimes(BTreeMap<(GroupId, Index), u64>);

impl LogTimes {
    /// What was above this index never was (rule D9).
    pub fn give_up(&mut self, group: GroupId, from: Index) {
        self.0.retain(|(of, index), _| *of != group || *index <= from);
    }

    /// The group's time after an applied entry, at a moment at which no sane clock is beyond `latest_unix_ms`.
    pub fn applied(
        &mut self,
        group: GroupId,
        index: Index,
        unix_ms: u64,
        latest_unix_ms: u64,
    ) -> Result<(), Broken> {
        let before = self.0.range((group, 0)..(group, index)).next_back();
        let after = self.0.range((group, index + 1)..=(group, Index::MAX)).next();
        if before.is_some_and(|(_, earlier)| *earlier > unix_ms)
            || after.is_some_and(|(_, later)| unix_ms > *later)
            || unix_ms > latest_unix_ms
        {
            let how = format!(
                "the time of group {group} is {unix_ms} at entry {index}, between {before:?} and {after:?}, and no sane clock is beyond {latest_unix_ms}"
            );
            return Err(Broken::new(PROMISE, how));
        }
        self.0.insert((group, index), unix_ms);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::GROUP;
    use super::*;

    #[test]
    fn e1_a_group_whose_time_goes_back_or_runs_ahead_is_found() {
        let mut times = LogTimes::default();
        times.applied(GROUP, 5, 100, 200).expect("fine");
        times.applied(GROUP, 9, 120, 200).expect("fine");
        times.applied(GROUP, 7, 110, 200).expect("a replica that lags");
        assert!(times.applied(GROUP, 8, 121, 200).is_err(), "back at 9");
        assert!(times.applied(GROUP, 10, 119, 200).is_err(), "back from 9");
        assert!(times.applied(GROUP, 10, 201, 200).is_err(), "a wrong clock");
    }
}
