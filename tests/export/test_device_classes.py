"""Classes by example on the device: the arithmetic by hand, files that hold anything, and the options."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from export.device import saved_embeddings
from export.device.classes import (
    Gallery,
    Prototypes,
    Rejection,
    calibrated,
    from_examples,
    joined_scores,
    left_out,
    mean_of,
    merged,
    nearest,
    search,
    with_examples,
    without_class,
)
from export.device.infer import main
from export.device.own_classes import told
from export.device.reading import InferError
from export.device.saved_embeddings import (
    digest_of,
    load_gallery,
    load_prototypes,
    save_gallery,
    save_prototypes,
)
from export.device.student import Student

# Two unit rows and one between them: hand calculations stay short.
EAST, NORTH, SLANTED = [1.0, 0.0], [0.0, 1.0], [0.6, 0.8]
MODEL = "0" * 64


def at_cosine(cosine):
    """A unit vector of the plane at this cosine from east."""
    return [cosine, np.sqrt(1 - cosine * cosine)]


@pytest.fixture
def two():
    """Two classes: east of two examples, north of one."""
    return from_examples({"east": np.array([EAST, SLANTED]), "north": np.array([NORTH])}, dim=2)


def test_a_prototype_is_the_unit_mean_of_three_examples():
    classes = from_examples({"cup": np.array([EAST, NORTH, SLANTED])}, dim=2)
    # The mean is (1.6, 1.8) / 3, of length sqrt(5.8) / 3.
    np.testing.assert_allclose(classes.vectors, np.array([[1.6, 1.8]]) / np.sqrt(5.8), atol=1e-7)
    assert classes.lengths == pytest.approx([np.sqrt(5.8) / 3])
    assert (classes.names, classes.counts, classes.rejection) == (("cup",), (3,), None)
    assert classes.vectors.dtype == np.float32


@pytest.mark.parametrize("portions", [[1, 6], [3, 2, 2], [1] * 7])
def test_a_running_mean_is_the_mean_of_all_in_any_portions(portions):
    rows = np.random.default_rng(0).normal(size=(7, 5))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    whole = from_examples({"a": rows, "b": rows[:1]}, dim=5)
    parts = np.split(rows, np.cumsum(portions)[:-1])
    running = from_examples({"a": parts[0], "b": rows[:1]}, dim=5)
    for one in parts[1:]:
        running = with_examples(running, "a", one)
    assert (running.names, running.counts) == (("a", "b"), (7, 1))
    # Each portion rounds the mean to float32 once: 7 halves of 2^-24 in each number.
    np.testing.assert_allclose(running.vectors, whole.vectors, atol=8 * 2.0**-24 * 4)
    np.testing.assert_allclose(running.lengths, whole.lengths, atol=8 * 2.0**-24 * 4)
    mean = rows.mean(axis=0)
    np.testing.assert_allclose(whole.vectors[0], mean / np.linalg.norm(mean), atol=1e-7)


def test_removing_and_adding_leave_what_was_given_as_it_was(two):
    less = without_class(two, "east")
    assert (less.names, less.counts, less.vectors.tolist()) == (("north",), (1,), [NORTH])
    more = with_examples(two, "west", np.array([[-1.0, 0.0]]))
    assert (more.names, more.counts) == (("east", "north", "west"), (2, 1, 1))
    assert (two.names, two.counts, two.vectors.shape) == (("east", "north"), (2, 1), (2, 2))
    with pytest.raises(InferError, match="There is no class 'west'; there are: east, north"):
        without_class(two, "west")


def test_another_set_of_classes_has_no_threshold_until_it_is_measured(two):
    known = two._replace(rejection=Rejection(0.5, (0, 1), (0, 1)))
    assert merged([known]).rejection == known.rejection
    assert with_examples(known, "west", np.array([[-1.0, 0.0]])).rejection is None
    assert with_examples(known, "east", np.array([EAST])).rejection is None
    assert without_class(known, "east").rejection is None
    assert merged([known, known]).rejection is None


def test_of_two_files_the_later_class_of_a_name_is_used(two):
    other = from_examples({"east": np.array([NORTH])}, dim=2, scale=3.0)
    found = merged([two, other])
    assert (found.names, found.counts, found.scale) == (("east", "north"), (1, 1), 10.0)
    np.testing.assert_array_equal(found.vectors, [NORTH, NORTH])
    # One part does not say of how many examples it is, so nobody knows of all.
    plain = Prototypes(("south",), np.array([[0.0, -1.0]]), 1.0)
    assert merged([two, plain]).lengths is None
    assert merged([two, plain]).counts == ()


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        ("a", [EAST, [-1.0, 0.0]], "no common direction"),
        ("a", np.zeros((0, 2)), r"shape \(0, 2\); allowed are finite"),
        ("a", EAST, r"shape \(2,\)"),
        ("a", [[np.nan, 0.0]], "finite"),
        ("a", [[1.0, 0.0, 0.0]], "3 numbers each; allowed are 2"),
        ("", [EAST], "cannot have the name ''"),
        ("a\0", [EAST], "cannot have the name"),
        ("east", [[-1.0, 0.0], [-0.6, -0.8]], "no common direction"),
    ],
)
def test_examples_that_make_no_class_are_refused(two, name, rows, message):
    with pytest.raises(InferError, match=message):
        with_examples(two, name, np.array(rows))


def test_a_class_of_unknown_examples_is_not_extended_but_others_are_added():
    plain = Prototypes(("a",), np.array([EAST]), 10.0)
    with pytest.raises(InferError, match="does not say of how many examples"):
        with_examples(plain, "a", np.array([EAST]))
    more = with_examples(plain, "b", np.array([NORTH]))
    assert (more.names, more.lengths, more.counts) == (("a", "b"), None, ())


def test_joined_scores_are_split_by_the_threshold_as_by_hand(two):
    classes = from_examples({"east": np.array([EAST]), "north": np.array([NORTH])}, dim=2)
    classes = classes._replace(rejection=Rejection(0.8, (0, 1), (0, 1)))
    trained = np.array([[0.7, 0.3]])
    found = joined_scores(np.array([SLANTED]), trained, classes)
    # The nearest cosine is 0.8, the threshold: half of the whole each. Own scores: softmax of 6 and 8.
    own = 1 / (1 + np.exp(2.0))
    np.testing.assert_allclose(found, [[0.35, 0.15, own / 2, (1 - own) / 2]], atol=1e-6)
    # At east the cosine is 1, 0.2 above: 1 / (1 + exp(-2)) of the whole.
    found = joined_scores(np.array([EAST]), trained, classes)
    np.testing.assert_allclose(found[0, 2:].sum(), 1 / (1 + np.exp(-2.0)), atol=1e-6)
    assert found.sum() == pytest.approx(1, abs=1e-6)
    extreme = classes._replace(scale=1e6)
    assert np.isfinite(joined_scores(np.array([EAST, [-1.0, 0.0]]), trained[[0, 0]], extreme)).all()
    with pytest.raises(InferError, match="no threshold"):
        joined_scores(np.array([EAST]), trained, two)


def test_the_nearest_class_is_accepted_above_the_threshold_alone(two):
    north = without_class(two, "east")
    assert nearest(np.array([SLANTED]), north)[0].accepted is None
    assert nearest(np.array([SLANTED]), north)[0][:2] == ("north", pytest.approx(0.8))
    # 0.75 and 0.5 have no rounding: what is at the threshold is not above it.
    at = north._replace(rejection=Rejection(0.75, (0, 1), (0, 1)))
    rows = np.array([[0.0, 0.75], [0.0, 0.7501], [0.0, 0.5]])
    assert [one.accepted for one in nearest(rows, at)] == [False, True, False]


def test_left_out_examples_are_compared_with_the_mean_of_the_others(two):
    # East without itself is slanted alone, and the other way round: 0.6; north is at 0 and 0.8.
    found = left_out(two, "east", np.array([EAST, SLANTED]))
    np.testing.assert_allclose(found, [0.6, 0.8], atol=1e-6)
    assert left_out(two, "north", np.array([NORTH])).size == 0
    assert left_out(Prototypes(("a",), np.array([EAST]), 1.0), "a", np.array([EAST])).size == 0


def test_the_threshold_and_both_rates_are_those_counted_by_hand():
    classes = from_examples({"east": np.array([EAST])}, dim=2)
    # Every second sets the threshold: 0.1 to 0.9; of these 9 the (9 + 1) * 0.2 = 2nd largest is 0.8.
    setting = [0.3, 0.9, 0.1, 0.8, 0.2, 0.7, 0.4, 0.6, 0.5]
    measuring = [0.95, 0.85, 0.0, 0.1, 0.2, 0.3, 0.4, 0.79]
    rows = [at_cosine(setting[0])]
    for one, other in zip(measuring, setting[1:], strict=True):
        rows += [at_cosine(one), at_cosine(other)]
    found = calibrated(classes, np.array(rows), known=[0.99, 0.81, 0.7], false_accepts=0.2)
    assert found.rejection.threshold == pytest.approx(0.8)
    assert found.rejection[1:] == ((2, 8), (1, 3))
    assert found.vectors is classes.vectors
    record, text = told(found, say=str)
    assert record["false_accepts"] == (2, 8)
    assert text.splitlines() == [
        "east: 1 example",
        "threshold 0.8000: accepted 2 (25.0%) of 8 inputs of no class, rejected 1 (33.3%) of 3 inputs of the"
        " classes",
    ]


def test_a_fresh_stranger_is_accepted_as_rarely_as_allowed():
    """A rank among n + 1: of every n + 1 cosines, k of them would be above the k-th largest of the others."""
    classes = from_examples({"east": np.array([EAST])}, dim=2)
    num, allowed = 19, 0.1
    cosines = np.random.default_rng(1).uniform(-1, 1, num + 1)
    accepted = 0
    for fresh in range(num + 1):
        setting = np.delete(cosines, fresh)
        rows = [at_cosine(one) for pair in zip(setting, setting, strict=True) for one in pair]
        threshold = calibrated(classes, np.array(rows), false_accepts=allowed).rejection.threshold
        accepted += at_cosine(cosines[fresh])[0] > threshold + 1e-12
    assert accepted == 2  # exactly k = (19 + 1) * 0.1 of 20


@pytest.mark.parametrize(("share", "least"), [(0.05, 37), (0.5, 2), (0.3, 5), (0.99, 2)])
def test_too_few_strangers_are_refused_with_the_number_that_is_needed(two, share, least):
    rows = np.array([EAST] * least)
    assert calibrated(two, rows, false_accepts=share).rejection is not None
    with pytest.raises(InferError, match=rf"too few for .*at least {least} are needed"):
        calibrated(two, rows[:-1], false_accepts=share)


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0, float("nan")])
def test_a_share_that_is_none_is_refused(two, share):
    with pytest.raises(InferError, match="allowed is above 0 and below 1"):
        calibrated(two, np.array([EAST] * 100), false_accepts=share)


def test_a_gallery_gives_the_nearest_first_and_of_equals_the_first_saved():
    gallery = Gallery(("a", "b", "c", "d"), np.array([NORTH, EAST, SLANTED, EAST], np.float32))
    found = search(gallery, np.array(EAST), top=3)
    assert [name for name, _ in found] == ["b", "d", "c"]
    assert [cosine for _, cosine in found] == pytest.approx([1, 1, 0.6])
    assert len(search(gallery, np.array(EAST), top=99)) == 4
    with pytest.raises(InferError, match="top=0; allowed is 1 or more"):
        search(gallery, np.array(EAST), top=0)


def test_what_is_saved_is_loaded(two, tmp_path):
    path = tmp_path / "new" / "mine.npz"
    full = two._replace(rejection=Rejection(0.25, (1, 20), (0, 0)), names=("Tasse ☕", "\udcff"))
    for classes in (two, full, Prototypes(("a",), np.array([EAST], np.float32), 2.5)):
        save_prototypes(path, classes, model=MODEL)
        found = load_prototypes(path, dim=2, model=MODEL)
        assert (found.names, found.scale, found.counts) == (classes.names, classes.scale, classes.counts)
        assert found.rejection == classes.rejection
        np.testing.assert_array_equal(found.vectors, classes.vectors)
        assert (found.lengths is None) == (classes.lengths is None)
        assert [one.name for one in path.parent.iterdir()] == ["mine.npz"]
    gallery = Gallery(("a", "a"), np.array([EAST, NORTH], np.float32))
    save_gallery(path, gallery, model=MODEL)
    assert load_gallery(path, dim=2, model=MODEL).names == ("a", "a")
    with pytest.raises(InferError, match="no class to save"):
        save_prototypes(path, without_class(without_class(two, "east"), "north"), model=MODEL)
    with pytest.raises(InferError, match="no embedding to save"):
        save_gallery(path, Gallery((), np.zeros((0, 2))), model=MODEL)


def test_a_file_that_cannot_be_written_leaves_the_old_one(two, tmp_path, monkeypatch):
    path = tmp_path / "mine.npz"
    save_prototypes(path, two, model=MODEL)
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saved_embeddings.os, "fsync", full)
    with pytest.raises(InferError, match=r"mine\.npz cannot be written: No space left on device\. Give"):
        save_prototypes(path, without_class(two, "east"), model=MODEL)
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["mine.npz"]
    with pytest.raises(InferError, match="cannot be written"):
        save_prototypes(path / "below", two, model=MODEL)


def arrays_of(path):
    with np.load(path) as found:
        return dict(found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": np.array("edgecmd.classes 2")}, "its format is 'edgecmd.classes 2'"),
        ({"format": np.array("edgecmd.gallery 1")}, "its format is 'edgecmd.gallery 1'"),
        ({"format": np.array(7)}, "its format is ''"),
        ({"model": np.array("1" * 64)}, r"another model \(SHA-256 111111111111"),
        ({"model": np.array("../../x")}, "its model is no SHA-256"),
        ({"model": np.zeros(3)}, "its model is no SHA-256"),
        ({"model": None}, "it lacks model"),
        ({"names": None}, "it lacks names"),
        ({"names": np.array(["a", "a"])}, "two of its classes have one name"),
        ({"names": np.array(["", "b"])}, "it has an empty name"),
        ({"names": np.array([b"a", b"b"])}, "its names have shape"),
        ({"vectors": np.array([[2.0, 0.0], [0.0, 1.0]])}, "not of length 1"),
        ({"vectors": np.array([[np.inf, 0.0], [0.0, 1.0]])}, "not finite"),
        ({"vectors": np.eye(2, 3)}, r"embeddings of 3 numbers, so it is of another model"),
        ({"scale": np.float64(-1)}, "scale is no number above 0"),
        ({"counts": None}, "it lacks counts"),
        ({"lengths": None}, "it lacks lengths"),
        ({"counts": np.array([2, 0])}, "its counts are"),
        ({"counts": np.array([2.0, 1.0])}, "its counts are"),
        ({"lengths": np.array([2.0, 1.0])}, "its counts are"),
        ({"lengths": np.array([np.nan, 1.0])}, "its counts are"),
        ({"threshold": None}, "it lacks threshold"),
        ({"threshold": np.float64("nan")}, "its threshold is no cosine"),
        ({"threshold": np.float64(1.5)}, "its threshold is no cosine"),
        ({"errors": np.array([[3, 2], [0, 0]])}, "its errors are no counts"),
        ({"errors": np.array([[0, 0], [0, 0]])}, "its errors are no counts"),
        ({"errors": np.array([[-1, 2], [0, 0]])}, "its errors are no counts"),
        ({"errors": np.array([1, 2])}, "its errors are no counts"),
        ({"errors": np.array([[{}, 1], [1, 1]], dtype=object)}, "errors"),
    ],
)
def test_damaged_or_strange_classes_are_refused_with_the_reason(two, tmp_path, change, message):
    path = tmp_path / "mine.npz"
    save_prototypes(path, two._replace(rejection=Rejection(0.5, (1, 2), (0, 1))), model=MODEL)
    arrays = {**arrays_of(path), **change}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(InferError, match=message) as caught:
        load_prototypes(path, dim=2, model=MODEL)
    assert str(path) in str(caught.value)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": np.array("edgecmd.classes 1")}, "is no gallery: its format"),
        ({"format": None}, "it lacks format"),
        ({"model": np.array("1" * 64)}, "another model"),
        ({"vectors": np.eye(2, 5, dtype=np.float32)}, "embeddings of 5 numbers"),
        ({"vectors": np.zeros((2, 2))}, "not of length 1"),
        ({"names": np.array(["a"])}, "its names have shape"),
    ],
)
def test_damaged_or_strange_galleries_are_refused(tmp_path, change, message):
    path = tmp_path / "seen.npz"
    save_gallery(path, Gallery(("a", "b"), np.eye(2, dtype=np.float32)), model=MODEL)
    arrays = {**arrays_of(path), **change}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(InferError, match=message):
        load_gallery(path, dim=2, model=MODEL)


def test_no_cut_and_no_flipped_byte_breaks_out(two, tmp_path):
    path = tmp_path / "mine.npz"
    save_prototypes(path, two, model=MODEL)
    whole = path.read_bytes()
    for at in range(0, len(whole), 23):
        for data in (whole[:at], whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :]):
            path.write_bytes(data)
            try:
                found = load_prototypes(path, dim=2, model=MODEL)
            except InferError:
                continue
            np.testing.assert_array_equal(found.vectors, two.vectors)  # a byte that nothing depends on


@pytest.fixture
def model(bundle):
    """Path of a grey model with a head of house, tree and fish."""
    return bundle("ws-50k") / "student.onnx"


@pytest.fixture
def pictures(tmp_path, make):
    """Folders: three examples of each of two classes, one more of the first, and 40 of none."""
    images = make.images(48)
    names = [f"classes/{name}/{num}" for name in ("cup", "pen") for num in range(3)]
    names += ["more/cup/3", "more/hat/0", *(f"others/{num:02}" for num in range(40))]
    for name, image in zip(names, images, strict=True):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / f"{name}.npy", image)
    return tmp_path


def records(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_from_three_examples_to_a_saved_threshold_and_back(model, pictures, make, capsys):
    mine = pictures / "mine.npz"
    words = ["--calibrate", pictures / "others", "--false-accepts", "0.1", "--save-prototypes", mine]
    assert main([*map(str, [model, "--json", "--prototypes", pictures / "classes", *words])]) == 0
    (told_of,) = records(capsys)
    student = Student(model)
    embedded = student(make.images(48)).embedding.astype(np.float64)
    vectors = np.stack([mean_of(embedded[:3], name="")[0], mean_of(embedded[3:6], name="")[0]])
    cosines = (embedded[8:] @ vectors.T).max(axis=1)
    # Of 20 the (20 + 1) * 0.1 rounded down, the 2nd largest.
    threshold = np.sort(cosines[::2])[-2]
    assert told_of["threshold"] == pytest.approx(threshold, abs=1e-5)
    assert told_of["false_accepts"] == [int((cosines[1::2] > told_of["threshold"]).sum()), 20]
    assert told_of["false_rejects"][1] == 6
    assert told_of["classes"] == [{"class": "cup", "examples": 3}, {"class": "pen", "examples": 3}]
    found = load_prototypes(mine, dim=16, model=digest_of(model))
    assert found.rejection.threshold == told_of["threshold"]
    assert main([*map(str, [model, pictures / "others", "--json", "--prototypes", mine])]) == 0
    answers = records(capsys)
    accepted = [one["nearest"]["accepted"] for one in answers]
    assert sum(accepted[1::2]) == told_of["false_accepts"][0]
    assert main([*map(str, [model, pictures / "others", "--prototypes", mine])]) == 0
    assert capsys.readouterr().out.count("none of the classes (nearest: ") == accepted.count(False)


def test_more_examples_go_on_and_a_class_is_removed(model, pictures, make, capsys):
    mine = pictures / "mine.npz"
    classes, more = pictures / "classes", pictures / "more"
    assert main([*map(str, [model, "--prototypes", classes, "--save-prototypes", mine])]) == 0
    words = ["--prototypes", mine, "--add", more, "--remove", "pen", "--save-prototypes", mine, "--classes"]
    assert main([*map(str, [model, *words])]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "cup: 4 examples",
        "hat: 1 example",
        "no threshold: nothing is rejected",
    ]
    found = load_prototypes(mine, dim=16, model=digest_of(model))
    mean = Student(model)(make.images(8)).embedding[[0, 1, 2, 6]].astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(found.vectors[0], mean / np.linalg.norm(mean), atol=1e-5)
    assert main([*map(str, [model, "--add", more, "--classes", "--json"])]) == 0
    assert [one["class"] for one in records(capsys)[0]["classes"]] == ["cup", "hat"]


def test_own_classes_stand_beside_the_trained_ones(model, pictures, make, capsys):
    mine = pictures / "mine.npz"
    start = [model, pictures / "classes" / "cup" / "0.npy", "--json", "--scores", "--join"]
    assert main([*map(str, [*start, "--prototypes", pictures / "classes"])]) == 2
    assert "no threshold" in capsys.readouterr().err
    words = ["--prototypes", pictures / "classes", "--calibrate", pictures / "others"]
    assert main([*map(str, [*start, *words, "--save-prototypes", mine])]) == 0
    record = records(capsys)[-1]
    assert list(record["scores"]) == ["house", "tree", "fish", "cup", "pen"]
    assert sum(record["scores"].values()) == pytest.approx(1, abs=1e-5)
    # Within the trained classes the ratios are those of the head.
    trained = Student(model)(make.images(1)).scores[0]
    found = np.array([record["scores"][name] for name in ("house", "tree", "fish")])
    np.testing.assert_allclose(found / found.sum(), trained, atol=1e-5)
    student = Student(model)
    classes = load_prototypes(mine, dim=16, model=student.digest)
    with pytest.raises(InferError, match="'house' is one of the trained classes too"):
        student.with_prototypes(classes._replace(names=("house", "pen")), join=True)
    with pytest.raises(InferError, match="no trained classes of whole inputs"):
        student.with_prototypes(classes).with_prototypes(classes, join=True)


def test_known_inputs_measure_false_rejects_in_place_of_examples(model, pictures, capsys):
    words = ["--prototypes", pictures / "classes", "--calibrate", pictures / "others", "--json"]
    assert main([*map(str, [model, *words, "--known", pictures / "more"])]) == 4
    assert "has the class 'hat'; there are: cup, pen" in capsys.readouterr().err
    shutil.rmtree(pictures / "more" / "hat")
    assert main([*map(str, [model, *words, "--known", pictures / "more"])]) == 0
    assert records(capsys)[0]["false_rejects"][1] == 1


def test_a_gallery_of_the_devices_own_finds_each_picture_itself(model, pictures, capsys):
    seen = pictures / "seen.npz"
    assert main([*map(str, [model, pictures / "others", "--json", "--save-gallery", seen])]) == 0
    saved = records(capsys)
    words = ["--gallery", seen, "--top", "2"]
    assert main([*map(str, [model, pictures / "others", "--json", *words])]) == 0
    found = records(capsys)
    assert all(len(one["similar"]) == 2 for one in found)
    assert [one["similar"][0]["name"] for one in found] == [one["file"] for one in saved]
    assert all(one["similar"][0]["cosine"] == pytest.approx(1, abs=1e-5) for one in found)
    assert main([*map(str, [model, pictures / "others" / "00.npy", *words])]) == 0
    assert "; similar: " in capsys.readouterr().out


def test_what_was_made_with_another_profile_is_refused(model, pictures, capsys):
    mine, seen = pictures / "mine.npz", pictures / "seen.npz"
    one = pictures / "others" / "00.npy"
    start = [model, one, "--prototypes", pictures / "classes"]
    assert main([*map(str, [*start, "--save-prototypes", mine, "--save-gallery", seen])]) == 0
    for words in (["--prototypes", mine], ["--gallery", seen]):
        assert main([*map(str, [model.parent, one, "--profile", "int8", *words])]) == 4
        assert "was made with another model" in capsys.readouterr().err
    assert main([*map(str, [model, one, "--prototypes", seen])]) == 4
    assert "its format is 'edgecmd.gallery 1'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--remove", "cup"], "--remove needs classes"),
        (["--save-prototypes", "x.npz"], "need --prototypes or --add"),
        (["--join"], "need --prototypes or --add"),
        (["--classes"], "need --prototypes or --add"),
        (["--add", "classes", "--known", "more"], "--known needs --calibrate"),
        (["--add", "classes", "--remove", "cup", "--remove", "pen"], "--remove leaves no class"),
        (["--add", "classes", "--remove", "cat"], "no class 'cat'"),
        (["--add", "classes", "--calibrate", "others", "--false-accepts", "nan"], "allowed is above 0"),
        (["--add", "classes", "--false-accepts", "few"], "invalid float value"),
        (["--add", "classes", "--join", "--calibrate", "others", "--top", "0", "--gallery", "g"], ""),
    ],
)
def test_options_that_do_not_go_together_are_named(model, pictures, capsys, monkeypatch, words, message):
    monkeypatch.chdir(pictures)
    assert main([str(model), "others/00.npy", *words]) == (4 if "--gallery" in words else 2)
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err
    assert not (pictures / "x.npz").exists()


def test_too_few_pictures_of_no_class_are_named_and_nothing_is_saved(model, pictures, capsys):
    for path in sorted((pictures / "others").iterdir())[10:]:
        path.unlink()
    words = ["--prototypes", pictures / "classes", "--calibrate", pictures / "others"]
    assert main([*map(str, [model, *words, "--save-prototypes", pictures / "x.npz"])]) == 4
    assert "10 inputs of no class are too few for false_accepts=0.05; at least 37" in capsys.readouterr().err
    assert not (pictures / "x.npz").exists()


def test_the_program_of_a_bundle_offers_the_same_as_a_module(model, pictures):
    code = (
        "import sys, infer, pathlib; import numpy as np\n"
        "student = infer.Student('student.onnx')\n"
        f"images = [np.load(p) for p in sorted(pathlib.Path({str(pictures)!r}).glob('classes/cup/*.npy'))]\n"
        "classes = infer.make_prototypes(student, {'cup': images[:2]})\n"
        "classes = infer.with_examples(classes, 'cup', student(np.stack(images[2:])).embedding)\n"
        f"path = pathlib.Path({str(pictures / 'm.npz')!r})\n"
        "infer.save_prototypes(path, classes, model=student.digest)\n"
        "back = infer.load_prototypes(path, dim=student.embedding_dim, model=student.digest)\n"
        "assert back.counts == (3,), back\n"
        "assert not {'torch', 'edgecmd', 'export', 'PIL'} & set(sys.modules)\n"
    )
    command = [sys.executable, "-B", "-W", "error", "-c", code]
    done = subprocess.run(
        command, cwd=Path(model).parent, env={}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
