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

``audio-*`` are students of the first family that take a recording and look at its log-mel picture.

``seg-*`` are students of the first family with a decoder: an embedding for each place of the picture.

A student of anyone's own is any ``nn.Module`` from (B, C, H, W) to (B, F), as an object or as
``module:factory``; `student` makes a `Student` of each.

Shapes: B batch, C channels, H height, W width, F features of a module, D embedding dimension.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from edgecmd.core.errors import ConfigError, choose
from edgecmd.core.own_code import call_factory, is_own
from edgecmd.core.seeding import torch_generator
from edgecmd.data.modalities.log_mel import LogMel
from edgecmd.models.trial import channels_of, refuse_later, refuse_wide, seeded, sides_of, try_out
from edgecmd.settings import refuse_seed

# E[relu(x)^2] - E[relu(x)]^2 = (1 - 1/pi) / 2 for x ~ N(0, 1): this gain keeps the variance at 1.
RELU_GAIN = math.sqrt(2.0 / (1.0 - 1.0 / math.pi))
RESIDUAL_SCALE = 0.5
GROUP_SIZE = 8
# Side of a place of a dense student in pixels of its input, and what the input's sides are multiples of.
DENSE_STRIDE, INPUT_MULTIPLE = 4, 16


FRONTS: dict[str, Callable[[], nn.Module]] = {"none": nn.Identity, "log-mel": LogMel}
# Of a network of anyone's own, of which only a trial tells what it takes.
ANY_FRONT = "any"
# Height and width that a student of anyone's own is tried on where none is given.
DEFAULT_SIZE = (64, 64)
SETTING = "student.architecture"


class StandardisedConv2d(nn.Conv2d):
    """Convolution whose weight is standardised per output channel and scaled to keep variance.

    ``w = gain * (v - mean(v)) / (std(v) * sqrt(fan_in))``: a function of the parameters alone, so
    the exporter folds it to a plain convolution (scaled weight standardisation, arXiv 2101.08692).
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, padding=kernel_size // 2)
        self.gain = nn.Parameter(torch.ones(out_channels, 1, 1, 1))

    def standardised_weight(self) -> Float[Tensor, "out into height width"]:
        """Weight that the convolution applies."""
        fan_in = self.weight[0].numel()
        mean = self.weight.mean(dim=(1, 2, 3), keepdim=True)
        variance = (self.weight - mean).square().mean(dim=(1, 2, 3), keepdim=True)
        return self.gain * (self.weight - mean) * torch.rsqrt(variance * fan_in + 1e-8)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the base class names it so
        """Convolve ``input`` (B, C, H, W) with the standardised weight."""
        return functional.conv2d(
            input, self.standardised_weight(), self.bias, stride=self.stride, padding=self.padding
        )


class ScaledReLU(nn.Module):
    """ReLU times a constant that keeps the variance of a unit Gaussian input."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply elementwise."""
        return functional.relu(x) * RELU_GAIN


def _ws_conv(into: int, out: int, *, stride: int = 1) -> nn.Module:
    return nn.Sequential(StandardisedConv2d(into, out, 3, stride=stride), ScaledReLU())


def _gn_conv(into: int, out: int, *, stride: int = 1) -> nn.Module:
    convolution = nn.Conv2d(into, out, 3, stride=stride, padding=1, bias=False)
    groups = max(1, out // GROUP_SIZE) if out % GROUP_SIZE == 0 else 1
    return nn.Sequential(convolution, nn.GroupNorm(groups, out), nn.ReLU())


def _plain_conv(into: int, out: int, *, stride: int = 1) -> nn.Module:
    return nn.Sequential(nn.Conv2d(into, out, 3, stride=stride, padding=1), nn.ReLU())


FAMILIES: dict[str, Callable[..., nn.Module]] = {"ws": _ws_conv, "gn": _gn_conv, "plain": _plain_conv}


class Residual(nn.Module):
    """Two convolutions beside the identity: ``x + scale * f(x)``, ``scale`` learnt."""

    def __init__(self, conv: Callable[..., nn.Module], width: int) -> None:
        super().__init__()
        self.first = conv(width, width)
        self.second = conv(width, width)
        self.scale = nn.Parameter(torch.tensor(RESIDUAL_SCALE))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        inner: Tensor = self.second(self.first(x))
        return x + self.scale * inner


class Student(nn.Module):
    """What every student is: (B, C, H, W) to (B, D), of a dense one (B, D, rows, columns); not normalised.

    Args:
        in_channels: Channels of the target modality, C.
        embedding_dim: Dimension of the teacher's feature, D.

    Attributes:
        architecture: A key of `STUDENTS` or ``module:factory``; of an object without a name ``<its class>``.
        size: Height and width that it was tried on; None for students that take every size.
        projector: Its last layer, which `DistillConfig.freeze_projector` is about; ``nn.Identity`` where the
            layer that gives the embedding is somewhere inside.
        open_seed: Seed of its first weights where it was made by name without saying for which inputs; see
            `fitted`.
        origin: What a trained one was distilled on, for `edgecmd.export` and `edgecmd.evaluate`.
    """

    architecture: str = ""
    size: tuple[int, int] | None = None
    projector: nn.Module
    open_seed: int | None = None
    origin: object | None = None

    def __init__(self, *, in_channels: int, embedding_dim: int) -> None:
        super().__init__()
        self.in_channels, self.embedding_dim = in_channels, embedding_dim


class ConvStudent(Student):
    """Convolutional encoder.

    Args:
        family: Of its convolutions, a key of `FAMILIES`.
        widths: Channels of each stage.
        front: What stands before the convolutions, a key of `FRONTS`.
        in_channels: As of `Student`.
        embedding_dim: As of `Student`.
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
        if front == "log-mel" and in_channels != 1:
            raise ConfigError(
                f"A student of recordings takes 1 channel, not {in_channels}; for pictures set"
                " student.architecture to one of the ws-* or gn-* students."
            )
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
        pooled = torch.cat([features.mean(dim=(2, 3)), features.amax(dim=(2, 3))], dim=1)
        embedding: Tensor = self.projector(pooled)
        return embedding


class Pointwise(nn.Conv2d):
    """The same linear map at every place: a 1x1 convolution with the names of `torch.nn.Linear`."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, 1)
        self.in_features, self.out_features = in_features, out_features


class DenseStudent(ConvStudent):
    """Convolutional encoder with a light decoder: an embedding for each square of `DENSE_STRIDE` pixels.

    The trunk is that of `ConvStudent`. The decoder enlarges its coarsest map twice, each time beside the
    trunk's map of that size (Ronneberger et al. 2015, arXiv 1505.04597).

    Args:
        family: As of `ConvStudent`.
        widths: As of `ConvStudent`.
        decoder: Channels of the decoder.
        in_channels: As of `Student`.
        embedding_dim: Dimension of the teacher's feature at a place, D.
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
        """Embed each place of a batch whose sides are multiples of `INPUT_MULTIPLE`; not normalised."""
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


class Projected(Student):
    """A module of anyone's own as a student: behind it a linear projector, where its width is not D.

    Args:
        module: (B, C, H, W) to (B, F); its weights are left as they are, and training changes it.
        num_features: F.
        in_channels: As of `Student`.
        embedding_dim: As of `Student`.
        size: Height and width that it was tried on.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        num_features: int,
        in_channels: int,
        embedding_dim: int,
        size: tuple[int, int],
    ) -> None:
        super().__init__(in_channels=in_channels, embedding_dim=embedding_dim)
        self.size = size
        self.backbone = module
        same = num_features == embedding_dim
        self.projector = nn.Identity() if same else nn.Linear(num_features, embedding_dim)

    def forward(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch dim"]:
        """Embed a batch of inputs, see `edgecmd.data.student_input.target_input`."""
        embedding: Tensor = self.projector(self.backbone(image))
        return embedding


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """A network that settings can name.

    Attributes:
        build: Makes it, called with the keywords ``in_channels`` and ``embedding_dim``. A `Student` gets the
            weights of its convolutions and linear layers from the run's seed; any other module keeps its own.
        text: What it is, in a few words.
        family: What its layers are.
        front: What stands before the convolutions, a key of `FRONTS`; `ANY_FRONT` where only a trial can tell
            what it takes.
        dense: Whether it embeds each place of a picture instead of the whole.
        folds_to: The row that folding its normalisation away makes of it at export; empty where there is
            none. (Standardised weights fold wherever they are.)
        weights_of: The shipped teacher whose weights it has, all but the projector; empty: it is trained.
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


WS = "weight-standardised, folds to plain convolutions"
PLAIN = "what folding makes of a gn-* student"
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
    "seg-50k": dense("ws", (12, 20, 32), decoder=20, text=PLACES),
    "seg-200k": dense("ws", (24, 40, 64), decoder=48, text=PLACES),
}


def student_row(architecture: str) -> Architecture:
    """What is known of a student by its name; nothing is built or imported.

    Args:
        architecture: A key of `STUDENTS`, or what names a student of anyone's own (``module:factory``, or
            ``<class>`` of an object).

    Raises:
        ConfigError: The architecture is unknown.
    """
    if is_own(architecture) or architecture.startswith("<"):
        return Architecture(
            build=partial(_from_factory, architecture),
            text="a module of your own",
            family="its maker's own",
            front=ANY_FRONT,
        )
    return choose(SETTING, architecture, STUDENTS)


def _from_factory(
    architecture: str, *, in_channels: int, embedding_dim: int, size: tuple[int, int] = DEFAULT_SIZE
) -> nn.Module:
    """The module that ``module:factory`` makes; it may ask for ``in_channels``, ``dim`` and ``size``."""
    if architecture.startswith("<"):
        raise ConfigError(
            f"{SETTING}={architecture!r} stands for an object, which has no name to make another one by. Put"
            " it into a function, and set student.architecture to 'module:function'."
        )
    refuse_later(SETTING, architecture)
    made = call_factory(
        SETTING, architecture, offered={"in_channels": in_channels, "dim": embedding_dim, "size": size}
    )
    if not isinstance(made, nn.Module):
        raise ConfigError(
            f"{SETTING}={architecture!r} made a {type(made).__name__}; allowed is a torch.nn.Module."
        )
    return made


def is_dense(architecture: str) -> bool:
    """Whether a student embeds each place of a picture instead of the whole.

    Raises:
        ConfigError: The architecture is unknown.
    """
    return student_row(architecture).dense


def refuse_dense(architecture: str, *, what: str) -> None:
    """Refuse a dense student where one embedding of the whole picture is looked at.

    Args:
        architecture: Name of a student, see `student_row`.
        what: What was asked for, at the start of a sentence.

    Raises:
        ConfigError: The student is dense, or unknown.
    """
    if is_dense(architecture):
        raise ConfigError(
            f"{what} looks at one embedding a picture, and student.architecture={architecture!r} has one for"
            " each place. Choose a student of the ws-* or gn-* families."
        )


def student(
    spec: str | nn.Module,
    *,
    dim: int,
    in_channels: int | None = None,
    size: int | tuple[int, int] | None = None,
    seed: int = 0,
) -> Student:
    """A student by its name, or of any module.

    What is left out of ``in_channels`` and ``size`` is made to fit the task that the student is trained on.

    Args:
        spec: A key of `STUDENTS`; ``module:factory``, whose factory may ask for ``in_channels``, ``dim`` and
            ``size`` by these names; or a module (B, C, H, W) to (B, F). Training changes a module that is
            given; to begin anew, give a copy.
        dim: Dimension of the teacher's feature, D. Where F is another, a linear projector is put behind.
        in_channels: C: 1 for grey pictures and recordings, 3 for RGB, 2 for depth with its mask. None: those
            of the first convolution of a module, else 1.
        size: Height and width of the inputs, one number where they are equal; of recordings (1, samples).
            None: 64 pixels.
        seed: Of the first weights; those of a module that is given stay, but for the projector.

    Raises:
        ConfigError: No student has that name, the factory cannot be imported or fails, or the module is no
            encoder of such inputs; the message has what is wrong with it and the way out.

    Examples:
        >>> student("ws-50k", dim=8)(torch.zeros(2, 1, 64, 64)).shape
        torch.Size([2, 8])
        >>> own = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> student(own, dim=8)(torch.zeros(2, 1, 64, 64)).shape
        torch.Size([2, 8])
    """
    refuse_wide(dim=dim, in_channels=1 if in_channels is None else in_channels)
    refuse_seed(seed)
    sides = sides_of(size, default=DEFAULT_SIZE)
    generator = torch_generator(seed, "student-init")
    if isinstance(spec, Student):
        return _same_shape(spec, in_channels=in_channels or spec.in_channels, dim=dim)
    if isinstance(spec, str):
        made = build_student(
            spec, in_channels=in_channels or 1, embedding_dim=dim, generator=generator, size=sides
        )
        made.open_seed = seed if in_channels is None else None
        return made
    channels = in_channels or channels_of(spec)
    return project(
        spec, f"<{type(spec).__name__}>", in_channels=channels, dim=dim, size=sides, generator=generator
    )


def fitted(made: Student, *, in_channels: int, size: tuple[int, int], dim: int) -> Student:
    """A student for the inputs of a task: ``made`` itself, or the same made anew where that was left open.

    Args:
        made: Of `student`.
        in_channels: C of the task.
        size: Height and width of the task's inputs.
        dim: D of the task's teacher.

    Raises:
        ConfigError: It takes other inputs or gives another width, and its weights were loaded or trained, or
            its channels were asked for.
    """
    if (made.in_channels, made.size or size) == (in_channels, size) or made.embedding_dim != dim:
        return _same_shape(made, in_channels=in_channels, dim=dim)
    if made.open_seed is not None and _is_new(made):
        return student(made.architecture, dim=dim, in_channels=in_channels, size=size, seed=made.open_seed)
    if isinstance(made, Projected):
        shape, what = (in_channels, *size), f"The student {made.architecture}"
        width = try_out(made.backbone, shape, what=what, wanted="inputs of the task's shape", trained=True)
        if isinstance(made.projector, nn.Linear) and width != made.projector.in_features:
            raise ConfigError(
                f"{what} gives {width} numbers for inputs of shape {shape}, and"
                f" {made.projector.in_features} for those that it was made with. Make it with in_channels="
                f"{in_channels} and size={size}."
            )
        made = copy.copy(made)
        made.in_channels, made.size = in_channels, size
    return _same_shape(made, in_channels=in_channels, dim=dim)


def _is_new(made: Student) -> bool:
    """Whether the weights are those that the student was made with."""
    first = build_student(
        made.architecture,
        in_channels=made.in_channels,
        embedding_dim=made.embedding_dim,
        generator=torch_generator(made.open_seed or 0, "student-init"),
        size=made.size or DEFAULT_SIZE,
    ).state_dict()
    own = made.state_dict()
    return own.keys() == first.keys() and all(torch.equal(own[name].cpu(), first[name]) for name in own)


def _same_shape(made: Student, *, in_channels: int, dim: int) -> Student:
    if (made.in_channels, made.embedding_dim) != (in_channels, dim):
        raise ConfigError(
            f"The student {made.architecture} takes {made.in_channels} channels and gives"
            f" {made.embedding_dim} numbers, but in_channels={in_channels} and dim={dim} are asked for. Make"
            " one with these."
        )
    made.architecture = made.architecture or f"<{type(made).__name__}>"
    return made


def build_student(
    architecture: str,
    *,
    in_channels: int,
    embedding_dim: int,
    generator: torch.Generator,
    size: tuple[int, int] = DEFAULT_SIZE,
) -> Student:
    """Make a student whose initial weights depend on ``generator`` alone.

    Args:
        architecture: A key of `STUDENTS`, or ``module:factory``.
        in_channels: Channels of the target modality.
        embedding_dim: Dimension of the teacher's feature.
        generator: Source of the initial weights.
        size: Height and width that a module of anyone's own is tried on.

    Raises:
        ConfigError: The architecture is unknown, or the factory or what it makes is not what it should be.

    Guarantees:
        Torch's own random state is as before, whatever a factory draws from it.
    """
    row, wanted = student_row(architecture), {"in_channels": in_channels, "embedding_dim": embedding_dim}
    with seeded(generator.initial_seed()):
        made = row.build(**wanted, **({"size": size} if row.front == ANY_FRONT else {}))
    if not isinstance(made, Student):
        return project(
            made, architecture, in_channels=in_channels, dim=embedding_dim, size=size, generator=generator
        )
    made.architecture = architecture
    initialise(made, generator=generator)
    return made


def project(
    module: nn.Module,
    name: str,
    *,
    in_channels: int,
    dim: int,
    size: tuple[int, int],
    generator: torch.Generator,
) -> Projected:
    """A module of anyone's own as a student, tried on two made-up inputs.

    Args:
        module: (B, C, H, W) to (B, F).
        name: What the student's file and messages call it.
        in_channels: C.
        dim: D.
        size: H and W.
        generator: Source of the projector's weights, where there is one.

    Raises:
        ConfigError: It is no encoder of such inputs, or not what can be trained, saved and sent.
    """
    what = f"The student {name}" if name.startswith("<") else f"The student of {SETTING}={name!r}"
    shape = (in_channels, *size)
    wanted = f"inputs of the data's shape (edgecmd.student takes size=..., here it is {size})"
    width = try_out(module, shape, what=what, wanted=wanted, trained=True)
    with seeded(generator.initial_seed()):
        made = Projected(module, num_features=width, in_channels=in_channels, embedding_dim=dim, size=size)
    made.architecture = name
    initialise(made.projector, generator=generator)
    return made


def initialise(module: nn.Module, *, generator: torch.Generator) -> None:
    """Draw weights of every convolution and linear layer from ``generator``; biases become zero."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def num_parameters(module: nn.Module) -> int:
    """Count the trainable numbers of ``module``."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
