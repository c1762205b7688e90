//! What a fresh block holds behind its known first token: tokens drawn from the prompt and the response so far
//! (arXiv 2512.14681 draws from the prompt alone; tokens of the response are nearer to what comes).

use jacobi_datasets::Rng;

/// `count` tokens drawn from `prompt` and `response`, a pure function of the arguments.
pub(crate) fn fill(prompt: &[u32], response: &[u32], count: usize, seed: u64, block: usize) -> Vec<u32> {
    let mut rng = Rng::new(&[seed, block as u64]);
    let total = prompt.len() + response.len();
    let draw = |at: usize| if at < prompt.len() { prompt[at] } else { response[at - prompt.len()] };
    (0..count).map(|_| draw(rng.below(total))).collect()
}
