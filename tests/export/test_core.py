"""The core: plain operators of fixed sizes, equal to student and whole, and checkable in any language."""

import json
import shutil
import struct
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import plain_front
import pytest
import torch

from edgecmd.core.errors import ConfigError, ExportError
from edgecmd.core.seeding import numpy_generator
from edgecmd.models.any_student import student as any_student
from export import bundle as bundle_module
from export.bundle import Options, export_bundle
from export.device.infer import main
from export.graph.deployable import Deployable, rebuild
from export.graph.fold_standardised import fold
from export.graph.frontends import FRONT_ENDS
from export.profiles import table
from export.profiles.core import FORBIDDEN, core_of, halves_of
from export.profiles.mobile import ACCELERATORS, mobile_verdict
from export.profiles.table import choose_profiles, make_profile
from export.trust.checks import verify_bundle
from export.trust.core_student import MAX_FROM_WHOLE, CoreStudent
from export.trust.errors import GateError
from export.trust.gate import gate
from export.trust.verify import ParityError, compare, run_torch

STRUCT = {"uint8": "B", "uint16": "H", "float32": "f"}


@pytest.fixture(scope="module")
def whole(make):
    """Student in torch, and its float32 file."""
    made = {}

    def get(kind):
        if kind not in made:
            spec = make.kind(kind)
            student = make.student(spec.architecture, channels=spec.channels)
            plain = rebuild(student, spec)
            data = bundle_module.to_onnx(Deployable(fold(plain), spec).eval())
            made[kind] = Deployable(plain, spec).eval(), data
        return made[kind]

    return get


KINDS = ("ws-50k", "gn-50k", "lite0-s", "depth16", "wave")


@pytest.mark.parametrize("kind", KINDS)
def test_it_has_fixed_sizes_plain_operators_and_the_lowest_operator_set(whole, kind):
    _, data = whole(kind)
    model = onnx.load_from_string(make_profile(data, "core"))
    assert {node.op_type for node in model.graph.node}.isdisjoint(FORBIDDEN)
    assert set(FORBIDDEN) == {"Resize", "Shape", "Mod", "ReduceL2", "ReduceMax"}
    ports = {one.name: one.type.tensor_type for one in (*model.graph.input, *model.graph.output)}
    sizes = {name: [dim.dim_value for dim in port.shape.dim] for name, port in ports.items()}
    assert all(port.elem_type == onnx.TensorProto.FLOAT for port in ports.values())
    seen = {"lite0-s": [1, 3, 32, 32], "depth16": [1, 2, 32, 32], "wave": [1, 1, 40, 30]}
    scores = {} if kind == "depth16" else {"scores": [1, 3]}
    assert sizes == {"scaled": seen.get(kind, [1, 1, 32, 32]), "embedding": [1, 16], **scores}
    # 11 is the first operator set whose Clip and Pad take their limits as inputs, as these files have them.
    assert (model.opset_import[0].version, model.ir_version) == (11, 6)
    onnx.checker.check_model(model, full_check=True)
    assert {entry.value for entry in model.metadata_props if entry.key == "edgecmd.profile"} == {"core"}


@pytest.mark.parametrize("kind", KINDS)
def test_behind_the_front_end_it_is_the_student_and_the_whole(make, whole, tmp_path, kind):
    reference, data = whole(kind)
    (tmp_path / "core.onnx").write_bytes(make_profile(data, "core"))
    core, spec = CoreStudent(tmp_path / "core.onnx", data), reference.spec
    sizes = list(FRONT_ENDS[spec.front_end].variants(make.inputs(spec), spec).values())
    fitting = [one for one in sizes if core.takes(one)]
    assert len(fitting) == (1 if kind == "wave" else 3)
    for raw in fitting:
        assert core.gap(raw) <= MAX_FROM_WHOLE == 1e-5
    found = compare(run_torch(reference, fitting[0]), core(fitting[0]))
    assert found.max_abs <= 1e-4
    assert found.min_cosine >= 0.9999
    assert (found.max_abs_scores or 0.0) <= 1e-4


def test_a_blank_feature_has_no_length_and_gives_no_nan(whole, tmp_path):
    """The least length is that of torch, 1e-12: the embedding of a feature of zeros is zeros."""
    _, data = whole("depth16")
    model = onnx.load_from_string(data)
    for one in model.graph.initializer:
        if one.name.startswith("student.projector"):
            one.CopyFrom(onnx.numpy_helper.from_array(np.zeros(one.dims, np.float32), one.name))
    session = onnxruntime.InferenceSession(core_of(model).SerializeToString())
    (found,) = session.run(None, {"scaled": np.ones((1, 2, 32, 32), np.float32)})
    assert found.tolist() == [[0.0] * 16]


def read_raw(folder, header):
    """One array by its header, with the standard library alone."""
    data = (folder / header["file"]).read_bytes()
    count = 1
    for size in header["shape"]:
        count *= size
    assert header["byte_order"] == "little"
    numbers = struct.unpack(f"<{count}{STRUCT[header['dtype']]}", data)
    return np.array(numbers, dtype=header["dtype"]).reshape(header["shape"])


def cases_of(folder):
    record = json.loads((folder / "core.json").read_text())
    cases = {
        case["name"]: {one["name"]: read_raw(folder, one) for one in case["arrays"]}
        for case in record["cases"]
    }
    return record, cases


@pytest.mark.parametrize("kind", ["ws-50k", "depth16", "wave"])
def test_its_golden_values_check_a_student_and_a_preprocessing_apart(cored, kind):
    folder = cored(kind)
    record, cases = cases_of(folder)
    assert set(cases) == ({"own"} if kind == "wave" else {"own", "uneven"})
    session = onnxruntime.InferenceSession(str(folder / record["model"]))
    raw_name = {"ws-50k": "image", "depth16": "depth", "wave": "wave"}[kind]
    for arrays in cases.values():
        names = [one["name"] for one in record["outputs"]]
        assert set(arrays) == {raw_name, "scaled", *names}
        for row, seen in enumerate(arrays["scaled"]):
            assert list(seen[None].shape) == record["input"]["shape"]
            for name, found in zip(names, session.run(names, {record["input"]["name"]: seen[None]})):
                np.testing.assert_allclose(found[0], arrays[name][row], atol=record["tolerance"]["outputs"])
        see = plain_front.SEE[record["front_end"]["name"]]
        for raw, seen in zip(arrays[raw_name], arrays["scaled"], strict=True):
            gap = np.abs(see(raw, record["front_end"]["numbers"]) - seen)
            assert gap.max() <= record["tolerance"]["scaled"]
            assert np.quantile(gap, 0.9) <= 1e-5


@pytest.mark.parametrize("fit", ["crop", "pad"])
@pytest.mark.parametrize("kind", ["image", "depth16"])
@pytest.mark.parametrize("size", [(100, 80), (81, 17), (17, 81), (64, 64), (5, 90)])
def test_the_words_are_right_for_every_fit(make, kind, fit, size):
    spec = replace(make.kind("depth16" if kind == "depth16" else "ws-50k"), fit=fit, image_size=32)
    coins = numpy_generator(0, "test-core-fits")
    dtype = FRONT_ENDS[kind].dtype
    raw = coins.integers(0, 256, (*size, 1), dtype=np.uint8).astype(dtype)
    seen = FRONT_ENDS[kind].module(spec)(torch.from_numpy(raw[None]))[0].numpy()
    numbers = {"image_size": 32, **FRONT_ENDS[kind].metadata(spec)}
    gap = np.abs(plain_front.SEE[kind](raw, numbers) - seen)
    assert gap.max() <= FRONT_ENDS[kind].scaled_tolerance(spec)
    assert np.quantile(gap, 0.9) <= 1e-5
    text = " ".join(FRONT_ENDS[kind].steps(spec))
    assert ("Keep s rows" in text) == (fit == "crop")
    assert ("Put these R x Q numbers" in text) == (fit == "pad")


def test_front_ends_of_every_student_with_a_core_are_told_in_words(make):
    told = {
        name
        for name, one in FRONT_ENDS.items()
        if one.steps(make.kind("wave" if name == "wave" else "ws-50k"))
    }
    assert told == {name for name in FRONT_ENDS if not name.endswith("-dense")}


def test_a_students_own_sound_network_takes_samples(make):
    plain = replace(make.kind("wave"), architecture="mine:factory")
    monkey = FRONT_ENDS["wave"].steps
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("export.graph.front_wave._makes_picture", lambda _: False)
        assert monkey(plain)[-1] == "Give the core (1, 1, 1, 4000)."


def test_a_bundle_with_a_core_passes_and_the_report_tells_what_phones_take(cored):
    folder = cored("ws-50k")
    verdict = verify_bundle(folder)
    assert verdict.error is None
    assert "outputs of student.core.onnx" in {check.name for check in verdict.checks}
    report = json.loads((folder / "report.json").read_text())
    core, first = report["profiles"]["core"], report["profiles"]["w8"]
    assert core["file"] == "student.core.onnx"
    assert core["difference_from_whole"] <= 1e-5
    assert core["parity"]["input_sizes"] == ["32x32", "64x64", "81x17"]
    assert set(core["phones"]) == set(first["phones"]) == set(ACCELERATORS)
    for one in core["phones"].values():
        assert one["supported"] == one["nodes"]
        assert (one["partitions"], one["unsupported"], one["worth_trying"]) == (1, [], "yes")
    assert {one["worth_trying"] for one in first["phones"].values()} == {"no"}
    assert {"ReduceL2", "ReduceMax"} <= set(first["phones"]["nnapi"]["unsupported"])
    assert "core: the student without its front end" in (folder / "MODEL_CARD.md").read_text()
    listed = (folder / "SHA256SUMS").read_text()
    assert all(f"  {path.name}\n" in listed for path in folder.glob("core.*"))


def test_groupnorm_stays_where_no_accelerator_of_android_has_it(whole, tmp_path):
    (tmp_path / "core.onnx").write_bytes(make_profile(whole("gn-50k")[1], "core"))
    verdict = mobile_verdict(tmp_path / "core.onnx")
    assert verdict["nnapi"]["unsupported"] == ["InstanceNormalization"]
    assert verdict["coreml_ml_program"]["worth_trying"] == "yes"


def test_it_cannot_be_the_first_and_the_bundles_program_says_what_it_is(cored, capsys):
    for names in ("core", "core,w8"):
        with pytest.raises(ConfigError, match=r"begins with core, which takes no raw inputs.*w8,core"):
            choose_profiles(names)
    assert choose_profiles("w8,core") == ("w8", "core")
    assert main([str(cored("ws-50k")), "--check", "--profile", "core"]) == 6
    assert "without its front end, for other engines" in capsys.readouterr().err


def test_exporting_again_replaces_it_and_gives_the_same_bytes(make, cored, tmp_path):
    before = {path.name: path.read_bytes() for path in cored("ws-50k").iterdir()}
    folder, spec = tmp_path / "bundle", make.kind("ws-50k")
    shutil.copytree(cored("ws-50k"), folder)
    (folder / "core.own.stale.raw").write_bytes(b"stale")
    export_bundle(
        make.student("ws-50k"),
        folder,
        spec=spec,
        probe_images=make.inputs(spec),
        task=make.task,
        options=Options(profiles=("w8", "core")),
    )
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


class MaxOverChannels(torch.nn.Module):
    """Has a maximum that no pooling over locations replaces."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 4, 3, stride=2, padding=1)

    def forward(self, image):
        return torch.nn.functional.avg_pool2d(self.conv(image).amax(dim=1, keepdim=True), 4).flatten(1)


def test_students_without_a_core_are_refused_by_name_and_nothing_is_left(make, tmp_path):
    dense = replace(make.spec("seg-50k", head=True), front_end="image-dense")
    own = any_student(MaxOverChannels(), dim=16, in_channels=1, size=32)
    cases = (
        (make.student("seg-50k"), dense, r"A student of masks \(seg-50k\) has no core.*leave core out"),
        (
            own,
            replace(make.spec("ws-50k"), architecture=own.architecture),
            r"no core: its layer .* is a ReduceMax",
        ),
    )
    for student, spec, words in cases:
        with pytest.raises(ExportError, match=words):
            export_bundle(
                student,
                tmp_path / "bundle",
                spec=spec,
                probe_images=make.images(3),
                task=make.task,
                options=Options(profiles=("w8", "core")),
            )
        assert list(tmp_path.iterdir()) == []


def test_a_core_that_is_not_the_student_leaves_nothing(make, tmp_path, monkeypatch):
    """Off by a hair: within the limits of the student, but further from the whole than rounding explains."""
    spec = make.kind("ws-50k")

    def export(change):
        def changed(model):
            made = core_of(model)
            weight = next(one for one in made.graph.initializer if one.name == "student.projector.weight")
            weight.CopyFrom(
                onnx.numpy_helper.from_array(change(onnx.numpy_helper.to_array(weight)), weight.name)
            )
            return made

        monkeypatch.setattr(table, "core_of", changed)
        export_bundle(
            make.student("ws-50k"),
            tmp_path / "bundle",
            spec=spec,
            probe_images=make.images(5),
            task=make.task,
            options=Options(profiles=("w8", "core")),
        )

    with pytest.raises(ParityError, match=r"Parity of profile core .*exceeds the limit"):
        export(lambda weight: -weight)
    with pytest.raises(ParityError, match=r"differs by \S+e-05 from the whole graph .* limit is 1e-05"):
        export(lambda weight: weight + np.eye(*weight.shape, dtype=np.float32) * 3e-4)
    assert list(tmp_path.iterdir()) == []


def test_the_gate_takes_a_core_of_fixed_sizes_alone(whole):
    data = make_profile(whole("ws-50k")[1], "core")
    gate(data)
    free = onnx.load_from_string(data)
    free.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    with pytest.raises(
        GateError, match=r"'scaled' of a core has sizes \[1, 32, 32\]; allowed is a batch of 1"
    ):
        gate(free.SerializeToString())
    many = onnx.load_from_string(data)
    many.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 2
    with pytest.raises(GateError, match="'embedding' of a core has sizes"):
        gate(many.SerializeToString())
    old = onnx.load_from_string(data)
    old.opset_import[0].version = 10
    with pytest.raises(GateError, match=r"opset \[10\]"):
        gate(old.SerializeToString())


def test_front_and_core_are_the_two_halves_of_the_file(whole):
    model = onnx.load_from_string(whole("ws-50k")[1])
    halves = halves_of(model)
    front = [node.name for node in halves.front.graph.node]
    assert front == [node.name for node in model.graph.node if node.name.startswith("front_end.")]
    assert [one.name for one in halves.front.graph.output] == ["scaled"]
    assert not any(node.name.startswith("front_end.") for node in halves.core.graph.node)
