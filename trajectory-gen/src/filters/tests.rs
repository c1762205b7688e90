//! Repetition of every period, and a case for each rule.

use super::*;

#[test]
fn repetition_is_seen_whatever_its_period_and_place() {
    let rows: [(&str, (usize, usize)); 8] = [
        ("", (1, 1)),
        ("a", (1, 1)),
        ("abcdefgh", (1, 1)),
        ("xaaaay", (4, 1)),
        ("abababab", (4, 2)),
        ("0123abcabcabc9", (3, 3)),
        ("abcab", (1, 1)),
        ("aabaabaab", (3, 3)),
    ];
    for (text, expected) in rows {
        let items: Vec<char> = text.chars().collect();
        assert_eq!(most_repeats(&items, 64), expected, "{text}");
    }
    let long: Vec<usize> = (0..200).map(|at| at % 50).collect();
    assert_eq!((most_repeats(&long, 64), most_repeats(&long, 49)), ((4, 50), (1, 1)));
}

/// Every key of the filter has a row in which changing it changes the outcome.
#[test]
fn each_rule_keeps_out_what_it_should_and_nothing_else() {
    use FinishReason::{Eos, Length};
    let varied: Vec<u32> = (0..40).collect();
    let looped = [1, 2].repeat(20);
    let base = GenerateConfig::default();
    type Row<'a> = (&'a [u32], FinishReason, &'static str, fn(&mut GenerateConfig), Option<Rule>);
    let rows: [Row; 10] = [
        (&varied, Eos, "fine", |_| (), None),
        (&varied, Length, "fine", |_| (), None),
        (&varied, Length, "fine", |c| c.cut_responses = Choice::Drop, Some(Rule::ResponseCut)),
        (&varied, Eos, "fine", |c| c.cut_responses = Choice::Drop, None),
        (&varied, Eos, "fine", |c| c.min_response_tokens = 41, Some(Rule::ResponseTooShort)),
        (&looped, Eos, "fine", |_| (), Some(Rule::RepeatedTokens)),
        (&looped, Eos, "fine", |c| c.max_token_repeats = 20, None),
        (&looped, Eos, "fine", |c| c.max_token_repeats = 0, None),
        (&varied, Eos, "a\n b\n\na\nb\na\nb", |c| c.max_line_repeats = 2, Some(Rule::RepeatedLines)),
        (&varied, Eos, "a\n b\n\na\nb\na\nb", |c| c.max_line_repeats = 0, None),
    ];
    for (index, (tokens, finish, text, change, expected)) in rows.into_iter().enumerate() {
        let mut config = base.clone();
        change(&mut config);
        let found = refuse(&config, tokens, finish, || text.to_owned()).map(|(rule, _)| rule);
        assert_eq!(found, expected, "row {index}");
    }
}
