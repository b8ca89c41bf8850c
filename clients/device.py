"""What a device with pairs of its own brings to a round, in an order that matters.

Teacher, public images and anchors come first, from the owner's settings, and are held against what the owner
pinned and what the server expects. Only then are the pairs opened.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from clients.node import Node
from clients.order import Order
from edgecmd import __version__
from edgecmd.config.assemble import device_for
from edgecmd.core.errors import PrivacyError
from edgecmd.data.anchors import Anchors, anchors_digest
from edgecmd.data.user_files.device_pairs import DevicePairs, read_device_pairs
from edgecmd.models.students import is_dense
from edgecmd.privacy.device_ledger import DeviceLedgers, Found
from edgecmd.training.device_task import DeviceSources, device_anchors, device_data, device_sources
from edgecmd.training.task import Holding, Places

LOG = logging.getLogger("edgecmd.client")
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
    config = order.config
    dense = is_dense(config.student.architecture)
    sources = device_sources(
        config.data,
        teacher=node.teacher,
        public=node.public,
        cache=node.state / "features",
        places=Places(dim=config.teacher.map_dim, zoom=config.teacher.map_zoom) if dense else None,
    )
    found = {**sources.digests(), "edgecmd-version": __version__}
    for key, digest in found.items():
        node.check_pin(key, digest)
    _compare(order.expected, found)
    anchors = device_anchors(sources, config.distill, seed=config.seed, side=config.data.source_side).to(
        device_for(config)
    )
    digest = anchors_digest(anchors)
    node.check_pin("anchors-sha256", digest)
    return Prepared(sources=sources, anchors=anchors, digest=digest)


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


def read_pairs(order: Order, node: Node, prepared: Prepared) -> DevicePairs:
    """The device's pairs, with those that are left out and why: that is for the device's own log alone."""
    assert node.data is not None
    kind = prepared.sources.file_kind(order.target_kind, reverse=order.config.data.reverse)
    return read_device_pairs(node.data, order.config.data, kind=kind)


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
