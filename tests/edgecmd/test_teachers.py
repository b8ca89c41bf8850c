"""Teachers and their features: files, errors, cache keys, pretraining that follows from its seed."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from edgecmd.core.errors import ConfigError, DataError
from edgecmd.core.files import write_bytes_atomically
from edgecmd.data.pairs import PublicSource
from edgecmd.models.teacher.feature_cache import cached_features
from edgecmd.models.teacher.teachers import build_teacher, load_teacher, save_teacher
from edgecmd.models.tensor_file import pack
from edgecmd.settings import PretrainConfig
from edgecmd.training.pretrain import POSITIVES, pretrain, recipe

RECIPE = {"architecture": "gn-teacher", "embedding_dim": "8"}


def images(num: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num, 16, 16, 3), dtype=np.uint8)


def public(num: int = 12) -> PublicSource:
    return PublicSource(images=images(num), keys=tuple(str(row) for row in range(num)), name="noise")


@pytest.fixture
def teacher_file(tmp_path: Path) -> Path:
    network = build_teacher("gn-teacher", embedding_dim=8, generator=torch.Generator().manual_seed(0))
    save_teacher(network, tmp_path / "t.safetensors", recipe=RECIPE)
    return tmp_path / "t.safetensors"


def test_a_teacher_survives_its_file(teacher_file: Path) -> None:
    network = build_teacher("gn-teacher", embedding_dim=8, generator=torch.Generator().manual_seed(0))
    teacher = load_teacher(teacher_file)
    assert teacher.embedding_dim == 8
    again = teacher.embed(images(5), batch_size=2)
    assert again.shape == (5, 8)
    np.testing.assert_allclose(teacher.embed(images(5)), again, rtol=1e-4, atol=1e-5)
    assert all(
        torch.equal(a, b) for a, b in zip(network.parameters(), teacher.network.parameters(), strict=True)
    )
    assert not any(parameter.requires_grad for parameter in teacher.network.parameters())


def test_the_shipped_teacher_states_its_recipe() -> None:
    teacher = load_teacher()
    assert teacher.embedding_dim == 128
    assert teacher.recipe["architecture"] == "gn-teacher"


def test_equal_weights_give_equal_bytes(teacher_file: Path, tmp_path: Path) -> None:
    network = load_teacher(teacher_file).network
    save_teacher(network, tmp_path / "again.safetensors", recipe=RECIPE)
    assert (tmp_path / "again.safetensors").read_bytes() == teacher_file.read_bytes()


def test_bad_teacher_files_are_named(tmp_path: Path, teacher_file: Path) -> None:
    with pytest.raises(DataError, match=r"missing.safetensors is not a file.*edgecmd pretrain"):
        load_teacher(tmp_path / "missing.safetensors")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no tensors")
    with pytest.raises(DataError, match=r"broken.safetensors is not a safetensors file"):
        load_teacher(broken)
    bare = tmp_path / "bare.safetensors"
    save_file({"x": torch.zeros(1)}, bare)
    with pytest.raises(DataError, match="does not say what it holds"):
        load_teacher(bare)
    write_bytes_atomically(bare, pack({"x": torch.zeros(1)}, {"embedding_dim": "8"}))
    with pytest.raises(DataError, match="lacks the metadata architecture"):
        load_teacher(bare)
    wrong = tmp_path / "wrong.safetensors"
    write_bytes_atomically(wrong, pack({"x": torch.zeros(1)}, RECIPE))
    with pytest.raises(DataError, match="does not hold the weights of 'gn-teacher'"):
        load_teacher(wrong)


def test_features_come_from_the_cache_and_a_change_is_noticed(teacher_file: Path, tmp_path: Path) -> None:
    teacher, cache = load_teacher(teacher_file), tmp_path / "cache"
    first = cached_features(teacher, images(4), cache_dir=cache)
    assert np.array_equal(first, teacher.embed(images(4)))
    (entry,) = cache.iterdir()
    changed = images(4)
    changed[0, 0, 0, 0] ^= 1
    cached_features(teacher, changed, cache_dir=cache)
    assert len(list(cache.iterdir())) == 2
    entry.write_bytes(b"damaged")
    assert np.array_equal(cached_features(teacher, images(4), cache_dir=cache), first)
    assert np.array_equal(cached_features(teacher, images(4), cache_dir=None), first)


def test_pretraining_follows_from_its_seed_and_reports_every_step() -> None:
    config = PretrainConfig(num_steps=2, batch_size=4, embedding_dim=8)
    seen: list[tuple[int, float]] = []
    first = pretrain(public(), config, progress=lambda step, loss: seen.append((step, loss)))
    torch.manual_seed(5)
    second = pretrain(public(), config)
    assert [step for step, _ in seen] == [1, 2]
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_positives_are_the_same_picture_or_the_same_thing() -> None:
    keys = ("a/0", "a/1", "b/0", "b/1", "b/2", "alone")
    generator = np.random.default_rng(0)
    first, second = POSITIVES["picture"](keys)(4, generator)
    assert np.array_equal(first, second)
    assert len(set(first.tolist())) == 4
    seen = set()
    for _ in range(50):
        first, second = POSITIVES["thing"](keys)(9, generator)
        assert sorted(keys[row][0] for row in first) == ["a", "a", "b"]
        assert [keys[row].rpartition("/")[0] for row in first] == [
            keys[row].rpartition("/")[0] for row in second
        ]
        seen |= set(zip(first.tolist(), second.tolist(), strict=True))
    # Two of a and two of a, three of b and three of b, one alone.
    assert len(seen) == 4 + 9 + 1
    with pytest.raises(ConfigError, match=r"pretrain.positives='things'.*Did you mean 'thing'"):
        pretrain(public(), PretrainConfig(positives="things"))


def test_pretraining_learns_to_tell_pictures_apart() -> None:
    losses: list[float] = []
    config = PretrainConfig(num_steps=30, batch_size=12, embedding_dim=8, line_share=0.0)
    pretrain(public(), config, progress=lambda _, loss: losses.append(loss))
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.1


def test_the_recipe_names_data_and_settings() -> None:
    found = recipe(public(), PretrainConfig(num_steps=7))
    assert found["public_sha256"] == public().fingerprint()
    assert '"num_steps": 7' in found["settings"]
    assert found["num_images"] == "12"


def test_the_shipped_teacher_saw_the_shipped_public_set_and_nothing_else() -> None:
    from edgecmd.datasets.emoji import load_public

    assert load_teacher().recipe["public_sha256"] == load_public().fingerprint()


def test_the_teacher_indoor_saw_the_public_pictures_of_rooms_alone() -> None:
    from edgecmd.datasets.indoor import load_public

    teacher = load_teacher(name="indoor")
    public = load_public(image_size=32)
    assert teacher.recipe["public_sha256"] == public.fingerprint()
    assert teacher.recipe["method"] == "simclr"


@pytest.mark.slow
def test_the_recipe_reaches_the_quality_of_the_teacher_indoor() -> None:
    """Made again with the shipped recipe: accuracy of a linear probe on pictures of furniture within 0.05."""
    import json

    from edgecmd.datasets.objects import load_objects
    from edgecmd.evaluation.metrics import fit_linear, unit_rows
    from edgecmd.models.teacher.teachers import embed_source
    from edgecmd.settings import DataConfig

    shipped = load_teacher(name="indoor")
    whole = load_objects(DataConfig(name="objects", source_size=32))
    again = pretrain(whole.public, PretrainConfig(**json.loads(shipped.recipe["settings"])))

    def accuracy(network: torch.nn.Module) -> float:
        pool, test = (
            unit_rows(embed_source(network, one.pairs.source)) for one in (whole.validation, whole.test)
        )
        model = fit_linear(pool, whole.validation.labelled.labels["group"].values)
        return float((model.predict(test) == whole.test.labelled.labels["group"].values).mean())

    assert accuracy(again) == pytest.approx(accuracy(shipped.network), abs=0.05)


def test_a_damaged_built_in_teacher_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgecmd.models.teacher import teachers

    damaged = tmp_path / "teacher.safetensors"
    data = bytearray(teachers.shipped_file(teachers.TEACHERS["icons"].file).read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(bytes(data))
    monkeypatch.setattr(teachers, "shipped_file", lambda _: damaged)
    with pytest.raises(DataError, match="does not have the checksum"):
        load_teacher()


@pytest.mark.slow
def test_the_recipe_reaches_the_quality_of_the_shipped_teacher() -> None:
    """Made again with the shipped recipe: group accuracy of a linear probe on pictures within 0.05."""
    import json

    from edgecmd.datasets.emoji import load_emoji, load_public
    from edgecmd.evaluation.metrics import fit_linear, unit_rows
    from edgecmd.models.teacher.teachers import embed_source
    from edgecmd.settings import DataConfig

    shipped = load_teacher()
    again = pretrain(load_public(), PretrainConfig(**json.loads(shipped.recipe["settings"])))
    whole = load_emoji(DataConfig())

    def accuracy(network: torch.nn.Module) -> float:
        pool, test = (
            unit_rows(embed_source(network, one.pairs.source)) for one in (whole.validation, whole.test)
        )
        labels = whole.validation.labelled.labels["group"].values
        model = fit_linear(pool[labels >= 0], labels[labels >= 0])
        return float((model.predict(test) == whole.test.labelled.labels["group"].values).mean())

    assert accuracy(again) == pytest.approx(accuracy(shipped.network), abs=0.05)
