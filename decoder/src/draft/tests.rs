//! Acceptance, branches and continuations of drafts, by hand.

use super::*;

#[test]
fn the_agreed_prefix_of_a_run_is_accepted() {
    let rows: &[(&[u32], &[u32], usize)] = &[
        (&[5], &[9], 1),
        (&[5, 6], &[6, 7], 2),
        (&[5, 6], &[7, 7], 1),
        (&[5, 6, 7, 8], &[6, 7, 8, 9], 4),
        (&[5, 6, 0, 8], &[6, 7, 8, 9], 2),
        (&[5, 0, 7, 8], &[6, 7, 8, 9], 1),
    ];
    for (draft, chosen, expected) in rows {
        let path = Draft::run(draft[0], &draft[1..], draft.len()).accepted(|row| chosen[row]);
        assert_eq!(path, (0..*expected).collect::<Vec<_>>(), "{draft:?} against {chosen:?}");
    }
}

/// 5 - 6 - 7 with the branches 5 - 8 - 9 and 6 - 4.
fn branched() -> Draft {
    let mut draft = Draft::run(5, &[6, 7], 3);
    let eight = draft.branch(0, 8, Source::Recycled);
    draft.branch(eight, 9, Source::Recycled);
    draft.branch(1, 4, Source::Tree);
    draft
}

#[test]
fn the_longest_right_branch_wins() {
    let draft = branched();
    let rows: &[([u32; 6], &[usize])] = &[
        ([6, 7, 1, 0, 0, 0], &[0, 1, 2]),
        ([8, 7, 1, 9, 3, 0], &[0, 3, 4]),
        ([8, 7, 1, 0, 3, 0], &[0, 3]),
        ([6, 4, 1, 9, 3, 2], &[0, 1, 5]),
        ([1, 6, 7, 9, 3, 2], &[0]),
    ];
    for (chosen, expected) in rows {
        assert_eq!(draft.accepted(|row| chosen[row]), *expected, "{chosen:?}");
    }
}

#[test]
fn siblings_differ() {
    let mut draft = branched();
    let before = draft.rows().len();
    assert_eq!(draft.branch(0, 6, Source::Tree), 1);
    assert_eq!(draft.branch(3, 9, Source::Tree), 4);
    assert_eq!(draft.rows().len(), before);
    assert_eq!((draft.source(1), draft.source(4)), (Source::Own, Source::Recycled));
}

#[test]
fn the_next_draft_is_read_below_the_last_right_row_and_then_along_the_run() {
    let draft = branched();
    assert_eq!(draft.continuation(0), [0, 1, 2]);
    assert_eq!(draft.continuation(3), [3, 4]);
    assert_eq!(draft.continuation(5), [5]);
    let mut longer = Draft::run(5, &[6, 7, 8], 2);
    let branch = longer.branch(0, 1, Source::Tree);
    assert_eq!(longer.continuation(branch), [branch, 2, 3]);
    assert_eq!([longer.source(1), longer.source(2)], [Source::Own, Source::Pseudo]);
}

#[test]
fn a_path_ends_for_a_reason() {
    let draft = branched().with_filler_from(2);
    let rows = [
        // After 5 and 7 the model gives a token that no row holds; after 6 nothing but filler and a branch follows.
        ((0, 1), Limit::Draft),
        ((1, 1), Limit::Draft),
        ((2, 1), Limit::Window),
        ((5, 2), Limit::Window),
        // A right row follows, and was left to the next pass.
        ((0, 8), Limit::Tie),
    ];
    for ((last, chosen), expected) in rows {
        assert_eq!(draft.limit(last, chosen), expected, "{last} then {chosen}");
    }
    let run = Draft::run(5, &[6, 7, 8], 4).with_filler_from(2);
    assert_eq!(
        [0, 1, 2, 3].map(|last| run.limit(last, 1)),
        [Limit::Draft, Limit::Filler, Limit::Filler, Limit::Window]
    );
    assert_eq!(Draft::run(5, &[], 1).with_adapted(&[6]).limit(0, 1), Limit::Drafting);
    assert_eq!(Draft::run(5, &[], 1).limit(0, 1), Limit::Window);
}
