//! The CUDA part, found at run time: one binary serves machines with and without a GPU.
//!
//! Where libtorch is the CUDA build, `libtorch_cuda.so` lies beside the `libtorch_cpu.so` that this process uses. It is
//! loaded from there, and after it the small object that `build.rs` has made of `cpp/nccl.cc`, which is embedded here.
mod library;

use std::ffi::{c_int, c_long, c_void};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use cxx::UniquePtr;
use tch::{Device, Kind, Tensor};

use crate::options::milliseconds;
use crate::store::StoreHandle;
use crate::{Abort, Group, GroupError, GroupOptions, Op, ffi};
use library::Library;

/// Between two looks at a communicator that is being set up.
const POLL: Duration = Duration::from_millis(2);

/// Why there is no CUDA in this process.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CudaUnavailable {
    /// libtorch is the CPU build.
    #[error(
        "this libtorch is CPU-only: there is no {}; `make setup DEVICE=cuda` fetches the one with CUDA",
        library.display()
    )]
    CpuOnly {
        /// The file that the CUDA build has.
        library: PathBuf,
    },
    /// The CUDA build is there and does not load.
    #[error("libtorch's CUDA part did not load: {cause}")]
    NotLoaded {
        /// The loader's message.
        cause: String,
    },
}

/// CUDA is loaded.
#[derive(Debug, Clone, Copy)]
pub struct Cuda {
    library: &'static Library,
}

impl Cuda {
    /// The version of NCCL that libtorch was compiled against, such as `2.28.9`.
    pub fn nccl_version(&self) -> String {
        let code = self.library.nccl_version;
        format!("{}.{}.{}", code / 10_000, code / 100 % 100, code % 100)
    }
}

/// Loads libtorch's CUDA part into the process; afterwards `tch::Cuda` sees the GPUs. Later calls return what the first
/// one found.
///
/// A process that wants a GPU calls this before anything that asks libtorch about CUDA (`tch::Cuda`,
/// `tch::manual_seed`), since libtorch remembers the first answer, and before it starts threads, since this sets
/// environment variables.
pub fn load() -> Result<Cuda, CudaUnavailable> {
    Library::load().map(|library| Cuda { library })
}

/// Starts an NCCL communicator for `Group::connect`; [`settle`] waits for it.
pub(crate) fn communicator(
    handle: Box<StoreHandle>,
    options: &GroupOptions,
    index: usize,
    abort: &Abort,
) -> Result<UniquePtr<ffi::Group>, GroupError> {
    let library = load()?.library;
    let failed = |message: &str| GroupError::sort(message, abort.reason());
    let device = c_int::try_from(index).map_err(|_| failed("no such GPU"))?;
    let store = ffi::store_release(handle, milliseconds(options.form_timeout))
        .map_err(|error| failed(error.what()))?;
    let mut backend: *mut c_void = std::ptr::null_mut();
    // SAFETY: `store` is a live c10d::Store, which the callee borrows; `backend` receives an owned reference on success.
    let status = unsafe {
        (library.create)(
            store as *mut c_void,
            options.rank as c_int,
            options.world_size as c_int,
            device,
            milliseconds(options.timeout) as c_long,
            &raw mut backend,
        )
    };
    let created = library.outcome(status);
    // SAFETY: both are owned references, the latter null where there is none; the group takes them over either way.
    let group = unsafe { ffi::nccl_group(store, backend as usize) };
    created.map_err(|cause| failed(&cause))?;
    group.map_err(|error| failed(error.what()))
}

/// Waits until the communicator is set up, and runs a first collective, which makes NCCL open its connections.
///
/// Asking again and again leaves the communicator's lock free for an abort, which libtorch's own wait would hold.
pub(crate) fn settle(
    group: &Group,
    options: &GroupOptions,
    abort: &Abort,
) -> Result<(), GroupError> {
    let library = load()?.library;
    let start = Instant::now();
    loop {
        if let Some(reason) = abort.reason() {
            return Err(GroupError::Aborted { reason });
        }
        let mut ready: c_int = 0;
        // SAFETY: the backend is a live Communicator for as long as the group is.
        let status = unsafe {
            (library.ready)(
                ffi::group_backend(group.inner().raw()) as *mut c_void,
                &raw mut ready,
            )
        };
        library
            .outcome(status)
            .map_err(|cause| GroupError::sort(&cause, abort.reason()))?;
        if ready != 0 {
            break;
        }
        if start.elapsed() > options.form_timeout {
            let cause = format!(
                "NCCL found no peer in {} s",
                options.form_timeout.as_secs_f64()
            );
            return Err(GroupError::TimedOut { cause });
        }
        std::thread::sleep(POLL);
    }
    let device: Device = options.device;
    let sum = Tensor::f_ones([1], (Kind::Float, device))
        .map_err(|error| GroupError::sort(&error.to_string(), abort.reason()))?;
    group
        .all_reduce(&sum, Op::Sum)
        .map_err(|error| GroupError::sort(&error.to_string(), abort.reason()))
}

/// The communicator's asynchronous error, as a text.
pub(crate) fn check(group: &ffi::Group) -> Result<(), String> {
    let library = load().map_err(|error| error.to_string())?.library;
    // SAFETY: a group on a CUDA device has a live Communicator as its backend.
    let status = unsafe { (library.check)(ffi::group_backend(group) as *mut c_void) };
    library.outcome(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loading_says_why_not_and_says_it_again() {
        match load() {
            Ok(cuda) => assert_eq!(cuda.nccl_version(), "2.28.9"),
            Err(error) => {
                let CudaUnavailable::CpuOnly { library } = &error else {
                    panic!("{error}");
                };
                assert!(library.ends_with("lib/libtorch_cuda.so") && !library.exists());
                assert!(error.to_string().contains("CPU-only"));
                assert_eq!(load().err(), Some(error));
            }
        }
    }
}
