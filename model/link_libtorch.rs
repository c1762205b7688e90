//! Build script of every crate whose binaries or tests link libtorch. It adds an rpath to the libtorch that
//! torch-sys found, so that `cargo run` and `cargo test` work without LD_LIBRARY_PATH; with the feature
//! `cuda` it links CUDA too.

#[expect(clippy::print_stdout, reason = "a build script prints its instructions to cargo")]
fn main() {
    if let Some(lib) = std::env::var_os("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.to_string_lossy());
        if std::env::var_os("CARGO_FEATURE_CUDA").is_some() {
            // libtorch uses CUDA only if these libraries are loaded, so they are linked even if no symbol of
            // them is used.
            println!("cargo:rustc-link-arg=-L{}", lib.to_string_lossy());
            // CUDA's own libraries, where libtorch comes from a wheel.
            println!("cargo:rustc-link-arg=-Wl,-rpath,{}/../../nvidia/cu13/lib", lib.to_string_lossy());
            println!("cargo:rustc-link-arg=-Wl,--no-as-needed,-ltorch_cuda,-lc10_cuda,--as-needed");
        }
    }
}
