// The CUDA part: a shared object of its own, loaded after libtorch_cuda (cuda.rs). Plain C functions, because it shares
// no generated glue with the rest; each returns 0, or 1 and leaves a text in muster_nccl_last_error.
#include <c10/cuda/CUDAGuard.h>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {
thread_local std::string last_error;

template <typename F>
int guarded(F&& f) noexcept {
  try {
    f();
    return 0;
  } catch (const c10::Error& e) {
    last_error = e.what_without_backtrace();
  } catch (const std::exception& e) {
    last_error = e.what();
  } catch (...) {
    last_error = "a C++ exception of unknown type";
  }
  return 1;
}

// libtorch_cuda exports ProcessGroupNCCL and not NCCLComm, whose methods are out of reach; the two members below are
// enough to ask NCCL itself. An explicit instantiation may name private members ([temp.spec.general] of the standard).
template <typename Tag, typename Tag::Member member>
struct Reach {
  friend typename Tag::Member member_of(Tag) { return member; }
};
struct Handle {
  using Member = ncclComm_t c10d::NCCLComm::*;
  friend Member member_of(Handle);
};
struct Lock {
  using Member = std::recursive_mutex c10d::NCCLComm::*;
  friend Member member_of(Lock);
};
template struct Reach<Handle, &c10d::NCCLComm::ncclComm_>;
template struct Reach<Lock, &c10d::NCCLComm::mutex_>;

// As NCCLComm::getAsyncError does it: NCCL forbids two threads to ask at a time, or one to ask during an abort.
ncclResult_t async_error(c10d::NCCLComm& comm) {
  std::lock_guard<std::recursive_mutex> lock(comm.*member_of(Lock{}));
  auto handle = comm.*member_of(Handle{});
  ncclResult_t state = ncclSuccess;
  if (handle != nullptr) ncclCommGetAsyncError(handle, &state);
  return state;
}

class Communicator final : public c10d::ProcessGroupNCCL {
 public:
  using c10d::ProcessGroupNCCL::ProcessGroupNCCL;

  // False while a communicator is being set up. Asks without blocking: libtorch's own wait holds the communicator's
  // lock, which abort() needs.
  bool ready() {
    auto all = communicators();
    for (auto& comm : all)
      if (async_error(*comm) == ncclInProgress) return false;
    throw_on_error(all);
    return !all.empty();
  }

  // libtorch's getError() reports what its watchdog has seen, and there is none with blocking waits.
  void check() {
    auto all = communicators();
    throw_on_error(all);
  }

 private:
  std::vector<std::shared_ptr<c10d::NCCLComm>> communicators() {
    std::lock_guard<std::mutex> lock(mutex_);
    std::vector<std::shared_ptr<c10d::NCCLComm>> all;
    for (auto& [key, comm] : devNCCLCommMap_) all.push_back(comm);
    for (auto& [key, comm] : inInitializationCommMap_) all.push_back(comm);
    return all;
  }

  void throw_on_error(std::vector<std::shared_ptr<c10d::NCCLComm>>& all) {
    for (auto& comm : all)
      if (auto error = checkForNCCLErrors(comm)) std::rethrow_exception(error);
  }
};

Communicator* communicator(void* backend) { return static_cast<Communicator*>(static_cast<c10d::Backend*>(backend)); }
}  // namespace

EXPORT const char* muster_nccl_last_error() { return last_error.c_str(); }

EXPORT int muster_nccl_version() { return NCCL_VERSION_CODE; }

// Starts to set a communicator up, and does not wait for it; `store` is borrowed. `out` receives an owned reference.
EXPORT int muster_nccl_create(void* store, int rank, int size, int device, long timeout_ms, void** out) {
  return guarded([&] {
    c10::cuda::CUDAGuard on(static_cast<c10::DeviceIndex>(device));
    auto shared = c10::intrusive_ptr<c10d::Store>::reclaim_copy(static_cast<c10d::Store*>(store));
    auto options = c10d::ProcessGroupNCCL::Options::create(/*is_high_priority_stream=*/true);
    options->timeout = std::chrono::milliseconds(timeout_ms);
    options->config.blocking = 0;
    auto group = c10::make_intrusive<Communicator>(shared, rank, size, options);
    at::Device cuda(at::kCUDA, static_cast<c10::DeviceIndex>(device));
    group->setBoundDeviceId(cuda);
    group->eagerConnectSingleDevice(cuda);
    c10::intrusive_ptr<c10d::Backend> backend = std::move(group);
    *out = backend.release();
  });
}

EXPORT int muster_nccl_ready(void* backend, int* ready) {
  return guarded([&] { *ready = communicator(backend)->ready() ? 1 : 0; });
}

EXPORT int muster_nccl_check(void* backend) {
  return guarded([&] { communicator(backend)->check(); });
}
