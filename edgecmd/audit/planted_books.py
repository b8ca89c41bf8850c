"""Faults of the books: a small real run, of which a ledger or the statement is then altered."""

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from edgecmd.audit.books import books_findings
from edgecmd.audit.faults import Fault
from edgecmd.audit.finding import CONTRADICTED, Finding
from edgecmd.audit.target import find_target
from edgecmd.config import RunConfig
from edgecmd.files import read_json, write_bytes_atomically, write_json
from edgecmd.seeding import numpy_generator
from edgecmd.settings import load_config

Runner = Callable[[RunConfig], object]
NUM_PAIRS, NUM_PUBLIC, SIDE = 60, 24, 16
NUM_CLIENTS, NUM_ROUNDS = 2, 3


def book_faults(run: Runner, folder: Path) -> list[Fault]:
    """A ledger that forgets rounds, and a statement of one round's epsilon.

    Args:
        run: Makes the run folder of some settings: a real federation.
        folder: An empty folder for it; it grows by about a megabyte.
    """

    @cache
    def finished() -> Path:
        config = small_config(folder)
        run(config)
        return folder / config.name

    def audit(name: str, alter: Callable[[Path], None]) -> Finding:
        copy = folder / name
        shutil.copytree(finished(), copy)
        alter(copy)
        return books_verdict(copy)

    return [
        Fault(
            name="ledger that forgets rounds",
            level="check",
            catch=lambda: audit("forgotten", forget_rounds),
            sound=lambda: books_verdict(finished()),
        ),
        Fault(
            name="epsilon of one round stated for all",
            level="check",
            catch=lambda: audit("one-round", state_one_round),
            sound=lambda: books_verdict(finished()),
        ),
    ]


def small_config(folder: Path) -> RunConfig:
    """Settings of a private run of two clients on noise that takes a second or two; writes its pairs."""
    noise = numpy_generator(0, "planted-books")
    pairs = folder / "pairs.npz"
    np.savez(
        pairs,
        source=noise.integers(0, 256, (NUM_PAIRS, SIDE, SIDE, 3), dtype=np.uint8),
        target=noise.integers(0, 256, (NUM_PAIRS, SIDE, SIDE, 1), dtype=np.uint8),
        public=noise.integers(0, 256, (NUM_PUBLIC, SIDE, SIDE, 3), dtype=np.uint8),
    )
    return load_config(
        None,
        [
            'data.name="folder"',
            f'data.path="{pairs}"',
            f"data.image_size={SIDE}",
            "data.strict=false",
            'student.architecture="ws-50k"',
            'device="cpu"',
            "distill.batch_size=8",
            "distill.num_anchors=16",
            'privacy.mechanism="anchors"',
            f"federation.num_clients={NUM_CLIENTS}",
            f"federation.num_rounds={NUM_ROUNDS}",
            "federation.local_steps=2",
            "evaluate.every_rounds=0",
            f'out="{folder}"',
            'name="sound"',
        ],
    )


def forget_rounds(run: Path) -> None:
    """Leave each ledger its first round alone, and make the statement fit: a ledger that starts anew."""
    for path in sorted((run / "ledger").glob("*.jsonl")):
        # The first lines are the plan and its first spending.
        kept = path.read_bytes().splitlines(keepends=True)[:2]
        write_bytes_atomically(path, b"".join(kept))
    state_one_round(run)


def state_one_round(run: Path) -> None:
    """Make the statement claim what one round costs."""
    target = find_target(run)
    assert target.plan is not None
    epsilon = target.plan.epsilon_after(1)
    table = read_json(run / "privacy.json")
    table["epsilon"] = epsilon
    table["epsilon_by_client"] = dict.fromkeys(table["epsilon_by_client"], epsilon)
    write_json(run / "privacy.json", table)


def books_verdict(run: Path) -> Finding:
    """The finding on epsilon of a run folder; the first that contradicts, where one does."""
    findings = books_findings(find_target(run))
    epsilon = next(one for one in findings if one.quantity == "epsilon")
    return (
        epsilon
        if epsilon.verdict == CONTRADICTED
        else next((one for one in findings if one.verdict == CONTRADICTED), epsilon)
    )
