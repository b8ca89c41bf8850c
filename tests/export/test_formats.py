"""Files for phones: equal to the student in their own engine, or not there at all."""

import json
import os
import sys
import zipfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from edgecmd.core.errors import ConfigError, ExportError
from edgecmd.core.files import sha256_file
from export import bundle as bundle_module
from export.bundle import Options, export_bundle
from export.device.student import Student as DeviceStudent
from export.documents.bundle_files import write_sums
from export.engines import engine_table
from export.engines.engine_check import EQUAL, FAILED, WRONG, check_engines
from export.engines.engine_table import ENGINES, Engine, Found
from export.formats import conversion, format_table, format_worker
from export.formats.format_table import (
    FORMATS,
    choose_formats,
    format_of,
    has_packages,
    model_of,
    refuse_missing,
    variable_of,
    with_core,
)
from export.formats.ort_format import to_ort
from export.graph.deployable import Deployable, rebuild
from export.graph.fold_standardised import fold
from export.graph.frontends import FRONT_ENDS
from export.profiles.table import PROFILES, make_profile
from export.trust.checks import verify_bundle
from export.trust.core_student import CoreStudent
from export.trust.listing import is_format
from export.trust.verify import ParityError
from tests.command_line import run


@pytest.fixture(scope="module")
def export(make):
    """Export a student with formats into a folder."""

    def do(folder, formats, *, kind="ws-50k", profiles=("w8",)):
        spec = make.kind(kind)
        student = make.student(spec.architecture, channels=spec.channels)
        options = Options(profiles=profiles, formats=formats)
        inputs = make.inputs(spec)
        return export_bundle(student, folder, spec=spec, probe_images=inputs, task=make.task, options=options)

    return do


@pytest.fixture(scope="module")
def phoned(export, tmp_path_factory):
    """A bundle with w8 and core, and both as .ort."""
    folder = tmp_path_factory.mktemp("phoned") / "bundle"
    export(folder, ("ort",), profiles=("w8", "core"))
    return folder


@pytest.fixture
def copied(phoned, tmp_path):
    """A copy of it to break."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    for path in phoned.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def relist(folder):
    """Make report and checksums those of the files that are there."""
    report = json.loads((folder / "report.json").read_text())
    for name, entry in report["files"].items():
        path = folder / name
        entry.update(bytes=path.stat().st_size, sha256=sha256_file(path))
    (folder / "report.json").write_text(json.dumps(report))
    (folder / "ml-bom.cdx.json").unlink()
    write_sums(folder)


def fault(folder):
    return str(verify_bundle(folder).error)


def test_small_weights_stay_small_in_ort(phoned):
    whole = (phoned / "student.ort").stat().st_size
    # Weights in float32 are four times as large as those of w8: 48,000 numbers here.
    assert whole - (phoned / "student.onnx").stat().st_size < 45_000
    assert whole < 0.6 * (phoned / "student.core.ort").stat().st_size
    assert (phoned / "student.ort").read_bytes()[4:8] == b"ORTM"


def test_an_ort_gives_what_its_onnx_gives_and_infer_py_runs_it(phoned):
    with np.load(phoned / "golden.npz") as golden:
        image = golden["image"]
    expected, found = (DeviceStudent(phoned / name)(image) for name in ("student.onnx", "student.ort"))
    np.testing.assert_allclose(found.embedding, expected.embedding, atol=1e-6)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)


def test_report_card_bill_and_checksums_name_the_files(phoned):
    report = json.loads((phoned / "report.json").read_text())
    assert set(report["formats"]) == {"student.ort", "student.core.ort"}
    for file, profile in (("student.ort", "w8"), ("student.core.ort", "core")):
        one = report["formats"][file]
        assert (one["format"], one["profile"], one["state"]) == ("ort", profile, "run")
        assert one["versions"] == {"onnxruntime": onnxruntime.__version__}
        assert one["parity"]["min_cosine"] >= one["limits"]["min_cosine"]
        assert one["bytes"] == report["files"][file]["bytes"] == (phoned / file).stat().st_size
        assert sha256_file(phoned / file) == report["files"][file]["sha256"]
        for name in ("MODEL_CARD.md", "ml-bom.cdx.json", "SHA256SUMS"):
            assert file in (phoned / name).read_text()
    assert "none was run on a phone" in (phoned / "MODEL_CARD.md").read_text()


def test_verify_knows_them_and_engines_run_them(phoned):
    verdict = verify_bundle(phoned)
    assert verdict.passed
    (line,) = [one for one in verdict.checks if one.name == "phone formats"]
    assert line.state == "warning"
    assert "student.core.ort, student.ort: as listed, and not run here" in line.detail
    assert [(one.file, one.verdict) for one in check_engines(phoned, only="ort")] == [
        ("whole", EQUAL),
        ("core", EQUAL),
    ]


def test_a_damaged_or_foreign_file_is_named(copied):
    path = copied / "student.ort"
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert "student.ort was changed" in fault(copied)
    path.write_bytes(b"no such file at all")
    relist(copied)
    assert "student.ort is not a file of ONNX Runtime, .ort" in fault(copied)
    path.unlink()
    write_sums(copied)
    assert "report.json has formats=" in fault(copied)
    path.write_bytes(good)
    (copied / "student.int8.ort").write_bytes(good)
    write_sums(copied)
    assert "student.int8.ort is made of student.int8.onnx, which is not in the bundle" in fault(copied)


def test_an_ort_that_was_exchanged_is_found_by_engines(copied, phoned):
    """Of the same kind, and listed again: only running it tells."""
    model = onnx.load(phoned / "student.onnx")
    bias = next(one for one in model.graph.initializer if one.name == "head_bias")
    numbers = onnx.numpy_helper.to_array(bias).copy()
    numbers[0] += 3.0
    bias.CopyFrom(onnx.numpy_helper.from_array(numbers, bias.name))
    onnx.save(model, copied.parent / "other.onnx")
    (copied / "student.ort").write_bytes(to_ort(copied.parent / "other.onnx"))
    core = (copied / "student.core.ort").read_bytes()
    (copied / "student.core.ort").write_bytes(core[:2000] + bytes(len(core) - 2000))
    relist(copied)
    assert verify_bundle(copied).passed
    assert [one.verdict for one in check_engines(copied, only="ort")] == [WRONG, FAILED]


def test_a_file_beyond_its_limits_leaves_nothing(export, make, tmp_path, monkeypatch):
    """The converter gives another student: no bundle, and an older one is as it was."""
    other = make.student("ws-50k")
    with torch.no_grad():
        other.projector.weight.mul_(torch.linspace(0.5, 2.0, other.projector.weight.shape[0])[:, None])
    data = bundle_module.to_onnx(Deployable(fold(other).eval(), make.kind("ws-50k")).eval())
    (tmp_path / "other.onnx").write_bytes(data)
    monkeypatch.setattr(conversion, "to_ort", lambda _: to_ort(tmp_path / "other.onnx"))
    with pytest.raises(ParityError, match=r"profile w8 as ort.* is below the limit"):
        export(tmp_path / "bundle", ("ort",))
    assert [path.name for path in tmp_path.iterdir()] == ["other.onnx"]


def test_names_of_formats_are_checked():
    assert choose_formats("ort, litert") == ("ort", "litert")
    assert choose_formats("") == ()
    with pytest.raises(ConfigError, match=r"export.formats='lite'.*Did you mean 'litert'"):
        choose_formats("lite")
    with pytest.raises(ConfigError, match="names a format twice"):
        choose_formats("ort,ort")


def test_each_row_names_files_that_verify_knows_and_an_extra_that_exists():
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    for name, row in FORMATS.items():
        for file in row.files(["student.onnx", "student.w8.onnx", "student.core.onnx"]):
            assert is_format(file)
            assert format_of(file) == name
            assert model_of(file) in ("student.onnx", "student.w8.onnx", "student.core.onnx")
        assert not row.extra or f"\n{row.extra} = [" in text
        assert not row.engine or row.engine in ENGINES
    assert FORMATS["litert"].files(["student.onnx", "student.core.onnx"]) == ["student.core.tflite"]
    assert not is_format("student.onnx")
    assert not is_format("x.tflite")


def test_the_core_comes_along_where_a_format_needs_it():
    assert with_core(("w8",), ("ort",)) == ("w8",)
    assert with_core(("w8",), ("ort", "coreml")) == ("w8", "core")
    assert with_core(("w8", "core"), ("litert",)) == ("w8", "core")


def test_a_missing_converter_is_told_before_anything_is_made(export, tmp_path, monkeypatch):
    row = replace(FORMATS["litert"], modules=("no_such_module",))
    monkeypatch.setitem(format_table.FORMATS, "litert", row)
    with pytest.raises(ExportError, match=r"does not have no_such_module.*pip install 'edgecmd\[litert\]'"):
        export(tmp_path / "bundle", ("litert",))
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("EDGECMD_LITERT_PYTHON", str(tmp_path / "python"))
    with pytest.raises(ExportError, match="python, which EDGECMD_LITERT_PYTHON names, does not have"):
        refuse_missing(["litert"])


CONVERTER = """
import json, pathlib, sys
job = json.loads(sys.argv[1])
pathlib.Path(job["out"]).write_bytes(b"\\x1c\\0\\0\\0TFL3 of " + job["outputs"][0].encode())
told = {"versions": {"made-up": "1.0"}, "facts": {"ports": job["ports"]}}
(pathlib.Path(job["folder"]) / "result.json").write_text(json.dumps(told))
"""
# Runs the core that stands beside the file.
RUNTIME = f"""
import json, pathlib, sys
sys.path.insert(0, {str(engine_table.HERE)!r})
import engine_worker
job = json.loads(sys.argv[1])
job["engine"], job["model"] = "onnxruntime", str(pathlib.Path(job["model"]).with_suffix(".onnx"))
engine_worker.main(json.dumps(job))
path = pathlib.Path(job["folder"]) / "result.json"
result = json.loads(path.read_text())
for case in result["cases"]:
    case["outputs"]["embedding"][0][0] += OFF
path.write_text(json.dumps(result))
"""


@pytest.fixture
def fake(tmp_path_factory, monkeypatch):
    """A made-up converter and engine of LiteRT."""

    def put(converter=CONVERTER, *, off=0.0, name="litert"):
        folder = tmp_path_factory.mktemp("fake")
        (folder / "converter.py").write_text(converter)
        (folder / "runtime.py").write_text(RUNTIME.replace("OFF", str(off)))
        monkeypatch.delenv(variable_of(name), raising=False)
        monkeypatch.setattr(conversion, "WORKER", folder / "converter.py")
        monkeypatch.setitem(FORMATS, name, replace(FORMATS[name], modules=("json",), runtime=("json",)))
        found = Found(command=(sys.executable, "-I", str(folder / "runtime.py")))
        monkeypatch.setitem(ENGINES, "litert", Engine(title="Fake", install="nowhere", find=lambda _: found))

    return put


def test_a_converted_core_is_run_and_told(export, fake, tmp_path):
    fake()
    made = export(tmp_path / "bundle", ("litert",))
    assert "student.core.tflite 0 kB, least cosine 1.0" in str(made)
    report = json.loads((tmp_path / "bundle" / "report.json").read_text())
    assert set(report["profiles"]) == {"w8", "core"}
    one = report["formats"]["student.core.tflite"]
    assert (one["profile"], one["state"]) == ("core", "run")
    assert set(one["versions"]) == {"made-up", "engine"}
    sizes = {"scaled": [1, 1, 32, 32], "embedding": [1, 16], "scores": [1, 3]}
    assert one["found"]["ports"] == [{"name": name, "shape": size} for name, size in sizes.items()]
    assert one["parity"]["num_images"] == 5
    assert one["parity"]["max_abs_own_size"] <= 1e-4
    assert verify_bundle(tmp_path / "bundle").passed


@pytest.mark.parametrize(
    ("converter", "off", "words"),
    [
        (CONVERTER, 2e-3, r"profile core as litert.*max_abs_own_size=0.002 exceeds the limit 0.0001"),
        (CONVERTER, "float('nan')", r"not finite"),
        ("raise ValueError('no such operator')", 0.0, "cannot be made of this student: ValueError: no such"),
        ("import os; os.kill(os.getpid(), 6)", 0.0, r"it crashed with signal 6 \(SIGABRT\)"),
        (CONVERTER.replace("TFL3", "XXXX"), 0.0, "wrote no .tflite file"),
    ],
)
def test_whatever_goes_wrong_leaves_nothing(export, fake, tmp_path, converter, off, words):
    fake(converter, off=off)
    with pytest.raises(ExportError, match=words):
        export(tmp_path / "bundle", ("litert",))
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_run_here_says_so(export, fake, tmp_path):
    fake(CONVERTER.replace("\\x1c\\0\\0\\0TFL3", "PK\\x03\\x04"), name="coreml")
    made = export(tmp_path / "bundle", ("coreml",))
    assert "student.core.mlpackage.zip 0 kB, converted, not run" in str(made)
    one = json.loads((tmp_path / "bundle" / "report.json").read_text())["formats"]
    assert one["student.core.mlpackage.zip"]["state"] == "converted, not run"
    assert one["student.core.mlpackage.zip"]["parity"] is None
    assert "converted, not run" in (tmp_path / "bundle" / "MODEL_CARD.md").read_text()


SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("gn-50k", "depth16", "wave")]


@pytest.mark.parametrize("kind", ["ws-50k", *SLOW])
def test_the_program_that_is_converted_is_the_core(make, tmp_path, kind):
    """Also of recordings, whose log-mel image is made before it."""
    spec = make.kind(kind)
    plain = rebuild(make.student(spec.architecture, channels=spec.channels), spec)
    data = bundle_module.to_onnx(Deployable(fold(plain), spec).eval())
    (tmp_path / "core.onnx").write_bytes(make_profile(data, "core"))
    core = CoreStudent(tmp_path / "core.onnx", data)
    conversion._save_program(plain, spec, core.ports()[0]["shape"], tmp_path / "program.pt2")
    seen = core.see(FRONT_ENDS[spec.front_end].golden(spec)[0][:1])
    found = torch.export.load(tmp_path / "program.pt2").module()(torch.from_numpy(seen))
    for one, expected in zip(found, core.embed(seen), strict=False):
        np.testing.assert_allclose(one.detach().numpy(), expected, atol=PROFILES["core"].tolerance)


def test_a_package_of_core_ml_is_the_same_bytes_each_time():
    files = {format_worker.MODEL_FILE: b"model", format_worker.WEIGHT_FILE: b"weights"}
    made = format_worker.package(files)
    assert made == format_worker.package(files)
    with zipfile.ZipFile(BytesIO(made)) as archive:
        manifest = json.loads(archive.read("student.core.mlpackage/Manifest.json"))
        paths = {one["path"] for one in manifest["itemInfoEntries"].values()}
        assert paths == {"com.apple.CoreML/model.mlmodel", "com.apple.CoreML/weights"}
        assert manifest["rootModelIdentifier"] in manifest["itemInfoEntries"]
        for name, data in files.items():
            assert archive.read(f"student.core.mlpackage/{name}") == data


def test_the_command_refuses_what_it_does_not_know(tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, "export", tmp_path, "--formats", "ort,xx") != 0
    assert run(monkeypatch, "export", "--help") == 0
    assert "--formats" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", ["litert", "executorch", "coreml"])
@pytest.mark.parametrize("kind", ["ws-50k", "gn-50k", "lite0-s", "depth16", "wave"])
def test_a_real_converter_makes_a_file_that_passes(export, tmp_path, kind, name):
    """Where the variables name environments that have them: a minute for each."""
    if not has_packages(name):
        pytest.skip(f"{' and '.join(FORMATS[name].modules)} not installed, and {variable_of(name)} not set")
    export(tmp_path / "bundle", (name,), kind=kind)
    one = json.loads((tmp_path / "bundle" / "report.json").read_text())["formats"]
    (file,) = one
    assert one[file]["state"] == ("run" if FORMATS[name].engine else "converted, not run")
    data = (tmp_path / "bundle" / file).read_bytes()
    assert not any(word in data for word in (b"edgecmd-format-", b"site-packages", os.fsencode(tmp_path)))
    if FORMATS[name].engine:
        assert [one.verdict for one in check_engines(tmp_path / "bundle", only=name)] == [EQUAL]
