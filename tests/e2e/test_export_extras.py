"""``edgecmd export --web --sign``: what cannot be made is refused before anything is exported."""

from pathlib import Path

import pytest

from edgecmd.cli.export import check_extras
from edgecmd.core.errors import ConfigError, ExportError


def test_a_misspelt_mode_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'single'"):
        check_extras(web="singel", ort_web=tmp_path, key=None)


def test_a_missing_runtime_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="edgecmd web fetch"):
        check_extras(web="single", ort_web=tmp_path, key=None)


def test_a_missing_key_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="openssl ecparam"):
        check_extras(web=None, ort_web=None, key=tmp_path / "key.pem")


def test_nothing_asked_nothing_refused() -> None:
    check_extras(web=None, ort_web=None, key=None)
