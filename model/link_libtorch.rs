//! Build script shared by every crate whose binaries and tests link libtorch: an rpath to the libtorch
//! that torch-sys found, so that `cargo run` and `cargo test` work without LD_LIBRARY_PATH; with the feature `cuda` also
//! libtorch's CUDA side.

#[expect(clippy::print_stdout, reason = "this is how a build script speaks to cargo")]
fn main() {
    if let Some(lib) = std::env::var_os("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.to_string_lossy());
        if std::env::var_os("CARGO_FEATURE_CUDA").is_some() {
            // libtorch finds its CUDA side by what is loaded, so it is to be loaded whether a symbol of it is named or not.
            println!("cargo:rustc-link-arg=-L{}", lib.to_string_lossy());
            // Of the wheel beside libtorch, where it is one.
            println!("cargo:rustc-link-arg=-Wl,-rpath,{}/../../nvidia/cu13/lib", lib.to_string_lossy());
            println!("cargo:rustc-link-arg=-Wl,--no-as-needed,-ltorch_cuda,-lc10_cuda,--as-needed");
        }
    }
}
