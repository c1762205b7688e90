//! Counts over samples, blocks and states, shard by shard.

use jacobi_datasets::{
    FinishReason, Layout, NoiseContext, NoiseScheduleConfig, SCHEDULE_KEY, State, Trajectory,
    TrajectoryMetadata, choose_state, jacobi_passes,
};

/// Width of the longest bar of a histogram.
const BAR: usize = 40;
/// Bins of a noise histogram.
const BINS: usize = 10;

/// The noise schedule for the histogram of training states.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Kind and range.
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
    /// The same for the one state per block that the schedule selects.
    scheduled: [usize; BINS],
    /// `iterations[i]`: number of blocks with `i` recorded iterations.
    iterations: Vec<usize>,
    /// For blocks recorded to their fixed point: tokens, and passes of Jacobi decoding.
    converged: (usize, usize),
    /// Whether some blocks were not recorded up to their fixed point. The others converge quickly and are not representative.
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
    /// Empty statistics for shards with this metadata.
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
            // States are ordered by block.
            for states in row.states.chunk_by(|a, b| a.block == b.block) {
                let block = states[0].block as usize;
                self.add_block(states, layout.block_len(block), block + 1 == layout.num_blocks());
            }
        }
    }

    /// Counts one block; `ends`: the response ends with it.
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
        // A block recorded only at its fixed point has no pass count: its response may not be the model's own.
        let is_final_only = states.len() == 1 && len > 1;
        if let Some(passes) = jacobi_passes(states, len, ends).filter(|_| !is_final_only) {
            // The first token of a response comes from the prefill.
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
            return text
                + "  states       none: enough for the autoregressive loss, and for adapters with random or on-policy states\n";
        }
        let total: usize = self.iterations.iter().enumerate().map(|(i, count)| i * count).sum();
        text += &format!(
            "  states       {} in {blocks} blocks, last recorded at iteration {:.2} on average\n",
            self.states,
            total as f64 / blocks as f64
        );
        if self.partial {
            text += "  TPF          unknown: states were recorded only up to the one that a schedule needs\n";
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

/// The layout of a recorded row; block lengths do not depend on the window.
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
mod tests;
