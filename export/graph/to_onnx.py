"""From `Deployable` to the bytes of an ONNX file that reveal nothing about the machine they were made on."""

import ast
import contextlib
import io
import json
import logging
import re
import warnings
from collections.abc import Container, Iterator, Sequence
from typing import no_type_check

import onnx
import torch
from onnxscript import FLOAT
from onnxscript import opset18 as opset

from edgecmd.core.errors import ExportError, choose
from edgecmd.core.text import printable
from export.documents.requirements import OPSET, PROPERTY, lowest_ir_version, requirements
from export.graph.deployable import Behind, Deployable
from export.graph.front_graph import SCALED, FrontGraph, FrontSettings, front_graph, put_before
from export.graph.frontends import FRONT_ENDS
from export.graph.spec import FORMAT_VERSION, ExportSpec

# What the exporter colours its texts with.
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
MOST_TEXT = 300
SCOPES = "pkg.torch.onnx.name_scopes"


def to_onnx(deployable: Deployable) -> bytes:
    """Export; batch size and the size of the input stay free.

    Args:
        deployable: In evaluation mode.

    Returns:
        The file: input ``image``, outputs ``embedding`` and, with a head, ``scores``. The name of each node
        begins with the module it comes from: ``front_end``, ``student`` and its layers, or nothing.

    Guarantees:
        Equal weights and settings give equal bytes, in any process and folder, with the same torch and
        onnxscript. The bytes hold no path and no source line.

    Raises:
        ExportError: A module is in training mode, or the exporter cannot do what was asked.
    """
    refuse_training(deployable)
    model = _trace(deployable)
    check_form(model)
    name_values(model)
    name_nodes(model)
    FRONT_ENDS[deployable.spec.front_end].rewrite(model)
    put_before(model, front_of(deployable.spec))
    strip(model)
    model.ir_version = lowest_ir_version(model)
    for key, value in metadata(deployable.spec).items():
        model.metadata_props.add(key=key, value=value)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"The exporter wrote an invalid file: {error}") from error
    return bytes(model.SerializeToString(deterministic=True))


def metadata(spec: ExportSpec) -> dict[str, str]:
    """Properties of the exported file, which a device reads; keys in sorted order.

    ``edgecmd.preprocess`` says what the graph does with the input: a device has nothing to do.
    """
    preprocess = choose("front_end", spec.front_end, FRONT_ENDS).metadata(spec)
    return {
        "edgecmd.architecture": spec.architecture,
        "edgecmd.channels": str(spec.channels),
        "edgecmd.classes": json.dumps([] if spec.head is None else list(spec.head.names)),
        "edgecmd.embedding_dim": str(spec.embedding_dim),
        "edgecmd.format": FORMAT_VERSION,
        "edgecmd.front_end": spec.front_end,
        "edgecmd.image_size": str(spec.image_size),
        "edgecmd.license": spec.license,
        "edgecmd.preprocess": json.dumps(preprocess, sort_keys=True),
        "edgecmd.profile": "fp32",
        PROPERTY: json.dumps(requirements(OPSET), sort_keys=True),
    }


def refuse_training(module: torch.nn.Module) -> None:
    """Refuse a module that is, or contains one, in training mode: it would export silently wrong.

    Raises:
        ExportError: The message names the first such module.
    """
    names = [name or "(the whole)" for name, one in module.named_modules() if one.training]
    if names:
        raise ExportError(f"Module {names[0]!r} is in training mode. Call .eval() before exporting.")


def front_of(spec: ExportSpec) -> FrontGraph:
    """Front end of a file, as nodes."""
    settings = FrontSettings(
        side=spec.image_size,
        channels=spec.raw_channels,
        fit=spec.fit,
        offset=spec.offset,
        scale=spec.scale,
    )
    return front_graph(spec.front_end, settings, mask="mask" in spec.output_names)


def _trace(deployable: Deployable) -> onnx.ModelProto:
    spec = deployable.spec
    example, axes = FRONT_ENDS[spec.front_end].tracing(spec)
    # Of a student that it cannot export, torch prints the whole graph with paths of this machine.
    printed = io.StringIO()
    try:
        with torch.no_grad(), _quiet(), contextlib.redirect_stderr(printed):
            program = torch.onnx.export(
                Behind(deployable.student, spec).eval(),
                (example,),
                dynamo=True,
                opset_version=OPSET,
                optimize=True,
                verbose=False,
                external_data=False,
                input_names=[SCALED],
                output_names=list(spec.output_names),
                dynamic_shapes=(axes,),
                custom_translation_table={torch.ops.aten.adaptive_avg_pool2d.default: _mean_of_places},
            )
    except torch.onnx.OnnxExporterError as error:
        raise ExportError(
            f"torch cannot export architecture={spec.architecture!r}: {_reason(error)}"
        ) from error
    assert program is not None
    return program.model_proto


# Torch reads the types of the file out of these annotations; what it hands over are stand-ins.
@no_type_check
def _mean_of_places(pooled: FLOAT, output_size: Sequence[int]) -> FLOAT:
    """``AdaptiveAvgPool2d(1)`` as a mean; torch itself would gather rows, which the gate refuses."""
    if set(output_size) != {1}:
        raise ValueError(
            f"adaptive_avg_pool2d to {tuple(output_size)} locations is not supported for inputs of any size."
            " Pool to 1, or use avg_pool2d with a size"
        )
    return opset.ReduceMean(pooled, opset.Constant(value_ints=[-2, -1]), keepdims=1)


def _reason(error: BaseException) -> str:
    """What stopped the exporter: the first line of the error at the bottom, without colours."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = COLOURS.sub("", str(error)).strip().splitlines()
    return printable(lines[0][:MOST_TEXT] if lines else type(error).__name__)


def check_form(model: onnx.ModelProto, *, opsets: Container[int] = (OPSET,)) -> None:
    """Refuse another opset than the one asked for, functions and data outside the file.

    The exporter raises an opset that it does not know without a word.

    Args:
        model: The file.
        opsets: Versions that are allowed.

    Raises:
        ExportError: The message names what is there.
    """
    found = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    if [*found] != ["ai.onnx"] or found["ai.onnx"] not in opsets:
        raise ExportError(f"The exporter wrote opsets={found}; requested was {{'ai.onnx': {OPSET}}}.")
    if model.functions:
        raise ExportError(f"The exporter left {len(model.functions)} functions; allowed are none.")
    outside = [one.name for one in model.graph.initializer if one.data_location == onnx.TensorProto.EXTERNAL]
    if outside:
        raise ExportError(f"The exporter left the weight {outside[0]} outside the file.")


def name_values(model: onnx.ModelProto) -> None:
    """Give each value a name of its own, in place: the exporter names those inside after the modules.

    A student with a module ``embedding`` has such a value beside the output of that name. Of two values with
    one name the later is the output.
    """
    made = [name for node in model.graph.node for name in node.output]
    left, inside = {name: made.count(name) for name in made}, dict[str, str]()
    for node in model.graph.node:
        node.input[:] = [inside.get(name, name) for name in node.input]
        for place, name in enumerate(node.output):
            left[name] -= 1
            inside.pop(name, None)
            if left[name]:
                inside[name] = node.output[place] = f"inside.{name}.{left[name]}"


def name_nodes(model: onnx.ModelProto) -> None:
    """Name each node after the module it comes from, such as ``student.trunk.0.0.Conv``, in place."""
    seen: dict[str, int] = {}
    for node in model.graph.node:
        scopes = next((entry.value for entry in node.metadata_props if entry.key == SCOPES), "[]")
        modules = [name for name in ast.literal_eval(scopes)[:-1] if not name.startswith("_")]
        name = f"{modules[-1] if modules else ''}.{node.op_type}".lstrip(".")
        seen[name] = seen.get(name, 0) + 1
        node.name = name if seen[name] == 1 else f"{name}.{seen[name]}"


def strip(model: onnx.ModelProto) -> None:
    """Remove stack traces, paths, comments and versions, in place.

    The exporter writes the path and the line of source code behind every node.
    """
    graph = model.graph
    for entry in [*graph.node, *graph.input, *graph.output, *graph.initializer]:
        del entry.metadata_props[:]
        entry.doc_string = ""
    del graph.value_info[:]
    del graph.metadata_props[:]
    del model.metadata_props[:]
    graph.doc_string = model.doc_string = ""
    graph.name = "student"
    model.producer_name = "edgecmd"
    model.producer_version = ""


class _WithoutTorchvision(logging.Filter):
    """Drops the lines saying that torchvision, which no student uses, is not installed."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep every other line."""
        return "torchvision is not installed" not in record.getMessage()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what torch 2.13 says about its own inside; any other warning passes."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    silence = _WithoutTorchvision()
    logger.addFilter(silence)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning
            )
            yield
    finally:
        logger.removeFilter(silence)
