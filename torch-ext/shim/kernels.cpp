// Operations of libtorch that tch does not have. The safe side is src/gpu/varlen.rs and src/cpu/adamw.rs.

#include <ATen/ops/_flash_attention_forward.h>
#include <ATen/ops/_fused_adamw.h>

#include "guarded.h"

extern "C" {

// Attention of several sequences: out [n, heads, width], log_sums [heads, n].
char* jacobi_flash_forward(
    const at::Tensor* const* qkv,
    const at::Tensor* starts_q,
    const at::Tensor* starts_k,
    const at::Tensor* used_k,
    int64_t max_q,
    int64_t max_k,
    bool causal,
    at::Tensor** out,
    at::Tensor** log_sums) {
  return guarded([&] {
    std::optional<at::Tensor> used;
    if (used_k != nullptr) {
      used = *used_k;
    }
    auto found = at::_flash_attention_forward(
        *qkv[0], *qkv[1], *qkv[2], *starts_q, *starts_k, max_q, max_k, 0.0, causal, false, std::nullopt,
        std::nullopt, std::nullopt, used, std::nullopt);
    *out = new at::Tensor(std::move(std::get<0>(found)));
    *log_sums = new at::Tensor(std::move(std::get<1>(found)));
  });
}

// One AdamW step of a parameter. `state` is the parameter, its gradient, both moments and the number of the step; gradients are
// divided by `divisor`.
char* jacobi_fused_adamw(at::Tensor* const* state, const double* numbers, const at::Tensor* divisor) {
  return guarded([&] {
    auto list = [&](int at) { return std::vector<at::Tensor>{*state[at]}; };
    auto master = list(0), gradient = list(1), first = list(2), second = list(3), steps = list(4);
    at::_fused_adamw_(
        master, gradient, first, second, {}, steps, numbers[0], numbers[1], numbers[2], numbers[3], numbers[4],
        /*amsgrad=*/false, /*maximize=*/false, *divisor, std::nullopt);
  });
}

} // extern "C"
