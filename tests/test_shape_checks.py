"""The checks that the tests run under: they still refuse, and are made once for all functions of a kind."""

from collections.abc import Callable

import jaxtyping
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from tests import shape_checks
from tests.shape_checks import checked


def defined(factor: float) -> Callable[..., Tensor]:
    """A function within a function, as a training step defines."""

    def summed(image: Float[Tensor, "batch dim"], *, weight: float = 1.0) -> Float[Tensor, " batch"]:
        return factor * weight * image.sum(dim=1) if weight else image

    return jaxtyping.jaxtyped(summed, typechecker=checked)


def test_wrong_shapes_and_types_are_refused_and_each_function_keeps_its_own_values() -> None:
    one, two = defined(1.0), defined(2.0)
    assert one(torch.ones(2, 3)).tolist() == [3.0, 3.0]
    assert two(torch.ones(2, 3)).tolist() == [6.0, 6.0]
    with pytest.raises(jaxtyping.TypeCheckError, match="parameter 'image'"):
        two(torch.ones(3))
    with pytest.raises(jaxtyping.TypeCheckError, match="parameter 'weight'"):
        two(torch.ones(2, 3), weight="heavy")
    with pytest.raises(jaxtyping.TypeCheckError, match="return value"):
        two(torch.ones(2, 3), weight=0.0)


def test_a_function_that_is_defined_again_brings_no_new_checks() -> None:
    defined(1.0)(torch.ones(2, 3))
    before = len(shape_checks._MADE)
    defined(3.0)(torch.ones(4, 5))
    assert len(shape_checks._MADE) == before


def test_the_packages_are_under_these_checks() -> None:
    from edgecmd.losses import unit

    with pytest.raises(jaxtyping.TypeCheckError):
        unit("no tensor")
