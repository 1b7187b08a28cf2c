// SPDX-License-Identifier: Apache-2.0

//! The nearest known name, for somebody who mistyped one.

/// The candidate that `word` most likely meant: few edits away, case and separators aside. `None` when nothing is near.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let folded = fold(word);
    candidates
        .into_iter()
        .filter_map(|candidate| {
            let (other, edits_max) = (fold(candidate), candidate.len().div_ceil(3).min(EDITS_MAX));
            // Each letter that one has more is an edit.
            let is_near = folded.len().abs_diff(other.len()) <= edits_max;
            is_near
                .then(|| edits(&folded, &other))
                .filter(|distance| *distance <= edits_max)
                .map(|distance| (distance, candidate))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Beyond this many edits a suggestion misleads more than it helps.
const EDITS_MAX: usize = 4;
/// Longer words are not compared: the comparison is quadratic, and no key is this long.
const WORD_CHARS_MAX: usize = 64;

fn fold(word: &str) -> Vec<char> {
    let letters = word.chars().filter(|letter| !matches!(letter, '_' | '-' | ' '));
    letters.flat_map(char::to_lowercase).take(WORD_CHARS_MAX).collect()
}

/// Insertions, deletions, replacements and swaps of neighbours that lead from one word to the other.
fn edits(from: &[char], to: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=to.len()).collect();
    let mut next: Vec<usize> = Vec::with_capacity(to.len() + 1);
    for (row, letter) in from.iter().enumerate() {
        next.clear();
        next.push(row + 1);
        for (column, other) in to.iter().enumerate() {
            let replaced = last[column] + usize::from(letter != other);
            let mut best = replaced.min(last[column + 1] + 1).min(next[column] + 1);
            let swapped = row > 0 && column > 0 && from[row - 1] == *other && *letter == to[column - 1];
            if swapped {
                best = best.min(before[column - 1] + 1);
            }
            next.push(best);
        }
        std::mem::swap(&mut before, &mut last);
        std::mem::swap(&mut last, &mut next);
    }
    last[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 5] = ["election_rtt", "heartbeat_rtt", "raft_port", "http_port", "raftDir"];

    #[test]
    fn a_mistyped_name_finds_its_neighbour() {
        for (word, meant) in [
            ("electon_rtt", "election_rtt"),
            ("ElectionRTT", "election_rtt"),
            ("heartbaet_rtt", "heartbeat_rtt"),
            ("raft-port", "raft_port"),
            ("raftdir", "raftDir"),
        ] {
            assert_eq!(nearest(word, KNOWN), Some(meant), "{word}");
        }
    }

    #[test]
    fn what_resembles_nothing_gets_no_suggestion() {
        for word in ["", "x", "completely_different", &"a".repeat(10_000)] {
            assert_eq!(nearest(word, KNOWN), None, "{word}");
        }
    }
}
