"""Speed of infer.py against a loop by hand: python -m tests.export.throughput BUNDLE FOLDER [options].

In turns in one process. The loop opens each file with Pillow, makes an array, runs the session and prints
the class, one at a time. Opening the model is in neither; listing the folder is in both.
"""

import contextlib
import io
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

from export.device.infer import _answer_all, _arguments, _prepare

ROUNDS = 10


def by_hand(bundle: Path, folder: Path, *, mode: str) -> Callable[[], None]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(bundle / "student.onnx"), options)
    names = [one.name for one in session.get_outputs()]

    def loop() -> None:
        for path in sorted(folder.iterdir()):
            image = np.asarray(Image.open(path).convert(mode))
            given = image[None, ..., None] if mode == "L" else image[None]
            found = session.run(names, {"image": given})
            print(path, found[-1][0].argmax(), found[-1][0].max(), flush=True)  # noqa: T201

    return loop


def by_tool(words: list[str]) -> Callable[[], None]:
    arguments = _arguments(words, prog="infer.py")
    student = _prepare(arguments)

    def loop() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert _answer_all(arguments, student) == 0

    return loop


def once(loop: Callable[[], None]) -> tuple[float, float]:
    """CPU and wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        loop()
    return time.process_time() - cpu, time.perf_counter() - wall


def main() -> None:
    bundle, folder = Path(sys.argv[1]), Path(sys.argv[2])
    tool = by_tool(sys.argv[1:])
    channels = onnxruntime.InferenceSession(str(bundle / "student.onnx")).get_inputs()[0].shape[3]
    loops = [by_hand(bundle, folder, mode="L" if channels == 1 else "RGB"), tool]
    times = np.zeros((ROUNDS, 2, 2))
    for row in range(ROUNDS):
        for place in (0, 1) if row % 2 else (1, 0):
            times[row, place] = once(loops[place])
    num = sum(1 for _ in folder.iterdir())
    for clock, name in enumerate(("CPU", "wall")):
        ratio = times[:, 0, clock] / times[:, 1, clock]
        low, middle, high = np.percentile(ratio, [25, 50, 75])
        hand, own = 1e3 * np.median(times[:, :, clock], axis=0) / num
        print(  # noqa: T201
            f"{name}: ms a file {hand:.3f} by hand, {own:.3f} by infer.py; throughput {middle:.2f} times the"
            f" loop's (quartiles {low:.2f} to {high:.2f}, {ROUNDS} rounds of {num} files)"
        )


if __name__ == "__main__":
    main()
