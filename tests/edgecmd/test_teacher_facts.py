"""The teacher is named with what it saw, and a warning comes where it hardly suits."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgecmd.catalogue.data_files import shipped_file
from edgecmd.config.schema import RunConfig
from edgecmd.experiments.teacher_facts import (
    FLAT,
    better_than_student,
    flat_share,
    shipped_name,
    teacher_record,
    teacher_text,
    teacher_warnings,
)
from edgecmd.models.teacher.teachers import TEACHERS
from edgecmd.settings import DataConfig, TeacherConfig
from edgecmd.training.task import Task
from tests.tiny_federation import TESTED, task_of


def facts_of(config: RunConfig) -> tuple[Task, TeacherConfig]:
    return task_of(config), config.teacher


def photographs(num: int, side: int = 64) -> np.ndarray:
    """Smooth random fields with grain: no two neighbours are equal, as in a photograph."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (num, side // 8, side // 8, 3)).repeat(8, axis=1).repeat(8, axis=2)
    return np.clip(coarse + generator.normal(0, 40, coarse.shape), 0, 255).astype(np.uint8)


def own_pairs(path: Path, source: np.ndarray) -> RunConfig:
    target = np.random.default_rng(1).integers(0, 256, (*source.shape[:3], 1), dtype=np.uint8)
    np.savez(path, source=source, target=target, public=source[::-1] // 2)
    return RunConfig(data=DataConfig(name="folder", path=str(path), image_size=64, strict=False))


def test_shipped_teachers_are_named_with_whose_labels_they_saw() -> None:
    text = teacher_text(*facts_of(RunConfig()))
    assert text == (
        f"icons, ships with edgecmd (SHA-256 {TEACHERS['icons'].sha256[:12]}): trained on public pictures of"
        " emoji; labels: none"
    )
    named = teacher_text(*facts_of(RunConfig(teacher=TeacherConfig(name="imagenet"))))
    assert "photographs of ImageNet (ILSVRC 2012); labels: ImageNet's 1,000 classes" in named


def test_an_own_file_goes_by_its_name_without_folders(tiny: RunConfig) -> None:
    text = teacher_text(*facts_of(tiny))
    assert text.startswith("file teacher.safetensors (SHA-256 ")
    assert "its file does not say what it was trained on" in text
    assert "/" not in text
    assert shipped_name(*facts_of(tiny)) == ""
    same = replace(tiny, teacher=TeacherConfig(path=str(shipped_file(TEACHERS["indoor"].file))))
    assert shipped_name(*facts_of(same)) == "indoor"


def test_ready_features_are_named_without_a_folder(tiny: RunConfig, tmp_path: Path) -> None:
    whole = task_of(tiny).data
    ids = [*whole.train_ids, *whole.validation.ids, *whole.test.ids, "extra"]
    table = np.random.default_rng(0).normal(size=(len(ids), 24))
    np.savez(tmp_path / "clip.npz", ids=np.array(ids), features=table)
    np.savez(tmp_path / "public.npz", ids=np.array(whole.public.keys), features=table[: len(whole.public)])
    teacher = TeacherConfig(
        pair_features=str(tmp_path / "clip.npz"), public_features=str(tmp_path / "public.npz")
    )
    text = teacher_text(*facts_of(replace(tiny, teacher=teacher)))
    assert text.startswith("ready features of clip.npz (24 numbers; rows of other ids left out: 1);")
    assert str(tmp_path) not in text


def test_the_icon_teacher_and_photographs_give_a_warning(tmp_path: Path) -> None:
    config = own_pairs(tmp_path / "photographs.npz", photographs(24))
    assert "For photographs set teacher.name=imagenet" in teacher_warnings(*facts_of(config))[0]
    other = replace(config, teacher=TeacherConfig(name="imagenet"))
    assert teacher_warnings(*facts_of(other)) == []
    renamed = replace(config, teacher=TeacherConfig(path=str(shipped_file(TEACHERS["icons"].file))))
    assert len(teacher_warnings(*facts_of(renamed))) == 1


def test_drawn_pictures_give_none(tmp_path: Path) -> None:
    emoji = TESTED.experiment(DataConfig(name="emoji")).train.source[:60]
    assert flat_share(emoji) > FLAT > flat_share(photographs(24))
    assert teacher_warnings(*facts_of(own_pairs(tmp_path / "drawn.npz", emoji))) == []
    assert teacher_warnings(*facts_of(RunConfig())) == []


def test_half_flat_pictures_are_half_flat() -> None:
    """Left half one colour, right half a ramp of steps of 8: 15 of the 31 neighbours are equal."""
    row = np.concatenate([np.full(16, 8), 8 * np.arange(2, 18)]).astype(np.uint8)
    images = np.broadcast_to(row[None, None, :, None], (3, 32, 32, 3))
    assert flat_share(np.ascontiguousarray(images)) == pytest.approx(15 / 31)


def test_a_teacher_that_beats_the_student_is_said_with_both_numbers() -> None:
    lines = {
        "student": {"recall@1": 0.2, "recall@5": 0.5, "nmi": 0.4},
        "teacher as it is": {"recall@1": 0.31, "recall@5": 0.5, "nmi": 0.4001},
    }
    told = better_than_student(lines, teacher="teacher as it is")
    assert told == [
        "The teacher as it is, without training, beats the student in: R@1 (0.310 against 0.200). There,"
        " distillation did not pay."
    ]
    lines["student"]["recall@1"] = 0.4
    assert better_than_student(lines, teacher="teacher as it is") == []
    assert better_than_student({"student": lines["student"]}, teacher="teacher as it is") == []


def test_the_record_holds_both(tiny: RunConfig) -> None:
    table = {"num_test": 10, "retrieval": {"recall@1": 0.1}}
    better = {"num_test": 10, "retrieval": {"recall@1": 0.9}}
    found = teacher_record(*facts_of(tiny), {"student": table, "teacher as it is": better, "scratch": {}})
    assert found["text"] == teacher_text(*facts_of(tiny))
    assert "R@1 (0.900 against 0.100)" in found["warnings"][0]
