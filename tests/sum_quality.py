"""What a secure sum keeps of the quality: ``python -m tests.sum_quality compare --methods anchors@8 ...``.

The command line of edgecmd, but for the keys and masks of secure sums of pairs, which change no sum: all
pairs make one vector, and the noise of all clients is drawn at once (sums of Skellam variates are Skellam
variates). It takes less than half of the time. NOT PRIVATE: no ledger counts it.
"""

from dataclasses import replace

import numpy as np

from edgecmd.cli import main
from edgecmd.privacy.secure_sum.integers import decoded, noise_share
from edgecmd.privacy.step.private_step import whole_sum
from edgecmd.privacy.step.randomness import SystemSource
from edgecmd.privacy.step.units import unit_loss
from edgecmd.training.averaging import Arrays, load_arrays
from server.loop import Federation
from server.privacy.sum_round import SumRounds
from server.screening import Rejection


def unmasked(
    rounds: SumRounds, federation: Federation, arrays: Arrays, cohort: list[int], round_index: int
) -> tuple[np.ndarray, tuple[str, ...], list[Rejection]]:
    """In the place of `SumRounds.total`, with every client in the sum."""
    run, plan, source = rounds.run, rounds.privacy, SystemSource()
    assert plan is not None
    terms = rounds.terms(federation.token, round_index)
    pairs = run.task.local_data(np.concatenate(run.parts))
    loss = unit_loss(run.loss, run.anchors)
    student = load_arrays(rounds.student, arrays)
    vector = whole_sum(student, pairs, run.distill, loss=loss, plan=plan, source=source)
    shares = replace(terms, variance=len(cohort) * terms.variance)
    # Nothing is bounded: no client of these runs has more than privacy.max_pairs pairs.
    total = np.rint(vector * terms.scale).astype(np.int64) + noise_share(shares, source)
    return decoded(total, terms), tuple(map(str, cohort)), []


if __name__ == "__main__":
    SumRounds.total = unmasked  # type: ignore[method-assign]
    main()
