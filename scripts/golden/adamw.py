"""Five steps of torch.optim.AdamW and two of clip_grad_norm_: the golden of our optimizer.

Hyper-parameters are scalars in the file: lr, beta1, beta2, eps, weight_decay f64 [].
  param.a f32 [3, 4], param.b f32 [5]             before the first step; only the matrix a is decayed
  step<k>.grad.a, step<k>.grad.b                  the gradient of step k = 1..5
  step<k>.param.a, step<k>.param.b                the parameters after it
  final.exp_avg.a|b, final.exp_avg_sq.a|b         the moments after step 5
Clipping by the global norm of both tensors (coefficient max_norm / (norm + 1e-6), never above 1), on the gradients
of step 1: with <c> in clip, keep
  <c>.max_norm, <c>.total_norm f64 []             <c>.grad.a, <c>.grad.b  clipped
In clip the norm is above max_norm, in keep below.

Made with: torch 2.11.0, safetensors 0.8.0, Python 3.11.
Usage: adamw.py OUTPUT.safetensors
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file

SEED = 20251216
STEPS = 5
SHAPES = {"a": (3, 4), "b": (5,)}
LR, BETA1, BETA2, EPS, WEIGHT_DECAY = 1e-2, 0.9, 0.95, 1e-8, 0.1
MAX_NORMS = {"clip": 1.0, "keep": 100.0}


def optimise(tensors, start, gradients):
    parameters = {name: start[name].clone().requires_grad_() for name in SHAPES}
    groups = [{"params": [parameters["a"]]}, {"params": [parameters["b"]], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=(BETA1, BETA2), eps=EPS, weight_decay=WEIGHT_DECAY, foreach=False)
    for step, gradient in enumerate(gradients, 1):
        for name, parameter in parameters.items():
            parameter.grad = gradient[name].clone()
            tensors[f"step{step}.grad.{name}"] = gradient[name]
        optimizer.step()
        tensors |= {f"step{step}.param.{name}": p.detach().clone() for name, p in parameters.items()}
    for name, parameter in parameters.items():
        for moment in ("exp_avg", "exp_avg_sq"):
            tensors[f"final.{moment}.{name}"] = optimizer.state[parameter][moment].clone()


def clip(tensors, case, max_norm, gradient):
    parameters = {name: torch.zeros_like(value).requires_grad_() for name, value in gradient.items()}
    for name, parameter in parameters.items():
        parameter.grad = gradient[name].clone()
    total_norm = torch.nn.utils.clip_grad_norm_(parameters.values(), max_norm)
    tensors[f"{case}.max_norm"] = torch.tensor(max_norm, dtype=torch.float64)
    tensors[f"{case}.total_norm"] = total_norm.double()
    tensors |= {f"{case}.grad.{name}": parameter.grad for name, parameter in parameters.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()

    generator = torch.Generator().manual_seed(SEED)

    def draw():
        return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}

    start, gradients = draw(), [draw() for _ in range(STEPS)]
    names = ("lr", "beta1", "beta2", "eps", "weight_decay")
    values = (LR, BETA1, BETA2, EPS, WEIGHT_DECAY)
    tensors = {name: torch.tensor(value, dtype=torch.float64) for name, value in zip(names, values)}
    tensors |= {f"param.{name}": value for name, value in start.items()}
    optimise(tensors, start, gradients)
    for case, max_norm in MAX_NORMS.items():
        clip(tensors, case, max_norm, gradients[0])
    save_file(tensors, arguments.output)
    arguments.output.chmod(0o644)


if __name__ == "__main__":
    main()
