"""Faults of the books: a small real run, of which a ledger or the statement is then altered."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edgecmd.audits.finding import CONTRADICTED, Finding
from edgecmd.audits.static.ledger_consistency import books_findings
from edgecmd.config.reader import load_config
from edgecmd.config.schema import RunConfig
from edgecmd.config.targets import find_target
from edgecmd.core.files import read_json, write_bytes_atomically, write_json
from edgecmd.core.seeding import numpy_generator
from edgecmd.experiments.faults.planted import Fault

Runner = Callable[[RunConfig], object]
NUM_PAIRS, NUM_PUBLIC, SIDE = 60, 24, 16
NUM_CLIENTS, NUM_ROUNDS, NUM_STEPS = 2, 3, 5


def book_faults(sound: Callable[[], Path], folder: Path) -> list[Fault]:
    """Ledgers that forget rounds or one, and a statement of one round's epsilon.

    Args:
        sound: Gives the run folder of a small private run.
        folder: A folder for its copies; it grows by about a megabyte.
    """

    def audit(name: str, alter: Callable[[Path], None]) -> Finding:
        copy = folder / name
        shutil.copytree(sound(), copy)
        alter(copy)
        return books_verdict(copy)

    def fault(name: str, copy: str, alter: Callable[[Path], None]) -> Fault:
        return Fault(
            name=name,
            level="check",
            catch=lambda: audit(copy, alter),
            sound=lambda: books_verdict(sound()),
        )

    return [
        fault("ledger that forgets rounds", "forgotten", forget_rounds),
        fault("a forgotten round", "one-forgotten", forget_the_last_round),
        fault("epsilon of one round stated for all", "one-round", state_one_round),
    ]


def small_run(run: Runner, folder: Path, name: str, *changes: str) -> Callable[[], Path]:
    """A small real federation that is made when its folder is first asked for.

    Args:
        run: Makes the run folder of some settings.
        folder: Where it is.
        name: Name of the run.
        changes: Further settings.
    """

    def finished() -> Path:
        if not (folder / name).exists():
            run(small_config(folder, f'name="{name}"', *changes))
        return folder / name

    return finished


def small_config(folder: Path, *changes: str) -> RunConfig:
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
            f"federation.local_steps={NUM_STEPS}",
            "evaluate.every_rounds=0",
            f'out="{folder}"',
            *changes,
        ],
    )


def forget_rounds(run: Path) -> None:
    """Leave each ledger its first round alone, and make the statement fit: a ledger that starts anew."""
    for path in sorted((run / "ledger").glob("*.jsonl")):
        # The first lines are the plan and its first spending.
        kept = path.read_bytes().splitlines(keepends=True)[:2]
        write_bytes_atomically(path, b"".join(kept))
    _state(run, num_rounds=1)


def forget_the_last_round(run: Path) -> None:
    """Take the last line off each ledger, whose chain then still holds, and make the statement fit."""
    for path in sorted((run / "ledger").glob("*.jsonl")):
        write_bytes_atomically(path, b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    _state(run, num_rounds=NUM_ROUNDS - 1)


def state_one_round(run: Path) -> None:
    """Make the statement claim what one round costs."""
    _state(run, num_rounds=1)


def _state(run: Path, *, num_rounds: int) -> None:
    """Make the statement claim what ``num_rounds`` rounds cost."""
    target = find_target(run)
    assert target.plan is not None
    epsilon = target.plan.epsilon_after(num_rounds)
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
