// Stores, process groups and the reducer of libtorch, as the Rust side sees them.
#pragma once
#include <cstdint>
#include <memory>

#include "muster-c10d/cpp/bridge.h"

namespace muster {
struct StoreHandle;  // Rust: a StoreBackend and the Abort that ends its waits

class Group {
 public:
  struct Impl;
  explicit Group(std::shared_ptr<Impl> impl);
  ~Group();
  std::shared_ptr<Impl> impl;
};

class Work {
 public:
  struct Impl;
  explicit Work(std::unique_ptr<Impl> impl);
  ~Work();
  std::unique_ptr<Impl> impl;
};

class Reducer {
 public:
  struct Impl;
  explicit Reducer(std::unique_ptr<Impl> impl);
  ~Reducer();
  std::unique_ptr<Impl> impl;
};

// The libtorch_cpu.so that this process uses.
rust::String libtorch_file();
void init_logging();  // honours TORCH_CPP_LOG_LEVEL

// Blocks until every peer is connected or form_ms is over.
std::unique_ptr<Group> gloo_group(rust::Box<StoreHandle> store, int32_t rank, int32_t size, int64_t form_ms,
                                  int64_t timeout_ms, rust::Str hostname, rust::Str interface, int32_t threads);
// An owned reference to a c10d::Store over `store`, for the CUDA part.
size_t store_release(rust::Box<StoreHandle> store, int64_t timeout_ms);
// Takes over a c10d::Store* and a c10d::Backend*, each an owned reference. No backend (0) is an error.
std::unique_ptr<Group> nccl_group(size_t store, size_t backend);
// The backend, borrowed.
size_t group_backend(const Group& group);
// From any thread, at any time.
void group_abort(const Group& group);

std::unique_ptr<Work> all_reduce(const Group& group, size_t tensor, uint8_t op);
std::unique_ptr<Work> broadcast(const Group& group, size_t tensor, int32_t root);
std::unique_ptr<Work> all_gather_into(const Group& group, size_t output, size_t input);
std::unique_ptr<Work> all_to_all(const Group& group, size_t output, size_t input, rust::Slice<const int64_t> output_rows,
                                 rust::Slice<const int64_t> input_rows);
std::unique_ptr<Work> send(const Group& group, size_t tensor, int32_t to, int32_t tag);
std::unique_ptr<Work> recv(const Group& group, size_t tensor, int32_t from, int32_t tag);
std::unique_ptr<Work> barrier(const Group& group);
void work_wait(const Work& work);
bool work_done(const Work& work);

std::unique_ptr<Reducer> reducer_new(const Group& group, TensorPtrs params, size_t first_bucket_bytes,
                                     size_t bucket_bytes);
rust::Vec<size_t> reducer_bucket_bytes(const Reducer& reducer);
void reducer_prepare_forward(const Reducer& reducer);
void reducer_prepare_backward(const Reducer& reducer, TensorPtrs outputs);
}  // namespace muster
