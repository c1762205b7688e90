//! A small seeded generator: SplitMix64 (Steele, Lea, Flood 2014), the same numbers on every machine and release.
//!
//! Data order and random noise schedules must be pure functions of their seeds, so they may not hang on the
//! version of a crate.

const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// A stream of pseudo-random numbers fixed by its seeds.
#[derive(Clone, Debug)]
pub struct Rng {
    state: u64,
}

impl Rng {
    /// A stream for this list of seeds, e.g. `[seed, epoch]`. Order and length of the list matter.
    pub fn new(seeds: &[u64]) -> Self {
        let mut rng = Self { state: seeds.len() as u64 };
        for &seed in seeds {
            rng.state = rng.next_u64() ^ seed;
        }
        rng.state = rng.next_u64();
        rng
    }

    /// 64 uniform bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GAMMA);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `[0, 1)`, with 53 random bits.
    pub fn next_f64(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Uniform in `0..bound`, without modulo bias.
    ///
    /// # Panics
    /// When `bound` is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        assert!(bound > 0, "below(0) has no answer");
        let bound = bound as u64;
        // Numbers under this one would give the small remainders one extra chance.
        let biased = bound.wrapping_neg() % bound;
        loop {
            let bits = self.next_u64();
            if bits >= biased {
                return (bits % bound) as usize;
            }
        }
    }

    /// Fisher-Yates: every order is equally likely.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_published_splitmix64_numbers() {
        let mut rng = Rng { state: 1234567 };
        let expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431];
        assert_eq!([(); 4].map(|()| rng.next_u64()), expected);
    }

    #[test]
    fn every_seed_counts_and_so_does_their_order() {
        let first = |seeds: &[u64]| Rng::new(seeds).next_u64();
        assert_eq!(first(&[1, 2]), first(&[1, 2]));
        for other in [&[2, 1][..], &[1, 3], &[0, 2], &[1], &[1, 2, 0], &[]] {
            assert_ne!(first(&[1, 2]), first(other), "{other:?}");
        }
    }

    #[test]
    fn numbers_stay_in_range_and_reach_its_ends() {
        let mut rng = Rng::new(&[7]);
        let mut seen = [0_usize; 5];
        for _ in 0..5000 {
            seen[rng.below(5)] += 1;
            assert!((0.0..1.0).contains(&rng.next_f64()));
        }
        assert!(seen.iter().all(|&count| (800..1200).contains(&count)), "{seen:?}");
        assert_eq!(rng.below(1), 0);
    }

    #[test]
    fn shuffle_is_a_permutation_that_depends_on_the_seed() {
        let shuffled = |seed| {
            let mut items: Vec<u32> = (0..50).collect();
            Rng::new(&[seed]).shuffle(&mut items);
            items
        };
        let mut sorted = shuffled(3);
        assert_eq!(shuffled(3), sorted);
        assert_ne!(shuffled(4), sorted);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..50).collect::<Vec<_>>());
        Rng::new(&[1]).shuffle::<u8>(&mut []);
    }
}
