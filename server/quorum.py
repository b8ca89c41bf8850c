"""Whether a round has enough replies, and what to say about the missing clients."""

from collections.abc import Iterable, Sequence

from edgecmd.core.errors import FederationError
from edgecmd.core.text import counted
from edgecmd.privacy.refusals import explained
from server.cohort import Terms
from server.screening import Rejection

NAMED = 5
KINDS = 20


class BudgetEndError(Exception):
    """Too few clients are left because their budgets are spent; the run ends with what it has."""


def check_quorum(
    usable: Sequence[object],
    rejected: Iterable[Rejection],
    *,
    num_asked: int,
    num_unknown: int = 0,
    terms: Terms,
    round_index: int,
) -> None:
    """Refuse a round with fewer usable replies than the quorum.

    Args:
        usable: Replies that may be aggregated.
        rejected: What was dropped or did not come.
        num_asked: Clients that were asked.
        num_unknown: Nodes among the rejected that could not be asked: who they are is not known.
        terms: The quorum.
        round_index: Round, for the message.

    Raises:
        BudgetEndError: Spent budgets alone miss the quorum: it would be missed if all others had replied.
        FederationError: Anything else.

        Either names every cause, how often it came and for which nodes.
    """
    if len(usable) >= terms.min_replies:
        return
    missing = list(rejected)
    num_spent = len({one.node_id for one in missing if one.spent})
    text = (
        f"Round {round_index}: {counted(len(usable), 'usable reply', 'usable replies')},"
        f" {terms.quorum}. {counted(num_asked, 'client was', 'clients were')} asked:"
        f" {causes(missing) or 'none is missing'}."
    )
    way_out = "Finished rounds are saved: continue the run when more clients can answer."
    if num_spent and num_asked + num_unknown - num_spent < terms.min_replies:
        spent = counted(
            num_spent, "client has spent its privacy budget", "clients have spent their privacy budgets"
        )
        raise BudgetEndError(f"{spent}. {text}")
    raise FederationError(f"{text} {way_out}")


def causes(rejected: Iterable[Rejection]) -> str:
    """Every reason with its count and nodes, most frequent first: ``2 x no reply (nodes 101, 103); ...``."""
    nodes: dict[str, list[int]] = {}
    for one in rejected:
        nodes.setdefault(one.reason, []).append(one.node_id)
    ordered = sorted(nodes.items(), key=lambda item: (-len(item[1]), item[0]))
    told = [
        f"{len(those)} x {explained(reason).rstrip('.')} ({_named(those)})"
        for reason, those in ordered[:KINDS]
    ]
    left = sum(len(those) for _, those in ordered[KINDS:])
    if left:
        told.append(f"{left} more of {len(ordered) - KINDS} other kinds")
    return "; ".join(told)


def _named(nodes: Sequence[int]) -> str:
    unique = sorted(set(nodes))
    names = ", ".join(str(node) for node in unique[:NAMED])
    more = f" and {len(unique) - NAMED} more" if len(unique) > NAMED else ""
    return f"node{'s' if len(unique) > 1 else ''} {names}{more}"
