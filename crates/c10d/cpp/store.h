// A c10d::Store whose calls go to a Rust StoreBackend.
#pragma once
#include <torch/csrc/distributed/c10d/Store.hpp>

#include "muster-c10d/cpp/c10d.h"

namespace muster {
c10::intrusive_ptr<c10d::Store> backend_store(rust::Box<StoreHandle> handle, std::chrono::milliseconds timeout);
}
