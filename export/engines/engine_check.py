"""A bundle in every engine that is here: golden inputs and uneven sizes, each engine in a process of its own.

Shapes: N inputs, H height, W width.
"""

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgecmd.core.errors import ConfigError, ExportError, choose
from export.device.properties import CORE
from export.engines.engine_process import Answers, run_engine
from export.engines.engine_table import CORE_FILE, ENGINES, REFERENCE, WHOLE, Engine, Found
from export.graph.front_graph import SCALED
from export.graph.frontends import FRONT_ENDS, at_uneven_sizes
from export.trust.contents import Card, read_card, spec_of
from export.trust.gate import gate_file
from export.trust.golden import read_golden
from export.trust.listing import GOLDEN, MODEL, check_sums, copy_bundle, models_of, profile_file
from export.trust.raw_golden import read_raw_golden, seen_by_torch
from export.trust.verify import ParityLimits

EQUAL, WRONG, FAILED, MISSING = "equal", "wrong", "failed", "not installed"


class EngineError(ExportError):
    """An engine does not compute what the bundle's maker measured."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Case:
    """One array that a file is given.

    Attributes:
        name: Size of the raw input.
        inputs: As the file takes them.
        expected: Outputs by name; empty until the reference has told them.
        limit: Largest difference of any number.
    """

    name: str
    inputs: np.ndarray
    expected: Mapping[str, np.ndarray]
    limit: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Tried:
    """One line of the table.

    Attributes:
        engine: A key of `ENGINES`.
        title: What a person calls it.
        version: Of the engine; empty where it did not start.
        file: `WHOLE` or `CORE_FILE`.
        largest: Largest difference of any number that it gave; None where there is none.
        verdict: `EQUAL`, `WRONG`, `FAILED` or `MISSING`.
        detail: What was tried, or what is wrong and where, or how to install it.
    """

    engine: str
    title: str
    file: str
    verdict: str
    detail: str
    version: str = ""
    largest: float | None = None

    def record(self) -> dict[str, Any]:
        """As JSON, which has no infinite numbers."""
        told = self.largest if self.largest is not None and math.isfinite(self.largest) else None
        return {**asdict(self), "largest": told}


def choose_engines(only: str) -> list[tuple[str, str]]:
    """Engine and file of each entry of a list such as ``mnn:core,openvino``; all of them for an empty one.

    Raises:
        ConfigError: A name is unknown, or the engine is not tried on that file.
    """
    chosen = []
    for entry in (one.strip() for one in (only or ",".join(ENGINES)).split(",")):
        name, _, file = entry.partition(":")
        engine = choose("--only", name, ENGINES)
        if file and file not in engine.files:
            raise ConfigError(f"--only={entry!r}: {name} is tried on {', '.join(engine.files)}.")
        chosen += [(name, one) for one in engine.files if file in ("", one)]
    return chosen


def check_engines(bundle: Path, *, only: str = "", timeout_s: float = 120.0) -> list[Tried]:
    """Try a bundle in the engines that are here.

    Args:
        bundle: It has passed `export.trust.checks.verify_bundle`.
        only: See `choose_engines`.
        timeout_s: Seconds for each engine and file.

    Returns:
        A line for each engine and file of the bundle, in order.

    Guarantees:
        Whatever an engine does, its line says it and the others are tried. Golden inputs are compared with
        the bundle's golden values, other sizes with what ONNX Runtime gives here.

    Raises:
        ConfigError: An entry of ``only`` is unknown.
        ExportError: ONNX Runtime itself, which the others are compared with, does not run a file.
    """
    chosen = choose_engines(only)
    with tempfile.TemporaryDirectory(prefix="edgecmd-engines-") as name:
        copy = Path(name)
        digests = copy_bundle(bundle, copy)
        check_sums(copy, digests)
        cards = [read_card(one, gate_file(copy / one)) for one in models_of(digests)]
        cases = {}
        for file, card in ((WHOLE, cards[0]), *((CORE_FILE, one) for one in cards if one.core)):
            made = _whole_cases(copy, cards) if file == WHOLE else _core_cases(copy, card, cards)
            cases[file] = card, list(_told(copy / card.file, card, made, timeout_s=timeout_s))
        return [
            _try(name, bundle, copy, file, *cases[file], timeout_s=timeout_s)
            for name, file in chosen
            if file in cases
        ]


def refuse_engines(tried: Sequence[Tried]) -> None:
    """Refuse a bundle that an engine answers wrongly, or not at all; one that is not installed is no fault.

    Raises:
        EngineError: The message names the engines, and how wrong they are.
    """
    bad = [one for one in tried if one.verdict in (WRONG, FAILED)]
    if bad:
        told = "; ".join(f"{one.title} ({one.file}) {one.verdict}: {one.detail}" for one in bad)
        raise EngineError(
            f"{len(bad)} of {sum(one.verdict != MISSING for one in tried)} engines and files do not give what"
            f" the bundle promises: {told}. Ship for such an engine what it computes (the core where it is"
            " equal), and check that alone with --only, such as --only mnn:core."
        )


def _whole_cases(copy: Path, cards: Sequence[Card]) -> list[Case]:
    golden = read_golden(copy / GOLDEN, [one for one in cards if not one.core])[MODEL]
    own = golden[0]
    loose = max(own.tolerance, ParityLimits().max_abs_resized)
    made = [
        Case(
            name=_size(one.inputs),
            inputs=one.inputs,
            expected=one.outputs,
            limit=own.tolerance if one is own else loose,
        )
        for one in golden
    ]
    made += [
        Case(name=name, inputs=raw, expected={}, limit=loose)
        for name, raw in at_uneven_sizes(own.inputs, cards[0].front_end).items()
    ]
    return made


def _size(raw: np.ndarray) -> str:
    return "x".join(map(str, raw.shape[1 : max(2, raw.ndim - 1)]))


def _core_cases(copy: Path, card: Card, cards: Sequence[Card]) -> list[Case]:
    """Row by row, as a core takes one input at a time; also what the front end makes of uneven sizes."""
    made = []
    for one in read_raw_golden(copy, card):
        for row in range(len(one.inputs)):
            part = slice(row, row + 1)
            expected = {name: values[part] for name, values in one.outputs.items()}
            made.append(Case(name="golden", inputs=one.inputs[part], expected=expected, limit=one.tolerance))
    raw = read_golden(copy / GOLDEN, [one for one in cards if not one.core])[MODEL][0].inputs
    for name, uneven in at_uneven_sizes(raw, card.front_end).items():
        seen = seen_by_torch(uneven, spec_of(card))
        if seen.shape == made[0].inputs.shape:
            made.append(Case(name=name, inputs=seen, expected={}, limit=made[0].limit))
    return made


def _told(model: Path, card: Card, cases: Sequence[Case], *, timeout_s: float) -> Iterator[Case]:
    """The cases, each with what is expected: of those without golden values, what ONNX Runtime gives here."""
    found = ENGINES[REFERENCE].find(model.parent)
    assert found is not None
    answers = _run(found, model, card, cases, timeout_s=timeout_s)
    for case, answer in zip(cases, answers.cases, strict=False):
        if isinstance(answer, str):
            raise ExportError(f"ONNX Runtime does not run {model.name} on an input of {case.name}: {answer}.")
        yield case if case.expected else replace(case, expected=answer)
    if answers.reason:
        raise ExportError(f"ONNX Runtime does not run {model.name}: {answers.reason}.")


def _try(
    name: str,
    bundle: Path,
    copy: Path,
    file: str,
    card: Card,
    cases: Sequence[Case],
    *,
    timeout_s: float,
) -> Tried:
    engine = ENGINES[name]
    found = engine.find(bundle)
    own = None if found is None else found.model_of(file, copy)
    if found is None or (found.models and own is None):
        return Tried(engine=name, title=engine.title, file=file, verdict=MISSING, detail=engine.install)
    model = own or copy / (MODEL if file == WHOLE else profile_file(CORE))
    answers = _run(found, model, card, cases, timeout_s=timeout_s)
    return _judge(name, engine, file, cases, answers)


def _run(found: Found, model: Path, card: Card, cases: Sequence[Case], *, timeout_s: float) -> Answers:
    """What an engine gives for the cases of a file."""
    return run_engine(
        found,
        model,
        [case.inputs for case in cases],
        port=SCALED if card.core else FRONT_ENDS[card.front_end].input_name,
        outputs=card.outputs,
        timeout_s=timeout_s,
    )


def _judge(name: str, engine: Engine, file: str, cases: Sequence[Case], answers: Answers) -> Tried:
    """The verdict on what an engine gave."""
    failed = [answers.reason] if answers.reason else []
    wrong, largest = list[str](), None
    for case, answer in zip(cases, answers.cases, strict=False):
        if isinstance(answer, str):
            failed.append(f"on an input of {case.name}: {answer}")
            continue
        for output, expected in case.expected.items():
            gap = _gap(expected, answer.get(output))
            largest = gap if largest is None or not gap <= largest else largest
            if not gap <= case.limit:
                wrong.append(f"{output} differs by {gap:.3g} on {case.name} (allowed: {case.limit:g})")
    verdict = WRONG if wrong else FAILED if failed else EQUAL
    sizes = ", ".join(dict.fromkeys(case.name for case in cases))
    detail = max(wrong, key=_number) if wrong else failed[0] if failed else f"on {sizes}"
    return Tried(
        engine=name,
        title=engine.title,
        version=answers.version,
        file=file,
        largest=largest,
        verdict=verdict,
        detail=detail,
    )


def _number(told: str) -> float:
    return float(told.split(" differs by ")[1].split()[0])


def _gap(expected: np.ndarray, found: np.ndarray | None) -> float:
    """Largest difference; infinite for another shape, and for what is not finite."""
    if found is None or found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found - expected.astype(np.float64)).max())
