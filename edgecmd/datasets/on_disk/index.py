"""What a layout is made into: a list of pairs with their files, and what else is known of them."""

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgecmd.core.errors import DataError
from edgecmd.data.labelled import Masks
from edgecmd.data.user_files.csv_tables import FEW, few, grouped
from edgecmd.data.user_files.halves import Halves, read_halves
from edgecmd.data.user_files.images import Sides
from edgecmd.data.user_files.pair_files import by_ending, is_hidden
from edgecmd.settings import DataConfig

TRAIN, TEST = "train", "test"


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One pair.

    Attributes:
        id: Its name.
        source: File of the source.
        target: File of the target.
        owner: Who made it; empty where nobody knows.
        concept: What no two parts may share; empty: the pair alone.
        label: Its class; empty where unknown.
        part: `TRAIN` or `TEST` where the set has an official split.
    """

    id: str
    source: Path
    target: Path
    owner: str = ""
    concept: str = ""
    label: str = ""
    part: str = ""


def read_entry(entry: Entry, sides: Sides) -> Halves:
    """Both halves out of their files, of one field of view; see `edgecmd.data.user_files.halves`."""
    return read_halves(entry.source, entry.target, sides)


@dataclass(frozen=True, kw_only=True, slots=True)
class Index:
    """All pairs of a set, and how they are read.

    Attributes:
        entries: Sorted by id.
        unseen: What test and training pairs do not share, in the plural.
        kind: See `edgecmd.data.experiment.Experiment`.
        read: Makes both halves of an entry; raises a DataError that names the file.
        masks: Makes masks, sized as targets are, of some entries' targets, or adds to the problems given;
            None where the set has none.
        problems: Sentences about what keeps a run from starting.
        notes: Sentences about what was left out.
    """

    entries: tuple[Entry, ...]
    unseen: str
    kind: str = "real"
    read: Callable[[Entry, Sides], Halves] = read_entry
    masks: Callable[[Sequence[Entry], DataConfig, list[str]], Masks | None] | None = None
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def visible(folder: Path, pattern: str, suffixes: Collection[str]) -> list[Path]:
    """Files by a pattern and their endings, sorted, without those that are hidden or that systems leave."""
    return [
        one
        for one in sorted(folder.glob(pattern))
        if one.suffix.lower() in suffixes and not is_hidden(one.name) and not is_hidden(one.parent.name)
    ]


def one_each(ids: Iterable[str], *, what: str, folder: Path) -> list[str]:
    """A sentence where an id stands for more than one file.

    Args:
        ids: An id for each file.
        what: What the files are, in the plural.
        folder: Where they lie.
    """
    twice = [name for name, count in Counter(ids).items() if count > 1]
    return (
        [f"{folder} has several {what} of one name: {few(twice)}. Keep one file for each."] if twice else []
    )


def not_used(root: Path, used: Iterable[Path]) -> list[str]:
    """A sentence about visible files below ``root`` that nothing reads: counted, by ending, the first named.

    Args:
        root: What the user named; a file has nothing beside it.
        used: Files that are read, or that another sentence speaks of.
    """
    files, below = list(used), _below(root)
    # Folders are resolved, so that a way through a link or ".." is the same; files that link stay themselves.
    folders = {one.parent for one in (*files, *(root / name for name in below))}
    resolved = {folder: folder.resolve() for folder in folders}
    known = {(resolved[one.parent], one.name) for one in files}
    others = [name for name in below if (resolved[(root / name).parent], (root / name).name) not in known]
    # A name that is no UTF-8 is shown by its bytes.
    shown = [name.encode(errors="backslashreplace").decode() for name in others]
    return [f"{root} has files that are not used: {grouped(by_ending(shown))}."] if shown else []


def _below(root: Path) -> list[str]:
    """Visible files below a folder by their path in it; a folder that links lead back to is entered once."""
    found, entered = list[str](), set[str]()
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        folders[:] = sorted(one for one in folders if not is_hidden(one)) if real not in entered else []
        if real not in entered:
            inside = Path(folder).relative_to(root)
            found += [(inside / one).as_posix() for one in files if not is_hidden(one)]
        entered.add(real)
    return found


def first_folder(folders: Iterable[Path], *, expected: str) -> Path:
    """The first of ``folders`` that exists.

    Args:
        folders: Where a set may lie; the first is what the user named.
        expected: What its layout is, for the message.

    Raises:
        DataError: None does; the message has what was found instead.
    """
    candidates = list(folders)
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise unknown_layout(candidates[0], expected=expected)


def unknown_layout(path: Path, *, expected: str) -> DataError:
    """Error that has the layout expected at ``path`` and what is there."""
    beside = next((one for one in (path, *path.parents) if one.is_dir()), Path("/"))
    names = sorted(one.name + ("/" if one.is_dir() else "") for one in beside.iterdir())
    found = ", ".join(names[: 2 * FEW]) + (", ..." if len(names) > 2 * FEW else "") if names else "nothing"
    return DataError(
        f"{path} does not have the layout that is read here. Expected: {expected}. Found in {beside}:"
        f" {found}. Set data.path to the folder that has it, or lay the pairs out as data.name='folder' takes"
        " them."
    )
