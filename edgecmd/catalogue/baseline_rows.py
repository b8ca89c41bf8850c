"""The baselines of ``edgecmd run``: one row each, text only, so that the report can use them too."""

from dataclasses import dataclass

ROOM = "edgecmd.experiments.run_baselines"


@dataclass(frozen=True, kw_only=True, slots=True)
class Baseline:
    """One baseline, by one of two functions; None from either says that it does not apply to the run.

    Attributes:
        alone: ``module:function``, which takes the run's settings and the `edgecmd.run.Run` and returns what
            makes its evaluation, without arguments; an empty evaluation is left out of the table.
        federated: ``module:function``, which takes the run's settings and returns those of a federation of
            its own.
        text: What it is, for the report; empty: its name says it, or is that of a loss, which has a text.
    """

    alone: str = ""
    federated: str = ""
    text: str = ""


# By name, in the order of the table; ``{loss}`` and ``{mechanism}`` are those of its own federation.
BASELINES = {
    "untrained": Baseline(alone=f"{ROOM}:untrained", text="the student with its first, random weights"),
    "warm start": Baseline(alone=f"{ROOM}:warm_start"),
    "teacher as it is": Baseline(
        alone=f"{ROOM}:teacher_as_it_is",
        text="the teacher applied to the target as a picture, nothing trained",
    ),
    "l2": Baseline(federated=f"{ROOM}:l2"),
    "simclr": Baseline(federated=f"{ROOM}:simclr"),
    "{loss} without privacy": Baseline(federated=f"{ROOM}:without_privacy"),
    "{mechanism}, same epsilon": Baseline(federated=f"{ROOM}:same_epsilon"),
    "scratch": Baseline(
        alone=f"{ROOM}:scratch",
        text="the student trained on the few labels alone, without distillation",
    ),
}
