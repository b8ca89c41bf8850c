"""Cost of a simulation against its number of clients: ``python -m tests.many_clients --clients 100,10000``.

A share of the clients (``--fraction``) is asked in each round; each holds two of the pairs (partition
``resampled``) and makes one step. Every number of clients runs in a fresh process. CPU time for each client
that was asked, and peak memory, are also divided by those of the first.
"""

import argparse
import resource
import sys
import tempfile
import time
from dataclasses import replace

from edgecmd.config.assemble import WORKER
from edgecmd.config.reader import load_config
from edgecmd.config.schema import RunConfig
from edgecmd.core.processes import Workers
from server.simulate import simulate

SETTINGS = (
    *("data.image_size=32", "data.source_size=64", "student.architecture=ws-50k", "distill.batch_size=2"),
    *("federation.partition=resampled", "federation.pairs_per_client=2", "federation.local_steps=1"),
    "evaluate.every_rounds=0",
)


def cost(config: RunConfig) -> tuple[float, float, float]:
    """Seconds of CPU until the first round may begin and of the rounds, and peak memory in MB."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        run = WORKER.run(replace(config, out=folder, name="many"))
        assert len(run.parts) == config.federation.num_clients
        run.holding(0)
        ready = time.process_time()
        simulate(run)
        ended = time.process_time()
    return ready - started, ended - ready, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", default="100,10000,100000")
    parser.add_argument("--visits", type=int, default=2000, help="Clients asked in all, at least one round.")
    parser.add_argument("--rounds", type=int, default=0, help="Rounds, whatever the visits.")
    parser.add_argument("--fraction", type=float, default=0.1, help="Share of the clients asked a round.")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--set", action="append", default=[])
    arguments = parser.parse_args()
    write = sys.stdout.write
    write(
        "| clients | asked a round | rounds | ready, s | ms of CPU an asked client | ratio | MB | ratio |\n"
    )
    write("|---|---|---|---|---|---|---|---|\n")
    first: tuple[float, float] | None = None
    for num in map(int, arguments.clients.split(",")):
        asked = max(1, round(arguments.fraction * num))
        rounds = arguments.rounds or max(1, arguments.visits // asked)
        given = [
            *SETTINGS,
            f"federation.num_clients={num}",
            f"federation.client_fraction={arguments.fraction}",
            f"federation.num_rounds={rounds}",
            *arguments.set,
        ]
        found = []
        for _ in range(arguments.repeats):
            with Workers(1) as pool:
                found.append(pool.submit(cost, load_config(None, given)).result())
        ready, seconds, peak = (sorted(column)[len(found) // 2] for column in zip(*found, strict=True))
        each = sorted(1000 * one / (asked * rounds) for _, one, _ in found)
        first = first or (1000 * seconds / (asked * rounds), peak)
        mine = 1000 * seconds / (asked * rounds)
        write(
            f"| {num:,} | {asked:,} | {rounds} | {ready:.1f} | {mine:.2f} ({each[0]:.2f} to {each[-1]:.2f})"
            f" | {mine / first[0]:.2f} | {peak:.0f} | {peak / first[1]:.2f} |\n"
        )


if __name__ == "__main__":
    main()
