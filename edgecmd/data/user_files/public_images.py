"""The public source set of a user's own pairs: what teacher and anchors may see.

Shapes: M public images, S side.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgecmd.catalogue.data_sets import DEFAULT_PUBLIC, PUBLIC_SETS, imported
from edgecmd.core.errors import ConfigError
from edgecmd.data.duplicates import near_to
from edgecmd.data.modalities.image import IMAGE
from edgecmd.data.modalities.row import digests
from edgecmd.data.modalities.table import input_shape, modality_of
from edgecmd.data.pairs import PublicSource
from edgecmd.data.stored.array_files import chosen
from edgecmd.data.stored.store import Form
from edgecmd.data.stored.through_store import (
    Listed,
    Read,
    source_bytes,
    target_form,
    through_store,
)
from edgecmd.data.user_files.csv_tables import few
from edgecmd.data.user_files.halves import Maps, Seen, check_one_kind, read_source, read_target
from edgecmd.data.user_files.images import sides_of
from edgecmd.data.user_files.pair_files import PICTURES, FileKind, files_by_id, target_files
from edgecmd.data.user_files.user_pairs import OwnPairs
from edgecmd.settings import DataConfig

PUBLIC = "public"


def public_of(
    config: DataConfig, problems: list[str], *, notes: list[str] | None = None
) -> PublicSource | None:
    """The set at ``data.public_path``, where one is named; see `read_public`."""
    if not config.public_path:
        return None
    folder = Path(config.public_path).expanduser()
    if not folder.is_dir():
        problems.append(
            f"data.public_path={config.public_path!r} is not an existing folder. Give a folder of public"
            " source files, or leave it empty."
        )
        return None
    return read_public(folder, config, name=folder.name, problems=problems, notes=notes)


def read_public(
    folder: Path, config: DataConfig, *, name: str, problems: list[str], notes: list[str] | None = None
) -> PublicSource | None:
    """Public source images in the order of their names; of reversed pairs, files as targets are.

    Args:
        folder: Files are in it, or all in folders in it.
        config: What they are made into, and whether many are kept in a store.
        name: Name of the set.
        problems: Gets a sentence for everything that is wrong.
        notes: Gets a sentence for files that are not used.

    Returns:
        None where an image cannot be used.
    """
    sides, before = sides_of(config), len(problems)
    if sides.reverse:
        files, kind = target_files(folder, problems, notes=notes)
    else:
        files, kind = files_by_id(folder, problems, notes=notes), PICTURES

    def look(seen: Mapping[str, Seen], _maps: Maps, _notes: list[str]) -> None:
        if sides.reverse:
            check_one_kind(seen, sides, where=str(folder), problems=problems)
            mixed_colours(seen, DataConfig(), where=folder, problems=problems)

    found = through_store(
        _listed(folder, dict(sorted(files.items())), kind, config), problems=problems, notes=[], look=look
    )
    if found is None or len(problems) > before:
        return None
    return PublicSource(images=found[PUBLIC], keys=tuple(sorted(files)), name=name)


def _listed(folder: Path, files: Mapping[str, Path], kind: FileKind, config: DataConfig) -> Listed:
    """Public images by their files, in the order of these."""
    sides, every = sides_of(config), list(files.values())
    form = Form(shape=(sides.source, sides.source, 3), dtype=np.dtype(np.uint8))

    def read(row: int) -> Read:
        if sides.reverse:
            return {PUBLIC: read_target(every[row], sides)[0]}
        return {PUBLIC: read_source(every[row], side=sides.source, fit=sides.fit)[0]}

    return Listed(
        what=f"public {folder.resolve()} {sides!r}",
        files=[(one, (files[one],)) for one in files],
        config=config,
        row_bytes=source_bytes(config),
        read=read,
        forms=lambda: {PUBLIC: target_form(every, kind, sides) if sides.reverse else form},
        seen=PUBLIC,
        nouns="public images",
    )


def mixed_colours(
    found: Mapping[str, Seen],
    config: DataConfig,
    *,
    where: Path,
    problems: list[str],
    notes: list[str] | None = None,
) -> None:
    """Refuse grey images among colour ones, of which one alone would turn all others grey.

    Args:
        found: What is known of the targets, by id.
        config: ``target_kind`` says what is wanted: with ``grey`` colour is turned grey, and noted.
        where: Their folder.
        problems: Gets a sentence where nothing says what they shall be.
        notes: Gets a sentence where colour is lost.
    """
    pictures = {name: one for name, one in found.items() if one.modality == IMAGE.name}
    colour = [name for name, one in pictures.items() if one.axes == 3]
    grey = [name for name, one in pictures.items() if one.axes != 3]
    if colour and config.target_kind == "grey":
        if notes is not None:
            notes.append(
                f"{where} has colour images, which data.target_kind='grey' turns grey: {few(colour)}."
            )
    elif colour and grey:
        problems.append(
            f"{where} has grey images, {few(grey)}, among colour ones, {few(colour)}. Save all in colour"
            " (RGB), or set data.target_kind='grey' to turn all grey."
        )


def built_in_public(config: DataConfig, *, notes: list[str] | None = None) -> PublicSource:
    """The built-in public set, for those who named none.

    Args:
        config: ``source_side`` is used; the images are brought to it.
        notes: Gets a sentence where they are enlarged.

    Raises:
        ConfigError: Pairs are reversed.
    """
    if config.reverse:
        raise ConfigError(
            "data.reverse=true needs public examples of what the teacher takes (recordings, depth maps or"
            " drawings that are in no pair); none come with edgecmd. Put them into public/ beside the pairs,"
            " or set data.public_path."
        )
    side = PUBLIC_SETS[DEFAULT_PUBLIC].side
    if config.source_side > side and notes is not None:
        notes.append(
            f"The built-in public images have {side} pixels and are enlarged to {config.source_side}. For"
            " sharp images, put your own public source images into public/ beside the pairs, or set"
            " data.public_path."
        )
    return load_shipped_public(DEFAULT_PUBLIC, config)


def load_shipped_public(name: str, config: DataConfig) -> PublicSource:
    """A public set that ships with edgecmd, brought to ``data.source_size``.

    Args:
        name: A key of `edgecmd.catalogue.data_sets.PUBLIC_SETS`.
        config: ``source_side`` is used.
    """
    found = imported(PUBLIC_SETS[name].loader)(image_size=config.source_side)
    assert isinstance(found, PublicSource)
    return found


def check_public(own: OwnPairs, public: PublicSource, problems: list[str]) -> None:
    """Refuse public images unlike the pairs' sources, and any that is one: anchors are shown to everybody.

    Args:
        own: The pairs; all of them are looked at, so this is for simulations and owners, never for a device.
        public: The public set.
        problems: Gets a sentence for each fault: another kind, or sources that are equal to a public example
            or near-equal (`edgecmd.data.duplicates.near_to`).
    """
    kinds = [(modality_of(one).name, *input_shape(one)) for one in (public.images, own.data.source)]
    if kinds[0] != kinds[1]:
        problems.append(
            f"The public set {public.name!r} has {kinds[0][0]!r} of shape {kinds[0][1:]}, the pairs' source"
            f" {kinds[1][0]!r} of shape {kinds[1][1:]} (channels, height, width). Make the public files of"
            " the same kind and shape."
        )
        return
    private = dict(zip(digests(own.data.source), own.ids, strict=True))
    both = [
        f"{key} = {private[digest]}"
        for key, digest in zip(public.keys, digests(public.images), strict=True)
        if digest in private
    ]
    if both:
        problems.append(
            f"Public images are also the source of a pair: {few(both)}. Public images must not be private;"
            " remove them from the public set."
        )
        return
    near = near_to(public.images, own.data.source)
    if near.any():
        keys = [key for key, is_near in zip(public.keys, near.tolist(), strict=True) if is_near]
        copied = chosen(public.images, np.flatnonzero(near))
        pairs = [own.ids[row] for row in np.flatnonzero(near_to(own.data.source, copied))]
        problems.append(
            "Public images are nearly equal to the source of a pair, as if it had been saved again:"
            f" {few(keys)} to {few(pairs)}. Public images must not be private; remove them from the public"
            " set, or these pairs."
        )
