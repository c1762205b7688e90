//! Shards described: who made them, how many, how noisy, how fast they converge, and one sample of them.

use std::path::Path;

use jacobi_datasets::schema::trajectory::{SCHEMA_NAME, SCHEMA_VERSION};
use jacobi_datasets::{
    FinishReason, Layout, Manifest, NoiseContext, State, Trajectory, TrajectoryMetadata, read_shard,
};

use super::sample::{SampleView, show_sample};

/// Width of the longest bar of a histogram.
const BAR: usize = 40;
/// Bins of the noise histogram.
const BINS: usize = 10;

pub(super) fn describe_shard(path: &Path, view: &SampleView) -> anyhow::Result<String> {
    let (metadata, rows) = read_shard(path)?;
    let mut text = format!("shard {}\n", path.display());
    text += &describe_rows(&metadata, &rows, view)?;
    Ok(text)
}

/// Reads what shards there are, also of a generation that is still going on.
pub(super) fn describe_directory(
    dir: &Path,
    manifest: &Manifest,
    view: &SampleView,
) -> anyhow::Result<String> {
    let Manifest { input, written, skipped, failed, complete, shards, .. } = manifest;
    let state = if *complete { "complete" } else { "incomplete" };
    let mut text = format!(
        "trajectories {} ({state})\n  prompts      {input} = {written} written + {skipped} skipped + {failed} failed",
        dir.display()
    );
    text += if *complete { "\n" } else { " + the rest to come\n" };
    text += &format!("  shards       {}\n", shards.len());
    manifest.verify(dir)?;
    let mut all: Option<(TrajectoryMetadata, Vec<Trajectory>)> = None;
    for shard in shards {
        let (metadata, rows) = read_shard(&dir.join(&shard.file))?;
        all.get_or_insert_with(|| (metadata, Vec::new())).1.extend(rows);
    }
    match all {
        Some((metadata, rows)) => Ok(text + &describe_rows(&metadata, &rows, view)?),
        None => Ok(text + "  no shard is finished yet\n"),
    }
}

fn describe_rows(
    metadata: &TrajectoryMetadata,
    rows: &[Trajectory],
    view: &SampleView,
) -> anyhow::Result<String> {
    let mut text = describe_metadata(metadata);
    text += &Statistics::of(rows, metadata.block_size).to_text();
    if !rows.is_empty() {
        text.push('\n');
        text += &show_sample(metadata, rows, view)?;
    }
    Ok(text)
}

fn describe_metadata(metadata: &TrajectoryMetadata) -> String {
    let short = |hash: &str| hash.chars().take(16).collect::<String>();
    let mut text = format!("  schema       {SCHEMA_NAME} version {SCHEMA_VERSION}\n");
    text += &format!("  model        {} ({})\n", metadata.base_model, metadata.base_revision);
    text += &format!("  weights      {}\n", short(&metadata.weight_hash));
    text += &format!("  tokenizer    {}\n", short(&metadata.tokenizer_hash));
    text += &format!("  block_size   {}\n  seed         {}\n", metadata.block_size, metadata.seed);
    for (name, value) in &metadata.decoding {
        text += &format!("  {name:<12} {value}\n");
    }
    text + &format!("  made by      jacobi {}\n", metadata.tool_version)
}

/// Counts over samples, blocks and states.
#[derive(Debug, Default, PartialEq)]
struct Statistics {
    samples: usize,
    ended_by_eos: usize,
    prompt_tokens: usize,
    response_tokens: usize,
    states: usize,
    /// States per tenth of the noise ratio.
    noise: [usize; BINS],
    /// `iterations[i]` is the number of blocks that took `i` iterations.
    iterations: Vec<usize>,
}

impl Statistics {
    fn of(rows: &[Trajectory], block_size: usize) -> Self {
        let mut statistics = Self { samples: rows.len(), ..Self::default() };
        for row in rows {
            statistics.ended_by_eos += usize::from(row.finish_reason == FinishReason::Eos);
            statistics.prompt_tokens += row.prompt_tokens.len();
            statistics.response_tokens += row.response_tokens.len();
            statistics.states += row.states.len();
            let layout = layout(row, block_size);
            for state in &row.states {
                let ratio = state.noise_ratio(layout.block_len(state.block as usize));
                let bin = (ratio * BINS as f64) as usize;
                statistics.noise[bin.min(BINS - 1)] += 1;
            }
            for block in 0..layout.num_blocks() {
                statistics.count_iterations(row.states.iter().filter(|state| state.block as usize == block));
            }
        }
        statistics
    }

    fn count_iterations<'a>(&mut self, states: impl Iterator<Item = &'a State>) {
        let Some(last) = states.map(|state| state.iteration as usize).max() else { return };
        if self.iterations.len() <= last {
            self.iterations.resize(last + 1, 0);
        }
        self.iterations[last] += 1;
    }

    fn to_text(&self) -> String {
        let samples = self.samples.max(1) as f64;
        let mut text = format!(
            "  samples      {}, {} ended by eos\n  tokens       {:.1} prompt and {:.1} response per sample\n",
            self.samples,
            self.ended_by_eos,
            self.prompt_tokens as f64 / samples,
            self.response_tokens as f64 / samples
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
        text += "\nnoise ratio of the states\n";
        let label = |bin: usize| format!("{:.1}-{:.1}", bin as f64 / 10.0, (bin + 1) as f64 / 10.0);
        text += &histogram(self.noise.iter().enumerate().map(|(bin, &count)| (label(bin), count)));
        text += "\nlast recorded iteration of the blocks\n";
        text + &histogram(self.iterations.iter().enumerate().map(|(i, &count)| (i.to_string(), count)))
    }
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

    #[test]
    fn states_are_binned_by_the_real_length_of_their_block() {
        // Blocks of 4 and 2 tokens: ratios 3/4, 1/4 and 1/2.
        let rows = [row(vec![(0, 0, 1, 3), (0, 1, 3, 1), (1, 0, 1, 1)]), row(vec![])];
        let statistics = Statistics::of(&rows, 4);
        assert_eq!(statistics.noise, [0, 0, 1, 0, 0, 1, 0, 1, 0, 0]);
        assert_eq!(statistics.iterations, [1, 1]);
        assert_eq!((statistics.samples, statistics.response_tokens, statistics.states), (2, 12, 3));
        let text = statistics.to_text();
        assert!(text.contains("3 in 2 blocks, last recorded at iteration 0.50 on average"), "{text}");
        assert!(Statistics::of(&[row(vec![])], 4).to_text().contains("autoregressive loss alone"));
    }

    #[test]
    fn bars_are_in_proportion_and_a_count_is_never_invisible() {
        let text = histogram([("a".to_owned(), 400), ("b".to_owned(), 1), ("c".to_owned(), 0)].into_iter());
        let bars: Vec<usize> = text.lines().map(|line| line.matches('█').count()).collect();
        assert_eq!(bars, [40, 1, 0]);
    }
}
