//! How many threads libtorch computes with, and how they wait for each other.
//!
//! OpenMP reads its settings when it is loaded, before `main`. To change one, this program starts itself again.

use std::{ffi::OsString, os::unix::process::CommandExt, process::Command};

use serde_json::{Value, json};

use crate::output;

const COUNT: &str = "OMP_NUM_THREADS";
const SPIN: &str = "GOMP_SPINCOUNT";

/// Rounds that a waiting thread spins before it sleeps. By default it is 300,000 rounds, and beside other work each
/// parallel region then waits for a thread that is not running.
const SPIN_ROUNDS: &str = "10000";

/// The variables that this program has set, separated by commas, in the process that it started in its place.
const SET_BY_JACOBI: &str = "JACOBI_OPENMP_DEFAULTS";

/// Gives libtorch as many threads as this process may use CPUs, and lets them sleep when they wait long. Variables that
/// the user has set are left alone. Returns in a process that has the settings.
pub fn configure(arguments: &[OsString]) {
    if is_set(SET_BY_JACOBI) {
        return;
    }
    let defaults = defaults(is_set, num_cpus::get(), jacobi_model::intra_op_threads());
    if defaults.is_empty() {
        return;
    }
    let names: Vec<&str> = defaults.iter().map(|(name, _)| *name).collect();
    let error = match std::env::current_exe() {
        Ok(program) => Command::new(program)
            .args(arguments)
            .envs(defaults.iter().map(|(name, value)| (name, value)))
            .env(SET_BY_JACOBI, names.join(","))
            .exec(),
        Err(error) => error,
    };
    output::status(&format!("warning: cannot restart with {} set: {error}", names.join(" and ")));
}

/// The variables to set, if `cpus` CPUs may be used and OpenMP would start `threads` threads. It knows the CPU affinity but not
/// the quota of a cgroup.
fn defaults(is_set: impl Fn(&str) -> bool, cpus: usize, threads: usize) -> Vec<(&'static str, String)> {
    let mut defaults = Vec::new();
    if !is_set(COUNT) && cpus < threads {
        defaults.push((COUNT, cpus.to_string()));
    }
    if !is_set(SPIN) && !is_set("OMP_WAIT_POLICY") {
        defaults.push((SPIN, SPIN_ROUNDS.to_owned()));
    }
    defaults
}

/// Threads of each of `ranks` processes on this machine, or none if the user has set their number.
pub fn per_rank(ranks: usize) -> Option<usize> {
    (!is_set(COUNT) || is_ours(COUNT)).then(|| (num_cpus::get() / ranks).max(1))
}

/// What decided the number of threads and their waiting, for `jacobi env`.
pub fn describe() -> Value {
    let count = match () {
        () if is_ours(COUNT) => "quota of the cgroup, rounded up".to_owned(),
        () if is_set(COUNT) => format!("{COUNT} of the environment"),
        () => "CPUs that this process may run on".to_owned(),
    };
    let variable = |name| std::env::var(name).ok().map(|value| format!("{name}={value}"));
    let waiting = match () {
        () if is_ours(SPIN) => format!("{SPIN}={SPIN_ROUNDS}: they spin for a short time, then sleep"),
        () => {
            let set: Vec<String> = [SPIN, "OMP_WAIT_POLICY"].into_iter().filter_map(variable).collect();
            format!("{} of the environment", set.join(", "))
        }
    };
    json!({"threads_decided_by": count, "threads_wait_by": waiting})
}

fn is_set(name: &str) -> bool {
    std::env::var_os(name).is_some()
}

/// Whether this program has set `name`.
fn is_ours(name: &str) -> bool {
    std::env::var(SET_BY_JACOBI).is_ok_and(|names| names.split(',').any(|ours| ours == name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_leave_the_users_variables_alone() {
        let spin = (SPIN, SPIN_ROUNDS.to_owned());
        let one = (COUNT, "1".to_owned());
        assert_eq!(defaults(|_| false, 2, 2), [spin.clone()]);
        assert_eq!(defaults(|_| false, 1, 2), [one.clone(), spin.clone()]);
        assert_eq!(defaults(|name| name == COUNT, 1, 2), [spin]);
        assert_eq!(defaults(|name| name == SPIN, 1, 2), [one]);
        assert_eq!(defaults(|name| name != SPIN, 1, 2), []);
    }
}
