"""Settings of each part of a run: frozen dataclasses, each field with its meaning and unit.

The part that owns a section takes it as an argument. All of them together, `edgecmd.config.schema.RunConfig`,
are seen by nothing below the edge. Choices that come from a table (losses, students, strategies) are checked
where the table is, so that this module imports nothing heavy.
"""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval, MultipleOf

from edgecmd.arguments import NO_LICENCE, Section, refuse_licence, refuse_outside
from edgecmd.catalogue.data_sets import source_side
from edgecmd.core.errors import ConfigError

STORES = ("auto", "always", "never")
COPIES = ("auto", "join", "leave-out")
FITS = SQUEEZE, CROP, PAD = ("squeeze", "crop", "pad")
PRECISIONS = ("float32", "bf16")
AGGREGATIONS = PLAIN, NOISED_SUM, SECURE_SUM = ("plain", "noised-sum", "secure-sum")
# What each does: `edgecmd.training.codecs`.
CODED = NO_COMPRESSION, FP16, INT8, TOP_K = ("none", "fp16", "int8", "top-k")


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig(Section):
    """Which pairs are used, and how they are split into training, validation and test."""

    name: str = "emoji"
    """Built in: ``emoji``, ``words``, ``objects``, ``rooms`` and ``emoji-scenes`` (the last two with masks).
    Once built: ``digits``, ``stamps``, ``emoji-full``. ``folder`` for your own pairs at ``data.path``; or a
    public set stored there: sketchy, tuberlin, sunrgbd, nyu, vggsound. ``module:factory`` for pairs from your
    own code: it returns an Experiment and receives those of these settings that it names as parameters."""
    path: str = ""
    """For ``folder``: a folder with source/ and target/, or one .npz. For ``rooms`` and ``objects``: a larger
    set made by ``edgecmd data build rooms`` in a checkout; empty: the one that ships with edgecmd. Otherwise
    the folder of the public set."""
    source_path: str = ""
    """Folder of photographs, one sub-folder per class, for ``tuberlin``, which has sketches only."""
    max_pairs: Annotated[int, Interval(ge=0, le=100_000_000)] = 0
    """Use at most this many of the pairs at ``data.path``, chosen by a hash of their ids; 0: all."""
    store: str = "auto"
    """Where pairs from ``data.path``, their masks and your own public images are kept once read: ``never``,
    in memory; ``always``, in a store on disk below EDGECMD_CACHE, from which each batch is read; ``auto``, on
    disk if they take more than 64 MB. The results are the same."""
    num_threads: Annotated[int, Interval(ge=0, le=64)] = 0
    """Threads that decode files while a store is being written, each with one row in memory; 0: one per
    core, at most 4. The store is the same."""
    public_path: str = ""
    """Folder of public source images; empty: <data.path>/public, or the built-in public set."""
    image_size: Annotated[int, Interval(ge=16, le=512), MultipleOf(16)] = 64
    """Side of a target image in pixels, a multiple of 16; larger images are averaged down."""
    source_size: Annotated[int, Interval(ge=0, le=512), MultipleOf(16)] = 0
    """Side of a source image in pixels, a multiple of 16; 0: 32 for ``digits`` (the size its teacher was
    trained on), otherwise image_size."""
    fit: str = SQUEEZE
    """How images, depth maps and masks that are not square are made square, in both halves of a pair and in
    the exported file: squeeze (scale both sides), crop (keep the central square), pad (keep everything in a
    larger square; the border is white in images, missing in depth maps, ignored in masks)."""
    target_offset: float = 1.0
    """Value of the target (0 black, 1 white) that the student sees as zero; 1 for ink on white paper."""
    target_scale: float = -0.5
    """The student sees (value - target_offset) / target_scale; not 0."""
    target_kind: str = "auto"
    """Kind of the targets: grey, rgb, depth, wave or text; auto: the kind of the set's files. A device with
    pairs of its own never looks: it leaves out each pair whose target is not of the kind that the student
    takes."""
    sampling_rate_hz: Annotated[int, Interval(ge=4000, le=48_000)] = 8000
    """Rate to which recordings are resampled, in Hz. The bands, window and hop of audio-* students scale with
    it: at 8000 the bands run from 60 Hz to 4 kHz, the window is 32 ms and the hop 16 ms."""
    clip_s: Annotated[float, Interval(ge=0.1, le=30.0)] = 1.0
    """Seconds of each recording that are kept, from its first sound on; shorter ones end in silence."""
    text_bytes: Annotated[int, Interval(ge=8, le=512)] = 48
    """Bytes of UTF-8 of a string that are kept: the longest beginning of whole characters; shorter ones are
    padded with 0. A Latin letter takes 1 byte, most others 2 or 3, an emoji 4 and more."""
    depth_scale_mm: Annotated[float, Interval(ge=1e-3, le=1000)] = 1.0
    """Millimetres per unit of a 16-bit depth file: 0.2 for 5000 units per metre, 1 for mm."""
    depth_max_m: Annotated[float, Interval(ge=0, le=65.535)] = 0.0
    """Depths beyond this many metres count as missing; 0: 65.535, the largest that is stored."""
    split: str = "concept"
    """What no two parts share: concept, or owner (an unseen person, device or language); for ``folder``,
    ``stamps`` and ``words``. ``stamps`` also takes pair: names in languages that training has; ``words`` also
    string: strings that training has in no language (concept are its emoji)."""
    held_out: str = ""
    """Owners for testing, separated by commas. Empty: for ``folder`` a hash chooses them, for ``digits`` it
    is the last speaker by name."""
    labels_from: str = ""
    """Owners of the validation part, from which the few labels are drawn; empty: a part of the other owners'
    pairs. If equal to held_out: a part of their own pairs, as when a new person says each word once."""
    val_fraction: Annotated[float, Interval(ge=0.01, le=0.9)] = 0.1
    """Share of the concepts (or owners) for choosing settings and for labels (``folder``, ``stamps``); of the
    strings of ``words``."""
    test_fraction: Annotated[float, Interval(ge=0.01, le=0.9)] = 0.2
    """Share of the concepts (or owners) for testing (``folder``, ``stamps``); of the strings of ``words``."""
    scenes: tuple[Annotated[int, Interval(ge=2, le=1_000_000)], ...] = (800, 200, 200, 800)
    """Number of scenes in ``emoji-scenes``: for training, for labels, for testing, and public ones."""
    scene_seed: Annotated[int, Interval(ge=0, le=2**31 - 1)] = 0
    """Seed of the layout of ``emoji-scenes``."""
    depth_noise: Annotated[float, Interval(ge=0, le=1000)] = 0.0
    """Simulated sensor of ``rooms`` and ``objects``: standard deviation in mm at a distance of 1 m; it grows
    with the square of the distance. The first Kinect had about 1.4."""
    depth_holes: Annotated[float, Interval(ge=0, le=1)] = 0.0
    """Simulated sensor: probability that a pixel at an edge, or on a surface seen sideways, is missing."""
    reverse: bool = False
    """Teach in the other direction: the teacher takes what is usually the target, the student the image. For
    ``digits``, ``folder`` and public sets at ``data.path``; the public set is then of the teacher's kind."""
    strict: bool = True
    """Leave out of the strict test whatever copies a training pair or looks like a training target."""
    copies: str = "auto"
    """Copies among a user's pairs, where the split follows concepts: join (copies share a part), leave-out
    (training copies of held-out pairs are left out, so that no pair moves another, as privacy requires),
    auto (leave-out under privacy, otherwise join)."""

    def _check_together(self) -> None:
        if self.store not in STORES:
            raise ConfigError(f"data.store={self.store!r} is unknown. Allowed: {', '.join(STORES)}.")
        if self.copies not in COPIES:
            raise ConfigError(f"data.copies={self.copies!r} is unknown. Allowed: {', '.join(COPIES)}.")
        if self.fit not in FITS:
            raise ConfigError(f"data.fit={self.fit!r} is unknown. Allowed: {', '.join(FITS)}.")
        if self.reverse and self.source_side != self.image_size:
            raise ConfigError(
                f"data.reverse=true turns the source images, of side {self.source_side}, into targets. Set"
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
class TeacherConfig(Section):
    """The frozen teacher of the source modality."""

    name: str = ""
    """A teacher that ships with edgecmd: ``imagenet`` (EfficientNet-Lite0, trained with the labels of
    ImageNet), ``icons`` or ``indoor`` (SimCLR on the public images of ``emoji`` or ``rooms``); timm:NAME or
    torchvision:NAME with ``weights``; onnx:FILE; module:factory, your own code that makes one; several of
    these, separated by commas, used side by side; empty: the teacher of the data set."""
    path: str = ""
    """A .safetensors file made by ``edgecmd pretrain``, instead of a teacher that ships with edgecmd."""
    weights: str = ""
    """For timm: and torchvision:, the file with the network's weights, .safetensors or .pth; nothing is
    downloaded. For several such networks, one file each, separated by commas, in the same order."""
    size: Annotated[int, Interval(ge=0, le=4096)] = 0
    """Side in pixels to which images are resized for a network of your own (timm:, torchvision:, onnx:,
    module:factory); 0: that of its published weights or of the file, otherwise images stay as they are."""
    mean: tuple[Annotated[float, Interval(ge=-1000, le=1000)], ...] = ()
    """Mean of red, green and blue that such a network was trained with, on a scale of 0 to 1; empty: that of
    its published weights, otherwise 0."""
    std: tuple[Annotated[float, Interval(ge=1e-6, le=1000)], ...] = ()
    """Standard deviation of red, green and blue, likewise; empty: that of its published weights, otherwise 1.
    For a network that takes 0 to 255, write 0.00392157 three times."""
    crop: Annotated[float, Interval(ge=0, le=1)] = 0.0
    """Share of height and width, around the centre, that such a network sees; 0: the share its published
    weights were tested with, otherwise all."""
    output: str = ""
    """For an ONNX file with several outputs, the one that is the feature."""
    pca_dim: Annotated[int, Interval(ge=0, le=65_536)] = 0
    """Dimension to which the features of one teacher, or of several side by side, are reduced: principal
    components of the unit features of the public images; 0: no reduction."""
    pca_power: Annotated[float, Interval(ge=0, le=1)] = 0.0
    """Power of the standard deviation along each component by which it is divided: 0 leaves the components as
    they are, 1 gives all of them the same spread (whitening), 0.5 is between the two. Needs ``pca_dim``."""
    map_dim: Annotated[int, Interval(ge=2, le=4096)] = 64
    """Dimension of the teacher's feature at a location, for seg-* students."""
    map_zoom: Annotated[int, Interval(ge=1, le=8)] = 2
    """How many times the source image is enlarged for the teacher's features at locations (seg-*)."""
    pair_features: str = ""
    """Ready teacher features of the pairs: .npz with ``ids`` and ``features`` (rows, dim); or .npy beside
    <name>.ids.txt, one id per line. An id is a file name, with or without its ending."""
    public_features: str = ""
    """The same for the public images, from the same teacher; ids are file names, or keys of the built-in
    public set (``edgecmd.config.assemble.Assembly().experiment(config.data).public.keys``)."""

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
        if self.pca_power and not self.pca_dim:
            raise ConfigError(
                f"teacher.pca_power={self.pca_power} scales principal components, and teacher.pca_dim=0 keeps"
                " none. Set teacher.pca_dim, or leave pca_power out."
            )
        prepared = ("weights", "size", "mean", "std", "crop", "output", "pca_dim")
        idle = [name for name in prepared if getattr(self, name)]
        if self.pair_features and idle:
            raise ConfigError(
                f"teacher.pair_features holds ready features, so teacher.{idle[0]} would have no effect."
                " Leave one of the two out."
            )
        if bool(self.pair_features) != bool(self.public_features):
            raise ConfigError(
                "teacher.pair_features and teacher.public_features go together:"
                " the anchors must come from the teacher that made the pair features. Set both or none."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainConfig(Section):
    """Step 1: SimCLR on the public source set (``edgecmd pretrain``)."""

    architecture: str = "gn-teacher"
    """Architecture of the teacher. ``efficientnet-lite0`` is that of the shipped teacher ``imagenet``: its
    projector is fitted to the public images, and the settings below for SimCLR are not used."""
    embedding_dim: Annotated[int, Interval(ge=2, le=65_536)] = 128
    """Dimension of the teacher's feature."""
    num_steps: Annotated[int, Interval(ge=1, le=10_000_000)] = 1000
    """Optimiser steps."""
    batch_size: Annotated[int, Interval(ge=2, le=65_536)] = 256
    """Images per step; each gives two views."""
    learning_rate: Annotated[float, Interval(ge=0, le=10)] = 2e-3
    """Peak learning rate of a one-cycle schedule, AdamW."""
    weight_decay: Annotated[float, Interval(ge=0, le=10)] = 1e-4
    """Weight decay of AdamW."""
    temperature: Annotated[float, Interval(ge=1e-4, le=100)] = 0.2
    """Temperature of NT-Xent."""
    line_share: Annotated[float, Interval(ge=0, le=1)] = 0.0
    """Share of the views that are reduced to outlines, so that the teacher looks at shape."""
    ink_share: Annotated[float, Interval(ge=0, le=1)] = 0.0
    """Share of the views that are reduced to black and white areas."""
    positives: str = "picture"
    """What two views show: ``picture``, the same image; ``thing``, images of the same thing (public keys that
    are equal up to the last slash, as in ``rooms`` and ``objects``)."""
    seed: Annotated[int, Interval(ge=0, le=2**31 - 1)] = 0
    """Seed of weights, batches and views."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentConfig(Section):
    """The small student of the target modality."""

    architecture: str = "ws-200k"
    """ws-50k, ws-200k, ws-1m (weight-standardised, fold to plain convolutions); gn-50k, gn-200k, gn-1m;
    lite0-s, lite0-m (pretrained on photographs, for 64 pixels and more); audio-50k, audio-200k for audio
    clips; seg-50k, seg-200k, seg-lite0-s (pretrained) for segmentation; timm:NAME or torchvision:NAME, a
    network of these libraries, with nothing downloaded; or module:factory, your own code that makes any
    module."""
    path: str = ""
    """First weights: a .safetensors file from ``edgecmd warm-start``; empty: random weights."""
    weights: str = ""
    """First weights from elsewhere for timm:, torchvision: and your own students: a .safetensors file, or a
    .pth file from torch.save(network.state_dict(), path). What both have is taken, the classifier is left
    out, and weights for RGB are adapted to other channels. In a federation the server reads the file."""
    batch_norm: str = "auto"
    """Batch normalisation of timm:, torchvision: and your own students. freeze: statistics stay as they are,
    scale and shift are trained. fold: merged into the convolution before it (else freeze). group: replaced
    by GroupNorm. keep: as it was built, statistics averaged with the weights; not with a guarantee per pair.
    auto: freeze with student.weights, else group for timm: and torchvision:, keep for your own code."""
    trainable: str = "all"
    """What training changes: all weights; or last, only the last block and the projector, which needs first
    weights that have learnt something: lite0-*, student.path or student.weights; or trunk, all but the
    projector. Under privacy fewer numbers then receive noise."""

    def _check_together(self) -> None:
        if self.path and self.weights:
            raise ConfigError(
                f"student.path={self.path!r} and student.weights={self.weights!r} both name first weights."
                " Leave one of them empty."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillConfig(Section):
    """Step 2, a client's local work."""

    loss: str = "auto"
    """auto (the loss of privacy.mechanism; cmc if there is none), a name from docs/method.md such as cmc,
    cmc+cmd, cmc-anchored or l2, or your own loss as module:factory."""
    temperature: Annotated[float, Interval(ge=1e-4, le=100)] = 0.1
    """Temperature of the student's similarities."""
    teacher_temperature: Annotated[float, Interval(ge=1e-4, le=100)] = 0.1
    """Temperature of the teacher's similarities in cmd and cmd-anchored."""
    baseline_temperature: Annotated[float, Interval(ge=0, le=100)] = 0.0
    """Temperature of the student's similarities in seed and crd; 0: the value their authors used."""
    cmd_weight: Annotated[float, Interval(ge=0, le=1e6)] = 1.0
    """Weight of cmd in cmc+cmd."""
    num_anchors: Annotated[int, Interval(ge=1, le=1_000_000)] = 1024
    """Public teacher features used as negatives by the anchored losses."""
    anchors: str = "public"
    """Where anchors come from: public (images of the public set), procedural (synthetic images), random,
    gallery (all that can be found, where a data set says that this is public, as the emoji of words are)."""
    batch_size: Annotated[int, Interval(ge=2, le=65_536)] = 64
    """Pairs per step; a client with fewer uses all of them. With privacy per pair, sums are divided by it."""
    learning_rate: Annotated[float, Interval(ge=0, le=100)] = 1e-2
    """Peak learning rate; it decays over the rounds as ``schedule`` says."""
    central_learning_rate: Annotated[float, Interval(ge=0, le=100)] = 1e-2
    """Peak learning rate in central training, where no averaging over clients smooths larger steps."""
    schedule: str = "cosine"
    """Learning-rate schedule over the rounds: cosine or constant."""
    weight_decay: Annotated[float, Interval(ge=0, le=100)] = 0.0
    """Weight decay of AdamW."""
    optimizer: str = "adamw"
    """adamw or sgd (momentum 0.9)."""
    keep_optimizer: bool = False
    """Keep the optimiser's state on the client between rounds (it never leaves the client)."""
    augment: Annotated[float, Interval(ge=0, le=4)] = 1.0
    """Strength of the augmentation of targets; 0 for none."""
    num_locations: Annotated[int, Interval(ge=1, le=65_536)] = 32
    """Locations per pair that the loss uses, for seg-* students."""
    proximal_mu: Annotated[float, Interval(ge=0, le=1e6)] = 0.0
    """Weight of the FedProx term: half the squared distance to the round's global weights."""
    freeze_projector: bool = False
    """Keep the projector's first weights, which all clients share, so that embeddings share one frame."""
    precision: str = "float32"
    """Precision of the student in training: float32; or bf16, whose numbers have 8 significant bits. Loss,
    weights, averages, evaluation and export stay float32. Not with a guarantee per pair."""
    rows_at_once: Annotated[int, Interval(ge=0, le=65_536)] = 0
    """Rows of a batch that go through the student at once, so that a large batch takes the memory of a small
    one, for about a third more time; 0: all. Not with a guarantee per pair, whose steps do so anyway."""

    def _check_together(self) -> None:
        if self.precision not in PRECISIONS:
            raise ConfigError(
                f"distill.precision={self.precision!r} is unknown. Allowed: {', '.join(PRECISIONS)}."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class PrivacyConfig(Section):
    """Differential privacy of what leaves a client, or, for ``client``, of what leaves the server."""

    mechanism: str = "none"
    """none; for each pair: anchors, cosine, groups, statistics (sums that are released once, from which the
    last layer follows), logits (Logit-DP, for comparisons); for each whole client, with a trusted server:
    client."""
    epsilon: Annotated[float, Interval(ge=1e-3, le=1e3)] = 8.0
    """Budget over all rounds on a data set, which no client exceeds; the noise is calibrated to it."""
    delta: Annotated[float, Interval(ge=1e-15, le=0.1)] = 1e-5
    """Delta of the guarantee, a probability; far below 1 / pairs of a client."""
    noise_multiplier: Annotated[float, Interval(ge=0, le=1e6)] = 0.0
    """Noise in units of the sensitivity; 0: the least that keeps the run within epsilon."""
    budget_share: Annotated[float, Interval(ge=1e-3, le=1.0)] = 1.0
    """Share of the budget that the noise is chosen for, so that other runs on the same pairs can spend the
    rest. With one ``ledger_dir`` for all of them their ledger keeps the sum within epsilon."""
    clip: Annotated[float, Interval(ge=1e-6, le=1e6)] = 1.0
    """C, the largest L2 norm that one unit may add to a sum."""
    sampling: str = "poisson"
    """poisson (a separate coin for each pair, amplified) or none (batches without amplification)."""
    sampling_rate: Annotated[float, Interval(ge=1e-6, le=1.0)] = 0.25
    """Probability that a pair takes part in a step; about distill.batch_size / pairs of a client."""
    num_views: Annotated[int, Interval(ge=1, le=64)] = 1
    """Augmented views of a pair: averaged before clipping (anchors, cosine), or in its bucket (groups); no
    privacy cost."""
    num_groups: Annotated[int, Interval(ge=1, le=65_536)] = 8
    """Buckets into which the pairs of a step are divided (groups); 1 clips the whole batch at once."""
    engine: str = "vmap"
    """How per-unit gradients are computed: vmap, opacus, opacus-ghost, loop (slow and simple); logits for the
    mechanism of that name."""
    chunk_size: Annotated[int, Interval(ge=1, le=65_536)] = 128
    """Rows whose gradients are held in memory at a time."""
    accountant: str = "pld"
    """pld (dp-accounting), prv or rdp (Opacus, as a check)."""
    deterministic: bool = False
    """Take noise and coins from the seed, for tests: NOT PRIVATE, and recorded as such."""
    projected_pairs: Annotated[float, Interval(ge=1, le=1e6)] = 1.0
    """For planning: noise as if clients had this many times their pairs; above 1 NOT PRIVATE."""
    ledger_dir: str = ""
    """Folder of the ledgers; empty: the run folder. Not used on a device with pairs of its own."""
    aggregation: str = "plain"
    """How replies are added up: plain, the server sees each of them; noised-sum, each is one sum over all
    pairs of a client with its noise, and the server takes the step; secure-sum, the server sees only the sum
    of all, and the clients share the noise of one. With a guarantee per pair both sums take one step on all
    pairs a round: federation.local_steps=1, privacy.sampling_rate=1."""
    max_pairs: Annotated[int, Interval(ge=1, le=1_000_000)] = 256
    """For secure-sum: pairs of a client that have their full weight in a sum. A client with more is scaled
    down to so many."""
    min_survivors: Annotated[int, Interval(ge=0, le=1_000_000)] = 0
    """For secure-sum: clients that must be in a sum; with fewer, nothing is released. The noise is shared
    among so many, less num_colluding. 0: four fifths of the clients of a round."""
    num_colluding: Annotated[int, Interval(ge=0, le=1_000_000)] = 0
    """For secure-sum: clients that may work together with the server without weakening the guarantee."""
    max_update: Annotated[float, Interval(ge=1e-3, le=1e6)] = 128.0
    """For secure-sum without privacy: largest L2 norm of a client's change of the weights; a larger one is
    scaled down to it."""

    def _check_together(self) -> None:
        if self.aggregation not in AGGREGATIONS:
            raise ConfigError(
                f"privacy.aggregation={self.aggregation!r} is unknown. Allowed: {', '.join(AGGREGATIONS)}."
            )
        if self.noise_multiplier and self.budget_share < 1.0:
            raise ConfigError(
                f"privacy.budget_share={self.budget_share:g} chooses the noise, and"
                f" privacy.noise_multiplier={self.noise_multiplier:g} states it. Set only one of them."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class FederationConfig(Section):
    """Clients, rounds and the server's update."""

    num_clients: Annotated[int, Interval(ge=1, le=1_000_000)] = 10
    """Clients of the simulation; each holds one part of the pairs."""
    partition: str = "iid"
    """iid, dirichlet (by label, skew ``alpha``), owner (by art style, speaker or language, divided by
    subgroup), users (each owner's pairs divided among users of log-normal sizes, with topics of skew
    ``alpha``); resampled (each client draws for itself, so that a pair may be at several clients: for
    simulations of more clients than there are pairs); ``module:function`` for your own way."""
    pairs_per_client: Annotated[int, Interval(ge=0, le=1_000_000)] = 0
    """For resampled: how many different pairs each client draws. 0: as many as if pairs were dealt, 2 at
    least."""
    alpha: Annotated[float, Interval(ge=1e-3, le=1e6)] = 0.5
    """Concentration of ``dirichlet`` and ``users``; smaller is more skewed."""
    num_rounds: Annotated[int, Interval(ge=1, le=1_000_000)] = 100
    """Number of rounds."""
    local_steps: Annotated[int, Interval(ge=1, le=1_000_000)] = 5
    """Optimiser steps per client and round."""
    client_fraction: Annotated[float, Interval(ge=1e-6, le=1.0)] = 1.0
    """Share of the clients that are asked in each round."""
    buffer_size: Annotated[int, Interval(ge=0, le=1_000_000)] = 0
    """0: a round waits for the clients that it asked. Above 0, asynchronous rounds (FedBuff): all clients are
    kept busy, and a round ends as soon as this many have answered; older answers weigh less."""
    max_staleness: Annotated[int, Interval(ge=0, le=1_000_000)] = 100
    """Asynchronous rounds: an answer to weights that are more than this many rounds old is dropped."""
    slowest: Annotated[float, Interval(ge=1, le=1000)] = 1.0
    """Simulated speeds: how many times as long the slowest client takes as the fastest, whose answer takes
    one simulated second; the others lie between, drawn from the seed. Rounds then report simulated seconds;
    nobody waits for them. Not used on Flower."""
    min_clients: Annotated[int, Interval(ge=0, le=1_000_000)] = 0
    """Quorum: with fewer usable replies the run ends with an error. 0: 1 in a simulation; on Flower more than
    half of the clients that a round asks, and more than half of num_clients must be connected."""
    deadline_s: float = 0.0
    """Seconds to wait for the clients at the start and for the replies of a round. 0: 3600 in a simulation,
    600 on Flower."""
    strategy: str = "fedavg"
    """fedavg, fedprox, fedavgm, fedadam, fedyogi, fedmedian, fedtrimmedavg, krum, multikrum."""
    server_learning_rate: Annotated[float, Interval(ge=0.0, le=1e3)] = 1.0
    """Server's learning rate in fedavgm (1 is usual), fedadam and fedyogi (0.01 is usual)."""
    server_momentum: Annotated[float, Interval(ge=0.0, le=0.9999)] = 0.9
    """Momentum of fedavgm; first-moment decay of fedadam and fedyogi."""
    server_tau: Annotated[float, Interval(ge=1e-12, le=1e3)] = 1e-3
    """Adaptivity of fedadam and fedyogi."""
    ema_decay: Annotated[float, Interval(ge=0.0, le=0.9999)] = 0.0
    """The student is the exponential mean of the weights after all rounds, each round's weight this much of
    the next one's; 0: the weights after the last round. Clients always get the latest weights."""
    num_malicious: Annotated[int, Interval(ge=0, le=1_000_000)] = 1
    """Number of malicious clients that krum and multikrum tolerate."""
    trim_fraction: Annotated[float, Interval(ge=0.0, le=0.49)] = 0.2
    """Share that fedtrimmedavg discards at each end."""
    max_examples: Annotated[int, Interval(ge=1, le=2**53)] = 1_000_000
    """A reply that claims more pairs than this is dropped as absurd."""
    compression: str = NO_COMPRESSION
    """How weights travel: none, as they are; fp16; int8, with a scale for each row of weights and stochastic
    rounding; top-k, of a client's change only the largest numbers (what the server sends is int8 then). For
    int8 and top-k a client keeps what was left out and adds it in its next round. Not with secure-sum."""
    top_share: Annotated[float, Interval(ge=1e-6, le=1.0)] = 0.1
    """For top-k: share of the numbers of its change that a client sends."""
    clients_at_once: Annotated[int, Interval(ge=1, le=1024)] = 1
    """Simulations: how many clients with small steps train in one call (16 is usual); 1: one by one. Faster
    where a batch has a few small pairs; the last digits of the weights differ. Not used on Flower."""
    num_workers: Annotated[int, Interval(ge=1, le=256)] = 1
    """Local processes that run clients, one thread each."""

    def _check_together(self) -> None:
        if self.deadline_s != 0:
            refuse_outside("federation.deadline_s", self.deadline_s, least=0.01, most=1e7, kind=float)
        if self.compression not in CODED:
            raise ConfigError(
                f"federation.compression={self.compression!r} is unknown. Allowed: {', '.join(CODED)}."
            )
        if self.min_clients > self.num_clients:
            raise ConfigError(
                f"federation.min_clients={self.min_clients} exceeds"
                f" federation.num_clients={self.num_clients}."
            )

    @property
    def compressed(self) -> bool:
        """Whether weights travel otherwise than as they are."""
        return self.compression != NO_COMPRESSION

    @property
    def answers_a_round(self) -> int:
        """Answers that a round waits for where no client fails: a buffer, or the clients that it asks."""
        return self.buffer_size or max(1, round(self.num_clients * self.client_fraction))


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig(Section):
    """Step 3 on unseen concepts."""

    every_rounds: Annotated[int, Interval(ge=0, le=1_000_000)] = 10
    """Measure retrieval on the validation split every this many rounds; 0 for never."""
    num_labels: tuple[Annotated[int, Interval(ge=0, le=1_000_000)], ...] = (1, 5, 10, 30, 0)
    """Labels per class for kNN and the linear probe; 0 means all."""
    num_draws: Annotated[int, Interval(ge=1, le=1000)] = 5
    """Random draws of the labels; the mean and 95% interval are over them."""
    num_neighbours: Annotated[int, Interval(ge=1, le=1000)] = 5
    """Neighbours of kNN."""
    finetune: bool = False
    """Also train all layers on the few labels, for each draw: minutes instead of seconds."""

    label_percent: tuple[Annotated[int, Interval(ge=1, le=100)], ...] = (5, 10, 100)
    """Percent of the pool whose masks a seg-* student is fine-tuned on."""
    segment_draws: Annotated[int, Interval(ge=1, le=1000)] = 1
    """Random draws of those images; each takes seconds to train."""
    segment_steps: Annotated[int, Interval(ge=1, le=1_000_000)] = 400
    """Maximum number of optimiser steps on the masks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportConfig(Section):
    """Step 4, the exported bundle."""

    head: bool = True
    """Fit a linear head on all labels and put it into the graph beside the embedding."""
    head_labels: str = "group"
    """The labelling that the head predicts."""
    license: str = NO_LICENCE
    """Licence of the exported weights, an SPDX name; yours to choose. For a licence without such a name:
    LicenseRef-<a name of yours>."""
    min_cosine: Annotated[float, Interval(ge=-1, le=1)] = 0.0
    """Smallest cosine between torch and onnxruntime embeddings for fp32 and w8; 0: 0.9999 and 0.9995."""
    profiles: str = "w8"
    """w8, fp32, w4, int8, dyn8, core, or several, such as "w8,core"; the first becomes student.onnx."""
    formats: str = ""
    """Files for phones beside these: ort, litert, executorch, coreml, or several, such as "ort,litert"."""
    calibration: str = "public"
    """What int8 takes its ranges from: public (drawings of the public set) or procedural; never pairs."""
    prototypes: str = ""
    """Folder with one sub-folder of images per class, for a head without training; empty for none."""
    floor: Annotated[float, Interval(ge=0, le=1)] = 0.0
    """Lowest task metric (retrieval R@1) allowed through onnxruntime; below it the export fails. 0: none."""
    fold_norm: bool = False
    """Fold GroupNorm into the convolutions, then recover the embedding on public images; for gn-*."""
    fold_steps: Annotated[int, Interval(ge=0, le=100_000)] = 200
    """Optimiser steps of that recovery; 0 for calibration only."""

    def _check_together(self) -> None:
        refuse_licence("export.license", self.license)
