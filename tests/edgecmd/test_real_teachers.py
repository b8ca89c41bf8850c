"""Networks of the real timm as teachers, with weights from a file, and the same out of ONNX."""

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from edgecmd.core.errors import ConfigError
from edgecmd.models.teacher.teachers import Teacher

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
PICTURES = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def timm() -> ModuleType:
    """The real one; a made-up one of another test is none."""
    sys.modules.pop("timm", None)
    found: ModuleType = pytest.importorskip("timm", exc_type=ImportError)
    return found


def published(timm: ModuleType, name: str, folder: Path) -> tuple[torch.nn.Module, Path]:
    """A network with its classifier and made-up weights, and the file that its makers would publish."""
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(0)
        network = timm.create_model(name, pretrained=False).eval()
    torch.save(network.state_dict(), folder / f"{name}.pth")
    return network, folder / f"{name}.pth"


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenetv3_small_100", "convnext_atto", "vit_tiny_patch16_224"]
)
def test_its_feature_is_what_timm_says_of_the_prepared_picture(
    timm: ModuleType, name: str, tmp_path: Path
) -> None:
    """timm cuts after it enlarged, edgecmd before: the same picture but for rounding of the cut."""
    network, path = published(timm, name, tmp_path)
    made = Teacher.of(f"timm:{name}", weights=path, crop=1.0)
    published_as = network.pretrained_cfg
    side = published_as["input_size"][-1]
    image = torch.from_numpy(PICTURES).permute(0, 3, 1, 2).float() / 255
    image = torch.nn.functional.interpolate(image, size=(side, side), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(published_as[one]).view(3, 1, 1) for one in ("mean", "std"))
    with torch.no_grad():
        expected = network.forward_head(network.forward_features((image - mean) / std), pre_logits=True)
    np.testing.assert_allclose(made.embed(PICTURES), expected.numpy(), rtol=1e-3, atol=1e-4)


def test_a_vision_transformer_takes_another_side_and_others_say_what_they_take(
    timm: ModuleType, tmp_path: Path
) -> None:
    _, path = published(timm, "vit_tiny_patch16_224", tmp_path)
    assert np.isfinite(Teacher.of("timm:vit_tiny_patch16_224", weights=path, size=96).embed(PICTURES)).all()
    _, path = published(timm, "mixer_s16_224", tmp_path)
    with pytest.raises(ConfigError, match=r"fails on inputs of shape \(3, 3, 96, 96\).*224"):
        Teacher.of("timm:mixer_s16_224", weights=path, size=96)


def test_the_same_network_out_of_onnx_says_the_same(timm: ModuleType, tmp_path: Path) -> None:
    _, path = published(timm, "resnet18", tmp_path)
    network = timm.create_model("resnet18", pretrained=False, num_classes=0).eval()
    network.load_state_dict(torch.load(path, weights_only=True), strict=False)
    batch = torch.export.Dim("batch", min=1, max=64)
    torch.onnx.export(
        network,
        (torch.zeros(2, 3, 96, 96),),
        tmp_path / "resnet18.onnx",
        dynamo=True,
        dynamic_shapes=({0: batch},),
        verbose=False,
    )
    scale = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    ours = Teacher.of("timm:resnet18", weights=path, size=96, crop=1.0, **scale)  # type: ignore[arg-type]
    theirs = Teacher.of(f"onnx:{tmp_path / 'resnet18.onnx'}", **scale)  # type: ignore[arg-type]
    np.testing.assert_allclose(theirs.embed(PICTURES), ours.embed(PICTURES), rtol=1e-3, atol=1e-4)
