"""Anchors of what everybody can find: one list, whatever pairs there are, and refused where there is none."""

import numpy as np
import pytest

from edgecmd.audits.finding import INDICATOR
from edgecmd.audits.static.anchors import things_finding
from edgecmd.core.errors import ConfigError
from edgecmd.data.anchors import AnchorSource, make_anchors
from edgecmd.settings import DistillConfig

FEATURES = np.arange(20, dtype=np.float32).reshape(10, 2)


def source(*, things: bool) -> AnchorSource:
    def never(*_: object) -> np.ndarray:
        raise AssertionError("Only the gallery is asked for.")

    return AnchorSource(
        public=never, embed=never, dim=lambda: 2, side=8, things=(lambda: FEATURES) if things else None
    )


@pytest.mark.parametrize(("asked", "given"), [(3, 3), (10, 10), (1024, 10)])
def test_anchors_are_different_rows_of_the_gallery_drawn_by_the_seed(asked: int, given: int) -> None:
    settings = DistillConfig(anchors="gallery", num_anchors=asked)
    found = [make_anchors(settings, source(things=True), seed=seed).numpy() for seed in (0, 0, 1)]
    assert np.array_equal(found[0], found[1])
    assert len(np.unique(found[0], axis=0)) == given
    assert all(any(np.array_equal(row, one) for one in FEATURES) for row in found[0])
    assert np.array_equal(found[0], found[2]) == (given == len(FEATURES))


def test_a_set_whose_gallery_is_private_is_refused_with_the_way_out() -> None:
    with pytest.raises(
        ConfigError, match=r"needs a list of things that is public.*Set distill.anchors to 'public'"
    ):
        make_anchors(DistillConfig(anchors="gallery"), source(things=False), seed=0)


def test_the_audit_says_that_the_promise_is_the_set_s() -> None:
    found = things_finding(np.zeros((5, 2, 2, 3), np.uint8))
    assert found.verdict == INDICATOR
    assert "of the 5 things that the data set says everybody has" in found.text
