"""Networks with the heads that torchvision's have."""

from types import ModuleType

import torch
from torch import nn


class Small(nn.Module):
    """A convolution, a mean, and a head by the name that the network gives it."""

    def __init__(self, head: str, layers: nn.Module) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU(True)
        )
        self.head_name = head
        setattr(self, head, layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.features(x)
        head = getattr(self, self.head_name)
        return torch.flatten(head(x if self.head_name == "classifier" else x.mean((2, 3))), 1)


def list_models(module: ModuleType) -> list[str]:
    assert module.__name__ == "torchvision.models"
    return ["resnet", "mobilenet", "squeezenet"]


def get_model(name: str, *, weights: None) -> nn.Module:
    assert weights is None
    if name == "resnet":
        return Small("fc", nn.Linear(6, 10))
    if name == "mobilenet":
        hidden = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 10)
        )
        return Small("classifier", hidden)
    return Small("classifier", nn.Sequential(nn.Dropout(0.5), nn.Conv2d(6, 10, 1), nn.AdaptiveAvgPool2d(1)))
