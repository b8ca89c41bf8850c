"""Students of strings: an embedding depends on the bytes of its own string, and on no padding behind them."""

import numpy as np
import pytest
import torch

from edgecmd.core.errors import ConfigError
from edgecmd.data.modalities.table import modality_for, target_input
from edgecmd.data.modalities.utf8 import encode_strings
from edgecmd.models.students import FRONTS, STUDENTS, Student, build_student
from export.graph.fold_standardised import fold

NAMES = sorted(name for name, row in STUDENTS.items() if row.front == "bytes")
TEXTS = ["dog", "猫が好き", "a" * 48, "कुत्ता", "x"]


def make(name: str, seed: int = 0) -> Student:
    return build_student(name, in_channels=1, embedding_dim=16, generator=torch.Generator().manual_seed(seed))


def seen(texts: list[str], num_bytes: int = 48) -> torch.Tensor:
    return target_input(encode_strings(texts, num_bytes), offset=0.0, scale=1.0)


def test_the_row_says_what_they_take() -> None:
    assert NAMES == ["text-200k", "text-50k"]
    assert modality_for("bytes").name == "text"
    assert set(FRONTS) >= {STUDENTS[name].front for name in NAMES}
    with pytest.raises(ConfigError, match="A student of strings takes 1 channel, not 3"):
        build_student("text-50k", in_channels=3, embedding_dim=8, generator=torch.Generator())


@pytest.mark.parametrize("name", NAMES)
def test_padding_changes_nothing(name: str) -> None:
    student = make(name)
    first = student(seen(TEXTS))
    for num_bytes in (49, 64, 111):
        torch.testing.assert_close(student(seen(TEXTS, num_bytes)), first, rtol=1e-5, atol=1e-5)
    # A string that just fits, and with room behind it.
    torch.testing.assert_close(student(seen(["dog"], 3)), first[:1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_padding_has_no_gradient_and_no_weight_of_its_own(name: str) -> None:
    student = make(name)
    student(seen(TEXTS)).square().sum().backward()
    assert not bool(student.trunk.embedding.weight.grad[0].any())
    with torch.no_grad():
        before = student(seen(TEXTS))
        student.trunk.embedding.weight[0] = 1e6
        assert torch.equal(student(seen(TEXTS)), before)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_bytes", [1, 2, 3, 4, 5, 48])
def test_every_length_and_an_empty_string_give_numbers(name: str, num_bytes: int) -> None:
    text = torch.zeros(2, 1, 1, num_bytes)
    text[1, 0, 0, 0] = 97.0
    student = make(name)
    found = student(text)
    found.square().sum().backward()
    assert bool(found.isfinite().all())
    assert all(bool(one.grad.isfinite().all()) for one in student.parameters())
    # Of an empty string nothing but the bias of the projector, which is zero at first.
    assert not bool(found[0].any())
    assert bool(found[1].any())


@pytest.mark.parametrize("name", NAMES)
def test_each_byte_counts_and_so_does_its_place(name: str) -> None:
    student = make(name)
    found = student(seen(["stop", "spot", "stops", "stoq", "猫", "狗"]))
    assert torch.cdist(found, found)[~torch.eye(6, dtype=torch.bool)].min() > 1e-2


@pytest.mark.parametrize("name", NAMES)
def test_a_row_is_embedded_by_itself(name: str) -> None:
    student, batch = make(name).train(), seen(TEXTS)
    alone = torch.cat([student(row[None]) for row in batch])
    torch.testing.assert_close(student(batch), alone, rtol=1e-5, atol=1e-5)
    other = batch.clone()
    other[2] = seen(["something else"])[0]
    rows = [0, 1, 3, 4]
    assert torch.equal(student(other)[rows], student(batch)[rows])


@pytest.mark.parametrize("name", NAMES)
def test_no_buffers_and_no_in_place_activations(name: str) -> None:
    student = make(name)
    assert not list(student.buffers())
    assert not any(getattr(module, "inplace", False) for module in student.modules())


@pytest.mark.parametrize("name", NAMES)
def test_first_weights_follow_from_the_generator(name: str) -> None:
    first, second, other = (make(name, seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["trunk.embedding.weight"], other["trunk.embedding.weight"])
    # Embedded bytes have variance 1, and standardised convolutions keep it: nothing vanishes or explodes.
    features = make(name).trunk(seen(TEXTS)).detach().numpy()
    assert 0.3 < np.sqrt(np.mean(features**2)) < 5.0


def test_standardised_convolutions_along_a_line_fold() -> None:
    student = make("text-50k").eval()
    folded = fold(student)
    torch.testing.assert_close(folded(seen(TEXTS)), student(seen(TEXTS)), rtol=1e-4, atol=1e-4)
    assert sum(type(one) is torch.nn.Conv2d for one in folded.modules()) == 3
