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


# Rounds made, and resident memory in kB after them.
Sizes = list[tuple[int, int]]


def slope_of(sizes: Sizes) -> tuple[float, float, float]:
    """Growth in kB per round and its 95% interval: the median of all slopes, which one step does not move."""
    rounds, sizes_kb = zip(*((made, size) for made, size in sizes if made > WARM_UP), strict=True)
    fit = stats.theilslopes(sizes_kb, rounds)
    return float(fit.slope), float(fit.low_slope), float(fit.high_slope)


def test_the_slope_of_a_line_is_that_of_the_line() -> None:
    """Also where the allocator takes one large piece."""
    line = [(made, 1000 + 7 * made + 4000 * (made > 75)) for made in range(WARM_UP, 80)]
    assert slope_of(line) == pytest.approx((7.0, 7.0, 7.0))


def keep(name: str, found: Any) -> None:
    """Write figures to the folder that ``EDGECMD_SOAK`` names, for the page that shows them."""
    LOG.info("%s: %s", name, found)
    if folder := os.environ.get("EDGECMD_SOAK"):
        Path(folder, f"{name}.json").write_text(json.dumps(found))
        found = {
            path.stem: json.loads(path.read_text()) for path in sorted(Path(folder).glob("memory-*.json"))
        }
        Path(folder, "deploy-memory.png").write_bytes(picture(found))


def picture(found: dict[str, Sizes]) -> bytes:
    """Growth by round, as PNG."""

    def paint(axes: Axes) -> None:
        axes.plot(
            [0, MEMORY_ROUNDS],
            [0, WEIGHTS_KB * MEMORY_ROUNDS / 1000],
            color="0.5",
            label="if each round's weights were kept",
        )
        for place, (name, sizes) in enumerate(found.items()):
            rounds, sizes_kb = np.array(sizes).T
            axes.plot(
                rounds,
                (sizes_kb - sizes_kb[0]) / 1000,
                color=LINES[place],
                linestyle=DASHES[place],
                label=name.removeprefix("memory-").replace("-", " "),
            )
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
    expected = link.undisturbed("undisturbed", num_rounds=NUM_ROUNDS)
    link.describe("disturbed", num_rounds=NUM_ROUNDS)
    killed = disturbed(link, "disturbed")
    keep("killed", killed)
    rounds = link.rounds("disturbed")
    assert [(one["round"], one["clients"]) for one in rounds] == [
        (place, len(NAMES)) for place in range(1, NUM_ROUNDS + 1)
    ]
    assert len(killed) >= 4
    assert (link.folder / "runs/disturbed/student.safetensors").read_bytes() == expected


def test_memory_of_a_server_on_the_link_is_flat(link: RealLink) -> None:
    """Of the SuperLink, which passes on the weights, and of the app that adds them up."""
    sizes: dict[str, Sizes] = {"SuperLink": [], "server-app": []}

    def look() -> None:
        made = len(link.rounds("long"))
        if (app := link.server_app()) and made > (sizes["SuperLink"] or [(0, 0)])[-1][0]:
            sizes["SuperLink"].append((made, resident_kb(link.programs[SERVER].pid)))
            sizes["server-app"].append((made, resident_kb(app)))

    link.undisturbed("long", look=look, num_rounds=MEMORY_ROUNDS)
    require_flat(sizes)


def test_memory_of_a_simulation_is_flat(pairs: Path, tmp_path: Path) -> None:
    sizes: Sizes = []
    config = tiny_config(pairs, tmp_path, f"federation.num_rounds={MEMORY_ROUNDS}")
    simulate(config, report=lambda _: sizes.append((len(sizes) + 1, resident_kb(os.getpid()))))
    require_flat({"simulation": sizes})


def require_flat(sizes: dict[str, Sizes]) -> None:
    for name, found in sizes.items():
        keep(f"memory-{name}", found)
        keep(f"slope-{name}", slope_of(found))
    assert all(slope_of(found)[2] < MOST_KB for found in sizes.values())
