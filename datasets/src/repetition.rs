//! Runs of items that directly follow themselves: what tells a response that goes in circles.

/// For each period from 1 to `max_period`: how often, at most, a run of so many items directly follows itself, and the
/// period. Nothing repeated counts as once. `items.len() * max_period` comparisons.
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
