//! Compiles the C++ side of `shim/` against the headers of the libtorch that torch-sys found, and adds the rpath that
//! every crate linking libtorch has (`model/link_libtorch.rs`).

use std::{
    env,
    path::{Path, PathBuf},
};

fn main() {
    println!("cargo:rerun-if-changed=shim");
    println!("cargo:rerun-if-env-changed=LIBTORCH_INCLUDE");
    println!("cargo:rerun-if-env-changed=LIBTORCH_CXX11_ABI");
    let lib = PathBuf::from(env::var_os("DEP_TCH_LIBTORCH_LIB").expect("torch-sys says where libtorch is"));
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
    if env::var_os("CARGO_FEATURE_CUDA").is_some() {
        println!("cargo:rustc-link-arg=-Wl,--no-as-needed,-ltorch_cuda,-lc10_cuda,--as-needed");
    }
    let home = lib.parent().expect("lib/ lies in libtorch").to_path_buf();
    let include = env::var_os("LIBTORCH_INCLUDE").map_or(home, PathBuf::from).join("include");
    // The default of torch-sys.
    let abi = env::var("LIBTORCH_CXX11_ABI").unwrap_or_else(|_| "1".to_owned());
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .warnings(false)
        // It only forwards calls, so optimising is of no use; debug symbols of libtorch's templates are large.
        .opt_level(0)
        .debug(false)
        .include("shim")
        .include(&include)
        .include(include.join("torch/csrc/api/include"))
        .define("_GLIBCXX_USE_CXX11_ABI", abi.as_str())
        .define("USE_C10D_GLOO", None)
        .define("GLOG_USE_GLOG_EXPORT", None)
        .file("shim/collectives.cpp")
        .file("shim/kernels.cpp")
        .file("shim/storage.cpp");
    if env::var_os("CARGO_FEATURE_CUDA").is_some() {
        check_cuda(&lib);
        build.define("JACOBI_NCCL", None).define("USE_C10D_NCCL", None).file("shim/cuda.cpp");
        for include in cuda_folders(&lib, ["cu13/include", "nccl/include"], "include") {
            build.include(include);
        }
    }
    build.compile("jacobi_shim");
    if env::var_os("CARGO_FEATURE_CUDA").is_some() {
        // After the shim, whose headers call it.
        link_cudart(&lib);
    }
}

/// Fails unless libtorch has CUDA.
fn check_cuda(lib: &Path) {
    assert!(
        lib.join("libtorch_cuda.so").exists(),
        "the feature `cuda` needs a libtorch with CUDA, and {} holds no libtorch_cuda.so: run scripts/setup.sh --cuda, then \
         export LIBTORCH=\"$PWD/.libtorch-cuda/torch\"",
        lib.display()
    );
}

/// The folders that exist, of the wheels next to libtorch and of a CUDA toolkit.
fn cuda_folders<const N: usize>(lib: &Path, of_wheels: [&str; N], of_toolkit: &str) -> Vec<PathBuf> {
    println!("cargo:rerun-if-env-changed=CUDA_HOME");
    let toolkit = env::var_os("CUDA_HOME").map_or_else(|| PathBuf::from("/usr/local/cuda"), PathBuf::from);
    // torch/ and nvidia/ are both in site-packages.
    let wheels = lib.ancestors().nth(2).expect("libtorch lies somewhere").join("nvidia");
    let folders = of_wheels.iter().map(|path| wheels.join(path)).chain([toolkit.join(of_toolkit)]);
    folders.filter(|path| path.is_dir()).collect()
}

/// Links CUDA's runtime by the name of its file: in wheels there is only the one with a version.
fn link_cudart(lib: &Path) {
    const NAMES: [&str; 2] = ["libcudart.so.13", "libcudart.so"];
    let folders = cuda_folders(lib, ["cu13/lib"], "lib64");
    let found = folders.iter().flat_map(|folder| NAMES.map(|name| (folder, name)));
    let (folder, name) = found
        .into_iter()
        .find(|(folder, name)| folder.join(name).exists())
        .expect("CUDA's runtime library, in the wheel nvidia-cuda-runtime beside libtorch or in CUDA_HOME");
    println!("cargo:rustc-link-search=native={}", folder.display());
    println!("cargo:rustc-link-lib=dylib:+verbatim={name}");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", folder.display());
}
