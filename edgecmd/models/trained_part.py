"""Which part of a student is trained: all of it, its last block and its projector, or all but its projector.

Weights that are not trained become buffers of their layers under the same names. So whatever lists
parameters (an optimiser, a gradient of a unit and its noise, an audit) has the trained ones alone; files and
messages hold all as ever, and `Student.fixed` names the rest.
"""

from torch import nn

from edgecmd.core.errors import ConfigError, choose
from edgecmd.models.backbones import Pooled
from edgecmd.models.batch_norm import KEEP, norms_of
from edgecmd.models.students import Projected, Student
from edgecmd.models.trunks.efficientnet import Trunk
from edgecmd.models.trunks.strings import ByteTrunk, NgramTrunk

SETTING = "student.trainable"
ALL, LAST, TRUNK = "all", "last", "trunk"
TRAINABLE = {
    ALL: "all weights",
    LAST: "the last block and the projector",
    TRUNK: "all but the projector",
}
PROJECTOR = "projector"
# Why nothing of a student is held.
NONE = {LAST: "is one block", TRUNK: "has no projector"}
# What is no more than its children in a row.
ROWS = (Trunk, ByteTrunk, NgramTrunk, nn.Sequential, nn.ModuleList)


def train_part(student: Student, which: str) -> None:
    """Leave a part of a student to training, for good; in place.

    Args:
        student: Its weights stay as they are.
        which: A key of `TRAINABLE`.

    Raises:
        ConfigError: ``which`` is unknown, the student is one block, or batch normalisation goes on taking
            statistics in what is not trained.

    Guarantees:
        The names of its state are as before, and `Student.fixed` has every name that is not trained.
    """
    choose(SETTING, which, TRAINABLE)
    if which in (ALL, student.trainable):
        return
    if which == LAST and student.batch_norm == KEEP and any(norms_of(student)):
        raise ConfigError(
            f"{SETTING}={which!r} and kept batch normalisation do not go together: its statistics would"
            " change in layers that are not trained. Set student.batch_norm to freeze, fold or group."
        )
    first = last_block(student) if which == LAST else ""
    for name, layer in list(student.named_modules()):
        # Modules come in the order in which they were made, and a layer before those inside of it.
        if name and name == first:
            break
        if (name.partition(".")[0] == PROJECTOR) == (which == TRUNK):
            student.held |= _hold(layer, name)
    student.trainable = which
    if not student.held:
        raise ConfigError(
            f"{SETTING}={which!r}: the student {student.architecture} {NONE[which]}, so all of it would be"
            f" trained. Set {SETTING}='{ALL}'."
        )


def last_block(student: Student) -> str:
    """Name of the last block before the projector: layers beside a shortcut, or what comes nearest to it.

    The last child is looked into as long as it is a row of children, or has one alone that holds a matrix.
    """
    name = "" if not isinstance(student, Projected) else "backbone"
    if name and isinstance(student.backbone, Pooled):
        name = "backbone.network"
    block = student.get_submodule(name)
    children = _children(block, name)
    while children:
        name, block = children[-1]
        children = _children(block, name)
        if not isinstance(block, ROWS) and len(children) > 1:
            break
    return name


def _children(module: nn.Module, name: str) -> list[tuple[str, nn.Module]]:
    """Children that hold a matrix, with their names in the student; its projector is none."""
    return [
        (f"{name}.{one}".lstrip("."), child)
        for one, child in module.named_children()
        if (name or one != PROJECTOR) and any(value.ndim > 1 for value in child.parameters())
    ]


def _hold(layer: nn.Module, name: str) -> frozenset[str]:
    """Make a layer's own weights buffers; their names in the student."""
    own = dict(layer.named_parameters(recurse=False))
    for one, value in own.items():
        delattr(layer, one)
        layer.register_buffer(one, value.detach())
    return frozenset(f"{name}.{one}".lstrip(".") for one in own)
