//! A seeded generator: SplitMix64 (Steele, Lea, Flood 2014), with the same numbers on every machine and release.
//!
//! Data order and random noise schedules are pure functions of their seeds, so they must not depend on the
//! version of a crate.

const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

#[inline(always)]
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The streams of lists of seeds that differ in the last seed only: what they share is computed once.
#[derive(Clone, Copy, Debug)]
pub struct Streams {
    shared: u64,
}

impl Streams {
    /// The streams whose seeds are `shared` and one more.
    pub fn new(shared: &[u64]) -> Self {
        let mut rng = Rng { state: shared.len() as u64 + 1 };
        for &seed in shared {
            rng.state = rng.next_u64() ^ seed;
        }
        Self { shared: rng.next_u64() }
    }

    /// The first 64 bits of the stream whose last seed is `last`.
    #[inline(always)]
    pub fn first(&self, last: u64) -> u64 {
        mix(mix((self.shared ^ last).wrapping_add(GAMMA)).wrapping_add(GAMMA))
    }
}

/// A stream of pseudo-random numbers determined by its seeds.
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
        mix(self.state)
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
        assert!(bound > 0, "below(0): no number is below 0");
        let bound = bound as u64;
        // Draws below this threshold would make the small remainders more likely.
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
mod tests;
