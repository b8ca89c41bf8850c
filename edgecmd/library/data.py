"""Pairs, public images and labelled examples, in memory or out of files.

Shapes: N examples, H height, W width, C channels of the target modality, T samples of a recording.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edgecmd.catalogue.data_sets import data_set
from edgecmd.core.errors import ConfigError, DataError
from edgecmd.core.files import named_path
from edgecmd.core.own_code import is_own
from edgecmd.data.experiment import load_experiment
from edgecmd.data.findings import ProblemsError
from edgecmd.data.labelled import UNLABELLED, LabelledTarget, Labels
from edgecmd.data.modalities.table import modality_of
from edgecmd.data.pairs import PairedData, PublicSource, Targets
from edgecmd.data.user_files.folder import Reading, read_own
from edgecmd.data.user_files.public_images import read_public
from edgecmd.settings import SQUEEZE, DataConfig, refuse_other

CHECK_COMMAND = "edgecmd data check"
# Side in pixels of public images that no task has asked for yet: the least that there is.
ANY_SIDE = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class Pairs:
    """Private, unlabelled pairs: what a teacher understands beside what the device must understand.

    There is no field for a label.

    Attributes:
        source: RGB images, uint8, (N, H, W, 3), 255 is white.
        target: Of the target modality: images uint8 (N, H, W, C); depth uint16 millimetres (N, H, W, 1), 0
            where nothing was measured; or recordings int16 (N, T).
        ids: One name a pair, all different; empty for none.
        owner: Who made each pair, (N,); empty where it is not known. Partitions may follow it.
        sampling_rate_hz: Of targets that are recordings, samples a second; an exported file takes that rate
            alone. 0 where it is not known, and for pictures.
        fit: How pictures that were not square became so: ``squeeze``, ``crop`` or ``pad``, see ``data.fit``;
            an exported file does the same.

    Raises:
        DataError: A type or a shape is not allowed, or the numbers differ.
        ConfigError: The rate is none that students are made for, or the fit is unknown.

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
                f"Pairs holds {len(data)} pairs; at least 2 are needed, to tell one from another."
            )
        for name in ("ids", "owner"):
            values = _texts(f"Pairs.{name}", getattr(self, name))
            if values and len(values) != len(data):
                raise DataError(f"Pairs.{name} has {len(values)} entries for {len(data)} pairs.")
            object.__setattr__(self, name, values)
        if len(set(self.ids)) != len(self.ids):
            twice = next(one for one, num in Counter(self.ids).items() if num > 1)
            raise DataError(f"Pairs.ids has {twice!r} more than once. Give each pair a name of its own.")

    def __len__(self) -> int:
        return len(self.source)

    @property
    def data(self) -> PairedData:
        """Both halves as a client holds them."""
        return PairedData(source=self.source, target=self.target)

    @classmethod
    def from_folder(
        cls, path: str | Path, *, size: int = 64, source_size: int = 0, fit: str = SQUEEZE
    ) -> "Pairs":
        """Read ``source/`` and ``target/`` of a folder, or one .npz; the layout is in docs/data.md.

        Args:
            path: The folder, or the .npz.
            size: Side of a target image in pixels, a multiple of 16; larger ones are averaged down.
            source_size: The same of a source image; 0: ``size``.
            fit: What is done with pictures that are not square, see ``data.fit``.

        Raises:
            DataError: Anything is wrong with the files; the message names the first problem and the command
                that lists all.
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
    """Public images of the source modality: what teacher, anchors and calibration may see; never a pair.

    Attributes:
        images: RGB, uint8, (N, H, W, 3), 255 is white.
        keys: One name an image; made up where empty.
        name: What reports call the set.
        folder: Where they were read, if a task may read them again at the side of its pairs.

    Raises:
        DataError: The type or the shape is not allowed.

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
        """These images at the side of ``source``, read again where that is another one.

        Args:
            source: RGB images, uint8, (N, H, W, 3).
            fit: How those that were not square became so.

        Raises:
            DataError: The shapes differ, and the images are in memory or were read with a size of their own;
                or the files cannot be read any more.
        """
        wanted = source.shape[1:]
        if self.images.shape[1:] == wanted and (self.folder is None or fit == SQUEEZE):
            return self
        if self.folder is None or len(set(wanted[:2])) != 1:
            raise DataError(
                f"public.images are of shape {self.images.shape[1:]} and pairs.source of {wanted}; the"
                " teacher must see both alike. Read both with the same size."
            )
        return Images.from_folder(self.folder, size=wanted[0], fit=fit)

    @classmethod
    def from_folder(cls, path: str | Path, *, size: int | None = None, fit: str = SQUEEZE) -> "Images":
        """Read all pictures of a folder, or of the folders in it.

        Args:
            path: The folder.
            size: Side in pixels; larger ones are averaged down. None: 16, and a task reads them again at the
                side and with the fit of its pairs.
            fit: What is done with pictures that are not square, see ``data.fit``.

        Raises:
            DataError: There is none, or one cannot be read; the message has every problem.
        """
        folder, problems = named_path("path", path), list[str]()
        if not folder.is_dir():
            raise DataError(f"{path} is no folder that exists. Give one with public pictures.")
        side = ANY_SIDE if size is None else size
        settings = DataConfig(image_size=side, source_size=side, fit=fit)
        found = read_public(folder, settings, name=folder.name, problems=problems)
        if found is None or problems:
            raise ProblemsError(problems, notes=[], command=f"{CHECK_COMMAND} {path}", complete=True)
        again = folder if size is None else None
        return cls(images=found.images, keys=found.keys, name=found.name, folder=again)


@dataclass(frozen=True, kw_only=True, eq=False)
class Labelled:
    """Labelled examples of the target modality, held by whoever deploys; no client sees one.

    Attributes:
        target: As of `Pairs`.
        labels: Class of each example, (N,), as texts or whole numbers.
        source: The same examples in the source modality, for retrieval; None where there is none.

    Raises:
        DataError: The numbers differ, or a type is not allowed.

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
        """Read a folder with a sub-folder of pictures for each class.

        Args:
            path: The folder.
            size: Side of a picture in pixels; larger ones are averaged down.
            fit: What is done with pictures that are not square, see ``data.fit``.

        Raises:
            DataError: A file cannot be read, or there are fewer than two classes.
        """
        sub = sorted(one for one in named_path("path", path).glob("*") if one.is_dir())
        if len(sub) < 2:
            raise DataError(f"{path} has {len(sub)} sub-folders; give one of pictures for each class.")
        parts = [np.asarray(Images.from_folder(one, size=size, fit=fit).images) for one in sub]
        names = [one.name for one, part in zip(sub, parts, strict=True) for _ in part]
        grey = all((part == part[..., :1]).all() for part in parts)
        target = np.concatenate(parts)
        return cls(target=target[..., :1].copy() if grey else target, labels=names)


class BuiltIn(NamedTuple):
    """A set that comes with edgecmd, as objects.

    Attributes:
        pairs: What clients hold.
        public: What teacher and anchors may see.
        labelled: Test examples with their groups, of which no client holds one.
    """

    pairs: Pairs
    public: Images
    labelled: Labelled


def built_in(name: str = "emoji", *, size: int = 64) -> BuiltIn:
    """Pairs, public images and labelled examples of a set that comes with edgecmd, to try things on.

    Args:
        name: ``emoji``, ``objects``, ``rooms``, or one that ``edgecmd data build`` made; `edgecmd data list`
            names all.
        size: Side of the pictures in pixels.

    Raises:
        ConfigError: No set has that name, or it does not come in that size.
        DataError: Its files are not there.
    """
    refuse_other("name", name, str, what="the name of a set that comes with edgecmd")
    if is_own(name) or data_set(name).users_own:
        raise ConfigError(
            f"built_in({name!r}) is no set that comes with edgecmd. Read your own: Pairs.from_folder(path)."
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
        DataError: It is no list of them.
    """
    if values is None:
        return ()
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise DataError(f"{name}={values!r} is of type {type(values).__name__}; allowed is a list of texts.")
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
