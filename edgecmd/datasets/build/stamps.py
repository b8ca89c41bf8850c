"""``edgecmd data build stamps``: the set ``stamps`` out of an installed or unpacked Debian package.

The package is GPL-2; nothing of it is part of edgecmd. What is built is the user's to keep within that
licence, and the notice beside it says so.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgecmd.catalogue.data_files import built_folder, write_manifest
from edgecmd.core.errors import DataError
from edgecmd.core.files import files_in_one_piece, write_bytes_atomically, write_text_atomically
from edgecmd.datasets.build.npz_writer import npy_bytes, npz_bytes
from edgecmd.datasets.build.packages import Say, keep_quiet
from edgecmd.datasets.build.stamp_files import LeftOut, stamp_arrays
from edgecmd.datasets.emoji import SIDE
from edgecmd.datasets.pinned import content_sha256
from edgecmd.datasets.stamps import CLIP, KIND, NAME, PAIRS, WAVES

INSTALLED = Path("/usr/share/tuxpaint/stamps")
COPYRIGHT = "doc/tuxpaint-stamps-default/copyright"
NOTICE = """\
Pairs of a picture and a recording, built by edgecmd for use on this machine.

Pictures and recordings: Tux Paint Stamps, copyright 2002-2022 by Bill Kendrick and the contributors.
    https://tuxpaint.org/  Debian package: tuxpaint-stamps-default
    Licence: GNU General Public License, version 2 (GPL-2)
    Changed: pictures fitted into a white square of 64 pixels; recordings made one channel of 8 kHz,
    leading silence removed, cut at 2 s.
    Whether the folder that was read is that package is not checked.

Pairing: natural. The recordings were made for the pictures.
Whoever passes these files on must keep this notice and the licence above.
"""


def build_stamps(
    stamps: Path | None = None,
    out: Path | None = None,
    *,
    languages: Sequence[str] = (),
    say: Say = keep_quiet,
) -> str:
    """Build the set.

    Args:
        stamps: Folder ``tuxpaint/stamps``; None for where Debian's package installs it.
        out: Folder to write; None for the one that edgecmd reads.
        languages: Languages to read, such as ``fr``; empty: all, with sounds as the language ``effect``.
        say: Called with a line of progress.

    Returns:
        One line about what was written.

    Raises:
        DataError: There is no such folder, nothing in it can be used, or a tool is missing.

    Guarantees:
        Equal files give equal arrays, under the same versions of the tools that read them.
    """
    source, folder = stamps or INSTALLED, out or built_folder(NAME)
    if not source.is_dir():
        raise DataError(
            f"{source} is not a folder. Install Debian's package (`apt install tuxpaint-stamps-default`), or"
            " unpack it (`dpkg-deb -x tuxpaint-stamps-default_*.deb DIR`) and give"
            " DIR/usr/share/tuxpaint/stamps with --stamps."
        )
    say(f"reading {source}")
    left_out = LeftOut()
    arrays, line = stamp_arrays(source, clip=CLIP, side=SIDE, languages=languages, left_out=left_out)
    for note in left_out.notes():
        say(f"note: {note}")
    spoken = Counter(arrays["language"].tolist())
    facts = {
        "name": NAME,
        "kind": KIND,
        "num_pairs": len(arrays["row"]),
        "num_pictures": len(arrays["picture"]),
        "num_concepts": len(np.unique(arrays["concept"])),
        "languages": dict(spoken.most_common()),
        "left_out": left_out.counts(),
        "content_sha256": content_sha256({**arrays, WAVES: line}),
    }
    with files_in_one_piece(folder) as parts:
        files = {PAIRS: parts / "pairs.npz", WAVES: parts / "waves.npy"}
        write_bytes_atomically(files[PAIRS], npz_bytes(arrays))
        write_bytes_atomically(files[WAVES], npy_bytes(line))
        write_text_atomically(parts / "NOTICE", NOTICE + copyright_of(source))
        write_manifest(parts, files, facts=facts)
    counts = ", ".join(f"{name} {num}" for name, num in spoken.most_common())
    return (
        f"{folder}: {len(arrays['row'])} pairs ({KIND}) of {len(arrays['picture'])} images and"
        f" {facts['num_concepts']} concepts, {line.nbytes / 1e6:.0f} MB of recordings ({counts})."
        " Attributions and terms: NOTICE beside them."
    )


def copyright_of(stamps: Path) -> str:
    """The package's own copyright file, which is beside an installed or unpacked copy; else nothing."""
    path = stamps.parent.parent / COPYRIGHT
    if not path.is_file():
        return ""
    return f"\nThe package's own copyright file:\n\n{path.read_text(encoding='utf-8', errors='replace')}"
