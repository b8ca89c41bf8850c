"""The public source set of a user's own pairs: what teacher and anchors may see.

Shapes: M public images, S side.
"""

from pathlib import Path

from edgecmd.config_data import DataConfig
from edgecmd.data.emoji import load_public
from edgecmd.data.halves import Half, check_one_kind, read_source, read_target, stack_halves
from edgecmd.data.images import Sides, sides_of
from edgecmd.data.listing import files_by_id, target_files
from edgecmd.data.own import OwnPairs
from edgecmd.data.pairs import PublicSource, image_digests, input_shape, target_kind
from edgecmd.data.tables import few
from edgecmd.errors import ConfigError, DataError


def public_of(config: DataConfig, problems: list[str]) -> PublicSource | None:
    """The set at ``data.public_path``, where one is named; see `read_public`."""
    if not config.public_path:
        return None
    folder = Path(config.public_path).expanduser()
    return read_public(folder, sides=sides_of(config), name=folder.name, problems=problems)


def read_public(folder: Path, *, sides: Sides, name: str, problems: list[str]) -> PublicSource | None:
    """Public source images in the order of their names; of reversed pairs, files as targets are.

    Args:
        folder: Folders inside it are not searched.
        sides: What they are made into.
        name: Name of the set.
        problems: Gets a sentence for everything that is wrong.

    Returns:
        None where a picture cannot be used.
    """
    halves: dict[str, Half] = {}
    files = target_files(folder, problems)[0] if sides.reverse else files_by_id(folder, problems)
    for one in sorted(files):
        try:
            path = files[one]
            read = read_target(path, sides)[0] if sides.reverse else read_source(path, side=sides.source)[0]
            halves[one] = read
        except DataError as error:
            problems.append(str(error))
    before = len(problems)
    check_one_kind(halves, sides, where=str(folder), problems=problems) if sides.reverse else None
    if len(halves) < max(len(files), 1) or len(problems) > before:
        return None
    return PublicSource(images=stack_halves(list(halves.values())), keys=tuple(halves), name=name)


def built_in_public(config: DataConfig) -> PublicSource:
    """The built-in public set, for those who named none.

    Raises:
        ConfigError: It does not come in the size of the source, or pairs are reversed.
    """
    if config.reverse:
        raise ConfigError(
            "data.reverse=true needs public examples of what the teacher takes (recordings, depth maps or"
            " drawings that are in no pair); none come with edgecmd. Put them into public/ beside the pairs,"
            " or set data.public_path."
        )
    try:
        return load_public(image_size=config.source_side)
    except ConfigError as error:
        raise ConfigError(
            f"data.image_size={config.source_side} does not suit the built-in public images (16, 32 or 64)."
            " Put public source images of your own into public/ beside the pairs, or set data.public_path."
        ) from error


def check_public(own: OwnPairs, public: PublicSource, problems: list[str]) -> None:
    """Refuse public images unlike the pairs' sources, and any that is one: anchors are shown to everybody."""
    kinds = [(target_kind(one), *input_shape(one)) for one in (public.images, own.data.source)]
    if kinds[0] != kinds[1]:
        problems.append(
            f"The public set {public.name!r} has {kinds[0][0]!r} of shape {kinds[0][1:]}, the pairs' source"
            f" {kinds[1][0]!r} of shape {kinds[1][1:]} (channels, height, width). Make the public files"
            " alike."
        )
        return
    private = dict(zip(image_digests(own.data.source), own.ids, strict=True))
    both = [
        f"{key} = {private[digest]}"
        for key, digest in zip(public.keys, image_digests(public.images), strict=True)
        if digest in private
    ]
    if both:
        problems.append(
            f"Public images are also the source of a pair: {few(both)}. Public images must not be private;"
            " remove them from the public set."
        )
