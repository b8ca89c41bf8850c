"""A pretrained student is exported as any other: profiles within their limits, the same on a device."""

import json

import pytest

from edgecmd.core.seeding import torch_generator
from edgecmd.models.students import build_student
from edgecmd.models.trained_part import train_part
from export.bundle import export_bundle
from export.device.student import Student as DeviceStudent
from export.device.student import check
from export.trust.checks import verify_bundle


@pytest.fixture(scope="module")
def folder(make, tmp_path_factory):
    student = build_student(
        "lite0-s", in_channels=1, embedding_dim=16, generator=torch_generator(0, "test-student")
    )
    train_part(student, "last")
    out = tmp_path_factory.mktemp("bundle") / "lite"
    export_bundle(
        student,
        out,
        spec=make.spec("lite0-s", head=True),
        probe_images=make.images(20),
        task=make.task,
        options=make.options,
    )
    return out


def test_each_profile_is_near_the_student(folder):
    profiles = json.loads((folder / "report.json").read_text())["profiles"]
    assert profiles["fp32"]["parity"]["min_cosine"] >= 0.9999
    assert profiles["w8"]["parity"]["min_cosine"] >= 0.9995
    assert profiles["int8"]["parity"]["mean_cosine"] >= 0.99
    assert profiles["w8"]["bytes"] < 0.5 * profiles["fp32"]["bytes"]


def test_the_bundle_passes_all_checks(folder):
    verdict = verify_bundle(folder)
    assert verdict.passed, verdict.error


@pytest.mark.parametrize("profile", ["fp32", "w8", "int8"])
def test_a_device_computes_the_golden_values(folder, profile):
    assert check(DeviceStudent(folder, profile=profile)) <= 1e-6
