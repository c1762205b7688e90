//! One block of a trajectory on a terminal: a line per state, from the random start to the fixed point.

use crate::text::visible;
use jacobi_datasets::schema::trajectory::Trajectory;

const CONVERGED: &str = "\x1b[32m";
const EARLY: &str = "\x1b[33m";
const NOISY: &str = "\x1b[2m";
const RESET: &str = "\x1b[0m";

/// The states of `block` as coloured lines: tokens of the converged prefix green, tokens of the tail that are already
/// right yellow, the rest dim; in front the iteration and how many tokens have converged. The last line is the clean
/// block. Line breaks and control characters of the text are shown as visible signs, so that a sample cannot steer the
/// terminal.
///
/// `block_size` is the one the shard was made with and `decode` turns ids into text. A block the response does not
/// have gives no lines.
pub fn trajectory_view(
    trajectory: &Trajectory,
    block: usize,
    block_size: usize,
    decode: &dyn Fn(&[u32]) -> String,
) -> Vec<String> {
    let Some(clean) = trajectory.response_tokens.chunks(block_size.max(1)).nth(block) else {
        return Vec::new();
    };
    let states = trajectory.states.iter().filter(|state| state.block as usize == block);
    let mut lines: Vec<String> = states
        .map(|state| {
            let converged = (state.converged as usize).min(clean.len());
            let mut line = head(&state.iteration.to_string(), converged, clean.len());
            line += &painted(CONVERGED, &decode(&clean[..converged]));
            for (run, right) in runs(&state.tail, &clean[converged..]) {
                line += &painted(if right { EARLY } else { NOISY }, &decode(run));
            }
            line
        })
        .collect();
    lines.push(head("clean", clean.len(), clean.len()) + &painted(CONVERGED, &decode(clean)));
    lines
}

fn head(name: &str, converged: usize, len: usize) -> String {
    format!("{name:>5} {converged:>3}/{len:<3} ")
}

fn painted(color: &str, text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("{color}{}{RESET}", visible(text)) }
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
            trajectory_view(&trajectory(), 0, 4, &decode),
            [
                "    0   1/4   \x1b[32ma\x1b[0m\x1b[2mx\x1b[0m\x1b[33mc\x1b[0m\x1b[2my\x1b[0m",
                "    1   3/4   \x1b[32mabc\x1b[0m\x1b[2m·\x1b[0m",
                "clean   4/4   \x1b[32mabcd\x1b[0m",
            ]
        );
        assert_eq!(
            trajectory_view(&trajectory(), 1, 4, &decode),
            ["    0   0/3   \x1b[33mef\x1b[0m\x1b[2m!\x1b[0m", "clean   3/3   \x1b[32mef⏎\x1b[0m"]
        );
    }

    #[test]
    fn a_block_outside_has_no_lines() {
        assert!(trajectory_view(&trajectory(), 2, 4, &decode).is_empty());
    }
}
