"""The frozen teacher of the source modality: weights in safetensors, recipe in their metadata.

Most teachers see RGB pictures. Those of reversed pairs (``data.reverse``) see recordings, depth maps or line
drawings; the file says which, and nothing else is shown to them.

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

from edgecmd.core.devices import device_of
from edgecmd.core.errors import ConfigError, DataError, choose, nearest
from edgecmd.core.files import write_bytes_atomically
from edgecmd.core.progress import tracked
from edgecmd.core.tensors import load_weights, pack, require, unpack, whole_number
from edgecmd.data.modalities.image import IMAGE
from edgecmd.data.modalities.table import MODALITIES, input_shape, modality_of, source_input
from edgecmd.data.pairs import Targets
from edgecmd.datasets.built import COMMANDS, built_file
from edgecmd.datasets.shipped import shipped_file
from edgecmd.models import efficientnet
from edgecmd.models.students import Student, StudentSpec, initialise


@dataclass(frozen=True, kw_only=True, slots=True)
class PhotographSpec:
    """A teacher whose weights were trained on photographs elsewhere and come with edgecmd.

    Attributes:
        input_side: Side in pixels to which it brings each picture.
        front: What stands before the convolutions, as of a `StudentSpec`.
    """

    input_side: int
    front: str = "none"


TEACHERS: dict[str, StudentSpec | PhotographSpec] = {
    "gn-teacher": StudentSpec(family="gn", widths=(32, 64, 128)),
    "gn-teacher-large": StudentSpec(family="gn", widths=(48, 112, 184)),
    "gn-audio-teacher": StudentSpec(family="gn", widths=(32, 64, 128), front="log-mel"),
    efficientnet.NAME: PhotographSpec(input_side=192),
}
# Teachers that ship with edgecmd, by `teacher.name`: file and its SHA-256.
IMAGENET = "imagenet"
# In the recipe of a teacher of recordings.
RATE = "sampling_rate_hz"
SHIPPED: dict[str, tuple[str, str]] = {
    "icons": ("teacher_64.safetensors", "8fbdd1250f5b3c17a58c51efd47d5bb298e0712c5d9cf76e7857d598c1eaa84a"),
    "indoor": ("indoor_32.safetensors", "d7d435d4b6c7170f65108f622f28fdc69af396e2ba7fd1ec4c9219ebfd8ea5ad"),
    IMAGENET: (
        "imagenet_192.safetensors",
        "a3cca4bb43c708b4c3c45544fb864f3abf2e573916ed36226121a676a929645b",
    ),
}
# Data set -> the teacher that it has where none is named. Other sets that are built have theirs beside them
# (`edgecmd.datasets.built`), unless they stand here; all others have `DEFAULT`.
DEFAULT = "icons"
OF_SET = {"emoji-full": "icons", "stamps": "icons", "objects": IMAGENET, "rooms": IMAGENET}


def build_teacher(
    architecture: str, *, embedding_dim: int, generator: torch.Generator, in_channels: int = 3
) -> nn.Module:
    """Make an untrained teacher; of one that was trained elsewhere, its shape with made-up weights.

    Args:
        architecture: A key of `TEACHERS`.
        embedding_dim: Dimension of its feature.
        generator: Source of the initial weights.
        in_channels: Of what it sees: 3 for RGB, 2 for depth with its mask, 1 for grey and for recordings.

    Raises:
        ConfigError: The architecture is unknown, or is for RGB pictures and is given something else.
    """
    spec = choose("pretrain.architecture", architecture, TEACHERS)
    teacher: nn.Module
    if isinstance(spec, StudentSpec):
        teacher = Student(spec, in_channels=in_channels, embedding_dim=embedding_dim)
    elif in_channels == 3:
        teacher = efficientnet.EfficientNetLite0(embedding_dim=embedding_dim, input_side=spec.input_side)
    else:
        raise ConfigError(
            f"pretrain.architecture={architecture!r} takes RGB pictures, and the source has {in_channels}"
            " channels. Use gn-teacher."
        )
    initialise(teacher, generator=generator)
    return teacher


def check_architecture(architecture: str, source: Targets) -> None:
    """Refuse a teacher of pictures for recordings, and the other way round.

    Raises:
        ConfigError: With the teachers that suit the source.
    """
    spec = choose("pretrain.architecture", architecture, TEACHERS)
    modality = modality_of(source, name="source")
    if spec.front != modality.front:
        allowed = ", ".join(name for name, one in TEACHERS.items() if one.front == modality.front)
        raise ConfigError(
            f"pretrain.architecture={architecture!r} does not take a source of modality {modality.name!r}."
            f" Allowed: {allowed}."
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Teacher:
    """A frozen encoder with what identifies it.

    Attributes:
        network: Encoder in evaluation mode; takes `edgecmd.data.modalities.table.source_input`.
        embedding_dim: Dimension of its feature, D.
        sha256: Of the file it came from.
        recipe: How it was made, as the file's metadata says.
        modality: What it sees, a key of `edgecmd.data.modalities.table.MODALITIES`.
        in_channels: Channels of that.
    """

    network: nn.Module
    embedding_dim: int
    sha256: str
    recipe: Mapping[str, str]
    modality: str = IMAGE.name
    in_channels: int = 3

    @property
    def kind(self) -> str:
        """Kind of what it takes, as `edgecmd.data.modalities.table.target_kinds` has it."""
        return MODALITIES[self.modality].kind(self.in_channels)

    @property
    def sees_colour(self) -> bool:
        """Whether it takes RGB pictures."""
        return self.kind == "rgb"

    @torch.no_grad()
    def embed(self, source: Targets, *, batch_size: int = 256) -> Float[np.ndarray, "num dim"]:
        """Features of the source modality, float32, (N, D), not normalised.

        Raises:
            ConfigError: ``source`` is of another modality than the teacher was trained on.
        """
        found = (modality_of(source, name="source").name, input_shape(source)[0])
        if found != (self.modality, self.in_channels):
            raise ConfigError(
                f"The teacher takes {self.modality!r} of {self.in_channels} channels, but it is shown"
                f" {found[0]!r} of {found[1]}. Set teacher.path to one that `edgecmd pretrain` made with the"
                " same data settings (data.reverse among them)."
            )
        return embed_source(self.network, source, batch_size=batch_size)


@torch.no_grad()
def embed_source(
    network: nn.Module, source: Targets, *, batch_size: int = 256
) -> Float[np.ndarray, "num dim"]:
    """Features of the source modality in batches, float32, (N, D); of nothing, (0, D)."""
    device = device_of(network)
    chunks = [
        network(source_input(source[start : start + batch_size]).to(device)).cpu().numpy()
        for start in tracked(range(0, max(1, len(source)), batch_size), "teacher features")
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


def load_teacher(path: Path | None = None, *, data_set: str = "", name: str = "") -> Teacher:
    """Read a teacher made by ``edgecmd pretrain``, one that ships, or the one that comes with a data set.

    Args:
        path: The file; None for one that ships, or that was built beside the data.
        data_set: ``data.name``; sets without a teacher of their own get `DEFAULT`.
        name: ``teacher.name``, a key of `SHIPPED`; empty for the one of the data set.

    Raises:
        ConfigError: No teacher of that name ships.
        DataError: The file is missing, not safetensors, or its metadata or tensors do not fit.
    """
    file, checksum, again = (path, "", "") if path else own_teacher(data_set, name)
    advice = f"A teacher is made by `edgecmd pretrain --out {file.name}`; teacher.path names it."
    tensors, recipe = unpack(file, advice=advice)
    require(recipe, {"architecture", "embedding_dim"}, path=file, advice=advice)
    architecture = recipe["architecture"]
    if architecture not in TEACHERS:
        raise DataError(
            f"{file} holds a teacher of the architecture {architecture[:40]!r}."
            f" {nearest(architecture, TEACHERS)} {advice}"
        )
    modality = recipe.get("modality", IMAGE.name)
    if modality not in MODALITIES:
        raise DataError(
            f"{file} holds a teacher of the modality {modality[:40]!r}. {nearest(modality, MODALITIES)}"
            f" {advice}"
        )
    dim = whole_number(recipe, "embedding_dim", path=file, advice=advice)
    channels = whole_number({"in_channels": "3"} | recipe, "in_channels", path=file, advice=advice)
    network = build_teacher(
        architecture,
        embedding_dim=dim,
        generator=torch.Generator().manual_seed(0),
        in_channels=channels,
    )
    load_weights(network, tensors, path=file, what=f"the weights of {architecture!r}")
    network.eval().requires_grad_(False)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if path is None and digest != checksum:
        raise DataError(f"{file} does not have the checksum {checksum}. {again}")
    return Teacher(
        network=network,
        embedding_dim=dim,
        sha256=digest,
        recipe=recipe,
        modality=modality,
        in_channels=channels,
    )


def check_rate(teacher: Teacher, rate_hz: int) -> Teacher:
    """The teacher, unless it heard recordings of another rate: at that one it would hear another pitch.

    Args:
        teacher: Of pictures or recordings; older files do not say their rate and are taken.
        rate_hz: ``data.sampling_rate_hz``.

    Raises:
        ConfigError: With both rates.
    """
    own = teacher.recipe.get(RATE, str(rate_hz))
    if MODALITIES[teacher.modality].has_rate and own != str(rate_hz):
        raise ConfigError(
            f"data.sampling_rate_hz={rate_hz}, but the teacher was trained on recordings of {own[:20]} Hz."
            " Set the same rate, or train one with `edgecmd pretrain` and these settings."
        )
    return teacher


def own_teacher(data_set: str, name: str = "") -> tuple[Path, str, str]:
    """File of the teacher of that name, or that comes with a data set, its checksum, how to get it again.

    Raises:
        ConfigError: No teacher of that name ships.
        DataError: The file is nowhere, or the set is one to be built and is not.
    """
    if not name and data_set in COMMANDS and data_set not in OF_SET:
        return *built_file(data_set, "teacher"), f"Build the set again with `{COMMANDS[data_set]}`."
    file, checksum = choose("teacher.name", name or OF_SET.get(data_set, DEFAULT), SHIPPED)
    return shipped_file(file), checksum, "Install edgecmd again."


def teacher_name(data_set: str, name: str = "") -> str:
    """What the teacher of `own_teacher` is called."""
    if not name and data_set in COMMANDS and data_set not in OF_SET:
        return f"built with the set {data_set}"
    return f"{name or OF_SET.get(data_set, DEFAULT)}, ships with edgecmd"


def recipe_text(settings: Mapping[str, object]) -> str:
    """Settings as one line of JSON with sorted keys, for the metadata."""
    return json.dumps(settings, sort_keys=True)
