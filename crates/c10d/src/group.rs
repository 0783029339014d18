//! A group of ranks and its collectives.
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once};

use cxx::UniquePtr;
use tch::{Device, Tensor};

use crate::abort::Registration;
use crate::options::milliseconds;
use crate::store::StoreHandle;
use crate::{
    Abort, CollectiveError, GroupError, GroupOptions, StoreBackend, Work, cuda, ffi, form,
};

/// How an all-reduce combines the ranks' elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Their sum.
    Sum,
    /// Their product.
    Product,
    /// The smallest.
    Min,
    /// The largest.
    Max,
}

impl Op {
    /// c10d's `ReduceOp::RedOpType`.
    fn code(self) -> u8 {
        match self {
            Self::Sum => 0,
            Self::Product => 2,
            Self::Min => 3,
            Self::Max => 4,
        }
    }
}

/// The ranks of one generation, connected.
///
/// All ranks call the same collectives in the same order with tensors of the same shape and kind, on the group's
/// device, contiguous. Dropping the group ends what is in flight; that never waits for a peer.
#[derive(Debug)]
pub struct Group {
    inner: Arc<Inner>,
    /// Keeps the hook in the [`Abort`] for as long as there is something to abort.
    _registration: Registration,
}

/// What outlives the [`Group`] while its operations or a reducer are still held.
pub(crate) struct Inner {
    raw: Raw,
    rank: u32,
    size: u32,
    device: Device,
    abort: Abort,
    dropped: AtomicBool,
}

struct Raw(UniquePtr<ffi::Group>);
// SAFETY: the C++ group is reference counts with atomic counters, and a backend. Collectives are launched under the
// group's own mutex (group_impl.h); abort may run beside them by libtorch's contract for NCCL, and for Gloo because the
// pairs of a formed group are never replaced and each has a lock of its own.
unsafe impl Send for Raw {}
// SAFETY: as above.
unsafe impl Sync for Raw {}

impl Group {
    /// Connects this process with its peers, which all call this with the same world size over the same store.
    ///
    /// Blocks until all have come, at most `options.form_timeout`; [`Abort::abort`] ends it at once. `store` must be
    /// this generation's own: keys of an older one would connect to the dead.
    pub fn form(
        store: Arc<dyn StoreBackend>,
        options: &GroupOptions,
        abort: &Abort,
    ) -> Result<Self, GroupError> {
        options.validate()?;
        form::on_a_thread(store, options, abort)
    }

    /// Connects in the calling thread. Gloo blocks here; [`form::on_a_thread`] says what that means.
    pub(crate) fn connect(
        store: Arc<dyn StoreBackend>,
        options: &GroupOptions,
        abort: &Abort,
    ) -> Result<Self, GroupError> {
        let sort = |error: cxx::Exception| GroupError::sort(error.what(), abort.reason());
        let handle = StoreHandle::new(store, abort.clone());
        match options.device {
            Device::Cuda(index) => {
                let raw = cuda::communicator(handle, options, index, abort)?;
                let group = Self::assemble(raw, options, abort)?;
                cuda::settle(&group, options, abort)?;
                Ok(group)
            }
            _ => {
                static LOGGING: Once = Once::new();
                LOGGING.call_once(ffi::init_logging);
                let (host, interface) = match &options.address {
                    crate::GlooAddress::Host(host) => (host.as_str(), ""),
                    crate::GlooAddress::Interface(interface) => ("", interface.as_str()),
                };
                let raw = ffi::gloo_group(
                    handle,
                    options.rank as i32,
                    options.world_size as i32,
                    milliseconds(options.form_timeout),
                    milliseconds(options.timeout),
                    host,
                    interface,
                    options.gloo_threads as i32,
                )
                .map_err(sort)?;
                Self::assemble(raw, options, abort)
            }
        }
    }

    fn assemble(
        raw: UniquePtr<ffi::Group>,
        options: &GroupOptions,
        abort: &Abort,
    ) -> Result<Self, GroupError> {
        let inner = Arc::new(Inner {
            raw: Raw(raw),
            rank: options.rank,
            size: options.world_size,
            device: options.device,
            abort: abort.clone(),
            dropped: AtomicBool::new(false),
        });
        let hook = Arc::downgrade(&inner);
        let registration = abort.on_abort(move || {
            if let Some(inner) = hook.upgrade() {
                inner.fail_all();
            }
        });
        match registration {
            Ok(registration) => Ok(Self {
                inner,
                _registration: registration,
            }),
            Err(reason) => {
                inner.fail_all();
                Err(GroupError::Aborted { reason })
            }
        }
    }

    /// This process's index.
    pub fn rank(&self) -> u32 {
        self.inner.rank
    }

    /// How many ranks there are.
    pub fn size(&self) -> u32 {
        self.inner.size
    }

    /// Where the tensors of its collectives live.
    pub fn device(&self) -> Device {
        self.inner.device
    }

    /// Combines `tensor` over all ranks, in place.
    pub fn all_reduce(&self, tensor: &Tensor, op: Op) -> Result<(), CollectiveError> {
        self.start_all_reduce(tensor, op)?.wait()
    }

    /// Copies `root`'s `tensor` into that of every rank.
    pub fn broadcast(&self, tensor: &Tensor, root: u32) -> Result<(), CollectiveError> {
        self.start_broadcast(tensor, root)?.wait()
    }

    /// Concatenates every rank's `input`, `[n]`, into `output`, `[size * n]`, in the order of ranks.
    pub fn all_gather_into(&self, output: &Tensor, input: &Tensor) -> Result<(), CollectiveError> {
        self.start_all_gather_into(output, input)?.wait()
    }

    /// Sends rows of `input`, `[sum(to_rows), …]`, to the ranks in their order, `to_rows[r]` to rank r, and fills `output`,
    /// `[sum(from_rows), …]`, with the rows that the ranks send to this one.
    pub fn all_to_all(
        &self,
        output: &Tensor,
        input: &Tensor,
        from_rows: &[i64],
        to_rows: &[i64],
    ) -> Result<(), CollectiveError> {
        self.start("all-to-all", |raw| {
            // SAFETY: as in `start_all_reduce`.
            unsafe {
                let (output, input) = (ffi::pointer(output), ffi::pointer(input));
                ffi::all_to_all(raw, output, input, from_rows, to_rows)
            }
        })?
        .wait()
    }

    /// Sends `tensor` to rank `to`, which receives it under the same `tag`.
    pub fn send(&self, tensor: &Tensor, to: u32, tag: u32) -> Result<(), CollectiveError> {
        self.start_send(tensor, to, tag)?.wait()
    }

    /// Fills `tensor` with what rank `from` sends under `tag`.
    pub fn recv(&self, tensor: &Tensor, from: u32, tag: u32) -> Result<(), CollectiveError> {
        self.start_recv(tensor, from, tag)?.wait()
    }

    /// Returns once every rank has called it.
    pub fn barrier(&self) -> Result<(), CollectiveError> {
        self.start_barrier()?.wait()
    }

    /// [`all_reduce`](Self::all_reduce), without waiting.
    pub fn start_all_reduce(&self, tensor: &Tensor, op: Op) -> Result<Work, CollectiveError> {
        self.start("all-reduce", |raw| {
            // SAFETY: `tensor` is live for the call, and the C++ side keeps a clone of its own.
            unsafe { ffi::all_reduce(raw, ffi::pointer(tensor), op.code()) }
        })
    }

    /// [`broadcast`](Self::broadcast), without waiting.
    pub fn start_broadcast(&self, tensor: &Tensor, root: u32) -> Result<Work, CollectiveError> {
        self.start("broadcast", |raw| {
            // SAFETY: as in `start_all_reduce`.
            unsafe { ffi::broadcast(raw, ffi::pointer(tensor), index(root)) }
        })
    }

    /// [`all_gather_into`](Self::all_gather_into), without waiting.
    pub fn start_all_gather_into(
        &self,
        output: &Tensor,
        input: &Tensor,
    ) -> Result<Work, CollectiveError> {
        self.start("all-gather", |raw| {
            // SAFETY: as in `start_all_reduce`.
            unsafe { ffi::all_gather_into(raw, ffi::pointer(output), ffi::pointer(input)) }
        })
    }

    /// [`send`](Self::send), without waiting.
    pub fn start_send(&self, tensor: &Tensor, to: u32, tag: u32) -> Result<Work, CollectiveError> {
        self.start("send", |raw| {
            // SAFETY: as in `start_all_reduce`.
            unsafe { ffi::send(raw, ffi::pointer(tensor), index(to), index(tag)) }
        })
    }

    /// [`recv`](Self::recv), without waiting.
    pub fn start_recv(
        &self,
        tensor: &Tensor,
        from: u32,
        tag: u32,
    ) -> Result<Work, CollectiveError> {
        self.start("recv", |raw| {
            // SAFETY: as in `start_all_reduce`.
            unsafe { ffi::recv(raw, ffi::pointer(tensor), index(from), index(tag)) }
        })
    }

    /// [`barrier`](Self::barrier), without waiting.
    pub fn start_barrier(&self) -> Result<Work, CollectiveError> {
        self.start("barrier", ffi::barrier)
    }

    /// Whether the group still stands: not aborted, and on a GPU without an asynchronous error of the communicator.
    ///
    /// NCCL runs behind the host's back, so a collective can fail after its `wait` has returned. The host calls this
    /// after it has read the result of the step's last collective, and before it changes anything by it.
    pub fn check(&self) -> Result<(), CollectiveError> {
        self.inner.alive("check")?;
        if self.inner.device.is_cuda() {
            cuda::check(self.inner.raw()).map_err(|cause| self.explain("check", &cause))?;
        }
        Ok(())
    }

    /// What the text of an error means that came from an operation on this group, such as a backward pass.
    pub fn explain(&self, operation: &str, message: &str) -> CollectiveError {
        self.inner.explain(operation, message)
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    fn start(
        &self,
        operation: &'static str,
        launch: impl FnOnce(&ffi::Group) -> Result<UniquePtr<ffi::Work>, cxx::Exception>,
    ) -> Result<Work, CollectiveError> {
        self.inner.alive(operation)?;
        match launch(self.inner.raw()) {
            Ok(raw) => Ok(Work::new(raw, operation, Arc::clone(&self.inner))),
            Err(error) => Err(self.inner.explain(operation, error.what())),
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // libtorch's destructor waits for the collectives in flight, and a frozen peer would have it wait for the
        // whole timeout.
        self.inner.dropped.store(true, Ordering::Release);
        self.inner.fail_all();
    }
}

impl Inner {
    pub(crate) fn raw(&self) -> &ffi::Group {
        &self.raw.0
    }

    /// `Err` once the group was aborted or dropped: its collectives fail at once, and what one of them that ended
    /// meanwhile has left behind is not to be trusted.
    pub(crate) fn alive(&self, operation: &str) -> Result<(), CollectiveError> {
        match self.end() {
            None => Ok(()),
            Some(reason) => Err(CollectiveError::Aborted {
                operation: operation.into(),
                reason,
            }),
        }
    }

    pub(crate) fn explain(&self, operation: &str, message: &str) -> CollectiveError {
        CollectiveError::sort(operation, message, self.end())
    }

    fn end(&self) -> Option<String> {
        let dropped = || {
            self.dropped
                .load(Ordering::Acquire)
                .then(|| "the group was dropped".into())
        };
        self.abort.reason().or_else(dropped)
    }

    fn fail_all(&self) {
        if let Err(error) = ffi::group_abort(self.raw()) {
            tracing::warn!(
                rank = self.rank,
                error = error.what(),
                "the group could not be aborted"
            );
        }
    }
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner")
            .field("rank", &self.rank)
            .field("size", &self.size)
            .field("device", &self.device)
            .finish_non_exhaustive()
    }
}

/// libtorch counts in `int`. Too large a number becomes one that it refuses.
fn index(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}
