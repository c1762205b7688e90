// See ../context.h. Only ever held by pointer.
#pragma once

namespace gloo::transport {
class Device;
} // namespace gloo::transport
