"""Views of a pair: do the units that the step makes from one pair contain anything of another?

The sensitivity search goes without augmentation, so that coins of a view stay with their row. What the
augmentation itself does is looked at here: with the same coins, another image in the place of one
pair's may change the rows of that pair and no others.

Shapes: U units, R rows of a unit, C channels, H height, W width.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import Tensor

from edgecmd.audits.audited_student import Subject
from edgecmd.audits.finding import CONTRADICTED, NOT_CONTRADICTED, Finding
from edgecmd.audits.static.scripted import PLACE, Formed, Script, kept_weights, quiet_copy
from edgecmd.core.seeding import torch_generator
from edgecmd.models.base import noise_for
from edgecmd.privacy.plan import PrivacyPlan
from edgecmd.privacy.step import private_step
from edgecmd.privacy.step.randomness import DeterministicSource
from edgecmd.privacy.step.units import Units, unit_loss
from edgecmd.run import Run
from edgecmd.training.distill import LocalData

NUM_PAIRS = 6


class Shown(Script):
    """A script that keeps the rows that were formed and leaves the step."""

    def form(self, *_step: object) -> None:
        """Keep the real rows of all units."""
        chunks = cast("Sequence[Units]", _step[1])
        # A step whose coins are not its source's may have sampled nobody.
        found = [one.images[one.mask].flatten(1) for one in chunks]
        self.rows = torch.cat(found) if found else torch.empty(0, 0)
        raise Formed


def views_finding(subject: Subject, plan: PrivacyPlan, run: Run) -> Finding:
    """How many rows of a step change where one pair has another image, at most.

    Args:
        subject: Student and anchors.
        plan: Views, groups and chunks of the step.
        run: The run's own augmentation and pairs.
    """
    data = run.task.local_data(np.resize(np.concatenate(run.parts), NUM_PAIRS)).on_the_cpu()
    coins = torch_generator(run.seed, "audit-views")
    formed = _rows(subject, data, plan, run)
    changed = []
    for row in range(NUM_PAIRS):
        picture = data.inputs.clone()
        picture[row] = noise_for(subject.student, picture[row].shape, generator=coins)
        other = _rows(subject, replace(data, target=picture), plan, run)
        changed.append(
            int((formed != other).any(dim=1).sum()) if other.shape == formed.shape else len(formed)
        )
    own = plan.row.rows_of_pair(plan.num_views)
    wrong = max(changed) > own
    text = (
        f"Replacing the target of one pair changes {max(changed)} of the {len(formed)} rows of a step, of"
        f" which {own} {'is' if own == 1 else 'are'} its own"
    )
    return Finding(
        level="check",
        name="views of a pair",
        attacker="code",
        verdict=CONTRADICTED if wrong else NOT_CONTRADICTED,
        text=f"{text}{': views mix pairs, so clipping per pair bounds nothing' if wrong else ''}.",
        quantity="changed rows",
        claimed=float(own),
        measured=float(max(changed)),
        counts={"pairs": NUM_PAIRS},
        seeds=(run.seed,),
        details={"augment": run.distill.augment},
    )


def _rows(subject: Subject, data: LocalData, plan: PrivacyPlan, run: Run) -> Tensor:
    """The rows that the real step forms of ``data`` with fixed coins, (U R, C H W)."""
    script, own = Shown(DeterministicSource(0).words(len(data))), quiet_copy(subject.student)
    with kept_weights(own), suppress(Formed):
        private_step.distil_privately(
            own,
            data,
            run.distill,
            loss=unit_loss(run.loss, subject.anchors),
            plan=replace(plan, steps_per_round=1),
            place=PLACE,
            optimizer=torch.optim.SGD(own.parameters(), lr=0.0),
            source=script,
            probe=script,
        )
    return script.rows
