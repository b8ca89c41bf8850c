"""``edgecmd data build emoji``: both shipped files again, from pinned packages.

Needs the extra ``[build]`` and, where the tarballs are not at hand, npm and the network.

The public set is Twemoji and FxEmoji, without what is held out for validation and test. FxEmoji comes with
names alone: an icon whose name does not fit exactly one emoji is left out, because its concept could not be
shown to be outside the held-out ones.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgecmd.core.errors import DataError
from edgecmd.core.files import write_files_atomically
from edgecmd.core.text import counted
from edgecmd.datasets.build.emoji_pairs import is_wanted, named_drawings, noto_drawings, pair_arrays
from edgecmd.datasets.build.icons import Emoji, IconSet, match_names, parse_emoji, parse_icons
from edgecmd.datasets.build.npz_writer import npz_bytes
from edgecmd.datasets.build.packages import (
    FONT_MEMBER,
    HOUSES,
    OPENMOJI_MEMBER,
    Members,
    Say,
    gather,
    keep_quiet,
)
from edgecmd.datasets.build.raster import load_font, rasterise, tool_versions
from edgecmd.datasets.emoji import CONTENT_SHA256, FOLDER, PAIRS_FILE, PUBLIC_FILE, SIDE
from edgecmd.datasets.pinned import content_sha256

# A picture without any pixel darker than this in some channel is blank.
MAX_BLANK = 250


@dataclass(frozen=True, kw_only=True, slots=True)
class BuiltFile:
    """One file that was made.

    Attributes:
        path: Where it is.
        num_rows: Pairs or public images in it.
        num_bytes: Its size.
        content_sha256: SHA-256 of its arrays.
        is_identical: Whether that is the pinned one.
    """

    path: Path
    num_rows: int
    num_bytes: int
    content_sha256: str
    is_identical: bool

    def __str__(self) -> str:
        verdict = (
            "identical to the pinned content" if self.is_identical else "DIFFERS from the pinned content"
        )
        return f"{self.path}: {counted(self.num_rows, 'row')}, {self.num_bytes / 1e6:.2f} MB, {verdict}"


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildReport:
    """What `build_emoji` made.

    Attributes:
        files: The pairs, then the public set.
        tools: Version of each tool that drew.
    """

    files: tuple[BuiltFile, ...]
    tools: Mapping[str, str]

    @property
    def is_identical(self) -> bool:
        """Whether all files have the pinned content."""
        return all(one.is_identical for one in self.files)

    def __str__(self) -> str:
        return "\n".join([*map(str, self.files), f"drawn with {list_versions(self.tools)}"])


def list_versions(tools: Mapping[str, str]) -> str:
    """Tools and versions in one line."""
    return ", ".join(f"{name} {version}" for name, version in tools.items())


def public_icons(
    twemoji: IconSet, fxemoji: IconSet, emoji: Mapping[str, Emoji], *, held_out: Collection[str]
) -> Iterator[tuple[str, str]]:
    """Key and SVG text of each candidate.

    Guarantees:
        No concept of ``held_out``, no skin tone, no flag; a concept occurs once in each house.
    """
    matched = match_names(fxemoji.svg, emoji)
    for house, icons, concepts in (("twemoji", twemoji, twemoji.concept), ("fxemoji", fxemoji, matched)):
        keys: set[str] = set()
        for name, svg in icons.svg.items():
            concept = concepts.get(name, "")
            if concept not in keys and concept not in held_out and is_wanted(concept, emoji):
                keys.add(concept)
                yield f"{house}/{concept}", svg


def public_arrays(
    twemoji: IconSet,
    fxemoji: IconSet,
    emoji: Mapping[str, Emoji],
    *,
    pairs: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Arrays ``image`` and ``key`` of the shipped file, of the side of ``pairs``.

    Guarantees:
        No blank image, no two equal ones, none equal to an image of ``pairs``.
    """
    held_out = {str(concept) for concept in pairs["concept"][pairs["split"] > 0]}
    seen = {image.tobytes() for image in pairs["image"]}
    images, keys = [], []
    for key, svg in public_icons(twemoji, fxemoji, emoji, held_out=held_out):
        image = rasterise(svg, pairs["image"].shape[1])
        if image.min() < MAX_BLANK and image.tobytes() not in seen:
            seen.add(image.tobytes())
            images.append(image)
            keys.append(key)
    return {"image": np.stack(images), "key": np.array(keys)}


def make_arrays(members: Members, *, side: int, say: Say) -> dict[str, dict[str, np.ndarray]]:
    """Arrays of both files by file name; deterministic for given tools."""
    emoji = parse_emoji(members["openmoji"][OPENMOJI_MEMBER])
    icons = {key: parse_icons(found) for key, found in members.items() if "icons.json" in found}
    say("drawing Fluent Emoji")
    drawings = list(named_drawings("fluent", icons["fluent-colour"], icons["fluent-line"], emoji, side=side))
    say("drawing Noto")
    font = load_font(members["noto-line"][FONT_MEMBER], side)
    drawings += noto_drawings(icons["noto-colour"], font, emoji, side=side)
    pairs = pair_arrays(drawings, emoji)
    say("drawing Twemoji and FxEmoji")
    public = public_arrays(icons["twemoji"], icons["fxemoji"], emoji, pairs=pairs)
    return {PAIRS_FILE: pairs, PUBLIC_FILE: public}


def build_emoji(out: Path = FOLDER, npm_dir: Path | None = None, *, say: Say = keep_quiet) -> BuildReport:
    """Make both files of the built-in set.

    Args:
        out: Folder to write to; by default the one that edgecmd reads.
        npm_dir: Folder with tarballs of `HOUSES`; missing ones are fetched into it. None: all are
            fetched into a temporary folder.
        say: Called with a line of progress.

    Returns:
        Which files were made and whether their content is the pinned one.

    Raises:
        DataError: A tool or npm is missing, a tarball is not the pinned one, or the content differs
            from the pinned one and ``out`` is the folder that edgecmd reads (nothing is written).
    """
    tools = tool_versions()
    made = make_arrays(gather(HOUSES, npm_dir, say=say), side=SIDE, say=say)
    found = {name: content_sha256(arrays) for name, arrays in made.items()}
    if found != CONTENT_SHA256 and out.resolve() == FOLDER.resolve():
        raise DataError(
            f"The result differs from the pinned content; drawn with {list_versions(tools)}. {out} was left"
            " unchanged. To inspect the result, write it elsewhere with --out."
        )
    files, content = [], {out / name: npz_bytes(arrays) for name, arrays in made.items()}
    for name, arrays in made.items():
        files.append(
            BuiltFile(
                path=out / name,
                num_rows=len(arrays["image"]),
                num_bytes=len(content[out / name]),
                content_sha256=found[name],
                is_identical=found[name] == CONTENT_SHA256[name],
            )
        )
    write_files_atomically(content)
    return BuildReport(files=tuple(files), tools=tools)
