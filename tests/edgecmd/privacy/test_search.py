"""The search as a tool for one's own student: it finds what is known, and shows where."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from edgecmd import losses
from edgecmd.audits.static.opacus_reference import naive_query
from edgecmd.audits.static.scripted import bare_plan, settings_work, step_query
from edgecmd.audits.static.search import Found, _moved, pair_makers, search_sensitivity
from edgecmd.core.errors import PrivacyError
from edgecmd.models.students import build_student
from edgecmd.settings import DistillConfig

CLIP, DIM, SIDE = 0.5, 8, 16
KINDS = ("random", "hub", "duplicates", "flip", "outlier", "poisoned")
ANCHORS = functional.normalize(torch.randn(10, DIM, generator=torch.Generator().manual_seed(1)), dim=1)
STUDENT = build_student(
    "gn-50k", in_channels=1, embedding_dim=DIM, generator=torch.Generator().manual_seed(0)
)


def searched(query, *, num_tries: int, num_pairs: int = 6, kinds: tuple[str, ...] = KINDS) -> Found:
    makers = pair_makers(STUDENT, num_pairs=num_pairs, in_channels=1, image_size=SIDE, embedding_dim=DIM)
    return search_sensitivity(
        query,
        {kind: makers[kind] for kind in kinds},
        num_tries=num_tries,
        generator=torch.Generator().manual_seed(2),
        climb_length=4,
    )


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("mechanism", "loss", "num_views", "factor"),
    [
        ("anchors", "cmc-anchored", 1, 1),
        ("anchors", "cmd-anchored", 2, 1),
        ("groups", "cmc-groups", 1, 2),
        ("groups", "gcl", 3, 2),
    ],
)
def test_the_private_step_stays_within_its_sensitivity(
    mechanism: str, loss: str, num_views: int, factor: int
) -> None:
    query = step_query(
        STUDENT,
        settings_work(DistillConfig(loss=loss), ANCHORS),
        plan=bare_plan(mechanism=mechanism, clip=CLIP, num_views=num_views, num_groups=2, chunk_size=4),
    )
    found = searched(query, num_tries=48)
    assert found.num_tries == 48
    assert 0.5 * CLIP < found.largest <= factor * CLIP
    assert set(found.by_kind) == set(KINDS)
    assert found.largest == max(found.by_kind.values())


@pytest.mark.parametrize("mode", ["hooks", "ghost"])
def test_it_refutes_in_batch_negatives_and_shows_the_pair(mode: str) -> None:
    query = naive_query(STUDENT, lambda z, t: losses.cmc(z, t, temperature=0.1), clip=CLIP, mode=mode)
    found = searched(query, num_tries=1, num_pairs=64, kinds=("flip",))
    assert found.largest > 50 * CLIP
    assert found.kind == "flip"
    assert found.worst is not None
    larger, smaller = query(
        [(found.worst.data, found.worst.larger()), (found.worst.data, found.worst.smaller())]
    )
    again = sum(float((larger[name] - smaller[name]).double().square().sum()) for name in larger) ** 0.5
    assert again == pytest.approx(found.largest, rel=1e-6)


def test_relations_in_the_batch_are_refuted_too() -> None:
    query = naive_query(
        STUDENT, lambda z, t: losses.cmd(z, t, temperature=0.1, teacher_temperature=0.04), clip=CLIP
    )
    found = searched(query, num_tries=6, num_pairs=32, kinds=("outlier",))
    assert found.largest > 1.5 * CLIP


def test_it_stops_where_it_is_told() -> None:
    query = naive_query(STUDENT, lambda z, t: losses.cmc(z, t, temperature=0.1), clip=CLIP)
    makers = pair_makers(STUDENT, num_pairs=8, in_channels=1, image_size=SIDE, embedding_dim=DIM)
    found = search_sensitivity(
        query,
        {"flip": makers["flip"]},
        num_tries=50,
        generator=torch.Generator().manual_seed(0),
        stop_above=2 * CLIP,
    )
    assert found.num_tries < 50


def test_neighbours_differ_in_one_row() -> None:
    makers = pair_makers(STUDENT, num_pairs=7, in_channels=1, image_size=SIDE, embedding_dim=DIM)
    for kind, make in makers.items():
        pair = make(torch.Generator().manual_seed(3))
        assert pair.kind == kind
        assert set(pair.larger()) - set(pair.smaller()) == {pair.added}
        assert len(pair.smaller()) == len(pair.data) - 1
        np.testing.assert_array_equal(pair.larger(), np.arange(len(pair.data)))


def test_too_few_pairs_are_refused() -> None:
    with pytest.raises(PrivacyError, match="num_pairs=2 is too few"):
        pair_makers(STUDENT, num_pairs=2, in_channels=1, image_size=SIDE, embedding_dim=DIM)


def test_strings_that_are_tried_have_bytes_of_all_kinds() -> None:
    """Numbers below one would be padding, and every string an empty one."""
    coins = torch.Generator().manual_seed(0)
    student = build_student("text-50k", in_channels=1, embedding_dim=DIM, generator=coins)
    makers = pair_makers(student, num_pairs=6, in_channels=1, image_size=(1, 12), embedding_dim=DIM)
    for kind in ("hub", "duplicates", "flip", "outlier"):
        tried = makers[kind](coins)
        assert tried.data.inputs.shape[1:] == (1, 1, 12)
        assert (tried.data.inputs >= 1).float().mean() > 0.4
        assert tried.data.inputs.max() > 128
        moved = [_moved(tried, coins)[0].data.inputs for _ in range(20)]
        assert max(float((one - tried.data.inputs).abs().max()) for one in moved) > 1
