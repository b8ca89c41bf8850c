"""From the index of a public set to an experiment: drawing, reading, splitting.

Shapes: N pairs, S side.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgecmd.catalogue.data_sets import data_set, imported
from edgecmd.core.errors import ConfigError, DataError
from edgecmd.core.text import counted
from edgecmd.data.duplicates import Alike, alike
from edgecmd.data.experiment import Experiment
from edgecmd.data.findings import CHECK_COMMAND, ProblemsError
from edgecmd.data.stored.store import Form
from edgecmd.data.stored.through_store import (
    SOURCE,
    TARGET,
    Listed,
    Read,
    pair_bytes,
    pairs_of,
    through_store,
)
from edgecmd.data.user_files.halves import Half, Maps, Seen, notes_on_targets, stored_half
from edgecmd.data.user_files.images import notes_on_frames, sides_of
from edgecmd.data.user_files.public_images import built_in_public, check_public, public_of
from edgecmd.data.user_files.user_pairs import (
    COLUMNS,
    MIN_PAIRS,
    MIN_PART,
    OwnPairs,
    Rows,
    drawn,
    joined_concepts,
    linked,
    num_things,
    position,
    to_experiment,
)
from edgecmd.datasets.on_disk.index import TEST, Entry, Index
from edgecmd.settings import DataConfig


def index_of(config: DataConfig) -> Index:
    """Index of the set that ``config`` names, cut to ``config.max_pairs``.

    Raises:
        ConfigError: ``config.path`` is empty, or a setting does not suit the set.
        DataError: The files do not have the set's layout.
    """
    layout = data_set(config.name).layout
    if not config.path:
        raise ConfigError(f"data.path='' names no files. Set it to the folder of data.name={config.name!r}.")
    if config.depth_scale_mm != DataConfig().depth_scale_mm:
        raise ConfigError(
            f"data.depth_scale_mm={config.depth_scale_mm:g} does not suit data.name={config.name!r}: its"
            " files state their unit. Leave it at 1; it is for data.name='folder'."
        )
    index = imported(layout)(Path(config.path).expanduser(), config)
    assert isinstance(index, Index)
    return index


def load_layout(config: DataConfig) -> Experiment:
    """Load a public set that lies on disk as its makers laid it out.

    Args:
        config: ``name``, ``path``, ``max_pairs``, the sizes, the settings of the split and of the public set.

    Raises:
        ConfigError: A setting does not suit the set.
        DataError: The layout is another one, a file is damaged, or there are too few pairs; the message has
            the first problem and how to list all.

    Guarantees:
        No label is in a pair. No concept of the set is in two parts. Whole files are read one at a time and
        averaged down, so that memory is that of the pairs as they will be used.
    """
    index = index_of(config)
    problems, notes = list[str](), list(index.notes)
    ordered = sorted(index.entries, key=lambda one: one.id)
    entries = tuple(ordered[row] for row in drawn([one.id for one in ordered], config, notes=notes))
    public = public_of(config, problems, notes=notes)
    if not problems:
        public = public or built_in_public(config, notes=notes)
    own = _read(index, entries, config, problems=problems, notes=notes)
    if own and public:
        check_public(own, public, problems)
    if problems or own is None or public is None:
        command = f"{CHECK_COMMAND} {config.path} --set data.name={config.name}"
        raise ProblemsError(
            problems or [f"{config.path} has no usable pair."], notes=notes, command=command, complete=True
        )
    copies = alike(own.data)
    made = to_experiment(
        own,
        config,
        public=public,
        name=config.name,
        kind=index.kind,
        rows=official_rows(entries, config, own=own, copies=linked(copies, config)),
        unseen=index.unseen if config.split == "concept" else "",
        copies=copies,
    )
    return replace(made, notes=(*notes, *made.notes))


def _read(
    index: Index,
    entries: Sequence[Entry],
    config: DataConfig,
    *,
    problems: list[str],
    notes: list[str],
) -> OwnPairs | None:
    """All pairs of ``entries``; None where one cannot be used."""
    sides = sides_of(config)
    problems += index.problems
    if len(entries) < MIN_PAIRS:
        problems.append(
            f"The set has {counted(len(entries), 'pair')}; at least {MIN_PAIRS} are needed. Add files."
        )

    def look(seen: Mapping[str, Seen], maps: Maps, told: list[str]) -> None:
        told += notes_on_targets(seen, maps, sides)
        for half in (SOURCE, TARGET):
            told += notes_on_frames({f"{half} of {one.id}": getattr(one, half) for one in entries})

    listed = _listed(index, entries, config)
    data = pairs_of(through_store(listed, problems=problems, notes=notes, look=look))
    if problems or data is None:
        return None
    columns = {name: [getattr(one, name) for one in entries] for name in COLUMNS}
    own = OwnPairs(
        ids=tuple(one.id for one in entries),
        data=data,
        columns={name: texts for name, texts in columns.items() if any(texts)},
        masks=index.masks(entries, config, problems) if index.masks and not sides.reverse else None,
    )
    return own.reversed() if sides.reverse else own


def _values(half: Half) -> np.ndarray:
    values = stored_half(half)
    return values[..., None] if values.ndim == 2 else values


def _form(half: Half) -> Form:
    values = _values(half)
    return Form(shape=values.shape, dtype=values.dtype)


def _alike(entry: Entry, half: Half, form: Form) -> np.ndarray:
    """A target, which has the form of those before it.

    Raises:
        DataError: It has not.
    """
    values = _values(half)
    if (values.shape, values.dtype) != (form.shape, form.dtype):
        raise DataError(
            f"{entry.target} becomes {values.dtype} of shape {values.shape}, and the targets before it"
            f" {form.dtype} of shape {form.shape}. Give all targets one kind and colour."
        )
    return values


def _listed(index: Index, entries: Sequence[Entry], config: DataConfig) -> Listed:
    """The pairs by their files."""
    sides = sides_of(config)

    def read(row: int) -> Read:
        source, target = index.read(entries[row], sides)
        return {SOURCE: source, TARGET: target}

    def forms() -> dict[str, Form]:
        for row in range(len(entries)):
            with contextlib.suppress(DataError):
                return {name: _form(half) for name, half in read(row).items()}
        raise DataError("No pair can be read.")

    return Listed(
        what=f"{config.name} {Path(config.path).resolve()} {config.source_path} {sides!r} {config.max_pairs}",
        files=[(one.id, (one.source, one.target)) for one in entries],
        config=config,
        row_bytes=pair_bytes(config),
        read=read,
        forms=forms,
        fitted=lambda row, half, form: _alike(entries[row], half, form),
    )


def official_rows(
    entries: Sequence[Entry], config: DataConfig, *, own: OwnPairs, copies: Alike
) -> tuple[Rows, Rows, Rows] | None:
    """Rows of training, validation and test by the set's own split; None where it has none.

    Validation is the share ``config.val_fraction`` of the official training concepts, by a hash, or as
    many of them as show `MIN_PART` things; concepts that copies link are one. None also where
    ``config.split`` asks for owners.

    Args:
        entries: The index of the pairs.
        config: The settings of the split.
        own: The pairs of ``entries``, in their order.
        copies: Groups of copies among them.

    Raises:
        DataError: A part shows fewer than `MIN_PART` things.
    """
    if not any(one.part for one in entries) or config.split != "concept":
        return None
    concepts = joined_concepts(own, copies)
    parts: tuple[list[int], list[int], list[int]] = ([], [], [])
    drawn: set[str] = set()
    for row in sorted(range(len(entries)), key=lambda one: position(concepts[one])):
        is_test, concept = entries[row].part == TEST, concepts[row]
        if not is_test and (
            position(concept) < config.val_fraction or num_things(parts[1], copies.source) < MIN_PART
        ):
            drawn.add(concept)
        parts[2 if is_test else int(concept in drawn)].append(row)
    if min(num_things(part, copies.source) for part in parts) < MIN_PART:
        sizes = ", ".join(str(len(part)) for part in parts)
        raise DataError(
            f"The official split gives {sizes} pairs for training, validation and test; each needs"
            f" {MIN_PART} of different sources. Raise data.max_pairs or data.val_fraction, or add files."
        )
    train, validation, test = (np.sort(np.array(part)) for part in parts)
    return train, validation, test
