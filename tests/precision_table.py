"""What ``distill.precision = "bf16"`` does to accuracy and time: paired over seeds, in one process.

``python -m tests.precision_table --out /tmp/precision --seeds 5 --set federation.num_rounds=40``. What is
finished is kept in the folder and not repeated.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from edgecmd.config.assemble import Assembly
from edgecmd.config.reader import load_config
from edgecmd.config.schema import RunConfig
from edgecmd.core.statistics import interval_text, mean_interval
from edgecmd.evaluation.evaluate import assess, embedder, headline
from edgecmd.settings import PRECISIONS
from server.simulate import simulate
from tests.data_at_size import say

METRICS = ("recall@1", "recall@10", "linear_10")
SMALL = (
    "device=cpu",
    "data.image_size=32",
    "student.architecture=ws-50k",
    "federation.num_rounds=40",
    "evaluate.every_rounds=0",
    "evaluate.num_labels=[10]",
)


def figures(config: RunConfig, precision: str, assembly: Assembly) -> dict[str, Any]:
    """Metrics of one run, and the CPU seconds of its training."""
    file = Path(config.out) / f"{config.name}.json"
    if not file.is_file():
        run = assembly.run(replace(config, distill=replace(config.distill, precision=precision)))
        _ = run.task, run.holding(0)
        started = time.process_time()
        student = simulate(run)
        taken = time.process_time() - started
        line = headline(assess(embedder(student, run.task), run))
        file.write_text(json.dumps({"cpu_s": taken, **{name: line[name] for name in METRICS}}))
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def told(values: Sequence[float]) -> str:
    """Mean and interval."""
    return interval_text(asdict(mean_interval(values)))


def main(words: Sequence[str] | None = None) -> None:
    """Print a table: each metric by precision, and the paired difference; then the ratio of CPU times."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--set", action="append", default=[])
    asked = parser.parse_args(words)
    torch.set_num_threads(1)
    config, assembly = replace(load_config(None, [*SMALL, *asked.set]), out=asked.out), Assembly()
    Path(asked.out).mkdir(parents=True, exist_ok=True)
    pairs = []
    for seed in range(asked.seeds):
        # The one that goes first changes, since other work on the machine does.
        order = PRECISIONS if seed % 2 == 0 else PRECISIONS[::-1]
        made = {
            name: figures(replace(config, seed=seed, name=f"{name}-{seed}"), name, assembly) for name in order
        }
        pairs.append([made[name] for name in PRECISIONS])
        say(f"{seed} {pairs[-1]}")
    say("\n| metric | float32 | bf16 | bf16 - float32 |\n|---|---|---|---|")
    for name in METRICS:
        plain, rounded = ([one[which][name] for one in pairs] for which in (0, 1))
        differences = [b - a for a, b in zip(plain, rounded, strict=True)]
        cells = [told(values) for values in (plain, rounded, differences)]
        say(f"| {name} | {' | '.join(cells)} |")
    ratios = [rounded["cpu_s"] / plain["cpu_s"] for plain, rounded in pairs]
    say(f"\nCPU time of training, bf16 / float32: {told(ratios)}")


if __name__ == "__main__":
    main()
