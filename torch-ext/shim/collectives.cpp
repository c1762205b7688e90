// c10d's store and process groups as C functions, which take handles and return an error text or null. The safe side is
// src/c10d.

#include <atomic>
#include <cstdlib>
#include <sstream>
#include <stdexcept>

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#ifdef JACOBI_NCCL
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#endif

#include "guarded.h"

namespace {

using Millis = std::chrono::milliseconds;

struct StoreHandle {
  c10::intrusive_ptr<c10d::TCPStore> tcp;
  // The same, with a prefix before every key.
  c10::intrusive_ptr<c10d::Store> keys;
};

struct GroupHandle {
  c10::intrusive_ptr<c10d::Backend> backend;
  // Whether operations can fail after `wait` has returned. Gloo's cannot, and it does not implement `getError`.
  bool fails_later;
  std::atomic<bool> aborted{false};
};

#ifdef JACOBI_NCCL
// By default c10d ends the process when an operation fails or times out, and torchrun asks for that too. This group only
// aborts its communicators, so that kernels that wait for a dead rank end; the process lives on and names that rank.
struct NcclGroup : c10d::ProcessGroupNCCL {
  NcclGroup(c10::intrusive_ptr<c10d::Store> store, int rank, int size, c10::intrusive_ptr<Options> options)
      : ProcessGroupNCCL(std::move(store), rank, size, std::move(options)) {
    asyncErrorHandling_ = c10d::CleanUpOnly;
  }
};
#endif

struct WorkHandle {
  c10::intrusive_ptr<c10d::Work> work;
  // Kept until the work is done.
  std::vector<at::Tensor> tensors;
};

// The network interfaces of GLOO_SOCKET_IFNAME, as in PyTorch, or the one that this machine's name resolves to.
std::vector<std::shared_ptr<gloo::transport::Device>> gloo_devices() {
  using Gloo = c10d::ProcessGroupGloo;
  std::vector<std::shared_ptr<gloo::transport::Device>> devices;
  if (const char* names = std::getenv("GLOO_SOCKET_IFNAME"); names != nullptr && *names != '\0') {
    std::stringstream list(names);
    for (std::string name; std::getline(list, name, ',');) {
      devices.push_back(Gloo::createDeviceForInterface(name));
    }
  } else {
    devices.push_back(Gloo::createDefaultDevice());
  }
  return devices;
}

WorkHandle* started(c10::intrusive_ptr<c10d::Work> work, std::vector<at::Tensor> tensors) {
  return new WorkHandle{std::move(work), std::move(tensors)};
}

} // namespace

extern "C" {

void jacobi_text_free(char* text) {
  std::free(text);
}

char* jacobi_store_open(
    const char* host, uint16_t port, bool serves, const char* prefix, int64_t timeout_ms, StoreHandle** out) {
  return guarded([&] {
    c10d::TCPStoreOptions options;
    options.port = port;
    options.isServer = serves;
    options.waitWorkers = false;
    options.timeout = Millis(timeout_ms);
    auto tcp = c10::make_intrusive<c10d::TCPStore>(host, options);
    tcp->setTimeout(options.timeout);
    c10::intrusive_ptr<c10d::Store> keys = tcp;
    if (*prefix != '\0') {
      keys = c10::make_intrusive<c10d::PrefixStore>(prefix, keys);
    }
    *out = new StoreHandle{std::move(tcp), std::move(keys)};
  });
}

uint16_t jacobi_store_port(const StoreHandle* store) {
  return store->tcp->getPort();
}

char* jacobi_store_set(StoreHandle* store, const char* key, const uint8_t* value, size_t length) {
  return guarded([&] { store->keys->set(key, std::vector<uint8_t>(value, value + length)); });
}

// `out` is null if the key is not set.
char* jacobi_store_get(StoreHandle* store, const char* key, char** out) {
  return guarded([&] {
    *out = nullptr;
    if (!store->keys->check({key})) {
      return;
    }
    const std::vector<uint8_t> value = store->keys->get(key);
    *out = strndup(reinterpret_cast<const char*>(value.data()), value.size());
  });
}

char* jacobi_store_add(StoreHandle* store, const char* key, int64_t amount, int64_t* sum) {
  return guarded([&] { *sum = store->keys->add(key, amount); });
}

char* jacobi_store_wait(StoreHandle* store, const char* key, int64_t timeout_ms) {
  return guarded([&] { store->keys->wait({key}, Millis(timeout_ms)); });
}

void jacobi_store_close(StoreHandle* store) {
  delete store;
}

char* jacobi_group_gloo(
    StoreHandle* store, const char* name, int rank, int size, int64_t timeout_ms, GroupHandle** out) {
  return guarded([&] {
    auto options = c10d::ProcessGroupGloo::Options::create(Millis(timeout_ms));
    options->devices = gloo_devices();
    auto keys = c10::make_intrusive<c10d::PrefixStore>(std::string("gloo/") + name, store->keys);
    *out = new GroupHandle{c10::make_intrusive<c10d::ProcessGroupGloo>(keys, rank, size, options), false};
  });
}

#ifdef JACOBI_NCCL
char* jacobi_group_nccl(
    StoreHandle* store, const char* name, int rank, int size, int64_t timeout_ms, GroupHandle** out) {
  return guarded([&] {
    auto options = c10d::ProcessGroupNCCL::Options::create();
    options->timeout = Millis(timeout_ms);
    auto keys = c10::make_intrusive<c10d::PrefixStore>(std::string("nccl/") + name, store->keys);
    *out = new GroupHandle{c10::make_intrusive<NcclGroup>(keys, rank, size, options), true};
  });
}
#endif

char* jacobi_group_all_reduce(GroupHandle* group, at::Tensor* tensor, WorkHandle** out) {
  return guarded([&] {
    std::vector<at::Tensor> tensors{*tensor};
    *out = started(group->backend->allreduce(tensors), tensors);
  });
}

char* jacobi_group_reduce_scatter(GroupHandle* group, at::Tensor* share, at::Tensor* whole, WorkHandle** out) {
  return guarded([&] { *out = started(group->backend->_reduce_scatter_base(*share, *whole), {*share, *whole}); });
}

char* jacobi_group_all_gather(GroupHandle* group, at::Tensor* whole, at::Tensor* share, WorkHandle** out) {
  return guarded([&] { *out = started(group->backend->_allgather_base(*whole, *share), {*whole, *share}); });
}

// The failure of an earlier operation, which its `wait` did not report.
char* jacobi_group_error(GroupHandle* group) {
  return guarded([&] {
    const auto error = group->fails_later ? group->backend->getError() : c10d::ErrorType::SUCCESS;
    switch (error) {
      case c10d::ErrorType::SUCCESS: return;
      case c10d::ErrorType::TIMEOUT: throw std::runtime_error("an NCCL operation has timed out");
      case c10d::ErrorType::COMM_ERROR: throw std::runtime_error("an NCCL operation has failed");
      case c10d::ErrorType::REMOTE_ERROR: throw std::runtime_error("an NCCL operation has failed on another rank");
    }
  });
}

// Ends the operations in progress, on this rank only.
char* jacobi_group_abort(GroupHandle* group) {
  return guarded([&] {
    if (!group->aborted.exchange(true)) {
      group->backend->abort();
    }
  });
}

// Waits for the operations in progress unless they were aborted, then closes the connections.
char* jacobi_group_leave(GroupHandle* group) {
  return guarded([&] {
    std::unique_ptr<GroupHandle> owned(group);
    if (!owned->aborted) {
      owned->backend->shutdown();
    }
  });
}

// Waits, and frees `work` in any case.
char* jacobi_work_wait(WorkHandle* work) {
  return guarded([&] {
    std::unique_ptr<WorkHandle> owned(work);
    owned->work->wait();
  });
}

} // extern "C"
