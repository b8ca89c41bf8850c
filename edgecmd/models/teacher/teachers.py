"""The frozen teacher of the source modality: one that ships, one from a file, or any torch module.

A file holds weights in safetensors, and the recipe in their metadata. Most teachers see RGB images. Those
of reversed pairs (``data.reverse``) see recordings, depth maps or line drawings; the file says which, and
nothing else is shown to them.

Shapes: B batch, N images, H height, W width, D embedding dimension.
"""

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from types import NoneType

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from edgecmd.arguments import refuse_other
from edgecmd.catalogue.data_files import built_file, shipped_file
from edgecmd.catalogue.data_sets import DATA_SETS, DEFAULT_TEACHER
from edgecmd.catalogue.data_sets import data_set as row_of
from edgecmd.catalogue.teacher_rows import TEACHER_KINDS, TeacherKind, kind_of_teacher, listed, shown
from edgecmd.core.errors import ConfigError, DataError, choose, nearest
from edgecmd.core.files import write_bytes_atomically
from edgecmd.core.own_code import call_factory, is_own, running
from edgecmd.core.progress import tracked
from edgecmd.data.modalities.image import IMAGE
from edgecmd.data.modalities.table import MODALITIES, input_shape, modality_of, source_input
from edgecmd.data.pairs import Targets
from edgecmd.models.devices import device_of
from edgecmd.models.students import Architecture, convolutional, initialise
from edgecmd.models.teacher.prepared import Opened, Preparation, Prepared
from edgecmd.models.tensor_file import load_weights, pack, require, unpack, whole_number
from edgecmd.models.trial import seeded, try_out
from edgecmd.models.trunks import efficientnet

SETTING = "teacher.name"
# In the recipe of a teacher of recordings.
RATE = "sampling_rate_hz"
# Side of the made-up pictures that a teacher of anyone's own is tried on where it takes any.
TRIAL_SIDE = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class ShippedTeacher:
    """A teacher that ships with edgecmd.

    Attributes:
        file: Its file.
        sha256: Of that.
        trained_on: What it saw.
        labels: Whose labels it saw; none is of any pair.
        licence: Of the weights.
        attribution: Where those who made weights or images are named.
        drawn_only: Whether it knows nothing but drawn images of things on plain ground.
    """

    file: str
    sha256: str
    trained_on: str
    labels: str
    licence: str
    attribution: str
    drawn_only: bool = False


IMAGENET = "imagenet"
TEACHERS: dict[str, ShippedTeacher] = {
    "icons": ShippedTeacher(
        file="teacher_64.safetensors",
        sha256="8fbdd1250f5b3c17a58c51efd47d5bb298e0712c5d9cf76e7857d598c1eaa84a",
        trained_on="public pictures of emoji",
        labels="none",
        licence="Apache-2.0, that of edgecmd",
        attribution="of the pictures: NOTICE in the package folder edgecmd/datasets/files",
        drawn_only=True,
    ),
    "indoor": ShippedTeacher(
        file="indoor_32.safetensors",
        sha256="d7d435d4b6c7170f65108f622f28fdc69af396e2ba7fd1ec4c9219ebfd8ea5ad",
        trained_on="public pictures of rooms and objects",
        labels="none",
        licence="Apache-2.0, that of edgecmd",
        attribution="of the meshes: NOTICE-furniture in the package folder edgecmd/datasets/files",
    ),
    IMAGENET: ShippedTeacher(
        file=efficientnet.FILE,
        sha256=efficientnet.SHA256,
        trained_on="photographs of ImageNet (ILSVRC 2012)",
        labels="ImageNet's 1,000 classes",
        licence="Apache-2.0, Google and ML Illustrated",
        attribution="of the weights, with ImageNet's terms: NOTICE in the folder edgecmd/datasets/files",
    ),
}


def _photographs(architecture: str, *, input_side: int, in_channels: int, embedding_dim: int) -> nn.Module:
    if in_channels != 3:
        raise ConfigError(
            f"pretrain.architecture={architecture!r} takes RGB images, but the source has {in_channels}"
            " channels. Use gn-teacher."
        )
    return efficientnet.EfficientNetLite0(embedding_dim=embedding_dim, input_side=input_side)


ARCHITECTURES: dict[str, Architecture] = {
    "gn-teacher": convolutional("gn", (32, 64, 128), text="of pictures, with GroupNorm"),
    "gn-teacher-large": convolutional("gn", (48, 112, 184), text="of pictures, with GroupNorm"),
    "gn-audio-teacher": convolutional("gn", (32, 64, 128), front="log-mel", text="of recordings"),
    efficientnet.NAME: Architecture(
        build=partial(_photographs, efficientnet.NAME, input_side=192),
        text="of photographs, trained elsewhere",
        family="efficientnet",
        weights_of=IMAGENET,
    ),
}


def build_teacher(
    architecture: str, *, embedding_dim: int, generator: torch.Generator, in_channels: int = 3
) -> nn.Module:
    """Make an untrained teacher; of one that was trained elsewhere, its shape with made-up weights.

    Args:
        architecture: A key of `ARCHITECTURES`.
        embedding_dim: Dimension of its feature.
        generator: Source of the initial weights.
        in_channels: Of what it sees: 3 for RGB, 2 for depth with its mask, 1 for grey and for recordings.

    Raises:
        ConfigError: The architecture is unknown, or is for RGB images and is given something else.
    """
    row = choose("pretrain.architecture", architecture, ARCHITECTURES)
    with seeded(generator.initial_seed()):
        teacher = row.build(in_channels=in_channels, embedding_dim=embedding_dim)
    initialise(teacher, generator=generator)
    return teacher


def check_architecture(architecture: str, source: Targets) -> None:
    """Refuse a teacher of images for recordings, and the other way round.

    Raises:
        ConfigError: With the teachers that suit the source.
    """
    row = choose("pretrain.architecture", architecture, ARCHITECTURES)
    modality = modality_of(source, name="source")
    if row.front != modality.front:
        allowed = ", ".join(name for name, one in ARCHITECTURES.items() if one.front == modality.front)
        raise ConfigError(
            f"pretrain.architecture={architecture!r} does not take a source of modality {modality.name!r}."
            f" Allowed: {allowed}."
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Teacher:
    """A frozen encoder, with what identifies it.

    Attributes:
        network: Encoder in evaluation mode; takes `edgecmd.data.modalities.table.source_input`.
        embedding_dim: Dimension of its feature, D.
        sha256: SHA-256 of the file it came from; for your own module see `Teacher.of`.
        recipe: How it was made, from the file's metadata.
        modality: Modality of its inputs, a key of `edgecmd.data.modalities.table.MODALITIES`.
        in_channels: Channels of its inputs.
    """

    network: nn.Module
    embedding_dim: int
    sha256: str
    recipe: Mapping[str, str]
    modality: str = IMAGE.name
    in_channels: int = 3

    @classmethod
    def of(
        cls,
        made: nn.Module | str | Path,
        *,
        size: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        crop: float | None = None,
        weights: str | Path | None = None,
        output: str = "",
        name: str = "",
    ) -> "Teacher":
        """A teacher for RGB images: a frozen copy of any module, or one by name or file.

        Args:
            made: A module (B, 3, H, W) to (B, D); ``timm:NAME`` or ``torchvision:NAME``; ``onnx:FILE``;
                ``module:factory``; or, without any other argument, a key of `TEACHERS` or a .safetensors file
                that ``edgecmd pretrain`` made.
            size: Side in pixels to which images are resized (bilinear, antialiased); None: that of the
                network's published weights or of the file, otherwise images stay as they are.
            mean: Mean of each colour that the network was trained with, on a scale of 0 to 1; None: that of
                its published weights, otherwise (0, 0, 0).
            std: Standard deviation of each colour, likewise, otherwise (1, 1, 1); ImageNet's are
                (0.485, 0.456, 0.406) and (0.229, 0.224, 0.225).
            crop: Share of height and width, around the centre, that is kept; None: the share the published
                weights were tested with, otherwise 1.
            weights: File with the weights for ``timm:`` and ``torchvision:`` (.safetensors or .pth).
            output: Which output of ``onnx:`` is the feature, if there are several.
            name: Its name in reports; empty: the name of its class.

        Raises:
            ConfigError: It does not take such images, does not return finite (B, D), or answers an image
                differently in other batches; a number is out of range or given with a name that has its own;
                or nothing has that name.
            DataError: The file does not hold a teacher.

        Guarantees:
            ``sha256`` covers weights, class, size, mean, std, crop, output and every number and string that
            the module keeps, so kept features belong to this teacher and no other. What the code of the class
            does is not covered.

        Examples:
            >>> mine = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
            >>> Teacher.of(mine, size=32).embed(np.zeros((2, 64, 64, 3), np.uint8)).shape
            (2, 8)
        """
        seen = Preparation(size=size, mean=mean, std=std, crop=crop)
        refuse_other("weights", weights, str, Path, NoneType, what="a path")
        for option, text in (("output", output), ("name", name)):
            refuse_other(option, text, str, what="text")
        kind = kind_of_teacher(made) if isinstance(made, str) else None
        for option, given, fits in (
            ("weights", weights, kind is not None and kind.has_weights),
            ("output", output, kind is not None and kind.has_outputs),
        ):
            if given and not fits:
                named = str(made) if isinstance(made, str | Path) else type(made).__name__
                raise ConfigError(_not_of(named, option, given))
        if isinstance(made, str) and kind is not None:
            opened = _open(made, kind, weights=weights, output=output, size=size)
            return _of_network(replace(opened, about=name or opened.about), seen)
        if isinstance(made, str | Path):
            return _by_name(made, seen, called=name)
        if not isinstance(made, nn.Module):
            raise ConfigError(
                f"A teacher cannot be made from {made!r}. Give an object of a torch.nn.Module (MyModule()"
                " and not MyModule), a name, 'module:factory', or a file."
            )
        return _of_network(Opened(module=made, about=name or type(made).__name__), seen)

    @property
    def dim(self) -> int:
        """Dimension of its feature, D."""
        return self.embedding_dim

    @property
    def kind(self) -> str:
        """Kind of its inputs, as in `edgecmd.data.modalities.table.target_kinds`."""
        return MODALITIES[self.modality].kind(self.in_channels)

    @property
    def sees_colour(self) -> bool:
        """Whether it takes RGB images."""
        return self.kind == "rgb"

    @torch.no_grad()
    def embed(self, source: Targets, *, batch_size: int = 256) -> Float[np.ndarray, "num dim"]:
        """Features of the source modality, float32, (N, D), not normalised.

        Raises:
            ConfigError: ``source`` is not of the modality that the teacher was trained on.
        """
        found = (modality_of(source, name="source").name, input_shape(source)[0])
        if found != (self.modality, self.in_channels):
            raise ConfigError(
                f"The teacher takes {self.modality!r} of {self.in_channels} channels, but it is shown"
                f" {found[0]!r} of {found[1]}. Set teacher.path to one that `edgecmd pretrain` made with the"
                " same data settings (including data.reverse)."
            )
        with running(
            f"The teacher {self.recipe.get(OWN, '')}", getattr(self.network, "module", self.network)
        ):
            return embed_source(self.network, source, batch_size=batch_size)


# In the recipe of a teacher of anyone's own: its name.
OWN = "own"


def _open(
    text: str, kind: TeacherKind, *, weights: str | Path | None, output: str, size: int | None
) -> Opened:
    """The network of a name with a prefix, by the function of its row."""
    try:
        function = resolve_name(kind.open)
    except ImportError as error:
        raise ConfigError(
            f"{SETTING}={shown(text)!r} cannot be opened here: {error}. Install all of edgecmd."
        ) from error
    opened: Opened = function(text, weights=Path(weights) if weights else None, output=output, size=size)
    return opened


def _not_of(made: str, option: str, given: object) -> str:
    attribute = {"weights": "has_weights", "output": "has_outputs"}[option]
    allowed = " and ".join(f"{name}:" for name, one in TEACHER_KINDS.items() if getattr(one, attribute))
    return (
        f"{option}={str(given)!r} of a teacher applies to names that start with {allowed}, not to {made!r}."
        " Leave it out."
    )


def _of_network(opened: Opened, seen: Preparation) -> Teacher:
    """A frozen copy of a network behind what it is shown, once it was tried."""
    shown_to_it = seen.over(opened.own)
    network = Prepared(opened.module, shown_to_it)
    side = shown_to_it.size or TRIAL_SIDE
    # Without the report of its weights.
    what = f"The teacher {opened.about.partition(' (')[0]}"
    any_size = ", of any size or of the one that size= (teacher.size) names," if not shown_to_it.size else ""
    dim = try_out(network, (3, side, side), what=what, wanted=f"RGB images{any_size}")
    if not shown_to_it.size:
        _refuse_width_by_size(network, dim, what=what)
    return Teacher(
        network=copy.deepcopy(network).eval().requires_grad_(False),
        embedding_dim=dim,
        sha256=network.fingerprint(opened.identity),
        recipe={OWN: opened.about},
    )


def _refuse_width_by_size(network: nn.Module, dim: int, *, what: str) -> None:
    """Refuse a network whose number of features follows from the size of what it is shown.

    Raises:
        ConfigError: It gives another number for pictures of twice the side.
    """
    try:
        other = try_out(network, (3, 2 * TRIAL_SIDE, 2 * TRIAL_SIDE), what=what, wanted="RGB pictures")
    except ConfigError:
        # It takes one size alone, which a task's pictures have or do not have.
        return
    if other != dim:
        raise ConfigError(
            f"{what} gives {dim} features for pictures of {TRIAL_SIDE} pixels and {other} for"
            f" {2 * TRIAL_SIDE}. Set size= (teacher.size) to the side that it was trained with."
        )


def _by_name(made: str | Path, seen: Preparation, *, called: str) -> Teacher:
    """One that ships, one of a file of ``edgecmd pretrain``, or what ``module:factory`` makes."""
    is_file = isinstance(made, Path) or made.endswith(".safetensors")
    if not is_file and is_own(str(made)):
        return _from_factory(str(made), seen, called=called)
    if seen.given or called:
        raise ConfigError(
            f"The teacher {str(made)!r} has its own size, scale and name. Leave out size, mean, std, crop"
            " and name, or give a module."
        )
    return load_teacher(Path(made)) if is_file else load_teacher(name=str(made))


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
        data_set: ``data.name``; its row names the teacher; empty for the default one.
        name: A key of `TEACHERS`, or a name with a colon, see `Teacher.of`; empty: that of the data set.

    Raises:
        ConfigError: No teacher of that name ships, or the code that it names makes none.
        DataError: The file is missing, not safetensors, or its metadata or tensors do not fit.
    """
    if path is None and is_own(name):
        return Teacher.of(name)
    if (path is None and name.endswith(".onnx")) or (path is not None and path.suffix == ".onnx"):
        raise ConfigError(f"{path or name} is an ONNX file. Write it as {SETTING}='onnx:{path or name}'.")
    file, checksum, again = (path, "", "") if path else teacher_file(data_set, name)
    advice = f"Make a teacher with `edgecmd pretrain --out {file.name}`; teacher.path names it."
    tensors, recipe = unpack(file, advice=advice)
    require(recipe, {"architecture", "embedding_dim"}, path=file, advice=advice)
    architecture = recipe["architecture"]
    if architecture not in ARCHITECTURES:
        raise DataError(
            f"{file} holds a teacher of the architecture {architecture[:40]!r}."
            f" {nearest(architecture, ARCHITECTURES)} {advice}"
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


def _from_factory(name: str, seen: Preparation, *, called: str) -> Teacher:
    """The teacher that ``module:factory`` makes, a `Teacher` or a module that is made one."""
    # The same in every process, whatever the factory draws from torch.
    with seeded(0):
        made = call_factory(SETTING, name, offered={})
    if isinstance(made, nn.Module):
        return _of_network(Opened(module=made, about=called or name), seen)
    if not isinstance(made, Teacher):
        raise ConfigError(
            f"{SETTING}={name!r} made a {type(made).__name__}; allowed is a torch.nn.Module, or a Teacher (of"
            " Teacher.of(module, size=..., mean=..., std=...))."
        )
    if seen.given or called:
        raise ConfigError(
            f"{SETTING}={name!r} made a Teacher, which has its own size, scale and name. Leave out"
            f" {', '.join((*seen.given, *(['name'] if called else [])))}, or return a module."
        )
    return made


def check_rate(teacher: Teacher, rate_hz: int) -> Teacher:
    """The teacher, unless it heard recordings of another rate: at that one it would hear another pitch.

    Args:
        teacher: Of images or recordings; older files do not say their rate and are taken.
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


def default_teacher(data_set: str) -> str:
    """Name of the teacher that ships for a data set; empty where one was built beside it."""
    return row_of(data_set).teacher if data_set else DEFAULT_TEACHER


def teacher_file(data_set: str, name: str = "") -> tuple[Path, str, str]:
    """File of the teacher of that name, or that comes with a data set, its checksum, how to get it again.

    Raises:
        ConfigError: No teacher of that name ships.
        DataError: The file is nowhere, or the set is one to be built and is not.
    """
    chosen = name or default_teacher(data_set)
    if not chosen:
        return *built_file(data_set, "teacher"), f"Build the set again with `{DATA_SETS[data_set].build}`."
    row = choose(SETTING, chosen, TEACHERS)
    return shipped_file(row.file), row.sha256, "Install edgecmd again."


def teacher_name(data_set: str, name: str = "") -> str:
    """What the teacher of that name is called where no path names it; no folder is in it."""
    names = listed(name)
    if len(names) > 1:
        return f"{' + '.join(map(shown, names))}, side by side"
    kind = kind_of_teacher(name)
    if kind is not None:
        return f"{shown(name)}, {kind.text}"
    if is_own(name):
        return f"{name}, code of your own"
    chosen = name or default_teacher(data_set)
    return f"{chosen}, ships with edgecmd" if chosen else f"built with the set {data_set}"


def recipe_text(settings: Mapping[str, object]) -> str:
    """Settings as one line of JSON with sorted keys, for the metadata."""
    return json.dumps(settings, sort_keys=True)
