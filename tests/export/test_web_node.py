"""The page's own program, run by Node: its arithmetic against Python's, and the model against onnxruntime."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image
from web_parts import make_gallery

from edgecmd.datasets.emoji import shrink
from export.device.student import Student
from export.web.gallery import fixed_point
from export.web.ortweb import SCRIPT, WASM

NODE = shutil.which("node")
PROGRAM = Path(__file__).parents[2] / "export" / "web" / "student.js"
NUM_IMAGES = 30
MAX_ABS = 1e-5

pytestmark = pytest.mark.skipif(NODE is None, reason="Node is not installed")


def node(script: str, *arguments: object) -> object:
    """Result that ``script`` leaves in ``out``; ``page`` is the page's program."""
    text = (
        f"(async () => {{ const fs = require('node:fs'), page = require({json.dumps(str(PROGRAM))});"
        f"const args = process.argv.slice(1); let out; {script};"
        "process.stdout.write(JSON.stringify(out)); })()"
        ".catch((error) => { console.error(error); process.exit(1); });"
    )
    done = subprocess.run(
        [NODE, "-e", text, *map(str, arguments)], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_grey_is_that_of_pillow(tmp_path: Path) -> None:
    rgba = np.random.default_rng(0).integers(0, 256, (64, 64, 4), dtype=np.uint8)
    rgba[..., 3] = 255
    (tmp_path / "rgba").write_bytes(rgba.tobytes())
    found = node("out = [...page.toGrey(fs.readFileSync(args[0]))]", tmp_path / "rgba")
    expected = np.asarray(Image.fromarray(rgba[..., :3]).convert("L"))
    assert found == expected.ravel().tolist()


@pytest.mark.parametrize("size", [16, 32, 64])
def test_blocks_are_averaged_as_the_training_pictures_were(tmp_path: Path, size: int) -> None:
    grey = np.random.default_rng(size).integers(0, 256, (1, 64, 64, 1), dtype=np.uint8)
    (tmp_path / "grey").write_bytes(grey.tobytes())
    found = node("out = [...page.blockMean(fs.readFileSync(args[0]), 64, +args[1])]", tmp_path / "grey", size)
    assert found == shrink(grey, size).ravel().tolist()


@pytest.mark.parametrize(
    ("fit", "size", "expected"),
    [
        ("squeeze", (90, 60), [0, 0, 90, 60, 0, 0, 64, 64]),
        ("crop", (90, 61), [14, 0, 61, 61, 0, 0, 64, 64]),
        ("crop", (60, 91), [0, 15, 60, 60, 0, 0, 64, 64]),
        # 60 of 90 are 10 2/3 of 16: 11 blocks of 4 pixels, behind 2 empty ones.
        ("pad", (90, 60), [0, 0, 90, 60, 0, 8, 64, 44]),
        ("pad", (60, 90), [0, 0, 60, 90, 8, 0, 44, 64]),
        ("pad", (1, 300), [0, 0, 1, 300, 28, 0, 4, 64]),
        ("pad", (50, 50), [0, 0, 50, 50, 0, 0, 64, 64]),
    ],
)
def test_a_picture_is_placed_as_the_training_pictures_were(
    fit: str, size: tuple[int, int], expected: list[int]
) -> None:
    call = "out = page.placement(+args[0], +args[1], { side: 64, size: 16, fit: args[2] })"
    assert node(call, *size, fit) == expected


@pytest.mark.parametrize(("fixed", "channels", "dims"), [(4, 1, [1, 4, 4, 1]), (0, 3, [1, 8, 8, 3])])
def test_the_model_is_fed_in_its_own_layout(fixed: int, channels: int, dims: list[int]) -> None:
    found = node(
        "const input = page.modelInput(new Uint8ClampedArray(8 * 8 * 4).fill(99), 8,"
        " { fixed_size: +args[0], channels: +args[1] });"
        " out = { dims: input.dims, data: [...input.data] }",
        fixed,
        channels,
    )
    assert found["dims"] == dims
    assert found["data"] == [99] * int(np.prod(dims))


def test_the_nearest_names_are_those_of_numpy(tmp_path: Path) -> None:
    gallery = make_gallery(40)
    query = gallery.embedding[7]
    (tmp_path / "gallery").write_bytes(fixed_point(gallery.embedding))
    found = node(
        "out = page.nearest(JSON.parse(args[1]), page.readVectors(fs.readFileSync(args[0])),"
        " JSON.parse(args[2]), 5)",
        tmp_path / "gallery",
        json.dumps(query.tolist()),
        json.dumps(gallery.names),
    )
    cosine = gallery.embedding @ query
    expected: list[str] = []
    for row in np.argsort(-cosine):
        if gallery.names[row] not in expected:
            expected.append(gallery.names[row])
    assert [one["name"] for one in found] == expected[:5]
    assert found[0]["row"] == 7
    assert [one["cosine"] for one in found] == pytest.approx([cosine[one["row"]] for one in found], abs=1e-3)


def test_classes_are_ranked_by_probability() -> None:
    found = node("out = page.likeliest([0.2, 0.5, 0.3], ['a', 'b', 'c'], 2, 2)")
    assert found == [
        {"name": "b", "probability": 0.5, "isOwn": False},
        {"name": "c", "probability": 0.3, "isOwn": True},
    ]


def check_against_python(model: Path, ort_web: Path, tmp_path: Path, *, images: np.ndarray) -> None:
    """The runtime of the page gives what onnxruntime gives, for every image."""
    (tmp_path / "images").write_bytes(images.tobytes())
    found = node(
        "const [script, wasm, model, images, height, width, channels] = args;"
        "const ort = await import(script), all = fs.readFileSync(images), size = height * width * channels;"
        "const session = await page.openSession(ort, fs.readFileSync(wasm), fs.readFileSync(model));"
        "out = { embedding: [], scores: [] };"
        "for (let start = 0; start < all.length; start += size) {"
        "  const data = new Uint8Array(all.subarray(start, start + size));"
        "  const seen = await page.embed(ort, session, { data, dims: [1, +height, +width, +channels] });"
        "  out.embedding.push([...seen.embedding]);"
        "  if (seen.scores) out.scores.push([...seen.scores]);"
        "}",
        (ort_web / SCRIPT).as_uri(),
        ort_web / WASM,
        model,
        tmp_path / "images",
        *images.shape[1:],
    )
    embedding, *scores = Student(model).session.run(None, {"image": images})
    assert np.abs(np.array(found["embedding"]) - embedding).max() <= MAX_ABS
    assert bool(scores) == bool(found["scores"])
    for one in scores:
        assert np.abs(np.array(found["scores"]) - one).max() <= MAX_ABS


def images_for(model: Path, make) -> np.ndarray:
    """Noise of the model's size, or of one that is no multiple of it where the model takes any."""
    _, height, _, channels = Student(model).session.get_inputs()[0].shape
    images = make.images(NUM_IMAGES, channels=channels)
    if isinstance(height, int):
        return images
    return images.repeat(2, axis=1).repeat(2, axis=2)[:, :50, :45].copy()


@pytest.mark.parametrize("architecture", ["ws-50k", "gn-50k"])
def test_the_model_gives_the_numbers_of_python(
    bundle: Callable[[str], Path], make, ort_web: Path, tmp_path: Path, architecture: str
) -> None:
    model = bundle(architecture) / "student.onnx"
    check_against_python(model, ort_web, tmp_path, images=images_for(model, make))


def test_weights_in_8_bits_give_the_numbers_of_python(
    bundle: Callable[[str], Path], make, ort_web: Path, tmp_path: Path
) -> None:
    store = pytest.importorskip(
        "export.profiles.weight_compression", reason="this version stores weights in 32 bits alone"
    ).store
    small = store(onnx.load(bundle("ws-50k") / "student.onnx"), bits=8)
    (tmp_path / "student.onnx").write_bytes(small.SerializeToString())
    images = images_for(tmp_path / "student.onnx", make)
    check_against_python(tmp_path / "student.onnx", ort_web, tmp_path, images=images)
