"""What a device's owner decides: the node's config, checked. A server has no say in any of it.

``--node-config 'data-dir="/srv/pairs" state-dir="/srv/state" max-epsilon=4.0'``
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path

from clients.identity import TELL, index_of_node
from edgecmd import __version__
from edgecmd.catalogue.data_sets import DEFAULT_PUBLIC, DEFAULT_TEACHER
from edgecmd.catalogue.teacher_rows import teacher_files
from edgecmd.config.reader import unflatten
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError, PrivacyError, nearest
from edgecmd.privacy.device_ledger import device_state
from edgecmd.privacy.ledger import SHORTEST_KEY
from edgecmd.privacy.secure_sum.sum_plan import make_sum_plan
from edgecmd.settings import SECURE_SUM, TeacherConfig

# Delta of an owner who sets max-epsilon alone: else a server could choose one at which epsilon says nothing.
OWNER_DELTA = 1e-5
BUDGETS = {"max-epsilon": 1e6, "max-delta": 1.0}
Raw = Mapping[str, object]


@dataclass(frozen=True, kw_only=True, slots=True)
class Limit:
    """How far a server may set something.

    Attributes:
        setting: Dotted name of the run's setting.
        is_most: Whether the owner's number is the largest allowed one, else the least.
        low: Least number that the owner may give.
        high: Largest.
    """

    setting: str
    is_most: bool
    low: float
    high: float


LIMITS: dict[str, Limit] = {
    "max-sampling-rate": Limit(setting="privacy.sampling_rate", is_most=True, low=0.0, high=1.0),
    "min-anchors": Limit(setting="distill.num_anchors", is_most=False, low=1.0, high=1e6),
    "max-anchors": Limit(setting="distill.num_anchors", is_most=True, low=1.0, high=1e6),
    "min-augment": Limit(setting="distill.augment", is_most=False, low=0.0, high=4.0),
    "max-augment": Limit(setting="distill.augment", is_most=True, low=0.0, high=4.0),
    "max-local-steps": Limit(setting="federation.local_steps", is_most=True, low=1.0, high=1e6),
    "max-views": Limit(setting="privacy.num_views", is_most=True, low=1.0, high=64.0),
    "min-survivors": Limit(setting="privacy.min_survivors", is_most=False, low=2.0, high=1e6),
    "min-colluding": Limit(setting="privacy.num_colluding", is_most=False, low=0.0, high=1e6),
}
SUM_LIMITS = ("min-survivors", "min-colluding")
# Of a round that is a secure sum, and of the parties that are really there.
PARTIES = {"min-cohort": 1e6, "min-neighbours": 1e6}
PINS = ("teacher-sha256", "public-sha256", "anchors-sha256", "edgecmd-version")
FILES = ("data-dir", "state-dir", "public-dir", "teacher", "ledger-key", "own-key", "peer-keys")
# Key of the node's config -> setting of a run that has the same meaning; of a run they are never taken.
TEACHER = {"teacher": "teacher.name"} | {
    f"teacher-{name.replace('_', '-')}": f"teacher.{name}"
    for name in ("weights", "size", "mean", "std", "crop", "output", "pca_dim", "pca_power")
}
MODULES = "modules"
FLOWER = ("partition-id", "num-partitions")
KEYS = (*FLOWER, *FILES, *TEACHER, *BUDGETS, *LIMITS, *PARTIES, *PINS, MODULES, TELL)


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """A node's config.

    Attributes:
        client: Index of the client.
        data: The device's own pairs; None on a node of a simulation.
        state: Folder for ledgers, optimiser states and features.
        has_state: Whether the owner named that folder.
        public: Name of a public set that ships with edgecmd, or a folder of public images.
        teacher: Names the teacher or teachers, or a file; and how their images are made.
        ledger_key: File of the secret that keys the ledger; None without one.
        budgets: ``max-epsilon`` and ``max-delta``, as far as the owner set them.
        limits: The owner's numbers by keys of `LIMITS`.
        pins: The owner's texts by keys of `PINS`.
        modules: Modules that a run's ``module:factory`` may name here.
        own_key: File of the node's registered key, which signs for it in a secure sum.
        peer_keys: File of the public keys of all nodes that may be in one with it.
        parties: The owner's numbers by keys of `PARTIES`.
        tells_epsilon: Whether a server is told what the ledger has counted.
    """

    client: int
    data: Path | None
    state: Path
    has_state: bool = False
    public: str = DEFAULT_PUBLIC
    teacher: TeacherConfig = field(default_factory=lambda: TeacherConfig(name=DEFAULT_TEACHER))
    ledger_key: Path | None = None
    budgets: Mapping[str, float] = field(default_factory=dict)
    limits: Mapping[str, float] = field(default_factory=dict)
    pins: Mapping[str, str] = field(default_factory=dict)
    modules: tuple[str, ...] = ()
    own_key: Path | None = None
    peer_keys: Path | None = None
    parties: Mapping[str, float] = field(default_factory=dict)
    tells_epsilon: bool = False

    def key(self) -> bytes | None:
        """The secret that keys the ledger.

        Raises:
            PrivacyError: The file cannot be read, or holds too little.
        """
        if self.ledger_key is None:
            return None
        try:
            secret = self.ledger_key.read_bytes().strip()
        except OSError as error:
            raise _wrong("ledger-key", str(self.ledger_key), f"cannot be read: {error.strerror}") from error
        if len(secret) < SHORTEST_KEY:
            raise _wrong(
                "ledger-key",
                str(self.ledger_key),
                f"holds {len(secret)} bytes; at least {SHORTEST_KEY} are needed, such as 32 random ones",
            )
        return secret

    def check_limits(self, config: RunConfig) -> None:
        """Refuse settings of a run that the owner does not allow.

        Raises:
            PrivacyError: The message names the setting; its code travels with that name.
        """
        for key, bound in self.limits.items():
            limit = LIMITS[key]
            if key in SUM_LIMITS and config.privacy.aggregation != SECURE_SUM:
                continue
            value = _value_of(limit.setting, config)
            if value > bound if limit.is_most else value < bound:
                raise PrivacyError(
                    f"{limit.setting}={value:g} of the run, but this node has {key}={bound:g}.",
                    code="out-of-bounds",
                    detail=limit.setting,
                )

    def check_pin(self, key: str, found: str) -> None:
        """Refuse what is not what the owner pinned.

        Raises:
            PrivacyError: It differs.
        """
        pinned = self.pins.get(key, found)
        if pinned != found:
            raise PrivacyError(
                f"{key}={pinned!r} in the node's config, but here it is {found!r}. If the new value is"
                " intended, pin it; `edgecmd node` shows it.",
                code="other-version" if key == "edgecmd-version" else "other-anchors",
                detail=key,
            )


def _value_of(setting: str, config: RunConfig) -> float:
    """What a run really does: batches without a coin are a whole share of the pairs, 1/1, 1/2, 1/3."""
    value = float(reduce(getattr, setting.split("."), config))  # type: ignore[arg-type]
    if setting == "privacy.min_survivors":
        plan = make_sum_plan(config.privacy, config.federation, mechanism=None)
        return 0.0 if plan is None else float(plan.survivors)
    if setting == "privacy.sampling_rate" and config.privacy.sampling == "none":
        return 1.0 / max(1, int(1.0 / value))
    return value


def read_node(raw: Raw, *, node_id: int = 0) -> Node:
    """Check a node's config.

    Args:
        raw: As Flower hands it to the client.
        node_id: Flower's id of the node, the index of a device whose owner gave none.

    Raises:
        PrivacyError: A key is unknown or a value is no such thing. Until it is corrected the node takes
            part in nothing: a misspelt bound is none.
    """
    own = [key for key in raw if key not in FLOWER]
    for key in own:
        if key not in KEYS:
            raise PrivacyError(
                f"The node config has {key}={raw[key]!r}, which is unknown. {nearest(key, KEYS)}",
                code="node-config",
            )
    for key in (*FILES, *TEACHER, *PINS, MODULES):
        if key in raw and not str(raw[key]).strip():
            raise _wrong(
                key, "", "is empty, perhaps from an unset variable; leave the key out, or fill it in"
            )
        if "\0" in str(raw.get(key, "")):
            raise _wrong(key, str(raw[key]), "contains a NUL character, which no path can")
    data = Path(str(raw["data-dir"])) if "data-dir" in raw else None
    state = Path(str(raw["state-dir"])) if raw.get("state-dir") else device_state()
    node = Node(
        client=_client(raw, otherwise=None if data is None else index_of_node(node_id)),
        data=data,
        state=state,
        has_state=bool(raw.get("state-dir")),
        public=str(raw.get("public-dir") or DEFAULT_PUBLIC),
        teacher=_teacher(raw),
        ledger_key=Path(str(raw["ledger-key"])) if raw.get("ledger-key") else None,
        budgets={key: _number(raw, key, low=0.0, high=high) for key, high in BUDGETS.items() if key in raw},
        limits={
            key: _number(raw, key, low=limit.low, high=limit.high, low_allowed=True)
            for key, limit in LIMITS.items()
            if key in raw
        },
        pins={key: str(raw[key]) for key in PINS if key in raw},
        modules=_modules(raw),
        own_key=Path(str(raw["own-key"])) if raw.get("own-key") else None,
        peer_keys=Path(str(raw["peer-keys"])) if raw.get("peer-keys") else None,
        parties={key: _number(raw, key, low=0.0, high=high) for key, high in PARTIES.items() if key in raw},
        tells_epsilon=_is_true(raw, TELL),
    )
    _check_places(raw, data)
    node.check_pin("edgecmd-version", __version__)
    return node


def _teacher(raw: Raw) -> TeacherConfig:
    """What the owner says of the teacher, as settings of a run.

    Raises:
        PrivacyError: A value is of another type or outside its range.
    """
    given = {setting: raw[key] for key, setting in TEACHER.items() if key in raw}
    try:
        return unflatten({"teacher.name": DEFAULT_TEACHER} | given).teacher
    except ConfigError as error:
        raise PrivacyError(
            f"The node config (teacher-*, as the settings): {error}", code="node-config"
        ) from error


def _modules(raw: Raw) -> tuple[str, ...]:
    """Modules that the owner allows, from a list with commas.

    Raises:
        PrivacyError: One is not a name of a module.
    """
    names = [name.strip() for name in str(raw[MODULES]).split(",")] if MODULES in raw else []
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")):
            raise _wrong(
                MODULES,
                str(raw[MODULES]),
                f"holds {name!r}, which is not a module; allowed are names such as mine.losses, separated by"
                " commas",
            )
    return tuple(names)


def _check_places(raw: Raw, data: Path | None) -> None:
    """Refuse what is among the pairs: public images there would make anchors of them.

    Raises:
        PrivacyError: One of the owner's files is ``data-dir`` or is in it.
    """
    named = [(key, str(raw[key])) for key in FILES if key in raw and key != "data-dir"]
    named += [("teacher", one) for one in teacher_files(str(raw.get("teacher", "")), "")]
    named += [("teacher-weights", one) for one in teacher_files("", str(raw.get("teacher-weights", "")))]
    for key, text in named if data is not None else ():
        path = Path(text)
        if path.is_absolute() and data is not None:
            inside = path.resolve()
            if data.resolve() in (inside, *inside.parents):
                raise _wrong(key, str(path), "is inside data-dir, where only the pairs may be read")


def _client(raw: Raw, *, otherwise: int | None) -> int:
    """Index of the client: ``partition-id``, which a device with pairs of its own may leave out.

    Raises:
        PrivacyError: It is not a whole number, or a node without pairs of its own has none.
    """
    if "partition-id" not in raw:
        if otherwise is None:
            raise PrivacyError(
                "The node config has neither data-dir nor partition-id. Set data-dir to the folder of this"
                " device's pairs; partition-id and num-partitions are for simulations.",
                code="node-config",
            )
        return otherwise
    try:
        client = int(str(raw["partition-id"]))
    except ValueError:
        client = -1
    if client < 0:
        raise _wrong("partition-id", str(raw["partition-id"]), "must be a whole number, 0 or more")
    return client


def _is_true(raw: Raw, key: str) -> bool:
    """Whether a key is true; without it, it is not.

    Raises:
        PrivacyError: It is neither true nor false.
    """
    text = str(raw.get(key, False)).lower()
    if text not in ("true", "false"):
        raise _wrong(key, str(raw[key]), "is neither true nor false")
    return text == "true"


def _number(raw: Raw, name: str, *, low: float, high: float, low_allowed: bool = False) -> float:
    try:
        value = float(str(raw[name]))
    except ValueError:
        value = math.nan
    # Not a number is in no range; as a plain minimum it would lift the bound.
    if not low <= value <= high or (value == low and not low_allowed):
        raise PrivacyError(
            f"The node config has {name}={raw[name]!r}; allowed are numbers"
            f" {'from' if low_allowed else 'above'} {low:g}, up to {high:g}. Correct it; until then this"
            " node takes part in nothing.",
            code="node-config",
        )
    return value


def _wrong(key: str, value: str, what: str) -> PrivacyError:
    return PrivacyError(f"The node config has {key}={value!r}: it {what}.", code="node-config")
