"""A partition of a user's own, as ``module:function`` and as one row of the table, through a federation."""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgecmd.config.reader import to_toml
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError
from edgecmd.data.labelled import UNLABELLED, Labels
from edgecmd.data.partition import PARTITIONS, Pairs, Partition, partition
from edgecmd.experiments.compare.federations import parse_federation
from tests.command_line import run
from tests.from_docs import module_of

OWN = "my_partitions:in_order"
NOBODY = Labels(values=np.full(8, UNLABELLED), names=())
CLASSES = Labels(values=np.array([1, 0, 1, 0, 2, 2, 0, 1]), names=("a", "b", "c"))


@pytest.fixture(autouse=True)
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The documentation's module."""
    module_of("extending.md", "my_partitions", tmp_path, monkeypatch)
    yield
    for name in ("my_partitions", "made_up_cut"):
        sys.modules.pop(name, None)


def cut(by: str, **settings: object) -> list[list[int]]:
    given = {"num_clients": 2, "seed": 0, **settings}
    return [part.tolist() for part in partition(NOBODY, CLASSES, NOBODY, by=by, **given)]


def alternating(pairs: Pairs, *, num_clients: int, alpha: float, generator: object) -> list[np.ndarray]:
    return [np.arange(client, len(pairs), num_clients) for client in range(num_clients)]


def test_the_function_deals_as_it_says() -> None:
    # Rows of a: 1 3 6, of b: 0 2 7, of c: 4 5; sorted by label and cut in the middle.
    assert cut(OWN) == [[0, 1, 3, 6], [2, 4, 5, 7]]


def test_it_is_a_run_s_partition_and_is_reported(
    tmp_path: Path, tiny: RunConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.toml"
    federation = replace(tiny.federation, partition=OWN, num_clients=4)
    path.write_text(to_toml(replace(tiny, federation=federation)), encoding="utf-8")
    assert run(monkeypatch, "run", "--config", str(path), "--no-baselines") == 0
    folder = Path(tiny.out) / "tiny"
    table = json.loads((folder / "partition.json").read_text())["table"]
    assert len(table) == 4
    # Sorted by label, so all clients but one hold one class alone.
    assert sum(line["largest_share"] == 1.0 for line in table) >= 3
    assert OWN in (folder / "report.html").read_text()


def test_a_row_is_cut_and_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PARTITIONS, "alternating", Partition(deal=alternating, equal=True))
    assert cut("alternating") == [[0, 2, 4, 6], [1, 3, 5, 7]]
    spec = parse_federation("alternating:4")
    assert spec.applied(RunConfig()).federation.partition == "alternating"
    with pytest.raises(ConfigError, match="A concentration is for dirichlet"):
        parse_federation("alternating0.1:4")
    row = replace(PARTITIONS["alternating"], follows="owner", what="owners", file="pairs.csv")
    monkeypatch.setitem(PARTITIONS, "alternating", row)
    with pytest.raises(ConfigError, match="'alternating' follows owners, but the data have none. Add pairs"):
        cut("alternating")


def test_the_generator_follows_the_seed(tmp_path: Path) -> None:
    (tmp_path / "made_up_cut.py").write_text(
        "import numpy as np\n\n\ndef drawn(num_pairs, num_clients, generator):\n"
        "    return np.array_split(generator.permutation(num_pairs), num_clients)\n"
    )
    assert cut("made_up_cut:drawn") == cut("made_up_cut:drawn")
    assert cut("made_up_cut:drawn") != cut("made_up_cut:drawn", seed=1)


def test_a_small_client_is_filled_up_as_ever(tmp_path: Path) -> None:
    (tmp_path / "made_up_cut.py").write_text(
        "def all_to_one(num_pairs):\n    return [range(num_pairs), []]\n"
    )
    assert sorted(map(len, cut("made_up_cut:all_to_one"))) == [2, 6]


@pytest.mark.parametrize(
    "made",
    [
        "None",
        "3",
        "[]",
        "[[0, 1, 2, 3, 4, 5, 6, 7]]",
        "[[0, 1, 2, 3], [4, 5, 6]]",
        "[[0, 1, 2, 3], [3, 4, 5, 6, 7]]",
        "[[0, 1, 2, 3], [4, 5, 6, 8]]",
        "[[-1, 1, 2, 3], [4, 5, 6, 7]]",
        "[[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0]]",
        "[[[0, 1], [2, 3]], [[4, 5], [6, 7]]]",
        "['0123', '4567']",
        "[[0, 1, 2, 3], [4, 5, 6, None]]",
    ],
)
def test_what_is_no_partition_is_refused(made: str, tmp_path: Path) -> None:
    (tmp_path / "made_up_cut.py").write_text(f"def wrong():\n    return {made}\n")
    with pytest.raises(
        ConfigError, match="'made_up_cut:wrong' did not give a partition. Return federation"
    ) as caught:
        cut("made_up_cut:wrong")
    assert "num_clients=2 arrays of row indices in which each of the rows 0 to 7" in str(caught.value)


def test_unknown_names_are_told() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'dirichlet'"):
        cut("dirichlett")
    with pytest.raises(ConfigError, match="cannot be imported"):
        cut("no_such_module:in_order")
