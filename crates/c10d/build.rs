//! Compiles the bridge to libtorch's c10d, and the CUDA part as a shared object of its own.
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

/// What the compiler must know about libtorch in both parts.
const DEFINES: [(&str, Option<&str>); 2] = [
    ("USE_DISTRIBUTED", None),
    ("_GLIBCXX_USE_CXX11_ABI", Some("1")),
];

fn main() -> Result<(), Box<dyn Error>> {
    for input in [
        "cpp",
        "gloo-stub",
        "cuda-stub",
        "src/ffi.rs",
        "src/ops/ffi.rs",
    ] {
        println!("cargo:rerun-if-changed={input}");
    }
    // torch-sys says where it found libtorch; only its direct dependents are told.
    let lib = PathBuf::from(std::env::var("DEP_TCH_LIBTORCH_LIB")?);
    let root = lib
        .parent()
        .ok_or("libtorch's lib directory has no parent")?;
    let include = root.join("include");
    let includes = [include.clone(), include.join("torch/csrc/api/include")];

    // The two compilations share nothing and take a minute each, so they run side by side.
    let object = PathBuf::from(std::env::var("OUT_DIR")?).join("libmuster_c10d_cuda.so");
    let mut linking = cuda_object(&includes, root, &object)?;
    bridge(&includes);
    if !linking.wait()?.success() {
        return Err("cpp/nccl.cc does not compile; the compiler's words are above".into());
    }
    println!(
        "cargo:rustc-env=MUSTER_C10D_CUDA_OBJECT={}",
        object.display()
    );

    // For this crate's own tests; dependents read DEP_MUSTER_C10D_LIBTORCH_LIB and do the same.
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
    println!("cargo:libtorch_lib={}", lib.display());
    Ok(())
}

fn bridge(includes: &[PathBuf]) {
    let mut build = cxx_build::bridges(["src/ffi.rs", "src/ops/ffi.rs"]);
    build.files([
        "cpp/store.cc",
        "cpp/group.cc",
        "cpp/reducer.cc",
        "cpp/ops.cc",
    ]);
    // The torch wheel has no Gloo headers: ours declare what ProcessGroupGloo.hpp needs.
    build
        .include("gloo-stub")
        .define("USE_C10D_GLOO", None)
        .std("c++17");
    for (name, value) in DEFINES {
        build.define(name, value);
    }
    for dir in includes {
        build.flag("-isystem").flag(dir.as_os_str());
    }
    build.flag("-Wno-unused-parameter").compile("muster_c10d");
}

/// Starts to link `cpp/nccl.cc` into a shared object whose CUDA symbols stay undefined: the loader resolves them against
/// libtorch_cuda at run time, so building needs the headers of the CUDA runtime and no CUDA library.
fn cuda_object(includes: &[PathBuf], root: &Path, object: &Path) -> Result<Child, Box<dyn Error>> {
    let cuda = root
        .parent()
        .ok_or("libtorch has no parent directory")?
        .join("nvidia/cu13/include");
    if !cuda.join("cuda_runtime.h").exists() {
        return Err(format!(
            "{} has no cuda_runtime.h; run `make setup`, which fetches it with libtorch",
            cuda.display()
        )
        .into());
    }
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let mut command = Command::new(&compiler);
    command.args([
        "-std=c++17",
        "-O2",
        "-fPIC",
        "-shared",
        "-s",
        "-fvisibility=hidden",
    ]);
    command.args(["-DUSE_CUDA", "-DUSE_C10D_NCCL", "-Icuda-stub"]);
    for (name, value) in DEFINES {
        command.arg(value.map_or(format!("-D{name}"), |value| format!("-D{name}={value}")));
    }
    for dir in includes.iter().chain([&cuda]) {
        command.arg("-isystem").arg(dir);
    }
    let child = command.args(["cpp/nccl.cc", "-o"]).arg(object).spawn();
    child.map_err(|error| format!("no C++ compiler `{compiler}`: {error}").into())
}
