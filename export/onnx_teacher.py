"""A teacher from an ONNX file, run by ONNX Runtime on the CPU.

The file is its owner's own, so it does not pass the gate of a stranger's student (`export.trust.gate`). Still
no library of operators is loaded, and nothing is read but the file and data that are beside it.

Shapes: B batch, H height, W width, D embedding dimension.
"""

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError
from jaxtyping import Float
from onnx import GraphProto, ModelProto, NodeProto, TensorProto
from torch import Tensor, nn

from edgecmd.core.errors import ConfigError, DataError, nearest
from edgecmd.core.files import sha256_file
from edgecmd.core.text import one_line
from edgecmd.models.teacher.prepared import Opened, Preparation

SETTING = "teacher.name"
MOST_BYTES, MOST_TEXT = 2**31 - 1, 300
# What ONNX Runtime brings operators of.
DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
FLOATS = ("tensor(float)", "tensor(float16)", "tensor(double)")
WANTED = "A teacher takes one input of float32 RGB images, (batch, 3, height, width)"
LOG = logging.getLogger("edgecmd.teacher")


def open_onnx(text: str, *, weights: Path | None, output: str, size: int | None) -> Opened:  # noqa: ARG001
    """The network of an ONNX file, and the side of its images where the file fixes it.

    Args:
        text: ``onnx:FILE``.
        weights: Unused; the file has them.
        output: Name of the output that is the feature; empty where there is one.
        size: Side that the owner sets in pixels; None for that of the file.

    Raises:
        ConfigError: The file does not suit: its inputs, outputs, sides or operators, or ``size``.
        DataError: It is missing or damaged, too large, or its data are elsewhere.

    Guarantees:
        No other file is read than this one and those in its folder that it names.
    """
    path = Path(text.partition(":")[2])
    given = f"{SETTING}={text!r}"
    model = _read(path, given)
    beside = _data_files(model, path, given)
    _refuse_foreign_operators(model, given)
    session = _session(path, given)
    name, batch, side = _input(session.get_inputs(), given)
    if size is not None and side is not None and size != side:
        raise ConfigError(
            f"teacher.size={size}, but {given} takes images of {side} pixels a side and no others. Leave out"
            " teacher.size, or export it with dynamic sides."
        )
    chosen = _output(session.get_outputs(), output, given)
    digests = [sha256_file(path), *(f"{one}={sha256_file(path.parent / one)}" for one in beside), chosen]
    return Opened(
        module=OnnxNetwork(session, ports=(name, chosen), batch=batch),
        about=f"onnx:{path.name}",
        identity=hashlib.sha256("\n".join(digests).encode()).hexdigest(),
        own=Preparation(size=side),
    )


class OnnxNetwork(nn.Module):
    """An ONNX graph as a module: one input, one output, on the CPU.

    Args:
        session: Of ONNX Runtime.
        ports: Names of input and output.
        batch: Images that the graph takes at a time; 0 for any number.
    """

    def __init__(self, session: Any, *, ports: tuple[str, str], batch: int) -> None:  # noqa: ANN401 - untyped
        super().__init__()
        self.session, self.ports, self.batch = session, ports, batch
        self.dim = 0

    def __deepcopy__(self, memo: object) -> "OnnxNetwork":
        """The very same: a session cannot be copied, and nothing in it changes."""
        return self

    def forward(self, image: Float[Tensor, "batch 3 height width"]) -> Tensor:
        """Embed a batch, (B, D).

        Guarantees:
            After the first answer, an image that the graph fails at has a feature that is not a number, and
            others keep theirs: what one pair is decides neither about another nor whether there is an answer.
        """
        if not len(image):
            return torch.zeros(0, self.dim, device=image.device)
        few = [self._answered(one) for one in torch.split(image, self.batch or len(image))]
        answer = torch.cat(few)
        self.dim = answer.shape[1] if answer.ndim == 2 else 0
        return answer.to(image.device)

    def _answered(self, image: Tensor) -> Tensor:
        try:
            return self._run(image)
        except Exception as error:  # ONNX Runtime raises a dozen types of its own without a common base
            if not self.dim:
                raise
            if len(image) > 1:
                return torch.cat([self._answered(one[None]) for one in image])
            LOG.warning("the ONNX teacher fails on an image: %s", one_line(str(error))[:MOST_TEXT])
            return torch.full((1, self.dim), torch.nan)

    def _run(self, image: Tensor) -> Tensor:
        given = np.ascontiguousarray(image.detach().cpu().numpy(), dtype=np.float32)
        missing = max(0, self.batch - len(given))
        filled = np.concatenate([given, np.repeat(given[:1], missing, axis=0)]) if missing else given
        name, output = self.ports
        (found,) = self.session.run([output], {name: filled})
        return torch.from_numpy(np.array(found, dtype=np.float32, ndmin=1)[: len(given)])


def _read(path: Path, given: str) -> ModelProto:
    """The graph, without the data that are beside it."""
    try:
        if not path.is_file():
            raise DataError(f"{given} does not name an existing file. Write onnx: and the path of one.")
        if path.stat().st_size > MOST_BYTES:
            raise DataError(
                f"{given} has more than 2 GiB, which no ONNX file can. Save its weights beside it:"
                " onnx.save(model, path, save_as_external_data=True)."
            )
        model = onnx.load_model(path, load_external_data=False)
    except OSError as error:
        raise DataError(f"{given} cannot be read: {error.strerror}. Check its permissions.") from error
    except DecodeError as error:
        raise DataError(
            f"{given} is not an ONNX file, or only part of one. Download or export it again."
        ) from error
    if not model.graph.output:
        raise DataError(f"{given} contains no graph. Download or export it again.")
    return model


def _graphs(nodes: Sequence[NodeProto]) -> Iterator[GraphProto]:
    """Graphs inside nodes, at any depth."""
    for node in nodes:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.ByteSize():
                    yield inner
                    yield from _graphs(inner.node)


def _nodes(model: ModelProto) -> Iterator[NodeProto]:
    for nodes in (model.graph.node, *(one.node for one in model.functions)):
        yield from nodes
        for inner in _graphs(nodes):
            yield from inner.node


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    for graph in (model.graph, *_graphs(list(_nodes(model)))):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for node in _nodes(model):
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)


def _data_files(model: ModelProto, path: Path, given: str) -> list[str]:
    """Names of the files that hold weights, each in the folder of ``path``."""
    named = {
        entry.value
        for tensor in _tensors(model)
        if tensor.data_location == TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    folder = path.parent.resolve()
    for one in sorted(named):
        found = (folder / one).resolve()
        if Path(one).is_absolute() or folder not in found.parents:
            raise DataError(
                f"{given} keeps weights in {one[:MOST_TEXT]!r}, which is not in its folder. Nothing else is"
                " read: save it again with its weights beside it."
            )
        if not found.is_file():
            raise DataError(
                f"{given} keeps weights in {one[:MOST_TEXT]!r}, which is not there. Put it beside it."
            )
    return sorted(named)


def _refuse_foreign_operators(model: ModelProto, given: str) -> None:
    own = {(one.domain, one.name) for one in model.functions}
    foreign = sorted(
        {
            f"{node.domain}::{node.op_type}"
            for node in _nodes(model)
            if node.domain not in DOMAINS and (node.domain, node.op_type) not in own
        }
    )
    if foreign:
        raise ConfigError(
            f"{given} has custom operators, {foreign[0][:MOST_TEXT]!r} among {len(foreign)}; libraries of"
            " operators are never loaded. Export it with standard operators, or compute ready features with"
            " it (teacher.pair_features)."
        )


def _session(path: Path, given: str) -> Any:  # noqa: ANN401 - onnxruntime has no types
    # Read when it is imported: it reports its users else.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # it raises a dozen types of its own without a common base
        told = one_line(str(error))[:MOST_TEXT].rstrip(".")
        raise DataError(
            f"{given} cannot be loaded by ONNX Runtime {onnxruntime.__version__}: {told}. Download it again,"
            " or export it with another opset."
        ) from error


def _input(ports: Sequence[Any], given: str) -> tuple[str, int, int | None]:
    """Name, fixed batch (0 for any) and fixed side (None for any) of the one input."""
    if len(ports) != 1:
        raise ConfigError(
            f"{given} has {len(ports)} inputs: {_told(ports)}. {WANTED}. Export only the part that takes"
            " images."
        )
    (port,) = ports
    shape = [one if isinstance(one, int) and one > 0 else None for one in port.shape or ()]
    if len(shape) == 4 and shape[3] == 3 and shape[1] != 3:
        raise ConfigError(
            f"{given} takes (batch, height, width, 3): {_told(ports)}. {WANTED}. Export it with channels"
            " first (tf2onnx: --inputs-as-nchw), or put a Transpose before it."
        )
    if port.type != "tensor(float)" or len(shape) != 4 or shape[1] not in (3, None):
        raise ConfigError(f"{given} takes {_told(ports)}. {WANTED}. Export it that way.")
    sides = {one for one in shape[2:] if one is not None}
    if len(sides) > 1:
        raise ConfigError(
            f"{given} takes {_told(ports)}, but a teacher's images are square. Export it with equal sides,"
            " or with dynamic sides."
        )
    return port.name, shape[0] or 0, next(iter(sides), None)


def _output(ports: Sequence[Any], chosen: str, given: str) -> str:
    """Name of the output that is the feature."""
    names = [port.name for port in ports]
    if chosen and chosen not in names:
        raise ConfigError(f"teacher.output={chosen!r} is not an output of {given}. {nearest(chosen, names)}")
    if not chosen and len(ports) > 1:
        raise ConfigError(
            f"{given} has {len(ports)} outputs: {_told(ports)}. Choose the one that is the feature, (batch,"
            " features), with teacher.output."
        )
    port = ports[names.index(chosen) if chosen else 0]
    if port.type not in FLOATS or (port.shape and len(port.shape) != 2):
        others = "" if len(ports) == 1 else " Choose another one with teacher.output."
        raise ConfigError(
            f"{given} gives {_told([port])}; a feature is (batch, features) of floats. Export it with the map"
            f" pooled or flattened.{others}"
        )
    return str(port.name)


def _told(ports: Sequence[Any]) -> str:
    """Names, types and shapes, such as ``'x' tensor(float) (N, 3, 224, 224)``."""
    shapes = [", ".join("?" if part is None else str(part)[:40] for part in one.shape or ()) for one in ports]
    return "; ".join(
        f"{one.name[:80]!r} {one.type} ({shape})" for one, shape in zip(ports, shapes, strict=True)
    )
