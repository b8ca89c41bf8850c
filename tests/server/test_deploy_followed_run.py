"""A deployed run: keys that are registered once, what is followed and said, and how it ends."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgecmd.core.errors import ConfigError, FederationError, MachineError
from server.deploy import followed_run as runs
from server.deploy import link as link_module
from server.deploy.description import example_deployment
from server.deploy.followed_run import register, run_federation, run_folder
from server.deploy.kit_processes import free_port
from server.deploy.kits import make_kits, renew_site
from server.deploy.link import Link, link_of
from server.deploy.standing import status
from tests.command_line import edgecmd

APP = "edgecmd/edgecmd-app"


class Flower:
    """Stands in for Flower's program: the nodes and runs of a SuperLink, and what it was told."""

    def __init__(self, states: list[str]) -> None:
        self.states, self.told = states, []
        self.nodes: dict[str, str] = {}
        self.started: list[str] = []
        self.details = "N/A"
        self.before: Callable[[], None] = lambda: None

    def __call__(self, link: Link, *words: str) -> dict[str, Any]:
        self.told.append(words)
        if words[:2] == ("supernode", "register"):
            node = str(1000 + len(self.told))
            self.nodes[node] = "registered"
            return {"success": True, "node-id": node}
        if words[:2] == ("supernode", "unregister"):
            self.nodes[words[2]] = "unregistered"
            return {"success": True}
        if words[:2] == ("supernode", "ls"):
            at = {"online-at": "2026-11-29 19:00:00Z", "offline-at": "N/A"}
            return {"nodes": [{"node-id": node, "status": state, **at} for node, state in self.nodes.items()]}
        if words[0] == "run":
            self.started.append("77")
            return {"run-id": "77"}
        assert words[0] == "ls"
        if not self.started:
            return {"runs": []}
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        self.before()
        return {"runs": [{"run-id": "77", "fab-id": APP, "status": state, "status-details": self.details}]}


@pytest.fixture
def kits(tmp_path: Path) -> Path:
    from dataclasses import replace

    deployment = example_deployment()
    here = replace(
        deployment, out=tmp_path / "runs", settings={**deployment.settings, "out": str(tmp_path / "runs")}
    )
    make_kits(here, tmp_path / "kits")
    return tmp_path / "kits"


def flower(monkeypatch: pytest.MonkeyPatch, *states: str) -> Flower:
    found = Flower(list(states))
    monkeypatch.setattr(Link, "flwr", lambda link, *words: found(link, *words))
    monkeypatch.setattr(link_module, "health", lambda *_: 0.0)
    for pause in ("LOOK_S", "POLL_S", "ASK_S"):
        monkeypatch.setattr(runs, pause, 0.0)
    return found


def write_round(folder: Path, index: int, **more: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    event = {
        "event": "round",
        "round": index,
        "clients": 2,
        "bytes": 1_500_000,
        "seconds": 3.25,
        "rejected": [],
        **more,
    }
    with (folder / "events.jsonl").open("a") as file:
        file.write(json.dumps(event) + "\n")


def test_keys_are_registered_once(kits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = flower(monkeypatch)
    link = link_of(kits / "server")
    assert link.register() == ["north", "south"]
    assert link.register() == []
    assert [words[:2] for words in found.told] == [("supernode", "register")] * 2
    assert [words[-1] for words in found.told] == ["north", "south"]


def test_a_new_key_takes_the_place_of_the_old_one(kits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = flower(monkeypatch)
    link = link_of(kits / "server")
    link.register()
    old = link.registered()["north"].node
    renew_site(kits, "north")
    assert link.register() == ["north"]
    assert found.nodes[old] == "unregistered"
    assert link.registered()["north"].node != old


def test_a_revoked_key_is_not_registered_again(kits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = flower(monkeypatch)
    link = link_of(kits / "server")
    link.register()
    link.revoke("north")
    assert link.register() == []
    assert found.nodes[link.registered()["north"].node] == "unregistered"
    with pytest.raises(FederationError, match="No key of 'north' is registered. Registered: south"):
        link.revoke("north")
    # With a new key the site may come back.
    renew_site(kits, "north")
    assert link.register() == ["north"]
    assert not link.registered()["north"].revoked


def test_a_key_is_kept_as_soon_as_it_is_registered(kits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second registration fails; the first is not tried again."""
    found = flower(monkeypatch)

    def second_fails(link: Link, *words: str) -> dict[str, Any]:
        if words[-1] == "south":
            raise FederationError("down")
        return found(link, *words)

    monkeypatch.setattr(Link, "flwr", second_fails)
    link = link_of(kits / "server")
    with pytest.raises(FederationError, match="down"):
        link.register()
    assert list(link.registered()) == ["north"]


def test_a_run_is_followed_to_its_end(kits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = flower(monkeypatch, "pending", "running", "running", "running", "finished:completed")
    folder, said, left = run_folder(kits / "server"), [], [1, 2, 3]

    def another_round() -> None:
        node = link_of(kits / "server").registered()["south"].node
        if left and len(found.states) < 4:
            index = left.pop(0)
            more = {"rejected": [{"node": int(node), "reason": "late"}], "clients": 1} if index == 2 else {}
            write_round(folder, index, loss=1.23456, **more)

    found.before = another_round
    assert run_federation(kits / "server", say=said.append) == folder
    assert said == [
        "Registered: north, south.",
        f"Run 77 is submitted; its folder is {folder}.",
        "Flower: pending.",
        "round 1/20  2 sites answered  loss 1.235  1.5 MB  3.2 s",
        "Flower: running.",
        "round 2/20  1 site answered  loss 1.235  1.5 MB  3.2 s; without south (late)",
        "round 3/20  2 sites answered  loss 1.235  1.5 MB  3.2 s",
        "Flower: finished:completed.",
    ]


def test_a_run_that_is_under_way_is_not_started_again(kits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = flower(monkeypatch, "running", "running", "finished:completed")
    found.started.append("77")
    folder, said = run_folder(kits / "server"), []
    write_round(folder, 1, loss=None)
    assert run_federation(kits / "server", say=said.append) == folder
    assert not [words for words in found.told if words[0] == "run"]
    assert "Run 77 is under way with 1 round; following it." in said
    assert not [line for line in said if line.startswith("round")]


def test_rounds_that_a_folder_has_are_not_said_again(kits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that failed after its second round is started again; its log is cut back to the first one."""
    found = flower(monkeypatch, "running", "finished:completed")
    folder, said = run_folder(kits / "server"), []
    for index in (1, 2):
        write_round(folder, index)
    log = folder / "events.jsonl"

    def continued() -> None:
        if len(found.states) == 1:
            log.write_text(log.read_text().splitlines()[0] + "\n")
            write_round(folder, 2)
            write_round(folder, 3)

    found.before = continued
    run_federation(kits / "server", say=said.append)
    assert f"Run 77 is submitted; its folder is {folder}, which has 2 rounds already." in said
    assert [line.split()[1] for line in said if line.startswith("round")] == ["3/20"]


@pytest.mark.parametrize("state", ["finished:failed", "finished:stopped"])
def test_a_run_that_fails_is_an_error_with_flowers_words(
    kits: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    found = flower(monkeypatch, state)
    found.details = "FederationError: too few replies"
    with pytest.raises(FederationError, match="too few replies") as caught:
        run_federation(kits / "server", say=lambda _: None)
    assert state in str(caught.value)
    assert caught.value.exit_code == 5


def test_sites_are_let_in_before_any_run(kits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = flower(monkeypatch, "running")
    assert register(kits / "server") == ["north", "south"]
    assert register(kits / "server") == []
    assert {words[1] for words in found.told} == {"register"}


def test_what_a_look_raises_ends_the_following(kits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a site of a trial has ended; the run itself is not stopped."""
    found = flower(monkeypatch, "running")

    def look() -> None:
        raise FederationError("north ended with 3")

    with pytest.raises(FederationError, match="north ended with 3"):
        run_federation(kits / "server", say=lambda _: None, look=look)
    assert not [words for words in found.told if words[0] == "stop"]


def test_a_run_that_the_link_has_forgotten(kits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = flower(monkeypatch, "running")
    found.before = found.started.clear
    with pytest.raises(FederationError, match="knows no run 77 any more"):
        run_federation(kits / "server", say=lambda _: None)


def test_status(kits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = flower(monkeypatch, "running")
    assert status(kits / "server").sites == {"north": "not registered", "south": "not registered"}
    link = link_of(kits / "server")
    link.register()
    found.nodes[link.registered()["north"].node] = "online"
    link.revoke("south")
    found.started.append("77")
    write_round(run_folder(kits / "server"), 1)
    now = status(kits / "server")
    assert now.sites == {"north": "online since 2026-11-29 19:00:00Z", "south": "revoked"}
    assert now.run is not None
    assert (now.run["status"], now.rounds) == ("running", 1)
    assert now.epsilon == {"north": None, "south": None}


def test_status_shows_what_a_site_lets_the_server_know(kits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flower(monkeypatch, "running")
    link = link_of(kits / "server")
    link.register()
    write_round(run_folder(kits / "server"), 1)
    told = run_folder(kits / "server") / "told-epsilon.json"
    told.write_text(json.dumps({link.registered()["north"].node: {"epsilon": 1.234, "delta": 1e-5}}))
    assert status(kits / "server").epsilon == {"north": {"epsilon": 1.234, "delta": 1e-5}, "south": None}
    as_json = edgecmd("deploy", "status", "server", "--json", folder=kits)
    assert json.loads(as_json.stdout)["epsilon"] == {
        "north": {"epsilon": 1.234, "delta": 1e-5},
        "south": None,
    }
    shown = edgecmd("deploy", "status", "server", folder=kits).stdout
    assert "1.23 at delta 1e-05" in shown
    assert "not told" in shown
    told.write_text("[]")
    assert status(kits / "server").epsilon == {"north": None, "south": None}
    told.write_text("{")
    damaged = edgecmd("deploy", "status", "server", folder=kits)
    assert damaged.returncode == 4
    assert "told-epsilon.json is not valid JSON" in damaged.stderr


def test_a_site_has_no_runs(kits: Path) -> None:
    with pytest.raises(FederationError, match="is the kit of the site north; give the server's"):
        link_of(kits / "sites/north")


@pytest.mark.parametrize(
    "facts",
    [
        "[]",
        "{}",
        '{"role": "server"}',
        '{"role": "site"}',
        '{"role": []}',
        '{"role": "server", "link_port": "x"}',
    ],
)
@pytest.mark.parametrize("command", ["check", "status", "register", "run"])
def test_a_damaged_kit_is_told_so(facts: str, command: str, tmp_path: Path) -> None:
    (tmp_path / "kit.json").write_text(facts)
    done = edgecmd("deploy", command, tmp_path, folder=tmp_path)
    assert done.returncode == 2
    assert "kit.json is damaged: it is not what `edgecmd deploy init` wrote" in done.stderr
    assert [one.name for one in tmp_path.iterdir()] == ["kit.json"]


@pytest.mark.parametrize("content", ["[]", '{"north": 3}', '{"north": {"key": "x"}}'])
def test_a_damaged_list_of_keys_is_told_so(content: str, kits: Path) -> None:
    (kits / "server/state").mkdir()
    (kits / "server/state/nodes.json").write_text(content)
    with pytest.raises(FederationError, match=r"nodes\.json is damaged"):
        link_of(kits / "server").registered()


def test_a_run_folder_is_the_kit_s_where_its_settings_do_not_say_it(kits: Path) -> None:
    before = run_folder(kits / "server")
    for name in ("server.toml", "run.toml"):
        (kits / "server" / name).write_text("")
    assert run_folder(kits / "server") == before


def test_no_kit(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no kit"):
        link_of(tmp_path)


def test_what_flowers_program_says_is_passed_on(
    kits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "flwr"
    script.write_text(
        '#!/bin/sh\necho "a line"; echo \'{"success": false, "error-message": "no such node"}\'; exit 1\n'
    )
    script.chmod(0o755)
    monkeypatch.setattr(link_module, "program", lambda _: str(script))
    monkeypatch.setattr(link_module, "health", lambda *_: 0.0)
    with pytest.raises(FederationError, match="`flwr supernode ls` failed and said: no such node"):
        link_of(kits / "server").nodes()


def test_a_link_that_is_gone_is_told_in_plain_words(
    kits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where it is killed while a run is followed; Flower's words name neither the place nor a way out."""
    script = tmp_path / "flwr"
    script.write_text("#!/bin/sh\necho 'Connection to the SuperLink is unavailable.'; exit 1\n")
    script.chmod(0o755)
    monkeypatch.setattr(link_module, "program", lambda _: str(script))
    gone = Link(kit=kits / "server", port=free_port())
    facts = json.loads((kits / "server/kit.json").read_text()) | {"link_port": gone.port}
    (kits / "server/kit.json").write_text(json.dumps(facts))
    with pytest.raises(FederationError, match=rf"^localhost:{gone.port}: nobody listens there\. Start the"):
        gone.runs()


@pytest.mark.parametrize("output", ["", "no json", "{", "[1]"])
def test_an_answer_that_is_none(
    kits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    script = tmp_path / "flwr"
    script.write_text(f"#!/bin/sh\necho '{output}'\n")
    script.chmod(0o755)
    monkeypatch.setattr(link_module, "program", lambda _: str(script))
    monkeypatch.setattr(link_module, "health", lambda *_: 0.0)
    with pytest.raises(FederationError, match="failed and said"):
        link_of(kits / "server").runs()


def test_the_programs_connection_is_to_loopback_with_the_kits_authority(
    kits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "flwr"
    script.write_text(
        '#!/bin/sh\ncat "$FLWR_HOME/config.toml" >&2; echo "telemetry=$FLWR_TELEMETRY_ENABLED" >&2; exit 3\n'
    )
    script.chmod(0o755)
    monkeypatch.setattr(link_module, "program", lambda _: str(script))
    monkeypatch.setattr(link_module, "health", lambda *_: 0.0)
    with pytest.raises(FederationError) as caught:
        link_of(kits / "server").nodes()
    said = str(caught.value)
    assert 'address = "127.0.0.1:18001"' in said
    assert f'root-certificates = "{kits / "server/ca.crt"}"' in said
    assert "telemetry=0" in said
    assert "insecure" not in said


def test_a_program_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MachineError, match="flwr-none is not installed"):
        link_module.program("flwr-none")


def test_flower_is_asked_rarely_between_rounds(kits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine looks a second apart while a round is waited for: the log answers them, Flower's program one."""
    found, seconds = flower(monkeypatch, "running", "running", "finished:completed"), [0.0]
    folder = run_folder(kits / "server")
    monkeypatch.setattr(runs, "LOOK_S", 1.0)
    monkeypatch.setattr(runs, "ASK_S", 10.0)
    monkeypatch.setattr(runs.time, "monotonic", lambda: seconds[0])

    def sleep(pause: float) -> None:
        seconds[0] += pause
        if seconds[0] == 1.0:
            write_round(folder, 1)

    monkeypatch.setattr(runs.time, "sleep", sleep)
    run_federation(kits / "server", say=[].append)
    # Before it is submitted, after that, before the first round is in the log, and ten seconds later.
    assert [words[0] for words in found.told].count("ls") == 4
    assert seconds[0] == pytest.approx(11.0)
