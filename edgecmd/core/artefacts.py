"""Every file that a run, a bundle or a page may hold: what it reveals, and whether it may leave its owner.

One table, `ARTEFACTS`. Whoever writes such a file goes through `write_artefact` (or `declare`, where a file
is appended to) and says whether the file may leave; a writer that contradicts the table fails.

"May leave" is a statement about the units that a privacy mechanism protects: pairs, or whole clients. What a
file reveals about whoever deploys the student (labels, test images) is that person's own matter, and is
named as a separate cost (`edgecmd.privacy.statement.OWN_COSTS`).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from edgecmd.core.errors import PrivacyError, nearest
from edgecmd.core.files import json_bytes, write_bytes_atomically

BASES = {
    "guarantee": "released under the guarantee",
    "public": "public: nothing in it depends on a pair",
    "settings": "settings and versions alone: nothing in it depends on a pair",
    "deployer": "made of released weights and of examples of whoever deploys, whose own cost it is",
    "owner": "the owner's alone: it holds what no guarantee covers",
}
UNBOUNDED = "nothing bounds what it tells of the pairs"
# A bundle or a page may lie anywhere; by default they lie here in a run folder.
PLACES = {"bundle": "export/", "page": "web/", "run": ""}


@dataclass(frozen=True, kw_only=True, slots=True)
class Artefact:
    """One kind of file.

    Attributes:
        pattern: Its name below its place; ``*`` stands for anything, folders included.
        holds: What is in it.
        basis: Why it may leave under a privacy mechanism, or that it may not: a key of `BASES`.
        why: That reason for this file.
        place: A key of `PLACES`.
    """

    pattern: str
    holds: str
    basis: str
    why: str
    place: str = "run"

    @property
    def name(self) -> str:
        """Pattern below the run folder."""
        return PLACES[self.place] + self.pattern

    @property
    def may_leave(self) -> bool:
        """Whether it may leave under a privacy mechanism that adds enough noise, of either unit."""
        return self.basis != "owner"

    def verdict(self, *, private: bool) -> str:
        """What may become of it.

        Args:
            private: Whether the run has a guarantee: a mechanism, secret noise, and enough of it.
        """
        if private or self.basis in ("public", "settings", "owner"):
            return BASES[self.basis]
        return UNBOUNDED


def _rows(basis: str, place: str, rows: Mapping[str, tuple[str, str]]) -> Iterator[Artefact]:
    for pattern, (holds, why) in rows.items():
        yield Artefact(pattern=pattern, holds=holds, why=why, basis=basis, place=place)


_MANY = "figures of many trainings on the same pairs"
_MIXED = "most of these trainings have no privacy, and trying many settings is not counted"
ARTEFACTS: tuple[Artefact, ...] = (
    *_rows(
        "guarantee",
        "run",
        {
            "student.safetensors": ("weights of the final student", "made of noised releases alone"),
            "checkpoints/*/student.safetensors": (
                "global weights after a round",
                "every client was sent them",
            ),
            "checkpoints/*/strategy.safetensors": (
                "momenta of the server's optimiser",
                "made of noised releases alone",
            ),
        },
    ),
    *_rows(
        "settings",
        "run",
        {
            "privacy.json": (
                "the guarantee and its limits",
                "settings, rounds, and what the ledgers add up; no number of pairs",
            ),
            "environment.json": ("versions of packages, kind of processor", "names no pair"),
            "pipeline.json": ("which stages were asked for", "names no pair"),
            "first-weights.json": ("digest of the file of student.weights", "names no pair"),
            "federation.json": (
                "the runtime, its nodes, and how many of them have pairs of their own",
                "the list of nodes is public; the number of their pairs is not in it",
            ),
        },
    ),
    *_rows("deployer", "run", {"demo.html": ("the page for a browser", "as in the bundle")}),
    *_rows(
        "owner",
        "run",
        {
            "config.toml": ("all settings", "names folders and files of this machine"),
            "token": ("name under which clients keep the run's states", "nobody else needs it"),
            "*.lock": ("who works in the folder", "names a process of this machine"),
            ".lock*": ("who works in the folder", "names a process of this machine"),
            ".owner": ("who works in the folder", "names a process of this machine"),
            "checkpoints/*/state.json": (
                "round, and length of the event log",
                "the log's length tells of times and of answers",
            ),
            "events.jsonl": (
                "what happened when",
                "times, and whether a client answered, are not covered; without privacy losses and counts",
            ),
            "told-epsilon.json": (
                "what sites say that they have spent",
                "each site's own number, over all runs that it took part in",
            ),
            "partition.json": ("pairs and classes of each client", "exact numbers of private pairs"),
            "evaluation.json": (
                "figures of the student and of the baselines",
                "baselines train on the same pairs without this guarantee; the strict test is chosen by"
                " looking at training targets",
            ),
            "classes.json": (
                "how often each class of the test was taken for which",
                "made of the released student, but counts test items, as the evaluation does",
            ),
            "tensorboard/*": ("the event log for TensorBoard", "as events.jsonl and evaluation.json"),
            "retrieval.npz": (
                "pictures of the test set",
                "test pictures, chosen by looking at training targets",
            ),
            "report.html": ("all of the above for reading", "pictures, partition, baselines and times"),
            "figures/*": ("charts of the report", "partition, baselines and losses"),
            "audit.json": ("what audits found", "audits attack with the pairs themselves"),
            "audit/*": ("scores and pictures of audits", "made of the pairs themselves"),
            "audit-runs/*": ("trainings of an audit", "kept for the next audit of the same kind"),
            "ledger/*": ("what was spent, and when", "times of releases; it is also needed to go on"),
            "clients/*": ("optimiser states and last replies", "each is its client's own"),
            "baselines/*": ("runs of the baselines", "they train on the same pairs without this guarantee"),
            "distance.json": ("distance of the two modalities", "computed on the pairs, without noise"),
            "compare.*": (_MANY, _MIXED),
            "theory*": (_MANY, _MIXED),
            "rotation*": (_MANY, _MIXED),
            "students.json": (_MANY, _MIXED),
        },
    ),
    *_rows(
        "deployer",
        "bundle",
        {
            "student.onnx": ("the student and its classes", "noised weights; the head is of own labels"),
            "student.*.onnx": (
                "the same in other number formats",
                "noised weights; the head is of own labels",
            ),
            **{
                f"student*.{suffix}": (f"the same for {what}", "noised weights; the head is of own labels")
                for suffix, what in (
                    ("ort", "ONNX Runtime Mobile"),
                    ("tflite", "LiteRT"),
                    ("pte", "ExecuTorch"),
                    ("mlpackage.zip", "Core ML"),
                )
            },
            "golden.npz": ("made-up inputs and what the models give for them", "a function of the models"),
            "core.json": (
                "what is done to an input before the student, in words and numbers",
                "settings, and a list of the files below",
            ),
            "core.*.raw": (
                "made-up inputs and what the student gives for them, as plain numbers",
                "a function of the models",
            ),
            "labels.json": ("names of the classes", "classes of the labelled examples, not of the pairs"),
            "prototypes.npz": ("mean embeddings of examples", "noised weights, and examples of the deployer"),
            "report.json": ("sizes, digests and figures", "figures are of the deployer's test set"),
            "MODEL_CARD.md": ("what the student is", "no number of pairs; figures are of the test set"),
            "ml-bom.cdx.json": ("the same as a bill of materials", "as the card"),
            "demo.html": (
                "the page for a browser, with the student inside",
                "noised weights, and pictures of the public set, of the built-in set or chosen by the owner",
            ),
            "SHA256SUMS": ("checksums of the bundle", "functions of its files"),
            "bundle.sig": ("signature of the bundle", "a function of its files and of the owner's key"),
        },
    ),
    *_rows("public", "bundle", {"infer.py": ("the program for a device", "the same in every bundle")}),
    *_rows(
        "deployer",
        "page",
        {
            "student.onnx": ("the student and its classes", "as in the bundle"),
            "student.core.onnx": ("the student without its front end", "as in the bundle"),
            "second.onnx": ("the student, stored in another way", "as in the bundle"),
            "strangers.bin": ("what the student makes of other inputs", "of the public or the built-in set"),
        },
    ),
    *_rows(
        "public",
        "page",
        {
            "index.html": ("the page", "program and class names"),
            "app.js": ("its program", "the same in every page"),
            "style.css": ("its style", "the same in every page"),
            "runtime.*": ("ONNX Runtime Web", "the same in every page"),
            "gallery.*": (
                "pictures to find, and their embeddings",
                "of the public set, of the built-in set or chosen by the owner",
            ),
            "examples.bin": ("drawings to begin with", "of the built-in set"),
            "golden.bin": ("inputs to check an engine with", "made up"),
            "NOTICE.txt": ("licences of the pictures", "public"),
            "LICENSE*": ("licence of the runtime", "public"),
        },
    ),
)

# A number or a table under such a key tells of pairs, of a client's classes, or of a time.
FORBIDDEN = frozenset(
    {
        *("classes", "largest_share", "loss", "num-examples", "num_examples", "num_pairs", "num_train"),
        *("pairs", "seconds", "skew", "skipped", "skipped_pairs", "time", "train_pairs", "training_pairs"),
    }
)
_PRIVATE = r"(?:training|private|unlabelled|skipped)"
COUNTED = re.compile(
    rf"\b{_PRIVATE} pairs?[^.;:|\n]*[:|=][\s*]*\d|\b\d[\d,]*\s+(?:\w+\s+)?{_PRIVATE} pairs?\b", re.IGNORECASE
)


def artefact_of(name: str, *, place: str = "run") -> Artefact:
    """The row of a file.

    Args:
        name: Path below its place, with forward slashes.
        place: A key of `PLACES`; a run folder also holds its bundle and its page.

    Raises:
        PrivacyError: The table has no such file.
    """
    if place == "run":
        for other in ("bundle", "page"):
            if name.startswith(PLACES[other]):
                return artefact_of(name.removeprefix(PLACES[other]), place=other)
    for one in ARTEFACTS:
        if one.place == place and fnmatchcase(name, one.pattern):
            return one
    known = [one.pattern for one in ARTEFACTS if one.place == place]
    raise PrivacyError(
        f"{name!r} is not a known file of a {place}, so nothing says whether it may leave."
        f" {nearest(name, known)} A new kind of file is a new row of edgecmd.core.artefacts.ARTEFACTS."
    )


def declare(name: str, *, may_leave: bool, place: str = "run") -> Artefact:
    """The row of a file that is about to be written, held against what its writer says.

    Raises:
        PrivacyError: The table has no such file, or says otherwise.
    """
    row = artefact_of(name, place=place)
    if row.may_leave != may_leave:
        raise PrivacyError(
            f"{name!r} is written with may_leave={may_leave}, but the table says {row.may_leave}: {row.why}."
            " Correct the writer, or the row of edgecmd.core.artefacts.ARTEFACTS with its reason."
        )
    return row


def write_artefact(
    folder: Path,
    name: str,
    content: object,
    *,
    may_leave: bool,
    place: str = "run",
    private: bool = False,
) -> Path:
    """Write a file of a run, a bundle or a page.

    Args:
        folder: The run folder, the bundle or the page's folder.
        name: Path below it, with forward slashes.
        content: Bytes; text; or plain values, which become JSON.
        may_leave: Whether its writer holds that it may leave.
        place: A key of `PLACES`.
        private: Whether the run has a privacy mechanism; then content that leaves is looked through.

    Guarantees:
        What `declare` refuses is not written, nor is under ``private`` text or JSON that may leave and tells
        a number of training pairs, a loss, classes of clients or a time under the names of `FORBIDDEN`, or in
        words that `COUNTED` finds. The check is for slips; it proves nothing about other words.

    Raises:
        PrivacyError: It is refused.
    """
    declare(name, may_leave=may_leave, place=place)
    if private and may_leave:
        refuse_counts(name, content)
    write_bytes_atomically(folder / name, content_bytes(folder / name, content))
    return folder / name


def content_bytes(path: Path, content: object) -> bytes:
    """Bytes of a file: of bytes, of text, or of plain values as JSON."""
    if isinstance(content, bytes):
        return content
    if isinstance(content, str):
        return content.encode("utf-8", "backslashreplace")
    return json_bytes(content, path=path)


def refuse_counts(name: str, content: object) -> None:
    """Refuse text or plain values that reveal what no guarantee covers.

    Args:
        name: Of the file, for the message.
        content: Text or plain values; bytes are not looked into.

    Raises:
        PrivacyError: The message names the place, not the value.
    """
    found = next(_told(content), None)
    if found is not None:
        raise PrivacyError(
            f"{name!r} may leave, so under a privacy mechanism it must not reveal {found}. Leave it out, or"
            " move it to a file that only the owner keeps."
        )


def _told(content: object, *, key: str = "") -> Iterator[str]:
    """What plain values reveal, in words without a value."""
    if isinstance(content, str):
        if COUNTED.search(content):
            yield f"a number of pairs (in {key or 'its text'})"
    elif isinstance(content, Mapping):
        for name, value in content.items():
            if name in FORBIDDEN and isinstance(value, int | float | Mapping) and value is not False:
                yield str(name)
            yield from _told(value, key=str(name))
    elif isinstance(content, list | tuple):
        for value in content:
            yield from _told(value, key=key)


def may_leave_table(*, private: bool) -> list[dict[str, str]]:
    """Files that may leave, for ``privacy.json``: what each holds, and why it may.

    Args:
        private: Whether the run has a guarantee. Without one only what depends on no pair is listed.
    """
    return [_line(one, private=private) for one in ARTEFACTS if _leaves(one, private=private)]


def owner_only_table(*, private: bool) -> list[dict[str, str]]:
    """Files that are the owner's alone, for ``privacy.json``: what each holds, and why."""
    return [_line(one, private=private) for one in ARTEFACTS if not _leaves(one, private=private)]


def _leaves(one: Artefact, *, private: bool) -> bool:
    return one.may_leave and (private or one.verdict(private=False) != UNBOUNDED)


def _line(one: Artefact, *, private: bool) -> dict[str, str]:
    return {"file": one.name, "holds": one.holds, "why": f"{one.verdict(private=private)}; {one.why}"}
