"""Call the student of an edgecmd bundle in Python: golden inputs in, and how far its outputs are from theirs.

It needs numpy, onnxruntime and a bundle of `edgecmd export RUN --profiles w8,core`::

    python brief.py BUNDLE

What makes the input of a picture is in `embed.py`, a folder above, as are the checks of a bundle.
Exit codes: 0 all well; 2 a file cannot be used; 6 an output differs by more than core.json allows.
"""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime


def read_raw(folder: Path, header: Mapping[str, Any]) -> np.ndarray:
    """The numbers of a raw file: little-endian float32, rows first."""
    data, needed = (folder / header["file"]).read_bytes(), 4 * math.prod(header["shape"])
    if len(data) != needed:
        raise ValueError(f"{header['file']} has {len(data)} bytes; core.json says {needed}")
    return np.frombuffer(data, "<f4").reshape(header["shape"])


def run(folder: Path) -> int:
    """The inputs of the first case, one by one since the core takes one; returns the exit code."""
    record = json.loads((folder / "core.json").read_text(encoding="utf-8"))
    if record["format"] != "1":
        raise ValueError(f"core.json has format {record['format']}; this sample reads 1")
    headers = {one["name"]: one for one in record["cases"][0]["arrays"]}
    names = [one["name"] for one in record["outputs"]]
    scaled, *expected = (read_raw(folder, headers[name]) for name in ("scaled", *names))

    session = onnxruntime.InferenceSession(folder / record["model"])
    rows = [session.run(names, {"scaled": one[None]}) for one in scaled]
    found = [np.concatenate(one) for one in zip(*rows, strict=True)]

    gap = np.max([np.abs(one - golden).max() for one, golden in zip(found, expected, strict=True)])
    allowed = record["tolerance"]["outputs"]
    print(f"differs by {gap:.3g}, allowed {allowed:.3g}")
    outputs = {name: one[0] for name, one in zip(names, found, strict=True)}  # of the first input
    if "scores" in outputs:
        labels, best = json.loads((folder / "labels.json").read_bytes()), int(np.argmax(outputs["scores"]))
        print(f"nearest class {labels[best]} {outputs['scores'][best]:.4f}")
    else:
        print("first values " + " ".join(f"{one:+.4f}" for one in outputs["embedding"][:4]))
    return 0 if gap <= allowed else 6


def main(words: Sequence[str]) -> int:
    """Run the bundle that the first word names; say in one sentence why not."""
    try:
        return run(Path(words[0]))
    except Exception as error:  # onnxruntime raises a dozen types of its own
        reason = (str(error) or type(error).__name__).splitlines()[0]
        print(f"error: this is no bundle that brief.py reads ({reason}).", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
