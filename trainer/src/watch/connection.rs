//! A connection to the store that is opened again after a failed call.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jacobi_torch_ext::{CollectiveError, Store, StoreAddress};

/// Timeout of the connection to the store and of each request.
pub(super) const STORE_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection of this process to the store.
pub(super) struct Connection {
    address: StoreAddress,
    store: Mutex<Arc<Store>>,
}

impl Connection {
    /// Connects to the store, which another connection or process serves.
    pub(super) fn open(address: &StoreAddress) -> Result<Self, CollectiveError> {
        let address = StoreAddress { serves: false, ..address.clone() };
        let store = Mutex::new(Arc::new(Store::open(&address, STORE_TIMEOUT)?));
        Ok(Self { address, store })
    }

    /// Makes a call. If it fails, connects again and makes it once more: a connection can break while the store lives, and
    /// after a timeout the late answer would be taken for that of the next call.
    pub(super) fn call<T>(
        &self,
        call: impl Fn(&Store) -> Result<T, CollectiveError>,
    ) -> Result<T, CollectiveError> {
        let current = || self.store.lock().unwrap_or_else(PoisonError::into_inner);
        let store = Arc::clone(&current());
        call(&store).or_else(|_| {
            let fresh = Arc::new(Store::open(&self.address, STORE_TIMEOUT)?);
            *current() = Arc::clone(&fresh);
            call(&fresh)
        })
    }
}
