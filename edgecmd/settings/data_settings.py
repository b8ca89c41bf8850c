"""Settings of the data and of the teacher: which pairs, what is public, how step 1 trains.

The other sections: `edgecmd.settings.schema`.
"""

from dataclasses import dataclass

from edgecmd.core.errors import ConfigError


def in_range(section: str, low: int | float, high: int | float, **settings: int | float) -> None:
    """Refuse a setting outside ``[low, high]``.

    Raises:
        ConfigError: The message names section, setting, value and range.
    """
    for name, value in settings.items():
        if not low <= value <= high:
            raise ConfigError(f"{section}.{name}={value} is outside the allowed range [{low:g}, {high:g}].")


COPIES = ("auto", "join", "leave-out")
# Sets whose source images have a side of their own.
SOURCE_SIDES = {"digits": 32}


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Which pairs, and how they are cut into training, validation and test."""

    name: str = "emoji"
    """Built in: ``emoji``, ``objects``, ``rooms`` and ``emoji-scenes`` (the last two with masks). Once built:
    ``digits``, ``stamps``, ``emoji-full``. ``folder`` for your own pairs under ``data.path``; or a public set
    that lies there: sketchy, tuberlin, sunrgbd, nyu, vggsound."""
    path: str = ""
    """For ``folder``: a folder with source/ and target/, or one .npz. For ``rooms`` and ``objects``: a larger
    set that ``edgecmd data build rooms`` made; empty: the one that ships. Else where the public set lies."""
    source_path: str = ""
    """Folder of photographs, a folder a class, for ``tuberlin``, which has sketches alone."""
    max_pairs: int = 20_000
    """Of a public set at ``data.path`` at most so many pairs are used, drawn by a hash; 0: all."""
    public_path: str = ""
    """Folder of public source images; empty: <data.path>/public, or the built-in public set."""
    image_size: int = 64
    """Side of a target image in pixels; larger ones are averaged down. A multiple of 16."""
    source_size: int = 0
    """Side of a source image in pixels, a multiple of 16; 0: 32 for ``digits``, which
    its teacher was trained on, else image_size."""
    target_offset: float = 1.0
    """Value of the target (0 black, 1 white) that the student sees as zero; 1 for ink on white paper."""
    target_scale: float = -0.5
    """The student sees (value - target_offset) / target_scale; not 0."""
    target_kind: str = "auto"
    """What targets are: grey, rgb, depth or wave; auto: what the files of the set are. A device with pairs of
    its own never looks: it leaves out, pair by pair, what is of another kind than the student takes."""
    sampling_rate_hz: int = 8000
    """Rate that recordings are resampled to. The bands, window and hop of audio-* students scale with it:
    at 8000 they reach from 60 Hz to 4 kHz, see 32 ms and move by 16 ms."""
    clip_s: float = 1.0
    """Seconds of a recording that are kept, from its first sound on; shorter ones end in silence."""
    depth_scale_mm: float = 1.0
    """Millimetres that one unit of a 16-bit depth file stands for: 0.2 for 5000 units a metre, 1 for mm."""
    depth_max_m: float = 0.0
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
    val_fraction: float = 0.1
    """Share of the concepts (or owners) for choosing settings and for labels (``folder``, ``stamps``)."""
    test_fraction: float = 0.2
    """Share of the concepts (or owners) for testing (``folder``, ``stamps``)."""
    scenes: tuple[int, ...] = (800, 200, 200, 800)
    """Scenes of ``emoji-scenes``: for training, for labels, for the test, and public ones."""
    scene_seed: int = 0
    """Of the layout of ``emoji-scenes``."""
    depth_noise: float = 0.0
    """Simulated sensor of ``rooms`` and ``objects``: standard deviation at 1 m in mm; it grows with the
    square of the distance. The first Kinect had about 1.4."""
    depth_holes: float = 0.0
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

    def __post_init__(self) -> None:
        if self.copies not in COPIES:
            raise ConfigError(f"data.copies={self.copies!r} is unknown. Allowed: {', '.join(COPIES)}.")
        in_range("data", 16, 512, image_size=self.image_size)
        in_range("data", 0.01, 0.9, val_fraction=self.val_fraction, test_fraction=self.test_fraction)
        in_range("data", 0, 512, source_size=self.source_size)
        for name, value in (("image_size", self.image_size), ("source_size", self.source_size)):
            if value % 16:
                raise ConfigError(f"data.{name}={value} must be a multiple of 16.")
        in_range("data", 4000, 48_000, sampling_rate_hz=self.sampling_rate_hz)
        in_range("data", 0.1, 30.0, clip_s=self.clip_s)
        in_range("data", 0, 2**31 - 1, scene_seed=self.scene_seed)
        for count in self.scenes:
            in_range("data", 2, 1_000_000, scenes=count)
        in_range("data", 0, 100_000_000, max_pairs=self.max_pairs)
        in_range("data", 1e-3, 1000, depth_scale_mm=self.depth_scale_mm)
        in_range("data", 0, 65.535, depth_max_m=self.depth_max_m)
        in_range("data", 0, 1000, depth_noise=self.depth_noise)
        in_range("data", 0, 1, depth_holes=self.depth_holes)
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
        return self.source_size or SOURCE_SIDES.get(self.name, self.image_size)


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherConfig:
    """The frozen teacher of the source modality."""

    name: str = ""
    """A teacher that ships: ``imagenet`` (EfficientNet-Lite0, trained with the labels of ImageNet), ``icons``
    or ``indoor`` (SimCLR on the public pictures of ``emoji`` or ``rooms``); empty: that of the data set."""
    path: str = ""
    """A .safetensors file made by ``edgecmd pretrain``, in place of one that ships."""
    map_dim: int = 64
    """Dimension of the teacher's feature at a place, for seg-* students."""
    map_zoom: int = 2
    """How much larger than the source image the teacher sees it where places are asked for (seg-*)."""
    pair_features: str = ""
    """Ready teacher features of the pairs: .npz with ``ids`` and ``features`` (rows, dim); or .npy beside
    <name>.ids.txt, an id a line. An id is a file name, with or without its ending."""
    public_features: str = ""
    """The same of the public images, from the same teacher; ids are their file names, of the built-in public
    set its keys (``edgecmd.data.problem.experiment(config.data).public.keys``)."""

    def __post_init__(self) -> None:
        in_range("teacher", 2, 4096, map_dim=self.map_dim)
        in_range("teacher", 1, 8, map_zoom=self.map_zoom)
        if self.name and self.path:
            raise ConfigError(
                f"teacher.name={self.name!r} and teacher.path={self.path!r} name two teachers. Set one."
            )
        if bool(self.pair_features) != bool(self.public_features):
            raise ConfigError(
                "teacher.pair_features and teacher.public_features go together:"
                " the anchors must come from the teacher that made the pair features. Set both or none."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainConfig:
    """Step 1: SimCLR on the public source set (``edgecmd pretrain``)."""

    architecture: str = "gn-teacher"
    """Architecture of the teacher. ``efficientnet-lite0`` is that of the shipped teacher ``imagenet``: its
    projector is fitted to the public pictures, and what is set here for SimCLR is not used."""
    embedding_dim: int = 128
    """Dimension of the teacher's feature."""
    num_steps: int = 1000
    """Optimiser steps."""
    batch_size: int = 256
    """Images a step; each gives two views."""
    learning_rate: float = 2e-3
    """Peak of a one-cycle schedule, AdamW."""
    weight_decay: float = 1e-4
    """Of AdamW."""
    temperature: float = 0.2
    """Of NT-Xent."""
    line_share: float = 0.0
    """Share of the views that are reduced to outlines, so that the teacher looks at shape."""
    ink_share: float = 0.0
    """Share of the views that are reduced to black and white areas."""
    positives: str = "picture"
    """What two views are of: the same picture, or pictures of the same thing (``thing``: public keys that
    are equal up to the last slash, as those of ``rooms`` and ``objects``)."""
    seed: int = 0
    """Of weights, batches and views."""

    def __post_init__(self) -> None:
        in_range("pretrain", 1, 10_000_000, num_steps=self.num_steps)
        in_range("pretrain", 2, 65_536, batch_size=self.batch_size, embedding_dim=self.embedding_dim)
        in_range("pretrain", 1e-4, 100, temperature=self.temperature)
        in_range("pretrain", 0, 2**31 - 1, seed=self.seed)
        in_range("pretrain", 0, 1, line_share=self.line_share, ink_share=self.ink_share)
        in_range("pretrain", 0, 10, learning_rate=self.learning_rate, weight_decay=self.weight_decay)
