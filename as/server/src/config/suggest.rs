//! Finds the word that the user probably meant.

/// The candidate closest to `word`, if it is close enough to be a typing error.
#[must_use]
pub(super) fn closest(word: &str, candidates: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    let word = word.to_ascii_lowercase();
    let allowed = (word.len() / 4).clamp(1, 4);
    candidates
        .map(|candidate| (distance(word.as_bytes(), candidate.as_bytes(), allowed), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Number of insertions, deletions, replacements and swaps of neighbours that turn `left` into `right`; any
/// number above `limit` if the lengths alone differ by more, so that long words cost nothing.
fn distance(left: &[u8], right: &[u8], limit: usize) -> usize {
    if left.len().abs_diff(right.len()) > limit {
        return limit + 1;
    }
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=right.len()).collect();
    for (row, left_byte) in left.iter().enumerate() {
        let mut current = vec![row + 1];
        for (column, right_byte) in right.iter().enumerate() {
            let at = |line: &[usize], index: usize| line.get(index).copied().unwrap_or(usize::MAX / 2);
            let replaced = at(&last, column) + usize::from(left_byte != right_byte);
            let mut best = replaced.min(at(&last, column + 1) + 1).min(at(&current, column) + 1);
            let swapped = row > 0
                && column > 0
                && left.get(row - 1) == Some(right_byte)
                && right.get(column - 1) == Some(left_byte);
            if swapped {
                best = best.min(at(&before_last, column - 1) + 1);
            }
            current.push(best);
        }
        before_last = std::mem::replace(&mut last, current);
    }
    last.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_errors_are_found() {
        let names = ["replication-factor", "default-ttl", "nsup-period", "port"];
        let find = |word| closest(word, names.into_iter());
        assert_eq!(find("replicaton-factor"), Some("replication-factor"));
        assert_eq!(find("defualt-ttl"), Some("default-ttl"));
        assert_eq!(find("nsup_period"), Some("nsup-period"));
        assert_eq!(find("prot"), Some("port"));
        assert_eq!(find("PORT"), Some("port"));
        assert_eq!(find("completely-else"), None);
        assert_eq!(closest("scan-threads", ["info-threads"].into_iter()), None);
        assert_eq!(find(""), None);
    }
}
