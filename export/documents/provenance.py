"""Where an exported student comes from: data, method, figures, privacy and audits of its run folder."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgecmd.audits.audit_file import FILE as AUDIT
from edgecmd.audits.audit_file import read_findings
from edgecmd.audits.finding import Finding, overall
from edgecmd.config.schema import RunConfig
from edgecmd.core.files import read_json, sha256_file
from edgecmd.core.own_code import is_own
from edgecmd.core.text import unseen_text
from edgecmd.data.experiment import Experiment
from edgecmd.data.problem import experiment, task_of, teacher_of
from edgecmd.experiments.teacher_facts import shipped_name
from edgecmd.models.students import student_row
from edgecmd.models.teachers import TEACHERS, teacher_file, teacher_name

# Level and beginning of the name of audits that look at code, settings, ledgers and made-up pairs alone. What
# any other found is a function of the pairs that no guarantee covers, be it one bit.
PAIRLESS = (
    ("check", ("books: ", "anchors: fingerprint", "purity", "sensitivity search")),
    ("many-runs", ("",)),
)
UNTOLD = "not told: their number is private"


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
        private: Whether the run has a privacy mechanism; then nothing tells a number of pairs.
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


def provenance_of(config: RunConfig, folder: Path) -> Provenance:
    """Facts of a run folder; none of them is a path or names a machine.

    Args:
        config: Settings of the run.
        folder: Its folder; files that are not there leave their part empty.

    Guarantees:
        With a privacy mechanism, nothing depends on the training pairs but through the released weights: no
        number of pairs, no class of them, and of audits only what looked at no pair.

    Raises:
        DataError: A file is there and is not what its name says.
    """
    private = config.privacy.mechanism != "none"
    nodes = _table(folder / "federation.json")
    num_own, whole = int(nodes.get("nodes_with_own_pairs", 0)), experiment(config.data)
    return Provenance(
        name=config.name,
        data=_data(config, private=private, num_own=num_own, num_nodes=int(nodes.get("nodes", num_own))),
        method=_method(config),
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


def _data(config: RunConfig, *, private: bool, num_own: int, num_nodes: int) -> dict[str, str]:
    whole = experiment(config.data)
    public = {"public source pictures": f"{len(whole.public)} ({whole.public.name})"}
    held = f"{len(whole.validation)} and {len(whole.test)}"
    if num_own:
        return _deployed(whole, num_own=num_own, num_nodes=num_nodes, held=held) | public
    return {
        "set": whole.name,
        "kind": whole.kind,
        "training pairs, unlabelled": UNTOLD if private else str(len(whole.train)),
        "validation and test examples": f"{held}, of other {whole.unseen}"
        + (f"; {whole.shared}" if whole.shared and not private else ""),
        **public,
    }


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


def _method(config: RunConfig) -> dict[str, str]:
    settings = config.resolved()
    federation, distill, architecture = settings.federation, settings.distill, settings.student.architecture
    return {
        "student": f"{architecture}, {student_row(architecture).family} family",
        "teacher": _teacher(settings),
        "first weights": _weights(Path(settings.student.path)) if settings.student.path else "random",
        "distillation": f"{distill.loss}, temperature {distill.temperature:g}, batch {distill.batch_size}",
        "federation": f"{federation.num_clients} clients ({federation.partition}), {federation.num_rounds}"
        f" rounds of {federation.local_steps} local steps, {federation.strategy}",
        "privacy mechanism": settings.privacy.mechanism,
        "seed": str(settings.seed),
    }


def _teacher(config: RunConfig) -> str:
    """Name and digest of the teacher; of ready features no digest, which would be one of the pairs."""
    if config.teacher.pair_features:
        return "not known: its features were given ready-made"
    name = shipped_name(task_of(config), config.teacher) if _is_there(config) else ""
    seen = f"; trained on {TEACHERS[name].trained_on}, labels: {TEACHERS[name].labels}" if name else ""
    if config.teacher.path:
        return _weights(Path(config.teacher.path)) + seen
    if is_own(config.teacher.name):
        digest = teacher_of(config).sha256
        return f"{config.teacher.name}, code of its maker's own: weights with SHA-256 {digest}"
    file, _, _ = teacher_file(config.data.name, config.teacher.name)
    return f"{teacher_name(config.data.name, config.teacher.name)}: {_weights(file)}{seen}"


def _is_there(config: RunConfig) -> bool:
    """Whether the teacher's file can still be read; one that ships always can."""
    return not config.teacher.path or Path(config.teacher.path).is_file()


def _weights(path: Path) -> str:
    """A file of weights by its digest, which names it wherever it lies."""
    return f"file with SHA-256 {sha256_file(path)}" if path.is_file() else "a file that is not here any more"
