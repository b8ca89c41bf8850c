"""The bench: what takes turns, what is divided by what, what may be recommended; no test looks at a time."""

import json
import os
from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecmd.core.errors import ConfigError
from edgecmd.models.any_student import student
from edgecmd.models.student_file import save_student
from export.bench.chart import kind_of, latency_picture
from export.bench.engines import has_openvino, onnx_engine, openvino_engine, torch_engine
from export.bench.footprint import Start, device_command, footprints, torch_command
from export.bench.footprint import summarise as summarise_starts
from export.bench.measure import Closeness, Result, Row, Subject, measure, recommendations, uneven_gaps
from export.bench.timing import Timed, Timing, interleaved, summarise
from export.graph.deployable import Deployable
from export.profiles.advice import ARM, WASM, X86, Candidate, advise, faults, ratios, this_target
from export.profiles.slow_variants import SLOWER, make_slower


def test_median_percentile_and_minimum_by_hand():
    found = summarise([4_000_000, 1_000_000, 3_000_000, 2_000_000, 5_000_000])
    # The 95th percentile lies 0.8 of the way from the fourth to the fifth.
    assert (found.num, found.p50_ms, found.min_ms) == (5, 3.0, 1.0)
    assert found.p95_ms == pytest.approx(4.8)


@pytest.mark.parametrize("clock", ["thread", "process", "wall"])
def test_subjects_take_turns_in_blocks(clock):
    calls = []
    subjects = {name: Timed(run=lambda name=name: calls.append(name), clock=clock) for name in "ab"}
    found = interleaved(subjects, num_blocks=2, block=3, num_warm_up=1)
    assert "".join(calls) == "ab" + "aaabbb" * 2
    assert [found[name].num for name in "ab"] == [6, 6]


def test_ratios_say_how_many_times_as_fast():
    assert ratios({"torch": 4.0, "fp32": 1.0, "int8": 0.5}, base="torch") == {
        "torch": 1.0,
        "fp32": 4.0,
        "int8": 8.0,
    }
    assert ratios({"fp32": 1.0}, base="torch") == {}


def test_starts_are_summed_up_by_hand():
    starts = [
        Start(wall_s=3.0, cpu_s=1.5, peak_mb=60.0),
        Start(wall_s=2.0, cpu_s=1.7, peak_mb=64.0),
        Start(wall_s=4.0, cpu_s=1.0, peak_mb=62.0),
    ]
    found = summarise_starts(starts)
    assert (found.num, found.wall_s, found.cpu_s, found.cpu_s_median, found.peak_mb) == (3, 2, 1, 1.5, 62)


FP32 = Candidate(name="fp32", num_bytes=900, min_ms=1.0, agreement=1.0, metric_loss=0.0, least_cosine=1.0)
W8 = replace(FP32, name="w8", num_bytes=240, least_cosine=0.99995, cosine_limit=0.9999)
INT8 = replace(FP32, name="int8", num_bytes=250, min_ms=0.6, agreement=0.996)


@pytest.mark.parametrize(
    ("candidates", "profile"),
    [
        ((FP32, W8, INT8), "int8"),
        ((FP32, W8, replace(INT8, min_ms=0.9)), "w8"),  # hardly faster, and larger than w8
        ((FP32, W8, replace(INT8, agreement=0.98)), "w8"),
        ((FP32, W8, replace(INT8, metric_loss=0.02)), "w8"),
        ((FP32, replace(W8, least_cosine=0.99), replace(INT8, min_ms=2.0)), "fp32"),
        ((FP32, replace(W8, min_ms=1.2)), "fp32"),
        ((replace(FP32, agreement=0.5),), ""),
        ((W8, INT8), ""),  # nothing says what is slow
    ],
)
def test_a_profile_is_recommended_from_what_was_measured(candidates, profile):
    found = advise(X86, candidates, here=X86)
    assert found.profile == profile
    assert found.measured == ("fp32" in {one.name for one in candidates})


@pytest.mark.parametrize("target", [ARM, WASM])
def test_elsewhere_the_rule_holds_and_says_that_nothing_was_measured(target):
    found = advise(target, (FP32, W8, INT8), here=X86)
    assert (found.profile, found.measured) == ("w8", False)
    assert "not measured here" in found.reason
    assert advise(target, (FP32, replace(W8, agreement=0.9), INT8), here=X86).profile == "fp32"


def test_no_machine_is_webassembly_and_no_other_target_exists():
    assert this_target("x86_64") == this_target("AMD64") == X86
    assert this_target("aarch64") == ARM
    assert this_target("riscv64") == ""
    with pytest.raises(ConfigError, match="wasn"):
        advise("wasn", (FP32,), here=X86)


shares = st.floats(0.9, 1.0)


@given(
    st.lists(
        st.builds(
            Candidate,
            name=st.sampled_from(["fp32", "w8", "w4", "int8"]),
            num_bytes=st.integers(1, 10**6),
            min_ms=st.floats(0.1, 10),
            agreement=shares,
            metric_loss=st.floats(-0.1, 0.1),
            least_cosine=shares,
            cosine_limit=shares,
        ),
        unique_by=lambda one: one.name,
    ),
    st.sampled_from([X86, ARM, WASM]),
)
def test_what_is_recommended_is_never_slower_nor_beyond_a_limit(candidates, target):
    found = advise(target, candidates, here=X86)
    by_name = {one.name: one for one in candidates}
    if found.profile:
        fp32_ms = by_name["fp32"].min_ms if found.measured else None
        assert faults(by_name[found.profile], fp32_ms=fp32_ms) == []
        assert found.measured or found.profile in ("w8", "fp32")


def row(name, min_ms, *, num_bytes=100, near=None):
    time = Timing(num=1, p50_ms=min_ms, p95_ms=min_ms, min_ms=min_ms)
    return Row(name=name, num_bytes=num_bytes, load_ms=1.0, latency=time, per_second=1.0, closeness=near)


def test_agreement_is_that_of_the_classes_where_there_are_any():
    near = Closeness(max_abs=0.1, min_cosine=0.95, agreement=0.97, agreement_classes=0.996, metric=0.5)
    perfect = replace(near, min_cosine=1.0, agreement=1.0, agreement_classes=1.0)
    rows = [row("torch", 4.0), row("fp32", 1.0, num_bytes=900, near=perfect), row("int8", 0.5, near=near)]
    found = {one.target: one.profile for one in recommendations(rows, metric=0.505)}
    assert found[WASM] == "fp32"
    if this_target() == X86:
        assert found[X86] == "int8"
        rows[2] = replace(rows[2], closeness=replace(near, agreement_classes=None))
        assert recommendations(rows, metric=0.505)[0].profile == "fp32"


@pytest.fixture(scope="module")
def files(bundle):
    folder = bundle("ws-50k")
    return {"fp32": folder / "student.onnx", "int8": folder / "student.int8.onnx"}


@pytest.fixture(scope="module")
def result(files, make) -> Result:
    reference = Deployable(make.student("ws-50k").eval(), make.spec("ws-50k", head=True)).eval()
    subject = Subject(files=files, inputs=make.images(5), reference=reference, task=make.task)
    return measure(subject, against=("torch", "folded"), num_threads=1, num_blocks=1)


def test_a_result_has_a_row_for_each_engine_and_is_plain_json(result, files):
    assert [one.name for one in result.rows] == ["torch", "folded", "fp32", "int8"]
    record = json.loads(json.dumps(result.record(), allow_nan=False))
    by_name = {one["name"]: one for one in record["rows"]}
    assert by_name["int8"]["num_bytes"] == files["int8"].stat().st_size
    least = {name: one["latency"]["min_ms"] for name, one in by_name.items()}
    for base in ("torch", "fp32"):
        assert record["times_as_fast_as"][base]["int8"] == pytest.approx(least[base] / least["int8"])
    assert by_name["torch"]["closeness"] is None
    assert by_name["folded"]["closeness"]["max_abs"] < 1e-4
    assert by_name["fp32"]["closeness"]["agreement_classes"] == 1.0
    assert by_name["int8"]["closeness"]["min_cosine"] < 1.0
    assert [one["target"] for one in record["advice"]] == [X86, ARM, WASM]
    assert "/" not in json.dumps(record["machine"]).replace("N/A", "")


def test_uneven_sizes_are_compared_and_what_is_wrong_or_fails_there_alone_shows(result, files, make):
    gaps = {row.name: row.max_abs_uneven for row in result.rows}
    assert gaps["torch"] is gaps["folded"] is None
    # A grey level apart at most, see `ParityLimits`.
    assert gaps["fp32"] <= 1e-3
    subject = Subject(files={"fp32": files["fp32"]}, inputs=make.images(2))
    engine = onnx_engine("fp32", files["fp32"], num_threads=1)

    def off(inputs):
        found = engine.run(inputs)
        return (
            found if inputs.shape[1] == inputs.shape[2] else found._replace(embedding=found.embedding + 0.25)
        )

    def fails(inputs):
        raise RuntimeError("no such size")

    others = [replace(engine, name="off", any_size=off), replace(engine, name="fails", any_size=fails)]
    found = uneven_gaps(subject, [engine, *others], reference="fp32")
    assert found == {"fp32": 0.0, "off": pytest.approx(0.25, abs=1e-6)}


def test_a_bundle_alone_is_compared_with_its_own_fp32(files, make):
    subject = Subject(files=files, inputs=make.images(3))
    found = measure(subject, against=("torch",), num_threads=1, num_blocks=1)
    assert (found.reference, found.metric_reference) == ("fp32", None)
    assert [one.name for one in found.rows] == ["fp32", "int8"]
    assert "needs the run" in found.notes["torch"]


def test_every_engine_gives_the_same_embedding(files, make):
    reference = Deployable(make.student("ws-50k").eval(), make.spec("ws-50k", head=True)).eval()
    images = make.images(3)
    engines = [torch_engine(name, reference) for name in ("torch", "folded")]
    engines.append(onnx_engine("fp32", files["fp32"], num_threads=1))
    if has_openvino():
        engines.append(openvino_engine("openvino", files["fp32"], example=images[:1], num_threads=1))
    wanted = engines[0].run(images)
    for engine in engines[1:]:
        found = engine.run(images)
        np.testing.assert_allclose(found.embedding, wanted.embedding, atol=1e-4)
        np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-4)


def test_a_fresh_process_tells_what_it_took(bundle, make, tmp_path):
    made = make.student("ws-50k")
    made.architecture = "ws-50k"
    np.save(tmp_path / "one.npy", make.images(1))
    save_student(made, tmp_path / "student.safetensors")
    folder = bundle("ws-50k")
    commands = {
        "fp32": device_command(folder, folder / "student.onnx", tmp_path / "one.npy"),
        "torch": torch_command(tmp_path / "student.safetensors", "ws-50k", (1, 1, 32, 32)),
    }
    found = footprints(commands, num=1)
    assert found["torch"].peak_mb > found["fp32"].peak_mb > 10


@pytest.mark.parametrize("how", ["freeze", "group"])
def test_torch_starts_with_the_batch_normalisation_that_the_student_has(how, tmp_path, monkeypatch):
    # A module of its own, whose width is the teacher's: no projector and no name of the table.
    (tmp_path / "my_nets.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    save_student(student("my_nets:build", dim=8, size=16, batch_norm=how), tmp_path / "student.safetensors")
    command = torch_command(tmp_path / "student.safetensors", "my_nets:build", (1, 1, 16, 16))
    assert footprints({"torch": command}, num=1)["torch"].num == 1


MINE = """
from torch import nn


def build():
    convolution = nn.Conv2d(1, 8, 3, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
"""


def test_the_slower_choices_are_what_they_are_called(files):
    data = files["fp32"].read_bytes()
    model = onnx.load_from_string(make_slower(data, "dynamic-u8", inputs=np.empty(0)))
    assert "ConvInteger" in {node.op_type for node in model.graph.node}
    half = onnx.load_from_string(make_slower(data, "fp16", inputs=np.empty(0)))
    kinds = {one.data_type for one in half.graph.initializer}
    assert onnx.TensorProto.FLOAT16 in kinds
    assert {one.key for one in half.metadata_props} == {
        one.key for one in onnx.load_from_string(data).metadata_props
    }
    assert len(SLOWER) == 5


def test_the_picture_tells_kinds_apart_and_has_the_same_bytes_twice():
    rows = (row("torch", 4.0), row("fp32", 1.0), row("fp16", 1.3), row("openvino:fp32", 1.1))
    assert [kind_of(one.name) for one in rows] == ["torch", "profile", "other", "openvino"]
    made = Result(
        rows=rows,
        reference="torch",
        metric_name="",
        metric_reference=None,
        starts={},
        advice=(),
        notes={},
        machine={},
        num_threads=1,
    )
    assert latency_picture(made) == latency_picture(made)
    assert latency_picture(made).startswith(b"\x89PNG")
