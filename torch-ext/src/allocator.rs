//! What the C library does with freed memory. A training step takes and frees the same gigabytes again and again, and a pass
//! of many rows the same megabytes; given back to the kernel in between, every page would have to be cleared anew.

use std::{
    ffi::{c_int, c_void},
    sync::Once,
};

use crate::threads::look_up;

/// Smaller blocks come from the heap: the most that glibc allows.
const LARGEST_KEPT_BYTES: c_int = 32 << 20;

/// Has freed memory kept for the next allocation from now on, where the C library is glibc.
pub fn keep_freed_memory() {
    /// `mallopt` of glibc.
    type Set = unsafe extern "C" fn(c_int, c_int) -> c_int;
    const TRIM_THRESHOLD: c_int = -1;
    const MMAP_THRESHOLD: c_int = -3;
    static DONE: Once = Once::new();
    DONE.call_once(|| {
        let Some(found) = look_up(c"mallopt") else { return };
        // SAFETY: what has this name has this type; it may be called at any time.
        unsafe {
            let set = std::mem::transmute::<*mut c_void, Set>(found);
            set(MMAP_THRESHOLD, LARGEST_KEPT_BYTES);
            set(TRIM_THRESHOLD, c_int::MAX);
        }
    });
}
