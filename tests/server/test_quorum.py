"""A missed quorum names every cause; spent budgets end a run only where they alone suffice."""

import pytest
from flwr.app import Message, RecordDict

from edgecmd.core.errors import FederationError
from server.cohort import Terms
from server.local_grid import set_identity
from server.quorum import BudgetEndError, causes, check_quorum
from server.screening import Rejection

SPENT = "refused: budget-spent"
SILENT = "no reply within federation.deadline_s=600 s"


def terms(quorum: int) -> Terms:
    return Terms(
        num_nodes=10,
        min_nodes=quorum,
        min_replies=quorum,
        deadline_s=600.0,
        quorum=f"federation.min_clients={quorum}",
    )


def missed(num_usable: int, *reasons: str, quorum: int) -> str:
    """Text of the error of a round in which nodes 101, 102, ... failed for ``reasons``."""
    set_identity()
    usable = [Message(RecordDict({}), node, "train") for node in range(num_usable)]
    rejected = [Rejection(node_id=101 + place, reason=one) for place, one in enumerate(reasons)]
    num_asked = num_usable + len(reasons)
    with pytest.raises((FederationError, BudgetEndError)) as caught:
        check_quorum(usable, rejected, num_asked=num_asked, terms=terms(quorum), round_index=4)
    return f"{caught.type.__name__}: {caught.value}"


def test_all_causes_are_named_with_counts_and_nodes() -> None:
    told = missed(1, SILENT, "refused: no-ledger", SILENT, "loss=nan is not a number", quorum=4)
    assert told == (
        "FederationError: Round 4: 1 usable reply, federation.min_clients=4. 5 clients were asked:"
        " 2 x no reply within federation.deadline_s=600 s (nodes 101, 103);"
        " 1 x loss=nan is not a number (node 104);"
        " 1 x refused: no-ledger: no ledger counts the device's pairs; its owner starts one with"
        " `edgecmd node --new-ledger` (node 102). Finished rounds are saved: continue the run when more"
        " clients can answer."
    )


def test_enough_replies_are_enough() -> None:
    set_identity()
    usable = [Message(RecordDict({}), node, "train") for node in range(2)]
    rejected = [Rejection(node_id=9, reason=SPENT)]
    check_quorum(usable, rejected, num_asked=3, terms=terms(2), round_index=1)


def test_spent_budgets_alone_end_the_run() -> None:
    told = missed(1, SPENT, SPENT, quorum=2)
    assert told.startswith("BudgetEndError: 2 clients have spent their privacy budgets. Round 4: 1 usable")
    assert "2 x refused: budget-spent: one more round would exceed the privacy budget" in told


def test_other_refusals_are_faults() -> None:
    told = missed(0, "refused: out-of-bounds (privacy.epsilon)", "refused: other-anchors", quorum=1)
    assert told.startswith("FederationError: ")
    assert "a setting of the run is outside the limits that the device's owner set (node 101)" in told
    assert "not those that the device's owner pinned (node 102)" in told


def test_a_mixture_says_both_and_is_the_end_only_if_the_budgets_alone_suffice() -> None:
    """Five asked, two spent, two silent, one usable. With the silent ones back there would be three."""
    reasons = (SPENT, SILENT, SPENT, SILENT)
    told = missed(1, *reasons, quorum=3)
    assert told.startswith("FederationError: Round 4")
    ended = missed(1, *reasons, quorum=4)
    assert ended.startswith("BudgetEndError: 2 clients have spent")
    for text in (told, ended):
        assert "2 x no reply within federation.deadline_s=600 s (nodes 102, 104)" in text
        assert "2 x refused: budget-spent" in text
        assert "(nodes 101, 103)" in text


def test_a_node_that_is_counted_twice_is_one_client() -> None:
    """Its late reply of another round, then a refusal: one client, and one that refused."""
    rejected = [Rejection(node_id=101, reason=SPENT), Rejection(node_id=101, reason=SPENT)]
    set_identity()
    usable = [Message(RecordDict({}), 1, "train")]
    with pytest.raises(BudgetEndError, match="^1 client has spent its privacy budget"):
        check_quorum(usable, rejected, num_asked=2, terms=terms(2), round_index=1)


def test_nobody_was_asked() -> None:
    with pytest.raises(FederationError, match="0 clients were asked: none is missing"):
        check_quorum([], [], num_asked=0, terms=terms(1), round_index=1)


def test_nodes_that_could_not_be_asked_might_have_replied() -> None:
    """Two asked and both spent, one unknown: with it there would be one reply."""
    set_identity()
    rejected = [Rejection(node_id=node, reason=SPENT) for node in (101, 102)]
    unknown = Rejection(node_id=103, reason="did not say which client it is: gone")
    with pytest.raises(FederationError, match="2 clients were asked: 2 x .*; 1 x did not say .*node 103"):
        check_quorum([], [*rejected, unknown], num_asked=2, num_unknown=1, terms=terms(1), round_index=1)
    with pytest.raises(BudgetEndError):
        check_quorum([], [*rejected, unknown], num_asked=2, num_unknown=1, terms=terms(2), round_index=1)


def test_hundreds_of_causes_make_a_message_of_bounded_length() -> None:
    same = causes(Rejection(node_id=node, reason="gone") for node in range(300))
    assert same == "300 x gone (nodes 0, 1, 2, 3, 4 and 295 more)"
    many = causes(Rejection(node_id=node, reason=f"fault {node:03}") for node in range(300))
    assert many.count("1 x fault") == 20
    assert many.endswith("280 more of 280 other kinds")
