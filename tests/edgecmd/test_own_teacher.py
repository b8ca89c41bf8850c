"""A teacher of anyone's own: an object, ``module:factory`` in settings, a row of the table; all the way."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgecmd.catalogue.data_sets import DATA_SETS
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError
from edgecmd.experiments.teacher_facts import teacher_text, teacher_warnings
from edgecmd.models.teacher import teachers
from edgecmd.models.teacher.feature_cache import cached_features
from edgecmd.models.teacher.teachers import TEACHERS, ShippedTeacher, Teacher, load_teacher
from edgecmd.settings import TeacherConfig
from edgecmd.training.device_task import device_features, device_sources
from tests.from_docs import module_of
from tests.tiny_federation import run_of, simulate, task_of

DIM = 6
WHITE, BLACK = np.full((1, 8, 8, 3), 255, np.uint8), np.zeros((1, 8, 8, 3), np.uint8)


class Means(nn.Module):
    """Mean and largest value of each colour, times a weight."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((DIM,), weight))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.cat([image.mean(dim=(2, 3)), image.amax(dim=(2, 3))], dim=1) * self.weight


def network() -> nn.Module:
    """What ``test_own_teacher:network`` names: weights out of torch's own random numbers."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, DIM)
    )


def prepared() -> Teacher:
    """The same with a size and a scale."""
    return Teacher.of(network(), size=12, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), name="mine")


def number() -> int:
    """No teacher at all."""
    return 3


NAMED, PREPARED = f"{__name__}:network", f"{__name__}:prepared"


def pictures(num: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num, 16, 16, 3), dtype=np.uint8)


def with_teacher(config: RunConfig, name: str) -> RunConfig:
    return replace(config, teacher=TeacherConfig(name=name))


class TestAnObject:
    def test_pictures_reach_it_as_it_was_trained(self) -> None:
        """By hand: white is (1 - mean) / std, black -mean / std, whatever the size."""
        made = Teacher.of(Means(), size=4, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 2.0))
        found = made.embed(np.concatenate([WHITE, BLACK]))
        np.testing.assert_allclose(found[0], [1.0, 3.0, 0.5, 1.0, 3.0, 0.5], atol=1e-6)
        np.testing.assert_allclose(found[1], [-1.0, -1.0, 0.0, -1.0, -1.0, 0.0], atol=1e-6)
        assert (made.dim, made.embedding_dim, made.sees_colour) == (DIM, DIM, True)
        np.testing.assert_allclose(Teacher.of(Means()).embed(WHITE), np.ones((1, DIM)), atol=1e-6)

    def test_it_is_a_frozen_copy(self) -> None:
        module = nn.Sequential(nn.Dropout(0.5), Means())
        made = Teacher.of(module)
        before = made.embed(pictures(3))
        with torch.no_grad():
            module[1].weight.zero_()
        assert np.array_equal(made.embed(pictures(3)), before)
        assert module.training
        assert module[1].weight.requires_grad
        assert not any(value.requires_grad for value in made.network.parameters())

    def test_more_pictures_than_it_is_shown_at_a_time_are_the_same_features(self) -> None:
        made, images = Teacher.of(network()), pictures(70)
        whole = made.embed(images)
        assert whole.shape == (70, DIM)
        np.testing.assert_allclose(made.embed(images[33:40]), whole[33:40], rtol=1e-4, atol=1e-5)
        assert made.embed(images[:0]).shape == (0, DIM)

    def test_its_digest_is_of_weights_class_size_and_scale(self) -> None:
        digests = {
            Teacher.of(Means()).sha256,
            Teacher.of(Means(2.0)).sha256,
            Teacher.of(Means(), size=16).sha256,
            Teacher.of(Means(), mean=(0.1, 0.0, 0.0)).sha256,
            Teacher.of(Means(), std=(0.5, 1.0, 1.0)).sha256,
            Teacher.of(type("Other", (Means,), {})()).sha256,
        }
        assert len(digests) == 6
        assert Teacher.of(Means(), name="other").sha256 == Teacher.of(Means()).sha256

    def test_kept_features_are_those_of_this_teacher(self, tmp_path: Path) -> None:
        first, other = Teacher.of(Means()), Teacher.of(Means(2.0))
        found = cached_features(first, pictures(3), cache_dir=tmp_path)
        np.testing.assert_allclose(
            cached_features(other, pictures(3), cache_dir=tmp_path), 2 * found, rtol=1e-6
        )
        assert np.array_equal(cached_features(first, pictures(3), cache_dir=tmp_path), found)
        assert len(list(tmp_path.iterdir())) == 2

    def test_a_name_or_a_file_stands_for_the_same_teacher(self, tiny_files: tuple[Path, Path]) -> None:
        assert Teacher.of("icons").sha256 == TEACHERS["icons"].sha256
        assert Teacher.of(NAMED).sha256 == load_teacher(name=NAMED).sha256
        assert Teacher.of(tiny_files[1]).sha256 == Teacher.of(str(tiny_files[1])).sha256
        with pytest.raises(ConfigError, match="'icons' has its own size, scale and name"):
            Teacher.of("icons", size=32)

    def test_a_width_that_follows_from_the_size_needs_a_size(self) -> None:
        corners = nn.Sequential(nn.Conv2d(3, 2, 3, stride=16, padding=1), nn.Flatten())
        # (64 / 16)² x 2 and (128 / 16)² x 2.
        with pytest.raises(ConfigError, match=r"gives 32 features for .* 64 pixels and 128 for 128.*size="):
            Teacher.of(corners)
        assert Teacher.of(corners, size=32).embed(pictures(3)).shape == (3, 8)

    def test_a_network_of_one_size_alone_is_taken(self) -> None:
        whole = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 4))
        assert Teacher.of(whole).dim == 4

    def test_it_is_shown_pictures_in_colour_alone(self) -> None:
        with pytest.raises(ConfigError, match="takes 'image' of 3 channels, but it is shown 'wave' of 1"):
            Teacher.of(Means()).embed(np.zeros((2, 800), np.int16))


class Mixing(nn.Module):
    """Centres a batch by its own mean."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        found = image.mean(dim=(2, 3))
        return found - found.mean(dim=0)


class Random(nn.Module):
    """Another answer each time, from a generator of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.coins = np.random.default_rng(0)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.mean(dim=(2, 3)) + float(self.coins.random())


WRONG: list[tuple[Callable[[], nn.Module], dict[str, object], str]] = [
    (lambda: nn.Conv2d(3, 4, 3), {}, r"The teacher Conv2d gives \(3, 4, 62, 62\) for 3 inputs.*pool its map"),
    (lambda: nn.Conv2d(1, 4, 3), {}, r"fails on inputs of shape \(3, 3, 64, 64\).*It must take RGB images"),
    (lambda: Means(float("nan")), {"name": "bad"}, r"The teacher bad gives numbers that are not finite"),
    (lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(4)), {}, r"has a lazy layer"),
    (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4)),
        {},
        r"fails on inputs of shape \(3, 3, 64, 64\).*of any size or of the one that size= .* names",
    ),
    (Mixing, {}, r"answers an input differently when other inputs are in the batch"),
    (Random, {}, r"or when it is asked again"),
    (Means, {"size": 0}, r"size=0 of a teacher's images is not a whole number in 1..4096"),
    (Means, {"mean": (0.5,)}, r"mean=\(0.5,\) of a teacher is not three finite numbers"),
    (
        Means,
        {"std": (1.0, 0.0, 1.0)},
        r"std=\(1.0, 0.0, 1.0\) of a teacher is not three finite numbers above 0",
    ),
]


@pytest.mark.parametrize(("make", "options", "message"), WRONG)
def test_a_module_that_is_no_teacher_is_refused(
    make: Callable[[], nn.Module], options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Teacher.of(make(), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (f"{__name__}:number", r"made a int; allowed is a torch.nn.Module, or a Teacher"),
        (f"{__name__}:networ", r"has no 'networ'.*Did you mean 'network'"),
        ("imagnet", r"teacher.name='imagnet'.*Did you mean 'imagenet'"),
    ],
)
def test_what_names_no_teacher_is_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_teacher(name=name)


class TestAFactory:
    def test_it_makes_the_same_teacher_in_every_process(self) -> None:
        torch.default_generator.manual_seed(1)
        first = load_teacher(name=NAMED)
        torch.default_generator.manual_seed(2)
        state = torch.random.get_rng_state()
        assert load_teacher(name=NAMED).sha256 == first.sha256
        assert torch.equal(torch.random.get_rng_state(), state)
        assert load_teacher(name=PREPARED).recipe == {"own": "mine"}

    @pytest.mark.parametrize(("name", "dim"), [(NAMED, DIM), ("my_teachers:mine", 32)])
    def test_a_run_is_made_with_it(
        self, tiny: RunConfig, name: str, dim: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from edgecmd.evaluation.evaluate import assess, embedder

        module_of("extending.md", "my_teachers", tmp_path, monkeypatch)
        config = with_teacher(tiny, name)
        trained = simulate(config)
        assert trained.embedding_dim == run_of(config).anchors.shape[1] == dim
        assert "recall@1" in assess(embedder(trained, task_of(config)), run_of(config))["retrieval"]
        text, digest = teacher_text(task_of(config), config.teacher), task_of(config).teacher.sha256
        assert text.startswith(f"{name}, code of your own (SHA-256 {digest[:12]})")
        assert "what it was trained on, and with whose labels, is unknown here" in text
        assert teacher_warnings(task_of(config), config.teacher) == []
        assert task_of(config).told_to_devices()["teacher-sha256"] == digest

    def test_the_bundle_s_card_names_it(self, tiny: RunConfig, tmp_path: Path) -> None:
        from export.from_run import export_run

        config = with_teacher(tiny, NAMED)
        simulate(config)
        export_run(run_of(config), tmp_path / "bundle", settings=config.export)
        card = (tmp_path / "bundle" / "MODEL_CARD.md").read_text(encoding="utf-8")
        assert task_of(config).teacher.sha256 in card
        assert json.loads((tmp_path / "bundle" / "labels.json").read_text()) == ["tall", "wide"]

    def test_a_dense_student_needs_its_stages_and_says_so(self, tiny: RunConfig) -> None:
        dense = replace(tiny, student=replace(tiny.student, architecture="seg-50k"))
        with pytest.raises(ConfigError, match="The teacher is not one of edgecmd's"):
            run_of(with_teacher(dense, NAMED)).new_student()

    def test_a_device_s_owner_may_name_it(self, tiny: RunConfig, tmp_path: Path) -> None:
        sources = device_sources(tiny.data, teacher=TeacherConfig(name=NAMED), public="emoji", cache=tmp_path)
        images = task_of(tiny).data.train.source[:9]
        whole = device_features(sources, images)
        assert np.array_equal(device_features(replace(sources, cache=tmp_path / "b"), images[:5]), whole[:5])
        assert sources.digests()["teacher-sha256"] == load_teacher(name=NAMED).sha256


def test_one_row_more_is_found_by_name_and_by_its_data_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny: RunConfig
) -> None:
    made = teachers.build_teacher("gn-teacher", embedding_dim=DIM, generator=torch.Generator().manual_seed(4))
    recipe = {"architecture": "gn-teacher", "embedding_dim": str(DIM)}
    digest = teachers.save_teacher(made, tmp_path / "row.safetensors", recipe=recipe)
    row = ShippedTeacher(
        file="row.safetensors",
        sha256=digest,
        trained_on="shapes",
        labels="none",
        licence="MIT",
        attribution="nobody",
        drawn_only=True,
    )
    monkeypatch.setitem(TEACHERS, "shapes", row)
    monkeypatch.setenv("EDGECMD_FILES", str(tmp_path))
    config = replace(tiny, name="row", teacher=TeacherConfig(name="shapes"))
    assert simulate(config).embedding_dim == DIM
    assert teacher_text(task_of(config), config.teacher) == (
        f"shapes, ships with edgecmd (SHA-256 {digest[:12]}): trained on shapes; labels: none"
    )
    monkeypatch.setitem(DATA_SETS, "folder", replace(DATA_SETS["folder"], teacher="shapes"))
    assert load_teacher(data_set="folder").sha256 == digest
    photographs = replace(config, data=replace(config.data, name="rooms", path=""))
    assert (
        "The teacher shapes has only seen drawings"
        in teacher_warnings(task_of(photographs), photographs.teacher)[0]
    )
