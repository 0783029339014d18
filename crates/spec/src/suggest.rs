/// The candidate that `word` was most likely meant to be, if any is close: at most a third of it must be changed.
pub(crate) fn closest<'a>(
    word: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    let limit = word.chars().count().div_ceil(3);
    let scored = candidates.map(|candidate| (distance(word, candidate), candidate));
    scored
        .filter(|(changes, _)| *changes <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, substitutions and swaps of neighbours that lead from `a` to `b`
/// (restricted Damerau-Levenshtein, or optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let substituted = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = substituted.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_counted_in_single_edits() {
        assert_eq!(distance("steps", "steps"), 0);
        assert_eq!(distance("stepz", "steps"), 1);
        assert_eq!(
            distance("setps", "steps"),
            1,
            "a swap of neighbours is one edit"
        );
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("batch", ""), 5);
    }

    #[test]
    fn only_what_is_close_is_suggested() {
        let keys = || ["steps", "seed", "micro_batch"].into_iter();
        assert_eq!(closest("stesp", keys()), Some("steps"));
        assert_eq!(closest("microbatch", keys()), Some("micro_batch"));
        assert_eq!(closest("layers", keys()), None);
    }
}
