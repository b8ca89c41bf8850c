"""Networks of timm and torchvision by name, and weights that others trained, from a file.

Nothing is downloaded: a network is made with random weights, and weights come from a local file.
Names such as ``hf-hub:...``, which timm would look up, are not names here.

Shapes: B batch, C channels, H height, W width, F features of a network, O channels of a convolution's output.
"""

import copy
import difflib
import hashlib
import importlib
import io
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor, nn

from edgecmd.core.errors import ConfigError, DataError
from edgecmd.core.text import one_line
from edgecmd.data.user_files.decode import DecodeError, decoding

LIBRARIES = ("timm", "torchvision")
RGB = 3
# Names that timm and torchvision give to what stands behind the pooled feature.
HEADS = ("fc", "classifier", "head", "heads")
# Of two networks of torchvision, which else give more than one tensor in training.
OPTIONS: dict[str, dict[str, object]] = {
    name: {"aux_logits": False, "init_weights": True} for name in ("googlenet", "inception_v3")
}
# Where checkpoints of common training programs keep the weights, and what stands before each name.
NESTED = ("state_dict", "model", "model_state_dict", "state_dict_ema", "model_ema")
PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.", "encoder.")
COUNTER = "num_batches_tracked"
MOST_NEAR, MOST_TOLD = 5, 5
WEIGHTS_FILE = (
    "Give a .safetensors file, or a .pth file of torch.save(network.state_dict(), path); a file that could"
    " run code is never read."
)


def is_backbone(text: str) -> bool:
    """Whether a setting names a network of timm or torchvision (``timm:NAME``)."""
    return isinstance(text, str) and text.partition(":")[0] in LIBRARIES and ":" in text


def build_backbone(
    setting: str, text: str, *, in_channels: int = RGB, size: tuple[int, int] | None = None
) -> nn.Module:
    """A network of timm or torchvision without its classifier, its weights drawn from torch's generator.

    Args:
        setting: Name of the setting, for messages.
        text: ``timm:NAME`` or ``torchvision:NAME``.
        in_channels: C. A first convolution made for RGB is adapted, see `adapt_channels`.
        size: H and W, for networks that are made for one size (vision transformers of timm).

    Returns:
        Takes (B, C, H, W) and gives (B, F); a few give maps, see `pooled`. No layer of it works in place.
        One of timm has ``pretrained_cfg``: mean, std, input size and crop of the weights that it is
        published with.

    Raises:
        ConfigError: The library is not installed or cannot be imported, it has no such network, or the
            network cannot be made so.

    Guarantees:
        Nothing is fetched.
    """
    library, _, name = text.partition(":")
    module = _imported(setting, text, library)
    known = module.list_models() if library == "timm" else module.models.list_models(module=module.models)
    if name.partition(".")[0] not in known:
        raise ConfigError(_unknown(f"{setting}={text!r}", module, name=name, known=known))
    try:
        made = (
            _of_timm(module, name, in_channels, size) if library == "timm" else _of_torchvision(module, name)
        )
    # A library may raise anything.
    except Exception as error:
        told = one_line(str(error)).rstrip(".")
        raise ConfigError(
            f"{setting}={text!r} cannot be made for {in_channels} channels: {type(error).__name__}: {told}."
            " Choose another network, or write a function that makes it ('module:function')."
        ) from error
    if library == "torchvision":
        _adapt_first(made, in_channels)
    return without_inplace(made)


def without_inplace(network: nn.Module) -> nn.Module:
    """The network itself, its layers told not to work in place: hooks and ``vmap`` need their inputs."""
    layer: Any
    for layer in network.modules():
        if getattr(layer, "inplace", False):
            layer.inplace = False
    return network


def _imported(setting: str, text: str, library: str) -> ModuleType:
    # Read once, when the library is imported: it counts its users else.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        with decoding():
            return importlib.import_module(library)
    except DecodeError as error:
        missing = isinstance(error.__cause__, ModuleNotFoundError) and error.__cause__.name == library
        why = "is not installed" if missing else f"cannot be imported ({error})"
        raise ConfigError(
            f'{setting}={text!r} needs {library}, which {why}. Install it: pip install "edgecmd[{library}]".'
        ) from error


def _unknown(given: str, module: ModuleType, *, name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=MOST_NEAR)
    place = "timm.list_models()" if module.__name__ == "timm" else "torchvision.models.list_models()"
    hint = f" Near: {', '.join(near)}." if near else ""
    return f"{given}: {module.__name__} has no network {name[:80]!r}.{hint} All {len(known)} names: {place}."


def _of_timm(timm: Any, name: str, in_channels: int, size: tuple[int, int] | None) -> nn.Module:  # noqa: ANN401 - a module
    published = timm.get_pretrained_cfg(name.partition(".")[0])
    fixed = size is not None and getattr(published, "fixed_input_size", False)
    made: nn.Module = timm.create_model(
        name, pretrained=False, num_classes=0, in_chans=in_channels, **({"img_size": size} if fixed else {})
    )
    return made


def _of_torchvision(torchvision: Any, name: str) -> nn.Module:  # noqa: ANN401 - a module
    made: nn.Module = torchvision.models.get_model(name, weights=None, **OPTIONS.get(name, {}))
    head = next(one for one in HEADS if hasattr(made, one))
    last = [one for one, layer in getattr(made, head).named_modules() if isinstance(layer, nn.Linear)]
    # One without a linear layer (squeezenet) has a convolution that gives classes, and pools behind it.
    where, place = (
        (f"{head}.{last[-1]}".rstrip("."), nn.Identity()) if last else (head, nn.AdaptiveAvgPool2d(1))
    )
    made.set_submodule(where, place)
    return made


def _adapt_first(network: nn.Module, in_channels: int) -> None:
    first = first_convolution(network)
    if first is None or first[1].in_channels == in_channels:
        return
    layer = first[1]
    layer.weight = nn.Parameter(adapt_channels(layer.weight.detach(), in_channels))
    layer.in_channels = in_channels


def first_convolution(network: nn.Module) -> tuple[str, nn.Conv2d] | None:
    """Name and layer of the convolution that takes the input; None where there is none."""
    found = ((name, one) for name, one in network.named_modules() if isinstance(one, nn.Conv2d))
    return next(found, None)


def adapt_channels(weight_OCHW: Tensor, in_channels: int) -> Float[Tensor, "out channels height width"]:
    """Weight of a first convolution for RGB, for inputs of another number of channels.

    For one channel it is the sum over RGB: a grey image gives what it gave as three equal channels. For
    others the three are taken in their order (R, G, B, R, ...) and scaled by 3 / C, so that the sum stays as
    large.

    Args:
        weight_OCHW: (O, 3, height, width).
        in_channels: C.
    """
    if in_channels == 1:
        return weight_OCHW.sum(dim=1, keepdim=True)
    rows = torch.arange(in_channels, device=weight_OCHW.device) % RGB
    return weight_OCHW[:, rows] * (RGB / in_channels)


class Pooled(nn.Module):
    """A network that gives maps, and the mean over their places.

    Args:
        network: (B, C, H, W) to (B, F, h, w).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, F)."""
        maps: Tensor = self.network(image)
        return maps.mean(dim=(2, 3))


def pooled(network: nn.Module, shape: tuple[int, int, int]) -> nn.Module:
    """The network itself, or with the mean over places behind it where it gives maps.

    Args:
        network: Of `build_backbone`; its mode stays.
        shape: (C, H, W) of an input that it is tried on. One that fails is left to `edgecmd.models.trial`.
    """
    tried = copy.deepcopy(network).eval()
    try:
        with torch.no_grad():
            found = tried(torch.zeros(1, *shape))
    # A library may raise anything.
    except Exception:
        return network
    return Pooled(network) if isinstance(found, Tensor) and found.ndim == 4 else network


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightsFile:
    """What a file of weights holds.

    Attributes:
        path: The file.
        tensors: Its tensors by the names that the file has, without wrappers' prefixes; on the CPU.
        sha256: Of the file's bytes.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Matched:
    """What of a file went into a network.

    Attributes:
        path: The file.
        sha256: Of the file's bytes.
        num: Tensors of the network that the file gave.
        wanted: Tensors that the network has.
        absent: Names of those that the file lacks; they keep their first weights.
        misshapen: Names that the file has in another shape; likewise.
        left_over: Names of the file that the network has no place for, such as the classifier's.
    """

    path: Path
    sha256: str
    num: int
    wanted: int
    absent: tuple[str, ...]
    misshapen: tuple[str, ...]
    left_over: tuple[str, ...]

    def sentence(self) -> str:
        """The report in one line."""
        rest = (
            ("not in the file", self.absent),
            ("of another shape", self.misshapen),
            ("left over", self.left_over),
        )
        told = "".join(f"; {what}: {_first(names)}" for what, names in rest if names)
        return f"{self.num} of {self.wanted} tensors matched{told}"


def read_weights(setting: str, path: Path) -> WeightsFile:
    """Read a file of weights that someone else wrote; no code of it runs.

    Args:
        setting: Name of the setting, for messages.
        path: A safetensors file, or one of ``torch.save`` with a state dict, which may be in a checkpoint
            under a key of `NESTED`.

    Raises:
        DataError: The file is missing, damaged, would run code, holds no tensors, or numbers that are not
            finite.
    """
    given = f"{setting}={str(path)!r}"
    if not path.is_file():
        raise DataError(f"{given} is not a file. {WEIGHTS_FILE}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{given} cannot be read: {error.strerror}. {WEIGHTS_FILE}") from error
    tensors = _without_prefix(_state_of(given, _decoded(given, content)))
    for name, one in tensors.items():
        if not bool(torch.isfinite(one).all()):
            raise DataError(f"{given} has numbers in {name!r} that are not finite. Use another file.")
    return WeightsFile(path=path, tensors=tensors, sha256=hashlib.sha256(content).hexdigest())


def _decoded(given: str, content: bytes) -> object:
    pickled = content[:4] == b"PK\x03\x04" or (content[:1] == b"\x80" and content[8:9] != b"{")
    try:
        with decoding():
            if pickled:
                return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            return safetensors.torch.load(content)
    except DecodeError as error:
        # Torch's own text advises to run the code.
        code = re.search(r"GLOBAL (\S+)", str(error.__cause__))
        more = f"{code[1]}, which is code" if code else "something that torch does not read"
        why = f"is a pickle with {more}" if pickled else f"is not a safetensors file ({error})"
        raise DataError(f"{given} {why}, or it is damaged. {WEIGHTS_FILE}") from error


def _state_of(given: str, found: object) -> dict[str, Tensor]:
    """The state dict of a file, which may be under a key of a checkpoint."""
    while isinstance(found, Mapping):
        tensors = {str(name): one for name, one in found.items() if isinstance(one, Tensor)}
        if tensors:
            return tensors
        inner = next((found[name] for name in NESTED if name in found), None)
        if inner is None:
            keys = ", ".join(str(name)[:40] for name in list(found)[:MOST_TOLD])
            raise DataError(
                f"{given} holds no named tensors; its keys are: {keys or 'none'}. Weights may be under one"
                f" of {', '.join(NESTED)}. {WEIGHTS_FILE}"
            )
        found = inner
    raise DataError(f"{given} holds a {type(found).__name__} instead of named tensors. {WEIGHTS_FILE}")


def _without_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same without what a wrapper (``module.`` of data parallel training) put before every name."""
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            return _without_prefix({name.removeprefix(prefix): one for name, one in tensors.items()})
    return tensors


def load_matching(network: nn.Module, weights: WeightsFile, *, setting: str, what: str) -> Matched:
    """Put into a network what a file has of it, by name and shape.

    A first convolution for RGB is adapted to the network's channels, see `adapt_channels`. Names of the file
    may have one prefix more than the network's, or one less.

    Args:
        network: Takes them.
        weights: Of `read_weights`.
        setting: Name of the setting, for messages.
        what: What the network is, such as ``"timm:resnet18"``.

    Raises:
        DataError: Less than half of the network's tensors are in the file with their shape.
    """
    own = {name: one for name, one in network.state_dict().items() if not name.endswith(COUNTER)}
    given = _named_alike(weights.tensors, own)
    first = first_convolution(network)
    if first is not None and (weight := given.get(f"{first[0]}.weight")) is not None:
        layer = first[1]
        if weight.ndim == 4 and weight.shape[1] == RGB != layer.weight.shape[1]:
            given[f"{first[0]}.weight"] = adapt_channels(weight, layer.weight.shape[1])
    taken = {name: one for name, one in given.items() if name in own and one.shape == own[name].shape}
    report = Matched(
        path=weights.path,
        sha256=weights.sha256,
        num=len(taken),
        wanted=len(own),
        absent=tuple(name for name in own if name not in given),
        misshapen=tuple(name for name in own if name in given and name not in taken),
        left_over=tuple(name for name in given if name not in own and not name.endswith(COUNTER)),
    )
    if 2 * report.num < report.wanted or not taken:
        raise DataError(
            f"{setting}={str(weights.path)!r} does not hold weights of {what}: {report.sentence()}. Give the"
            " file of that network, or name the network that the file is for."
        )
    network.load_state_dict({name: one.to(own[name].dtype) for name, one in taken.items()}, strict=False)
    return report


def _named_alike(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A file's tensors by the network's names, whichever of the prefixes the network has most of."""
    ways = [
        dict(tensors),
        *({f"{prefix}{name}": one for name, one in tensors.items()} for prefix in PREFIXES),
    ]
    return max(ways, key=lambda way: len(way.keys() & own.keys()))


def _first(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - MOST_TOLD} more" if len(names) > MOST_TOLD else ""
    return f"{', '.join(one[:80] for one in names[:MOST_TOLD])}{more}"
