//! `jacobi tasks`: lists evaluation tasks, and checks that a task scores its own references as right.

use std::path::PathBuf;

use anyhow::bail;
use jacobi_eval::{SandboxConfig, TaskConfig, check_task, tasks};

use crate::output;
use crate::progress::Progress;
use crate::stages::report_bad_rows;

/// Evaluation tasks
#[derive(Debug, clap::Args)]
pub struct TasksArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List the built-in tasks, their versions and the harness whose settings they follow
    List,
    /// Score the reference responses of tasks: all should be correct
    Check(CheckArgs),
}

#[derive(Debug, clap::Args)]
struct CheckArgs {
    /// Names or TOML files, each optionally with =FILE, your copy of its questions
    #[arg(required = true, value_name = "TASK[=FILE]")]
    tasks: Vec<String>,
    /// Maximum questions of each task
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// The Python interpreter for generated programs
    #[arg(long, default_value = "python3", value_name = "PYTHON")]
    python: PathBuf,
    /// Run programs with only resource limits if no isolation is available
    #[arg(long)]
    allow_unsafe_execution: bool,
}

/// Lists or checks.
///
/// # Errors
/// A task that cannot be used; one that judges a reference response wrong.
pub fn run(args: &TasksArgs) -> anyhow::Result<()> {
    match &args.action {
        Action::List => list(),
        Action::Check(args) => check(args),
    }
}

fn list() -> anyhow::Result<()> {
    let mut text = String::new();
    for name in tasks::names() {
        let task = tasks::find(name)?;
        let version = task.version.unwrap_or_default();
        let path = task.prompts.path.display();
        text += &format!("{name} {version}\n  follows {}\n", task.follows);
        text += &if task.prompts.path.as_os_str().is_empty() { String::new() } else { format!("  {path}\n") };
    }
    Ok(output::result(text.trim_end())?)
}

fn check(args: &CheckArgs) -> anyhow::Result<()> {
    let unsafely = args.allow_unsafe_execution;
    let sandbox = SandboxConfig {
        python: args.python.clone(),
        allow_unsafe_execution: unsafely,
        ..SandboxConfig::default()
    };
    let mut wrong = 0;
    for chosen in &args.tasks {
        let config = TaskConfig { limit: args.limit, ..TaskConfig::chosen(chosen) };
        let mut progress = Progress::new("tasks");
        let check =
            check_task(&config, &sandbox, &mut |done, total| progress.update(done, total, &config.name))?;
        report_bad_rows("tasks", &check.bad_rows);
        let isolation =
            check.isolation.map_or(String::new(), |isolation| format!(", programs isolated by {isolation}"));
        progress.finish(&format!("{} checked", config.name));
        let mut lines =
            vec![format!("{}: {} of {} right{isolation}", config.name, check.right, check.judged)];
        lines.extend(check.wrong.iter().map(|(id, why)| format!("  {id}: {why}")));
        output::result(&lines.join("\n"))?;
        wrong += check.wrong.len();
    }
    if wrong > 0 {
        bail!("{wrong} reference responses are judged wrong");
    }
    Ok(())
}
