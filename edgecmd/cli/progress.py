"""What a person sees of long work: lines for rounds, and how far everything is.

How far something is goes to stderr, beside a result that may be JSON: on a terminal one line that is written
over and removed in the end, elsewhere a plain line every ten seconds.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgecmd.cli.output import can_write_over, on_terminal, say, write_progress
from edgecmd.core.progress import Advance, stage, watched
from edgecmd.core.text import counted

if TYPE_CHECKING:
    from edgecmd.privacy.plan import PrivacyPlan
    from edgecmd.run import Run
    from server.loop import RoundReport


def _shown(plan: "PrivacyPlan | None", report: "RoundReport") -> str:
    """The loss, or instead of it, where clients do not tell it, the epsilon of the rounds so far."""
    if report.loss is not None:
        return f"loss {report.loss:.3f}"
    if plan is None:
        return "no loss"
    if not plan.private:
        return "NOT PRIVATE"
    return f"epsilon {plan.epsilon_after(report.round_index):.2f} of {plan.epsilon:g}"


def tell(text: str) -> None:
    """Print a line of what long work found, in the place of the line that shows how far it is."""
    hide_progress()
    say(text)


def step_line(num_steps: int, *, num_lines: int) -> Callable[[int, float], None]:
    """Function that prints a line for some of the steps of a training in one place."""
    every = max(1, num_steps // num_lines)

    def show(step: int, loss: float) -> None:
        if step % every == 0:
            say(f"step {step}/{num_steps}  loss {loss:.3f}")

    return show


# 80 columns with three figures of the validation.
WIDTHS = (7, 9, 7, 8, 6, 0)


@contextmanager
def round_line(run: "Run", prefix: str = "") -> Iterator[Callable[["RoundReport"], None]]:
    """Function that prints every tenth round and each that was validated, for as long as the rounds last.

    On a terminal these are rows of a table. Below it stand the last round and, from the second one on, the
    time that is left. Elsewhere they are plain lines.

    Args:
        run: The run whose rounds they are.
        prefix: What stands before each line.
    """
    from edgecmd.experiments.run_plan import chance
    from edgecmd.privacy.refusals import explained

    plan, is_table, is_live = run.plan, on_terminal(), can_write_over()
    level = chance(run) if plan is None else None
    every = max(1, run.federation.num_rounds // 10)
    advance: Advance | None = None

    with ExitStack() as live:

        def show(report: "RoundReport") -> None:
            nonlocal advance
            hide_progress()
            if advance is None and is_table:
                beside = "" if level is None else f"; a loss of {level:.2f} is chance"
                say(f"{prefix or 'student: '}{counted(report.num_rounds, 'round')}{beside}")
                say(
                    _row(
                        "round",
                        "loss" if plan is None else "epsilon",
                        "clients",
                        "sent",
                        "time",
                        "validation",
                    )
                )
            for one in report.rejected:
                say(
                    f"{prefix}round {report.round_index}: dropped node {one.node_id}: {explained(one.reason)}"
                )
            if report.metrics or not report.round_index % every or report.round_index == report.num_rounds:
                _say_round(report, _shown(plan, report), level, prefix=prefix, is_table=is_table)
            if advance is not None:
                advance(1)
                return
            live.close()
            # The first round is slower than the others, and a resumed run begins with a later one.
            following = stage("rounds", report.num_rounds, done=report.round_index)
            advance = live.enter_context(following) if is_live else lambda _: None

        if is_live:
            live.enter_context(stage("first round"))
        yield show


def _say_round(
    report: "RoundReport", shown: str, level: float | None, *, prefix: str, is_table: bool
) -> None:
    at, sent = f"{report.round_index}/{report.num_rounds}", f"{report.bytes_exchanged / 1e6:.1f} MB"
    simulated = [] if report.simulated_s is None else [f"simulated {report.simulated_s:.1f} s"]
    metrics = "  ".join([*simulated, *(f"{name} {value:.3f}" for name, value in report.metrics.items())])
    if is_table:
        figure = shown.removeprefix("loss ").removeprefix("epsilon ")
        metrics = metrics.replace("val_", "").replace("recall", "R")
        say(_row(at, figure, str(report.num_clients), sent, f"{report.seconds:.1f} s", metrics))
        return
    beside = f" (chance {level:.2f})" if level is not None else ""
    say(
        f"{prefix}round {at}  {shown}{beside}  clients {report.num_clients}  {sent}"
        f"  {report.seconds:.1f} s  {metrics}".rstrip()
    )


def _row(*cells: str) -> str:
    return "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, WIDTHS, strict=True)).rstrip()


REDRAW_S, QUIET_S = 0.1, 10.0


@dataclass(slots=True)
class Stage:
    """A stage that runs.

    Attributes:
        what: What is done.
        total: Number of its steps.
        begun: Steps that were done before it began.
        started: When it began, in seconds of the meter's clock.
        moved: When its last step was done, or when it began.
        done: Steps that are done.
    """

    what: str
    total: int
    begun: int
    started: float
    moved: float
    done: int

    def text(self) -> str:
        """What is done, and how far it is."""
        return f"{self.what} {self.done}/{self.total}" if self.total > 1 else self.what

    def left(self, now: float, *, within: float | None = None) -> float | None:
        """Seconds that are left at the rate so far; None before it did a step.

        Args:
            now: The time.
            within: Seconds that are left of the step that runs, where a stage within it can tell.
        """
        if self.done == self.begun:
            return None
        each = (self.moved - self.started) / (self.done - self.begun)
        if self.done >= self.total:
            return 0.0
        step = max(0.0, each - (now - self.moved)) if within is None else within
        return each * (self.total - self.done - 1) + step


class Meter:
    """Shows the stages of `edgecmd.core.progress` that run: a watcher of it.

    Args:
        terminal: Whether one line is written over; else plain lines.
        write: Takes what is shown.
        clock: Seconds that only rise.
        width: Columns of the terminal.
    """

    def __init__(
        self,
        *,
        terminal: bool,
        write: Callable[[str], None] = write_progress,
        clock: Callable[[], float] = time.monotonic,
        width: int = 80,
    ) -> None:
        self.terminal, self.write, self.clock, self.width = terminal, write, clock, width
        self.stages: dict[int, Stage] = {}
        self.number, self.shown, self.last = 0, 0, clock()

    def begin(self, what: str, total: int, done: int = 0) -> int:
        """A stage begins within those that run."""
        self.number += 1
        self.stages[self.number] = Stage(what, total, done, self.clock(), self.clock(), done)
        self._show()
        return self.number

    def advance(self, stage: int, num: int) -> None:
        """More of a stage is done."""
        if stage in self.stages:
            self.stages[stage].done += num
            self.stages[stage].moved = self.clock()
            self._show()

    def end(self, stage: int) -> None:
        """A stage is over, and whatever still runs within it."""
        for number in [one for one in self.stages if one >= stage]:
            del self.stages[number]
        if not self.stages:
            self.hide()

    def hide(self) -> None:
        """Remove the line, so that something else can be printed there."""
        if self.shown:
            # Blanks and no escape sequence: NO_COLOR and every terminal are content with them.
            self.write("\r" + " " * self.shown + "\r")
            self.shown = 0

    def line(self, *, room: int = 10**6) -> str:
        """The stages that run, the outermost first, and the time that is left of the first that can tell.

        Args:
            room: Columns there are; of stages that do not fit the end is left out, and not the time.
        """
        told, time_left = self._told()
        short = (
            told if len(told) + len(time_left) <= room else told[: max(0, room - len(time_left) - 3)] + "..."
        )
        return (short + time_left)[:room]

    def _told(self) -> tuple[str, str]:
        now, running = self.clock(), list(self.stages.values())
        told = ", ".join(one.text() for one in running)
        left, of = None, ""
        whole = next((one for one in running if one.total > 1), None)
        for one in reversed(running):
            found = one.left(now, within=left) if one.total > 1 else left
            if found is not None:
                left = found
                of = "" if one is whole else of if one.total == 1 else f" of {one.what}"
        if left is None:
            return told, ""
        return told, f": about {seconds_text(left)} left{of}"

    def _show(self) -> None:
        now = self.clock()
        if now - self.last < (REDRAW_S if self.terminal else QUIET_S):
            return
        self.last = now
        if not self.terminal:
            self.write(self.line() + "\n")
            return
        text = self.line(room=max(0, self.width - 1))
        self.write("\r" + text + " " * (self.shown - len(text)))
        self.shown = len(text)


def seconds_text(seconds: float) -> str:
    """A time for a person: ``40 s``, ``3 min``, ``2.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


_meters: list[Meter] = []


def hide_progress() -> None:
    """Remove the line that is shown, if there is one, before something else is printed."""
    for meter in _meters:
        meter.hide()


@contextmanager
def progress_shown() -> Iterator[None]:
    """Show on stderr how far the work in this block is."""
    meter = Meter(terminal=can_write_over(), width=shutil.get_terminal_size().columns)
    _meters.append(meter)
    try:
        with watched(meter):
            yield
    finally:
        meter.hide()
        _meters.remove(meter)
