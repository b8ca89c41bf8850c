"""Digests that a site's kit pins: of the teacher and the public images that come with edgecmd."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

from clients.node import read_node
from edgecmd import __version__
from edgecmd.catalogue.data_sets import PUBLIC_SETS
from edgecmd.catalogue.teacher_rows import listed
from edgecmd.config.reader import unflatten
from edgecmd.models.teacher.teachers import TEACHERS
from edgecmd.training.device_task import device_sources
from server.deploy.description import Deployment, Site


def pinned(deployment: Deployment, site: Site) -> dict[str, object]:
    """A site's node config with the digests that can be known before the site is.

    Args:
        deployment: Gives the sides of images.
        site: What its owner pinned stays.

    Returns:
        The config. A teacher or public images of the site's own cannot be read here; `edgecmd node` on the
        site shows their digests.
    """
    return {"edgecmd-version": __version__, **_sources(deployment.shared_settings, site.node), **site.node}


def _sources(settings: Mapping[str, object], raw: Mapping[str, object]) -> dict[str, str]:
    node = read_node({key: value for key, value in raw.items() if key != "edgecmd-version"})
    shipped = node.public in PUBLIC_SETS and all(one in TEACHERS for one in listed(node.teacher.name))
    if not shipped or node.teacher.weights:
        return {}
    with tempfile.TemporaryDirectory() as cache:
        found = device_sources(
            unflatten(settings).data, teacher=node.teacher, public=node.public, cache=Path(cache)
        )
    return found.digests()
