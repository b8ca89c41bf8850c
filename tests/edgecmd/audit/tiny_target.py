"""Targets of the tiny federation, without a run folder."""

import functools
import tempfile
from pathlib import Path

from edgecmd.audits.target import Target
from edgecmd.privacy.plan import make_plan
from tests.tiny_federation import tiny_config, write_pairs


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
        config=config,
        folder=None,
        plan=make_plan(config),
        privacy=privacy or {},
    )
