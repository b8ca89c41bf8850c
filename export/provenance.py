"""Where an exported student comes from: data, method, figures, privacy and audits of its run folder."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgecmd.audit.record import FILE as AUDIT
from edgecmd.config import RunConfig
from edgecmd.data.clients import experiment
from edgecmd.files import read_json
from edgecmd.models.students import STUDENTS


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """What the card and the bill of materials say beside the figures of the export.

    Attributes:
        name: Of the run.
        data: Rows of (what, value) about the data.
        method: Rows of (what, value) about training.
        evaluation: The student's table of ``evaluation.json``; empty where it was not evaluated.
        privacy: ``privacy.json``; empty where privacy was not asked for.
        audit: ``audit.json``; empty where the run was not audited.
    """

    name: str = "student"
    data: Mapping[str, str] = field(default_factory=dict)
    method: Mapping[str, str] = field(default_factory=dict)
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    privacy: Mapping[str, Any] = field(default_factory=dict)
    audit: Mapping[str, Any] = field(default_factory=dict)


def provenance_of(config: RunConfig, folder: Path) -> Provenance:
    """Facts of a run folder; none of them is a path or names a machine.

    Args:
        config: Settings of the run.
        folder: Its folder; files that are not there leave their part empty.

    Raises:
        DataError: A file is there and is not JSON.
    """
    evaluation = _table(folder / "evaluation.json")
    return Provenance(
        name=config.name,
        data=_data(config),
        method=_method(config),
        evaluation=evaluation.get("student", {}),
        privacy=_table(folder / "privacy.json"),
        audit=_table(folder / AUDIT),
    )


def _table(path: Path) -> dict[str, Any]:
    return dict(read_json(path)) if path.is_file() else {}


def _data(config: RunConfig) -> dict[str, str]:
    whole = experiment(config.data)
    return {
        "set": whole.name,
        "kind": whole.kind,
        "training pairs, unlabelled": str(len(whole.train)),
        "validation and test examples": f"{len(whole.validation)} and {len(whole.test)}, of other concepts",
        "public source pictures": f"{len(whole.public)} ({whole.public.name})",
    }


def _method(config: RunConfig) -> dict[str, str]:
    settings = config.resolved()
    federation, distill, architecture = settings.federation, settings.distill, settings.student.architecture
    return {
        "student": f"{architecture}, {STUDENTS[architecture].family} family",
        "teacher": "a file of the user" if settings.teacher.path else "the one that ships with edgecmd",
        "first weights": "warm start on public pictures" if settings.student.path else "random",
        "distillation": f"{distill.loss}, temperature {distill.temperature:g}, batch {distill.batch_size}",
        "federation": f"{federation.num_clients} clients ({federation.partition}), {federation.num_rounds}"
        f" rounds of {federation.local_steps} local steps, {federation.strategy}",
        "privacy mechanism": settings.privacy.mechanism,
        "seed": str(settings.seed),
    }
