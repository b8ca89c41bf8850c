"""Emergent retrieval between two runs: by hand, over unseen things, and refused without meaning."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array
from shapes import shapes, shapes_config

from edgecmd.config.reader import to_toml
from edgecmd.core.errors import DataError
from edgecmd.data.experiment import Gallery, cut_apart
from edgecmd.data.labelled import UNLABELLED, Labels
from edgecmd.data.pairs import PairedData, PublicSource, Targets
from edgecmd.evaluation.emergent import Half, emergent_retrieval
from edgecmd.models.teacher.teachers import Teacher, load_teacher
from edgecmd.training.task import Task
from tests.command_line import run

# Numbers of a feature of the tiny teacher; a student's are 0 behind the third.
DIM = 16
# What test targets show, and the embedding of each.
ASKS = {"cat": (1, 0, 0), "dog": (0, 1, 0), "fox": (0.8, 0.6, 0), "owl": (0, 0, 1), "elk": (0, 0, 1)}
AMONG = {"cat": (1, 0, 0), "dog": (0, 0, 1), "dog 2": (0, 1, 0), "fox": (1, 0, 0), "owl": (0, 0, 1)}


@pytest.fixture(scope="module")
def teacher(tiny_files: tuple[Path, Path]) -> Teacher:
    return load_teacher(tiny_files[1])


def half(tested: dict[str, tuple[float, ...]], trained: str, teacher: Teacher) -> Half:
    """Two training pairs of one thing, two of validation, and a test pair for each of ``tested``.

    Targets are numbered by their brightness; so the student is a list of embeddings.
    """
    shown = [trained, trained, "hen", "hen", *(one.split()[0] for one in tested)]
    names = tuple(sorted(set(shown)))
    concept = Labels(values=np.array([names.index(one) for one in shown]), names=names)
    num = len(shown)
    source = np.random.default_rng(len(trained)).integers(0, 256, (num, 16, 16, 3), dtype=np.uint8)
    target = np.broadcast_to(np.arange(num, dtype=np.uint8)[:, None, None, None], (num, 8, 8, 1)).copy()
    vectors = np.zeros((num, DIM), dtype=np.float32)
    vectors[4:, :3] = list(tested.values())

    def embed(target: Targets) -> np.ndarray:
        return vectors[np.asarray(target)[:, 0, 0, 0]]

    data = cut_apart(
        PairedData(source=source, target=target),
        name="made-up",
        kind="synthetic",
        train=np.arange(2),
        validation=np.arange(2, 4),
        test=np.arange(4, num),
        labels={"concept": concept},
        public=PublicSource(images=source[:2], keys=("a", "b"), name="public"),
        concept=concept,
    )
    return Half(task=Task(data, teacher=teacher), embed=embed)


@pytest.fixture
def halves(teacher: Teacher) -> tuple[Half, Half]:
    return half(ASKS, "ape", teacher), half(AMONG, "owl", teacher)


def test_by_hand_over_things_that_no_training_pair_shows(halves: tuple[Half, Half]) -> None:
    """Cat and fox are one point among the found, so each comes behind the other; the second dog is met."""
    found = emergent_retrieval(*halves, ranks=(1, 2))
    assert (found["num_things"], found["num_asked"], found["num_among"]) == (3, 3, 4)
    assert found["students"] == {"recall@1": pytest.approx(1 / 3), "recall@2": 1.0}
    assert found["chance"] == {"recall@1": pytest.approx(1 / 3), "recall@2": pytest.approx(2 / 3)}


def test_the_teacher_takes_the_place_of_either_student(
    halves: tuple[Half, Half], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The teacher knows all as the axes say, but for the dogs that answer: those it takes for foxes."""
    axes = np.eye(DIM, dtype=np.float32)
    asks, answers = axes[[0, 1, 2, 3, 3]], axes[[0, 2, 2, 2, 3]]
    monkeypatch.setattr(halves[0].task, "held_out_features", lambda _: asks)
    monkeypatch.setattr(halves[1].task, "held_out_features", lambda _: answers)
    found = emergent_retrieval(*halves, ranks=(1,))
    # Asked by axes, among the second student's targets: cat ties with fox, dog is found, nothing is like fox.
    assert found["teacher_asks"] == {"recall@1": pytest.approx(1 / 3)}
    # Answered by axes: cat is alone, nothing is like dog, fox is nearer to cat.
    assert found["teacher_answers"] == {"recall@1": pytest.approx(1 / 3)}


def test_a_question_with_several_right_things_is_met_by_any(halves: tuple[Half, Half]) -> None:
    first, second = halves
    held = first.task.data.test
    # The first asks for cat or dog, the second for dog, the others for nothing that is shared.
    right = csr_array(np.array([[1, 1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1], [0, 0, 1]], dtype=bool))
    gallery = Gallery(source=held.pairs.source[:3], right=right, names=("cat", "dog", "emu"))
    first.task.data = replace(first.task.data, test=replace(held, gallery=gallery))
    found = emergent_retrieval(first, second, ranks=(1,))
    assert (found["num_things"], found["num_asked"], found["num_among"]) == (2, 2, 3)
    # Fox is no thing any more, so cat has no equal.
    assert found["students"] == {"recall@1": 1.0}
    # The first is met by any order of two things, the second by half of them.
    assert found["chance"] == {"recall@1": 0.75}


def test_names_of_another_number_than_the_sources_are_refused(halves: tuple[Half, Half]) -> None:
    source = halves[0].task.data.test.pairs.source
    right = csr_array(np.ones((1, len(source)), dtype=bool))
    with pytest.raises(DataError, match=r"Gallery.names has 2 entries for 5 sources"):
        Gallery(source=source, right=right, names=("cat", "dog"))


def test_other_teachers_have_no_space_in_common(halves: tuple[Half, Half], teacher: Teacher) -> None:
    first, second = halves
    second.task.teacher = replace(teacher, sha256="0" * 64)
    with pytest.raises(DataError, match=r"different teachers .*Distil both from the same"):
        emergent_retrieval(first, second)


@pytest.mark.parametrize("part", ["training", "test"])
def test_a_set_that_does_not_say_what_it_shows_is_refused(part: str, halves: tuple[Half, Half]) -> None:
    first, second = halves
    whole = second.task.data
    labelled = replace(whole.test.labelled, labels={})
    without = {
        "training": {"train_concept": None},
        "test": {"test": replace(whole.test, labelled=labelled)},
    }
    second.task.data = replace(whole, **without[part])
    with pytest.raises(
        DataError, match=rf"'made-up' does not say what its {part} pairs show.*column 'concept'"
    ):
        emergent_retrieval(first, second)


def test_pairs_without_a_concept_are_left_out(halves: tuple[Half, Half]) -> None:
    first, second = halves
    held = first.task.data.test
    concept = held.labelled.labels["concept"]
    values = np.where(np.arange(len(held)) == 0, UNLABELLED, concept.values)
    labelled = replace(held.labelled, labels={"concept": replace(concept, values=values)})
    first.task.data = replace(first.task.data, test=replace(held, labelled=labelled))
    assert emergent_retrieval(first, second)["num_things"] == 2


def test_one_thing_is_too_few(teacher: Teacher) -> None:
    first, second = half(ASKS, "ape", teacher), half({"cat": (1, 0, 0)}, "owl", teacher)
    with pytest.raises(DataError, match=r"1 thing in common, of which 1 are in no training pair"):
        emergent_retrieval(first, second)


def test_the_command_on_a_run_and_itself(
    tiny_files: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every target finds itself, whatever the student."""
    source, target, _ = shapes(40, seed=0)
    named = {
        "id": np.array([f"{row:02d}" for row in range(40)]),
        "concept": np.array([f"c{row}" for row in range(40)]),
    }
    np.savez(tmp_path / "pairs.npz", source=source, target=target, public=shapes(8, seed=1)[0], **named)
    settings = shapes_config(tmp_path / "pairs.npz", tiny_files[1], tmp_path / "runs")
    (tmp_path / "run.toml").write_text(to_toml(settings), encoding="utf-8")
    assert run(monkeypatch, "simulate", "--config", str(tmp_path / "run.toml")) == 0
    folder = str(tmp_path / "runs" / "tiny")
    capsys.readouterr()
    assert run(monkeypatch, "emergent", folder, folder) == 0
    out = capsys.readouterr().out
    assert "tiny finds tiny" in out
    assert "1.0000" in out
    assert run(monkeypatch, "emergent", folder, str(tmp_path / "none")) == 5
    assert "not a run folder" in capsys.readouterr().err
