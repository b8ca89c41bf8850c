"""Small students with random weights, and two finished bundles that several tests look at."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edgecmd.core.seeding import numpy_generator, torch_generator
from edgecmd.models.students import Student, build_student
from export.bundle import Options, export_bundle
from export.graph.spec import ExportSpec, LinearHead
from export.profiles.made_strings import made_text
from export.profiles.table import Calibration
from export.trust.verify import TaskMetric

if TYPE_CHECKING:
    from browser import Browser

SIZE, DIM, NAMES = 32, 16, ("house", "tree", "fish")


def make_student(architecture: str, *, channels: int = 1, dim: int = DIM) -> Student:
    """Random weights, biases, gains and residual scales, so that nothing is 0 or 1 by chance."""
    generator = torch_generator(0, "test-student")
    student = build_student(architecture, in_channels=channels, embedding_dim=dim, generator=generator)
    for name, parameter in student.named_parameters():
        if name.endswith(("bias", "gain", "scale")):
            parameter.data.uniform_(0.2, 1.2, generator=generator)
    return student


def make_spec(architecture: str, *, head: bool = False, channels: int = 1, dim: int = DIM) -> ExportSpec:
    generator = numpy_generator(0, "test-head")
    weight, bias = generator.normal(size=(len(NAMES), dim)), generator.normal(size=len(NAMES))
    return ExportSpec(
        architecture=architecture,
        image_size=SIZE,
        channels=channels,
        embedding_dim=dim,
        offset=1.0,
        scale=-0.5,
        license="Apache-2.0",
        head=LinearHead(weight=weight, bias=bias, names=NAMES) if head else None,
    )


def make_images(num: int, *, channels: int = 1) -> np.ndarray:
    return numpy_generator(0, "test-images").integers(0, 256, (num, SIZE, SIZE, channels), dtype=np.uint8)


def kind_spec(kind: str) -> ExportSpec:
    """Spec of a student: of depth maps, of recordings, of strings, else of images by its architecture."""
    if kind == "depth16":
        return replace(make_spec("ws-50k", channels=2), front_end=kind, offset=0.0, scale=1.0)
    if kind == "wave":
        plain = make_spec("audio-50k", head=True)
        return replace(plain, front_end=kind, image_size=4000, rate_hz=8000, offset=0.0, scale=1.0)
    if kind == "text":
        return replace(make_spec("text-50k", head=True), front_end=kind, image_size=48, offset=0.0, scale=1.0)
    if kind == "ngram":
        return replace(kind_spec("text"), architecture="ngram-1m")
    return make_spec(kind, head=True, channels=3 if kind.startswith("lite") else 1)


def make_inputs(spec: ExportSpec, num: int = 5) -> np.ndarray:
    """Raw inputs of the student's own size."""
    generator = numpy_generator(0, "test-inputs")
    if spec.front_end == "depth16":
        return generator.integers(0, 5000, (num, SIZE, SIZE, 1), dtype=np.uint16)
    if spec.front_end == "wave":
        return generator.integers(-20000, 20000, (num, spec.image_size), dtype=np.int16)
    if spec.front_end == "text":
        return made_text(num, num_bytes=spec.image_size, generator=generator)
    return make_images(num, channels=spec.channels)


def first_column(embedding: np.ndarray) -> float:
    """A task metric that any embedding has, and that a small difference changes little."""
    return float(np.abs(embedding[:, 0]).mean())


def make_calibration() -> Calibration:
    return Calibration(inputs=make_images(16), description="16 made-up pictures")


TASK = TaskMetric(name="metric", metric=first_column)
# fp32 first, so that student.onnx is as near to torch as it can be.
OPTIONS = Options(profiles=("fp32", "w8", "int8"), calibration=make_calibration())


@pytest.fixture(scope="session")
def exported() -> dict[str, bytes]:
    """Files of the exporter that the bundles of all tests share."""
    return {}


@pytest.fixture(autouse=True, scope="module")
def quick_exports(exported: dict[str, bytes]) -> Iterator[None]:
    """Bundles of equal students share one export, and coverage does not follow the exporter into torch."""
    # Imported here: this file is also imported on its own, away from the other tests.
    from tests.quick import exported_once, libraries_untraced

    with exported_once(exported), libraries_untraced():
        yield


@pytest.fixture(scope="session")
def make() -> SimpleNamespace:
    return SimpleNamespace(
        student=make_student,
        spec=make_spec,
        images=make_images,
        task=TASK,
        calibration=make_calibration,
        options=OPTIONS,
        kind=kind_spec,
        inputs=make_inputs,
    )


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a finished bundle: ``ws-50k`` grey with a head and three profiles, ``gn-50k`` without."""
    made: dict[str, Path] = {}

    def get(architecture: str) -> Path:
        if architecture not in made:
            folder = tmp_path_factory.mktemp("bundle") / architecture
            channels = 1 if architecture.startswith("ws") else 3
            export_bundle(
                make_student(architecture, channels=channels),
                folder,
                spec=make_spec(architecture, head=channels == 1, channels=channels),
                probe_images=make_images(40, channels=channels),
                task=TASK,
                options=OPTIONS if channels == 1 else Options(profiles=("fp32",)),
            )
            made[architecture] = folder
        return made[architecture]

    return get


@pytest.fixture(scope="session")
def cored(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a bundle with a core, of a student of each kind."""
    made: dict[str, Path] = {}

    def get(kind: str) -> Path:
        if kind not in made:
            spec, folder = kind_spec(kind), tmp_path_factory.mktemp("cored") / "bundle"
            export_bundle(
                make_student(spec.architecture, channels=spec.channels),
                folder,
                spec=spec,
                probe_images=make_inputs(spec),
                task=TASK,
                options=Options(profiles=("w8", "core")),
            )
            made[kind] = folder
        return made[kind]

    return get


@pytest.fixture(scope="session")
def ort_web(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the real onnxruntime-web; a test that needs it is skipped where there is none."""
    from web_parts import real_runtime

    return real_runtime(tmp_path_factory.mktemp("npm"))


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """A Chromium for the tests of one module."""
    from browser import find_chromium, open_browser

    chromium = find_chromium()
    if chromium is None:
        pytest.skip("Chromium is not installed")
    with open_browser(chromium) as one:
        yield one
