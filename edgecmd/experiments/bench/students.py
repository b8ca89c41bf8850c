"""Students that deploy as well as they train: norm-free, with GroupNorm, and with GroupNorm folded away."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecmd.config.assemble import Assembly, run_folder
from edgecmd.config.reader import flatten
from edgecmd.config.schema import RunConfig
from edgecmd.core.jobs import Tell, finish
from edgecmd.core.seeding import repeats_of
from edgecmd.run import Run

if TYPE_CHECKING:
    from edgecmd.models.students import Student

FOLDED = ", folded"
METRICS = ("recall@1", "linear_10")


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One student with one seed.

    Attributes:
        config: Settings of its run.
    """

    config: RunConfig

    @property
    def path(self) -> Path:
        """Where its figures are kept, in the run folder."""
        return run_folder(self.config) / "students.json"

    @property
    def made_of(self) -> dict[str, Any]:
        """What they depend on."""
        return {"settings": flatten(self.config)}


def measure(
    config: RunConfig,
    assembly: Assembly,
    *,
    architectures: Sequence[str],
    method: str,
    num_seeds: int,
    warm_steps: int,
    fold_steps: int,
    tell: Tell,
) -> dict[str, Any]:
    """Train each student with each seed, assess it, and assess its folded form.

    Run folders are ``<out>/<name>/seed-N/<architecture>``, ready for ``edgecmd export``. What is finished is
    read, not repeated.

    Args:
        config: Settings that all share.
        assembly: Makes runs.
        architectures: Students; a ``gn-*`` one also gives a row with its normalisation folded away.
        method: A loss, or ``<mechanism>@<epsilon>``.
        num_seeds: How many, from the seed of ``config``.
        warm_steps: Steps of a warm start on public images, with the default settings of distillation; 0 for
            random first weights.
        fold_steps: Steps of the recovery after folding.
        tell: Takes a line for each student.

    Returns:
        For each row mean and 95% interval of R@1 and of the linear probe with 10 labels per class, whether
        every student passed the purity probe, and for folded rows the cosine to the student before.
    """
    from edgecmd.core.files import write_json

    folder = run_folder(config)
    first = {name: _first_weights(config, name, folder, warm_steps, assembly) for name in architectures}
    lines: dict[str, list[dict[str, Any]]] = {}
    for seed in repeats_of(config.seed, num_seeds):
        for name in architectures:
            one = _settings(
                config, name, method, seed=seed, folder=folder, path=first[name], fold_steps=fold_steps
            )
            job = Job(config=one)
            for row, line in finish(job, partial(_rows, job, assembly))["rows"].items():
                lines.setdefault(row, []).append(line)
                tell(f"seed {seed} {row}: " + "  ".join(f"{k} {v:.4g}" for k, v in line.items()))
    summary = {row: _summary(found) for row, found in lines.items()}
    result = {"method": method, "seeds": num_seeds, "rows": summary, "all": lines}
    write_json(folder / "students.json", result)
    return result


def _first_weights(
    config: RunConfig, architecture: str, folder: Path, num_steps: int, assembly: Assembly
) -> str:
    """Path of a warm start that all seeds share, by the default optimiser; empty for random weights."""
    from edgecmd.models.student_file import save_student
    from edgecmd.recipes.warm_start import warm_start
    from edgecmd.settings import DistillConfig

    if not num_steps:
        return ""
    path = folder / f"{architecture}.warm.safetensors"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        student = replace(config.student, architecture=architecture)
        # The private optimiser is chosen for noise; a warm start has none.
        settings = replace(config, student=student, distill=DistillConfig()).resolved()
        save_student(warm_start(assembly.run(settings), num_steps=num_steps), path)
    return str(path)


def _settings(
    config: RunConfig,
    architecture: str,
    method: str,
    *,
    seed: int,
    folder: Path,
    path: str,
    fold_steps: int,
) -> RunConfig:
    from edgecmd.experiments.compare.jobs import private_config
    from edgecmd.experiments.compare.methods import AT

    shared = replace(
        config,
        seed=seed,
        out=str(folder / f"seed-{seed}"),
        name=architecture,
        student=replace(config.student, architecture=architecture, path=path),
        export=replace(config.export, fold_steps=fold_steps),
    )
    if AT in method:
        return private_config(shared, method)
    return replace(shared, distill=replace(shared.distill, loss=method)).resolved()


def _rows(job: Job, assembly: Assembly) -> dict[str, Any]:
    """Figures of one student and of its folded form, by row."""
    from edgecmd.models.student_file import load_student
    from edgecmd.models.students import student_row
    from edgecmd.recipes.standins import public_inputs
    from export.graph.fold_norm import fold_norm
    from server.simulate import simulate

    config, folder, run = job.config, job.path.parent, assembly.run(job.config)
    architecture = config.student.architecture
    if not (folder / "student.safetensors").is_file():
        simulate(run)
    student = load_student(folder / "student.safetensors", like=architecture)
    found = {architecture: _figures(run, student)}
    if student_row(architecture).folds_to:
        folded = fold_norm(
            student,
            architecture,
            sampler=public_inputs(run, purpose="fold-norm"),
            num_steps=config.export.fold_steps,
        )
        found[architecture + FOLDED] = {
            **_figures(run, folded.student),
            "cosine_before": folded.cosine_before,
            "cosine": folded.cosine,
        }
    return {"rows": found}


def _figures(run: Run, student: "Student") -> dict[str, Any]:
    from edgecmd.core.errors import PrivacyError
    from edgecmd.evaluation.evaluate import assess, embedder, headline
    from edgecmd.privacy.step.purity import require_pure

    line = headline(assess(embedder(student, run.task), run))
    try:
        require_pure(student, in_channels=student.in_channels, image_size=run.task.input_shape[1:])
        pure = 1.0
    except PrivacyError:
        pure = 0.0
    return {**{name: line[name] for name in METRICS if name in line}, "pure": pure}


def _summary(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    from edgecmd.core.statistics import SHARE, mean_interval

    return {name: asdict(mean_interval([line[name] for line in lines], bounds=SHARE)) for name in lines[0]}
