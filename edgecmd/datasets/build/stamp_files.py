"""Tux Paint's stamps: a folder of images beside recordings of their names and sounds.

A stamp is ``<name>.png`` or ``<name>.svg``. Beside it are ``<name>_desc_<language>.ogg`` (its name or a
sentence about it, spoken; without a language it is English), ``<name>.ogg`` (its sound, or for numbers
the English word), ``<name>_<language>.ogg`` (the number in other languages) and ``<name>.txt`` (the
English sentence in the first line).

Shapes: P images, N pairs, S side, T samples.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from edgecmd.core.errors import DataError
from edgecmd.data.user_files.csv_tables import few
from edgecmd.data.user_files.sound_files import (
    CLIPPED_SHARE,
    READERS,
    Clip,
    Recording,
    read_recording,
    read_with_soundfile,
)
from edgecmd.datasets.build.raster import read_picture

EFFECT, ENGLISH = "effect", "en"
PICTURE_SUFFIXES = (".png", ".svg")
SOUND_SUFFIXES = (".ogg", ".wav")
OGG_READERS = READERS | {".ogg": read_with_soundfile}
# The same picture turned round, for the paint program.
TURNED = re.compile(r".*_(mirror|flip)")
LANGUAGE = r"[a-z]{2,3}(?:_[A-Za-z]{2,4})?"
SPOKEN = re.compile(rf"(?P<name>.+)_desc(?:_(?P<language>{LANGUAGE}))?")
LOCAL = re.compile(rf"(?P<name>.+)_(?P<language>{LANGUAGE})")
# The language with its country: zh_tw, where LOCAL finds tw alone.
LOCAL_COUNTRY = re.compile(r"(?P<name>.+)_(?P<language>[a-z]{2,3}_[A-Za-z]{2,4})")
FORMS = (SPOKEN, LOCAL, LOCAL_COUNTRY)


@dataclass(frozen=True, kw_only=True, slots=True)
class Voice:
    """One recording: its id (its path without suffix), the stamp, who says it, and the file."""

    id: str
    stamp: str
    language: str
    path: Path


@dataclass(kw_only=True, slots=True)
class LeftOut:
    """Names of what cannot be used, by reason, in the order that they were met."""

    reasons: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, reason: str, name: str) -> None:
        """Note one."""
        self.reasons[reason].append(name)

    def counts(self) -> dict[str, int]:
        """Number by reason."""
        return {reason: len(names) for reason, names in self.reasons.items()}

    def notes(self) -> list[str]:
        """A sentence a reason."""
        return [f"left out, {reason}: {few(names)}" for reason, names in self.reasons.items()]


def stem(path: Path, folder: Path) -> str:
    """Path below ``folder`` without suffix, also where the suffix is there twice; ``/`` between folders."""
    name = path.relative_to(folder).with_suffix("").as_posix()
    return name.removesuffix(path.suffix)


def files_of(folder: Path, suffixes: Iterable[str]) -> list[Path]:
    """Files below ``folder``, those of the first suffix first, sorted within each."""
    return [path for suffix in suffixes for path in sorted(folder.rglob(f"*{suffix}")) if path.is_file()]


def find_pictures(folder: Path) -> dict[str, Path]:
    """Picture of each stamp, sorted by name; PNG where there is also an SVG, and no turned copies.

    Raises:
        DataError: There is none.
    """
    found: dict[str, Path] = {}
    for path in files_of(folder, PICTURE_SUFFIXES):
        name = stem(path, folder)
        if not TURNED.fullmatch(name):
            found.setdefault(name, path)
    if not found:
        raise DataError(
            f"{folder} has no stamps (.png or .svg). With --stamps, give the folder tuxpaint/stamps of"
            " Debian's package tuxpaint-stamps-default: /usr/share/tuxpaint/stamps once it is installed, or"
            " unpacked with `dpkg-deb -x`."
        )
    return dict(sorted(found.items()))


def find_voices(folder: Path, stamps: Mapping[str, Path], left_out: LeftOut) -> list[Voice]:
    """Recordings of the stamps, sorted by id; those of no image are left out."""
    found: dict[str, Voice] = {}
    localised: set[str] = set()
    for path in files_of(folder, SOUND_SUFFIXES):
        name = stem(path, folder)
        matches = [match for match in (form.fullmatch(name) for form in FORMS) if match]
        match = next((one for one in matches if one["name"] in stamps), None)
        if name in stamps:
            found.setdefault(name, Voice(id=name, stamp=name, language=EFFECT, path=path))
        elif match is None:
            left_out.add("without an image", name)
        else:
            language = match["language"] or ENGLISH
            found.setdefault(name, Voice(id=name, stamp=match["name"], language=language, path=path))
            localised |= set() if match.re is SPOKEN else {match["name"]}
    for name in localised & found.keys():
        found[name] = replace(found[name], language=ENGLISH)
    return [found[name] for name in sorted(found)]


def keep_languages(voices: Sequence[Voice], languages: Sequence[str]) -> list[Voice]:
    """Voices in ``languages``; all where none is named.

    Raises:
        DataError: A language has no recording.
    """
    present = sorted({one.language for one in voices})
    absent = sorted(set(languages) - set(present))
    if absent:
        raise DataError(
            f"--languages names {', '.join(absent)}, for which there are no recordings. Allowed: "
            + ", ".join(present)
        )
    return [one for one in voices if not languages or one.language in languages]


def title_of(picture: Path) -> str:
    """First line of the text beside an image, letters and digits in lower case; empty without one."""
    text = picture.with_suffix(".txt")
    if not text.is_file():
        return ""
    lines = text.read_text(encoding="utf-8", errors="replace").splitlines()
    return " ".join(re.findall(r"\w+", lines[0].lower())) if lines else ""


def concepts_of(stamps: Mapping[str, Path], voices: Iterable[Voice]) -> dict[str, str]:
    """Concept of each stamp: the first by name of those that it is joined with.

    Guarantees:
        Stamps that share a recording, byte for byte, or the English text, share a concept: the letters
        in four typefaces, two drawings of a cow. So no word of one concept is a word of another.
    """
    parent = {name: name for name in stamps}

    def root(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    first: dict[str, str] = {}
    keys = [(f"text {title_of(path)}", name) for name, path in stamps.items() if title_of(path)]
    keys += [(hashlib.sha256(one.path.read_bytes()).hexdigest(), one.stamp) for one in voices]
    for key, name in keys:
        low, high = sorted((root(first.setdefault(key, name)), root(name)))
        parent[high] = low
    return {name: root(name) for name in stamps}


def read_voices(voices: Iterable[Voice], clip: Clip, left_out: LeftOut) -> dict[str, Recording]:
    """Recordings by id, without those that are broken, silent or clipped."""
    found: dict[str, Recording] = {}
    for one in voices:
        try:
            recording = read_recording(one.path, clip, readers=OGG_READERS)
        except DataError as error:
            left_out.add("silent" if "is silent" in str(error) else "unreadable", one.id)
            continue
        if recording.clipped_share >= CLIPPED_SHARE:
            left_out.add("clipped", one.id)
        else:
            found[one.id] = recording
    return found


def read_pictures(
    stamps: Mapping[str, Path], wanted: Iterable[str], side: int, left_out: LeftOut
) -> dict[str, np.ndarray]:
    """Images on white paper, uint8, (S, S, 3), by stamp, without those that are broken or blank."""
    found = {}
    for name in sorted(set(wanted)):
        try:
            picture = read_picture(stamps[name], side)
        except DataError:
            left_out.add("unreadable picture", name)
            continue
        if picture.min() < 250:
            found[name] = picture
        else:
            left_out.add("blank picture", name)
    return found


def stamp_arrays(
    folder: Path, *, clip: Clip, side: int, languages: Sequence[str], left_out: LeftOut
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Everything that `edgecmd.datasets.stamps` reads.

    Args:
        folder: ``tuxpaint/stamps``.
        clip: Longer recordings are cut to it.
        side: Of an image.
        languages: Languages that are read; empty: all.
        left_out: Gets what cannot be used.

    Returns:
        Arrays by name: ``picture`` (P, S, S, 3), ``stamp`` and ``concept`` (P,) strings, and for each
        pair ``row`` (N,) of its image, ``language`` and ``id`` (N,) strings, ``length`` (N,) samples;
        and all samples of all pairs in one line, int16.

    Raises:
        DataError: There is no stamp, no recording that can be used, or a language is unknown.
    """
    stamps = find_pictures(folder)
    every = find_voices(folder, stamps, left_out)
    concepts = concepts_of(stamps, every)
    voices = keep_languages(every, languages)
    pictures = read_pictures(stamps, (one.stamp for one in voices), side, left_out)
    recordings = read_voices((one for one in voices if one.stamp in pictures), clip, left_out)
    used = [one for one in voices if one.id in recordings]
    if not used:
        raise DataError(f"{folder} has no usable recording. {' '.join(left_out.notes())}")
    names = sorted({one.stamp for one in used})
    rows = {name: row for row, name in enumerate(names)}
    sounds = [recordings[one.id] for one in used]
    kept = [one.samples[: max(1, round(one.seconds * clip.sampling_rate_hz))] for one in sounds]
    arrays = {
        "picture": np.stack([pictures[name] for name in names]),
        "stamp": np.array(names),
        "concept": np.array([concepts[name] for name in names]),
        "row": np.array([rows[one.stamp] for one in used], dtype=np.int32),
        "language": np.array([one.language for one in used]),
        "id": np.array([one.id for one in used]),
        "length": np.array([len(one) for one in kept], dtype=np.int32),
    }
    return arrays, np.concatenate(kept)
