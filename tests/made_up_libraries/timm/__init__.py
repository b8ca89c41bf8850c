"""As much of timm's interface as edgecmd calls, with networks small enough for a test."""

from types import SimpleNamespace

import torch
from torch import nn
from torch.nn import functional

__version__ = "0.0"


class BatchNormAct2d(nn.BatchNorm2d):
    """A normalisation that holds its activation, as timm's has it."""

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features)
        self.drop, self.act = nn.Identity(), nn.Hardswish(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normal = functional.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training,
            self.momentum,
            self.eps,
        )
        return self.act(self.drop(normal))


class SqueezeExcite(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(width, 4, 1), nn.Conv2d(4, width, 1)
        self.act, self.gate = nn.ReLU(inplace=True), nn.Hardsigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gate(self.expand(self.act(self.reduce(x.mean((2, 3), keepdim=True)))))


class TinyNet(nn.Module):
    """Stem, squeeze and excitation, a depthwise convolution, a normalisation before a convolution, head."""

    def __init__(self, *, in_chans: int, num_classes: int, pool: bool) -> None:
        super().__init__()
        self.conv_stem = nn.Conv2d(in_chans, 8, 3, stride=2, padding=1, bias=False)
        self.bn1 = BatchNormAct2d(8)
        self.se = SqueezeExcite(8)
        self.conv_dw = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.act2 = nn.ReLU(inplace=True)
        self.pre = nn.BatchNorm2d(8)
        self.conv_head = nn.Conv2d(8, 12, 1)
        self.pool = pool
        self.classifier = nn.Linear(12, num_classes) if num_classes else nn.Identity()
        self.pretrained_cfg = {"mean": (0.485, 0.456, 0.406)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.se(self.bn1(self.conv_stem(x)))
        x = self.act2(self.bn2(self.conv_dw(x))) + x
        x = self.conv_head(self.pre(x))
        return self.classifier(x.mean((2, 3))) if self.pool else x


class FixedNet(nn.Module):
    """Made for one size, as vision transformers are."""

    def __init__(self, *, in_chans: int, img_size: tuple[int, int]) -> None:
        super().__init__()
        self.all = nn.Linear(in_chans * img_size[0] * img_size[1], 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.all(x.flatten(1))


def list_models() -> list[str]:
    return ["tiny_net", "tiny_maps", "tiny_fixed", "tiny_faulty"]


def get_pretrained_cfg(name: str) -> SimpleNamespace | None:
    return SimpleNamespace(fixed_input_size=name == "tiny_fixed") if name != "tiny_faulty" else None


def create_model(
    name: str, *, pretrained: bool, num_classes: int, in_chans: int, img_size: tuple[int, int] = (224, 224)
) -> nn.Module:
    assert not pretrained
    base, _, tag = name.partition(".")
    if base == "tiny_faulty" or tag not in ("", "in1k"):
        raise RuntimeError(f"Invalid pretrained tag ({tag}) for {base}.")
    if base == "tiny_fixed":
        return FixedNet(in_chans=in_chans, img_size=img_size)
    return TinyNet(in_chans=in_chans, num_classes=num_classes, pool=base == "tiny_net")
