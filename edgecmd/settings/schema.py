"""Every setting of a run: frozen dataclasses, each field with its meaning and unit.

Readers and writers of TOML, ``--set a.b=c`` and Flower's flat run config: `edgecmd.settings.reader`.
Choices that come from a table (losses, students, strategies) are checked where the table is, so
that this module imports nothing heavy.
"""

from dataclasses import dataclass, field, replace

from edgecmd.core.errors import ConfigError
from edgecmd.core.text import printable
from edgecmd.settings.data_settings import DataConfig, PretrainConfig, TeacherConfig, in_range


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentConfig:
    """The small student of the target modality."""

    architecture: str = "ws-200k"
    """ws-50k, ws-200k, ws-1m (weight-standardised, fold to plain convolutions); gn-50k, gn-200k, gn-1m;
    audio-50k, audio-200k for recordings; seg-50k, seg-200k for segmentation."""
    path: str = ""
    """First weights: a .safetensors file of ``edgecmd warm-start``; empty: random ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillConfig:
    """Step 2, a client's local work."""

    loss: str = "auto"
    """auto (the loss of privacy.mechanism; cmc where there is none), cmc, cmd, cmc+cmd, cmc-anchored,
    cmd-anchored, cmc+cmd-anchored, cosine; baselines l2, seed, crd, socket, simclr."""
    temperature: float = 0.1
    """Of student similarities."""
    teacher_temperature: float = 0.1
    """Of teacher similarities in cmd and cmd-anchored."""
    cmd_weight: float = 1.0
    """Weight of cmd in cmc+cmd."""
    num_anchors: int = 1024
    """Public teacher features used as negatives by the anchored losses."""
    anchors: str = "public"
    """Where anchors come from: public (pictures of the public set), procedural (made-up pictures), random."""
    batch_size: int = 64
    """Pairs a step; a client with fewer uses all of them. Under record-level privacy the divisor of a sum."""
    learning_rate: float = 1e-2
    """Peak; decays over the rounds with ``schedule``."""
    central_learning_rate: float = 1e-2
    """Peak in central training: no averaging over clients takes the noise out of larger steps there."""
    schedule: str = "cosine"
    """cosine or constant, over the rounds."""
    weight_decay: float = 0.0
    """Of AdamW."""
    optimizer: str = "adamw"
    """adamw or sgd (momentum 0.9)."""
    keep_optimizer: bool = False
    """Keep the optimiser's state on the client between rounds (it never leaves the client)."""
    augment: float = 1.0
    """Strength of the target's augmentation, 0 for none."""
    num_locations: int = 32
    """Places of each pair that the loss looks at, for seg-* students."""
    proximal_mu: float = 0.0
    """Weight of the FedProx term, half the squared distance to the round's global weights."""
    freeze_projector: bool = False
    """Keep the projector's first weights, which all clients share: their embeddings then have one frame."""

    def __post_init__(self) -> None:
        in_range(
            "distill", 1e-4, 100, temperature=self.temperature, teacher_temperature=self.teacher_temperature
        )
        in_range("distill", 0, 1e6, cmd_weight=self.cmd_weight, proximal_mu=self.proximal_mu)
        in_range("distill", 1, 1_000_000, num_anchors=self.num_anchors)
        in_range("distill", 2, 65_536, batch_size=self.batch_size)
        in_range("distill", 0, 100, learning_rate=self.learning_rate, weight_decay=self.weight_decay)
        in_range("distill", 0, 100, central_learning_rate=self.central_learning_rate)
        in_range("distill", 0, 4, augment=self.augment)
        in_range("distill", 1, 65_536, num_locations=self.num_locations)


_PRIVATE_LOSSES = {"anchors": "cmc-anchored", "cosine": "cosine", "groups": "cmc-groups"}
AUTO_LOSSES = {"none": "cmc", "client": "cmc", **_PRIVATE_LOSSES}


@dataclass(frozen=True, kw_only=True, slots=True)
class PrivacyConfig:
    """Differential privacy of what leaves a client, or, for ``client``, of what leaves the server."""

    mechanism: str = "none"
    """none; for each pair: anchors, cosine, groups; for each whole client, with a trusted server: client."""
    epsilon: float = 8.0
    """Budget over all rounds of a data set, which no client exceeds; also what the noise is made for."""
    delta: float = 1e-5
    """Probability beside epsilon; far below 1 / pairs of a client."""
    noise_multiplier: float = 0.0
    """Noise in units of the sensitivity; 0: the least that keeps the run within epsilon."""
    clip: float = 1.0
    """Largest L2 norm of what one unit adds to a sum: C."""
    sampling: str = "poisson"
    """poisson (each pair by a coin of its own, amplified) or none (batches without amplification)."""
    sampling_rate: float = 0.25
    """Probability with which a pair enters a step; about distill.batch_size / pairs of a client."""
    num_views: int = 1
    """Augmented views of a pair that are averaged before the clip (anchors, cosine); no privacy cost."""
    num_groups: int = 8
    """Buckets into which the pairs of a step fall (groups)."""
    engine: str = "vmap"
    """How gradients of single units are made: vmap, opacus, opacus-ghost, or loop (slow and plain)."""
    chunk_size: int = 128
    """Rows whose gradients are held in memory at a time."""
    accountant: str = "pld"
    """pld (dp-accounting), prv or rdp (Opacus, as a check)."""
    deterministic: bool = False
    """Noise and coins from the seed, for tests: NOT PRIVATE, and recorded so."""
    projected_pairs: float = 1.0
    """For planning: noise as clients with so many times the pairs would have; above 1 NOT PRIVATE."""
    ledger_dir: str = ""
    """Folder of the ledgers; empty: the run folder. Not used on a device with pairs of its own."""

    def __post_init__(self) -> None:
        in_range("privacy", 1e-3, 1e3, epsilon=self.epsilon)
        in_range("privacy", 1e-15, 0.1, delta=self.delta)
        in_range("privacy", 0, 1e6, noise_multiplier=self.noise_multiplier)
        in_range("privacy", 1e-6, 1e6, clip=self.clip)
        in_range("privacy", 1e-6, 1.0, sampling_rate=self.sampling_rate)
        in_range("privacy", 1, 64, num_views=self.num_views)
        in_range("privacy", 1, 1e6, projected_pairs=self.projected_pairs)
        in_range("privacy", 1, 65_536, num_groups=self.num_groups, chunk_size=self.chunk_size)


@dataclass(frozen=True, kw_only=True, slots=True)
class FederationConfig:
    """Clients, rounds and the server's step."""

    num_clients: int = 10
    """Clients of the simulation; each holds one part of the pairs."""
    partition: str = "iid"
    """iid, dirichlet (by label, skew ``alpha``) or owner (by art style or speaker, cut by subgroup)."""
    alpha: float = 0.5
    """Concentration of ``dirichlet``; smaller is more skewed."""
    num_rounds: int = 100
    """Rounds."""
    local_steps: int = 5
    """Optimiser steps a client makes in a round."""
    client_fraction: float = 1.0
    """Share of the clients asked in a round."""
    min_clients: int = 0
    """Quorum: fewer usable replies end the run with an error. 0: 1 in a simulation; on Flower more than half
    of the clients that a round asks, and more than half of num_clients must be connected."""
    deadline_s: float = 0.0
    """Seconds to wait for the clients at the start and for the replies of a round. 0: 3600 in a simulation,
    600 on Flower."""
    strategy: str = "fedavg"
    """fedavg, fedprox, fedavgm, fedadam, fedyogi, fedmedian, fedtrimmedavg, krum."""
    server_learning_rate: float = 1.0
    """Of fedavgm (1 is usual), fedadam and fedyogi (0.01 is usual)."""
    server_momentum: float = 0.9
    """Of fedavgm; first-moment decay of fedadam and fedyogi."""
    server_tau: float = 1e-3
    """Adaptivity of fedadam and fedyogi."""
    num_malicious: int = 1
    """Clients that krum withstands."""
    trim_fraction: float = 0.2
    """Share that fedtrimmedavg cuts off at either end."""
    max_examples: int = 1_000_000
    """A reply that claims more pairs is dropped as absurd."""
    num_workers: int = 1
    """Local processes that serve clients, one thread each."""

    def __post_init__(self) -> None:
        in_range("federation", 1, 1_000_000, num_clients=self.num_clients, num_rounds=self.num_rounds)
        in_range("federation", 1, 1_000_000, local_steps=self.local_steps)
        in_range("federation", 0, 1_000_000, min_clients=self.min_clients)
        in_range("federation", 1e-6, 1.0, client_fraction=self.client_fraction)
        in_range("federation", 1e-3, 1e6, alpha=self.alpha)
        if self.deadline_s != 0:
            in_range("federation", 0.01, 1e7, deadline_s=self.deadline_s)
        in_range("federation", 0.0, 0.49, trim_fraction=self.trim_fraction)
        in_range("federation", 0.0, 1e3, server_learning_rate=self.server_learning_rate)
        in_range("federation", 0.0, 0.9999, server_momentum=self.server_momentum)
        in_range("federation", 1, 256, num_workers=self.num_workers)
        in_range("federation", 0, 1_000_000, num_malicious=self.num_malicious)
        in_range("federation", 1e-12, 1e3, server_tau=self.server_tau)
        in_range("federation", 1, 2**53, max_examples=self.max_examples)
        if self.min_clients > self.num_clients:
            raise ConfigError(
                f"federation.min_clients={self.min_clients} exceeds"
                f" federation.num_clients={self.num_clients}."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """Step 3 on unseen concepts."""

    every_rounds: int = 10
    """Retrieval on the validation split after every so many rounds; 0 for never."""
    num_labels: tuple[int, ...] = (1, 5, 10, 30, 0)
    """Labels a class for kNN and the linear probe; 0 stands for all."""
    num_draws: int = 5
    """Draws of the labels; mean and 95% interval are over them."""
    num_neighbours: int = 5
    """Of kNN."""
    finetune: bool = False
    """Also train all layers on the few labels, for each draw: minutes instead of seconds."""

    label_percent: tuple[int, ...] = (5, 10, 100)
    """Percent of the pool whose masks a seg-* student is fine-tuned on."""
    segment_draws: int = 1
    """Draws of those images; each trains for seconds."""
    segment_steps: int = 400
    """Most optimiser steps on the masks."""

    def __post_init__(self) -> None:
        in_range("evaluate", 1, 1000, segment_draws=self.segment_draws)
        in_range("evaluate", 1, 1_000_000, segment_steps=self.segment_steps)
        for percent in self.label_percent:
            in_range("evaluate", 1, 100, label_percent=percent)
        in_range("evaluate", 0, 1_000_000, every_rounds=self.every_rounds)
        in_range("evaluate", 1, 1000, num_draws=self.num_draws, num_neighbours=self.num_neighbours)
        for count in self.num_labels:
            in_range("evaluate", 0, 1_000_000, num_labels=count)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportConfig:
    """Step 4."""

    head: bool = True
    """Fit a linear head on all labels and put it into the graph beside the embedding."""
    head_labels: str = "group"
    """Which labelling the head predicts."""
    license: str = "unspecified"
    """Licence of the exported weights, an SPDX name; yours to choose."""
    min_cosine: float = 0.0
    """Smallest cosine between torch and onnxruntime embeddings for fp32 and w8; 0: 0.9999 and 0.9995."""
    profiles: str = "w8"
    """w8, fp32, w4, int8, dyn8, such as "w8,int8"; the first becomes student.onnx."""
    calibration: str = "public"
    """What int8 takes ranges from: public (drawings of the public set) or procedural; never pairs."""
    prototypes: str = ""
    """Folder with a sub-folder of pictures for each class: a head without training; empty for none."""
    floor: float = 0.0
    """Least task metric (retrieval R@1) through onnxruntime; below it the export fails. 0 for none."""
    fold_norm: bool = False
    """Fold GroupNorm into the convolutions and learn the embedding back on public pictures; for gn-*."""
    fold_steps: int = 200
    """Optimiser steps of that recovery; 0 for calibration alone."""

    def __post_init__(self) -> None:
        in_range("export", -1, 1, min_cosine=self.min_cosine)
        in_range("export", 0, 1, floor=self.floor)
        in_range("export", 0, 100_000, fold_steps=self.fold_steps)


# Names of devices, which Windows takes for no file in any folder.
_DEVICES = frozenset(
    {"con", "prn", "aux", "nul", *(f"{port}{num}" for port in ("com", "lpt") for num in range(10))}
)
# Most file systems take 255 bytes; files beside the folder add an end to its name.
_LONGEST_NAME = 200


def _refuse_name(name: str) -> None:
    """Refuse what is no folder name on every system."""
    fault = ""
    if not name.strip():
        fault = "is empty"
    elif "/" in name or "\\" in name:
        fault = "holds a slash; the folder above it is set with out=..."
    elif name.startswith(".") or name != name.strip() or name.endswith("."):
        fault = "begins or ends with a dot or a space"
    elif printable(name) != name:
        fault = "holds characters that cannot be seen"
    elif len(name.encode("utf-8", "backslashreplace")) > _LONGEST_NAME:
        fault = f"is longer than {_LONGEST_NAME} bytes"
    elif name.split(".")[0].lower() in _DEVICES:
        fault = "is the name of a device on some systems"
    if fault:
        raise ConfigError(
            f"name={name!r} {fault}. It must be a plain folder name, without '/' or a leading dot, such as"
            " name=demo."
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """All settings of a run."""

    name: str = "demo"
    """Name of the run folder."""
    out: str = "runs"
    """Folder that holds the run folders."""
    seed: int = 0
    """Of everything but the teacher (``pretrain.seed``)."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    data: DataConfig = field(default_factory=DataConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    student: StudentConfig = field(default_factory=StudentConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    federation: FederationConfig = field(default_factory=FederationConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    export: ExportConfig = field(default_factory=ExportConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**31:
            raise ConfigError(f"seed={self.seed} is outside the allowed range [0, {2**31 - 1}].")
        _refuse_name(self.name)
        if "\0" in self.out:
            raise ConfigError(f"out={self.out!r} holds a NUL character, which no path can. Take it out.")
        if self.distill.freeze_projector and self.privacy.mechanism in _PRIVATE_LOSSES:
            raise ConfigError(
                f"distill.freeze_projector=true and privacy.mechanism={self.privacy.mechanism!r} do not go"
                " together: its noise is made for all weights. Allowed: none, client."
            )
        if self.privacy.mechanism != "none":
            self._keep_pairs_apart()

    def _keep_pairs_apart(self) -> None:
        """Under privacy one pair more must not move another from part to part."""
        if self.data.copies == "join":
            raise ConfigError(
                f"data.copies='join' and privacy.mechanism={self.privacy.mechanism!r} do not go together: one"
                " pair could move others between training and test, which no epsilon covers. Allowed: auto,"
                " leave-out."
            )
        object.__setattr__(self, "data", replace(self.data, copies="leave-out"))

    def resolved(self) -> "RunConfig":
        """The same settings with ``distill.loss = "auto"`` replaced by the mechanism's loss."""
        if self.distill.loss != "auto":
            return self
        loss = AUTO_LOSSES.get(self.privacy.mechanism, "cmc")
        return replace(self, distill=replace(self.distill, loss=loss))
