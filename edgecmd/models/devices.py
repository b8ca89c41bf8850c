"""Where tensors live: ``device = "auto"`` takes a GPU where there is one."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from edgecmd.core.errors import ConfigError, choose

Network = TypeVar("Network", bound=nn.Module)


def _auto() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


NAMES: dict[str, Callable[[], str]] = {
    "auto": _auto,
    "cpu": lambda: "cpu",
    "cuda": lambda: "cuda",
    "mps": lambda: "mps",
}


def resolve_device(name: str) -> torch.device:
    """Device of that name.

    Args:
        name: ``auto``, ``cpu``, ``cuda`` or ``mps``.

    Raises:
        ConfigError: The name is unknown or this machine has no such device.
    """
    found = choose("device", name, NAMES)()
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available[found]:
        raise ConfigError(f"device={name!r} is not available on this machine. Use device='auto' or 'cpu'.")
    return torch.device(found)


def place(network: Network, device: torch.device) -> Network:
    """Move ``network`` to ``device`` with channels last, which small convolutions run faster in."""
    network.to(device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def device_of(network: nn.Module) -> torch.device:
    """Device of the first parameter; the CPU where there is none."""
    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
