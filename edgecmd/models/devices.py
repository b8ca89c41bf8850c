"""Where tensors live: ``device = "auto"`` takes a GPU where there is one."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from edgecmd.core.errors import ConfigError, choose

Network = TypeVar("Network", bound=nn.Module)


# Of bf16 on a device without instructions for it.
SLOW_BF16 = "gives the same results here, but is slower than float32"
# Of a processor: two of x86, two of ARM.
BF16_UNITS = ("amx_bf16", "avx512_bf16", "bf16", "sve_bf16")


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


def resolve_device(name: str, *, exact: bool = False) -> torch.device:
    """Device of that name.

    Args:
        name: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        exact: Whether the work needs float64, which ``mps`` has not; ``auto`` is the CPU then.

    Raises:
        ConfigError: The name is unknown, or this machine has no such device, or that one no float64.
    """
    found = choose("device", name, NAMES)()
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available[found]:
        raise ConfigError(f"device={name!r} is not available on this machine. Use device='auto' or 'cpu'.")
    if exact and found == "mps":
        if name == "mps":
            raise ConfigError(
                "device='mps' has no float64, which a guarantee per pair needs for its sums. Use"
                " device='cpu'."
            )
        found = "cpu"
    return torch.device(found)


def place(network: Network, device: torch.device) -> Network:
    """Move ``network`` to ``device`` with channels last, which small convolutions run faster in."""
    network.to(device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def forward(student: nn.Module, image: Tensor, precision: str) -> Tensor:
    """What a student gives in training, computed with numbers of ``distill.precision``.

    Args:
        student: Its weights are float32, and so are their gradients.
        image: Its inputs, (B, C, H, W).
        precision: ``float32``; or ``bf16``: layers that multiply matrices do it in bfloat16, and what comes
            out is float32 again, so that losses are.
    """
    if precision == "float32":
        plain: Tensor = student(image)
        return plain
    with torch.autocast(image.device.type, dtype=torch.bfloat16):
        found: Tensor = student(image)
    return found.float()


def has_bf16(device: torch.device) -> bool:
    """Whether a device is known to have instructions for bfloat16; without them it is right and slow."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "mps":
        return bool(torch.backends.mps.is_macos_or_newer(14, 0))
    found: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(bool(found.get(name)) for name in BF16_UNITS)


def share_of_gpu(device: str, num_processes: int) -> None:
    """Keep this process to its share of a GPU's memory, so that none leaves the others without.

    Args:
        device: Kind of device that the process uses; any but ``cuda`` has no such limit.
        num_processes: Processes that share it.
    """
    if device == "cuda":
        torch.cuda.set_per_process_memory_fraction(1.0 / num_processes)


def device_of(network: nn.Module) -> torch.device:
    """Device of the first parameter; the CPU where there is none."""
    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
