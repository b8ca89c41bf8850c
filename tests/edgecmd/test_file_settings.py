"""Settings that name something to read, and the server's own file of them."""

from pathlib import Path

import pytest

from edgecmd.config.file_settings import (
    FILE_SETTINGS,
    PATHS,
    SERVER_SETTINGS,
    over_run_config,
    read_server_settings,
)
from edgecmd.config.reader import flatten, unflatten
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError


def write(folder: Path, text: str) -> Path:
    path = folder / "server.toml"
    path.write_text(text)
    return path


def test_every_name_is_a_setting_and_every_path_is_text() -> None:
    flat = flatten(RunConfig())
    assert set(flat) > SERVER_SETTINGS > FILE_SETTINGS
    assert all(isinstance(flat[key], str) for key in PATHS)


def test_no_setting_that_is_a_path_was_forgotten() -> None:
    """By their names: whoever adds such a setting finds it here."""
    words = ("path", "dir", "features", "prototypes", "weights")
    named = {key for key in flatten(RunConfig()) if key.rpartition(".")[2].endswith(words)}
    assert named | {"out"} == set(PATHS)


def test_the_server_s_file_lies_over_what_everybody_was_sent(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        f'out = "{tmp_path}/runs"\n[data]\nname = "folder"\npath = "{tmp_path}/own.npz"\nheld_out = "ann"\n',
    )
    sent = flatten(RunConfig()) | {"federation.num_clients": 3, "data.held_out": "bob"}
    config = unflatten(over_run_config(sent, path))
    assert (config.out, config.data.name) == (f"{tmp_path}/runs", "folder")
    assert (config.data.path, config.data.held_out) == (f"{tmp_path}/own.npz", "ann")
    assert config.federation.num_clients == 3
    assert over_run_config(sent, None) == sent


@pytest.mark.parametrize(
    "key", ["federation.num_rounds", "distill.loss", "privacy.epsilon", "data.image_size"]
)
def test_what_the_nodes_must_see_too_is_refused_by_name(tmp_path: Path, key: str) -> None:
    section, _, name = key.partition(".")
    path = write(tmp_path, f"[{section}]\n{name} = 1\n")
    with pytest.raises(ConfigError, match=f"holds {key}, which is not a server-only setting.*--run-config"):
        read_server_settings(path)


def test_a_misspelt_setting_gets_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Did you mean 'data.public_path'\?"):
        read_server_settings(write(tmp_path, '[data]\npublic_pth = "/a"\n'))


def test_a_relative_path_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="teacher.path='t.safetensors' must be an absolute path"):
        read_server_settings(write(tmp_path, '[teacher]\npath = "t.safetensors"\n'))
    for name, value in (("name", "icons,onnx:a.onnx"), ("weights", "/srv/a.pth,b.pth")):
        with pytest.raises(ConfigError, match=f"teacher.{name}='{value}' must be an absolute path"):
            read_server_settings(write(tmp_path, f'[teacher]\n{name} = "{value}"\n'))
    own = '[teacher]\nname = "icons,onnx:/srv/a.onnx"\nmean = [0.5, 0.5, 0.5]\npca_dim = 8\n'
    laid = unflatten(over_run_config({}, write(tmp_path, own))).teacher
    assert (laid.name, laid.mean, laid.pca_dim) == ("icons,onnx:/srv/a.onnx", (0.5, 0.5, 0.5), 8)
    with pytest.raises(ConfigError, match="does not exist"):
        read_server_settings(tmp_path / "none.toml")


@pytest.mark.parametrize("key", sorted(PATHS))
def test_a_path_that_no_system_takes_is_refused_by_name(tmp_path: Path, key: str) -> None:
    section, dot, name = key.rpartition(".")
    path = write(tmp_path, (f"[{section}]\n" if dot else "") + f'{name} = "/a\\u0000b"\n')
    words = rf"{key}='/a\\x00b' contains a NUL character"
    with pytest.raises(ConfigError, match=f"server.toml: {words}"):
        read_server_settings(path)
    with pytest.raises(ConfigError, match=f"the run config: {words}"):
        over_run_config({key: "/a\0b"}, None)
