"""edgecmd: federated contrastive cross-modality distillation, from unlabelled pairs to a device.

The names listed here are public; anything else may change. Each is imported on first use, so that
``import edgecmd`` costs nothing::

    import edgecmd as ec

    pairs = ec.Pairs.from_folder("my-pairs")
    task = ec.Task(pairs=pairs, teacher=ec.Teacher("imagenet"), public=ec.Images.from_folder("public"))
    student = ec.student("ws-200k", dim=task.teacher_dim)
    result = ec.distill(task, student, loss=ec.losses.CMC(temperature=0.1), steps=2000)
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from edgecmd import losses
    from edgecmd.audits.finding import Finding
    from edgecmd.core.errors import EdgecmdError
    from edgecmd.library.data import BuiltIn, Images, Labelled, Pairs, built_in, strings
    from edgecmd.library.results import Distilled, Federated, Scores, evaluate
    from edgecmd.library.task import Task, Teacher
    from edgecmd.library.training import Partition, distill, federate, partition
    from edgecmd.library.verbs import audit, export
    from edgecmd.losses import Loss
    from edgecmd.models.any_student import student
    from edgecmd.privacy.plan import PrivacyPlan
    from export.loaded import Bundle, load_bundle

# Public name -> where it is; an empty text stands for the module of that name.
_HOMES = {
    "BuiltIn": "edgecmd.library.data",
    "Bundle": "export.loaded",
    "Distilled": "edgecmd.library.results",
    "EdgecmdError": "edgecmd.core.errors",
    "Federated": "edgecmd.library.results",
    "Finding": "edgecmd.audits.finding",
    "Images": "edgecmd.library.data",
    "Labelled": "edgecmd.library.data",
    "Loss": "edgecmd.losses",
    "Pairs": "edgecmd.library.data",
    "Partition": "edgecmd.library.training",
    "PrivacyPlan": "edgecmd.privacy.plan",
    "Scores": "edgecmd.library.results",
    "Task": "edgecmd.library.task",
    "Teacher": "edgecmd.library.task",
    "audit": "edgecmd.library.verbs",
    "built_in": "edgecmd.library.data",
    "distill": "edgecmd.library.training",
    "evaluate": "edgecmd.library.results",
    "export": "edgecmd.library.verbs",
    "federate": "edgecmd.library.training",
    "load_bundle": "export.loaded",
    "losses": "",
    "partition": "edgecmd.library.training",
    "strings": "edgecmd.library.data",
    "student": "edgecmd.models.any_student",
}
__all__ = [  # noqa: RUF022 - in the order in which they are met
    "Pairs",
    "strings",
    "Images",
    "Labelled",
    "built_in",
    "BuiltIn",
    "Teacher",
    "student",
    "Task",
    "losses",
    "Loss",
    "distill",
    "partition",
    "Partition",
    "federate",
    "PrivacyPlan",
    "evaluate",
    "Scores",
    "Distilled",
    "Federated",
    "audit",
    "Finding",
    "export",
    "load_bundle",
    "Bundle",
    "EdgecmdError",
    "__version__",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'edgecmd' has no attribute {name!r}. It offers: {', '.join(__all__)}.")
    found = (
        getattr(importlib.import_module(home), name) if home else importlib.import_module(f"edgecmd.{name}")
    )
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted([*__all__, *globals()])
