//! One block of a trajectory, on a terminal or as an HTML page: a line per state, from the random start to the fixed
//! point.

use crate::html::{page, section};
use crate::text::{escape_html, visible};
use jacobi_datasets::schema::trajectory::Trajectory;

const CONVERGED: &str = "\x1b[32m";
const EARLY: &str = "\x1b[33m";
const NOISY: &str = "\x1b[2m";
const RESET: &str = "\x1b[0m";

/// What is known of a run of tokens in a state.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Of the converged prefix.
    Converged,
    /// Right already, behind something wrong.
    Early,
    /// Wrong.
    Noisy,
}

/// One state: its iteration (`None` for the clean block), tokens converged, and its tokens in runs of a kind.
struct Line {
    iteration: Option<u32>,
    converged: usize,
    runs: Vec<(Vec<u32>, Kind)>,
}

/// How kinds of tokens are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marks {
    /// The converged prefix green, tokens of the tail that are already right yellow, the rest dim.
    Colors,
    /// A bar behind the converged prefix, brackets around what is already right.
    Signs,
}

impl Marks {
    /// What the marks mean, in one line.
    pub fn legend(self) -> String {
        match self {
            Self::Colors => {
                [Kind::Converged, Kind::Early, Kind::Noisy].map(|k| painted(k, k.phrase())).join(", ")
            }
            Self::Signs => "converged│still wrong, ⟨right already, behind something wrong⟩".to_owned(),
        }
    }
}

impl Kind {
    fn phrase(self) -> &'static str {
        match self {
            Self::Converged => "converged",
            Self::Early => "right already, behind something wrong",
            Self::Noisy => "still wrong",
        }
    }
}

/// The states of `block` as lines: in front the iteration and how many tokens have converged, then the text under
/// `marks`. The last line is the clean block. Line breaks and control characters of the text are shown as visible signs, so that a sample cannot steer the
/// terminal.
///
/// `block_size` is the one the shard was made with and `decode` turns ids into text. A block the response does not
/// have gives no lines.
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
        let name = line.iteration.map_or_else(|| "clean".to_owned(), |iteration| iteration.to_string());
        let runs: String = line.runs.iter().map(|(tokens, kind)| marked(*kind, &decode(tokens))).collect();
        format!("{name:>5} {:>3}/{len:<3} {runs}", line.converged)
    };
    lines.iter().map(text).collect()
}

/// The same as a self-contained page. A block the response does not have gives an empty table.
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
    let legend =
        [Kind::Converged, Kind::Early, Kind::Noisy].map(|kind| span(kind, kind.phrase()) + " ").concat();
    let (lines, len) = lines(trajectory, block, block_size).unwrap_or_default();
    let row = |line: &Line| {
        let name = line.iteration.map_or_else(|| "clean".to_owned(), |iteration| iteration.to_string());
        let runs: String =
            line.runs.iter().map(|(tokens, kind)| span(*kind, &visible(&decode(tokens)))).collect();
        let figures =
            format!("<td class=\"figure\">{name}</td><td class=\"figure\">{}/{len}</td>", line.converged);
        format!("<tr>{figures}<td>{runs}</td></tr>\n")
    };
    let rows: String = lines.iter().map(row).collect();
    let table = format!(
        "<div class=\"scroll\"><table class=\"passes\">\n<thead><tr><th>iteration</th><th>converged</th><th>text</th>\
         </tr></thead>\n<tbody>\n{rows}</tbody>\n</table></div>\n"
    );
    let head = format!("<header><p>Jacobi trajectory</p><h1>{}</h1></header>\n", escape_html(title));
    let prompt = format!("<pre>{}</pre>\n", escape_html(&decode(&trajectory.prompt_tokens)));
    let legend = format!("<p class=\"legend\">{}</p>\n", legend.trim_end());
    page(title, &(head + &section("Prompt", &prompt) + &section("States", &(legend + &table))))
}

/// The states of a block, the clean block last, and its length.
fn lines(trajectory: &Trajectory, block: usize, block_size: usize) -> Option<(Vec<Line>, usize)> {
    let clean = trajectory.response_tokens.chunks(block_size.max(1)).nth(block)?;
    let states = trajectory.states.iter().filter(|state| state.block as usize == block);
    let mut lines: Vec<Line> = states
        .map(|state| {
            let converged = (state.converged as usize).min(clean.len());
            let mut runs_of_line = vec![(clean[..converged].to_vec(), Kind::Converged)];
            runs_of_line.extend(
                runs(&state.tail, &clean[converged..])
                    .into_iter()
                    .map(|(run, right)| (run.to_vec(), if right { Kind::Early } else { Kind::Noisy })),
            );
            Line { iteration: Some(state.iteration), converged, runs: runs_of_line }
        })
        .collect();
    let whole = vec![(clean.to_vec(), Kind::Converged)];
    lines.push(Line { iteration: None, converged: clean.len(), runs: whole });
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

/// Runs of `tail` that agree with `clean` throughout, or nowhere.
fn runs<'a>(tail: &'a [u32], clean: &[u32]) -> Vec<(&'a [u32], bool)> {
    let mut runs = Vec::new();
    let mut start = 0;
    let right = |at: usize| clean.get(at) == Some(&tail[at]);
    for at in 1..=tail.len() {
        if at == tail.len() || right(at) != right(start) {
            runs.push((&tail[start..at], right(start)));
            start = at;
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use jacobi_datasets::schema::trajectory::{FinishReason, State};

    fn decode(ids: &[u32]) -> String {
        ids.iter().map(|&id| char::from_u32(id).unwrap()).collect()
    }

    fn ids(text: &str) -> Vec<u32> {
        text.chars().map(u32::from).collect()
    }

    fn trajectory() -> Trajectory {
        let state =
            |block, iteration, converged, tail| State { block, iteration, converged, tail: ids(tail) };
        Trajectory {
            sample_id: "s".to_owned(),
            prompt_tokens: ids("p"),
            response_tokens: ids("abcdef\n"),
            finish_reason: FinishReason::Eos,
            states: vec![state(0, 0, 1, "xcy"), state(0, 1, 3, "\x1b"), state(1, 0, 0, "ef!")],
        }
    }

    #[test]
    fn states_of_a_block() {
        assert_eq!(
            trajectory_view(&trajectory(), 0, 4, Marks::Colors, &decode),
            [
                "    0   1/4   \x1b[32ma\x1b[0m\x1b[2mx\x1b[0m\x1b[33mc\x1b[0m\x1b[2my\x1b[0m",
                "    1   3/4   \x1b[32mabc\x1b[0m\x1b[2m·\x1b[0m",
                "clean   4/4   \x1b[32mabcd\x1b[0m",
            ]
        );
        assert_eq!(
            trajectory_view(&trajectory(), 1, 4, Marks::Colors, &decode),
            ["    0   0/3   \x1b[33mef\x1b[0m\x1b[2m!\x1b[0m", "clean   3/3   \x1b[32mef⏎\x1b[0m"]
        );
        assert_eq!(
            trajectory_view(&trajectory(), 0, 4, Marks::Signs, &decode),
            ["    0   1/4   a│x⟨c⟩y", "    1   3/4   abc│·", "clean   4/4   abcd│"]
        );
        assert!(Marks::Colors.legend().contains("\x1b[33mright already"));
        assert!(Marks::Signs.legend().contains("⟨right already"));
    }

    #[test]
    fn a_block_outside_has_no_lines() {
        assert!(trajectory_view(&trajectory(), 2, 4, Marks::Signs, &decode).is_empty());
        assert!(!trajectory_page(&trajectory(), 2, 4, "t", &decode).contains("class=\"figure\""));
    }

    #[test]
    fn the_page_has_every_state_and_escapes_what_it_shows() {
        let mut shown = trajectory();
        shown.prompt_tokens = ids("<script>");
        let page = trajectory_page(&shown, 0, 4, "a <b>", &decode);
        for part in [
            "<title>a &lt;b&gt;</title>",
            "&lt;script&gt;",
            "<td class=\"figure\">0</td><td class=\"figure\">1/4</td><td><span class=\"own\">a</span>\
             <span class=\"refined\">x</span><span class=\"kept\">c</span><span class=\"refined\">y</span></td>",
            "<td class=\"figure\">clean</td><td class=\"figure\">4/4</td><td><span class=\"own\">abcd</span></td>",
        ] {
            assert!(page.contains(part), "missing {part:?}: {page}");
        }
        assert!(!page.contains("<script"));
    }
}
