//! The device that a verb computes on.

use std::sync::Once;

use jacobi_datasets::local_rank;
use jacobi_model::{Device, DeviceChoice};

use crate::output;

/// The device that `choice` is for this process, which is one of several where a launcher says so. Says, once, why where
/// it is not the GPU that could have been expected.
///
/// # Errors
/// [`jacobi_model::DeviceError`] for a GPU that is not available.
pub fn choose(choice: DeviceChoice) -> anyhow::Result<Device> {
    static SAID: Once = Once::new();
    let chosen = choice.resolve(local_rank(|name| std::env::var(name).ok())?)?;
    if let Some(note) = chosen.note {
        SAID.call_once(|| output::status(&note));
    }
    Ok(chosen.device)
}
