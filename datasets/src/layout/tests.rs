//! The mask in all its forms against its definition, on every pair of small layouts.

use proptest::prelude::*;

use super::*;

fn layout(prompt_len: usize, response_len: usize, block_size: usize, window_size: usize) -> Layout {
    Layout {
        prompt_len,
        response_len,
        block_size,
        window_size,
        noise_context: NoiseContext::Window,
        with_noise: true,
    }
}

/// The mask as rows of `#` and `.`, readable in a failing test.
fn picture(layout: &Layout) -> Vec<String> {
    let len = layout.len();
    let mark = |q, k| if layout.sees(q, k) { '#' } else { '.' };
    (0..len).map(|q| (0..len).map(|k| mark(q, k)).collect()).collect()
}

#[test]
fn starts_lengths_and_positions_of_a_ragged_sample() {
    let l = layout(3, 5, 2, 2);
    assert_eq!((l.num_blocks(), l.len()), (3, 13));
    assert_eq!([0, 1, 2].map(|j| l.block_len(j)), [2, 2, 1]);
    assert_eq!([0, 1, 2].map(|j| l.clean_start(j)), [3, 5, 7]);
    assert_eq!([0, 1, 2].map(|j| l.noisy_start(j)), [8, 10, 12]);
    assert_eq!([0, 1, 2].map(|j| l.window_start(j)), [0, 0, 2]);
    let positions: Vec<usize> = (0..13).map(|t| l.position(t)).collect();
    assert_eq!(positions, [0, 1, 2, 3, 4, 5, 6, 7, 3, 4, 5, 6, 7]);
}

#[test]
fn noisy_blocks_see_noisy_blocks_of_their_window_and_clean_blocks_before_it() {
    let expected = [
        //p ccccc kkkkk   P = 1, n = 2, w = 2: blocks 0 and 1 share a window, block 2 opens the next
        "#..........",
        "##.........",
        "###........",
        "####.......",
        "#####......",
        "######.....",
        "#.....#....",
        "#.....##...",
        "#.....###..",
        "#.....####.",
        "#####.....#",
    ];
    assert_eq!(picture(&layout(1, 5, 2, 2)), expected);
}

#[test]
fn clean_context_is_the_same_as_a_window_of_one() {
    let clean = Layout { noise_context: NoiseContext::Clean, ..layout(2, 7, 3, 4) };
    assert_eq!(picture(&clean), picture(&layout(2, 7, 3, 1)));
    assert_ne!(picture(&clean), picture(&layout(2, 7, 3, 4)));
}

#[test]
fn degenerate_samples_have_no_blocks_or_no_noise() {
    let empty = layout(0, 0, 4, 1);
    assert!(empty.is_empty() && empty.dense_mask().is_empty() && empty.num_blocks() == 0);
    let plain = Layout { with_noise: false, ..layout(2, 3, 4, 1) };
    assert_eq!(picture(&plain), ["#....", "##...", "###..", "####.", "#####"]);
}

#[test]
#[should_panic(expected = "block 2 of 2")]
fn a_block_that_is_not_there_is_a_bug() {
    layout(1, 8, 4, 1).clean_start(2);
}

#[test]
#[should_panic(expected = "no noisy stream")]
fn a_noisy_start_without_noise_is_a_bug() {
    Layout { with_noise: false, ..layout(1, 8, 4, 1) }.noisy_start(0);
}

/// Small layouts, with every degenerate knob in reach: block 1, window 1, window > T, ragged and empty responses.
fn any_layout() -> impl Strategy<Value = Layout> {
    let context = prop_oneof![Just(NoiseContext::Window), Just(NoiseContext::Clean)];
    (0_usize..6, 0_usize..20, 1_usize..7, 1_usize..7, context, any::<bool>()).prop_map(
        |(prompt_len, response_len, block_size, window_size, noise_context, with_noise)| Layout {
            prompt_len,
            response_len,
            block_size,
            window_size,
            noise_context,
            with_noise,
        },
    )
}

/// The rule of DESIGN in its own words, from positions alone, sharing no helper with the code above.
fn sees_by_the_book(l: &Layout, q: usize, k: usize) -> bool {
    let (p, r, n) = (l.prompt_len, l.response_len, l.block_size);
    let w = if l.noise_context == NoiseContext::Clean { 1 } else { l.window_size };
    if q < p + r {
        return k <= q;
    }
    let j = (q - p - r) / n;
    let i = w * (j / w);
    let earlier_clean = k < p + i * n;
    let own_window = k >= p + r + i * n && k <= q;
    earlier_clean || own_window
}

proptest! {
    #[test]
    fn mask_and_predicate_and_book_agree_on_every_pair(l in any_layout()) {
        let (len, mask) = (l.len(), l.dense_mask());
        prop_assert_eq!(mask.len(), len * len);
        for q in 0..len {
            for k in 0..len {
                prop_assert_eq!(mask[q * len + k], l.sees(q, k), "{:?} q={} k={}", l, q, k);
                prop_assert_eq!(l.sees(q, k), sees_by_the_book(&l, q, k), "{:?} q={} k={}", l, q, k);
            }
        }
    }

    #[test]
    fn runs_and_predicate_agree_on_every_pair(l in any_layout()) {
        let mut next = 0;
        for run in l.runs() {
            prop_assert_eq!(run.own.start, next);
            next = run.own.end;
            for q in run.own.clone() {
                for k in 0..l.len() {
                    let seen = run.prefix.contains(&k) || (run.own.start..=q).contains(&k);
                    prop_assert_eq!(seen, l.sees(q, k), "{:?} q={} k={}", l, q, k);
                }
            }
        }
        prop_assert_eq!(next, l.len());
    }

    #[test]
    fn a_token_sees_each_position_up_to_its_own_exactly_once(l in any_layout()) {
        for q in 0..l.len() {
            let mut seen: Vec<usize> = (0..l.len()).filter(|&k| l.sees(q, k)).map(|k| l.position(k)).collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..=l.position(q)).collect::<Vec<_>>());
        }
    }
}
