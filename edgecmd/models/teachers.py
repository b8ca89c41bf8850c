"""The frozen teacher of the source modality: weights in safetensors, recipe in their metadata.

Shapes: B batch, N images, D embedding dimension.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from edgecmd.built import COMMANDS, built_file
from edgecmd.data.pairs import Images
from edgecmd.device import device_of
from edgecmd.errors import DataError, choose
from edgecmd.files import write_bytes_atomically
from edgecmd.models.students import Student, StudentSpec, initialise
from edgecmd.preprocess import source_input
from edgecmd.shipped import shipped_file
from edgecmd.tensors import pack, require, unpack

TEACHERS: dict[str, StudentSpec] = {
    "gn-teacher": StudentSpec(family="gn", widths=(32, 64, 128)),
    "gn-teacher-large": StudentSpec(family="gn", widths=(48, 112, 184)),
}
# Teachers that ship with edgecmd: data set -> file and its SHA-256. Sets that are built have theirs beside
# them (`edgecmd.built`); others use that of `DEFAULT_SET`.
DEFAULT_SET = "emoji"
INDOOR = ("indoor_32.safetensors", "d7d435d4b6c7170f65108f622f28fdc69af396e2ba7fd1ec4c9219ebfd8ea5ad")
BUILTIN: dict[str, tuple[str, str]] = {
    "objects": INDOOR,
    "rooms": INDOOR,
    "emoji": (
        "teacher_64.safetensors",
        "8fbdd1250f5b3c17a58c51efd47d5bb298e0712c5d9cf76e7857d598c1eaa84a",
    ),
}


def build_teacher(architecture: str, *, embedding_dim: int, generator: torch.Generator) -> Student:
    """Make an untrained teacher over RGB images.

    Args:
        architecture: A key of `TEACHERS`.
        embedding_dim: Dimension of its feature.
        generator: Source of the initial weights.

    Raises:
        ConfigError: The architecture is unknown.
    """
    spec = choose("pretrain.architecture", architecture, TEACHERS)
    teacher = Student(spec, in_channels=3, embedding_dim=embedding_dim)
    initialise(teacher, generator=generator)
    return teacher


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Teacher:
    """A frozen encoder with what identifies it.

    Attributes:
        network: Encoder in evaluation mode; takes scaled RGB images.
        embedding_dim: Dimension of its feature, D.
        sha256: Of the file it came from.
        recipe: How it was made, as the file's metadata says.
    """

    network: nn.Module
    embedding_dim: int
    sha256: str
    recipe: Mapping[str, str]

    @torch.no_grad()
    def embed(self, images: Images, *, batch_size: int = 256) -> Float[np.ndarray, "num dim"]:
        """Features of RGB images, float32, (N, D), not normalised."""
        return embed_source(self.network, images, batch_size=batch_size)


@torch.no_grad()
def embed_source(
    network: nn.Module, images: Images, *, batch_size: int = 256
) -> Float[np.ndarray, "num dim"]:
    """Features of RGB images in batches, float32, (N, D)."""
    device = device_of(network)
    chunks = [
        network(source_input(images[start : start + batch_size]).to(device)).cpu().numpy()
        for start in range(0, len(images), batch_size)
    ]
    return np.concatenate(chunks)


def save_teacher(network: nn.Module, path: Path, *, recipe: Mapping[str, str]) -> str:
    """Write weights and recipe; equal weights give equal bytes.

    Returns:
        SHA-256 of the file.
    """
    data = pack(network.state_dict(), recipe)
    write_bytes_atomically(path, data)
    return hashlib.sha256(data).hexdigest()


def load_teacher(path: Path | None = None, *, data_set: str = DEFAULT_SET) -> Teacher:
    """Read a teacher made by ``edgecmd pretrain``; without a path the one that comes with a data set.

    Args:
        path: The file; None for the one that ships, or that was built beside the data.
        data_set: ``data.name``; sets without a teacher of their own get that of `DEFAULT_SET`.

    Raises:
        DataError: The file is missing, not safetensors, or its metadata or tensors do not fit.
    """
    file, checksum, again = (path, "", "") if path else own_teacher(data_set)
    advice = f"A teacher is made by `edgecmd pretrain --out {file.name}`; teacher.path names it."
    tensors, recipe = unpack(file, advice=advice)
    require(recipe, {"architecture", "embedding_dim"}, path=file, advice=advice)
    dim = int(recipe["embedding_dim"])
    network = build_teacher(
        recipe["architecture"], embedding_dim=dim, generator=torch.Generator().manual_seed(0)
    )
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise DataError(f"{file} does not hold the weights of {recipe['architecture']!r}: {error}") from error
    network.eval().requires_grad_(False)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if path is None and digest != checksum:
        raise DataError(f"{file} does not have the checksum {checksum}. {again}")
    return Teacher(network=network, embedding_dim=dim, sha256=digest, recipe=recipe)


def own_teacher(data_set: str) -> tuple[Path, str, str]:
    """File of the teacher that comes with a data set, its checksum, and how to get it again.

    Raises:
        DataError: The file is nowhere, or the set is one to be built and is not.
    """
    if data_set in COMMANDS:
        return *built_file(data_set, "teacher"), f"Build the set again with `{COMMANDS[data_set]}`."
    name, checksum = BUILTIN.get(data_set, BUILTIN[DEFAULT_SET])
    return shipped_file(name), checksum, "Install edgecmd again."


def recipe_text(settings: Mapping[str, object]) -> str:
    """Settings as one line of JSON with sorted keys, for the metadata."""
    return json.dumps(settings, sort_keys=True)
