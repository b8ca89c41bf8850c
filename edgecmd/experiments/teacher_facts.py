"""What is said about the teacher of a run: which it is, what it saw, whose labels, and whether it suits.

No path is in any sentence: a file goes by its name and digest.

Shapes: N images, S side.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgecmd.catalogue.data_sets import ANYTHING, DRAWN, data_set
from edgecmd.data.modalities.image import IMAGE
from edgecmd.data.modalities.table import modality_of
from edgecmd.data.pairs import Targets
from edgecmd.experiments.compare.markdown import title_of
from edgecmd.models.teacher.teachers import OWN, TEACHERS, default_teacher, teacher_name
from edgecmd.settings import TeacherConfig
from edgecmd.training.task import Task

# Of neighbouring pixels at `LOOK_SIDE` pixels a side, equal up to `SAME_LEVEL` levels: 0.69 in the median of
# `emoji`, 0.17 of photographs. Photographs of things on white reach 0.69 as well and are not told from icons.
LOOK_SIDE, SAME_LEVEL, FLAT = 32, 1, 0.45
MOST_PICTURES = 200
SHORT = 12


def teacher_text(task: Task, named: TeacherConfig) -> str:
    """The teacher in one line: its name, or its file by name and digest; what it saw and whose labels."""
    if named.pair_features:
        ready = task.ready[0]
        more = f"; rows of other ids left out: {ready.num_left_out}" if ready.num_left_out else ""
        return (
            f"ready features of {Path(named.pair_features).name} ({ready.features.shape[1]} numbers{more});"
            " which teacher made them, and with whose labels, is unknown here"
        )
    found = task.teacher
    digest = f"SHA-256 {found.sha256[:SHORT]}"
    name = shipped_name(task, named)
    if name:
        info = TEACHERS[name]
        return f"{name}, ships with edgecmd ({digest}): trained on {info.trained_on}; labels: {info.labels}"
    what = f"file {Path(named.path).name}" if named.path else teacher_name(task.name, named.name)
    return f"{what} ({digest}): {_training(found.recipe)}"


def _training(recipe: Mapping[str, str]) -> str:
    """What the recipe in a teacher's file says about its training."""
    if OWN in recipe:
        return f"{recipe[OWN]}; what it was trained on, and with whose labels, is unknown here"
    if "public_name" not in recipe:
        return "its file does not say what it was trained on"
    num = f"{recipe['num_images']} " if "num_images" in recipe else ""
    labels = "ImageNet's 1,000 classes, before" if recipe.get("method") == "principal components" else "none"
    return f"trained on {num}public examples ({recipe['public_name']}); labels: {labels}"


def shipped_name(task: Task, named: TeacherConfig) -> str:
    """Name of the run's teacher where it ships with edgecmd, wherever its file is; else empty."""
    if named.pair_features:
        return ""
    if not named.path:
        name = named.name or default_teacher(task.name)
        return name if name in TEACHERS and task.teacher.sha256 == TEACHERS[name].sha256 else ""
    digest = task.teacher.sha256
    return next((name for name, one in TEACHERS.items() if one.sha256 == digest), "")


def teacher_warnings(task: Task, named: TeacherConfig) -> list[str]:
    """Sentences about a teacher that hardly suits the images of the pairs.

    Looks at the pairs' pictures: for whoever holds them all, never for a device.
    """
    name, pictures = shipped_name(task, named), data_set(task.name).pictures
    if not name or not TEACHERS[name].drawn_only or pictures == DRAWN:
        return []
    source = task.data.train.source
    if modality_of(source, name="source") is not IMAGE:
        return []
    if pictures == ANYTHING and flat_share(source) >= FLAT:
        return []
    return [
        f"The teacher {name} has only seen drawings of things on a plain background, and the pairs' images"
        " do not look like these. For photographs set teacher.name=imagenet, or train a teacher on images"
        " like yours with `edgecmd pretrain`."
    ]


def flat_share(images: Targets) -> float:
    """Median over images of the share of neighbouring pixels that are the same: high for flat colour.

    Args:
        images: RGB images, uint8, (N, H, W, 3); at most 200 of them are looked at.
    """
    chosen = images[:: max(1, -(-len(images) // MOST_PICTURES))]
    small = [Image.fromarray(one).resize((LOOK_SIDE, LOOK_SIDE), Image.Resampling.BOX) for one in chosen]
    pixels = np.stack([np.asarray(one) for one in small]).astype(np.int16)
    same = np.abs(np.diff(pixels, axis=2)).max(axis=3) <= SAME_LEVEL
    return float(np.median(same.mean(axis=(1, 2))))


def better_than_student(
    lines: Mapping[str, Mapping[str, float]], *, teacher: str, student: str = "the student"
) -> list[str]:
    """A sentence where the teacher alone, nothing trained, beats the student.

    Args:
        lines: Figures by column, by method (`edgecmd.evaluation.evaluate.headline`); ``student`` among them.
        teacher: Method whose figures are those of the teacher.
        student: What the sentence calls the student.
    """
    own, other = lines.get("student", {}), lines.get(teacher, {})
    higher = [name for name in own if name in other and round(other[name], 3) > round(own[name], 3)]
    if not higher:
        return []
    told = ", ".join(f"{title_of(name)} ({other[name]:.3f} against {own[name]:.3f})" for name in higher)
    return [
        f"The teacher as it is, without training, beats {student} in: {told}. There, distillation did not"
        " pay."
    ]


def teacher_record(
    task: Task, named: TeacherConfig, tables: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """``teacher`` of ``evaluation.json``: ``text`` and ``warnings``.

    Args:
        task: What is distilled.
        named: The settings that name its teacher.
        tables: Evaluation by method.
    """
    from edgecmd.evaluation.evaluate import headline

    lines = {name: headline(dict(table)) for name, table in tables.items() if "num_test" in table}
    warnings = [*teacher_warnings(task, named), *better_than_student(lines, teacher="teacher as it is")]
    return {"text": teacher_text(task, named), "warnings": warnings}
