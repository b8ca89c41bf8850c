"""The file of a student: its weights, and what is needed to rebuild it.

A file of weights runs no code that it names: a user's own student is rebuilt by what the caller names.
"""

import copy
from pathlib import Path

import torch
from torch import nn

from edgecmd.core.errors import DataError, nearest
from edgecmd.core.files import write_bytes_atomically
from edgecmd.core.own_code import is_own
from edgecmd.models.any_student import student
from edgecmd.models.batch_norm import BATCH_NORM, KEEP
from edgecmd.models.devices import place
from edgecmd.models.students import DEFAULT_SIZE, STUDENTS, Projected, Student, build_student
from edgecmd.models.tensor_file import load_weights, pack, require, unpack, whole_number

ADVICE = "Train a student with `edgecmd simulate` or `edgecmd run`."


def save_student(trained: Student, path: Path) -> None:
    """Write a student with what is needed to rebuild it; equal weights give equal bytes."""
    write_bytes_atomically(path, student_bytes(trained))


def student_bytes(trained: Student) -> bytes:
    """Content of the file of a student: weights, and what is needed to rebuild it."""
    description = {
        "architecture": trained.architecture,
        "in_channels": str(trained.in_channels),
        "embedding_dim": str(trained.embedding_dim),
    }
    if trained.size is not None:
        description |= {"height": str(trained.size[0]), "width": str(trained.size[1])}
    if trained.batch_norm != KEEP:
        description["batch_norm"] = trained.batch_norm
    return pack(trained.state_dict(), description)


def load_student(path: Path, *, like: nn.Module | str | None = None) -> Student:
    """Read a student that `save_student` wrote, on the CPU and in evaluation mode.

    Args:
        path: The file.
        like: For a user's own student what rebuilds it: ``module:factory``, as the file says too, or a
            module of the same shape, which is copied. Of others the file says all; a name is not needed.

    Raises:
        DataError: The file is missing or not a student, or an own one that ``like`` does not name.
        ConfigError: ``like`` names no code that can be imported, or its module does not suit the file.

    Guarantees:
        No module is imported that ``like`` does not name.
    """
    tensors, description = unpack(path, advice=ADVICE)
    require(description, {"architecture", "in_channels", "embedding_dim"}, path=path, advice=ADVICE)
    made = _empty(description, path=path, like=like)
    load_weights(made, tensors, path=path, what=f"a {made.architecture} student")
    made.architecture = description["architecture"]
    made.batch_norm = description.get("batch_norm", KEEP)
    return place(made, torch.device("cpu")).eval()


def _empty(description: dict[str, str], *, path: Path, like: nn.Module | str | None) -> Student:
    """The student of a description, whose weights are still to come."""
    architecture = description["architecture"]
    sides = {"height": str(DEFAULT_SIZE[0]), "width": str(DEFAULT_SIZE[1])} | description
    channels, dim, height, width = (
        whole_number(sides, name, path=path, advice=ADVICE)
        for name in ("in_channels", "embedding_dim", "height", "width")
    )
    how = description.get("batch_norm", KEEP)
    if how not in BATCH_NORM:
        raise DataError(
            f"{path} has the metadata batch_norm={how[:40]!r}. {nearest(how[:40], BATCH_NORM)} {ADVICE}"
        )
    if isinstance(like, nn.Module):
        inner = like.backbone if isinstance(like, Projected) else like
        return student(
            copy.deepcopy(inner), dim=dim, in_channels=channels, size=(height, width), batch_norm=how
        )
    if architecture not in STUDENTS:
        _refuse_unknown(architecture, path=path, like=like)
    return build_student(
        architecture,
        in_channels=channels,
        embedding_dim=dim,
        generator=torch.Generator().manual_seed(0),
        size=(height, width),
        batch_norm=how,
    )


def _refuse_unknown(architecture: str, *, path: Path, like: str | None) -> None:
    """Refuse a student of no row, unless it is an own one that the caller names by the same words."""
    told = architecture[:80]
    if architecture.startswith("<"):
        raise DataError(
            f"{path} holds a student that was an object of the class {told}, which cannot be rebuilt from a"
            " name. Give a module of the same shape: load_student(path, like=module). Or train it as"
            " student.architecture='module:function', which other processes can make too."
        )
    if not is_own(architecture):
        raise DataError(
            f"{path} holds a student of the architecture {architecture[:40]!r}."
            f" {nearest(architecture, STUDENTS)} {ADVICE}"
        )
    if architecture != like:
        raise DataError(
            f"{path} holds a student that is made by {told!r}, its maker's own code, which a file of weights"
            f" never runs by itself. If you trust it, name it: student.architecture={told!r} in the"
            f" settings, in Python load_student(path, like={told!r})."
        )
