"""Pictures and depth maps that are not square: the graph, torch and training do the same with them."""

import json
from dataclasses import replace
from fractions import Fraction
from functools import cache

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from edgecmd.config.assemble import Assembly
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ExportError
from edgecmd.data.user_files.images import to_square
from edgecmd.library.data import Images, Pairs
from edgecmd.library.task import Task
from edgecmd.settings import FITS, DataConfig
from export.bundle import Options, export_bundle
from export.device.student import Student, check
from export.from_run import spec_of as spec_of_task
from export.graph.front_graph import SCALED, FrontSettings, front_graph
from export.graph.frontends import FRONT_ENDS
from export.graph.spec import ExportSpec
from export.trust.checks import verify_bundle
from export.trust.errors import GateError
from export.trust.gate import gate

SIDE = 32
# Odd sides, one pixel, one row, the student's own, whole blocks, and long thin ones.
SIZES = st.tuples(st.integers(1, 150), st.integers(1, 150))


def spec_of(front_end: str, fit: str, *, channels: int = 1) -> ExportSpec:
    return ExportSpec(
        architecture="ws-50k",
        image_size=SIDE,
        channels=2 if front_end == "depth16" else channels,
        embedding_dim=16,
        offset=0.0 if front_end == "depth16" else 1.0,
        scale=1.0 if front_end == "depth16" else -0.5,
        license="Apache-2.0",
        front_end=front_end,
        fit=fit,
    )


@cache
def graph(front_end: str, fit: str) -> onnxruntime.InferenceSession:
    """The nodes of a front end alone, as a file."""
    spec = spec_of(front_end, fit)
    settings = FrontSettings(
        side=SIDE, channels=spec.raw_channels, fit=fit, offset=spec.offset, scale=spec.scale
    )
    front = front_graph(front_end, settings)
    out = onnx.helper.make_tensor_value_info(SCALED, onnx.TensorProto.FLOAT, ["batch", *front.shape])
    made = onnx.helper.make_graph(front.before, "front", [front.input], [out], front.constants)
    model = onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return onnxruntime.InferenceSession(model.SerializeToString())


def seen(front_end: str, fit: str, raw: np.ndarray) -> np.ndarray:
    """What the student sees, through ONNX Runtime; torch sees the same, but for a grey level at a tie."""
    session = graph(front_end, fit)
    (found,) = session.run([SCALED], {session.get_inputs()[0].name: raw})
    module = FRONT_ENDS[front_end].module(spec_of(front_end, fit))
    off = np.abs(found - module(torch.from_numpy(raw)).numpy())
    # A value half way between two levels goes up in one engine and down in the other.
    level = 0.0 if front_end == "depth16" else 1 / 255 / 0.5
    assert off.max() <= level + 2e-6
    assert (off > 2e-6).mean() <= 0.01
    return found


def noise(height: int, width: int, *, dtype: type = np.uint8, most: int = 256) -> np.ndarray:
    return np.random.default_rng(1000 * height + width).integers(0, most, (height, width)).astype(dtype)


def nearest_whole(share: Fraction) -> int:
    """Of two that are equally near, the larger."""
    return int(share + Fraction(1, 2))


def part_of(height: int, width: int, fit: str) -> tuple[slice, slice]:
    """Rows and columns of a picture that are kept."""
    short = min(height, width)
    if fit != "crop":
        return slice(0, height), slice(0, width)
    top, left = (height - short) // 2, (width - short) // 2
    return slice(top, top + short), slice(left, left + short)


def place_of(height: int, width: int, fit: str) -> tuple[int, int, int, int]:
    """Top, left, height and width of what is shown in the square."""
    if fit != "pad":
        return 0, 0, SIDE, SIDE
    tall, wide = (max(1, nearest_whole(Fraction(SIDE * one, max(height, width)))) for one in (height, width))
    return (SIDE - tall) // 2, (SIDE - wide) // 2, tall, wide


def triangles(old: int, new: int) -> np.ndarray:
    """Weights (new, old) of an antialiased linear filter, in double precision."""
    scale = old / new
    centre = (np.arange(new)[:, None] + 0.5) * scale
    weight = np.maximum(0.0, 1.0 - np.abs(np.arange(old) + 0.5 - centre) / max(scale, 1.0))
    return weight / weight.sum(axis=1, keepdims=True)


def by_hand(picture: np.ndarray, fit: str) -> np.ndarray:
    """Levels of a picture in a square, before they are rounded."""
    part = picture[part_of(*picture.shape, fit)].astype(np.float64)
    (height, width), (top, left, tall, wide) = part.shape, place_of(*part.shape, fit)
    if height % tall == 0 and width % wide == 0:
        small = part.reshape(tall, height // tall, wide, width // wide).mean(axis=(1, 3))
    else:
        small = triangles(height, tall) @ part @ triangles(width, wide).T
    square = np.full((SIDE, SIDE), 255.0)
    square[top : top + tall, left : left + wide] = small
    return square


@given(SIZES, st.sampled_from(FITS))
@example((1, 1), "pad")
@example((1, 150), "crop")
@example((150, 1), "pad")
@example((64, 128), "pad")
@example((96, 64), "crop")
@example((33, 64), "pad")
def test_the_graph_does_what_training_does_at_every_size(size, fit):
    picture = noise(*size)
    wanted = by_hand(picture, fit)
    trained = to_square(Image.fromarray(picture), side=SIDE, fit=fit).astype(np.float64)
    # Pillow rounds between rows and columns, and at the end.
    assert np.abs(trained - wanted).max() <= 1.01
    levels = (seen("image", fit, picture[None, ..., None])[0, 0] * -0.5 + 1.0) * 255.0
    assert np.abs(np.rint(levels) - trained).max() <= 1.0
    assert np.abs(levels - wanted).max() <= 0.51


@given(SIZES, st.sampled_from(FITS))
@example((1, 150), "pad")
@example((150, 1), "crop")
@example((64, 128), "pad")
def test_of_depth_every_pixel_is_the_nearest_of_the_part_that_is_kept(size, fit):
    depth = noise(*size, dtype=np.uint16, most=6000)
    part = depth[part_of(*size, fit)]
    (height, width), (top, left, tall, wide) = part.shape, place_of(*part.shape, fit)
    rows, columns = (
        (2 * np.arange(num) + 1) * one // (2 * num) for num, one in ((tall, height), (wide, width))
    )
    expected = np.zeros((SIDE, SIDE))
    expected[top : top + tall, left : left + wide] = part[rows][:, columns]
    found = seen("depth16", fit, depth[None, ..., None])[0]
    np.testing.assert_array_equal(found[1], expected > 0)
    np.testing.assert_allclose((found[0] * 1.5 + 2.0) * 1000.0 * found[1], expected, atol=2e-3)


@pytest.mark.parametrize("front_end", ["image", "depth16"])
def test_squares_are_the_same_whatever_the_fit(front_end):
    raw = noise(48, 48, dtype=FRONT_ENDS[front_end].dtype)[None, ..., None]
    first, *others = (seen(front_end, fit, raw) for fit in FITS)
    for other in others:
        np.testing.assert_array_equal(first, other)


def test_colours_are_bordered_in_white():
    spec = spec_of("image", "pad", channels=3)
    raw = np.zeros((2, 16, 32, 3), np.uint8)
    found = FRONT_ENDS["image"].module(spec)(torch.from_numpy(raw)).numpy()
    assert np.all(found[:, :, 8:24] == 2.0)  # black, (0 - 1) / -0.5
    assert np.all(found[:, :, :8] == 0.0)
    assert np.all(found[:, :, 24:] == 0.0)


@pytest.mark.parametrize("front_end", ["image", "depth16"])
def test_a_file_says_its_fit_and_old_files_squeeze(front_end):
    metadata = FRONT_ENDS[front_end].metadata
    assert "fit" not in metadata(spec_of(front_end, "squeeze"))
    for fit in ("crop", "pad"):
        assert metadata(spec_of(front_end, fit)) == metadata(spec_of(front_end, "squeeze")) | {"fit": fit}
    # A dense student's graph resizes nothing.
    assert "fit" not in FRONT_ENDS[f"{front_end}-dense"].metadata(spec_of(front_end, "pad"))


def test_an_unknown_fit_is_refused():
    with pytest.raises(ExportError, match="fit='stretch' is unknown. Allowed: squeeze, crop, pad."):
        spec_of("image", "stretch")


def test_what_is_exported_has_the_fit_of_the_task(make):
    pictures = make.images(4, channels=3)
    pairs = Pairs(source=pictures, target=pictures, fit="crop")
    task = Task(pairs=pairs, teacher="icons", public=Images(images=pictures))
    spec = spec_of_task(task, make.student("ws-50k", channels=3), architecture="ws-50k", license="MIT")
    assert spec.fit == "crop"
    settings = replace(RunConfig(), data=DataConfig(fit="pad"))
    assert Assembly().task(settings).fit == "pad"


@pytest.fixture(scope="module", params=["crop", "pad"])
def fitted(request, make, tmp_path_factory):
    """A bundle of a student that crops or pads."""
    folder = tmp_path_factory.mktemp("bundle") / request.param
    spec = spec_of("image", request.param)
    options = Options(profiles=("fp32",))
    export_bundle(
        make.student("ws-50k"),
        folder,
        spec=spec,
        probe_images=make.images(8),
        task=make.task,
        options=options,
    )
    return folder


def test_a_bundle_with_a_fit_is_trusted_and_does_it(fitted):
    assert verify_bundle(fitted).error is None
    student = Student(fitted)
    assert student.preprocess["fit"] == fitted.name
    assert check(student) <= 1e-4
    picture = noise(48, 80)
    square = to_square(Image.fromarray(picture), side=SIDE, fit=fitted.name)
    found, wanted = (student(one[None, ..., None]).embedding for one in (picture, square))
    assert float((found * wanted).sum()) > 0.9999
    words = {"crop": "the middle square", "pad": "whole between empty borders"}[fitted.name]
    assert words in (fitted / "MODEL_CARD.md").read_text()


@pytest.mark.parametrize("other", ["squeeze", "stretch", ["pad"]])
def test_a_file_whose_property_says_another_fit_is_refused(fitted, other):
    model = onnx.load(fitted / "student.onnx")
    (entry,) = (one for one in model.metadata_props if one.key == "edgecmd.preprocess")
    entry.value = json.dumps({**json.loads(entry.value), "fit": other})
    with pytest.raises(GateError, match="Front end|allowed are squeeze, crop, pad"):
        gate(model.SerializeToString())
