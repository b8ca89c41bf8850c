"""A bundle in other engines: a wrong answer is caught with its size, a crash is a line that failed."""

import importlib.util
import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from edgecmd.core.errors import ConfigError, ExportError
from export.engines import engine_check, engine_table
from export.engines.engine_check import (
    EQUAL,
    FAILED,
    MISSING,
    WRONG,
    EngineError,
    check_engines,
    choose_engines,
    refuse_engines,
)
from export.engines.engine_process import run_process
from export.engines.engine_table import ENGINES, OLD_ONNXRUNTIME, REFERENCE, Engine, Found
from export.graph.frontends import at_uneven_sizes
from tests.command_line import run

# Runs ONNX Runtime as the real worker does, then does something else.
START = f"""
import json, os, pathlib, sys
sys.path.insert(0, {str(engine_table.HERE)!r})
import engine_worker
job = json.loads(sys.argv[1])
job["engine"] = "onnxruntime"
"""
ANSWER = (
    START
    + """
engine_worker.main(json.dumps(job))
path = pathlib.Path(job["folder"]) / "result.json"
result = json.loads(path.read_text())
result["version"] = "9.9"
CHANGE
path.write_text(json.dumps(result))
"""
)
BY = 0.25
OFF = f'result["cases"][-1]["outputs"]["embedding"][0][2] += {BY}'


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Put a made-up engine into the table, beside ONNX Runtime alone."""

    def put(program, name="fake", files=("whole", "core")):
        path = tmp_path / f"{name}.py"
        path.write_text(program)
        found = Found(command=(sys.executable, "-I", str(path)), job={"packages": ""})
        table[name] = Engine(title=name.title(), install="nowhere", find=lambda _: found, files=files)

    table = {REFERENCE: ENGINES[REFERENCE]}
    monkeypatch.setattr(engine_check, "ENGINES", table)
    return put


def test_onnx_runtime_is_equal_on_both_files_at_golden_and_uneven_sizes(cored, fake):
    whole, core = check_engines(cored("ws-50k"))
    assert (whole.file, core.file) == ("whole", "core")
    for one in (whole, core):
        assert one.verdict == EQUAL
        assert one.largest <= 1e-5
        assert one.version
        for size in ("64x64", "100x80", "17x81", "81x17"):
            assert size in one.detail
    assert whole.detail.startswith("on 32x32, 81x17")
    refuse_engines([whole, core])


@pytest.mark.parametrize("kind", ["depth16", "wave"])
def test_depth_maps_and_recordings_are_tried_too(cored, fake, kind):
    tried = check_engines(cored(kind))
    assert [one.verdict for one in tried] == [EQUAL, EQUAL]
    assert ("on golden" if kind == "wave" else "100x80") in tried[1].detail


def test_an_engine_that_answers_wrongly_is_caught_with_its_size(cored, fake):
    fake(ANSWER.replace("CHANGE", OFF))
    tried = check_engines(cored("ws-50k"), only="fake")
    for one in tried:
        assert one.verdict == WRONG
        assert one.largest == pytest.approx(BY, abs=1e-5)
        assert one.version == "9.9"
        assert "embedding differs by 0.25 on 81x17" in one.detail
    with pytest.raises(EngineError, match=r"2 of 2 .*Fake \(whole\) wrong: embedding differs by 0.25 on"):
        refuse_engines(tried)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ('result["cases"][0]["outputs"]["scores"][0][0] = None', "scores differs by inf on 32x32"),
        ('del result["cases"][0]["outputs"]["scores"]', "scores differs by inf on 32x32"),
        ('result["cases"][0]["outputs"]["embedding"].pop()', "embedding differs by inf on 32x32"),
    ],
)
def test_what_is_not_finite_missing_or_of_another_shape_is_wrong(cored, fake, change, words):
    fake(ANSWER.replace("CHANGE", change), files=("whole",))
    (one,) = check_engines(cored("ws-50k"), only="fake")
    assert (one.verdict, one.largest) == (WRONG, float("inf"))
    assert one.record()["largest"] is None
    assert words in one.detail


def test_the_largest_of_several_differences_is_told(cored, fake):
    less = 'result["cases"][0]["outputs"]["embedding"][0][0] += 0.125'
    fake(ANSWER.replace("CHANGE", f"{less}\n{OFF}"), files=("whole",))
    (one,) = check_engines(cored("ws-50k"), only="fake")
    assert one.largest == pytest.approx(BY, abs=1e-5)
    assert "differs by 0.25" in one.detail


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (START + "os.kill(os.getpid(), 11)", "it crashed with signal 11 (SIGSEGV)"),
        (START + "raise ValueError('no such operator')", "ValueError: no such operator"),
        (START, "it ended without an answer (FileNotFoundError"),
        (ANSWER.replace("CHANGE", 'result["cases"] = []'), "0 answers to"),
        (ANSWER.replace("CHANGE", "result = 7"), "it ended without an answer (TypeError"),
        (
            ANSWER.replace("CHANGE", 'result["cases"][1] = {"reason": "Resize\\x1b[31m fails"}'),
            r"on an input of 81x17: Resize\x1b[31m fails",
        ),
    ],
)
def test_an_engine_that_crashes_is_a_line_that_failed(cored, fake, program, words):
    fake(program, "bad", files=("whole",))
    fake(ANSWER.replace("CHANGE", ""), "good", files=("whole",))
    (bad,) = check_engines(cored("ws-50k"), only="bad")
    assert bad.verdict == FAILED
    assert words in bad.detail
    (good,) = check_engines(cored("ws-50k"), only="good")
    assert good.verdict == EQUAL
    with pytest.raises(EngineError, match=r"1 of 2 engines and files do not give .*: Bad \(whole\) failed"):
        refuse_engines([bad, good])


def test_an_engine_that_hangs_is_ended(tmp_path):
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    told = run_process(command, tmp_path, timeout_s=0.5)
    assert told == "no answer within 0.5 seconds (--timeout)"


def alive(stat):
    """Whether a process is there and has not ended; a signal takes a moment."""
    try:
        return stat.read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="this system has no /proc")
def test_what_an_engine_leaves_running_is_ended_with_it(tmp_path):
    program = tmp_path / "parent.py"
    program.write_text(
        "import subprocess, sys, pathlib\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "pathlib.Path(sys.argv[1]).write_text(str(child.pid))\n"
    )
    told = tmp_path / "pid"
    assert run_process([sys.executable, str(program), str(told)], tmp_path, timeout_s=60.0) == ""
    stat, deadline = Path(f"/proc/{told.read_text()}/stat"), time.monotonic() + 60
    while alive(stat) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(stat)


def test_an_engine_that_is_not_here_is_listed_with_how_to_get_it_and_is_no_fault(cored, fake, monkeypatch):
    absent = Engine(
        title="Absent", install="pip install absent", find=engine_table.python_engine("no_such", name="x")
    )
    monkeypatch.setitem(engine_check.ENGINES, "absent", absent)
    tried = check_engines(cored("ws-50k"), only="absent")
    assert [(one.verdict, one.detail, one.largest) for one in tried] == [
        (MISSING, "pip install absent", None)
    ] * 2
    refuse_engines(tried)


def test_a_bundle_without_a_core_is_tried_as_a_whole(bundle, fake):
    assert [one.file for one in check_engines(bundle("ws-50k"))] == ["whole"]


def test_engines_and_files_are_chosen_by_name():
    assert choose_engines("mnn:core, openvino") == [
        ("mnn", "core"),
        ("openvino", "whole"),
        ("openvino", "core"),
    ]
    assert [name for name, _ in choose_engines("")][::2][:3] == ["onnxruntime", "oldest", "openvino"]
    with pytest.raises(ConfigError, match=r"--only='mn'.*Did you mean 'mnn'"):
        choose_engines("mn")
    with pytest.raises(ConfigError, match=r"--only='litert:whole': litert is tried on core"):
        choose_engines("litert:whole")


def test_every_row_says_how_to_get_it_and_none_is_needed():
    requirements = Path(__file__).parents[2] / "pyproject.toml"
    text = requirements.read_text(encoding="utf-8")
    extra = next(line for line in text.splitlines() if line.startswith("engines = "))
    for name in ("MNN", "tract", "openvino", "ai-edge-litert"):
        assert f'"{name}>=' in extra
    for one in ENGINES.values():
        assert one.install
        assert set(one.files) <= {"whole", "core"}
    assert not {"MNN", "tract", "openvino", "ai_edge_litert"} & set(sys.modules)


def test_a_folder_without_an_old_runtime_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv(OLD_ONNXRUNTIME, str(tmp_path))
    with pytest.raises(
        ExportError, match=r"EDGECMD_OLD_ONNXRUNTIME=.* has no onnxruntime in it.*pip install"
    ):
        ENGINES["oldest"].find(tmp_path)
    (tmp_path / "onnxruntime").mkdir()
    assert ENGINES["oldest"].find(tmp_path).job["packages"] == str(tmp_path)
    monkeypatch.delenv(OLD_ONNXRUNTIME)
    assert ENGINES["oldest"].find(tmp_path) is None


def test_uneven_sizes_are_no_multiples_of_the_students(cored):
    with np.load(cored("ws-50k") / "golden.npz") as golden:
        sizes = at_uneven_sizes(golden["image"], "image")
    assert {name: one.shape for name, one in sizes.items()} == {
        name: (1, *map(int, name.split("x")), 1) for name in ("64x64", "100x80", "17x81", "81x17")
    }
    assert {name: one.shape for name, one in at_uneven_sizes(np.zeros((3, 400)), "wave").items()} == {
        "601": (1, 601),
        "299": (1, 299),
    }


def test_the_command_prints_the_table_and_ends_with_6_at_a_mismatch(cored, fake, monkeypatch, capsys):
    folder = cored("ws-50k")
    assert run(monkeypatch, "verify", folder, "--engines") == 0
    text = capsys.readouterr().out
    assert "Engines, each in a process of its own" in text
    assert text.count(" equal ") == 2
    fake(ANSWER.replace("CHANGE", OFF))
    assert run(monkeypatch, "verify", folder, "--only", "fake:core,onnxruntime:core", "--json") == 6
    out, err = capsys.readouterr()
    told = {one["engine"]: one for one in json.loads(out)["engines"]}
    assert (told["fake"]["verdict"], told["onnxruntime"]["verdict"]) == (WRONG, EQUAL)
    assert "Fake (core) wrong: embedding differs by 0.25" in err
    assert run(monkeypatch, "verify", folder, "--only", "none") == 2


REAL = {"openvino": "openvino", "mnn": "MNN", "tract": "tract"}


@pytest.mark.parametrize("name", REAL)
def test_the_core_is_equal_in_a_real_engine(cored, name):
    if importlib.util.find_spec(REAL[name]) is None:
        pytest.skip(f"{REAL[name]} is not installed")
    (one,) = check_engines(cored("ws-50k"), only=f"{name}:core")
    assert one.verdict == EQUAL, one.detail
    assert one.largest <= 1e-5


def test_the_core_and_the_whole_are_equal_in_wasm(cored, ort_web, monkeypatch):
    monkeypatch.setenv("EDGECMD_ORT_WEB", str(ort_web))
    if ENGINES["web"].find(Path()) is None:
        pytest.skip("Node is not installed")
    assert [one.verdict for one in check_engines(cored("ws-50k"), only="web")] == [EQUAL, EQUAL]


def test_the_core_is_equal_with_webgpu(cored):
    if ENGINES["webgpu"].find(Path()) is None:
        pytest.skip("Chromium or the whole of onnxruntime-web is not installed")
    (one,) = check_engines(cored("ws-50k"), only="webgpu:core")
    assert one.verdict == EQUAL, one.detail
