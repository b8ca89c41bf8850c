"""What clients at once save: ``python -m tests.clients_at_once [--repeats 9]``.

A round of some clients, trained one by one and at once in turn in one process: reading, training, screening
and mean, in CPU time of one thread. Peak memory is of a process that makes two rounds. What `is_small` says
is left out, so that the table shows where it pays.
"""

import argparse
import resource
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from unittest.mock import patch

from flwr.clientapp import ClientApp

from clients.work import Turns
from edgecmd.config.assemble import WORKER
from edgecmd.config.reader import load_config
from edgecmd.config.schema import RunConfig
from edgecmd.core.processes import Workers
from edgecmd.training.averaging import Arrays, to_arrays
from edgecmd.training.stacked import is_small
from server.local_grid import local_grid
from server.resident import groups
from server.resident.rounds import ResidentRounds

CASES = (("ws-50k", 32), ("ws-200k", 64))
PAIRS = (2, 8, 32)


def settings(student: str, side: int, pairs: int, asked: argparse.Namespace) -> RunConfig:
    """One row's."""
    return load_config(
        None,
        [
            f"student.architecture={student}",
            f"data.image_size={side}",
            f"distill.batch_size={pairs}",
            "federation.partition=resampled",
            f"federation.pairs_per_client={pairs}",
            f"federation.num_clients={asked.clients}",
            f"federation.local_steps={asked.steps}",
            *asked.set,
        ],
    )


def at_once(config: RunConfig, num: int) -> RunConfig:
    """The same with so many clients at once."""
    return replace(config, federation=replace(config.federation, clients_at_once=num))


def rounds_of(config: RunConfig) -> tuple[ResidentRounds, Arrays, list[int]]:
    """What makes rounds, with weights and cohort; what clients hold is read."""
    run = WORKER.run(config)
    cohort = list(range(config.federation.num_clients))
    for client in cohort:
        run.holding(client)
    rounds = ResidentRounds(run=run, turns=Turns(run, "0" * 16), first_node=0)
    return rounds, to_arrays(run.new_student()), cohort


def seconds(config: RunConfig, num: int, repeats: int) -> list[tuple[float, float]]:
    """CPU time of a round one by one and at once, of each repeat."""
    ways = [rounds_of(config), rounds_of(at_once(config, num))]
    found = []
    # Of Flower a reply needs a run.
    with patch.object(groups, "is_small", lambda *_, **__: True), local_grid(ClientApp(), {}):
        for repeat in range(repeats + 1):
            times = []
            for rounds, arrays, cohort in ways:
                started = time.process_time()
                rounds.gather(arrays, cohort, 1, deadline_s=3600.0)
                times.append(time.process_time() - started)
            if repeat:  # The first one chooses kernels.
                found.append((times[0], times[1]))
    return found


def peak_mb(config: RunConfig) -> float:
    """Peak memory of this process after two rounds."""
    with patch.object(groups, "is_small", lambda *_, **__: True), local_grid(ClientApp(), {}):
        rounds, arrays, cohort = rounds_of(config)
        for _ in range(2):
            rounds.gather(arrays, cohort, 1, deadline_s=3600.0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def row(student: str, side: int, pairs: int, asked: argparse.Namespace) -> str:
    """One row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        config = replace(settings(student, side, pairs, asked), out=folder)
        # This process stays small: one that it starts begins with its peak.
        with Workers(1) as pool:
            found = pool.submit(seconds, config, asked.at_once, asked.repeats).result()
        peaks = []
        for num in (1, asked.at_once):
            with Workers(1) as pool:
                peaks.append(pool.submit(peak_mb, at_once(config, num)).result())
    visits = asked.clients * asked.steps
    one, other = (1e3 * statistics.median(column) / visits for column in zip(*found, strict=True))
    ratios = sorted(after / before for before, after in found)
    small = "yes" if is_small(pairs, (1, side, side), num_views=1) else "no"
    return (
        f"| {student}, {side} px | {pairs} | {one:.2f} | {other:.2f} | {statistics.median(ratios):.2f}"
        f" ({ratios[0]:.2f} to {ratios[-1]:.2f}) | {small} | {peaks[0]:.0f}, {peaks[1]:.0f} |\n"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--steps", type=int, default=2, help="Local steps of a client and round.")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--set", action="append", default=[])
    asked = parser.parse_args()
    write = sys.stdout.write
    write("| student | pairs | ms a step one by one | at once | ÷ | done by itself | MB |\n")
    write("|---|---|---|---|---|---|---|\n")
    for student, side in CASES:
        for pairs in PAIRS:
            write(row(student, side, pairs, asked))
            sys.stdout.flush()


if __name__ == "__main__":
    main()
