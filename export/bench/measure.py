"""One student in every engine, measured in one run: latency, throughput, size, start, parity and metric.

Shapes: N inputs.
"""

import contextlib
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgecmd.core.errors import EdgecmdError
from edgecmd.data.pairs import Targets
from edgecmd.training.environment import versions
from export.bench.engines import (
    AGAINST,
    OPENVINO,
    TORCH,
    Engine,
    has_openvino,
    onnx_engine,
    openvino_engine,
    torch_engine,
)
from export.bench.footprint import Footprint
from export.bench.timing import BLOCK, Timed, Timing, interleaved
from export.device.student import Prediction
from export.graph.deployable import Deployable
from export.graph.frontends import at_uneven_sizes
from export.profiles.advice import ARM, WASM, X86, Advice, Candidate, advise, ratios, this_target
from export.profiles.table import BASE, PROFILES, limits_of
from export.trust.verify import TaskMetric, agreement, class_agreement, compare, run_torch

LARGE_BATCH = 32
PACKAGES = ("torch", "onnxruntime", "openvino", "numpy")
MAX_COMPARED = 1024


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Subject:
    """What is measured.

    Attributes:
        files: ONNX files by name; a profile, or another name for what is not a profile.
        inputs: Held-out or made-up raw inputs, the student's own size, at least 1.
        front_end: What they are, a key of `export.graph.frontends.FRONT_ENDS`.
        reference: The student in torch, not folded; None where there is a bundle alone.
        task: What the student is for; None likewise.
        notes: What could not be made, by name, and why.
    """

    files: Mapping[str, Path]
    inputs: Targets
    front_end: str = "image"
    reference: Deployable | None = None
    task: TaskMetric | None = None
    notes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Closeness:
    """How near the outputs are to the reference's.

    Attributes:
        max_abs: Largest difference of the embeddings.
        min_cosine: Smallest cosine.
        agreement: Share of the inputs with the same first answer; None without a task.
        agreement_classes: Share of the inputs with the same likeliest class; None without a head.
        metric: The task metric; None without a task.
    """

    max_abs: float
    min_cosine: float
    agreement: float | None
    agreement_classes: float | None
    metric: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """What was measured of one engine.

    Attributes:
        name: Of the engine.
        num_bytes: See `export.bench.engines.Engine`.
        load_ms: Likewise.
        latency: Of one input at a time.
        per_second: Inputs a second in batches of 32.
        closeness: To the reference; None for the reference itself.
        max_abs_uneven: Largest difference of the embeddings from the reference's on inputs whose sizes are no
            multiples of the student's; None for torch and for what fails at these.
    """

    name: str
    num_bytes: int
    load_ms: float
    latency: Timing
    per_second: float
    closeness: Closeness | None
    max_abs_uneven: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """All that one run measured.

    Attributes:
        rows: Engines, in the order in which they took turns.
        reference: Name of what the others are compared with.
        metric_name: Of the task; empty without.
        metric_reference: The reference's metric; None without a task.
        starts: Fresh processes, by name.
        advice: A profile for each target.
        notes: What could not be measured, by name, and why.
        machine: Processor and versions.
        num_threads: Threads of each engine.
    """

    rows: tuple[Row, ...]
    reference: str
    metric_name: str
    metric_reference: float | None
    starts: Mapping[str, Footprint]
    advice: tuple[Advice, ...]
    notes: Mapping[str, str]
    machine: Mapping[str, str]
    num_threads: int

    def times(self) -> dict[str, float]:
        """Least latency by engine, in milliseconds."""
        return {row.name: row.latency.min_ms for row in self.rows}

    def record(self) -> dict[str, Any]:
        """The result as plain tables, with the ratios."""
        times = self.times()
        return {
            **asdict(self),
            "times_as_fast_as": {base: ratios(times, base=base) for base in (TORCH, BASE)},
        }


def measure(
    subject: Subject,
    *,
    against: Sequence[str],
    num_threads: int,
    num_blocks: int,
    starts: Mapping[str, Footprint] | None = None,
) -> Result:
    """Measure a student in every engine, one after the other in turns.

    Args:
        subject: Files, inputs and what they are compared with.
        against: Keys of `export.bench.engines.AGAINST`.
        num_threads: Threads of each engine; with more than 1 the time that passes is measured instead of the
            processor's.
        num_blocks: Blocks of 10 calls of each.
        starts: Fresh processes that were measured before.
    """
    engines, notes = make_engines(subject, against=against, num_threads=num_threads)
    one, many = subject.inputs[:1], _filled(subject.inputs, LARGE_BATCH)
    latency = interleaved(_timed(engines, one), num_blocks=num_blocks)
    large = interleaved(_timed(engines, many), num_blocks=max(2, num_blocks // BLOCK), block=3, num_warm_up=1)
    name, expected = _reference(subject, engines)
    compared = subject.inputs[:MAX_COMPARED] if subject.task is None else subject.inputs
    uneven = uneven_gaps(subject, engines, reference=name)
    rows = tuple(
        Row(
            name=engine.name,
            num_bytes=engine.num_bytes,
            load_ms=engine.load_ms,
            latency=latency[engine.name],
            per_second=1e3 * LARGE_BATCH / large[engine.name].min_ms,
            closeness=None if engine.name == name else closeness(engine, expected, compared, subject.task),
            max_abs_uneven=uneven.get(engine.name),
        )
        for engine in engines
    )
    task = subject.task
    metric = None if task is None else float(task.metric(expected.embedding))
    return Result(
        rows=rows,
        reference=name,
        metric_name="" if task is None else task.name,
        metric_reference=metric,
        starts=dict(starts or {}),
        advice=recommendations(rows, metric=metric),
        notes={**subject.notes, **notes},
        machine=machine(),
        num_threads=num_threads,
    )


def make_engines(
    subject: Subject, *, against: Sequence[str], num_threads: int
) -> tuple[list[Engine], dict[str, str]]:
    """Engines that this machine has, and why others are missing."""
    engines, notes = [], {}
    for name in against:
        if name == OPENVINO:
            continue
        if subject.reference is None:
            notes[name] = "needs the run that the bundle was made from; give its folder instead"
            continue
        try:
            engine = torch_engine(name, subject.reference)
            engine.run(subject.inputs[:1])
            engine.run(_filled(subject.inputs, LARGE_BATCH))
            engines.append(engine)
        except Exception as error:  # a missing compiler makes torch raise almost anything
            notes[name] = f"torch failed: {str(error).strip().splitlines()[0][:200]}"
    engines += [onnx_engine(name, path, num_threads=num_threads) for name, path in subject.files.items()]
    if OPENVINO in against and not has_openvino():
        notes[OPENVINO] = "not installed: pip install openvino"
    elif OPENVINO in against:
        for name in (name for name in subject.files if name in PROFILES and PROFILES[name].in_openvino):
            label = f"{OPENVINO}:{name}"
            try:
                path, example = subject.files[name], subject.inputs[:1]
                engines.append(openvino_engine(label, path, example=example, num_threads=num_threads))
            except EdgecmdError as error:
                notes[label] = str(error)
    return engines, notes


def _timed(engines: Iterable[Engine], inputs: np.ndarray) -> dict[str, Timed]:
    def call(engine: Engine) -> Timed:
        return Timed(run=lambda: engine.run(inputs), clock=engine.clock)

    return {engine.name: call(engine) for engine in engines}


def _filled(inputs: Targets, num: int, *, first: int = 0) -> np.ndarray:
    return np.ascontiguousarray(inputs[np.arange(first, first + num) % len(inputs)])


def _reference(subject: Subject, engines: Sequence[Engine]) -> tuple[str, Prediction]:
    """What the others are compared with: torch, else fp32, else the first file."""
    if subject.reference is not None:
        return next(iter(AGAINST)), run_torch(subject.reference, subject.inputs)
    engine = next((one for one in engines if one.name == BASE), engines[0])
    return engine.name, _outputs(engine, subject.inputs)


def _outputs(engine: Engine, inputs: Targets) -> Prediction:
    """Outputs in batches of 32, filled up, so that no engine sees a new shape."""
    starts = range(0, len(inputs), LARGE_BATCH)
    chunks = [engine.run(_filled(inputs, LARGE_BATCH, first=start)) for start in starts]
    embedding = np.concatenate([one.embedding for one in chunks])[: len(inputs)]
    scores = [one.scores for one in chunks if one.scores is not None]
    return Prediction(embedding, np.concatenate(scores)[: len(inputs)] if scores else None)


def closeness(engine: Engine, expected: Prediction, inputs: Targets, task: TaskMetric | None) -> Closeness:
    """Compare the outputs of an engine with the reference's.

    Raises:
        ExportError: An output is not finite.
    """
    found = _outputs(engine, inputs)
    wanted = Prediction(
        expected.embedding[: len(inputs)],
        None if expected.scores is None or found.scores is None else expected.scores[: len(inputs)],
    )
    gap = compare(wanted, found if wanted.scores is not None else Prediction(found.embedding, None))
    return Closeness(
        max_abs=gap.max_abs,
        min_cosine=gap.min_cosine,
        agreement=None if task is None else agreement(wanted, found, task),
        agreement_classes=class_agreement(wanted, found),
        metric=None if task is None else float(task.metric(found.embedding)),
    )


def uneven_gaps(subject: Subject, engines: Sequence[Engine], *, reference: str) -> dict[str, float]:
    """Largest difference of each engine from the reference at uneven sizes, by the engine's name.

    An engine that fails there has none.
    """
    sizes = list(at_uneven_sizes(subject.inputs[:1], subject.front_end).values())
    known = next((one.any_size for one in engines if one.name == reference), None)
    if subject.reference is not None:
        expected = [run_torch(subject.reference, one) for one in sizes]
    else:
        assert known is not None
        expected = [known(one) for one in sizes]
    found = {}
    for engine in engines:
        if engine.any_size is None:
            continue
        # Each engine raises errors of its own.
        with contextlib.suppress(Exception):
            gaps = [
                np.abs(want.embedding - engine.any_size(one).embedding).max()
                for one, want in zip(sizes, expected, strict=True)
            ]
            found[engine.name] = float(max(gaps))
    return found


def recommendations(rows: Sequence[Row], *, metric: float | None) -> tuple[Advice, ...]:
    """A profile for each target, from what was measured.

    Args:
        rows: What was measured; rows that are no profile are passed over.
        metric: Of the student; None without a task.
    """
    candidates = [_candidate(row, metric=metric) for row in rows if row.name in PROFILES]
    return tuple(advise(target, candidates, here=this_target()) for target in (X86, ARM, WASM))


def _candidate(row: Row, *, metric: float | None) -> Candidate:
    near = row.closeness
    loss = None if near is None or near.metric is None or metric is None else metric - near.metric
    return Candidate(
        name=row.name,
        num_bytes=row.num_bytes,
        min_ms=row.latency.min_ms,
        agreement=None if near is None else _agreement(near),
        metric_loss=loss,
        least_cosine=None if near is None else near.min_cosine,
        cosine_limit=limits_of(row.name).min_cosine,
    )


def _agreement(near: Closeness) -> float | None:
    """Of classes where there is a head: what a device is asked for. Else of the first answers."""
    return near.agreement if near.agreement_classes is None else near.agreement_classes


def machine() -> dict[str, str]:
    """Processor and versions; no name of the machine."""
    found = {"machine": platform.machine(), "system": platform.system(), "python": platform.python_version()}
    information = Path("/proc/cpuinfo")
    if information.is_file():
        lines = information.read_text(encoding="utf-8", errors="replace").splitlines()
        told = {line.partition(":")[0].strip(): line.partition(":")[2].strip() for line in lines}
        found["processor"] = told.get("model name", "")
        flags = set(told.get("flags", told.get("Features", "")).split())
        kept = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "asimddp", "i8mm")
        found["flags"] = " ".join(name for name in kept if name in flags)
    return found | versions(PACKAGES)
