"""All settings of a run together, with what must hold between its sections.

Readers and writers of TOML, ``--set a.b=c`` and Flower's flat run config: `edgecmd.config.reader`.
"""

from dataclasses import dataclass, field, replace

from edgecmd.arguments import refuse_seed
from edgecmd.catalogue.strategy_rows import STRATEGIES
from edgecmd.core.errors import ConfigError
from edgecmd.core.text import printable
from edgecmd.privacy.mechanisms import MECHANISMS, default_loss
from edgecmd.settings import (
    DataConfig,
    DistillConfig,
    EvaluateConfig,
    ExportConfig,
    FederationConfig,
    PretrainConfig,
    PrivacyConfig,
    StudentConfig,
    TeacherConfig,
)

# Names of devices, which Windows takes for no file in any folder.
_DEVICES = frozenset(
    {"con", "prn", "aux", "nul", *(f"{port}{num}" for port in ("com", "lpt") for num in range(10))}
)
# Most file systems take 255 bytes; files beside the folder add an end to its name.
_LONGEST_NAME = 200


def _refuse_name(name: str) -> None:
    """Refuse what is not a folder name on every system."""
    fault = ""
    if not name.strip():
        fault = "is empty"
    elif "/" in name or "\\" in name:
        fault = "contains a slash; set the folder above it with out=..."
    elif name.startswith(".") or name != name.strip() or name.endswith("."):
        fault = "begins or ends with a dot or a space"
    elif printable(name) != name:
        fault = "contains invisible characters"
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
    """Seed of everything except the teacher (``pretrain.seed``)."""
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
        refuse_seed(self.seed)
        _refuse_name(self.name)
        if "\0" in self.out:
            raise ConfigError(f"out={self.out!r} contains a NUL character, which no path can. Remove it.")
        if self.distill.freeze_projector and self.sums_exactly:
            raise ConfigError(
                f"distill.freeze_projector=true and privacy.mechanism={self.privacy.mechanism!r} do not go"
                " together: this mechanism adds noise to all weights. Allowed mechanisms: none, client."
            )
        if self.distill.precision != "float32" and self.sums_exactly:
            raise ConfigError(
                f"distill.precision={self.distill.precision!r} and privacy.mechanism="
                f"{self.privacy.mechanism!r} do not go together: a processor may round differently when the"
                " number of pairs changes, and with 8 significant bits that exceeds what the clip allows. Set"
                " distill.precision=float32."
            )
        if self.distill.rows_at_once and self.sums_exactly:
            raise ConfigError(
                f"distill.rows_at_once={self.distill.rows_at_once} and privacy.mechanism="
                f"{self.privacy.mechanism!r} do not go together: a private step goes through its pairs in"
                " blocks anyway. Set distill.rows_at_once=0."
            )
        if self.federation.clients_at_once > 1:
            self._check_at_once()
        if self.federation.buffer_size:
            self._check_buffer()
        if self.federation.compressed:
            from edgecmd.training.codecs import check_compression

            once = getattr(MECHANISMS.get(self.privacy.mechanism), "one_shot", False)
            check_compression(self.federation, aggregation=self.privacy.aggregation, one_shot=once)
        if self.privacy.mechanism != "none":
            self._keep_pairs_apart()

    def _check_at_once(self) -> None:
        """Clients that train at once need rounds without messages, and steps of plain float32."""
        federation, privacy, distill = self.federation, self.privacy, self.distill
        row = STRATEGIES.get(federation.strategy)
        reasons = {
            f"privacy.mechanism={privacy.mechanism!r}": privacy.mechanism != "none",
            f"privacy.aggregation={privacy.aggregation!r}": privacy.aggregation != "plain",
            f"federation.strategy={federation.strategy!r}": row is not None and not row.linear,
            f"federation.buffer_size={federation.buffer_size}": federation.buffer_size > 0,
            f"federation.slowest={federation.slowest:g}": federation.slowest > 1,
            f"distill.precision={distill.precision!r}": distill.precision != "float32",
            f"distill.rows_at_once={distill.rows_at_once}": distill.rows_at_once > 0,
        }
        given = next((name for name, holds in reasons.items() if holds), None)
        if given is not None:
            raise ConfigError(
                f"federation.clients_at_once={federation.clients_at_once} and {given} do not go together:"
                " there each client is trained by itself. Set federation.clients_at_once=1."
            )

    def _check_buffer(self) -> None:
        """Asynchronous rounds need clients that answer by themselves, and a server that averages."""
        federation, mechanism = self.federation, self.privacy.mechanism
        size = f"federation.buffer_size={federation.buffer_size}"
        if federation.buffer_size > federation.num_clients:
            raise ConfigError(
                f"{size} exceeds federation.num_clients={federation.num_clients}; a buffer has at most one"
                " answer of each. Lower it, or set it to 0 for synchronous rounds."
            )
        if federation.min_clients > federation.buffer_size:
            raise ConfigError(
                f"federation.min_clients={federation.min_clients} exceeds {size}, the answers that a round"
                " waits for. Lower the one or raise the other."
            )
        if federation.client_fraction < 1:
            raise ConfigError(
                f"{size} keeps all clients busy; federation.client_fraction={federation.client_fraction:g}"
                " asks a share of them. Set federation.client_fraction=1, or federation.buffer_size=0."
            )
        row = STRATEGIES.get(federation.strategy)
        if row is not None and not row.linear:
            linear = ", ".join(name for name, one in STRATEGIES.items() if one.linear)
            raise ConfigError(
                f"federation.strategy={federation.strategy!r} compares the answers of a whole round;"
                f" {size} takes the first that come, to weights of different ages. Use one of {linear}, or"
                " federation.buffer_size=0."
            )
        if mechanism in MECHANISMS and not self.sums_exactly:
            at_client = ", ".join(name for name, one in MECHANISMS.items() if one.at_client)
            raise ConfigError(
                f"{size} and privacy.mechanism={mechanism!r} do not go together: the server's noise and the"
                " secret coins of its cohorts belong to rounds whose clients start from the same weights."
                f" Set federation.buffer_size=0, or use one of none, {at_client}."
            )

    def _keep_pairs_apart(self) -> None:
        """Under privacy one pair more must not move another from part to part."""
        if self.data.copies == "join":
            raise ConfigError(
                f"data.copies='join' and privacy.mechanism={self.privacy.mechanism!r} do not go together: one"
                " pair could move others between training and test, which no epsilon covers. Allowed: auto,"
                " leave-out."
            )
        object.__setattr__(self, "data", replace(self.data, copies="leave-out"))

    @property
    def sums_exactly(self) -> bool:
        """Whether clients make sums in float64, as a guarantee per pair needs."""
        row = MECHANISMS.get(self.privacy.mechanism)
        return row is not None and row.at_client

    def resolved(self) -> "RunConfig":
        """The same settings with ``distill.loss = "auto"`` replaced by the mechanism's loss."""
        if self.distill.loss != "auto":
            return self
        loss = default_loss(self.privacy.mechanism)
        return replace(self, distill=replace(self.distill, loss=loss))
