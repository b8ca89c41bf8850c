"""Run the core of an edgecmd bundle in Python: check it, embed a picture, name the nearest classes.

It needs numpy, onnxruntime and Pillow, and a bundle of `edgecmd export RUN --profiles w8,core`::

    python embed.py BUNDLE                                        # the golden files alone
    python embed.py BUNDLE picture.png [CLASS=example.png ...]    # classes by example, else the trained ones

In Python the bundle's own `infer.py` does more; this shows what a program of your own has to do.
Exit codes: 0 all well; 2 a file cannot be used; 6 a golden value differs.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image

FORMAT = "1"
DTYPES = {"uint8": "<u1", "uint16": "<u2", "float32": "<f4"}
MISSING = "Export with --profiles w8,core, and give the bundle's folder"


class RefusedError(Exception):
    """A file cannot be used, or a golden value differs: a sentence and an exit code."""

    def __init__(self, message: str, *, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def read_record(folder: Path) -> dict[str, Any]:
    """What ``core.json`` says."""
    try:
        record = json.loads((folder / "core.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RefusedError(f"{folder / 'core.json'} cannot be read ({error}). {MISSING}.") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        found = record.get("format") if isinstance(record, dict) else None
        raise RefusedError(
            f"core.json has format {found}; this sample reads {FORMAT}. Take that edgecmd's sample."
        )
    return record


def read_raw(folder: Path, header: Mapping[str, Any]) -> np.ndarray:
    """The numbers of one raw file, of exactly the size that its header says."""
    name, dtype, shape = header["file"], np.dtype(DTYPES[header["dtype"]]), header["shape"]
    if Path(name).name != name or header["byte_order"] != "little" or min(shape) < 1:
        raise ValueError(f"its header of {name}")
    data, needed = (folder / name).read_bytes(), int(np.prod(shape, dtype=object)) * dtype.itemsize
    if len(data) != needed:
        raise RefusedError(f"{name} has {len(data)} bytes; its header needs {needed}. Copy the bundle again.")
    return np.frombuffer(data, dtype).reshape(shape)


def shares(num: int, pixels: int, *, blocks: bool) -> np.ndarray:
    """Row i: how much each of ``pixels`` has in number i of ``num``; whole blocks, or a linear filter."""
    zoom = pixels / num
    gap = np.abs(np.arange(pixels) + 0.5 - (np.arange(num)[:, None] + 0.5) * zoom)
    table = (gap < zoom / 2).astype(float) if blocks else np.maximum(0, 1 - gap / max(zoom, 1))
    return np.asarray(table / table.sum(axis=1, keepdims=True))


def see(pixels_HWC: np.ndarray, numbers: Mapping[str, Any]) -> np.ndarray:
    """The front end `image`: bytes of any size to what the student sees, (channels, side, side)."""
    side, fit, (height, width) = numbers["image_size"], numbers.get("fit", "squeeze"), pixels_HWC.shape[:2]
    if fit == "crop":
        short = min(height, width)
        top, left = (height - short) // 2, (width - short) // 2
        pixels_HWC, height, width = pixels_HWC[top : top + short, left : left + short], short, short
    long = max(height, width)
    rows, columns = (
        max(1, (2 * side * one + long) // (2 * long)) if fit == "pad" else side for one in (height, width)
    )
    blocks = height % rows == 0 and width % columns == 0
    small = np.tensordot(shares(rows, height, blocks=blocks), pixels_HWC.astype(float), (1, 0))
    small = np.tensordot(shares(columns, width, blocks=blocks), small, (1, 1))  # columns, rows, channels
    square = np.full((side, side, small.shape[2]), 255.0)
    top, left = (side - rows) // 2, (side - columns) // 2
    square[top : top + rows, left : left + columns] = np.floor(small.transpose(1, 0, 2) + 0.501)
    scaled = (square / 255 - numbers["offset"]) / numbers["scale"]
    return np.asarray(scaled.transpose(2, 0, 1), dtype=np.float32)


class Student:
    """The core in ONNX Runtime; called with (1, channels, side, side) it gives its outputs by name."""

    def __init__(self, folder: Path, record: Mapping[str, Any]) -> None:
        self.input, self.names = record["input"]["name"], [one["name"] for one in record["outputs"]]
        try:
            self.session = onnxruntime.InferenceSession(str(folder / record["model"]))
        except Exception as error:  # onnxruntime raises a dozen types of its own
            raise RefusedError(f"{record['model']} cannot be loaded: {str(error).splitlines()[0]}") from error

    def __call__(self, scaled: np.ndarray) -> dict[str, np.ndarray]:
        """Outputs by name, each of one input."""
        found = self.session.run(self.names, {self.input: scaled[None]})
        return {name: values[0] for name, values in zip(self.names, found)}


def check(folder: Path, record: Mapping[str, Any], student: Student) -> None:
    """Compare preprocessing and student, apart, with the golden files."""
    allowed, front = record["tolerance"], record["front_end"]
    for case in record["cases"]:
        arrays = {one["name"]: read_raw(folder, one) for one in case["arrays"]}
        rows, known = range(len(arrays["scaled"])), front["name"] == "image"
        seen = [see(arrays["image"][row], front["numbers"]) for row in rows] if known else arrays["scaled"]
        given = [student(one) for one in arrays["scaled"]]
        told = (
            f"differs by {_gap(seen, arrays['scaled']):.3g}" if known else f"({front['name']}) is not checked"
        )
        gaps = [_gap([one[name] for one in given], arrays[name]) for name in student.names]
        print(f"{case['name']}: preprocessing {told}, student by {max(gaps):.3g}")
        if not (_gap(seen, arrays["scaled"]) <= allowed["scaled"] and max(gaps) <= allowed["outputs"]):
            raise RefusedError(
                f"The golden values of {case['name']} differ by more than core.json allows.", exit_code=6
            )


def _gap(found: Sequence[np.ndarray] | np.ndarray, expected: np.ndarray) -> float:
    gap = np.abs(np.stack([*found]) - expected).max()
    return float(gap) if np.isfinite(gap) else float("inf")


def read_picture(path: Path, channels: int) -> np.ndarray:
    """A picture file, (height, width, channels); what is transparent becomes white."""
    try:
        with Image.open(path) as picture:
            if picture.mode[0] in "IF":
                raise ValueError("it has more than 8 bits")
            white, mode = Image.new("RGBA", picture.size, "white"), {1: "L", 3: "RGB"}[channels]
            plain = picture.mode in ("1", "L", "RGB")
            whole = picture if plain else Image.alpha_composite(white, picture.convert("RGBA"))
            return np.asarray(whole.convert(mode)).reshape(picture.height, picture.width, channels)
    except (OSError, ValueError, KeyError, SyntaxError, Image.DecompressionBombError) as error:
        raise RefusedError(f"{path} cannot be read as a picture ({error}).") from error


def nearest(folder: Path, words: Sequence[str], record: Mapping[str, Any], student: Student) -> str:
    """The picture that the first word names, with its nearest classes: of examples, else the trained ones."""
    numbers, names = record["front_end"]["numbers"], student.names
    if record["front_end"]["name"] != "image":
        raise RefusedError(
            f"The front end {record['front_end']['name']} is not in this sample; its steps are in core.json."
        )

    def embed(path: str) -> dict[str, np.ndarray]:
        return student(see(read_picture(Path(path), numbers["channels"]), numbers))

    found, examples = embed(words[0]), dict[str, list[np.ndarray]]()
    for word in words[1:]:
        name, equals, path = word.partition("=")
        if not (name and equals):
            raise RefusedError(f"{word} is no CLASS=example.png.")
        examples.setdefault(name, []).append(embed(path)["embedding"].astype(float))
    if examples:
        means = {name: np.mean(rows, axis=0) for name, rows in examples.items()}
        scores = {name: found["embedding"] @ mean / np.linalg.norm(mean) for name, mean in means.items()}
    elif "scores" in names:
        labels = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
        scores = dict(zip(labels, found["scores"], strict=True))
    else:
        return f"{words[0]}: first values " + " ".join(f"{one:+.4f}" for one in found["embedding"][:4])
    best = sorted(scores.items(), key=lambda item: -item[1])[:3]
    return f"{words[0]}: " + ", ".join(f"{name} {score:.4f}" for name, score in best)


def main(words: Sequence[str]) -> int:
    """Check the bundle that the first word names, then answer for a picture."""
    try:
        if not words:
            raise RefusedError("Give a bundle: embed.py BUNDLE [picture [CLASS=example ...]]")
        folder = Path(words[0])
        record = read_record(folder)
        student = Student(folder, record)
        check(folder, record, student)
        if words[1:]:
            print(nearest(folder, words[1:], record, student))
        return 0
    except RefusedError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except (KeyError, TypeError, ValueError, AttributeError, OSError, ArithmeticError) as error:
        reason = str(error) or type(error).__name__
        print(
            f"error: {words[0]} is no bundle that this sample reads ({reason}). {MISSING}.", file=sys.stderr
        )
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
