"""Strings of UTF-8 bytes of any length, as a part of the exported graph; what a byte means is the student's.

Shapes: B batch, N inputs, L bytes.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from edgecmd.data.modalities.utf8 import encode_strings
from export.graph.spec import ExportSpec

# One byte a letter, two, three and four; right to left; joined emoji; a letter that NFC composes.
STRINGS = ("dog", "Ku\u0308he", "\u0441\u043e\u0431\u0430\u043a\u0430", "\u72ac \U0001f469\u200d\U0001f4bb")
OTHERS = ("a black cat on a mat", "\u05db\u05dc\u05d1")


class TextFrontEnd(nn.Module):
    """Bytes as their values, float32, as a line of one pixel height; 0 is padding.

    Args:
        spec: Not used: any length will do.
    """

    def __init__(self, spec: ExportSpec) -> None:
        super().__init__()
        self.num_bytes = spec.image_size

    def forward(self, text_BL: UInt8[Tensor, "batch bytes"]) -> Float[Tensor, "batch 1 1 bytes"]:
        """Change the type, and add the axes that every student's input has."""
        return text_BL.to(torch.float32)[:, None, None]


def text_tracing(spec: ExportSpec) -> tuple[Tensor, dict[int, Any]]:
    """Padding for tracing: two strings, of a length that is a multiple of nothing, and the free axes."""
    return torch.zeros((2, 1, 1, spec.image_size + 37)), {0: "batch", 3: "bytes"}


def text_metadata(spec: ExportSpec) -> dict[str, object]:
    """What a device does to make bytes of a string; the graph takes any number of them."""
    return {
        "bytes": spec.image_size,
        "cut": "whole characters",
        "dtype": "uint8",
        "encoding": "utf-8",
        "input": "text",
        "layout": "NL",
        "normalisation": "NFC",
        "padding": 0,
        "size": "any",
    }


def text_golden(spec: ExportSpec) -> tuple[np.ndarray, np.ndarray]:
    """Strings of several scripts, uint8 (N, L), and some of another length."""
    return encode_strings(STRINGS, spec.image_size), encode_strings(OTHERS, _longer(spec.image_size))


def text_variants(text_NL: np.ndarray, _: ExportSpec) -> dict[str, np.ndarray]:
    """``text_NL`` at its own length, with more padding, and cut."""
    length = text_NL.shape[1]
    return {str(length): text_NL, **uneven_text(text_NL)}


def uneven_text(text_NL: np.ndarray) -> dict[str, np.ndarray]:
    """The same with more padding, and cut wherever that is: a graph takes any bytes."""
    length = text_NL.shape[1]
    short = max(1, length - length // 4 - 1)
    longer = np.pad(text_NL, ((0, 0), (0, _longer(length) - length)))
    return {str(_longer(length)): longer, str(short): np.ascontiguousarray(text_NL[:, :short])}


def _longer(length: int) -> int:
    return length + length // 2 + 1


def text_takes(report: Mapping[str, Any]) -> str:
    """What the card says of strings, out of ``report.json``."""
    return (
        "strings as UTF-8 bytes after NFC, uint8 (batch, bytes) with 0 behind the last, of any number"
        f" (trained on at most {report['image_size']}; `infer.py` cuts longer ones at a whole character)"
    )


def text_steps(spec: ExportSpec) -> list[str]:
    """What a string goes through before the student, so that it can be written in another language."""
    num = spec.image_size
    return [
        "Take a string of Unicode text without control characters or ends of lines. Bring it into"
        " Normalisation Form C and remove white space at both ends.",
        f"Encode it as UTF-8. If it has more than {num} bytes, keep as many whole characters (code points) as"
        " fit, and remove white space at the end.",
        f"Put zeros behind it up to {num} bytes.",
        f"Give the core (1, 1, 1, {num}): the value of each byte, 0 to 255, as float32.",
    ]
