//! Parallel loops over chunks of memory and over results.

use tch::Tensor;

use crate::cpu::{memory::Shared, pool::parallel};

/// A tensor for several tasks, which write only to parts of it that do not overlap.
pub(crate) struct SharedTensor<'a>(pub(crate) &'a Tensor);

// SAFETY: tasks take views, which is atomic counting of references, and no task reads what another one writes.
unsafe impl Sync for SharedTensor<'_> {}

impl SharedTensor<'_> {
    pub(crate) fn get(&self) -> &Tensor {
        self.0
    }
}

/// Elements of a task over rows of `width`, a multiple of it. It depends on nothing else, so that sums over tasks have one
/// order.
pub(crate) fn elements_per_task(width: usize) -> usize {
    const ABOUT: usize = 32_768;
    (ABOUT / width).max(1) * width
}

/// Cuts `target` into chunks of `size` elements, the last one maybe shorter, and runs `run(number, chunk)` for each in
/// parallel.
pub(crate) fn parallel_chunks<T: Send>(
    target: &mut [T],
    size: usize,
    run: &(dyn Fn(usize, &mut [T]) + Sync),
) {
    let len = target.len();
    let target = Shared::new(target);
    parallel(len.div_ceil(size), &|number| {
        // SAFETY: chunks do not overlap.
        run(number, unsafe { target.part(number * size..((number + 1) * size).min(len)) });
    });
}

/// The results of `run(0)`, `run(1)`, .. `run(tasks - 1)`, computed in parallel.
pub(crate) fn parallel_map<R: Default + Send>(tasks: usize, run: &(dyn Fn(usize) -> R + Sync)) -> Vec<R> {
    let mut results = Vec::new();
    results.resize_with(tasks, R::default);
    parallel_chunks(&mut results, 1, &|task, result| result[0] = run(task));
    results
}
