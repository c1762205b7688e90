//! The device that a verb computes on.

use std::sync::Once;

use jacobi_datasets::local_rank;
use jacobi_model::{Device, DeviceChoice, set_graphs};

use crate::{output, recipe::ModelSection};

/// How verbs that decode use a GPU.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct GraphArgs {
    /// On a GPU: record no passes as CUDA graphs
    #[arg(long)]
    pub no_graphs: bool,
}

/// The device of a recipe, and whether its passes are recorded.
///
/// # Errors
/// As [`choose`].
pub fn of(model: &ModelSection) -> anyhow::Result<Device> {
    choose(model.device, model.graphs)
}

/// The device that `choice` selects for this process (one of several under a launcher). If it does
/// not use a GPU that the machine has, prints the reason once. On a GPU passes are recorded as CUDA graphs if `graphs`.
///
/// # Errors
/// [`jacobi_model::DeviceError`] for a GPU that is not available.
pub fn choose(choice: DeviceChoice, graphs: bool) -> anyhow::Result<Device> {
    static PRINTED: Once = Once::new();
    set_graphs(graphs, output::status);
    let chosen = choice.resolve(local_rank(|name| std::env::var(name).ok())?)?;
    if let Some(note) = chosen.note {
        PRINTED.call_once(|| output::status(&note));
    }
    Ok(chosen.device)
}
