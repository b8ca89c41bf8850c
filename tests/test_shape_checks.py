"""The checks that the tests run under find wrong types and sizes, and are made once for a function."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import jaxtyping
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from tests import shape_checks
from tests.shape_checks import checked

MODULE = """
from collections.abc import Iterator
from dataclasses import dataclass
from jaxtyping import Float
from torch import Tensor


def plain(number: int) -> str:
    return "one" if number == 1 else number


def product(left_AB: Float[Tensor, "a b"], right_BC: Float[Tensor, "b c"]) -> Float[Tensor, "a c"]:
    return left_AB @ right_BC if len(left_AB) > 1 else right_BC


def nested(rows: dict[str, list[Float[Tensor, "n"]]], other: Float[Tensor, "n"]) -> None:
    pass


def each(number: int) -> Iterator[int]:
    yield number


@dataclass(frozen=True)
class Settings:
    size: int
    image: Float[Tensor, "side side"]

    def twice(self) -> int:
        return 2 * self.size if self.size else "none"

    @property
    def name(self) -> str:
        return self.size

    @classmethod
    def of(cls, size: int) -> "Settings":
        return cls(size, torch.zeros(size, size))

    @staticmethod
    def half(size: int) -> int:
        return size / 2


class Open:
    def __init__(self, size: int) -> None:
        self.size = size
"""


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module above, imported with the checks."""
    (tmp_path / "module_to_check.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "module_to_check", raising=False)
    with jaxtyping.install_import_hook("module_to_check", "beartype.beartype"):
        return importlib.import_module("module_to_check")


def test_what_is_right_passes(made: ModuleType) -> None:
    two_three, three_four = torch.ones(2, 3), torch.ones(3, 4)
    assert made.plain(1) == "one"
    torch.testing.assert_close(made.product(two_three, three_four), torch.full((2, 4), 3.0))
    made.nested({"a": [torch.ones(3)]}, torch.ones(3))
    assert list(made.each(5)) == [5]
    assert made.Settings(4, torch.ones(3, 3)).twice() == 8
    assert made.Open(2).size == 2


@pytest.mark.parametrize(
    "wrong",
    [
        lambda made: made.plain("1"),
        lambda made: made.plain(2),
        lambda made: made.product(torch.ones(2, 3), torch.ones(4, 3)),
        lambda made: made.product(torch.ones(2, 3), torch.ones(3, 4, 1)),
        lambda made: made.product(torch.ones(2, 3), torch.ones(3, 4, dtype=torch.long)),
        lambda made: made.product(torch.ones(1, 3), torch.ones(3, 4)),
        lambda made: made.nested({"a": [torch.ones(2)]}, torch.ones(3)),
        lambda made: list(made.each("5")),
        lambda made: made.Settings("4", torch.ones(3, 3)),
        lambda made: made.Settings(4, torch.ones(3, 2)),
        lambda made: made.Settings(0, torch.ones(3, 3)).twice(),
        lambda made: made.Settings(4, torch.ones(3, 3)).name,
        lambda made: made.Settings.of("4"),
        lambda made: made.Settings.half(3),
        lambda made: made.Open("2"),
    ],
)
def test_what_is_wrong_is_refused(wrong, made: ModuleType) -> None:
    with pytest.raises(Exception, match="(?i)violates type hint|type-check error"):
        wrong(made)


def test_a_size_counts_for_one_call_only(made: ModuleType) -> None:
    made.product(torch.ones(2, 3), torch.ones(3, 4))
    made.product(torch.ones(5, 6), torch.ones(6, 7))


def defined(factor: float) -> Callable[..., Tensor]:
    """A function within a function, as a training step defines."""

    def summed(image: Float[Tensor, "batch dim"], *, weight: float = 1.0) -> Float[Tensor, " batch"]:
        return factor * weight * image.sum(dim=1) if weight else image

    return shape_checks._checked(typechecker=checked)(summed)


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


def test_later_definitions_and_calls_in_a_test_are_taken_to_be_like_the_first() -> None:
    shape_checks.next_test()
    first = [defined(float(index)) for index in range(shape_checks.MOST_CALLS)]
    later = defined(1.0)
    for one in first:
        with pytest.raises(jaxtyping.TypeCheckError, match="parameter 'weight'"):
            one(torch.ones(2, 3), weight="heavy")
    assert later(torch.ones(2, 3), weight=0.0).shape == (2, 3)
    for _ in range(shape_checks.MOST_CALLS):
        first[0](torch.ones(2, 3))
    assert first[0](torch.ones(2, 3), weight=0.0).shape == (2, 3)
    shape_checks.next_test()
    with pytest.raises(jaxtyping.TypeCheckError, match="return value"):
        defined(1.0)(torch.ones(2, 3), weight=0.0)


def test_the_packages_are_under_these_checks() -> None:
    from edgecmd.losses import unit

    with pytest.raises(jaxtyping.TypeCheckError):
        unit("no tensor")
