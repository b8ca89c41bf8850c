"""Which device takes which student: verdicts by hand, the command line, what the bundle records."""

import json
from dataclasses import replace

import onnx
import pytest

from edgecmd.core.errors import ConfigError, DataError, ExportError
from edgecmd.models.students import STUDENTS
from export.targets.activation_memory import Memory
from export.targets.asked_for import built_in, files_of
from export.targets.device_limits import KIB, MIB, TARGETS
from export.targets.fitting import DoesNotFitError, Fit, fits_of, record_of, refuse_unfit
from tests.command_line import run


def test_the_verdict_says_by_how_much():
    fit = Fit(target="cortex-m7", flash_bytes=1 * MIB + 2000, ram_bytes=512 * KIB, missing=("Resize",))
    assert fit.faults == [
        "needs 1,051 kB of flash, 2 kB more than the 1,049 kB there are",
        "has no operator Resize",
    ]
    assert fit.verdict.startswith("does not fit: needs 1,051 kB of flash")
    assert Fit(target="cortex-m7", flash_bytes=1 * MIB, ram_bytes=512 * KIB, missing=()).verdict == (
        "fits: 0 kB of flash and 0 kB of RAM to spare"
    )


def test_what_takes_ram_depends_on_where_weights_lie(bundle):
    fits = fits_of((bundle("ws-50k") / "student.w8.onnx").read_bytes())
    by_name = {fit.target: fit for fit in fits.targets}
    assert by_name.keys() == TARGETS.keys()
    alone, whole = fits.alone, fits.whole
    assert by_name["cortex-m7"].ram_bytes == alone.activations + alone.expanded
    assert by_name["pi"].ram_bytes == whole.activations + whole.weights
    assert by_name["pi"].flash_bytes == (bundle("ws-50k") / "student.w8.onnx").stat().st_size


def test_group_norm_has_no_kernel_on_a_microcontroller_and_runs_elsewhere(bundle):
    fits = fits_of((bundle("gn-50k") / "student.onnx").read_bytes())
    missing = {fit.target: fit.missing for fit in fits.targets}
    assert missing == {"cortex-m7": ("InstanceNormalization",), "phone": (), "browser": (), "pi": ()}


def test_a_target_fits_if_one_profile_does(bundle):
    fits = fits_of((bundle("ws-50k") / "student.onnx").read_bytes(), targets=["cortex-m7"])
    (fit,) = fits.targets
    large = replace(fits, targets=(replace(fit, ram_bytes=1 << 30),))
    refuse_unfit({"fp32": large, "int8": fits}, targets=["cortex-m7"])
    with pytest.raises(DoesNotFitError, match="No profile fits cortex-m7: fp32 needs 1,073,742 kB of RAM"):
        refuse_unfit({"fp32": large}, targets=["cortex-m7"])
    with pytest.raises(ConfigError, match="Did you mean 'phone'"):
        fits_of(b"", targets=["fone"])


def test_the_bundle_records_its_figures(bundle):
    folder = bundle("ws-50k")
    profiles = json.loads((folder / "report.json").read_text())["profiles"]
    for name, data in files_of(str(folder)).items():
        expected = json.loads(json.dumps(fits_of(data).record()))
        assert {key: profiles[name][key] for key in expected} == expected
        assert set(expected["memory"]["whole"]) == set(Memory.__dataclass_fields__) - {"operators"}


def test_a_file_that_does_not_say_its_size_is_recorded_as_not_counted(bundle):
    model = onnx.load(bundle("ws-50k") / "student.onnx")
    del model.metadata_props[:]
    assert "does not say how large" in record_of(model.SerializeToString())["not_counted"]
    with pytest.raises(ExportError, match="does not say how large"):
        fits_of(model.SerializeToString())


@pytest.mark.parametrize("architecture", ["audio-50k", "seg-50k", "lite0-s"])
def test_students_of_each_kind_can_be_counted(architecture):
    assert architecture in STUDENTS
    (data,) = built_in(architecture, image_size=32, profiles="fp32").values()
    fits = fits_of(data)
    assert fits.whole.activations >= fits.alone.activations > 0
    assert [fit.faults for fit in fits.targets if fit.target != "cortex-m7"] == [[], [], []]


def test_the_command_line_tells_and_ends_with_6(bundle, monkeypatch, capsys):
    folder = bundle("gn-50k")
    assert run(monkeypatch, "fits", folder) == 0
    shown = capsys.readouterr().out
    assert "cortex-m7, fp32: does not fit: has no operator InstanceNormalization." in shown
    assert "pi, fp32: fits: " in shown
    assert run(monkeypatch, "fits", folder, "--target", "pi") == 0
    assert "phone" not in capsys.readouterr().out
    assert run(monkeypatch, "fits", folder, "--target", "pi,cortex-m7") == 6
    assert "No profile fits cortex-m7" in capsys.readouterr().err
    assert run(monkeypatch, "fits", folder / "student.onnx", "--json") == 0
    told = json.loads(capsys.readouterr().out)[str(folder / "student.onnx")]["fp32"]
    assert told["targets"]["cortex-m7"]["missing"] == ["InstanceNormalization"]
    assert run(monkeypatch, "fits", folder, "--target", "fone") == 2


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no built-in student\. .*Did you mean 'ws-50k'"):
        files_of("ws-50kk")
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(ExportError, match="not an ONNX file"):
        files_of(str(tmp_path / "broken.onnx"))
