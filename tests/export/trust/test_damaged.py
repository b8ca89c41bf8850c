"""Damaged bundles: each is refused by `verify_bundle`, and the message names the fault."""

import os
import shutil
from pathlib import Path

import damage as d
import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper

from edgecmd.core.errors import ExportError
from export.device.student import Student as DeviceStudent
from export.trust.checks import verify_bundle

MODEL = d.MODEL

# Name of the damage: (what does it, words of the message).
DAMAGES = {
    # Accidents of copying.
    "empty folder": (d.on_files(lambda f, o: [p.unlink() for p in f.iterdir()]), r"has no student\.onnx"),
    "model cut off": (d.on_bytes(MODEL, lambda b: b[:-100]), r"student\.onnx was changed"),
    "model cut off, sums remade": (d.on_bytes(MODEL, lambda b: b[:-100], fit=d.remake), "only part of one"),
    "golden cut off, sums remade": (
        d.on_bytes("golden.npz", lambda b: b[:-30], fit=d.remake),
        r"golden\.npz is not a valid \.npz",
    ),
    "report cut off, sums remade": (
        d.on_bytes("report.json", lambda b: b[:-9], fit=d.resum),
        "not valid JSON",
    ),
    "sums cut off": (d.on_bytes("SHA256SUMS", lambda b: b[:-9]), "ends in the middle of a line"),
    "empty model": (d.replaced(MODEL, b""), "is empty"),
    "empty sums": (d.on_bytes("SHA256SUMS", lambda b: b""), r"MODEL_CARD\.md is not listed"),
    "empty labels": (d.replaced("labels.json", b""), r"labels\.json is not valid JSON"),
    "garbage model": (d.replaced(MODEL, b"\x07" * 999), "not an ONNX file"),
    "garbage golden": (d.replaced("golden.npz", b"\x07" * 999), r"not a valid \.npz"),
    "line ends of another system": (
        d.on_bytes("SHA256SUMS", lambda b: b.replace(b"\n", b"\r\n")),
        "line 1 is .*64 hexadecimal",
    ),
    # Files.
    "model missing": (d.on_files(lambda f, o: (f / MODEL).unlink()), r"has no student\.onnx"),
    "golden missing": (d.on_files(lambda f, o: (f / "golden.npz").unlink()), r"has no golden\.npz"),
    "sums missing": (d.on_files(lambda f, o: (f / "SHA256SUMS").unlink()), "has no SHA256SUMS"),
    "labels missing": (
        d.on_files(lambda f, o: (f / "labels.json").unlink(), fit=d.resum),
        r"3 classes, so labels\.json must be there",
    ),
    "unknown file": (
        d.on_files(lambda f, o: (f / "notes.txt").write_text("x")),
        r"unknown file 'notes\.txt'",
    ),
    "near miss": (
        d.on_files(lambda f, o: (f / "label.json").write_text("[]")),
        r"Did you mean 'labels\.json'",
    ),
    "pickled checkpoint": (
        d.on_files(lambda f, o: (f / "student.pt").write_bytes(b"\x80\x04")),
        "pickled code; weights come as ONNX or safetensors only",
    ),
    "module beside the program": (
        d.on_files(lambda f, o: (f / "numpy.py").write_text("print('owned')"), fit=d.resum),
        r"unknown file 'numpy\.py'",
    ),
    "compiled code of another module": (
        d.on_files(d.cached("numpy.cpython-311.pyc")),
        "'__pycache__' with contents that importing",
    ),
    "folder": (d.on_files(lambda f, o: (f / "data").mkdir()), "'data' in the bundle is a folder"),
    "model is a link": (d.on_files(d.link_to_model), r"'student\.onnx' in the bundle is a symbolic link"),
    "link to a file of the system": (d.on_files(d.link_of_link), r"'demo\.html' .* symbolic link"),
    "pipe": (d.on_files(lambda f, o: os.mkfifo(f / "demo.html")), r"'demo\.html' .* special file"),
    "name with an escape": (
        d.on_files(lambda f, o: (f / "x\x1b[2J").write_text("")),
        r"unknown file 'x\\x1b\[2J'",
    ),
    "too many files": (
        d.on_files(lambda f, o: [(f / f"{i}.txt").touch() for i in range(70)]),
        r"\d\d entries; allowed are 64",
    ),
    "sums too large": (
        d.on_bytes("SHA256SUMS", lambda b: b"0" * 70_000),
        "SHA256SUMS has more than 65,536 bytes",
    ),
    "card not text": (
        d.on_files(lambda f, o: (f / "MODEL_CARD.md").write_bytes(b"\xff\xfe"), fit=d.remake),
        r"MODEL_CARD\.md is not UTF-8",
    ),
    # Checksums.
    "labels edited": (
        d.on_bytes("labels.json", lambda b: b.replace(b"tree", b"bush")),
        r"labels\.json was changed",
    ),
    "report edited": (d.on_bytes("report.json", lambda b: b + b" "), r"report\.json was changed"),
    "program edited": (d.on_bytes("infer.py", lambda b: b + b"#"), r"infer\.py was changed"),
    "sum edited": (
        d.line_of_sums(lambda lines: ["0" * 64 + lines[0][64:], *lines[1:]]),
        r"MODEL_CARD\.md was changed",
    ),
    "sum line removed": (d.line_of_sums(lambda lines: lines[1:]), r"MODEL_CARD\.md is not listed"),
    "sum line twice": (d.line_of_sums(lambda lines: [*lines, lines[0]]), r"lists 'MODEL_CARD\.md' twice"),
    "sum of a file that is not there": (
        d.line_of_sums(lambda lines: [*lines, "0" * 64 + "  demo.html"]),
        r"lists 'demo\.html', which is not in the bundle",
    ),
    "sum of a parent folder": (
        d.line_of_sums(lambda lines: [*lines, "0" * 64 + "  ../../etc/passwd"]),
        r"line \d is .*etc/passwd'; allowed",
    ),
    "sum of an absolute path": (
        d.line_of_sums(lambda lines: [*lines, "0" * 64 + "  /etc/passwd"]),
        "the plain name of a file",
    ),
    "sum of itself": (
        d.line_of_sums(lambda lines: [*lines, "0" * 64 + "  SHA256SUMS"]),
        "lists 'SHA256SUMS'",
    ),
    "short sum": (d.line_of_sums(lambda lines: [lines[0][1:], *lines[1:]]), "line 1 is"),
    "sums not text": (d.on_bytes("SHA256SUMS", lambda b: b + b"\xff\n"), "not ASCII"),
    # Program.
    "program edited, sums remade": (
        d.on_bytes("infer.py", lambda b: b + b"\nimport os; os.system('id')\n", fit=d.remake),
        r"infer\.py is not this edgecmd's program",
    ),
    # Labels, report, properties.
    "labels swapped, sums remade": (
        d.on_json("labels.json", lambda v: v[::-1], fit=d.remake),
        r"labels\.json has 3 labels, \['fish'",
    ),
    "label too many": (d.on_json("labels.json", lambda v: [*v, "x"], fit=d.remake), "4 labels.* 3 classes"),
    "label twice": (
        d.on_json("labels.json", lambda v: ["a", "a", "b"], fit=d.remake),
        "two classes have one",
    ),
    "labels are no list": (
        d.on_json("labels.json", lambda v: {"0": "a"}, fit=d.remake),
        "not a list of words",
    ),
    "labels not UTF-8": (d.replaced("labels.json", b'["\xff", "b", "c"]'), r"labels\.json is not UTF-8"),
    "labels nested deep": (d.replaced("labels.json", b"[" * 100_000), r"labels\.json is not valid JSON"),
    "report with NaN": (d.on_bytes("report.json", lambda b: b'{"a": NaN}', fit=d.resum), "NaN is not a JSON"),
    "report with a key twice": (
        d.on_bytes("report.json", lambda b: b'{"format": "1", "format": "2"}', fit=d.resum),
        "a key occurs twice",
    ),
    "report of another format": (d.on_json("report.json", lambda v: v.update(format="2")), "format='2', but"),
    "report of another size": (d.on_json("report.json", lambda v: v.update(image_size=64)), "image_size=64"),
    "report of other classes": (
        d.on_json("report.json", lambda v: v.update(num_classes=4)),
        "num_classes=4; student",
    ),
    "report of another model": (
        d.on_json("report.json", lambda v: v["files"][MODEL].update(sha256="0" * 64)),
        r"report\.json describes 'student\.onnx'",
    ),
    "report without files": (d.on_json("report.json", lambda v: v.pop("files") and None), "under files"),
    "report is a list": (d.on_json("report.json", lambda v: [v]), "not a JSON object"),
    "another format version": (d.properties(format="2"), "edgecmd.format='2'; allowed is '1'"),
    "no format version": (d.without_property("format"), "edgecmd.format=None"),
    "no architecture": (d.without_property("architecture"), "broken edgecmd properties.*architecture"),
    "image size in words": (d.properties(image_size="thirty"), "broken edgecmd properties.*thirty"),
    "image size of zero": (d.properties(image_size="0"), "image_size=0 and channels=1; allowed are 1 to"),
    "image size of another model": (
        d.properties(image_size="64"),
        "not the one that this edgecmd writes for the file's own properties",
    ),
    "channels of another model": (
        d.properties(channels="3"),
        r"sizes \[0, 0, 0, 1\] .* the front end takes 'image'.*\[0, 0, 0, 3\]",
    ),
    "embedding of another width": (d.properties(embedding_dim="128"), "embedding of width 16.* say 128"),
    "one class more": (d.properties(classes='["a", "b", "c", "d"]'), "scores of width 3.* say 4"),
    "classes forgotten": (d.properties(classes="[]"), r"0 classes in its properties but the outputs"),
    "classes that are no JSON": (d.properties(classes="house"), "broken edgecmd properties"),
    "preprocessing that is no object": (d.properties(preprocess="[]"), "preprocess is not a JSON object"),
    "licence changed": (d.properties(license="Proprietary"), "license='Apache-2.0', but"),
    # The graph.
    "wrong opset": (d.on_model(lambda m: setattr(m.opset_import[0], "version", 13)), r"opset \[13\]"),
    "input renamed": (d.renamed("image", "picture"), r"inputs \['picture'\]"),
    "output renamed": (d.renamed("embedding", "vector"), r"outputs \['vector', 'scores'\]"),
    "outputs exchanged": (
        d.on_model(lambda m: m.graph.output.append(m.graph.output.pop(0))),
        r"outputs \['scores', 'embedding'\]",
    ),
    "head removed": (
        d.on_model(lambda m: m.graph.output.pop()),
        "'Softmax', contributes to no output",
    ),
    "nan weight": (d.with_weight(d.set_first(np.nan)), "1 numbers that are not finite"),
    "infinite weight": (d.with_weight(d.set_first(np.inf)), "1 numbers that are not finite"),
    "external data": (d.external("weights.bin"), "external data, kept at"),
    "external data of the parent": (d.external("../other/golden.npz"), "external data, kept at"),
    "external data of the system": (d.external("/etc/passwd"), "external data, kept at"),
    "external data of the bundle": (d.external("golden.npz"), "external data, kept at"),
    "foreign domain": (
        d.appended(helper.make_node("Evil", ["image"], ["o"], domain="com.evil")),
        "domain 'com.evil'",
    ),
    "nested if": (d.nested_if(), "sub-graph"),
    "loop": (d.loop(), "'Loop', has a sub-graph"),
    "function": (d.function(), "1 functions"),
    "sparse weight": (d.on_model(lambda m: m.graph.sparse_initializer.add()), "1 sparse weights"),
    "giant claim": (
        d.on_model(lambda m: d.largest_weight(m).dims.append(2**40)),
        "claims .* numbers",
    ),
    "weight of another shape": (
        d.on_model(lambda m: d.largest_weight(m).dims.append(2)),
        "bytes of data but",
    ),
    "huge declared input": (
        d.on_model(lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[1], "dim_value", 2**33)),
        r"sizes \[8589934592",
    ),
    "expand": (d.expand(), "'Expand' to"),
    "tile": (
        d.appended(helper.make_node("Tile", ["image", "image"], ["o"])),
        "'Tile', which is not an operator",
    ),
    "stack trace": (
        d.on_model(lambda m: m.graph.node[0].metadata_props.add(key="stack_trace", value="/home/me")),
        "has a comment",
    ),
    "hidden bytes": (d.on_bytes(MODEL, lambda b: b + b"\xfa\x07\x04evil", fit=d.remake), "no known field"),
    # Golden values.
    "golden pickled": (d.on_files(d.pickled_golden, fit=d.remake), "may hold pickled code"),
    "golden bomb": (
        d.replaced("golden.npz", d.zipped([("image.npy", b"\0" * (100 << 20))])),
        "unpacks to 104,857,600 bytes",
    ),
    "golden that claims a terabyte": (
        d.replaced(
            "golden.npz",
            d.zipped(
                [
                    (
                        "image.npy",
                        d.npy(b"{'descr': '|u1', 'fortran_order': False, 'shape': (2, 1099511627776)}\n"),
                    )
                ]
            ),
        ),
        "claims shape",
    ),
    "golden with a header of code": (
        d.replaced("golden.npz", d.zipped([("image.npy", d.npy(b"__import__('os').system('id')\n"))])),
        r"not a valid \.npz",
    ),
    "golden with other files": (
        d.replaced("golden.npz", d.zipped([("../../x.sh", b"id")])),
        "allowed are arrays",
    ),
    "golden input missing": (
        d.on_golden(lambda a: [a.pop(key) for key in list(a) if key.startswith("image")]),
        "none of the inputs",
    ),
    "golden output missing": (d.on_golden(lambda a: a.pop("scores/fp32")), "has no scores"),
    "golden array too many": (d.on_golden(lambda a: a.update(x=np.ones(1))), "array 'x'"),
    "golden of floats": (
        d.on_golden(lambda a: a.update(image=a["image"].astype(np.float32))),
        "image has dtype=float32",
    ),
    "golden of one input": (
        d.on_golden(lambda a: a.update({k: v[:1] for k, v in a.items() if v.ndim})),
        "1 inputs; allowed are 2",
    ),
    "golden of another width": (
        d.on_golden(lambda a: a.update({"embedding/fp32": a["embedding/fp32"][:, :8]})),
        r"shape=\(4, 8\)",
    ),
    "golden with nan": (d.on_golden(lambda a: a["embedding/fp32"].fill(np.nan)), "finite numbers"),
    "golden all alike": (
        d.on_golden(lambda a: a.update({"embedding/fp32": np.repeat(a["embedding/fp32"][:1], 4, axis=0)})),
        "all embeddings are equal",
    ),
    "golden not of length 1": (
        d.on_golden(lambda a: a.update({"embedding/fp32": 2 * a["embedding/fp32"]})),
        "rows that are not of length 1",
    ),
    "tolerance absurd": (
        d.on_golden(lambda a: a.update({"tolerance/fp32": np.float64(10)})),
        "tolerance=10 for",
    ),
    "tolerance nan": (
        d.on_golden(lambda a: a.update({"tolerance/fp32": np.float64("nan")})),
        "tolerance=nan for",
    ),
    "tolerance zero": (d.on_golden(lambda a: a.update({"tolerance/fp32": np.float64(0)})), "tolerance=0 for"),
    "tolerance of two": (
        d.on_golden(lambda a: a.update({"tolerance/fp32": np.ones(2)})),
        "allowed is one number",
    ),
    # Found only by running the model.
    "weight flipped, sums remade": (
        d.with_weight(lambda flat: np.negative(flat[:200], out=flat[:200])),
        r"student\.onnx does not reproduce golden\.npz: embedding differs by",
    ),
    "golden edited, sums remade": (
        d.on_golden(lambda a: a.update({"embedding/fp32": a["embedding/fp32"][::-1].copy()})),
        r"does not reproduce golden\.npz",
    ),
    "golden scores edited, sums remade": (
        d.on_golden(lambda a: a.update({"scores/fp32": a["scores/fp32"][:, ::-1].copy()})),
        "scores differs by",
    ),
    "model of another bundle": (
        d.on_files(d.copied(MODEL), fit=d.remake),
        "does not reproduce",
    ),
    "golden of another bundle": (
        d.on_files(d.copied("golden.npz"), fit=d.remake),
        "does not reproduce",
    ),
    "further profile of another model": (
        d.on_files(d.copied(MODEL, "student.int8.onnx"), fit=d.remake),
        r"student\.int8\.onnx has edgecmd\.profile=.*; its name says another",
    ),
}


@pytest.fixture
def damaged(simple, tmp_path):
    """A copy of a sound bundle, to be damaged."""
    return Path(shutil.copytree(simple, tmp_path / "bundle"))


def fault_of(folder, **options):
    """Message of a refusal; None when nothing was found."""
    verdict = verify_bundle(folder, **options)
    assert verdict.passed == (verdict.error is None)
    if verdict.error is None:
        assert {check.state for check in verdict.checks} <= {"ok", "warning"}
        return None
    states = [check.state for check in verdict.checks]
    assert states.count("fault") == 1
    assert set(states[states.index("fault") + 1 :]) <= {"skipped"}
    assert isinstance(verdict.error, ExportError)
    assert verdict.error.exit_code == 6
    return str(verdict.error)


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_bundle_is_refused_and_its_fault_named(name, damaged, other):
    damage, expected = DAMAGES[name]
    damage(damaged, other)
    with pytest.raises(ExportError, match=expected):
        raise ExportError(fault_of(damaged) or "no fault was found")


def test_there_are_many_kinds_of_damage_and_none_has_a_vague_message():
    assert len(DAMAGES) >= 30
    assert all(len(words) >= 6 for _, words in DAMAGES.values())


def test_files_made_to_fit_again_are_not_what_is_found(damaged):
    """Remaking report and sums of a sound bundle leaves it sound, so the table above tests what it says."""
    d.remake(damaged)
    model = onnx.load(damaged / MODEL)
    (damaged / MODEL).write_bytes(model.SerializeToString())
    d.remake(damaged)
    d.on_golden(lambda arrays: None)(damaged, damaged)
    assert fault_of(damaged) is None


SLOW_CHECKS = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
NAMES = ("student.onnx", "golden.npz", "labels.json", "report.json", "infer.py", "SHA256SUMS")


def flip(path, place, bit):
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= 1 << bit
    path.write_bytes(data)


@settings(deadline=None, max_examples=60, suppress_health_check=SLOW_CHECKS)
@given(name=st.sampled_from(NAMES), place=st.integers(0, 2**20), bit=st.integers(0, 7))
def test_any_flipped_bit_is_found(simple, tmp_path_factory, name, place, bit):
    folder = Path(shutil.copytree(simple, tmp_path_factory.mktemp("flip") / "bundle"))
    flip(folder / name, place, bit)
    message = fault_of(folder)
    assert message is not None
    assert name in message or "SHA256SUMS" in message


@settings(deadline=None, max_examples=20, suppress_health_check=SLOW_CHECKS)
@given(
    name=st.sampled_from([name for name in NAMES if name != "SHA256SUMS"]),
    place=st.integers(0, 2**20),
    bit=st.integers(0, 7),
)
def test_a_flipped_bit_with_remade_sums_is_found_or_harmless(simple, tmp_path_factory, name, place, bit):
    folder = Path(shutil.copytree(simple, tmp_path_factory.mktemp("flip") / "bundle"))
    flip(folder / name, place, bit)
    d.remake(folder)
    if fault_of(folder) is not None:
        return
    with np.load(simple / "golden.npz") as golden:
        found = DeviceStudent(folder / MODEL)(golden["image"])
        assert abs(found.embedding - golden["embedding/fp32"]).max() <= 2 * golden["tolerance/fp32"]
        assert abs(found.scores - golden["scores/fp32"]).max() <= 2 * golden["tolerance/fp32"]
    assert (folder / "labels.json").read_bytes() == (simple / "labels.json").read_bytes()
    assert (folder / "infer.py").read_bytes() == (simple / "infer.py").read_bytes()
