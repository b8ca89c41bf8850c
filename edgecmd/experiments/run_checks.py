"""Everything that refuses a run before it trains, in the order of a run; `data check` collects it all.

A row of `STEPS` is a name and a function that raises. ``run`` goes through them and ends at the first error;
``data check`` goes on, so both refuse the same with the same sentence.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgecmd.config.assemble import Assembly, device_for
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError, DataError, EdgecmdError
from edgecmd.settings import DataConfig, ExportConfig

if TYPE_CHECKING:
    from edgecmd.data.experiment import Experiment
    from edgecmd.training.task import Task


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One thing that a run needs.

    Attributes:
        check: Raises where the settings or the data do not give it.
        needs_data: Whether it looks at the pairs, so that it says nothing where they cannot be read.
        needs_earlier: Whether it says nothing where an earlier step of the same kind failed.
    """

    check: Callable[[RunConfig, Assembly], object]
    needs_data: bool = False
    needs_earlier: bool = False


def _choices(config: RunConfig) -> dict[str, Callable[[], object]]:
    """Settings that name an entry of a table, each by its dotted key."""
    from edgecmd.catalogue.data_sets import DATA_SETS, data_set
    from edgecmd.core.errors import choose
    from edgecmd.data.anchors import ANCHORS
    from edgecmd.data.modalities.table import target_kinds
    from edgecmd.data.partition import partition_of
    from edgecmd.data.user_files.user_pairs import SPLITS
    from edgecmd.losses import loss_of
    from edgecmd.models.batch_norm import batch_norm_of
    from edgecmd.models.students import student_row
    from edgecmd.models.trained_part import TRAINABLE
    from edgecmd.training.distill import OPTIMIZERS, SCHEDULES
    from server.strategies import build_strategy

    kinds = {"auto": 0, **target_kinds()}
    row = DATA_SETS.get(config.data.name)
    splits = SPLITS if row and row.users_own else {config.data.split: None}
    return {
        "data.name": lambda: data_set(config.data.name),
        "data.split": lambda: choose("data.split", config.data.split, splits),
        "data.target_kind": lambda: choose("data.target_kind", config.data.target_kind, kinds),
        "student.architecture": lambda: student_row(config.student.architecture),
        "student.batch_norm": lambda: batch_norm_of(
            config.student.batch_norm, architecture=config.student.architecture
        ),
        "student.trainable": lambda: choose("student.trainable", config.student.trainable, TRAINABLE),
        "distill.loss": lambda: loss_of(config.distill),
        "distill.optimizer": lambda: choose("distill.optimizer", config.distill.optimizer, OPTIMIZERS),
        "distill.schedule": lambda: choose("distill.schedule", config.distill.schedule, SCHEDULES),
        "federation.partition": lambda: partition_of(config.federation.partition),
        "distill.anchors": lambda: choose("distill.anchors", config.distill.anchors, ANCHORS),
        "federation.strategy": lambda: build_strategy(
            config.federation, proximal_mu=config.distill.proximal_mu
        ),
        "device": lambda: device_for(config),
    }


def _choice(key: str) -> Callable[[RunConfig, Assembly], object]:
    return lambda config, _: _choices(config)[key]()


CHOICES = (
    "data.name",
    "data.split",
    "data.target_kind",
    "student.architecture",
    "student.batch_norm",
    "student.trainable",
    "distill.loss",
    "distill.optimizer",
    "distill.schedule",
    "federation.partition",
    "distill.anchors",
    "federation.strategy",
    "device",
)


def _privacy(config: RunConfig, assembly: Assembly) -> None:
    _ = assembly.run(config).plan


def _teacher(config: RunConfig, assembly: Assembly) -> None:
    """The teacher can be read; with ready features there is none."""
    if not config.teacher.pair_features:
        assembly.teacher(config)


def _export(config: RunConfig, _: Assembly) -> None:
    """Names and folders that the export would refuse after the training; it takes its own defaults."""
    if config.export == ExportConfig():
        return
    from edgecmd.core.errors import choose
    from export.graph.fold_norm import folded_architecture
    from export.profiles.calibration import KINDS
    from export.profiles.table import choose_profiles

    choose_profiles(config.export.profiles)
    choose("export.calibration", config.export.calibration, KINDS)
    if config.export.fold_norm:
        folded_architecture(config.student.architecture)
    folder = config.export.prototypes
    if folder and not Path(folder).is_dir():
        raise DataError(
            f"export.prototypes={folder!r} is not a folder. Give one with a sub-folder of images per class."
        )


def _pairs(config: RunConfig, assembly: Assembly) -> None:
    assembly.experiment(config.data)


def _partition(config: RunConfig, assembly: Assembly) -> None:
    _ = assembly.run(config).parts


def _student_kind(config: RunConfig, assembly: Assembly) -> None:
    from edgecmd.run import check_modality

    check_modality(config.student.architecture, config.distill, assembly.experiment(config.data))


def _ready_files(config: RunConfig, _: Assembly) -> None:
    """Files of ready features are what they should be, whatever the pairs are."""
    from edgecmd.config.ready import check_ready_features

    problems = check_ready_features(config, None)
    if problems:
        raise DataError(" ".join(problems))


def _ready(config: RunConfig, assembly: Assembly) -> None:
    """Ready features fit the pairs and the public images."""
    if config.teacher.pair_features:
        _ = assembly.task(config).ready


# Held-out parts of an experiment that retrieval is asked of, by what a message calls their pairs.
ASKED = {"validation": "validation pairs", "test": "test pairs", "test_strict": "pairs of the strict test"}


def _told_apart(config: RunConfig, assembly: Assembly) -> None:
    """Ready features tell two things apart in each part that retrieval is asked of.

    Those of a computed teacher are not looked at: all images would have to be embedded.
    """
    from edgecmd.evaluation.evaluate import CLASS_PAIRED
    from edgecmd.evaluation.metrics import told_apart
    from edgecmd.models.students import is_dense

    whole = assembly.experiment(config.data)
    if (
        not config.teacher.pair_features
        or whole.kind == CLASS_PAIRED
        or is_dense(config.student.architecture)
    ):
        return
    for part, what in ASKED.items():
        if part != "test_strict" or whole.test_strict is not whole.test:
            held = getattr(whole, part)
            told_apart(assembly.task(config).gallery_features(part), shown=held.shown, what=what)


def _prototypes(config: RunConfig, assembly: Assembly) -> None:
    """Images of `export.prototypes` can be read as the exported student reads them."""
    if config.export.prototypes:
        from export.documents.prototypes import read_examples
        from export.from_run import spec_of

        student, architecture = assembly.run(config).new_student(), config.student.architecture
        spec = spec_of(
            assembly.task(config), student, architecture=architecture, license=config.export.license
        )
        read_examples(Path(config.export.prototypes), spec)


def _calibration(config: RunConfig, assembly: Assembly) -> None:
    """Ranges can be taken from something, where a profile of the export needs them; the default does not."""
    if config.export.profiles == ExportConfig().profiles:
        return
    from export.profiles.calibration import calibration_of
    from export.profiles.table import choose_profiles, need_calibration

    if need_calibration(choose_profiles(config.export.profiles)):
        calibration_of(assembly.task(config), config.export.calibration, seed=config.seed)


def _student(config: RunConfig, assembly: Assembly) -> None:
    """The student suits the teacher's features; under privacy one of anyone's own mixes no pairs."""
    from edgecmd.core.own_code import is_own
    from edgecmd.privacy.step.purity import require_pure

    run = assembly.run(config)
    student, plan = run.new_student(), run.plan
    if is_own(config.student.architecture) and plan is not None and plan.unit == "pair":
        size = student.size or config.data.image_size
        require_pure(student, in_channels=student.in_channels, image_size=size)


STEPS: tuple[Step, ...] = (
    *(Step(check=_choice(key)) for key in CHOICES),
    Step(check=_privacy),
    Step(check=_teacher),
    Step(check=_ready_files),
    Step(check=_export),
    Step(check=_pairs),
    Step(check=_partition, needs_data=True),
    Step(check=_student_kind, needs_data=True),
    Step(check=_ready, needs_data=True, needs_earlier=True),
    Step(check=_told_apart, needs_data=True, needs_earlier=True),
    Step(check=_student, needs_data=True, needs_earlier=True),
    Step(check=_prototypes, needs_data=True, needs_earlier=True),
    Step(check=_calibration, needs_data=True, needs_earlier=True),
)


def _constant(whole: "Experiment", settings: DataConfig) -> list[str]:
    """A user's images of one colour, maps without a measurement, silence."""
    from edgecmd.data.constants import constant_notes

    parts = (whole.train, whole.validation.pairs, whole.test.pairs)
    return constant_notes(*parts, reverse=settings.reverse) if settings.path else []


def _copies(whole: "Experiment", _: DataConfig) -> list[str]:
    """Copies, leaks between parts, and targets that are contained in their own sources."""
    from edgecmd.data.duplicates import duplicate_report

    return duplicate_report(whole)


# What is said of pairs that can be used, for a person to look at.
REPORTS: "tuple[Callable[[Experiment, DataConfig], list[str]], ...]" = (_constant, _copies)


def notes_of(whole: "Experiment", settings: DataConfig) -> list[str]:
    """What a run can live with, and a person should know: said while reading, and of the pairs as read."""
    return [*whole.notes, *(sentence for report in REPORTS for sentence in report(whole, settings))]


def notes_in_short(task: "Task", settings: DataConfig) -> list[str]:
    """The same for a plan: copies are counted and not named."""
    from edgecmd.data.duplicates import duplicate_summary

    return [
        *task.data.notes,
        *_constant(task.data, settings),
        *duplicate_summary(task.data),
        *_masked(task),
        *_not_exported(task),
    ]


def _masked(task: "Task") -> list[str]:
    """What becomes of training pairs of one source in a batch."""
    return (
        ["Pairs with the same source share a teacher feature and are not negatives of each other."]
        if task.shares_features
        else []
    )


def _not_exported(task: "Task") -> list[str]:
    """Why the student will not be exported, where its modality has no front end yet."""
    from edgecmd.data.modalities.table import modality_of
    from export.graph.frontends import front_end_of

    try:
        front_end_of(modality_of(task.data.train.target), dense=task.places is not None)
    except ConfigError as error:
        return [str(error)]
    return []


def refuse(config: RunConfig, assembly: Assembly) -> None:
    """Go through all steps; the first that fails ends it.

    Raises:
        EdgecmdError: What a run would be refused for.
    """
    for step in STEPS:
        step.check(config, assembly)


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What is known of data and settings before a run.

    Attributes:
        experiment: The pairs as a run would use them; None where they cannot be.
        problems: Whatever refuses a run: sentence and exit code of each.
        notes: What a run can live with.
    """

    experiment: "Experiment | None" = None
    problems: list[tuple[str, int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def collect(config: RunConfig, assembly: Assembly) -> Found:
    """Go through all steps and note what each refuses.

    Args:
        config: Settings of the run; what is at ``data.path`` is read once.
        assembly: Makes what the steps look at.

    Returns:
        Problems in the order in which a run would meet them.
    """
    found = Found()
    failed = False
    for step in STEPS:
        if step.check is _pairs:
            found = _collect_pairs(config, found, assembly)
            failed = failed or found.experiment is None
            continue
        if (step.needs_data and found.experiment is None) or (step.needs_earlier and failed):
            continue
        try:
            step.check(config, assembly)
        except EdgecmdError as error:
            failed = True
            # Two steps may look the same name up.
            if str(error) not in {text for text, _ in found.problems}:
                found.problems.append((str(error), error.exit_code))
    return found


def _collect_pairs(config: RunConfig, found: Found, assembly: Assembly) -> Found:
    """Read the pairs; where that was given up early, once more to the end, for everything that is wrong."""
    from edgecmd.catalogue.data_sets import DATA_SETS
    from edgecmd.data.findings import ProblemsError, problems_of
    from edgecmd.data.user_files.folder import load_folder

    error: EdgecmdError
    try:
        whole = assembly.experiment(config.data)
        return replace(found, experiment=whole, notes=[*found.notes, *notes_of(whole, config.data)])
    except EdgecmdError as first:
        error = first
    row = DATA_SETS.get(config.data.name)
    complete = isinstance(error, ProblemsError) and error.complete
    early = row is not None and row.users_own and not complete
    sentences = [(text, error.exit_code) for text in problems_of(error)]
    if early:
        try:
            load_folder(config.data, whole=True)
        except EdgecmdError as again:
            error = again
            told = {text for text, _ in sentences}
            sentences += [(text, DataError.exit_code) for text in problems_of(again) if text not in told]
    known = {text for text, _ in found.problems}
    found.problems.extend(one for one in sentences if one[0] not in known)
    found.notes.extend(error.notes if isinstance(error, ProblemsError) else ())
    return found


def settings_for(config: RunConfig, path: Path) -> RunConfig:
    """Settings of a run on what is at ``path``: as a public set where one is named, else as a folder.

    A name of no set at all stays, so that it is refused as a run refuses it.
    """
    from edgecmd.catalogue.data_sets import DATA_SETS, FOLDER

    row = DATA_SETS.get(config.data.name)
    name = FOLDER if row and not row.layout else config.data.name
    return replace(config, data=replace(config.data, name=name, path=str(path)))
