#include "muster-c10d/cpp/store.h"

#include "muster-c10d/src/ffi.rs.h"

namespace muster {
namespace {
using Bytes = std::vector<uint8_t>;
using std::chrono::milliseconds;

rust::Slice<const uint8_t> slice(const Bytes& bytes) { return {bytes.data(), bytes.size()}; }

Bytes bytes(const rust::Vec<uint8_t>& from) { return Bytes(from.begin(), from.end()); }

rust::Vec<rust::String> strings(const std::vector<std::string>& from) {
  rust::Vec<rust::String> to;
  to.reserve(from.size());
  for (const auto& s : from) to.push_back(s);
  return to;
}

// A StoreError arrives here as rust::Error, a std::exception with its text, and passes through libtorch as it is.
class BackendStore final : public c10d::Store {
 public:
  BackendStore(rust::Box<StoreHandle> handle, milliseconds timeout)
      : c10d::Store(timeout), handle_(std::move(handle)) {}

  c10::intrusive_ptr<c10d::Store> clone() override {
    return c10::make_intrusive<BackendStore>(handle_->duplicate(), timeout_);
  }
  void set(const std::string& key, const Bytes& value) override { handle_->set(key, slice(value)); }
  Bytes get(const std::string& key) override { return bytes(handle_->get(key, timeout_.count())); }
  int64_t add(const std::string& key, int64_t delta) override { return handle_->add(key, delta); }
  Bytes compareSet(const std::string& key, const Bytes& expected, const Bytes& desired) override {
    return bytes(handle_->compare_set(key, slice(expected), slice(desired)));
  }
  bool check(const std::vector<std::string>& keys) override { return handle_->check(strings(keys)); }
  void wait(const std::vector<std::string>& keys) override { wait(keys, timeout_); }
  void wait(const std::vector<std::string>& keys, const milliseconds& timeout) override {
    handle_->wait(strings(keys), timeout.count());
  }
  bool deleteKey(const std::string& key) override { return handle_->remove(key); }
  int64_t getNumKeys() override { return handle_->num_keys(); }
  bool hasExtendedApi() const override { return false; }

 private:
  rust::Box<StoreHandle> handle_;
};
}  // namespace

c10::intrusive_ptr<c10d::Store> backend_store(rust::Box<StoreHandle> handle, milliseconds timeout) {
  return c10::make_intrusive<BackendStore>(std::move(handle), timeout);
}

size_t store_release(rust::Box<StoreHandle> store, int64_t timeout_ms) {
  return reinterpret_cast<size_t>(backend_store(std::move(store), milliseconds(timeout_ms)).release());
}
}  // namespace muster
