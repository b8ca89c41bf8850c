"""The short samples in Python, JavaScript and C++: one call of the engine, and files that are broken."""

import json
import re
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from browser import find_chromium, open_browser
from sample_programs import LABELS, SAMPLES, compiled, made_up_bundle, node_program, run_python

LANGUAGES = ("python", "node", "cpp")
CASE = "core.6x6."


@pytest.fixture(scope="module")
def in_node(ort_web):
    with node_program(ort_web, name="short/brief.mjs") as run:
        yield run


@pytest.fixture(scope="module")
def cpp(tmp_path_factory):
    return compiled(tmp_path_factory.mktemp("cpp"), name="short/brief.cpp").run


@pytest.fixture(params=LANGUAGES)
def program(request):
    """How to run the short sample of a language; skipped where nothing here runs it."""
    if request.param == "python":
        return partial(run_python, name="short/brief.py")
    return request.getfixturevalue("cpp" if request.param == "cpp" else "in_node")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """Two golden inputs of each of two sizes, with their outputs by numpy."""
    return made_up_bundle(
        tmp_path_factory.mktemp("short") / "bundle", channels=3, fit="squeeze", sizes=[(6, 6), (17, 5)]
    )


def floats(bundle, name):
    return np.fromfile(bundle / f"{CASE}{name}.raw", "<f4").reshape(2, -1)


def test_the_outputs_are_those_of_numpy(program, bundle):
    (said,) = program([[bundle]])
    assert (said.code, said.err) == (0, "")
    gap, allowed = re.match(r"differs by (\S+), allowed (\S+)\n", said.out).groups()
    assert float(gap) <= 1e-5
    assert float(allowed) == 1e-4
    told = re.search(r"^nearest class (\S+) (\S+)$", said.out, re.MULTILINE)
    if told is not None:
        scores = floats(bundle, "scores")[0]
        assert told[1] == LABELS[scores.argmax()]
        assert float(told[2]) == pytest.approx(scores.max(), abs=6e-5)
    else:
        first = [float(one) for one in said.out.splitlines()[-1].removeprefix("first values ").split()]
        assert first == pytest.approx(floats(bundle, "embedding")[0, : len(first)], abs=6e-5)


def test_without_trained_classes_the_first_numbers_are_shown(program, bundle, tmp_path):
    bare = shutil.copytree(bundle, tmp_path / "bare")
    change(bare, lambda record: record["outputs"].pop())
    (bare / "labels.json").unlink()
    (said,) = program([[bare]])
    assert (said.code, said.err) == (0, "")
    first = [float(one) for one in said.out.splitlines()[-1].removeprefix("first values ").split()]
    assert first == pytest.approx(floats(bundle, "embedding")[0, : len(first)], abs=6e-5)


def change(folder, how):
    record = json.loads((folder / "core.json").read_text())
    how(record)
    (folder / "core.json").write_text(json.dumps(record))


def spoil(name, data):
    """Puts bytes in place of a raw file's last ones, or cuts it where there is a number."""

    def do(folder):
        path = folder / f"{CASE}{name}.raw"
        whole = path.read_bytes()
        path.write_bytes(whole[:data] if isinstance(data, int) else whole[: -len(data)] + data)

    return do


# What is done to a bundle, the exit code, and what the sentence says.
BROKEN = {
    "no core": (lambda b: (b / "core.json").unlink(), 2, "core.json"),
    "no json": (lambda b: (b / "core.json").write_text("{"), 2, ""),
    "format": (lambda b: change(b, lambda record: record.update(format="2")), 2, "core.json has format 2"),
    "no tolerance": (lambda b: change(b, lambda record: record.pop("tolerance")), 2, "tolerance|outputs"),
    "no input": (lambda b: (b / f"{CASE}scaled.raw").unlink(), 2, "scaled.raw"),
    "no output": (lambda b: (b / f"{CASE}embedding.raw").unlink(), 2, "embedding.raw"),
    "short input": (spoil("scaled", 100), 2, "scaled"),
    "half an input": (spoil("scaled", 600), 2, "scaled"),
    "one input": (spoil("scaled", 432), 2, "scaled|embedding"),
    "empty input": (spoil("scaled", 0), 2, "scaled"),
    "short output": (spoil("embedding", 12), 2, "embedding"),
    "no model": (lambda b: (b / "student.core.onnx").write_bytes(b"no model"), 2, ""),
    "other output": (spoil("embedding", b"\0\0\x80\x3f"), 6, None),
    "not a number": (spoil("embedding", b"\0\0\xc0\x7f"), 6, None),
    "other input": (spoil("scaled", bytes(400)), 6, None),
}


def test_broken_bundles_get_one_sentence_and_their_code(program, bundle, tmp_path):
    broken = {name: shutil.copytree(bundle, tmp_path / name) for name in BROKEN}
    for name, (do, *_) in BROKEN.items():
        do(broken[name])
    *refused, none = program([*([one] for one in broken.values()), []])
    for (name, (_, code, sentence)), said in zip(BROKEN.items(), refused, strict=True):
        assert said.code == code, (name, said)
        if sentence is None:
            assert (said.out.startswith("differs by "), said.err) == (True, ""), (name, said)
        else:  # OpenVINO logs lines of its own before the sentence.
            line = said.err.splitlines()[-1]
            assert line.startswith("error: this is no bundle that "), (name, said)
            assert re.search(sentence, line), (name, said)
    assert none.code == 2


PAGE = """
import * as ort from "./ort.wasm.bundle.min.mjs";
import { compare } from "./brief.mjs";
const { text, code } = await compare(ort, async (name) => (await fetch(`bundle/${name}`)).arrayBuffer());
document.title = `${code} ${text}`;
"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.mark.slow
def test_a_page_computes_what_node_does(ort_web, bundle, tmp_path):
    chromium = find_chromium()
    if chromium is None:
        pytest.skip("Chromium is not installed")
    shutil.copytree(ort_web, tmp_path, dirs_exist_ok=True)
    shutil.copytree(bundle, tmp_path / "bundle")
    shutil.copy(SAMPLES / "short" / "brief.mjs", tmp_path)
    (tmp_path / "index.html").write_text(f'<script type="module">{PAGE}</script>')
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with open_browser(chromium) as browser:
            browser.open(f"http://127.0.0.1:{server.server_port}/")
            said = browser.wait("document.title")
        server.shutdown()
    scores = floats(bundle, "scores")[0]
    found = re.fullmatch(
        r"0 differs by (\S+), allowed 0.0001 nearest class (\S+) (\S+)", " ".join(said.split())
    )
    assert found is not None, said
    assert float(found[1]) <= 1e-5
    assert found[2] == LABELS[scores.argmax()]


def test_the_short_samples_are_short_and_say_how_they_are_run():
    lines = {}
    for path in (SAMPLES / "short").iterdir():
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            lines[path.name] = text.count("\n")
            assert "BUNDLE" in text[:1500]
            assert path.suffix == ".py" or "// Checked: " in text[:1500]
    assert set(lines) == {"brief.py", "brief.mjs", "brief.cpp", "Brief.kt", "Brief.swift"}
    assert all(num <= (105 if name == "brief.cpp" else 75) for name, num in lines.items()), lines
