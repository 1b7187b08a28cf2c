// SPDX-License-Identifier: Apache-2.0

//! What a command line changes of the mix that a seed draws, and the smallest such mix with which a seed still breaks its promise.

use std::collections::BTreeSet;
use std::fmt;

use mraft_sim::{Fault, Mix, Width};

/// Changes; `None` and nothing leave what was drawn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Kinds of faults that do not happen.
    pub without: BTreeSet<Fault>,
    /// Clients at most.
    pub clients_max: Option<u64>,
    /// Groups at most.
    pub groups_max: Option<u64>,
    /// Milliseconds of the safety phase at most.
    pub safety_ms_max: Option<u64>,
    /// Nothing is lost, doubled, damaged or late on the network.
    pub good_network: bool,
}

impl Changes {
    /// What a seed draws, with these changes.
    pub fn mix(&self, seed: u64, width: Width) -> Mix {
        let mut mix = Mix::draw(seed, width);
        mix.faults.retain(|fault, _| !self.without.contains(fault));
        mix.clients = mix.clients.min(self.clients_max.unwrap_or(u64::MAX)).max(1);
        mix.groups = mix.groups.min(self.groups_max.unwrap_or(u64::MAX)).max(1);
        let safety_us_max = self.safety_ms_max.map_or(u64::MAX, |ms| ms.saturating_mul(1_000));
        mix.safety_us = mix.safety_us.min(safety_us_max);
        mix.safety_us_max = mix.safety_us_max.min(safety_us_max);
        if self.good_network {
            mix.quality = mix.calm_quality();
        }
        mix
    }

    /// Reads names of kinds of faults with commas between them.
    pub fn leave_out(&mut self, names: &str) -> Result<(), String> {
        for name in names.split(',') {
            let known = Fault::all().find(|fault| fault.to_string() == name);
            let Some(fault) = known else {
                let all: Vec<String> = Fault::all().map(|fault| fault.to_string()).collect();
                return Err(format!("no fault is called {name}; there are {}", all.join(", ")));
            };
            self.without.insert(fault);
        }
        Ok(())
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.without.is_empty() {
            let names: Vec<String> = self.without.iter().map(Fault::to_string).collect();
            write!(f, " --without {}", names.join(","))?;
        }
        let numbers = [
            ("--clients", self.clients_max),
            ("--groups", self.groups_max),
            ("--safety-ms", self.safety_ms_max),
        ];
        for (flag, number) in numbers {
            number.map_or(Ok(()), |number| write!(f, " {flag} {number}"))?;
        }
        if self.good_network { f.write_str(" --good-network") } else { Ok(()) }
    }
}

/// Takes away, one thing after another, whatever the seed does not need to break the same promise; again and again until nothing more can
/// go. `broken` says which promise a mix breaks, `tell` hears what went.
pub fn minimise(
    seed: u64,
    width: Width,
    changes: &Changes,
    broken: impl Fn(&Mix) -> Option<&'static str>,
    mut tell: impl FnMut(&Changes),
) -> Option<Changes> {
    let promise = broken(&changes.mix(seed, width))?;
    let still_breaks = |changes: &Changes| broken(&changes.mix(seed, width)) == Some(promise);
    let mut least = changes.clone();
    loop {
        let before = least.clone();
        for smaller in smaller(&least, seed, width) {
            if still_breaks(&smaller) {
                tell(&smaller);
                least = smaller;
                break;
            }
        }
        if least == before {
            return Some(least);
        }
    }
}

/// Everything that is one step smaller, the largest steps first.
fn smaller(changes: &Changes, seed: u64, width: Width) -> Vec<Changes> {
    let mix = changes.mix(seed, width);
    let mut steps = Vec::new();
    let mut step = |change: &dyn Fn(&mut Changes)| {
        let mut changed = changes.clone();
        change(&mut changed);
        if changed.mix(seed, width) != mix {
            steps.push(changed);
        }
    };
    step(&|changed| changed.without = Fault::all().collect());
    for fault in mix.faults.keys() {
        step(&|changed| _ = changed.without.insert(*fault));
    }
    step(&|changed| changed.good_network = true);
    for part in [1, mix.groups / 2, mix.groups - 1] {
        step(&|changed| changed.groups_max = Some(part.max(1)));
    }
    for part in [1, mix.clients / 2, mix.clients - 1] {
        step(&|changed| changed.clients_max = Some(part.max(1)));
    }
    let safety_ms = mix.safety_us_max / 1_000;
    for part in [safety_ms / 2, safety_ms * 9 / 10] {
        step(&|changed| changed.safety_ms_max = Some(part));
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_what_their_flags_say() {
        let mut changes = Changes::default();
        assert_eq!(changes.to_string(), "");
        assert!(changes.leave_out("Kill,NoSuchFault").is_err_and(|error| error.contains("PowerCut")));
        changes.leave_out("Kill,PowerCut").expect("both are known");
        changes.clients_max = Some(2);
        changes.good_network = true;
        assert_eq!(changes.to_string(), " --without Kill,PowerCut --clients 2 --good-network");
        let mix = changes.mix(0, Width::Default);
        assert_eq!((mix.clients, mix.faults.contains_key(&Fault::Kill)), (2, false));
        assert_eq!(mix.quality, mix.calm_quality());
    }

    #[test]
    fn only_what_the_same_promise_needs_is_left() {
        let wide = Width::Wide;
        let is_rich = |mix: &Mix| mix.groups > 8 && mix.faults.contains_key(&Fault::Kill);
        let seed = (0..).find(|seed| is_rich(&Mix::draw(*seed, wide))).expect("many are");
        let broken = |mix: &Mix| match mix.faults.contains_key(&Fault::Kill) {
            true if mix.groups >= 3 && mix.clients >= 2 && mix.safety_us_max >= 1_000_000 => Some("that one"),
            true => Some("another one"),
            false => None,
        };
        let mut told = Vec::new();
        let least = minimise(seed, wide, &Changes::default(), broken, |less| told.push(less.clone()));
        let least = least.expect("it breaks to begin with");
        assert_eq!(told.last(), Some(&least));
        let mix = least.mix(seed, wide);
        assert_eq!((mix.faults.len(), mix.groups, mix.clients), (1, 3, 2));
        assert!((1_000_000..1_200_000).contains(&mix.safety_us_max) && mix.quality == mix.calm_quality());
        assert_eq!(minimise(seed, wide, &Changes::default(), |_| None, |_| ()), None);
    }

    #[test]
    fn steps_end() {
        let mut changes = Changes::default();
        let mut steps = 0;
        while let Some(next) = smaller(&changes, 3, Width::Default).into_iter().next() {
            changes = next;
            steps += 1;
            assert!(steps < 200);
        }
        let mix = changes.mix(3, Width::Default);
        assert_eq!((mix.faults.len(), mix.clients, mix.groups, mix.safety_us_max), (0, 1, 1, 0));
    }
}
