"""``edgecmd data build emoji``: both shipped files again, from pinned packages.

Needs the extra ``[build]`` and, where the tarballs are not at hand, npm and the network.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgecmd.core.errors import DataError
from edgecmd.core.files import write_files_atomically
from edgecmd.core.text import counted
from edgecmd.datasets.build.emoji_pairs import named_drawings, noto_drawings, pair_arrays
from edgecmd.datasets.build.emoji_public import public_arrays
from edgecmd.datasets.build.icons import parse_emoji, parse_icons
from edgecmd.datasets.build.npz_writer import npz_bytes
from edgecmd.datasets.build.packages import FONT_MEMBER, HOUSES, OPENMOJI_MEMBER, gather
from edgecmd.datasets.build.raster import load_font, tool_versions
from edgecmd.datasets.emoji import CONTENT_SHA256, FOLDER, PAIRS_FILE, PUBLIC_FILE, SIDE
from edgecmd.datasets.pinned import content_sha256

Members = Mapping[str, Mapping[str, bytes]]


@dataclass(frozen=True, kw_only=True, slots=True)
class BuiltFile:
    """One file that was made.

    Attributes:
        path: Where it lies.
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


def keep_quiet(_line: str) -> None:
    """Take a line of progress and drop it."""


def list_versions(tools: Mapping[str, str]) -> str:
    """Tools and versions in one line."""
    return ", ".join(f"{name} {version}" for name, version in tools.items())


def make_arrays(
    members: Members, *, side: int, say: Callable[[str], None]
) -> dict[str, dict[str, np.ndarray]]:
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


def build_emoji(
    out: Path = FOLDER, npm_dir: Path | None = None, *, say: Callable[[str], None] = keep_quiet
) -> BuildReport:
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
            f"The result differs from the pinned content; drawn with {list_versions(tools)}."
            f" {out} was left as it was. Write it elsewhere with --out to look at it."
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
