"""A soak (`pytest -m slow`): rounds while sites and SuperLink are killed, and memory over many rounds."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from scipy import stats

from edgecmd.report.drawing import DASHES, LINES, draw
from server.deploy.kits import SERVER
from tests.real_link import LOG, NAMES, RealLink, of_folder, resident_kb, until
from tests.tiny_federation import simulate, tiny_config

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not Path("/proc/self/task").is_dir(), reason="looks into processes as Linux shows them"
    ),
]
NUM_ROUNDS, SEED = 30, 11
MEMORY_ROUNDS, WARM_UP = 200, 40
# Weights of the student; a server that kept them would grow by that much in each round.
WEIGHTS_KB = 221.0
MOST_KB = WEIGHTS_KB / 10


@pytest.fixture
def link(tmp_path: Path) -> Iterator[RealLink]:
    one = RealLink(folder=tmp_path)
    try:
        one.start_server()
        one.ensure()
        yield one
    finally:
        one.close()
    until(lambda: not of_folder(tmp_path), "nothing is left behind")


def slope_of(sizes_kb: list[int]) -> tuple[float, float, float]:
    """Growth in kB per round and its 95% interval: the median of all slopes, which one step does not move."""
    fit = stats.theilslopes(sizes_kb, np.arange(len(sizes_kb)))
    return float(fit.slope), float(fit.low_slope), float(fit.high_slope)


def test_the_slope_of_a_line_is_that_of_the_line() -> None:
    """Also where the allocator takes one large piece."""
    line = [1000 + 7 * place + 4000 * (place > 15) for place in range(20)]
    assert slope_of(line) == pytest.approx((7.0, 7.0, 7.0))


def keep(name: str, found: Any) -> None:
    """Write figures to the folder that ``EDGECMD_SOAK`` names, for the page that shows them."""
    LOG.info("%s: %s", name, found)
    if folder := os.environ.get("EDGECMD_SOAK"):
        Path(folder, f"{name}.json").write_text(json.dumps(found))
        if name == "memory-simulation":
            Path(folder, "deploy-memory.png").write_bytes(picture(found))


def picture(sizes_kb: list[int]) -> bytes:
    """Growth by round, as PNG."""
    rounds = np.arange(len(sizes_kb))

    def paint(axes: Axes) -> None:
        axes.plot(rounds + 1, (np.array(sizes_kb) - sizes_kb[0]) / 1000, color=LINES[0], label="measured")
        kept = "if each round's weights were kept"
        axes.plot(rounds + 1, WEIGHTS_KB * rounds / 1000, color=LINES[1], linestyle=DASHES[1], label=kept)
        axes.set(xlabel="round", ylabel="growth of resident memory, MB")
        axes.legend()

    return draw("deploy-memory", paint, alt="Growth of a server's resident memory by round").png


def disturbed(link: RealLink, name: str) -> list[str]:
    """Run to the last round while programs are killed at random; which, and after how many rounds."""
    generator, killed = np.random.default_rng(SEED), []
    while True:
        run, goal = link.begin(name), len(link.rounds(name)) + int(generator.integers(2, 7))
        delay_s, victim = float(generator.uniform(0.0, 10.0)), str(generator.choice([*NAMES, SERVER]))
        while not run.done() and len(link.rounds(name)) < goal:
            time.sleep(0.1)
        if not run.done():
            time.sleep(delay_s)
            killed.append(f"{victim} after round {len(link.rounds(name))}")
            LOG.info("killed: %s", killed[-1])
            link.kill(victim)
        if run.result().code == 0:
            return killed
        link.ensure()


def test_killed_at_random_thirty_rounds_end_with_the_same_bytes(link: RealLink) -> None:
    """Each round takes the replies of all three sites, or is repeated."""
    sizes: dict[str, list[int]] = {"SuperLink": [], "server app": []}
    seen = 0

    def look() -> None:
        nonlocal seen
        if (app := link.server_app()) and (made := len(link.rounds("undisturbed"))) > seen:
            seen = made
            sizes["SuperLink"].append(resident_kb(link.programs[SERVER].pid))
            sizes["server app"].append(resident_kb(app))

    expected = link.undisturbed("undisturbed", look=look, num_rounds=NUM_ROUNDS)
    keep("memory-link", sizes)
    link.describe("disturbed", num_rounds=NUM_ROUNDS)
    killed = disturbed(link, "disturbed")
    keep("killed", killed)
    rounds = link.rounds("disturbed")
    assert [(one["round"], one["clients"]) for one in rounds] == [
        (place, len(NAMES)) for place in range(1, NUM_ROUNDS + 1)
    ]
    assert len(killed) >= 4
    assert (link.folder / "runs/disturbed/student.safetensors").read_bytes() == expected


def test_memory_of_a_simulation_is_flat(pairs: Path, tmp_path: Path) -> None:
    sizes: list[int] = []
    config = tiny_config(pairs, tmp_path, f"federation.num_rounds={MEMORY_ROUNDS}")
    simulate(config, report=lambda _: sizes.append(resident_kb(os.getpid())))
    keep("memory-simulation", sizes)
    slope = slope_of(sizes[WARM_UP:])
    keep("slope-simulation", slope)
    assert slope[2] < MOST_KB
