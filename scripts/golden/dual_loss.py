"""The dual loss and its gradients by PyTorch autograd: the golden of our loss (arXiv 2512.14681).

L = pc_weight * L_pc + ar_weight * L_ar over logits = hidden @ head^T, where
  L_ar  mean cross-entropy of the rows ar_rows against ar_targets;
  L_pc  mean over pairs of tau^2 * H(softmax(teacher logits / tau), softmax(student logits / tau)), the teacher detached;
        in the cases named reference it is divided by num_blocks once more, as the reference code does;
        in the cases named decay and acceptance it is a mean weighted by w, detached. With k the place of a pair in its
        block: decay, w = 0.8^k; acceptance (D-PACE, arXiv 2605.18810), w_k = sum over j >= k of the product over i <= j
        of (0.5 q_i + 0.5), q_i the student's probability of the clean token, scaled to a mean of 1 in its block;
        in the case named base the teacher's logits are base @ head^T.

Inputs, shared by all cases:
  hidden, base f32 [L, H]   head f32 [V, H]   pc_block i64 [P]   ar_rows, ar_targets i64 [A]   pc_student, pc_teacher i64 [P]   num_blocks i64 []
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
# Rows 3..15 are the clean stream, which both terms read; rows 18.. the noisy stream; the others have no loss.
AR_ROWS = [3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]
PC_TEACHER = [5, 6, 7, 9, 10, 12, 13, 14]
PC_STUDENT = [18, 19, 20, 21, 22, 23, 24, 25]
PC_BLOCK = [0, 0, 0, 1, 1, 2, 2, 2]
DECAY = 0.8
# Name: tau, ar_weight, pc_weight, divided by num_blocks.
CASES = {
    "tau1": (1.0, 1.0, 1.0, False),
    "tau2": (2.0, 1.0, 1.0, False),
    "weighted": (1.5, 0.5, 2.0, False),
    "ar_only": (1.0, 1.0, 0.0, False),
    "pc_only": (1.0, 0.0, 1.0, False),
    "reference": (2.0, 10.0, 1.0, True),
    "decay": (1.0, 1.0, 1.0, False),
    "acceptance": (2.0, 1.0, 1.0, False),
    "base": (1.0, 1.0, 1.0, False),
}


def position_weights(name, logits, index):
    """One per pair."""
    tokens = dict(zip(AR_ROWS, index["ar_targets"].tolist()))
    weights = torch.ones(len(PC_STUDENT), dtype=torch.float64)
    for block in range(NUM_BLOCKS):
        pairs = [pair for pair, of in enumerate(PC_BLOCK) if of == block]
        for k in range(len(pairs)):
            if name == "decay":
                weights[pairs[k]] = DECAY**k
            if name == "acceptance":
                student = logits.detach().softmax(-1)
                q = [student[PC_STUDENT[pair], tokens[PC_TEACHER[pair]]] for pair in pairs]
                reached = torch.stack([0.5 * p + 0.5 for p in q]).cumprod(0)
                weights[pairs[k]] = reached[k:].sum()
        if name == "acceptance":
            weights[pairs] /= weights[pairs].mean()
    return weights


def dual_loss(name, logits, teacher_logits, index):
    tau, ar_weight, pc_weight, reference = CASES[name]
    loss_ar = torch.nn.functional.cross_entropy(logits[index["ar_rows"]], index["ar_targets"])
    teacher = (teacher_logits[index["pc_teacher"]].detach() / tau).softmax(-1)
    student = (logits[index["pc_student"]] / tau).log_softmax(-1)
    weights = position_weights(name, logits, index)
    loss_pc = tau**2 * -(weights * (teacher * student).sum(-1)).sum() / weights.sum()
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
        "pc_block": torch.tensor(PC_BLOCK),
    }
    inputs["base"] = torch.randn(ROWS, HIDDEN, generator=generator)
    tensors = {**inputs, **index, "num_blocks": torch.tensor(NUM_BLOCKS)}
    for name, case in CASES.items():
        hidden, head = (inputs[key].double().requires_grad_() for key in ("hidden", "head"))
        logits = hidden @ head.T
        teacher_logits = inputs["base"].double() @ head.T if name == "base" else logits
        loss_ar, loss_pc, total = dual_loss(name, logits, teacher_logits, index)
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
