// The inside of Group, for the .cc files that launch collectives.
#pragma once
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include <mutex>

#include "muster-c10d/cpp/c10d.h"

namespace muster {
struct Group::Impl {
  c10::intrusive_ptr<c10d::ProcessGroup> process_group;
  c10::intrusive_ptr<c10d::Backend> backend;
  // A backend numbers its collectives without a lock of its own, and the reducer launches from autograd's threads.
  std::mutex launch;
};
}  // namespace muster
