//! Tests of `statistics.rs`.

use super::*;
use jacobi_datasets::ScheduleKind;

fn row(states: Vec<(u32, u32, u32, usize)>) -> Trajectory {
    let state = |(block, iteration, converged, tail): (u32, u32, u32, usize)| State {
        block,
        iteration,
        converged,
        tail: vec![9; tail],
    };
    Trajectory {
        sample_id: "a".into(),
        prompt_tokens: vec![1; 3],
        response_tokens: vec![2; 6],
        finish_reason: FinishReason::Eos,
        states: states.into_iter().map(state).collect(),
    }
}

fn of(rows: &[Trajectory], schedule: Option<Schedule>) -> Statistics {
    let mut statistics = Statistics::new(&metadata(&[]), schedule);
    statistics.add(rows);
    statistics
}

fn metadata(decoding: &[(&str, &str)]) -> TrajectoryMetadata {
    let decoding = decoding.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    TrajectoryMetadata {
        base_model: String::new(),
        base_revision: String::new(),
        weight_hash: String::new(),
        tokenizer_hash: String::new(),
        block_size: 4,
        decoding: decoding.collect(),
        seed: 0,
        tool_version: String::new(),
    }
}

#[test]
fn states_are_binned_by_the_real_length_of_their_block() {
    // Blocks of 4 and 2 tokens: ratios 3/4, 1/4 and 1/2.
    let rows = [row(vec![(0, 0, 1, 3), (0, 1, 3, 1), (1, 0, 1, 1)]), row(vec![])];
    let statistics = of(&rows, None);
    assert_eq!(statistics.noise, [0, 0, 1, 0, 0, 1, 0, 1, 0, 0]);
    assert_eq!((statistics.iterations.as_slice(), statistics.converged), (&[1, 1][..], (0, 0)));
    assert_eq!((statistics.samples, statistics.responses.total, statistics.states), (2, 12, 3));
    let text = statistics.to_text();
    assert!(text.contains("3 in 2 blocks, last recorded at iteration 0.50 on average"), "{text}");
    assert!(text.contains("6.0 (6 to 6) response") && !text.contains("TPF"), "{text}");
    assert!(of(&[row(vec![])], None).to_text().contains("enough for the autoregressive loss"));
}

#[test]
fn tokens_per_pass_count_the_blocks_that_reached_their_fixed_point() {
    // Block 0 takes two iterations and the pass that verifies them; block 1 ends the response.
    for (second, tpf) in [
        (vec![(1, 0, 1, 1)], "1.00"),
        (vec![(1, 0, 2, 0)], "1.00"),
        (vec![(1, 0, 1, 1), (1, 1, 2, 0)], "1.25"),
    ] {
        let first = vec![(0, 0, 1, 3), (0, 1, 3, 1), (0, 2, 4, 0)];
        let rows = [row([first, second].concat())];
        let text = of(&rows, None).to_text();
        assert!(text.contains(&format!("TPF          {tpf} tokens per pass")), "{text}");
        let mut scheduled = Statistics::new(&metadata(&[(SCHEDULE_KEY, "linear")]), None);
        scheduled.add(&rows);
        assert!(scheduled.to_text().contains("TPF          unknown"));
    }
}

#[test]
fn a_schedule_chooses_one_state_per_block() {
    let noise = NoiseScheduleConfig { schedule: ScheduleKind::Constant, t_min: 0.0, t_max: 0.3 };
    let rows = [row(vec![(0, 0, 1, 3), (0, 1, 3, 1), (1, 0, 1, 1)])];
    let statistics = of(&rows, Some(Schedule { noise, window_size: 2 }));
    assert_eq!(statistics.scheduled, [0, 0, 1, 0, 0, 1, 0, 0, 0, 0]);
    assert!(statistics.to_text().contains("that the schedule chooses"));
}

#[test]
fn bars_are_in_proportion_and_a_count_is_never_invisible() {
    let text = histogram([("a".to_owned(), 400), ("b".to_owned(), 1), ("c".to_owned(), 0)].into_iter());
    let bars: Vec<usize> = text.lines().map(|line| line.matches('█').count()).collect();
    assert_eq!(bars, [40, 1, 0]);
}
