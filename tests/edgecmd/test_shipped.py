"""Shipped files are found from a checkout, an installation, an editable one and a Flower bundle."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgecmd.catalogue.data_files import BESIDE, SHIPPED_VARIABLE, shipped_file
from edgecmd.core.errors import DataError
from edgecmd.datasets.emoji import PAIRS_FILE, PUBLIC_FILE
from edgecmd.models.teacher import teachers

ROOT = Path(__file__).parents[2]
ASK = (
    "import edgecmd; from edgecmd.catalogue.data_files import shipped_file;"
    "print(edgecmd.__file__, shipped_file('x'))"
)


BUILTIN = teachers.TEACHERS["icons"].file


@pytest.mark.parametrize(
    "name", [PAIRS_FILE, PUBLIC_FILE, *(one.file for one in teachers.TEACHERS.values()), "NOTICE"]
)
def test_every_file_that_is_used_ships(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SHIPPED_VARIABLE, raising=False)
    assert shipped_file(name) == ROOT / "edgecmd" / "datasets" / "files" / name


def test_the_named_folder_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SHIPPED_VARIABLE, str(tmp_path))
    assert shipped_file(BUILTIN).parent == BESIDE
    (tmp_path / BUILTIN).write_bytes(b"")
    assert shipped_file(BUILTIN) == tmp_path / BUILTIN


def test_a_missing_file_lists_the_places_and_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SHIPPED_VARIABLE, str(tmp_path))
    with pytest.raises(DataError) as caught:
        shipped_file("none.npz")
    for words in ("none.npz is missing", str(tmp_path), str(BESIDE), SHIPPED_VARIABLE):
        assert words in str(caught.value)


def bundle(folder: Path) -> Path:
    """The package's sources alone, as Flower unpacks them."""
    for file in (ROOT / "edgecmd").rglob("*.py"):
        copy = folder / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)
    return folder


def install(site: Path, *, source: Path | None) -> Path:
    """A distribution as pip leaves it, editable where ``source`` is given; returns the files' folder."""
    info = site / "edgecmd-9.9.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: edgecmd\nVersion: 9.9\n")
    if source is not None:
        url = {"url": source.as_uri(), "dir_info": {"editable": True}}
        (info / "direct_url.json").write_text(json.dumps(url))
    files = (source or site) / "edgecmd" / "datasets" / "files"
    files.mkdir(parents=True)
    (files / "x").write_text("")
    return files


@pytest.mark.parametrize("source", [None, "a folder with spaces"])
def test_a_bundle_finds_the_files_of_the_installed_distribution(tmp_path: Path, source: str | None) -> None:
    app = bundle(tmp_path / "app")
    files = install(tmp_path / "site", source=tmp_path / source if source else None)
    environment = {name: value for name, value in os.environ.items() if name != SHIPPED_VARIABLE}
    environment["PYTHONPATH"] = os.pathsep.join([str(app), str(tmp_path / "site")])
    done = subprocess.run(
        [sys.executable, "-c", ASK], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"{app / 'edgecmd' / '__init__.py'} {files / 'x'}"
