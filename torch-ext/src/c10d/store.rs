//! c10d's TCPStore: a key-value store by which processes find each other and report errors.

use std::{
    ffi::{CString, c_char, c_void},
    time::Duration,
};

use crate::shim::{outcome, take};

/// A call of a store or a group that failed, in libtorch's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CollectiveError(pub String);

/// Where a store is, and which process serves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreAddress {
    /// The machine that serves it.
    pub host: String,
    /// Its port; with 0 the server finds a free one.
    pub port: u16,
    /// Whether this process serves it.
    pub serves: bool,
    /// Prepended to every key, so that a new attempt does not read the keys of an earlier one.
    pub prefix: String,
}

/// One connection to a store. Calls from several threads run one after the other, even while one of them waits: a thread that
/// must not wait for others needs another connection.
#[derive(Debug)]
pub struct Store {
    raw: *mut c_void,
}

// SAFETY: a TCPStore guards its connection with a mutex.
unsafe impl Send for Store {}
// SAFETY: as above.
unsafe impl Sync for Store {}

unsafe extern "C" {
    fn jacobi_store_open(
        host: *const c_char,
        port: u16,
        serves: bool,
        prefix: *const c_char,
        timeout_ms: i64,
        out: *mut *mut c_void,
    ) -> *mut c_char;
    fn jacobi_store_port(store: *const c_void) -> u16;
    fn jacobi_store_set(
        store: *mut c_void,
        key: *const c_char,
        value: *const u8,
        length: usize,
    ) -> *mut c_char;
    fn jacobi_store_get(store: *mut c_void, key: *const c_char, out: *mut *mut c_char) -> *mut c_char;
    fn jacobi_store_add(store: *mut c_void, key: *const c_char, amount: i64, sum: *mut i64) -> *mut c_char;
    fn jacobi_store_wait(store: *mut c_void, key: *const c_char, timeout_ms: i64) -> *mut c_char;
    fn jacobi_store_close(store: *mut c_void);
}

impl Store {
    /// Connects, after starting the server if this process serves the store. Every call fails after `timeout`.
    ///
    /// # Errors
    /// A port in use, a host that does not answer in time.
    pub fn open(address: &StoreAddress, timeout: Duration) -> Result<Self, CollectiveError> {
        let mut raw = std::ptr::null_mut();
        let (host, prefix) = (text(&address.host), text(&address.prefix));
        // SAFETY: both texts live as long as the call, and there is a place for the answer.
        checked(unsafe {
            jacobi_store_open(
                host.as_ptr(),
                address.port,
                address.serves,
                prefix.as_ptr(),
                millis(timeout),
                &mut raw,
            )
        })?;
        Ok(Self { raw })
    }

    /// The port, also if the server found a free one.
    pub fn port(&self) -> u16 {
        // SAFETY: an open store.
        unsafe { jacobi_store_port(self.raw) }
    }

    /// Sets `key`.
    ///
    /// # Errors
    /// A store that is no longer there.
    pub fn set(&self, key: &str, value: &str) -> Result<(), CollectiveError> {
        let key = text(key);
        // SAFETY: an open store, a text, and the bytes of another with their number.
        checked(unsafe { jacobi_store_set(self.raw, key.as_ptr(), value.as_ptr(), value.len()) })
    }

    /// The value of `key`, `None` if it is not set yet.
    ///
    /// # Errors
    /// A store that is no longer there.
    pub fn get(&self, key: &str) -> Result<Option<String>, CollectiveError> {
        let (key, mut value) = (text(key), std::ptr::null_mut());
        // SAFETY: an open store, a text, a place for the answer.
        checked(unsafe { jacobi_store_get(self.raw, key.as_ptr(), &mut value) })?;
        // SAFETY: null, or a text of the C library that nobody else uses.
        Ok((!value.is_null()).then(|| unsafe { take(value) }))
    }

    /// Adds `amount` to the number under `key`, which starts at 0, and returns the sum.
    ///
    /// # Errors
    /// A store that is no longer there.
    pub fn add(&self, key: &str, amount: i64) -> Result<i64, CollectiveError> {
        let (key, mut sum) = (text(key), 0);
        // SAFETY: an open store, a text, a place for the answer.
        checked(unsafe { jacobi_store_add(self.raw, key.as_ptr(), amount, &mut sum) })?;
        Ok(sum)
    }

    /// Waits until `key` is set.
    ///
    /// # Errors
    /// If it is not set within `timeout`; a store that is no longer there.
    pub fn wait(&self, key: &str, timeout: Duration) -> Result<(), CollectiveError> {
        let key = text(key);
        // SAFETY: an open store and a text.
        checked(unsafe { jacobi_store_wait(self.raw, key.as_ptr(), millis(timeout)) })
    }

    pub(crate) fn raw(&self) -> *mut c_void {
        self.raw
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // SAFETY: opened once, closed once.
        unsafe { jacobi_store_close(self.raw) }
    }
}

pub(crate) fn checked(error: *mut c_char) -> Result<(), CollectiveError> {
    outcome(error).map_err(CollectiveError)
}

pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

pub(crate) fn text(text: &str) -> CString {
    CString::new(text.replace('\0', " ")).expect("no zero byte is left")
}
