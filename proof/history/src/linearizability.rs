// SPDX-License-Identifier: Apache-2.0

//! Promise P2: per key there is one order of the operations that explains every answer, and that no operation leaves the time between
//! its beginning and its end for (Herlihy and Wing). Linearizability is local, so each key is judged alone.
//!
//! The search is Wing and Gong's with Lowe's two improvements, done just in time: answers are taken in the order in which they came,
//! and an operation is put into the order only when an answer needs it. What is remembered between two answers are
//! *configurations*: the value that the key has, and which operations are in the order already although they are not answered yet.
//! Equal configurations are one, and nothing of the past is kept, so memory grows with how much is under way at once and not with how
//! long the history is. It is a loop, not a recursion.
//!
//! Operations with an unknown outcome stay *open* for ever: they may be put into the order at any time, or never. Four
//! observations keep them from multiplying the configurations:
//!
//! - an open operation is worth putting in only directly before an operation that looks at the value;
//! - of two configurations that differ in used open operations only, the one that used a part of the other's has all its futures;
//! - a value that nobody ever saw or expected needs no name: all such values are the same one, [`Value::Nameless`];
//! - so open operations that write a nameless value, and open deletes, are interchangeable: the first unused one stands for all. A
//!   value becomes nameless for them as soon as everyone who saw or expected it has been answered.

use std::collections::{BTreeMap, BTreeSet};

use crate::broken::Broken;
use crate::operation::{Call, Operation, Outcome, Revision, ValueId};
use crate::recorder::History;

const PROMISE: &str = "per-key linearizability";

/// Configurations that one answer may lead to. Real runs need a handful; a history that needs more is reported as not decided rather
/// than taking all memory.
pub const CONFIGURATIONS_MAX: usize = 1 << 18;

/// Judges every key, and says how many configurations the hardest answer needed.
pub fn check(history: &History) -> Result<usize, Broken> {
    let mut hardest = 0;
    for (key, operations) in history.by_key() {
        let needed = check_key(&operations, Order::ByRevision, CONFIGURATIONS_MAX)
            .or_else(|_| check_key(&operations, Order::Any, CONFIGURATIONS_MAX))
            .map_err(|how| Broken { promise: PROMISE, how: format!("key {key}: {how}") })?;
        hardest = hardest.max(needed);
    }
    Ok(hardest)
}

/// Which orders a search looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// Those in which known revisions rise.
    ByRevision,
    /// All.
    Any,
}

/// Judges the operations of one key, in the order in which they began. The key does not exist at first.
fn check_key(operations: &[Operation], order: Order, configurations_max: usize) -> Result<usize, String> {
    let mut steps = steps(operations);
    if order == Order::Any {
        steps.iter_mut().for_each(|step| (step.revision, step.expected_revision) = (None, None));
    }
    let mut answers: Vec<usize> =
        (0..steps.len()).filter(|at| steps[*at].returned != Operation::NEVER).collect();
    answers.sort_by_key(|at| steps[*at].returned);

    let mut configurations = vec![Configuration::default()];
    let mut begun = 0;
    let mut pending: Vec<usize> = Vec::new();
    let mut open = Open::default();
    let mut hardest = 1;
    for answered in answers {
        let now = steps[answered].returned;
        while let Some(step) = steps.get(begun).filter(|step| step.invoked < now) {
            if step.returned == Operation::NEVER {
                open.add(begun, step)
            } else {
                pending.push(begun)
            }
            begun += 1;
        }
        open.forget_names(&steps, now);
        let search = Search { steps: &steps, pending: &pending, open: &open, answered };
        let found = search.run(&configurations, configurations_max)?;
        hardest = hardest.max(found.explored);
        if found.configurations.is_empty() {
            return Err(explain(operations, &steps, &pending, answered, &configurations));
        }
        configurations = found.configurations;
        open.settle(&mut configurations);
        open.forget_expectations(&steps, &configurations);
        pending.retain(|at| *at != answered);
    }
    Ok(hardest)
}

/// Operations with an unknown outcome that may still be put into the order, ascending.
#[derive(Debug, Default)]
struct Open {
    /// Puts of values that nobody will see: interchangeable.
    nameless: BTreeSet<usize>,
    /// Deletes: interchangeable.
    deletes: BTreeSet<usize>,
    /// All others.
    named: BTreeSet<usize>,
}

impl Open {
    fn add(&mut self, at: usize, step: &Step) {
        let kind = match step.action {
            Action::Put(Value::Nameless) => &mut self.nameless,
            Action::Delete(_) => &mut self.deletes,
            _ => &mut self.named,
        };
        kind.insert(at);
    }

    /// Puts whose values are of no interest any more become interchangeable.
    fn forget_names(&mut self, steps: &[Step], now: u64) {
        let is_over = |at: &usize| matches!(steps[*at].action, Action::Put(_)) && steps[*at].seen_until < now;
        let over: Vec<usize> = self.named.iter().copied().filter(is_over).collect();
        for at in over {
            self.named.remove(&at);
            self.nameless.insert(at);
        }
    }

    /// A compare-and-set whose expected value is in the past, whatever the order was, cannot happen any more.
    fn forget_expectations(&mut self, steps: &[Step], configurations: &[Configuration]) {
        let Some(oldest) = configurations.iter().map(|from| from.revision).min() else { return };
        self.named.retain(|at| steps[*at].expected_revision.is_none_or(|expected| expected >= oldest));
    }

    /// What is in the order in every configuration is no choice any more.
    fn settle(&mut self, configurations: &mut [Configuration]) {
        let Some((first, others)) = configurations.split_first() else { return };
        let is_everywhere = |at: &usize| others.iter().all(|other| other.used.binary_search(at).is_ok());
        let settled: Vec<usize> = first.used.iter().copied().filter(is_everywhere).collect();
        if settled.is_empty() {
            return;
        }
        for at in &settled {
            let _ = self.nameless.remove(at) || self.deletes.remove(at) || self.named.remove(at);
        }
        for configuration in configurations {
            configuration.used.retain(|at| settled.binary_search(at).is_err());
        }
    }

    /// Those that are worth trying beside the used ones, with what they do.
    fn choices<'a>(
        &'a self,
        steps: &'a [Step],
        used: &'a [usize],
    ) -> impl Iterator<Item = (usize, Action)> + 'a {
        let is_unused = |at: &&usize| used.binary_search(at).is_err();
        let nameless = self.nameless.iter().find(is_unused).map(|at| (*at, Action::Put(Value::Nameless)));
        let delete = self.deletes.iter().find(is_unused).map(|at| (*at, Action::Delete(None)));
        let named = self.named.iter().filter(is_unused).map(|at| (*at, steps[*at].action));
        nameless.into_iter().chain(delete).chain(named)
    }
}

/// What a key holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Value {
    /// Nothing.
    #[default]
    Absent,
    /// A value that some operation saw or expected.
    Named(ValueId),
    /// Any other.
    Nameless,
}

/// What an operation does, given that its outcome is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Read(Value),
    Put(Value),
    /// `None`: whether there was something is not known.
    Delete(Option<bool>),
    CompareAndSet(Value, Value),
    ConditionFailed(Value),
}

#[derive(Clone, Copy, Debug)]
struct Step {
    /// Its place among the operations.
    operation: usize,
    action: Action,
    invoked: u64,
    returned: u64,
    /// When the last operation was answered that saw or expected the value it writes.
    seen_until: u64,
    /// The revision that it gave the key, if anybody was told.
    revision: Option<Revision>,
    /// The revision of the value that it expects, if anybody was told.
    expected_revision: Option<Revision>,
}

/// Where a search may stand between two answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Configuration {
    value: Value,
    /// The highest known revision in the order.
    revision: Revision,
    /// An open operation was put in last: the next one must look at its effect, or it was in vain.
    is_to_be_seen: bool,
    /// Operations that are in the order and not answered yet, ascending.
    done: Vec<usize>,
    /// Open operations that are in the order, ascending.
    used: Vec<usize>,
}

struct Search<'a> {
    steps: &'a [Step],
    pending: &'a [usize],
    open: &'a Open,
    answered: usize,
}

struct Found {
    configurations: Vec<Configuration>,
    explored: usize,
}

impl Search<'_> {
    /// All configurations in which the answered operation is in the order.
    fn run(&self, from: &[Configuration], configurations_max: usize) -> Result<Found, String> {
        let (mut known, mut found) = (Known::default(), Known::default());
        let mut work: Vec<Configuration> = from.to_vec();
        while let Some(configuration) = work.pop() {
            if let Some(place) = configuration.done.iter().position(|at| *at == self.answered) {
                let mut configuration = configuration;
                configuration.done.remove(place);
                found.insert(configuration);
                continue;
            }
            if !known.insert(configuration.clone()) {
                continue;
            }
            if known.count > configurations_max {
                return Err(format!(
                    "not decided: an answer leads to more than {configurations_max} configurations"
                ));
            }
            self.next(&configuration, &mut work);
        }
        Ok(Found { configurations: found.into_configurations(), explored: known.count })
    }

    /// Every configuration that is one operation further.
    fn next(&self, from: &Configuration, work: &mut Vec<Configuration>) {
        let lowest = self.lowest_revision(from);
        for at in self.pending.iter().filter(|at| !from.done.contains(at)) {
            let Step { action, revision, .. } = self.steps[*at];
            if from.is_to_be_seen && !action.looks() || !is_next(revision, from, lowest) {
                continue;
            }
            if let Some(value) = action.apply(from.value) {
                let revision = revision.unwrap_or(from.revision);
                let mut next = Configuration { value, revision, is_to_be_seen: false, ..from.clone() };
                insert(&mut next.done, *at);
                work.push(next);
            }
        }
        for (at, action) in self.open.choices(self.steps, &from.used) {
            let revision = self.steps[at].revision;
            if from.is_to_be_seen && !action.looks() || !is_next(revision, from, lowest) {
                continue;
            }
            match action.apply(from.value) {
                Some(value) if value != from.value => {
                    let revision = revision.unwrap_or(from.revision);
                    let mut next = Configuration { value, revision, is_to_be_seen: true, ..from.clone() };
                    insert(&mut next.used, at);
                    work.push(next);
                }
                _ => {}
            }
        }
    }
}

impl Search<'_> {
    /// The lowest known revision that has begun and is not in the order: it comes before all higher ones.
    fn lowest_revision(&self, from: &Configuration) -> Option<Revision> {
        let pending = self.pending.iter().filter(|at| !from.done.contains(at));
        let open = self.open.named.iter().filter(|at| from.used.binary_search(at).is_err());
        let known = |at: &usize| self.steps[*at].revision.filter(|revision| *revision > from.revision);
        pending.chain(open).filter_map(known).min()
    }
}

/// Whether a change of this revision can be the next one.
fn is_next(revision: Option<Revision>, from: &Configuration, lowest: Option<Revision>) -> bool {
    revision.is_none_or(|revision| revision > from.revision && lowest.is_none_or(|lowest| revision <= lowest))
}

impl Action {
    /// The value afterwards; `None` where the outcome could not have been what it was.
    fn apply(self, value: Value) -> Option<Value> {
        match self {
            Action::Read(seen) => (seen == value).then_some(value),
            Action::Put(written) => Some(written),
            Action::Delete(existed) => {
                existed.is_none_or(|existed| existed == (value != Value::Absent)).then_some(Value::Absent)
            }
            Action::CompareAndSet(expected, written) => (expected == value).then_some(written),
            Action::ConditionFailed(expected) => (expected != value).then_some(value),
        }
    }

    /// Whether it can be told from it what the value was before.
    fn looks(self) -> bool {
        !matches!(self, Action::Put(_) | Action::Delete(None))
    }
}

/// What configurations have in common that differ in the open operations only.
type Alike = (Value, Revision, bool, Vec<usize>);

/// Configurations without those that are worse than another one.
#[derive(Default)]
struct Known {
    used: BTreeMap<Alike, Vec<Vec<usize>>>,
    count: usize,
}

impl Known {
    /// `false` when a configuration that is at least as good is known.
    fn insert(&mut self, configuration: Configuration) -> bool {
        let Configuration { value, revision, is_to_be_seen, done, used } = configuration;
        let alike = self.used.entry((value, revision, is_to_be_seen, done)).or_default();
        if alike.iter().any(|known| is_part(known, &used)) {
            return false;
        }
        let before = alike.len();
        alike.retain(|known| !is_part(&used, known));
        alike.push(used);
        self.count = self.count + alike.len() - before;
        true
    }

    fn into_configurations(self) -> Vec<Configuration> {
        let with = |((value, revision, is_to_be_seen, done), alike): (Alike, Vec<Vec<usize>>)| {
            alike.into_iter().map(move |used| Configuration {
                value,
                revision,
                is_to_be_seen,
                done: done.clone(),
                used,
            })
        };
        self.used.into_iter().flat_map(with).collect()
    }
}

/// Whether everything in `part` is in `whole`; both ascend.
fn is_part(part: &[usize], whole: &[usize]) -> bool {
    let mut whole = whole.iter();
    part.iter().all(|wanted| whole.any(|at| at == wanted))
}

fn insert(ascending: &mut Vec<usize>, at: usize) {
    let place = ascending.partition_point(|other| *other < at);
    ascending.insert(place, at);
}

/// The operations that matter, as what they do. One that was not applied did nothing, and an unanswered read told nobody anything.
fn steps(operations: &[Operation]) -> Vec<Step> {
    let mut named: BTreeMap<ValueId, u64> = BTreeMap::new();
    let mut told: BTreeMap<ValueId, Revision> = BTreeMap::new();
    for operation in operations {
        match (operation.writes(), operation.outcome) {
            (_, Outcome::Read(Some(seen))) => _ = told.insert(seen.value, seen.revision),
            (Some(value), Outcome::Written(revision)) => _ = told.insert(value, revision),
            _ => {}
        }
        let seen = match (operation.call, operation.outcome) {
            (_, Outcome::Read(Some(seen))) => seen.value,
            (Call::CompareAndSet { expected: Some(expected), .. }, _) => expected,
            _ => continue,
        };
        let until = named.entry(seen).or_default();
        *until = operation.returned.max(*until);
    }
    let value = |value: ValueId| match named.contains_key(&value) {
        true => Value::Named(value),
        false => Value::Nameless,
    };
    let optional = |expected: Option<ValueId>| expected.map_or(Value::Absent, value);
    let action = |operation: &Operation| match (operation.call, operation.outcome) {
        (Call::Get, Outcome::Read(seen)) => Some(Action::Read(optional(seen.map(|seen| seen.value)))),
        (Call::Put(written), Outcome::Written(_) | Outcome::Unknown) => Some(Action::Put(value(written))),
        (Call::Delete, Outcome::Deleted(existed)) => Some(Action::Delete(Some(existed))),
        (Call::Delete, Outcome::Unknown) => Some(Action::Delete(None)),
        (Call::CompareAndSet { expected, .. }, Outcome::ConditionFailed) => {
            Some(Action::ConditionFailed(optional(expected)))
        }
        (Call::CompareAndSet { expected, value: written }, Outcome::Written(_) | Outcome::Unknown) => {
            Some(Action::CompareAndSet(optional(expected), value(written)))
        }
        _ => None,
    };
    let step = |(place, operation): (usize, &Operation)| {
        let (invoked, returned) = (operation.invoked, operation.returned);
        let seen_until = operation.writes().and_then(|value| named.get(&value)).copied().unwrap_or(0);
        let revision = operation.writes().and_then(|value| told.get(&value)).copied();
        let expected_revision = match operation.call {
            Call::CompareAndSet { expected: Some(expected), .. } => told.get(&expected).copied(),
            _ => None,
        };
        let step = |action| Step {
            operation: place,
            action,
            invoked,
            returned,
            seen_until,
            revision,
            expected_revision,
        };
        action(operation).map(step)
    };
    operations.iter().enumerate().filter_map(step).collect()
}

fn explain(
    operations: &[Operation],
    steps: &[Step],
    pending: &[usize],
    answered: usize,
    configurations: &[Configuration],
) -> String {
    /// More would not be read.
    const SHOWN_MAX: usize = 8;
    let show = |at: &usize| operations[steps[*at].operation].to_string();
    let beside: Vec<String> =
        pending.iter().filter(|at| **at != answered).take(SHOWN_MAX).map(show).collect();
    let mut values: Vec<String> = configurations.iter().map(|from| format!("{:?}", from.value)).collect();
    values.sort();
    values.dedup();
    values.truncate(SHOWN_MAX);
    format!(
        "no order explains: {}; before it the key can only have been {}; under way beside it: [{}]",
        show(&answered),
        values.join(" or "),
        beside.join("; ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_that_grows_too_large_is_given_up_not_guessed() {
        let mut history = History::default();
        let ids: Vec<usize> =
            (0..12).map(|client| history.invoke(client, 0, Call::Put(u64::from(client)))).collect();
        let read = history.invoke(99, 0, Call::Get);
        history.complete(read, Outcome::Read(None));
        ids.iter().for_each(|id| history.complete(*id, Outcome::Written(*id as u64 + 1)));
        let operations = history.by_key().remove(&0).expect("the key");
        assert!(check_key(&operations, Order::Any, 1 << 16).is_ok());
        let given_up = check_key(&operations, Order::Any, 16).expect_err("too many");
        assert!(given_up.contains("not decided"), "{given_up}");
    }
}
