"""One line a round: the loss beside its chance level, recall where it was measured, what was dropped."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from edgecmd.cli.output import on_terminal, say
from edgecmd.config import RunConfig

if TYPE_CHECKING:
    from edgecmd.privacy.plan import PrivacyPlan
    from server.loop import RoundReport


def chance(config: RunConfig) -> float | None:
    """Loss of an uninformative student under ``config``, weighted by pairs as the round's loss is.

    A client with fewer pairs than a batch has smaller batches and therefore a lower level.
    """
    from edgecmd.data.clients import client_rows, num_places, public_anchors
    from edgecmd.losses import chance_level

    num_anchors, total, weighted = len(public_anchors(config)), 0, 0.0
    places = num_places(config)
    for size in map(len, client_rows(config)):
        batch_size = min(config.distill.batch_size, size) * places
        level = chance_level(config.distill.loss, batch_size=batch_size, num_anchors=num_anchors)
        if level is None:
            return None
        total, weighted = total + size, weighted + size * level
    return weighted / total


def _spent(plan: "PrivacyPlan | None", report: "RoundReport") -> str:
    """Epsilon of the rounds so far instead of the loss, which clients do not tell."""
    if plan is None:
        return "no loss"
    if not plan.private:
        return "NOT PRIVATE"
    return f"epsilon {plan.epsilon_after(report.round_index):.2f} of {plan.epsilon:g}"


def round_line(config: RunConfig, *, prefix: str = "") -> Callable[["RoundReport"], None]:
    """Function that prints a line for each round; every tenth round when the output is no terminal."""
    from edgecmd.privacy.plan import make_plan
    from edgecmd.privacy.refusals import explained

    plan = make_plan(config)
    level = chance(config) if plan is None else None
    beside = f" (chance {level:.2f})" if level is not None else ""
    every = 1 if on_terminal() else max(1, config.federation.num_rounds // 10)

    def show(report: "RoundReport") -> None:
        for one in report.rejected:
            say(f"{prefix}round {report.round_index}: dropped node {one.node_id}: {explained(one.reason)}")
        if report.round_index % every and not report.metrics and report.round_index != report.num_rounds:
            return
        metrics = "  ".join(f"{name} {value:.3f}" for name, value in report.metrics.items())
        shown = f"loss {report.loss:.3f}{beside}" if report.loss is not None else _spent(plan, report)
        say(
            f"{prefix}round {report.round_index}/{report.num_rounds}  {shown}"
            f"  clients {report.num_clients}  {report.bytes_exchanged / 1e6:.1f} MB"
            f"  {report.seconds:.1f} s  {metrics}".rstrip()
        )

    return show
