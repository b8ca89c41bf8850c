"""Named tensors with a description in one safetensors file; equal content gives equal bytes.

safetensors writes the entries of its metadata in a random order, so there is a single entry here:
the description as JSON with sorted keys.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from edgecmd.core.errors import DataError
from edgecmd.data.user_files.decode import DecodeError, decoding

ENTRY = "edgecmd"
# Of a dimension or of channels: more than any network here has, and few enough to be made.
MAX_COUNT = 65_536


def pack(tensors: Mapping[str, Tensor], description: Mapping[str, str]) -> bytes:
    """Bytes of a safetensors file.

    Args:
        tensors: Tensors by name.
        description: What they are.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return save(plain, metadata={ENTRY: json.dumps(dict(description), sort_keys=True)})


def unpack(path: Path, *, advice: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and description of a file that `pack` wrote.

    Args:
        path: The file.
        advice: What to do when it is missing or broken, a sentence.

    Raises:
        DataError: The file is missing, not safetensors, has no description, or a tensor of it has numbers
            that are not finite.
    """
    if not path.is_file():
        raise DataError(f"{path} is not a file. {advice}")
    _refuse_pickle(path, advice=advice)
    try:
        with decoding(), safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
    except DecodeError as error:
        raise DataError(f"{path} is not a safetensors file, or it is damaged ({error}). {advice}") from error
    try:
        with decoding():
            description = dict(json.loads(metadata[ENTRY]))
    except DecodeError as error:
        raise DataError(f"{path} does not say what it holds (metadata {ENTRY!r}). {advice}") from error
    _refuse_not_finite(tensors, path=path, advice=advice)
    return tensors, {str(key): str(value) for key, value in description.items()}


def _refuse_pickle(path: Path, *, advice: str) -> None:
    """Name a file of ``torch.save`` for what it is."""
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. {advice}") from error
    # A safetensors file begins with the length of its header, which may look like a pickle's first bytes.
    pickled = start[:1] == b"\x80" and start[1:2] in (b"\2", b"\3", b"\4", b"\5") and start[8:] != b"{"
    if start[:4] == b"PK\x03\x04" or pickled:
        raise DataError(f"{path} is a pickle, as torch.save writes; pickles are never read. {advice}")


def _refuse_not_finite(tensors: Mapping[str, Tensor], *, path: Path, advice: str) -> None:
    for name in sorted(tensors):
        one = tensors[name]
        if one.is_floating_point() and not bool(one.isfinite().all()):
            num = int((~one.isfinite()).sum())
            raise DataError(
                f"{path}: {num} of {one.numel()} numbers of the tensor {name!r} are not finite (NaN or"
                f" infinite). {advice}"
            )


def whole_number(description: Mapping[str, str], name: str, *, path: Path, advice: str) -> int:
    """An entry of a description that counts something.

    Raises:
        DataError: It is not a whole number from 1 to `MAX_COUNT`.
    """
    text = description[name]
    if not (text.isascii() and text.isdecimal() and len(text) < 9 and 1 <= int(text) <= MAX_COUNT):
        raise DataError(
            f"{path} has the metadata {name}={text[:40]!r}; allowed is a whole number from 1 to"
            f" {MAX_COUNT:,}. {advice}"
        )
    return int(text)


def load_weights(network: nn.Module, tensors: Mapping[str, Tensor], *, path: Path, what: str) -> None:
    """Put a file's tensors into a network, all of them and no others.

    Args:
        network: Takes them.
        tensors: Tensors by name.
        path: Where they came from.
        what: What the network is, such as ``"a ws-50k student"``.

    Raises:
        DataError: A tensor is missing, unknown, or of another shape; the message names the first.
    """
    own = network.state_dict()
    missing, unknown = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    shapes = [name for name in sorted(own.keys() & tensors.keys()) if own[name].shape != tensors[name].shape]
    wrong = [
        *(f"it lacks the tensor {name!r}" for name in missing[:1]),
        *(f"it has a tensor {name!r}, which does not belong there" for name in unknown[:1]),
        *(
            f"its tensor {name!r} has the shape {tuple(tensors[name].shape)}, and {tuple(own[name].shape)} is"
            " needed"
            for name in shapes[:1]
        ),
    ]
    if wrong:
        num = len(missing) + len(unknown) + len(shapes)
        more = f" ({num} tensors differ)" if num > 1 else ""
        raise DataError(f"{path} does not hold {what}: {'; '.join(wrong)}{more}. Give the right file.")
    network.load_state_dict(dict(tensors))


def require(description: Mapping[str, str], names: set[str], *, path: Path, advice: str) -> None:
    """Refuse a description that lacks one of ``names``.

    Raises:
        DataError: The message lists what is missing.
    """
    missing = sorted(names - description.keys())
    if missing:
        raise DataError(f"{path} lacks the metadata {', '.join(missing)}. {advice}")
