"""Digests that a site's kit pins: of the teacher and the public images that come with edgecmd."""

import tempfile
from pathlib import Path

from clients.node import read_node
from edgecmd import __version__
from edgecmd.catalogue.data_sets import PUBLIC_SETS
from edgecmd.catalogue.teacher_rows import listed
from edgecmd.config.reader import unflatten
from edgecmd.models.teacher.teachers import TEACHERS
from edgecmd.settings import DataConfig, TeacherConfig
from edgecmd.training.device_task import device_sources
from server.deploy.description import Deployment


def pins_of(deployment: Deployment) -> dict[str, dict[str, str]]:
    """The digests that can be known before the sites are, by site.

    Args:
        deployment: Gives the sides of images, and what each site's owner names.

    Returns:
        Pins for each site's node config. A teacher or public images of the site's own cannot be read here;
        `edgecmd node` on the site shows their digests.
    """
    data, read = unflatten(deployment.shared_settings).data, dict[tuple[TeacherConfig, str], dict[str, str]]()
    found = {}
    for site in deployment.sites:
        node = read_node({key: value for key, value in site.node.items() if key != "edgecmd-version"})
        named = (node.teacher, node.public)
        if named not in read:
            read[named] = _sources(data, *named)
        found[site.name] = {"edgecmd-version": __version__, **read[named]}
    return found


def _sources(data: DataConfig, teacher: TeacherConfig, public: str) -> dict[str, str]:
    shipped = public in PUBLIC_SETS and all(one in TEACHERS for one in listed(teacher.name))
    if not shipped or teacher.weights:
        return {}
    with tempfile.TemporaryDirectory() as cache:
        return device_sources(data, teacher=teacher, public=public, cache=Path(cache)).digests()
