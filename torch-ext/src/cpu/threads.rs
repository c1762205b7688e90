//! Parallel loops on the threads libtorch computes with, its OpenMP team: so there is one setting (`OMP_NUM_THREADS`), and
//! no second team competes for the cores.

use std::{
    ffi::{CStr, c_char, c_uint, c_void},
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::cpu::memory::Shared;

/// `GOMP_parallel` of the OpenMP runtime that libtorch loaded: libgomp, or a runtime with its interface.
type Fork = unsafe extern "C" fn(extern "C" fn(*mut c_void), *mut c_void, c_uint, c_uint);

unsafe extern "C" {
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
}

/// The dynamic linker's default search, as glibc and musl define it.
const RTLD_DEFAULT: *mut c_void = std::ptr::null_mut();

struct Job<'a> {
    members: AtomicUsize,
    shares: &'a [Share],
    run: &'a (dyn Fn(usize) + Sync),
}

/// Successive tasks. Each thread starts with a share to itself, since memory is faster when read in order, and then helps
/// with the others.
struct Share {
    next: AtomicUsize,
    end: usize,
}

impl Job<'_> {
    fn work(&self) {
        let count = self.shares.len();
        let first = self.members.fetch_add(1, Ordering::Relaxed) % count;
        for share in (first..first + count).map(|share| &self.shares[share % count]) {
            loop {
                let task = share.next.fetch_add(1, Ordering::Relaxed);
                if task >= share.end {
                    break;
                }
                (self.run)(task);
            }
        }
    }
}

/// Runs `run(0)`, `run(1)`, .. `run(tasks - 1)` in parallel and returns when all have ended. Without an OpenMP runtime the
/// calling thread runs all of them.
pub(crate) fn parallel(tasks: usize, run: &(dyn Fn(usize) + Sync)) {
    extern "C" fn member(job: *mut c_void) {
        // SAFETY: `parallel` passes its job, which outlives the team.
        let job = unsafe { &*job.cast::<Job>().cast_const() };
        job.work();
    }
    let threads = tasks.min(usize::try_from(tch::get_num_threads()).unwrap_or(1)).max(1);
    let start = |share: usize| share * tasks / threads;
    let shares: Vec<Share> =
        (0..threads).map(|share| Share { next: start(share).into(), end: start(share + 1) }).collect();
    let job = Job { members: AtomicUsize::new(0), shares: &shares, run };
    match fork() {
        Some(fork) if threads > 1 => {
            let data = (&raw const job).cast_mut().cast::<c_void>();
            // SAFETY: the signature is libgomp's since 4.9; every member ends before the call returns, so `job` lives.
            unsafe { fork(member, data, threads as c_uint, 0) };
        }
        _ => job.work(),
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

fn fork() -> Option<Fork> {
    static FORK: OnceLock<Option<Fork>> = OnceLock::new();
    // SAFETY: the symbol of this name has this type (see `Fork`).
    *FORK.get_or_init(|| {
        symbol(c"GOMP_parallel").map(|found| unsafe { std::mem::transmute::<*mut c_void, Fork>(found) })
    })
}

/// The address of a symbol of this process.
pub(crate) fn symbol(name: &CStr) -> Option<*mut c_void> {
    if !cfg!(target_os = "linux") {
        return None;
    }
    // SAFETY: a look-up by name.
    let found = unsafe { dlsym(RTLD_DEFAULT, name.as_ptr()) };
    (!found.is_null()).then_some(found)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[test]
    fn every_task_runs_once() {
        for tasks in [0, 1, 2, 3, 100] {
            let counts: Vec<AtomicU32> = (0..tasks).map(|_| AtomicU32::new(0)).collect();
            parallel(tasks, &|task| {
                counts[task].fetch_add(1, Ordering::Relaxed);
            });
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn libtorch_brings_a_team() {
        tch::get_num_threads();
        assert!(fork().is_some());
    }
}
