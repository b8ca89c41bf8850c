"""``edgecmd data build words``: the shipped names of emoji in 28 languages again, from a pinned npm package.

Nothing is drawn or computed, so the arrays follow from the package and from the shipped emoji alone.
"""

import json
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgecmd.core.errors import DataError
from edgecmd.core.files import write_files_atomically
from edgecmd.datasets.build.emoji import BuiltFile
from edgecmd.datasets.build.npz_writer import npz_bytes
from edgecmd.datasets.build.packages import EMOJIBASE, Say, gather, keep_quiet
from edgecmd.datasets.emoji import FOLDER, PAIRS_FILE, read_shipped
from edgecmd.datasets.pinned import content_sha256
from edgecmd.datasets.words import CONTENT_SHA256, WORDS_FILE

FILE_OF_A_LANGUAGE = "/data.json"
# In the package's code points and not in those of the shipped emoji: it asks for a picture, not for a letter.
VARIATION = "-fe0f"


def build_words(out: Path = FOLDER, npm_dir: Path | None = None, *, say: Say = keep_quiet) -> BuiltFile:
    """Make the file of names again.

    Args:
        out: Folder to write to; by default the one that edgecmd reads.
        npm_dir: Folder with the tarball of `EMOJIBASE`; it is fetched into it where it is missing.
        say: Called with a line of progress.

    Returns:
        What was written, and whether its content is the pinned one.

    Raises:
        DataError: npm is missing, the tarball is not the pinned one, or the content differs from the pinned
            one and ``out`` is the folder that edgecmd reads (nothing is written).

    Guarantees:
        Equal packages give equal arrays, whatever the versions of tools.
    """
    members = gather({"names": EMOJIBASE}, npm_dir, say=say)["names"]
    arrays = word_arrays(members, concepts=np.unique(read_shipped(PAIRS_FILE)["concept"]))
    found = content_sha256(arrays)
    if found != CONTENT_SHA256 and out.resolve() == FOLDER.resolve():
        raise DataError(
            f"The result has content sha256={found}; pinned is {CONTENT_SHA256}. {out} was left unchanged. To"
            " inspect the result, write it elsewhere with --out."
        )
    path, content = out / WORDS_FILE, npz_bytes(arrays)
    write_files_atomically({path: content})
    return BuiltFile(
        path=path,
        num_rows=len(arrays["emoji"]),
        num_bytes=len(content),
        content_sha256=found,
        is_identical=found == CONTENT_SHA256,
    )


def word_arrays(members: Mapping[str, bytes], *, concepts: np.ndarray) -> dict[str, np.ndarray]:
    """Arrays of the file, a row for each language, emoji and string that names it there.

    Args:
        members: Files of `EMOJIBASE`.
        concepts: Code points of the emoji that are kept, sorted.

    Returns:
        ``text`` (UTF-8, a line a row), ``language``, ``emoji`` and ``is_label`` by row; ``concept`` and
        ``languages`` name the codes of ``emoji`` and ``language``.

    Guarantees:
        Of strings that differ in case alone, or in white space, the first of a language and an emoji is kept;
        the label comes before the tags.
    """
    row_of = {str(one): row for row, one in enumerate(concepts)}
    languages = sorted(name.removesuffix(FILE_OF_A_LANGUAGE) for name in members if is_language(name))
    rows = [
        (text, code, emoji, is_label)
        for code, language in enumerate(languages)
        for emoji, text, is_label in _names(members[language + FILE_OF_A_LANGUAGE], row_of)
    ]
    texts, codes, emoji, is_label = zip(*rows, strict=True)
    return {
        "text": np.frombuffer("\n".join(texts).encode(), dtype=np.uint8),
        "language": np.array(codes, dtype=np.uint8),
        "emoji": np.array(emoji, dtype=np.uint16),
        "is_label": np.array(is_label, dtype=bool),
        "concept": np.asarray(concepts),
        "languages": np.array(languages),
    }


def is_language(member: str) -> bool:
    """Whether a file of the package holds the names in a language."""
    return member.endswith(FILE_OF_A_LANGUAGE)


def _names(content: bytes, row_of: Mapping[str, int]) -> Iterator[tuple[int, str, bool]]:
    """Emoji, string and whether it is the label, in the order of the emoji."""
    entries: dict[int, dict[str, Any]] = {}
    for entry in json.loads(content):
        emoji = row_of.get(str(entry["hexcode"]).lower().replace(VARIATION, ""))
        if emoji is not None:
            entries.setdefault(emoji, entry)
    for emoji in sorted(entries):
        seen = set[str]()
        for place, given in enumerate([entries[emoji]["label"], *entries[emoji].get("tags", [])]):
            text = " ".join(unicodedata.normalize("NFC", str(given)).split())
            if text and text.casefold() not in seen:
                seen.add(text.casefold())
                yield emoji, text, place == 0
