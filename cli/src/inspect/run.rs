//! Description of a run directory: status of its stages, contents, results.

use std::path::Path;

use jacobi_datasets::Manifest;
use jacobi_report::{terminal_table, training_table};
use jacobi_trainer::latest_checkpoint;

use crate::ledger::{Ledger, Status};
use crate::pipeline::training_curves;
use crate::run_dir::RunDir;
use crate::stages::read_results;

pub(super) fn describe(root: &Path) -> anyhow::Result<String> {
    let run = RunDir::new(root);
    let mut text = format!("run {}\n", root.display());
    if let Ok(command) = fs_err::read_to_string(run.command()) {
        text += &command.lines().map(|line| format!("  {line}\n")).collect::<String>();
    }
    let ledger = Ledger::open(run.ledger())?;
    for round in (1..).take_while(|&round| run.round(round).is_dir()) {
        text += &format!("round {round}\n");
        if let Some(manifest) = Manifest::load(&run.trajectories(round))? {
            let Manifest { input, written, complete, .. } = manifest;
            let state = if complete { "complete" } else { "incomplete" };
            text += &format!("  trajectories {written} of {input} prompts, {state}\n");
        }
        if let Some(checkpoint) = latest_checkpoint(&run.round(round)) {
            text += &format!("  checkpoint   {}\n", checkpoint.display());
        }
    }
    for stage in ledger.names() {
        let state = if ledger.status(stage) == Status::Finished { "finished" } else { "started" };
        text += &format!("stage {stage}: {state}\n");
    }
    let training = training_table(&training_curves(&run)?);
    if !training.is_empty() {
        text += &format!("\n{training}");
    }
    if run.report().join("results.json").is_file() {
        text += &format!("\n{}", terminal_table(&read_results(&run.report())?.rows));
    }
    Ok(text)
}
