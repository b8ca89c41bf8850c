"""One object for sampling, clipping, noise, sensitivity, relation and cost, so that they cannot disagree."""

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from edgecmd.arguments import as_float, refuse_other
from edgecmd.catalogue.strategy_rows import STRATEGIES
from edgecmd.core.errors import PrivacyError, choose
from edgecmd.data.partition import PARTITIONS
from edgecmd.losses import LOSSES, Loss, loss_of
from edgecmd.models.students import is_dense
from edgecmd.privacy.accounting import (
    GAUSSIAN,
    SKELLAM,
    Spending,
    accountant_version,
    calibrate,
    check_accountant,
    total_epsilon,
)
from edgecmd.privacy.mechanisms import MECHANISMS, Mechanism, Protected, default_loss, under_a_sum
from edgecmd.privacy.secure_sum.sum_plan import (
    SumPlan,
    make_sum_plan,
    require_whole_batches,
    sensitivity_of_rounded,
)
from edgecmd.privacy.step.gradients import ENGINES
from edgecmd.privacy.step.purity import require_private_loss
from edgecmd.settings import (
    NOISED_SUM,
    PLAIN,
    SECURE_SUM,
    DistillConfig,
    FederationConfig,
    PrivacyConfig,
    StudentConfig,
)

CLIENT_ITSELF = (
    "Each client scales its whole update down to C, and the sum is divided by a fixed public number, so one"
    " client adds a vector of norm at most C and leaves the others as they are."
)
ROUNDED = "Rounding the client's sum to integers adds at most one part in 64."
RENYI = "Renyi divergences of Skellam noise, whole orders (arXiv 2110.04995)"
EVERYTHING = "none: everything is in every round"
SAMPLERS = {"poisson": "Poisson, coins kept secret", "none": "no amplification by sampling claimed"}


if TYPE_CHECKING:

    class Asked(Protocol):
        """The sections of a run's settings that a plan follows from."""

        @property
        def privacy(self) -> PrivacyConfig:
            """What was asked for."""

        @property
        def distill(self) -> DistillConfig:
            """A client's local work."""

        @property
        def federation(self) -> FederationConfig:
            """Clients and rounds."""

        @property
        def student(self) -> StudentConfig:
            """Its architecture."""

        @property
        def loss(self) -> Loss:
            """What is minimised."""

else:
    # To look whether a run has a loss is to make it.
    Asked = object


@dataclass(frozen=True, kw_only=True, slots=True)
class Sections:
    """`Asked` by itself, for a plan without a run."""

    privacy: PrivacyConfig
    distill: DistillConfig
    federation: FederationConfig
    student: StudentConfig = field(default_factory=StudentConfig)

    @property
    def loss(self) -> Loss:
        """That of the section ``distill``."""
        return loss_of(self.distill)


@dataclass(frozen=True, kw_only=True, slots=True)
class PrivacyPlan:
    """Everything that a privacy guarantee depends on.

    Attributes:
        mechanism: A key of `edgecmd.privacy.mechanisms.MECHANISMS`.
        loss: Loss whose gradient is clipped.
        unit: ``pair`` or ``client``.
        relation: How neighbouring data sets differ.
        sampling: ``poisson`` or ``none``.
        sampling_rate: Probability that a unit is in a step (a client in a round).
        num_bins: Steps per epoch if there is no Poisson sampling.
        clip: Largest L2 norm of one clipped vector, ``C``.
        sensitivity: Largest change of a sum by one unit, in L2 norm.
        noise_multiplier: Standard deviation of the noise in units of ``sensitivity``.
        normaliser: Public constant that a noised sum is divided by.
        steps_per_round: Number of noised releases composed in a round.
        num_rounds: Rounds of the run.
        epsilon: Budget.
        delta: Delta of the guarantee, a probability.
        accountant: Privacy accountant.
        engine: Gradient engine.
        num_views: Augmented views averaged before clipping.
        num_groups: Buckets per step.
        chunk_size: Rows in memory at a time.
        deterministic: Noise from the seed: NOT PRIVATE.
        projected_pairs: Divisor of the noise, for planning; above 1 NOT PRIVATE.
        aggregation: One of `edgecmd.settings.AGGREGATIONS`.
        sum_plan: How noise and clients are added up where only the sum is seen; None where each reply is.
    """

    mechanism: str
    loss: str
    unit: str
    relation: str
    sampling: str
    sampling_rate: float
    num_bins: int
    clip: float
    sensitivity: float
    noise_multiplier: float
    normaliser: float
    steps_per_round: int
    num_rounds: int
    epsilon: float
    delta: float
    accountant: str
    engine: str
    num_views: int
    num_groups: int
    chunk_size: int
    deterministic: bool
    projected_pairs: float = 1.0
    aggregation: str = PLAIN
    sum_plan: SumPlan | None = None

    @classmethod
    def calibrate(  # noqa: PLR0913 - what a guarantee rests on
        cls,
        *,
        mechanism: str = "anchors",
        epsilon: float | int,
        delta: float | int,
        rounds: int,
        local_steps: int,
        loss: str = "auto",
        batch_size: int = 64,
        sampling_rate: float | int = 0.25,
        clip: float | int = 1.0,
        num_views: int = 1,
        num_groups: int = 8,
        num_clients: int = 10,
        client_fraction: float | int = 1.0,
        accountant: str = "pld",
        engine: str = "vmap",
        sampling: str = "poisson",
        deterministic: bool = False,
        aggregation: str = "plain",
        budget_share: float | int = 1.0,
    ) -> "PrivacyPlan":
        """The plan with the least noise that keeps a whole run within a budget.

        Args:
            mechanism: ``anchors``, ``cosine`` or ``groups`` protect each pair; ``client`` protects a whole
                client, with the server trusted.
            epsilon: Budget over all rounds.
            delta: Delta of the guarantee, a probability; far below 1 / pairs of a client.
            rounds: Rounds of the run.
            local_steps: Optimiser steps per client and round.
            loss: ``auto``, or a loss that the mechanism supports.
            batch_size: Public divisor of a step's sum.
            sampling_rate: Probability that a pair takes part in a step; about batch_size / pairs of a client.
            clip: Largest L2 norm that one unit may add.
            num_views: Augmented views of a pair that are averaged before clipping.
            num_groups: Buckets per step (``groups``).
            num_clients: Registered clients (``client``).
            client_fraction: Share of the clients asked in each round (``client``).
            accountant: ``pld``, ``prv`` or ``rdp``.
            engine: Gradient engine.
            sampling: ``poisson``, or ``none``: no amplification claimed.
            deterministic: Noise from the seed, for tests: NOT PRIVATE.
            aggregation: ``plain``; ``noised-sum``: one step a round on all pairs, which the server takes; or
                ``secure-sum``: the server sees only the sum of all replies, which share the noise. Both per
                pair with ``local_steps=1`` and ``sampling_rate=1``.
            budget_share: Share of the budget that this run may spend; runs whose shares add up to 1 keep
                within it together, and one ledger for all of them sees to it.

        Raises:
            PrivacyError: These arguments do not give a guarantee.
            ConfigError: A name is unknown or a number is out of range.

        Examples:
            >>> plan = PrivacyPlan.calibrate(epsilon=8, delta=1e-5, rounds=10, local_steps=5)
            >>> plan.epsilon_after(5) < plan.epsilon_after(10) <= 8
            True
        """
        for name, value in (("mechanism", mechanism), ("loss", loss)):
            refuse_other(name, value, str, what="a name")
        plan = make_plan(
            Sections(
                privacy=PrivacyConfig(
                    mechanism=mechanism,
                    epsilon=as_float(epsilon),
                    delta=as_float(delta),
                    clip=as_float(clip),
                    sampling=sampling,
                    sampling_rate=as_float(sampling_rate),
                    num_views=num_views,
                    num_groups=num_groups,
                    engine=engine,
                    accountant=accountant,
                    deterministic=deterministic,
                    aggregation=aggregation,
                    budget_share=as_float(budget_share),
                ),
                distill=DistillConfig(
                    loss=default_loss(mechanism) if loss == "auto" else loss, batch_size=batch_size
                ),
                federation=FederationConfig(
                    num_rounds=rounds,
                    local_steps=local_steps,
                    num_clients=num_clients,
                    client_fraction=as_float(client_fraction),
                ),
            )
        )
        if plan is None:
            raise PrivacyError(
                "mechanism='none' gives no privacy. Leave the plan out, or choose a mechanism."
            )
        return plan

    @property
    def batch_size(self) -> int:
        """Public number of pairs of a client that a sum is divided by."""
        return int(self.normaliser if self.sum_plan is None else self.normaliser / self.sum_plan.cohort)

    @property
    def counts_by(self) -> str:
        """What adds up the cost, with its version."""
        return accountant_version(self.accountant) if self.sum_plan is None else RENYI

    @property
    def sampler(self) -> str:
        """How units come into a step."""
        return SAMPLERS[self.sampling] if self.aggregation == PLAIN else EVERYTHING

    @property
    def whole_batches(self) -> bool:
        """Whether a client sends one sum over all of its pairs a round, and the server takes the step."""
        return self.unit == "pair" and self.aggregation != PLAIN

    def settings(self) -> PrivacyConfig:
        """The settings section that leads to this plan, with its noise written out."""
        rate = self.sampling_rate if self.unit == "pair" else PrivacyConfig().sampling_rate
        return PrivacyConfig(
            mechanism=self.mechanism,
            epsilon=self.epsilon,
            delta=self.delta,
            noise_multiplier=self.noise_multiplier,
            clip=self.clip,
            sampling=self.sampling,
            num_views=self.num_views,
            num_groups=self.num_groups,
            engine=self.engine,
            chunk_size=self.chunk_size,
            accountant=self.accountant,
            deterministic=self.deterministic,
            projected_pairs=self.projected_pairs,
            sampling_rate=rate,
            aggregation=self.aggregation,
            **_sum_settings(self.sum_plan),
        )

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise on each coordinate of a sum.

        With ``m`` times the pairs a sum is ``m`` times as large under the same noise; a projection instead
        divides the noise on the pairs that exist.
        """
        return self.noise_multiplier * self.sensitivity / self.projected_pairs

    @property
    def private(self) -> bool:
        """Whether the noise is secret and as large as the accountant assumes."""
        return not self.deterministic and self.projected_pairs == 1.0

    @property
    def row(self) -> Mechanism:
        """The mechanism's row of the table."""
        return MECHANISMS[self.mechanism]

    @property
    def protects(self) -> Protected:
        """Whose data, what is released of them, and against whom that is protected."""
        if self.sum_plan is None:
            return self.row.protects
        return under_a_sum(
            self.row.protects, survivors=self.sum_plan.survivors, colluding=self.sum_plan.colluding
        )

    @property
    def statement(self) -> str:
        """Why the sensitivity is what it is."""
        if self.sum_plan is None:
            return self.row.statement
        first = self.row.statement if self.unit == "pair" else CLIENT_ITSELF
        return f"{first} {ROUNDED}"

    def round_spending(self) -> Spending:
        """The most that one round costs one unit."""
        return Spending(
            sampling_rate=self.sampling_rate if self.sampling == "poisson" else 1.0,
            noise_multiplier=self.noise_multiplier,
            count=_releases(self.sampling, self.steps_per_round, self.num_bins),
            noise=GAUSSIAN if self.sum_plan is None else SKELLAM,
        )

    def epsilon_after(self, num_rounds: int, *, noise_share: float = 1.0) -> float:
        """Epsilon of ``num_rounds`` rounds of this plan for a unit with nothing spent before.

        Args:
            num_rounds: Rounds.
            noise_share: Share of the noise's variance that hides the unit from whoever knows the rest.
        """
        one = self.round_spending()
        seen = replace(one, noise_multiplier=one.noise_multiplier * math.sqrt(noise_share))
        spent = [seen] * num_rounds
        return total_epsilon(spent, delta=self.delta, accountant=self.accountant)


def _sum_settings(plan: SumPlan | None) -> dict[str, Any]:
    """Settings of the section that lead to a secure sum; none for a plain one."""
    if plan is None:
        return {}
    return {
        "max_pairs": plan.max_pairs,
        "min_survivors": plan.survivors,
        "num_colluding": plan.colluding,
    }


def _releases(sampling: str, steps: int, num_bins: int) -> int:
    """Releases of a round that one unit can be part of."""
    return steps if sampling == "poisson" else math.ceil(steps / num_bins)


def make_plan(config: Asked) -> PrivacyPlan | None:
    """The plan of a run; None if ``privacy.mechanism`` is ``none``.

    Raises:
        PrivacyError: The settings do not give a guarantee.
        ConfigError: A name is unknown.
    """
    settings = config.privacy
    mechanism = choose("privacy.mechanism", settings.mechanism, {"none": None, **MECHANISMS})
    noised = settings.aggregation == NOISED_SUM
    if noised:
        _check_noised_sum(config, mechanism)
    if settings.mechanism == "none":
        return None
    assert mechanism is not None
    choose("privacy.sampling", settings.sampling, SAMPLERS)
    choose("privacy.engine", settings.engine, ENGINES)
    check_accountant(settings.accountant)
    _check_student(config, mechanism)
    _check_partition(config, mechanism)
    if mechanism.one_shot:
        _check_one_shot(config)
    _check_vectors(config, mechanism)
    if mechanism.at_client:
        require_loss(settings.mechanism, config.loss, called=config.distill.loss, engine=settings.engine)
    _check_engine(config, mechanism)
    federation = config.federation
    central = not mechanism.at_client
    rate = federation.client_fraction if central else settings.sampling_rate
    num_bins = 1 if central else max(1, int(1.0 / rate))
    steps = 1 if central else federation.local_steps
    if central:
        _check_strategy(config)
    sum_plan = make_sum_plan(settings, federation, mechanism=mechanism)
    sensitivity = mechanism.factor * settings.clip
    normaliser = max(1.0, rate * federation.num_clients) if central else float(config.distill.batch_size)
    if sum_plan is not None and not central:
        normaliser *= sum_plan.cohort
    plan = PrivacyPlan(
        mechanism=settings.mechanism,
        loss=config.distill.loss,
        unit=mechanism.unit,
        relation=mechanism.protects.relation,
        sampling="none" if noised else settings.sampling,
        sampling_rate=rate,
        num_bins=num_bins,
        clip=settings.clip,
        sensitivity=sensitivity if sum_plan is None else sensitivity_of_rounded(sensitivity),
        noise_multiplier=_noise(config, rate=rate, steps=steps, num_bins=num_bins),
        normaliser=normaliser,
        steps_per_round=steps,
        num_rounds=federation.num_rounds,
        epsilon=settings.epsilon,
        delta=settings.delta,
        accountant=settings.accountant,
        engine=settings.engine,
        num_views=settings.num_views,
        num_groups=settings.num_groups,
        chunk_size=settings.chunk_size,
        deterministic=settings.deterministic,
        projected_pairs=float(settings.projected_pairs),
        aggregation=settings.aggregation,
        sum_plan=sum_plan,
    )
    _check_budget(plan)
    return plan


def _noise(config: Asked, *, rate: float, steps: int, num_bins: int) -> float:
    settings = config.privacy
    if settings.noise_multiplier:
        return settings.noise_multiplier
    own = _releases(settings.sampling, steps, num_bins) * config.federation.num_rounds
    return calibrate(
        epsilon=settings.epsilon,
        delta=settings.delta,
        sampling_rate=rate if settings.sampling == "poisson" else 1.0,
        # As if the rest of the budget went on releases like these.
        count=math.ceil(own / settings.budget_share),
        accountant=settings.accountant,
        noise=SKELLAM if settings.aggregation == SECURE_SUM else GAUSSIAN,
    )


def require_loss(mechanism: str, loss: Loss, *, called: str, engine: str) -> None:
    """Refuse a loss that the mechanism does not make private.

    Args:
        mechanism: A key of `edgecmd.privacy.mechanisms.MECHANISMS`.
        loss: Loss whose gradient is to be clipped for each unit.
        called: What settings name it by.
        engine: A key of `edgecmd.privacy.step.gradients.ENGINES`.

    Raises:
        PrivacyError: Its loss of a unit depends on more than the unit, it belongs to another mechanism, or it
            is a user's own that was found to remember, or that values of a pair can make fail.
    """
    row = MECHANISMS[mechanism]
    if row.takes(loss):
        if type(loss) not in LOSSES.values():
            require_private_loss(loss, called=called, engine=engine)
        return
    for other, candidate in MECHANISMS.items():
        if candidate.at_client and candidate.takes(loss):
            own = " or ".join(repr(name) for name, one in LOSSES.items() if row.takes(one))
            raise PrivacyError(
                f"distill.loss={called!r} belongs to privacy.mechanism={other!r}, not to {mechanism!r}."
                f" Set distill.loss to {own}, or change the mechanism."
            )
    way_out = (
        f"Set distill.loss={row.default_loss!r} or leave it out, or protect whole clients with"
        " privacy.mechanism='client'."
    )
    if not loss.couples_pairs and loss.num_views > 1:
        raise PrivacyError(
            f"distill.loss={called!r} looks at {loss.num_views} views of a target at once, and no mechanism"
            f" supports that. {way_out}"
        )
    if loss.anneals() and (loss.has_buckets or not loss.couples_pairs):
        raise PrivacyError(
            f"distill.loss={called!r} changes over the run, and no mechanism supports that. {way_out}"
        )
    if not loss.couples_pairs:
        raise PrivacyError(
            f"distill.loss={called!r} is a baseline that no mechanism supports, although its loss of a pair"
            f" depends only on public anchors. {way_out}"
        )
    raise PrivacyError(
        f"distill.loss={called!r} cannot be made private for each pair: the loss of a pair depends on the"
        " other pairs of its batch, so clipping each pair's gradient bounds nothing (in a measurement, one"
        f" pair moved the sum by 508 times the clip). {way_out}"
    )


def _check_partition(config: Asked, mechanism: Mechanism) -> None:
    """Refuse a guarantee per pair where a pair may be at several clients: each would release it."""
    cut = PARTITIONS.get(config.federation.partition)
    if mechanism.unit == "pair" and cut is not None and cut.resamples:
        raise PrivacyError(
            f"federation.partition={config.federation.partition!r} gives a pair to several clients, and"
            f" privacy.mechanism={config.privacy.mechanism!r} counts what one client releases of it. Use a"
            " partition that deals each pair to one client, such as 'iid'."
        )


def _check_student(config: Asked, mechanism: Mechanism) -> None:
    if mechanism.unit == "pair" and is_dense(config.student.architecture):
        raise PrivacyError(
            f"student.architecture={config.student.architecture!r} with"
            f" privacy.mechanism={config.privacy.mechanism!r}: clipping per pair is written and audited for"
            " students with one embedding per image, not for locations in an image. Choose a ws-* student,"
            " or protect whole clients with privacy.mechanism='client'."
        )


def _check_engine(config: Asked, mechanism: Mechanism) -> None:
    settings = config.privacy
    able = settings.engine in mechanism.engines
    if settings.engine == "opacus-ghost" and not (able and settings.num_views == 1):
        raise PrivacyError(
            f"privacy.engine='opacus-ghost' with privacy.mechanism={settings.mechanism!r} and"
            f" privacy.num_views={settings.num_views}: ghost norms exist only for single rows. Use"
            " privacy.engine='vmap'."
        )
    if not able:
        raise PrivacyError(
            f"privacy.engine={settings.engine!r} does not clip the units of"
            f" privacy.mechanism={settings.mechanism!r}. Allowed: {', '.join(mechanism.engines)}."
        )


def _check_noised_sum(config: Asked, mechanism: Mechanism | None) -> None:
    if mechanism is None or not mechanism.at_client:
        known = ", ".join(name for name, row in MECHANISMS.items() if row.at_client)
        raise PrivacyError(
            f"privacy.aggregation={NOISED_SUM!r} sends sums to which each client adds noise for each of its"
            f" pairs, and privacy.mechanism={config.privacy.mechanism!r} adds none there. Set"
            f" privacy.mechanism to one of {known}, or privacy.aggregation to plain or secure-sum."
        )
    require_whole_batches(config.privacy, config.federation)
    if config.distill.keep_optimizer:
        raise PrivacyError(
            f"distill.keep_optimizer=true with privacy.aggregation={NOISED_SUM!r}: the step is the server's,"
            " so a client has no optimiser whose state it could keep. Set distill.keep_optimizer=false, and"
            " federation.strategy to fedadam or fedavgm for a step that remembers."
        )


def _check_vectors(config: Asked, mechanism: Mechanism) -> None:
    settings = config.privacy
    if settings.aggregation == SECURE_SUM and not mechanism.clips_units:
        raise PrivacyError(
            f"privacy.aggregation={SECURE_SUM!r} with privacy.mechanism={settings.mechanism!r}: the vector of"
            f" a client is held to privacy.max_pairs times privacy.clip, and this sum may be longer without"
            f" fault. Use {PLAIN} or {NOISED_SUM}, or another mechanism."
        )


def _check_one_shot(config: Asked) -> None:
    settings, federation = config.privacy, config.federation
    if settings.aggregation == PLAIN or federation.num_rounds != 1 or federation.buffer_size:
        raise PrivacyError(
            f"privacy.mechanism={settings.mechanism!r} releases sums over all pairs of a client once; the"
            f" settings say privacy.aggregation={settings.aggregation},"
            f" federation.num_rounds={federation.num_rounds} and"
            f" federation.buffer_size={federation.buffer_size}. Set them to {NOISED_SUM} or {SECURE_SUM}, 1"
            " and 0."
        )
    averages = [name for name, row in STRATEGIES.items() if row.is_mean]
    if federation.strategy not in averages:
        raise PrivacyError(
            f"federation.strategy={federation.strategy!r} with privacy.mechanism={settings.mechanism!r}: the"
            f" student follows from the sum in closed form, without a step. Use {' or '.join(averages)}."
        )


def _check_strategy(config: Asked) -> None:
    linear = [name for name, row in STRATEGIES.items() if row.linear]
    if config.federation.strategy not in linear:
        raise PrivacyError(
            f"federation.strategy={config.federation.strategy!r} looks at single updates, which"
            f" privacy.mechanism='client' does not release. Use one of {', '.join(linear)}."
        )


def _check_budget(plan: PrivacyPlan) -> None:
    total = plan.epsilon_after(plan.num_rounds)
    if total <= plan.epsilon * (1.0 + 1e-9):
        return
    raise PrivacyError(
        f"privacy.noise_multiplier={plan.noise_multiplier:g} gives epsilon={total:.4g} after"
        f" federation.num_rounds={plan.num_rounds}, above privacy.epsilon={plan.epsilon:g}. Leave the noise"
        " multiplier out (0), so that it is chosen for the budget, or use fewer rounds or steps."
    )
