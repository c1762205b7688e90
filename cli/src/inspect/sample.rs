//! One sample with its loss mask, packed as in training: the tokens of each loss, in colour and in figures.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, ensure};
use jacobi_datasets::{
    Layout, PackConfig, PackedSample, Tokenizer, Trajectory, TrajectoryMetadata, pack, write_atomic,
};
use jacobi_report::{Marks, trajectory_page, trajectory_view};

use super::statistics::Schedule;
use crate::output::{self, Color, Stream};

/// Options for showing a sample.
#[derive(Debug)]
pub struct SampleView<'a> {
    /// Index of the sample.
    pub sample: usize,
    /// A block whose every state is shown.
    pub block: Option<usize>,
    /// Model directory with the tokenizer; by default the one that made the shard.
    pub tokenizer: Option<&'a Path>,
    /// Blocks per noise cycle of the mask shown.
    pub window_size: usize,
    /// Noise schedule for the histogram of training states.
    pub schedule: Option<Schedule>,
    /// File for an HTML page of the block's states.
    pub html: Option<&'a Path>,
}

/// Shows `row`, the sample that `view` selects of `count`; an error if there is none.
pub(super) fn show_sample(
    metadata: &TrajectoryMetadata,
    row: Option<&Trajectory>,
    count: usize,
    view: &SampleView,
) -> anyhow::Result<String> {
    let wanted = view.sample;
    let row = row.with_context(|| format!("--sample {wanted}: there are {count} samples, counted from 0"))?;
    let tokenizer = match view.tokenizer {
        Some(dir) => Some(Tokenizer::load(dir)?),
        None => Tokenizer::load(Path::new(&metadata.base_model)).ok(),
    };
    let decode = |ids: &[u32]| match &tokenizer {
        Some(tokenizer) => jacobi_report::visible(&tokenizer.decode_with_special(ids)),
        None => ids.iter().map(|id| format!("{id} ")).collect(),
    };
    let block_size = metadata.block_size;
    if let Some(block) = view.block {
        let marks = if output::colors_wanted(Stream::Stdout) { Marks::Colors } else { Marks::Signs };
        let lines = trajectory_view(row, block, block_size, marks, &decode);
        ensure!(!lines.is_empty(), "--block {block}: sample {wanted} has no such block");
        let title = format!("sample {wanted} ({}), block {block}", row.sample_id);
        if let Some(file) = view.html {
            let page = trajectory_page(row, block, block_size, &title, &decode);
            write_atomic(file, |out| out.write_all(page.as_bytes()))?;
        }
        return Ok(format!("{title}\n{}\n{}\n", marks.legend(), lines.join("\n")));
    }
    let config = PackConfig { window_size: view.window_size, ..PackConfig::default() };
    let packed = pack(row, block_size, &config, 0)?;
    let mut text = format!("sample {wanted} ({})", row.sample_id);
    text += &format!(": {} autoregressive targets, {} consistency pairs\n", packed.ar.len(), packed.pc.len());
    let mask = Mask::of(&packed);
    let shown = mask.paint(&packed, 0..packed.layout.prompt_len, &decode);
    text += &format!("  prompt          {shown}\n");
    for block in 0..packed.layout.num_blocks() {
        text += &mask.show_block(&packed, block, &decode);
    }
    let green = output::paint(Stream::Stdout, Color::Green, "autoregressive target");
    let yellow = output::paint(Stream::Stdout, Color::Yellow, "consistency position");
    let dim = output::paint(Stream::Stdout, Color::Dim, "context");
    Ok(text + &format!("  {green}, {yellow}, {dim}\n"))
}

/// The packed tokens of each loss.
struct Mask {
    /// Targets of the autoregressive loss.
    autoregressive: BTreeSet<usize>,
    /// Noisy tokens of the consistency loss.
    consistency: BTreeSet<usize>,
}

impl Mask {
    fn of(packed: &PackedSample) -> Self {
        Self {
            autoregressive: packed.ar.iter().map(|target| target.row + 1).collect(),
            consistency: packed.pc.iter().map(|pair| pair.student).collect(),
        }
    }

    fn color(&self, token: usize) -> Color {
        if self.consistency.contains(&token) {
            Color::Yellow
        } else if self.autoregressive.contains(&token) {
            Color::Green
        } else {
            Color::Dim
        }
    }

    /// The clean block and, where there is one, the noisy block, a line each.
    fn show_block(&self, packed: &PackedSample, block: usize, decode: &dyn Fn(&[u32]) -> String) -> String {
        let layout: &Layout = &packed.layout;
        let (start, len) = (layout.clean_start(block), layout.block_len(block));
        let shown = self.paint(packed, start..start + len, decode);
        let mut text = format!("  block {block:<3} clean {shown}\n");
        if layout.with_noise {
            let start = layout.noisy_start(block);
            let kept = (start..start + len).filter(|token| self.consistency.contains(token)).count();
            let shown = self.paint(packed, start..start + len, decode);
            text += &format!("  {kept:>2} of {len:<2}  noisy {shown}\n");
        }
        text
    }

    /// Runs of one colour, each decoded at once, so that characters of several tokens stay whole.
    fn paint(
        &self,
        packed: &PackedSample,
        tokens: Range<usize>,
        decode: &dyn Fn(&[u32]) -> String,
    ) -> String {
        let mut text = String::new();
        let mut start = tokens.start;
        for at in tokens.clone().skip(1).chain([tokens.end]) {
            if at == tokens.end || self.color(at) != self.color(start) {
                let run = decode(&packed.tokens[start..at]);
                text += &output::paint(Stream::Stdout, self.color(start), &run);
                start = at;
            }
        }
        text
    }
}

#[cfg(test)]
mod tests;
