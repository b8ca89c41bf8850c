"""The properties of an exported file: all that a device must know, without a package that reads ONNX."""

import json

from edgecmd.core.errors import choose
from export.documents.requirements import OPSET, PROPERTY, requirements_property
from export.graph.frontends import FRONT_ENDS
from export.graph.spec import FORMAT_VERSION, ExportSpec


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
        PROPERTY: requirements_property(OPSET),
    }
