"""Teachers that are named with a prefix: one row each, text only, so that settings can use them.

A row names the function that opens such a teacher and does not import it, so the method knows no ONNX.
"""

from dataclasses import dataclass
from pathlib import PurePath


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherKind:
    """What ``prefix:rest`` stands for in ``teacher.name``.

    Attributes:
        open: ``module:function`` that makes an `edgecmd.models.teacher.prepared.Opened`. It gets the whole
            name, and as keywords ``weights`` (a `Path` or None), ``output`` and ``size`` (pixels or None).
        text: What it is, in a few words.
        is_file: Whether a file follows the prefix.
        has_weights: Whether its weights come from a file of their own, ``teacher.weights``.
        has_outputs: Whether ``teacher.output`` may choose one of several outputs.
    """

    open: str
    text: str
    is_file: bool = False
    has_weights: bool = False
    has_outputs: bool = False


_BACKBONE = "edgecmd.models.teacher.backbone_teacher:open_backbone"
TEACHER_KINDS = {
    "timm": TeacherKind(open=_BACKBONE, text="a network of timm", has_weights=True),
    "torchvision": TeacherKind(open=_BACKBONE, text="a network of torchvision", has_weights=True),
    "onnx": TeacherKind(
        open="export.onnx_teacher:open_onnx", text="an ONNX file", is_file=True, has_outputs=True
    ),
}


def kind_of_teacher(name: str) -> TeacherKind | None:
    """The row of a name's prefix; None for any other name."""
    prefix, colon, _ = name.partition(":")
    return TEACHER_KINDS.get(prefix) if colon else None


def listed(text: str) -> tuple[str, ...]:
    """Entries of a list with commas, without spaces about them; of an empty text none."""
    return tuple(one.strip() for one in text.split(",")) if text.strip() else ()


def shown(name: str) -> str:
    """A teacher's name without the folders of its file, which nobody else needs to know."""
    kind = kind_of_teacher(name)
    if kind is None or not kind.is_file:
        return name
    prefix, _, file = name.partition(":")
    return f"{prefix}:{PurePath(file).name}"


def teacher_files(name: str, weights: str) -> tuple[str, ...]:
    """Files that ``teacher.name`` and ``teacher.weights`` name."""
    of_name = (
        one.partition(":")[2] for one in listed(name) if (kind := kind_of_teacher(one)) and kind.is_file
    )
    return (*of_name, *listed(weights))
