//! The memory behind tensors, apart from the tensors: parameters that other processes keep most of the time give theirs
//! back and have it filled anew, while every view of them stays where it is.

use std::ffi::c_void;

use tch::Tensor;

/// Names one memory and a place in it. Views of one memory name it alike, whether it is there or given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StoragePlace {
    /// The memory.
    pub storage: usize,
    /// The first element, counted from the memory's.
    pub offset: i64,
}

unsafe extern "C" {
    fn jacobi_storage_name(tensor: *const c_void) -> *const c_void;
    fn jacobi_storage_offset(tensor: *const c_void) -> i64;
    fn jacobi_storage_bytes(tensor: *const c_void) -> usize;
    fn jacobi_storage_release(tensor: *const c_void);
    fn jacobi_storage_allocate(tensor: *const c_void, bytes: usize) -> bool;
}

/// Where the first element of `tensor` lies.
pub fn storage_place(tensor: &Tensor) -> StoragePlace {
    // SAFETY: a tensor that lives.
    unsafe {
        StoragePlace {
            storage: jacobi_storage_name(pointer(tensor)) as usize,
            offset: jacobi_storage_offset(pointer(tensor)),
        }
    }
}

/// Elements that fit into the memory of `tensor`.
pub fn storage_elements(tensor: &Tensor) -> usize {
    // SAFETY: a tensor that lives.
    unsafe { jacobi_storage_bytes(pointer(tensor)) / tensor.kind().elt_size_in_bytes() }
}

/// A memory that is given back and taken anew as a whole: all of the tensor `whole`, which starts at its beginning.
///
/// While it is given back, no view of it may be read or written; views made of it stay valid and see the new memory.
#[derive(Debug)]
pub struct Releasable {
    whole: Tensor,
    bytes: usize,
}

impl Releasable {
    /// # Panics
    /// If `whole` is not the whole of its memory.
    pub fn new(whole: Tensor) -> Self {
        let bytes = whole.numel() * whole.kind().elt_size_in_bytes();
        // SAFETY: a tensor that lives.
        let (held, offset) =
            unsafe { (jacobi_storage_bytes(pointer(&whole)), jacobi_storage_offset(pointer(&whole))) };
        assert_eq!((held, offset), (bytes, 0), "all of its memory");
        Self { whole, bytes }
    }

    /// The tensor; to be looked into only while the memory is there.
    pub fn whole(&self) -> &Tensor {
        &self.whole
    }

    /// Gives the memory back.
    pub fn release(&self) {
        // SAFETY: a tensor that lives; libtorch's own operations find an empty storage and refuse it.
        unsafe { jacobi_storage_release(pointer(&self.whole)) }
    }

    /// Takes memory again, of arbitrary content. Does nothing where it is still there.
    ///
    /// # Panics
    /// If there is none to be had.
    pub fn allocate(&self) {
        if !self.is_released() {
            return;
        }
        // SAFETY: a tensor that lives; as many bytes as its size says.
        let done = unsafe { jacobi_storage_allocate(pointer(&self.whole), self.bytes) };
        assert!(done, "no memory for {} bytes of parameters", self.bytes);
    }

    /// Whether the memory is given back.
    pub fn is_released(&self) -> bool {
        // SAFETY: a tensor that lives.
        unsafe { jacobi_storage_bytes(pointer(&self.whole)) == 0 && self.bytes > 0 }
    }
}

fn pointer(tensor: &Tensor) -> *const c_void {
    tensor.as_ptr().cast()
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
    #[should_panic(expected = "all of its memory")]
    fn a_part_of_a_memory_is_not_released() {
        let _ = Releasable::new(Tensor::zeros([4], (Kind::Float, Device::Cpu)).narrow(0, 0, 2));
    }
}
