// What both bridges share. Light on purpose: libtorch's headers are included by the .cc files alone, so that the
// generated glue compiles in a second.
#pragma once
#include <c10/util/Exception.h>

#include <exception>
#include <vector>

#include "rust/cxx.h"

namespace at {
class Tensor;
}

// A c10::Error's what() ends in a C++ backtrace; the message alone becomes the text of the Rust error.
namespace rust::behavior {
template <typename Try, typename Fail>
static void trycatch(Try&& attempt, Fail&& fail) noexcept {
  try {
    attempt();
  } catch (const c10::Error& e) {
    fail(e.what_without_backtrace());
  } catch (const std::exception& e) {
    fail(e.what());
  } catch (...) {
    fail("a C++ exception of unknown type");
  }
}
}  // namespace rust::behavior

namespace muster {
// Each element is an at::Tensor*, which is what a tch tensor's pointer is.
using TensorPtrs = rust::Slice<const size_t>;

// Owning handles: the pointers need to live no longer than the call.
std::vector<at::Tensor> tensors(TensorPtrs pointers);
at::Tensor tensor(size_t pointer);
}  // namespace muster
