//! Keeps freed memory in the process. A training step allocates and frees the same gigabytes again and again, a wide pass the
//! same megabytes. If they went back to the kernel in between, it would have to clear every page again.

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    sync::Once,
};

unsafe extern "C" {
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
}

/// The dynamic linker's default search, as glibc and musl define it.
const RTLD_DEFAULT: *mut c_void = std::ptr::null_mut();

/// Blocks up to this size come from the heap: the most that glibc allows.
const LARGEST_KEPT_BYTES: c_int = 32 << 20;

/// Makes glibc keep freed memory for later allocations; with another C library it does nothing.
pub fn keep_freed_memory() {
    /// `mallopt` of glibc.
    type Set = unsafe extern "C" fn(c_int, c_int) -> c_int;
    const TRIM_THRESHOLD: c_int = -1;
    const MMAP_THRESHOLD: c_int = -3;
    static DONE: Once = Once::new();
    DONE.call_once(|| {
        let Some(found) = symbol(c"mallopt") else { return };
        // SAFETY: the symbol of this name has this type; it may be called at any time.
        unsafe {
            let set = std::mem::transmute::<*mut c_void, Set>(found);
            set(MMAP_THRESHOLD, LARGEST_KEPT_BYTES);
            set(TRIM_THRESHOLD, c_int::MAX);
        }
    });
}

/// The address of a symbol of this process.
fn symbol(name: &CStr) -> Option<*mut c_void> {
    if !cfg!(target_os = "linux") {
        return None;
    }
    // SAFETY: a look-up by name.
    let found = unsafe { dlsym(RTLD_DEFAULT, name.as_ptr()) };
    (!found.is_null()).then_some(found)
}
