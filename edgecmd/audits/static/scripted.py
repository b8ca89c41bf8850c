"""The private step itself under fixed coins, so that two neighbours differ only in one pair.

`private_step` makes the step, whole: it samples, forms units, clips, adds and releases. What is
fixed from outside is its source of coins alone. What a search or an audit learns here is so of the code
that trains, whatever its units are, and not of a copy.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from edgecmd.audits.static.search import Query
from edgecmd.audits.target import terms_for
from edgecmd.losses import Anchors, loss_of
from edgecmd.privacy.mechanisms import MECHANISMS
from edgecmd.privacy.plan import PrivacyPlan
from edgecmd.privacy.secure_sum import integers
from edgecmd.privacy.step import private_step
from edgecmd.privacy.step.gradients import Sum
from edgecmd.privacy.step.moments import subject_of
from edgecmd.privacy.step.randomness import DeterministicSource, Source
from edgecmd.privacy.step.units import UnitLoss
from edgecmd.run import Run
from edgecmd.settings import DistillConfig
from edgecmd.training.distill import LocalData, Place

Coins = Callable[[int], np.ndarray]
"""Words of ``num`` rows, one uint64 per row, that say into which bucket each falls."""
Work = Callable[..., None]
"""Local work of a client: of a student and pairs, with the keywords ``plan``, ``optimizer``, ``source`` and
``probe`` of `edgecmd.privacy.step.private_step.distil_privately`."""
# The middle of the words' range: a normal of it is next to nothing.
MIDDLE = np.uint64(2**63)
PLACE = Place(seed=0, round_index=1, client=0, first_step=0, total_steps=1)


def settings_work(config: DistillConfig, anchors: Anchors) -> Work:
    """The work of a run's settings: `private_step.distil_privately`, without augmentation."""
    still, loss = replace(config, augment=0.0, proximal_mu=0.0), loss_of(config)

    def work(student: nn.Module, data: LocalData, *, plan: PrivacyPlan, **how: Any) -> None:  # noqa: ANN401
        asked, own_loss = subject_of(plan, student, loss, anchors)
        loss_work(own_loss, still)(asked, data, plan=plan, **how)

    return work


def loss_work(loss: UnitLoss, config: DistillConfig = DistillConfig(augment=0.0)) -> Work:  # noqa: B008 - frozen
    """The same steps for a loss of one unit, which no settings need to name."""
    return partial(private_step.distil_privately, loss=loss, config=config, place=PLACE)


def bare_plan(
    *,
    mechanism: str,
    clip: int | float,
    engine: str = "vmap",
    num_views: int = 1,
    num_groups: int = 8,
    chunk_size: int = 64,
) -> PrivacyPlan:
    """A plan of one step that every pair is in, without noise: enough to ask a step for its sum.

    Args:
        mechanism: A key of `edgecmd.privacy.mechanisms.MECHANISMS` whose unit is a pair.
        clip: C.
        engine: A key of `edgecmd.privacy.step.gradients.ENGINES`.
        num_views: Views of a pair.
        num_groups: Buckets of a step.
        chunk_size: Rows in memory at a time.
    """
    known = MECHANISMS[mechanism]
    return PrivacyPlan(
        mechanism=mechanism,
        loss="",
        unit=known.unit,
        relation=known.protects.relation,
        sampling="poisson",
        sampling_rate=1.0,
        num_bins=1,
        clip=float(clip),
        sensitivity=known.factor * float(clip),
        noise_multiplier=0.0,
        normaliser=1.0,
        steps_per_round=1,
        num_rounds=1,
        epsilon=float("inf"),
        delta=0.0,
        accountant="pld",
        engine=engine,
        num_views=num_views,
        num_groups=num_groups,
        chunk_size=chunk_size,
        deterministic=True,
    )


class Formed(Exception):  # noqa: N818 - no error: the sum that was asked for is there
    """Leaves a step once its sum is formed."""


class Script:
    """Source and probe of a step in which every row is sampled by fixed coins. NOT PRIVATE.

    As it is both, it knows what a step draws: before the sum is formed the words are coins, after it
    they are noise. The first words of a step sample rows and are zero, which is below every rate and in
    the first bin. Words as many as rows are the rows' own after that. All others are the same at
    each call, and nothing of the sum depends on them without augmentation.

    Args:
        rows: Words of the rows, one uint64 each, in their order.
        noise: Where words of the noise come from; None for noise that is next to nothing.
        stop: Leave the step with `Formed` before the noise, which costs as much as all else.

    Attributes:
        private: Never.
        total: Clipped sum of the last step.
        released: What it released; empty where it was left before that.
    """

    private = False

    def __init__(self, rows: np.ndarray, *, noise: Source | None = None, stop: bool = False) -> None:
        self._rows, self._noise, self._stop = rows, noise, stop
        self._formed, self._calls = False, 0
        self.total: Sum = {}
        self.released: Sum = {}

    def words(self, count: int) -> np.ndarray:
        """``count`` words: of the noise once the sum is formed, before that of the coins."""
        if self._formed:
            return np.full(count, MIDDLE) if self._noise is None else self._noise.words(count)
        self._calls += 1
        if self._calls == 1:
            return np.zeros(count, dtype=np.uint64)
        if self._calls == 2 and count == len(self._rows):
            return self._rows
        return DeterministicSource(0, round_index=1).words(count)

    def __len__(self) -> int:
        return 0

    def form(self, *_step: object) -> None:
        """From here on words are noise."""
        self._formed = True

    def add(self, total: Sum, _: np.ndarray) -> None:
        """Add nothing; leave here where the sum is all that was asked for."""
        self.total = {name: value.clone() for name, value in total.items()}
        if self._stop:
            raise Formed

    def see(self, released: Sum) -> None:
        """Keep the release; the next step's words are coins again."""
        self.released = released
        self._formed, self._calls = False, 0


def step_query(
    student: nn.Module,
    work: Work,
    *,
    plan: PrivacyPlan,
    coins: Coins = lambda num: DeterministicSource(0).words(num),
    whole: bool = False,
) -> Query:
    """The sum of a private step, with fixed coins and without noise, for `search_sensitivity`.

    The smaller of two neighbours is a client without the pair, and the step does with either what it
    does with a client: units, views, chunks, groups, engine, clip and divisor are its own. Every row is
    sampled. There is no augmentation, so all views of a pair are alike, and those of the other rows
    stay where they are. That loses nothing that the search could find: a view is an image as any other,
    the bound holds for all images and all values of the coins, and no augmentation is among them; a
    step that takes views for pairs of their own moves by all of them, the more so as they agree.

    Args:
        student: Encoder; a copy at its present weights is asked, without dropout, whose coins are each
            pair's own.
        work: `settings_work` or `loss_work`.
        plan: Of the step.
        coins: Words that say into which bucket each row of the larger set falls.
        whole: Go through the whole step and give what it releases without noise, times
            ``plan.normaliser``; else the sum to which noise is added, in half of the time.

    Returns:
        Query whose sums are over the weights that act (`edgecmd.privacy.step.standardised_weights`).
    """
    own = quiet_copy(student)
    asked = replace(plan, steps_per_round=1, noise_multiplier=0.0)

    def answer(data: LocalData, rows: np.ndarray) -> Mapping[str, Tensor]:
        script = Script(coins(len(data))[rows], stop=not whole)
        held = replace(data, target=data.target[rows], teacher=data.teacher[rows])
        with kept_weights(own), suppress(Formed):
            optimizer = torch.optim.SGD(own.parameters(), lr=0.0)
            work(own, held, plan=asked, optimizer=optimizer, source=script, probe=script)
        if not whole:
            return script.total
        return {name: value * plan.normaliser for name, value in script.released.items()}

    return lambda samples: [answer(data, rows) for data, rows in samples]


def sum_query(student: nn.Module, run: Run, *, plan: PrivacyPlan, coins: Coins) -> Query:
    """What a client brings to a secure sum, bounded and rounded, without noise, for `search_sensitivity`.

    Args:
        student: Encoder; a copy at its present weights is asked, without dropout.
        run: Loss and anchors; there is no augmentation.
        plan: Its sum's bound may be one that the larger sets exceed: the guarantee holds for any.
        coins: Words that say into which bucket each row of the larger set falls.
    """
    own, loss = subject_of(plan, quiet_copy(student), run.loss, run.anchors)
    still, terms = replace(run.distill, augment=0.0), terms_for(plan, own)

    def answer(data: LocalData, rows: np.ndarray) -> Mapping[str, Tensor]:
        script = Script(coins(len(data))[rows])
        # A script takes the first words for those that sample rows, and here none is sampled.
        script.words(len(rows))
        held = replace(data, target=data.target[rows], teacher=data.teacher[rows])
        vector = private_step.whole_sum(own, held, still, loss=loss, plan=plan, source=script)
        return {"sum": torch.from_numpy(integers.encoded(vector, terms) / terms.scale)}

    return lambda samples: [answer(data, rows) for data, rows in samples]


def quiet_copy(student: nn.Module) -> nn.Module:
    """A copy in the mode of training whose dropout drops nothing."""
    quiet = copy.deepcopy(student).train()
    for module in quiet.modules():
        if isinstance(module, _DropoutNd):
            module.p = 0.0
    return quiet


@contextmanager
def kept_weights(student: nn.Module) -> Iterator[None]:
    """Give the student back the weights that it came with."""
    before = {name: value.detach().clone() for name, value in student.state_dict().items()}
    try:
        yield
    finally:
        student.load_state_dict(before)
        for parameter in student.parameters():
            parameter.grad = None
