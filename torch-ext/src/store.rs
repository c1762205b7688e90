//! c10d's TCPStore: the small shared memory by which processes find each other and say what became of them.

use std::{
    ffi::{CStr, CString, c_char, c_void},
    time::Duration,
};

/// What libtorch says of a store or a group that did not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CollectiveError(pub String);

/// Where a store is, and who keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreAddress {
    /// The machine that keeps it.
    pub host: String,
    /// Its port; 0 has the one who keeps it find a free one.
    pub port: u16,
    /// Whether it is this process that keeps it.
    pub serves: bool,
    /// Stands before every key: attempts that follow each other do not read what the former wrote.
    pub prefix: String,
}

/// One connection to a store. Calls from several threads take turns, also with one that waits: a thread that must not
/// wait for others has a connection of its own.
#[derive(Debug)]
pub struct Store {
    raw: *mut c_void,
}

// SAFETY: a TCPStore guards its connection with a mutex.
unsafe impl Send for Store {}
// SAFETY: as above.
unsafe impl Sync for Store {}

unsafe extern "C" {
    fn jacobi_text_free(text: *mut c_char);
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
    /// Connects, and before that opens the store if it is kept here. Every call gives up after `timeout`.
    ///
    /// # Errors
    /// A port that is taken, a host that does not answer in time.
    pub fn open(address: &StoreAddress, timeout: Duration) -> Result<Self, CollectiveError> {
        let mut raw = std::ptr::null_mut();
        let (host, prefix) = (text(&address.host), text(&address.prefix));
        // SAFETY: both texts live as long as the call; `raw` is set where there is no error.
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

    /// The port, also where a free one was to be found.
    pub fn port(&self) -> u16 {
        // SAFETY: an open store.
        unsafe { jacobi_store_port(self.raw) }
    }

    /// Sets `key`.
    ///
    /// # Errors
    /// A store that is gone.
    pub fn set(&self, key: &str, value: &str) -> Result<(), CollectiveError> {
        let key = text(key);
        // SAFETY: an open store, a text, and the bytes of another with their number.
        checked(unsafe { jacobi_store_set(self.raw, key.as_ptr(), value.as_ptr(), value.len()) })
    }

    /// What `key` was set to, without waiting for it.
    ///
    /// # Errors
    /// A store that is gone.
    pub fn get(&self, key: &str) -> Result<Option<String>, CollectiveError> {
        let (key, mut value) = (text(key), std::ptr::null_mut());
        // SAFETY: an open store, a text, a place for the answer.
        checked(unsafe { jacobi_store_get(self.raw, key.as_ptr(), &mut value) })?;
        // SAFETY: null or a text of the C library's, which `take` frees.
        Ok((!value.is_null()).then(|| unsafe { take(value) }))
    }

    /// Adds `amount` to the number under `key`, which starts from 0; the sum.
    ///
    /// # Errors
    /// A store that is gone.
    pub fn add(&self, key: &str, amount: i64) -> Result<i64, CollectiveError> {
        let (key, mut sum) = (text(key), 0);
        // SAFETY: an open store, a text, a place for the answer.
        checked(unsafe { jacobi_store_add(self.raw, key.as_ptr(), amount, &mut sum) })?;
        Ok(sum)
    }

    /// Waits until somebody sets `key`.
    ///
    /// # Errors
    /// When nobody does within `timeout`; a store that is gone.
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

/// An error text of the shim as a value.
pub(crate) fn outcome(error: *mut c_char) -> Result<(), String> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: a text of the C library's.
    Err(unsafe { take(error) })
}

/// The same, of a store or a group.
pub(crate) fn checked(error: *mut c_char) -> Result<(), CollectiveError> {
    outcome(error).map_err(CollectiveError)
}

pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// # Safety
/// `raw` is a text that the C library allocated, used by nobody else.
pub(crate) unsafe fn take(raw: *mut c_char) -> String {
    // SAFETY: the caller's promise.
    unsafe {
        let text = CStr::from_ptr(raw).to_string_lossy().into_owned();
        jacobi_text_free(raw);
        text
    }
}

fn text(text: &str) -> CString {
    CString::new(text.replace('\0', " ")).expect("no zero byte is left")
}
