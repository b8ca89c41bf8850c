"""How far long work is: what is shown, when, and that it costs nothing. The clock is made up."""

import io
import re
import sys
from dataclasses import replace

import pytest

from edgecmd.cli.progress import (
    Meter,
    hide_progress,
    progress_shown,
    round_line,
    seconds_text,
    write_progress,
)
from edgecmd.core.progress import stage, ticker, tracked, watched
from edgecmd.experiments.run_plan import chance
from server.loop import RoundReport
from tests.tiny_federation import run_of


class Clock:
    """Seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def shown():
    return []


def meter(clock, shown, *, terminal=False, width=80):
    return Meter(terminal=terminal, write=shown.append, clock=clock, width=width)


def work(clock, num=8, *, seconds=5.0, what="reading pairs"):
    for _ in tracked(range(num), what):
        clock.now += seconds


def test_without_a_watcher_everything_is_as_it_was():
    assert list(tracked([3, 1, 2], "counting")) == [3, 1, 2]
    with stage("work", 2) as advance:
        advance(1)


def test_plain_lines_come_at_most_every_ten_seconds_with_the_time_left(clock, shown):
    with watched(meter(clock, shown)):
        work(clock)
    # A line at 10, 20, 30 and 40 s: the rate is 5 s a step.
    assert shown == [
        "reading pairs 2/8: about 30 s left\n",
        "reading pairs 4/8: about 20 s left\n",
        "reading pairs 6/8: about 10 s left\n",
        "reading pairs 8/8: about 0 s left\n",
    ]


def test_short_work_says_nothing_where_lines_stay(clock, shown):
    with watched(meter(clock, shown)):
        work(clock, seconds=0.5)
    assert shown == []


def test_many_steps_are_not_many_lines(clock, shown):
    with watched(meter(clock, shown)):
        work(clock, 100_000, seconds=0.001)
    assert len(shown) == 9 or len(shown) == 10


def test_a_terminal_has_one_line_that_is_written_over_and_removed(clock, shown):
    with watched(meter(clock, shown, terminal=True)):
        work(clock, 3)
    assert shown[0].startswith("\r")
    assert all("\n" not in one and "\x1b" not in one for one in shown)
    assert shown[-1] == "\r" + " " * len("reading pairs 3/3: about 0 s left") + "\r"


def test_a_shorter_line_leaves_nothing_of_a_longer_one(clock, shown):
    one = meter(clock, shown, terminal=True)
    first = one.begin("a long description of it", 1)
    clock.now += 1
    one.begin("b", 1)
    one.end(first)
    shown.clear()
    clock.now += 1
    long = one.begin("x" * 30, 1)
    one.stages[long].what = "x"
    clock.now += 1
    one.advance(long, 1)
    assert shown[-1].rstrip("\r") == "\rx" + " " * 29


def test_where_there_is_little_room_the_time_stays(clock, shown):
    with watched(meter(clock, shown, terminal=True, width=40)), stage("a long description"):
        work(clock, 4)
    assert "\ra long description,...: about 15 s left" in [one.rstrip() for one in shown]


def test_a_line_fits_the_terminal(clock, shown):
    with watched(meter(clock, shown, terminal=True, width=20)):
        work(clock, 3)
    assert max(len(one.strip("\r")) for one in shown) <= 19


def test_stages_within_stages_tell_the_time_of_the_outermost_that_can(clock, shown):
    one = meter(clock, shown)
    outer = one.begin("evaluation", 3)
    clock.now += 12
    inner = one.begin("embedding", 4)
    assert one.line() == "evaluation 0/3, embedding 0/4"
    clock.now += 2
    one.advance(inner, 1)
    assert one.line() == "evaluation 0/3, embedding 1/4: about 6 s left of embedding"
    one.end(inner)
    clock.now += 26
    one.advance(outer, 1)
    assert one.line() == "evaluation 1/3: about 80 s left"


def test_the_last_part_is_told_by_what_runs_within_it(clock, shown):
    """Five parts took 10 s each; of the last, 3 of 20 steps took 2 s each, so 34 s are left."""
    one = meter(clock, shown)
    outer = one.begin("evaluation", 6)
    for _ in range(5):
        clock.now += 10
        one.advance(outer, 1)
    one.begin("scratch", 1)
    inner = one.begin("training", 20)
    for _ in range(3):
        clock.now += 2
        one.advance(inner, 1)
    assert one.line() == "evaluation 5/6, scratch, training 3/20: about 34 s left"


def test_a_part_that_takes_longer_than_those_before_is_never_below_zero(clock, shown):
    one = meter(clock, shown)
    outer = one.begin("evaluation", 2)
    clock.now += 10
    one.advance(outer, 1)
    clock.now += 4
    assert one.line() == "evaluation 1/2: about 6 s left"
    clock.now += 40
    assert one.line() == "evaluation 1/2: about 0 s left"


def test_steps_of_before_say_nothing_of_the_time_that_is_left(clock, shown):
    """A resumed run: round 41 was seen first, and two more took 3 s each."""
    one = meter(clock, shown)
    rounds = one.begin("rounds", 100, 41)
    assert one.line() == "rounds 41/100"
    clock.now += 3
    one.advance(rounds, 1)
    clock.now += 3
    one.advance(rounds, 1)
    assert one.line() == "rounds 43/100: about 3 min left"


def round_of(index: int, **fields: object) -> RoundReport:
    return RoundReport(
        **{
            "round_index": index,
            "num_rounds": 20,
            "num_clients": 3,
            "rejected": (),
            "num_examples": 60,
            "loss": 2.5,
            "seconds": 1.25,
            "bytes_exchanged": 1_325_000,
            "metrics": {},
            **fields,
        }
    )


class Terminal(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


VALIDATED = {"val_recall@1": 0.125, "val_recall@5": 0.5}


def rounds_on(monkeypatch, config, *indices: int, out, err, **fields: object) -> None:
    """Rounds of a run, of which the second and the last are validated."""
    run = run_of(replace(config, federation=replace(config.federation, num_rounds=20)))
    for name in ("NO_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("edgecmd.cli.progress.REDRAW_S", -1.0)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    chance(run)
    with progress_shown(), round_line(run) as show:
        for index in indices:
            show(round_of(index, metrics=VALIDATED if index in (2, 20) else {}, **fields))


def test_a_terminal_has_a_table_of_rounds_and_below_it_the_time_left(monkeypatch, tiny):
    out, err = Terminal(), Terminal()
    rounds_on(monkeypatch, tiny, *range(1, 21), out=out, err=err)
    title, header, *rows = out.getvalue().splitlines()
    assert title == "student: 20 rounds; a loss of 2.08 is chance"
    assert header == "  round       loss  clients      sent    time  validation"
    assert rows[0] == "   2/20      2.500        3    1.3 MB   1.2 s  R@1 0.125  R@5 0.500"
    assert rows[1] == "   4/20      2.500        3    1.3 MB   1.2 s"
    assert len(rows) == 10
    lines = [line.strip() for line in err.getvalue().split("\r") if line.strip()]
    assert lines[:2] == ["first round", "rounds 1/20"]
    assert lines[2].startswith("rounds 2/20: about ")
    assert err.getvalue().endswith("\r" + " " * len(lines[-1]) + "\r")
    assert "\x1b" not in out.getvalue() + err.getvalue()


def test_a_resumed_run_goes_on_with_its_own_numbers(monkeypatch, tiny):
    out, err = Terminal(), Terminal()
    rounds_on(monkeypatch, tiny, 18, 19, 20, out=out, err=err)
    lines = [line.strip() for line in err.getvalue().split("\r") if line.strip()]
    assert lines[1] == "rounds 18/20"
    assert lines[2].startswith("rounds 19/20: about ")


def test_elsewhere_rounds_are_plain_lines_as_ever(monkeypatch, tiny):
    out, err = io.StringIO(), io.StringIO()
    rounds_on(monkeypatch, tiny, *range(1, 5), out=out, err=err)
    told = "loss 2.500 (chance 2.08)  clients 3  1.3 MB  1.2 s"
    assert out.getvalue().splitlines() == [
        f"round 2/20  {told}  val_recall@1 0.125  val_recall@5 0.500",
        f"round 4/20  {told}",
    ]
    assert err.getvalue() == ""


def test_made_up_time_stands_before_the_validation(monkeypatch, tiny):
    out, err = io.StringIO(), io.StringIO()
    rounds_on(monkeypatch, tiny, 1, 2, out=out, err=err, simulated_s=7.25)
    assert out.getvalue().endswith("  1.2 s  simulated 7.2 s  val_recall@1 0.125  val_recall@5 0.500\n")


def test_without_colour_a_terminal_has_plain_lines_and_the_time_left(monkeypatch, tiny):
    out, err = Terminal(), Terminal()
    monkeypatch.setattr("edgecmd.cli.progress.on_terminal", lambda: False)
    rounds_on(monkeypatch, tiny, 1, 2, 3, out=out, err=err)
    assert out.getvalue().startswith("round 2/20  loss 2.500")
    assert "rounds 2/20: about " in err.getvalue()


def test_private_rounds_show_what_was_spent(monkeypatch, tiny):
    out, err = Terminal(), Terminal()
    private = replace(
        tiny,
        privacy=replace(tiny.privacy, mechanism="anchors"),
        distill=replace(tiny.distill, loss="cmc-anchored"),
    )
    rounds_on(monkeypatch, private, 1, 2, out=out, err=err, loss=None)
    title, header, row = out.getvalue().splitlines()
    assert title == "student: 20 rounds"
    assert "epsilon" in header
    assert re.match(r"   2/20  \d\.\d\d of 8        3", row)


def test_what_is_broken_off_is_over(clock, shown):
    one = meter(clock, shown)

    def broken() -> None:
        with watched(one), stage("outer"):
            for item in tracked([1, 2], "inner"):
                raise KeyError(item)

    with pytest.raises(KeyError):
        broken()
    assert one.stages == {}
    with watched(one):
        for _ in tracked(range(9), "left early"):
            break
    assert one.stages == {}


def test_a_ticker_is_a_stage_begun_anew_when_its_total_changes(clock, shown):
    with watched(meter(clock, shown)), ticker("shadows") as tick:
        tick(0, 4)
        clock.now += 20
        tick(1, 4)
        clock.now += 20
        tick(0, 2)
        clock.now += 20
        tick(1, 2)
    assert shown == [
        "shadows 1/4: about 60 s left\n",
        "shadows 0/2\n",
        "shadows 1/2: about 20 s left\n",
    ]


def test_times_for_a_person():
    told = [seconds_text(one) for one in (0.4, 89.0, 90.0, 600.0, 9000.0)]
    assert told == ["0 s", "89 s", "2 min", "10 min", "2.5 h"]


def test_nothing_goes_to_stdout_and_a_closed_stderr_is_no_error(capsys, monkeypatch):
    with progress_shown():
        list(tracked(range(3), "work"))
        hide_progress()
    assert capsys.readouterr().out == ""
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    write_progress("x")
    with progress_shown():
        list(tracked(range(3), "work"))
    monkeypatch.setattr(sys, "stderr", None)
    with progress_shown():
        list(tracked(range(3), "work"))
