//! The statistics of passes as tables.

use super::*;
use crate::fixtures::rows;

#[test]
fn each_decoder_has_its_line() {
    let found: Vec<String> = statistics(&rows()).iter().map(|s| s.table.terminal()).collect();
    let expected = [
        "\
model    decoder           1       2  3 to 4  5 to 8
───────  ───────────  ──────  ──────  ──────  ──────
base     jacobi n=16  96.1 %   3.9 %
trained  jacobi n=16  38.3 %  25.5 %  26.4 %   9.8 %
",
        "\
model    decoder      wrong draft  all right    end
───────  ───────────  ───────────  ─────────  ─────
base     jacobi n=16       97.2 %      1.7 %  1.1 %
trained  jacobi n=16       93.1 %      4.2 %  2.7 %
",
        "\
model    decoder      one per pass     own
───────  ───────────  ────────────  ──────
base     jacobi n=16        92.6 %   7.4 %
trained  jacobi n=16        36.9 %  63.1 %
",
        "\
model    decoder         1  3 to 4  9 to 16
───────  ───────────  ────  ──────  ───────
base     ar           24.2
base     jacobi n=16          13.5     27.0
trained  ar           24.4
trained  jacobi n=16          14.2     28.4
",
        "\
model    decoder      rejections   top 2   top 3   top 4   top 6   top 8  top 10  top 16  top 32
───────  ───────────  ──────────  ──────  ──────  ──────  ──────  ──────  ──────  ──────  ──────
trained  jacobi n=16         100  40.0 %  60.0 %  60.0 %  70.0 %  70.0 %  70.0 %  70.0 %  80.0 %
",
    ];
    assert_eq!(found, expected, "{}", found.concat());
}

#[test]
fn statistics_without_data_are_left_out() {
    let mut rows = rows();
    for row in &mut rows {
        row.acceptance.clear();
        row.accepted_from.clear();
        row.limited_by.clear();
        row.widths.clear();
        row.rejection_ranks.clear();
    }
    assert!(statistics(&rows).is_empty());
    // Asked for, and nothing was rejected.
    rows[1].rejection_ranks = vec![0; 33];
    assert!(statistics(&rows).is_empty());
}

#[test]
fn a_draft_is_right_up_to_each_position_before_the_last_right_one() {
    let mut row = rows().swap_remove(3);
    row.acceptance = vec![0, 2, 1, 0, 1];
    assert_eq!(reached(&row), [0.5, 0.25, 0.25]);
    row.acceptance = vec![0, 4];
    assert!(reached(&row).is_empty());
}

#[test]
fn passes_that_leave_a_near_tie_give_no_token() {
    let mut row = rows().swap_remove(3);
    (row.forwards, row.acceptance) = (10, vec![5, 3, 2]);
    row.accepted_from = [("own".to_owned(), 2), ("tree".to_owned(), 3)].into();
    let expected = [("one per pass", 0.5), ("own", 0.2), ("tree", 0.3)];
    assert_eq!(sources(&row), expected.into());
    assert_eq!(acceptance(&row), [(0, 0.5), (1, 0.3), (2, 0.2)].into());
}
