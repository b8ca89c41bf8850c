"""Runs one model under limits; started by `export.trust.sandbox` as a program of its own.

It imports nothing but the standard library, numpy and onnxruntime, and those only after its limits hold.

Arguments: one JSON object with ``model`` and ``inputs`` and ``outputs`` (paths), ``names`` of the outputs,
``memory_bytes``, ``cpu_s`` and ``file_bytes``. It writes ``outputs`` (.npz: ``<index of the input>.<name>``).
Of the inputs in ``tried`` is kept whether each output is finite; a file of that name tells that it was begun.
Exit codes: 0 done; 10 the model cannot be loaded or run; 11 memory. The reason is on standard error.
"""

import json
import resource
import sys
from typing import Any


def main(argument: str) -> int:
    """Set the limits, load the model by its path, run it on each input."""
    job = json.loads(argument)
    for kind, value in (
        (resource.RLIMIT_AS, job["memory_bytes"]),
        (resource.RLIMIT_CPU, job["cpu_s"]),
        (resource.RLIMIT_FSIZE, job["file_bytes"]),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (value, value))
    try:
        run(job)
    except MemoryError as error:
        sys.stderr.write(f"memory: {error}")
        return 11
    except Exception as error:  # onnxruntime has a dozen types of its own
        text = " ".join(str(error).split())
        out_of_memory = "bad_alloc" in text or "Failed to allocate memory" in text
        sys.stderr.write(
            f"{type(error).__name__}: {text}"[:2000].encode("ascii", "backslashreplace").decode()
        )
        return 11 if out_of_memory else 10
    return 0


def run(job: dict[str, Any]) -> None:
    """Load by path, never from bytes: those would look for data outside the file in the current folder."""
    import os

    # Its telemetry, which version 1.32 has, is forbidden before it is imported.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(job["model"], options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    arrays = {}
    with np.load(job["inputs"], allow_pickle=False) as inputs:
        for key in inputs.files:
            names = list(job["names"])
            if key in job["tried"]:
                with open(job["begun"] + key, "x"):  # noqa: PTH123 - pathlib is not imported under these limits
                    pass
            outputs = session.run(names, {name: inputs[key]})
            if key in job["tried"]:
                outputs = [np.isfinite(value).all() for value in outputs]
            arrays.update({f"{key}.{one}": value for one, value in zip(names, outputs)})
    np.savez(job["outputs"], **arrays)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
