"""A made-up run folder: ten clients, sixty rounds, a student, five baselines."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from edgecmd.config.reader import to_toml
from edgecmd.config.schema import RunConfig
from edgecmd.core.events import EventLog
from edgecmd.core.files import write_json, write_text_atomically
from edgecmd.core.statistics import mean_interval
from edgecmd.report import write_report
from edgecmd.settings import FederationConfig
from tests.quick import blank_pngs

CLASSES = ("Smileys", "People", "Animals", "Food", "Travel", "Activities", "Objects", "Symbols")
NUM_TEST = 786
NUM_LABELS = ("1", "5", "10", "30", "all")


def make_run(folder: Path, *, num_rounds: int = 60, num_clients: int = 10) -> Path:
    """Write a finished run into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    config = replace(RunConfig(), name=folder.name, federation=FederationConfig(partition="dirichlet"))
    write_text_atomically(folder / "config.toml", to_toml(config))
    packages = {"edgecmd": "0.1.0", "torch": "2.13.0", "flwr": "not installed"}
    write_json(folder / "environment.json", {"python": "3.11.9", "system": "Linux", "packages": packages})
    write_events(folder / "events.jsonl", num_rounds=num_rounds)
    write_json(folder / "partition.json", partition(num_clients))
    write_json(folder / "evaluation.json", evaluation())
    write_json(folder / "classes.json", by_class())
    write_gallery(folder / "retrieval.npz")
    write_json(folder / "export" / "report.json", export_record())
    return folder


def write_events(path: Path, *, num_rounds: int) -> None:
    log = EventLog(path)
    for index in range(1, num_rounds + 1):
        fields: dict[str, object] = {
            "round": index,
            "clients": 10,
            "rejected": [{"node": 103, "reason": "loss is <nan>"}] if index == 17 else [],
            "num_examples": 2017,
            "loss": 1.9 + 2.2 * float(np.exp(-index / 14)),
            "seconds": 1.25,
            "bytes": 16_500_000,
        }
        if index % 10 == 0:
            fields["val_recall@1"] = 0.41 * (1 - float(np.exp(-index / 18)))
        log.append("round", **fields)
    for name, seconds in (("simulate", 75.4), ("evaluate", 210.25), ("export", 3.5)):
        log.append("stage", name=name, seconds=seconds)


def partition(num_clients: int) -> dict[str, object]:
    generator = np.random.default_rng(0)
    shares = generator.dirichlet([0.5] * num_clients, size=len(CLASSES))
    counts = np.floor(shares * generator.integers(120, 400, len(CLASSES))[:, None]).astype(int).T + 1
    table = [
        {
            "client": client,
            "pairs": int(row.sum()) + 4,
            "classes": {**dict(zip(CLASSES, row.tolist())), "(unlabelled)": 4},
            "largest_share": float(row.max() / (row.sum() + 4)),
        }
        for client, row in enumerate(counts)
    ]
    return {"table": table, "skew": 0.41237, "classes": list(CLASSES)}


def evaluation() -> dict[str, object]:
    """The student wins retrieval; l2 wins one-shot, and the student from scratch wins with all labels."""
    student = method_table(retrieval=0.4123, one_shot=0.6231, low=0.314, high=0.671, seed=1)
    scratch = method_table(retrieval=None, one_shot=None, low=0.19, high=0.752, seed=6)
    return {
        "student": student,
        "baselines": {
            "untrained": method_table(retrieval=0.00127, one_shot=0.2104, low=0.2, high=0.43, seed=5),
            "teacher as it is": method_table(retrieval=0.0318, one_shot=0.3312, low=0.24, high=0.52, seed=4),
            "l2": method_table(retrieval=0.2871, one_shot=0.7402, low=0.29, high=0.64, seed=2),
            "simclr": method_table(retrieval=None, one_shot=0.5513, low=0.25, high=0.58, seed=3),
            "scratch": {"few_labels": {"group": {"linear": scratch["few_labels"]["group"]["linear"]}}},
        },
        "chance_loss": 4.158883,
    }


def by_class() -> dict[str, object]:
    """Three classes: the second is mostly taken for the first, and the third has no test item."""
    counts = [[0, 0, 30], [0, 1, 10], [1, 0, 18], [1, 1, 6], [1, 2, 6]]
    return {
        "labelling": "group",
        "classes": ["Smileys", "People", "Animals"],
        "labels": [9, 7, 2],
        "counts": counts,
    }


def method_table(
    *, retrieval: float | None, one_shot: float | None, low: float, high: float, seed: int
) -> dict:
    table: dict = {"data": "emoji", "kind": "real", "num_test": NUM_TEST}
    if retrieval is not None:
        for name, factor in (("retrieval", 1.0), ("retrieval_strict", 0.8), ("retrieval_validation", 1.05)):
            table[name] = {f"recall@{at}": min(1.0, retrieval * factor * at**0.3) for at in (1, 5, 10)}
    if one_shot is not None:
        table["one_shot"] = {"one_shot": one_shot, "chance": 1 / 310, "num_concepts": 310.0}
    table["few_labels"] = {
        name: {
            "majority": 0.2214 * factor,
            "num_classes": 8,
            "num_pool": 392,
            "num_test": 770,
            "knn": probe(low * factor * 0.95, high * factor * 0.93, seed=seed + 10),
            "linear": probe(low * factor, high * factor, seed=seed),
        }
        for name, factor in (("group", 1.0), ("subgroup", 0.7))
    }
    return table


def probe(low: float, high: float, *, seed: int) -> dict[str, object]:
    generator = np.random.default_rng(seed)
    rows: dict[str, object] = {}
    for place, label in enumerate(NUM_LABELS):
        mean = low + (high - low) * (place / 4) ** 0.7
        values = [high] if label == "all" else (mean + generator.normal(0, 0.03 / (place + 1), 5)).tolist()
        rows[label] = {"values": values, **asdict(mean_interval(values))}
    return rows


def write_gallery(path: Path, *, num: int = 4) -> None:
    generator = np.random.default_rng(3)
    source = np.full((num + 6, 16, 16, 3), 255, np.uint8)
    for image in source:
        top, left, height, width = generator.integers(1, 8, 4)
        image[top : top + height, left : left + width] = generator.integers(0, 220, 3)
    rank = np.array([1, 3, 5, 12])
    found = np.stack([generator.permutation(np.arange(num, num + 6))[:5] for _ in range(num)])
    for row in range(num):
        if rank[row] <= 5:
            found[row, rank[row] - 1] = row
    query = np.where(source[:num].min(axis=3, keepdims=True) < 255, 0, 255).astype(np.uint8)
    np.savez(path, query=query, truth=source[:num], found=source[found], rank=rank)


def export_record() -> dict[str, object]:
    return {
        "architecture": "ws-200k",
        "embedding_dim": 128,
        "parity": {
            "batch_sizes": [1, 8],
            "max_abs": 3.2e-7,
            "min_cosine": 0.99999994,
            "max_abs_scores": None,
            "metric_name": "recall@1",
        },
        "files": {
            "student.onnx": {"bytes": 826_214, "sha256": "0" * 64},
            "infer.py": {"bytes": 5210, "sha256": ""},
        },
    }


@pytest.fixture(scope="session")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with its report; not to be changed."""
    folder = make_run(tmp_path_factory.mktemp("runs") / "demo")
    write_report(folder)
    return folder


@pytest.fixture
def blank() -> Iterator[None]:
    """For tests of the page, which shows charts as SVG; `reported` has their PNG files all the same."""
    with blank_pngs(("drawing",)):
        yield


@pytest.fixture
def source(reported: Path) -> str:
    """The page of `reported`."""
    return (reported / "report.html").read_text(encoding="utf-8")


@pytest.fixture
def finished(reported: Path, tmp_path: Path) -> Path:
    """A finished run without a report, to be changed."""
    return shutil.copytree(
        reported, tmp_path / "demo", ignore=shutil.ignore_patterns("report.html", "figures")
    )


@pytest.fixture
def numbers(reported: Path) -> dict:
    """``evaluation.json`` of `finished` and `reported`."""
    return json.loads((reported / "evaluation.json").read_text())
