"""Who made the furniture: the notice that is beside the rendered files."""

import itertools
import textwrap
from collections.abc import Iterable

from edgecmd.datasets.build.furniture.libraries import Piece

WIDTH = 98
LINKS = {
    "Creative Commons Attribution 3.0 United States": (
        "CC-BY-3.0-US, https://creativecommons.org/licenses/by/3.0/us/legalcode"
    ),
    "Creative Commons Attribution 3.0": "CC-BY-3.0, https://creativecommons.org/licenses/by/3.0/legalcode",
    "Public domain": "CC0-1.0, https://creativecommons.org/publicdomain/zero/1.0/legalcode",
}
HEAD = """\
The furniture in rooms_64.npz, objects_64.npz and indoor_64.npz
===============================================================

The pictures and depth maps in these files were computed from meshes of furniture that others made, as
libraries of Sweet Home 3D carry them (in Debian: the package sweethome3d-furniture). They were cleaned
and converted for Sweet Home 3D by Emmanuel Puybaret / eTeks. The licence of edgecmd does not cover them.

What was changed: each piece was turned, brought to another size, alone or among others in made-up rooms
whose colours are made up too, its colours were altered a little, and all was rendered as small pictures
and depth maps. The meshes themselves are not included. `edgecmd data build rooms` repeats this.

The pictures come "as is", without warranties of any kind. None of the creators endorses edgecmd.
"""


def attribution(pieces: Iterable[Piece]) -> str:
    """Text that names every piece with its creator, by library, with the licence and its address."""
    parts = [HEAD]
    ordered = sorted(pieces, key=lambda piece: (piece.library, piece.creator, piece.key))
    for library, group in itertools.groupby(ordered, key=lambda piece: piece.library):
        members = list(group)
        licence = members[0].licence
        parts.append(f"{library}\n{'-' * len(library)}\n")
        parts.append(_wrapped(f"Licence: {licence}{_link(licence)}") + "\n")
        for creator, made in itertools.groupby(members, key=lambda piece: piece.creator):
            names = "; ".join(f"{piece.name} ({piece.key.rpartition('#')[2]})" for piece in made)
            parts.append(_wrapped(f"{creator or 'creator not named'}: {names}"))
        parts.append("")
    return "\n".join(parts)


def _link(licence: str) -> str:
    return next((f" ({link})" for start, link in LINKS.items() if licence.startswith(start)), "")


def _wrapped(text: str) -> str:
    return textwrap.fill(
        text, WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )
