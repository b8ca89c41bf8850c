"""Ways to damage a bundle, as an accident or a hand would; each edits the folder it is given."""

import hashlib
import io
import json
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgecmd.core.errors import ExportError
from export.trust.checks import verify_bundle

MODEL = "student.onnx"


def remake(folder: Path) -> None:
    """Make report and SHA256SUMS fit again, as whoever changes a file on purpose would."""
    report, bill = folder / "report.json", folder / "ml-bom.cdx.json"
    try:
        record, text = json.loads(report.read_bytes()), bill.read_text()
        for name, entry in record["files"].items():
            data, older = (folder / name).read_bytes(), entry["sha256"]
            entry.update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
            text = text.replace(older, entry["sha256"])
        report.write_text(json.dumps(record))
        bill.write_text(text)
    except (ValueError, OSError, LookupError, AttributeError, TypeError):
        pass  # the report itself is what was damaged, its JSON or a name in it
    resum(folder)


def resum(folder: Path) -> None:
    """Make SHA256SUMS fit again."""
    names = sorted(path.name for path in folder.iterdir() if path.name not in ("SHA256SUMS", "bundle.sig"))
    lines = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (folder / "SHA256SUMS").write_text("".join(lines))


def on_model(change):
    """Damage that edits the parsed model and makes everything else fit again."""

    def damage(folder: Path, other: Path) -> None:
        model = onnx.load(folder / MODEL)
        change(model)
        (folder / MODEL).write_bytes(model.SerializeToString())
        remake(folder)

    return damage


def on_json(name, change, *, fit=resum):
    """Damage that edits a JSON file and makes the sums fit again."""

    def damage(folder: Path, other: Path) -> None:
        value = json.loads((folder / name).read_bytes())
        changed = change(value)
        (folder / name).write_text(json.dumps(value if changed is None else changed))
        fit(folder)

    return damage


def on_golden(change):
    """Damage that edits the golden arrays and makes everything else fit again."""

    def damage(folder: Path, other: Path) -> None:
        with np.load(folder / "golden.npz") as file:
            arrays = {key: file[key] for key in file.files}
        change(arrays)
        np.savez(folder / "golden.npz", **arrays)
        remake(folder)

    return damage


def on_bytes(name, change, *, fit=lambda folder: None):
    """Damage that edits the bytes of a file."""

    def damage(folder: Path, other: Path) -> None:
        (folder / name).write_bytes(change((folder / name).read_bytes()))
        fit(folder)

    return damage


def on_files(action, *, fit=lambda folder: None):
    """Damage that adds, removes or exchanges files."""

    def damage(folder: Path, other: Path) -> None:
        action(folder, other)
        fit(folder)

    return damage


def properties(**changes):
    """Damage to the properties of the model."""

    def change(model):
        for entry in model.metadata_props:
            key = entry.key.removeprefix("edgecmd.")
            if key in changes:
                entry.value = changes[key]

    return on_model(change)


def without_property(key):
    def change(model):
        kept = [entry for entry in model.metadata_props if entry.key != f"edgecmd.{key}"]
        del model.metadata_props[:]
        model.metadata_props.extend(kept)

    return on_model(change)


def largest_weight(model):
    return max(model.graph.initializer, key=lambda one: len(one.raw_data))


def with_weight(change):
    """Damage to the numbers of the largest weight."""

    def damage(model):
        tensor = largest_weight(model)
        values = numpy_helper.to_array(tensor).copy()
        change(values.reshape(-1))
        tensor.raw_data = values.tobytes()

    return on_model(damage)


def set_first(value):
    def change(flat):
        flat[0] = value

    return change


def external(location):
    def change(model):
        tensor = largest_weight(model)
        size = len(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "0"), ("length", str(size))):
            tensor.external_data.add(key=key, value=value)

    return on_model(change)


def renamed(old, new):
    def change(model):
        for one in (*model.graph.input, *model.graph.output):
            one.name = new if one.name == old else one.name
        for node in model.graph.node:
            node.input[:] = [new if name == old else name for name in node.input]
            node.output[:] = [new if name == old else name for name in node.output]

    return on_model(change)


def appended(*nodes, weights=()):
    """Damage that puts nodes of no use into the graph."""

    def change(model):
        model.graph.initializer.extend(weights)
        model.graph.node.extend(nodes)

    return on_model(change)


def branch(name="branch"):
    value = helper.make_tensor_value_info("inner", TensorProto.FLOAT, [1])
    constant = numpy_helper.from_array(np.ones(1, np.float32), "one")
    return helper.make_graph([helper.make_node("Constant", [], ["inner"], value=constant)], name, [], [value])


def nested_if(depth=12):
    """An If in an If in an If: passes onnx.checker, and its loading time doubles with each level."""
    inner = branch()
    for _ in range(depth):
        value = helper.make_tensor_value_info("inner", TensorProto.FLOAT, [1])
        node = helper.make_node("If", ["yes"], ["inner"], then_branch=inner, else_branch=inner)
        inner = helper.make_graph([node], "branch", [], [value])
    yes = numpy_helper.from_array(np.array(True), "yes")
    return appended(
        helper.make_node("If", ["yes"], ["o"], then_branch=inner, else_branch=inner), weights=[yes]
    )


def loop():
    """2^40 rounds in two hundred bytes."""
    rounds = numpy_helper.from_array(np.array(2**40), "rounds")
    return appended(helper.make_node("Loop", ["rounds", ""], [], body=branch()), weights=[rounds])


def expand():
    """A terabyte in a hundred bytes."""
    one = numpy_helper.from_array(np.ones((1, 1), np.float32), "one")
    huge = numpy_helper.from_array(np.array([2**20, 2**20]), "huge")
    return appended(helper.make_node("Expand", ["one", "huge"], ["o"]), weights=[one, huge])


def function():
    def change(model):
        made = helper.make_function(
            "",
            "Twice",
            ["x"],
            ["y"],
            [helper.make_node("Add", ["x", "x"], ["y"])],
            [helper.make_opsetid("", 20)],
        )
        model.functions.append(made)

    return on_model(change)


def npy(header: bytes, content: bytes = b"") -> bytes:
    """An .npy file with a header of one's own."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


def zipped(members, *, compression=zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def pickled_golden(folder: Path, other: Path) -> None:
    """Whoever loads it with allow_pickle=True runs code."""
    np.savez(folder / "golden.npz", image=np.array([os.system, "id"], dtype=object))


def line_of_sums(change):
    """Damage to SHA256SUMS as a list of lines."""

    def damage(folder: Path, other: Path) -> None:
        path = folder / "SHA256SUMS"
        path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")

    return damage


def replaced(name, content):
    return on_files(lambda folder, other: (folder / name).write_bytes(content), fit=remake)


def link_to_model(folder: Path, other: Path) -> None:
    (folder / MODEL).rename(folder.parent / "elsewhere.onnx")
    (folder / MODEL).symlink_to(folder.parent / "elsewhere.onnx")


def link_of_link(folder: Path, other: Path) -> None:
    (folder / "demo.html").symlink_to("/etc/passwd")


def copied(name, to=None):
    """The file of another sound bundle in place of this one's."""

    def action(folder: Path, other: Path) -> None:
        (folder / (to or name)).write_bytes((other / name).read_bytes())

    return action


def cached(*names):
    """A `__pycache__` with these files."""

    def action(folder: Path, other: Path) -> None:
        (folder / "__pycache__").mkdir()
        for name in names:
            (folder / "__pycache__" / name).write_bytes(b"compiled")

    return action


def assert_refused(folder, *, check, match):
    """The bundle is refused by ``check`` alone, with a message that matches."""
    verdict = verify_bundle(folder)
    with pytest.raises(ExportError, match=match):
        raise verdict.error or ExportError("no fault was found")
    (fault,) = [one for one in verdict.checks if one.state == "fault"]
    assert fault.name.split(" of ")[0] == check
