//! Versions, devices and threads, for bug reports.

use serde_json::{Value, json};

/// The environment as one flat JSON object.
pub fn describe() -> Value {
    let mut all = json!({
        "jacobi": env!("CARGO_PKG_VERSION"),
        "build": if cfg!(debug_assertions) { "debug" } else { "release" },
        "os": std::env::consts::OS,
        "arch": std::env::consts::ARCH,
        "cpu": cpu_model(),
        "cpus_online": online_cpus(),
        // By the affinity of this process and the quota of its cgroup, rounded up.
        "cpus": num_cpus::get(),
        "threads_decided_by": if std::env::var_os("OMP_NUM_THREADS").is_some() {
            "OMP_NUM_THREADS"
        } else {
            "CPUs that this process may use: its affinity, and the quota of its cgroup"
        },
    });
    if let (Some(all), Value::Object(torch)) = (all.as_object_mut(), jacobi_model::environment()) {
        all.extend(torch);
    }
    all
}

/// The entries that affect speed, for comparing measurements.
pub fn machine() -> Value {
    const SPEED_ENTRIES: [&str; 8] =
        ["build", "arch", "cpu", "cpus", "vector_instructions", "threads", "libtorch", "gpus"];
    let all = describe();
    SPEED_ENTRIES.iter().filter_map(|name| Some(((*name).to_owned(), all.get(*name)?.clone()))).collect()
}

/// CPUs of the machine.
fn online_cpus() -> Option<usize> {
    let text = fs_err::read_to_string("/proc/cpuinfo").ok()?;
    Some(text.lines().filter(|line| line.starts_with("processor")).count())
}

fn cpu_model() -> Option<String> {
    let text = fs_err::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// The environment as lines of `name: value`.
pub fn as_text(environment: &Value) -> String {
    let fields = environment.as_object().into_iter().flatten();
    let line = |(name, value): (&String, &Value)| match value {
        Value::String(text) => format!("{name}: {text}\n"),
        other => format!("{name}: {other}\n"),
    };
    fields.map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Map;

    #[test]
    fn text_and_json_say_the_same() {
        let environment = json!({"jacobi": "1.0", "cpus": 2, "cuda_available": false});
        assert_eq!(machine().as_object().map(Map::len), Some(8), "{}", machine());
        assert_eq!(as_text(&environment), "jacobi: 1.0\ncpus: 2\ncuda_available: false\n");
    }
}
