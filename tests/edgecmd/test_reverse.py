"""Pairs taught the other way: a teacher of recordings, depth maps or drawings, a student of pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch

from edgecmd.core.errors import ConfigError, DataError
from edgecmd.data.experiment import load_experiment
from edgecmd.data.modalities.table import modality_of
from edgecmd.data.pairs import PairedData, PublicSource
from edgecmd.models.teacher.teachers import Teacher, build_teacher, check_rate, load_teacher, save_teacher
from edgecmd.settings import DataConfig, PretrainConfig
from edgecmd.training.pretrain import pretrain, recipe
from tests.edgecmd.data.layouts import trees
from tests.edgecmd.data.test_depth_folder import depth_map, fill, save
from tests.made_up_sound import tone, write_wav

SIDE = 16
RECIPE = PretrainConfig(num_steps=2, batch_size=4, embedding_dim=8)


def sounds(num: int) -> np.ndarray:
    draw = np.random.default_rng(num)
    return draw.integers(-9000, 9000, (num, 4000)).astype(np.int16)


def public(images: np.ndarray) -> PublicSource:
    return PublicSource(images=images, keys=tuple(map(str, range(len(images)))), name="mine")


def depth_folder(root: Path, *, num_public: int = 4) -> Path:
    fill(root / "mine")
    for index in range(num_public):
        save(root / "mine" / "public" / f"{index}.png", depth_map(5000 + index))
    return root / "mine"


def config(path: Path, **settings: object) -> DataConfig:
    return DataConfig(name="folder", path=str(path), **{"image_size": SIDE, "reverse": True, **settings})


class TestTeacher:
    @pytest.mark.parametrize(
        ("images", "architecture", "told"),
        [
            (sounds(6), "gn-audio-teacher", ("wave", 1)),
            (np.full((6, SIDE, SIDE, 1), 1500, np.uint16), "gn-teacher", ("depth", 2)),
            (np.arange(6 * SIDE**2, dtype=np.uint8).reshape(6, SIDE, SIDE, 1), "gn-teacher", ("image", 1)),
            (np.zeros((6, SIDE, SIDE, 3), np.uint8), "gn-teacher", ("image", 3)),
        ],
    )
    def test_each_modality_has_a_teacher_that_knows_what_it_sees(self, tmp_path, images, architecture, told):
        from dataclasses import replace

        source, settings = public(images), replace(RECIPE, architecture=architecture)
        network = pretrain(source, settings)
        save_teacher(network, tmp_path / "t.safetensors", recipe=recipe(source, settings))
        teacher = load_teacher(tmp_path / "t.safetensors")
        assert (teacher.modality, teacher.in_channels) == told
        assert teacher.sees_colour == (told == ("image", 3))
        assert teacher.embed(images).shape == (6, 8)
        other = sounds(2) if told[0] != "wave" else np.zeros((2, SIDE, SIDE, 3), np.uint8)
        with pytest.raises(ConfigError, match=f"takes '{told[0]}' of {told[1]} channels, but it is shown"):
            teacher.embed(other)

    def test_architecture_must_suit_the_source(self):
        with pytest.raises(ConfigError, match="Allowed: gn-audio-teacher"):
            pretrain(public(sounds(4)), RECIPE)
        audio = PretrainConfig(architecture="gn-audio-teacher", num_steps=1, batch_size=2)
        with pytest.raises(ConfigError, match="Allowed: gn-teacher, gn-teacher-large"):
            pretrain(public(np.zeros((4, SIDE, SIDE, 3), np.uint8)), audio)

    def test_files_from_before_are_of_pictures_in_colour(self, tmp_path):
        network = build_teacher("gn-teacher", embedding_dim=8, generator=torch.Generator().manual_seed(0))
        told = {"architecture": "gn-teacher", "embedding_dim": "8"}
        save_teacher(network, tmp_path / "old.safetensors", recipe=told)
        assert load_teacher(tmp_path / "old.safetensors").sees_colour
        assert "modality" not in recipe(public(np.zeros((4, SIDE, SIDE, 3), np.uint8)), RECIPE)

    def test_default_is_colour(self):
        teacher = Teacher(network=torch.nn.Identity(), embedding_dim=1, sha256="", recipe={})
        assert teacher.sees_colour


class TestPairs:
    def test_reversed_twice_is_the_same(self):
        pairs = PairedData(source=np.zeros((4, SIDE, SIDE, 3), np.uint8), target=sounds(4))
        turned = pairs.reversed()
        assert modality_of(turned.source).name == "wave"
        assert turned.reversed().fingerprint() == pairs.fingerprint() != turned.fingerprint()

    def test_public_pictures_are_asked_for(self):
        with pytest.raises(ConfigError, match="A warm start needs public images in colour"):
            public(sounds(2)).pictures(use="A warm start")


class TestFolder:
    def test_depth_teaches_pictures(self, tmp_path):
        path = fill(tmp_path / "mine")
        plain = load_experiment(config(path, reverse=False))
        turned = load_experiment(config(depth_folder(tmp_path), strict=False))
        assert modality_of(turned.train.source).name == modality_of(turned.public.images).name == "depth"
        assert modality_of(turned.train.target).name == "image"
        assert turned.train_ids == plain.train_ids
        assert np.array_equal(turned.train.source, plain.train.target)
        assert np.array_equal(turned.test.labelled.target, plain.test.pairs.source)
        assert turned.test.labelled.masks is None

    def test_recordings_teach_pictures(self, tmp_path):
        path = tmp_path / "mine"
        for index in range(24):
            trees.picture(path / "source" / f"{index:02d}.png", index)
            write_wav(path / "target" / f"{index:02d}.wav", tone(200.0 + 20 * index))
            write_wav(tmp_path / "public" / f"{index:02d}.wav", tone(900.0 + 20 * index))
        whole = load_experiment(config(path, public_path=str(tmp_path / "public"), strict=False))
        assert modality_of(whole.public.images).name == modality_of(whole.train.source).name == "wave"

    def test_public_must_be_alike_and_in_no_pair(self, tmp_path):
        path = depth_folder(tmp_path)
        save(path / "public" / "leak.png", depth_map(1003))
        with pytest.raises(DataError, match=r"also the source of a pair: 1 \(leak = p03\)"):
            load_experiment(config(path))
        for one in (path / "public").iterdir():
            trees.picture(one, 1)
        with pytest.raises(DataError, match="has 'image' of shape"):
            load_experiment(config(path))

    def test_public_is_needed(self, tmp_path):
        with pytest.raises(ConfigError, match="data.reverse=true needs public examples"):
            load_experiment(config(fill(tmp_path / "mine")))

    def test_public_set_on_disk(self, tmp_path):
        root, drawings = trees.sketchy(tmp_path / "sketchy"), tmp_path / "public"
        for index in range(4):
            trees.picture(drawings / f"{index}.png", 900 + index, grey=True)
        settings = DataConfig(
            name="sketchy",
            path=str(root),
            public_path=str(drawings),
            image_size=SIDE,
            reverse=True,
            strict=False,
        )
        whole = load_experiment(settings)
        assert whole.train.source.shape[1:] == whole.public.images.shape[1:] == (SIDE, SIDE, 1)
        assert whole.train.target.shape[1:] == (SIDE, SIDE, 3)


def test_where_it_makes_no_sense_it_is_refused_with_the_reason():
    with pytest.raises(ConfigError, match="'emoji': a teacher of its targets would need public targets"):
        load_experiment(DataConfig(reverse=True))
    with pytest.raises(ConfigError, match="Set data.image_size=32"):
        DataConfig(name="digits", reverse=True)


def test_a_teacher_that_heard_another_rate_is_refused(tmp_path: Path) -> None:
    """8 kHz at 16 kHz is another pitch; a file that does not say its rate is taken as before."""
    network = build_teacher(
        "gn-audio-teacher", embedding_dim=8, generator=torch.Generator().manual_seed(0), in_channels=1
    )
    recipe = {
        "architecture": "gn-audio-teacher",
        "embedding_dim": "8",
        "modality": "wave",
        "in_channels": "1",
    }
    save_teacher(network, tmp_path / "t.safetensors", recipe=recipe)
    assert check_rate(load_teacher(tmp_path / "t.safetensors"), 16_000).modality == "wave"
    save_teacher(network, tmp_path / "t.safetensors", recipe=recipe | {"sampling_rate_hz": "8000"})
    heard = load_teacher(tmp_path / "t.safetensors")
    assert check_rate(heard, 8000) is heard
    with pytest.raises(
        ConfigError, match="data.sampling_rate_hz=16000, but the teacher was trained on .* 8000 Hz"
    ):
        check_rate(heard, 16_000)
