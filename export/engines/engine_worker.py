"""Runs one file in one engine; started by `export.engines.engine_check` as a program of its own.

It imports nothing but the standard library, numpy and the engine that is asked for, so that the engine may be
of another time, and may crash.

Argument: one JSON object with ``engine`` (a key of `LOADERS`), ``model`` (path), ``packages`` (a folder that
is looked in first, or empty), ``input`` (its name), ``outputs`` (their names), ``cases`` (for each ``file``,
``dtype`` and ``shape`` of raw little-endian numbers) and ``folder``, where it writes ``result.json``: the
engine's version, and for each case the outputs by name, or the reason why there are none.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__" and json.loads(sys.argv[1])["packages"]:
    # An engine of another time wants the numpy of its time.
    sys.path.insert(0, json.loads(sys.argv[1])["packages"])

import numpy as np

Job = dict[str, Any]
# Inputs to outputs, in the order of the job's.
Run = Callable[[np.ndarray], list[Any]]


def load_onnxruntime(job: Job) -> tuple[str, Run]:
    """ONNX Runtime, by path and with one thread."""
    # Its telemetry, which version 1.32 has, is forbidden before it is imported.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(job["model"], options, providers=["CPUExecutionProvider"])
    return onnxruntime.__version__, lambda inputs: session.run(job["outputs"], {job["input"]: inputs})


def load_openvino(job: Job) -> tuple[str, Run]:
    """OpenVINO in float32; by itself it would choose bfloat16 on some processors."""
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = core.compile_model(core.read_model(job["model"]), "CPU", settings)

    def run(inputs: np.ndarray) -> list[Any]:
        found = compiled([inputs])
        return [np.array(found[name]) for name in job["outputs"]]

    return openvino.__version__.partition("-")[0], run


def load_mnn(job: Job) -> tuple[str, Run]:
    """MNN, which reads a format of its own.

    Its converter is called as its own program calls it, but without the module around it: that one installs
    packages and asks a server when it is imported.
    """
    import _tools
    import MNN
    from MNN import expr, nn

    made = str(Path(job["folder"]) / "student.mnn")
    _tools.mnnconvert(
        ["mnnconvert", "-f", "ONNX", "--modelFile", job["model"], "--MNNModel", made, "--bizCode", "x"]
    )
    net = nn.load_module_from_file(made, [job["input"]], job["outputs"])
    types = {"float32": expr.float, "uint8": expr.uint8}

    def run(inputs: np.ndarray) -> list[Any]:
        given = expr.const(inputs, list(inputs.shape), expr.NCHW, types[inputs.dtype.name])
        found = net.forward([given])
        return [np.array(one.read()).reshape(one.shape) for one in found]

    return MNN.version(), run


def load_tract(job: Job) -> tuple[str, Run]:
    """The engine tract."""
    import tract

    runnable = tract.onnx().load(job["model"]).into_model().into_runnable()

    def run(inputs: np.ndarray) -> list[Any]:
        # It tells outputs by their place alone; those of the file stand in the order of the job's.
        return [one.to_numpy() for one in runnable.run([inputs])]

    return tract.version(), run


def load_litert(job: Job) -> tuple[str, Run]:
    """LiteRT, on a file that another program made of the core; converters like channels last."""
    from ai_edge_litert import interpreter

    engine = interpreter.Interpreter(model_path=job["model"], num_threads=1)
    engine.allocate_tensors()
    (port,) = engine.get_input_details()

    names = [name for one in engine.get_signature_list().values() for name in one["outputs"]]
    in_order = all(name == f"output_{place}" for place, name in enumerate(names))

    def run(inputs: np.ndarray) -> list[Any]:
        last = inputs.shape != tuple(port["shape"])
        engine.set_tensor(port["index"], inputs.transpose(0, 2, 3, 1).copy() if last else inputs)
        engine.invoke()
        found = [(one["name"], engine.get_tensor(one["index"])) for one in engine.get_output_details()]
        if names and in_order:
            # litert-torch numbers them.
            found.sort(key=lambda one: one[0])
        else:
            # Of another converter their names are lost; an embedding has the length 1.
            found.sort(key=lambda one: abs(float(np.linalg.norm(one[1])) - 1.0))
        return [values for _, values in found]

    from importlib.metadata import version

    return version("ai-edge-litert"), run


def load_executorch(job: Job) -> tuple[str, Run]:
    """ExecuTorch, whose programs take and give torch's tensors."""
    import torch
    from executorch.runtime import Runtime

    torch.set_num_threads(1)
    method = Runtime.get().load_program(job["model"]).load_method("forward")

    def run(inputs: np.ndarray) -> list[Any]:
        return [one.detach().numpy().copy() for one in method.execute([torch.from_numpy(inputs)])]

    from importlib.metadata import version

    return version("executorch"), run


LOADERS = {
    "onnxruntime": load_onnxruntime,
    "openvino": load_openvino,
    "mnn": load_mnn,
    "tract": load_tract,
    "litert": load_litert,
    "executorch": load_executorch,
}


def main(argument: str) -> int:
    """Load the file, run each case, write what came out."""
    job = json.loads(argument)
    folder = Path(job["folder"])
    told: list[dict[str, Any]] = []
    version, run = LOADERS[job["engine"]](job)
    for case in job["cases"]:
        inputs = np.fromfile(case["file"], dtype=np.dtype(case["dtype"]).newbyteorder("<"))
        try:
            found = run(inputs.astype(case["dtype"]).reshape(case["shape"]))
        except Exception as error:  # each engine has types of its own
            told.append({"reason": f"{type(error).__name__}: {error}"})
            continue
        told.append(
            {"outputs": {name: one.tolist() for name, one in zip(job["outputs"], found, strict=False)}}
        )
    (folder / "result.json").write_text(json.dumps({"version": version, "cases": told}), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
