"""The teacher's features at each location in an image, on the grid of a dense student.

A location's feature is a hypercolumn (Hariharan et al. 2015, arXiv 1411.5752): what each stage of the frozen
teacher says there, each stage at unit length, brought to one grid and set beside the others. It is reduced
to few dimensions by principal components of public images alone, so that no private pair enters them.

Shapes: B batch, N images, C channels of all stages, D dimension, R rows, Q columns of the grid, P locations.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from edgecmd.core.errors import ConfigError
from edgecmd.core.progress import tracked
from edgecmd.core.seeding import numpy_generator
from edgecmd.data.modalities.table import source_input
from edgecmd.data.pairs import Images
from edgecmd.models.devices import device_of
from edgecmd.models.projection import principal_components
from edgecmd.models.students import ConvStudent
from edgecmd.models.teacher.teachers import Teacher
from edgecmd.models.trunks.convolutions import Pointwise
from edgecmd.models.trunks.efficientnet import FEW, EfficientNetLite0

# Ends of the teacher's stages in its trunk.
STAGES = ((0, 2), (2, 4), (4, 6))
# Of a teacher of photographs: maps of one place for 4, 8, 16 and 32 pixels of what it sees.
PHOTOGRAPH_STAGES = (1, 2, 4, 6)
MAX_PLACES = 50_000
BATCH_SIZE = 64
# Components are divided by their standard deviation plus this share of the largest one.
FLOOR = 0.1

Maps = Float[np.ndarray, "num dim rows columns"]


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """How locations are asked for.

    Attributes:
        grid: Rows and columns.
        zoom: How much larger than the image the teacher sees it.
    """

    grid: tuple[int, int]
    zoom: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Reduction:
    """A fixed linear map of hypercolumns, fitted on public images.

    Attributes:
        mean: Mean hypercolumn, (C,).
        weight: Components, each divided by its spread, (C, D).
    """

    mean: Float[np.ndarray, " channels"]
    weight: Float[np.ndarray, "channels dim"]


def pool_places(map_BDRQ: Float[Tensor, "batch dim rows columns"]) -> Float[Tensor, "batch dim"]:
    """One feature for each picture: the mean of the unit features of its locations."""
    return functional.normalize(map_BDRQ, dim=1).mean(dim=(2, 3))


@torch.no_grad()
def hypercolumns(
    network: nn.Module, images: Images, *, view: View
) -> Float[Tensor, "batch channels rows columns"]:
    """Stages of a teacher side by side on one grid.

    Args:
        network: The frozen teacher.
        images: RGB images, uint8, (B, H, W, 3).
        view: Grid and zoom.

    Raises:
        ConfigError: The teacher has no stages that could be looked at.
    """
    return columns_of(network, source_input(images).to(device_of(network)), view=view)


def columns_of(
    network: nn.Module, seen: Float[Tensor, "batch channels height width"], *, view: View
) -> Float[Tensor, "batch columns rows grid"]:
    """`hypercolumns` of images that are scaled already, see `edgecmd.data.modalities.table.source_input`.

    Raises:
        ConfigError: The teacher has no stages that could be looked at.
    """
    if view.zoom != 1:
        seen = functional.interpolate(seen, scale_factor=view.zoom, mode="bilinear", align_corners=False)
    columns = [
        torch.cat(
            [_on_grid(functional.normalize(one, dim=1), view.grid) for one in stages(network, few)], dim=1
        )
        for few in torch.split(seen, FEW)
    ]
    return torch.cat(columns)


def stages(network: nn.Module, seen: Float[Tensor, "batch channels height width"]) -> list[Tensor]:
    """Maps of a teacher that are looked at, from the finest to the coarsest.

    Args:
        network: The frozen teacher.
        seen: What it takes, see `edgecmd.data.modalities.table.source_input`.

    Raises:
        ConfigError: The teacher has no stages that could be looked at.
    """
    if isinstance(network, EfficientNetLite0):
        maps = network.maps(seen)
        return [maps[index] for index in PHOTOGRAPH_STAGES]
    if not isinstance(network, ConvStudent):
        raise ConfigError(
            "The teacher is not one of edgecmd's, so its stages are unknown. For seg-* students use one"
            " made by `edgecmd pretrain`."
        )
    found = []
    for start, stop in STAGES:
        seen = network.trunk[start:stop](seen)
        found.append(seen)
    return found


def _on_grid(map_BCHW: Tensor, grid: tuple[int, int]) -> Tensor:
    """A map averaged down, or enlarged bilinearly, to ``grid``."""
    if map_BCHW.shape[2] > grid[0]:
        return functional.interpolate(map_BCHW, size=grid, mode="area")
    return functional.interpolate(map_BCHW, size=grid, mode="bilinear", align_corners=False)


def fit_reduction(network: nn.Module, public: Images, *, view: View, dim: int) -> Reduction:
    """Principal components of the hypercolumns of public images, each at unit spread.

    Args:
        network: The frozen teacher.
        public: Public RGB images, uint8, (N, H, W, 3).
        view: Grid and zoom.
        dim: Components that are kept, D.

    Raises:
        ConfigError: ``dim`` exceeds what the teacher has.

    Guarantees:
        A function of teacher and public images alone.
    """
    places = _places_of(network, public, view=view)
    if dim > places.shape[1]:
        raise ConfigError(
            f"teacher.map_dim={dim} exceeds the {places.shape[1]} channels of the teacher's stages; lower it."
        )
    mean, weight, deviation = principal_components(places, dim)
    scaled = weight / (deviation + FLOOR * deviation[0] + np.finfo(np.float32).tiny)
    return Reduction(mean=mean.astype(np.float32), weight=scaled.astype(np.float32))


def _places_of(network: nn.Module, public: Images, *, view: View) -> Float[np.ndarray, "places channels"]:
    """Hypercolumns at some locations of every public image, float64."""
    cells = view.grid[0] * view.grid[1]
    each = max(1, min(cells, MAX_PLACES // max(1, len(public))))
    generator, found = numpy_generator(0, "places-of-reduction"), []
    for start in range(0, len(public), BATCH_SIZE):
        columns = hypercolumns(network, public[start : start + BATCH_SIZE], view=view).cpu().numpy()
        flat = columns.reshape(*columns.shape[:2], cells)
        found += [one[:, generator.permutation(cells)[:each]].T for one in flat]
    return np.concatenate(found).astype(np.float64)


class TeacherPlaces(nn.Module):
    """A teacher that embeds each location of an image of its modality, as a dense student does of its own.

    Args:
        network: The frozen teacher.
        view: Grid and zoom.
        reduction: Of public images.
    """

    def __init__(self, network: nn.Module, *, view: View, reduction: Reduction) -> None:
        super().__init__()
        self.network, self.view, self.embedding_dim = network, view, reduction.weight.shape[1]
        self.projector = Pointwise(*reduction.weight.shape)
        weight = torch.from_numpy(reduction.weight.T.copy())
        self.projector.load_state_dict(
            {"weight": weight[..., None, None], "bias": -weight @ torch.from_numpy(reduction.mean)}
        )

    def forward(self, seen: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim rows columns"]:
        """Embed each location, see `edgecmd.data.modalities.table.source_input`; not normalised."""
        places: Tensor = self.projector(columns_of(self.network, seen, view=self.view))
        return places


def teacher_maps(teacher: Teacher, images: Images, *, view: View, reduction: Reduction) -> Maps:
    """Reduced features at each location of ``images``, float32, (N, D, R, Q)."""
    mean, weight = torch.from_numpy(reduction.mean), torch.from_numpy(reduction.weight)
    chunks = []
    for start in tracked(range(0, len(images), BATCH_SIZE), "teacher features at locations"):
        columns = hypercolumns(teacher.network, images[start : start + BATCH_SIZE], view=view).cpu()
        chunks.append(torch.einsum("bcrq,cd->bdrq", columns - mean[:, None, None], weight).numpy())
    return np.concatenate(chunks)


def unit_places(map_BDRQ: Float[Tensor, "batch dim rows columns"]) -> Float[Tensor, "batch places dim"]:
    """Unit features of the locations of each image, row by row."""
    return functional.normalize(map_BDRQ.flatten(2).transpose(1, 2), dim=-1)
