"""`edgecmd deploy`: a federation of two sites over TLS on this machine, and bad input to each command."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgecmd.core.errors import FederationError
from edgecmd.core.events import read_events
from edgecmd.core.files import read_json
from tests.command_line import edgecmd

pytestmark = pytest.mark.skipif(os.name != "posix", reason="process groups of POSIX")


def in_a_process(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "edgecmd", "deploy", *words],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def left_behind(folder: Path) -> list[str]:
    """Processes that were started from a kit in ``folder``, as Linux lists them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").replace("\0", " ")
        except OSError:
            continue
        if str(folder) in words:
            found.append(words)
    return found


def nothing_left_behind(folder: Path, *, seconds: float = 600.0) -> bool:
    """Whether all are gone; a SuperLink waits a second for its SuperExec, which a busy machine ends later."""
    end = time.monotonic() + seconds
    while left_behind(folder) and time.monotonic() < end:
        time.sleep(0.2)
    return left_behind(folder) == []


def test_a_trial_of_two_private_sites(tmp_path: Path) -> None:
    done = in_a_process(tmp_path, "try", "--rounds", "2", "--no-finish")
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "deploy-trial"
    run = folder / "runs" / "first"
    rounds = list(read_events(run / "events.jsonl", kind="round"))
    assert [(one["round"], one["clients"], one["rejected"]) for one in rounds] == [(1, 2, []), (2, 2, [])]
    assert read_json(run / "federation.json") == {"runtime": "flower", "nodes": 2, "nodes_with_own_pairs": 2}
    assert read_json(run / "privacy.json")["epsilon"] <= 4.0
    assert "round 2/2  2 sites answered" in done.stdout
    # Each site counted both rounds in a ledger of the trial's own.
    ledgers = sorted(path.parent.parent.name for path in (folder / "state").glob("*/ledger/*.jsonl"))
    assert ledgers == ["north", "south"]
    if Path("/proc").is_dir():
        assert nothing_left_behind(tmp_path)
    again = edgecmd("deploy", "try", folder=tmp_path)
    assert again.returncode == 2
    assert "deploy-trial exists" in again.stderr


SUMMED = """
name = "summed"
[server]
address = "localhost:9092"
out = "/srv/edgecmd/runs"
[run]
data.image_size = 32
student.architecture = "ws-50k"
federation.num_rounds = 2
federation.local_steps = 1
federation.strategy = "fedadam"
privacy.mechanism = "anchors"
privacy.aggregation = "secure-sum"
privacy.sampling_rate = 1.0
privacy.min_survivors = 2
""" + "".join(
    f"""
[[site]]
name = "{name}"
data-dir = "/srv/pairs"
state-dir = "/srv/edgecmd/state"
max-epsilon = 8.0
min-cohort = 2
"""
    for name in ("north", "south", "west")
)


@pytest.mark.slow
def test_three_sites_add_up_in_secure_sums_with_the_keys_of_their_kits(tmp_path: Path) -> None:
    (tmp_path / "federation.toml").write_text(SUMMED)
    done = in_a_process(tmp_path, "try", "federation.toml", "--sample", "--rounds", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "deploy-trial"
    run = folder / "runs" / "summed"
    rounds = list(read_events(run / "events.jsonl", kind="round"))
    assert [(one["round"], one["clients"], one["rejected"]) for one in rounds] == [(1, 3, []), (2, 3, [])]
    told = read_json(run / "privacy.json")
    assert told["aggregation"] == "secure-sum"
    assert told["survivors"] == 2
    assert told["epsilon"] <= 8.0 < told["epsilon_by_trust"]["one client more works with the server"]
    for ledger in folder.glob("state/*/ledger/*.jsonl"):
        assert ledger.read_text().count('"kind": "spend"') == 2
    assert (run / "export/student.onnx").is_file()
    assert (run / "report.html").is_file()
    found = {one["name"]: one["verdict"] for one in read_json(run / "audit.json")["findings"]}
    assert set(found.values()) == {"not contradicted"}
    expected = {"books: settings", "norm of a client's vector", "sensitivity search, trained weights"}
    assert expected <= set(found)


def look_often(look: Callable[[], None], seconds: float = 600.0) -> None:
    """Until it raises, or the time is over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        look()
        time.sleep(0.1)


def test_a_site_that_ends_is_told_with_the_last_of_its_log(tmp_path: Path) -> None:
    """Its script is broken, as where a program is missing; the server does not wait for it in vain."""
    from server.deploy.description import example_deployment
    from server.deploy.kit_processes import free_port, running
    from server.deploy.kits import make_kits

    make_kits(example_deployment(), tmp_path / "kits", link_port=free_port())
    start = tmp_path / "kits/sites/south/start.sh"
    start.write_text("#!/bin/sh\necho no such program >&2\nexit 127\n")
    with (
        running(tmp_path / "kits", ["south"], logs=tmp_path / "logs") as look,
        pytest.raises(FederationError, match=r"south ended with 127\. .*no such program"),
    ):
        look_often(look)
    assert nothing_left_behind(tmp_path)


@pytest.mark.slow
def test_a_trial_with_its_audit_and_bundle(tmp_path: Path) -> None:
    done = in_a_process(tmp_path, "try", "--rounds", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "deploy-trial/runs/first"
    assert (run / "export/student.onnx").is_file()
    assert (run / "report.html").is_file()
    assert {one["verdict"] for one in read_json(run / "audit.json")["findings"]} == {"not contradicted"}


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("init",), 2, "federation.toml does not exist"),
        (("init", "nowhere.toml"), 2, "nowhere.toml does not exist"),
        (("try", "nowhere.toml"), 2, "nowhere.toml does not exist"),
        (("check", "."), 2, "is no kit"),
        (("run", "."), 2, "is no kit"),
        (("status", "."), 2, "is no kit"),
        (("register", "."), 2, "is no kit"),
        (("revoke", ".", "north"), 2, "is no kit"),
        (("renew", "."), 2, "lacks ca.key or ca.crt"),
        (("renew", ".", "--site", "north"), 2, "no site 'north'"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, words: tuple[str, ...], code: int, said: str) -> None:
    done = edgecmd("deploy", *words, folder=tmp_path)
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_from_the_example_to_kits(tmp_path: Path) -> None:
    (tmp_path / "federation.toml").write_text(edgecmd("deploy", "example", folder=tmp_path).stdout)
    done = edgecmd("deploy", "init", "--tar", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "kits/sites/north.tar.gz").is_file()
    # The example's pairs are on another machine.
    trial = edgecmd("deploy", "try", "federation.toml", folder=tmp_path)
    assert trial.returncode == 2
    assert "Site north has data-dir='/srv/pairs', which is no folder on this machine" in trial.stderr
    assert not (tmp_path / "deploy-trial").exists()
    checked = edgecmd("deploy", "check", "kits/sites/north", "--json", folder=tmp_path)
    assert checked.returncode == 5
    found = {one["name"]: one["ok"] for one in json.loads(checked.stdout)["checks"]}
    assert found["files"]
    assert not found["server"]
    for words in (("run", "kits/server"), ("status", "kits/server")):
        done = edgecmd("deploy", *words, folder=tmp_path)
        assert done.returncode == 5
        assert "nobody listens there" in done.stderr
    assert "give the server's" in edgecmd("deploy", "run", "kits/sites/north", folder=tmp_path).stderr
