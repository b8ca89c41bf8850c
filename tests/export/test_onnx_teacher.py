"""A teacher out of an ONNX file: what it says, what tells it from others, and files that are none."""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from edgecmd.core.errors import ConfigError, DataError
from edgecmd.data.pairs import Images
from edgecmd.models.teacher.feature_cache import cached_features
from edgecmd.models.teacher.teacher_set import named_teacher
from edgecmd.models.teacher.teachers import Teacher
from edgecmd.settings import TeacherConfig
from tests.teacher_files import onnx_file

GREY = np.full((2, 8, 8, 3), 51, np.uint8)
# 51 / 255 = 0.2, times 1, 2, 3.
BY_HAND = [0.2, 0.4, 0.6]


def no_public() -> Images:
    raise AssertionError("public pictures are for components alone")


def named(**options: object) -> Teacher:
    settings = TeacherConfig(**options)  # type: ignore[arg-type]
    return named_teacher(settings, data_set="", public=no_public, cache=None)


def pictures(num: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (num, 8, 8, 3), dtype=np.uint8)


class TestWhatItSays:
    def test_it_is_what_the_graph_computes(self, tmp_path: Path) -> None:
        path = onnx_file(tmp_path / "means.onnx")
        made = Teacher.of(f"onnx:{path}")
        np.testing.assert_allclose(made.embed(GREY), [BY_HAND, BY_HAND], atol=1e-6)
        assert (made.dim, made.sees_colour, made.recipe) == (3, True, {"own": "onnx:means.onnx"})
        assert named(name=f"onnx:{path}").sha256 == made.sha256

    def test_pictures_are_made_as_settings_say(self, tmp_path: Path) -> None:
        """By hand: (0.2 - 0.1) / 0.5 = 0.2; the middle of a white frame about black is black."""
        path = onnx_file(tmp_path / "means.onnx", shape=("batch", 3, 16, 16))
        made = named(name=f"onnx:{path}", mean=(0.1, 0.0, 0.2), std=(0.5, 1.0, 1.0))
        np.testing.assert_allclose(made.embed(GREY), [[0.2, 0.4, 0.0]] * 2, atol=1e-6)
        framed = np.full((1, 16, 16, 3), 255, np.uint8)
        framed[:, 4:12, 4:12] = 0
        assert (named(name=f"onnx:{path}", crop=0.5).embed(framed) == 0).all()
        assert (named(name=f"onnx:{path}").embed(framed) > 0.1).all()

    @pytest.mark.parametrize("batch", [1, 4])
    def test_a_graph_of_a_fixed_batch_says_the_same(self, batch: int, tmp_path: Path) -> None:
        free = Teacher.of(f"onnx:{onnx_file(tmp_path / 'free.onnx')}")
        path = onnx_file(tmp_path / "fixed.onnx", shape=(batch, 3, "height", "width"))
        fixed, images = Teacher.of(f"onnx:{path}"), pictures(10)
        np.testing.assert_allclose(fixed.embed(images), free.embed(images), atol=1e-6)
        assert fixed.embed(images[:0]).shape == (0, 3)

    def test_one_of_several_outputs_is_chosen_by_name(self, tmp_path: Path) -> None:
        path = onnx_file(tmp_path / "two.onnx", outputs=("feature", "other"))
        assert Teacher.of(f"onnx:{path}", output="other").embed(GREY).shape == (2, 3)
        assert named(name=f"onnx:{path}", output="feature").dim == 3

    def test_a_copy_is_the_same_graph(self, tmp_path: Path) -> None:
        made = Teacher.of(f"onnx:{onnx_file(tmp_path / 'means.onnx')}")
        other = copy.deepcopy(made.network)
        np.testing.assert_array_equal(other(torch.zeros(1, 3, 8, 8)), made.network(torch.zeros(1, 3, 8, 8)))

    def test_weights_beside_the_file_are_read_and_counted(self, tmp_path: Path) -> None:
        path = onnx_file(tmp_path / "big.onnx", outside="data/big.bin")
        first = Teacher.of(f"onnx:{path}")
        np.testing.assert_allclose(first.embed(GREY), [BY_HAND] * 2, atol=1e-6)
        (tmp_path / "data" / "big.bin").write_bytes(np.array([2, 2, 2], np.float32).tobytes())
        assert Teacher.of(f"onnx:{path}").sha256 != first.sha256


def test_its_digest_is_of_file_output_and_preparation(tmp_path: Path) -> None:
    one, same = (onnx_file(tmp_path / name, outputs=("feature", "b")) for name in ("one.onnx", "same.onnx"))
    other = onnx_file(tmp_path / "other.onnx", outputs=("feature", "b"), factor=(1, 2, 4))
    options: list[tuple[Path, dict[str, object]]] = [
        (one, {}),
        (one, {"output": "b"}),
        (one, {"size": 16}),
        (one, {"size": 16, "crop": 0.5}),
        (one, {"crop": 0.5}),
        (one, {"mean": (0.5, 0.5, 0.5)}),
        (one, {"std": (0.5, 0.5, 0.5)}),
        (other, {}),
    ]
    made = [named(name=f"onnx:{path}", **({"output": "feature"} | more)) for path, more in options]
    assert len({teacher.sha256 for teacher in made}) == len(options)
    assert named(name=f"onnx:{same}", output="feature").sha256 == made[0].sha256
    for teacher in made:
        cached_features(teacher, GREY, cache_dir=tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == len(options)


def node(kind: str, inputs: list[str], outputs: list[str], **more: object) -> object:
    return helper.make_node(kind, inputs, outputs, **more)


MEANS = node("ReduceMean", ["image", "axes"], ["means"], keepdims=0)
GRAPHS: dict[str, tuple[dict[str, object], dict[str, object], str]] = {
    "two inputs": (
        {"more_inputs": ("depth",)},
        {},
        r"has 2 inputs: 'image' tensor\(float\) \(batch, 3, height, width\); 'depth'.*takes one input",
    ),
    "two outputs": (
        {"outputs": ("feature", "logits")},
        {},
        r"has 2 outputs: 'feature' .*'logits'.*with teacher.output",
    ),
    "no such output": (
        {}, {"output": "featre"}, r"teacher.output='featre' is not an output.*Did you mean 'feature'"),
    "channels last": ({"shape": ("n", "h", "w", 3)}, {}, r"takes \(batch, height, width, 3\).*nchw"),
    "grey": ({"shape": ("n", 1, 8, 8)}, {}, r"takes 'image' tensor\(float\) \(n, 1, 8, 8\).*RGB"),
    "bytes": ({"kind": TensorProto.UINT8, "nodes": [
        node("Cast", ["image"], ["f"], to=1), node("ReduceMean", ["f", "axes"], ["feature"], keepdims=0)]},
        {}, r"takes 'image' tensor\(uint8\).*float32"),
    "another side": ({"shape": ("n", 3, 16, 16)}, {"size": 32}, r"teacher.size=32, but .* 16 pixels a side"),
    "not square": ({"shape": ("n", 3, 16, 24)}, {}, r"\(n, 3, 16, 24\), but a teacher's images are square"),
    "a map": ({"nodes": [node("Identity", ["image"], ["feature"])]}, {}, r"onnx:bad.onnx gives \(3, 3, 64"),
    "its maker's operators": (
        {"nodes": [node("Magic", ["image"], ["feature"], domain="mine")], "domains": ("mine",)},
        {},
        r"custom operators, 'mine::Magic' among 1; libraries of operators are never loaded",
    ),
    "an operator that nobody has": (
        {"nodes": [node("Magic", ["image"], ["feature"])]}, {}, r"cannot be loaded by ONNX Runtime.*Magic"),
    "not finite": (
        {"nodes": [MEANS, node("Sub", ["means", "means"], ["z"]), node("Div", ["z", "z"], ["feature"])]},
        {}, r"gives numbers that are not finite"),
    "rows that mix": (
        {"nodes": [MEANS, node("ReduceSum", ["means"], ["all"]), node("Mul", ["means", "all"], ["feature"])]},
        {}, r"answers an input differently when other inputs are in the batch"),
    "random": (
        {"nodes": [MEANS, node("RandomNormalLike", ["means"], ["feature"])]}, {}, r"or when it is asked"),
    "one row for all": (
        {"nodes": [MEANS, node("ReduceMean", ["means"], ["feature"])]}, {}, r"gives \(1, 1\) for 3 inputs"),
    "weights that are not there": ({"outside": "/nowhere/at/all.bin"}, {}, r"is not in its folder"),
    "weights elsewhere": ({"outside": "../beside.bin"}, {}, r"'../beside.bin', which is not in its folder"),
}  # fmt: skip


@pytest.mark.parametrize("fault", list(GRAPHS))
def test_a_graph_that_is_no_teacher_is_refused_in_a_sentence(fault: str, tmp_path: Path) -> None:
    graph, options, message = GRAPHS[fault]
    (tmp_path / "here").mkdir()
    path = onnx_file(tmp_path / "here" / "bad.onnx", **graph)  # type: ignore[arg-type]
    with pytest.raises((ConfigError, DataError), match=message):
        named(name=f"onnx:{path}", **options)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def _large(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(2**31)


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, r"does not name an existing file. Write onnx: and the path"),
    "empty": (lambda path: path.write_bytes(b""), "contains no graph"),
    "text": (
        lambda path: path.write_text("no graph, a text of some length"),
        "not an ONNX file|contains no graph",
    ),
    "cut": (_cut, "not an ONNX file, or only part of one"),
    "large": (_large, "more than 2 GiB.*save_as_external_data"),
}


@pytest.mark.parametrize("fault", list(FILES))
def test_a_file_that_is_no_graph_is_refused_in_a_sentence(fault: str, tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "bad.onnx")
    break_it, message = FILES[fault]
    break_it(path)
    with pytest.raises(DataError, match=message):
        Teacher.of(f"onnx:{path}")


def test_weights_beside_it_may_be_no_link_elsewhere_and_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    path = onnx_file(tmp_path / "here" / "bad.onnx", outside="w.bin")
    weights = path.with_name("w.bin").rename(tmp_path / "secret")
    with pytest.raises(DataError, match="'w.bin', which is not there"):
        Teacher.of(f"onnx:{path}")
    path.with_name("w.bin").symlink_to(weights)
    with pytest.raises(DataError, match="'w.bin', which is not in its folder"):
        Teacher.of(f"onnx:{path}")


def test_a_picture_that_the_graph_fails_at_moves_no_other_and_has_no_feature(tmp_path: Path) -> None:
    """A table of three is asked by brightness; white is beyond its end (2.9 / 0.8 = 3.6)."""
    nodes = [
        MEANS,
        node("Mul", ["means", "factor"], ["row"]),
        node("Cast", ["row"], ["index"], to=TensorProto.INT64),
        node("Constant", [], ["flat"], value_ints=[3]),
        node("Reshape", ["factor", "flat"], ["table"]),
        node("Gather", ["table", "index"], ["feature"], axis=0),
    ]
    path = onnx_file(tmp_path / "fails.onnx", nodes=nodes, factor=(2.9, 2.9, 2.9), width=3)
    made = Teacher.of(f"onnx:{path}")
    bright = np.concatenate([GREY, np.full((1, 8, 8, 3), 255, np.uint8), GREY])
    fine = made.embed(bright)
    assert np.isfinite(fine).all()
    scaled = Teacher.of(f"onnx:{path}", std=(0.8, 0.8, 0.8))
    found = scaled.embed(bright)
    assert np.isnan(found[2]).all()
    np.testing.assert_array_equal(found[[0, 1, 3, 4]], scaled.embed(np.concatenate([GREY, GREY])))
