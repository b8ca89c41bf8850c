"""EfficientNet-Lite0: its padding, its folded normalisations, and its arithmetic beside a plain network."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import fuse_conv_bn_eval

from edgecmd.core.errors import DataError
from edgecmd.data.modalities.table import source_input, target_input
from edgecmd.datasets.build.imagenet import read_weights
from edgecmd.models.teacher.teachers import load_teacher
from edgecmd.models.trunks import efficientnet
from edgecmd.models.trunks.efficientnet import EfficientNetLite0, SameConv2d, Trunk, fold, load_shipped
from tests.made_up_weights import made_up_state, plain_pooled, weight_file


def ones(kernel_size: int, stride: int) -> SameConv2d:
    """Sums of what a window sees."""
    convolution = SameConv2d(1, 1, kernel_size, stride=stride)
    nn.init.ones_(convolution.weight)
    nn.init.zeros_(convolution.bias)
    return convolution


@pytest.mark.parametrize(
    ("side", "kernel_size", "stride", "sums"),
    [
        (4, 3, 1, [3, 6, 9, 7]),
        (3, 5, 1, [6, 6, 6]),
        (4, 3, 2, [6, 7]),
        (5, 3, 2, [3, 9, 9]),
        (4, 5, 2, [10, 9]),
        (5, 5, 2, [6, 15, 12]),
        (4, 1, 2, [1, 3]),
        (5, 1, 2, [1, 3, 5]),
        (1, 3, 2, [1]),
    ],
)
@torch.no_grad()
def test_windows_on_a_row_of_numbers_by_hand(
    side: int, kernel_size: int, stride: int, sums: list[int]
) -> None:
    """The first row is 1, 2, 3, ..., all else is zero; then the same turned into a column."""
    image = torch.zeros(1, 1, side, side)
    image[0, 0, 0] = torch.arange(1.0, side + 1)
    assert ones(kernel_size, stride)(image)[0, 0, 0].tolist() == sums
    assert ones(kernel_size, stride)(image.mT)[0, 0, :, 0].tolist() == sums


def padded_by_search(side: int, kernel_size: int, stride: int) -> tuple[int, int]:
    """The fewest zeros with which a window stands at every ``stride``-th pixel, an odd one at the end."""
    windows = len(range(0, side, stride))
    zeros = next(more for more in range(9) if (side + more - kernel_size) // stride + 1 >= windows)
    return zeros // 2, zeros - zeros // 2


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("sides", [(6, 7), (9, 8), (5, 5)])
@torch.no_grad()
def test_windows_stand_where_the_fewest_zeros_let_them(
    kernel_size: int, stride: int, sides: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    convolution = SameConv2d(2, 3, kernel_size, stride=stride)
    image = torch.randn(1, 2, *sides)
    (above, below), (left, right) = (padded_by_search(side, kernel_size, stride) for side in sides)
    padded = np.pad(image[0].numpy(), ((0, 0), (above, below), (left, right)))
    found = convolution(image)[0].numpy()
    assert found.shape == (3, *(len(range(0, side, stride)) for side in sides))
    weight, bias = convolution.weight.numpy(), convolution.bias.numpy()
    for out, row, column in np.ndindex(found.shape):
        at = np.s_[
            :, row * stride : row * stride + kernel_size, column * stride : column * stride + kernel_size
        ]
        expected = float((padded[at] * weight[out]).sum() + bias[out])
        assert found[out, row, column] == pytest.approx(expected, abs=1e-5)


def test_folding_is_that_of_pytorch() -> None:
    torch.manual_seed(0)
    convolution, norm = nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5, eps=1e-3)
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(tensor)
    nn.init.uniform_(norm.running_var, 0.1, 2.0)
    entries = {name: one.detach() for name, one in norm.state_dict().items()}
    weight, bias = fold(convolution.weight.detach(), entries, epsilon=norm.eps)
    expected = fuse_conv_bn_eval(convolution.eval(), norm.eval())
    torch.testing.assert_close(weight, expected.weight.detach())
    torch.testing.assert_close(bias, expected.bias.detach())


@torch.no_grad()
def test_pooled_features_are_those_of_a_plain_network_with_normalisations() -> None:
    """Weights rounded to float16 in sixteen blocks leave some parts in a thousand between the two."""
    state = made_up_state()
    network = EfficientNetLite0(embedding_dim=2, input_side=64).eval()
    network.load_state_dict(read_weights(weight_file(state)), strict=False)
    images = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    expected = plain_pooled(state, torch.from_numpy(images).permute(0, 3, 1, 2).float())
    found = network.pooled(source_input(images))
    assert (found - expected).norm() < 0.01 * expected.norm()
    assert (found - expected).norm() < 0.05 * (expected - expected.mean(dim=0)).norm()


@torch.no_grad()
def test_its_input_is_brought_to_its_side_and_a_map_halves_five_times() -> None:
    network = EfficientNetLite0(embedding_dim=2, input_side=64).eval()
    assert network(torch.zeros(3, 3, 16, 24)).shape == (3, 2)
    assert network(torch.zeros(0, 3, 16, 16)).shape == (0, 2)
    maps = network.maps(torch.zeros(1, 3, 64, 96))
    assert [one.shape[1] for one in maps] == [16, 24, 40, 80, 112, 192, 320]
    assert [tuple(one.shape[2:]) for one in maps] == [
        (32, 48),
        (16, 24),
        (8, 12),
        (4, 6),
        (4, 6),
        (2, 3),
        (2, 3),
    ]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("seen", [(1.0, -0.5), (0.5, 0.25), (0.0, 1.0)])
@torch.no_grad()
def test_a_trunk_sees_a_grey_picture_as_the_teacher_does(channels: int, seen: tuple[float, float]) -> None:
    """But for the border, where the two have different values beyond the picture."""
    grey = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 1), dtype=np.uint8)
    trunk = Trunk(in_channels=channels, num_stages=2)
    load_shipped(trunk, offset=seen[0], scale=seen[1])
    shown = target_input(np.repeat(grey, channels, axis=3), offset=seen[0], scale=seen[1])
    teacher = load_teacher(name="imagenet").network
    assert isinstance(teacher, EfficientNetLite0)
    expected = teacher.maps(source_input(np.repeat(grey, 3, axis=3)))
    for found, wanted in zip(trunk.maps(shown), expected[:2], strict=True):
        torch.testing.assert_close(found[..., 4:-4, 4:-4], wanted[..., 4:-4, 4:-4], rtol=1e-4, atol=1e-3)


def test_a_shipped_file_that_is_another_gives_no_first_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet, "SHA256", "0" * 64)
    with pytest.raises(DataError, match="does not have the checksum 0000"):
        load_shipped(Trunk(num_stages=1), offset=0.5, scale=0.25)
