//! Finds and loads `libtorch_cuda.so` and the embedded object.
use std::ffi::{CStr, CString, c_char, c_int, c_long, c_void};
use std::fs::File;
use std::io::Write;
use std::os::fd::FromRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::CudaUnavailable;
use crate::ffi;

static OBJECT: &[u8] = include_bytes!(env!("MUSTER_C10D_CUDA_OBJECT"));

/// libtorch's NCCL group reads these when it is made. `wait` blocks and returns errors to its caller; there is no
/// watchdog and no monitor, which would end the process; nothing is dumped or told to the peers behind our back.
/// A communicator that is being set up is bounded too, in seconds, in case that it can no longer be asked.
const SETTINGS: [(&str, &str); 7] = [
    ("TORCH_NCCL_BLOCKING_WAIT", "1"),
    ("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0"),
    ("TORCH_NCCL_ENABLE_MONITORING", "0"),
    ("TORCH_NCCL_DUMP_ON_TIMEOUT", "0"),
    ("TORCH_NCCL_PROPAGATE_ERROR", "0"),
    ("TORCH_NCCL_SHOW_EAGER_INIT_P2P_SERIALIZATION_WARNING", "0"),
    ("TORCH_NCCL_NONBLOCKING_TIMEOUT", "120"),
];

type Create = unsafe extern "C" fn(
    store: *mut c_void,
    rank: c_int,
    size: c_int,
    device: c_int,
    timeout_ms: c_long,
    backend: *mut *mut c_void,
) -> c_int;
type Ready = unsafe extern "C" fn(backend: *mut c_void, ready: *mut c_int) -> c_int;
type Check = unsafe extern "C" fn(backend: *mut c_void) -> c_int;
type Version = unsafe extern "C" fn() -> c_int;
type LastError = unsafe extern "C" fn() -> *const c_char;

/// The functions of `cpp/nccl.cc`.
#[derive(Debug)]
pub(super) struct Library {
    pub(super) create: Create,
    pub(super) ready: Ready,
    pub(super) check: Check,
    pub(super) nccl_version: i32,
    last_error: LastError,
}

impl Library {
    pub(super) fn load() -> Result<&'static Self, CudaUnavailable> {
        static LOADED: OnceLock<Result<Library, CudaUnavailable>> = OnceLock::new();
        LOADED
            .get_or_init(Self::open)
            .as_ref()
            .map_err(Clone::clone)
    }

    /// What a function's status means; the text is the calling thread's.
    pub(super) fn outcome(&self, status: c_int) -> Result<(), String> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: a NUL-terminated string of this thread, copied before the thread's next call could change it.
        let text = unsafe { CStr::from_ptr((self.last_error)()) };
        Err(text.to_string_lossy().into_owned())
    }

    fn open() -> Result<Self, CudaUnavailable> {
        let not_loaded = |cause: String| CudaUnavailable::NotLoaded { cause };
        let library = libtorch_dir().map_err(not_loaded)?.join("libtorch_cuda.so");
        if !library.exists() {
            return Err(CudaUnavailable::CpuOnly { library });
        }
        for (name, value) in SETTINGS {
            // SAFETY: `load` asks to be called before other threads start, so nobody reads the environment meanwhile.
            unsafe { std::env::set_var(name, value) };
        }
        // Global, because the embedded object finds its symbols there.
        open(&library, libc::RTLD_NOW | libc::RTLD_GLOBAL).map_err(not_loaded)?;
        let object = Object::load().map_err(not_loaded)?;
        // SAFETY: the types are those of the definitions in cpp/nccl.cc, with which the object was compiled.
        unsafe {
            let version: Version = std::mem::transmute(object.symbol(c"muster_nccl_version")?);
            Ok(Self {
                create: std::mem::transmute::<*mut c_void, Create>(
                    object.symbol(c"muster_nccl_create")?,
                ),
                ready: std::mem::transmute::<*mut c_void, Ready>(
                    object.symbol(c"muster_nccl_ready")?,
                ),
                check: std::mem::transmute::<*mut c_void, Check>(
                    object.symbol(c"muster_nccl_check")?,
                ),
                last_error: std::mem::transmute::<*mut c_void, LastError>(
                    object.symbol(c"muster_nccl_last_error")?,
                ),
                nccl_version: version(),
            })
        }
    }
}

/// The embedded object, mapped for good.
struct Object(*mut c_void);

impl Object {
    fn load() -> Result<Self, String> {
        // SAFETY: a plain system call with a NUL-terminated name.
        let descriptor =
            unsafe { libc::memfd_create(c"muster_c10d_cuda".as_ptr(), libc::MFD_CLOEXEC) };
        if descriptor < 0 {
            return Err(format!("memfd_create: {}", std::io::Error::last_os_error()));
        }
        // SAFETY: the descriptor is new and nobody else's. The mapping stays when the file is closed.
        let mut file = unsafe { File::from_raw_fd(descriptor) };
        file.write_all(OBJECT)
            .map_err(|error| format!("memfd: {error}"))?;
        let path = PathBuf::from(format!("/proc/self/fd/{descriptor}"));
        open(&path, libc::RTLD_NOW | libc::RTLD_LOCAL).map(Self)
    }

    fn symbol(&self, name: &CStr) -> Result<*mut c_void, CudaUnavailable> {
        // SAFETY: the handle is live, since it is never closed.
        let symbol = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        if symbol.is_null() {
            return Err(CudaUnavailable::NotLoaded {
                cause: format!("no symbol {name:?}"),
            });
        }
        Ok(symbol)
    }
}

fn open(path: &Path, flags: c_int) -> Result<*mut c_void, String> {
    let name = CString::new(path.as_os_str().as_bytes()).map_err(|error| error.to_string())?;
    // SAFETY: runs the libraries' initialisers, which are libtorch's and ours.
    let handle = unsafe { libc::dlopen(name.as_ptr(), flags) };
    if handle.is_null() {
        Err(last_error())
    } else {
        Ok(handle)
    }
}

fn last_error() -> String {
    // SAFETY: dlerror returns null or a NUL-terminated string of this thread.
    unsafe {
        let text = libc::dlerror();
        if text.is_null() {
            return "the loader gives no reason".into();
        }
        CStr::from_ptr(text).to_string_lossy().into_owned()
    }
}

/// The directory of the libtorch in use.
fn libtorch_dir() -> Result<PathBuf, String> {
    let file = ffi::libtorch_file().map_err(|error| error.what().to_owned())?;
    Path::new(&file)
        .parent()
        .map(Path::to_path_buf)
        .ok_or_else(|| format!("{file} has no directory"))
}
