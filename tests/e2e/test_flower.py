"""The two apps under Flower itself: the bundle, its settings, and the Ray simulation bit by bit."""

import importlib.util
import json
import subprocess
import sys
import time
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from flwr.app import Context, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.config import flatten_dict, fuse_dicts
from flwr.serverapp import ServerApp

from clients.app import app as client_app
from edgecmd.config.file_settings import VARIABLE
from edgecmd.config.reader import flatten, load_config, unflatten
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError
from edgecmd.core.files import read_json
from server.app import app as server_app
from server.app import is_simulated
from server.local_grid import local_grid
from tests.flower_processes import BIN, ROOT, answers, environment, flwr, free_port
from tests.flower_table import PYPROJECT, written
from tests.tiny_federation import contexts, simulate, tiny_config

NUM_CLIENTS = 4
SETTINGS = {
    "data.image_size": 32,
    "device": "cpu",
    "federation.num_clients": NUM_CLIENTS,
    "federation.num_rounds": 3,
    "federation.client_fraction": 0.75,
    "federation.strategy": "fedadam",
    "federation.server_learning_rate": 0.1,
    "distill.keep_optimizer": True,
    "name": "ray",
}


def app_table() -> dict[str, object]:
    table: dict[str, object] = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["tool"]["flwr"]["app"]
    return table


def test_pyproject_lists_every_setting_with_its_default() -> None:
    """Flower refuses a key that is not listed, and gives the apps the listed value of every other."""
    config = flatten_dict(app_table()["config"])  # type: ignore[arg-type]
    expected = flatten(RunConfig())
    assert config == expected, "Run `python -m tests.flower_table`."
    assert list(config) == list(expected)
    assert {name: type(value) for name, value in config.items()} == {
        name: type(value) for name, value in expected.items()
    }
    assert unflatten(config) == RunConfig().resolved()


def test_the_table_is_as_it_would_be_written() -> None:
    text = PYPROJECT.read_text(encoding="utf-8")
    assert written(text) == text


def test_overrides_of_flower_reach_the_settings() -> None:
    given: dict[str, object] = {"federation.num_rounds": 3, "evaluate.num_labels": "1,5", "data.path": "/a b"}
    fused = fuse_dicts(flatten_dict(app_table()["config"]), given)  # type: ignore[arg-type,type-var]
    config = unflatten(fused)
    assert (config.federation.num_rounds, config.evaluate.num_labels) == (3, (1, 5))
    assert config.data.path == "/a b"
    with pytest.raises(ValueError, match="not present"):
        fuse_dicts(flatten_dict(app_table()["config"]), {"distill.typo": 1})  # type: ignore[arg-type,type-var]


def test_contexts_of_the_local_grid_hold_what_flower_gives() -> None:
    """The same scalars by the same keys, so that the apps cannot tell the runtimes apart."""
    config = RunConfig()
    context = contexts(config)[103]
    # What `auto` stands for is settled before anything is sent.
    settled = {"distill.loss": config.resolved().distill.loss}
    assert context.run_config == flatten_dict(app_table()["config"]) | settled  # type: ignore[arg-type]
    assert context.node_config == {"partition-id": 3, "num-partitions": config.federation.num_clients}


def test_the_components_are_the_apps() -> None:
    assert app_table()["components"] == {"serverapp": "server.app:app", "clientapp": "clients.app:app"}
    assert isinstance(client_app, ClientApp)
    assert isinstance(server_app, ServerApp)


def server_context(run_config: dict[str, object]) -> Context:
    flat = flatten(RunConfig()) | run_config
    return Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=flat)  # type: ignore[arg-type]


def test_the_server_app_runs_what_the_run_config_says(pairs: Path, tmp_path: Path) -> None:
    config = tiny_config(pairs, tmp_path / "app")
    with local_grid(client_app, contexts(config)) as grid:
        server_app(grid, server_context(dict(flatten(config))))
    simulate(tiny_config(pairs, tmp_path / "direct"))
    found, expected = (
        (tmp_path / way / "tiny" / "student.safetensors").read_bytes() for way in ("app", "direct")
    )
    assert found == expected


def test_the_server_s_own_file_lies_over_the_run_config_there_alone(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the nodes are sent names no file; the server evaluates on the set that its own file names."""
    config = tiny_config(pairs, tmp_path / "clients", "evaluate.every_rounds=3")
    file = tmp_path / "server.toml"
    file.write_text(f'out = "{tmp_path}/runs"\n[data]\npath = "{pairs}"\n')
    monkeypatch.setenv(VARIABLE, str(file))
    sent = dict(flatten(config)) | {"out": "/nowhere", "data.path": "/nowhere"}
    with local_grid(client_app, contexts(config)) as grid:
        server_app(grid, server_context(sent))
    folder = tmp_path / "runs" / "tiny"
    simulate(tiny_config(pairs, tmp_path / "direct", "evaluate.every_rounds=3"))
    expected = (tmp_path / "direct" / "tiny" / "student.safetensors").read_bytes()
    assert (folder / "student.safetensors").read_bytes() == expected
    assert read_json(folder / "federation.json")["runtime"] == "flower"
    file.write_text("[federation]\nnum_rounds = 1\n")
    with local_grid(client_app, {}) as grid, pytest.raises(ConfigError, match="federation.num_rounds"):
        server_app(grid, server_context(sent))


def test_flower_s_simulation_is_told_from_a_deployment() -> None:
    """The grid's class is not documented: this fails where it moves."""
    from flwr.superlink.grid import HttpGrid, InMemoryGrid

    assert is_simulated(InMemoryGrid.__new__(InMemoryGrid))
    assert not is_simulated(HttpGrid.__new__(HttpGrid))


def test_the_server_app_refuses_a_relative_folder() -> None:
    with (
        local_grid(client_app, {}) as grid,
        pytest.raises(ConfigError, match="out='runs' must be an absolute path"),
    ):
        server_app(grid, server_context({"out": "runs"}))


def test_the_bundle_holds_every_module_that_the_apps_need(tmp_path: Path) -> None:
    """Its sources alone must import: .gitignore and Flower's own rules leave files out."""
    flwr(tmp_path / "home", "build", "--app", str(ROOT), folder=tmp_path)
    (bundle,) = tmp_path.glob("*.fab")
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(tmp_path / "app")
        names = set(archive.namelist())
    own = {
        str(path.relative_to(ROOT))
        for package in ("edgecmd", "clients", "server")
        for path in (ROOT / package).rglob("*.py")
    }
    assert own <= names
    assert {Path(name).suffix for name in names} <= {".py", ".toml", ".md", ""}
    done = subprocess.run(
        [
            *(sys.executable, "-c"),
            "import server.app, server.federation, clients.app, clients.work;"
            "import edgecmd.data.user_files.folder as one; from edgecmd.datasets.emoji import load_emoji;"
            "from edgecmd.settings import DataConfig;"
            "print(one.__file__, len(load_emoji(DataConfig(image_size=16)).train))",
        ],
        cwd=tmp_path / "app",
        env=environment(tmp_path / "home"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    path, num_pairs = done.stdout.split()
    assert Path(path).is_relative_to(tmp_path / "app")
    assert int(num_pairs) > 1000


@pytest.fixture
def superlink(tmp_path: Path) -> Iterator[Path]:
    """Flower's server in simulation mode on a port of its own; ends with the test."""
    home, port = tmp_path / "home", free_port()
    home.mkdir()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "own"\n\n[superlink.own]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    words = ["--insecure", "--simulation", "--isolation", "subprocess", "--host", "127.0.0.1"]
    with (tmp_path / "superlink.log").open("w") as log:
        process = subprocess.Popen(
            [str(BIN / "flower-superlink"), *words, "--port", str(port)],
            env=environment(home),
            stdout=log,
            stderr=log,
        )
    try:
        end = time.monotonic() + 600
        while not answers(port):
            assert process.poll() is None, (tmp_path / "superlink.log").read_text()
            assert time.monotonic() < end
            time.sleep(0.2)
        yield home
    finally:
        process.terminate()
        process.wait(timeout=600)


@pytest.fixture
def ray_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two nodes of Ray with one core each; what is started afterwards joins them."""
    port = free_port()
    start = [str(BIN / "ray"), "start", "--block", "--num-cpus=1", "--node-ip-address=127.0.0.1"]
    nodes = [[*start, "--head", f"--port={port}", "--include-dashboard=false"]]
    nodes += [[*start, f"--address=127.0.0.1:{port}"]]
    processes: list[subprocess.Popen[bytes]] = []
    try:
        with (tmp_path / "ray.log").open("w") as log:
            for words in nodes:
                environ = environment(tmp_path / "home")
                processes.append(subprocess.Popen(words, env=environ, stdout=log, stderr=log))
                end = time.monotonic() + 600
                while (tmp_path / "ray.log").read_text().count("Ray runtime started.") < len(processes):
                    assert processes[-1].poll() is None, (tmp_path / "ray.log").read_text()
                    assert time.monotonic() < end
                    time.sleep(0.5)
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
        yield
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(timeout=600)


ONE_ACTOR = "client-resources-num-cpus=2 init-args-num-cpus=2"


def outcome(
    home: Path, settings: dict[str, object], *, resources: str = ONE_ACTOR, patience_s: float = 280
) -> dict[str, str]:
    """Run the federation, on one actor at a time where nothing else is said, and wait for its end."""
    config = " ".join(f"{name}={json.dumps(value)}" for name, value in settings.items())
    resources = f"num-supernodes={NUM_CLIENTS} {resources}"
    flwr(home, "run", ".", "--run-config", config, "--federation-config", resources)
    end = time.monotonic() + patience_s
    while True:
        (*_, newest) = sorted(json.loads(flwr(home, "ls", "--format", "json"))["runs"], key=started)
        if newest["status"].startswith("finished"):
            return dict(newest)
        assert time.monotonic() < end, newest
        time.sleep(2)


def started(run: dict[str, str]) -> str:
    return run["pending-at"]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs edgecmd[ray]")
def test_ray_gives_the_bytes_of_the_local_grid(superlink: Path, tmp_path: Path) -> None:
    """Three of four clients a round, FedAdam, optimisers kept: node ids are random in Flower."""
    under_flower = SETTINGS | {"out": str(tmp_path / "flower")}
    done = outcome(superlink, under_flower)
    assert done["status"] == "finished:completed", f"{done}\n{log_of(tmp_path)}"
    overrides = [f"{name}={json.dumps(value)}" for name, value in SETTINGS.items()]
    simulate(load_config(None, [*overrides, f'out="{tmp_path / "local"}"']))
    found, expected = (
        (tmp_path / runtime / "ray" / "student.safetensors").read_bytes() for runtime in ("flower", "local")
    )
    assert found == expected

    failed = outcome(superlink, SETTINGS | {"name": "relative"})
    assert failed["status"] == "finished:failed"
    assert not list(superlink.rglob("student.safetensors"))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs edgecmd[ray]")
def test_a_cluster_of_two_nodes_gives_the_same_bytes(
    ray_cluster: None, superlink: Path, tmp_path: Path
) -> None:
    """A core a node and a core an actor: the clients are served on both."""
    settings = SETTINGS | {"name": "cluster", "out": str(tmp_path / "flower")}
    done = outcome(superlink, settings, resources="client-resources-num-cpus=1", patience_s=1800)
    assert done["status"] == "finished:completed", f"{done}\n{log_of(tmp_path)}"
    overrides = [f"{name}={json.dumps(value)}" for name, value in settings.items() if name != "out"]
    simulate(load_config(None, [*overrides, f'out="{tmp_path / "local"}"']))
    found, expected = (
        (tmp_path / runtime / "cluster" / "student.safetensors").read_bytes()
        for runtime in ("flower", "local")
    )
    assert found == expected


def log_of(folder: Path) -> str:
    return (folder / "superlink.log").read_text()[-5000:]
