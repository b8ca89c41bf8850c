"""`data.target_kind` in a simulation: what the files are, unless a setting says what they must be."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgecmd.core.errors import ConfigError, DataError
from edgecmd.data.experiment import load_experiment
from edgecmd.data.modalities.table import kind_of, target_kinds
from edgecmd.settings import DataConfig
from tests.device_files import SIDE, write_pairs, write_public

NUM = 24


@pytest.fixture(scope="module")
def colour(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_pairs(tmp_path_factory.mktemp("kinds") / "pairs", range(NUM), colour=True)
    write_public(folder / "public")
    return folder


def config(folder: Path, kind: str) -> DataConfig:
    return DataConfig(name="folder", path=str(folder), image_size=SIDE, strict=False, target_kind=kind)


@pytest.mark.parametrize(("kind", "channels"), [("auto", 3), ("rgb", 3), ("grey", 1)])
def test_colour_may_be_taken_as_grey(kind: str, channels: int, colour: Path) -> None:
    target = load_experiment(config(colour, kind)).train.target
    assert target.shape[1:] == (SIDE, SIDE, channels)


def test_grey_is_pillow_s_luminance(colour: Path) -> None:
    """ITU-R 601-2: L = R * 299/1000 + G * 587/1000 + B * 114/1000."""
    rgb, grey = (load_experiment(config(colour, kind)).train.target for kind in ("rgb", "grey"))
    expected = rgb.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    assert np.abs(grey[..., 0] - expected).max() <= 1.0


def test_one_grey_picture_among_colour_is_named_where_colour_is_asked_for(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "pairs", range(NUM), colour=True)
    write_public(folder / "public")
    Image.new("L", (SIDE, SIDE), 7).save(folder / "target" / "p003.png")
    for kind in ("auto", "rgb"):
        with pytest.raises(DataError, match=r"grey images, 1 \(p003\), among colour ones, 23 .*'grey'"):
            load_experiment(config(folder, kind))
    made = load_experiment(config(folder, "grey"))
    assert kind_of(made.train.target) == "grey"
    assert any("has colour images, which data.target_kind='grey' turns grey: 23" in one for one in made.notes)


@pytest.mark.parametrize("kind", ["depth", "wave"])
def test_another_modality_is_refused(kind: str, colour: Path) -> None:
    with pytest.raises(ConfigError, match=f"target_kind='{kind}', but the targets"):
        load_experiment(config(colour, kind))


def test_an_unknown_kind_names_the_nearest(colour: Path) -> None:
    with pytest.raises(ConfigError, match="target_kind='gray' is unknown. Allowed: auto, .* 'grey'"):
        load_experiment(config(colour, "gray"))


@pytest.mark.parametrize(
    ("dtype", "shape", "kind"),
    [
        (np.uint8, (2, 4, 4, 1), "grey"),
        (np.uint8, (0, 4, 4, 3), "rgb"),
        (np.uint16, (2, 4, 4, 1), "depth"),
        (np.int16, (2, 9), "wave"),
    ],
)
def test_kinds_of_arrays(dtype: type, shape: tuple[int, ...], kind: str) -> None:
    assert kind_of(np.zeros(shape, dtype)) == kind
    assert kind in target_kinds()
