"""A device's teacher and public images, and what is made of them: anchors, and features of its pairs.

Everything that is read here was named by the device's owner. The settings of a run bring numbers and words
out of fixed tables; none of them names a file.

Shapes: N images, D embedding dimension, K anchors.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from edgecmd.catalogue.data_sets import PUBLIC_SETS
from edgecmd.catalogue.teacher_rows import listed, teacher_files
from edgecmd.core.errors import PrivacyError
from edgecmd.core.own_code import is_own
from edgecmd.data.anchors import Anchors, AnchorSource, make_anchors
from edgecmd.data.modalities.table import modality_of, target_input
from edgecmd.data.pairs import PairedData, PublicSource, Targets
from edgecmd.data.user_files.public_images import load_shipped_public, read_public
from edgecmd.models.students import DENSE_STRIDE
from edgecmd.models.teacher.feature_cache import cached_features, cached_maps
from edgecmd.models.teacher.place_features import Reduction, View, fit_reduction
from edgecmd.models.teacher.teacher_set import named_teacher
from edgecmd.models.teacher.teachers import TEACHERS, Teacher, check_rate
from edgecmd.settings import DataConfig, DistillConfig, TeacherConfig
from edgecmd.training.distill import LocalData
from edgecmd.training.task import Places

# Of the teacher. Kernels round otherwise for other numbers of rows, and a server could make last digits large
# (a teacher temperature of 1e-4): one pair more would move the gradients of others.
ROWS_A_CALL = 8


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DeviceSources:
    """What anchors and features are made of on a device.

    Attributes:
        teacher: The frozen teacher.
        public: Public images of what it takes.
        cache: Folder for features, on the device.
        places: For a dense student how the teacher looks at places, and their reduction by the public
            images; None for a student of whole images.
    """

    teacher: Teacher
    public: PublicSource
    cache: Path
    places: tuple[View, Reduction] | None = None

    def digests(self) -> dict[str, str]:
        """SHA-256 of the teacher's file and of the public images: equal on every machine."""
        return {"teacher-sha256": self.teacher.sha256, "public-sha256": self.public.fingerprint()}

    def file_kind(self, kind: str, *, reverse: bool) -> str:
        """Kind of what is in ``target/``: of reversed pairs that is what the teacher takes."""
        return self.teacher.kind if reverse else kind


def device_sources(
    settings: DataConfig, *, teacher: TeacherConfig, public: str, cache: Path, places: Places | None = None
) -> DeviceSources:
    """Teacher and public images that a device's owner named.

    Args:
        settings: Sides, clip and unit of depth are used.
        teacher: Names one or more as settings do, or the absolute path of a .safetensors file; other files
            by absolute paths too.
        public: A key of `edgecmd.catalogue.data_sets.PUBLIC_SETS`, or an absolute path of a folder.
        cache: Folder for features.
        places: Set for a dense student.

    Raises:
        PrivacyError: Something is missing, damaged or no absolute path.
    """
    try:
        images = _public(settings, public)
        found = check_rate(_teacher(teacher, images, cache), settings.sampling_rate_hz)
        seen = None if places is None else _places(settings, places, found, images)
        return DeviceSources(teacher=found, public=images, cache=cache, places=seen)
    except PrivacyError:
        raise
    except (ValueError, OSError) as error:
        raise PrivacyError(f"The node's teacher or public-dir: {error}", code="node-config") from error


def _teacher(named: TeacherConfig, public: PublicSource, cache: Path) -> Teacher:
    """The teacher that the node's config names; a name that is none of a teacher's is a file."""
    for file in teacher_files(named.name, named.weights):
        if not (Path(file).is_absolute() and Path(file).is_file()):
            raise PrivacyError(
                f"The node's teacher names the file {file!r}; allowed is an absolute path that exists.",
                code="node-config",
            )
    if not all(one in TEACHERS or is_own(one) for one in listed(named.name)):
        path = _absolute(named.name, key="teacher", allowed=TEACHERS)
        named = replace(named, name="", path=str(path))
    images = partial(public.pictures, use="teacher-pca-dim")
    return named_teacher(named, data_set="", public=images, cache=cache)


def _public(config: DataConfig, named: str) -> PublicSource:
    if named in PUBLIC_SETS:
        return load_shipped_public(named, config)
    folder, problems = _absolute(named, key="public-dir", allowed=PUBLIC_SETS), list[str]()
    # A device's disk is not a run's to fill.
    config = replace(config, store="never")
    found = read_public(folder, config, name=folder.name, problems=problems)
    if found is None or problems:
        raise PrivacyError(f"public-dir={named!r}: {'; '.join(problems)}", code="node-config")
    return found


def _absolute(text: str, *, key: str, allowed: Mapping[str, object]) -> Path:
    path = Path(text)
    if not path.is_absolute() or not path.exists():
        raise PrivacyError(
            f"{key}={text!r} in the node's config is neither one of {', '.join(sorted(allowed))} nor an"
            " absolute path that exists.",
            code="node-config",
        )
    return path


def device_anchors(sources: DeviceSources, settings: DistillConfig, *, seed: int, side: int) -> Anchors:
    """Anchors of a run on a device, (K, D), on the CPU.

    Args:
        sources: What they are made of.
        settings: ``anchors`` and ``num_anchors``.
        seed: Of the run.
        side: Side of a source image.

    Guarantees:
        A function of the settings, the owner's teacher and the owner's public images; no pair is opened.

    Raises:
        PrivacyError: The teacher gives numbers that are not finite for them.
    """
    places = sources.places
    anchors = make_anchors(
        settings,
        AnchorSource(
            public=lambda: device_features(sources, sources.public.images),
            embed=lambda images: device_features(sources, images),
            dim=lambda: sources.teacher.embedding_dim if places is None else places[1].weight.shape[1],
            side=side,
        ),
        seed=seed,
    )
    if not bool(torch.isfinite(anchors).all()):
        raise PrivacyError(
            "The node's teacher gives numbers that are not finite for public images. Check its weights,"
            " teacher-mean and teacher-std.",
            code="node-config",
        )
    return anchors


def device_data(
    sources: DeviceSources, settings: DataConfig, pairs: PairedData, *, device: torch.device
) -> LocalData:
    """Pairs as distillation takes them; any number, none included."""
    features = device_features(sources, pairs.source)
    scaled = target_input(pairs.target, offset=settings.target_offset, scale=settings.target_scale)
    return LocalData(
        target=scaled.to(device),
        teacher=torch.from_numpy(np.ascontiguousarray(features)).to(device),
        modality=modality_of(pairs.target).name,
    )


def device_features(sources: DeviceSources, images: Targets) -> Float[np.ndarray, "num dim *grid"]:
    """Teacher features of ``images``, (N, D), or of each location for a dense student, (N, D, rows, columns).

    Guarantees:
        For a student of whole images, each row is a function of its own image, to the last bit: the
        teacher is always called with the same number of rows. (On processors where the place of a row in a
        call does not matter, which held wherever it was looked at.)
    """
    if sources.places is None:
        if not len(images):
            return np.zeros((0, sources.teacher.embedding_dim), np.float32)
        kept = cached_features(sources.teacher, images, cache_dir=sources.cache, rows_a_call=ROWS_A_CALL)
        return np.asarray(kept)
    view, reduction = sources.places
    if not len(images):
        return np.zeros((0, reduction.weight.shape[1], *view.grid), np.float32)
    maps = cached_maps(sources.teacher, images, view=view, reduction=reduction, cache_dir=sources.cache)
    return np.asarray(maps)


def _places(
    settings: DataConfig, places: Places, teacher: Teacher, public: PublicSource
) -> tuple[View, Reduction]:
    """View and reduction for a dense student, fitted once."""
    side = settings.image_size // DENSE_STRIDE
    view = View(grid=(side, side), zoom=places.zoom)
    images = public.pictures(use="A dense student")
    return view, fit_reduction(teacher.network, images, view=view, dim=places.dim)
