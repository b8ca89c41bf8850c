"""The local grid against a bare torch loop that makes the same gradient steps."""

import math
import resource
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from edgecmd.config.assemble import WORKER, Assembly
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError
from edgecmd.core.processes import Workers
from edgecmd.run import Run

# Of the way that the weights went; of clients at once more, as AdamW makes a whole step of a rounding error.
MAX_DISTANCE, MAX_AT_ONCE = 1e-3, 1e-2


def measure(config: RunConfig, *, num_clients: int, num_rounds: int, num_repeats: int) -> dict[str, Any]:
    """Ratio of CPU times, overhead, and the simulation's peak memory, each measured in a fresh process.

    Args:
        config: Settings; clients, rounds and evaluation are replaced.
        num_clients: Clients of the simulation.
        num_rounds: Rounds timed on either side.
        num_repeats: Pairs of (simulation, bare loop), one after the other.

    Returns:
        ``ratio_*`` and ``overhead_ms_*`` (simulation less bare loop, for a client and round) over the
        repeats, with what was asked. What clients hold is decoded before either side is timed.

    Raises:
        ConfigError: The two sides ended with different weights, so the ratio would mean nothing.
    """
    bench = replace(
        config,
        federation=replace(
            config.federation,
            num_clients=num_clients,
            num_rounds=num_rounds,
            strategy="fedavg",
            client_fraction=1.0,
            num_workers=1,
        ),
        evaluate=replace(config.evaluate, every_rounds=0),
    )
    with Workers(1) as pool:
        timed = pool.submit(_timed, bench, num_repeats).result()
    with Workers(1) as pool:
        peak = pool.submit(_peak, bench).result()
    return {"clients": num_clients, "rounds": num_rounds, "repeats": num_repeats, **timed, "peak_mb": peak}


def earlier_ratios(found: object, *, clients: Sequence[int], num_rounds: int) -> list[float]:
    """Ratios of an earlier measurement, to divide those of a new one by.

    Args:
        found: What `measure` gave for each number of clients, as read from JSON.
        clients: Numbers of clients of the new measurement.
        num_rounds: Its rounds.

    Raises:
        ConfigError: ``found`` is no such measurement, or one of other clients or rounds.
    """
    rows: list[Any] = found if isinstance(found, list) else [found]
    if not all(isinstance(one, dict) and isinstance(one.get("ratio_median"), float) for one in rows):
        raise ConfigError(
            "--compare: the file does not hold what `edgecmd bench simulate --json` prints. Make it with"
            " that command."
        )
    there = [(one.get("clients"), one.get("rounds")) for one in rows]
    if there != [(num, num_rounds) for num in clients]:
        told = "; ".join(f"{num} clients, {rounds} rounds" for num, rounds in there)
        raise ConfigError(
            f"--compare: the file has {told or 'nothing'}. Measure the same: --clients, --rounds, --quick."
        )
    return [one["ratio_median"] for one in rows]


def _timed(config: RunConfig, num_repeats: int) -> dict[str, float]:
    grid, bare, bytes_ratio = [], [], 0.0
    check_same_work(config, WORKER)
    for _ in range(num_repeats):
        with tempfile.TemporaryDirectory() as folder:
            run = _holding(WORKER.run(replace(config, out=folder, name="bench")))
            started = time.process_time()
            _, bytes_ratio = run_grid(run)
            grid.append(time.process_time() - started)
        run = _holding(WORKER.run(config))
        started = time.process_time()
        run_bare(run)
        bare.append(time.process_time() - started)
    ratios = [one / other for one, other in zip(grid, bare)]
    visits = config.federation.num_clients * config.federation.num_rounds
    overheads = [1000 * (one - other) / visits for one, other in zip(grid, bare)]
    return {
        "ratio_median": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "overhead_ms_median": statistics.median(overheads),
        "overhead_ms_min": min(overheads),
        "overhead_ms_max": max(overheads),
        "grid_cpu_s": statistics.median(grid),
        "bare_cpu_s": statistics.median(bare),
        "bytes_ratio": bytes_ratio,
    }


def _holding(run: Run) -> Run:
    """The run, with what its clients hold already decoded."""
    for client in range(run.federation.num_clients):
        run.holding(client)
    return run


def check_same_work(config: RunConfig, assembly: Assembly) -> None:
    """Refuse to time two sides that do different work: after one round they must agree.

    Later rounds part by themselves: the two sums round differently, and Adam's first step is a sign.

    Raises:
        ConfigError: They do not agree.
    """
    from edgecmd.training.averaging import to_arrays

    one = replace(config, federation=replace(config.federation, num_rounds=1))
    run = assembly.run(one)
    start, looped = to_arrays(run.new_student()), run_bare(run)
    with tempfile.TemporaryDirectory() as folder:
        simulated, _ = run_grid(assembly.run(replace(one, out=folder, name="bench")))
    away = distance(simulated, looped) / distance(looped, start)
    if away > (MAX_DISTANCE if config.federation.clients_at_once == 1 else MAX_AT_ONCE):
        raise ConfigError(
            f"The bare loop ended {away:.1%} of its path away from the grid; no ratio was measured. It"
            " averages plain weights: leave out federation.compression, federation.strategy and whatever"
            " else changes what is averaged."
        )


def distance(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """Euclidean distance of two sets of weights."""
    return math.sqrt(sum(float(((one[name] - other[name]) ** 2).sum()) for name in one))


def _peak(config: RunConfig) -> float:
    """Peak resident memory of the simulation alone, in MB."""
    with tempfile.TemporaryDirectory() as folder:
        run_grid(WORKER.run(replace(config, out=folder, name="bench")))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_grid(run: Run) -> tuple[dict[str, Any], float]:
    """Final weights of the federation, and serialised bytes divided by 2 x 4 x parameters x clients."""
    from edgecmd.models.students import num_parameters
    from edgecmd.training.averaging import to_arrays
    from server.simulate import simulate
    from server.strategies import to_record

    student = simulate(run)
    arrays = to_arrays(student)
    sent = sum(len(array.data) for array in to_record(arrays).values())
    return arrays, sent / (4 * num_parameters(student))


def run_bare(run: Run) -> dict[str, Any]:
    """The same gradient steps as a plain loop: one resident student, weights averaged in place."""
    import torch

    from edgecmd.training.averaging import to_arrays
    from edgecmd.training.distill import optimizer_tensors, restore_optimizer

    federation, student = run.federation, run.new_student()
    holdings = [run.holding(client) for client in range(federation.num_clients)]
    kept: list[dict[str, torch.Tensor]] = [{} for _ in holdings]
    weights = list(student.parameters())
    total = sum(len(holding.data) for holding in holdings)
    for index in range(federation.num_rounds):
        start = [weight.detach().clone() for weight in weights]
        mean = [torch.zeros_like(weight) for weight in weights]
        for client, holding in enumerate(holdings):
            torch._foreach_copy_([weight.data for weight in weights], start)
            optimizer = run.optimizer(student)
            if run.distill.keep_optimizer:
                restore_optimizer(optimizer, kept[client])
            place = run.place(index + 1, client=client)
            run.train_locally(student, holding, place=place, optimizer=optimizer)
            if run.distill.keep_optimizer:
                kept[client] = optimizer_tensors(optimizer)
            torch._foreach_add_(mean, [weight.data for weight in weights], alpha=len(holding.data) / total)
        torch._foreach_copy_([weight.data for weight in weights], mean)
    return to_arrays(student)
