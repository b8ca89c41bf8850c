"""A teacher's or a student's file that is not what it should be is named, with the tensor: exit code 4."""

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from edgecmd.core.errors import DataError
from edgecmd.models.student_file import load_student
from edgecmd.models.students import build_student
from edgecmd.models.teacher.teachers import build_teacher, load_teacher
from edgecmd.models.tensor_file import pack

Weights = dict[str, torch.Tensor]


def teacher_file() -> tuple[Weights, dict[str, str]]:
    network = build_teacher("gn-teacher", embedding_dim=8, generator=torch.Generator().manual_seed(0))
    return dict(network.state_dict()), {"architecture": "gn-teacher", "embedding_dim": "8"}


def student_file() -> tuple[Weights, dict[str, str]]:
    network = build_student(
        "ws-50k", in_channels=1, embedding_dim=8, generator=torch.Generator().manual_seed(0)
    )
    return dict(network.state_dict()), {"architecture": "ws-50k", "in_channels": "1", "embedding_dim": "8"}


KINDS = [(teacher_file, load_teacher), (student_file, load_student)]
Kind = tuple[Callable[[], tuple[Weights, dict[str, str]]], Callable[[Path], object]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_names_file_and_tensor(kind: Kind, value: float, tmp_path: Path) -> None:
    weights, description = kind[0]()
    name = "projector.weight"
    weights[name] = weights[name].clone()
    weights[name].view(-1)[3] = value
    (tmp_path / "w.safetensors").write_bytes(pack(weights, description))
    num = weights[name].numel()
    with pytest.raises(
        DataError, match=rf"w\.safetensors: 1 of {num} numbers of the tensor '{name}' are not"
    ):
        kind[1](tmp_path / "w.safetensors")


def test_every_tensor_is_looked_at(tmp_path: Path) -> None:
    weights, description = student_file()
    for name, value in weights.items():
        broken = {**weights, name: torch.full_like(value, np.nan)} if value.is_floating_point() else weights
        (tmp_path / "w.safetensors").write_bytes(pack(broken, description))
        with pytest.raises(DataError, match=f"tensor '{name}'"):
            load_student(tmp_path / "w.safetensors")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights, _: weights.pop("projector.weight"), "lacks the tensor 'projector.weight'"),
        (
            lambda weights, _: weights.update(extra=torch.ones(2)),
            "has a tensor 'extra', which does not belong",
        ),
        (
            lambda weights, _: weights.update({"projector.weight": torch.ones(9, 2)}),
            r"'projector.weight' has the shape \(9, 2\)",
        ),
        (lambda _, told: told.update(architecture="resnet-50"), "architecture 'resnet-50'. Allowed: "),
        (lambda _, told: told.update(embedding_dim="eight"), "embedding_dim='eight'; allowed is a whole"),
        (lambda _, told: told.update(embedding_dim="0"), "embedding_dim='0'; allowed is a whole"),
        (lambda _, told: told.update(embedding_dim="9" * 8), "embedding_dim='99999999'; allowed is a whole"),
        (lambda _, told: told.update(embedding_dim="9" * 5000), "allowed is a whole"),
        (lambda _, told: told.update(in_channels="-1"), "in_channels='-1'; allowed is a whole"),
    ],
)
def test_another_network_is_named(
    kind: Kind, change: Callable[[Weights, dict[str, str]], object], message: str, tmp_path: Path
) -> None:
    weights, description = kind[0]()
    change(weights, description)
    path = tmp_path / "other.safetensors"
    path.write_bytes(pack(weights, description))
    with pytest.raises(DataError, match=message) as found:
        kind[1](path)
    assert str(path) in str(found.value)
    assert found.value.exit_code == 4


def torch_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"x")


@pytest.mark.parametrize("load", [load_teacher, load_student])
@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "is not a file"),
        (lambda path: path.mkdir(), "is not a file"),
        (torch_zip, "is a pickle, as torch.save writes"),
        (lambda path: path.write_bytes(pickle.dumps({}, protocol=4)), "is a pickle"),
        (lambda path: path.write_bytes(b""), "is not a safetensors file"),
        (lambda path: path.write_bytes(pack(*student_file())[:-5]), "is not a safetensors file"),
        (lambda path: path.write_bytes(pack(*student_file())[:9]), "is not a safetensors file"),
        (lambda path: path.write_bytes(save(student_file()[0])), "does not say what it holds"),
        (
            lambda path: path.write_bytes(save({"a": torch.ones(1)}, metadata={"edgecmd": json.dumps([1])})),
            "does not say what it holds",
        ),
        (lambda path: path.write_bytes(pack({"a": torch.ones(1)}, {})), "lacks the metadata"),
    ],
)
def test_a_file_of_another_kind_is_named(
    load: Callable[[Path], object], write: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "some.pt"
    write(path)
    with pytest.raises(DataError, match=message) as found:
        load(path)
    assert "some.pt" in str(found.value)


def test_random_damage_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    """Cuts and flips of the header; damage to the numbers alone cannot be seen unless they are not finite."""
    whole, path = pack(*student_file()), tmp_path / "damaged.safetensors"
    head, generator = 8 + int.from_bytes(whole[:8], "little"), np.random.default_rng(0)
    for _ in range(150):
        data = bytearray(whole)
        for place in generator.integers(0, head, 3):
            data[place] = generator.integers(0, 256)
        path.write_bytes(data)
        try:
            load_student(path)
        except DataError as error:
            text = str(error)
        else:
            continue
        assert "damaged.safetensors" in text
