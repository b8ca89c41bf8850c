"""The pairs of modalities that commands know by name: ``--pair``, and the settings that it stands for."""

from collections.abc import Sequence
from dataclasses import dataclass

from edgecmd.core.errors import choose


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """One pair of modalities.

    Attributes:
        text: Source and target, and where the pairs come from.
        settings: ``a.b=c`` each: data and a student that suits the target.
    """

    text: str
    settings: tuple[str, ...]


PAIRS: dict[str, Pair] = {
    "emoji": Pair(
        text="pictures to drawings, real",
        settings=("data.name=emoji", "teacher.name=imagenet", "student.architecture=ws-200k"),
    ),
    "digits": Pair(
        text="pictures to recordings, class-paired",
        settings=("data.name=digits", "student.architecture=audio-200k"),
    ),
    "objects": Pair(
        text="pictures to depth maps of single objects, rendered",
        settings=("data.name=objects", "student.architecture=ws-200k"),
    ),
    "rooms": Pair(
        text="pictures to depth maps of rooms, rendered",
        settings=("data.name=rooms", "student.architecture=ws-200k"),
    ),
}


def pair_settings(name: str, *, run: str, settings: Sequence[str] | None) -> list[str]:
    """Settings of a pair, before those of the user, which count.

    Args:
        name: A key of `PAIRS`; empty for the user's settings alone.
        run: Name of the run folder where the user gives none.
        settings: ``a.b=c`` each.

    Raises:
        ConfigError: There is no such pair.
    """
    own = list(settings or ())
    if not name:
        return own
    return [f"name={run}", *choose("--pair", name, PAIRS).settings, *own]
