"""What a device with pairs of its own brings to a round, in an order that matters.

Teacher, public images and anchors come first, from the owner's settings, and are held against what the owner
pinned and what the server expects. Only then are the pairs opened.
"""

import logging
import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from clients.node import OWNER_DELTA, Node, Raw, read_node
from clients.order import Order
from edgecmd import __version__
from edgecmd.catalogue.data_sets import PUBLIC_SETS
from edgecmd.catalogue.teacher_rows import listed
from edgecmd.config.assemble import device_for
from edgecmd.core.errors import PrivacyError
from edgecmd.core.kept import Kept
from edgecmd.core.own_code import is_own
from edgecmd.data.anchors import Anchors, anchors_digest
from edgecmd.data.stored.decoded_pairs import state_of
from edgecmd.data.user_files.device_pairs import DevicePairs, read_device_pairs
from edgecmd.models.students import is_dense
from edgecmd.models.teacher.teachers import TEACHERS
from edgecmd.privacy.device_ledger import DeviceLedgers, Found, ledger_name
from edgecmd.settings import TeacherConfig
from edgecmd.training.device_task import DeviceSources, device_anchors, device_data, device_sources
from edgecmd.training.task import Holding, Places

LOG = logging.getLogger("edgecmd.client")
# Settings of runs that alternate on one node.
MOST_KEPT = 2
ELSEWHERE = "another ledger of this device counts it"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Prepared:
    """What is fixed before a pair is opened.

    Attributes:
        sources: Teacher and public images.
        anchors: Anchors of the run.
        digest: Their SHA-256.
    """

    sources: DeviceSources
    anchors: Anchors
    digest: str


def prepare(order: Order, node: Node) -> Prepared:
    """Teacher, public images and anchors, as the owner named and pinned them.

    Raises:
        PrivacyError: One of them is missing, is not the pinned one, or is not the server's.

    Guarantees:
        Opens nothing below ``data-dir``, so no pair decides about an anchor.
    """
    common = _common(order, node, _known_by(node))
    found = {**common.digests, "edgecmd-version": __version__}
    for key, digest in found.items():
        node.check_pin(key, digest)
    _compare(order.expected, found)
    anchors, digest = common.anchors(order)
    node.check_pin("anchors-sha256", digest)
    return Prepared(sources=common.sources, anchors=anchors.to(device_for(order.config)), digest=digest)


def warm_up(order: Order, node: Node) -> None:
    """Make what `prepare` needs before a message asks for it, so that forked processes have it.

    Nothing is done where the owner's teacher is code: that runs in the processes of messages alone.

    Raises:
        PrivacyError: Something is missing.

    Guarantees:
        Opens nothing below ``data-dir``.
    """
    if not _is_code(node.teacher):
        _common(order, node, _known_by(node)).anchors(order)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Common:
    """What messages have in common as long as nobody changes a file of it.

    Attributes:
        sources: Teacher and public images.
        digests: Their SHA-256.
        made: Anchors on the CPU, and their SHA-256.
    """

    sources: DeviceSources
    digests: Mapping[str, str]
    made: Kept[Hashable, tuple[Anchors, str]] = field(default_factory=lambda: Kept(MOST_KEPT))

    def anchors(self, order: Order) -> tuple[Anchors, str]:
        """Anchors of the run, on the CPU, and their SHA-256."""
        distill, seed, side = order.config.distill, order.config.seed, order.config.data.source_side

        def make() -> tuple[Anchors, str]:
            made = device_anchors(self.sources, distill, seed=seed, side=side)
            return made, anchors_digest(made)

        return self.made.get((distill.anchors, distill.num_anchors, seed), make)


# As long as this process lives, and in those that it forks.
_COMMON = Kept[Hashable, _Common](MOST_KEPT)


def _common(order: Order, node: Node, state: Hashable) -> _Common:
    config = order.config
    dense = is_dense(config.student.architecture)
    places = Places(dim=config.teacher.map_dim, zoom=config.teacher.map_zoom) if dense else None

    def make() -> _Common:
        sources = device_sources(
            config.data,
            teacher=node.teacher,
            public=node.public,
            cache=node.state / "features",
            places=places,
        )
        return _Common(sources=sources, digests=sources.digests())

    return _COMMON.get((config.data, node.teacher, node.public, node.state, places, state), make)


def _is_code(teacher: TeacherConfig) -> bool:
    """Whether a teacher is made by a library or a module of the owner's."""
    return bool(teacher.weights) or any(is_own(one) for one in listed(teacher.name))


def _known_by(node: Node) -> Hashable:
    """What the files of teacher and public images are known by; equal to nothing where that is not known."""
    files = list[Path]()
    if _is_code(node.teacher):
        return object()
    if not all(one in TEACHERS for one in listed(node.teacher.name)):
        files.append(Path(node.teacher.name))
    if node.public not in PUBLIC_SETS:
        folder = Path(node.public)
        files += [folder, *sorted(folder.glob("*")), *sorted(folder.glob("*/*"))]
    return state_of(files) or object()


def _compare(expected: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Refuse to train against another teacher or other anchors than the server's.

    Raises:
        PrivacyError: They differ; the code travels with the name of what differs.
    """
    for key, own in found.items():
        if expected.get(key, own) != own:
            raise PrivacyError(
                f"The server has {key}={expected[key]!r}, this node {own!r}. Set public-dir and teacher in"
                " the node's config to those of the run, or install the server's version of edgecmd.",
                code="other-version" if key == "edgecmd-version" else "other-anchors",
                detail=key,
            )


def read_pairs(order: Order, node: Node, prepared: Prepared, *, keep: bool = True) -> DevicePairs:
    """The device's pairs, with those that are left out and why: that is for the device's own log alone.

    Args:
        order: What was asked.
        node: The node's own settings.
        prepared: Teacher and public images.
        keep: Whether to use decoded pairs of earlier messages, and keep these, in the node's folder of state.
    """
    assert node.data is not None
    kind = prepared.sources.file_kind(order.target_kind, reverse=order.config.data.reverse)
    kept = node.state / "pairs" / f"{ledger_name(node.data)}.npz" if keep else None
    return read_device_pairs(node.data, order.config.data, kind=kind, keep=kept)


def told_epsilon(raw: Raw, *, node_id: int = 0) -> dict[str, float]:
    """Epsilon that the device's ledger has counted and its delta, where the owner lets a server know them.

    Args:
        raw: The node's config.
        node_id: Flower's id of the node.

    Returns:
        ``epsilon`` and ``delta``; nothing where the owner keeps them, or no ledger was begun for this folder.

    Guarantees:
        No pair changes it: the ledger is the one of the folder's path, its rounds are counted whatever the
        pairs are, and nothing below ``data-dir`` is opened. A folder that only its pairs would recognise
        tells nothing, since one pair could decide whether half of them are known.
    """
    try:
        node = read_node(raw, node_id=node_id)
        if node.data is None or not node.tells_epsilon:
            return {}
        found = DeviceLedgers(state=node.state, key=node.key()).of_folder(node.data)
        if not found.exists:
            return {}
        delta = node.budgets.get("max-delta", OWNER_DELTA)
        epsilon = found.epsilon(delta=delta)
    except PrivacyError as error:
        LOG.warning("no epsilon is told: %s", error)
        return {}
    return {"epsilon": epsilon, "delta": delta} if math.isfinite(epsilon) else {}


def counted_pairs(pairs: DevicePairs, node: Node) -> tuple[DevicePairs, Found]:
    """The pairs that the device's ledger may count, and that ledger.

    Raises:
        PrivacyError: No ledger counts them, or it cannot be read.
    """
    assert node.data is not None
    found = DeviceLedgers(state=node.state, key=node.key()).claim(node.data, pairs.present)
    usable = pairs.take(found.rows(pairs.digests), why=ELSEWHERE)
    if found.moved:
        LOG.warning("the pairs at %s are those of the ledger %s", node.data, found.ledger.path)
    return usable, found


def holding(order: Order, prepared: Prepared, pairs: DevicePairs) -> Holding:
    """Pairs as distillation takes them, beside the anchors; what is left out goes to the device's own log."""
    if pairs.skipped:
        LOG.warning("%s", pairs.about_skipped())
    device = device_for(order.config)
    data = device_data(prepared.sources, order.config.data, pairs.data, device=device)
    return Holding(data=data, anchors=prepared.anchors)
