//! `muster-worker report`: what this binary is made of and whether it works here, as JSON.

use serde_json::json;

/// Prints it. Returns the exit status.
pub fn run() -> i32 {
    // Before anything asks libtorch about CUDA.
    let (nccl, cuda_error) = match muster_c10d::cuda::load() {
        Ok(cuda) => (Some(cuda.nccl_version()), None),
        Err(unavailable) => (None, Some(unavailable.to_string())),
    };
    let report = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "numerics": muster_ops::numerics_fingerprint(),
        "nccl": nccl,
        "cuda_error": cuda_error,
        "gpus": tch::Cuda::device_count(),
    });
    println!("{report}");
    0
}
