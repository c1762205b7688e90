//! Values that cross between Rust and the C++ side in `shim/`.

use std::ffi::{CStr, c_char, c_void};

use tch::Tensor;

unsafe extern "C" {
    fn jacobi_text_free(text: *mut c_char);
}

/// The error text that a call of the shim returned; null means success.
pub(crate) fn outcome(error: *mut c_char) -> Result<(), String> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: the shim allocates its error texts with the C library.
    Err(unsafe { take(error) })
}

/// Copies a text of the C library and frees it.
///
/// # Safety
/// `raw` was allocated by the C library, and nobody else uses it.
pub(crate) unsafe fn take(raw: *mut c_char) -> String {
    // SAFETY: the caller's promise.
    unsafe {
        let text = CStr::from_ptr(raw).to_string_lossy().into_owned();
        jacobi_text_free(raw);
        text
    }
}

/// The C++ tensor behind `tensor`.
pub(crate) fn pointer(tensor: &Tensor) -> *mut c_void {
    tensor.as_ptr().cast_mut().cast()
}
