"""Converts one student into one format; started by `export.formats.conversion` as a program of its own.

It imports nothing but the standard library, numpy, torch and the converter that is asked for, so that the
converter may live in an environment of its own, and may crash.

Argument: one JSON object with ``format`` (a key of `CONVERTERS`), ``program`` (the student as torch exported
it), ``input`` and ``outputs`` (their names), ``out`` (the file to write) and ``folder``, where it writes
``result.json``: versions by package, and what a reader of the file finds in it.
"""

import json
import sys
import uuid
import warnings
import zipfile
from collections.abc import Mapping
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import nn

Job = dict[str, Any]
# Below this, numbers are constants that a converter may write into an operator.
LEAST_WEIGHT = 16
PACKAGE = "com.apple.CoreML"
MODEL_FILE, WEIGHT_FILE = f"Data/{PACKAGE}/model.mlmodel", f"Data/{PACKAGE}/weights/weight.bin"
# A zip file begins no earlier; each entry has this date, so that equal students give equal bytes.
FIRST_DAY = (1980, 1, 1, 0, 0, 0)
COREML_FLOAT32 = 65568


class _Callable(nn.Module):
    """An exported program as a module that says of itself that it does not train."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        super().__init__()
        self.program = program.module()
        self.training = False

    def forward(self, scaled: torch.Tensor) -> Any:  # noqa: ANN401 - a tuple of as many as it has outputs
        """Outputs of the program."""
        return self.program(scaled)


def litert(program: torch.export.ExportedProgram, job: Job) -> tuple[bytes, dict[str, Any]]:
    """A .tflite, by litert-torch."""
    import litert_torch

    (example,) = program.example_inputs[0]
    edge = litert_torch.convert(_Callable(program), (example,))
    made = Path(job["folder"]) / "made.tflite"
    edge.export(str(made))
    return made.read_bytes(), {}


def executorch(program: torch.export.ExportedProgram, _: Job) -> tuple[bytes, dict[str, Any]]:
    """A .pte, whose convolutions and products XNNPACK computes."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    made = lowered.to_executorch()
    calls = [node for node in made.exported_program().graph.nodes if node.op == "call_function"]
    names = [str(node.target) for node in calls]
    own = sorted({name for name in names if name.startswith("aten.")})
    return bytes(made.buffer), {
        "delegates": names.count("executorch_call_delegate"),
        "outside_of_xnnpack": own,
    }


def coreml(program: torch.export.ExportedProgram, job: Job) -> tuple[bytes, dict[str, Any]]:
    """An ML Program in float32 as a zipped .mlpackage, read again: ports, operators, weights.

    Raises:
        ValueError: A port is not what it should be, or a layer's weight is not in the file bit for bit.
    """
    import coremltools

    model = coremltools.convert(
        program.run_decompositions({}),
        convert_to="mlprogram",
        minimum_deployment_target=coremltools.target.iOS15,
        compute_precision=coremltools.precision.FLOAT32,
        outputs=[coremltools.TensorType(name=name) for name in job["outputs"]],
        skip_model_load=True,
    )
    spec = model.get_spec()
    # The day on which it was made would make each file another.
    spec.description.metadata.userDefined.pop("com.github.apple.coremltools.conversion_date", None)
    weights = (Path(model.weights_dir) / "weight.bin").read_bytes()
    data = package({MODEL_FILE: spec.SerializeToString(deterministic=True), WEIGHT_FILE: weights})
    return data, read_coreml(data, program, job)


def package(files: Mapping[str, bytes]) -> bytes:
    """A zipped .mlpackage of a model and its weights, the same bytes for the same files."""
    items = {
        str(uuid.uuid5(uuid.NAMESPACE_URL, path)): {
            "author": PACKAGE,
            "description": "CoreML Model Specification"
            if name == "model.mlmodel"
            else "CoreML Model Weights",
            "name": name,
            "path": f"{PACKAGE}/{name}",
        }
        for path, name in ((MODEL_FILE, "model.mlmodel"), (WEIGHT_FILE, "weights"))
    }
    manifest = {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": items,
        "rootModelIdentifier": str(uuid.uuid5(uuid.NAMESPACE_URL, MODEL_FILE)),
    }
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in {"Manifest.json": json.dumps(manifest, indent=4).encode(), **files}.items():
            archive.writestr(zipfile.ZipInfo(f"student.core.mlpackage/{name}", date_time=FIRST_DAY), data)
    return buffer.getvalue()


def read_coreml(data: bytes, program: torch.export.ExportedProgram, job: Job) -> dict[str, Any]:
    """What stands in a zipped .mlpackage.

    Raises:
        ValueError: A port is not what it should be, or a layer's weight is not in the file bit for bit.
    """
    from coremltools.proto import Model_pb2

    with zipfile.ZipFile(BytesIO(data)) as archive:
        spec = Model_pb2.Model.FromString(archive.read(f"student.core.mlpackage/{MODEL_FILE}"))
        weights = archive.read(f"student.core.mlpackage/{WEIGHT_FILE}")
    ports = [
        {
            "name": one.name,
            "shape": [*one.type.multiArrayType.shape],
            "float32": one.type.multiArrayType.dataType == COREML_FLOAT32,
        }
        for one in (*spec.description.input, *spec.description.output)
    ]
    wanted = [{**one, "float32": True} for one in job["ports"]]
    if ports != wanted:
        raise ValueError(f"the file has the ports {ports}; allowed are {wanted}")
    tensors = [*program.state_dict.values(), *program.constants.values()]
    large = [one.detach().contiguous().numpy() for one in tensors if one.numel() >= LEAST_WEIGHT]
    missing = [one.shape for one in large if one.astype("<f4").tobytes() not in weights]
    # Gains and biases may have been joined with their neighbours; weights of layers may not.
    lost = [shape for shape in missing if len(shape) > 1]
    if lost:
        raise ValueError(f"{len(lost)} of {len(large)} weights are not in the file, such as {lost[0]}")
    blocks = [
        block
        for function in spec.mlProgram.functions.values()
        for block in function.block_specializations.values()
    ]
    operators = sorted({one.type for block in blocks for one in block.operations} - {"const"})
    return {
        "operators": operators,
        "weights": len(large) - len(missing),
        "of": len(large),
        "specification": spec.specificationVersion,
    }


CONVERTERS = {"litert": litert, "executorch": executorch, "coreml": coreml}
PACKAGES = {"litert": "litert-torch", "executorch": "executorch", "coreml": "coremltools"}


def main(argument: str) -> int:
    """Convert, and tell with which versions."""
    warnings.simplefilter("ignore")
    job = json.loads(argument)
    torch.set_num_threads(1)
    data, facts = CONVERTERS[job["format"]](torch.export.load(job["program"]), job)
    Path(job["out"]).write_bytes(data)
    versions = {name: version(name) for name in (PACKAGES[job["format"]], "torch")}
    told = {"versions": versions, "facts": facts}
    (Path(job["folder"]) / "result.json").write_text(json.dumps(told), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
