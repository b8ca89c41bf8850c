"""Where an exported student comes from: data, method, figures, privacy and audits of its run folder."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgecmd.audits.audit_file import FILE as AUDIT
from edgecmd.audits.audit_file import read_findings
from edgecmd.audits.finding import Finding, overall
from edgecmd.catalogue.data_files import shipped_file
from edgecmd.catalogue.teacher_rows import kind_of_teacher, listed
from edgecmd.core.errors import ConfigError
from edgecmd.core.files import read_json, sha256_file
from edgecmd.core.own_code import is_own
from edgecmd.core.text import unseen_text
from edgecmd.data.experiment import Experiment
from edgecmd.models.students import student_row
from edgecmd.models.teacher.teachers import OWN, TEACHERS, teacher_file, teacher_name
from edgecmd.models.trained_part import ALL, TRAINABLE
from edgecmd.run import Run
from edgecmd.training.task import Task

# Level and beginning of the name of audits that look at code, settings, ledgers and made-up pairs alone. What
# any other found is a function of the pairs that no guarantee covers, be it one bit.
PAIRLESS = (
    ("check", ("books: ", "anchors: fingerprint", "purity", "sensitivity search", "norm of a")),
    ("many-runs", ("",)),
)
UNTOLD = "not told: their number is private"
READY_MADE = "not known: its features were given ready-made"


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """What the card and the bill of materials say beside the figures of the export.

    Attributes:
        name: Of the run.
        data: Rows of (what, value) about the data.
        method: Rows of (what, value) about training.
        evaluation: The student's table of ``evaluation.json``; empty where it was not evaluated.
        privacy: ``privacy.json``; empty where privacy was not asked for.
        audit: ``verdict``, ``findings`` (each with its ``text``) and ``withheld``, whether there are audits
            whose outcome stays with the owner; empty where the run was not audited.
        private: Whether the run has a privacy mechanism; then nothing reveals a number of pairs.
        tested_on: What the figures are of, such as ``unseen concepts``.
        num_own: Devices that had pairs of their own, of which nothing is known here.
    """

    name: str = "student"
    data: Mapping[str, str] = field(default_factory=dict)
    method: Mapping[str, str] = field(default_factory=dict)
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    privacy: Mapping[str, Any] = field(default_factory=dict)
    audit: Mapping[str, Any] = field(default_factory=dict)
    private: bool = False
    num_own: int = 0
    tested_on: str = "held-out examples"


def provenance_of(run: Run) -> Provenance:
    """Facts of a run and its folder; none of them is a path or names a machine.

    Args:
        run: The run; files that are not in its folder leave their part empty.

    Guarantees:
        With a privacy mechanism, nothing depends on the training pairs but through the released weights: no
        number of pairs, no class of them, and of audits only what looked at no pair.

    Raises:
        DataError: A file is there and is not what its name says.
    """
    folder, whole, private = run.folder, run.task.data, run.privacy.mechanism != "none"
    nodes = _table(folder / "federation.json")
    num_own = int(nodes.get("nodes_with_own_pairs", 0))
    return Provenance(
        name=str(run.described.flat["name"]),
        data=_data(whole, private=private, num_own=num_own, num_nodes=int(nodes.get("nodes", num_own))),
        method=_method(run),
        evaluation=_table(folder / "evaluation.json").get("student", {}),
        privacy=_table(folder / "privacy.json"),
        audit=told_audits(read_findings(folder / AUDIT), private=private),
        private=private,
        num_own=num_own,
        tested_on=f"unseen {unseen_text(whole.unseen, '' if private else whole.shared)}",
    )


def _table(path: Path) -> dict[str, Any]:
    return dict(read_json(path)) if path.is_file() else {}


def told_audits(findings: Iterable[Finding], *, private: bool) -> dict[str, Any]:
    """What a card may say of audits: under privacy only of those that looked at no pair."""
    every = list(findings)
    told = [one for one in every if not private or _is_pairless(one)]
    if not every:
        return {}
    return {
        "verdict": overall(told) if told else "",
        "findings": [{"text": one.text} for one in told],
        "withheld": len(told) < len(every),
    }


def _is_pairless(one: Finding) -> bool:
    return any(one.level == level and one.name.startswith(names) for level, names in PAIRLESS)


def _data(whole: Experiment, *, private: bool, num_own: int, num_nodes: int) -> dict[str, str]:
    public = {"public source pictures": f"{len(whole.public)} ({whole.public.name})"}
    held = f"{len(whole.validation)} and {len(whole.test)}"
    if num_own:
        return _deployed(whole, num_own=num_own, num_nodes=num_nodes, held=held) | public
    told = {
        "set": whole.name,
        "kind": whole.kind,
        "training pairs, unlabelled": UNTOLD if private else str(len(whole.train)),
    }
    # Of pairs that were given as objects, nothing is held out.
    if len(whole.validation) + len(whole.test):
        shared = f"; {whole.shared}" if whole.shared and not private else ""
        told["validation and test examples"] = f"{held}, of other {whole.unseen}{shared}"
    return told | public


def _deployed(whole: Experiment, *, num_own: int, num_nodes: int, held: str) -> dict[str, str]:
    """Of a run on devices with pairs of their own, which are not those of the server's set."""
    others = num_nodes - num_own
    simulated = f"; the other {others} nodes took parts of the set {whole.name}" if others > 0 else ""
    return {
        "training pairs, unlabelled": f"pairs of {num_own} devices' own; neither their number nor what they"
        f" show is known here{simulated}",
        "evaluated on": f"the server's set {whole.name} ({whole.kind})",
        "validation and test examples": f"{held}; what they share with the devices' pairs is not known here",
    }


def _method(run: Run) -> dict[str, str]:
    federation, distill, architecture = run.federation, run.distill, run.student.architecture
    part = "" if run.trainable == ALL else f"; trained: {TRAINABLE[run.trainable]}"
    return {
        "student": f"{architecture}, {student_row(architecture).family} family{part}",
        "teacher": _teacher(run),
        "first weights": _first_weights(run),
        "distillation": f"{distill.loss}, temperature {distill.temperature:g}, batch {distill.batch_size}",
        "federation": f"{federation.num_clients} clients ({federation.partition}), {federation.num_rounds}"
        f" rounds of {federation.local_steps} local steps, {federation.strategy}",
        "privacy mechanism": run.privacy.mechanism,
        "seed": str(run.seed),
    }


def _first_weights(run: Run) -> str:
    if run.given is not None:
        return "those that the student came with"
    named, shipped = run.student.path or run.student.weights, student_row(run.student.architecture).weights_of
    if shipped and not named:
        info = TEACHERS[shipped]
        return (
            f"of the teacher {shipped}, which ships with edgecmd: {_weights(shipped_file(info.file))}"
            f"{_seen(info.sha256)}; licence {info.licence}"
        )
    return _weights(Path(named)) if named else "random"


def _teacher(run: Run) -> str:
    """Name and digest of the teacher; of ready features no digest, which would be one of the pairs."""
    if run.task.has_ready_features:
        return READY_MADE
    if run.given is not None:
        return _teacher_object(run.task)
    path, name = (str(run.described.flat[f"teacher.{key}"]) for key in ("path", "name"))
    # One that ships can always be read; a user's own file may have gone.
    seen = _seen(run.task.teacher.sha256) if not path or Path(path).is_file() else ""
    if path:
        return _weights(Path(path)) + seen
    if run.described.flat["teacher.pca_dim"] or any(map(kind_of_teacher, listed(name))) or "," in name:
        return f"{run.task.teacher.recipe[OWN]}: weights with SHA-256 {run.task.teacher.sha256}"
    if is_own(name):
        return f"{name}, code of its maker's own: weights with SHA-256 {run.task.teacher.sha256}"
    file, _, _ = teacher_file(run.task.name, name)
    return f"{teacher_name(run.task.name, name)}: {_weights(file)}{seen}"


def _teacher_object(task: Task) -> str:
    """A teacher that came as an object has no file and no name but what it holds."""
    try:
        digest = task.teacher.sha256
    except ConfigError:
        return READY_MADE
    return f"weights with SHA-256 {digest}{_seen(digest)}"


def _seen(sha256: str) -> str:
    """What a teacher that ships with edgecmd saw, wherever its file is; else nothing."""
    found = next((one for one in TEACHERS.values() if one.sha256 == sha256), None)
    return f"; trained on {found.trained_on}, labels: {found.labels}" if found else ""


def _weights(path: Path) -> str:
    """A file of weights by its digest, which names it wherever it is."""
    return f"file with SHA-256 {sha256_file(path)}" if path.is_file() else "a file that is not here any more"
