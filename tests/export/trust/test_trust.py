"""What `verify_bundle` reports of sound bundles, and the limits under which a stranger's model runs."""

import json
import shutil
import zipfile
from pathlib import Path

import damage as d
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgecmd.core.errors import ConfigError
from export.trust.checks import TrustError, verify_bundle
from export.trust.gate import GateLimits
from export.trust.npz import read_npz
from export.trust.sandbox import SandboxLimits, run_model
from tests.command_line import edgecmd

IMAGES = np.zeros((2, 32, 32, 1), np.uint8)


@pytest.fixture
def sound(simple, tmp_path):
    """A copy of a sound bundle with a head and one profile."""
    return Path(shutil.copytree(simple, tmp_path / "bundle"))


def states(verdict):
    return {check.name: check.state for check in verdict.checks}


def check(verdict, name):
    return next(one.detail for one in verdict.checks if one.name == name)


def test_a_sound_bundle_passes_and_is_not_changed(bundle):
    folder = bundle("ws-50k")
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    verdict = verify_bundle(folder)
    assert verdict.passed
    models = ("student.onnx", "student.int8.onnx", "student.w8.onnx")
    assert list(states(verdict).items()) == [
        ("files", "ok"),
        ("checksums", "ok"),
        ("signature", "warning"),
        ("program", "ok"),
        *((f"structure of {name}", "ok") for name in models),
        ("contents", "ok"),
        ("golden values", "ok"),
        *((f"outputs of {name}", "ok") for name in models),
    ]
    assert check(verdict, "golden values").startswith("18 inputs")
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()} == before


def test_a_bundle_without_a_head_passes(bundle):
    assert verify_bundle(bundle("gn-50k")).passed


def add_profile(folder, *, scale=1.0, classes=None):
    """The model once more as a further profile, with a scaled head and the golden values of the first."""
    model = onnx.load(folder / d.MODEL)
    for entry in model.metadata_props:
        if entry.key == "edgecmd.profile":
            entry.value = "w4"
        if entry.key == "edgecmd.classes" and classes:
            entry.value = json.dumps(classes)
    for one in model.graph.initializer:
        if one.name == "head_weight":
            one.raw_data = (numpy_helper.to_array(one) * np.float32(scale)).tobytes()
    (folder / "student.w4.onnx").write_bytes(model.SerializeToString())
    report = json.loads((folder / "report.json").read_text())
    report["profiles"]["w4"] = {"file": "student.w4.onnx"}
    (folder / "report.json").write_text(json.dumps(report))

    def own(arrays):
        arrays.update({key.replace("fp32", "w4"): value for key, value in list(arrays.items())})

    d.on_golden(own)(folder, folder)


def test_further_profiles_are_checked_each_with_its_own_values(sound):
    add_profile(sound)
    verdict = verify_bundle(sound)
    assert verdict.passed
    assert check(verdict, "golden values").startswith("12 inputs")


def test_a_further_profile_that_does_something_else_is_refused(sound):
    add_profile(sound, scale=1.5)
    verdict = verify_bundle(sound)
    assert states(verdict)["outputs of student.onnx"] == "ok"
    assert "student.w4.onnx does not reproduce golden.npz: scores" in str(verdict.error)


def test_a_further_profile_of_other_classes_is_refused(sound):
    add_profile(sound, classes=["house", "fish", "tree"])
    assert "student.w4.onnx has classes=('house', 'fish'" in str(verify_bundle(sound).error)


def test_a_further_profile_that_the_report_does_not_know_is_refused(sound):
    add_profile(sound)
    d.on_json("report.json", lambda report: report["profiles"].pop("w4") and None)(sound, sound)
    assert "the bundle has {'fp32': 'student.onnx', 'w4'" in str(verify_bundle(sound).error)


def test_golden_values_without_a_profile_are_those_of_all(sound):
    def plain(arrays):
        for key in [key for key in arrays if "/fp32" in key]:
            arrays[key.replace("/fp32", "")] = arrays.pop(key)

    d.on_golden(plain)(sound, sound)
    assert verify_bundle(sound).passed


def test_a_bill_of_materials_must_name_these_files(sound):
    d.on_json("ml-bom.cdx.json", lambda bill: bill.update(bomFormat="SPDX"))(sound, sound)
    assert "has no bomFormat 'CycloneDX'" in str(verify_bundle(sound).error)

    def other(bill):
        bill["bomFormat"] = "CycloneDX"
        bill["components"][0]["hashes"][0]["content"] = "0" * 64

    d.on_json("ml-bom.cdx.json", other)(sound, sound)
    assert "gives student.onnx the SHA-256 '0000" in str(verify_bundle(sound).error)


def prototypes_of(folder):
    """Arrays that give the model's own scores: its head has a bias, so one is made without."""
    model = onnx.load(folder / d.MODEL)
    weights = {one.name: one for one in model.graph.initializer}
    weights["head_bias"].raw_data = bytes(len(weights["head_bias"].raw_data))
    (folder / d.MODEL).write_bytes(model.SerializeToString())
    vectors = numpy_helper.to_array(weights["head_weight"])
    found = {}
    with np.load(folder / "golden.npz") as golden:
        for key in ("embedding/fp32", "embedding/fp32/resized"):
            logits = golden[key] @ vectors.T
            scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
            found[key.replace("embedding", "scores")] = scores.astype(np.float32)
    d.on_golden(lambda arrays: arrays.update(found))(folder, folder)
    return {"names": np.array(["house", "tree", "fish"]), "vectors": vectors / 4, "scale": np.float64(4)}


def test_prototypes_must_be_those_of_the_head(sound):
    good = prototypes_of(sound)
    for change, fault in (
        ({}, None),
        ({"vectors": good["vectors"][:, :8]}, "no vectors of shape (3, 16)"),
        ({"vectors": good["vectors"][::-1]}, "gives scores that differ by"),
        ({"vectors": good["vectors"] * np.nan}, "has numbers beyond 1e+06"),
        ({"scale": np.float64(9)}, "gives scores that differ by"),
        ({"names": np.array(["tree", "house", "fish"])}, "has other names"),
        ({"names": np.array([3, 4, 5])}, "has other names"),
        ({"names": np.array([b"a"])}, "may hold pickled code"),
    ):
        np.savez(sound / "prototypes.npz", **{**good, **change})
        d.resum(sound)
        verdict = verify_bundle(sound)
        assert verdict.passed if fault is None else fault in str(verdict.error)


def test_code_that_is_not_ours_needs_a_word_or_a_signature(sound):
    (sound / "infer.py").write_text("print('another version')")
    (sound / "demo.html").write_text("<script></script>")
    d.remake(sound)
    assert "--any-program" in str(verify_bundle(sound).error)
    verdict = verify_bundle(sound, any_program=True)
    assert verdict.passed
    assert states(verdict)["program"] == "warning"


def test_limits_reach_gate_and_sandbox(sound):
    assert "nodes; allowed" in str(verify_bundle(sound, limits=GateLimits(max_nodes=3)).error)
    verdict = verify_bundle(sound, sandbox=SandboxLimits(timeout_s=0.01))
    assert "not loaded and run within 0.01 seconds" in str(verdict.error)


@pytest.mark.parametrize("settings", [{"timeout_s": 0.0}, {"timeout_s": float("nan")}, {"memory_mb": 10}])
def test_limits_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError, match=r"must be above 0 .* 256 to"):
        SandboxLimits(**settings)


def test_a_folder_that_is_none_is_refused(tmp_path):
    assert "cannot be listed" in str(verify_bundle(tmp_path / "gone").error)
    (tmp_path / "file").touch()
    assert "cannot be listed" in str(verify_bundle(tmp_path / "file").error)


def save(path, nodes, weights, *, shape=(1, 1)):
    graph = helper.make_graph(
        nodes,
        "bad",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 32, 32, 1])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, shape)],
        initializer=[numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


def test_a_memory_bomb_ends_at_the_limit(tmp_path):
    """16 GiB asked for by a file that the gate would refuse: the sandbox alone holds it too."""
    sizes = {"one": np.ones((1, 1), np.float32), "size": np.array([2**16, 2**16])}
    nodes = [
        helper.make_node("Expand", ["one", "size"], ["big"]),
        helper.make_node("Relu", ["big"], ["embedding"]),
    ]
    path = save(tmp_path / "bomb.onnx", nodes, sizes, shape=None)
    with pytest.raises(TrustError, match=r"bomb\.onnx needs more than 512 MiB"):
        run_model(path, [IMAGES], outputs=["embedding"], limits=SandboxLimits(memory_mb=512))


def test_an_endless_loop_ends_at_the_limit(tmp_path):
    boolean = TensorProto.BOOL
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Not", ["x"], ["y"])],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", boolean, []),
            helper.make_tensor_value_info("x", boolean, []),
        ],
        [
            helper.make_tensor_value_info("go_on", boolean, []),
            helper.make_tensor_value_info("y", boolean, []),
        ],
    )
    nodes = [
        helper.make_node("Loop", ["rounds", "yes", "yes"], ["last"], body=body),
        helper.make_node("Cast", ["last"], ["embedding"], to=TensorProto.FLOAT),
    ]
    path = save(tmp_path / "loop.onnx", nodes, {"rounds": np.array(2**40), "yes": np.array(True)}, shape=[])
    with pytest.raises(TrustError, match=r"loop\.onnx was not loaded and run within 3 seconds"):
        run_model(path, [IMAGES], outputs=["embedding"], limits=SandboxLimits(timeout_s=3.0))


def test_what_does_not_load_is_said_without_control_characters_and_paths(tmp_path):
    path = tmp_path / "x.onnx"
    path.write_bytes(b"\x1b[2J")
    with pytest.raises(TrustError, match=r"x\.onnx cannot be loaded and run by onnxruntime") as caught:
        run_model(path, [IMAGES], outputs=["embedding"], limits=SandboxLimits())
    assert "\x1b" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_data_outside_the_file_is_not_read_from_the_current_folder(tmp_path, monkeypatch):
    """Onnxruntime would, of a model given as bytes; the sandbox gives a path and stands elsewhere."""
    (tmp_path / "model").mkdir()
    path = save(
        tmp_path / "model" / "x.onnx",
        [helper.make_node("Identity", ["w"], ["embedding"])],
        {"w": np.ones((64, 64), np.float32)},
    )
    model = onnx.load(path)
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], "secret.bin")
    model.graph.initializer[0].ClearField("raw_data")
    path.write_bytes(model.SerializeToString())
    (tmp_path / "secret.bin").write_bytes(np.full((64, 64), 7, np.float32).tobytes())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TrustError, match="cannot be loaded"):
        run_model(path, [IMAGES], outputs=["embedding"], limits=SandboxLimits())


def test_npz_is_read_as_numpy_reads_it(tmp_path):
    arrays = {
        "a": np.arange(6, dtype=np.uint8).reshape(2, 3),
        "b/c": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "d": np.float64(3),
        "e": np.zeros((0, 4), np.float32),
    }
    for write in (np.savez, np.savez_compressed):
        write(tmp_path / "x.npz", **arrays)
        found = read_npz(tmp_path / "x.npz")
        assert set(found) == set(arrays)
        for name, value in arrays.items():
            np.testing.assert_array_equal(found[name], value, strict=True)


@pytest.mark.parametrize(
    ("members", "fault"),
    [
        ([], "has 0 arrays"),
        ([(f"{index}.npy", b"") for index in range(300)], "has 300 arrays"),
        ([("a.npy", b"\x93NUMPY\x03\x00")], r"format \(3, 0\)"),
        ([("a.npy", d.npy(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}\n"))], "pickled code"),
        (
            [("a.npy", d.npy(b"{'descr': '<U4', 'fortran_order': False, 'shape': (1,)}\n", b"0" * 16))],
            "pickled",
        ),
        ([("a.npy", d.npy(b"{'descr': '|u1', 'fortran_order': False, 'shape': (-1,)}\n"))], "claims shape"),
        ([("a.npy", d.npy(b"(" * 9000 + b"\n"))], "not a valid"),
        ([("a.npy", d.npy(b" " * 20_000 + b"\n"))], "not a valid"),
        ([("a.npy", b"")], "not a valid"),
    ],
)
def test_npz_of_a_stranger_is_refused(tmp_path, members, fault):
    (tmp_path / "x.npz").write_bytes(d.zipped(members))
    with pytest.raises(TrustError, match=fault):
        read_npz(tmp_path / "x.npz")


def test_npz_with_a_name_twice_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a.npy", b"")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a.npy", b"")
    with pytest.raises(TrustError, match="two arrays of one name"):
        read_npz(tmp_path / "x.npz")


def test_the_command_prints_a_line_a_check_and_its_verdict(sound):
    done = edgecmd("verify", sound, folder=sound.parent)
    assert done.returncode == 0
    assert "Verdict: no fault found." in done.stdout
    assert len(done.stdout.splitlines()) == 2 + 8 + 1
    assert done.stderr == ""


def test_the_command_names_the_fault_and_ends_with_6(sound):
    (sound / "labels.json").write_text("[]")
    done = edgecmd("verify", sound, "--json", folder=sound.parent)
    assert done.returncode == 6
    assert "labels.json was changed" in done.stderr
    record = json.loads(done.stdout)
    assert record["passed"] is False
    assert "labels.json was changed" in record["fault"]
    assert [check["state"] for check in record["checks"]][:3] == ["ok", "fault", "skipped"]
    done = edgecmd("verify", sound, folder=sound.parent)
    assert done.returncode == 6
    assert "Verdict: refused." in done.stdout
