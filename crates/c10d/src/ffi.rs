//! The bridge to `cpp/`: every function here is declared in `cpp/c10d.h`.
use crate::store::StoreHandle;

#[cxx::bridge(namespace = "muster")]
mod bridge {
    extern "Rust" {
        type StoreHandle;
        fn duplicate(&self) -> Box<StoreHandle>;
        fn set(&self, key: &str, value: &[u8]) -> Result<()>;
        fn get(&self, key: &str, timeout_ms: i64) -> Result<Vec<u8>>;
        fn add(&self, key: &str, delta: i64) -> Result<i64>;
        fn compare_set(&self, key: &str, expected: &[u8], desired: &[u8]) -> Result<Vec<u8>>;
        fn check(&self, keys: Vec<String>) -> Result<bool>;
        fn wait(&self, keys: Vec<String>, timeout_ms: i64) -> Result<()>;
        fn remove(&self, key: &str) -> Result<bool>;
        fn num_keys(&self) -> Result<i64>;
    }

    unsafe extern "C++" {
        include!("muster-c10d/cpp/c10d.h");
        type Group;
        type Work;
        type Reducer;

        fn libtorch_file() -> Result<String>;
        fn init_logging();

        #[allow(clippy::too_many_arguments)]
        fn gloo_group(
            store: Box<StoreHandle>,
            rank: i32,
            size: i32,
            form_ms: i64,
            timeout_ms: i64,
            hostname: &str,
            interface: &str,
            threads: i32,
        ) -> Result<UniquePtr<Group>>;
        fn store_release(store: Box<StoreHandle>, timeout_ms: i64) -> Result<usize>;
        /// `store` and `backend` must be owned references, which the group takes over.
        unsafe fn nccl_group(store: usize, backend: usize) -> Result<UniquePtr<Group>>;
        fn group_backend(group: &Group) -> usize;
        fn group_abort(group: &Group) -> Result<()>;

        // Every tensor argument must point to a live at::Tensor.
        unsafe fn all_reduce(group: &Group, tensor: usize, op: u8) -> Result<UniquePtr<Work>>;
        unsafe fn broadcast(group: &Group, tensor: usize, root: i32) -> Result<UniquePtr<Work>>;
        unsafe fn all_gather_into(
            group: &Group,
            output: usize,
            input: usize,
        ) -> Result<UniquePtr<Work>>;
        unsafe fn all_to_all(
            group: &Group,
            output: usize,
            input: usize,
            output_rows: &[i64],
            input_rows: &[i64],
        ) -> Result<UniquePtr<Work>>;
        unsafe fn send(group: &Group, tensor: usize, to: i32, tag: i32) -> Result<UniquePtr<Work>>;
        unsafe fn recv(
            group: &Group,
            tensor: usize,
            from: i32,
            tag: i32,
        ) -> Result<UniquePtr<Work>>;
        fn barrier(group: &Group) -> Result<UniquePtr<Work>>;
        fn work_wait(work: &Work) -> Result<()>;
        fn work_done(work: &Work) -> Result<bool>;

        unsafe fn reducer_new(
            group: &Group,
            params: &[usize],
            first_bucket_bytes: usize,
            bucket_bytes: usize,
        ) -> Result<UniquePtr<Reducer>>;
        fn reducer_bucket_bytes(reducer: &Reducer) -> Vec<usize>;
        fn reducer_prepare_forward(reducer: &Reducer) -> Result<()>;
        unsafe fn reducer_prepare_backward(reducer: &Reducer, outputs: &[usize]) -> Result<()>;
    }
}

pub(crate) use bridge::*;

/// The addresses of the C++ tensors behind `tensors`, valid while those live.
pub(crate) fn pointers<'a>(tensors: impl IntoIterator<Item = &'a tch::Tensor>) -> Vec<usize> {
    tensors.into_iter().map(pointer).collect()
}

/// The address of the C++ tensor behind `tensor`, valid while that lives.
pub(crate) fn pointer(tensor: &tch::Tensor) -> usize {
    tensor.as_ptr() as usize
}
