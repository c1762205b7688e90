// Declarations in place of Gloo's own headers, which libtorch's wheel leaves out although its header ProcessGroupGloo.hpp
// includes them. That header holds every Gloo object by pointer, so the layout of its class does not depend on these
// declarations. Gloo itself is part of libtorch_cpu.so.
#pragma once

#include <chrono>

namespace gloo {
class Context {
 public:
  void setTimeout(std::chrono::milliseconds timeout);
};

namespace transport {
class UnboundBuffer {
 public:
  virtual ~UnboundBuffer();
};
} // namespace transport
} // namespace gloo
