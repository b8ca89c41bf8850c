"""Which rows the files of ready teacher features must provide, as the settings name them."""

from collections.abc import Sequence
from pathlib import Path

from edgecmd.config.schema import RunConfig
from edgecmd.data.ready_features import Wanted, listed_orders, read_ready
from edgecmd.models.students import is_dense

NOT_OF_PLACES = (
    "teacher.pair_features holds features of whole images, but a seg-* student needs features at locations."
    " Leave it out, or choose a student of the ws-* family."
)


def wanted_features(
    config: RunConfig, ids: Sequence[str] | None, keys: Sequence[str] | None
) -> tuple[Wanted, Wanted]:
    """What both files of ready features must answer.

    Args:
        config: Names the files.
        ids: Of all pairs, of training and held out, in any order; None where they are not known.
        keys: Of the public images, in their order; None where they are not known.
    """
    path = Path(config.data.path).expanduser() if config.data.path else None
    pairs = Wanted(
        setting="teacher.pair_features",
        path=Path(config.teacher.pair_features).expanduser(),
        names=None if ids is None else sorted(ids),
        listed=listed_orders(path) if path and ids else {},
        other_halves=("source" if config.data.reverse else "target", "public"),
    )
    public = Wanted(
        setting="teacher.public_features",
        path=Path(config.teacher.public_features).expanduser(),
        names=keys,
        listed={},
        other_halves=("source", "target"),
    )
    return pairs, public


def check_ready_features(
    config: RunConfig, ids: Sequence[str] | None, *, keys: Sequence[str] | None = None
) -> list[str]:
    """Everything that is wrong with ready features, as a run would say it.

    Args:
        config: ``teacher.pair_features`` and ``teacher.public_features`` name the files; empty: no problem.
        ids: As in `wanted_features`; None: only the form of the file is looked at.
        keys: As in `wanted_features`.

    Returns:
        A sentence for each problem, naming setting and file.
    """
    problems: list[str] = []
    if config.teacher.pair_features:
        read_ready(*wanted_features(config, ids, keys), problems=problems)
        if is_dense(config.student.architecture):
            problems.append(NOT_OF_PLACES)
    return problems
