"""Settings into objects: the one place where a `RunConfig` becomes pairs, teacher, task and run.

An `Assembly` is what shares them within a process: two runs with the same data read them once. Each command
has one of its own, and so has each worker process and each process of Flower that serves nodes.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from edgecmd.config.reader import flatten, load_config, to_toml, unflatten
from edgecmd.config.ready import wanted_features
from edgecmd.config.schema import RunConfig
from edgecmd.core.artefacts import declare
from edgecmd.core.errors import ConfigError, DataError
from edgecmd.core.files import (
    cache_folder,
    json_bytes,
    read_json,
    sha256_file,
    write_files_atomically,
)
from edgecmd.core.kept import Kept
from edgecmd.core.progress import stage
from edgecmd.data.experiment import Experiment, load_experiment
from edgecmd.data.ready_features import Ready, read_ready
from edgecmd.models.devices import resolve_device
from edgecmd.models.students import is_dense
from edgecmd.models.teacher.teacher_set import named_teacher
from edgecmd.models.teacher.teachers import Teacher, check_rate
from edgecmd.run import Description, Run
from edgecmd.settings import DataConfig
from edgecmd.training.environment import environment
from edgecmd.training.task import Places, Task

MOST_RUNS = 4
FIRST_WEIGHTS = "first-weights.json"


class Assembly:
    """Objects that were made of settings, shared as long as this one lives."""

    def __init__(self) -> None:
        self._experiments = Kept[DataConfig, Experiment](2)
        self._teachers = Kept[object, Teacher](2)
        self._tasks = Kept[object, Task](2)
        self._runs = Kept[RunConfig, Run](MOST_RUNS)

    def experiment(self, settings: DataConfig) -> Experiment:
        """The data set of ``settings``: public images, pairs, and what is held out.

        Raises:
            ConfigError: The name is unknown or a setting does not suit the set.
            DataError: The files are missing or damaged.
        """

        def load() -> Experiment:
            with stage(f"loading {settings.name}"):
                return load_experiment(settings)

        return self._experiments.get(settings, load)

    def teacher(self, config: RunConfig) -> Teacher:
        """The frozen teacher of a run.

        Raises:
            ConfigError: The run has ready features, whose teacher is not here; pairs are reversed, and no
                teacher is named; or it heard recordings of another rate.
        """
        named = config.teacher
        if named.pair_features:
            raise ConfigError(
                "teacher.pair_features holds ready features, and the teacher that made them is not here, so"
                " it cannot see any other image. Leave out what needs that (the method 'teacher',"
                " distill.anchors='procedural', seg-* students, images from a folder), or name a teacher"
                " with teacher.path instead."
            )
        if config.data.reverse and not named.path:
            raise ConfigError(
                "No teacher for data.reverse=true comes with edgecmd. Train one with the same data"
                " settings: `edgecmd pretrain --set data.reverse=true ... --out teacher.safetensors` (for"
                " recordings with pretrain.architecture=gn-audio-teacher), and set teacher.path to it."
            )
        found = self._teachers.get(
            # Public pictures have a say in principal components alone.
            (replace(named, map_dim=64, map_zoom=2), config.data if named.pca_dim else config.data.name),
            lambda: named_teacher(
                named,
                data_set=config.data.name,
                public=lambda: self.experiment(config.data).public.pictures(use="teacher.pca_dim"),
                cache=cache_folder(),
            ),
        )
        return check_rate(found, config.data.sampling_rate_hz)

    def task(self, config: RunConfig) -> Task:
        """What ``config`` distils: one task for all runs with the same data, teacher and kind of student."""
        dense = is_dense(config.student.architecture)
        key = (config.data, config.teacher, dense, device_for(config))
        return self._tasks.get(key, lambda: self._task(config, dense=dense))

    def _task(self, config: RunConfig, *, dense: bool) -> Task:
        data, teacher = config.data, config.teacher
        return Task(
            self.experiment(data),
            name=data.name,
            teacher=partial(self.teacher, config),
            ready=partial(ready_features, config) if teacher.pair_features else None,
            target_offset=data.target_offset,
            target_scale=data.target_scale,
            source_side=data.source_side,
            target_side=data.image_size,
            fit=data.fit,
            sampling_rate_hz=data.sampling_rate_hz,
            places=Places(dim=teacher.map_dim, zoom=teacher.map_zoom) if dense else None,
            device=device_for(config),
            cache=cache_folder(),
            one_feature_a_source=bool(data.path) and data.copies != "leave-out",
        )

    def run(self, config: RunConfig) -> Run:
        """The run of ``config``; nothing of its data is read before it is asked for."""
        resolved = config.resolved()
        return self._runs.get(resolved, lambda: self._run(resolved))

    def _run(self, config: RunConfig) -> Run:
        return Run(
            folder=run_folder(config),
            seed=config.seed,
            device=device_for(config),
            make_task=partial(self.task, config),
            student=config.student,
            distill=config.distill,
            federation=config.federation,
            evaluate=config.evaluate,
            privacy=config.privacy,
            described=describe(config),
            remake=partial(remade, tuple(flatten(config).items())),
        )


# What the jobs of a worker process have in common.
WORKER = Assembly()


def remade(items: tuple[tuple[str, object], ...]) -> Run:
    """A run again, in a worker process, from its settings by dotted key."""
    return WORKER.run(unflatten(dict(items)))


def device_for(config: RunConfig) -> torch.device:
    """Where a run's tensors live.

    Raises:
        ConfigError: This machine has no such device, or it cannot do what privacy needs.
    """
    return resolve_device(config.device, exact=config.sums_exactly)


def run_folder(config: RunConfig) -> Path:
    """Folder of the run, ``<out>/<name>``."""
    return Path(config.out) / config.name


def describe(config: RunConfig) -> Description:
    """The settings as they are written down, compared and sent."""
    return Description(
        toml=to_toml(config),
        comparable=comparable(config),
        flat=dict(flatten(config)),
        defaults=dict(flatten(RunConfig().resolved())),
    )


def comparable(config: RunConfig) -> str:
    """Settings without what changes no result: where it is written and pairs are, workers, deadline, quorum.

    The quorum counts where it may enlarge a cohort.
    """
    federation = replace(config.federation, num_workers=1, deadline_s=0.0)
    if federation.client_fraction == 1:
        federation = replace(federation, min_clients=0)
    data = replace(config.data, store=DataConfig().store)
    return to_toml(replace(config, name="run", out="", federation=federation, data=data))


def ready_features(config: RunConfig, data: Experiment) -> tuple[Ready, Ready]:
    """Ready features of all pairs in the order of their sorted ids, and of the public images.

    Raises:
        ConfigError: The set has no ids.
        DataError: Either file of ready features does not fit; the message has all that is wrong.
    """
    ids, problems = data.sorted_ids(), list[str]()
    if not ids:
        raise ConfigError(
            f"teacher.pair_features needs data with ids; data.name={config.data.name!r} has none. Leave the"
            " setting out."
        )
    found = read_ready(*wanted_features(config, ids, data.public.keys), problems=problems)
    if found is None:
        raise DataError(" ".join(problems))
    return found


def start_run(run: Run) -> Path:
    """Make the run folder with ``config.toml`` and ``environment.json``, or check that it is the same run.

    Raises:
        ConfigError: The folder holds a run with other settings, or with another file of first weights.
        DataError: The file of first weights is missing.
    """
    folder = run.folder
    settings = folder / "config.toml"
    if settings.exists():
        if comparable(load_config(settings)) != run.described.comparable:
            if run.given is not None:
                raise ConfigError(
                    f"{folder} holds a run with other settings or objects. Call edgecmd.federate with those"
                    " that started it, name another folder (out=...), or delete this one and start again."
                )
            raise ConfigError(
                f"{folder} holds a run with other settings. Continue that run with `edgecmd resume"
                f" {folder}`, choose another name with --set name=..., or delete it and start again with"
                " `edgecmd run --fresh`."
            )
        if run.student.weights:
            _require_same_weights(run)
        return folder
    files: dict[str, object] = {"environment.json": environment()}
    declare("environment.json", may_leave=True)
    if run.student.weights:
        declare(FIRST_WEIGHTS, may_leave=True)
        files[FIRST_WEIGHTS] = {"sha256": _weights_sha256(run.student.weights)}
    declare("config.toml", may_leave=False)
    written = {folder / name: json_bytes(content, path=folder / name) for name, content in files.items()}
    write_files_atomically({**written, settings: run.described.toml.encode()})
    return folder


def _weights_sha256(path: str) -> str:
    """Digest of the file of ``student.weights``."""
    if not Path(path).is_file():
        raise DataError(f"student.weights={path!r} is not a file. Put it back, or give the right path.")
    return sha256_file(Path(path))


def _require_same_weights(run: Run) -> None:
    """Refuse to continue a run with another file of first weights than the one that it began with."""
    path, began = run.student.weights, read_json(run.folder / FIRST_WEIGHTS)
    began = began.get("sha256") if isinstance(began, dict) else None
    if _weights_sha256(path) != began:
        raise ConfigError(
            f"student.weights={path!r} is not the file that the run in {run.folder} started with (SHA-256"
            f" {str(began)[:64]}). Put that file back, or choose another name with --set name=..."
        )
