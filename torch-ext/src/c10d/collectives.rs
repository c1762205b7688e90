//! c10d process groups: sums and copies over all processes of a job. Operations are asynchronous until they are waited for.
//! Every process calls the same ones in the same order.

use std::{
    ffi::{c_char, c_int, c_void},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tch::{Device, Tensor};

use crate::{
    CollectiveError, Store,
    c10d::store::{checked, millis, text},
    shim::pointer,
};

/// This process as a member of a process group.
#[derive(Debug)]
pub struct Group {
    raw: *mut c_void,
    rank: usize,
    world_size: usize,
}

// SAFETY: a c10d backend queues operations under a lock, and `started` starts one at a time.
unsafe impl Send for Group {}
// SAFETY: as above.
unsafe impl Sync for Group {}

/// An operation in progress. It keeps the memory of its tensors alive; until it is waited for, no other code may use them.
#[must_use = "the result is there only after waiting"]
#[derive(Debug)]
pub struct Pending {
    raw: *mut c_void,
}

unsafe extern "C" {
    fn jacobi_group_gloo(
        store: *mut c_void,
        name: *const c_char,
        rank: c_int,
        size: c_int,
        timeout_ms: i64,
        out: *mut *mut c_void,
    ) -> *mut c_char;
    #[cfg(feature = "cuda")]
    fn jacobi_group_nccl(
        store: *mut c_void,
        name: *const c_char,
        rank: c_int,
        size: c_int,
        timeout_ms: i64,
        out: *mut *mut c_void,
    ) -> *mut c_char;
    fn jacobi_group_all_reduce(group: *mut c_void, tensor: *mut c_void, out: *mut *mut c_void)
    -> *mut c_char;
    fn jacobi_group_reduce_scatter(
        group: *mut c_void,
        share: *mut c_void,
        whole: *mut c_void,
        out: *mut *mut c_void,
    ) -> *mut c_char;
    fn jacobi_group_all_gather(
        group: *mut c_void,
        whole: *mut c_void,
        share: *mut c_void,
        out: *mut *mut c_void,
    ) -> *mut c_char;
    fn jacobi_group_error(group: *mut c_void) -> *mut c_char;
    fn jacobi_group_abort(group: *mut c_void) -> *mut c_char;
    fn jacobi_group_leave(group: *mut c_void) -> *mut c_char;
    fn jacobi_work_wait(work: *mut c_void) -> *mut c_char;
}

impl Group {
    /// Joins the group `name` of `world_size` processes that share `store`: with Gloo for tensors of the CPU, with NCCL for
    /// those of a GPU. Every operation fails after `timeout`. A name is used once.
    ///
    /// # Errors
    /// Processes that do not join or cannot be reached; NCCL in a build without the feature `cuda`.
    pub fn join(
        device: Device,
        store: &Store,
        name: &str,
        (rank, world_size): (usize, usize),
        timeout: Duration,
    ) -> Result<Self, CollectiveError> {
        let make = match device {
            Device::Cpu => jacobi_group_gloo,
            #[cfg(feature = "cuda")]
            Device::Cuda(_) => jacobi_group_nccl,
            other => {
                return Err(CollectiveError(format!(
                    "no process group for {other:?} in this build: the feature `cuda` brings NCCL"
                )));
            }
        };
        let (name, mut raw) = (text(name), std::ptr::null_mut());
        let (number, size) = (rank as c_int, world_size as c_int);
        // SAFETY: an open store, a text, and a place for the answer.
        checked(unsafe { make(store.raw(), name.as_ptr(), number, size, millis(timeout), &mut raw) })?;
        Ok(Self { raw, rank, world_size })
    }

    /// The number of this process.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The number of processes.
    pub fn world_size(&self) -> usize {
        self.world_size
    }

    /// Replaces `tensor` by its sum over all processes.
    ///
    /// # Errors
    /// A process that has left.
    pub fn all_reduce(&self, tensor: &Tensor) -> Result<Pending, CollectiveError> {
        assert_plain(tensor);
        // SAFETY: an open group, and a tensor that the shim keeps alive.
        started(|out| unsafe { jacobi_group_all_reduce(self.raw, pointer(tensor), out) })
    }

    /// Sums `whole` over all processes and cuts it into as many equal parts as there are processes; `share` becomes the part of
    /// this rank. `whole` is arbitrary afterwards.
    ///
    /// # Errors
    /// A process that has left.
    pub fn reduce_scatter(&self, share: &Tensor, whole: &Tensor) -> Result<Pending, CollectiveError> {
        self.assert_parts(share, whole);
        // SAFETY: as above.
        started(|out| unsafe { jacobi_group_reduce_scatter(self.raw, pointer(share), pointer(whole), out) })
    }

    /// Fills `whole` with the `share` of every process, in the order of their ranks.
    ///
    /// # Errors
    /// A process that has left.
    pub fn all_gather(&self, whole: &Tensor, share: &Tensor) -> Result<Pending, CollectiveError> {
        self.assert_parts(share, whole);
        // SAFETY: as above.
        started(|out| unsafe { jacobi_group_all_gather(self.raw, pointer(whole), pointer(share), out) })
    }

    /// The failure of an operation whose [`Pending::wait`] succeeded: on a GPU waiting only orders streams, so that a failure
    /// appears later, and the data are not to be used. `None` under Gloo, whose `wait` reports each failure.
    pub fn error(&self) -> Option<CollectiveError> {
        // SAFETY: an open group.
        checked(unsafe { jacobi_group_error(self.raw) }).err()
    }

    /// Ends the operations of this process that wait for another one. The group cannot be used any more. Gloo has nothing to
    /// end: its operations fail by themselves.
    ///
    /// # Errors
    /// Operations that do not end.
    pub fn abort(&self) -> Result<(), CollectiveError> {
        // SAFETY: an open group.
        checked(unsafe { jacobi_group_abort(self.raw) })
    }

    fn assert_parts(&self, share: &Tensor, whole: &Tensor) {
        assert_plain(share);
        assert_plain(whole);
        assert_eq!(share.kind(), whole.kind(), "a part has the dtype of the whole");
        let parts = share.numel() * self.world_size;
        assert_eq!(parts, whole.numel(), "{} parts of {}", self.world_size, share.numel());
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // SAFETY: joined once, left once.
        let _ = checked(unsafe { jacobi_group_leave(self.raw) });
    }
}

impl Pending {
    /// Waits until the operation is done.
    ///
    /// # Errors
    /// A process that has left, or does not take part within the group's timeout.
    pub fn wait(self) -> Result<(), CollectiveError> {
        let raw = self.raw;
        std::mem::forget(self);
        // SAFETY: started once, waited for once.
        checked(unsafe { jacobi_work_wait(raw) })
    }
}

impl Drop for Pending {
    /// Waits, since the caller may use the tensors again from here on.
    fn drop(&mut self) {
        // SAFETY: started once, waited for once.
        let _ = checked(unsafe { jacobi_work_wait(self.raw) });
    }
}

fn started(start: impl FnOnce(*mut *mut c_void) -> *mut c_char) -> Result<Pending, CollectiveError> {
    // All groups of a process share c10d's flight recorder, which records each start in a map before it takes its lock.
    static STARTING: Mutex<()> = Mutex::new(());
    let _alone = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut raw = std::ptr::null_mut();
    checked(start(&mut raw))?;
    Ok(Pending { raw })
}

fn assert_plain(tensor: &Tensor) {
    assert!(tensor.is_contiguous(), "a contiguous tensor of {:?}", tensor.size());
}

#[cfg(test)]
mod tests;
