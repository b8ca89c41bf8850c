"""A client's private round: check the budget, distil with noise, count, and only then release.

What leaves is the noised weights and the client's index. A round that was already released for the
very same question is answered with the same bytes, which costs nothing: an observer learns nothing
from seeing them twice.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from flwr.app import Array, ArrayRecord
from safetensors.numpy import load, save
from torch import nn

from clients.node import OWNER_DELTA, Node
from clients.order import Order
from clients.state import load_state, save_state
from clients.sum_party import Masking
from edgecmd.core.errors import PrivacyError
from edgecmd.core.files import write_bytes_atomically
from edgecmd.models.students import Student
from edgecmd.privacy.ledger import Ledger, Release
from edgecmd.privacy.mechanisms import MECHANISMS
from edgecmd.privacy.plan import PrivacyPlan
from edgecmd.privacy.step.moments import subject_of
from edgecmd.privacy.step.private_step import distil_privately, whole_sum
from edgecmd.privacy.step.purity import require_pure, require_pure_loss
from edgecmd.privacy.step.randomness import Source, make_source
from edgecmd.privacy.step.units import unit_loss
from edgecmd.run import Run, require_same_clients
from edgecmd.training.distill import optimizer_tensors, restore_optimizer
from edgecmd.training.task import Holding


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """What a device's owner allows, whatever the server asks.

    Attributes:
        epsilon: Largest epsilon over everything that was ever released of these pairs.
        delta: Probability beside it.
    """

    epsilon: float
    delta: float


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Counting:
    """Who counts a client's private rounds, and what the line of a round says beside its cost.

    Attributes:
        ledger: Ledger of the pairs.
        anchors: SHA-256 of the round's anchors; empty in a simulation, whose run folder has it.
    """

    ledger: Ledger
    anchors: str = ""


def private_plan(run: Run, node: Node) -> PrivacyPlan | None:
    """The plan of a round under record-level privacy; None where the client itself adds no noise.

    Raises:
        PrivacyError: The owner set a bound, and the run gives no guarantee that holds here.
    """
    plan = run.plan
    local = plan is not None and plan.row.at_client
    if node.budgets and not local:
        name, value = next(iter(node.budgets.items()))
        *first, last = [key for key, row in MECHANISMS.items() if row.at_client]
        own = f"{', '.join(first)} or {last}"
        raise PrivacyError(
            f"privacy.mechanism={run.privacy.mechanism!r} adds no noise on the client, and this node"
            f" has {name}={value:g}. Use {own}."
        )
    if plan is not None and not plan.private and node.data is not None:
        raise PrivacyError(
            f"privacy.deterministic={str(plan.deterministic).lower()} and"
            f" privacy.projected_pairs={plan.projected_pairs:g} make noise that the server can subtract, or"
            " too little noise; a node with pairs of its own takes no part."
        )
    return plan if local else None


def owner_bounds(plan: PrivacyPlan, node: Node) -> Bounds:
    """The stricter of the run's budget and the node's ``max-epsilon`` and ``max-delta``."""
    epsilon, delta = plan.epsilon, plan.delta
    if "max-epsilon" in node.budgets:
        epsilon, delta = min(epsilon, node.budgets["max-epsilon"]), min(delta, OWNER_DELTA)
    if "max-delta" in node.budgets:
        delta = min(plan.delta, node.budgets["max-delta"])
    return Bounds(epsilon=epsilon, delta=delta)


def simulated_counting(run: Run, client: int) -> Counting:
    """The ledger of a simulated client, in the run folder or in ``privacy.ledger_dir``.

    Raises:
        PrivacyError: The ledgers there count other pairs.
    """
    require_same_clients(run)
    return Counting(ledger=Ledger(run.client_ledger(client)))


def query_digest(run: Run, order: Order, arrays: ArrayRecord, plan: PrivacyPlan) -> str:
    """SHA-256 of everything that a round's answer depends on beside the pairs and the coins."""
    digest = hashlib.sha256(
        f"{order.token}:{order.round_index}:{order.client}:{plan}\n{run.described.comparable}".encode()
    )
    for name in sorted(arrays):
        digest.update(name.encode() + b"\0" + arrays[name].data)
    return digest.hexdigest()


def answer_privately(  # noqa: PLR0913 - all that a round is made of
    student: Student,
    holding: Holding,
    arrays: ArrayRecord,
    *,
    run: Run,
    order: Order,
    plan: PrivacyPlan,
    node: Node,
    counting: Counting,
    folder: Path,
) -> ArrayRecord:
    """Weights after one private round, counted in the ledger before they are returned.

    Args:
        student: Holds the incoming weights; changed.
        holding: The client's pairs and the public anchors.
        arrays: The incoming weights.
        run: What the server runs.
        order: What was asked.
        plan: Noise and cost.
        node: The node's own settings.
        counting: The ledger of the pairs.
        folder: The client's folder for this run.

    Raises:
        BudgetSpentError: One more round would exceed the budget; nothing was computed.
        PrivacyError: The student or the loss mixes pairs, or the ledger cannot be trusted.
    """
    bounds, ledger = owner_bounds(plan, node), counting.ledger
    query, pending = query_digest(run, order, arrays, plan), folder / "released.reply"
    known = ledger.find(run=order.token, round_index=order.round_index, query=query)
    if known is not None:
        content = pending.read_bytes() if pending.exists() else b""
        if hashlib.sha256(content).hexdigest() == known:
            return _record(content, arrays)
    ledger.require_budget(plan, epsilon=bounds.epsilon, delta=bounds.delta)
    probe_once(student, holding, run)
    worked, optimizer = _distil(student, holding, run=run, order=order, plan=plan, folder=folder)
    state = worked.state_dict()
    content = save({name: state[name].cpu().contiguous().numpy() for name in sorted(state)})
    _keep(pending, content, ledger=ledger)
    release = Release(
        run=order.token,
        round_index=order.round_index,
        query=query,
        reply=hashlib.sha256(content).hexdigest(),
        anchors=counting.anchors,
    )
    ledger.spend(plan, release, epsilon=bounds.epsilon, delta=bounds.delta)
    # Only now: later rounds release what the optimiser remembers, so a round that was not counted must
    # leave nothing in it.
    if run.distill.keep_optimizer:
        save_state(folder, optimizer_tensors(optimizer), round_index=order.round_index)
    return _record(content, arrays)


def sum_privately(  # noqa: PLR0913 - all that a round is made of
    student: Student,
    holding: Holding,
    arrays: ArrayRecord,
    *,
    run: Run,
    order: Order,
    plan: PrivacyPlan,
    node: Node,
    counting: Counting,
    masking: Masking,
) -> np.ndarray:
    """What a client brings to a secure sum under a guarantee per pair, counted before it is returned.

    A question that is asked again is answered anew and counted anew: two sums that hold the same noised
    vector of a client would tell others' by their difference.

    Args:
        student: Holds the incoming weights.
        holding: The client's pairs and the public anchors.
        arrays: The incoming weights.
        run: What the server runs.
        order: What was asked.
        plan: Noise and cost.
        node: The node's own settings.
        counting: The ledger of the pairs.
        masking: Noise and masks.

    Raises:
        BudgetSpentError: One more round would exceed the budget; nothing was computed.
        PrivacyError: The student or the loss mixes pairs, the ledger cannot be trusted, or the client is
            in the middle of no such round.
    """
    bounds, ledger = owner_bounds(plan, node), counting.ledger
    ledger.require_budget(plan, epsilon=bounds.epsilon, delta=bounds.delta)
    probe_once(student, holding, run)
    worked, loss = subject_of(plan, student, run.loss, holding.anchors)
    vector = whole_sum(worked, holding.data, run.distill, loss=loss, plan=plan, source=masking.source)
    hidden = masking.hidden(vector)
    release = Release(
        run=order.token,
        round_index=order.round_index,
        query=query_digest(run, order, arrays, plan),
        reply=hashlib.sha256(hidden.tobytes()).hexdigest(),
        anchors=counting.anchors,
    )
    ledger.spend(plan, release, epsilon=bounds.epsilon, delta=bounds.delta)
    return hidden


def source_of(run: Run, order: Order) -> Source:
    """Secret coins and noise of a client's round; from the run's seed where the settings ask for it."""
    return make_source(
        deterministic=run.privacy.deterministic,
        seed=run.seed,
        round_index=order.round_index,
        client=order.client,
    )


def _keep(path: Path, content: bytes, *, ledger: Ledger) -> None:
    """Keep a reply, so that the same question can be answered with the same bytes, before it is counted.

    Raises:
        PrivacyError: It cannot be written; nothing was counted and nothing is released.
    """
    try:
        write_bytes_atomically(path, content)
    except OSError as error:
        raise PrivacyError(
            f"The reply that the ledger {ledger.path} was to count cannot be kept in {path}:"
            f" {error.strerror}. Nothing is released and nothing was counted; free some space, or make the"
            " folder writable.",
            code="ledger",
        ) from error


def _record(content: bytes, arrays: ArrayRecord) -> ArrayRecord:
    """What is released: weights in the order in which ``arrays`` came, or sums under names of their own."""
    tensors = load(content)
    names = list(arrays) if set(arrays) == set(tensors) else sorted(tensors)
    return ArrayRecord({name: Array(np.array(tensors[name])) for name in names})


def _distil(
    student: Student, holding: Holding, *, run: Run, order: Order, plan: PrivacyPlan, folder: Path
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Train what the plan's sums are gradients of, and its optimiser."""
    worked, loss = subject_of(plan, student, run.loss, holding.anchors)
    optimizer = run.optimizer(worked)
    if run.distill.keep_optimizer:
        restore_optimizer(optimizer, load_state(folder, round_index=order.round_index))
    distil_privately(
        worked,
        holding.data,
        run.local_work,
        loss=loss,
        plan=plan,
        place=run.place(order.round_index, client=order.client),
        optimizer=optimizer,
        source=source_of(run, order),
    )
    return worked, optimizer


def probe_once(student: Student, holding: Holding, run: Run) -> None:
    """Purity probe of the run's student and loss, once a process.

    Raises:
        PrivacyError: One pair's output depends on another pair.
    """
    _, channels, *size = holding.data.target.shape
    shape = (channels, *size)
    if shape in run.probed:
        return
    require_pure(student, in_channels=channels, image_size=(size[0], size[1]))
    dim = holding.data.teacher.shape[1]
    require_pure_loss(unit_loss(run.loss, holding.anchors), embedding_dim=dim)
    run.probed.add(shape)
