"""The same federation in edgecmd and in others, and the same private steps, measured from outside.

``python -m benchmarks.against_others`` in a checkout, see README.md. Each row is a program of its own. This
one watches all of its processes, those that they start included, and reads CPU time, wall time and memory
from the operating system; what a row says about itself is never believed. Linux alone.
"""

import argparse
import ctypes
import importlib.util
import json
import math
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.flower_processes import BIN, ROOT, answers, environment, flwr, free_port

if TYPE_CHECKING:
    import torch

    from edgecmd.run import Run

SETTINGS = (
    *("data.image_size=32", "data.source_size=64", "student.architecture=ws-50k", "device=cpu", "name=run"),
    *("distill.schedule=constant", "evaluate.every_rounds=0"),
)
PRIVATE = ("privacy.mechanism=anchors", "privacy.epsilon=8", "privacy.sampling_rate=0.25")
# The rate rises over 5% of a run's steps: up to here over the first alone, so it is constant.
MOST_STEPS = 29
PRIVATE_STEPS = 20
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
SUBREAPER = 36
PATIENCE_S = 1800.0
GRACE_S = 30.0
ATTEMPTS = 3


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way to do the work.

    Attributes:
        work: Does it, in a program of its own.
        needs: Package without which it is left out.
        private: Whether it belongs to the table of private steps.
    """

    work: "Callable[[Run, Path], None]"
    needs: str = ""
    private: bool = False


@dataclass(kw_only=True)
class Seen:
    """What was seen of one run of a row, in seconds and MB; a round is one of those after the first."""

    cpu: float
    wall: float
    round_cpu: float
    round_wall: float
    peak_mb: float


# What the rows do.


def mark(folder: Path) -> None:
    """Say that a round ended."""
    with (folder / "rounds").open("a") as file:
        file.write("round\n")


def keep(student: "torch.nn.Module", folder: Path) -> None:
    """Write the weights where the comparison reads them."""
    from edgecmd.models.student_file import save_student

    save_student(student, folder / "student.safetensors")  # type: ignore[arg-type]


def held(run: "Run", student: "torch.nn.Module") -> None:
    """Make what clients hold and a step's buffers, so that the first round is no special one."""
    for client in range(run.federation.num_clients):
        run.holding(client)
    student.train()


def client_batches(run: "Run", client: int, round_index: int) -> "Iterator[tuple[Any, Any]]":
    """Views and teacher features of a client's local steps: those that edgecmd makes, from the same seeds."""
    from edgecmd.core.seeding import numpy_generator, torch_generator
    from edgecmd.data.augment import augment
    from edgecmd.training.distill import batch_indices

    data, where = run.holding(client).data, {"round_index": round_index, "client": client}
    views = torch_generator(run.seed, "views", **where)
    rows = batch_indices(
        data,
        batch_size=run.distill.batch_size,
        num_steps=run.federation.local_steps,
        generator=numpy_generator(run.seed, "batches", **where),
    )
    for index in rows:
        target = data.target[index]
        view = augment(data.modality, target, strength=run.distill.augment, generator=views)
        yield view, data.teacher[index]


def bare(run: "Run", folder: Path) -> None:
    """A loop that anyone would write: one student, its optimiser, a running mean."""
    import torch

    student, anchors, loss = run.new_student(), run.anchors, run.loss
    held(run, student)
    sizes = [len(part) for part in run.parts]
    weights = [one.data for one in student.parameters()]
    for round_index in range(1, run.federation.num_rounds + 1):
        start = [one.clone() for one in weights]
        mean = [torch.zeros_like(one) for one in weights]
        for client, num in enumerate(sizes):
            torch._foreach_copy_(weights, start)
            optimizer = run.optimizer(student)
            for view, teacher in client_batches(run, client, round_index):
                optimizer.zero_grad()
                loss(student(view), teacher, anchors).mean().backward()
                optimizer.step()
            torch._foreach_add_(mean, weights, alpha=num / sum(sizes))
        torch._foreach_copy_(weights, mean)
        mark(folder)
    keep(student, folder)


def edgecmd(run: "Run", folder: Path, *, messages: bool = False, num_workers: int = 1) -> None:
    """`server.simulate`, as ``edgecmd simulate`` calls it."""
    from server.simulate import simulate

    own = replace(run, federation=replace(run.federation, num_workers=num_workers))
    simulate(own, report=lambda _: mark(folder), messages=messages)


def flower_ray(run: "Run", folder: Path) -> None:
    """The apps of edgecmd in Flower's simulation, an actor a core, started by ``flwr run``.

    Waits for the file of weights; asking Flower itself would start a program each time.
    """
    home, port, log = folder / "flower", free_port(), folder / "superlink.log"
    home.mkdir()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "own"\n\n[superlink.own]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    words = ["--insecure", "--simulation", "--isolation", "subprocess", "--host", "127.0.0.1"]
    with log.open("w") as file:
        link = subprocess.Popen(
            [str(BIN / "flower-superlink"), *words, "--port", str(port)],
            env=environment(home),
            stdout=file,
            stderr=file,
        )
    try:
        wait_for(lambda: answers(port), link, log)
        given = {**settings_of(run), "out": str(folder)}
        config = " ".join(f"{name}={json.dumps(value)}" for name, value in given.items())
        cores = f"client-resources-num-cpus=1 init-args-num-cpus={os.cpu_count()}"
        clients = f"num-supernodes={run.federation.num_clients}"
        flwr(home, "run", ".", "--run-config", config, "--federation-config", f"{clients} {cores}")
        done = folder / run.folder.name / "student.safetensors"
        wait_for(lambda: done.is_file() or "Finished task" in log.read_text(), link, log)
        time.sleep(1.0)
        if not done.is_file():
            (newest,) = json.loads(flwr(home, "ls", "--format", "json"))["runs"]
            raise SystemExit(flwr(home, "log", str(newest["run-id"]), "--show")[-3000:])
    finally:
        link.terminate()
        link.wait(timeout=GRACE_S)


def settings_of(run: "Run") -> dict[str, Any]:
    """Settings of a run that are not the defaults, by dotted key."""
    flat, defaults = run.described.flat, run.described.defaults
    return {name: value for name, value in flat.items() if value != defaults[name]}


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Wait, and show the log where the process ends or time is up."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        if process.poll() is not None or time.monotonic() > end:
            raise SystemExit(log.read_text()[-3000:])
        time.sleep(0.1)


def pfl_research(run: "Run", folder: Path) -> None:
    """FederatedAveraging of pfl on its simulated back end, with its own loop of local steps."""
    import torch
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.aggregate.weighting import WeightByDatapoints
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.callback.base import TrainingProcessCallback
    from pfl.data.dataset import Dataset
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.data.sampling import MinimizeReuseUserSampler
    from pfl.hyperparam.base import NNTrainHyperParams
    from pfl.metrics import Metrics
    from pfl.model.pytorch import PyTorchModel

    student, now = run.new_student(), {"round": 1}
    held(run, student)

    class Pairs(Dataset):
        """A client's pairs, in the batches of the round."""

        def iter(self, batch_size: int | None = None) -> "Iterator[tuple[Any, Any]]":  # noqa: ARG002
            return client_batches(run, int(self.user_id), now["round"])

    class Rounds(TrainingProcessCallback):
        """Counts rounds."""

        def after_central_iteration(self, *_: object, **__: object) -> tuple[bool, Metrics]:
            mark(folder)
            now["round"] += 1
            return False, Metrics()

    student.loss = lambda view, teacher: run.loss(student(view), teacher, run.anchors).mean()  # type: ignore[assignment]
    student.metrics = dict  # type: ignore[assignment]
    clients = run.federation.num_clients
    train = FederatedDataset(
        lambda client: Pairs((run.holding(client).data.target.numpy(),), user_id=str(client)),
        MinimizeReuseUserSampler(list(range(clients))),
    )
    model = PyTorchModel(
        student,
        local_optimizer_create=lambda _, lr: run.optimizer(student),  # noqa: ARG005
        central_optimizer=torch.optim.SGD(student.parameters(), lr=1.0),
    )
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=run.federation.num_rounds,
            # pfl evaluates each client in rounds that this divides; not a number divides none.
            evaluation_frequency=math.nan,  # type: ignore[arg-type]
            train_cohort_size=clients,
            val_cohort_size=0,
        ),
        SimulatedBackend(train, train, postprocessors=[WeightByDatapoints()]),
        model,
        NNTrainHyperParams(
            local_num_epochs=1,
            local_learning_rate=run.distill.learning_rate,
            local_batch_size=run.distill.batch_size,
        ),
        callbacks=[Rounds()],
        send_metrics_to_platform=False,
    )
    keep(student, folder)


def private_edgecmd(run: "Run", folder: Path) -> None:
    """The private steps of client 0, in blocks of ``local_steps``; coins and noise from the system."""
    from edgecmd.privacy.step.moments import subject_of
    from edgecmd.privacy.step.private_step import distil_privately
    from edgecmd.privacy.step.randomness import make_source

    student, holding, plan = run.new_student(), run.holding(0), run.plan
    assert plan is not None
    worked, loss = subject_of(plan, student, run.loss, holding.anchors)
    optimizer = run.optimizer(worked)
    for index in range(1, run.federation.num_rounds + 1):
        distil_privately(
            worked,
            holding.data,
            run.local_work,
            loss=loss,
            plan=plan,
            place=run.place(index),
            optimizer=optimizer,
            source=make_source(deterministic=False, seed=0, round_index=index, client=0),
        )
        mark(folder)
    keep(student, folder)


def private_opacus(run: "Run", folder: Path) -> None:
    """PrivacyEngine of Opacus around the same student: Poisson batches, clip, noise, AdamW."""
    from opacus import PrivacyEngine
    from torch.utils.data import DataLoader, TensorDataset

    from edgecmd.core.seeding import torch_generator
    from edgecmd.data.augment import augment
    from edgecmd.privacy.step.opacus_engine import plain_layout

    warnings.filterwarnings("ignore")
    plan, data = run.plan, run.holding(0).data
    assert plan is not None
    # Opacus 1.6 computes wrong gradients of convolutions in the memory layout that is torch's fastest.
    student = plain_layout(run.new_student()).train()
    pairs = TensorDataset(data.inputs.contiguous(), data.features)
    module, optimizer, loader = PrivacyEngine(secure_mode=False).make_private(
        module=student,
        optimizer=run.optimizer(student),
        data_loader=DataLoader(pairs, batch_size=round(plan.sampling_rate * len(pairs))),
        noise_multiplier=plan.noise_multiplier,
        max_grad_norm=plan.clip,
    )
    views, step = torch_generator(run.seed, "views"), 0
    while step < run.federation.num_rounds * run.federation.local_steps:
        for target, teacher in loader:
            view = augment(data.modality, target, strength=run.distill.augment, generator=views)
            optimizer.zero_grad()
            run.loss(module(view), teacher, run.anchors).mean().backward()
            optimizer.step()
            step += 1
            if step % run.federation.local_steps == 0:
                mark(folder)
            if step == run.federation.num_rounds * run.federation.local_steps:
                break
    keep(student, folder)


def plain_steps(run: "Run", folder: Path) -> None:
    """The same steps of client 0 without privacy, for the ratio."""
    student, anchors = run.new_student(), run.anchors
    student.train()
    own = replace(run, distill=replace(run.distill, batch_size=round(0.25 * len(run.parts[0]))))
    optimizer = run.optimizer(student)
    for index in range(1, run.federation.num_rounds + 1):
        for view, teacher in client_batches(own, 0, index):
            optimizer.zero_grad()
            run.loss(student(view), teacher, anchors).mean().backward()
            optimizer.step()
        mark(folder)
    keep(student, folder)


ROWS = {
    "plain torch loop": Row(work=bare),
    "edgecmd": Row(work=edgecmd),
    "edgecmd, 2 workers": Row(work=lambda run, folder: edgecmd(run, folder, num_workers=2)),
    "edgecmd, through messages": Row(work=lambda run, folder: edgecmd(run, folder, messages=True)),
    "pfl-research": Row(work=pfl_research, needs="pfl"),
    "Flower, Ray simulation": Row(work=flower_ray, needs="ray"),
    "plain steps, not private": Row(work=plain_steps, private=True),
    "private, edgecmd": Row(work=private_edgecmd, private=True),
    "private, Opacus": Row(work=private_opacus, needs="opacus", private=True),
}


# What this program sees of them.


def descendants() -> dict[int, int]:
    """Clock ticks of each process below this one, its own and those of children that it waited for."""
    found: dict[int, tuple[int, int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        found[int(path.parent.name)] = (int(fields[1]), sum(map(int, fields[11:15])))
    mine, grew = {os.getpid()}, True
    while grew:
        more = {pid for pid, (parent, _) in found.items() if parent in mine} - mine
        mine, grew = mine | more, bool(more)
    return {pid: found[pid][1] for pid in mine - {os.getpid()} if pid in found}


def reaped_s() -> float:
    """CPU seconds of all processes that ended and were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def memory_mb() -> float:
    """Memory of all processes below this one; a page that several share counts once."""
    total = 0
    for pid in descendants():
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def num_rounds(folder: Path) -> int:
    """Rounds that a row has ended, by its marks or by the events of the run."""
    for path, word in ((folder / "rounds", "round"), (folder / "run" / "events.jsonl", '"event": "round"')):
        if path.is_file():
            return path.read_text().count(word)
    return 0


def watch(words: list[str], folder: Path, environ: dict[str, str]) -> Seen:
    """Run a program to its end, with all that it starts.

    Raises:
        RuntimeError: It failed.
    """
    before, began, peak, looked = reaped_s(), time.monotonic(), 0.0, 0.0
    marks: list[tuple[int, float, float]] = []
    log = folder / "log"
    with log.open("w") as file:
        # A session of its own: Linux shares busy cores among sessions, and Ray gives its parts 15 s to start.
        process = subprocess.Popen(
            words, cwd=ROOT, env=environ, stdout=file, stderr=file, start_new_session=True
        )
    while process.poll() is None:
        now, ended = time.monotonic(), num_rounds(folder)
        if ended > (marks[-1][0] if marks else 0):
            marks.append((ended, now, reaped_s() + TICK_S * sum(descendants().values())))
        if now - looked > 0.5:
            looked, peak = now, max(peak, memory_mb())
        time.sleep(0.01)
    wall = time.monotonic() - began
    reap()
    if process.returncode != 0 or not marks:
        raise RuntimeError(f"{' '.join(words)} failed:\n{log.read_text()[-3000:]}")
    (first, began_rounds, cpu), (last, ended_rounds, cpu_then) = marks[0], marks[-1]
    return Seen(
        cpu=reaped_s() - before,
        wall=wall,
        round_cpu=(cpu_then - cpu) / max(1, last - first),
        round_wall=(ended_rounds - began_rounds) / max(1, last - first),
        peak_mb=peak,
    )


def reap() -> None:
    """Wait for what a row left behind; after a while it is ended."""
    end = time.monotonic() + GRACE_S
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            if time.monotonic() > end:
                for one in descendants():
                    os.kill(one, 9)
            time.sleep(0.05)


# The comparison.


def settings(arguments: argparse.Namespace, clients: int, *, private: bool) -> list[str]:
    """Settings of all rows of a table."""
    given = [*SETTINGS, f"federation.num_clients={clients}", f"federation.num_rounds={arguments.rounds}"]
    steps = PRIVATE_STEPS if private else arguments.steps
    return [*given, f"federation.local_steps={steps}", *(PRIVATE if private else ()), *arguments.set]


def outcome(given: list[str], folders: dict[str, Path], first: str) -> dict[str, dict[str, Any]]:
    """Of the weights of each row: R@10 on the test, and how far they are from those of ``first``.

    The distance is divided by the way from the first weights.
    """
    import numpy as np

    from edgecmd.config.assemble import WORKER
    from edgecmd.config.reader import load_config
    from edgecmd.evaluation.evaluate import embedder, retrieval
    from edgecmd.experiments.bench.simulation import distance
    from edgecmd.models.student_file import load_student
    from edgecmd.training.averaging import to_arrays

    run = WORKER.run(load_config(None, given))
    files = {name: next(folder.rglob("student.safetensors")) for name, folder in folders.items()}
    students = {name: load_student(path) for name, path in files.items()}
    arrays = {name: to_arrays(student) for name, student in students.items()}
    way = distance(arrays[first], to_arrays(run.new_student()))
    return {
        name: {
            "recall@10": retrieval(embedder(student, run.task), run.task, "test")["recall@10"],
            "away": distance(arrays[name], arrays[first]) / way,
            "equal": [
                other
                for other in students
                if other != name
                and all(np.array_equal(arrays[name][key], value) for key, value in arrays[other].items())
            ],
        }
        for name, student in students.items()
    }


def compare(
    arguments: argparse.Namespace, names: list[str], clients: int, *, private: bool
) -> dict[str, Any]:
    """All rows of a table, interleaved, after one round of each, whose weights are compared."""
    given = settings(arguments, clients, private=private)
    seen: dict[str, list[Seen]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:

        def folder_of(repeat: int, name: str) -> Path:
            return Path(folder) / str(repeat) / name.replace(",", "").replace(" ", "-")

        for repeat in range(arguments.repeats + 1):
            for name in names:
                more = [] if repeat else ["federation.num_rounds=1"]
                found = start(name, [*given, *more], folder_of(repeat, name))
                if repeat:
                    seen[name].append(found)
                told = f"{clients} clients, {name}: {found.cpu:.1f} s of CPU, a round {found.round_cpu:.2f}"
                sys.stderr.write(f"{told}\n")
        first = outcome(given, {name: folder_of(0, name) for name in names}, names[0])
        last = outcome(given, {name: folder_of(1, name) for name in names}, names[0])
    rows = {
        name: {"runs": [asdict(one) for one in seen[name]], **last[name], "away": first[name]["away"]}
        for name in names
    }
    return {"clients": clients, "private": private, "settings": given, "rows": rows}


def start(name: str, given: list[str], folder: Path, *, attempts: int = ATTEMPTS) -> Seen:
    """Run a row as a program of its own in a new folder; again where it fails, as Ray does on busy cores.

    Raises:
        RuntimeError: It failed each time.
    """
    folder.mkdir(parents=True)
    environ = {**environment(folder), "OMP_NUM_THREADS": "1", "FLWR_TELEMETRY_ENABLED": "0"}
    words = [sys.executable, "-m", "benchmarks.against_others", "--row", name, "--out", str(folder)]
    try:
        return watch([*words, *(f"--set={one}" for one in given)], folder, environ)
    except RuntimeError as error:
        if attempts == 1:
            raise
        sys.stderr.write(f"{error}\ntried again\n")
    shutil.rmtree(folder)
    return start(name, given, folder, attempts=attempts - 1)


def table(found: dict[str, Any]) -> str:
    """Markdown: medians, and the smallest and largest of the ratio to the first row, repeat by repeat."""
    lines = [
        "| | CPU, s | / plain | CPU a round, s | / plain | ms a visit over plain | wall, s | wall a round, s"
        " | MB | R@10 | away |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    rows = found["rows"]
    plain = next(iter(rows.values()))["runs"]
    visits = PRIVATE_STEPS if found["private"] else found["clients"]
    for name, row in rows.items():
        runs = row["runs"]
        mid = {key: statistics.median(one[key] for one in runs) for key in runs[0]}
        whole, a_round = (
            _spread([one[key] / other[key] for one, other in zip(runs, plain)])
            for key in ("cpu", "round_cpu")
        )
        over = [1000 * (one["round_cpu"] - other["round_cpu"]) / visits for one, other in zip(runs, plain)]
        lines.append(
            f"| {name} | {mid['cpu']:.1f} | {whole} | {mid['round_cpu']:.2f} | {a_round} | {_spread(over)}"
            f" | {mid['wall']:.1f} | {mid['round_wall']:.2f} | {mid['peak_mb']:.0f}"
            f" | {row['recall@10']:.3f} | {row['away']:.1e} |"
        )
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def row(arguments: argparse.Namespace) -> None:
    """Do the work of one row, in this process."""
    import torch

    from edgecmd.config.assemble import WORKER
    from edgecmd.config.reader import load_config

    torch.set_num_threads(1)
    config = replace(load_config(None, arguments.set), out=str(arguments.out))
    ROWS[arguments.row].work(WORKER.run(config), Path(arguments.out))


def main() -> None:
    """Measure all rows whose packages are here, and print a table for each number of clients."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", default="10,100")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5, help="Local steps of a client and round.")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="", help="Rows to measure, by a part of their names, with commas.")
    parser.add_argument("--without", default="", help="Rows to leave out, likewise.")
    parser.add_argument("--no-private", action="store_true")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--out", default="", help="File for all figures as JSON.")
    parser.add_argument("--row", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.row:
        row(arguments)
        return
    if arguments.rounds * arguments.steps > MOST_STEPS:
        raise SystemExit(f"--rounds times --steps is at most {MOST_STEPS}, so that the rate is constant.")
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    missing = {name: one.needs for name, one in ROWS.items() if one.needs and not _is_here(one.needs)}
    for name, package in missing.items():
        sys.stdout.write(f"left out: {name} ({package} is not installed)\n")
    packages = ["torch", "flwr", *dict.fromkeys(one.needs for one in ROWS.values() if one.needs)]
    told = ", ".join(f"{name} {version(name)}" for name in packages if _is_here(name))
    sys.stdout.write(f"Python {sys.version.split()[0]}, {told}; {os.cpu_count()} cores\n")
    wanted, without = (
        [one for one in text.split(",") if one] for text in (arguments.only, arguments.without)
    )
    results = []
    for private in (False, *([] if arguments.no_private else [True])):
        names = [
            name
            for name, one in ROWS.items()
            if one.private == private
            and name not in missing
            and (name.startswith("plain") or not wanted or any(part in name for part in wanted))
            and not any(part in name for part in without)
        ]
        for clients in [10] if private else [int(one) for one in arguments.clients.split(",") if one]:
            results.append(compare(arguments, names, clients, private=private))
            sys.stdout.write(f"\n{clients} clients{', private' if private else ''}\n\n{table(results[-1])}\n")
            sys.stdout.flush()
    if arguments.out:
        Path(arguments.out).write_text(json.dumps(results, indent=1) + "\n")


def _is_here(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


if __name__ == "__main__":
    main()
