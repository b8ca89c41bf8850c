"""Targets of the tiny federation, without a run folder."""

import functools
import tempfile
from pathlib import Path

import numpy as np

from edgecmd.audits.finding import Finding
from edgecmd.audits.step.checks import drive_rounds, noise_of
from edgecmd.audits.target import Target, plan_of
from edgecmd.privacy.step.randomness import Source, normal
from edgecmd.privacy.step.units import Units, make_units
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


def audit_noise(target: Target) -> Finding:
    """Noise of every step of some rounds of the real code against the plan's."""
    return noise_of(drive_rounds(target), plan_of(target), 0.0)


def halved(source: Source, count: int) -> np.ndarray:
    """Noise that is too small by two."""
    return 0.5 * normal(source, count)


def doubled(*args: object, **options: object) -> list[Units]:
    """Each pair twice."""
    return 2 * make_units(*args, **options)  # type: ignore[arg-type]
