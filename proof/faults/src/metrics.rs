// SPDX-License-Identifier: Apache-2.0

//! Figures that a node tells of itself.

/// The value of a series, its labels included; 0 when it is not there.
pub fn value(text: &str, series: &str) -> u64 {
    let value = |line: &str| line.strip_prefix(series)?.trim().parse::<f64>().ok();
    text.lines().find_map(value).unwrap_or(0.0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_known_by_its_whole_name() {
        let text = "# TYPE a counter\na_total{reason=\"b\"} 7\na_total 3\n";
        assert_eq!(
            (value(text, "a_total{reason=\"b\"}"), value(text, "a_total"), value(text, "a")),
            (7, 3, 0)
        );
    }
}
