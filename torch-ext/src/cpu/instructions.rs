//! The vector instructions of our kernels: the best of this processor, or AVX2 where `ATEN_CPU_CAPABILITY`, libtorch's own
//! variable, says `avx2` or `default`.

use std::sync::OnceLock;

use pulp::Arch;

/// The instructions in use, as a figure should name them.
pub fn vector_instructions() -> &'static str {
    match arch() {
        #[cfg(target_arch = "x86_64")]
        Arch::V4(_) => "AVX-512",
        #[cfg(target_arch = "x86_64")]
        Arch::V3(_) => "AVX2",
        _ => "baseline",
    }
}

/// What pulp dispatches to.
pub(crate) fn arch() -> Arch {
    static ARCH: OnceLock<Arch> = OnceLock::new();
    *ARCH.get_or_init(|| {
        let limit = std::env::var("ATEN_CPU_CAPABILITY").unwrap_or_default();
        match Arch::new() {
            #[cfg(target_arch = "x86_64")]
            best @ Arch::V4(_) if matches!(limit.as_str(), "avx2" | "default") => {
                pulp::x86::V3::try_new().map_or(best, Arch::V3)
            }
            best => best,
        }
    })
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_pass_their_tests_with_avx2_too() {
        if vector_instructions() != "AVX-512" {
            // The other tests of this run have shown it.
            return;
        }
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["cpu::", "--skip", "with_avx2_too"])
            .env("ATEN_CPU_CAPABILITY", "avx2")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && !text.contains(" 0 passed"), "{text}");
    }

    #[test]
    fn the_instructions_follow_the_limit() {
        let limit = std::env::var("ATEN_CPU_CAPABILITY");
        assert!(limit.as_deref() != Ok("avx2") || vector_instructions() != "AVX-512");
    }
}
