"""Pairs, public images and labelled examples, in memory or from files.

Shapes: N examples, H height, W width, C channels of the target modality, T samples of an audio clip.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edgecmd.arguments import refuse_other, refuse_outside
from edgecmd.catalogue.data_sets import data_set
from edgecmd.core.errors import ConfigError, DataError
from edgecmd.core.files import named_path
from edgecmd.core.own_code import is_own
from edgecmd.data.experiment import load_experiment
from edgecmd.data.findings import ProblemsError
from edgecmd.data.labelled import UNLABELLED, LabelledTarget, Labels
from edgecmd.data.modalities.table import modality_of
from edgecmd.data.modalities.utf8 import MOST_BYTES, Strings, encode_strings
from edgecmd.data.pairs import PairedData, PublicSource, Targets
from edgecmd.data.user_files.folder import Reading, read_own
from edgecmd.data.user_files.public_images import read_public
from edgecmd.settings import SQUEEZE, DataConfig

CHECK_COMMAND = "edgecmd data check"
# Side in pixels of public images that no task has asked for yet: the least that there is.
ANY_SIDE = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class Pairs:
    """Private, unlabelled pairs: an image that the teacher understands, and the same content for the device.

    There is no field for labels.

    Attributes:
        source: RGB images, uint8, (N, H, W, 3), 255 is white.
        target: The same content in the target modality: images uint8 (N, H, W, C); depth uint16 millimetres
            (N, H, W, 1), 0 where nothing was measured; audio clips int16 (N, T); or strings uint8 (N, L),
            see `strings`.
        ids: One name per pair, all different; empty for none.
        owner: Who made each pair, (N,); empty if unknown. Partitions may follow it.
        sampling_rate_hz: Samples per second, for targets that are audio clips; an exported file takes only
            that rate. 0 if unknown, and for images.
        fit: How images that were not square were made square: ``squeeze``, ``crop`` or ``pad``, see
            ``data.fit``; an exported file does the same.

    Raises:
        DataError: A type or shape is not allowed, or the numbers of examples differ.
        ConfigError: Students do not support the sampling rate, or the fit is unknown.

    Examples:
        >>> noise = np.random.default_rng(0)
        >>> source = noise.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
        >>> pairs = Pairs(source=source, target=source[..., :1], owner=["ann"] * 3 + ["bob"] * 3)
        >>> len(pairs)
        6
    """

    source: Targets
    target: Targets
    ids: Sequence[str] = ()
    owner: Sequence[str] = ()
    sampling_rate_hz: int = 0
    fit: str = SQUEEZE

    def __post_init__(self) -> None:
        # What is allowed is that of the settings.
        DataConfig(sampling_rate_hz=self.sampling_rate_hz or DataConfig().sampling_rate_hz, fit=self.fit)
        modality_of(self.source, name="Pairs.source")
        modality_of(self.target, name="Pairs.target")
        data = PairedData(source=self.source, target=self.target)
        if len(data) < 2:
            raise DataError(
                f"Pairs holds {len(data)} pairs; at least 2 are needed, to contrast one with another."
            )
        for name in ("ids", "owner"):
            values = _texts(f"Pairs.{name}", getattr(self, name))
            if values and len(values) != len(data):
                raise DataError(f"Pairs.{name} has {len(values)} entries for {len(data)} pairs.")
            object.__setattr__(self, name, values)
        if len(set(self.ids)) != len(self.ids):
            twice = next(one for one, num in Counter(self.ids).items() if num > 1)
            raise DataError(f"Pairs.ids has {twice!r} more than once. Give each pair its own id.")

    def __len__(self) -> int:
        return len(self.source)

    @property
    def data(self) -> PairedData:
        """Both halves as a client holds them."""
        return PairedData(source=self.source, target=self.target)

    def take(self, rows: Sequence[int] | Sequence[bool] | np.ndarray) -> "Pairs":
        """Some of the pairs, such as those of one owner; what is on the disk stays there.

        Args:
            rows: Their numbers, in the order wanted, or for each pair whether it is taken.

        Raises:
            DataError: There is no such row, or fewer than 2 are taken.

        Examples:
            >>> noise = np.random.default_rng(0)
            >>> source = noise.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
            >>> pairs = Pairs(source=source, target=source[..., :1], owner=["ann"] * 3 + ["bob"] * 3)
            >>> pairs.take(np.array(pairs.owner) == "bob").owner
            ('bob', 'bob', 'bob')
        """
        try:
            taken = np.arange(len(self))[np.asarray(rows)]
        except IndexError as error:
            raise DataError(f"rows do not suit {len(self)} pairs: {error}.") from error
        if taken.ndim != 1:
            raise DataError(f"rows has shape={np.shape(rows)}; allowed is a list of numbers or of bool.")
        part = self.data.take(taken)
        return replace(
            self,
            source=part.source,
            target=part.target,
            ids=[self.ids[row] for row in taken] if self.ids else (),
            owner=[self.owner[row] for row in taken] if self.owner else (),
        )

    @classmethod
    def from_folder(
        cls, path: str | Path, *, size: int = 64, source_size: int = 0, fit: str = SQUEEZE
    ) -> "Pairs":
        """Read ``source/`` and ``target/`` from a folder, or one .npz; docs/data.md describes the layout.

        Args:
            path: The folder, or the .npz.
            size: Side of a target image in pixels, a multiple of 16; larger images are averaged down.
            source_size: Side of a source image; 0: ``size``.
            fit: How images that are not square are made square, see ``data.fit``.

        Raises:
            DataError: Something is wrong with the files; the message names the first problem and the command
                that lists all of them.
        """
        place = named_path("path", path)
        settings = DataConfig(
            name="folder", path=str(path), image_size=size, source_size=source_size, fit=fit, max_pairs=0
        )
        reading = Reading(path=place, config=settings, whole=False)
        if not reading.path.exists():
            raise DataError(f"{path} does not exist. Give a folder with source/ and target/, or an .npz.")
        own = read_own(reading)
        reading.refuse(complete=True)
        assert own is not None
        owner = own.columns.get("owner", ()) if any(own.columns.get("owner", ())) else ()
        return cls(
            source=own.data.source,
            target=own.data.target,
            ids=own.ids,
            owner=owner,
            sampling_rate_hz=_rate_of(own.data.target, settings),
            fit=fit,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Images:
    """Public images of the source modality, for the teacher, anchors and calibration; never a pair.

    Attributes:
        images: RGB, uint8, (N, H, W, 3), 255 is white.
        keys: One name per image; generated if empty.
        name: Name of the set in reports.
        folder: Where they were read from, if a task may read them again at the size of its pairs.

    Raises:
        DataError: The type or shape is not allowed.

    Examples:
        >>> Images(images=np.zeros((4, 32, 32, 3), np.uint8)).keys[:2]
        ('image-0', 'image-1')
    """

    images: Targets
    keys: Sequence[str] = ()
    name: str = "public images"
    folder: Path | None = None

    def __post_init__(self) -> None:
        modality_of(self.images, name="Images.images")
        refuse_other("Images.name", self.name, str, what="a text")
        keys = _texts("Images.keys", self.keys) or tuple(f"image-{row}" for row in range(len(self.images)))
        object.__setattr__(self, "keys", keys)
        self.source()

    def __len__(self) -> int:
        return len(self.images)

    def source(self) -> PublicSource:
        """The same as the rooms below take it."""
        return PublicSource(images=self.images, keys=tuple(self.keys), name=self.name)

    def like(self, source: Targets, *, fit: str = SQUEEZE) -> "Images":
        """These images at the size of ``source``, read again if that differs.

        Args:
            source: RGB images, uint8, (N, H, W, 3).
            fit: How images that were not square were made square.

        Raises:
            DataError: The shapes differ, and the images are in memory or were read with an explicit size; or
                the files can no longer be read.
        """
        wanted = source.shape[1:]
        if self.images.shape[1:] == wanted and (self.folder is None or fit == SQUEEZE):
            return self
        if self.folder is None or len(set(wanted[:2])) != 1:
            raise DataError(
                f"public.images have shape {self.images.shape[1:]} and pairs.source {wanted}; the teacher"
                " must see both at the same size. Read both with the same size."
            )
        return Images.from_folder(self.folder, size=wanted[0], fit=fit)

    @classmethod
    def from_folder(cls, path: str | Path, *, size: int | None = None, fit: str = SQUEEZE) -> "Images":
        """Read all images in a folder, or in its sub-folders.

        Args:
            path: The folder.
            size: Side in pixels; larger images are averaged down. None: 16, and a task reads them again with
                the size and fit of its pairs.
            fit: How images that are not square are made square, see ``data.fit``.

        Raises:
            DataError: There are no images, or one cannot be read; the message lists every problem.
        """
        folder, problems = named_path("path", path), list[str]()
        if not folder.is_dir():
            raise DataError(f"{path} is not an existing folder. Give a folder of public images.")
        side = ANY_SIDE if size is None else size
        settings = DataConfig(image_size=side, source_size=side, fit=fit)
        found = read_public(folder, settings, name=folder.name, problems=problems)
        if found is None or problems:
            raise ProblemsError(problems, notes=[], command=f"{CHECK_COMMAND} {path}", complete=True)
        again = folder if size is None else None
        return cls(images=found.images, keys=found.keys, name=found.name, folder=again)


@dataclass(frozen=True, kw_only=True, eq=False)
class Labelled:
    """Labelled examples of the target modality, held by whoever deploys the student; no client sees them.

    Attributes:
        target: As in `Pairs`.
        labels: Class of each example, (N,), as strings or whole numbers.
        source: The same examples in the source modality, for retrieval; None if there are none.

    Raises:
        DataError: The numbers of examples differ, or a type is not allowed.

    Examples:
        >>> drawings = np.zeros((4, 32, 32, 1), np.uint8)
        >>> Labelled(target=drawings, labels=["cat", "dog", "cat", "dog"]).classes().labels["group"].names
        ('cat', 'dog')
    """

    target: Targets
    labels: Sequence[object]
    source: Targets | None = None

    def __post_init__(self) -> None:
        modality_of(self.target, name="Labelled.target")
        object.__setattr__(self, "labels", _texts("Labelled.labels", self.labels))
        self.classes()
        if self.source is not None:
            PairedData(source=self.source, target=self.target)

    def __len__(self) -> int:
        return len(self.target)

    def classes(self) -> LabelledTarget:
        """The same as the rooms below take it, with one labelling, ``group``."""
        return LabelledTarget(
            target=self.target, labels={"group": labels_of([str(one) for one in self.labels])}
        )

    @classmethod
    def from_folder(cls, path: str | Path, *, size: int = 64, fit: str = SQUEEZE) -> "Labelled":
        """Read a folder that has one sub-folder of images per class.

        Args:
            path: The folder.
            size: Side of an image in pixels; larger images are averaged down.
            fit: How images that are not square are made square, see ``data.fit``.

        Raises:
            DataError: A file cannot be read, or there are fewer than two classes.
        """
        sub = sorted(one for one in named_path("path", path).glob("*") if one.is_dir())
        if len(sub) < 2:
            raise DataError(f"{path} has {len(sub)} sub-folders; give one sub-folder of images per class.")
        parts = [np.asarray(Images.from_folder(one, size=size, fit=fit).images) for one in sub]
        names = [one.name for one, part in zip(sub, parts, strict=True) for _ in part]
        grey = all((part == part[..., :1]).all() for part in parts)
        target = np.concatenate(parts)
        return cls(target=target[..., :1].copy() if grey else target, labels=names)


class BuiltIn(NamedTuple):
    """A data set that comes with edgecmd, as objects.

    Attributes:
        pairs: The pairs that clients hold.
        public: The images that the teacher and anchors may see.
        labelled: Test examples with their groups; no client holds any of them.
    """

    pairs: Pairs
    public: Images
    labelled: Labelled


def strings(texts: Sequence[str], *, num_bytes: int = DataConfig().text_bytes) -> Strings:
    """Texts as targets, uint8 (N, L): UTF-8 in one form of Unicode, 0 behind the last byte.

    Args:
        texts: One for each pair; what is too long is cut at a whole character.
        num_bytes: L.

    Raises:
        DataError: A text is empty, or has a control character or the end of a line.

    Examples:
        >>> strings(["dog", "chien"], num_bytes=8).shape
        (2, 8)
    """
    refuse_outside("num_bytes", num_bytes, least=1, most=MOST_BYTES)
    return encode_strings(_texts("texts", texts), num_bytes)


def built_in(name: str = "emoji", *, size: int = 64) -> BuiltIn:
    """Pairs, public images and labelled examples of a data set that comes with edgecmd, for trying things.

    Args:
        name: ``emoji``, ``objects``, ``rooms``, or one that ``edgecmd data build`` made; `edgecmd data list`
            lists them all.
        size: Side of the images in pixels.

    Raises:
        ConfigError: There is no set of that name, or it is not available in that size.
        DataError: Its files are missing.
    """
    refuse_other("name", name, str, what="the name of a set that comes with edgecmd")
    if is_own(name) or data_set(name).users_own:
        raise ConfigError(
            f"built_in({name!r}) is not a set that comes with edgecmd. For your own: Pairs.from_folder(path)."
        )
    settings = DataConfig(name=name, image_size=size, source_size=size)
    whole = load_experiment(settings)
    test, labels = whole.test, next(iter(whole.test.labelled.labels.values()))
    known = np.flatnonzero(labels.values != UNLABELLED)
    return BuiltIn(
        pairs=Pairs(
            source=whole.train.source,
            target=whole.train.target,
            ids=whole.train_ids,
            owner=names_of(whole.train_owner) if whole.train_owner.names else (),
            sampling_rate_hz=_rate_of(whole.train.target, settings),
        ),
        public=Images(images=whole.public.images, keys=whole.public.keys, name=whole.public.name),
        labelled=Labelled(
            source=test.pairs.source[known],
            target=test.pairs.target[known],
            labels=names_of(labels.take(known)),
        ),
    )


def _texts(name: str, values: object) -> tuple[str, ...]:
    """One text an example; None stands for none.

    Raises:
        DataError: It is not a list of them.
    """
    if values is None:
        return ()
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise DataError(
            f"{name}={values!r} is of type {type(values).__name__}; allowed is a list of strings."
        )
    return tuple("" if one is None else str(one) for one in values)


def _rate_of(target: Targets, settings: DataConfig) -> int:
    return settings.sampling_rate_hz if modality_of(target).has_rate else 0


def names_of(labels: Labels) -> list[str]:
    """Label of each example as a text; empty where it has none."""
    return [labels.names[code] if code != UNLABELLED else "" for code in labels.values]


def labels_of(texts: Sequence[str]) -> Labels:
    """Texts as one labelling; the empty text stands for none."""
    names = sorted({text for text in texts if text})
    codes = {"": UNLABELLED} | {name: index for index, name in enumerate(names)}
    return Labels(values=np.array([codes[text] for text in texts], dtype=np.int64), names=tuple(names))
