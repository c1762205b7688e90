//! Counts over samples, blocks and states, shard by shard.

use jacobi_datasets::{
    FinishReason, Layout, NoiseContext, NoiseScheduleConfig, SCHEDULE_KEY, State, Trajectory,
    TrajectoryMetadata, choose_state, jacobi_passes,
};

/// Width of the longest bar of a histogram.
const BAR: usize = 40;
/// Bins of a noise histogram.
const BINS: usize = 10;

/// The schedule under which states are chosen, for the histogram of what the student would see.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Its course and range.
    pub noise: NoiseScheduleConfig,
    /// Blocks per cycle.
    pub window_size: usize,
}

#[derive(Debug, PartialEq)]
pub(super) struct Statistics {
    block_size: usize,
    schedule: Option<Schedule>,
    samples: usize,
    ended_by_eos: usize,
    prompts: Lengths,
    responses: Lengths,
    states: usize,
    /// States per tenth of the noise ratio.
    noise: [usize; BINS],
    /// The same of the one state per block that the schedule chooses.
    scheduled: [usize; BINS],
    /// `iterations[i]` is the number of blocks that took `i` iterations to where their record ends.
    iterations: Vec<usize>,
    /// Of the blocks recorded to their fixed point: tokens, and the passes of Jacobi decoding that give them.
    converged: (usize, usize),
    /// The record of a block may end before: those that do not are the quick ones, and say nothing of all.
    partial: bool,
}

/// Token counts.
#[derive(Debug, Default, PartialEq)]
struct Lengths {
    total: usize,
    least: Option<usize>,
    most: usize,
}

impl Lengths {
    fn add(&mut self, length: usize) {
        self.total += length;
        self.least = Some(self.least.map_or(length, |least| least.min(length)));
        self.most = self.most.max(length);
    }

    fn to_text(&self, samples: usize) -> String {
        let mean = self.total as f64 / samples.max(1) as f64;
        format!("{mean:.1} ({} to {})", self.least.unwrap_or(0), self.most)
    }
}

impl Statistics {
    /// Of shards with this metadata.
    pub(super) fn new(metadata: &TrajectoryMetadata, schedule: Option<Schedule>) -> Self {
        Self {
            block_size: metadata.block_size,
            partial: metadata.decoding.contains_key(SCHEDULE_KEY),
            schedule,
            samples: 0,
            ended_by_eos: 0,
            prompts: Lengths::default(),
            responses: Lengths::default(),
            states: 0,
            noise: [0; BINS],
            scheduled: [0; BINS],
            iterations: Vec::new(),
            converged: (0, 0),
        }
    }

    pub(super) fn add(&mut self, rows: &[Trajectory]) {
        for row in rows {
            self.samples += 1;
            self.ended_by_eos += usize::from(row.finish_reason == FinishReason::Eos);
            self.prompts.add(row.prompt_tokens.len());
            self.responses.add(row.response_tokens.len());
            self.states += row.states.len();
            let layout = layout(row, self.block_size);
            // States lie in the order of their blocks.
            for states in row.states.chunk_by(|a, b| a.block == b.block) {
                let block = states[0].block as usize;
                self.add_block(states, layout.block_len(block), block + 1 == layout.num_blocks());
            }
        }
    }

    /// `ends` says that the response ends with this block.
    fn add_block(&mut self, states: &[State], len: usize, ends: bool) {
        for state in states {
            self.noise[bin(state, len)] += 1;
        }
        let Some(last) = states.last() else { return };
        let iteration = last.iteration as usize;
        if self.iterations.len() <= iteration {
            self.iterations.resize(iteration + 1, 0);
        }
        self.iterations[iteration] += 1;
        // A fixed point that was recorded alone says nothing of passes: it may have been known beforehand.
        let is_alone = states.len() == 1 && len > 1;
        if let Some(passes) = jacobi_passes(states, len, ends).filter(|_| !is_alone) {
            // The prefill gives the first token of a response.
            self.converged.0 += len - usize::from(last.block == 0);
            self.converged.1 += passes;
        }
        if let Some(Schedule { noise, window_size }) = self.schedule {
            let target = noise.target(last.block as usize, window_size, 0);
            if let Some(state) = choose_state(states.iter(), len, target) {
                self.scheduled[bin(state, len)] += 1;
            }
        }
    }

    pub(super) fn to_text(&self) -> String {
        let mut text = format!(
            "  samples      {}, {} ended by eos\n  tokens       {} prompt and {} response per sample\n",
            self.samples,
            self.ended_by_eos,
            self.prompts.to_text(self.samples),
            self.responses.to_text(self.samples)
        );
        let blocks: usize = self.iterations.iter().sum();
        if blocks == 0 {
            return text + "  states       none: these rows teach the autoregressive loss alone\n";
        }
        let total: usize = self.iterations.iter().enumerate().map(|(i, count)| i * count).sum();
        text += &format!(
            "  states       {} in {blocks} blocks, last recorded at iteration {:.2} on average\n",
            self.states,
            total as f64 / blocks as f64
        );
        if self.partial {
            text += "  TPF          not known: states were kept up to the one that a schedule asks for\n";
        } else if let (tokens, passes @ 1..) = self.converged {
            let tpf = tokens as f64 / passes as f64;
            text += &format!("  TPF          {tpf:.2} tokens per pass of the model that made them\n");
        }
        text += "\nnoise ratio of the states\n";
        text += &noise_histogram(&self.noise);
        if self.schedule.is_some() {
            text += "\nnoise ratio of the state that the schedule chooses per block\n";
            text += &noise_histogram(&self.scheduled);
        }
        text += "\nlast recorded iteration of the blocks\n";
        text + &histogram(self.iterations.iter().enumerate().map(|(i, &count)| (i.to_string(), count)))
    }
}

fn bin(state: &State, block_len: usize) -> usize {
    ((state.noise_ratio(block_len) * BINS as f64) as usize).min(BINS - 1)
}

/// The layout of a recorded row; the window plays no part in block lengths.
fn layout(row: &Trajectory, block_size: usize) -> Layout {
    Layout {
        prompt_len: row.prompt_tokens.len(),
        response_len: row.response_tokens.len(),
        block_size,
        window_size: 1,
        noise_context: NoiseContext::Window,
        with_noise: !row.states.is_empty(),
    }
}

fn noise_histogram(counts: &[usize; BINS]) -> String {
    let label = |bin: usize| format!("{:.1}-{:.1}", bin as f64 / 10.0, (bin + 1) as f64 / 10.0);
    histogram(counts.iter().enumerate().map(|(bin, &count)| (label(bin), count)))
}

fn histogram(rows: impl Iterator<Item = (String, usize)>) -> String {
    let rows: Vec<_> = rows.collect();
    let most = rows.iter().map(|(_, count)| *count).max().unwrap_or(0).max(1);
    let line = |(label, count): &(String, usize)| {
        format!("  {label:>7} {count:>8} {}\n", "█".repeat((count * BAR).div_ceil(most))).replace(" \n", "\n")
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
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
        assert!(of(&[row(vec![])], None).to_text().contains("autoregressive loss alone"));
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
            assert!(scheduled.to_text().contains("TPF          not known"));
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
}
