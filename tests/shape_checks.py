"""Turning the checks of shapes and types off where a test repeats one call thousands of times.

The checks cost more than most of what they look at: a step of a small student takes three to five times as
long. A test that turns them off has a sister that walks the same code with the checks on.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import jaxtyping


@contextmanager
def shapes_unchecked() -> Iterator[None]:
    """No checks of shapes and types inside; those of `edgecmd` itself, which users see, are not meant."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)
