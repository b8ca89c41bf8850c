"""Pairs, public images and labelled examples, in memory or out of files.

Shapes: N examples, H height, W width, C channels of the target modality, T samples of a recording.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgecmd.core.errors import DataError
from edgecmd.data.findings import ProblemsError
from edgecmd.data.labelled import UNLABELLED, LabelledTarget, Labels
from edgecmd.data.pairs import Images as Pictures
from edgecmd.data.pairs import PairedData, PublicSource, Targets
from edgecmd.data.user_files.folder import Reading, read_own
from edgecmd.data.user_files.images import sides_of
from edgecmd.data.user_files.public_images import read_public
from edgecmd.settings import DataConfig

CHECK_COMMAND = "edgecmd data check"


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

    Raises:
        DataError: A type or a shape is not allowed, or the numbers differ.

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

    def __post_init__(self) -> None:
        data = PairedData(source=self.source, target=self.target)
        if len(data) < 2:
            raise DataError(
                f"Pairs holds {len(data)} pairs; at least 2 are needed, to tell one from another."
            )
        for name in ("ids", "owner"):
            values = tuple(str(one) for one in getattr(self, name))
            if values and len(values) != len(data):
                raise DataError(f"Pairs.{name} has {len(values)} entries for {len(data)} pairs.")
            object.__setattr__(self, name, values)
        if len(set(self.ids)) != len(self.ids):
            twice = next(one for one in self.ids if list(self.ids).count(one) > 1)
            raise DataError(f"Pairs.ids has {twice!r} more than once. Give each pair a name of its own.")

    def __len__(self) -> int:
        return len(self.source)

    @property
    def data(self) -> PairedData:
        """Both halves as a client holds them."""
        return PairedData(source=self.source, target=self.target)

    @classmethod
    def from_folder(cls, path: str | Path, *, size: int = 64, source_size: int = 0) -> "Pairs":
        """Read ``source/`` and ``target/`` of a folder, or one .npz; the layout is in docs/data.md.

        Args:
            path: The folder, or the .npz.
            size: Side of a target image in pixels, a multiple of 16; larger ones are averaged down.
            source_size: The same of a source image; 0: ``size``.

        Raises:
            DataError: Anything is wrong with the files; the message names the first problem and the command
                that lists all.
        """
        settings = DataConfig(name="folder", path=str(path), image_size=size, source_size=source_size)
        reading = Reading(path=Path(path).expanduser(), config=settings, whole=False)
        if not reading.path.exists():
            raise DataError(f"{path} does not exist. Give a folder with source/ and target/, or an .npz.")
        own = read_own(reading)
        reading.refuse(complete=True)
        assert own is not None
        owner = own.columns.get("owner", ()) if any(own.columns.get("owner", ())) else ()
        return cls(source=own.data.source, target=own.data.target, ids=own.ids, owner=owner)


@dataclass(frozen=True, kw_only=True, eq=False)
class Images:
    """Public images of the source modality: what teacher, anchors and calibration may see; never a pair.

    Attributes:
        images: RGB, uint8, (N, H, W, 3), 255 is white.
        keys: One name an image; made up where empty.
        name: What reports call the set.

    Raises:
        DataError: The type or the shape is not allowed.
    """

    images: Pictures
    keys: Sequence[str] = ()
    name: str = "public images"

    def __post_init__(self) -> None:
        keys = tuple(str(one) for one in self.keys) or tuple(
            f"image-{row}" for row in range(len(self.images))
        )
        object.__setattr__(self, "keys", keys)
        self.source()

    def __len__(self) -> int:
        return len(self.images)

    def source(self) -> PublicSource:
        """The same as the rooms below take it."""
        return PublicSource(images=self.images, keys=tuple(self.keys), name=self.name)

    @classmethod
    def from_folder(cls, path: str | Path, *, size: int = 64) -> "Images":
        """Read all pictures of a folder, or of the folders in it.

        Args:
            path: The folder.
            size: Side in pixels; larger ones are averaged down.

        Raises:
            DataError: There is none, or one cannot be read; the message has every problem.
        """
        folder, problems = Path(path).expanduser(), list[str]()
        if not folder.is_dir():
            raise DataError(f"{path} is no folder that exists. Give one with public pictures.")
        sides = sides_of(DataConfig(image_size=size, source_size=size))
        found = read_public(folder, sides=sides, name=folder.name, problems=problems)
        if found is None or problems:
            raise ProblemsError(problems, notes=[], command=f"{CHECK_COMMAND} {path}", complete=True)
        return cls(images=found.images, keys=found.keys, name=found.name)


@dataclass(frozen=True, kw_only=True, eq=False)
class Labelled:
    """Labelled examples of the target modality, held by whoever deploys; no client sees one.

    Attributes:
        target: As of `Pairs`.
        labels: Class of each example, (N,), as texts or whole numbers.
        source: The same examples in the source modality, for retrieval; None where there is none.

    Raises:
        DataError: The numbers differ, or a type is not allowed.
    """

    target: Targets
    labels: Sequence[object]
    source: Targets | None = None

    def __post_init__(self) -> None:
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
    def from_folder(cls, path: str | Path, *, size: int = 64) -> "Labelled":
        """Read a folder with a sub-folder of pictures for each class.

        Args:
            path: The folder.
            size: Side of a picture in pixels; larger ones are averaged down.

        Raises:
            DataError: A file cannot be read, or there are fewer than two classes.
        """
        sub = sorted(one for one in Path(path).expanduser().glob("*") if one.is_dir())
        if len(sub) < 2:
            raise DataError(f"{path} has {len(sub)} sub-folders; give one of pictures for each class.")
        parts = [Images.from_folder(one, size=size).images for one in sub]
        names = [one.name for one, part in zip(sub, parts, strict=True) for _ in part]
        grey = all((part == part[..., :1]).all() for part in parts)
        target = np.concatenate(parts)
        return cls(target=target[..., :1].copy() if grey else target, labels=names)


def labels_of(texts: Sequence[str]) -> Labels:
    """Texts as one labelling; the empty text stands for none."""
    names = sorted({text for text in texts if text})
    codes = {"": UNLABELLED} | {name: index for index, name in enumerate(names)}
    return Labels(values=np.array([codes[text] for text in texts], dtype=np.int64), names=tuple(names))
