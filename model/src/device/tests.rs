//! Which device a choice means on machines with and without GPUs.

use super::*;

fn found(text: &str, gpus: Result<usize, NoGpu>, local_rank: usize, bound: bool) -> String {
    let choice: DeviceChoice = text.parse().unwrap();
    assert_eq!(choice.to_string(), text);
    match choice.among(gpus, local_rank, bound) {
        Ok(Chosen { device, note }) => format!("{device:?} {}", note.unwrap_or_default()),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_choice_is_a_device_or_says_why_not() {
    let no_driver = || Err(NoGpu::NotFound("no driver".into()));
    type Case = (&'static str, Result<usize, NoGpu>, usize, bool, &'static str);
    let rows: [Case; 12] = [
        ("auto", Err(NoGpu::NotBuilt), 0, false, "Cpu "),
        ("auto", no_driver(), 0, false, "Cpu computing on the CPU: CUDA finds no GPU: no driver"),
        ("auto", Ok(2), 1, false, "Cuda(1) "),
        ("auto", Ok(2), 2, false, "process 2 of this machine has no GPU for itself, there are 2"),
        ("cpu", Ok(2), 1, false, "Cpu "),
        ("cuda", Ok(8), 7, false, "Cuda(7) "),
        ("cuda", Ok(1), 3, true, "Cuda(0) "),
        ("cuda", Ok(1), 3, false, "has no GPU for itself"),
        ("cuda", no_driver(), 0, false, "device = \"cuda\" is not available: CUDA finds no GPU: no driver"),
        ("cuda:1", Err(NoGpu::NotBuilt), 0, false, "without the feature `cuda`"),
        ("cuda:1", Ok(2), 0, false, "Cuda(1) "),
        ("cuda:2", Ok(2), 0, false, "device = \"cuda:2\" is not available: there are 2 GPUs"),
    ];
    for (text, gpus, local_rank, bound, expected) in rows {
        let found = found(text, gpus, local_rank, bound);
        assert!(found.contains(expected), "{text} as {local_rank}: {found}");
    }
}

#[test]
fn unknown_devices_are_refused() {
    for text in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "CPU"] {
        let error = text.parse::<DeviceChoice>().unwrap_err().to_string();
        assert!(error.contains(&format!("`{text}` is not a device")), "{error}");
    }
}
