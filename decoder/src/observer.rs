//! A look at every Jacobi iteration: how trajectories are recorded, by the decoder that ships.

/// One forward pass over the unconverged tail of a block.
#[derive(Debug)]
pub struct Iteration<'a> {
    /// Index of the block in the response.
    pub block: usize,
    /// Index of the pass in the block.
    pub iteration: usize,
    /// Tokens of the block committed before this pass: where `draft` starts in it.
    pub offset: usize,
    /// What was fed; `draft[0]` is known to be right.
    pub draft: &'a [u32],
    /// The model's token after each draft position.
    pub greedy: &'a [u32],
    /// How many draft tokens this pass proved right.
    pub accepted: usize,
}

/// Sees each iteration before its result is committed.
pub trait Observer {
    /// Called once per forward pass.
    fn iteration(&mut self, event: &Iteration);
}

/// Looks away.
pub struct Silent;

impl Observer for Silent {
    fn iteration(&mut self, _event: &Iteration) {}
}
