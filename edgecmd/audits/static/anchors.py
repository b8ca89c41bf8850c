"""Anchors: are they the public constants that the run claims, and do they share nothing with the pairs?"""

from collections.abc import Sequence
from typing import Any

from edgecmd.audits.finding import CONTRADICTED, INDICATOR, NOT_CONTRADICTED, Finding
from edgecmd.audits.target import Target
from edgecmd.core.errors import DataError
from edgecmd.core.files import read_json
from edgecmd.data.modalities.row import digests
from edgecmd.data.pairs import Images, Targets

PARTS = ("kind", "num", "sha256")


def anchors_findings(target: Target) -> list[Finding]:
    """Fingerprint of the anchors against ``privacy.json``, and public images against the pairs' sources.

    Raises:
        DataError: The data set is missing, or ``privacy.json`` names no anchors.
        ConfigError: A setting does not suit the data.
    """
    found = []
    if target.privacy:
        stated = target.privacy.get("anchors")
        if not isinstance(stated, dict) or not set(PARTS) <= set(stated):
            raise DataError(
                f"privacy.json of {target.folder} names no anchors. `edgecmd resume` writes it again."
            )
        same = _same_environment(target)
        found.append(
            fingerprint_finding(
                stated,
                target.run.task.anchors_fingerprint(target.run.distill, seed=target.run.seed),
                same_environment=same,
            )
        )
    if target.run.distill.anchors == "public":
        found.append(_overlap_of(target))
    elif target.run.distill.anchors == "gallery":
        found.append(things_finding(target.run.task.data.public_things))
    return found


def fingerprint_finding(
    stated: dict[str, Any], made: dict[str, str | int], *, same_environment: bool
) -> Finding:
    """Whether the anchors that the settings make are those of the claim.

    Args:
        stated: Of ``privacy.json``.
        made: Made again here.
        same_environment: Whether versions and processor are those of the run; others round features
            otherwise, so that another fingerprint says nothing there.
    """
    wrong = [part for part in PARTS if stated[part] != made[part]]
    if not wrong:
        verdict, text = (
            NOT_CONTRADICTED,
            f"The {made['num']} {made['kind']} anchors are those of privacy.json.",
        )
    elif wrong == ["sha256"] and not same_environment:
        verdict = INDICATOR
        text = (
            "The anchors made here differ in bits from those of privacy.json; the run was made with other"
            " versions or on another processor, so this shows nothing. Audit it there."
        )
    else:
        first = wrong[0]
        verdict = CONTRADICTED
        text = (
            f"Contradicted: privacy.json has anchors with {first}={stated[first]!r}, the settings make"
            f" {made[first]!r}; the run's negatives were not the public anchors that it names."
        )
    return Finding(
        level="check",
        name="anchors: fingerprint",
        attacker="code",
        verdict=verdict,
        text=text,
        quantity="differing parts",
        claimed=0.0,
        measured=float(len(wrong)),
        counts={"anchors": int(made["num"])},
    )


def _same_environment(target: Target) -> bool:
    from edgecmd.training.environment import environment

    path = target.folder / "environment.json" if target.folder else None
    return path is not None and path.exists() and read_json(path) == environment()


def _overlap_of(target: Target) -> Finding:

    whole = target.run.task.data
    sources = [whole.train.source, whole.validation.pairs.source, whole.test.pairs.source]
    return overlap_finding(whole.public.images, sources)


def things_finding(things: Images | None) -> Finding:
    """That anchors of a gallery show what a data set says is public, which no program can judge."""
    num = 0 if things is None else len(things)
    return Finding(
        level="check",
        name="anchors: gallery",
        attacker="code",
        verdict=INDICATOR,
        text=(
            f"The anchors are of the {num} things that the data set says everybody has. Pairs are private in"
            " which target belongs to which of them; that the list is the same whatever pairs there are is"
            " the data set's promise, and no figure shows it."
        ),
        quantity="things",
        claimed=float(num),
        measured=float(num),
        counts={"things": num},
    )


def overlap_finding(public: Targets, sources: Sequence[Targets]) -> Finding:
    """Whether a public image is also the source of a pair: it would be shown to everybody.

    Args:
        public: Public source images, (N, H, W, 3).
        sources: Source images of the pairs, of each part of the data.
    """
    private = {digest for images in sources for digest in digests(images)}
    shared = sum(digest in private for digest in digests(public))
    pairs = sum(map(len, sources))
    text = (
        f"Contradicted: {shared} of {len(public)} public images are also the source of a pair. Remove them"
        " from the public set."
        if shared
        else f"None of {len(public)} public images is the source of one of {pairs} pairs."
    )
    return Finding(
        level="check",
        name="anchors: overlap",
        attacker="code",
        verdict=CONTRADICTED if shared else NOT_CONTRADICTED,
        text=text,
        quantity="shared images",
        claimed=0.0,
        measured=float(shared),
        counts={"public": len(public), "pairs": pairs},
    )
