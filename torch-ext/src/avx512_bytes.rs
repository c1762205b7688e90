//! Bounds for products of rows, from products of what is held of them in eight bits (see [`crate::bytes`]), in AVX-512 VNNI: an
//! instruction multiplies four times as many numbers as one in fp32.
//!
//! Legend: m rows on the left, n rows on the right, k their width.

use std::{
    arch::x86_64::{
        __m512, __m512i, __mmask16, _CMP_GT_OQ, _mm512_add_ps, _mm512_cmp_ps_mask, _mm512_cvtepi32_ps,
        _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_load_si512, _mm512_loadu_ps, _mm512_mul_ps,
        _mm512_set1_epi32, _mm512_set1_ps, _mm512_storeu_ps, _mm512_sub_ps,
    },
    ops::Range,
};

use crate::{
    bytes::{AT_ONCE, FOUR, Known, Left, PANEL, Right, SHARE, Vector, WIDTH},
    dots::block,
    halves::{self, LANES, group_of},
};

/// The widest rows whose sums fit.
const WIDEST: usize = 1 << 16;

/// Whether this processor has the instructions, and they can do rows of `k`.
pub(crate) fn supported(k: usize) -> bool {
    (1..=WIDEST).contains(&k) && halves::supported() && is_x86_feature_detected!("avx512vnni")
}

/// Where a product lies.
#[derive(Clone, Copy)]
pub(crate) struct Reach {
    pub(crate) least: f32,
    pub(crate) most: f32,
}

/// Hears of products that may be great.
pub(crate) trait Search {
    /// Products of row `row` on the left that are not greater need not be told.
    fn floor(&self, row: usize) -> f32;
    /// Of rows `row` on the left and `column` on the right.
    fn take(&mut self, row: usize, column: usize, reach: Reach);
}

impl Left {
    /// Tells `search` of the products of all these rows with those of some panels on the right.
    ///
    /// # Panics
    /// If the processor lacks the instructions.
    pub(crate) fn search(&self, right: &Right, panels: Range<usize>, search: &mut impl Search) {
        assert!(supported(self.steps * FOUR) && self.steps == right.steps, "bytes are for AVX-512 VNNI");
        // SAFETY: as just seen.
        unsafe { self.by_panels(right, panels, search) };
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    fn by_panels(&self, right: &Right, panels: Range<usize>, search: &mut impl Search) {
        let steps = self.steps;
        let block = block::<i32>(steps, AT_ONCE).next_multiple_of(SHARE);
        for first in (0..self.rows.len()).step_by(block) {
            let end = (first + block).min(self.rows.len());
            for panel in panels.clone() {
                let mut row = first;
                while row < end {
                    // Groups begin anew with every share.
                    let left = end.min((row / SHARE + 1) * SHARE) - row;
                    row += match group_of(left, AT_ONCE) {
                        AT_ONCE => self.meet::<AT_ONCE>(row, right, panel, search),
                        4 => self.meet::<4>(row, right, panel, search),
                        2 => self.meet::<2>(row, right, panel, search),
                        _ => self.meet::<1>(row, right, panel, search),
                    };
                }
            }
        }
    }

    /// The products of the `M` rows from `row` on, which are a group, with a panel; how many rows these were.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    fn meet<const M: usize>(
        &self,
        row: usize,
        right: &Right,
        panel: usize,
        search: &mut impl Search,
    ) -> usize {
        let steps = self.steps;
        let of_panel = panel * PANEL..(panel + 1) * PANEL;
        let [scales, norms, lost] = [&right.scales, &right.norms, &right.lost]
            .map(|all| all[of_panel.clone()].as_chunks::<LANES>().0);
        let known = &self.rows[row..row + M];
        let numbers = &self.numbers[row * steps..(row + M) * steps];
        let sums =
            sums::<M>(known, numbers, &right.numbers[panel * steps * WIDTH..(panel + 1) * steps * WIDTH]);
        for ((sums, known), row) in sums.iter().zip(known).zip(row..) {
            for (w, sum) in sums.iter().enumerate() {
                // SAFETY: each is a vector.
                let [scales, norms, lost] = unsafe {
                    [&scales[w], &norms[w], &lost[w]].map(|numbers| _mm512_loadu_ps(numbers.as_ptr()))
                };
                let estimate = _mm512_mul_ps(_mm512_cvtepi32_ps(*sum), scales);
                let estimate =
                    _mm512_fmadd_ps(estimate, _mm512_set1_ps(known.scale), _mm512_set1_ps(known.centre));
                let off = _mm512_fmadd_ps(lost, _mm512_set1_ps(known.norm), _mm512_set1_ps(known.off));
                let off = _mm512_fmadd_ps(norms, _mm512_set1_ps(known.off_by_norm), off);
                let most = _mm512_add_ps(estimate, off);
                let floor = _mm512_set1_ps(search.floor(row));
                let great = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(most, floor);
                if great != 0 {
                    let first = panel * PANEL + w * LANES;
                    tell(great, (row, first), [_mm512_sub_ps(estimate, off), most], right.rows, search);
                }
            }
        }
        M
    }
}

/// Tells `search` of some products of `row` with sixteen rows on the right, from `first` on, if these are fewer than `count`.
#[cold]
#[target_feature(enable = "avx512f")]
fn tell(
    great: __mmask16,
    (row, first): (usize, usize),
    reach: [__m512; 2],
    count: usize,
    search: &mut impl Search,
) {
    let mut bounds = [[0.0; LANES]; 2];
    for (bounds, reach) in bounds.iter_mut().zip(reach) {
        // SAFETY: room for a vector.
        unsafe { _mm512_storeu_ps(bounds.as_mut_ptr(), reach) };
    }
    let [least, most] = bounds;
    for at in (0..LANES).filter(|at| great >> at & 1 == 1 && first + at < count) {
        search.take(row, first + at, Reach { least: least[at], most: most[at] });
    }
}

/// The sums of whole numbers' products, of a group of rows with a panel.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn sums<const M: usize>(known: &[Known], left: &[i32], panel: &[Vector]) -> [[__m512i; WIDTH]; M] {
    let steps = left.len() / M;
    assert!(
        left.len() == M * steps && panel.len() == WIDTH * steps && known.len() == M,
        "{M} rows and a panel"
    );
    let mut sums = [[_mm512_set1_epi32(0); WIDTH]; M];
    for (sums, known) in sums.iter_mut().zip(known) {
        *sums = [_mm512_set1_epi32(-known.excess); WIDTH];
    }
    for step in 0..steps {
        // SAFETY: both have as many steps, and a vector lies in one line.
        let (left, panel) = unsafe { (left.as_ptr().add(step * M), panel.as_ptr().add(step * WIDTH)) };
        let mut right = [_mm512_set1_epi32(0); WIDTH];
        for (w, right) in right.iter_mut().enumerate() {
            // SAFETY: a step of a panel has so many vectors.
            *right = unsafe { _mm512_load_si512(panel.add(w).cast()) };
        }
        for (m, sums) in sums.iter_mut().enumerate() {
            // SAFETY: a step has so many rows.
            let left = _mm512_set1_epi32(unsafe { *left.add(m) });
            for (sum, right) in sums.iter_mut().zip(right) {
                *sum = _mm512_dpbusd_epi32(*sum, right, left);
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::{memory::Element, testing::numbers};

    /// All products, and where they are said to lie.
    struct All<'a, T> {
        left: &'a [T],
        right: &'a [T],
        k: usize,
        heard: Vec<bool>,
        widest: f32,
    }

    impl<T: Element> Search for All<'_, T> {
        fn floor(&self, _: usize) -> f32 {
            f32::NEG_INFINITY
        }

        fn take(&mut self, row: usize, column: usize, Reach { least, most }: Reach) {
            let (k, place) = (self.k, row * (self.right.len() / self.k) + column);
            let numbers = self.left[row * k..][..k].iter().zip(&self.right[column * k..][..k]);
            let exact: f64 = numbers.map(|(a, b)| f64::from(a.to_f32()) * f64::from(b.to_f32())).sum();
            assert!(f64::from(least) <= exact && exact <= f64::from(most), "{least}..{most}: {exact}");
            assert!(!std::mem::replace(&mut self.heard[place], true), "{row} and {column} twice");
            self.widest = self.widest.max(most - least);
        }
    }

    /// How wide the widest of the bounds is.
    fn widest<T: Element>(left: &[T], right: &[T], k: usize) -> f32 {
        let (m, n) = (left.len() / k, right.len() / k);
        let held = Right::new(right, left, k).expect("ordinary numbers");
        let mut all = All { left, right, k, heard: vec![false; m * n], widest: 0.0 };
        Left::new(left, k, &held).search(&held, 0..n.div_ceil(PANEL), &mut all);
        assert!(all.heard.iter().all(|heard| *heard), "{m} x {n} x {k}");
        all.widest
    }

    fn every_product_lies_where_it_is_said_to<T: Element>() {
        // Panels that are full and not, groups of every size, several shares, steps that are full and not.
        for (m, n, k) in [(1, 1, 1), (15, 48, 64), (43, 101, 33), (70, 50, 130)] {
            if !supported(k) {
                return;
            }
            let mut left = numbers::<T>(m * k, 1);
            // With something in common.
            let right: Vec<T> =
                numbers::<T>(n * k, 2).iter().map(|number| T::from_f32(number.to_f32() + 0.5)).collect();
            // Greater than all others.
            for row in left.chunks_exact_mut(k).step_by(3) {
                row[k / 2] = T::from_f32(100.0);
            }
            let widest = widest(&left, &right, k);
            assert!(widest < 3.0 * (k as f32).sqrt(), "{m} x {n} x {k}: {widest}");
        }
    }

    #[test]
    fn in_fp32() {
        every_product_lies_where_it_is_said_to::<f32>();
    }

    #[test]
    fn in_bf16() {
        every_product_lies_where_it_is_said_to::<bf16>();
    }

    /// Rows that meet what is lost of the others with all their length, on either side: the bounds are as narrow as can be.
    #[test]
    fn products_at_the_bounds_are_within() {
        const K: usize = 32;
        if !supported(K) {
            return;
        }
        let sign = |at: usize| if at * 7 % K < K / 2 { 1.0 } else { -1.0 };
        // Shifted, so that no column is greater than another, and with their opposites, so that they have nothing in common.
        let shifted = |of: &dyn Fn(usize) -> f32| {
            let rows = (0..K).flat_map(|by| (0..K).map(move |at| (at + by) % K));
            rows.map(of).collect::<Vec<_>>()
        };
        let with_opposites = |rows: &[f32]| {
            let both =
                rows.chunks(K).flat_map(|row| [1.0, -1.0].map(|sign| row.iter().map(move |x| x * sign)));
            both.flatten().collect::<Vec<_>>()
        };
        let even = shifted(&|at| 100.0 * sign(at));
        let odd = shifted(&|at| if at == 0 { 127.0 } else { (at % 5) as f32 + 0.49 * sign(at) });
        for (left, right) in [(&even, &odd), (&odd, &even)] {
            widest(left, &with_opposites(right), K);
        }
    }

    #[test]
    fn the_widest_rows_have_sums() {
        if !supported(WIDEST) {
            return;
        }
        let of_signs = |count: usize| {
            let signs = (0..count).map(|row| if row % 2 == 0 { 1.0f32 } else { -1.0 });
            signs.flat_map(|sign| vec![sign; WIDEST]).collect::<Vec<_>>()
        };
        // More rows on the left than stay in the cache.
        widest(&of_signs(40), &of_signs(2), WIDEST);
        assert!(!supported(WIDEST + 1));
    }
}
