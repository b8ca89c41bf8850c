"""The teacher's maps: of public images alone, cached, on the right grid, and equal to a plain computation."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgecmd.core.errors import ConfigError
from edgecmd.data.modalities.table import source_input
from edgecmd.models.teacher.feature_cache import cached_maps
from edgecmd.models.teacher.place_features import (
    Reduction,
    TeacherPlaces,
    View,
    fit_reduction,
    hypercolumns,
    pool_places,
    teacher_maps,
)
from edgecmd.models.teacher.teachers import Teacher, build_teacher, load_teacher
from tests.tiny_federation import run_of, task_of

VIEW = View(grid=(4, 4), zoom=1)


def teacher() -> Teacher:
    network = build_teacher("gn-teacher", embedding_dim=16, generator=torch.Generator().manual_seed(0)).eval()
    return Teacher(network=network, embedding_dim=16, sha256="made-up", recipe={})


def photographs() -> Teacher:
    return load_teacher(name="imagenet")


def images(num: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num, 16, 16, 3), dtype=np.uint8)


def test_each_stage_has_unit_length_where_nothing_is_resized() -> None:
    made = teacher()
    found = hypercolumns(made.network, images(2), view=VIEW)
    assert found.shape == (2, 32 + 64 + 128, 4, 4)
    assert torch.allclose(found[:, :32].norm(dim=1), torch.ones(2, 4, 4), atol=1e-5)
    with torch.no_grad():
        first = torch.nn.functional.normalize(made.network.trunk[:2](source_input(images(2))), dim=1)
    assert torch.allclose(found[:, :32], first, atol=1e-6)


# Channels of the stages of the photograph teacher that are looked at, and their sides for 64 pixels.
PHOTOGRAPH_STAGES = ((24, 16), (40, 8), (112, 4), (320, 2))


def test_the_photograph_teacher_has_four_stages_of_unit_length() -> None:
    network = photographs().network
    few = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    start = 0
    for channels, side in PHOTOGRAPH_STAGES:
        found = hypercolumns(network, few, view=View(grid=(side, side), zoom=2))
        assert found.shape == (6, 24 + 40 + 112 + 320, side, side)
        lengths = found[:, start : start + channels].norm(dim=1)
        assert torch.allclose(lengths, torch.ones(6, side, side), atol=1e-5)
        start += channels


def test_maps_of_photographs_do_not_depend_on_the_batch_and_reduce_to_few_dimensions() -> None:
    network = photographs().network
    few, view = images(5), View(grid=(4, 4), zoom=2)
    found = hypercolumns(network, few, view=view)
    for row in range(5):
        single = hypercolumns(network, few[row : row + 1], view=view)
        assert torch.allclose(single[0], found[row], atol=1e-4)
    reduction = fit_reduction(network, few, view=view, dim=8)
    assert teacher_maps(photographs(), few, view=view, reduction=reduction).shape == (5, 8, 4, 4)
    with pytest.raises(ConfigError, match="exceeds the 496 channels"):
        fit_reduction(network, few, view=view, dim=497)


def test_zoom_shows_the_teacher_a_larger_picture() -> None:
    made = teacher()
    found = hypercolumns(made.network, images(1), view=View(grid=(4, 4), zoom=2))
    large = torch.nn.functional.interpolate(source_input(images(1)), scale_factor=2, mode="bilinear")
    with torch.no_grad():
        first = torch.nn.functional.normalize(made.network.trunk[:2](large), dim=1)
    assert torch.allclose(found[:, :32], torch.nn.functional.avg_pool2d(first, 2), atol=1e-5)


def test_components_are_those_of_a_plain_principal_component_analysis() -> None:
    made, public = teacher(), images(40)
    reduction = fit_reduction(made.network, public, view=VIEW, dim=5)
    columns = hypercolumns(made.network, public, view=VIEW).numpy()
    places = np.moveaxis(columns, 1, 3).reshape(-1, columns.shape[1]).astype(np.float64)
    centred = places - places.mean(axis=0)
    _, _, right = np.linalg.svd(centred, full_matrices=False)
    for index in range(5):
        own = reduction.weight[:, index] / np.linalg.norm(reduction.weight[:, index])
        assert abs(float(own @ right[index])) == pytest.approx(1.0, abs=1e-3)
        assert own[np.abs(own).argmax()] > 0
    assert reduction.mean == pytest.approx(places.mean(axis=0), abs=1e-5)


def test_a_map_of_few_components_is_the_linear_map_by_hand() -> None:
    made = teacher()
    reduction = Reduction(
        mean=np.full(224, 0.5, dtype=np.float32),
        weight=np.random.default_rng(1).normal(size=(224, 3)).astype(np.float32),
    )
    found = teacher_maps(made, images(2), view=VIEW, reduction=reduction)
    columns = hypercolumns(made.network, images(2), view=VIEW).numpy()
    assert found[1, :, 2, 3] == pytest.approx((columns[1, :, 2, 3] - 0.5) @ reduction.weight, abs=1e-4)


def test_the_teacher_beside_a_segmenter_says_the_same_of_each_place() -> None:
    made, public = teacher(), images(12)
    reduction = fit_reduction(made.network, public, view=VIEW, dim=5)
    places = TeacherPlaces(made.network, view=VIEW, reduction=reduction)
    assert places.projector.out_features == 5
    with torch.no_grad():
        found = places(source_input(public))
    expected = teacher_maps(made, public, view=VIEW, reduction=reduction)
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-3, atol=1e-4)


def test_more_components_than_channels_are_refused() -> None:
    with pytest.raises(ConfigError, match="map_dim"):
        fit_reduction(teacher().network, images(4), view=VIEW, dim=225)
    with pytest.raises(ConfigError, match="pretrain"):
        hypercolumns(torch.nn.Identity(), images(1), view=VIEW)


def test_the_cache_gives_the_same_and_tells_images_and_views_apart(tmp_path: Path) -> None:
    made = teacher()
    reduction = fit_reduction(made.network, images(8), view=VIEW, dim=4)

    def get(seed: int, zoom: int = 1, cache: Path | None = tmp_path) -> np.ndarray:
        view = replace(VIEW, zoom=zoom)
        return cached_maps(made, images(2, seed), view=view, reduction=reduction, cache_dir=cache)

    first = get(0)
    assert np.array_equal(first, get(0))
    assert np.array_equal(first, get(0, cache=None))
    assert not np.array_equal(first, get(1))
    assert not np.array_equal(first, get(0, zoom=2))
    files = sorted(tmp_path.iterdir())
    assert len(files) == 3
    for file in files:
        file.write_bytes(b"damaged")
    assert np.array_equal(first, get(0))


def test_a_pooled_map_is_the_mean_of_unit_places() -> None:
    maps = torch.tensor([[[[3.0, 0.0]], [[4.0, 2.0]]]])
    assert pool_places(maps)[0].tolist() == pytest.approx([0.3, 0.9])


def test_a_run_gets_maps_and_anchors_of_places(tiny) -> None:
    config = replace(
        tiny,
        student=replace(tiny.student, architecture="seg-50k"),
        teacher=replace(tiny.teacher, map_dim=8),
    )
    whole = task_of(config).data
    maps = task_of(config).pair_features(whole.train, whole.train_ids)
    side = whole.train.target.shape[1] // 4
    assert maps.shape == (len(whole.train), 8, side, side)
    assert run_of(config).anchors.shape[1] == 8
    assert task_of(config).num_places(config.distill) == min(config.distill.num_locations, side * side)
    for kind in ("procedural", "random"):
        other = replace(config, distill=replace(config.distill, anchors=kind, num_anchors=6))
        assert run_of(other).anchors.shape == (6, 8)
