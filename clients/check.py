"""What a device's owner may want to know before a server asks: of the pairs, the ledger and what to pin.

For the owner alone, on the device: counts of pairs and what was spent on them never leave it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from flwr.app import ConfigRecord

from clients import device
from clients.node import Node, read_node
from clients.order import Order, read_order
from edgecmd import __version__
from edgecmd.config.reader import flatten
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import PrivacyError
from edgecmd.data.modalities.row import digests
from edgecmd.data.pairs import PublicSource
from edgecmd.data.user_files.device_pairs import DevicePairs
from edgecmd.privacy.device_ledger import DeviceLedgers, Found

NO_RUN = "0" * 16


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeReport:
    """What was found on a device.

    Attributes:
        target_kind: What the pairs were read as.
        num_pairs: Pairs that can be used.
        skipped: Why each other pair is left out.
        public: Public images that are also the source of a pair; what is made of them is public.
        pins: What the owner may pin, by key of the node's config; that of the anchors holds for the
            settings that were given and on this machine.
        ledger: File of the ledger; empty where there is none.
        moved: Whether it was begun for another folder.
        num_rounds: Rounds that were counted.
        epsilon: What they cost at ``delta``.
        delta: The owner's, else that of the settings.
    """

    target_kind: str
    num_pairs: int
    skipped: tuple[str, ...]
    public: tuple[str, ...]
    pins: Mapping[str, str]
    ledger: str
    moved: bool
    num_rounds: int
    epsilon: float
    delta: float

    def problems(self) -> list[str]:
        """Sentences on what the owner should look at."""
        found = []
        if not self.ledger:
            found.append(
                "No ledger counts these pairs: private runs are refused until --new-ledger starts one."
            )
        if not self.num_pairs:
            found.append(
                f"No pair can be used as {self.target_kind!r}; the node would answer with noise only."
            )
        if self.public:
            found.append(
                f"Public images that are also the source of a pair: {len(self.public)}, the first:"
                f" {self.public[0]}. Nothing protects what is public; remove them from one or the other."
            )
        if self.skipped:
            found.append(f"Pairs left out: {len(self.skipped)}, the first: {self.skipped[0]}")
        return found


def check_node(raw: Mapping[str, object], config: RunConfig, *, new_ledger: bool = False) -> NodeReport:
    """Look at a device as a round would, without answering one.

    Args:
        raw: The node's config.
        config: Settings of the runs that it is for: sides, kind of the target, anchors, student.
        new_ledger: Begin a ledger for pairs that have none.

    Raises:
        PrivacyError: The node's config is wrong, something is missing, or the pairs have a ledger already.
    """
    order, node = asked_here(raw, config)
    prepared = device.prepare(order, node)
    pairs = device.read_pairs(order, node, prepared, keep=False)
    found = _ledger(node, pairs, new_ledger=new_ledger)
    usable = pairs if found is None else pairs.take(found.rows(pairs.digests), why=device.ELSEWHERE)
    delta = node.budgets.get("max-delta", config.privacy.delta)
    return NodeReport(
        target_kind=order.target_kind,
        num_pairs=len(usable),
        skipped=usable.skipped,
        public=_also_public(usable, prepared.sources.public),
        pins={
            **prepared.sources.digests(),
            "anchors-sha256": prepared.digest,
            "edgecmd-version": __version__,
        },
        ledger=str(found.ledger.path) if found else "",
        moved=bool(found and found.moved),
        num_rounds=found.ledger.num_rounds() if found else 0,
        epsilon=found.ledger.epsilon(delta=delta) if found else 0.0,
        delta=delta,
    )


def asked_here(raw: Mapping[str, object], config: RunConfig) -> tuple[Order, Node]:
    """A round of a run, as a device with pairs of its own would be asked for it.

    Args:
        raw: The node's config.
        config: Settings of the run.

    Raises:
        PrivacyError: The node's config is wrong, has no pairs, or does not allow such a run.
    """
    node = read_node(raw)
    if node.data is None:
        raise PrivacyError(
            "The node config has no data-dir, so there is nothing to check. Give the folder of the pairs:"
            ' edgecmd node \'data-dir="/srv/pairs" state-dir="/srv/state"\'.',
            code="node-config",
        )
    order = read_order(ConfigRecord({"run": NO_RUN, "server-round": 1}), dict(flatten(config)), node)
    return order, node


def _ledger(node: Node, pairs: DevicePairs, *, new_ledger: bool) -> Found | None:
    assert node.data is not None
    ledgers = DeviceLedgers(state=node.state, key=node.key())
    if new_ledger:
        return ledgers.begin(node.data, pairs.present)
    try:
        return ledgers.find(node.data, pairs.present)
    except PrivacyError as error:
        if error.code != "no-ledger":
            raise
        return None


def _also_public(pairs: DevicePairs, public: PublicSource) -> tuple[str, ...]:
    """Keys of public images that are equal to the source of a pair."""
    private = set(digests(pairs.data.source))
    return tuple(key for key, one in zip(public.keys, digests(public.images)) if one in private)
