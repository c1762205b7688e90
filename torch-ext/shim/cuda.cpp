// GPUs: their number, names and memory, events, and work recorded as a graph. Compiled only with the feature `cuda`. The safe
// side is src/gpu/device.rs and src/gpu/graph.rs.

#include <ATen/cuda/CUDAEvent.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "guarded.h"

namespace {

struct PoolHandle {
  c10::MempoolId_t id;
  // One for all recordings: libraries keep memory for every stream they have seen.
  std::optional<c10::cuda::CUDAStream> stream;
};

} // namespace

extern "C" {

// Fails with the reason if there is none.
char* jacobi_cuda_count(int* count) {
  return guarded([&] { *count = c10::cuda::device_count_ensure_non_zero(); });
}

char* jacobi_cuda_select(int device) {
  return guarded([&] { c10::cuda::set_device(static_cast<c10::DeviceIndex>(device)); });
}

char* jacobi_cuda_name(int device, char** name) {
  return guarded([&] {
    cudaDeviceProp properties{};
    C10_CUDA_CHECK(cudaGetDeviceProperties(&properties, device));
    *name = strdup(properties.name);
  });
}

// Bytes: in use by tensors, their peak so far, held by the allocator, free on the device, total of the device.
char* jacobi_cuda_memory(int device, int64_t* bytes) {
  return guarded([&] {
    const auto index = static_cast<c10::DeviceIndex>(device);
    const c10::cuda::CUDAGuard guard(index);
    const auto stats = c10::cuda::CUDACachingAllocator::getDeviceStats(index);
    size_t free = 0, total = 0;
    C10_CUDA_CHECK(cudaMemGetInfo(&free, &total));
    bytes[0] = stats.allocated_bytes[0].current;
    bytes[1] = stats.allocated_bytes[0].peak;
    bytes[2] = stats.reserved_bytes[0].current;
    bytes[3] = static_cast<int64_t>(free);
    bytes[4] = static_cast<int64_t>(total);
  });
}

char* jacobi_cuda_reset_peak_memory(int device) {
  return guarded([&] { c10::cuda::CUDACachingAllocator::resetPeakStats(static_cast<c10::DeviceIndex>(device)); });
}

// Gives memory that no tensor uses back to the driver, that of freed recordings too.
char* jacobi_cuda_release_unused(int device) {
  return guarded([&] {
    const c10::cuda::CUDAGuard guard(static_cast<c10::DeviceIndex>(device));
    c10::cuda::CUDACachingAllocator::emptyCache();
  });
}

char* jacobi_cuda_wait(int device) {
  return guarded([&] {
    const c10::cuda::CUDAGuard guard(static_cast<c10::DeviceIndex>(device));
    c10::cuda::device_synchronize();
  });
}

// Records an event, which has a time, after all work that the current stream has been given so far.
char* jacobi_event_record(int device, at::cuda::CUDAEvent** out) {
  return guarded([&] {
    auto event = std::make_unique<at::cuda::CUDAEvent>(cudaEventDefault);
    event->record(c10::cuda::getCurrentCUDAStream(static_cast<c10::DeviceIndex>(device)));
    *out = event.release();
  });
}

// Waits for the later of two events; returns the time between them.
char* jacobi_event_since(at::cuda::CUDAEvent* earlier, at::cuda::CUDAEvent* later, double* milliseconds) {
  return guarded([&] {
    later->synchronize();
    *milliseconds = earlier->elapsed_time(*later);
  });
}

void jacobi_event_free(at::cuda::CUDAEvent* event) {
  delete event;
}

PoolHandle* jacobi_pool_new() {
  return new PoolHandle{at::cuda::graph_pool_handle(), std::nullopt};
}

void jacobi_pool_free(PoolHandle* pool) {
  delete pool;
}

// Runs `work` once, so that libraries are initialised, and once more to record it, both on the pool's stream. If `work`
// returns false it has failed, and nothing is recorded.
char* jacobi_graph_capture(
    int device, PoolHandle* pool, bool (*work)(void*), void* context, at::cuda::CUDAGraph** out) {
  return guarded([&] {
    const auto index = static_cast<c10::DeviceIndex>(device);
    const c10::cuda::CUDAGuard guard(index);
    c10::cuda::device_synchronize();
    {
      if (!pool->stream) {
        pool->stream = c10::cuda::getStreamFromPool(false, index);
      }
      const c10::cuda::CUDAStreamGuard on_stream(*pool->stream);
      TORCH_CHECK(work(context), "the work to be recorded failed");
      c10::cuda::getCurrentCUDAStream(index).synchronize();
      auto graph = std::make_unique<at::cuda::CUDAGraph>();
      // Of this thread only: threads that watch collectives call the driver meanwhile.
      graph->capture_begin(pool->id, cudaStreamCaptureModeThreadLocal);
      bool done = false;
      try {
        done = work(context);
      } catch (...) {
        graph->capture_end();
        throw;
      }
      graph->capture_end();
      TORCH_CHECK(done, "the work to be recorded failed");
      *out = graph.release();
    }
    c10::cuda::device_synchronize();
  });
}

// Starts the recorded work, after the work of the current stream.
char* jacobi_graph_replay(at::cuda::CUDAGraph* graph) {
  return guarded([&] { graph->replay(); });
}

void jacobi_graph_free(at::cuda::CUDAGraph* graph) {
  delete graph;
}

} // extern "C"
