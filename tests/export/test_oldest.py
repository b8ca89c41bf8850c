"""A bundle on old boards: the oldest Python and ONNX Runtime at hand compute what this machine did."""

import ast
import json
import wave
from pathlib import Path

import numpy as np
import oldest
import onnxruntime
import pytest

from edgecmd.core.seeding import numpy_generator
from export.bundle import Options, export_bundle
from export.device import infer, runtime
from export.device.assemble import program
from export.device.reading import InferError
from export.documents.requirements import ONNXRUNTIME_OF_OPSET, OPSET, PYTHON, requirements
from export.graph.spec import ExportSpec
from export.trust.checks import verify_bundle

PROFILES = ("w8", "fp32", "w4")
# Kind: architecture, front end, channels, size of an input.
KINDS = {
    "depth": ("ws-50k", "depth16", 2, (32, 32, 1)),
    "wave": ("audio-50k", "wave", 1, (4000,)),
    "dense": ("seg-50k", "image-dense", 1, (32, 32, 1)),
    "dense-depth": ("seg-50k", "depth16-dense", 2, (32, 32, 1)),
}
# Newer than Python 3.8, and likely to be written by habit.
NEWER = {
    "removeprefix",
    "removesuffix",
    "is_relative_to",
    "with_stem",
    "readlink",
    "hardlink_to",
    "bit_count",
    "pairwise",
    "batched",
    "cache",
    "randbytes",
    "lcm",
    "nextafter",
    "StrEnum",
    "Self",
    "tomllib",
    "zoneinfo",
    "walk",
}
NEWER_KEYWORDS = {("zip", "strict"), ("dataclass", "slots"), ("dataclass", "kw_only")}


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    """The oldest Python of the machine with the oldest runtime for it."""
    version, python = next(iter(oldest.interpreters().items()))
    return oldest.prepare(python, version, tmp_path_factory.mktemp("packages"))


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """This Python with the oldest runtime for it."""
    version = oldest.OWN_PYTHON
    return oldest.prepare(oldest.interpreters()[version], version, tmp_path_factory.mktemp("packages"))


@pytest.fixture(scope="module")
def folder(make, tmp_path_factory):
    """Bundle of each kind of `KINDS` with all profiles that need no calibration."""
    made: dict[str, Path] = {}

    def get(kind: str) -> Path:
        if kind not in made:
            architecture, front_end, channels, shape = KINDS[kind]
            coins = numpy_generator(0, "test-oldest")
            dtype = {"wave": np.int16, "dense": np.uint8}.get(kind, np.uint16)
            spec = ExportSpec(
                architecture=architecture,
                image_size=shape[0],
                channels=channels,
                embedding_dim=16,
                offset=1.0,
                scale=-0.5,
                license="Apache-2.0",
                head=make.spec("ws-50k", head=True).head,
                front_end=front_end,
                rate_hz=8000 if front_end == "wave" else 0,
            )
            export_bundle(
                make.student(architecture, channels=channels),
                tmp_path_factory.mktemp("oldest") / kind,
                spec=spec,
                probe_images=coins.integers(1, 200, (6, *shape)).astype(dtype),
                task=make.task,
                options=Options(profiles=PROFILES, min_cosine=0.5),
            )
            made[kind] = next(tmp_path_factory.getbasetemp().glob(f"oldest*/{kind}"))
        return made[kind]

    return get


@pytest.mark.parametrize("kind", KINDS)
def test_a_sound_bundle_of_every_kind_passes_all_checks(folder, kind):
    verdict = verify_bundle(folder(kind))
    assert verdict.passed, verdict.error
    assert {one.state for one in verdict.checks} <= {"ok", "warning"}


@pytest.mark.parametrize("architecture", ["ws-50k", "gn-50k"])
def test_a_sound_bundle_of_pictures_passes_all_checks(bundle, architecture):
    verdict = verify_bundle(bundle(architecture))
    assert verdict.passed, verdict.error


def checked(machine, bundle: Path, profile: str) -> None:
    done = machine.run(bundle / "infer.py", bundle, "--check", "--profile", profile)
    assert done.returncode == 0, f"{machine}: {done.stdout}{done.stderr}"
    assert "largest difference" in done.stdout


@pytest.mark.parametrize("profile", ["fp32", "w8", "int8"])
def test_pictures_on_the_oldest(board, bundle, profile):
    checked(board, bundle("ws-50k"), profile)


def test_groupnorm_on_the_oldest(board, bundle):
    checked(board, bundle("gn-50k"), "fp32")


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("kind", KINDS)
def test_other_inputs_on_the_oldest(board, folder, kind, profile):
    checked(board, folder(kind), profile)


@pytest.mark.parametrize("profile", ["fp32", "w8", "int8"])
def test_pictures_on_this_python_with_the_oldest_runtime(own, bundle, profile):
    checked(own, bundle("ws-50k"), profile)


def test_files_are_read_on_the_oldest(board, bundle, folder, tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P5 40 30 255\n" + bytes(range(200)) * 6)
    np.save(tmp_path / "b.npy", np.full((9, 7), 3, np.uint8))
    done = board.run(bundle("ws-50k") / "infer.py", bundle("ws-50k"), tmp_path, "--json", "--scores")
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [Path(one["file"]).name for one in records] == ["a.pgm", "b.npy"]
    assert all(len(one["embedding"]) == 16 and len(one["scores"]) == 3 for one in records)
    done = board.run(
        folder("dense") / "infer.py", folder("dense"), tmp_path / "a.pgm", "--masks", tmp_path / "masks"
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "masks" / "a.mask.png").read_bytes().startswith(b"\x89PNG")
    with wave.open(str(tmp_path / "c.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        # A square wave of 500 Hz: silence is refused.
        file.writeframes((b"\x00\x40" * 8 + b"\x00\xc0" * 8) * 250)
    done = board.run(folder("wave") / "infer.py", folder("wave"), tmp_path / "c.wav", "--json")
    assert done.returncode == 0, done.stderr


def annotations_removed(tree: ast.Module) -> ast.Module:
    """What is evaluated when the program runs: annotations are not, by the import from __future__."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.returns = None
        elif isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(value=None)
    return tree


def newer_than_the_oldest(source: str) -> list[str]:
    """What a program holds that Python 3.8 does not know."""
    tree = annotations_removed(ast.parse(source, feature_version=(3, 8)))
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in NEWER:
            found.append(node.attr)
        if isinstance(node, ast.alias) and node.name in NEWER:
            found.append(node.name)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            keywords = {(node.func.id, one.arg) for one in node.keywords}
            found += [f"{name}({word}=)" for name, word in keywords & NEWER_KEYWORDS]
            if node.func.id in ("isinstance", "issubclass"):
                found += ["A | B" for one in ast.walk(node.args[1]) if isinstance(one, ast.BinOp)]
        generic = ("list", "dict", "tuple", "set", "type", "Callable", "Mapping", "Sequence", "Iterable")
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id in generic:
            found.append(f"{node.value.id}[...]")
    return found


def test_the_program_has_the_grammar_and_the_library_of_the_oldest_python():
    assert newer_than_the_oldest(program()) == []
    assert program().index("from __future__ import annotations") < program().index("\nimport ")


@pytest.mark.parametrize(
    "line",
    [
        "list(zip(a, b, strict=True))",
        "x.removeprefix('a')",
        "isinstance(x, int | float)",
        "x = list[int]()",
        "from functools import cache",
        "@dataclass(slots=True)\nclass A: ...",
    ],
)
def test_what_is_newer_is_found(line):
    assert len(newer_than_the_oldest(line)) == 1


@pytest.mark.parametrize("line", ["match x:\n    case 1: ...", "with (open(a) as b, open(c) as d): ..."])
def test_newer_grammar_is_found(line):
    with pytest.raises(SyntaxError):
        newer_than_the_oldest(line)


@pytest.mark.parametrize("version", ["1.13.1", "1.9.0", "0.5.0", "1.13.0.dev20230101"])
def test_an_older_runtime_is_told_what_is_needed_and_why(version):
    with pytest.raises(InferError, match=r"too old: 1\.14 is the first that reads.*opset 18.*pip install"):
        runtime.refuse_old_runtime(version)


@pytest.mark.parametrize("version", ["1.14.0", "1.32.0", "2.0", "1.14.1+cu118"])
def test_a_newer_runtime_is_taken(version):
    runtime.refuse_old_runtime(version)


def test_an_older_runtime_is_an_exit_code_and_no_traceback(bundle, monkeypatch, capsys):
    made = bundle("ws-50k")
    monkeypatch.setattr(onnxruntime, "__version__", "1.12.1")
    assert infer.main([str(made), "--check"]) == 1
    assert "onnxruntime 1.12.1 is too old" in capsys.readouterr().err


def test_all_places_tell_the_same_versions(bundle):
    needed = requirements(OPSET)
    assert needed == {"numpy": "1.21", "onnxruntime": "1.14", "python": "3.8"}
    assert ".".join(map(str, runtime.LEAST_ONNXRUNTIME)) == needed["onnxruntime"]
    assert needed["python"] == PYTHON == ".".join(map(str, oldest.OLDEST_PYTHON))
    # The program asks for no newer one for the lower operator sets of the core.
    assert {least for opset, least in ONNXRUNTIME_OF_OPSET.items() if opset <= OPSET} == {"1.14"}
    assert json.loads((bundle("ws-50k") / "report.json").read_text())["requires"] == needed
    words = "Python 3.8, numpy 1.21 and ONNX Runtime 1.14"
    assert f"{words} or newer" in (bundle("ws-50k") / "MODEL_CARD.md").read_text()
    assert f"{words}, or newer" in program()
