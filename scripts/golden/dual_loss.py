"""The dual loss and its gradients by PyTorch autograd: what our loss must reproduce (arXiv 2512.14681).

L = pc_weight * L_pc + ar_weight * L_ar over logits = hidden @ head^T, where
  L_ar  mean cross-entropy of the rows ar_rows against ar_targets;
  L_pc  mean over pairs of tau^2 * H(softmax(teacher logits / tau), softmax(student logits / tau)), the teacher detached;
        in the cases named reference it is divided by num_blocks once more, as the reference code does.

Inputs, shared by all cases:
  hidden f32 [L, H]   head f32 [V, H]   ar_rows, ar_targets i64 [A]   pc_student, pc_teacher i64 [P]   num_blocks i64 []
Per case (prefix "<case>."):
  tau, ar_weight, pc_weight f32 []   reference i64 [] (1: divided by num_blocks)
  loss_ar, loss_pc, total f32 []   grad_hidden f32 [L, H]   grad_head f32 [V, H]
Computed in fp64 from the fp32 inputs, then rounded: the golden is the truth, not one order of summation.

Made with: torch 2.11.0, safetensors 0.8.0, Python 3.11.
Usage: dual_loss.py OUTPUT.safetensors
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file

SEED = 20251216
ROWS, HIDDEN, VOCAB, NUM_BLOCKS = 26, 12, 53, 3
# Rows 3..15 play the clean stream, which both terms read; rows 18.. the noisy one; the rest has no loss.
AR_ROWS = [3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]
PC_TEACHER = [5, 6, 7, 9, 10, 12, 13, 14]
PC_STUDENT = [18, 19, 20, 21, 22, 23, 24, 25]
# Name: tau, ar_weight, pc_weight, divided by num_blocks.
CASES = {
    "tau1": (1.0, 1.0, 1.0, False),
    "tau2": (2.0, 1.0, 1.0, False),
    "weighted": (1.5, 0.5, 2.0, False),
    "ar_only": (1.0, 1.0, 0.0, False),
    "pc_only": (1.0, 0.0, 1.0, False),
    "reference": (2.0, 10.0, 1.0, True),
}


def dual_loss(logits, index, case):
    tau, ar_weight, pc_weight, reference = case
    loss_ar = torch.nn.functional.cross_entropy(logits[index["ar_rows"]], index["ar_targets"])
    teacher = (logits[index["pc_teacher"]].detach() / tau).softmax(-1)
    student = (logits[index["pc_student"]] / tau).log_softmax(-1)
    loss_pc = tau**2 * -(teacher * student).sum(-1).mean()
    if reference:
        loss_pc = loss_pc / NUM_BLOCKS
    return loss_ar, loss_pc, pc_weight * loss_pc + ar_weight * loss_ar


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()

    generator = torch.Generator().manual_seed(SEED)
    inputs = {
        "hidden": torch.randn(ROWS, HIDDEN, generator=generator),
        "head": torch.randn(VOCAB, HIDDEN, generator=generator) * 0.7,
    }
    index = {
        "ar_rows": torch.tensor(AR_ROWS),
        "ar_targets": torch.randint(0, VOCAB, (len(AR_ROWS),), generator=generator),
        "pc_student": torch.tensor(PC_STUDENT),
        "pc_teacher": torch.tensor(PC_TEACHER),
    }
    tensors = {**inputs, **index, "num_blocks": torch.tensor(NUM_BLOCKS)}
    for name, case in CASES.items():
        hidden, head = (inputs[key].double().requires_grad_() for key in ("hidden", "head"))
        loss_ar, loss_pc, total = dual_loss(hidden @ head.T, index, case)
        total.backward()
        outputs = {"loss_ar": loss_ar, "loss_pc": loss_pc, "total": total}
        outputs |= {"grad_hidden": hidden.grad, "grad_head": head.grad}
        outputs |= dict(zip(("tau", "ar_weight", "pc_weight"), map(torch.tensor, case[:3])))
        tensors |= {f"{name}.{key}": value.detach().float() for key, value in outputs.items()}
        tensors[f"{name}.reference"] = torch.tensor(int(case[3]))
    save_file(tensors, arguments.output)
    arguments.output.chmod(0o644)


if __name__ == "__main__":
    main()
