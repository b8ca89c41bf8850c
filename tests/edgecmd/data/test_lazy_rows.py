"""Rows on the disk stand for the array that they are of, and reading them needs no more than they are."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgecmd.core.errors import MachineError
from edgecmd.data.duplicates import near_groups, near_to
from edgecmd.data.modalities.image import near_duplicates
from edgecmd.data.modalities.table import kind_of, target_input
from edgecmd.data.pairs import PairedData, fingerprint
from edgecmd.data.stored.array_files import ArrayFile, LazyRows, chosen, chunks, one_after_another, whole_file
from edgecmd.data.stored.kept_rows import of_each_row
from edgecmd.data.stored.store import Form
from edgecmd.evaluation import metrics
from edgecmd.training.distill import LazyTensor

NUMBERS = np.random.default_rng(0).integers(0, 256, (11, 16, 16, 3), dtype=np.uint8)


@pytest.fixture
def stored(tmp_path: Path) -> LazyRows:
    np.save(tmp_path / "numbers.npy", NUMBERS)
    return whole_file(tmp_path / "numbers.npy")


@given(rows=st.lists(st.integers(-11, 10), max_size=30))
def test_any_rows_in_any_order_are_those_of_the_array(rows: list[int], tmp_path_factory) -> None:
    path = tmp_path_factory.mktemp("rows") / "numbers.npy"
    np.save(path, NUMBERS)
    wanted = np.array(rows, dtype=np.int64)
    assert (whole_file(path)[wanted] == NUMBERS[wanted]).all()
    assert (np.asarray(whole_file(path).take(wanted)) == NUMBERS[wanted]).all()


def test_one_row_a_slice_and_a_mask_are_those_of_the_array(stored: LazyRows) -> None:
    mask = np.arange(11) % 3 == 1
    assert (stored[4] == NUMBERS[4]).all()
    assert stored[4].shape == (16, 16, 3)
    assert (stored[2:9:3] == NUMBERS[2:9:3]).all()
    assert (stored[mask] == NUMBERS[mask]).all()
    assert (np.stack(list(stored)) == NUMBERS).all()
    assert (stored.shape, stored.dtype, stored.ndim, len(stored)) == (NUMBERS.shape, NUMBERS.dtype, 4, 11)
    assert stored.nbytes == NUMBERS.nbytes


def test_rows_of_rows_read_nothing(stored: LazyRows, tmp_path: Path) -> None:
    part = stored.take(np.array([9, 1, 4])).take(np.array([2, 0]))
    # A file that is cut off is an error once a row is asked for, and not before.
    with (tmp_path / "numbers.npy").open("r+b") as file:
        file.truncate(200)
    assert part.shape == (2, 16, 16, 3)
    with pytest.raises(MachineError, match=r"numbers\.npy was cut off while it was in use"):
        part[0]


def test_another_process_opens_the_file_anew(stored: LazyRows) -> None:
    part = stored.take(np.array([3, 3, 8]))
    data = pickle.dumps(part)
    assert len(data) < 2000
    assert (np.asarray(pickle.loads(data)) == NUMBERS[[3, 3, 8]]).all()


def test_sets_one_after_another_stay_on_the_disk(stored: LazyRows) -> None:
    both = one_after_another([NUMBERS[:2], stored.take(np.arange(5, 9)), NUMBERS[:1], stored])
    expected = np.concatenate([NUMBERS[:2], NUMBERS[5:9], NUMBERS[:1], NUMBERS])
    assert isinstance(both, LazyRows)
    assert (both[np.arange(18)[::-1]] == expected[::-1]).all()
    assert (np.asarray(one_after_another([both, both])) == np.concatenate([expected, expected])).all()


@pytest.mark.parametrize("size", [0, 60, -1, 1])
def test_a_file_of_another_length_is_refused(size: int, tmp_path: Path) -> None:
    path = tmp_path / "numbers.npy"
    np.save(path, NUMBERS)
    data = path.read_bytes()
    path.write_bytes(data[:size] if size < 1 or size == 60 else data + b"x")
    with pytest.raises(MachineError, match=r"numbers\.npy (is cut off|is not a numpy array)"):
        ArrayFile(path)


def test_an_array_by_columns_or_of_objects_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "columns.npy", np.asfortranarray(np.ones((3, 4))))
    np.save(tmp_path / "objects.npy", np.array([{}, {}], dtype=object), allow_pickle=True)
    for name in ("columns", "objects"):
        with pytest.raises(MachineError, match="is not an array of rows"):
            ArrayFile(tmp_path / f"{name}.npy")


def test_pairs_on_the_disk_are_to_every_check_what_they_are_in_memory(stored: LazyRows) -> None:
    order = np.array([4, 4, 2, 10, 0])
    memory = PairedData(source=NUMBERS[order], target=NUMBERS[order][..., :3])
    disk = PairedData(source=stored, target=stored).take(order)
    assert disk.fingerprint() == memory.fingerprint()
    assert fingerprint(disk.source) == fingerprint(memory.source)
    assert kind_of(disk.target) == kind_of(memory.target)
    assert near_groups(disk.source).tolist() == near_groups(memory.source).tolist() == [0, 0, 1, 2, 3]
    assert near_to(NUMBERS[2:5], disk.source).tolist() == [True, False, True]
    assert near_duplicates(NUMBERS[2:5], disk.source).tolist() == [True, False, True]


def test_a_strict_test_looks_at_training_pairs_a_part_at_a_time(monkeypatch) -> None:
    # Correlation by hand: a picture and its copy have 1, a picture and its negative -1.
    monkeypatch.setattr("edgecmd.data.modalities.image.KNOWN", 2)
    monkeypatch.setattr("edgecmd.data.modalities.image.CHUNK", 1)
    test = np.concatenate([NUMBERS[:2], 255 - NUMBERS[2:3]])
    assert near_duplicates(test, NUMBERS[[5, 2, 6, 0]]).tolist() == [True, False, False]


def test_inputs_that_are_made_when_asked_for_are_those_of_the_tensor(stored: LazyRows) -> None:
    def make(part: np.ndarray) -> torch.Tensor:
        return target_input(part, offset=1.0, scale=-0.5)

    whole, lazy = make(NUMBERS), LazyTensor(stored, row=(3, 16, 16), make=make, device=torch.device("cpu"))
    rows = torch.tensor([7, 0, 7, 3])
    assert lazy.shape == whole.shape
    assert torch.equal(lazy[rows], whole[rows])
    assert lazy[rows].stride() == whole[rows].stride()
    assert torch.equal(lazy[2:6], whole[2:6])
    more = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    joined, at = torch.cat([whole, more, more[:1]]), torch.tensor([12, 3, 13, 11])
    assert torch.equal(lazy.joined(more).joined(more[:1])[at], joined[at])
    assert len(lazy.joined(more)) == 13


@pytest.mark.parametrize("block", [1, 40, 2048**2])
def test_retrieval_is_the_same_however_many_similarities_are_in_memory(block: int, monkeypatch) -> None:
    monkeypatch.setattr(metrics, "BLOCK", block)
    noise = np.random.default_rng(3)
    teacher = metrics.unit_rows(noise.normal(size=(30, 8)).astype(np.float32))
    student = metrics.unit_rows(teacher + 0.5 * noise.normal(size=(30, 8)).astype(np.float32))
    # By loops: how many sources are at least as near as the own one; whether the nearest has the class.
    ranks = [sum(float(z @ u) >= float(z @ t) - 1e-7 for u in teacher) for z, t in zip(student, teacher)]
    labels = np.arange(30) % 4
    nearest = [labels[int(np.argmax([float(z @ u) for u in teacher]))] for z in student]
    assert metrics.recall(student, teacher, ranks=(1, 3)) == {
        "recall@1": pytest.approx(np.mean([one <= 1 for one in ranks])),
        "recall@3": pytest.approx(np.mean([one <= 3 for one in ranks])),
    }
    found = metrics.class_recall(student, teacher, labels)
    assert found == {"class_recall@1": pytest.approx(np.mean(np.array(nearest) == labels))}


def test_chunks_and_choices_are_alike_in_memory_and_on_the_disk(stored: LazyRows) -> None:
    assert [len(one) for one in chunks(stored, 4)] == [len(one) for one in chunks(NUMBERS, 4)] == [4, 4, 3]
    assert isinstance(chosen(stored, np.array([1])), LazyRows)
    assert (np.asarray(chosen(stored, np.array([1, 0]))) == chosen(NUMBERS, np.array([1, 0]))).all()


def test_a_row_that_many_share_is_looked_at_once() -> None:
    seen = []

    def work(part: np.ndarray) -> np.ndarray:
        seen.append(len(part))
        return part[:, :1, 0, 0].astype(np.int64)

    rows = np.array([3, 1, 3, 3, 0, 1])
    found = of_each_row(
        LazyRows((NUMBERS,), rows), "first", work, form=Form(shape=(1,), dtype=np.dtype(np.int64))
    )
    assert found[:, 0].tolist() == NUMBERS[rows, 0, 0, 0].tolist()
    assert sum(seen) == 3
