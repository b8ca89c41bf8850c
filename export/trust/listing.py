"""Which files a bundle has: their names, how large they may be, a private copy of them, and their checksums.

Everything later looks at the copy alone, so that nobody can exchange a file between check and use.
"""

import hashlib
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgecmd.core.errors import nearest
from export.trust.errors import AGAIN, TrustError

SUMS, SIGNATURE = "SHA256SUMS", "bundle.sig"
MODEL, GOLDEN, LABELS, REPORT, PROGRAM = (
    "student.onnx",
    "golden.npz",
    "labels.json",
    "report.json",
    "infer.py",
)
PROTOTYPES, CARD, BOM, DEMO = "prototypes.npz", "MODEL_CARD.md", "ml-bom.cdx.json", "demo.html"
CORE_SPEC = "core.json"
MEBIBYTE = 1 << 20
CHUNK_BYTES = 1 << 20
MAX_FILES = 64
PROFILE_FILE = re.compile(r"student\.([a-z0-9]{1,16})\.onnx")
RAW_FILE = re.compile(r"core\.[a-z]{1,16}\.[a-z]{1,16}\.raw")
FORMAT_FILE = re.compile(r"student(\.[a-z0-9]{1,16})?\.(ort|tflite|pte|mlpackage\.zip)")
SUM_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9][A-Za-z0-9._-]*)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """How large a file may be, and whether a bundle must have it."""

    max_bytes: int
    required: bool = False


RULES = {
    MODEL: Rule(max_bytes=256 * MEBIBYTE, required=True),
    GOLDEN: Rule(max_bytes=16 * MEBIBYTE, required=True),
    REPORT: Rule(max_bytes=4 * MEBIBYTE, required=True),
    PROGRAM: Rule(max_bytes=MEBIBYTE, required=True),
    SUMS: Rule(max_bytes=64 * 1024, required=True),
    LABELS: Rule(max_bytes=4 * MEBIBYTE),
    SIGNATURE: Rule(max_bytes=MEBIBYTE),
    PROTOTYPES: Rule(max_bytes=64 * MEBIBYTE),
    CARD: Rule(max_bytes=4 * MEBIBYTE),
    BOM: Rule(max_bytes=4 * MEBIBYTE),
    DEMO: Rule(max_bytes=128 * MEBIBYTE),
    CORE_SPEC: Rule(max_bytes=MEBIBYTE),
}
RAW_RULE = Rule(max_bytes=16 * MEBIBYTE)
# What Python writes when infer.py is imported; verify neither copies nor reads it.
CACHE = "__pycache__"
COMPILED = re.compile(r"infer\.[a-z]{1,16}-?[0-9]{2,4}[a-z0-9-]{0,16}(\.opt-[12])?\.pyc(\.[0-9]{1,20})?")
PICKLED = (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin", ".joblib")


def profile_file(profile: str) -> str:
    """Name of a profile's file, where it is not `MODEL`."""
    return f"student.{profile}.onnx"


def profile_of(name: str) -> str | None:
    """Profile in the name of a model's file; None for another file and for `student.onnx`."""
    match = PROFILE_FILE.fullmatch(name)
    return match[1] if match else None


def raw_file(case: str, name: str) -> str:
    """Name of the file of raw numbers of one array of a core's golden values."""
    return f"core.{case}.{name}.raw"


def is_format(name: str) -> bool:
    """Whether it is the name of a file for phones, see `export.formats`."""
    return FORMAT_FILE.fullmatch(name) is not None


def _is_known(name: str) -> bool:
    known = name in RULES or profile_of(name) is not None or RAW_FILE.fullmatch(name) is not None
    return known or is_format(name)


def models_of(digests: Mapping[str, str]) -> list[str]:
    """Names of the ONNX files, `student.onnx` first."""
    return sorted(
        (name for name in digests if name.endswith(".onnx")), key=lambda name: (name != MODEL, name)
    )


def copy_bundle(folder: Path, into: Path) -> dict[str, str]:
    """Copy a bundle's files, refusing whatever else is there.

    Args:
        folder: The bundle.
        into: An empty folder of ours.

    Returns:
        SHA-256 of each file by its name, as copied.

    Guarantees:
        No link is followed, no special file is opened, and no more is read than a file may have.

    Raises:
        TrustError: A file is missing, unknown, too large or no plain file; the message names it.
    """
    try:
        entries = sorted(os.listdir(folder))  # noqa: PTH208 - names alone, of whatever kind
    except OSError as error:
        raise TrustError(f"{folder} cannot be listed: {error.strerror}. Give a bundle's folder.") from error
    if len(entries) > MAX_FILES:
        raise TrustError(f"The bundle has {len(entries)} entries; allowed are {MAX_FILES}. {AGAIN}")
    if CACHE in entries and _is_cache(folder / CACHE):
        entries.remove(CACHE)
    missing = [name for name, rule in RULES.items() if rule.required and name not in entries]
    unknown = [name for name in entries if not _is_known(name)]
    for name in entries:
        _refuse_special(folder / name)
    if unknown:
        raise TrustError(_unknown(unknown[0]))
    if missing:
        raise TrustError(f"The bundle has no {missing[0]}. {AGAIN}")
    return {name: _copy(folder / name, into / name) for name in entries}


def _unknown(name: str) -> str:
    if name.lower().endswith(PICKLED):
        return (
            f"The bundle has {name!r}, which may hold pickled code; weights come as ONNX or safetensors only."
        )
    known = [*RULES, "student.<profile>.onnx", "core.<case>.<array>.raw", "student.<profile>.ort"]
    return f"The bundle has the unknown file {name!r}; move it away. {nearest(name, known)}"


def _refuse_special(path: Path) -> None:
    mode = path.lstat().st_mode
    if stat.S_ISREG(mode):
        return
    if path.name == CACHE and stat.S_ISDIR(mode):
        raise TrustError(
            f"The bundle has the folder {CACHE!r} with contents that importing infer.py does not create, or"
            " with links. Delete it."
        )
    kinds = {stat.S_IFLNK: "a symbolic link", stat.S_IFDIR: "a folder"}
    kind = kinds.get(stat.S_IFMT(mode), "a special file")
    raise TrustError(f"{path.name!r} in the bundle is {kind}; allowed are plain files. {AGAIN}")


def _is_cache(path: Path) -> bool:
    """Whether it is a folder that holds plain compiled files of infer.py alone, or nothing."""
    try:
        if not stat.S_ISDIR(path.lstat().st_mode):
            return False
        entries = sorted(path.iterdir())
        plain = all(stat.S_ISREG(one.lstat().st_mode) for one in entries)
    except OSError as error:
        raise TrustError(f"{CACHE} cannot be listed: {error.strerror}. Delete it.") from error
    return plain and len(entries) <= MAX_FILES and all(COMPILED.fullmatch(one.name) for one in entries)


def _copy(source: Path, target: Path) -> str:
    """Copy one file and return its SHA-256."""
    usual = RAW_RULE if RAW_FILE.fullmatch(source.name) else RULES[MODEL]
    allowed = RULES.get(source.name, usual).max_bytes
    digest, count = hashlib.sha256(), 0
    try:
        descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as file, target.open("xb") as copy:  # noqa: PTH123 - a descriptor
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise TrustError(f"{source.name!r} was replaced by a special file while it was being read.")
            while chunk := file.read(CHUNK_BYTES):
                count += len(chunk)
                if count > allowed:
                    raise TrustError(
                        f"{source.name} has more than {allowed:,} bytes, which is the limit. {AGAIN}"
                    )
                digest.update(chunk)
                copy.write(chunk)
    except OSError as error:
        raise TrustError(f"{source.name} cannot be read: {error.strerror}. Check the folder.") from error
    return digest.hexdigest()


def check_sums(copy: Path, digests: Mapping[str, str]) -> str:
    """Compare SHA256SUMS with the files: each file has its line, and each line its file.

    Args:
        copy: Our copy of the bundle.
        digests: SHA-256 of each file.

    Returns:
        What was found, for the report.

    Raises:
        TrustError: The message names the file or the line.
    """
    listed = _parse_sums((copy / SUMS).read_bytes())
    expected = {name for name in digests if name not in (SUMS, SIGNATURE)}
    for name, digest in listed.items():
        if name not in expected:
            raise TrustError(f"{SUMS} lists {name!r}, which is not in the bundle. {AGAIN}")
        if digest != digests[name]:
            raise TrustError(
                f"{name} was changed: its SHA-256 is {digests[name][:16]}..., but {SUMS} says"
                f" {digest[:16]}... {AGAIN}"
            )
    missing = sorted(expected - set(listed))
    if missing:
        raise TrustError(f"{missing[0]} is not listed in {SUMS}; allowed is a line for each file. {AGAIN}")
    return f"{len(listed)} files as listed"


def _parse_sums(data: bytes) -> dict[str, str]:
    try:
        lines = data.decode("ascii").split("\n")
    except UnicodeDecodeError as error:
        raise TrustError(f"{SUMS} is not ASCII text: byte {error.start} is not a letter. {AGAIN}") from error
    if lines[-1]:
        raise TrustError(f"{SUMS} ends in the middle of a line. {AGAIN}")
    listed: dict[str, str] = {}
    for number, line in enumerate(lines[:-1], start=1):
        match = SUM_LINE.fullmatch(line)
        if match is None:
            raise TrustError(
                f"{SUMS} line {number} is {line[:100]!r}; allowed is 64 hexadecimal digits, two spaces and"
                f" the plain name of a file. {AGAIN}"
            )
        if match[2] in listed:
            raise TrustError(f"{SUMS} lists {match[2]!r} twice; allowed is once. {AGAIN}")
        listed[match[2]] = match[1]
    return listed
