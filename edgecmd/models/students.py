"""Small students of the target modality.

No student holds batch statistics, so that a client's update depends on each of its pairs
separately and a differentially private gradient stays possible. No activation is in place, so
that per-example gradient hooks work.

Two families share one topology:

- ``ws-*``: weight-standardised convolutions without any normalisation of activations
  (Brock et al. 2021, arXiv 2101.08692). At export each folds to one plain convolution.
- ``gn-*``: plain convolutions with GroupNorm, the usual choice; slower in ONNX Runtime.

``plain-*`` have convolutions with a bias and nothing else: what the exporter makes of a ``gn-*`` student by
folding its normalisation away (`export.fold_norm`). Training one from random weights is not meant.

``audio-*`` are students of the first family that take a recording and look at its log-mel image.

``text-*`` are students of the first family along a string of bytes; ``ngram-*`` look its runs of bytes up in
a table.

``lite0-*`` are the first stages of a network of photographs that ships, and begin with its weights.

``seg-*`` are students of either kind with a decoder: an embedding for each location of the image.

A user's own student is any ``nn.Module`` from (B, C, H, W) to (B, F), as an object, as
``module:factory``, or a network of timm or torchvision by its name (``timm:NAME``);
`edgecmd.models.any_student.student` makes a `Student` of each.

Shapes: B batch, C channels, H height, W width, F features of a module, D embedding dimension.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from edgecmd.core.errors import ConfigError, choose
from edgecmd.core.own_code import call_factory, is_own
from edgecmd.data.modalities.log_mel import LogMel
from edgecmd.models.backbones import (
    Matched,
    build_backbone,
    is_backbone,
    load_matching,
    pooled,
    read_weights,
    without_inplace,
)
from edgecmd.models.base import Student as Student
from edgecmd.models.base import refuse_channels
from edgecmd.models.batch_norm import (
    AUTO,
    FOLD,
    FREEZE,
    KEEP,
    batch_norm_of,
    convert,
    hold,
    norms_of,
)
from edgecmd.models.trial import made_up, seeded, try_out
from edgecmd.models.trunks.convolutions import FAMILIES, Pointwise, Pyramid, Residual
from edgecmd.models.trunks.efficientnet import Trunk, load_shipped
from edgecmd.models.trunks.strings import NUM_BYTES, ByteTrunk, NgramTrunk, TextStudent

# Of a table's first rows, the spread times how many there are.
FIRST_ROWS = 16.0
# Side of a place of a dense student in pixels of its input, and what the input's sides are multiples of.
DENSE_STRIDE, INPUT_MULTIPLE = 4, 16


FRONTS: dict[str, Callable[[], nn.Module]] = {
    "none": nn.Identity,
    "log-mel": LogMel,
    "bytes": nn.Identity,
}
# Of a network of anyone's own, of which only a trial tells what it takes.
ANY_FRONT = "any"
# Height and width that a student of anyone's own is tried on where none is given.
DEFAULT_SIZE = (64, 64)
# Offset and scale of inputs that are ink on white paper, which is seen as zero.
INK = (1.0, -0.5)
SETTING, WEIGHTS = "student.architecture", "student.weights"


class ConvStudent(Student):
    """Convolutional encoder.

    Args:
        family: Of its convolutions, a key of `FAMILIES`.
        widths: Channels of each stage.
        front: What comes before the convolutions, a key of `FRONTS`.
        in_channels: As in `Student`.
        embedding_dim: As in `Student`.
    """

    def __init__(
        self,
        *,
        family: str,
        widths: tuple[int, int, int],
        front: str = "none",
        in_channels: int,
        embedding_dim: int,
    ) -> None:
        super().__init__(in_channels=in_channels, embedding_dim=embedding_dim)
        if front == "log-mel":
            refuse_channels(in_channels, what="recordings")
        conv = FAMILIES[family]
        self.front = FRONTS[front]()
        first, second, third = widths
        self.trunk = nn.Sequential(
            conv(in_channels, first, stride=2),
            conv(first, first, stride=2),
            conv(first, second, stride=2),
            Residual(conv, second),
            conv(second, third, stride=2),
            Residual(conv, third),
        )
        self.projector = nn.Linear(2 * third, embedding_dim)

    def forward(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch dim"]:
        """Embed a batch of inputs, see `edgecmd.data.modalities.table.target_input`."""
        features = self.trunk(self.front(image))
        embedding: Tensor = self.projector(_mean_and_max(features))
        return embedding


def _mean_and_max(map_BCHW: Tensor) -> Float[Tensor, "batch twice"]:
    """Of each channel over its locations, (B, 2C)."""
    return torch.cat([map_BCHW.mean(dim=(2, 3)), map_BCHW.amax(dim=(2, 3))], dim=1)


class LiteStudent(Student):
    """First stages of EfficientNet-Lite0.

    Args:
        num_stages: How many of `edgecmd.models.trunks.efficientnet.STAGES`.
        in_channels: As in `Student`.
        embedding_dim: As in `Student`.
    """

    def __init__(self, *, num_stages: int, in_channels: int, embedding_dim: int) -> None:
        super().__init__(in_channels=in_channels, embedding_dim=embedding_dim)
        self.trunk = Trunk(in_channels=in_channels, num_stages=num_stages)
        self.projector = nn.Linear(2 * self.trunk.widths[-1], embedding_dim)

    def forward(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch dim"]:
        """Embed a batch of inputs, see `edgecmd.data.modalities.table.target_input`."""
        embedding: Tensor = self.projector(_mean_and_max(self.trunk.maps(image)[-1]))
        return embedding


class DenseStudent(ConvStudent):
    """Convolutional encoder with a light decoder: an embedding for each square of `DENSE_STRIDE` pixels.

    The trunk is that of `ConvStudent`. The decoder enlarges its coarsest map twice, each time beside the
    trunk's map of that size (Ronneberger et al. 2015, arXiv 1505.04597).

    Args:
        family: As in `ConvStudent`.
        widths: As in `ConvStudent`.
        decoder: Channels of the decoder.
        in_channels: As in `Student`.
        embedding_dim: Dimension of the teacher's feature at a location, D.
    """

    def __init__(
        self,
        *,
        family: str,
        widths: tuple[int, int, int],
        decoder: int,
        in_channels: int,
        embedding_dim: int,
    ) -> None:
        super().__init__(family=family, widths=widths, in_channels=in_channels, embedding_dim=embedding_dim)
        conv, (first, second, third) = FAMILIES[family], widths
        self.coarse = conv(third + second, second)
        self.fine = conv(second + first, decoder)
        self.projector = Pointwise(decoder, embedding_dim)

    def forward(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch dim rows columns"]:
        """Embed each location of a batch whose sides are multiples of `INPUT_MULTIPLE`; not normalised."""
        at_4 = self.trunk[:2](image)
        at_8 = self.trunk[2:4](at_4)
        at_16 = self.trunk[4:](at_8)
        coarse = self.coarse(torch.cat([_enlarged(at_16, like=at_8), at_8], dim=1))
        fine = self.fine(torch.cat([_enlarged(coarse, like=at_4), at_4], dim=1))
        embedding: Tensor = self.projector(fine)
        return embedding


def _enlarged(map_BCHW: Tensor, *, like: Tensor) -> Tensor:
    """A map at the size of a finer one; each number repeated, so nothing is computed."""
    return functional.interpolate(map_BCHW, size=like.shape[2:], mode="nearest")


class LiteDenseStudent(Student):
    """First stages of EfficientNet-Lite0 and a light decoder: an embedding for each square of `DENSE_STRIDE`.

    Args:
        taps: Which of the trunk's maps the decoder sees, from that of `DENSE_STRIDE` to the last.
        decoder: Channels of the decoder.
        in_channels: As in `Student`.
        embedding_dim: Dimension of the teacher's feature at a location, D.
    """

    def __init__(self, *, taps: tuple[int, ...], decoder: int, in_channels: int, embedding_dim: int) -> None:
        super().__init__(in_channels=in_channels, embedding_dim=embedding_dim)
        self.taps = taps
        self.trunk = Trunk(in_channels=in_channels, num_stages=taps[-1] + 1)
        self.decoder = Pyramid([self.trunk.widths[tap] for tap in taps], width=decoder)
        self.projector = Pointwise(decoder, embedding_dim)

    def forward(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch dim rows columns"]:
        """Embed each location of a batch whose sides are multiples of `INPUT_MULTIPLE`; not normalised."""
        maps = self.trunk.maps(image)
        embedding: Tensor = self.projector(self.decoder([maps[tap] for tap in self.taps]))
        return embedding


class Projected(Student):
    """A user's own module as a student: behind it a linear projector, where its width is not D.

    Args:
        module: (B, C, H, W) to (B, F); its weights are left as they are, and training changes it.
        num_features: F.
        in_channels: As in `Student`.
        embedding_dim: As in `Student`.
        size: Height and width that it was tried on.
        batch_norm: As in `Student`; ``module`` is what `edgecmd.models.batch_norm.convert` made of it.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        num_features: int,
        in_channels: int,
        embedding_dim: int,
        size: tuple[int, int],
        batch_norm: str = KEEP,
    ) -> None:
        super().__init__(in_channels=in_channels, embedding_dim=embedding_dim)
        self.size, self.batch_norm = size, batch_norm
        self.backbone = module
        same = num_features == embedding_dim
        self.projector = nn.Identity() if same else nn.Linear(num_features, embedding_dim)

    def forward(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch dim"]:
        """Embed a batch of inputs, see `edgecmd.data.student_input.target_input`."""
        features = self.backbone(image)
        width = getattr(self.projector, "in_features", self.embedding_dim)
        if features.shape[1:] != (width,):
            raise ConfigError(
                f"The student {self.architecture} gives {tuple(features.shape)} for a batch of {len(image)},"
                f" and {width} numbers per input when it was made. Return the same number for every batch."
            )
        embedding: Tensor = self.projector(features)
        return embedding

    def train(self, mode: bool = True) -> "Projected":
        """As of any module, but that statistics which are held stay in evaluation mode."""
        super().train(mode)
        if self.batch_norm in (FREEZE, FOLD):
            hold(self)
        return self


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """A network that settings can name.

    Attributes:
        build: Makes it, called with the keywords ``in_channels`` and ``embedding_dim``. A `Student` gets the
            weights of its convolutions and linear layers from the run's seed; any other module keeps its own.
        text: What it is, in a few words.
        family: What its layers are.
        front: What comes before the convolutions, a key of `FRONTS`; `ANY_FRONT` where only a trial can tell
            what it takes.
        dense: Whether it embeds each location of an image instead of the whole.
        folds_to: The row that folding its normalisation away makes of it at export; empty where there is
            none. (Standardised weights fold wherever they are.)
        weights_of: The shipped teacher whose weights it has or begins with, all but the projector; empty:
            the first ones are random.
    """

    build: Callable[..., nn.Module]
    text: str
    family: str
    front: str = "none"
    dense: bool = False
    folds_to: str = ""
    weights_of: str = ""


def convolutional(
    family: str, widths: tuple[int, int, int], *, text: str, front: str = "none", folds_to: str = ""
) -> Architecture:
    """Row of a `ConvStudent`."""
    build = partial(ConvStudent, family=family, widths=widths, front=front)
    return Architecture(build=build, text=text, family=family, front=front, folds_to=folds_to)


def dense(family: str, widths: tuple[int, int, int], *, decoder: int, text: str) -> Architecture:
    """Row of a `DenseStudent`."""
    build = partial(DenseStudent, family=family, widths=widths, decoder=decoder)
    return Architecture(build=build, text=text, family=family, dense=True)


def strings(trunk: Callable[[], ByteTrunk | NgramTrunk], *, text: str, family: str) -> Architecture:
    """Row of a `TextStudent`."""
    return Architecture(build=partial(TextStudent, trunk=trunk), text=text, family=family, front="bytes")


def letters(width_of_byte: int, widths: tuple[int, int]) -> Architecture:
    """Row of a student of convolutions along a string."""
    trunk = partial(ByteTrunk, width_of_byte=width_of_byte, widths=widths)
    return strings(trunk, text="for strings", family="ws")


def ngrams(num_rows: int, width: int) -> Architecture:
    """Row of a student of hashed n-grams."""
    trunk = partial(NgramTrunk, num_rows=num_rows, width=width)
    return strings(trunk, text="for strings, from a table of hashed n-grams", family="ngram")


def lite(build: Callable[..., Student], *, text: str, dense: bool = False) -> Architecture:
    """Row of a student that begins with the weights of EfficientNet-Lite0."""
    return Architecture(build=build, text=text, family="lite0", dense=dense, weights_of="imagenet")


WS = "weight-standardised, folds to plain convolutions"
PLAIN = "what folding makes of a gn-* student"
PRETRAINED = "first stages of EfficientNet-Lite0, pretrained"
RECORDINGS, PLACES = "for recordings", "for segmentation"
STUDENTS: dict[str, Architecture] = {
    "ws-50k": convolutional("ws", (12, 24, 36), text=WS),
    "ws-200k": convolutional("ws", (24, 48, 80), text=WS),
    "ws-1m": convolutional("ws", (48, 112, 184), text=WS),
    "gn-50k": convolutional("gn", (16, 24, 32), folds_to="plain-50k", text="with GroupNorm"),
    "gn-200k": convolutional("gn", (24, 48, 80), folds_to="plain-200k", text="with GroupNorm"),
    "gn-1m": convolutional("gn", (48, 112, 184), folds_to="plain-1m", text="with GroupNorm"),
    "plain-50k": convolutional("plain", (16, 24, 32), text=PLAIN),
    "plain-200k": convolutional("plain", (24, 48, 80), text=PLAIN),
    "plain-1m": convolutional("plain", (48, 112, 184), text=PLAIN),
    "audio-50k": convolutional("ws", (12, 24, 36), front="log-mel", text=RECORDINGS),
    "audio-200k": convolutional("ws", (24, 48, 80), front="log-mel", text=RECORDINGS),
    "text-50k": letters(16, (56, 48)),
    "text-200k": letters(32, (144, 120)),
    "ngram-1m": ngrams(16_381, 64),
    "ngram-4m": ngrams(65_521, 64),
    "seg-50k": dense("ws", (12, 20, 32), decoder=20, text=PLACES),
    "seg-200k": dense("ws", (24, 40, 64), decoder=48, text=PLACES),
    "lite0-s": lite(partial(LiteStudent, num_stages=5), text=PRETRAINED),
    "lite0-m": lite(partial(LiteStudent, num_stages=6), text=PRETRAINED),
    "seg-lite0-s": lite(partial(LiteDenseStudent, taps=(1, 2, 4), decoder=48), text=PLACES, dense=True),
}


def student_row(architecture: str) -> Architecture:
    """What is known of a student by its name; nothing is built or imported.

    Args:
        architecture: A key of `STUDENTS`, or what names a user's own student (``module:factory``,
            ``timm:NAME``, or ``<class>`` of an object).

    Raises:
        ConfigError: The architecture is unknown.
    """
    if is_own(architecture) or architecture.startswith("<"):
        return Architecture(
            build=partial(_from_factory, architecture),
            text="a network of a library" if is_backbone(architecture) else "a module of your own",
            family=architecture.partition(":")[0] if is_backbone(architecture) else "its maker's own",
            front=ANY_FRONT,
        )
    return choose(SETTING, architecture, STUDENTS)


def _from_factory(
    architecture: str, *, in_channels: int, embedding_dim: int, size: tuple[int, int] = DEFAULT_SIZE
) -> nn.Module:
    """The module that ``module:factory`` makes; it may ask for ``in_channels``, ``dim`` and ``size``.

    Of ``timm:NAME`` the network without its classifier.
    """
    if is_backbone(architecture):
        return build_backbone(SETTING, architecture, in_channels=in_channels, size=size)
    if architecture.startswith("<"):
        raise ConfigError(
            f"{SETTING}={architecture!r} stands for an object, and another one cannot be made from that"
            " name. Put it into a function, and set student.architecture to 'module:function'."
        )
    if architecture.startswith("onnx:"):
        raise ConfigError(
            f"{SETTING}={architecture!r}: a student is trained, which the graph of an ONNX file does not"
            " support. Give 'timm:NAME', or a 'module:function' that makes the network. An ONNX file can be"
            " the teacher (teacher.name)."
        )
    made = call_factory(
        SETTING, architecture, offered={"in_channels": in_channels, "dim": embedding_dim, "size": size}
    )
    if not isinstance(made, nn.Module):
        raise ConfigError(
            f"{SETTING}={architecture!r} made a {type(made).__name__}; allowed is a torch.nn.Module."
        )
    return made


def is_dense(architecture: str) -> bool:
    """Whether a student embeds each location of an image instead of the whole.

    Raises:
        ConfigError: The architecture is unknown.
    """
    return student_row(architecture).dense


def refuse_dense(architecture: str, *, what: str) -> None:
    """Refuse a dense student where one embedding of the whole image is looked at.

    Args:
        architecture: Name of a student, see `student_row`.
        what: What was asked for, at the start of a sentence.

    Raises:
        ConfigError: The student is dense, or unknown.
    """
    if is_dense(architecture):
        raise ConfigError(
            f"{what} needs one embedding per image, but student.architecture={architecture!r} has one for"
            " each location. Choose a student of the ws-* or gn-* families."
        )


def build_student(
    architecture: str,
    *,
    in_channels: int,
    embedding_dim: int,
    generator: torch.Generator,
    size: tuple[int, int] = DEFAULT_SIZE,
    weights: Path | None = None,
    batch_norm: str = AUTO,
    seen: tuple[float, float] = INK,
) -> Student:
    """Make a student whose initial weights depend on ``generator`` and ``weights`` alone.

    Args:
        architecture: A key of `STUDENTS`, ``timm:NAME``, ``torchvision:NAME`` or ``module:factory``.
        in_channels: Channels of the target modality.
        embedding_dim: Dimension of the teacher's feature.
        generator: Source of the initial weights.
        size: Height and width that a user's own module is tried on.
        weights: File with first weights, for those that are not of the table.
        batch_norm: As in `student`; a student of the table has none.
        seen: Offset and scale of its inputs, (value - offset) / scale, which pretrained weights are made for.

    Raises:
        ConfigError: The architecture is unknown, the factory or what it makes is not what it should be, or a
            student of the table is given a file.
        DataError: The file cannot be read, or is not of that network.

    Guarantees:
        Torch's own random state is as before, whatever a factory draws from it.
    """
    row, wanted = student_row(architecture), {"in_channels": in_channels, "embedding_dim": embedding_dim}
    how = batch_norm_of(batch_norm, architecture=architecture, weights=weights)
    with seeded(generator.initial_seed()):
        built = row.build(**wanted, **({"size": size} if row.front == ANY_FRONT else {}))
    if not isinstance(built, Student):
        found = load_first(built, weights, architecture) if weights is not None else None
        if is_backbone(architecture):
            built = pooled(built, (in_channels, *size))
        made: Student = project(
            built,
            architecture,
            in_channels=in_channels,
            dim=embedding_dim,
            size=size,
            generator=generator,
            batch_norm=how,
        )
        made.first_weights = found
        return made
    if weights is not None:
        raise ConfigError(
            f"{WEIGHTS}={str(weights)!r} is for networks of timm, torchvision and your own. First weights of"
            f" {SETTING}={architecture!r} are a file of `edgecmd warm-start`: set student.path."
        )
    built.architecture = architecture
    initialise(built, generator=generator)
    if row.weights_of:
        built.seen = seen
        for trunk in (one for one in built.modules() if isinstance(one, Trunk)):
            load_shipped(trunk, offset=seen[0], scale=seen[1])
    return built


def load_first(module: nn.Module, file: Path, name: str) -> Matched:
    """Put the weights of a file into a module, as far as they match.

    Raises:
        DataError: The file cannot be read, or is not of that network.
    """
    return load_matching(module, read_weights(WEIGHTS, file), setting=WEIGHTS, what=name)


def project(
    module: nn.Module,
    name: str,
    *,
    in_channels: int,
    dim: int,
    size: tuple[int, int],
    generator: torch.Generator,
    batch_norm: str = KEEP,
) -> Projected:
    """A user's own module as a student, tried on made-up inputs.

    Args:
        module: (B, C, H, W) to (B, F).
        name: What the student's file and messages call it.
        in_channels: C.
        dim: D.
        size: H and W.
        generator: Source of the projector's weights, where there is one.
        batch_norm: A key of `edgecmd.models.batch_norm.BATCH_NORM`.

    Raises:
        ConfigError: It is not an encoder of such inputs, or not what can be trained, saved and sent.
    """
    what = f"The student {name}" if name.startswith("<") else f"The student of {SETTING}={name!r}"
    shape = (in_channels, *size)
    wanted = f"inputs of the data's shape (edgecmd.student takes size=..., here it is {size})"
    width = try_out(module, shape, what=what, wanted=wanted, trained=True)
    how = batch_norm if any(norms_of(module)) else KEEP
    inner = convert(without_inplace(module), how, image=made_up(shape), what=what)
    if inner is not module:
        try_out(inner, shape, what=what, wanted=wanted, trained=True)
    with seeded(generator.initial_seed()):
        made = Projected(
            inner,
            num_features=width,
            in_channels=in_channels,
            embedding_dim=dim,
            size=size,
            batch_norm=how,
        )
    made.architecture = name
    initialise(made.projector, generator=generator)
    return made.train(module.training)


def initialise(module: nn.Module, *, generator: torch.Generator) -> None:
    """Draw weights of every convolution, linear layer and embedding from ``generator``; biases become 0.

    Rows of a table with more than a byte's begin next to zero: most are rarely met, or never, and what they
    began with would stand beside what others learn.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Embedding):
            std = 1.0 if layer.num_embeddings <= NUM_BYTES else FIRST_ROWS / layer.num_embeddings
            nn.init.normal_(layer.weight, std=std, generator=generator)


def num_parameters(student: Student) -> int:
    """Count the weights of ``student``, those that are held among them."""
    held = (student.get_buffer(name) for name in student.held)
    return sum(value.numel() for value in (*student.parameters(), *held))
