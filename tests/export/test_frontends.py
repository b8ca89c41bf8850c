"""The front end in the graph against Pillow, by the rule that made the training data."""

import dataclasses

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from edgecmd.data.user_files.images import to_square
from export.device.student import Student as DeviceStudent
from export.graph.deployable import Deployable
from export.graph.front_image import ImageFrontEnd, at_size
from export.graph.frontends import FRONT_ENDS
from export.graph.to_onnx import to_onnx

SIDE = 32
SIZES = [
    (32, 32),  # the student's own
    (64, 64),
    (96, 32),  # whole blocks in one direction
    (320, 160),
    (33, 32),
    (80, 80),
    (100, 333),
    (31, 31),  # to be enlarged
    (8, 8),
    (1, 1),
    (5, 200),  # enlarged one way, shrunk the other
    (64, 80),
    (480, 640),
]


class Levels(torch.nn.Module):
    """Stands in for a student: the grey levels that it sees, as the embedding."""

    def forward(self, image):
        return (image * -0.5 + 1.0).flatten(1) * 255.0


def pictures(height, width, *, channels=1):
    """Noise, and thick lines on white: the two kinds that a filter is most easily caught by."""
    generator = np.random.default_rng(1000 * height + width)
    noise = generator.integers(0, 256, (height, width, channels), dtype=np.uint8)
    lines = np.full((height, width, channels), 255, dtype=np.uint8)
    lines[::7] = 0
    lines[:, :: max(2, width // 5)] = 40
    return np.stack([noise, lines])


def by_pillow(image):
    """What `edgecmd.data` makes of a picture; smaller ones, which it refuses, are enlarged bilinearly."""
    plain = image[:, :, 0] if image.shape[2] == 1 else image
    picture = Image.fromarray(plain)
    if min(picture.size) >= SIDE:
        found = to_square(picture, side=SIDE, fit="squeeze")
    else:
        found = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    return found.reshape(SIDE, SIDE, -1).astype(np.float64)


@pytest.fixture(scope="module")
def seen(make, tmp_path_factory):
    """Function from uint8 pictures to the grey levels that the student sees, through ONNX Runtime."""
    spec = dataclasses.replace(make.spec("ws-50k"), embedding_dim=SIDE * SIDE)
    path = tmp_path_factory.mktemp("front") / "levels.onnx"
    levels = Deployable(Levels(), spec).eval()
    path.write_bytes(to_onnx(levels))
    assert DeviceStudent(path).preprocess["size"] == "any"
    session = onnxruntime.InferenceSession(str(path))

    def run(images):
        unit = session.run(["embedding"], {"image": images})[0]
        with torch.no_grad():
            raw = Levels()(ImageFrontEnd(spec)(torch.from_numpy(images))).numpy()
        scaled = unit * np.linalg.norm(raw, axis=1, keepdims=True)
        np.testing.assert_allclose(scaled, raw, atol=0.02)  # torch and ONNX Runtime see the same
        return scaled.reshape(-1, SIDE, SIDE, 1)

    return run


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_size_is_resized_as_the_training_data_was(seen, size):
    images = pictures(*size)
    expected = np.stack([by_pillow(image) for image in images])
    difference = np.abs(np.rint(seen(images)) - expected)
    assert difference.max() <= 1.0  # grey levels; Pillow rounds once more, between rows and columns
    # Exact for blocks of 1 and 4 pixels. Pillow divides by 3 with whole numbers and rounds 2/3 down.
    assert difference.mean() <= (0.0 if size in {(32, 32), (64, 64)} else 0.3)


def test_a_picture_of_the_students_size_passes_unchanged(make):
    image = torch.from_numpy(make.images(3))
    spec = make.spec("ws-50k")
    expected = (image.permute(0, 3, 1, 2).float() / 255.0 - spec.offset) / spec.scale
    assert torch.equal(ImageFrontEnd(spec)(image), expected)


def test_colours_are_resized_one_by_one(make):
    spec = make.spec("gn-50k", channels=3)
    for size in ((64, 96), (50, 41)):
        images = pictures(*size, channels=3)
        scaled = ImageFrontEnd(spec)(torch.from_numpy(images)).permute(0, 2, 3, 1).numpy()
        found = (scaled * spec.scale + spec.offset) * 255.0
        assert np.abs(found - np.stack([by_pillow(image) for image in images])).max() <= 1.001


def test_plain_resizing_would_be_wrong_by_many_grey_levels():
    """Why the rule is in the graph: Pillow's bilinear filter on whole blocks is not what training saw."""
    image = pictures(64, 64)[0]
    other = np.asarray(Image.fromarray(image[:, :, 0]).resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    assert np.abs(other - by_pillow(image)[:, :, 0]).max() > 30


def test_sizes_of_the_checks_shrink_enlarge_and_average(make):
    front_end, spec = FRONT_ENDS["image"], make.spec("ws-50k")
    variants = front_end.variants(make.images(2), spec)
    assert {name: images.shape[1:3] for name, images in variants.items()} == {
        "32x32": (32, 32),
        "64x64": (64, 64),
        "81x17": (81, 17),
    }
    np.testing.assert_array_equal(variants["32x32"], make.images(2))
    own, other = front_end.golden(spec)
    assert own.shape == (4, 32, 32, 1)
    assert other.shape == (2, 81, 17, 1)


def test_at_size_repeats_and_skips_pixels():
    image = np.arange(4, dtype=np.uint8).reshape(1, 2, 2, 1)
    assert at_size(image, 4, 2)[0, :, :, 0].tolist() == [[0, 1], [0, 1], [2, 3], [2, 3]]
    assert at_size(image, 1, 1)[0, :, :, 0].tolist() == [[0]]
