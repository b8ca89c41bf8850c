"""Students of strings: an embedding depends on the bytes of its own string, and on no padding behind them."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from edgecmd.core.errors import ConfigError, PrivacyError
from edgecmd.data.modalities.table import modality_for, target_input
from edgecmd.data.modalities.utf8 import encode_strings
from edgecmd.models.students import FRONTS, STUDENTS, Student, build_student
from edgecmd.privacy.step.purity import require_pure
from edgecmd.privacy.step.standardised_weights import EffectiveStudent
from edgecmd.privacy.step.units import Units
from edgecmd.privacy.step.vmap_engine import clipped_chunk
from export.graph.fold_standardised import fold

NAMES = sorted(name for name, row in STUDENTS.items() if row.front == "bytes")
CONVOLUTIONS = [name for name in NAMES if STUDENTS[name].family == "ws"]
TEXTS = ["dog", "猫が好き", "a" * 48, "कुत्ता", "x"]


def make(name: str, seed: int = 0) -> Student:
    return build_student(name, in_channels=1, embedding_dim=16, generator=torch.Generator().manual_seed(seed))


def seen(texts: list[str], num_bytes: int = 48) -> torch.Tensor:
    return target_input(encode_strings(texts, num_bytes), offset=0.0, scale=1.0)


def test_the_row_says_what_they_take() -> None:
    assert NAMES == ["ngram-1m", "ngram-4m", "text-200k", "text-50k"]
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


@pytest.mark.parametrize("name", CONVOLUTIONS)
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
    found = functional.normalize(student(seen(["stop", "spot", "stops", "stoq", "猫", "狗"])))
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


@pytest.mark.parametrize("name", CONVOLUTIONS)
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


@pytest.mark.parametrize("name", NAMES)
def test_numbers_that_are_no_bytes_are_taken_for_bytes(name: str) -> None:
    student = make(name)
    odd = torch.tensor([[97.9, 300.0, float("inf"), 0.5], [float("nan"), -3.0, float("-inf"), 0.0]])
    like = torch.tensor([[97.0, 255.0, 255.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert torch.equal(student(odd[:, None, None]), student(like[:, None, None]))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_views", [1, 2])
def test_a_pairs_gradient_is_clipped_by_itself(name: str, num_views: int) -> None:
    """The real step's chunk against one backward pass a pair, with convolutions that act as the real ones."""
    student = make(name)
    effective = EffectiveStudent(student)
    effective.refresh()
    texts = torch.stack([seen(TEXTS)] * num_views, dim=1)
    texts[1, -1] = seen(["another view"])[0]
    teacher = torch.randn(len(TEXTS), num_views, 16, generator=torch.Generator().manual_seed(1))
    mask = torch.ones(len(TEXTS), num_views, dtype=torch.bool)
    found = clipped_chunk(
        effective.module, Units(images=texts, teacher=teacher, mask=mask), squared_error, clip=0.5
    )
    wanted: dict[str, torch.Tensor] = {}
    for text, feature in zip(texts, teacher, strict=True):
        effective.module.zero_grad()
        squared_error(effective.module(text), feature, mask[0]).backward()
        gradients = {name: value.grad.double() for name, value in effective.module.named_parameters()}
        norm = torch.sqrt(sum(one.square().sum() for one in gradients.values()))
        for key, one in gradients.items():
            wanted[key] = wanted.get(key, 0.0) + one * min(1.0, 0.5 / float(norm))
    for key, one in wanted.items():
        torch.testing.assert_close(found[key], one, rtol=1e-3, atol=1e-4)


def squared_error(student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return ((student - teacher).square().sum(dim=1) * mask).sum()


@pytest.mark.parametrize("name", NAMES)
def test_the_purity_probe_asks_with_bytes_and_passes(name: str) -> None:
    require_pure(make(name), in_channels=1, image_size=(1, 48))


def test_the_purity_probe_finds_a_student_of_strings_that_mixes_or_remembers() -> None:
    class Centred(type(make("text-50k"))):  # type: ignore[misc]
        def forward(self, text: torch.Tensor) -> torch.Tensor:
            found = super().forward(text)
            return found - found.mean(dim=0)

    class Remembering(type(make("text-50k"))):  # type: ignore[misc]
        last = 0.0

        def forward(self, text: torch.Tensor) -> torch.Tensor:
            found = super().forward(text)
            kept, self.last = self.last, float(found.detach().mean())
            return found + kept

    for kind in (Centred, Remembering):
        student = make("text-50k")
        student.__class__ = kind
        with pytest.raises(PrivacyError):
            require_pure(student, in_channels=1, image_size=(1, 48))
