#include <torch/csrc/distributed/c10d/reducer.hpp>

#include <algorithm>

#include "muster-c10d/cpp/group_impl.h"

namespace muster {
namespace {
// The default hook divides by the world size. Muster's gradients are sums over tokens, scaled once by the global
// token count, so the bucket is summed and nothing else.
class SumHook final : public c10d::CppCommHookInterface<std::shared_ptr<Group::Impl>> {
 public:
  using CppCommHookInterface::CppCommHookInterface;

  c10::intrusive_ptr<c10::ivalue::Future> runHook(c10d::GradBucket& bucket) override {
    std::vector<at::Tensor> buffer{bucket.getBufferRef()};
    std::lock_guard<std::mutex> lock(state_->launch);
    return state_->backend->allreduce(buffer)->getFuture();
  }
};

// c10d's reducer rebuilds its buckets after the first backward, in the order in which gradients came. A resumed run
// would then reduce in another order than the run it resumes. Saying that it was done keeps the layout for ever, and
// keeps the reducer from recording that order at every step.
class FixedReducer final : public c10d::Reducer {
 public:
  template <typename... Args>
  explicit FixedReducer(Args&&... args) : c10d::Reducer(std::forward<Args>(args)...) {
    has_rebuilt_bucket_ = true;
  }
};
}  // namespace

struct Reducer::Impl {
  std::unique_ptr<FixedReducer> reducer;
  std::vector<size_t> bucket_bytes;
};

Reducer::Reducer(std::unique_ptr<Impl> i) : impl(std::move(i)) {}
Reducer::~Reducer() {
  // ~c10d::Reducer may throw, above all after a backward pass that failed.
  try {
    delete impl->reducer.release();
  } catch (...) {
  }
}

std::unique_ptr<Reducer> reducer_new(const Group& group, TensorPtrs pointers, size_t first_bucket_bytes,
                                     size_t bucket_bytes) {
  auto params = tensors(pointers);
  std::vector<bool> sparse(params.size(), false);
  auto buckets = std::get<0>(
      c10d::compute_bucket_assignment_by_size(params, {first_bucket_bytes, bucket_bytes}, sparse, {}, std::nullopt));
  // The last layers' gradients are ready first.
  std::reverse(buckets.begin(), buckets.end());

  auto impl = std::make_unique<Reducer::Impl>();
  for (const auto& bucket : buckets) {
    size_t bytes = 0;
    for (size_t index : bucket) bytes += params[index].nbytes();
    impl->bucket_bytes.push_back(bytes);
  }
  impl->reducer = std::make_unique<FixedReducer>(
      params, buckets, group.impl->process_group, sparse, static_cast<int64_t>(bucket_bytes),
      /*find_unused_parameters=*/false, /*gradient_as_bucket_view=*/true,
      std::unordered_map<size_t, std::string>{}, static_cast<int64_t>(first_bucket_bytes),
      /*skip_all_reduce_unused_params=*/false, /*use_python_reducer=*/false, std::vector<int64_t>{});
  impl->reducer->register_comm_hook(std::make_unique<SumHook>(group.impl));
  return std::make_unique<Reducer>(std::move(impl));
}
rust::Vec<size_t> reducer_bucket_bytes(const Reducer& reducer) {
  rust::Vec<size_t> bytes;
  for (size_t b : reducer.impl->bucket_bytes) bytes.push_back(b);
  return bytes;
}
void reducer_prepare_forward(const Reducer& reducer) { reducer.impl->reducer->prepare_for_forward(); }
void reducer_prepare_backward(const Reducer& reducer, TensorPtrs outputs) {
  reducer.impl->reducer->prepare_for_backward(tensors(outputs));
}
}  // namespace muster
