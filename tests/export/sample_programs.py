"""The samples as programs: what runs or compiles them here, and a made-up bundle that needs no torch.

Shapes: S side of what the student sees, D embedding dimension, K classes.
"""

import contextlib
import importlib.util
import io
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
import plain_front
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.profiles.core import SAMPLES

ORT_INCLUDE = "EDGECMD_ORT_INCLUDE"
NO_ENGINE = f"no headers of an engine: pip install openvino, or name ONNX Runtime's in {ORT_INCLUDE}"
SIDE, DIM, LABELS = 6, 5, ("cup", "caf\u00e9", "box")


class Said(NamedTuple):
    """What a program left."""

    code: int
    out: str
    err: str


# Each call of the program is a list of words; several calls at once, since a start costs most.
Program = Callable[[Sequence[Sequence[object]]], list[Said]]


def python_sample(name: str) -> ModuleType:
    """A Python sample as a module."""
    spec = importlib.util.spec_from_file_location(f"sample_{Path(name).stem}", SAMPLES / name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_python(calls: Sequence[Sequence[object]], *, name: str = "embed.py") -> list[Said]:
    """A Python sample, within this process."""
    main, said = python_sample(name).main, []
    for words in calls:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([str(word) for word in words])
        said.append(Said(code, out.getvalue(), err.getvalue()))
    return said


# One process for all calls: to start the runtime costs most.
CALLS = """
import { createInterface } from "node:readline";
const { main } = await import(process.argv.splice(1)[0]); // as a module: it is not the program that is run
for await (const line of createInterface({ input: process.stdin })) {
  const said = [];
  for (const words of JSON.parse(line)) {
    const out = [], err = [];
    console.log = (text) => out.push(`${text}\\n`);
    console.error = (text) => err.push(`${text}\\n`);
    said.push([await main(words), out.join(""), err.join("")]);
  }
  process.stdout.write(`${JSON.stringify(said)}\\n`);
}
"""


def _node(ort_web: Path) -> tuple[list[str], dict[str, str]]:
    """The command that takes a module's text and its words, and what it finds around it."""
    program = shutil.which("node")
    if program is None:
        pytest.skip("Node is not installed")
    return [program, "--input-type=module", "-e"], {**os.environ, "EDGECMD_ORT_WEB": str(ort_web)}


def node(script: str, *words: object, ort_web: Path) -> str:
    """What a module of Node prints; its words are process.argv[1] and on."""
    command, environment = _node(ort_web)
    given = [*command, script, *map(str, words)]
    done = subprocess.run(given, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextlib.contextmanager
def node_program(ort_web: Path, *, name: str = "embed.mjs") -> Iterator[Program]:
    """A JavaScript sample, all calls in one process that ends with the block."""
    command, environment = _node(ort_web)
    sample = (SAMPLES / name).as_uri()
    with subprocess.Popen(
        [*command, CALLS, sample],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    ) as process:
        to, answers = process.stdin, process.stdout
        assert to is not None
        assert answers is not None

        def run(calls: Sequence[Sequence[object]]) -> list[Said]:
            to.write(json.dumps([[str(word) for word in call] for call in calls]) + "\n")
            to.flush()
            return [Said(*one) for one in json.loads(answers.readline())]

        yield run
        to.close()


def processes(command: Sequence[str], environment: dict[str, str]) -> Program:
    """A program, each call in a process of its own."""

    def run(calls: Sequence[Sequence[object]]) -> list[Said]:
        said = []
        for words in calls:
            given = [*command, *map(str, words)]
            done = subprocess.run(given, env=environment, capture_output=True, text=True, check=False)
            said.append(Said(done.returncode, done.stdout, done.stderr))
        return said

    return run


class Compiled(NamedTuple):
    """A C++ sample, and the engine that it was compiled with; empty for none."""

    engine: str
    run: Program


def compiled(folder: Path, *, name: str = "embed.cpp") -> Compiled:
    """Compile a C++ sample: with ONNX Runtime's headers if they are named, else OpenVINO's, else without.

    Its shared library is that of the Python package in both cases.
    """
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed")
    engine, words = "", list[str]()
    if os.environ.get(ORT_INCLUDE):
        engine, (library,) = (
            "onnxruntime",
            (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"),
        )
        for link in ("libonnxruntime.so", "libonnxruntime.so.1"):
            (folder / link).symlink_to(library)
        words = ["-isystem", os.environ[ORT_INCLUDE], f"-L{folder}", "-lonnxruntime", f"-Wl,-rpath,{folder}"]
    elif (found := importlib.util.find_spec("openvino")) is not None and found.origin is not None:
        engine, root = "openvino", Path(found.origin).parent
        (library,) = (root / "libs").glob("libopenvino.so.*")
        words = ["-isystem", str(root / "include"), str(library), f"-Wl,-rpath,{root / 'libs'}"]
    elif name != "embed.cpp":
        pytest.skip(NO_ENGINE)
    strict = ["-std=c++17", "-O0", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    command = [compiler, *strict, str(SAMPLES / name), "-o", str(folder / "program"), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Compiled(engine, processes([str(folder / "program")], dict(os.environ)))


def model(channels: int) -> tuple[bytes, Callable[[np.ndarray], dict[str, np.ndarray]]]:
    """A core of one layer, and what it computes, with numpy in float64."""
    coins, size = np.random.default_rng(3), channels * SIDE * SIDE
    layer, head = coins.normal(size=(size, DIM)) / np.sqrt(size), coins.normal(size=(DIM, len(LABELS)))
    bias = coins.normal(size=DIM)  # no feature is near 0, so no engine's rounding is enlarged
    nodes = [
        helper.make_node("Flatten", ["scaled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "layer", "bias"], ["feature"]),
        helper.make_node("LpNormalization", ["feature"], ["embedding"]),
        helper.make_node("MatMul", ["embedding", "head"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"]),
    ]
    ports = {"scaled": [1, channels, SIDE, SIDE], "embedding": [1, DIM], "scores": [1, len(LABELS)]}
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in ports.items()]
    weights = [
        numpy_helper.from_array(value.astype(np.float32), name)
        for name, value in (("layer", layer), ("bias", bias), ("head", head))
    ]
    graph = helper.make_graph(nodes, "made-up", made[:1], made[1:], initializer=weights)
    file = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
    onnx.checker.check_model(file)

    def compute(scaled: np.ndarray) -> dict[str, np.ndarray]:
        feature = scaled.reshape(len(scaled), -1) @ layer + bias
        embedding = feature / np.linalg.norm(feature, axis=1, keepdims=True)
        power = np.exp(embedding @ head)
        return {"embedding": embedding, "scores": power / power.sum(axis=1, keepdims=True)}

    return file.SerializeToString(), compute


def made_up_bundle(folder: Path, *, channels: int, fit: str, sizes: Sequence[tuple[int, int]]) -> Path:
    """A bundle whose golden values an independent front end and numpy computed; a case for each size."""
    folder.mkdir(parents=True)
    data, compute = model(channels)
    (folder / "student.core.onnx").write_bytes(data)
    (folder / "labels.json").write_text(json.dumps(LABELS), encoding="utf-8")
    numbers = {"image_size": SIDE, "channels": channels, "offset": 0.5, "scale": 0.25, "fit": fit}
    cases, coins = [], np.random.default_rng(4)
    for height, width in sizes:
        images = coins.integers(0, 256, (2, height, width, channels), dtype=np.uint8)
        scaled = np.stack([plain_front.see_image(one, numbers) for one in images]).astype(np.float32)
        arrays = {"image": images, "scaled": scaled}
        arrays |= {name: one.astype(np.float32) for name, one in compute(scaled.astype(float)).items()}
        headers = []
        for name, values in arrays.items():
            file = f"core.{height}x{width}.{name}.raw"
            (folder / file).write_bytes(values.tobytes())
            header = {"name": name, "file": file, "dtype": values.dtype.name, "shape": [*values.shape]}
            headers.append({**header, "byte_order": "little"})
        cases.append({"name": f"{height}x{width}", "arrays": headers})
    record = {
        "format": "1",
        "model": "student.core.onnx",
        "front_end": {"name": "image", "numbers": numbers},
        "input": {"name": "scaled", "dtype": "float32", "shape": [1, channels, SIDE, SIDE]},
        "outputs": [
            {"name": name, "dtype": "float32", "shape": [1, num]}
            for name, num in (("embedding", DIM), ("scores", len(LABELS)))
        ],
        "tolerance": {"scaled": 1e-5, "outputs": 1e-4},
        "cases": cases,
    }
    (folder / "core.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


def write_pnm(path: Path, pixels: np.ndarray) -> Path:
    """A binary PGM or PPM (height, width, 1 or 3), with a comment in its header."""
    kind = {1: b"P5", 3: b"P6"}[pixels.shape[2]]
    path.write_bytes(
        kind + b"\n# made up\n%d %d\n255\n" % (pixels.shape[1], pixels.shape[0]) + pixels.tobytes()
    )
    return path
