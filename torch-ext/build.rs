//! Compiles the C++ side of `shim/` against the headers of the libtorch that torch-sys found, and adds the rpath that
//! every crate linking libtorch has (`model/link_libtorch.rs`).

use std::{env, path::PathBuf};

fn main() {
    println!("cargo:rerun-if-changed=shim");
    println!("cargo:rerun-if-env-changed=LIBTORCH_INCLUDE");
    println!("cargo:rerun-if-env-changed=LIBTORCH_CXX11_ABI");
    let lib = PathBuf::from(env::var_os("DEP_TCH_LIBTORCH_LIB").expect("torch-sys says where libtorch is"));
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
    let home = lib.parent().expect("lib/ lies in libtorch").to_path_buf();
    let include = env::var_os("LIBTORCH_INCLUDE").map_or(home, PathBuf::from).join("include");
    // What torch-sys assumes too.
    let abi = env::var("LIBTORCH_CXX11_ABI").unwrap_or_else(|_| "1".to_owned());
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .warnings(false)
        // Glue: optimising it buys nothing, and debug symbols of libtorch's templates are large.
        .opt_level(0)
        .debug(false)
        .include("shim")
        .include(&include)
        .include(include.join("torch/csrc/api/include"))
        .define("_GLIBCXX_USE_CXX11_ABI", abi.as_str())
        .define("USE_C10D_GLOO", None)
        .define("GLOG_USE_GLOG_EXPORT", None)
        .file("shim/collectives.cpp")
        .file("shim/storage.cpp");
    if env::var_os("CARGO_FEATURE_CUDA").is_some() {
        build.define("JACOBI_NCCL", None).define("USE_C10D_NCCL", None);
    }
    build.compile("jacobi_shim");
}
