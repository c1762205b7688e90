//! The device that a verb computes on.

use std::sync::Once;

use jacobi_datasets::local_rank;
use jacobi_model::{Device, DeviceChoice};

use crate::output;

/// The device that `choice` selects for this process (one of several under a launcher). If it does
/// not use a GPU that the machine has, prints the reason once.
///
/// # Errors
/// [`jacobi_model::DeviceError`] for a GPU that is not available.
pub fn choose(choice: DeviceChoice) -> anyhow::Result<Device> {
    static PRINTED: Once = Once::new();
    let chosen = choice.resolve(local_rank(|name| std::env::var(name).ok())?)?;
    if let Some(note) = chosen.note {
        PRINTED.call_once(|| output::status(&note));
    }
    Ok(chosen.device)
}
