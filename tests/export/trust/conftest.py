"""Two sound bundles of one profile: the same form, other weights."""

from pathlib import Path

import pytest

from export.bundle import Options, export_bundle


def made(make, folder: Path, student) -> Path:
    export_bundle(
        student,
        folder,
        spec=make.spec("ws-50k", head=True),
        probe_images=make.images(8),
        task=make.task,
        options=Options(profiles=("fp32",)),
    )
    return folder


@pytest.fixture(scope="session")
def simple(make, tmp_path_factory) -> Path:
    """A bundle with a head."""
    return made(make, tmp_path_factory.mktemp("simple") / "bundle", make.student("ws-50k"))


@pytest.fixture(scope="session")
def other(make, tmp_path_factory) -> Path:
    """The same with other weights."""
    student = make.student("ws-50k")
    student.projector.weight.data.mul_(-1)
    return made(make, tmp_path_factory.mktemp("other") / "bundle", student)
