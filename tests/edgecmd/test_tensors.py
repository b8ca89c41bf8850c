"""The bytes of a tensor file follow from its content alone."""

from pathlib import Path

import pytest
import torch

from edgecmd.core.errors import DataError
from edgecmd.models.tensor_file import pack, require, unpack

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


def test_a_header_as_long_as_a_pickle_s_first_bytes_is_no_pickle(tmp_path: Path) -> None:
    """The file begins with the header's length: 640 is 0x80 0x02, as pickles of protocol 2 begin."""
    path, lengths = tmp_path / "tensors.safetensors", set()
    for size in range(0, 1300, 8):
        data = pack(TENSORS, {"note": "x" * size})
        lengths.add(int.from_bytes(data[:8], "little"))
        path.write_bytes(data)
        assert unpack(path, advice="")[1] == {"note": "x" * size}
    assert {0x280, 0x380, 0x480, 0x580} <= lengths


def test_one_byte_is_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(b"\x80")
    with pytest.raises(DataError, match=r"is not a safetensors file, or it is damaged"):
        unpack(path, advice="")
