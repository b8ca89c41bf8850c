"""What a million clients would cost: the arithmetic of docs/performance.md, from terms that were measured.

``python -m benchmarks.million`` prints the tables; each term can be given anew, such as ``--visit-ms 8``.
``--ask`` measures what one request costs a SuperLink, on loopback.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass, fields
from pathlib import Path

from tests.flower_processes import BIN, answers, environment, free_port

CLIENTS = 1_000_000
COHORTS = (1_000, 10_000, 100_000, 1_000_000)
ROUNDS = 100
HOUR_S, DAY_S = 3600.0, 86400.0
# Bytes of a weight, sent and returned, and what encoding adds.
WEIGHT_BYTES, ENCODED = 4, 1.016
# Seconds between two questions of a SuperNode for work, and between two signs of life: Flower 1.41.
POLL_S, HEARTBEAT_S = 3.0, 30.0
ASKED = 2000


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What was measured; CPU in ms, memory in bytes.

    Attributes:
        parameters: Of the student, ws-50k.
        visit_ms: A client's turn in process: two pairs, one step, its data made anew.
        build_us: A client more, before the first round.
        client_bytes: Memory of a client more, in process.
        ray_ms: What Flower's simulation adds to a turn.
        answer_ms: CPU of SuperLink and server for an answer over a real link.
        node_ms: CPU of a SuperNode for an answer, without its training.
        request_ms: CPU of a SuperLink for the cheapest request that there is.
        reply_factor: Memory of a held reply, divided by its weights.
        memory_gb: Of a machine.
    """

    parameters: float = 55_222
    visit_ms: float = 13.3
    build_us: float = 10.0
    client_bytes: float = 450.0
    ray_ms: float = 104.0
    answer_ms: float = 1000.0
    node_ms: float = 430.0
    request_ms: float = 2.6
    reply_factor: float = 1.1
    memory_gb: float = 23.0


def tables(terms: Terms) -> str:
    """Two tables and what breaks, with the numbers in it."""
    reply = WEIGHT_BYTES * terms.parameters
    lines = [
        f"{CLIENTS:,} clients in process: {CLIENTS * terms.build_us / 1e6:.0f} s of CPU to build,"
        f" {CLIENTS * terms.client_bytes / 1e9:.1f} GB more memory than a few.",
        "",
        "| asked a round | GB a round | in process, CPU h | Ray, CPU h | SuperLink, CPU h"
        " | cores for 100 rounds in a day: in process, Ray, SuperLink | GB of replies held, messages |",
        "|---|---|---|---|---|---|---|",
    ]
    for asked in COHORTS:
        hours = [
            asked * each / 1000 / HOUR_S
            for each in (terms.visit_ms, terms.visit_ms + terms.ray_ms, terms.answer_ms)
        ]
        per_day = [one * ROUNDS * HOUR_S / DAY_S for one in hours]
        cores = ", ".join(f"{one:,.0f}" if one >= 10 else f"{one:.2f}" for one in per_day)
        lines.append(
            f"| {asked:,} | {2 * reply * ENCODED * asked / 1e9:,.2f} | {hours[0]:,.3f} | {hours[1]:,.3f}"
            f" | {hours[2]:,.1f} | {cores} | {reply * terms.reply_factor * asked / 1e9:,.1f} |"
        )
    requests = CLIENTS / POLL_S + CLIENTS / HEARTBEAT_S
    idle = 1000 / terms.request_ms / (1 / POLL_S + 1 / HEARTBEAT_S)
    held = terms.memory_gb * 1e9 / (reply * terms.reply_factor)
    return "\n".join(
        [
            *lines,
            "",
            f"SuperNodes that only wait: {requests:,.0f} requests a second, at least"
            f" {requests * terms.request_ms / 1000:,.0f} cores; one core has {idle:,.0f} SuperNodes.",
            f"Answers an hour of one core of a SuperLink: {HOUR_S * 1000 / terms.answer_ms:,.0f}.",
            f"Replies that fit into {terms.memory_gb:.0f} GB: {held:,.0f}.",
            f"CPU of all sites for {CLIENTS:,} answers, without training: "
            f"{CLIENTS * terms.node_ms / 1e3 / HOUR_S:,.0f} h.",
        ]
    )


def request_ms() -> float:
    """CPU that a SuperLink spends on a request that does nothing (``/health``)."""
    with tempfile.TemporaryDirectory() as folder:
        home, port = Path(folder), free_port()
        words = ["--insecure", "--isolation", "subprocess", "--host", "127.0.0.1", "--port", str(port)]
        with (home / "log").open("w") as log:
            link = subprocess.Popen(
                [str(BIN / "flower-superlink"), *words], env=environment(home), stdout=log, stderr=log
            )
        try:
            while not answers(port):
                if link.poll() is not None:
                    raise SystemExit((home / "log").read_text()[-3000:])
                time.sleep(0.2)
            ask(port, num=ASKED // 10)
            before = ticks(link.pid)
            ask(port, num=ASKED)
            return 1000 * (ticks(link.pid) - before) / os.sysconf("SC_CLK_TCK") / ASKED
        finally:
            link.terminate()
            link.wait(timeout=60)


def ask(port: int, *, num: int) -> None:
    """Ask for ``/health``, one request after another."""
    for _ in range(num):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=60).read()


def ticks(pid: int) -> int:
    """Clock ticks of CPU of one process."""
    return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    for one in fields(Terms):
        parser.add_argument(f"--{one.name.replace('_', '-')}", type=float, default=one.default)
    parser.add_argument("--ask", action="store_true")
    given = vars(parser.parse_args())
    if given.pop("ask"):
        sys.stdout.write(f"{request_ms():.2f} ms of CPU a request\n")
        return
    sys.stdout.write(f"{tables(Terms(**given))}\n")


if __name__ == "__main__":
    main()
