"""Is a bundle what it claims to be? Everything is checked before its model is loaded, under limits."""

import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from onnx import ModelProto

from edgecmd.core.errors import EdgecmdError
from export.device.assemble import program
from export.documents.sign import refuse_other_files, verify_signature
from export.formats.format_table import FORMATS, format_of, model_of
from export.graph.front_graph import KINDS
from export.trust.contents import Card, check_contents, read_card
from export.trust.errors import AGAIN, TrustError, content_of
from export.trust.gate import GateLimits, gate_file
from export.trust.golden import Golden, compare, read_golden, refuse_other_prototypes
from export.trust.listing import (
    CACHE,
    CORE_SPEC,
    DEMO,
    GOLDEN,
    MODEL,
    PROGRAM,
    PROTOTYPES,
    SIGNATURE,
    SUMS,
    check_sums,
    copy_bundle,
    is_format,
    models_of,
)
from export.trust.raw_golden import read_raw_golden
from export.trust.sandbox import SandboxLimits, flat_inputs, large_inputs, run_model

__all__ = ["Check", "SandboxLimits", "TrustError", "Verdict", "verify_bundle"]

# Check -> the file whose content it reads; the others end with the name of theirs.
CONTENT = {
    "files": "The bundle",
    "checksums": SUMS,
    "signature": SIGNATURE,
    "program": PROGRAM,
    "phone formats": "The bundle",
    "contents": "The bundle",
    "golden values": GOLDEN,
}
OK, WARNING, FAULT, SKIPPED = "ok", "warning", "fault", "skipped"


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One line of the report.

    Attributes:
        name: What was checked.
        state: ``ok``, ``warning`` (could not be checked), ``fault``, or ``skipped`` after a fault.
        detail: What was found.
    """

    name: str
    state: str
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What was found in a bundle.

    Attributes:
        folder: The bundle.
        checks: In the order in which they were made.
        error: The first fault; None if there is none.
    """

    folder: Path
    checks: tuple[Check, ...]
    error: EdgecmdError | None

    @property
    def passed(self) -> bool:
        """Whether no fault was found."""
        return self.error is None

    def record(self) -> dict[str, object]:
        """As JSON."""
        return {
            "bundle": str(self.folder),
            "passed": self.passed,
            "fault": None if self.error is None else str(self.error),
            "checks": [asdict(check) for check in self.checks],
        }


@dataclass(kw_only=True, slots=True)
class _Work:
    """What earlier checks found and later ones need."""

    folder: Path
    copy: Path
    pub: Path | None
    limits: GateLimits
    sandbox: SandboxLimits
    any_program: bool
    older_signature: bool
    digests: dict[str, str] = field(default_factory=dict)
    models: dict[str, ModelProto] = field(default_factory=dict)
    cards: dict[str, Card] = field(default_factory=dict)
    golden: dict[str, list[Golden]] = field(default_factory=dict)


def verify_bundle(
    folder: Path,
    *,
    pub: Path | None = None,
    limits: GateLimits | None = None,
    sandbox: SandboxLimits | None = None,
    any_program: bool = False,
    older_signature: bool = False,
) -> Verdict:
    """Check a bundle from its file list to its golden values; stop at the first fault.

    Args:
        folder: The bundle. Nothing in it is changed.
        pub: Public key of the maker; with it a signature is required.
        limits: Of the structural gate.
        sandbox: Of the process that loads a model.
        any_program: Accept an ``infer.py`` that is not this edgecmd's own.
        older_signature: The signature, if any, may be of other files: it is about to be replaced.

    Returns:
        One line a check, and the fault if there is one. Without a fault and with ``pub``, the files are those
        that the owner of the key signed. Without ``pub``, they fit each other, but whoever made one can make
        all.

    Guarantees:
        No code of the bundle is executed, no pickle is read, no link is followed, and no ONNX file is loaded
        before the gate has passed it; it is loaded by path, in a process with limits.

    Raises:
        ConfigError: The key cannot be used, or the packages for signatures are missing.
    """
    with tempfile.TemporaryDirectory(prefix="edgecmd-verify-") as name:
        work = _Work(
            folder=Path(folder),
            copy=Path(name),
            pub=pub,
            limits=limits or GateLimits(),
            sandbox=sandbox or SandboxLimits(),
            any_program=any_program,
            older_signature=older_signature,
        )
        checks: list[Check] = []
        error: EdgecmdError | None = None
        for title, check in _steps(work):
            if error is not None:
                checks.append(Check(name=title, state=SKIPPED, detail="not reached"))
                continue
            try:
                with content_of(CONTENT.get(title, title.rpartition(" ")[2])):
                    checks.append(check(title))
            except TrustError as fault:
                error = fault
            except EdgecmdError as fault:  # of the gate
                error = TrustError(str(fault)) if fault.exit_code == TrustError.exit_code else None
                if error is None:
                    raise
            if error is not None:
                checks.append(Check(name=title, state=FAULT, detail=str(error)))
    return Verdict(folder=Path(folder), checks=tuple(checks), error=error)


def _steps(work: _Work) -> Iterator[tuple[str, Callable[[str], Check]]]:
    """Name and function of each check; the number of models is known once the files are."""
    yield "files", lambda title: _files(work, title)
    yield "checksums", lambda title: _ok(title, check_sums(work.copy, work.digests))
    yield "signature", lambda title: _signature(work, title)
    yield "program", lambda title: _program(work, title)
    for name in models_of(work.digests):
        yield f"structure of {name}", lambda title, name=name: _structure(work, name, title)  # type: ignore[misc]
    if any(map(is_format, work.digests)):
        yield "phone formats", lambda title: _formats(work, title)
    yield "contents", lambda title: _contents(work, title)
    yield "golden values", lambda title: _golden(work, title)
    for name in models_of(work.digests):
        yield f"outputs of {name}", lambda title, name=name: _outputs(work, name, title)  # type: ignore[misc]


def _ok(title: str, detail: str) -> Check:
    return Check(name=title, state=OK, detail=detail)


def _files(work: _Work, title: str) -> Check:
    work.digests = copy_bundle(work.folder, work.copy)
    return _ok(title, f"{len(work.digests)} plain files, all known")


def _signature(work: _Work, title: str) -> Check:
    if work.pub is not None:
        verify_signature(work.copy, work.pub)
        return _ok(title, f"signed by the owner of {work.pub}")
    if SIGNATURE not in work.digests:
        return Check(name=title, state=WARNING, detail="not signed: who made the bundle is unknown")
    if work.older_signature:
        return Check(name=title, state=WARNING, detail="not looked at: about to be replaced")
    num = refuse_other_files(work.copy)
    return Check(
        name=title,
        state=WARNING,
        detail=f"lists these {num} files, but without --pub KEY it is unknown who signed",
    )


def _program(work: _Work, title: str) -> Check:
    """Code is either this edgecmd's own, or signed, or accepted by the user's word."""
    same = (work.copy / PROGRAM).read_bytes() == program().encode()
    if not same and work.pub is None and not work.any_program:
        raise TrustError(
            f"{PROGRAM} is not this edgecmd's program; it is code that you would run. Verify the signature"
            f" with --pub KEY, or read it and add --any-program. {AGAIN}"
        )
    if (work.folder / CACHE).is_dir():
        return Check(
            name=title,
            state=WARNING,
            detail="__pycache__ holds compiled code that is not checked or signed: delete it before importing"
            " infer.py",
        )
    if DEMO in work.digests and work.pub is None:
        return Check(name=title, state=WARNING, detail=f"{DEMO} is code that was not checked: not signed")
    detail = "is that of this edgecmd" if same else "differs from this edgecmd's, and was accepted"
    return Check(name=title, state=OK if same or work.pub else WARNING, detail=f"{PROGRAM} {detail}")


def _structure(work: _Work, name: str, title: str) -> Check:
    model = gate_file(work.copy / name, limits=work.limits)
    work.models[name], work.cards[name] = model, read_card(name, model)
    return _ok(title, f"opset {model.opset_import[0].version}, {len(model.graph.node)} allowed operators")


def _formats(work: _Work, title: str) -> Check:
    """Files of other engines: of the kind that their name says; nothing here looks further into them."""
    names = sorted(filter(is_format, work.digests))
    for name in names:
        row = FORMATS[format_of(name) or ""]
        start, begins = row.begins
        with (work.copy / name).open("rb") as file:
            if file.read(start + len(begins))[start:] != begins:
                raise TrustError(f"{name} is not a file of {row.title}. {AGAIN}")
        if model_of(name) not in work.digests:
            raise TrustError(f"{name} is made of {model_of(name)}, which is not in the bundle. {AGAIN}")
    told = f"{', '.join(names)}: as listed, and not run here; --engines runs them"
    return Check(name=title, state=OK if work.pub is not None else WARNING, detail=told)


def _contents(work: _Work, title: str) -> Check:
    return _ok(title, check_contents(work.copy, work.digests, list(work.cards.values())))


def _golden(work: _Work, title: str) -> Check:
    cards = list(work.cards.values())
    work.golden = read_golden(work.copy / GOLDEN, [card for card in cards if not card.core])
    for card in (one for one in cards if one.core):
        with content_of(CORE_SPEC):
            work.golden[card.file] = read_raw_golden(work.copy, card)
    if PROTOTYPES in work.digests:
        with content_of(PROTOTYPES):
            refuse_other_prototypes(work.copy / PROTOTYPES, work.cards[MODEL], work.golden[MODEL])
    values = [one for golden in work.golden.values() for one in golden]
    largest = max(one.tolerance for one in values)
    return _ok(title, f"{sum(len(one.inputs) for one in values)} inputs, largest tolerance {largest:g}")


def _outputs(work: _Work, name: str, title: str) -> Check:
    card, golden = work.cards[name], work.golden[name]
    if card.core:
        return _core_outputs(work, card, golden, title)
    inputs = [one.inputs for one in golden]
    dims = [dim.dim_value for dim in work.models[name].graph.input[0].type.tensor_type.shape.dim]
    large = large_inputs(dims, card.input_dtype, large=KINDS[card.front_end].large)
    tried = [*flat_inputs(inputs[0]), *large]
    found = run_model(work.copy / name, inputs, outputs=card.outputs, limits=work.sandbox, tried=tried)
    largest = max(compare(card, one, values) for one, values in zip(golden, found, strict=True))
    size = " x ".join(map(str, large[0].shape[1:]))
    return _ok(title, f"as the golden values, to {largest:.1e}; an input of {size} fits the limits")


def _core_outputs(work: _Work, card: Card, golden: Sequence[Golden], title: str) -> Check:
    """The core takes one input at a time, of one size."""
    rows = [one.inputs[place : place + 1] for one in golden for place in range(len(one.inputs))]
    found = iter(run_model(work.copy / card.file, rows, outputs=card.outputs, limits=work.sandbox))
    largest = 0.0
    for one in golden:
        few = list(itertools.islice(found, len(one.inputs)))
        values = {name: np.concatenate([row[name] for row in few]) for name in card.outputs}
        largest = max(largest, compare(card, one, values))
    return _ok(title, f"as the golden values, to {largest:.1e}")
