"""What the server asks a client for, beside the weights, and how much of it a device takes from a server."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from flwr.app import ConfigRecord

from clients.node import MODULES, Node
from edgecmd.catalogue.data_sets import FOLDER
from edgecmd.config.file_settings import CODE_SETTINGS, FILE_SETTINGS, NODE_CODE_SETTINGS
from edgecmd.config.reader import flatten, unflatten
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import PrivacyError, choose
from edgecmd.core.own_code import is_own, module_of
from edgecmd.data.modalities.table import modality_for, target_kinds
from edgecmd.models.backbones import is_backbone
from edgecmd.models.students import student_row
from edgecmd.settings import (
    DataConfig,
    EvaluateConfig,
    ExportConfig,
    PretrainConfig,
    StudentConfig,
    TeacherConfig,
)

# The server chooses the token and it becomes a folder's name here: nothing but a plain word.
TOKEN = re.compile(r"[0-9a-f]{16}")
# What the server tells of its own side, so that a device can compare; see `Order.expected`.
EXPECTED = ("target-kind", "teacher-sha256", "public-sha256", "edgecmd-version")
# What a target is made into. Everything else in the data section names a set or a file.
SHAPES = (
    "image_size",
    "fit",
    "target_offset",
    "target_scale",
    "target_kind",
    "sampling_rate_hz",
    "clip_s",
    "depth_scale_mm",
    "depth_max_m",
    "reverse",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """One round's request.

    Attributes:
        client: Index of this client.
        round_index: Round, from 1.
        token: Name of the run; a client keeps the states of different runs apart by it.
        config: Settings, with the strategy's ``proximal_mu`` where the strategy sends one.
        expected: What the server says of its own side by keys of `EXPECTED`, as far as it says it.
    """

    client: int
    round_index: int
    token: str
    config: RunConfig
    expected: Mapping[str, str] = field(default_factory=dict)

    @property
    def target_kind(self) -> str:
        """Kind of the student's targets: a setting, or what the server's student takes; never looked up.

        Raises:
            ConfigError: The server names a kind that is none.
        """
        kind = self.config.data.target_kind
        if kind == "auto":
            front = student_row(self.config.student.architecture).front
            kind = self.expected.get("target-kind", next(iter(modality_for(front).kinds)))
        choose("data.target_kind", kind, target_kinds())
        return kind


def read_order(
    sent: ConfigRecord, run_config: Mapping[str, object], node: Node, *, local: bool = False
) -> Order:
    """Check a request.

    Args:
        sent: The record ``config`` of the message.
        run_config: Settings of the run, as the server wrote them.
        node: The node's own config.
        local: Whether that was whoever started this process, as in a simulation: only then may settings
            name code that the node's config does not allow.

    Raises:
        ConfigError: A setting is unknown or out of its range.
        PrivacyError: A setting names code that the node's owner did not allow, or is outside of their
            bounds; or the node has pairs of its own, and a setting names something to read there.
        ValueError: The name of the run is none.
    """
    if node.data is None:
        config = unflatten(run_config)
        if not local:
            _refuse_code(config, NODE_CODE_SETTINGS, node.modules)
    else:
        config = device_config(run_config, node.modules)
    node.check_limits(config)
    token = str(sent["run"])
    if not TOKEN.fullmatch(token):
        raise ValueError(f"run={token!r} is not the name of a run; allowed are 16 hexadecimal digits.")
    mu = float(str(sent.get("proximal-mu", config.distill.proximal_mu)))
    if mu != config.distill.proximal_mu:
        config = replace(config, distill=replace(config.distill, proximal_mu=mu))
    if "batch-norm" in sent:
        # What ``auto`` stands for hangs on first weights, which the server alone has.
        student = replace(config.student, batch_norm=str(sent["batch-norm"]))
        config = replace(config, student=student)
    return Order(
        client=node.client,
        round_index=int(str(sent["server-round"])),
        token=token,
        config=config,
        expected={name: str(sent[name]) for name in EXPECTED if name in sent},
    )


def device_config(run_config: Mapping[str, object], modules: tuple[str, ...] = ()) -> RunConfig:
    """The settings of a run as far as a device with pairs of its own takes them from a server.

    Args:
        run_config: Settings of the run by dotted key, as the server wrote them.
        modules: What the node's owner allows a run to import.

    Raises:
        PrivacyError: A setting names something to read, or code that is not allowed; the code of the refusal
            travels with the settings' names.
        ConfigError: A setting is unknown or out of its range.

    Guarantees:
        What is returned holds numbers, and words out of fixed tables or names in allowed modules; every
        setting that names a file, a folder or a set has its default, whatever the server wrote.
    """
    given = unflatten(run_config)
    plain, asked = flatten(RunConfig()), flatten(given)
    named = sorted(name for name in FILE_SETTINGS if asked[name] != plain[name])
    if named:
        raise PrivacyError(
            f"The run sets {', '.join(f'{name}={asked[name]!r}' for name in named)}. On a node with"
            " data-dir, only its owner decides what is read: data-dir, public-dir and teacher in the node's"
            " config. A server keeps its own paths in the file that EDGECMD_SERVER_CONFIG names.",
            code="names-a-file",
            detail=", ".join(named),
        )
    library = is_backbone(given.student.architecture)
    if is_own(given.student.architecture) and not library:
        raise PrivacyError(
            f"The run sets student.architecture={given.student.architecture!r}, which is not edgecmd's own"
            " code. On a node with data-dir, a server cannot name code to run. Use one of edgecmd's own"
            " students.",
            code="names-code",
            detail="student.architecture",
        )
    _refuse_code(given, CODE_SETTINGS | ({"student.architecture"} if library else set()), modules)
    data = DataConfig(
        name=FOLDER,
        source_size=given.data.source_side,
        **{name: getattr(given.data, name) for name in SHAPES},
    )
    return replace(
        given,
        name="device",
        out="runs",
        data=data,
        teacher=TeacherConfig(map_dim=given.teacher.map_dim, map_zoom=given.teacher.map_zoom),
        pretrain=PretrainConfig(),
        student=StudentConfig(
            architecture=given.student.architecture,
            batch_norm=given.student.batch_norm,
            trainable=given.student.trainable,
        ),
        privacy=replace(given.privacy, ledger_dir=""),
        evaluate=EvaluateConfig(),
        export=ExportConfig(),
    )


def _refuse_code(config: RunConfig, settings: frozenset[str], modules: tuple[str, ...]) -> None:
    """Refuse code of a module that the node's owner did not allow, before anything of it is imported."""
    flat = flatten(config)
    asked = {name: str(flat[name]) for name in sorted(settings) if is_own(str(flat[name]))}
    foreign = [name for name, text in asked.items() if module_of(text) not in modules]
    if foreign:
        raise PrivacyError(
            f"The run sets {', '.join(f'{name}={asked[name]!r}' for name in foreign)}, code to import. On a"
            " node, only its owner decides what runs. If you trust it, allow it in the node's config:"
            f" {MODULES}={module_of(asked[foreign[0]])!r}.",
            code="names-code",
            detail=", ".join(foreign),
        )
