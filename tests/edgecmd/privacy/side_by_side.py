"""Many tries in one pass of the real code: copies of a tiny student, each with samples of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from edgecmd.distill import LocalData
from edgecmd.privacy.mechanisms import StepSettings, UnitLoss
from edgecmd.privacy.neighbours import PairMaker, pair_makers
from edgecmd.privacy.randomness import DeterministicSource
from edgecmd.privacy.search import Query, Sample, step_query

SIDE = 2
DIM = 4
NUM_PAIRS = 6
SCALES = (0.1, 0.3, 1.0, 3.0, 10.0)


class Tiny(nn.Module):
    """Images of 1 x 2 x 2 to embeddings of 4."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.inner = nn.Linear(SIDE * SIDE, 6)
        self.outer = nn.Linear(6, DIM)
        coins = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                scale = SCALES[seed % len(SCALES)]
                parameter.copy_(scale * torch.randn(parameter.shape, generator=coins))

    def forward(self, image: Tensor) -> Tensor:
        return self.outer(torch.tanh(self.inner(image.flatten(1))))


class SideBySide(nn.Module):
    """``num`` copies of a tiny student; the second channel of an image says which copy sees it.

    The gradient of an image is zero at the other copies, so the clipped sum over the samples of all
    copies holds, copy by copy, the clipped sum over each sample.
    """

    def __init__(self, tiny: Tiny, num: int) -> None:
        super().__init__()
        for name, value in tiny.named_parameters():
            copies = value.detach().expand(num, *value.shape).clone()
            self.register_parameter(name.replace(".", "_"), nn.Parameter(copies))

    def forward(self, image: Tensor) -> Tensor:
        copy = image[:, 1, 0, 0].round().long()
        x = image[:, 0].flatten(1)
        hidden = torch.tanh(_each(self.inner_weight[copy], x) + self.inner_bias[copy])
        return _each(self.outer_weight[copy], hidden) + self.outer_bias[copy]


def _each(weight: Tensor, x: Tensor) -> Tensor:
    return (weight @ x[..., None])[..., 0]


def query_of(
    tiny: Tiny,
    loss: UnitLoss,
    *,
    settings: StepSettings,
    clip: float,
    num_copies: int = 32,
    augment: float = 0.0,
    engine: str = "vmap",
) -> Query:
    """The step's sum for up to ``num_copies`` samples a pass."""
    student = SideBySide(tiny, num_copies)
    wide = replace(settings, num_groups=settings.num_groups * num_copies)

    def some(samples: Sequence[Sample]) -> list[dict[str, Tensor]]:
        sizes = [len(data) for data, _ in samples]
        starts = np.cumsum([0, *sizes[:-1]])
        ask = step_query(
            student,
            loss,
            settings=wide,
            clip=clip,
            engine=engine,
            augment=augment,
            coins=lambda _: bucket_words(sizes, num_groups=settings.num_groups, num_copies=num_copies),
        )
        rows = np.concatenate([start + rows for start, (_, rows) in zip(starts, samples)])
        sums: Mapping[str, Tensor] = ask([(joined([data for data, _ in samples]), rows)])[0]
        return [{name: value[index] for name, value in sums.items()} for index in range(len(samples))]

    def query(samples: Sequence[Sample]) -> list[dict[str, Tensor]]:
        parts = [samples[start : start + num_copies] for start in range(0, len(samples), num_copies)]
        return [one for part in parts for one in some(part)]

    return query


def joined(sets: Sequence[LocalData]) -> LocalData:
    """All sets in one, each image with the number of its copy as a second channel."""
    images = [
        torch.cat([data.target, torch.full_like(data.target, float(index))], dim=1)
        for index, data in enumerate(sets)
    ]
    images = [_numbered(image, index) for index, image in enumerate(images)]
    return LocalData(target=torch.cat(images), teacher=torch.cat([data.teacher for data in sets]))


def _numbered(image: Tensor, index: int) -> Tensor:
    image[:, 1] = float(index)
    return image


def bucket_words(sizes: Sequence[int], *, num_groups: int, num_copies: int) -> np.ndarray:
    """Words by which row ``r`` of set ``i`` falls into bucket ``i * num_groups + (a coin of r)``."""
    words = []
    for index, size in enumerate(sizes):
        bucket = index * num_groups + DeterministicSource(11).words(size) % np.uint64(num_groups)
        words.append((bucket + 0.5) / (num_groups * num_copies) * 2.0**64)
    return np.concatenate(words).astype(np.uint64)


def makers_of(tiny: Tiny) -> dict[str, PairMaker]:
    return pair_makers(tiny, num_pairs=NUM_PAIRS, in_channels=1, image_size=SIDE, embedding_dim=DIM)
