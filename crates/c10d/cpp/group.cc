#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/Logging.h>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

#include <dlfcn.h>

#include <cstdlib>
#include <cstring>

#include "muster-c10d/cpp/group_impl.h"
#include "muster-c10d/cpp/store.h"
#include "muster-c10d/src/ffi.rs.h"

namespace muster {
namespace {
using std::chrono::milliseconds;

std::string string(rust::Str s) { return {s.data(), s.size()}; }

// Backend::abort() does nothing for Gloo. Failing every pair makes the collectives in flight throw, in whatever
// thread they wait, and every later one too.
class AbortableGloo final : public c10d::ProcessGroupGloo {
 public:
  using c10d::ProcessGroupGloo::ProcessGroupGloo;

  void abort() override {
    for (auto& context : contexts_) {
      for (int peer = 0; peer < getSize(); peer++) {
        if (peer == getRank()) continue;
        // form() admits TCP devices only, so each pair is a tcp::Pair, whose first base is transport::Pair.
        if (auto& pair = context->getPair(peer))
          reinterpret_cast<gloo::transport::tcp::Pair*>(pair.get())->signalExceptionExternal("aborted by this process");
      }
    }
  }
};

std::unique_ptr<Group> wrap(c10::intrusive_ptr<c10d::Store> store, c10::intrusive_ptr<c10d::Backend> backend,
                            c10d::ProcessGroup::BackendType type, c10::DeviceType device) {
  auto impl = std::make_shared<Group::Impl>();
  impl->process_group =
      c10::make_intrusive<c10d::ProcessGroup>(std::move(store), backend->getRank(), backend->getSize());
  impl->process_group->setBackend(device, type, backend);
  impl->process_group->setDefaultBackend(type);
  impl->backend = std::move(backend);
  return std::make_unique<Group>(std::move(impl));
}
}  // namespace

struct Work::Impl {
  c10::intrusive_ptr<c10d::Work> work;
  // Shallow clones: the memory stays until the operation is over, whatever the caller does with its own handles.
  std::vector<at::Tensor> kept;
};

Group::Group(std::shared_ptr<Impl> i) : impl(std::move(i)) {}
Group::~Group() = default;
Work::Work(std::unique_ptr<Impl> i) : impl(std::move(i)) {}
Work::~Work() = default;

std::vector<at::Tensor> tensors(TensorPtrs pointers) {
  std::vector<at::Tensor> owned;
  owned.reserve(pointers.size());
  for (auto pointer : pointers) owned.push_back(tensor(pointer));
  return owned;
}
at::Tensor tensor(size_t pointer) { return *reinterpret_cast<const at::Tensor*>(pointer); }

rust::String libtorch_file() {
  Dl_info info;
  TORCH_CHECK(dladdr(reinterpret_cast<void*>(&at::get_num_threads), &info) != 0, "libtorch_cpu.so is not to be found");
  return info.dli_fname;
}
void init_logging() { c10::initLogging(); }

std::unique_ptr<Group> gloo_group(rust::Box<StoreHandle> handle, int32_t rank, int32_t size, int64_t form_ms,
                                  int64_t timeout_ms, rust::Str hostname, rust::Str interface, int32_t threads) {
  const char* transport = std::getenv("GLOO_DEVICE_TRANSPORT");
  TORCH_CHECK(transport == nullptr || std::strncmp(transport, "TCP", 3) == 0, "GLOO_DEVICE_TRANSPORT is ", transport,
              "; only TCP and TCP_TLS can be aborted: unset it");
  using Gloo = c10d::ProcessGroupGloo;
  auto store = backend_store(std::move(handle), milliseconds(form_ms));
  auto options = Gloo::Options::create(milliseconds(form_ms));
  options->threads = threads;
  // Connect now: a lazy group would hide a peer that is not there.
  options->devices.push_back(interface.empty() ? Gloo::createDeviceForHostname(string(hostname), /*lazyInit=*/false)
                                               : Gloo::createDeviceForInterface(string(interface), /*lazyInit=*/false));
  auto gloo = c10::make_intrusive<AbortableGloo>(store, rank, size, std::move(options));
  gloo->setTimeout(milliseconds(timeout_ms));
  return wrap(std::move(store), std::move(gloo), c10d::ProcessGroup::GLOO, c10::DeviceType::CPU);
}

std::unique_ptr<Group> nccl_group(size_t store, size_t backend) {
  auto s = c10::intrusive_ptr<c10d::Store>::reclaim(reinterpret_cast<c10d::Store*>(store));
  auto b = c10::intrusive_ptr<c10d::Backend>::reclaim(reinterpret_cast<c10d::Backend*>(backend));
  TORCH_CHECK(b.defined(), "there is no backend");
  return wrap(std::move(s), std::move(b), c10d::ProcessGroup::NCCL, c10::DeviceType::CUDA);
}

size_t group_backend(const Group& group) { return reinterpret_cast<size_t>(group.impl->backend.get()); }
void group_abort(const Group& group) { group.impl->backend->abort(); }

namespace {
// Collectives write parameters in place; autograd must not see that.
template <typename Launch>
std::unique_ptr<Work> launch(const Group& group, std::vector<at::Tensor> kept, Launch&& start) {
  at::NoGradGuard no_grad;
  std::lock_guard<std::mutex> lock(group.impl->launch);
  auto work = start(*group.impl->backend, kept);
  return std::make_unique<Work>(std::make_unique<Work::Impl>(Work::Impl{std::move(work), std::move(kept)}));
}
}  // namespace

std::unique_ptr<Work> all_reduce(const Group& group, size_t t, uint8_t op) {
  return launch(group, {tensor(t)}, [&](auto& backend, auto& kept) {
    c10d::AllreduceOptions options;
    options.reduceOp = c10d::ReduceOp(static_cast<c10d::ReduceOp::RedOpType>(op));
    return backend.allreduce(kept, options);
  });
}
std::unique_ptr<Work> broadcast(const Group& group, size_t t, int32_t root) {
  return launch(group, {tensor(t)}, [&](auto& backend, auto& kept) {
    c10d::BroadcastOptions options;
    options.rootRank = root;
    return backend.broadcast(kept, options);
  });
}
std::unique_ptr<Work> all_gather_into(const Group& group, size_t output, size_t input) {
  return launch(group, {tensor(output), tensor(input)},
                [&](auto& backend, auto& kept) { return backend._allgather_base(kept[0], kept[1]); });
}
std::unique_ptr<Work> all_to_all(const Group& group, size_t output, size_t input, rust::Slice<const int64_t> output_rows,
                                 rust::Slice<const int64_t> input_rows) {
  std::vector<int64_t> to(output_rows.begin(), output_rows.end()), from(input_rows.begin(), input_rows.end());
  return launch(group, {tensor(output), tensor(input)},
                [&](auto& backend, auto& kept) { return backend.alltoall_base(kept[0], kept[1], to, from); });
}
std::unique_ptr<Work> send(const Group& group, size_t t, int32_t to, int32_t tag) {
  return launch(group, {tensor(t)}, [&](auto& backend, auto& kept) { return backend.send(kept, to, tag); });
}
std::unique_ptr<Work> recv(const Group& group, size_t t, int32_t from, int32_t tag) {
  return launch(group, {tensor(t)}, [&](auto& backend, auto& kept) { return backend.recv(kept, from, tag); });
}
std::unique_ptr<Work> barrier(const Group& group) {
  return launch(group, {}, [&](auto& backend, auto&) { return backend.barrier(); });
}
void work_wait(const Work& work) { work.impl->work->wait(); }
bool work_done(const Work& work) { return work.impl->work->isCompleted(); }
}  // namespace muster
