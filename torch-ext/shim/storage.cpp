// The storage behind tensors: identified, released and allocated again, while tensors that are views of it stay valid. The
// safe side is src/storage.rs.

#include <ATen/core/Tensor.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/Storage.h>

namespace {

c10::StorageImpl* storage_of(const at::Tensor* tensor) {
  return tensor->storage().unsafeGetStorageImpl();
}

} // namespace

extern "C" {

// Identifies the storage: the same whether its memory is allocated or released.
const void* jacobi_storage_name(const at::Tensor* tensor) {
  return storage_of(tensor);
}

int64_t jacobi_storage_offset(const at::Tensor* tensor) {
  return tensor->storage_offset();
}

size_t jacobi_storage_bytes(const at::Tensor* tensor) {
  return storage_of(tensor)->nbytes();
}

void jacobi_storage_release(const at::Tensor* tensor) {
  c10::StorageImpl* storage = storage_of(tensor);
  storage->set_data_ptr_noswap(at::DataPtr(nullptr, storage->device()));
  storage->set_nbytes(0);
}

// The content is arbitrary. False if there is not enough memory.
bool jacobi_storage_allocate(const at::Tensor* tensor, size_t bytes) {
  c10::StorageImpl* storage = storage_of(tensor);
  try {
    storage->set_data_ptr_noswap(c10::GetAllocator(storage->device_type())->allocate(bytes));
    storage->set_nbytes(bytes);
    return true;
  } catch (...) {
    return false;
  }
}

} // extern "C"
