"""How well a teacher tells emoji apart: ``python -m tests.teacher_houses --set teacher.name=imagenet,icons``.

The image of an emoji by one house asks among all images of the other house for the same emoji. Images are
those of ``emoji``; no student is trained and no label is used but the code point.

Shapes: N questions, M images of the other house.
"""

import sys

import numpy as np

from edgecmd.config.assemble import Assembly
from edgecmd.config.reader import load_config
from edgecmd.core.files import cache_folder
from edgecmd.datasets.emoji import PAIRS_FILE, read_shipped
from edgecmd.evaluation.metrics import unit_rows
from edgecmd.models.teacher.feature_cache import cached_features


def main(settings: list[str]) -> None:
    """Print R@1 and R@10, of all emoji and of those that the public images do not show."""
    config = load_config(None, ["data.name=emoji", *(one for one in settings if one != "--set")])
    arrays = read_shipped(PAIRS_FILE)
    teacher = Assembly().teacher(config)
    found = unit_rows(np.asarray(cached_features(teacher, arrays["image"], cache_dir=cache_folder())))
    concept, house = arrays["concept"], arrays["style"]
    asked = np.flatnonzero((house == 0) & np.isin(concept, concept[house == 1]))
    others = np.flatnonzero(house == 1)
    score_NM = found[asked] @ found[others].T
    is_right_NM = concept[asked, None] == concept[others]
    mine = np.where(is_right_NM, score_NM, -np.inf).max(axis=1, keepdims=True)
    rank = 1 + (score_NM > mine).sum(axis=1)
    for name, part in (("all", rank > 0), ("not among the public images", arrays["split"][asked] > 0)):
        cells = (f"R@{at} {np.mean(rank[part] <= at):.3f}" for at in (1, 10))
        sys.stdout.write(f"{name}: {int(part.sum())} of {len(others)}  {'  '.join(cells)}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
