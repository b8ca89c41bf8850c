"""What is clipped: units whose losses share nothing but public constants. One row per mechanism.

The relation everywhere is *add or remove one pair* (for ``client``: one client's data). A step
releases ``f(S) + N(0, (sigma Delta)^2 I)`` for a sample ``S`` in which each pair is by a coin of its own.

**Lemma 0.** If ``|f(S + x) - f(S)| <= Delta`` for every ``S``, every ``x`` and every fixed value of
all other coins, the step costs what the accountant charges for a sampled Gaussian of noise
multiplier ``sigma``. *Proof.* Fix all coins that are not those of ``x``. Without ``x`` the output is
``N(f(S), .)``, with it ``(1-q) N(f(S), .) + q N(f(S) + u, .)``, ``|u| <= Delta``; rotated and scaled
that is the one-dimensional pair of the accountant. Divergences are jointly quasi-convex, so mixing
over the fixed coins does not increase them.

**Trap.** The lemma needs coins, views and bucket numbers that are independent between pairs and
*secret*. Views from one public stream over the batch would shift for every later pair when one is
inserted, and the sensitivity would be that of the whole batch.

Nothing heavy is imported before units are made, so that settings can be read against the table.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from edgecmd.core.text import counted

if TYPE_CHECKING:
    from edgecmd.losses import Loss
    from edgecmd.privacy.step.units import Units

PER_UNIT = ("vmap", "loop", "opacus")

FINAL = (
    "the weights of the final student, and whatever is computed from them and from public data alone; not the"
    " head of an exported file, see own_costs"
)
BASELINES = (
    "the baselines of `edgecmd run` (their rows in evaluation.json and the report, and the folder baselines):"
    " they train on the same pairs, without privacy or with a budget of their own; keep them to yourself,"
    " or leave them out with --no-baselines"
)
FIRST = (
    "what the teacher and the first weights (teacher.path, student.path, student.weights) were themselves"
    " trained on"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Protected:
    """Whose data a guarantee protects, and how it is stated.

    Attributes:
        unit: Name of the unit, in one word.
        relation: How neighbouring data sets differ.
        at_client: Whether each client adds its own noise; else a trusted server adds it.
        released: What is released, and to whom.
        against: Against whom the guarantee holds.
        not_covered: What it does not cover.
    """

    unit: str
    relation: str
    at_client: bool
    released: tuple[str, ...]
    against: str
    not_covered: tuple[str, ...]


PAIR = Protected(
    unit="pair",
    relation="add or remove one pair of one client",
    at_client=True,
    released=(
        "each client's weights after each of its rounds, to the server",
        "the global weights after each round, to every client",
        FINAL,
    ),
    against="anyone who sees all releases, the server and the other clients included, also one that chooses"
    " weights and anchors with intent; a pair's own client is trusted with it",
    not_covered=(
        "a person whose pairs lie with several clients, or several pairs of one person: their losses add up",
        "choices made by trying several runs on the same pairs, beyond what their ledgers add up",
        "how long a client takes, and whether it answers at all",
        "pairs that are also in the public set, and whatever was public before",
        FIRST,
        BASELINES,
    ),
)
CLIENT = Protected(
    unit="client",
    relation="add or remove one client's data (its update counts as zero; the list of clients is public)",
    at_client=False,
    released=(
        "the global weights after each round, to every client",
        FINAL,
    ),
    against="anyone but the server, which sees each client's update and is trusted to clip, to add noise"
    " and to keep the coins secret",
    not_covered=(
        "what the server itself sees",
        "choices made by trying several runs with the same clients, beyond what the ledger adds up",
        "whether and when a client answers",
        FIRST,
        BASELINES,
    ),
)


def under_a_sum(protects: Protected, *, survivors: int, colluding: int) -> Protected:
    """The same protection where clients add the noise together and only their sum is seen.

    Args:
        protects: Whose data.
        survivors: Fewest clients in a sum.
        colluding: Clients that may work together with the server.
    """
    own = "a pair's own client" if protects.unit == "pair" else "the client itself"
    few = f"{counted(colluding, 'client')} at most work" if colluding else "none of them works"
    return replace(
        protects,
        released=(
            f"the sum over {survivors} clients or more of each round, and who they are, to the server",
            "the global weights after each round, to every client",
            FINAL,
        ),
        against=f"the server and the other clients, if {few} together with the"
        f" server and the others run edgecmd as it is; {own} is trusted with it. The server may break"
        " the protocol; beyond 31 clients it must not pick a round's clients so that their graph suits it."
        " Whoever sees a single client's noise is told of in epsilon_by_trust",
        not_covered=(
            *protects.not_covered,
            "who signs the keys of a secure sum: in a simulation anyone can, so it proves nothing about keys;"
            " a node with pairs of its own verifies them against the list in its own config (peer-keys)",
        ),
    )


def _apart(loss: "Loss | type[Loss]") -> bool:
    """Whether the loss of a pair is a function of that pair and of public constants, and may be clipped."""
    return _stays(loss) and not loss.couples_pairs and loss.num_views == 1


def _stays(loss: "Loss | type[Loss]") -> bool:
    """Whether the loss may be clipped, and is the one that was looked at all through a run."""
    return loss.may_be_private and not loss.anneals()


def _squared(loss: "Loss | type[Loss]") -> bool:
    """Whether a closed form minimises it: the squared distance to the teacher's feature."""
    from edgecmd.losses import LOSSES

    return LOSSES["l2"] in (loss, type(loss))


def _by_logits(loss: "Loss | type[Loss]") -> bool:
    """Whether the similarities of a sample are clipped one by one."""
    from edgecmd.losses import LOSSES

    return LOSSES["cmc-logits"] in (loss, type(loss))


def _every_view(num_views: int) -> int:
    return num_views


def _views(*args: Any, **options: Any) -> "list[Units]":  # noqa: ANN401 - as `make_units`
    from edgecmd.privacy.step.units import view_chunks

    return view_chunks(*args, **options)


def _buckets(*args: Any, **options: Any) -> "list[Units]":  # noqa: ANN401 - as `make_units`
    from edgecmd.privacy.step.units import bucket_chunks

    return bucket_chunks(*args, **options)


def _sample(*args: Any, **options: Any) -> "list[Units]":  # noqa: ANN401 - as `make_units`
    from edgecmd.privacy.step.units import whole_sample

    return whole_sample(*args, **options)


@dataclass(frozen=True, kw_only=True, slots=True)
class Mechanism:
    """A way to make one step's sum insensitive to one unit.

    Attributes:
        protects: Whose data, and where the noise is added.
        takes: Whether a loss is allowed, given a `edgecmd.losses.Loss` or its class.
        default_loss: What ``distill.loss = "auto"`` stands for.
        factor: Sensitivity in units of the clip, for add or remove one unit.
        statement: The reason for it, in one sentence.
        make_units: Makes the units of a step, as `edgecmd.privacy.step.units.make_units` says; where the
            server adds the noise the unit is a client's whole update, and nobody asks.
        engines: Gradient engines that can clip its units.
        rows_of_pair: How many rows of a step are one pair's, of ``privacy.num_views``.
        without_negatives: The mechanism that a run of this one is compared with, at the same epsilon.
        one_shot: Whether clients release sums once, from which the student follows in closed form
            (`edgecmd.privacy.step.moments`).
        clips_units: Whether the gradient of each unit is clipped as a whole, so that an auditor can make
            the sum again by plain backward passes.
    """

    protects: Protected
    takes: "Callable[[Loss | type[Loss]], bool]"
    default_loss: str
    factor: int | float
    statement: str
    make_units: "Callable[..., list[Units]]" = field(default=_views)
    engines: tuple[str, ...] = PER_UNIT
    rows_of_pair: Callable[[int], int] = _every_view
    without_negatives: str = ""
    one_shot: bool = False
    clips_units: bool = True

    @property
    def unit(self) -> str:
        """``pair`` or ``client``."""
        return self.protects.unit

    @property
    def at_client(self) -> bool:
        """Whether each client adds its own noise."""
        return self.protects.at_client


MECHANISMS: dict[str, Mechanism] = {
    "anchors": Mechanism(
        protects=PAIR,
        takes=lambda loss: _apart(loss) and loss.needs_anchors,
        default_loss="cmc-anchored",
        factor=1,
        statement=(
            "The loss of a pair depends on that pair, the weights and public anchors alone, so one more pair"
            " adds one gradient of norm at most C to the sum and leaves the others as they are."
        ),
        engines=(*PER_UNIT, "opacus-ghost"),
        without_negatives="cosine",
    ),
    "cosine": Mechanism(
        protects=PAIR,
        takes=lambda loss: _apart(loss) and not loss.needs_anchors,
        default_loss="cosine",
        factor=1,
        statement=(
            "The loss of a pair has no negatives, so one more pair adds one gradient of norm at most C to the"
            " sum and leaves the others as they are."
        ),
        engines=(*PER_UNIT, "opacus-ghost"),
    ),
    "groups": Mechanism(
        protects=PAIR,
        takes=lambda loss: _stays(loss) and loss.has_buckets,
        default_loss="cmc-groups",
        factor=2,
        statement=(
            "Each sampled pair falls into a bucket by a secret coin of its own, with all its views, and each"
            " bucket's gradient is clipped to C; one more pair changes one bucket, from one vector of norm at"
            " most C to another."
        ),
        make_units=_buckets,
        without_negatives="cosine",
    ),
    "logits": Mechanism(
        protects=PAIR,
        takes=_by_logits,
        default_loss="cmc-logits",
        # 2 + 2 e^(2 / T) at the loss's temperature of 1, see `edgecmd.privacy.step.logit_engine`.
        factor=2.0 + 2.0 * math.exp(2.0),
        statement=(
            "The gradient of each similarity of a sample is clipped to C and weighed by its softmax share;"
            " one more pair adds a row and a column, and takes from each other row what the column gets: at"
            " most 2 + 2 e^2 vectors of norm C together, for any number of pairs."
        ),
        make_units=_sample,
        engines=("logits",),
        rows_of_pair=lambda _: 1,
        without_negatives="cosine",
        clips_units=False,
    ),
    "statistics": Mechanism(
        protects=replace(
            PAIR, released=("sums over each client's pairs, once, to the server", *PAIR.released[1:])
        ),
        takes=_squared,
        default_loss="l2",
        factor=1,
        statement=(
            "The products of a pair's embedding with itself and with its teacher's feature depend on that"
            " pair, the weights and public anchors alone, so one more pair adds one vector of norm at most C"
            " to the sum and leaves the others as they are."
        ),
        one_shot=True,
    ),
    "client": Mechanism(
        protects=CLIENT,
        takes=lambda _: True,
        default_loss="cmc",
        factor=1,
        statement=(
            "A trusted server clips each client's whole update to C and divides by a fixed public number, so"
            " one client adds a vector of norm at most C to the sum and leaves the others as they are."
        ),
        engines=(*PER_UNIT, "opacus-ghost"),
    ),
}


def has_unit_form(loss: "Loss | type[Loss]") -> bool:
    """Whether some mechanism clips ``loss`` on the client, unit by unit."""
    return any(row.takes(loss) for row in MECHANISMS.values() if row.at_client)


def default_loss(mechanism: str) -> str:
    """What ``distill.loss = "auto"`` stands for; ``cmc`` without privacy."""
    return MECHANISMS[mechanism].default_loss if mechanism in MECHANISMS else "cmc"
