"""A core whose plain golden values, or whose place in the bundle, were changed."""

import json
import shutil

import onnx
import pytest
from damage import remake

from edgecmd.core.errors import ExportError
from export.trust.checks import verify_bundle


def on_record(change):
    def damage(folder):
        record = json.loads((folder / "core.json").read_text())
        change(record)
        (folder / "core.json").write_text(json.dumps(record))

    return damage


def on_raw(name, change):
    def damage(folder):
        path = folder / name
        path.write_bytes(change(path.read_bytes()))

    return damage


def put(record, *way):
    *keys, last, value = way
    for key in keys:
        record = record[key]
    record[last] = value


FIRST = ("cases", 0, "arrays", 0)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (on_raw("core.own.scaled.raw", lambda data: data[4:] + data[:4]), "scaled differs by"),
        (on_raw("core.own.image.raw", lambda data: bytes(255 - one for one in data)), "scaled differs by"),
        (on_raw("core.own.embedding.raw", lambda data: data[:-64] + data[:64]), "does not reproduce"),
        (on_raw("core.own.scores.raw", lambda data: data[:-4]), "bytes; float32 of .* needs"),
        (lambda folder: (folder / "core.uneven.scores.raw").unlink(), "not in the bundle"),
        (lambda folder: (folder / "core.own.more.raw").write_bytes(b"1"), "not listed in core.json"),
        (lambda folder: (folder / "core.json").unlink(), "core.json"),
        (lambda folder: (folder / "core.own.more.txt").write_bytes(b"1"), "unknown file"),
        (on_record(lambda one: put(one, *FIRST, "dtype", "float64")), "dtype='float64'"),
        (on_record(lambda one: put(one, *FIRST, "byte_order", "big")), "byte_order='big'"),
        (on_record(lambda one: put(one, *FIRST, "shape", [4, 32, 32, True])), "whole numbers"),
        (on_record(lambda one: put(one, *FIRST, "file", "../x.raw")), "none of the bundle's"),
        (on_record(lambda one: put(one, *FIRST, "name", "picture")), "has the arrays"),
        (on_record(lambda one: put(one, "cases", [])), "cases="),
        (on_record(lambda one: put(one, "cases", 0, 7)), "has the case"),
        (on_record(lambda one: put(one, "model", "student.onnx")), "whose model is"),
        (on_record(lambda one: put(one, "front_end", "numbers", "scale", 0.5)), "front_end"),
    ],
)
def test_verify_refuses_a_core_whose_plain_values_were_changed(cored, tmp_path, damage, words):
    folder = tmp_path / "bundle"
    shutil.copytree(cored("ws-50k"), folder)
    damage(folder)
    remake(folder)
    verdict = verify_bundle(folder)
    assert verdict.error is not None
    assert verdict.error.exit_code == 6
    with pytest.raises(ExportError, match=words):
        raise verdict.error


def test_verify_refuses_a_core_in_the_place_of_a_whole_and_the_other_way_round(cored, tmp_path):
    for source, target in (("student.core.onnx", "student.onnx"), ("student.onnx", "student.core.onnx")):
        folder = tmp_path / target
        shutil.copytree(cored("ws-50k"), folder)
        model = onnx.load(folder / source)
        for entry in model.metadata_props:
            if entry.key == "edgecmd.profile" and target.count(".") == 2:
                entry.value = "core"
        (folder / target).write_bytes(model.SerializeToString())
        remake(folder)
        assert verify_bundle(folder).error is not None
