"""The public source set of a user's own pairs: what teacher and anchors may see.

Shapes: M public images, S side.
"""

import hashlib
from pathlib import Path

import numpy as np

from edgecmd.config_data import DataConfig
from edgecmd.data.emoji import load_public
from edgecmd.data.halves import read_source
from edgecmd.data.images import Sides, sides_of
from edgecmd.data.listing import files_by_id
from edgecmd.data.own import OwnPairs
from edgecmd.data.pairs import PublicSource, Targets
from edgecmd.data.tables import few
from edgecmd.errors import ConfigError, DataError


def public_of(config: DataConfig, problems: list[str]) -> PublicSource | None:
    """The set at ``data.public_path``, where one is named; see `read_public`."""
    if not config.public_path:
        return None
    folder = Path(config.public_path).expanduser()
    return read_public(folder, sides=sides_of(config), name=folder.name, problems=problems)


def read_public(folder: Path, *, sides: Sides, name: str, problems: list[str]) -> PublicSource | None:
    """Public source images in the order of their names.

    Args:
        folder: Pictures; folders inside it are not searched.
        sides: Side of the source.
        name: Name of the set.
        problems: Gets a sentence for everything that is wrong.

    Returns:
        None where a picture cannot be used.
    """
    images: list[np.ndarray] = []
    files = files_by_id(folder, problems)
    for one in sorted(files):
        try:
            images.append(read_source(files[one], side=sides.source)[0])
        except DataError as error:
            problems.append(str(error))
    if len(images) < max(len(files), 1):
        return None
    return PublicSource(images=np.stack(images), keys=tuple(sorted(files)), name=name)


def built_in_public(config: DataConfig) -> PublicSource:
    """The built-in public set, for those who named none.

    Raises:
        ConfigError: It does not come in the size of the source.
    """
    try:
        return load_public(image_size=config.source_side)
    except ConfigError as error:
        raise ConfigError(
            f"data.image_size={config.source_side} does not suit the built-in public images (16, 32 or 64)."
            " Put public source images of your own into public/ beside the pairs, or set data.public_path."
        ) from error


def check_public(own: OwnPairs, public: PublicSource, problems: list[str]) -> None:
    """Refuse public images that are sources of private pairs: anchors are shown to everybody."""
    private = dict(zip(_digests(own.data.source), own.ids, strict=True))
    both = [
        f"{key} = {private[digest]}"
        for key, digest in zip(public.keys, _digests(public.images), strict=True)
        if digest in private
    ]
    if both:
        problems.append(
            f"Public images are also the source of a pair: {few(both)}. Public images must not be private;"
            " remove them from the public set."
        )


def _digests(images: Targets) -> list[bytes]:
    """SHA-256 of each image."""
    return [hashlib.sha256(np.ascontiguousarray(image).data).digest() for image in images]
