"""A folder of pairs to begin with: some of the set `emoji`, as a user's own pairs would be on the disk."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from edgecmd.core.errors import ConfigError
from edgecmd.core.files import folder_in_one_piece, write_text_atomically
from edgecmd.datasets.emoji import NO_LABEL, PAIRS_FILE, read_shipped


def write_sample(folder: Path, *, num: int) -> None:
    """Write image pairs as PNG files, with their owners, concepts and labels.

    Args:
        folder: Folder to make; its parent may be missing.
        num: Pairs, at most the 2,951 that there are. The same number gives the same pairs.

    Raises:
        ConfigError: ``folder`` is there already.
        DataError: The shipped file is missing or damaged.
    """
    if folder.exists():
        raise ConfigError(f"{folder} already exists. Choose another folder, or remove it.")
    arrays = read_shipped(PAIRS_FILE)
    # Pairs lie house by house in the file, so some from all over it.
    rows = np.random.default_rng(0).permutation(len(arrays["image"]))[:num]
    ids = [f"{row:04}" for row in range(num)]
    with folder_in_one_piece(folder) as made:
        for half, images in (("source", arrays["image"]), ("target", 255 - arrays["sketch"])):
            (made / half).mkdir()
            for name, row in zip(ids, rows, strict=True):
                Image.fromarray(images[row]).save(made / half / f"{name}.png")
        owners = arrays["style_names"][arrays["style"][rows]]
        concepts = arrays["concept"][rows]
        labels = [
            (name, label) for name, label in zip(ids, arrays["label"][rows], strict=True) if label != NO_LABEL
        ]
        _write_table(made / "pairs.csv", ("id", "owner", "concept"), zip(ids, owners, concepts, strict=True))
        _write_table(
            made / "labels.csv",
            ("id", "label"),
            [(name, arrays["label_names"][label]) for name, label in labels],
        )


def _write_table(path: Path, header: tuple[str, ...], rows: Iterable[Sequence[object]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text_atomically(path, text.getvalue())
