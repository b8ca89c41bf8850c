"""Further damage, each by somebody who makes report and checksums fit again: which check refuses it."""

import json
import os
import shutil
import zipfile
from pathlib import Path

import damage as d
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgecmd.core.errors import ExportError
from export.graph.front_graph import KINDS
from export.trust.checks import verify_bundle
from export.trust.errors import GateError
from export.trust.gate import GateLimits, gate
from export.trust.sandbox import SandboxLimits

MODEL = d.MODEL


def node(kind, inputs, outputs, **attributes):
    return helper.make_node(kind, inputs, outputs, name=f"x.{outputs[0]}", **attributes)


def number(values, name, dtype=np.int64):
    return numpy_helper.from_array(np.array(values, dtype), name)


def before_scores(*nodes, weights=(), source="extra"):
    """Damage that multiplies the scores with a number that is 1 at the golden sizes: no output tells it."""

    def change(model):
        model.graph.node[-1].output[0] = "scores0"
        model.graph.initializer.extend(weights)
        model.graph.node.extend([*nodes, node("Mul", ["scores0", source], ["scores"])])

    return d.on_model(change)


ONE = number([[1.0]], "one", np.float32)
HEIGHT = (
    node("Shape", ["image"], ["size"], start=1, end=2),
    node("Sub", ["size", "hundred"], ["over"]),
    node("Max", ["over", "unit"], ["many"]),
)
SIZES = (number([100], "hundred"), number([1], "unit"), ONE)


def behind_front(kind, *operands, weights=(), start=(), **attributes):
    """An operator on what the student sees, whose result is folded to one number."""
    nodes = (
        *start,
        node(kind, ["scaled", *operands], ["grown"], **attributes),
        node("ReduceMax", ["grown"], ["most"], keepdims=0),
        node("Mul", ["most", "nought"], ["none"]),
        node("Add", ["none", "flat"], ["extra"]),
    )
    constants = (number(0.0, "nought", np.float32), number(1.0, "flat", np.float32), *weights)
    return before_scores(*nodes, weights=constants)


def in_front(change):
    """Damage to a node of the front end."""

    def damage(model):
        named = {one.name.removeprefix("front_end."): one for one in model.graph.node}
        change(named, model)

    return d.on_model(damage)


def attribute(name, value):
    def change(named, _):
        for one in named["large.Resize"].attribute:
            if one.name == name:
                one.CopyFrom(helper.make_attribute(name, value))

    return in_front(change)


def constant(name, values, dtype):
    def change(_, model):
        for one in model.graph.initializer:
            if one.name == f"front_end.{name}":
                one.CopyFrom(number(values, one.name, dtype))

    return in_front(change)


def preprocess(**changes):
    def change(model):
        for entry in model.metadata_props:
            if entry.key == "edgecmd.preprocess":
                entry.value = json.dumps({**json.loads(entry.value), **changes})

    return d.on_model(change)


def swapped(one, two):
    def action(folder: Path, other: Path) -> None:
        left, right = (folder / one).read_bytes(), (folder / two).read_bytes()
        (folder / one).write_bytes(right)
        (folder / two).write_bytes(left)

    return d.on_files(action, fit=d.remake)


def zip_bomb(folder: Path, other: Path) -> None:
    """A thousand bytes for each one in the file."""
    content = b"\0" * (80 << 20)
    header = d.npy(b"{'descr': '|u1', 'fortran_order': False, 'shape': (2, 41943040)}\n")
    (folder / "golden.npz").write_bytes(d.zipped([("image.npy", header + content)]))


def overlapping_zip(folder: Path, other: Path) -> None:
    """Two names for one place of the archive."""
    data = bytearray(
        d.zipped([("image.npy", b"x" * 50), ("imagf.npy", b"y" * 50)], compression=zipfile.ZIP_STORED)
    )
    place = data.rindex(b"PK\x01\x02")
    data[place + 42 : place + 46] = bytes(4)
    (folder / "golden.npz").write_bytes(bytes(data))


def huge_header(folder: Path, other: Path) -> None:
    """A weight of 2^40 numbers by its header alone."""
    model = onnx.load(folder / MODEL)
    model.graph.initializer.append(TensorProto(name="huge", data_type=1, dims=[2**20, 2**20]))
    (folder / MODEL).write_bytes(model.SerializeToString())


def doubled(folder: Path, other: Path) -> None:
    """The same file twice in one: protobuf merges them, and every repeated field is there twice."""
    data = (folder / MODEL).read_bytes()
    (folder / MODEL).write_bytes(data + data)


def subgraph(kind, inputs, **attributes):
    graph = d.branch()
    return d.appended(
        helper.make_node(kind, inputs, ["o"], **dict.fromkeys(attributes, graph)), weights=[ONE]
    )


def second_opset(model):
    model.opset_import.add(domain="ai.onnx.ml", version=3)


def opset(version):
    return d.on_model(lambda m: setattr(m.opset_import[0], "version", version))


def as_output(model):
    """The embedding is a weight: whatever is shown, the answer is the same."""
    model.graph.initializer.append(number(np.ones((1, 16)) / 4, "embedding", np.float32))
    for one in model.graph.node:
        one.output[:] = ["embedding0" if name == "embedding" else name for name in one.output]
        one.input[:] = ["embedding0" if name == "embedding" else name for name in one.input]


def other_case(folder: Path, other: Path) -> None:
    (folder / "labels.json").rename(folder / "Labels.json")


def hard_link_out(folder: Path, other: Path) -> None:
    """A hard link to a file elsewhere, which its owner may change after the check."""
    (folder / "labels.json").unlink()
    (folder.parent / "elsewhere.json").write_text('["house", "tree", "bird"]')
    os.link(folder.parent / "elsewhere.json", folder / "labels.json")


CHANNELS = number([1, 1, 1, 1], "kernel0")
# Name: (the damage, the check that refuses it, words of its message).
DAMAGES = {
    # Sizes that grow where nobody looks.
    "expand with the cube of the height": (
        before_scores(
            *HEIGHT,
            node("Mul", ["many", "many"], ["square"]),
            node("Concat", ["square", "many"], ["cube"], axis=0),
            node("Expand", ["one", "cube"], ["big"]),
            node("ReduceMean", ["big"], ["extra"], keepdims=0),
            weights=SIZES,
        ),
        "structure",
        r"takes or makes 'image', which belongs to the front end",
    ),
    "expand with the size of what the student sees": (
        behind_front(
            "Expand",
            "wide",
            start=(
                node("Shape", ["scaled"], ["size"], start=0, end=1),
                node("Mul", ["size", "large"], ["wide"]),
            ),
            weights=(number([1 << 12], "large"),),
        ),
        "structure",
        "'Expand', computes a size from its input",
    ),
    "expand with the square of the batch": (
        before_scores(
            node("Shape", ["scaled"], ["size"], start=0, end=1),
            node("Concat", ["size", "size", "size", "size"], ["wide"], axis=0),
            node("Expand", ["one", "wide"], ["big"]),
            node("ReduceMean", ["big"], ["extra"], keepdims=0),
            weights=(ONE,),
        ),
        "structure",
        r"Value 'big' has 281,474,976,710,656 numbers",
    ),
    "size looked up in a table": (
        before_scores(
            node("Shape", ["scaled"], ["size"], start=0, end=1),
            node("Gather", ["table", "size"], ["wide"], axis=0),
            node("Expand", ["one", "wide"], ["big"]),
            node("ReduceMean", ["big"], ["extra"], keepdims=0),
            weights=(ONE, number([1] * 60 + [1 << 30] * 4, "table")),
        ),
        "structure",
        "'Expand', computes a size from its input",
    ),
    "size from the pixels": (
        behind_front(
            "Expand",
            "wide",
            start=(
                node("ReduceMax", ["scaled"], ["brightest"], keepdims=0),
                node("Cast", ["brightest"], ["whole"], to=TensorProto.INT64),
                node("Reshape", ["whole", "unit"], ["wide"]),
            ),
            weights=(number([1], "unit"),),
        ),
        "structure",
        "computes a size from its input",
    ),
    "resize by a factor of the data": (
        behind_front(
            "Resize",
            "",
            "factor",
            start=(node("Shape", ["scaled"], ["size"]), node("Cast", ["size"], ["factor"], to=1)),
        ),
        "structure",
        "'Resize', computes a size from its input",
    ),
    "resize to the largest": (
        behind_front("Resize", "", "", "to", weights=(number([1, 1, 1 << 14, 1 << 14], "to"),)),
        "structure",
        "'Resize' to",
    ),
    "slice from the hundredth example on": (
        behind_front("Slice", "from", "to", weights=(number([100], "from"), number([1 << 30], "to"))),
        "structure",
        r"The sizes of 'grown'.* are \[0, 1, 32, 32\]",
    ),
    "reshape to a size of its own": (
        behind_front(
            "Reshape",
            "shape",
            start=(
                node("Shape", ["scaled"], ["size"], start=0, end=1),
                node("Mul", ["size", "thousand"], ["shape"]),
            ),
            weights=(number([1024], "thousand"),),
        ),
        "structure",
        "'Reshape', computes a size from its input",
    ),
    "outer product of pixels": (
        behind_front(
            "Mul",
            "turned",
            start=(
                node("Reshape", ["scaled", "row"], ["line"]),
                node("Unsqueeze", ["line", "last"], ["turned0"]),
                node("Concat", ["turned0"] * 64, ["turned1"], axis=0),
                node("Unsqueeze", ["turned1", "last"], ["turned"]),
            ),
            weights=(number([-1], "row"), number([1], "last")),
        ),
        "structure",
        r"Value '\w+' has [\d,]+ numbers",
    ),
    "tile": (
        behind_front("Tile", "often", weights=(number([1, 1, 1 << 12, 1 << 12], "often"),)),
        "structure",
        "'Tile', which is not an operator of a student",
    ),
    "constant of shape": (
        d.appended(helper.make_node("ConstantOfShape", ["big"], ["o"]), weights=[number([1 << 40], "big")]),
        "structure",
        "'ConstantOfShape', which is not an operator",
    ),
    "range": (
        d.appended(
            helper.make_node("Range", ["a", "b", "c"], ["o"]),
            weights=[number(0, "a"), number(1 << 40, "b"), number(1, "c")],
        ),
        "structure",
        "'Range', which is not an operator",
    ),
    "pad": (
        behind_front("Pad", "wide", weights=(number([0, 0, 1 << 14, 1 << 14] * 2, "wide"),)),
        "structure",
        "'Pad', which is not an operator",
    ),
    "scatter": (
        d.appended(helper.make_node("ScatterND", ["one", "one", "one"], ["o"]), weights=[ONE]),
        "structure",
        "'ScatterND', which is not an operator",
    ),
    "einsum": (
        behind_front("Einsum", "scaled", equation="abcd,efgh->abcdefgh"),
        "structure",
        "'Einsum', which is not an operator",
    ),
    "one-hot": (
        d.appended(
            helper.make_node("OneHot", ["i", "n", "v"], ["o"]),
            weights=[number([0], "i"), number(1 << 40, "n"), number([0, 1], "v")],
        ),
        "structure",
        "'OneHot', which is not an operator",
    ),
    "running sum": (
        behind_front("CumSum", "axis", weights=(number(0, "axis"),)),
        "structure",
        "'CumSum', which is not an operator",
    ),
    "non-zero": (
        d.appended(helper.make_node("NonZero", ["one"], ["o"]), weights=[ONE]),
        "structure",
        "'NonZero', which is not an op",
    ),
    "loop": (subgraph("Loop", ["", ""], body=1), "structure", "'Loop', has a sub-graph"),
    "if": (subgraph("If", ["one"], then_branch=1, else_branch=1), "structure", "'If', has a sub-graph"),
    "scan": (subgraph("Scan", ["one"], body=1), "structure", "'Scan', has a sub-graph"),
    "sequence map": (subgraph("SequenceMap", ["one"], body=1), "structure", "'SequenceMap', has a sub-graph"),
    "convolution with a huge dilation": (
        behind_front(
            "Conv",
            "kernel",
            weights=(number(np.ones((1, 1, 3, 3)), "kernel", np.float32),),
            dilations=[1 << 20, 1 << 20],
            pads=[1 << 20] * 4,
        ),
        "structure",
        r"has dilations=\[1048576, 1048576\]; allowed are 1 to 8192",
    ),
    "convolution with a huge border": (
        behind_front(
            "Conv",
            "kernel",
            weights=(number(np.ones((1, 1, 1, 1)), "kernel", np.float32),),
            pads=[1 << 14] * 4,
        ),
        "structure",
        r"Value 'grown' has 1,075,\d+,\d+ numbers",
    ),
    "pooling with a huge border": (
        behind_front("AveragePool", kernel_shape=[1 << 15, 1 << 15], pads=[(1 << 15) - 1] * 4),
        "structure",
        r"has kernel_shape=\[32768, 32768\]",
    ),
    "pooling with a border": (
        behind_front("MaxPool", kernel_shape=[8192, 8192], pads=[8191] * 4),
        "structure",
        r"has kernel_shape=\[8192, 8192\]; allowed are 1 to 64",
    ),
    "reduction over axes of the data": (
        behind_front(
            "ReduceSum",
            "axes",
            start=(node("Shape", ["scaled"], ["axes"], start=0, end=1),),
        ),
        "structure",
        "'ReduceSum', computes a size",
    ),
    # The front end.
    "front end with another filter": (attribute("antialias", 0), "structure", "'front_end.large.Resize'"),
    "front end with another mode": (attribute("mode", "cubic"), "structure", "'front_end.large.Resize'"),
    "front end to another side": (constant("side", [4096], np.int64), "structure", "'front_end.side'"),
    "front end with another scale": (
        constant("scale", 0.25, np.float32),
        "structure",
        "'front_end.scale' is not the one",
    ),
    "front end without a node's input": (
        in_front(lambda named, _: named["width_target.Mul"].input.__setitem__(0, "front_end.width")),
        "structure",
        r"'front_end.width_target.Mul', a 'Mul', is not one",
    ),
    "front end with one more node": (
        in_front(
            lambda named, m: m.graph.node.insert(
                0,
                helper.make_node("Shape", ["image"], ["front_end.x"], name="front_end.x.Shape"),
            )
        ),
        "structure",
        "'front_end.x.Shape', a 'Shape', is not one",
    ),
    "front end renamed": (
        d.on_model(
            lambda m: [setattr(one, "name", one.name.replace("front_end.", "fine.")) for one in m.graph.node]
        ),
        "structure",
        "computes a size from its input",
    ),
    "student looks into the front end": (
        behind_front("Add", "front_end.float", start=()),
        "structure",
        "'front_end.float', which belongs to the front end",
    ),
    "input of another type": (
        d.on_model(lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", TensorProto.UINT16)),
        "structure",
        "the front end takes 'image', elem_type=2",
    ),
    "front end of another kind": (d.properties(front_end="depth16"), "structure", "Front end: node"),
    "front end unknown": (
        d.properties(front_end="radar"),
        "structure",
        "front_end='radar'; allowed are image",
    ),
    # Form.
    "external data with a place of its own": (
        d.external("student.onnx"),
        "structure",
        r"external data, kept at \['student.onnx'\]",
    ),
    "second operator domain": (d.on_model(second_opset), "structure", "domain 'ai.onnx.ml'"),
    "nested function": (d.function(), "structure", "1 functions"),
    "huge weight by its header": (
        d.on_files(huge_header, fit=d.remake),
        "structure",
        "claims 1,099,511,627,776 numbers",
    ),
    "file twice in one": (
        d.on_files(doubled, fit=d.remake),
        "structure",
        "bytes that belong to no known field",
    ),
    "node of a weight's name": (
        d.on_model(lambda m: m.graph.node[-1].output.append(m.graph.initializer[0].name)),
        "structure",
        "which already exists",
    ),
    "weight of an input's name": (
        d.on_model(lambda m: m.graph.initializer.append(number([1], "image"))),
        "structure",
        "'image' occurs twice",
    ),
    "output that is a weight": (
        d.on_model(as_output),
        "structure",
        "'embedding' is not produced by any node",
    ),
    "comment on a node": (
        d.on_model(lambda m: setattr(m.graph.node[3], "doc_string", "<script>alert(1)</script>")),
        "structure",
        "has a comment",
    ),
    "weight that is not a number": (
        d.with_weight(d.set_first(np.nan)),
        "structure",
        "1 numbers that are not finite",
    ),
    "opset that the file is not written for": (opset(20), "structure", r"has ir_version=8; allowed is 9"),
    "opset of the future": (opset(25), "structure", r"opset \[25\]"),
    "file format of the future": (
        d.on_model(lambda m: setattr(m, "ir_version", 10)),
        "structure",
        "ir_version=10; allowed is 8",
    ),
    "file format of the past": (
        d.on_model(lambda m: setattr(m, "ir_version", 4)),
        "structure",
        "ir_version=4; allowed",
    ),
    # What the properties say.
    "older runtime promised": (
        d.properties(requires='{"numpy": "1.21", "onnxruntime": "1.9", "python": "3.8"}'),
        "structure",
        "says that it requires .*1.9",
    ),
    "no versions promised": (
        d.without_property("requires"),
        "structure",
        "broken edgecmd properties: .*requires",
    ),
    "another channel order": (preprocess(channel_order="BGR"), "structure", "channel_order='BGR'"),
    "another size promised": (preprocess(size="32"), "structure", "size='32'"),
    "rate of a picture": (preprocess(rate_hz=44100), "structure", "preprocess"),
    "offset beyond all numbers": (
        preprocess(offset=10**400),
        "structure",
        "broken edgecmd properties: OverflowError",
    ),
    "another side promised": (d.properties(image_size="64"), "structure", "constant 'front_end"),
    "no channel": (d.properties(channels="0"), "structure", "channels=0; allowed are 1"),
    "half a million channels": (d.properties(channels="500000"), "structure", "sizes"),
    "versions in the report alone": (
        d.on_json("report.json", lambda r: r["requires"].update(python="2.7")),
        "contents",
        "requires=.*2.7",
    ),
    "preprocessing in the report alone": (
        d.on_json("report.json", lambda r: r["preprocess"].update(offset=0.0)),
        "contents",
        "preprocess=.*'offset': 0.0",
    ),
    "class renamed in the labels alone": (
        d.on_json("labels.json", lambda names: [names[1], names[0], names[2]], fit=d.remake),
        "contents",
        r"labels.json has 3 labels",
    ),
    # Other files.
    "card and bill swapped": (swapped("MODEL_CARD.md", "ml-bom.cdx.json"), "contents", "not valid JSON"),
    "report and labels swapped": (
        swapped("report.json", "labels.json"),
        "contents",
        "labels.json is not a list",
    ),
    "bill is a link": (
        d.on_files(
            lambda f, o: [(f / "ml-bom.cdx.json").unlink(), (f / "ml-bom.cdx.json").symlink_to("report.json")]
        ),
        "files",
        "'ml-bom.cdx.json' in the bundle is a symbolic link",
    ),
    "hard link to a changed file": (
        d.on_files(hard_link_out, fit=d.remake),
        "contents",
        "labels.json has 3 lab",
    ),
    "another case": (d.on_files(other_case), "files", "'Labels.json'.*Did you mean 'labels.json'"),
    "zip bomb as golden values": (
        d.on_files(zip_bomb, fit=d.remake),
        "golden values",
        "unpacks to 83,886,",
    ),
    "golden values that overlap": (
        d.on_files(overlapping_zip, fit=d.remake),
        "golden values",
        r"golden.npz is not a valid \.npz file",
    ),
    "program with another line end": (
        d.on_bytes("infer.py", lambda data: data.replace(b"\n", b"\r\n"), fit=d.remake),
        "program",
        "not this edgecmd's program",
    ),
    "page that is not text": (d.replaced("demo.html", b"\xff\xfe"), "contents", "demo.html is not UTF-8"),
    "compiled code that is a link": (
        d.on_files(lambda f, o: (f / "__pycache__").symlink_to(o)),
        "files",
        "'__pycache__' in the bundle is a symbolic link",
    ),
    "folder in the compiled code": (
        d.on_files(lambda f, o: (f / "__pycache__" / "infer.cpython-311.pyc").mkdir(parents=True)),
        "files",
        "'__pycache__' with contents",
    ),
    "compiled code beside a file of another name": (
        d.on_files(d.cached("infer.cpython-311.pyc", "onnxruntime.cpython-311.pyc")),
        "files",
        "'__pycache__' with contents",
    ),
    "compiled code without a version": (
        d.on_files(d.cached("infer.pyc")),
        "files",
        "'__pycache__' with contents",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_refused_by_the_check_that_is_for_it(name, simple, other, tmp_path):
    folder = Path(shutil.copytree(simple, tmp_path / "bundle"))
    damage, check, expected = DAMAGES[name]
    damage(folder, other)
    d.assert_refused(folder, check=check, match=expected)


def test_there_are_forty_further_kinds():
    assert len(DAMAGES) >= 40


def test_code_that_python_compiled_is_named_and_neither_read_nor_refused(simple, tmp_path):
    folder = Path(shutil.copytree(simple, tmp_path / "bundle"))
    d.cached("infer.cpython-311.pyc", "infer.cpython-38.opt-1.pyc", "infer.pypy39.pyc")(folder, folder)
    for one in (folder / "__pycache__").iterdir():
        one.chmod(0)
    verdict = verify_bundle(folder)
    assert verdict.passed, verdict.error
    (program,) = [one for one in verdict.checks if one.name == "program"]
    assert program.state == "warning"
    assert "__pycache__ holds compiled code" in program.detail
    assert "delete it" in program.detail


def test_an_empty_cache_is_no_fault(simple, tmp_path):
    folder = Path(shutil.copytree(simple, tmp_path / "bundle"))
    (folder / "__pycache__").mkdir()
    assert verify_bundle(folder).passed


def in_the_large(folder: Path) -> None:
    """A model that is small at the golden sizes and fills the memory at a large one."""
    before_scores(
        *HEIGHT,
        node("Mul", ["many", "many"], ["square"]),
        node("Concat", ["square", "many"], ["cube"], axis=0),
        node("Expand", ["one", "cube"], ["big"]),
        node("ReduceMean", ["big"], ["extra"], keepdims=0),
        weights=SIZES,
    )(folder, folder)


def test_the_sandbox_finds_what_a_large_input_needs(simple, tmp_path, monkeypatch):
    """The second line of defence, with the first one taken away."""
    folder = Path(shutil.copytree(simple, tmp_path / "bundle"))
    in_the_large(folder)
    monkeypatch.setattr("export.trust.checks.gate_file", lambda path, limits: onnx.load(path))
    verdict = verify_bundle(folder, sandbox=SandboxLimits(memory_mb=700))
    height, width = KINDS["image"].large
    expected = rf"given an input of shape \(1, {height}, {width}, 1\), needs more than 700 MiB"
    with pytest.raises(ExportError, match=expected):
        raise verdict.error or ExportError("no fault was found")


def test_the_gate_alone_refuses_it(simple, tmp_path):
    folder = Path(shutil.copytree(simple, tmp_path / "bundle"))
    in_the_large(folder)
    with pytest.raises(GateError, match="belongs to the front end"):
        gate((folder / MODEL).read_bytes(), limits=GateLimits())
