"""Do clients rotate apart? Their embeddings of the same targets, compared before they are averaged.

The relations of `edgecmd.losses.cmd` do not change under a rotation of the student's space, so nothing in
that loss keeps clients in one frame but their common start. Compared are held-out targets, which a
simulation has and a federation has not.

Shapes: N examples, D embedding dimension.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from torch import nn

from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError, choose
from edgecmd.evaluation.evaluate import embedder
from edgecmd.evaluation.metrics import Embedding, accuracies, held_out_probe, probe_accuracy, recall
from edgecmd.experiments.theory.sweep import FEW, labelling_of
from edgecmd.run import Run
from edgecmd.training.averaging import Arrays, average, load_arrays, to_arrays
from edgecmd.training.distill import Place, make_optimizer
from edgecmd.training.task import Task


@dataclass(frozen=True, kw_only=True, slots=True)
class Alignment:
    """How two or more clients' embeddings of the same targets differ.

    Attributes:
        cosine: Mean cosine of one target's embeddings, over targets and pairs of clients; 1 is agreement.
        apart: ``2 - 2 cosine``, the mean squared distance of unit embeddings.
        residual: What of ``apart`` is left after the best rotation of one onto the other.
    """

    cosine: float
    apart: float
    residual: float

    @property
    def rotated(self) -> float:
        """Share of ``apart`` that a rotation takes away; 0 where there is nothing apart."""
        return 1.0 - self.residual / self.apart if self.apart > 1e-9 else 0.0


def procrustes_residual(one: Embedding, other: Embedding) -> float:
    """Mean squared distance after the best orthogonal map (Schoenemann 1966): ``min_Q |A Q - B|_F^2 / N``.

    Args:
        one: Unit embeddings A, (N, D).
        other: Unit embeddings B of the same examples, (N, D).

    Returns:
        Between 0, where B is A rotated or mirrored, and 2.
    """
    total = float((one**2).sum() + (other**2).sum())
    nuclear = float(
        np.linalg.svd(one.astype(np.float64).T @ other.astype(np.float64), compute_uv=False).sum()
    )
    return max(0.0, total - 2.0 * nuclear) / len(one)


def alignment(embeddings: Sequence[Embedding]) -> Alignment:
    """Alignment over every pair of clients.

    Args:
        embeddings: Unit embeddings of the same examples, (N, D), one per client, at least two.
    """
    pairs = list(combinations(embeddings, 2))
    cosine = float(np.mean([(one * other).sum(axis=1).mean() for one, other in pairs]))
    residual = float(np.mean([procrustes_residual(one, other) for one, other in pairs]))
    return Alignment(cosine=cosine, apart=2.0 - 2.0 * cosine, residual=min(residual, 2.0 - 2.0 * cosine))


FEDPROX_MU = 0.1
METHODS: dict[str, dict[str, Any]] = {
    "cmd": {"loss": "cmd"},
    "cmd-anchored": {"loss": "cmd-anchored"},
    "cmc+cmd": {"loss": "cmc+cmd"},
    "cmc": {"loss": "cmc"},
    "cmd, FedProx": {"loss": "cmd", "proximal_mu": FEDPROX_MU},
    "cmd, shared projector": {"loss": "cmd", "freeze_projector": True},
}


def with_method(config: RunConfig, method: str) -> RunConfig:
    """``config`` under one of `METHODS`.

    Raises:
        ConfigError: There is no such method.
    """
    return replace(config, distill=replace(config.distill, **choose("--methods", method, METHODS)))


def rotation(run: Run, *, num_rounds: int) -> list[dict[str, float]]:
    """Federate in a plain loop and look at the clients before each average.

    The loop is federated averaging weighted by pairs; all clients take part in every round.

    Args:
        run: Clients, partition, local steps and student.
        num_rounds: Rounds.

    Returns:
        One row per round: ``cosine``, ``apart``, ``residual`` and ``rotated`` of the clients, the mean error
        ``error_clients`` of the first two and ``error_average`` of the averaged student with 10 labels a
        class (where there are labels), and ``recall@1`` of the average.

    Raises:
        ConfigError: There is one client alone.
    """
    if run.federation.num_clients < 2:
        raise ConfigError(
            "federation.num_clients=1: a single client cannot rotate away from itself. Set 2 or more."
        )
    student = run.new_student()
    rows = []
    for index in range(num_rounds):
        states, sizes = _local_work(run, student, round_index=index + 1, num_rounds=num_rounds)
        seen = [_seen(run.task, student, state) for state in states]
        found = alignment([one["test"] for one in seen])
        load_arrays(student, average(states, sizes))
        mean = _seen(run.task, student, to_arrays(student))
        row = {"round": float(index + 1), "cosine": found.cosine, "apart": found.apart}
        row |= {"residual": found.residual, "rotated": found.rotated}
        rows.append(row | _scores(run, mean, seen))
    return rows


def _local_work(
    run: Run, student: nn.Module, *, round_index: int, num_rounds: int
) -> tuple[list[Arrays], list[int]]:
    """Weights of each client after its local steps, and its number of pairs; the student stays as it was."""
    start, rounds = to_arrays(student), replace(run.federation, num_rounds=num_rounds)
    states: list[Arrays] = []
    sizes: list[int] = []
    for client in range(run.federation.num_clients):
        load_arrays(student, start)
        holding = run.holding(client)
        place = Place.of_round(rounds, seed=run.seed, round_index=round_index, client=client)
        run.train_locally(student, holding, place=place, optimizer=make_optimizer(student, run.distill))
        states.append(to_arrays(student))
        sizes.append(len(holding.data))
    load_arrays(student, start)
    return states, sizes


def _seen(task: Task, student: nn.Module, state: Arrays) -> dict[str, Embedding]:
    """Embeddings of the held-out targets under the weights ``state``."""
    whole = task.data
    load_arrays(student, state)
    embed = embedder(student, task)
    return {"pool": embed(whole.validation.pairs.target), "test": embed(whole.test.pairs.target)}


def _scores(
    run: Run, mean: Mapping[str, Embedding], clients: Sequence[Mapping[str, Embedding]]
) -> dict[str, float]:
    held = run.task.data.test
    teacher = run.task.gallery_features("test")
    line = {"recall@1": recall(mean["test"], teacher, shown=held.shown, right=held.right)["recall@1"]}
    if held.labelled.labels:
        line["error_average"] = _error(run, mean)
        line["error_clients"] = float(np.mean([_error(run, one) for one in clients[:2]]))
    return line


def _error(run: Run, seen: Mapping[str, Embedding]) -> float:
    whole = run.task.data
    name = labelling_of(whole.test)
    probe = held_out_probe(whole, seen["pool"], seen["test"], labelling=name)
    accuracy = probe_accuracy(probe, method="linear", num_neighbours=1, seed=run.seed)
    return 1.0 - float(np.mean(accuracies(accuracy, FEW, num_draws=3)))
