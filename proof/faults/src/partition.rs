// SPDX-License-Identifier: Apache-2.0

//! Which node hears which, as a value: the shapes of partitions, and what each leaves standing.

use std::collections::BTreeSet;

/// Directed pairs (from, to): what `from` sends does not reach `to`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cuts(BTreeSet<(usize, usize)>);

impl Cuts {
    /// Nobody of `some` hears anybody else, nor is heard: a symmetric partition.
    pub fn apart(nodes: usize, some: &[usize]) -> Cuts {
        let is_in = |node: &usize| some.contains(node);
        Cuts::between(nodes, |from, to| is_in(&from) != is_in(&to))
    }

    /// Everybody is alone.
    pub fn everybody_alone(nodes: usize) -> Cuts {
        Cuts::between(nodes, |_, _| true)
    }

    /// Nobody else hears `node`, which hears them all.
    pub fn mute(nodes: usize, node: usize) -> Cuts {
        Cuts::between(nodes, |from, _| from == node)
    }

    /// `node` hears nobody; all the others hear it.
    pub fn deaf(nodes: usize, node: usize) -> Cuts {
        Cuts::between(nodes, |_, to| to == node)
    }

    /// Two halves that do not reach each other; `middle` reaches both, and both reach it.
    pub fn bridge(nodes: usize, middle: usize) -> Cuts {
        let half = |node: usize| (node + nodes - middle) % nodes <= nodes / 2;
        Cuts::between(nodes, |from, to| from != middle && to != middle && half(from) != half(to))
    }

    /// Each node reaches its two neighbours only: with five nodes everybody sees a majority, and no two see the same one.
    pub fn ring(nodes: usize) -> Cuts {
        Cuts::between(nodes, |from, to| ![1, nodes - 1].contains(&((to + nodes - from) % nodes)))
    }

    /// The pairs.
    pub fn pairs(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.0.iter().copied()
    }

    /// Whether what `from` sends does not reach `to`.
    pub fn has(&self, from: usize, to: usize) -> bool {
        self.0.contains(&(from, to))
    }

    /// Whether some node and enough others for a majority reach each other both ways: it can lead.
    pub fn leaves_a_leader(&self, nodes: usize) -> bool {
        let hears = |node: usize, other: usize| !self.has(node, other) && !self.has(other, node);
        (0..nodes).any(|node| 2 * (0..nodes).filter(|other| hears(node, *other)).count() > nodes)
    }

    fn between(nodes: usize, is_cut: impl Fn(usize, usize) -> bool) -> Cuts {
        let pairs = (0..nodes).flat_map(|from| (0..nodes).map(move |to| (from, to)));
        Cuts(pairs.filter(|(from, to)| from != to && is_cut(*from, *to)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard_by(cuts: &Cuts, nodes: usize, node: usize) -> Vec<usize> {
        (0..nodes).filter(|from| *from != node && !cuts.has(*from, node)).collect()
    }

    #[test]
    fn every_shape_cuts_what_its_name_says() {
        let apart = Cuts::apart(5, &[0, 1]);
        assert_eq!((heard_by(&apart, 5, 0), heard_by(&apart, 5, 4)), (vec![1], vec![2, 3]));
        assert_eq!(heard_by(&Cuts::everybody_alone(5), 5, 3), Vec::<usize>::new());
        let mute = Cuts::mute(3, 1);
        assert_eq!((heard_by(&mute, 3, 0), heard_by(&mute, 3, 1)), (vec![2], vec![0, 2]));
        let deaf = Cuts::deaf(3, 1);
        assert_eq!((heard_by(&deaf, 3, 0), heard_by(&deaf, 3, 1)), (vec![1, 2], vec![]));
        let bridge = Cuts::bridge(5, 2);
        assert_eq!(heard_by(&bridge, 5, 2), vec![0, 1, 3, 4]);
        assert_eq!((heard_by(&bridge, 5, 3), heard_by(&bridge, 5, 0)), (vec![2, 4], vec![1, 2]));
        let ring = Cuts::ring(5);
        assert_eq!((heard_by(&ring, 5, 0), heard_by(&ring, 5, 2)), (vec![1, 4], vec![1, 3]));
    }

    #[test]
    fn who_can_lead_is_known_beforehand() {
        let can = |cuts: Cuts| cuts.leaves_a_leader(5);
        assert!(can(Cuts::default()) && can(Cuts::apart(5, &[0, 1])) && can(Cuts::mute(5, 0)));
        assert!(can(Cuts::deaf(5, 0)) && can(Cuts::bridge(5, 0)) && can(Cuts::ring(5)));
        assert!(!can(Cuts::everybody_alone(5)) && !Cuts::ring(7).leaves_a_leader(7));
    }
}
