"""Made-up strings whose ranges int8 takes: words of many scripts, of which none was typed by anyone.

Shapes: N examples, L bytes.
"""

import numpy as np
from jaxtyping import UInt8

from edgecmd.data.modalities.utf8 import encode_strings

# Letters of scripts, first and behind the last: Latin (twice, and with accents), Greek, Cyrillic, Hebrew,
# Arabic, Devanagari, Thai, Hangul, kana, Han, pictures.
SCRIPTS = (
    *((0x61, 0x7B), (0x41, 0x5B), (0xC0, 0x180), (0x3B1, 0x3CA), (0x410, 0x450), (0x5D0, 0x5EB)),
    *((0x621, 0x64B), (0x905, 0x93A), (0xE01, 0xE2F), (0xAC00, 0xD7A4), (0x3041, 0x30FF), (0x4E00, 0x9FA6)),
    (0x1F300, 0x1F5FF),
)
MOST_WORDS, MOST_LETTERS = 4, 9


def made_text(num: int, *, num_bytes: int, generator: np.random.Generator) -> UInt8[np.ndarray, "num bytes"]:
    """Words of letters of one script each, at random, cut where they are too long.

    Args:
        num: N.
        num_bytes: L.
        generator: Source of randomness, and of nothing else.
    """
    return encode_strings([_words(generator) for _ in range(num)], num_bytes)


def _words(generator: np.random.Generator) -> str:
    low, high = SCRIPTS[generator.integers(len(SCRIPTS))]
    sizes = generator.integers(1, MOST_LETTERS + 1, generator.integers(1, MOST_WORDS + 1))
    return " ".join("".join(map(chr, generator.integers(low, high, size))) for size in sizes)
