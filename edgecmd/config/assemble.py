"""Settings into objects: the one place where a `RunConfig` becomes pairs, teacher, task and run.

An `Assembly` is what shares them within a process: two runs with the same data read them once. Each command
has one of its own, and so has each worker process and each process of Flower that serves nodes.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

from edgecmd.config.reader import flatten, load_config, to_toml, unflatten
from edgecmd.config.ready import wanted_features
from edgecmd.config.schema import RunConfig
from edgecmd.core.artefacts import declare
from edgecmd.core.errors import ConfigError, DataError
from edgecmd.core.files import cache_folder, json_bytes, write_files_atomically
from edgecmd.core.kept import Kept
from edgecmd.core.progress import stage
from edgecmd.data.experiment import Experiment, load_experiment
from edgecmd.data.ready_features import Ready, read_ready
from edgecmd.models.devices import resolve_device
from edgecmd.models.students import is_dense
from edgecmd.models.teachers import Teacher, check_rate, load_teacher
from edgecmd.run import Description, Run
from edgecmd.settings import DataConfig
from edgecmd.training.environment import environment
from edgecmd.training.task import Places, Task

MOST_RUNS = 4


class Assembly:
    """Objects that were made of settings, shared as long as this one lives."""

    def __init__(self) -> None:
        self._experiments = Kept[DataConfig, Experiment](2)
        self._teachers = Kept[tuple[str, str, str], Teacher](2)
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
                " no other picture can be shown to it. Leave out what needs that (the method 'teacher',"
                " distill.anchors='procedural', seg-* students, pictures of a folder), or name a teacher with"
                " teacher.path instead."
            )
        if config.data.reverse and not named.path:
            raise ConfigError(
                "data.reverse=true has no teacher that comes with edgecmd. Train one with the same data"
                " settings: `edgecmd pretrain --set data.reverse=true ... --out teacher.safetensors` (for"
                " recordings with pretrain.architecture=gn-audio-teacher), and set teacher.path to it."
            )
        path = Path(named.path) if named.path else None
        found = self._teachers.get(
            (named.path, named.name, config.data.name),
            lambda: load_teacher(path, data_set=config.data.name, name=named.name),
        )
        return check_rate(found, config.data.sampling_rate_hz)

    def task(self, config: RunConfig) -> Task:
        """What ``config`` distils: one task for all runs with the same data, teacher and kind of student."""
        dense = is_dense(config.student.architecture)
        key = (config.data, config.teacher, dense, config.device)
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
            sampling_rate_hz=data.sampling_rate_hz,
            places=Places(dim=teacher.map_dim, zoom=teacher.map_zoom) if dense else None,
            device=resolve_device(config.device),
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
            device=resolve_device(config.device),
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
    """Settings without what changes no result: where it is written and pairs lie, workers, deadline, quorum.

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
        ConfigError: The folder holds a run with other settings.
    """
    folder = run.folder
    settings = folder / "config.toml"
    if settings.exists():
        if comparable(load_config(settings)) != run.described.comparable:
            if run.given is not None:
                raise ConfigError(
                    f"{folder} holds a run with other settings or objects. Call edgecmd.federate with those"
                    " that began it, name another folder (out=...), or delete this one and begin anew."
                )
            raise ConfigError(
                f"{folder} holds a run with other settings. Continue that one with `edgecmd resume {folder}`,"
                " choose another name with --set name=..., or delete it and begin anew with `edgecmd run"
                " --fresh`."
            )
        return folder
    declare("environment.json", may_leave=True)
    declare("config.toml", may_leave=False)
    write_files_atomically(
        {
            folder / "environment.json": json_bytes(environment(), path=folder / "environment.json"),
            settings: run.described.toml.encode(),
        }
    )
    return folder
