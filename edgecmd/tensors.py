"""Named tensors with a description in one safetensors file; equal content gives equal bytes.

safetensors writes the entries of its metadata in a random order, so there is a single entry here:
the description as JSON with sorted keys.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from edgecmd.data.decode import DecodeError, decoding
from edgecmd.errors import DataError

ENTRY = "edgecmd"


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
        DataError: The file is missing, not safetensors, or has no description.
    """
    if not path.is_file():
        raise DataError(f"{path} is not a file. {advice}")
    try:
        with decoding(), safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
    except DecodeError as error:
        raise DataError(f"{path} is not a safetensors file ({error}). {advice}") from error
    try:
        with decoding():
            description = dict(json.loads(metadata[ENTRY]))
    except DecodeError as error:
        raise DataError(f"{path} does not say what it holds (metadata {ENTRY!r}). {advice}") from error
    return tensors, {str(key): str(value) for key, value in description.items()}


def require(description: Mapping[str, str], names: set[str], *, path: Path, advice: str) -> None:
    """Refuse a description that lacks one of ``names``.

    Raises:
        DataError: The message lists what is missing.
    """
    missing = sorted(names - description.keys())
    if missing:
        raise DataError(f"{path} lacks the metadata {', '.join(missing)}. {advice}")
