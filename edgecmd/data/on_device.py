"""What differs between devices: moving numbers to one, and their precision there."""

import torch
from torch import Tensor


def sent(value: Tensor, device: torch.device) -> Tensor:
    """``value`` on ``device``; a GPU with memory of its own is not waited for.

    From ordinary memory torch waits until all work before the copy is done; from pinned memory it does not.
    """
    if device.type != "cuda" or value.device.type != "cpu":
        return value.to(device)
    return value.pin_memory().to(device, non_blocking=True)


def exact_on(device: torch.device) -> torch.dtype:
    """The widest number that a device computes with: Apple's have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64
