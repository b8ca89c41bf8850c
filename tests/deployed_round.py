"""What a round costs when it is deployed, beside the same round in this process.

``python -m tests.deployed_round --out FOLDER [--pairs 150] [--sites 3] [--rounds 10] [--private]`` runs one
federation twice: from its kits, over TLS on loopback with warm nodes, and in this process with the same
folders of pairs. It prints wall time and CPU time of a round, and their ratio. Run it on an idle machine.
"""

import argparse
import json
import os
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

from flwr.app import Context, RecordDict

from clients.app import make_app
from clients.check import check_node
from edgecmd.config.assemble import Assembly
from edgecmd.config.reader import flatten, read_flat, unflatten
from edgecmd.datasets.sample import write_sample
from server.deploy.description import Site, example_deployment
from server.deploy.followed_run import rounds, run_federation
from server.deploy.kit_processes import free_port, running
from server.deploy.kits import SERVER, SITES, make_kits
from server.federation import federate
from server.local_grid import RUN_ID, local_grid

# Rounds at the start are left out: processes load what they need.
LEFT_OUT = 2
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(ancestors: set[int]) -> dict[str, float]:
    """CPU time of some processes and their descendants, by program; what has ended is its parent's."""
    parents, names, used = dict[int, int](), dict[int, str](), dict[int, float]()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        pid = int(entry.name)
        parents[pid], used[pid] = int(fields[1]), sum(int(one) for one in fields[11:15]) / TICKS
        names[pid] = next((Path(os.fsdecode(one)).name for one in words[1:2]), "?")
    total = dict[str, float]()
    for pid in used:
        one = pid
        while one in parents and one not in ancestors:
            one = parents[one]
        if one in ancestors:
            total[names[pid]] = total.get(names[pid], 0.0) + used[pid]
    return total


def deployed(kits: Path, sites: list[str], logs: Path) -> tuple[list[float], dict[str, float]]:
    """Wall seconds of each round, and CPU seconds of a round by program."""
    marks: list[tuple[int, dict[str, float]]] = []
    with running(kits, sites, logs=logs) as look:
        started = {int(one.name) for one in Path("/proc").iterdir() if one.name.isdigit() and _child(one)}

        def see() -> None:
            look()
            marks.append((len(rounds(folder)), cpu_seconds(started)))

        folder = kits.parent / "runs" / "first"
        run_federation(kits / SERVER, say=print, look=see)
        found = rounds(folder)
    first = next(mark for mark in marks if mark[0] >= LEFT_OUT)
    last = [mark for mark in marks if mark[0] < len(found)][-1]
    num = max(1, last[0] - first[0])
    cpu = {name: (value - first[1].get(name, 0.0)) / num for name, value in last[1].items()}
    return [one["seconds"] for one in found[LEFT_OUT:]], cpu


def _child(entry: Path) -> bool:
    """Whether a process was started by this one and leads a session."""
    try:
        fields = (entry / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return int(fields[1]) == os.getpid() and int(fields[3]) == int(entry.name)


def in_process(kits: Path, sites: list[str], folder: Path) -> tuple[list[float], float]:
    """The same of a federation in this process, whose nodes have the settings of the kits."""
    flat = read_flat(kits / SERVER / "run.toml") | read_flat(kits / SERVER / "server.toml")
    config = unflatten(flat | {"out": str(folder / "here")})
    run = Assembly().run(config)
    contexts = {}
    for index, site in enumerate(sites):
        node = read_flat(kits / SITES / site / "node.toml") | {"state-dir": str(folder / "own" / site)}
        if config.privacy.mechanism != "none":
            check_node(node, config, new_ledger=True)
        contexts[100 + index] = Context(
            run_id=RUN_ID,
            node_id=100 + index,
            node_config=node,
            state=RecordDict(),
            run_config=dict(flatten(config)),
        )
    marks: list[float] = []
    with local_grid(make_app(run), contexts) as grid:
        federate(grid, run, report=lambda _: marks.append(time.process_time()))
    cpu = (marks[-1] - marks[LEFT_OUT - 1]) / (len(marks) - LEFT_OUT)
    return [one["seconds"] for one in rounds(run.folder)[LEFT_OUT:]], cpu


def main() -> None:
    """Measure both and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=150)
    parser.add_argument("--sites", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--student", default="ws-200k")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--private", action="store_true")
    chosen = parser.parse_args()
    folder: Path = chosen.out.resolve()
    names = [f"site{index}" for index in range(chosen.sites)]
    example = example_deployment()
    settings = dict(example.settings) | {
        "student.architecture": chosen.student,
        "federation.num_rounds": chosen.rounds,
        "federation.local_steps": chosen.steps,
        "federation.num_clients": chosen.sites,
        "federation.min_clients": chosen.sites,
    }
    if not chosen.private:
        settings |= {"privacy.mechanism": "none"}
    sites = []
    for name in names:
        write_sample(folder / "pairs" / name, num=chosen.pairs)
        node = dict(example.sites[0].node) | {
            "data-dir": str(folder / "pairs" / name),
            "state-dir": str(folder / "state" / name),
        }
        if not chosen.private:
            node = {key: value for key, value in node.items() if not key.startswith("max-")}
        sites.append(Site(name=name, node=node))
    out = folder / "runs"
    here = replace(
        example,
        host="localhost",
        port=free_port(),
        out=out,
        settings={**settings, "out": str(out)},
        sites=tuple(sites),
    )
    make_kits(here, folder / "kits", link_port=here.port)
    for name in names if chosen.private else []:
        kit = folder / "kits" / SITES / name
        check_node(read_flat(kit / "node.toml"), unflatten(read_flat(kit / "run.toml")), new_ledger=True)
    there, programs = deployed(folder / "kits", names, folder / "logs")
    there_cpu = sum(programs.values())
    own, own_cpu = in_process(folder / "kits", names, folder)
    sys.stdout.write(
        json.dumps(
            {
                "deployed": {
                    "wall_s": statistics.median(there),
                    "range": [min(there), max(there)],
                    "cpu_s": there_cpu,
                },
                "in_process": {
                    "wall_s": statistics.median(own),
                    "range": [min(own), max(own)],
                    "cpu_s": own_cpu,
                },
                "wall_ratio": statistics.median(there) / statistics.median(own),
                "cpu_ratio": there_cpu / own_cpu,
                "cpu_by_program": {name: round(value, 3) for name, value in programs.items()},
                "load": os.getloadavg(),
            },
            indent=1,
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
