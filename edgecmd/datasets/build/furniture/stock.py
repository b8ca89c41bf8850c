"""Which furniture serves which part of the data: no piece serves two.

A piece's part follows from its key and its kind's other keys, not from a seed, so sets that were built
with other seeds or in other sizes keep the same pieces for testing.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgecmd.datasets.build.furniture.kinds import KINDS, OTHER, kind_of
from edgecmd.datasets.build.furniture.libraries import Piece
from edgecmd.datasets.build.furniture.mesh import Mesh, read_meshes
from edgecmd.datasets.build.furniture.ray_caster import Caster, MakeCaster

PARTS = ("public", "pairs", "pool", "test")
# Shares of the pieces of each kind. What is of no kind serves the teacher, which needs none.
SHARES = {"public": 0.15, "pairs": 0.40, "pool": 0.20, "test": 0.25}
SHARES_OF_OTHER = {"public": 0.55, "pairs": 0.15, "pool": 0.15, "test": 0.15}
MAX_TRIANGLES = 100_000


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Item:
    """A piece ready to be rendered.

    Attributes:
        piece: What the catalogue says.
        kind: One of `KINDS`, or `OTHER`.
        mesh: Its mesh.
        caster: Of the mesh.
    """

    piece: Piece
    kind: str
    mesh: Mesh
    caster: Caster


Stock = Mapping[str, Sequence[Item]]
"""Items by kind, in the order of their keys."""


def deal(kinds: Mapping[str, str]) -> dict[str, str]:
    """Part of each piece.

    Args:
        kinds: Kind of each piece by its key.

    Returns:
        One of `PARTS` by key. Within a kind pieces are sorted by the SHA-256 of their keys and cut at the
        cumulative shares, rounded.
    """
    parts: dict[str, str] = {}
    for kind in (*KINDS, OTHER):
        keys = sorted((key for key, one in kinds.items() if one == kind), key=_digest)
        shares = SHARES_OF_OTHER if kind == OTHER else SHARES
        start, total = 0, 0.0
        for part in PARTS:
            total += shares[part]
            end = round(total * len(keys))
            parts |= dict.fromkeys(keys[start:end], part)
            start = end
    return parts


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def stock_up(pieces: Sequence[Piece], make_caster: MakeCaster) -> dict[str, Stock]:
    """Read all meshes and deal them to the parts.

    Args:
        pieces: Of `edgecmd.datasets.build.furniture.libraries.read_catalogue`.
        make_caster: Makes the caster of a mesh.

    Returns:
        Stock of each of `PARTS`. Pieces without a mesh, or finer than `MAX_TRIANGLES`, are in none.

    Raises:
        DataError: A mesh cannot be read.
    """
    items = [
        Item(piece=piece, kind=kind_of(piece), mesh=mesh, caster=make_caster(mesh.triangles))
        for piece, mesh in read_meshes(pieces, max_triangles=MAX_TRIANGLES)
    ]
    parts = deal({item.piece.key: item.kind for item in items})
    return {
        part: {
            kind: [item for item in items if item.kind == kind and parts[item.piece.key] == part]
            for kind in (*KINDS, OTHER)
        }
        for part in PARTS
    }


def count_pieces(stocks: Mapping[str, Stock]) -> dict[str, dict[str, int]]:
    """Pieces by kind and part, for reports: how uneven the kinds are."""
    return {
        kind: {
            part: Counter(item.kind for item in stock.get(kind, ()))[kind] for part, stock in stocks.items()
        }
        for kind in (*KINDS, OTHER)
    }
