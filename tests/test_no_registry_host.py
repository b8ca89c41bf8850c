"""No host of a package registry stands in the tree: a fetch goes by its ordinary client, as configured."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# In pieces, so that this file is none of those that are found.
HOSTS = ("npmjs" + ".org", "npmjs" + ".com", "py" + "pi.org", "python" + "hosted.org", "yarn" + "pkg.com")
OPTIONS = ("--index" + "-url", "--extra-index" + "-url", "--reg" + "istry")
LARGEST_BYTES = 2_000_000


def texts() -> list[Path]:
    """Files of the tree as git lists them; in a copy without git, all but hidden and built ones."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    names = listed.stdout.decode().split("\0") if listed.returncode == 0 else []
    files = [ROOT / name for name in names if name]
    if not files:
        files = [one for one in ROOT.rglob("*") if not {"runs", "dist", "build"} & {*one.parts}]
        files = [one for one in files if not any(part.startswith(".v") for part in one.parts)]
    return [one for one in files if one.is_file() and one.stat().st_size < LARGEST_BYTES]


@pytest.mark.parametrize("words", [HOSTS, OPTIONS])
def test_no_file_names_one(words: tuple[str, ...]) -> None:
    files = texts()
    assert len(files) > 300
    found = [
        f"{path.relative_to(ROOT)}: {word}"
        for path in files
        for content in [path.read_bytes().lower()]
        for word in words
        if word.encode() in content
    ]
    assert not found
