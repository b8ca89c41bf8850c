"""First weights from public pictures alone."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgecmd.config.assemble import Assembly
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError, DataError
from edgecmd.data.anchors import procedural_images
from edgecmd.models.student_file import save_student
from edgecmd.recipes import warm_start as recipe
from edgecmd.recipes.warm_start import drawings, features_of, warm_start
from edgecmd.training.task import Task
from tests.tiny_federation import TESTED, run_of, task_of


def test_it_learns_and_touches_no_pair(tiny: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a pair was read")

    for name in ("training_pairs", "pair_features", "local_data"):
        monkeypatch.setattr(Task, name, refuse)
    losses: list[float] = []
    warm_start(run_of(tiny), num_steps=12, progress=lambda _, loss: losses.append(loss))
    assert len(losses) == 12
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("moved", [False, True])
def test_equal_settings_give_equal_weights(tiny: RunConfig, moved: bool) -> None:
    one, other = (warm_start(run_of(tiny), num_steps=2, moved=moved).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_teacher_looks_at_each_moved_image_again(
    tiny: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it is shown is what becomes a drawing, and no public image as it is."""
    seen, drawn = list[torch.Tensor](), list[torch.Tensor]()

    def look(network: torch.nn.Module, image: torch.Tensor) -> torch.Tensor:
        seen.append(image)
        return features_of(network, image)

    def draw(image: torch.Tensor, **others: Any) -> torch.Tensor:
        drawn.append(image)
        return drawings(image, **others)

    monkeypatch.setattr(recipe, "features_of", look)
    monkeypatch.setattr(recipe, "drawings", draw)
    run = run_of(tiny)
    warm_start(run, num_steps=2, moved=True)
    public = {image.numpy().tobytes() for image in run.task.public_inputs(use="test")[:]}
    assert len(seen) == 2
    for shown, became in zip(seen, drawn, strict=True):
        assert torch.equal(shown, became)
        assert not public & {image.numpy().tobytes() for image in shown}
    drawn.clear()
    warm_start(run, num_steps=1)
    assert {image.numpy().tobytes() for image in drawn[0]} <= public


def test_ready_features_say_nothing_of_moved_images(tiny: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(tiny)
    monkeypatch.setattr(Task, "has_ready_features", True)
    with pytest.raises(ConfigError, match="Leave out --moved"):
        warm_start(run, num_steps=1, moved=True)


def test_a_drawing_is_ink_on_white_in_the_student_s_size() -> None:
    """A plain picture has no outline: white everywhere, which the student sees as zero."""
    plain = torch.full((6, 3, 32, 32), 0.3)
    made = drawings(plain, size=16, channels=2, generator=torch.Generator().manual_seed(1))
    assert made.shape == (6, 2, 16, 16)
    assert float(made.min()) >= 0.0
    assert float(made.max()) <= 2.0


def test_a_run_starts_from_the_file(tiny: RunConfig, tmp_path: Path) -> None:
    first = warm_start(run_of(tiny), num_steps=1)
    save_student(first, tmp_path / "first.safetensors")
    started = replace(tiny, student=replace(tiny.student, path=str(tmp_path / "first.safetensors")))
    found = run_of(started).new_student().state_dict()
    assert all(torch.equal(value, first.state_dict()[name]) for name, value in found.items())
    assert not all(
        torch.equal(value, run_of(tiny).new_student().state_dict()[name]) for name, value in found.items()
    )


def test_another_student_s_file_is_refused(tiny: RunConfig, tmp_path: Path) -> None:
    save_student(run_of(tiny).new_student(), tmp_path / "first.safetensors")
    other = replace(
        tiny, student=replace(tiny.student, architecture="gn-200k", path=str(tmp_path / "first.safetensors"))
    )
    with pytest.raises(DataError, match=r"does not hold the student that student\.architecture='gn-200k'"):
        run_of(other).new_student()


@pytest.mark.parametrize("kind", ["public", "procedural", "random"])
def test_every_kind_of_anchor_is_finite_the_same_again_and_named(tiny: RunConfig, kind: str) -> None:
    config = replace(tiny, distill=replace(tiny.distill, anchors=kind, num_anchors=9))
    anchors = run_of(config).anchors.numpy()
    assert anchors.shape == (9, run_of(tiny).anchors.shape[1])
    assert np.isfinite(anchors).all()
    about = task_of(config).anchors_fingerprint(config.distill, seed=config.seed)
    assert (about["kind"], about["num"]) == (kind, 9)
    assert Assembly().task(config).anchors_fingerprint(config.distill, seed=config.seed) == about
    other = replace(config, seed=config.seed + 1)
    assert task_of(other).anchors_fingerprint(other.distill, seed=other.seed)["sha256"] != about["sha256"]


def test_random_anchors_are_unit_vectors(tiny: RunConfig) -> None:
    config = replace(tiny, distill=replace(tiny.distill, anchors="random"))
    np.testing.assert_allclose(np.linalg.norm(run_of(config).anchors.numpy(), axis=1), 1.0, rtol=1e-5)


def test_an_unknown_kind_of_anchor_is_refused(tiny: RunConfig) -> None:
    with pytest.raises(ConfigError, match=r"distill\.anchors='privat' is unknown"):
        _ = run_of(replace(tiny, distill=replace(tiny.distill, anchors="privat"))).anchors


def test_procedural_pictures_differ() -> None:
    images = procedural_images(8, side=16, generator=np.random.default_rng(0))
    assert images.dtype == np.uint8
    assert len({image.tobytes() for image in images}) == 8


def test_public_pictures_share_nothing_with_any_pair(tiny: RunConfig) -> None:
    """Of the data that ships: no public picture is the source of a pair, in any split."""
    from edgecmd.settings import DataConfig

    whole = TESTED.experiment(DataConfig())
    public = {image.tobytes() for image in whole.public.images}
    for pairs in (whole.train, whole.validation.pairs, whole.test.pairs):
        assert not public & {image.tobytes() for image in pairs.source}
