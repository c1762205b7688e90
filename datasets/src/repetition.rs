//! Detects repetition: runs of items that directly follow themselves.

/// For each period from 1 to `max_period`: the most often that a run of `period` items occurs in direct
/// succession (1 for no repetition), and the period. Takes `items.len() * max_period` comparisons.
pub fn repeats<T: PartialEq>(items: &[T], max_period: usize) -> impl Iterator<Item = (usize, usize)> {
    (1..=max_period.min(items.len() / 2)).map(|period| {
        let (mut equal, mut most) = (0, 0);
        for at in period..items.len() {
            equal = if items[at] == items[at - period] { equal + 1 } else { 0 };
            most = most.max(equal);
        }
        (most / period + 1, period)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_period_counts_for_itself() {
        let items: Vec<char> = "xabababy".chars().collect();
        assert_eq!(repeats(&items, 64).collect::<Vec<_>>(), [(1, 1), (3, 2), (1, 3), (1, 4)]);
        assert_eq!(repeats(&items, 1).collect::<Vec<_>>(), [(1, 1)]);
        assert_eq!(repeats(&items[..1], 64).count(), 0);
    }
}
