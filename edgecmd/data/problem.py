"""What one client of a simulation holds: its pairs, ready for distillation, and the public anchors.

The pairs are one part of the set, cut by `edgecmd.data.partition`; a device reads its own
(`edgecmd.data.device`). Either way the result has no field for a label.

Shapes: N pairs, K anchors, D embedding dimension.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from edgecmd import __version__
from edgecmd.config.schema import RunConfig
from edgecmd.core.devices import resolve_device
from edgecmd.core.errors import ConfigError, DataError
from edgecmd.core.progress import stage
from edgecmd.data.anchors import AnchorSource, anchors_digest, make_anchors
from edgecmd.data.experiment import Experiment, load_experiment
from edgecmd.data.feature_cache import cached_features
from edgecmd.data.modalities.table import input_shape, kind_of, modality_of
from edgecmd.data.pairs import Images, PairedData, PublicSource
from edgecmd.data.partition import partition
from edgecmd.data.ready_features import Ready, Wanted, listed_orders, read_ready
from edgecmd.models.place_features import Reduction, View, as_places, cached_maps, fit_reduction
from edgecmd.models.students import DENSE_STRIDE, is_dense
from edgecmd.models.teachers import Teacher, check_rate, load_teacher
from edgecmd.settings import DataConfig, StudentConfig
from edgecmd.training.distill import LocalData


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Holding:
    """A client's pairs and the public anchors.

    Attributes:
        data: Scaled target images and teacher features of the client's pairs.
        anchors: Teacher features of public images, (K, D).
    """

    data: LocalData
    anchors: Float[Tensor, "anchors dim"]


def cache_folder() -> Path:
    """Folder for teacher features: ``EDGECMD_CACHE`` or the user's cache folder."""
    return Path(os.environ.get("EDGECMD_CACHE") or Path.home() / ".cache" / "edgecmd")


@lru_cache(maxsize=2)
def experiment(config: DataConfig) -> Experiment:
    """The experiment of ``config``, read once a process."""
    with stage(f"loading {config.name}"):
        return load_experiment(config)


@lru_cache(maxsize=2)
def teacher(path: str, name: str, data_set: str) -> Teacher:
    """The teacher at ``path``, or of that name, or that comes with the data set; read once a process."""
    return load_teacher(Path(path) if path else None, data_set=data_set, name=name)


def teacher_of(config: RunConfig) -> Teacher:
    """The frozen teacher of a run.

    Raises:
        ConfigError: The run has ready features, whose teacher is not here; pairs are reversed, and no
            teacher is named; or it heard recordings of another rate.
    """
    if config.teacher.pair_features:
        raise ConfigError(
            "teacher.pair_features holds ready features, and the teacher that made them is not here, so no"
            " other picture can be shown to it. Leave out what needs that (the method 'teacher',"
            " distill.anchors='procedural', seg-* students, pictures of a folder), or name a teacher with"
            " teacher.path instead."
        )
    if config.data.reverse and not config.teacher.path:
        raise ConfigError(
            "data.reverse=true has no teacher that comes with edgecmd. Train one with the same data settings:"
            " `edgecmd pretrain --set data.reverse=true ... --out teacher.safetensors` (for recordings with"
            " pretrain.architecture=gn-audio-teacher), and set teacher.path to it."
        )
    found = teacher(config.teacher.path, config.teacher.name, config.data.name)
    return check_rate(found, config.data.sampling_rate_hz)


@lru_cache(maxsize=2)
def client_rows(config: RunConfig) -> tuple[np.ndarray, ...]:
    """Rows of the training pairs that each client of a simulation holds."""
    whole = experiment(config.data)
    return partition(
        whole.train_owner, whole.train_labels, whole.train_subgroup, config.federation, seed=config.seed
    )


def client_pairs(config: RunConfig, client: int) -> tuple[PairedData, tuple[str, ...]]:
    """Pairs of one client of a simulation and their ids, where the set has ids.

    Raises:
        ConfigError: There is no such client.
    """
    return training_pairs(config, client_part(config, client))


def client_part(config: RunConfig, client: int) -> np.ndarray:
    """Rows of the training pairs that one client of a simulation holds.

    Raises:
        ConfigError: There is no such client.
    """
    parts = client_rows(config)
    if not 0 <= client < len(parts):
        raise ConfigError(
            f"partition-id={client} is outside 0..{len(parts) - 1};"
            " set federation.num_clients to the number of nodes."
        )
    return parts[client]


def training_pairs(config: RunConfig, rows: np.ndarray) -> tuple[PairedData, tuple[str, ...]]:
    """Training pairs at ``rows`` and their ids, where the set has ids."""
    whole = experiment(config.data)
    ids = tuple(whole.train_ids[row] for row in rows) if whole.train_ids else ()
    return whole.train.take(rows), ids


def client_holding(config: RunConfig, client: int) -> Holding:
    """Everything that one client of a simulation needs for its local work."""
    return Holding(data=training_data(config, client_part(config, client)), anchors=public_anchors(config))


def training_data(config: RunConfig, rows: np.ndarray) -> LocalData:
    """Training pairs at ``rows`` as distillation takes them, in a simulation.

    The teacher looks at all training pairs once, whichever client of whichever partition holds them: its
    features of a pair follow from the set alone, not from the pairs that lie beside it.
    """
    pairs, _ = training_pairs(config, rows)
    return LocalData(
        target=target_input(config, pairs),
        teacher=training_features(config)[torch.from_numpy(rows)],
        modality=modality_of(pairs.target).name,
    )


def teacher_settings(config: RunConfig) -> RunConfig:
    """What the teacher's features depend on; everything else has its default.

    What is kept for a process under these settings serves every seed and method.
    """
    student = StudentConfig(architecture=config.student.architecture)
    return RunConfig(data=config.data, teacher=config.teacher, student=student, device=config.device)


def training_features(config: RunConfig) -> Float[Tensor, "num dim *grid"]:
    """Teacher features of all training pairs of a simulation, in their order."""
    return _training_features(teacher_settings(config))


@lru_cache(maxsize=2)
def _training_features(config: RunConfig) -> Float[Tensor, "num dim *grid"]:
    whole = experiment(config.data)
    features = pair_features(config, whole.train, whole.train_ids)
    if not shares_features(whole, config):
        return features
    codes = whole.all_copies().source[: len(whole.train)]
    _, first, which = np.unique(codes, return_index=True, return_inverse=True)
    return features[torch.from_numpy(first[which])]


def shares_features(whole: Experiment, config: RunConfig) -> bool:
    """Whether training pairs of one source are taught the feature of the first, so that none is a negative.

    Only a user's own pairs, and not under privacy: there no pair may change what another is taught.
    """
    if not config.data.path or config.data.copies == "leave-out":
        return False
    return len(np.unique(whole.all_copies().source[: len(whole.train)])) < len(whole.train)


def target_input(config: RunConfig, pairs: PairedData) -> Float[Tensor, "num channels height width"]:
    """Targets of ``pairs`` as the student sees them."""
    scaled = modality_of(pairs.target).to_input(
        pairs.target, offset=config.data.target_offset, scale=config.data.target_scale
    )
    return scaled.to(resolve_device(config.device))


def pair_features(
    config: RunConfig, pairs: PairedData, ids: tuple[str, ...]
) -> Float[Tensor, "num dim *grid"]:
    """Teacher features of ``pairs``: ready ones of the user (found by id), else computed and cached.

    For a dense student those of each place, (N, D, rows, columns).

    Args:
        config: Settings of the run.
        pairs: The pairs.
        ids: Their names; only needed for ready features.
    """
    if is_dense(config.student.architecture):
        features = place_features(config, pairs.source)
    elif config.teacher.pair_features:
        features = ready_pairs(config).features[_rows_of_ids(experiment(config.data), ids)]
    else:
        features = cached_features(teacher_of(config), pairs.source, cache_dir=cache_folder())
    return torch.from_numpy(np.ascontiguousarray(features)).to(resolve_device(config.device))


def place_features(config: RunConfig, images: Images) -> np.ndarray:
    """Teacher features of each place of ``images`` for a dense student, (N, D, rows, columns)."""
    return cached_maps(
        teacher_of(config),
        images,
        view=map_view(config),
        reduction=map_reduction(config),
        cache_dir=cache_folder(),
    )


def map_view(config: RunConfig) -> View:
    """Grid of a dense student's places, and how the teacher looks at them.

    Raises:
        ConfigError: The user gave ready features, which are not of places.
    """
    if config.teacher.pair_features:
        raise ConfigError(
            "teacher.pair_features holds features of whole pictures, and a seg-* student needs those of"
            " places. Leave it out, or choose a student of the ws-* family."
        )
    _, height, width = input_shape(experiment(config.data).train.target)
    return View(grid=(height // DENSE_STRIDE, width // DENSE_STRIDE), zoom=config.teacher.map_zoom)


def num_places(config: RunConfig) -> int:
    """Places of each pair that the loss looks at: 1 for a student of whole pictures."""
    if not is_dense(config.student.architecture):
        return 1
    rows, columns = map_view(config).grid
    return min(config.distill.num_locations, rows * columns)


def map_reduction(config: RunConfig) -> Reduction:
    """Principal components of the teacher's places, of the public images alone."""
    return _map_reduction(teacher_settings(config))


@lru_cache(maxsize=2)
def _map_reduction(config: RunConfig) -> Reduction:
    public: PublicSource = experiment(config.data).public
    return fit_reduction(
        teacher_of(config).network, public.images, view=map_view(config), dim=config.teacher.map_dim
    )


def _every_id(whole: Experiment) -> list[str]:
    """Ids of all pairs, sorted; empty where the set has none."""
    parts = (whole.train_ids, whole.validation.ids, whole.test.ids)
    return sorted(one for part in parts for one in part) if all(parts) else []


def _rows_of_ids(whole: Experiment, ids: tuple[str, ...]) -> np.ndarray:
    """Rows that ``ids`` have in a table sorted by id."""
    return np.searchsorted(np.asarray(_every_id(whole)), np.asarray(ids))


def ready_pairs(config: RunConfig) -> Ready:
    """Ready features of all pairs in the order of their sorted ids.

    Raises:
        ConfigError: The set has no ids.
        DataError: Either file of ready features does not fit; the message has all that is wrong.
    """
    return _ready(teacher_settings(config))[0]


@lru_cache(maxsize=2)
def _ready(config: RunConfig) -> tuple[Ready, Ready]:
    whole = experiment(config.data)
    ids, problems = _every_id(whole), list[str]()
    if not ids:
        raise ConfigError(
            f"teacher.pair_features needs data with ids; data.name={config.data.name!r} has none. Leave the"
            " setting out."
        )
    found = read_ready(*_wanted(config, ids, whole.public.keys), problems=problems)
    if found is None:
        raise DataError(" ".join(problems))
    return found


def _wanted(
    config: RunConfig, ids: Sequence[str] | None, keys: Sequence[str] | None
) -> tuple[Wanted, Wanted]:
    """What both files of ready features must answer."""
    path = Path(config.data.path).expanduser() if config.data.path else None
    pairs = Wanted(
        setting="teacher.pair_features",
        path=Path(config.teacher.pair_features).expanduser(),
        names=None if ids is None else sorted(ids),
        listed=listed_orders(path) if path and ids else {},
        other_halves=("source" if config.data.reverse else "target", "public"),
    )
    public = Wanted(
        setting="teacher.public_features",
        path=Path(config.teacher.public_features).expanduser(),
        names=keys,
        listed={},
        other_halves=("source", "target"),
    )
    return pairs, public


def check_ready_features(
    config: RunConfig, ids: Sequence[str] | None, *, keys: Sequence[str] | None = None
) -> list[str]:
    """Everything that is wrong with ready features, as a run would say it.

    Args:
        config: ``teacher.pair_features`` and ``teacher.public_features`` name the files; empty: no problem.
        ids: Of all pairs, of training and held out, in any order; None where they are not known: then only
            the form of the file is looked at.
        keys: Of the public images, in their order; None as for ``ids``.

    Returns:
        A sentence for each problem, naming setting and file.
    """
    problems: list[str] = []
    if config.teacher.pair_features:
        read_ready(*_wanted(config, ids, keys), problems=problems)
        try:
            map_view(config) if is_dense(config.student.architecture) else None
        except ConfigError as error:
            problems.append(str(error))
    return problems


def public_features(config: RunConfig) -> np.ndarray:
    """Teacher features of the public images, (images, D); for a dense student of all their places."""
    return _public_features(teacher_settings(config))


@lru_cache(maxsize=2)
def _public_features(config: RunConfig) -> np.ndarray:
    public: PublicSource = experiment(config.data).public
    if is_dense(config.student.architecture):
        return as_places(place_features(config, public.images))
    if config.teacher.public_features:
        return _ready(config)[1].features
    return cached_features(teacher_of(config), public.images, cache_dir=cache_folder())


@lru_cache(maxsize=2)
def public_anchors(config: RunConfig) -> Float[Tensor, "anchors dim"]:
    """Public anchors of ``distill.anchors``, made from the run's seed; the same on every client.

    Raises:
        ConfigError: The kind is unknown.
    """
    dense = is_dense(config.student.architecture)
    source = AnchorSource(
        public=lambda: public_features(config),
        embed=lambda images: _anchor_features(config, images),
        dim=lambda: (
            public_features(config).shape[1] if config.teacher.public_features else teacher_dim(config)
        ),
        dense=dense,
    )
    return make_anchors(config, source)


def _anchor_features(config: RunConfig, images: Images) -> np.ndarray:
    if is_dense(config.student.architecture):
        return as_places(place_features(config, images))
    return teacher_of(config).embed(images)


def anchors_fingerprint(config: RunConfig) -> dict[str, str | int]:
    """Kind, number and SHA-256 of the anchors, for the run folder."""
    anchors = public_anchors(config)
    return {"kind": config.distill.anchors, "num": len(anchors), "sha256": anchors_digest(anchors)}


def told_to_devices(config: RunConfig) -> dict[str, str]:
    """What a server tells devices with pairs of their own, so that they can compare: words and digests.

    Kind of the student's targets, version of edgecmd, and SHA-256 of teacher and public images, where the
    features are not ready ones of the user.
    """
    whole = experiment(config.data)
    told = {"target-kind": kind_of(whole.train.target), "edgecmd-version": __version__}
    if config.teacher.pair_features:
        return told
    return told | {
        "teacher-sha256": teacher_of(config).sha256,
        "public-sha256": whole.public.fingerprint(),
    }


def teacher_dim(config: RunConfig) -> int:
    """Dimension of the teacher's feature."""
    if is_dense(config.student.architecture):
        return config.teacher.map_dim
    return teacher_of(config).embedding_dim
