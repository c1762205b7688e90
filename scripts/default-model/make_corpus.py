#!/usr/bin/env python3
"""Writes the texts of the default model: the base corpus, and the prompts of the quick start.

    make_corpus.py [--base 64000] [--drills 96000] [--train 3000] [--test 400] [--seed 20251214]

  runs/default-model/corpus/base.jsonl   {"id", "prompt", "response"}: training data of the base model (not committed)
  datasets/default/prompts-train.jsonl   {"id", "prompt", "answer"}: prompts for trajectories; none of them in base
  datasets/default/prompts-test.jsonl    {"id", "prompt", "answer"}: held out. No problem of the other two files has the
                                         same family and the same numbers as one of these, whatever its names and wording

Standard library only. The same arguments give the same bytes on any machine.
"""

import argparse
import json
import sys
from pathlib import Path
from random import Random

from problems import draw, drill

# Prompts drawn before the base corpus. The others are drawn after it, so that the base model does not depend on their
# number.
EARLY_TRAIN = 1500

ROOT = Path(__file__).resolve().parents[2]


def take(make, rng, count, taken_prompts, forbidden_keys):
    """Draws with `make` `count` problems with new prompts and without a forbidden key, and marks their prompts as taken."""
    problems, tries = [], 0
    while len(problems) < count:
        tries += 1
        if tries > 100 * (count + 1):
            sys.exit(f"make_corpus.py: found only {len(problems)} of {count} different problems; ask for fewer")
        problem = make(rng)
        if problem.prompt in taken_prompts or problem.key in forbidden_keys:
            continue
        taken_prompts.add(problem.prompt)
        problems.append(problem)
    return problems


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    print(f"{path}: {len(rows)} rows, {path.stat().st_size} bytes")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=int, default=64000, help="word problems in the base corpus")
    parser.add_argument("--drills", type=int, default=96000, help="bare expressions in the base corpus")
    parser.add_argument("--train", type=int, default=3000, help="prompts for trajectories")
    parser.add_argument("--test", type=int, default=400, help="held-out prompts")
    parser.add_argument("--seed", type=int, default=20251214)
    parser.add_argument("--root", type=Path, default=ROOT, help="where runs/ and datasets/ are")
    args = parser.parse_args()

    taken = set()
    test = take(draw, Random(f"{args.seed}/test"), args.test, taken, frozenset())
    held_out = {problem.key for problem in test}
    train = take(draw, Random(f"{args.seed}/train"), min(args.train, EARLY_TRAIN), taken, held_out)
    base = take(draw, Random(f"{args.seed}/base"), args.base, taken, held_out)
    base += take(drill, Random(f"{args.seed}/drill"), args.drills, taken, frozenset())
    Random(f"{args.seed}/order").shuffle(base)
    train += take(draw, Random(f"{args.seed}/more"), max(0, args.train - EARLY_TRAIN), taken, held_out)

    def asked(kind, problems):
        return [{"id": f"{kind}-{i:05}", "prompt": p.prompt, "answer": str(p.answer)} for i, p in enumerate(problems)]

    write(args.root / "datasets/default/prompts-test.jsonl", asked("test", test))
    write(args.root / "datasets/default/prompts-train.jsonl", asked("train", train))
    write(args.root / "runs/default-model/corpus/base.jsonl",
          [{"id": f"base-{i:05}", "prompt": p.prompt, "response": p.response} for i, p in enumerate(base)])


if __name__ == "__main__":
    main()
