"""Classes by example: the mean embedding of a few images each, without training.

Shapes: K classes, D embedding dimension.
"""

from pathlib import Path

import numpy as np
import torch

from edgecmd.core.errors import DataError
from export.device.classes import Prototypes
from export.device.reading import InferError, example_files
from export.device.sensors import SENSORS
from export.graph.deployable import Deployable
from export.graph.frontends import FRONT_ENDS
from export.graph.spec import ExportSpec, LinearHead


def prototypes_of(folder: Path, embedder: Deployable, *, scale: float) -> Prototypes:
    """Unit mean embedding of each class of a folder.

    Args:
        folder: A sub-folder of images for each class, or images named after their classes.
        embedder: The student behind its front end, in evaluation mode.
        scale: Factor on cosines before softmax: one over the temperature of training.

    Raises:
        DataError: The folder is missing, an image cannot be read, there are fewer than two classes, or the
            images of a class cancel each other out.
    """
    means = {
        name: np.mean([_embedding(embedder, example) for example in examples], axis=0)
        for name, examples in read_examples(folder, embedder.spec).items()
    }
    flat = [name for name, mean in means.items() if not np.linalg.norm(mean) > 1e-6]
    if flat:
        raise DataError(f"The images of class {flat[0]!r} have no common direction. Give other images.")
    vectors = np.stack([mean / np.linalg.norm(mean) for mean in means.values()]).astype(np.float32)
    return Prototypes(tuple(means), vectors, float(scale))


def read_examples(folder: Path, spec: ExportSpec) -> dict[str, list[np.ndarray]]:
    """Examples of each class as the front end of ``spec`` takes them, sorted by class; nothing is embedded.

    Args:
        folder: See `prototypes_of`.
        spec: The front end and the channels are used.

    Raises:
        DataError: The folder is missing, an example cannot be read, or there are fewer than two classes.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder. Give one with a sub-folder of images per class.")
    sensor, preprocess = SENSORS[spec.front_end], FRONT_ENDS[spec.front_end].metadata(spec)
    try:
        classes = example_files(folder, suffixes=sensor.suffixes)
        found = {
            name: [
                one.values
                for path in files
                for one in sensor.read_all(path, channels=spec.channels, preprocess=preprocess)
            ]
            for name, files in sorted(classes.items())
        }
    except InferError as error:
        raise DataError(str(error)) from error
    if len(found) < 2:
        raise DataError(
            f"{folder} has only the class {', '.join(found)}; allowed are 2 or more. Add a folder of images"
            " for another class."
        )
    return found


@torch.no_grad()
def _embedding(embedder: Deployable, image: np.ndarray) -> np.ndarray:
    return np.asarray(embedder(torch.from_numpy(image[None].copy()))[0][0].numpy())


def head_of(prototypes: Prototypes) -> LinearHead:
    """The classifier in the graph: softmax(scale * e @ P.T)."""
    return LinearHead(
        weight=np.asarray(prototypes.scale * prototypes.vectors, dtype=np.float32),
        bias=np.zeros(len(prototypes.names), dtype=np.float32),
        names=prototypes.names,
    )
