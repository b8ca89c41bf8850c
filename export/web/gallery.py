"""The images that a page can find: public ones only, with the teacher's embedding of each.

Shapes: N images, S side of an image, T side of a thumbnail, D embedding dimension, E example drawings.
"""

import io
import math
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from edgecmd.catalogue.data_files import shipped_file
from edgecmd.catalogue.data_sets import DATA_SETS, DataSet
from edgecmd.core.errors import DataError, ExportError
from edgecmd.core.seeding import numpy_generator
from edgecmd.data.experiment import HeldOut
from edgecmd.data.modalities.row import Pictures
from edgecmd.data.modalities.table import kind_of, modality_of
from edgecmd.data.pairs import Images, PublicSource, Targets
from edgecmd.data.user_files.images import SUFFIXES, read_image, to_rgb, to_square
from edgecmd.datasets.emoji import load_public
from edgecmd.evaluation.metrics import unit_rows
from edgecmd.run import Run
from edgecmd.training.task import Task
from export.profiles.calibration import calibration_of

NUM_PICTURES = 640
NUM_EXAMPLES = 12
TILE = 64
SHEET_QUALITY = 80
INT16_MAX = 32767
# Letters that are newer than the tables of some Python.
NEWER_LETTERS = {
    0x1F6D8: "landslide",
    0x1F6DC: "wireless",
    0x1FA75: "light blue heart",
    0x1FA76: "grey heart",
    0x1FA77: "pink heart",
    0x1FA87: "maracas",
    0x1FA88: "flute",
    0x1FA89: "harp",
    0x1FA8A: "trombone",
    0x1FA8E: "treasure chest",
    0x1FA8F: "shovel",
    0x1FAAD: "folding hand fan",
    0x1FAAE: "hair pick",
    0x1FAAF: "khanda",
    0x1FABB: "hyacinth",
    0x1FABC: "jellyfish",
    0x1FABD: "wing",
    0x1FABE: "leafless tree",
    0x1FABF: "goose",
    0x1FAC6: "fingerprint",
    0x1FAC8: "hairy creature",
    0x1FACD: "orca",
    0x1FACE: "moose",
    0x1FACF: "donkey",
    0x1FADA: "ginger root",
    0x1FADB: "pea pod",
    0x1FADC: "root vegetable",
    0x1FADF: "splatter",
    0x1FAE8: "shaking face",
    0x1FAE9: "face with bags under eyes",
    0x1FAEA: "distorted face",
    0x1FAEF: "fight cloud",
    0x1FAF7: "leftwards pushing hand",
    0x1FAF8: "rightwards pushing hand",
}
JOINERS = "\u200d\ufe0f"
# Behind a letter it asks for a picture, where a plain sign may be shown as well; such letters come first.
AS_PICTURE, FIRST_PICTURE, KEYCAP = "\ufe0f", 0x1F000, "\u20e3"
TWEMOJI_FXEMOJI = (
    "Pictures: Twemoji, Copyright Twitter, Inc and other contributors, CC BY 4.0; FxEmoji, Copyright 2015"
    " Mozilla Foundation, Apache License 2.0 and CC BY 4.0. Made smaller."
)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Gallery:
    """What a page can find.

    Attributes:
        names: Name of each image; several may have one name. (N,)
        pictures: RGB, uint8, (N, S, S, 3).
        embedding: Unit rows in the teacher's space, (N, D).
        credit: One line that names authors and licence of the images.
        notice: Whole text of the licences; empty where there is none.
        texts: What a click on each image copies, (N,); empty where there is nothing to copy.
        examples: Drawings to begin with, uint8, (E, R, R, 1), R the side that the student takes; or strings,
            (E, L).
        example_names: Their names, (E,).
        strangers: Public inputs of no class, uint8, (M, R, R, C), which tell when a drawing is none of a
            user's own classes; None where there are none.

    Raises:
        ExportError: There is no image, or the numbers of rows differ.
    """

    names: tuple[str, ...]
    pictures: Pictures
    embedding: Float[np.ndarray, "num dim"]
    credit: str
    notice: str = ""
    texts: tuple[str, ...] = ()
    examples: Targets | None = None
    example_names: tuple[str, ...] = ()
    strangers: Targets | None = None

    def __post_init__(self) -> None:
        counts = (len(self.names), len(self.pictures), len(self.embedding))
        if len(set(counts)) != 1 or not counts[0]:
            raise ExportError(
                f"A gallery needs one name, image and embedding for each entry; given were {counts}, at"
                " least 1."
            )
        if self.texts and len(self.texts) != counts[0]:
            raise ExportError(f"A gallery of {counts[0]} images has {len(self.texts)} texts to copy.")


def gallery_of_run(run: Run, *, num_pictures: int | None = None) -> Gallery:
    """The images that a page of this run may carry.

    A built-in set whose licences allow it: the images that its test looks among, and some of the test's
    targets to begin with, which the student never saw. Any other set: its **public** images.

    Args:
        run: The run.
        num_pictures: At most so many are taken, drawn by the run's seed. None: all that a test with a
            gallery of its own looks among, else `NUM_PICTURES`.

    Guarantees:
        Of a user's own pairs, nothing is returned: no image, no name and no embedding.
    """
    task, row = run.task, DATA_SETS.get(run.task.name)
    if row is not None and row.credit:
        return _built_in(task, row, seed=run.seed, num_pictures=num_pictures)
    public = task.data.public
    pictures = public.pictures(use="A gallery")
    rows = _draw(len(public), num_pictures, seed=run.seed)
    built_in = _is_built_in(public)
    names = [public.keys[row] for row in rows]
    return Gallery(
        names=tuple(emoji_name(name.split("/")[-1]) if built_in else name_of_file(name) for name in names),
        pictures=pictures[rows],
        embedding=unit_rows(task.public_features[rows]),
        credit=TWEMOJI_FXEMOJI if built_in else "Pictures: the public set of this run.",
        notice=_notice("NOTICE") if built_in else "",
        strangers=_public_strangers(run),
    )


def _public_strangers(run: Run) -> Pictures | None:
    """Public images as the student could see them, drawn as outlines and tones; None where none can be."""
    task, public = run.task, run.task.data.public
    if not modality_of(task.data.train.target).is_drawn or kind_of(public.images) != "rgb":
        return None
    return np.asarray(calibration_of(task, "public", seed=run.seed).inputs)


def name_of_file(name: str) -> str:
    """``animals/snow_owl.png`` as people read it: snow owl."""
    words = Path(name).name
    stem = Path(words).stem if Path(words).suffix.lower() in SUFFIXES else words
    return stem.replace("_", " ").strip() or name


def gallery_of_folder(
    run: Run, folder: Path, *, num_pictures: int | None = None, credit: str = ""
) -> Gallery:
    """Images out of a folder that the user names, embedded by the run's teacher.

    Args:
        run: The run.
        folder: PNG, JPEG or WebP files; the name of an image is that of its file.
        num_pictures: At most so many are taken, drawn by the run's seed; None: `NUM_PICTURES`.
        credit: Who made them and under which licence.

    Raises:
        DataError: The folder holds no image, or one is broken.
        ExportError: The run has ready teacher features, so there is no teacher that could see new images.
    """
    if run.task.has_ready_features:
        raise ExportError(
            "This run has ready teacher features (teacher.public_features), so there is no teacher to embed"
            " other images. Leave the gallery out: the page then shows the public set."
        )
    files = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(f"{folder} has no images; allowed are files ending in {', '.join(SUFFIXES)}.")
    chosen = [files[row] for row in _draw(len(files), num_pictures, seed=run.seed)]
    side, fit = run.task.source_side, run.task.fit
    pictures = np.concatenate([_rgb(to_square(read_image(path), side=side, fit=fit)) for path in chosen])
    return Gallery(
        names=tuple(name_of_file(path.name) for path in chosen),
        pictures=pictures,
        embedding=unit_rows(run.task.teacher.embed(pictures)),
        credit=credit or "Pictures: chosen by whoever made this page.",
        strangers=_public_strangers(run),
    )


def _rgb(picture: np.ndarray) -> Pictures:
    """One image, (S, S) or (S, S, C), as (1, S, S, 3)."""
    return to_rgb(picture.reshape(1, *picture.shape[:2], -1))


def _built_in(task: Task, row: DataSet, *, seed: int, num_pictures: int | None) -> Gallery:
    held, strict = task.data.test, task.data.test_strict
    features = task.gallery_features("test")
    # Several targets, such as the names of a thing in several languages, may have one image.
    _, firsts = np.unique(features, axis=0, return_index=True)
    most = len(firsts) if num_pictures is None and held.gallery is not None else num_pictures
    rows = np.sort(firsts)[_draw(len(firsts), most, seed=seed)]
    titles = _titles(held)
    shown = numpy_generator(seed, "web-examples").permutation(len(strict))[:NUM_EXAMPLES]
    examples = strict.pairs.target[shown]
    is_drawn = modality_of(examples).is_drawn
    return Gallery(
        names=tuple(titles[row] for row in rows),
        pictures=_sources(held)[rows],
        embedding=unit_rows(features[rows]),
        credit=row.credit,
        notice="\n\n".join(_notice(name) for name in row.notices),
        texts=() if held.gallery is None else tuple(emoji_text(held.gallery.names[row]) for row in rows),
        examples=examples,
        example_names=tuple(_id_name(strict.ids[row]) for row in shown) if strict.ids else (),
        strangers=_others(held.pairs.target, examples, seed=seed, num=len(rows)) if is_drawn else None,
    )


def _sources(held: HeldOut) -> Images:
    """What the test looks among."""
    return held.pairs.source if held.gallery is None else held.gallery.source


def _titles(held: HeldOut) -> list[str]:
    """What people call each of `_sources`."""
    if held.gallery is None:
        return [_id_name(one) for one in held.ids]
    names = held.gallery.names
    return [
        title or emoji_name(name)
        for title, name in zip(held.gallery.titles or [""] * len(names), names, strict=True)
    ]


def _id_name(name: str) -> str:
    """Such as ``fluent/1f600``: grinning face."""
    return emoji_name(name.split("/")[-1])


def _others(drawings: Targets, examples: Targets, *, seed: int, num: int) -> Targets:
    """At most ``num`` drawings that are not among the examples, in a random order."""
    shown = {one.tobytes() for one in examples}
    order = numpy_generator(seed, "web-strangers").permutation(len(drawings))
    kept = [row for row in order if drawings[row].tobytes() not in shown]
    return np.asarray(drawings[np.array(kept[:num], dtype=np.int64)])


def _draw(total: int, num: int | None, *, seed: int) -> np.ndarray:
    """Rows of at most ``num`` (None: `NUM_PICTURES`) of ``total`` images, drawn by the seed, ascending."""
    return np.sort(numpy_generator(seed, "web-gallery").permutation(total)[: num or NUM_PICTURES])


def _is_built_in(public: PublicSource) -> bool:
    """Whether a public set is the one that ships, by its pictures: a user's folder may have any name."""
    shipped = load_public(image_size=public.images.shape[1])
    return shipped.fingerprint() == public.fingerprint()


def _notice(name: str) -> str:
    return shipped_file(name).read_text(encoding="utf-8")


def emoji_name(code_points: str) -> str:
    """Name in words of hexadecimal code points such as ``1f9d1-200d-1f3a8``; what Unicode calls them."""
    letters = [chr(int(point, 16)) for point in code_points.split("-")]
    return " + ".join(_letter_name(letter) for letter in letters if letter not in JOINERS)


def _letter_name(letter: str) -> str:
    return unicodedata.name(letter, "").lower() or NEWER_LETTERS.get(ord(letter), f"U+{ord(letter):04X}")


def emoji_text(code_points: str) -> str:
    """The emoji of hexadecimal code points, as a text that is shown as a picture."""
    letters = [chr(int(point, 16)) for point in code_points.split("-")]
    plain = [letter not in (*JOINERS, KEYCAP) and ord(letter) < FIRST_PICTURE for letter in letters]
    return "".join(letter + AS_PICTURE * is_plain for letter, is_plain in zip(letters, plain, strict=True))


def sheet(pictures: Pictures) -> tuple[bytes, int, int]:
    """All images as thumbnails on one WebP sheet, row by row.

    Args:
        pictures: RGB, uint8, (N, S, S, 3).

    Returns:
        The file, the side T of a thumbnail in pixels, and the thumbnails per row.
    """
    side = min(TILE, pictures.shape[1])
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    canvas = Image.new("RGB", (columns * side, rows * side), "white")
    for index, picture in enumerate(pictures):
        canvas.paste(thumbnail(picture, side), (index % columns * side, index // columns * side))
    buffer = io.BytesIO()
    canvas.save(buffer, "WEBP", quality=SHEET_QUALITY, method=6)
    return buffer.getvalue(), side, columns


def thumbnail(picture: UInt8[np.ndarray, "height width 3"], side: int) -> Image.Image:
    """An image averaged down to ``side``."""
    image = Image.fromarray(picture)
    return image if image.size == (side, side) else image.resize((side, side), Image.Resampling.BOX)


def fixed_point(embedding: Float[np.ndarray, "num dim"]) -> bytes:
    """Unit rows as little-endian 16-bit integers, value times 32,767: off by at most 1.6e-5 each.

    JavaScript has no 16-bit floating-point array in every browser.
    """
    return bytes(np.rint(embedding * INT16_MAX).astype("<i2").tobytes())
