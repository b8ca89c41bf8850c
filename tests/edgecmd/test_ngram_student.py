"""Students that look hashed n-grams up: which runs of a string count, and that nothing else does."""

from functools import partial

import numpy as np
import pytest
import torch

from edgecmd.core.errors import ConfigError
from edgecmd.data.modalities.table import target_input
from edgecmd.data.modalities.utf8 import encode_strings
from edgecmd.models.students import STUDENTS, build_student
from edgecmd.models.trained_part import train_part
from edgecmd.models.trunks.strings import BASE, NgramTrunk, TextStudent, hashed_ngrams

ROWS = 1009


def seen(texts: list[str], num_bytes: int = 24) -> torch.Tensor:
    return target_input(encode_strings(texts, num_bytes), offset=0.0, scale=1.0)


def small() -> TextStudent:
    torch.manual_seed(0)
    trunk = partial(NgramTrunk, num_rows=ROWS, width=8)
    return TextStudent(trunk=trunk, in_channels=1, embedding_dim=6)


def rows_by_hand(text: str) -> list[int]:
    """What the docstring says, with strings of Python and numbers of any size."""
    whole = b" " + bytes(one + 32 if 65 <= one <= 90 else one for one in text.encode()) + b" "
    found = []
    for length in (2, 3, 4, 5):
        for start in range(len(whole) - length + 1):
            run = whole[start : start + length]
            if b" " not in run[1:-1] and run != b"  ":
                found.append(sum(one * BASE ** (length - 1 - at) for at, one in enumerate(run)) % ROWS)
    return found


@pytest.mark.parametrize(
    "text",
    [
        "dog",
        "Big DOG",
        "a b c",
        "x",
        "猫が好き",
        "Löwe, rot",
        "two  spaces",
        "-" * 24,
        "abcdefghijklmnopqrstuvwx",
    ],
)
def test_runs_are_those_of_the_string_and_of_no_padding(text: str) -> None:
    for num_bytes in (24, 25, 64):
        rows, there = hashed_ngrams(seen([text], num_bytes), num_rows=ROWS)
        assert sorted(rows[there].tolist()) == sorted(rows_by_hand(text))


def test_features_are_the_sum_over_the_root_of_their_number() -> None:
    student = small()
    table = student.trunk.table.weight.detach().numpy()
    for text in ("dog", "Big DOG"):
        rows = rows_by_hand(text)
        wanted = table[rows].sum(axis=0) / np.sqrt(len(rows))
        np.testing.assert_allclose(
            student.trunk(seen([text])).detach().numpy()[0], wanted, rtol=1e-5, atol=1e-6
        )


def test_an_empty_string_has_no_run_and_its_gradient_is_finite() -> None:
    student, blank = small(), torch.zeros(1, 1, 1, 24)
    assert not hashed_ngrams(blank, num_rows=ROWS)[1].any()
    assert not student.trunk(blank).any()
    student(blank).sum().backward()
    assert not student.trunk.table.weight.grad.any()


def test_padding_has_no_gradient() -> None:
    student = small()
    student(seen(["dog"])).square().sum().backward()
    met = student.trunk.table.weight.grad.abs().sum(dim=1).nonzero().flatten().tolist()
    assert met == sorted(set(rows_by_hand("dog")))


def test_rows_stay_below_what_32_bits_hold() -> None:
    """So that a device without integers of 64 bits can look up as well."""
    largest = max(row.build(in_channels=1, embedding_dim=2).trunk.table.num_embeddings for row in ngrams())
    assert largest <= 65_536
    assert (largest - 1) * BASE + 255 < 2**31


def ngrams() -> list:
    return [row for row in STUDENTS.values() if row.family == "ngram"]


@pytest.mark.parametrize("name", ["ngram-1m", "ngram-4m"])
def test_rows_of_the_table_begin_small_and_spread(name: str) -> None:
    student = build_student(name, in_channels=1, embedding_dim=4, generator=torch.Generator().manual_seed(0))
    num = student.trunk.table.num_embeddings
    assert float(student.trunk.table.weight.detach().std()) == pytest.approx(16 / num, rel=0.05)
    # Every number up to its root divides it or none does: it is a prime.
    assert all(num % one for one in range(2, int(num**0.5) + 1))
    with pytest.raises(ConfigError, match="is one block"):
        train_part(student, "last")
