"""The secure sum of a run: who must be in it, what each party's vector is, and the terms of each round."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgecmd.catalogue.strategy_rows import STRATEGIES
from edgecmd.core.errors import PrivacyError
from edgecmd.privacy.secure_sum.integers import ROUNDING, finest_scale, scale_for
from edgecmd.privacy.secure_sum.terms import Terms, require_cohort, usual_survivors
from edgecmd.settings import SECURE_SUM, FederationConfig, PrivacyConfig

if TYPE_CHECKING:
    from edgecmd.privacy.mechanisms import Mechanism

# Without privacy a vector is a change of the weights and two numbers beside it, each at most of that norm.
PARTS = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class SumPlan:
    """What stays the same over the rounds of a secure sum.

    Attributes:
        cohort: Most parties of a round.
        survivors: Fewest parties in a sum.
        colluding: Parties that may work together with the server.
        max_pairs: Pairs of a client that have their full weight.
        bound: Largest L2 norm of one party's vector before noise.
        clip: Least sensitivity that rounding is measured by; 0 where there is no noise.
    """

    cohort: int
    survivors: int
    colluding: int
    max_pairs: int
    bound: float
    clip: float = 0.0

    @property
    def honest(self) -> int:
        """Fewest honest parties in a sum; so many share the noise."""
        return self.survivors - self.colluding

    def terms(self, *, run: str, round_index: int, dim: int, noise_std: float = 0.0) -> Terms:
        """Terms of a round.

        Args:
            run: Name of the run.
            round_index: Round, from 1.
            dim: Length of a vector.
            noise_std: Standard deviation of the noise on each coordinate of the sum.

        Raises:
            PrivacyError: The sum could wrap around.
        """
        exact = self.clip == 0.0
        scale = (
            finest_scale(cohort=self.cohort, bound=self.bound) if exact else scale_for(dim, clip=self.clip)
        )
        return Terms(
            run=run,
            round_index=round_index,
            cohort=self.cohort,
            survivors=self.survivors,
            colluding=self.colluding,
            dim=dim,
            scale=scale,
            bound=self.bound,
            variance=(scale * noise_std) ** 2,
        )


def sensitivity_of_rounded(sensitivity: float) -> float:
    """What one unit moves a vector by at most once it is rounded to integers, in the units of the vector."""
    return sensitivity * (1.0 + ROUNDING)


def make_sum_plan(
    privacy: PrivacyConfig, federation: FederationConfig, *, mechanism: "Mechanism | None"
) -> SumPlan | None:
    """The secure sum that the settings ask for; None for ``privacy.aggregation = "plain"``.

    Args:
        privacy: What was asked for.
        federation: Clients, rounds and the server's step.
        mechanism: The row of ``privacy.mechanism``; None for ``none``.

    Raises:
        PrivacyError: These settings do not go together with a sum that nobody sees the parts of.
    """
    if privacy.aggregation != SECURE_SUM:
        return None
    if federation.buffer_size:
        raise PrivacyError(
            f"privacy.aggregation={SECURE_SUM!r} adds up the answers of clients that know each other and go"
            f" through its steps together; with federation.buffer_size={federation.buffer_size} each answers"
            " for itself. Set federation.buffer_size=0."
        )
    linear = [name for name, row in STRATEGIES.items() if row.linear]
    if federation.strategy not in linear:
        raise PrivacyError(
            f"federation.strategy={federation.strategy!r} looks at single updates, and with"
            f" privacy.aggregation={SECURE_SUM!r} the server sees only their sum. Use one of"
            f" {', '.join(linear)}."
        )
    cohort = max(1, round(federation.num_clients * federation.client_fraction))
    colluding = privacy.num_colluding
    survivors = privacy.min_survivors or usual_survivors(cohort=cohort, colluding=colluding)
    require_cohort(cohort=cohort, survivors=survivors, colluding=colluding)
    if mechanism is None:
        bound, clip = PARTS * privacy.max_update, 0.0
    elif mechanism.at_client:
        require_whole_batches(privacy, federation)
        bound, clip = privacy.max_pairs * privacy.clip, privacy.clip
    else:
        _require_open_cohort(privacy, federation)
        bound = clip = privacy.clip
    return SumPlan(
        cohort=cohort,
        survivors=survivors,
        colluding=colluding,
        max_pairs=privacy.max_pairs,
        bound=bound,
        clip=clip,
    )


def require_whole_batches(privacy: PrivacyConfig, federation: FederationConfig) -> None:
    """Refuse settings under which a round is more than one step on all pairs.

    Raises:
        PrivacyError: They ask for several steps, or for samples.
    """
    if federation.local_steps != 1 or privacy.sampling_rate != 1.0:
        raise PrivacyError(
            f"privacy.aggregation={privacy.aggregation!r} with privacy.mechanism={privacy.mechanism!r} sums"
            " the gradients of all pairs, one step a round; the settings say"
            f" federation.local_steps={federation.local_steps} and"
            f" privacy.sampling_rate={privacy.sampling_rate:g}. Set both to 1, and federation.strategy to"
            " fedadam, fedavgm or fedavg for the server's step."
        )


def _require_open_cohort(privacy: PrivacyConfig, federation: FederationConfig) -> None:
    if federation.client_fraction < 1.0 and privacy.sampling != "none":
        raise PrivacyError(
            f"privacy.sampling={privacy.sampling!r} with federation.client_fraction="
            f"{federation.client_fraction:g} keeps secret who takes part, and under"
            f" privacy.aggregation={SECURE_SUM!r} the parties of a round know each other. Set"
            " privacy.sampling=none or federation.client_fraction=1."
        )
