// Operators and switches of libtorch that tch does not reach. Pointers are at::Tensor*; a returned one is owned.
#pragma once
#include <cstdint>

#include "muster-c10d/cpp/bridge.h"

namespace muster::ops {
void fused_adamw(TensorPtrs params, TensorPtrs grads, TensorPtrs exp_avg, TensorPtrs exp_avg_sq, size_t step,
                 double learning_rate, double beta1, double beta2, double weight_decay, double epsilon);
size_t global_norm(TensorPtrs tensors);
void scale(TensorPtrs tensors, double factor);
size_t clip_grad_norm(TensorPtrs grads, double max_norm);
void clear_grads(TensorPtrs params);
void zero(TensorPtrs tensors);
void copy(TensorPtrs to, TensorPtrs from);

struct Gate;  // Rust's
void backward_gate(size_t tensor, rust::Box<Gate> gate);

// A negative index means the CPU.
size_t rng_state(int32_t cuda_index);
void set_rng_state(int32_t cuda_index, size_t state);

void set_deterministic(bool on, bool warn_only);
void set_matmul_precision(rust::Str precision);

struct AutocastState;  // shared with Rust
AutocastState autocast_enter(bool cuda, int8_t dtype);
void autocast_restore(const AutocastState& before);

rust::String parallel_info();
rust::String numerics_fingerprint();
}  // namespace muster::ops
