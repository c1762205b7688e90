//! Build script shared by every crate whose binaries and tests link libtorch: an rpath to the libtorch
//! that torch-sys found, so that `cargo run` and `cargo test` work without LD_LIBRARY_PATH.

#[expect(clippy::print_stdout, reason = "this is how a build script speaks to cargo")]
fn main() {
    if let Some(lib) = std::env::var_os("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.to_string_lossy());
    }
}
