"""Settings of each part of a run: frozen dataclasses, each field with its meaning and unit.

The part that owns a section takes it as an argument. All of them together, `edgecmd.config.schema.RunConfig`,
are seen by nothing below the edge. Choices that come from a table (losses, students, strategies) are checked
where the table is, so that this module imports nothing heavy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from numbers import Integral, Real
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from annotated_types import Interval, MultipleOf

from edgecmd.catalogue.data_sets import source_side
from edgecmd.core.errors import ConfigError
from edgecmd.core.text import printable

STORES = ("auto", "always", "never")
NO_LICENCE = "unspecified"
COPIES = ("auto", "join", "leave-out")
FITS = SQUEEZE, CROP, PAD = ("squeeze", "crop", "pad")
PRECISIONS = ("float32", "bf16")


class _Section:
    """What all sections share: a setting outside the range beside its type is refused by name."""

    __slots__ = ()

    def __post_init__(self) -> None:
        own: Any = type(self)
        section = own.__name__.removesuffix("Config").lower()
        for name, (kind, marks, is_many) in _marks(own).items():
            value = getattr(self, name)
            for item in value if is_many and isinstance(value, tuple | list) else (value,):
                _check(f"{section}.{name}", item, kind=kind, marks=marks)
        self._check_together()

    def _check_together(self) -> None:
        """What must hold beside ranges, and between settings."""


@cache
def _marks(section: type[Any]) -> dict[str, tuple[type, Sequence[Any], bool]]:
    """Kind of number, range and step of each setting that has them, and whether they are of each item."""
    found = {}
    for name, hint in get_type_hints(section, include_extras=True).items():
        is_many = get_origin(hint) is tuple
        item = get_args(hint)[0] if is_many else hint
        if get_origin(item) is Annotated:
            found[name] = (item.__origin__, item.__metadata__, is_many)
    return found


def _check(setting: str, value: Any, *, kind: type, marks: Sequence[Any]) -> None:  # noqa: ANN401 - of a caller
    """Refuse a value that its annotation does not allow.

    Raises:
        ConfigError: The message names setting and value, and what is allowed.
    """
    if isinstance(value, bool) or not isinstance(value, Integral if kind is int else Real):
        expected = "a whole number, such as 5" if kind is int else "a number, such as 0.5"
        raise ConfigError(f"{setting}={value!r} is of type {type(value).__name__}; expected {expected}.")
    for mark in marks:
        if isinstance(mark, MultipleOf):
            if value % mark.multiple_of:
                raise ConfigError(f"{setting}={value} must be a multiple of {mark.multiple_of}.")
        elif not mark.ge <= value <= mark.le:
            raise ConfigError(f"{setting}={value} is outside the allowed range [{mark.ge:g}, {mark.le:g}].")


def refuse_outside(name: str, value: Any, *, least: float | int, most: float | int, kind: type = int) -> None:  # noqa: ANN401 - of a caller
    """Refuse an argument that is no number of a kind between two others, as a setting would be.

    Raises:
        ConfigError: The message names argument and value, and what is allowed.
    """
    _check(name, value, kind=kind, marks=[Interval(ge=least, le=most)])


def refuse_other(name: str, value: object, *wanted: type, what: str) -> None:
    """Refuse an argument of another type.

    Raises:
        ConfigError: The message names argument and type, and what is allowed.
    """
    if not isinstance(value, wanted):
        raise ConfigError(f"{name} is of type {type(value).__name__}; allowed is {what}.")


def refuse_licence(name: str, value: str) -> None:
    """Refuse a licence that no tool which reads the files would know.

    Args:
        name: Of the setting or argument, for messages.
        value: `NO_LICENCE`, an SPDX name, an expression of them, or ``LicenseRef-`` with a name of one's own.

    Raises:
        ConfigError: It is nothing of the kind.
    """
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    if value == NO_LICENCE:
        return
    try:
        # It would take a newline for a blank.
        canonicalize_license_expression(value if printable(value) == value else "")
    except InvalidLicenseExpression:
        raise ConfigError(
            f"{name}={value!r} is no licence that has an SPDX name. Write one, such as Apache-2.0 or"
            f" CC-BY-4.0, LicenseRef-<a name of yours> for any other, or {NO_LICENCE!r}."
        ) from None


def refuse_seed(seed: Any) -> None:  # noqa: ANN401 - of a caller
    """Refuse what is no seed of a run.

    Raises:
        ConfigError: It is no whole number of 0 to 2^31 - 1.
    """
    _check("seed", seed, kind=int, marks=())
    if not 0 <= seed < 2**31:
        raise ConfigError(f"seed={seed} is outside the allowed range [0, {2**31 - 1}].")


def as_float(value: object) -> Any:  # noqa: ANN401 - of a caller
    """A number as a float; anything else as it is, for a section to refuse by name."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    return float(value)


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig(_Section):
    """Which pairs, and how they are cut into training, validation and test."""

    name: str = "emoji"
    """Built in: ``emoji``, ``objects``, ``rooms`` and ``emoji-scenes`` (the last two with masks). Once built:
    ``digits``, ``stamps``, ``emoji-full``. ``folder`` for your own pairs under ``data.path``; or a public set
    that lies there: sketchy, tuberlin, sunrgbd, nyu, vggsound. ``module:factory`` for pairs that your own
    code makes: an Experiment; it gets those of these settings that it names as parameters."""
    path: str = ""
    """For ``folder``: a folder with source/ and target/, or one .npz. For ``rooms`` and ``objects``: a larger
    set that ``edgecmd data build rooms`` made in a checkout; empty: the one that ships. Else where the public
    set lies."""
    source_path: str = ""
    """Folder of photographs, a folder a class, for ``tuberlin``, which has sketches alone."""
    max_pairs: Annotated[int, Interval(ge=0, le=100_000_000)] = 0
    """Of the pairs at ``data.path`` at most so many are used, drawn by a hash of their ids; 0: all."""
    store: str = "auto"
    """Where pairs of ``data.path``, their masks and your own public images lie once they are read: ``never``,
    in memory; ``always``, in a store on the disk below EDGECMD_CACHE, from which each batch is read;
    ``auto``, there if they take more than 64 MB. The results are the same."""
    num_threads: Annotated[int, Interval(ge=0, le=64)] = 0
    """Threads that decode files while a store is made, each with one row in memory; 0: as many as there are
    cores, at most 4. The store is the same."""
    public_path: str = ""
    """Folder of public source images; empty: <data.path>/public, or the built-in public set."""
    image_size: Annotated[int, Interval(ge=16, le=512), MultipleOf(16)] = 64
    """Side of a target image in pixels; larger ones are averaged down. A multiple of 16."""
    source_size: Annotated[int, Interval(ge=0, le=512), MultipleOf(16)] = 0
    """Side of a source image in pixels, a multiple of 16; 0: 32 for ``digits``, which
    its teacher was trained on, else image_size."""
    fit: str = SQUEEZE
    """What is done with pictures, depth maps and masks that are not square, of both halves alike and in the
    exported file: squeeze (both sides to the size wanted), crop (the middle square is kept), pad (the whole
    is kept in a square whose border is white, of depth missing, of masks ignored)."""
    target_offset: float = 1.0
    """Value of the target (0 black, 1 white) that the student sees as zero; 1 for ink on white paper."""
    target_scale: float = -0.5
    """The student sees (value - target_offset) / target_scale; not 0."""
    target_kind: str = "auto"
    """What targets are: grey, rgb, depth or wave; auto: what the files of the set are. A device with pairs of
    its own never looks: it leaves out, pair by pair, what is of another kind than the student takes."""
    sampling_rate_hz: Annotated[int, Interval(ge=4000, le=48_000)] = 8000
    """Rate that recordings are resampled to. The bands, window and hop of audio-* students scale with it:
    at 8000 they reach from 60 Hz to 4 kHz, see 32 ms and move by 16 ms."""
    clip_s: Annotated[float, Interval(ge=0.1, le=30.0)] = 1.0
    """Seconds of a recording that are kept, from its first sound on; shorter ones end in silence."""
    depth_scale_mm: Annotated[float, Interval(ge=1e-3, le=1000)] = 1.0
    """Millimetres that one unit of a 16-bit depth file stands for: 0.2 for 5000 units a metre, 1 for mm."""
    depth_max_m: Annotated[float, Interval(ge=0, le=65.535)] = 0.0
    """Metres beyond which a depth counts as missing; 0: 65.535, the most that is stored."""
    split: str = "concept"
    """What no two parts share: concept, or owner (an unseen person, device or language); for ``folder`` and
    ``stamps``. For ``stamps`` also pair: names in languages that training has."""
    held_out: str = ""
    """Owners for testing, separated by commas. Empty: for ``folder`` those that a hash names, for
    ``digits`` the last speaker by name."""
    labels_from: str = ""
    """Owners of the validation part, which few labels are drawn from; empty: a part of the others' pairs.
    The same as held_out: a part of their own, as when a new person says each word once."""
    val_fraction: Annotated[float, Interval(ge=0.01, le=0.9)] = 0.1
    """Share of the concepts (or owners) for choosing settings and for labels (``folder``, ``stamps``)."""
    test_fraction: Annotated[float, Interval(ge=0.01, le=0.9)] = 0.2
    """Share of the concepts (or owners) for testing (``folder``, ``stamps``)."""
    scenes: tuple[Annotated[int, Interval(ge=2, le=1_000_000)], ...] = (800, 200, 200, 800)
    """Scenes of ``emoji-scenes``: for training, for labels, for the test, and public ones."""
    scene_seed: Annotated[int, Interval(ge=0, le=2**31 - 1)] = 0
    """Of the layout of ``emoji-scenes``."""
    depth_noise: Annotated[float, Interval(ge=0, le=1000)] = 0.0
    """Simulated sensor of ``rooms`` and ``objects``: standard deviation at 1 m in mm; it grows with the
    square of the distance. The first Kinect had about 1.4."""
    depth_holes: Annotated[float, Interval(ge=0, le=1)] = 0.0
    """Simulated sensor: probability that a pixel at an edge, or on a surface seen sideways, is missing."""
    reverse: bool = False
    """Teach the other way: the teacher takes what is else the target, the student the picture. For
    ``digits``, ``folder`` and public sets at ``data.path``; the public set is then of its kind."""
    strict: bool = True
    """Leave out of the strict test what is a copy of a training pair or looks like a training target."""
    copies: str = "auto"
    """Of a user's pairs, where the split follows concepts: join (copies share a part), leave-out (training
    copies of held-out pairs are left out, so that no pair moves another, as privacy needs), auto (leave-out
    under privacy, else join)."""

    def _check_together(self) -> None:
        if self.store not in STORES:
            raise ConfigError(f"data.store={self.store!r} is unknown. Allowed: {', '.join(STORES)}.")
        if self.copies not in COPIES:
            raise ConfigError(f"data.copies={self.copies!r} is unknown. Allowed: {', '.join(COPIES)}.")
        if self.fit not in FITS:
            raise ConfigError(f"data.fit={self.fit!r} is unknown. Allowed: {', '.join(FITS)}.")
        if self.reverse and self.source_side != self.image_size:
            raise ConfigError(
                f"data.reverse=true makes the source's pictures, of side {self.source_side}, the targets: set"
                f" data.image_size={self.source_side}, or data.source_size to the same number."
            )
        if self.target_scale == 0:
            raise ConfigError("data.target_scale=0 would divide by zero; use -0.5 for ink on white paper.")
        if self.val_fraction + self.test_fraction >= 0.95:
            raise ConfigError(
                f"data.val_fraction={self.val_fraction} and data.test_fraction={self.test_fraction} leave"
                " less than 0.05 for training; lower one of them."
            )

    @property
    def source_side(self) -> int:
        """Side of a source image in pixels."""
        return self.source_size or source_side(self.name, image_size=self.image_size)


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherConfig(_Section):
    """The frozen teacher of the source modality."""

    name: str = ""
    """A teacher that ships: ``imagenet`` (EfficientNet-Lite0, trained with the labels of ImageNet), ``icons``
    or ``indoor`` (SimCLR on the public pictures of ``emoji`` or ``rooms``); timm:NAME or torchvision:NAME
    with ``weights``; onnx:FILE; module:factory, code of your own that makes one; several of these with
    commas, side by side; empty: that of the data set."""
    path: str = ""
    """A .safetensors file made by ``edgecmd pretrain``, in place of one that ships."""
    weights: str = ""
    """For timm: and torchvision:, the file of the network's weights, .safetensors or .pth; nothing is
    fetched. With commas one for each of them, in their order."""
    size: Annotated[int, Interval(ge=0, le=4096)] = 0
    """Side in pixels to which pictures are brought for a network of your own (timm:, torchvision:, onnx:,
    module:factory); 0: that of its published weights or of the file, else as they are."""
    mean: tuple[Annotated[float, Interval(ge=-1000, le=1000)], ...] = ()
    """Mean of red, green and blue that such a network was trained with, on the scale of 0 to 1; empty: that
    of its published weights, else 0."""
    std: tuple[Annotated[float, Interval(ge=1e-6, le=1000)], ...] = ()
    """The same for the standard deviation; empty: that of its published weights, else 1. For a network that
    takes 0 to 255 write 0.00392157 three times."""
    crop: Annotated[float, Interval(ge=0, le=1)] = 0.0
    """Share of height and width, about the middle, that such a network sees; 0: that which its published
    weights were tested with, else all."""
    output: str = ""
    """Of an ONNX file with several outputs, the one that is the feature."""
    pca_dim: Annotated[int, Interval(ge=0, le=65_536)] = 0
    """Dimensions to which teachers side by side, or one, are brought: principal components of the public
    pictures, of unit features; 0: all numbers as they are."""
    map_dim: Annotated[int, Interval(ge=2, le=4096)] = 64
    """Dimension of the teacher's feature at a place, for seg-* students."""
    map_zoom: Annotated[int, Interval(ge=1, le=8)] = 2
    """How much larger than the source image the teacher sees it where places are asked for (seg-*)."""
    pair_features: str = ""
    """Ready teacher features of the pairs: .npz with ``ids`` and ``features`` (rows, dim); or .npy beside
    <name>.ids.txt, an id a line. An id is a file name, with or without its ending."""
    public_features: str = ""
    """The same of the public images, from the same teacher; ids are their file names, of the built-in public
    set its keys (``edgecmd.config.assemble.Assembly().experiment(config.data).public.keys``)."""

    def _check_together(self) -> None:
        if self.name and self.path:
            raise ConfigError(
                f"teacher.name={self.name!r} and teacher.path={self.path!r} name two teachers. Set one."
            )
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (0, 3):
                raise ConfigError(
                    f"teacher.{name}={list(values)} has {len(values)} numbers. Give three, for red, green and"
                    " blue, or none."
                )
        prepared = ("weights", "size", "mean", "std", "crop", "output", "pca_dim")
        idle = [name for name in prepared if getattr(self, name)]
        if self.pair_features and idle:
            raise ConfigError(
                f"teacher.pair_features holds ready features, so teacher.{idle[0]} says nothing. Leave one"
                " out."
            )
        if bool(self.pair_features) != bool(self.public_features):
            raise ConfigError(
                "teacher.pair_features and teacher.public_features go together:"
                " the anchors must come from the teacher that made the pair features. Set both or none."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainConfig(_Section):
    """Step 1: SimCLR on the public source set (``edgecmd pretrain``)."""

    architecture: str = "gn-teacher"
    """Architecture of the teacher. ``efficientnet-lite0`` is that of the shipped teacher ``imagenet``: its
    projector is fitted to the public pictures, and what is set here for SimCLR is not used."""
    embedding_dim: Annotated[int, Interval(ge=2, le=65_536)] = 128
    """Dimension of the teacher's feature."""
    num_steps: Annotated[int, Interval(ge=1, le=10_000_000)] = 1000
    """Optimiser steps."""
    batch_size: Annotated[int, Interval(ge=2, le=65_536)] = 256
    """Images a step; each gives two views."""
    learning_rate: Annotated[float, Interval(ge=0, le=10)] = 2e-3
    """Peak of a one-cycle schedule, AdamW."""
    weight_decay: Annotated[float, Interval(ge=0, le=10)] = 1e-4
    """Of AdamW."""
    temperature: Annotated[float, Interval(ge=1e-4, le=100)] = 0.2
    """Of NT-Xent."""
    line_share: Annotated[float, Interval(ge=0, le=1)] = 0.0
    """Share of the views that are reduced to outlines, so that the teacher looks at shape."""
    ink_share: Annotated[float, Interval(ge=0, le=1)] = 0.0
    """Share of the views that are reduced to black and white areas."""
    positives: str = "picture"
    """What two views are of: the same picture, or pictures of the same thing (``thing``: public keys that
    are equal up to the last slash, as those of ``rooms`` and ``objects``)."""
    seed: Annotated[int, Interval(ge=0, le=2**31 - 1)] = 0
    """Of weights, batches and views."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentConfig(_Section):
    """The small student of the target modality."""

    architecture: str = "ws-200k"
    """ws-50k, ws-200k, ws-1m (weight-standardised, fold to plain convolutions); gn-50k, gn-200k, gn-1m;
    lite0-s, lite0-m (pretrained on photographs, for 64 pixels and more); audio-50k, audio-200k for
    recordings; seg-50k, seg-200k, seg-lite0-s (pretrained) for segmentation; timm:NAME or torchvision:NAME,
    a network of these libraries, of which nothing is downloaded; or module:factory, code of your own that
    makes any module."""
    path: str = ""
    """First weights: a .safetensors file of ``edgecmd warm-start``; empty: random ones."""
    weights: str = ""
    """First weights of timm:, torchvision: and own students from elsewhere: a .safetensors file, or a .pth
    file of torch.save(network.state_dict(), path). What both have is taken, the classifier is left over, and
    weights for RGB are adapted to other channels. In a federation the server reads it."""
    batch_norm: str = "auto"
    """Batch normalisation of timm:, torchvision: and own students. freeze: its statistics stay as they are,
    scale and shift are trained. fold: it becomes a part of the convolution before it (else freeze). group:
    GroupNorm in its place. keep: as it was built, statistics averaged with the weights; not with a guarantee
    per pair. auto: freeze with student.weights, else group for timm: and torchvision:, keep for own code."""
    trainable: str = "all"
    """What training changes: all weights; or last, the last block and the projector, the rest stays as it
    began. Under privacy fewer numbers take noise then. It wants first weights that know something: lite0-*,
    student.path or student.weights."""

    def _check_together(self) -> None:
        if self.path and self.weights:
            raise ConfigError(
                f"student.path={self.path!r} and student.weights={self.weights!r} both name first weights."
                " Leave one of them empty."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillConfig(_Section):
    """Step 2, a client's local work."""

    loss: str = "auto"
    """auto (the loss of privacy.mechanism; cmc where there is none), a name of docs/method.md such as cmc,
    cmc+cmd, cmc-anchored or l2, or a loss of your own as module:factory."""
    temperature: Annotated[float, Interval(ge=1e-4, le=100)] = 0.1
    """Of student similarities."""
    teacher_temperature: Annotated[float, Interval(ge=1e-4, le=100)] = 0.1
    """Of teacher similarities in cmd and cmd-anchored."""
    baseline_temperature: Annotated[float, Interval(ge=0, le=100)] = 0.0
    """Of student similarities in seed and crd; 0: that of their authors."""
    cmd_weight: Annotated[float, Interval(ge=0, le=1e6)] = 1.0
    """Weight of cmd in cmc+cmd."""
    num_anchors: Annotated[int, Interval(ge=1, le=1_000_000)] = 1024
    """Public teacher features used as negatives by the anchored losses."""
    anchors: str = "public"
    """Where anchors come from: public (pictures of the public set), procedural (made-up pictures), random."""
    batch_size: Annotated[int, Interval(ge=2, le=65_536)] = 64
    """Pairs a step; a client with fewer uses all of them. Under record-level privacy the divisor of a sum."""
    learning_rate: Annotated[float, Interval(ge=0, le=100)] = 1e-2
    """Peak; decays over the rounds with ``schedule``."""
    central_learning_rate: Annotated[float, Interval(ge=0, le=100)] = 1e-2
    """Peak in central training: no averaging over clients takes the noise out of larger steps there."""
    schedule: str = "cosine"
    """cosine or constant, over the rounds."""
    weight_decay: Annotated[float, Interval(ge=0, le=100)] = 0.0
    """Of AdamW."""
    optimizer: str = "adamw"
    """adamw or sgd (momentum 0.9)."""
    keep_optimizer: bool = False
    """Keep the optimiser's state on the client between rounds (it never leaves the client)."""
    augment: Annotated[float, Interval(ge=0, le=4)] = 1.0
    """Strength of the target's augmentation, 0 for none."""
    num_locations: Annotated[int, Interval(ge=1, le=65_536)] = 32
    """Places of each pair that the loss looks at, for seg-* students."""
    proximal_mu: Annotated[float, Interval(ge=0, le=1e6)] = 0.0
    """Weight of the FedProx term, half the squared distance to the round's global weights."""
    freeze_projector: bool = False
    """Keep the projector's first weights, which all clients share: their embeddings then have one frame."""
    precision: str = "float32"
    """Of the student in training: float32, or bf16, in which its layers compute with numbers of 8 bits.
    Loss, weights, averages, evaluation and export stay float32. Not with a guarantee per pair."""

    def _check_together(self) -> None:
        if self.precision not in PRECISIONS:
            raise ConfigError(
                f"distill.precision={self.precision!r} is unknown. Allowed: {', '.join(PRECISIONS)}."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class PrivacyConfig(_Section):
    """Differential privacy of what leaves a client, or, for ``client``, of what leaves the server."""

    mechanism: str = "none"
    """none; for each pair: anchors, cosine, groups; for each whole client, with a trusted server: client."""
    epsilon: Annotated[float, Interval(ge=1e-3, le=1e3)] = 8.0
    """Budget over all rounds of a data set, which no client exceeds; also what the noise is made for."""
    delta: Annotated[float, Interval(ge=1e-15, le=0.1)] = 1e-5
    """Probability beside epsilon; far below 1 / pairs of a client."""
    noise_multiplier: Annotated[float, Interval(ge=0, le=1e6)] = 0.0
    """Noise in units of the sensitivity; 0: the least that keeps the run within epsilon."""
    clip: Annotated[float, Interval(ge=1e-6, le=1e6)] = 1.0
    """Largest L2 norm of what one unit adds to a sum: C."""
    sampling: str = "poisson"
    """poisson (each pair by a coin of its own, amplified) or none (batches without amplification)."""
    sampling_rate: Annotated[float, Interval(ge=1e-6, le=1.0)] = 0.25
    """Probability with which a pair enters a step; about distill.batch_size / pairs of a client."""
    num_views: Annotated[int, Interval(ge=1, le=64)] = 1
    """Augmented views of a pair that are averaged before the clip (anchors, cosine); no privacy cost."""
    num_groups: Annotated[int, Interval(ge=1, le=65_536)] = 8
    """Buckets into which the pairs of a step fall (groups)."""
    engine: str = "vmap"
    """How gradients of single units are made: vmap, opacus, opacus-ghost, or loop (slow and plain)."""
    chunk_size: Annotated[int, Interval(ge=1, le=65_536)] = 128
    """Rows whose gradients are held in memory at a time."""
    accountant: str = "pld"
    """pld (dp-accounting), prv or rdp (Opacus, as a check)."""
    deterministic: bool = False
    """Noise and coins from the seed, for tests: NOT PRIVATE, and recorded so."""
    projected_pairs: Annotated[float, Interval(ge=1, le=1e6)] = 1.0
    """For planning: noise as clients with so many times the pairs would have; above 1 NOT PRIVATE."""
    ledger_dir: str = ""
    """Folder of the ledgers; empty: the run folder. Not used on a device with pairs of its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FederationConfig(_Section):
    """Clients, rounds and the server's step."""

    num_clients: Annotated[int, Interval(ge=1, le=1_000_000)] = 10
    """Clients of the simulation; each holds one part of the pairs."""
    partition: str = "iid"
    """iid, dirichlet (by label, skew ``alpha``) or owner (by art style or speaker, cut by subgroup);
    ``module:function`` for a way of your own."""
    alpha: Annotated[float, Interval(ge=1e-3, le=1e6)] = 0.5
    """Concentration of ``dirichlet``; smaller is more skewed."""
    num_rounds: Annotated[int, Interval(ge=1, le=1_000_000)] = 100
    """Rounds."""
    local_steps: Annotated[int, Interval(ge=1, le=1_000_000)] = 5
    """Optimiser steps a client makes in a round."""
    client_fraction: Annotated[float, Interval(ge=1e-6, le=1.0)] = 1.0
    """Share of the clients asked in a round."""
    min_clients: Annotated[int, Interval(ge=0, le=1_000_000)] = 0
    """Quorum: fewer usable replies end the run with an error. 0: 1 in a simulation; on Flower more than half
    of the clients that a round asks, and more than half of num_clients must be connected."""
    deadline_s: float = 0.0
    """Seconds to wait for the clients at the start and for the replies of a round. 0: 3600 in a simulation,
    600 on Flower."""
    strategy: str = "fedavg"
    """fedavg, fedprox, fedavgm, fedadam, fedyogi, fedmedian, fedtrimmedavg, krum."""
    server_learning_rate: Annotated[float, Interval(ge=0.0, le=1e3)] = 1.0
    """Of fedavgm (1 is usual), fedadam and fedyogi (0.01 is usual)."""
    server_momentum: Annotated[float, Interval(ge=0.0, le=0.9999)] = 0.9
    """Of fedavgm; first-moment decay of fedadam and fedyogi."""
    server_tau: Annotated[float, Interval(ge=1e-12, le=1e3)] = 1e-3
    """Adaptivity of fedadam and fedyogi."""
    num_malicious: Annotated[int, Interval(ge=0, le=1_000_000)] = 1
    """Clients that krum withstands."""
    trim_fraction: Annotated[float, Interval(ge=0.0, le=0.49)] = 0.2
    """Share that fedtrimmedavg cuts off at either end."""
    max_examples: Annotated[int, Interval(ge=1, le=2**53)] = 1_000_000
    """A reply that claims more pairs is dropped as absurd."""
    num_workers: Annotated[int, Interval(ge=1, le=256)] = 1
    """Local processes that serve clients, one thread each."""

    def _check_together(self) -> None:
        if self.deadline_s != 0:
            _check("federation.deadline_s", self.deadline_s, kind=float, marks=[Interval(ge=0.01, le=1e7)])
        if self.min_clients > self.num_clients:
            raise ConfigError(
                f"federation.min_clients={self.min_clients} exceeds"
                f" federation.num_clients={self.num_clients}."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig(_Section):
    """Step 3 on unseen concepts."""

    every_rounds: Annotated[int, Interval(ge=0, le=1_000_000)] = 10
    """Retrieval on the validation split after every so many rounds; 0 for never."""
    num_labels: tuple[Annotated[int, Interval(ge=0, le=1_000_000)], ...] = (1, 5, 10, 30, 0)
    """Labels a class for kNN and the linear probe; 0 stands for all."""
    num_draws: Annotated[int, Interval(ge=1, le=1000)] = 5
    """Draws of the labels; mean and 95% interval are over them."""
    num_neighbours: Annotated[int, Interval(ge=1, le=1000)] = 5
    """Of kNN."""
    finetune: bool = False
    """Also train all layers on the few labels, for each draw: minutes instead of seconds."""

    label_percent: tuple[Annotated[int, Interval(ge=1, le=100)], ...] = (5, 10, 100)
    """Percent of the pool whose masks a seg-* student is fine-tuned on."""
    segment_draws: Annotated[int, Interval(ge=1, le=1000)] = 1
    """Draws of those images; each trains for seconds."""
    segment_steps: Annotated[int, Interval(ge=1, le=1_000_000)] = 400
    """Most optimiser steps on the masks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportConfig(_Section):
    """Step 4."""

    head: bool = True
    """Fit a linear head on all labels and put it into the graph beside the embedding."""
    head_labels: str = "group"
    """Which labelling the head predicts."""
    license: str = NO_LICENCE
    """Licence of the exported weights, an SPDX name; yours to choose. One without such a name:
    LicenseRef-<a name of yours>."""
    min_cosine: Annotated[float, Interval(ge=-1, le=1)] = 0.0
    """Smallest cosine between torch and onnxruntime embeddings for fp32 and w8; 0: 0.9999 and 0.9995."""
    profiles: str = "w8"
    """w8, fp32, w4, int8, dyn8, such as "w8,int8"; the first becomes student.onnx."""
    calibration: str = "public"
    """What int8 takes ranges from: public (drawings of the public set) or procedural; never pairs."""
    prototypes: str = ""
    """Folder with a sub-folder of pictures for each class: a head without training; empty for none."""
    floor: Annotated[float, Interval(ge=0, le=1)] = 0.0
    """Least task metric (retrieval R@1) through onnxruntime; below it the export fails. 0 for none."""
    fold_norm: bool = False
    """Fold GroupNorm into the convolutions and learn the embedding back on public pictures; for gn-*."""
    fold_steps: Annotated[int, Interval(ge=0, le=100_000)] = 200
    """Optimiser steps of that recovery; 0 for calibration alone."""

    def _check_together(self) -> None:
        refuse_licence("export.license", self.license)
