//! One block of a trajectory for a terminal or as an HTML page: a line per state, from the random start to
//! the fixed point.

use crate::html::{page, section};
use crate::text::{escape_html, visible};
use jacobi_datasets::schema::trajectory::Trajectory;

const CONVERGED: &str = "\x1b[32m";
const EARLY: &str = "\x1b[33m";
const NOISY: &str = "\x1b[2m";
const RESET: &str = "\x1b[0m";

/// The kind of a run of tokens in a state.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// In the converged prefix.
    Converged,
    /// Right, but after a wrong token.
    Early,
    /// Wrong.
    Noisy,
}

/// One state or the clean block.
struct Line {
    /// Its iteration, or `clean`.
    name: String,
    converged: usize,
    runs: Vec<(Vec<u32>, Kind)>,
}

/// How kinds of tokens are marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marks {
    /// The converged prefix green, right tokens of the tail yellow, the others dim.
    Colors,
    /// A bar after the converged prefix, brackets around right tokens of the tail.
    Signs,
}

impl Marks {
    /// The legend, in one line.
    pub fn legend(self) -> String {
        match self {
            Self::Colors => Kind::ALL.map(|kind| painted(kind, kind.phrase())).join(", "),
            Self::Signs => "converged│still wrong, ⟨right, but after a wrong token⟩".to_owned(),
        }
    }
}

impl Kind {
    const ALL: [Self; 3] = [Self::Converged, Self::Early, Self::Noisy];

    fn phrase(self) -> &'static str {
        match self {
            Self::Converged => "converged",
            Self::Early => "right, but after a wrong token",
            Self::Noisy => "still wrong",
        }
    }
}

/// The states of `block` as lines: the iteration, the number of converged tokens, and the text with `marks`.
/// The last line is the clean block. Line breaks and control characters are shown as visible signs, so that a
/// sample cannot control the terminal.
///
/// `block_size` is that of the shard; `decode` turns ids into text. No lines if the response has no such block.
pub fn trajectory_view(
    trajectory: &Trajectory,
    block: usize,
    block_size: usize,
    marks: Marks,
    decode: &dyn Fn(&[u32]) -> String,
) -> Vec<String> {
    let Some((lines, len)) = lines(trajectory, block, block_size) else { return Vec::new() };
    let marked = match marks {
        Marks::Colors => painted,
        Marks::Signs => signed,
    };
    let text = |line: &Line| {
        let runs: String = line.runs.iter().map(|(tokens, kind)| marked(*kind, &decode(tokens))).collect();
        format!("{:>5} {:>3}/{len:<3} {runs}", line.name, line.converged)
    };
    lines.iter().map(text).collect()
}

/// The same as a self-contained page. An empty table if the response has no such block.
pub fn trajectory_page(
    trajectory: &Trajectory,
    block: usize,
    block_size: usize,
    title: &str,
    decode: &dyn Fn(&[u32]) -> String,
) -> String {
    let class = |kind| match kind {
        Kind::Converged => "own",
        Kind::Early => "kept",
        Kind::Noisy => "refined",
    };
    let span = |kind, text: &str| format!("<span class=\"{}\">{}</span>", class(kind), escape_html(text));
    let legend = Kind::ALL.map(|kind| span(kind, kind.phrase())).join(" ");
    let (lines, len) = lines(trajectory, block, block_size).unwrap_or_default();
    let row = |line: &Line| {
        let runs: String =
            line.runs.iter().map(|(tokens, kind)| span(*kind, &visible(&decode(tokens)))).collect();
        let figures = format!(
            "<td class=\"figure\">{}</td><td class=\"figure\">{}/{len}</td>",
            line.name, line.converged
        );
        format!("<tr>{figures}<td>{runs}</td></tr>\n")
    };
    let rows: String = lines.iter().map(row).collect();
    let table = format!(
        "<div class=\"scroll\"><table class=\"passes\">\n<thead><tr><th>iteration</th><th>converged</th><th>text</th>\
         </tr></thead>\n<tbody>\n{rows}</tbody>\n</table></div>\n"
    );
    let head = format!("<header><p>Jacobi trajectory</p><h1>{}</h1></header>\n", escape_html(title));
    let prompt = format!("<pre>{}</pre>\n", escape_html(&decode(&trajectory.prompt_tokens)));
    let legend = format!("<p class=\"legend\">{}</p>\n", legend);
    page(title, &(head + &section("Prompt", &prompt) + &section("States", &(legend + &table))))
}

/// The states of a block, the clean block last, and its length.
fn lines(trajectory: &Trajectory, block: usize, block_size: usize) -> Option<(Vec<Line>, usize)> {
    let clean = trajectory.response_tokens.chunks(block_size.max(1)).nth(block)?;
    let states = trajectory.states.iter().filter(|state| state.block as usize == block);
    let mut lines: Vec<Line> = states
        .map(|state| {
            let converged = (state.converged as usize).min(clean.len());
            let mut all = vec![(clean[..converged].to_vec(), Kind::Converged)];
            all.extend(runs(&state.tail, &clean[converged..]));
            Line { name: state.iteration.to_string(), converged, runs: all }
        })
        .collect();
    let whole = vec![(clean.to_vec(), Kind::Converged)];
    lines.push(Line { name: "clean".to_owned(), converged: clean.len(), runs: whole });
    Some((lines, clean.len()))
}

fn painted(kind: Kind, text: &str) -> String {
    let color = match kind {
        Kind::Converged => CONVERGED,
        Kind::Early => EARLY,
        Kind::Noisy => NOISY,
    };
    if text.is_empty() { String::new() } else { format!("{color}{}{RESET}", visible(text)) }
}

fn signed(kind: Kind, text: &str) -> String {
    let text = visible(text);
    match kind {
        Kind::Converged => format!("{text}│"),
        Kind::Early => format!("⟨{text}⟩"),
        Kind::Noisy => text,
    }
}

/// Runs of `tail` that equal `clean` at every position, or at none.
fn runs(tail: &[u32], clean: &[u32]) -> Vec<(Vec<u32>, Kind)> {
    let kind = |&at: &usize| if clean.get(at) == Some(&tail[at]) { Kind::Early } else { Kind::Noisy };
    let indices: Vec<usize> = (0..tail.len()).collect();
    let runs = indices.chunk_by(|a, b| kind(a) == kind(b));
    runs.map(|run| (run.iter().map(|&at| tail[at]).collect(), kind(&run[0]))).collect()
}

#[cfg(test)]
mod tests;
