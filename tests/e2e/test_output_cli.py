"""Outputs as a shell gives them to a command: closed, full, gone, of another code page; and bad words."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgecmd.config.reader import to_toml
from edgecmd.config.schema import RunConfig
from tests.command_line import QUIET, run, take_interrupts


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """What bash makes of ``line``, in which ``edgecmd`` is this one."""
    words = f'edgecmd() {{ "{sys.executable}" -m edgecmd "$@"; }}; {line}'
    return subprocess.run(
        ["bash", "-c", words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
        errors="surrogateescape",
    )


# A pipe on descriptor 3 whose reader has ended, as that of ``| head -1`` has once it has its line.
GONE = "exec 3> >(true); wait $!;"


@pytest.mark.parametrize(
    ("line", "code", "out", "err"),
    [
        (f"{GONE} edgecmd data list >&3", 141, "", ""),
        (f"{GONE} edgecmd --help >&3", 141, "", ""),
        ("edgecmd --version >&-", 0, "", ""),
        ("edgecmd --version 2>&- <&-", 0, "edgecmd ", ""),
        ("edgecmd frob >&- 2>&-", 2, "", ""),
        ("edgecmd --version >/dev/full", 8, "", "edgecmd: What is printed cannot be written: "),
        ("edgecmd frob 2>/dev/full", 2, "", ""),
    ],
)
def test_outputs_that_are_closed_full_or_gone(line: str, code: int, out: str, err: str) -> None:
    done = shell(line)
    assert done.returncode == code, done.stderr
    assert done.stdout.startswith(out)
    assert done.stderr.startswith(err)
    assert done.stderr.count("\n") == bool(err)


def test_a_file_never_lands_on_the_number_of_a_closed_output(tmp_path: Path) -> None:
    """Else what a library prints would be written into it."""
    done = shell(f"edgecmd init {tmp_path / 'a.toml'} >&- 2>&-")
    assert done.returncode == 0
    assert (tmp_path / "a.toml").read_text().startswith("# Settings")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_names_that_the_code_page_lacks_are_written_out(encoding: str) -> None:
    done = shell("edgecmd report $'/nowhere/\\u2603\\x1b[2J\\xff'", PYTHONIOENCODING=encoding)
    assert done.returncode == 5
    snow = "☃" if encoding == "utf-8" else r"\u2603"
    assert f"/nowhere/{snow}\\x1b[2J\\udcff is not a run folder" in done.stderr
    assert done.stderr.count("\n") == 1


BAD_WORDS = [
    (["run", "--set", "=3"], "names no setting"),
    (["run", "--set", ""], "names no setting"),
    (["run", "--set", "seed"], "--set 'seed' has no value. Write --set seed=value."),
    (["run", "--set", "federation.num_round"], "Did you mean 'federation.num_rounds'?"),
    (["run", "--set", "fedration.num_rounds=3"], "Did you mean 'federation'?"),
    (
        ["run", "--set", "federation.num_rounds="],
        "has an empty value; federation.num_rounds is a whole number",
    ),
    (["run", "--set", "federation=3"], "federation is a section"),
    (["run", "--set", "name=a/b"], "contains a slash"),
    (["run", "--set", "name=.."], "begins or ends with a dot"),
    (["run", "--set", "name="], "is empty"),
    (["run", "--set", "name=" + "n" * 300], "is longer than 200 bytes"),
    (["run", "--set", "name=nul"], "is the name of a device"),
    (["run", "--set", "name=a\u202eb"], "contains invisible characters"),
    (["run", "--json"], "--json is for --dry-run"),
    (["rnu"], "Did you mean 'run'?"),
    (["data", "chek"], "Did you mean 'check'?"),
]


@pytest.mark.parametrize(("words", "message"), BAD_WORDS)
def test_bad_words_are_one_clear_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *words) == 2
    found = capsys.readouterr()
    assert message in found.err
    assert found.err.count("\n") == 1
    assert found.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"seed = 1\nseed = 2\n", r"line 2.*occurs twice"),
        (b"[data]\nname = 'x'\n[data]\n", r"line 3.*occurs twice"),
        (b"seed = \n", "line 1"),
        ("seed = 1\n".encode("utf-16"), "UTF-16"),
        ("seed = 1\n".encode("utf-16-le"), "UTF-16"),
        (b"\xff\xfe\xfd", "is not UTF-8"),
        (b'name = "a\\u0000b"\n', "contains invisible characters"),
        (b'out = "a\\u0000b"\n', "NUL"),
        (b"[dta]\nname = 'x'\n", "Did you mean 'data'"),
        (None, "Is a directory"),
    ],
)
def test_broken_settings_files_name_file_and_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    content: bytes | None,
    message: str,
) -> None:
    path = tmp_path / "a.toml"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    assert run(monkeypatch, "run", "--config", path, "--dry-run") == 2
    err = capsys.readouterr().err
    assert re.search(message, err)
    assert err.count("\n") == 1


def test_help_explains_each_argument_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Some versions of click and typer lose its text together, or escape the brackets for rich."""
    assert run(monkeypatch, "web", "serve", "--help") == 0
    out = capsys.readouterr().out
    assert out.count("Folder that `web build --mode folder` made.  [required]") == 1
    assert out.count("FOLDER") == 2
    assert "\\" not in out


def test_a_mark_at_the_start_of_a_file_is_no_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from edgecmd.config.reader import load_config

    (tmp_path / "a.toml").write_bytes(b"\xef\xbb\xbfseed = 7\r\n")
    assert load_config(tmp_path / "a.toml").seed == 7


def test_a_dry_run_as_json_is_the_plan_and_the_partition(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny: RunConfig, tmp_path: Path
) -> None:
    (tmp_path / "t.toml").write_text(to_toml(tiny), encoding="utf-8")
    for command in ("run", "simulate"):
        assert run(monkeypatch, command, "--config", tmp_path / "t.toml", "--dry-run", "--json") == 0
        found = json.loads(capsys.readouterr().out)
        assert found["rounds"] == {"num": 2, "local_steps": 2, "steps": 4}
        assert found["clients"]["num"] == len(found["partition"]) == 4
        assert sum(found["clients"]["pairs"]) == found["data"]["train_pairs"]
        assert found["settings"]["federation.num_clients"] == 4
        assert found["privacy"] == [{"what": "privacy", "value": "no differential privacy"}]
    assert not Path(tiny.out).exists()


def test_doctor_tells_machines_what_there_is_and_tries_its_folders(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGECMD_STATE", str(tmp_path / "file" / "state"))
    assert run(monkeypatch, "doctor", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["cores"] == os.cpu_count()
    assert found["cuda"] in (True, False)
    assert found["memory_bytes"] > 10**8
    assert "torch" in found["packages"]
    assert set(found["folders"]) == {"run", "cache", "state", "data", "temporary"}
    assert found["folders"]["run"]["writable"] is True
    assert found["folders"]["run"]["free_bytes"] > 0
    assert found["folders"]["state"]["writable"] is False
    assert "file is a file, where a folder is needed" in found["folders"]["state"]["problem"]
    assert any("The state folder" in line for line in found["advice"])
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert run(monkeypatch, "doctor") == 0
    assert "is a file, where a folder is needed" in capsys.readouterr().out


def test_ctrl_c_inside_an_exec_has_the_same_exit_code(tmp_path: Path) -> None:
    # Libraries exec text while they are imported; `python -m` then ended by the signal, not with 130.
    (tmp_path / "stopped.py").write_text(
        "import sys\n"
        "from edgecmd.cli import app\n"
        "press = 'import os, signal; os.kill(os.getpid(), signal.SIGINT); [_ for _ in range(1000)]'\n"
        "app._run = lambda words: exec(press)\n"
        "app.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "stopped"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=300,
        preexec_fn=take_interrupts,
    )
    assert done.returncode == 130
    assert done.stderr.startswith("edgecmd: Stopped.")


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_ends_a_run_and_its_workers_with_one_line(
    tiny: RunConfig, tmp_path: Path, workers: int
) -> None:
    (tmp_path / "t.toml").write_text(to_toml(tiny), encoding="utf-8")
    words = [sys.executable, "-c", QUIET, "simulate", "--config", str(tmp_path / "t.toml")]
    words += ["--set", f"federation.num_workers={workers}", "--set", "federation.num_rounds=100000"]
    # A group of its own: Ctrl-C of a terminal reaches every process of it.
    process = subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=take_interrupts,
    )
    folder, end = Path(tiny.out) / "tiny", time.monotonic() + 1200
    try:
        while not list(folder.glob("checkpoints/round-*")):
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=1200)
    finally:
        process.kill()
    assert process.returncode == 130
    lines = err.strip().splitlines()
    assert lines == ["edgecmd: Stopped. Finished work is saved; `edgecmd resume` continues a run."]
    assert not list(folder.rglob("*.tmp"))
