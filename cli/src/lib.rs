//! The command line: parses arguments, calls one library function, prints the result. Holds no tensors and no algorithm.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

pub mod adapter;
mod commands;
pub mod comparing;
pub mod decoding;
pub mod device;
pub mod environment;
pub mod exit;
pub mod export;
pub mod inspect;
pub mod kept_eval;
pub mod launch;
pub mod layers;
pub mod ledger;
pub mod output;
pub mod pipeline;
pub mod plan;
pub mod progress;
pub mod recipe;
pub mod replace_dir;
pub mod run_dir;
pub mod schema;
pub mod serving;
pub mod shared_work;
pub mod shipped;
pub mod signals;
pub mod stages;
pub mod supervised;
pub mod tuning;

use commands::{config, decode, env, eval, generate, inspect as look, run as recipe_run, train, tune};

/// Turn a causal language model into one that decodes many tokens per forward pass
///
/// The same checkpoint, no extra heads and no draft model: trajectories of Jacobi decoding are recorded, and the model
/// is trained to jump ahead on them. Start with `jacobi quickstart`.
#[derive(Debug, Parser)]
#[command(name = "jacobi", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Quickstart(commands::quickstart::QuickstartArgs),
    Run(recipe_run::RunArgs),
    Generate(generate::GenerateArgs),
    Import(commands::import::ImportArgs),
    Train(train::TrainArgs),
    Export(commands::export::ExportArgs),
    Eval(eval::EvalArgs),
    Report(commands::report::ReportArgs),
    Tune(tune::TuneArgs),
    Tasks(commands::tasks::TasksArgs),
    Decode(decode::DecodeArgs),
    Serve(commands::serve::ServeArgs),
    Inspect(look::InspectArgs),
    Hub(commands::hub::HubArgs),
    Config(config::ConfigArgs),
    Env(env::EnvArgs),
}

/// The command line as data: for help texts, completions and tests.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Parses `arguments` (the program's name first), does what they say, and returns the exit code: 0; 1 for a
/// runtime failure; 2 for a wrong command line or config; 128+n after signal n.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(outcome) => {
            // Prints an error, or the text of --help and --version. It fails only if the reader has closed the pipe.
            let _ = outcome.print();
            return ExitCode::from(u8::try_from(outcome.exit_code()).unwrap_or(2));
        }
    };
    jacobi_datasets::hub::on_transfer(progress::show_transfer);
    // OMP_NUM_THREADS, which divides a machine among ranks, holds for rayon's threads too. Fails only if they have started.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(jacobi_model::threads()).build_global();
    match perform(&cli.verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            match exit::signal(&error) {
                Some(_) => output::status(&error.root_cause().to_string()),
                None => output::error(&error),
            }
            ExitCode::from(exit::code(&error))
        }
    }
}

fn perform(verb: &Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Quickstart(args) => commands::quickstart::run(args),
        Verb::Run(args) => recipe_run::run(args),
        Verb::Generate(args) => generate::run(args),
        Verb::Import(args) => commands::import::run(args),
        Verb::Train(args) => train::run(args),
        Verb::Export(args) => commands::export::run(args),
        Verb::Eval(args) => eval::run(args),
        Verb::Report(args) => commands::report::run(args),
        Verb::Tune(args) => tune::run(args),
        Verb::Tasks(args) => commands::tasks::run(args),
        Verb::Decode(args) => decode::run(args),
        Verb::Serve(args) => commands::serve::run(args),
        Verb::Inspect(args) => look::run(args),
        Verb::Hub(args) => commands::hub::run(args),
        Verb::Config(args) => config::run(args),
        Verb::Env(args) => env::run(args),
    }
}
