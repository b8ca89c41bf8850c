"""One line a round: the loss beside its chance level, recall where it was measured, what was dropped."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from edgecmd.cli.common import say
from edgecmd.config import RunConfig

if TYPE_CHECKING:
    from server.loop import RoundReport


def chance(config: RunConfig) -> float | None:
    """Loss of an uninformative student under ``config``."""
    from edgecmd.losses import chance_level

    return chance_level(
        config.distill.loss, batch_size=config.distill.batch_size, num_anchors=config.distill.num_anchors
    )


def round_line(config: RunConfig, *, prefix: str = "") -> Callable[["RoundReport"], None]:
    """Function that prints a line for each round; every tenth round when the output is no terminal."""
    level = chance(config)
    beside = f" (chance {level:.2f})" if level is not None else ""
    every = 1 if sys.stdout.isatty() else max(1, config.federation.num_rounds // 10)

    def show(report: "RoundReport") -> None:
        for one in report.rejected:
            say(f"{prefix}round {report.round_index}: dropped node {one.node_id}: {one.reason}")
        if report.round_index % every and not report.metrics and report.round_index != report.num_rounds:
            return
        metrics = "  ".join(f"{name} {value:.3f}" for name, value in report.metrics.items())
        say(
            f"{prefix}round {report.round_index}/{report.num_rounds}  loss {report.loss:.3f}{beside}"
            f"  clients {report.num_clients}  {report.bytes_exchanged / 1e6:.1f} MB"
            f"  {report.seconds:.1f} s  {metrics}".rstrip()
        )

    return show
