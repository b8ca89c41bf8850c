"""What is distilled: the pairs, their teacher, and the public images.

Features, anchors and inputs are made once, when they are first asked for, and kept with the task. A device
that reads pairs of its own has `edgecmd.data.device` in its place. Either way no field can hold a label of a
client's pairs.

Shapes: N pairs, K anchors, D embedding dimension, C channels, H height, W width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from edgecmd import __version__
from edgecmd.core.errors import ConfigError, DataError
from edgecmd.core.kept import Kept
from edgecmd.data.anchors import Anchors, AnchorSource, anchors_digest, make_anchors
from edgecmd.data.experiment import Experiment, HeldOut
from edgecmd.data.modalities.image import IMAGE, SOURCE_OFFSET, SOURCE_SCALE
from edgecmd.data.modalities.table import input_shape, kind_of, modality_of, source_input, target_input
from edgecmd.data.pairs import Images, PairedData, Targets
from edgecmd.data.ready_features import Ready
from edgecmd.data.stored.array_files import Examples, LazyRows, chosen, chunks
from edgecmd.models.students import DENSE_STRIDE
from edgecmd.models.teacher.feature_cache import cached_features, cached_maps
from edgecmd.models.teacher.place_features import Reduction, View, fit_reduction, pool_places
from edgecmd.models.teacher.teachers import Teacher
from edgecmd.settings import SQUEEZE, DistillConfig
from edgecmd.training.distill import Features, Inputs, LocalData, as_asked, taken


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Holding:
    """A client's pairs and the public anchors.

    Attributes:
        data: Scaled target images and teacher features of the client's pairs.
        anchors: Teacher features of public images, (K, D).
    """

    data: LocalData
    anchors: Float[Tensor, "anchors dim"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """How a teacher looks at the places of an image, for a dense student.

    Attributes:
        dim: Dimension of its feature at a location.
        zoom: How much larger than the source image it sees it.
    """

    dim: int
    zoom: int


def _refuse_not_finite(features: Examples, what: str) -> None:
    """Refuse a teacher that gives no number for an image; on a device such a pair has no effect instead.

    Raises:
        DataError: With how many, and the first.
    """
    finite = [np.isfinite(part).all(axis=1) for part in chunks(features)]
    bad = np.flatnonzero(~np.concatenate([*finite, np.zeros(0, dtype=bool)]))
    if len(bad):
        raise DataError(
            f"The teacher gives numbers that are not finite for {len(bad)} of {len(features)} sources of"
            f" {what}, first at row {bad[0]}. Check that image and the teacher."
        )


class Task:
    """Pairs, teacher and public images, with everything that follows from them.

    Args:
        data: Public images, training pairs, and what is held out.
        name: What messages call the data; empty: the name that the data have.
        teacher: The frozen teacher, or how to get it, which is not done before it is needed.
        ready: Ready features of pairs (in the order of their sorted ids) and of public images, in place of
            what the teacher would say; or None.
        target_offset: Value in [0, 1] of a target image that the student sees as zero.
        target_scale: What the rest is divided by.
        source_side: Side of a source image in pixels.
        target_side: Side of a target image in pixels.
        fit: ``data.fit``: how images that were not square became so; the exported file does the same.
        sampling_rate_hz: Of targets that are recordings, samples per second.
        places: Set for a dense student.
        device: Where tensors live.
        cache: Folder for features; None keeps none on the disk.
        one_feature_a_source: Teach all copies of a source the feature of the first, so that none of them is
            a negative of another. Never under privacy: there no pair may change what another is taught.
    """

    def __init__(  # noqa: PLR0913 - what a task is made of
        self,
        data: Experiment,
        *,
        name: str = "",
        teacher: Teacher | Callable[[], Teacher],
        ready: Callable[[Experiment], tuple[Ready, Ready]] | None = None,
        target_offset: float = 1.0,
        target_scale: float = -0.5,
        source_side: int = 64,
        target_side: int = 64,
        fit: str = SQUEEZE,
        sampling_rate_hz: int = 0,
        places: Places | None = None,
        device: torch.device = torch.device("cpu"),  # noqa: B008 - a constant
        cache: Path | None = None,
        one_feature_a_source: bool = False,
    ) -> None:
        self.data, self.device, self.cache = data, device, cache
        self.name = name or data.name
        self.target_offset, self.target_scale = target_offset, target_scale
        self.source_side, self.target_side, self.places = source_side, target_side, places
        self.sampling_rate_hz, self.fit = sampling_rate_hz, fit
        self._make_teacher, self._make_ready = teacher, ready
        self._one_feature_a_source = one_feature_a_source
        self._anchors = Kept[tuple[str, int, int], Anchors](4)
        self._held = Kept[str, np.ndarray](6)

    @cached_property
    def teacher(self) -> Teacher:
        """The frozen teacher.

        Raises:
            ConfigError: There is none, because the features are ready ones or the pairs are reversed.
        """
        return self._make_teacher if isinstance(self._make_teacher, Teacher) else self._make_teacher()

    @property
    def has_ready_features(self) -> bool:
        """Whether the features of the pairs are the user's own."""
        return self._make_ready is not None

    @cached_property
    def ready(self) -> tuple[Ready, Ready]:
        """Ready features of all pairs in the order of their sorted ids, and of the public images.

        Raises:
            ConfigError: There are none, or the set has no ids.
            DataError: Either file does not fit; the message has all that is wrong.
        """
        if self._make_ready is None:
            raise ConfigError("teacher.pair_features is empty, so there are no ready features.")
        return self._make_ready(self.data)

    @property
    def modality(self) -> str:
        """Of the targets, a key of `edgecmd.data.modalities.table.MODALITIES`."""
        return modality_of(self.data.train.target).name

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one target as a student sees it."""
        return input_shape(self.data.train.target)

    @property
    def seen(self) -> tuple[float, float]:
        """Offset and scale: a student sees an image's values in [0, 1] as (value - offset) / scale.

        Of other modalities those of the images that stand in for them.
        """
        if self.modality != IMAGE.name:
            return SOURCE_OFFSET, SOURCE_SCALE
        return self.target_offset, self.target_scale

    @property
    def teacher_dim(self) -> int:
        """D."""
        if self.places is not None:
            return self.places.dim
        if self.has_ready_features:
            return int(self.ready[0].features.shape[1])
        return self.teacher.embedding_dim

    def training_pairs(self, rows: np.ndarray) -> tuple[PairedData, tuple[str, ...]]:
        """Training pairs at ``rows`` and their ids, where the set has ids."""
        ids = tuple(self.data.train_ids[row] for row in rows) if self.data.train_ids else ()
        return self.data.train.take(rows), ids

    def target_input(self, target: Targets) -> Float[Tensor, "num channels height width"]:
        """Targets as the student sees them, on the task's device."""
        scaled = target_input(target, offset=self.target_offset, scale=self.target_scale)
        return scaled.to(self.device)

    def inputs(self, target: Targets) -> Inputs:
        """The same for training: of targets on the disk each batch is made when it is asked for."""
        return as_asked(target, self.target_input, row=input_shape(target), device=self.device)

    def public_inputs(self, *, use: str) -> Inputs:
        """Public pictures as the teacher sees them, likewise, on the CPU.

        Args:
            use: See `edgecmd.data.pairs.PublicSource.pictures`.
        """
        pictures = self.data.public.pictures(use=use)
        return as_asked(pictures, source_input, row=input_shape(pictures), device=torch.device("cpu"))

    def pair_features(self, pairs: PairedData, ids: tuple[str, ...]) -> Float[Tensor, "num dim *grid"]:
        """Teacher features of ``pairs``: ready ones (found by id), else computed and cached.

        For a dense student those of each location, (N, D, rows, columns).
        """
        return self._to_device(self._features(pairs, ids))

    def _features(self, pairs: PairedData, ids: tuple[str, ...]) -> Examples:
        """The same as they are kept: on the disk where the pairs are."""
        if self.has_ready_features and self.places is None:
            rows = np.searchsorted(np.asarray(self.data.sorted_ids()), np.asarray(ids))
            return self.ready[0].features[rows]
        return self._of_sources(pairs.source)

    def _of_sources(self, source: Targets) -> Examples:
        if self.places is not None:
            return self.place_features(source)
        features = cached_features(self.teacher, source, cache_dir=self.cache)
        _refuse_not_finite(features, "pairs")
        return features

    def _to_device(self, features: Examples) -> Float[Tensor, "num dim *grid"]:
        whole = np.asarray(features, dtype=np.float32)
        return torch.from_numpy(np.ascontiguousarray(whole)).to(self.device)

    @cached_property
    def training_features(self) -> Features:
        """Teacher features of all training pairs, in their order.

        The teacher looks at all of them once, whichever client of whichever partition holds them: its
        features of a pair follow from the set alone, not from the pairs next to it.
        """
        features = self._features(self.data.train, self.data.train_ids)
        if self.shares_features:
            codes = self.data.all_copies().source[: len(self.data.train)]
            _, first, which = np.unique(codes, return_index=True, return_inverse=True)
            features = chosen(features, first[which])
        return as_asked(features, self._to_device, row=features.shape[1:], device=self.device)

    @property
    def shares_features(self) -> bool:
        """Whether training pairs of one source are taught the feature of the first."""
        if not self._one_feature_a_source:
            return False
        return len(np.unique(self.data.all_copies().source[: len(self.data.train)])) < len(self.data.train)

    def local_data(self, rows: np.ndarray) -> LocalData:
        """Training pairs at ``rows`` as distillation takes them."""
        target = chosen(self.data.train.target, rows)
        return LocalData(
            target=self.inputs(target),
            teacher=taken(self.training_features, rows),
            modality=modality_of(target).name,
        )

    def held_out_features(self, part: str) -> np.ndarray:
        """Teacher features of a held-out part (``validation``, ``test`` or ``test_strict``), (N, D)."""
        return self._held.get(part, lambda: self._held_out_features(part))

    def _held_out_features(self, part: str) -> np.ndarray:
        held: HeldOut = getattr(self.data, part)
        return self._of_whole_images(self._features(held.pairs, held.ids))

    def gallery_features(self, part: str) -> np.ndarray:
        """Teacher features of what retrieval of a held-out part looks among, (M, D).

        Those of its pairs where the part has no gallery of its own.
        """
        held: HeldOut = getattr(self.data, part)
        if held.gallery is None:
            return self.held_out_features(part)
        source = held.gallery.source
        return self._held.get(f"gallery of {part}", lambda: self._of_whole_images(self._of_sources(source)))

    def _of_whole_images(self, features: Examples) -> np.ndarray:
        """Features of whole images in memory: of those at places their mean."""
        if self.places is None:
            return np.asarray(features)
        parts = chunks(features) if isinstance(features, LazyRows) else (features,)
        return np.concatenate([pool_places(self._to_device(part)).cpu().numpy() for part in parts])

    @cached_property
    def view(self) -> View:
        """Grid of a dense student's places, and how the teacher looks at them.

        Raises:
            ConfigError: The features are ready ones, which are not of locations.
        """
        if self.has_ready_features:
            raise ConfigError(
                "teacher.pair_features holds features of whole images, but a seg-* student needs features"
                " at locations. Leave it out, or choose a student of the ws-* family."
            )
        assert self.places is not None
        _, height, width = self.input_shape
        return View(grid=(height // DENSE_STRIDE, width // DENSE_STRIDE), zoom=self.places.zoom)

    @cached_property
    def reduction(self) -> Reduction:
        """Principal components of the teacher's places, of the public images alone."""
        assert self.places is not None
        images = self.data.public.images
        return fit_reduction(self.teacher.network, images, view=self.view, dim=self.places.dim)

    def place_features(self, images: Images) -> Examples:
        """Teacher features of each location of ``images``, (N, D, rows, columns)."""
        return cached_maps(
            self.teacher, images, view=self.view, reduction=self.reduction, cache_dir=self.cache
        )

    def num_places(self, settings: DistillConfig) -> int:
        """Places of each pair that the loss looks at: 1 for a student of whole images."""
        if self.places is None:
            return 1
        rows, columns = self.view.grid
        return min(settings.num_locations, rows * columns)

    @cached_property
    def public_features(self) -> Examples:
        """Teacher features of the public images, (images, D); for a dense student `place_features`."""
        images = self.data.public.images
        if self.places is not None:
            return self.place_features(images)
        if self.has_ready_features:
            return self.ready[1].features
        features = np.asarray(cached_features(self.teacher, images, cache_dir=self.cache))
        _refuse_not_finite(features, "the public images")
        return features

    def anchors(self, settings: DistillConfig, *, seed: int) -> Anchors:
        """Public anchors, (K, D), made from the run's seed; the same on every client.

        Args:
            settings: ``anchors`` and ``num_anchors``.
            seed: Of the run.

        Raises:
            ConfigError: The kind is unknown, or the data set has no public gallery.
        """
        key = (settings.anchors, settings.num_anchors, seed)
        return self._anchors.get(key, lambda: self._make_anchors(settings, seed))

    def _make_anchors(self, settings: DistillConfig, seed: int) -> Anchors:
        things = self.data.public_things
        source = AnchorSource(
            public=lambda: self.public_features,
            embed=self._anchor_features,
            dim=lambda: self.public_features.shape[1] if self.has_ready_features else self.teacher_dim,
            side=self.source_side,
            things=None if things is None else lambda: self._of_whole_images(self._of_sources(things)),
        )
        return make_anchors(settings, source, seed=seed).to(self.device)

    def _anchor_features(self, images: Images) -> np.ndarray:
        if self.places is None:
            return self.teacher.embed(images)
        return np.asarray(self.place_features(images))

    def anchors_fingerprint(self, settings: DistillConfig, *, seed: int) -> dict[str, str | int]:
        """Kind, number and SHA-256 of the anchors, for the run folder."""
        anchors = self.anchors(settings, seed=seed)
        return {"kind": settings.anchors, "num": len(anchors), "sha256": anchors_digest(anchors)}

    def told_to_devices(self) -> dict[str, str]:
        """What a server tells devices with pairs of their own, so that they can compare: words and digests.

        Kind of the student's targets, version of edgecmd, and SHA-256 of teacher and public images, where
        the features are not ready ones of the user.
        """
        told = {"target-kind": kind_of(self.data.train.target), "edgecmd-version": __version__}
        if self.has_ready_features:
            return told
        return told | {
            "teacher-sha256": self.teacher.sha256,
            "public-sha256": self.data.public.fingerprint(),
        }
