//! The storage behind tensors: how to identify it, to release its memory, and to allocate it again while every view of it
//! stays valid. So a process that shares parameters with others holds all of them only while it uses them.

use std::ffi::c_void;

use tch::Tensor;

use crate::shim::pointer;

/// A storage and a place in it. All views of one storage agree on it, and releasing its memory does not change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StoragePlace {
    /// Identifies the storage.
    pub storage: usize,
    /// The index of an element in the storage.
    pub offset: i64,
}

unsafe extern "C" {
    fn jacobi_storage_name(tensor: *const c_void) -> *const c_void;
    fn jacobi_storage_offset(tensor: *const c_void) -> i64;
    fn jacobi_storage_bytes(tensor: *const c_void) -> usize;
    fn jacobi_storage_release(tensor: *const c_void);
    fn jacobi_storage_allocate(tensor: *const c_void, bytes: usize) -> bool;
}

/// The place of the first element of `tensor`.
pub fn storage_place(tensor: &Tensor) -> StoragePlace {
    // SAFETY: a live tensor.
    unsafe {
        StoragePlace {
            storage: jacobi_storage_name(pointer(tensor)) as usize,
            offset: jacobi_storage_offset(pointer(tensor)),
        }
    }
}

/// The number of elements that fit into the storage of `tensor`; 0 while its memory is released.
pub fn storage_elements(tensor: &Tensor) -> usize {
    // SAFETY: a live tensor.
    unsafe { jacobi_storage_bytes(pointer(tensor)) / tensor.kind().elt_size_in_bytes() }
}

/// A storage whose memory can be released and allocated again: that of a tensor which fills it. While it is released, no view
/// of it may be read or written. Views stay valid and refer to the new memory.
#[derive(Debug)]
pub struct Releasable {
    whole: Tensor,
    bytes: usize,
}

impl Releasable {
    /// # Panics
    /// If `whole` does not fill its storage.
    pub fn new(whole: Tensor) -> Self {
        let bytes = whole.numel() * whole.kind().elt_size_in_bytes();
        // SAFETY: a live tensor.
        let (held, offset) =
            unsafe { (jacobi_storage_bytes(pointer(&whole)), jacobi_storage_offset(pointer(&whole))) };
        assert_eq!((held, offset), (bytes, 0), "a tensor that fills its storage");
        Self { whole, bytes }
    }

    /// The tensor; to be read or written only while its memory is allocated.
    pub fn whole(&self) -> &Tensor {
        &self.whole
    }

    /// Frees the memory.
    pub fn release(&self) {
        // SAFETY: a live tensor. libtorch's operations and `cpu::memory` fail for a storage without memory.
        unsafe { jacobi_storage_release(pointer(&self.whole)) }
    }

    /// Allocates the memory again, with arbitrary content, if it is released.
    ///
    /// # Panics
    /// If there is not enough memory.
    pub fn allocate(&self) {
        if !self.is_released() {
            return;
        }
        // SAFETY: a live tensor; as many bytes as its size says.
        let done = unsafe { jacobi_storage_allocate(pointer(&self.whole), self.bytes) };
        assert!(done, "no memory for {} bytes of parameters", self.bytes);
    }

    /// Whether the memory is released.
    pub fn is_released(&self) -> bool {
        // SAFETY: a live tensor.
        unsafe { jacobi_storage_bytes(pointer(&self.whole)) == 0 && self.bytes > 0 }
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    #[test]
    fn views_outlive_the_memory_and_see_the_next() {
        let whole = Tensor::arange(6, (Kind::Float, Device::Cpu));
        let view = whole.narrow(0, 4, 2).view([1, 2]);
        let place = storage_place(&view);
        assert_eq!(place, storage_place(&whole.narrow(0, 4, 1)));
        assert_ne!(place, storage_place(&whole));
        let memory = Releasable::new(whole);
        memory.release();
        assert!(memory.is_released());
        assert_eq!(storage_place(&view), place);
        memory.allocate();
        let _ = memory.whole().shallow_clone().fill_(7.0);
        assert_eq!((view.double_value(&[0, 1]), memory.is_released()), (7.0, false));
    }

    #[test]
    #[should_panic(expected = "a tensor that fills its storage")]
    fn a_part_of_a_storage_is_not_released() {
        let _ = Releasable::new(Tensor::zeros([4], (Kind::Float, Device::Cpu)).narrow(0, 0, 2));
    }

    #[test]
    #[should_panic(expected = "memory that is not released")]
    fn kernels_do_not_read_released_memory() {
        let memory = Releasable::new(Tensor::zeros([4, 8], (Kind::Float, Device::Cpu)));
        let view = memory.whole().narrow(0, 1, 2);
        memory.release();
        let _ = crate::argmax(&view);
    }
}
