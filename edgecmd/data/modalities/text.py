"""Strings: UTF-8 bytes up to ``data.text_bytes``, 0 behind the last.

A byte and no character is what a student sees, so there is one table of 256 rows for every script, and no
vocabulary that some languages have and others have not.

Shapes: N examples, B batch, L bytes.
"""

import re
import unicodedata
from string import ascii_letters, digits
from textwrap import wrap

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from edgecmd.core.errors import ConfigError
from edgecmd.core.text import counted
from edgecmd.data.modalities.row import InputShape, Lying, Modality, Stored, equal_to_one, sha256_rows
from edgecmd.data.modalities.signature import Rows, Signature, looked_at
from edgecmd.data.modalities.typos import erase_letters, shuffle_letters, truncate, varied
from edgecmd.data.modalities.utf8 import MOST_BYTES, Strings, decode_strings
from edgecmd.data.modalities.utf8 import encode_strings as encode_strings
from edgecmd.data.stored.array_files import Examples

# Numbers of a signature, each of as many bits as float32 holds exactly.
SUMS, SUM_BITS = 4, 24
# Of a drawn string.
PICTURE_PX, FONT_PX, PER_LINE = 128, 18, 11
# Of made-up strings.
CONSONANTS, SIGNS, LONGEST_INVENTED = "bdfgklmnprstvz", f"{ascii_letters}{digits}!?#+", 16


def to_input(text_BL: Strings) -> Float[Tensor, "batch 1 1 bytes"]:
    """Values of bytes, 0 to 255; a line of one pixel height, so that all inputs have four axes."""
    return torch.from_numpy(np.ascontiguousarray(text_BL).astype(np.float32))[:, None, None]


def input_shape(strings: Examples) -> InputShape:
    """(1, 1, L): one line."""
    return 1, 1, int(strings.shape[1])


def is_empty(text_NL: Stored) -> Bool[np.ndarray, " num"]:
    """Which strings have no byte, (N,)."""
    return np.asarray(~text_NL.any(axis=1))


def folded(text: str) -> str:
    """What two strings that a person would call the same have in common: no case, single spaces."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFC", text.casefold())).strip()


def _digests(part: Stored) -> UInt8[np.ndarray, "num 32"]:
    return sha256_rows([folded(one).encode() for one in decode_strings(part)])


def signature(strings: Lying, rows: Rows) -> Signature:
    """Numbers of the digest of each string as `folded`: equal, or far apart."""

    def numbers(part: Stored) -> np.ndarray:
        words = _digests(part).view(np.uint32)[:, :SUMS] >> (32 - SUM_BITS)
        return words.astype(np.float64)

    values = looked_at(strings, rows, "folded-text", numbers, like=np.dtype(np.float64))
    return Signature(values=values.astype(np.float32), contrast=np.full(len(values), np.inf))


def same_as_one(test: Lying, train: Lying) -> Bool[np.ndarray, " num"]:
    """Which of ``test`` equal one of ``train`` once `folded`, (N,)."""
    return equal_to_one(test, train, name="folded-sha256", work=_digests)


def text_pictures(text_NL: Stored) -> UInt8[np.ndarray, "num side side 1"]:
    """Strings drawn black on white, as far as there is room; for every script see `Modality.as_words`.

    The font is that of matplotlib: Latin, Greek, Cyrillic, Arabic, Hebrew and some more, letter by letter. A
    character of another script is a box.
    """
    from matplotlib import get_data_path
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.truetype(f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf", FONT_PX)
    drawn = np.empty((len(text_NL), PICTURE_PX, PICTURE_PX, 1), np.uint8)
    for row, text in enumerate(decode_strings(text_NL)):
        page = Image.new("L", (PICTURE_PX, PICTURE_PX), 255)
        ImageDraw.Draw(page).multiline_text((4, 2), "\n".join(wrap(text, PER_LINE)), fill=0, font=font)
        drawn[row, ..., 0] = np.asarray(page)
    return drawn


def invented(num: int, shape: tuple[int, ...], generator: np.random.Generator) -> Strings:
    """Strings that nobody types by chance, all different: names of two words and passwords, half of each.

    Args:
        num: How many.
        shape: (L,), at least `LONGEST_INVENTED`.
        generator: Source of the letters.

    Raises:
        ConfigError: They have no room.
    """
    if shape[0] < LONGEST_INVENTED:
        raise ConfigError(
            f"data.text_bytes={shape[0]} has no room for made-up names and passwords; allowed is"
            f" {LONGEST_INVENTED} or more."
        )
    found: dict[str, None] = {}
    while len(found) < num:
        found[(_name, _password)[len(found) % 2](generator)] = None
    return encode_strings([list(found)[row] for row in generator.permutation(num)], shape[0])


def _name(generator: np.random.Generator) -> str:
    """Such as "Velmira Tokosa": one of 10^11."""
    letters = zip(generator.choice(list(CONSONANTS), 6), generator.choice(list("aeiou"), 6), strict=True)
    syllables = ["".join(both) for both in letters]
    return " ".join("".join(part).capitalize() for part in (syllables[:3], syllables[3:]))


def _password(generator: np.random.Generator) -> str:
    """Ten signs: one of 10^18."""
    return "".join(generator.choice(list(SIGNS), 10))


TEXT = Modality(
    name="text",
    noun="string",
    dtype=np.uint8,
    rank=2,
    allowed=f"uint8 UTF-8 bytes of shape (num, bytes), up to {MOST_BYTES} bytes, 0 behind the last",
    has_form=lambda strings: strings.shape[1] <= MOST_BYTES,
    kinds={"text": 1},
    input_shape=input_shape,
    size=lambda shape: counted(shape[2], "byte"),
    stored_shape=lambda text_bytes, **_: (text_bytes,),
    to_input=lambda strings, **_: to_input(strings),
    view=varied,
    front="bytes",
    as_pictures=text_pictures,
    as_words=decode_strings,
    is_constant=is_empty,
    constant_words="empty",
    looks=(signature,),
    looks_known=same_as_one,
    degradations={"erase": erase_letters, "shuffle": shuffle_letters, "truncate": truncate},
    invented=invented,
    is_smooth=False,
    cheap_student="ngram-1m",
    cheap_steps=600,
    cheap_pairs=2**18,
    reader="strings",
    front_end="text",
)
