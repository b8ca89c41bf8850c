"""A task made of a user's own objects, and its teacher.

Shapes: N pairs, K anchors, D embedding dimension.
"""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TypedDict, Unpack

import numpy as np
import torch
from torch import nn

from edgecmd.arguments import refuse_other, refuse_outside
from edgecmd.catalogue.data_sets import IN_PYTHON
from edgecmd.core.errors import ConfigError, DataError
from edgecmd.core.files import named_path
from edgecmd.data.experiment import Experiment, cut_apart
from edgecmd.data.modalities.table import input_shape
from edgecmd.data.pairs import fingerprint
from edgecmd.data.ready_features import MIN_DIM, row_problems
from edgecmd.library.data import Images, Pairs, labels_of
from edgecmd.models.devices import resolve_device
from edgecmd.models.teacher import teachers
from edgecmd.models.teacher.teacher_set import concat
from edgecmd.training import task as tasks

# Numbers of an input stay within float32.
MOST_SCALE = 1e6
MOST_DIM = 65_536


class TeacherOptions(TypedDict, total=False):
    """Keywords of a `Teacher`, documented at `edgecmd.models.teacher.teachers.Teacher.of`."""

    size: int | None
    mean: Sequence[float] | None
    std: Sequence[float] | None
    crop: float | None
    weights: str | Path | None
    output: str
    name: str


class Teacher(teachers.Teacher):
    """A frozen teacher for RGB images: any torch module, a teacher by name, or one from a file.

    Args:
        made: A module (B, 3, H, W) to (B, D), of which a frozen copy is kept; or the name of a teacher that
            ships with edgecmd (``imagenet``, ``icons``, ``indoor``); ``timm:NAME`` or ``torchvision:NAME``
            with ``weights``; ``onnx:FILE``; ``module:factory``; or a file made by ``edgecmd pretrain``.
        size: Side in pixels to which images are resized for the network; None: that of its published weights
            or of its file, otherwise images stay as they are.
        mean: Mean of each colour that the network was trained with, on a scale of 0 to 1.
        std: Standard deviation of each colour, likewise.
        crop: Share of height and width, around the centre, that it sees.
        weights: File with the weights, for ``timm:`` and ``torchvision:`` names.
        output: The output that is the feature, for an ONNX file with several.
        name: Its name in reports; empty: the name of its class.

    Raises:
        ConfigError: It is not an encoder of such images, or nothing has that name.
        DataError: The file does not hold a teacher.

    Examples:
        >>> mine = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> Teacher(mine, size=32, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)).dim
        8
    """

    def __init__(self, made: nn.Module | str | Path, **options: Unpack[TeacherOptions]) -> None:
        found = teachers.Teacher.of(made, **options)
        super().__init__(**{one.name: getattr(found, one.name) for one in fields(teachers.Teacher)})

    @staticmethod
    def concat(
        parts: Sequence[teachers.Teacher | nn.Module | str | Path],
        *,
        public: Images | None = None,
        dim: int = 0,
        power: float = 0.0,
        cache: str | Path | None = None,
    ) -> teachers.Teacher:
        """Combine teachers: unit features side by side, reduced to principal components of public images.

        Args:
            parts: Teachers, or what `Teacher` accepts without options.
            public: Public images at the size of the pairs' sources; needed for ``dim``. Never a pair.
            dim: Number of principal components to keep; 0 keeps all features.
            power: Power of its standard deviation by which each component is divided: 0 none, 1 whitening.
            cache: Folder for the features of the public images; None keeps nothing.

        Raises:
            ConfigError: ``dim`` is more than teachers or images allow, or a part is not a teacher of images.
        """
        refuse_outside("dim", dim, least=0, most=MOST_DIM)
        refuse_outside("power", power, least=0, most=1, kind=float)
        if isinstance(parts, str) or not isinstance(parts, Sequence):
            raise ConfigError(f"parts={parts!r} is not a list of teachers. Give [first, second].")
        if not isinstance(public, Images | None):
            raise ConfigError(f"public is of type {type(public).__name__}; allowed is an edgecmd.Images.")
        if public is not None and public.folder is not None:
            raise ConfigError(
                "public was read without a size, but the teachers must see it at the same size as the"
                " pairs. Read it with Images.from_folder(path, size=...), using the side of the pairs'"
                " sources."
            )
        return concat(
            [one if isinstance(one, teachers.Teacher) else Teacher(one) for one in parts],
            public=None if public is None else public.source().pictures(use="Teacher.concat"),
            dim=dim,
            power=power,
            cache=None if cache is None else Path(cache),
        )


class Task(tasks.Task):
    """A distillation task: private pairs, their teacher, and public images.

    Args:
        pairs: Private pairs, without labels.
        teacher: A `Teacher`, or what makes one (a module that takes images as they are, a name, a file); or
            ready features of the pairs, float, (N, D), together with ``public_features``.
        public: Public images, which provide anchors and calibration. Images from a folder that was read
            without a size are read again at the size of the pairs.
        public_features: With ready features of the pairs: features of the public images from the same
            teacher, (K, D).
        target_offset: Value of a target image (0 black, 1 white) that the student sees as zero.
        target_scale: The student sees (value - target_offset) / target_scale; not 0.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        cache: Folder for the teacher's features; None keeps them in memory only.

    Raises:
        ConfigError: The teacher does not take the source of the pairs, or a number is out of range.
        DataError: Ready features do not fit.

    Guarantees:
        Features are computed once, when they are first needed, and kept with the task.
    """

    def __init__(
        self,
        *,
        pairs: Pairs,
        teacher: teachers.Teacher | nn.Module | str | Path | np.ndarray,
        public: Images,
        public_features: np.ndarray | None = None,
        target_offset: float | int = 1.0,
        target_scale: float | int = -0.5,
        device: str = "auto",
        cache: str | Path | None = None,
    ) -> None:
        _refuse_tensor(teacher)
        for name, made, wanted in (("pairs", pairs, Pairs), ("public", public, Images)):
            refuse_other(name, made, wanted, what=f"an edgecmd.{wanted.__name__}")
        for name, value in (("target_offset", target_offset), ("target_scale", target_scale)):
            refuse_outside(name, value, least=-MOST_SCALE, most=MOST_SCALE, kind=float)
        if not len(public):
            raise ConfigError("public holds no image, but anchors come from it. Give at least one image.")
        if target_scale == 0:
            raise ConfigError("target_scale=0 would divide by zero; use -0.5 for ink on white paper.")
        public = public.like(pairs.source, fit=pairs.fit)
        self.pairs = pairs
        features = None
        if isinstance(teacher, np.ndarray):
            features = _ready(teacher, public_features, num_pairs=len(pairs), num_public=len(public))
        elif public_features is not None:
            raise ConfigError(
                "public_features go together with ready features of the pairs. Give both or neither."
            )
        found = teacher if isinstance(teacher, teachers.Teacher | np.ndarray) else Teacher(teacher)
        super().__init__(
            _experiment(pairs, public),
            name=IN_PYTHON,
            teacher=found if isinstance(found, teachers.Teacher) else _no_teacher,
            target_offset=float(target_offset),
            target_scale=float(target_scale),
            source_side=pairs.source.shape[1],
            target_side=input_shape(pairs.target)[1],
            sampling_rate_hz=pairs.sampling_rate_hz,
            fit=pairs.fit,
            device=resolve_device(device),
            cache=None if cache is None else named_path("cache", cache),
        )
        if features is not None:
            self._set_features(*features)
        elif (found.modality, found.in_channels) != ("image", 3):  # type: ignore[union-attr]
            raise ConfigError("The teacher does not take RGB images, which pairs.source holds.")

    def _set_features(self, pairs: np.ndarray, public: np.ndarray) -> None:
        """Use ready features instead of a teacher's."""
        self.training_features = torch.from_numpy(pairs).to(self.device)
        self.public_features = public
        self._ready_dim = pairs.shape[1]

    @property
    def in_channels(self) -> int:
        """Channels of a student's input."""
        return self.input_shape[0]

    @property
    def teacher_dim(self) -> int:
        """Dimension of the teacher's feature, D."""
        return getattr(self, "_ready_dim", 0) or super().teacher_dim

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a student's input; (1, samples) for audio clips."""
        _, height, width = self.input_shape
        return height, width

    def fingerprint(self) -> str:
        """Digests of pairs, public images and teacher, and the scaling of targets; equal for equal tasks."""
        teacher = (
            fingerprint(self.training_features[:].cpu().numpy(), self.public_features)
            if hasattr(self, "_ready_dim")
            else self.teacher.sha256
        )
        own, public = self.data.train.fingerprint(), self.data.public.fingerprint()
        return (
            f"pairs {own[:16]} public {public[:16]} teacher {teacher[:16]}"
            f" targets {self.target_offset:g} {self.target_scale:g}"
        )


def _refuse_tensor(teacher: object) -> None:
    if isinstance(teacher, torch.Tensor):
        raise ConfigError(
            f"teacher is a tensor of shape {tuple(teacher.shape)}. Give ready features as a numpy array:"
            " teacher=features.cpu().numpy(), public_features=..."
        )


def _no_teacher() -> teachers.Teacher:
    raise ConfigError(
        "The task has ready features, and the teacher that made them is not here, so it cannot embed"
        " anything else. Give a teacher instead of the features, or leave out what needs one."
    )


def _ready(
    pairs: np.ndarray, public: object, *, num_pairs: int, num_public: int
) -> tuple[np.ndarray, np.ndarray]:
    """Ready features as float32, refused where they do not fit.

    Raises:
        ConfigError: Those of the public images are missing.
        DataError: Numbers or shapes differ, or a row cannot come from a teacher.
    """
    if public is None:
        raise ConfigError(
            "Ready features of the pairs need public_features from the same teacher, for the anchors."
        )
    for name, found, num in (("teacher", pairs, num_pairs), ("public_features", public, num_public)):
        if not isinstance(found, np.ndarray):
            raise DataError(f"{name} is of type {type(found).__name__}; allowed is a numpy array of floats.")
        if found.ndim != 2 or len(found) != num or found.shape[1] < MIN_DIM or found.dtype.kind != "f":
            raise DataError(
                f"{name} has dtype={found.dtype} and shape={found.shape}; allowed are floats of shape"
                f" ({num}, D), D at least {MIN_DIM}."
            )
        if not (np.abs(found) <= np.finfo(np.float32).max).all():
            raise DataError(
                f"{name} holds numbers that are not finite as float32. Compute the features again."
            )
    assert isinstance(public, np.ndarray)
    if pairs.shape[1] != public.shape[1]:
        raise DataError(
            f"teacher has {pairs.shape[1]} numbers per row and public_features {public.shape[1]}; both must"
            " come from one teacher."
        )
    made = np.ascontiguousarray(pairs, np.float32), np.ascontiguousarray(public, np.float32)
    for name, rows in zip(("teacher", "public_features"), made, strict=True):
        for problem in row_problems(rows, [f"row {row}" for row in range(len(rows))]):
            raise DataError(f"{name} {problem}")
    return made


def _experiment(pairs: Pairs, public: Images) -> Experiment:
    """The pairs as an experiment with nothing held out."""
    nothing = np.arange(0)
    return cut_apart(
        pairs.data,
        name=IN_PYTHON,
        kind="real",
        train=np.arange(len(pairs)),
        validation=nothing,
        test=nothing,
        labels={"group": labels_of([""] * len(pairs))},
        public=public.source(),
        ids=pairs.ids,
        owner=labels_of(pairs.owner) if pairs.owner else None,
    )
