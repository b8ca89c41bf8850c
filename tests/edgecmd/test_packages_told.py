"""What a registry's client says in letters of its own is told, not an error of ours."""

import pytest

from edgecmd.core.errors import EdgecmdError
from edgecmd.datasets.build.packages import HOUSES, fetch


def test_output_that_is_not_utf8_is_told(tmp_path, monkeypatch):
    client = tmp_path / "npm"
    client.write_bytes(b"#!/bin/sh\nprintf 'gone \\377 away' >&2\nexit 1\n")
    client.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(EdgecmdError, match="failed: gone \N{REPLACEMENT CHARACTER} away"):
        fetch(HOUSES["twemoji"], tmp_path)
