"""Where the clients of a run are, and the command that continues it there."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from flwr.common.config import parse_config_args

from edgecmd.config.assemble import describe, run_folder
from edgecmd.config.provenance import (
    FILE,
    Provenance,
    flower_command,
    read_provenance,
    require_runtime,
    write_provenance,
)
from edgecmd.config.reader import flatten, load_config, unflatten
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import DataError, FederationError
from edgecmd.core.files import read_json

DEPLOYED = Provenance(runtime="flower", nodes=3, nodes_with_own_pairs=2)


def test_what_is_written_is_read_and_larger_numbers_stay(tmp_path: Path) -> None:
    assert read_provenance(tmp_path) is None
    write_provenance(tmp_path, DEPLOYED)
    assert read_json(tmp_path / FILE) == {"runtime": "flower", "nodes": 3, "nodes_with_own_pairs": 2}
    write_provenance(tmp_path, replace(DEPLOYED, nodes=5, nodes_with_own_pairs=1))
    assert read_provenance(tmp_path) == replace(DEPLOYED, nodes=5)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{",
        "3",
        "null",
        '{"runtime": [], "nodes": 1, "nodes_with_own_pairs": 0}',
        '{"runtime": "flower", "nodes": "1", "nodes_with_own_pairs": 0}',
        '{"runtime": "flower", "nodes": 1, "nodes_with_own_pairs": 1.0}',
        '{"runtime": "flower", "nodes": 1, "nodes_with_own_pairs": 2}',
        '{"runtime": "flower"}',
        '{"runtime": "ray", "nodes": 1, "nodes_with_own_pairs": 0}',
        '{"runtime": "flower", "nodes": -1, "nodes_with_own_pairs": 0}',
        '{"runtime": "flower", "nodes": true, "nodes_with_own_pairs": 0}',
        '{"runtime": "flower", "nodes": 1, "nodes_with_own_pairs": 0, "more": 1}',
    ],
)
def test_a_damaged_file_is_an_error_and_no_guess(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(DataError, match=FILE) as caught:
        require_runtime(tmp_path, "in-process", described=describe(RunConfig()))
    assert not any(word in str(caught.value) for word in ("**", "argument", "Provenance", "mapping"))


def test_only_another_runtime_is_refused(tmp_path: Path) -> None:
    require_runtime(tmp_path, "flower", described=describe(RunConfig()))
    write_provenance(tmp_path, DEPLOYED)
    require_runtime(tmp_path, "flower", described=describe(RunConfig()))
    with pytest.raises(FederationError, match="the pairs of 2 of its 3 clients are stored on their nodes"):
        require_runtime(tmp_path, "in-process", described=describe(RunConfig()))
    (tmp_path / "simulated").mkdir()
    write_provenance(tmp_path / "simulated", replace(DEPLOYED, runtime="in-process"))
    with pytest.raises(FederationError, match="Continue it with `edgecmd resume .*simulated`"):
        require_runtime(tmp_path / "simulated", "flower", described=describe(RunConfig()))


def run_config_of(command: str) -> dict[str, object]:
    """Run config that Flower's own parser reads out of a command as a shell would split it."""
    words = shlex.split(command)
    assert words[:5] == ["flwr", "run", ".", "<federation>", "--run-config"]
    (text,) = words[5:]
    return dict(parse_config_args([text]))


def test_flower_reads_the_settings_of_the_run_out_of_the_command(tmp_path: Path) -> None:
    """Text with quotes and blanks, numbers, truth values and tuples."""
    changes = ["federation.num_clients=3", "data.strict=false", "evaluate.num_labels=[1,5]"]
    changes += ['distill.loss="cmd"', "distill.learning_rate=0.002"]
    config = replace(load_config(None, changes), out=str(tmp_path / 'it\'s a "run" \\'), name="first=one")
    given = run_config_of(flower_command(run_folder(config), describe(config), own_pairs=False))
    assert unflatten(flatten(RunConfig()) | given) == config
    assert set(given) == {"out", "name", *(one.partition("=")[0] for one in changes)}


def test_what_stands_in_the_server_s_own_file_is_left_out_for_nodes_with_pairs(tmp_path: Path) -> None:
    changes = ['data.name="folder"', 'data.path="/srv/own"', 'teacher.path="/srv/t"', 'student.path="/srv/s"']
    config = replace(load_config(None, [*changes, "data.image_size=32"]), out=str(tmp_path))
    given = run_config_of(flower_command(run_folder(config), describe(config), own_pairs=True))
    assert given == {"out": str(tmp_path), "name": "demo", "data.image_size": 32}


def test_a_relative_folder_becomes_what_flower_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = RunConfig()
    command = flower_command(run_folder(config), describe(config), own_pairs=True)
    assert run_config_of(command)["out"] == str(tmp_path / "runs")
