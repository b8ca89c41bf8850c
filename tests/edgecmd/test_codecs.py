"""Codecs of weights: rounding by hand, bounds and means, what is left over, and what is refused."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from edgecmd.config.reader import load_config
from edgecmd.core.errors import ConfigError, FederationError, PrivacyError
from edgecmd.settings import CODED, NO_COMPRESSION, FederationConfig
from edgecmd.training.codecs import CODECS, COMPRESSIONS, Layout, Wire, wire_of

NAMES = [name for name in CODED if name != NO_COMPRESSION]
# 2 x 64 numbers with a scale for each row, six with one, and a number with its own.
SHAPES = {"a": (2, 64), "b": (3, 2), "c": ()}
LAYOUT = Layout(shapes=SHAPES, whole={})
NUM = 135


def vector_of(seed: int, size: float, share_of_zeros: float, *, alike: bool) -> np.ndarray:
    """NUM numbers of magnitude ``size``; where they are alike, only of five values."""
    drawn = np.random.default_rng(seed)
    found = drawn.integers(-2, 3, NUM) if alike else drawn.normal(size=NUM) * np.exp(drawn.normal(size=NUM))
    found = np.clip(found * size, -6e4, 6e4) * (drawn.random(NUM) >= share_of_zeros)
    return found.astype(np.float32)


MOVES = st.builds(
    vector_of,
    st.integers(0, 2**32),
    st.sampled_from([1e-6, 1e-3, 1.0, 100.0]),
    st.sampled_from([0.0, 0.5, 1.0]),
    alike=st.booleans(),
)


def wire(name: str, *, layout: Layout = LAYOUT, share: float = 0.1, seed: int = 3) -> Wire:
    row = COMPRESSIONS[name]
    assert row is not None
    return Wire(row=row, layout=layout, share=share, seed=seed)


def coded(vector: np.ndarray, name: str, *, draws: int | None = None, share: float = 0.1) -> np.ndarray:
    """A vector after a codec and back."""
    codec = CODECS[name]
    generator = None if draws is None else np.random.default_rng(draws)
    return codec.decode(codec.encode(vector, LAYOUT, share, generator), LAYOUT)


def spread(vector: np.ndarray) -> np.ndarray:
    """The scale of each number's group: the group's largest magnitude over 127, by loops."""
    scales = [np.abs(vector[first : first + size]).max() / 127 for first, size in GROUPS]
    return np.repeat(scales, [size for _, size in GROUPS])


GROUPS = [(0, 64), (64, 64), (128, 6), (134, 1)]


def test_the_table_has_a_row_for_each_word_of_the_setting() -> None:
    assert tuple(COMPRESSIONS) == CODED
    assert {one for row in COMPRESSIONS.values() if row is not None for one in (row.up, row.down)} == set(
        CODECS
    )


def test_groups_are_rows_that_are_long_enough_and_else_tensors() -> None:
    assert LAYOUT.num == NUM
    assert LAYOUT.group_sizes.tolist() == [size for _, size in GROUPS]
    odd = Layout(shapes={"none": (0, 3), "vector": (200,), "wide": (1, 8, 3, 3)}, whole={})
    assert odd.group_sizes.tolist() == [200, 72]


def test_int8_by_hand() -> None:
    """The largest of six is 254, so a step is 2: 7.2 is 3.6 steps, and -3 lies between -2 and -1."""
    vector = np.zeros(NUM, np.float32)
    vector[128:] = [254, 7.2, -3, 0, 1, -254, 0.7]
    parts = CODECS["int8"].encode(vector, LAYOUT, 1.0, None)
    assert parts["scales"].tolist() == [0, 0, 2, np.float32(0.7) / np.float32(127)]
    assert parts["codes"][128:].tolist() == [127, 4, -1, 0, 1, -127, 127]
    for draws in range(20):
        found = CODECS["int8"].encode(vector, LAYOUT, 1.0, np.random.default_rng(draws))["codes"][128:]
        assert found[0] == 127
        assert found[1] in (3, 4)
        assert found[2] in (-2, -1)
        assert found[3] == 0


@given(vector=MOVES, draws=st.integers(0, 9))
def test_int8_is_less_than_a_step_away_and_the_nearest_half_a_step(vector: np.ndarray, draws: int) -> None:
    step = spread(vector)
    room = 1e-5 * step + 1e-37
    assert (np.abs(coded(vector, "int8", draws=draws) - vector) <= step + room).all()
    assert (np.abs(coded(vector, "int8") - vector) <= step / 2 + room).all()


def test_the_mean_of_stochastic_rounding_is_the_number() -> None:
    """20,000 draws of 0.3 of a step: the standard error is sqrt(0.21 / 20,000) = 0.0032."""
    layout = Layout(shapes={"w": (20_001,)}, whole={})
    vector = np.full(20_001, 0.3, np.float32)
    vector[-1] = 127
    codec = CODECS["int8"]
    found = codec.decode(codec.encode(vector, layout, 1.0, np.random.default_rng(5)), layout)
    assert set(found[:-1].tolist()) == {0.0, 1.0}
    assert abs(found[:-1].mean() - 0.3) < 5 * math.sqrt(0.3 * 0.7 / 20_000)


@given(vector=MOVES)
def test_fp16_is_off_by_2_to_the_minus_11_of_the_number(vector: np.ndarray) -> None:
    room = np.maximum(np.abs(vector) * 2.0**-11, 2.0**-25)
    assert (np.abs(coded(vector, "fp16") - vector) <= room).all()


@given(vector=MOVES, share=st.sampled_from([0.001, 0.01, 0.1, 0.5, 1.0]))
def test_top_k_is_what_sorting_gives(vector: np.ndarray, share: float) -> None:
    """Of equal magnitudes the first are kept."""
    kept = sorted(range(NUM), key=lambda place: (-abs(vector[place]), place))[: math.ceil(share * NUM)]
    expected = np.zeros(NUM, np.float32)
    expected[kept] = vector[kept]
    parts = CODECS["top-k"].encode(vector, LAYOUT, share, None)
    assert parts["indices"].tolist() == sorted(kept)
    assert CODECS["top-k"].fault(parts, LAYOUT) is None
    np.testing.assert_array_equal(coded(vector, "top-k", share=share), expected)


@pytest.mark.parametrize("name", ["int8", "top-k"])
@given(moves=st.lists(MOVES, min_size=1, max_size=4))
def test_what_was_sent_and_the_last_rest_add_up_to_what_was_meant(name: str, moves: list[np.ndarray]) -> None:
    one, rest = wire(name), None
    before = LAYOUT.tensors(np.zeros(NUM, np.float32))
    total = np.zeros(NUM)
    for index, move in enumerate(moves, 1):
        parts, rest = one.answer(before, LAYOUT.tensors(move), rest, round_index=index, client=0)
        total += LAYOUT.vector(one.moves(parts))
    assert rest is not None
    meant = np.sum(moves, axis=0, dtype=np.float64)
    np.testing.assert_allclose(total + rest, meant, atol=1e-5 * float(np.abs(moves).max()))


def test_a_rest_of_top_k_is_sent_once_it_is_the_largest() -> None:
    """One number of three a round: 3, then the 2 that waited with the new 2, then 1 + 1 + 1 before 3 + 3."""
    layout = Layout(shapes={"w": (3,)}, whole={})
    one, rest, sent = wire("top-k", layout=layout, share=0.3), None, []
    before, after = {"w": np.zeros(3, np.float32)}, {"w": np.array([1, 2, 3], np.float32)}
    for index in (1, 2, 3):
        parts, rest = one.answer(before, after, rest, round_index=index, client=0)
        sent.append((parts["indices"].tolist(), parts["values"].tolist()))
    assert sent == [([2], [3]), ([1], [4]), ([2], [6])]
    assert rest is not None
    assert rest.tolist() == [3, 2, 0]


def test_fp16_keeps_no_rest() -> None:
    before, after = (LAYOUT.tensors(np.full(NUM, value, np.float32)) for value in (0, 0.1))
    assert wire("fp16").answer(before, after, None, round_index=1, client=0)[1] is None


def test_draws_follow_from_seed_round_and_client() -> None:
    vector = np.random.default_rng(0).normal(size=NUM).astype(np.float32)
    before, after = LAYOUT.tensors(np.zeros(NUM, np.float32)), LAYOUT.tensors(vector)

    def codes(*, seed: int = 3, round_index: int = 1, client: int = 0) -> bytes:
        one = wire("int8", seed=seed)
        return one.answer(before, after, None, round_index=round_index, client=client)[0]["codes"].tobytes()

    found = [codes(), codes(seed=4), codes(round_index=2), codes(client=1)]
    assert len(set(found)) == 4
    np.random.default_rng(9)
    assert codes() == found[0]


class Counts(nn.Module):
    """A layer, statistics and a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 2)
        self.norm = nn.BatchNorm1d(2)


def test_statistics_and_counters_travel_as_they_are() -> None:
    """A variance that is off by a step could be below 0."""
    student = Counts()
    layout = Layout.of(student)
    assert list(layout.shapes) == ["layer.bias", "layer.weight", "norm.bias", "norm.weight"]
    statistics = ["norm.num_batches_tracked", "norm.running_mean", "norm.running_var"]
    assert list(layout.whole) == statistics
    before = {name: value.numpy().copy() for name, value in sorted(student.state_dict().items())}
    after = {
        name: value + 3 if value.dtype == np.int64 else value * np.float32(1.37)
        for name, value in before.items()
    }
    for name in NAMES:
        one = wire(name, layout=layout)
        received = one.received(one.sent(before))
        parts, _ = one.answer(received, after, None, round_index=1, client=0)
        found = one.onto(before, one.moves(parts))
        assert list(found) == list(before)
        for tensor, value in before.items():
            assert (found[tensor].dtype, found[tensor].shape) == (value.dtype, value.shape)
            assert (received[tensor].dtype, received[tensor].shape) == (value.dtype, value.shape)
        for tensor in statistics:
            np.testing.assert_array_equal(found[tensor], after[tensor])
            np.testing.assert_array_equal(received[tensor], before[tensor])


@pytest.mark.parametrize(
    ("name", "down", "up"),
    [
        # 135 numbers in 4 groups; of top-k 14 numbers with their places.
        ("fp16", 2 * NUM, 2 * NUM),
        ("int8", NUM + 4 * 4, NUM + 4 * 4),
        ("top-k", NUM + 4 * 4, 8 * 14),
    ],
)
def test_bytes_by_hand_are_those_of_what_is_made(name: str, down: int, up: int) -> None:
    one = wire(name)
    assert one.num_bytes == (down, up)
    weights = LAYOUT.tensors(np.linspace(-1, 1, NUM, dtype=np.float32))
    sent = one.sent(weights)
    made, _ = one.answer(one.received(sent), weights, None, round_index=1, client=0)
    assert (sum(part.nbytes for part in sent.values()), sum(part.nbytes for part in made.values())) == (
        down,
        up,
    )
    for like, parts in ((one.down_like, sent), (one.up_like, made)):
        assert {key: (value.shape, value.dtype) for key, value in like.items()} == {
            key: (value.shape, value.dtype) for key, value in parts.items()
        }


@pytest.mark.parametrize(("name", "value"), [("fp16", 65_536.0), ("int8", 2e9), ("top-k", np.nan)])
def test_what_no_codec_takes_leaves_no_rest(name: str, value: float) -> None:
    good, bad = (LAYOUT.tensors(np.full(NUM, one, np.float32)) for one in (1.0, value))
    with pytest.raises(
        FloatingPointError, match=r"federation.compression takes numbers up to.*learning_rate"
    ):
        wire(name).answer(good, bad, None, round_index=1, client=0)
    with pytest.raises(FederationError, match="server_learning_rate"):
        wire(name).sent(bad)


@pytest.mark.parametrize(
    ("part", "value", "fault"),
    [
        ("codes", np.full(NUM, -128, np.int8), "codes below -127"),
        ("scales", np.full(4, -1, np.float32), "scales below 0"),
        ("codes", np.zeros(NUM + 1, np.int8), "other parts"),
        ("scales", np.zeros(4, np.float64), "other parts"),
        ("more", np.zeros(1, np.float32), "other parts"),
    ],
)
def test_a_client_takes_no_other_parts_of_a_server(part: str, value: np.ndarray, fault: str) -> None:
    one = wire("int8")
    parts = one.sent(LAYOUT.tensors(np.ones(NUM, np.float32))) | {part: value}
    with pytest.raises(ValueError, match=f"the server sent {fault}"):
        one.received(parts)


def test_a_student_s_wire() -> None:
    student = nn.Linear(4, 2)
    assert wire_of(FederationConfig(), student, seed=0) is None
    found = wire_of(FederationConfig(compression="top-k", top_share=0.3), student, seed=0)
    assert found is not None
    # 3 of 10 numbers with their places up; 10 codes and 2 scales down.
    assert found.num_bytes == (10 + 2 * 4, 3 * 8)
    with torch.no_grad():
        student.weight[0, 0] = 5.0
    assert wire_of(FederationConfig(compression="int8"), student, seed=0).num_bytes == (18, 18)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        (["compression=zip"], ConfigError, "compression='zip' is unknown. Allowed: none, fp16, int8, top-k"),
        (["compression=top-k", "top_share=0"], ConfigError, "federation.top_share=0"),
        (
            ["compression=top-k", "strategy=fedmedian"],
            ConfigError,
            "Use federation.compression='int8', or one",
        ),
        (
            ["compression=top-k", "strategy=krum"],
            ConfigError,
            "most of what this strategy would compare is zero",
        ),
        (
            ["compression=int8", "privacy.aggregation=secure-sum"],
            PrivacyError,
            "integers already.*Set federation",
        ),
        (
            [
                *("compression=fp16", "privacy.mechanism=statistics", "privacy.aggregation=noised-sum"),
                *("num_rounds=1", "local_steps=1", "privacy.sampling_rate=1"),
            ],
            PrivacyError,
            "releases sums once.*Set federation.compression='none'",
        ),
    ],
)
def test_what_breaks_a_proof_or_makes_no_sense_is_refused(
    changes: list[str], kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        load_config(None, [one if "." in one.split("=")[0] else f"federation.{one}" for one in changes])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mechanism", ["none", "anchors", "client"])
def test_what_is_allowed(name: str, mechanism: str) -> None:
    load_config(None, [f"federation.compression={name}", f"privacy.mechanism={mechanism}"])
    if name != "top-k":
        load_config(None, [f"federation.compression={name}", "federation.strategy=krum"])
