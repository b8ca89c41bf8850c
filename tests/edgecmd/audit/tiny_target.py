"""Targets of the tiny federation, without a run folder."""

import functools
import tempfile
from pathlib import Path

from edgecmd.audits.target import Target
from tests.tiny_federation import run_of, tiny_config, write_pairs


@functools.cache
def tiny_pairs() -> Path:
    """The tiny pairs, written once."""
    return write_pairs(Path(tempfile.mkdtemp()) / "pairs.npz")


def tiny_target(*settings: str, privacy: dict | None = None) -> Target:
    """A target whose configuration is audited."""
    config = tiny_config(tiny_pairs(), tiny_pairs().parent / "runs", *settings)
    return Target(
        kind="run folder",
        path=tiny_pairs().parent,
        run=run_of(config),
        folder=None,
        plan=run_of(config).plan,
        privacy=privacy or {},
    )
