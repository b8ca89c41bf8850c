"""The bytes of a tensor file follow from its content alone."""

from pathlib import Path

import pytest
import torch

from edgecmd.core.errors import DataError
from edgecmd.core.tensors import pack, require, unpack

TENSORS = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.tensor([1], dtype=torch.int64)}
DESCRIPTION = {"seed": "3", "architecture": "ws-50k", "note": 'quotes " and ü', "dim": "8"}


def test_the_file_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "tensors.safetensors"
    path.write_bytes(pack(TENSORS, DESCRIPTION))
    tensors, description = unpack(path, advice="")
    assert description == DESCRIPTION
    assert all(torch.equal(tensors[name], tensor) for name, tensor in TENSORS.items())


def test_equal_content_gives_equal_bytes_in_whichever_order() -> None:
    turned = dict(reversed(DESCRIPTION.items()))
    files = {pack(TENSORS, description) for description in (DESCRIPTION, turned) for _ in range(10)}
    assert len(files) == 1


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none is not a file\. Make one\."):
        unpack(tmp_path / "none", advice="Make one.")
    with pytest.raises(DataError, match=r"lacks the metadata architecture, dim\. Make one\."):
        require({"seed": "3"}, {"seed", "dim", "architecture"}, path=tmp_path, advice="Make one.")
