// Turns exceptions into the result of a call: null, or an error text, to be freed by jacobi_text_free.
#pragma once

#include <cstring>
#include <exception>

#include <c10/util/Exception.h>

template <typename Body>
char* guarded(Body body) {
  try {
    body();
    return nullptr;
  } catch (const c10::Error& error) {
    return strdup(error.what_without_backtrace());
  } catch (const std::exception& error) {
    return strdup(error.what());
  } catch (...) {
    return strdup("an exception of unknown kind");
  }
}
