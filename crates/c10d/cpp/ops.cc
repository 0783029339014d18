#include "muster-c10d/cpp/ops.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_foreach_copy.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_foreach_zero.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>

#include <memory>
#include <sstream>

#include "muster-c10d/src/ops/ffi.rs.h"

namespace muster::ops {
namespace {
at::Tensor norm_of(const std::vector<at::Tensor>& all) {
  auto norms = at::_foreach_norm(all, 2);
  for (auto& norm : norms) norm = norm.to(at::kFloat);
  return at::linalg_vector_norm(at::stack(norms), 2);
}
size_t release(at::Tensor tensor) { return reinterpret_cast<size_t>(new at::Tensor(std::move(tensor))); }
c10::DeviceType device_type(bool cuda) { return cuda ? at::kCUDA : at::kCPU; }
const at::Generator& generator(int32_t cuda_index) {
  return at::globalContext().defaultGenerator(
      cuda_index < 0 ? at::Device(at::kCPU) : at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(cuda_index)));
}
std::string version_in(const std::string& config) {
  static const std::string key = "TORCH_VERSION=";
  auto start = config.find(key);
  if (start == std::string::npos) return "unknown";
  start += key.size();
  return config.substr(start, config.find_first_of(", \n", start) - start);
}
uint64_t fnv1a(const std::string& text) {
  uint64_t hash = 0xcbf29ce484222325;
  for (unsigned char c : text) hash = (hash ^ c) * 0x100000001b3;
  return hash;
}
}  // namespace

void fused_adamw(TensorPtrs params, TensorPtrs grads, TensorPtrs exp_avg, TensorPtrs exp_avg_sq, size_t step,
                 double learning_rate, double beta1, double beta2, double weight_decay, double epsilon) {
  at::NoGradGuard no_grad;
  std::vector<at::Tensor> steps(params.size(), tensor(step));
  at::_fused_adamw_(tensors(params), tensors(grads), tensors(exp_avg), tensors(exp_avg_sq), /*max_exp_avg_sqs=*/{},
                    steps, learning_rate, beta1, beta2, weight_decay, epsilon, /*amsgrad=*/false, /*maximize=*/false,
                    /*grad_scale=*/std::nullopt, /*found_inf=*/std::nullopt);
}
size_t global_norm(TensorPtrs all) {
  at::NoGradGuard no_grad;
  return release(norm_of(tensors(all)));
}
void scale(TensorPtrs all, double factor) {
  at::NoGradGuard no_grad;
  at::_foreach_mul_(tensors(all), factor);
}
size_t clip_grad_norm(TensorPtrs grads, double max_norm) {
  at::NoGradGuard no_grad;
  auto all = tensors(grads);
  auto norm = norm_of(all);
  // The factor stays on the device: reading it would stall a GPU's queue.
  at::_foreach_mul_(all, (max_norm / (norm + 1e-6)).clamp_max(1.0));
  return release(std::move(norm));
}
void clear_grads(TensorPtrs params) {
  for (auto& param : tensors(params)) param.mutable_grad() = at::Tensor();
}
void zero(TensorPtrs all) {
  at::NoGradGuard no_grad;
  at::_foreach_zero_(tensors(all));
}
void copy(TensorPtrs to, TensorPtrs from) {
  at::NoGradGuard no_grad;
  at::_foreach_copy_(tensors(to), tensors(from));
}

void backward_gate(size_t pointer, rust::Box<Gate> gate) {
  // Hooks are copied; what they ask is not.
  auto shared = std::make_shared<rust::Box<Gate>>(std::move(gate));
  tensor(pointer).register_hook([shared](const at::Tensor&) {
    TORCH_CHECK(!(*shared)->is_shut(), "interrupted");
  });
}
size_t rng_state(int32_t cuda_index) {
  auto source = generator(cuda_index);
  std::lock_guard<std::mutex> lock(source.mutex());
  return release(source.get_state());
}
void set_rng_state(int32_t cuda_index, size_t state) {
  auto source = generator(cuda_index);
  std::lock_guard<std::mutex> lock(source.mutex());
  source.set_state(tensor(state));
}

void set_deterministic(bool on, bool warn_only) {
  auto& context = at::globalContext();
  context.setDeterministicAlgorithms(on, warn_only);
  context.setDeterministicCuDNN(on);
  // Benchmarking picks kernels by their speed of the day.
  if (on) context.setBenchmarkCuDNN(false);
}
void set_matmul_precision(rust::Str precision) {
  at::globalContext().setFloat32MatmulPrecision(std::string(precision.data(), precision.size()));
}

AutocastState autocast_enter(bool cuda, int8_t dtype) {
  auto device = device_type(cuda);
  AutocastState before{cuda, at::autocast::is_autocast_enabled(device),
                       static_cast<int8_t>(at::autocast::get_autocast_dtype(device))};
  at::autocast::set_autocast_dtype(device, static_cast<at::ScalarType>(dtype));
  at::autocast::set_autocast_enabled(device, true);
  at::autocast::increment_nesting();
  return before;
}
void autocast_restore(const AutocastState& before) {
  // The cache holds weights in the low precision; it must not outlive the region.
  if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
  auto device = device_type(before.cuda);
  at::autocast::set_autocast_dtype(device, static_cast<at::ScalarType>(before.dtype));
  at::autocast::set_autocast_enabled(device, before.enabled);
}

rust::String parallel_info() { return at::get_parallel_info(); }

rust::String numerics_fingerprint() {
  auto& context = at::globalContext();
  // The configuration names compiler, flags and libraries, some by paths of the build machine: a digest is enough.
  auto config = at::show_config();
  static constexpr const char* precisions[] = {"highest", "high", "medium"};
  std::ostringstream s;
  s << "libtorch=" << version_in(config) << " build=" << std::hex << fnv1a(config + at::get_cxx_flags()) << std::dec
    << " isa=" << at::get_cpu_capability() << " mkl=" << at::hasMKL() << " mkldnn=" << at::hasMKLDNN()
    << " threads=" << at::get_num_threads() << " deterministic=" << context.deterministicAlgorithms()
    << " matmul=" << precisions[static_cast<int>(context.float32MatmulPrecision())];
  return s.str();
}
}  // namespace muster::ops
