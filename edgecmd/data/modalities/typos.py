"""Strings as somebody else would type them: views for training, and degradations for the theory.

Whatever is done, is done to whole characters: bytes of UTF-8 that belong together stay together. Bytes that
are no UTF-8 count as a character each.

Shapes: N examples, B batch, L bytes, M characters.
"""

import unicodedata

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn import functional

from edgecmd.data.modalities.motion import Batch
from edgecmd.data.modalities.row import Stored
from edgecmd.data.modalities.utf8 import cut, decode_strings
from edgecmd.data.on_device import sent

# Of each character at strength 1: swapped with the next, left out, typed twice. Of a string: its first
# letter in the other case, or all letters.
SWAP, DROP, REPEAT = 0.04, 0.04, 0.04
FIRST, ALL = 0.25, 0.125
# Letters beyond this point of Unicode keep their case; Latin, Greek, Cyrillic, Armenian are before it.
NUM_CASED = 0x2000
GONE = "_"

Bytes = Int[Tensor, "batch bytes"]
Characters = Int[Tensor, "batch characters"]


def _packed(character: str) -> int:
    """The bytes of a character as one number, the first highest; 0 behind the last."""
    return int.from_bytes(character.encode().ljust(4, b"\0"), "big")


def _other_case(point: int) -> int:
    """A letter in the other case where that is one letter, `_packed`; 0: there is none."""
    one = chr(point)
    other = one.swapcase()
    same = other == one or len(other) > 1 or unicodedata.normalize("NFC", other) != other
    return 0 if same else _packed(other)


OTHER_CASE = torch.tensor([_other_case(point) for point in range(NUM_CASED)])


def varied(text_B11L: Batch, *, strength: float, generator: torch.Generator) -> Batch:
    """Views of strings: neighbours swapped, characters left out or typed twice, another case.

    At strength 1 four of a hundred characters are swapped with the next, as many are left out and typed
    twice; of one string in four the first letter has the other case, of one in eight every letter.

    Guarantees:
        What was UTF-8 is UTF-8, and what had a character has one. A string that grows is cut as a stored one
        is. Each row is independent of the others.
    """
    if strength == 0:
        return text_B11L
    batch, length = len(text_B11L), text_B11L.shape[-1]
    chance = torch.rand(batch, 3 * length + 2, generator=generator, device=generator.device)
    chance = sent(chance, text_B11L.device) / strength
    swap, drop, repeat = (chance[:, place * length : (place + 1) * length] for place in range(3))
    whole = chance[:, 3 * length :]
    text_BM = characters(text_B11L.flatten(1).clamp(0, 255).long())
    first, every = (whole < whole.new_tensor([FIRST, ALL])).unbind(dim=1)
    text_BM = _in_other_case(text_BM, first=first, every=every)
    text_BM = _swapped(text_BM, swap < SWAP)
    counts = 1 - (drop < DROP).long() + (repeat < REPEAT).long()
    text_BM = _repeated(text_BM, counts)
    return as_bytes(text_BM, length).to(text_B11L).view_as(text_B11L)


def characters(text_BL: Bytes) -> Characters:
    """The characters of strings of bytes, `_packed`, without gaps; 0 behind the last."""
    byte, one = _behind(text_BL, 0), text_BL
    size = 1 + (one >= 0xC0).long() + (one >= 0xE0).long() + (one >= 0xF0).long()
    is_next = (one >= 0x80) & (one < 0xC0)
    # Belongs to a first byte one, two or three places before, if all between belong to it.
    inside, belongs = torch.zeros_like(is_next), torch.ones_like(is_next)
    for places in (1, 2, 3):
        belongs = belongs & _before(is_next, places - 1)
        inside = inside | (belongs & (_before(size, places) > places) & ~_before(is_next, places))
    joined = byte << 24
    belongs = torch.ones_like(is_next)
    for places in (1, 2, 3):
        belongs = belongs & _behind(inside, places)
        joined = joined + (_behind(one, places) * belongs << (24 - 8 * places))
    return _close_up(joined, (one > 0) & ~inside)


def as_bytes(text_BM: Characters, length: int) -> Bytes:
    """Strings of ``length`` bytes of characters, as many as find room from the first on."""
    byte_BM4 = torch.stack([(text_BM >> shift) & 0xFF for shift in (24, 16, 8, 0)], dim=2)
    end = (byte_BM4 > 0).sum(dim=2).cumsum(dim=1)
    kept = (byte_BM4 > 0) & (end <= length)[..., None]
    found = _close_up(byte_BM4.flatten(1), kept.flatten(1))
    return functional.pad(found, (0, max(0, length - found.shape[1])))[:, :length]


def _behind(value_BL: Tensor, places: int) -> Tensor:
    """What is so many places behind; zero beyond the end."""
    return functional.pad(value_BL, (0, places))[:, places:]


def _before(value_BL: Tensor, places: int) -> Tensor:
    """What is so many places before; zero before the start."""
    return functional.pad(value_BL, (places, 0))[:, : value_BL.shape[1]]


def _close_up(value_BL: Tensor, kept: Bool[Tensor, "batch _"]) -> Tensor:
    """Values that are kept, each row from its start; 0 behind them."""
    length = value_BL.shape[1]
    place = torch.where(kept, kept.long().cumsum(dim=1) - 1, length)
    return value_BL.new_zeros(len(value_BL), length + 1).scatter(1, place, value_BL)[:, :length]


def _in_other_case(
    text_BM: Characters, *, first: Bool[Tensor, " batch"], every: Bool[Tensor, " batch"]
) -> Characters:
    byte = [(text_BM >> shift) & 0x3F for shift in (24, 16, 8)]
    lead = text_BM >> 24
    point = torch.where(lead < 0x80, lead, (lead & 0x1F) << 6 | byte[1])
    point = torch.where(lead >= 0xE0, (lead & 0x0F) << 12 | byte[1] << 6 | byte[2], point)
    point = torch.where(lead >= 0xF0, 0, point)
    other = OTHER_CASE.to(text_BM.device)[point.clamp(max=NUM_CASED - 1)]
    chosen = every[:, None] ^ (first[:, None] & (torch.arange(text_BM.shape[1], device=first.device) == 0))
    return torch.where(chosen & (other > 0) & (point < NUM_CASED), other, text_BM)


def _swapped(text_BM: Characters, chosen: Bool[Tensor, "batch characters"]) -> Characters:
    """The chosen characters in one another's place with the next, where there is one."""
    chosen = chosen & ~_before(chosen, 1) & (_behind(text_BM, 1) > 0)
    return torch.where(
        chosen, _behind(text_BM, 1), torch.where(_before(chosen, 1), _before(text_BM, 1), text_BM)
    )


def _repeated(text_BM: Characters, counts: Int[Tensor, "batch characters"]) -> Int[Tensor, "batch twice"]:
    """Each character so many times, at most twice; where none would be left, all of them once."""
    none_left = ((counts * (text_BM > 0)).sum(dim=1, keepdim=True) == 0).long()
    counts = torch.maximum(counts, none_left)
    twice = text_BM[..., None].expand(-1, -1, 2).flatten(1)
    kept = torch.stack([counts > 0, counts > 1], dim=2).flatten(1)
    return _close_up(twice, kept & (twice > 0))


def stored_like(texts: list[str], like: Stored) -> Stored:
    """Strings of any kind, also empty ones, as rows of as many bytes, cut at a whole character."""
    stored = np.zeros_like(like)
    for row, text in enumerate(texts):
        kept = cut(text.encode(), like.shape[1])
        stored[row, : len(kept)] = np.frombuffer(kept, np.uint8)
    return stored


def erase_letters(target: Stored, level: float, generator: np.random.Generator) -> Stored:
    """A share of ``level`` of the characters of each string replaced by `GONE`."""

    def erased(text: str) -> str:
        gone = set(generator.permutation(len(text))[: round(level * len(text))].tolist())
        return "".join(GONE if place in gone else one for place, one in enumerate(text))

    return stored_like([erased(text) for text in decode_strings(target)], target)


def shuffle_letters(target: Stored, level: float, generator: np.random.Generator) -> Stored:
    """A share of ``level`` of the characters of each word in one another's place."""

    def shuffled(word: str) -> str:
        places = np.sort(generator.permutation(len(word))[: round(level * len(word))])
        letters = np.array(list(word), dtype=object)
        letters[places] = letters[generator.permutation(places)]
        return "".join(letters)

    texts = [" ".join(map(shuffled, text.split(" "))) for text in decode_strings(target)]
    return stored_like(texts, target)


def truncate(target: Stored, level: float, _: np.random.Generator) -> Stored:
    """The first characters alone, a share of ``1 - level`` of them and at least one."""
    texts = decode_strings(target)
    return stored_like([text[: max(1, round((1.0 - level) * len(text)))] for text in texts], target)
