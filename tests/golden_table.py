"""SHA-256 of what short runs write, one row a pair, loss, mechanism, strategy and other door of edgecmd.

``python -m tests.golden_table [--out FILE] [--only NAME,...] [--against FILE] [--jobs N]``

A restructuring must not move a byte: make the table before, and hold the code after it against that,
on the same machine with the same packages (hashes are of one machine). Everything runs through
``python -m edgecmd`` in processes of its own, on data from `tests.golden_inputs`, so the script
survives every move of modules. Of JSON files, what holds times or names this machine is left out:
the keys in `VOLATILE`. Of a bundle, SHA256SUMS is left out, since it repeats the other hashes.
"""

import argparse
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.golden_inputs import write_inputs, write_manifest

ROOT = Path(__file__).parents[1]
VOLATILE = frozenset({"seconds"})
PACKAGES = ("torch", "numpy", "scikit-learn", "flwr", "opacus", "onnx", "onnxruntime")

# What every run has, unless a row says otherwise: a federation of a fraction of a second.
TINY = (
    "out=runs",
    "device=cpu",
    "data.name=folder",
    "data.path=in/pairs.npz",
    "data.image_size=16",
    "data.strict=false",
    "student.architecture=ws-50k",
    "distill.batch_size=8",
    "distill.num_anchors=16",
    "federation.num_clients=3",
    "federation.num_rounds=2",
    "federation.local_steps=2",
    "evaluate.every_rounds=0",
    "evaluate.num_labels=[1,0]",
    "evaluate.num_draws=2",
    "pretrain.num_steps=2",
    "pretrain.batch_size=8",
    "pretrain.embedding_dim=16",
)
SOUND = ("student.architecture=audio-50k", "data.clip_s=0.4")
DEPTH = ("data.path=in/depth.npz",)
DENSE = (
    "student.architecture=seg-50k",
    "teacher.map_dim=8",
    "distill.num_locations=4",
    "evaluate.segment_steps=4",
    "evaluate.label_percent=[50,100]",
)
SCENES = ("data.name=emoji-scenes", 'data.path=""', "data.scenes=[24,12,12,12]")
# Made wide, so that two steps are within the budget; noise and coins from the seed.
PRIVATE = ("privacy.deterministic=true", "privacy.noise_multiplier=1", "privacy.epsilon=500")
# Both sides of one size, both furniture sets with a teacher that takes under a millisecond a picture.
FURNITURE = ('data.path=""', "teacher.name=indoor")

Step = list[str] | Callable[[Path], None]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the table.

    Attributes:
        steps: Words after ``python -m edgecmd``, or what is done to the scratch folder between commands.
        files: What is hashed, below the scratch folder, by pattern; a pattern must match.
        printed: Also hash what the last command prints.
    """

    steps: list[Step]
    files: tuple[str, ...] = field(default=())
    printed: bool = False


def sets(name: str, *settings: str) -> list[str]:
    """Words that set the tiny run, then ``settings``."""
    return [word for one in (*TINY, f"name={name}", *settings) for word in ("--set", one)]


def trained(name: str, *settings: str, score: bool = False) -> Row:
    """A simulation; with ``score`` its evaluation too."""
    steps: list[Step] = [["simulate", *sets(name, *settings)]]
    files = [f"runs/{name}/student.safetensors"]
    if score:
        steps.append(["evaluate", f"runs/{name}"])
        files.append(f"runs/{name}/evaluation.json")
    if any("privacy.mechanism" in one for one in settings):
        files.append(f"runs/{name}/privacy.json")
    return Row(steps=steps, files=tuple(files))


def pair_rows() -> dict[str, Row]:
    """Each data set, kind of target and way to hand it in."""
    kinds: dict[str, tuple[str, ...]] = {
        "emoji": ("data.name=emoji", 'data.path=""', "data.strict=true"),
        "emoji-full": ("data.name=emoji-full", 'data.path=""'),
        "emoji-scenes": SCENES,
        "emoji-scenes-dense": (*SCENES, *DENSE),
        "rooms": ("data.name=rooms", *FURNITURE),
        "objects": ("data.name=objects", *FURNITURE, "data.depth_noise=2", "data.depth_holes=0.1"),
        "stamps": ("data.name=stamps", 'data.path=""', *SOUND),
        "stamps-owner": (
            "data.name=stamps",
            'data.path=""',
            *SOUND,
            "data.split=owner",
            "data.held_out=ro",
        ),
        "stamps-pair": ("data.name=stamps", 'data.path=""', *SOUND, "data.split=pair"),
        "npz-grey": (),
        "npz-colour": ("data.path=in/colour.npz",),
        "npz-depth": DEPTH,
        "npz-wave": ("data.path=in/waves.npz", *SOUND),
        "npz-owner": ("data.split=owner",),
        "npz-copies": ("data.path=in/copies.npz",),
        "folder-grey": ("data.path=in/pictures", "data.strict=true"),
        "folder-dense": ("data.path=in/pictures", *DENSE),
        "folder-depth": ("data.path=in/depths", "data.depth_scale_mm=0.2", "data.depth_max_m=0.9"),
        "folder-wave": ("data.path=in/sounds", *SOUND),
        "ready-features": (
            "teacher.pair_features=in/ready.npz",
            "teacher.public_features=in/ready-public.npz",
        ),
        "sketchy": ("data.name=sketchy", "data.path=in/sketchy"),
        "tuberlin": (
            "data.name=tuberlin",
            "data.path=in/tuberlin/sketches",
            "data.source_path=in/tuberlin/photos",
        ),
        "sunrgbd": ("data.name=sunrgbd", "data.path=in/sunrgbd"),
        "nyu": ("data.name=nyu", "data.path=in/nyu"),
        "nyu-dense": ("data.name=nyu", "data.path=in/nyu", *DENSE),
        "vggsound": ("data.name=vggsound", "data.path=in/vggsound", *SOUND),
        "teacher-imagenet": ("teacher.name=imagenet",),
        "student-gn": ("student.architecture=gn-50k",),
        "student-plain": ("student.architecture=plain-50k",),
    }
    rows = {name: trained(name, *settings, score=True) for name, settings in kinds.items()}
    rows["digits"] = _digits_row("digits", *SOUND)
    back = ("data.reverse=true", "data.image_size=32", "pretrain.architecture=gn-audio-teacher")
    rows["digits-reversed"] = _taught_row("digits-reversed", *DIGITS, *back, "data.clip_s=0.4")
    rows["reversed-depth"] = _taught_row("reversed-depth", *BY_DEPTH)
    return rows


DIGITS = ("data.name=digits", 'data.path=""')
BY_DEPTH = ("data.path=in/taught-by-depth.npz", "data.public_path=in/public-depth", "data.reverse=true")


def _taught_row(name: str, *settings: str) -> Row:
    """A teacher made by ``pretrain``, then a student of it."""
    teach: Step = ["pretrain", "--out", f"{name}.safetensors", *sets(name, *settings)]
    row = trained(name, *settings, f"teacher.path={name}.safetensors", score=True)
    return Row(steps=[teach, *row.steps], files=(f"{name}.safetensors", *row.files))


def _digits_row(name: str, *settings: str) -> Row:
    """The set's own teacher lies beside its pairs, as a build leaves it."""

    def put_beside(scratch: Path) -> None:
        folder = scratch / "in" / "built" / "digits"
        shutil.copy(scratch / f"{name}.safetensors", folder / "teacher.safetensors")
        write_manifest(folder)

    teach: Step = ["pretrain", "--out", f"{name}.safetensors", *sets(name, *DIGITS, *settings)]
    row = trained(name, *DIGITS, *settings, score=True)
    return Row(steps=[teach, put_beside, *row.steps], files=row.files)


def loss_rows() -> dict[str, Row]:
    """Each loss, and each knob of a client's local work."""
    losses = "cmc cmd cmc+cmd cmc-anchored cmd-anchored cmc+cmd-anchored cosine l2 seed crd socket simclr"
    rows = {
        f"loss-{one}": trained(f"loss-{one}", f"distill.loss={one}", score=True) for one in losses.split()
    }
    knobs: dict[str, tuple[str, ...]] = {
        "sgd": ("distill.optimizer=sgd",),
        "keep-optimizer": ("distill.keep_optimizer=true",),
        "proximal-mu": ("distill.proximal_mu=0.1",),
        "freeze-projector": ("distill.freeze_projector=true",),
        "constant-schedule": ("distill.schedule=constant", "distill.weight_decay=0.1"),
        "no-augment": ("distill.augment=0",),
        "anchors-procedural": ("distill.loss=cmc-anchored", "distill.anchors=procedural"),
        "anchors-random": ("distill.loss=cmc-anchored", "distill.anchors=random"),
        "seed-1": ("seed=1",),
    }
    return rows | {name: trained(name, *settings) for name, settings in knobs.items()}


def privacy_rows() -> dict[str, Row]:
    """Each mechanism, engine and accountant, deterministic."""
    rows = {
        f"private-{one}": trained(f"private-{one}", f"privacy.mechanism={one}", *PRIVATE, score=True)
        for one in ("anchors", "cosine", "groups", "client")
    }
    more: dict[str, tuple[str, ...]] = {
        "loss-cmd": ("privacy.mechanism=anchors", "distill.loss=cmd-anchored"),
        "loss-l2": ("privacy.mechanism=cosine", "distill.loss=l2"),
        "opacus": ("privacy.mechanism=anchors", "privacy.engine=opacus"),
        "opacus-ghost": ("privacy.mechanism=anchors", "privacy.engine=opacus-ghost"),
        "loop": ("privacy.mechanism=anchors", "privacy.engine=loop"),
        "views": ("privacy.mechanism=anchors", "privacy.num_views=2"),
        "no-sampling": ("privacy.mechanism=anchors", "privacy.sampling=none"),
        "rdp": ("privacy.mechanism=anchors", "privacy.accountant=rdp"),
        "prv": ("privacy.mechanism=anchors", "privacy.accountant=prv"),
        "calibrated": ("privacy.mechanism=anchors", "privacy.noise_multiplier=0", "privacy.epsilon=8"),
        "wave": ("privacy.mechanism=anchors", "data.path=in/waves.npz", *SOUND),
        "depth": ("privacy.mechanism=anchors", *DEPTH),
    }
    return rows | {
        f"private-{name}": trained(f"private-{name}", *PRIVATE, *settings) for name, settings in more.items()
    }


def federation_rows() -> dict[str, Row]:
    """Each strategy, partition and other knob of the server; a warm start; a resumed run."""
    server = {
        "fedprox": ("distill.proximal_mu=0.1",),
        "fedavgm": ("federation.server_learning_rate=1",),
        "fedadam": ("federation.server_learning_rate=0.01",),
        "fedyogi": ("federation.server_learning_rate=0.01",),
        "fedmedian": (),
        "fedtrimmedavg": ("federation.num_clients=5",),
        "krum": ("federation.num_clients=5",),
    }
    rows = {
        f"strategy-{one}": trained(f"strategy-{one}", f"federation.strategy={one}", *settings, score=True)
        for one, settings in server.items()
    }
    knobs: dict[str, tuple[str, ...]] = {
        "partition-dirichlet": ("federation.partition=dirichlet", "federation.alpha=0.5"),
        "partition-owner": ("federation.partition=owner",),
        "client-fraction": ("federation.num_clients=4", "federation.client_fraction=0.5"),
        "two-workers": ("federation.num_workers=2",),
        "validated": ("evaluate.every_rounds=1",),
    }
    rows |= {name: trained(name, *settings) for name, settings in knobs.items()}
    rows["warm-start"] = _warm_row("warm-start")
    rows["warm-start-simclr"] = _warm_row("warm-start-simclr", "--simclr")
    rows["resumed"] = _resumed_row("resumed")
    return rows


def _warm_row(name: str, *words: str) -> Row:
    start = f"{name}.safetensors"
    warm: Step = ["warm-start", "--steps", "2", *words, "--out", start, *sets(name)]
    row = trained(name, f"student.path={start}")
    return Row(steps=[warm, *row.steps], files=(start, *row.files))


def _resumed_row(name: str) -> Row:
    """The last round is taken away, as if the run had been killed in it."""

    def take_away(scratch: Path) -> None:
        shutil.rmtree(scratch / "runs" / name / "checkpoints" / "round-000002")
        (scratch / "runs" / name / "student.safetensors").unlink()

    row = trained(name, "distill.keep_optimizer=true", "federation.strategy=fedadam")
    return Row(steps=[*row.steps, take_away, ["resume", f"runs/{name}"]], files=row.files)


def other_rows() -> dict[str, Row]:
    """Teachers, comparisons, theory, a whole run with its bundle, audits."""
    bundle = ("evaluation.json", "student.safetensors", "export/[!S]*")
    few = ("evaluate.finetune=true", "evaluate.num_labels=1", "evaluate.num_draws=1")
    run: Step = ["run", *sets("whole", "export.profiles=w8,fp32,w4,int8", *few)]
    methods = (
        "cmc,l2,presimclr,central:cmc,supervised,supervised-all,scratch,teacher,teacher-source,untrained"
    )
    audited = trained("audited", "privacy.mechanism=anchors", *PRIVATE)
    distance = ["--part", "test", "--batch-size", "3", "--bootstrap", "20", "--json"]
    warm = ("distill.teacher_temperature=5", "distill.temperature=5", "data.test_fraction=0.4")
    rows = {
        "pretrain": Row(steps=[["pretrain", "--out", "t.safetensors", *sets("t")]], files=("t.safetensors",)),
        "run": Row(steps=[run], files=tuple(f"runs/whole/{one}" for one in bundle)),
        "compare": Row(
            steps=[["compare", "--json", "--seeds", "1", "--methods", methods, *sets("compare")]],
            printed=True,
        ),
        "theory": Row(
            steps=[
                [
                    "theory",
                    "--json",
                    "--levels",
                    "4",
                    "--seeds",
                    "1",
                    "--gaps",
                    "erase",
                    *sets("theory", *warm),
                ]
            ],
            files=("runs/theory/theory.json",),
        ),
        "distance": Row(steps=[["distance", *distance, *sets("distance", *warm)]], printed=True),
        "audit": Row(
            steps=[*audited.steps, ["audit", "check", "runs/audited", "--tries", "6", "--pairs", "4"]],
            files=("runs/audited/audit.json",),
        ),
    }
    for kind, settings in (
        ("depth", DEPTH),
        ("wave", ("data.path=in/waves.npz", *SOUND)),
        ("dense", ("data.path=in/pictures", *DENSE)),
    ):
        name = f"run-{kind}"
        steps: list[Step] = [["run", "--no-baselines", *sets(name, *settings)]]
        rows[name] = Row(steps=steps, files=tuple(f"runs/{name}/{one}" for one in bundle))
    return rows


def all_rows() -> dict[str, Row]:
    """Every row by its name."""
    return pair_rows() | loss_rows() | privacy_rows() | federation_rows() | other_rows()


def without_volatile(value: Any) -> Any:
    """JSON without the keys in `VOLATILE`, wherever they stand."""
    if isinstance(value, dict):
        return {key: without_volatile(one) for key, one in value.items() if key not in VOLATILE}
    return [without_volatile(one) for one in value] if isinstance(value, list) else value


def digest(data: bytes, *, is_json: bool) -> str:
    """SHA-256 of ``data``; of JSON, of what is left without `VOLATILE`, in its own order."""
    if is_json:
        data = json.dumps(without_volatile(json.loads(data))).encode()
    return hashlib.sha256(data).hexdigest()


def make_row(row: Row, scratch: Path) -> dict[str, str]:
    """Hashes of a row by file; under ``error`` why there are none."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "EDGECMD_CACHE": str(scratch / "cache"),
        "EDGECMD_DATA": str(scratch / "in" / "built"),
    }
    printed = b""
    for step in row.steps:
        if callable(step):
            step(scratch)
            continue
        words = [sys.executable, "-m", "edgecmd", *step]
        done = subprocess.run(words, cwd=scratch, env=environment, capture_output=True, check=False)
        if done.returncode:
            return {"error": f"{step[0]} ended with {done.returncode}: {done.stderr.decode()[-2000:]}"}
        printed = done.stdout
    found = {"printed": digest(printed, is_json=True)} if row.printed else {}
    for pattern in row.files:
        paths = sorted(scratch.glob(pattern))
        if not paths:
            return {"error": f"{pattern} was not written"}
        for path in paths:
            found[path.name] = digest(path.read_bytes(), is_json=path.suffix == ".json")
    return found


def make_table(names: Sequence[str], scratch: Path, *, jobs: int) -> dict[str, dict[str, str]]:
    """Hashes of the rows ``names``; each is told as it is done."""
    rows = all_rows()
    write_inputs(scratch / "in")

    def timed(name: str) -> dict[str, str]:
        start = time.monotonic()
        found = make_row(rows[name], scratch)
        sys.stderr.write(f"{name}: {time.monotonic() - start:.1f} s {found.get('error', '')}\n")
        return found

    with ThreadPoolExecutor(jobs) as pool:
        return dict(zip(names, pool.map(timed, names), strict=True))


def differences(before: Mapping[str, Mapping[str, str]], after: Mapping[str, Mapping[str, str]]) -> list[str]:
    """A line for each hash of ``after`` that ``before`` has otherwise or lacks, and the other way round."""
    lines: list[str] = []
    for name in [*before, *(name for name in after if name not in before)]:
        old, new = before.get(name, {}), after.get(name, {})
        lines += [
            f"{name}: {file}: {old.get(file, 'none')[:16]} -> {new.get(file, 'none')[:16]}"
            for file in sorted({*old, *new} - {"error"})
            if old.get(file) != new.get(file)
        ]
    return lines


def report(table: Mapping[str, Any], *, against: Path | None, only: Sequence[str]) -> list[str]:
    """A line for each row of ``table`` that failed, or differs from ``against`` among ``only``."""
    lines = [f"{name}: {row['error']}" for name, row in table["rows"].items() if "error" in row]
    if against is None:
        return lines
    before = json.loads(against.read_text())
    if before["packages"] != table["packages"]:
        lines.append(f"packages: {before['packages']} -> {table['packages']}")
    wanted = {name: row for name, row in before["rows"].items() if name in only}
    return lines + differences(wanted, table["rows"])


def main() -> int:
    """Make the table, write it, hold it against another; 1 where a row failed or differs."""
    parser = argparse.ArgumentParser(description="Make a table of hashes of short runs.")
    parser.add_argument("--out", type=Path, help="write the table here")
    parser.add_argument("--only", default="", help="names of rows, separated by commas")
    parser.add_argument("--against", type=Path, help="a table made before; rows that differ are printed")
    parser.add_argument("--jobs", type=int, default=1, help="rows at a time")
    parser.add_argument("--keep", type=Path, help="a new folder for inputs and runs; else a temporary one")
    given = parser.parse_args()
    known = list(all_rows())
    names = given.only.split(",") if given.only else known
    if unknown := set(names) - set(known):
        parser.error(f"unknown rows: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    with tempfile.TemporaryDirectory() as temporary:
        scratch = (given.keep or Path(temporary) / "golden").resolve()
        rows = make_table(names, scratch, jobs=given.jobs)
    table = {"packages": {one: version(one) for one in PACKAGES}, "rows": rows}
    if given.out:
        given.out.write_text(json.dumps(table, indent=1) + "\n")
    if given.only:
        compared = names
    else:
        compared = list(json.loads(given.against.read_text())["rows"]) if given.against else []
    lines = report(table, against=given.against, only=compared)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent_s = used.ru_utime + used.ru_stime
    lines_and_sum = [
        *lines,
        f"{len(rows)} rows, {len(lines)} failures or differences, {spent_s:.0f} s of CPU",
    ]
    sys.stdout.write("\n".join(lines_and_sum) + "\n")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
