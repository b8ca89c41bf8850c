"""Strings of bytes as features: convolutions along the string, or a table of hashed n-grams.

What is behind the last byte counts for nothing in either: no number hangs on how much padding follows.

Shapes: B batch, C channels, L bytes, T bytes with a space around them, P places, W n-grams, E numbers of a
byte or of an n-gram.
"""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from edgecmd.models.base import Student, refuse_channels
from edgecmd.models.trunks.convolutions import FAMILIES, RESIDUAL_SCALE

NUM_BYTES = 256
SPACE = ord(" ")
# Lengths of n-grams in bytes, and what the bytes before are multiplied by in the hash of one: an odd prime
# with which all numbers stay below 2^31 for tables of up to 65,536 rows.
SHORTEST, LONGEST, BASE = 2, 5, 31_337


class TextStudent(Student):
    """Encoder of strings: bytes, 0 behind the last, to an embedding that does not depend on how many zeros.

    Args:
        trunk: Makes what comes before the projector, a `ByteTrunk` or an `NgramTrunk`.
        in_channels: As in `Student`; 1.
        embedding_dim: As in `Student`.
    """

    largest_input = NUM_BYTES - 1.0

    def __init__(
        self, *, trunk: "Callable[[], ByteTrunk | NgramTrunk]", in_channels: int, embedding_dim: int
    ) -> None:
        super().__init__(in_channels=in_channels, embedding_dim=embedding_dim)
        refuse_channels(in_channels, what="strings")
        self.trunk = trunk()
        self.projector = nn.Linear(self.trunk.num_features, embedding_dim)

    def forward(self, text: Float[Tensor, "batch 1 1 bytes"]) -> Float[Tensor, "batch dim"]:
        """Embed a batch of inputs, see `edgecmd.data.modalities.table.target_input`."""
        embedding: Tensor = self.projector(self.trunk(text))
        return embedding


class ByteTrunk(nn.Module):
    """An embedding of each byte, convolutions along the string, pooling.

    The first convolution is wide, and what it finds is pooled at once beside what the others make of it: most
    of what a string says is in the few letters that it contains.

    What is behind the last byte is zero after each layer, as beyond the ends of a convolution's input. The
    convolutions are those of images, on maps of height 1: whatever folds, exports or clips the gradients of
    those does so here.

    Args:
        width_of_byte: E.
        widths: Channels of each stage, C1 and C2; from the first to the second the length is halved.
    """

    def __init__(self, *, width_of_byte: int, widths: tuple[int, int]) -> None:
        super().__init__()
        first, second = widths
        wide, narrow = (partial(FAMILIES["ws"], size=(1, size)) for size in (5, 3))
        self.embedding = nn.Embedding(NUM_BYTES, width_of_byte)
        self.enter = wide(width_of_byte, first)
        self.shorten = narrow(first, second, stride=2)
        self.second = narrow(second, second)
        self.num_features = 2 * (first + second)

    def forward(self, text_B11L: Float[Tensor, "batch 1 1 bytes"]) -> Float[Tensor, "batch features"]:
        """Mean and maximum over the string of both stages, (B, 2 (C1 + C2)); zero for an empty one."""
        index = _bytes_of(text_B11L.flatten(1))
        real = (index > 0).to(text_B11L)[:, None, None]
        map_BE1L = self.embedding(index).transpose(1, 2)[:, :, None] * real
        letters = self.enter(map_BE1L) * real
        half = real[..., ::2]
        map_BC1L = self.shorten(letters) * half
        map_BC1L = map_BC1L + RESIDUAL_SCALE * self.second(map_BC1L) * half
        return torch.cat([*_mean_and_max(letters, real), *_mean_and_max(map_BC1L, half)], dim=1)


class NgramTrunk(nn.Module):
    """The sum of what a table says of each run of two to five bytes, over the root of how many there are.

    A run's row of the table is its hash (Weinberger et al. 2009, arXiv 0902.2206), as in fastText's subwords
    (Bojanowski et al. 2017, arXiv 1607.04606): nothing is learnt about which runs there are, and several may
    share a row. A space stands before and behind the string, so a run knows where words begin and end; the
    letters A to Z count as a to z.

    Args:
        num_rows: Rows of the table; a prime spreads the runs best, at most 65,536.
        width: E.
    """

    def __init__(self, *, num_rows: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(num_rows, width)
        self.num_features = width

    def forward(self, text_B11L: Float[Tensor, "batch 1 1 bytes"]) -> Float[Tensor, "batch features"]:
        """Sum over the string's runs, scaled, (B, E); zero for an empty one."""
        row_BW, is_run_BW = hashed_ngrams(text_B11L, num_rows=self.table.num_embeddings)
        real = is_run_BW.to(text_B11L)[..., None]
        found_BE = (self.table(row_BW) * real).sum(dim=1)
        scaled: Tensor = found_BE * real.sum(dim=1).clamp(min=1.0).rsqrt()
        return scaled


def hashed_ngrams(
    text_B11L: Float[Tensor, "batch 1 1 bytes"], *, num_rows: int
) -> tuple[Int[Tensor, "batch ngrams"], Bool[Tensor, "batch ngrams"]]:
    """Rows of a table for the runs of `SHORTEST` to `LONGEST` bytes of strings with a space around them.

    Args:
        text_B11L: Bytes as numbers, 0 is padding.
        num_rows: Of the table.

    Returns:
        For each place and length a row, and whether there is a run: none reaches into the padding or has a
        space anywhere but at its ends, and an empty string has none.
    """
    ahead = functional.pad(text_B11L.flatten(1), (1, 0), value=SPACE)
    byte_BT = _bytes_of(functional.pad(ahead, (0, LONGEST)))
    byte_BT = torch.where((byte_BT >= ord("A")) & (byte_BT <= ord("Z")), byte_BT + SPACE, byte_BT)
    # The place behind the last byte.
    is_end = (byte_BT[:, 1:] == 0) & (byte_BT[:, :-1] > 0)
    byte_BT = torch.cat([byte_BT[:, :1], torch.where(is_end, SPACE, byte_BT[:, 1:])], dim=1)
    num = text_B11L.shape[-1] + 1
    hash_BP = byte_BT[:, :num]
    is_run_BP = hash_BP > 0
    rows, there = [], []
    for length in range(SHORTEST, LONGEST + 1):
        before, last = (byte_BT[:, end : end + num] for end in (length - 2, length - 1))
        within = (before != SPACE) if length > SHORTEST else (before != SPACE) | (last != SPACE)
        hash_BP = (hash_BP * BASE + last) % num_rows
        is_run_BP = is_run_BP & (last > 0) & within
        rows.append(hash_BP)
        there.append(is_run_BP)
    return torch.cat(rows, dim=1), torch.cat(there, dim=1)


def _bytes_of(byte_BL: Tensor) -> Int[Tensor, "batch bytes"]:
    """Of numbers that are no bytes, as no reader gives them, those below one and NaN are padding."""
    return torch.where(byte_BL >= 1, byte_BL.clamp(max=NUM_BYTES - 1), 0).long()


def _mean_and_max(map_BC1L: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Over what is ``real`` of maps that are not below zero and zero elsewhere, (B, C) each."""
    mean = map_BC1L.sum(dim=(2, 3)) / real.sum(dim=(2, 3)).clamp(min=1.0)
    return mean, map_BC1L.amax(dim=(2, 3))
