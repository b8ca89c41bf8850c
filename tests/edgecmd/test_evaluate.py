"""Metrics by hand, draws that every method shares, intervals against SciPy."""

import numpy as np
import pytest
from scipy import stats
from scipy.sparse import csr_array
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from edgecmd.core.errors import DataError
from edgecmd.core.statistics import mean_interval
from edgecmd.data.experiment import Gallery, HeldOut
from edgecmd.data.labelled import UNLABELLED, LabelledTarget, Labels
from edgecmd.data.pairs import PairedData
from edgecmd.evaluation import metrics, right_things


def labels(*values: int) -> Labels:
    return Labels(values=np.asarray(values), names=tuple("abcdefgh"))


def test_recall_by_hand() -> None:
    """Own picture first for row 0, second for row 1, third for row 2."""
    teacher = np.eye(3, dtype=np.float32)
    student = metrics.unit_rows(np.asarray([[3, 1, 0], [2, 1, 0], [3, 2, 1]], dtype=np.float32))
    assert metrics.recall(student, teacher, ranks=(1, 2, 3)) == {
        "recall@1": pytest.approx(1 / 3),
        "recall@2": pytest.approx(2 / 3),
        "recall@3": pytest.approx(1.0),
    }


def test_a_constant_embedding_retrieves_nothing() -> None:
    constant, teacher = np.ones((10, 10), dtype=np.float32), np.eye(10, dtype=np.float32)
    assert metrics.recall(constant, teacher) == {"recall@1": 0.0, "recall@5": 0.0, "recall@10": 1.0}


@pytest.mark.parametrize(("photographs", "each"), [(3, 5), (16, 5), (2, 40)])
def test_a_perfect_student_finds_the_photograph_of_several_sketches(photographs: int, each: int) -> None:
    photos = np.random.default_rng(0).standard_normal((photographs, 16)).astype(np.float32)
    teacher = np.repeat(metrics.unit_rows(photos), each, axis=0)
    found = metrics.recall(teacher, teacher, ranks=(1,))
    assert found == {"recall@1": 1.0}
    # The same answer to every sketch finds one photograph of all: the chance level.
    same = np.repeat(teacher[:1], len(teacher), axis=0)
    assert metrics.recall(same, teacher, ranks=(1,)) == {"recall@1": pytest.approx(1 / photographs)}


def test_features_that_differ_in_the_last_digits_are_one_thing() -> None:
    draws = np.random.default_rng(1)
    teacher = np.repeat(metrics.unit_rows(draws.standard_normal((4, 128)).astype(np.float32)), 3, axis=0)
    shaken = metrics.unit_rows(teacher + draws.normal(0, 1e-7, teacher.shape).astype(np.float32))
    assert len(np.unique(metrics.things(shaken))) == 4
    assert metrics.recall(teacher, shaken, ranks=(1,)) == {"recall@1": 1.0}


def test_one_thing_alone_is_refused() -> None:
    constant = np.ones((10, 4), dtype=np.float32)
    for shown in (None, np.arange(10)):
        with pytest.raises(DataError, match="show 1 thing.*Retrieval needs 2 things"):
            metrics.recall(constant, constant, shown=shown)
    with pytest.raises(DataError, match="show 1 thing"):
        metrics.recall(np.eye(4), np.eye(4), shown=np.zeros(4, dtype=int))


def test_copies_are_labelled_last() -> None:
    classes, twins = np.array([0] * 6 + [1] * 3), np.array([0, 0, 0, 0, 1, 2, 3, 4, 5])
    for seed in range(20):
        rows = metrics.draw_labels(classes, num_labels=3, generator=np.random.default_rng(seed), twins=twins)
        assert sorted(twins[rows]) == [0, 1, 2, 3, 4, 5]
    plain = metrics.draw_labels(classes, num_labels=3, generator=np.random.default_rng(5))
    apart = metrics.draw_labels(classes, num_labels=3, generator=np.random.default_rng(5), twins=np.arange(9))
    assert np.array_equal(plain, apart)


def test_a_copy_that_two_classes_have_is_right_for_both() -> None:
    teacher = np.eye(3, dtype=np.float32)[[0, 0, 1, 2]]
    classes = np.array([0, 1, 0, 1])
    assert metrics.class_recall(teacher, teacher, classes) == {"class_recall@1": 1.0}
    # Without it the third is nearest to a picture of the other class.
    assert metrics.class_recall(teacher[[0, 1, 3, 3]], teacher, classes) == {"class_recall@1": 0.75}


def test_recall_of_things_by_hand() -> None:
    """Pictures 0 and 1 show thing 7, picture 2 thing 3: each thing counts by its nearest picture."""
    teacher = np.eye(3, dtype=np.float32)
    rows = [[1, 3, 2], [3, 0, 2], [0, 3, 1]]
    student = metrics.unit_rows(np.asarray(rows, dtype=np.float32))
    shown = np.asarray([7, 7, 3])
    # Rows 0 and 1 are nearest to the other picture of their own thing, row 2 to one of the other thing.
    # Thing 7 is found by both of its rows, thing 3 by none: the mean of the two things, not of the rows.
    assert metrics.recall(student, teacher, ranks=(1, 2), shown=shown) == {
        "recall@1": pytest.approx(1 / 2),
        "recall@2": pytest.approx(1.0),
    }
    assert metrics.recall(student, teacher, ranks=(1,)) == {"recall@1": 0.0}


def test_recall_of_things_is_that_of_pictures_where_each_has_its_own() -> None:
    draws = np.random.default_rng(0)
    student, teacher = (
        metrics.unit_rows(draws.standard_normal((30, 5)).astype(np.float32)) for _ in range(2)
    )
    shown = draws.permutation(30)
    assert metrics.recall(student, teacher, shown=shown) == metrics.recall(student, teacher)
    # Rows of one picture do not stand in each other's way.
    assert metrics.recall(np.repeat(teacher, 3, 0), np.repeat(teacher, 3, 0), shown=np.repeat(shown, 3)) == {
        "recall@1": 1.0,
        "recall@5": 1.0,
        "recall@10": 1.0,
    }


def test_an_order_that_does_not_look_finds_its_share_of_things() -> None:
    """Five things, one of them with 40 of 52 recordings; the same answer to all of them."""
    teacher = metrics.unit_rows(np.random.default_rng(1).standard_normal((52, 6)).astype(np.float32))
    student = np.repeat(teacher[:1], 52, axis=0)
    shown = np.repeat(np.arange(5), [40, 3, 3, 3, 3])
    assert metrics.recall(student, teacher, ranks=(1, 2, 5), shown=shown) == {
        "recall@1": pytest.approx(1 / 5),
        "recall@2": pytest.approx(2 / 5),
        "recall@5": pytest.approx(1.0),
    }


class TestGallery:
    """Four pictures; the first word names 0 and 2, the second 1, the third 3."""

    PICTURES = np.eye(4, dtype=np.float32)
    RIGHT = csr_array(np.array([[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]], dtype=bool))

    def test_any_right_picture_counts_by_hand(self) -> None:
        words = metrics.unit_rows(np.array([[1, 4, 3, 2], [5, 4, 1, 0], [1, 2, 3, 0]], dtype=np.float32))
        # The first finds picture 2 behind 1; the second its own behind 0; the third its own last of all.
        assert metrics.first_ranks(words, self.PICTURES, self.RIGHT).tolist() == [2, 2, 4]
        assert metrics.recall(words, self.PICTURES, ranks=(1, 2, 4), right=self.RIGHT) == {
            "recall@1": 0.0,
            "recall@2": pytest.approx(2 / 3),
            "recall@4": 1.0,
        }

    def test_other_right_pictures_do_not_stand_before(self) -> None:
        words = np.tile(metrics.unit_rows(np.array([[4, 1, 3, 2]], dtype=np.float32)), (3, 1))
        assert metrics.first_ranks(words, self.PICTURES, self.RIGHT).tolist() == [1, 4, 3]

    def test_ties_count_against_the_student(self) -> None:
        words = np.full((3, 4), 0.5, dtype=np.float32)
        assert metrics.first_ranks(words, self.PICTURES, self.RIGHT).tolist() == [3, 4, 4]

    def test_pictures_of_one_feature_are_one_thing(self) -> None:
        """Pictures 1 and 2 have one feature: three things, and the first word's are 0 and that one."""
        pictures = np.array([[1, 0, 0], [0, 1, 0], [0, 2, 0], [0, 0, 1]], dtype=np.float32)
        words = metrics.unit_rows(np.array([[0, 2, 1], [1, 2, 3], [3, 2, 1]], dtype=np.float32))
        assert metrics.first_ranks(words, pictures, self.RIGHT).tolist() == [1, 2, 3]
        codes = metrics.things(pictures)
        assert right_things.right_things(self.RIGHT, codes).toarray().sum(axis=1).tolist() == [2, 1, 1]

    def test_one_right_picture_each_is_the_recall_of_pairs(self) -> None:
        draws = np.random.default_rng(0)
        words, pictures = (
            metrics.unit_rows(draws.standard_normal((30, 5)).astype(np.float32)) for _ in range(2)
        )
        own = csr_array(np.eye(30, dtype=bool))
        assert metrics.recall(words, pictures, right=own) == pytest.approx(metrics.recall(words, pictures))

    def test_blocks_change_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        words = np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32)
        whole = metrics.first_ranks(words, self.PICTURES, self.RIGHT).tolist()
        monkeypatch.setattr(metrics, "BLOCK", 4)
        assert metrics.first_ranks(words, self.PICTURES, self.RIGHT).tolist() == whole

    def test_chance_by_hand(self) -> None:
        """Of 4 things, 1 right: k / 4. 2 right: 1/2 at one, 5/6 at two (1 of 6 pairs has neither)."""
        assert right_things.chance(np.array([1]), 4, ranks=(1, 2, 4)) == pytest.approx(
            {"recall@1": 0.25, "recall@2": 0.5, "recall@4": 1.0}
        )
        assert right_things.chance(np.array([1, 2]), 4, ranks=(1, 2)) == pytest.approx(
            {"recall@1": (1 / 4 + 1 / 2) / 2, "recall@2": (1 / 2 + 5 / 6) / 2}
        )
        assert right_things.chance(np.array([3, 3]), 4, ranks=(2, 9)) == {"recall@2": 1.0, "recall@9": 1.0}

    def test_chance_is_what_random_orders_find(self) -> None:
        draws = np.random.default_rng(2)
        words = draws.standard_normal((4000, 8)).astype(np.float32)
        right = csr_array(draws.random((4000, 8)) < 0.2)
        asked = np.flatnonzero(np.diff(right.indptr))
        found = metrics.recall(words[asked], np.eye(8, dtype=np.float32), ranks=(1, 3), right=right[asked])
        expected = right_things.chance(np.diff(right[asked].indptr), 8, ranks=(1, 3))
        # Five standard errors of 3,300 questions.
        assert found == pytest.approx(expected, abs=5 * 0.5 / np.sqrt(len(asked)))

    def test_what_does_not_fit_is_refused(self) -> None:
        images, target = np.zeros((4, 16, 16, 3), np.uint8), np.ones((3, 8), np.uint8)
        pairs = PairedData(source=images[:3], target=target)
        labelled = LabelledTarget(target=target, labels={})
        gallery = Gallery(source=images, right=self.RIGHT)
        assert HeldOut(pairs=pairs, labelled=labelled, gallery=gallery).right is self.RIGHT
        with pytest.raises(DataError, match="a column for each of 3 sources"):
            Gallery(source=images[:3], right=self.RIGHT)
        with pytest.raises(DataError, match="nothing is right"):
            Gallery(source=images, right=csr_array(np.zeros((3, 4), dtype=bool)))
        with pytest.raises(DataError, match="Leave shown out"):
            HeldOut(pairs=pairs, labelled=labelled, gallery=gallery, shown=np.arange(3))
        with pytest.raises(DataError, match="answers 2 examples of 3"):
            HeldOut(pairs=pairs, labelled=labelled, gallery=Gallery(source=images, right=self.RIGHT[:2]))


def test_one_shot_by_hand() -> None:
    """Concepts 0 and 1 are drawn by both styles; one of the four queries is nearer to the wrong one."""
    embedding = metrics.unit_rows(np.asarray([[1, 0], [0, 1], [1, 0.1], [1, 0.9], [1, 1]], dtype=np.float32))
    concept, style = np.asarray([0, 1, 0, 1, 2]), np.asarray([0, 0, 1, 1, 0])
    found = metrics.one_shot_across_styles(embedding, concept, style)
    assert found == {"one_shot": 0.75, "chance": 0.5, "num_concepts": 2.0}


def test_one_shot_needs_two_styles() -> None:
    embedding = np.eye(3, dtype=np.float32)
    assert metrics.one_shot_across_styles(embedding, np.arange(3), np.zeros(3, dtype=int)) == {}


def test_draws_hold_k_of_each_class_or_all_that_there_are() -> None:
    pool = np.asarray([0] * 5 + [1] * 2 + [2] * 9)
    rows = metrics.draw_labels(pool, num_labels=3, generator=np.random.default_rng(0))
    assert np.bincount(pool[rows]).tolist() == [3, 2, 3]
    everything = metrics.draw_labels(pool, num_labels=0, generator=np.random.default_rng(0))
    assert everything.tolist() == list(range(16))


def test_a_probe_asks_only_for_classes_that_the_pool_has() -> None:
    points = np.arange(8, dtype=np.float32).reshape(4, 2)
    probe = metrics.make_probe(points, labels(0, 1, UNLABELLED, 1), points, labels(0, 2, 1, UNLABELLED))
    assert probe.pool_labels.tolist() == [0, 1, 1]
    assert probe.test_labels.tolist() == [0, 1]
    assert np.array_equal(probe.test, points[[0, 2]])


@pytest.mark.parametrize("method", ["knn", "linear"])
def test_separable_classes_are_told_apart(method: str) -> None:
    rng = np.random.default_rng(0)
    classes = np.repeat(np.arange(3), 20)
    points = metrics.unit_rows(np.eye(3)[classes] + 0.05 * rng.normal(size=(60, 3))).astype(np.float32)
    probe = metrics.make_probe(points, labels(*classes), points, labels(*classes))
    accuracy = metrics.probe_accuracy(probe, method=method, num_neighbours=5, seed=0)
    assert metrics.accuracies(accuracy, 2, num_draws=4) == [1.0] * 4


def test_all_labels_are_drawn_once() -> None:
    points = np.eye(4, dtype=np.float32)
    probe = metrics.make_probe(points, labels(0, 0, 1, 1), points, labels(0, 0, 1, 1))
    accuracy = metrics.probe_accuracy(probe, method="knn", num_neighbours=1, seed=0)
    assert metrics.accuracies(accuracy, 0, num_draws=5) == [1.0]


@pytest.mark.parametrize("num_classes", [2, 3])
def test_a_head_says_what_scikit_learn_says(num_classes: int) -> None:
    rng = np.random.default_rng(0)
    classes = np.repeat(np.arange(num_classes), 5) + 1
    points = metrics.unit_rows(rng.normal(size=(len(classes) + 1, 4)).astype(np.float32))
    # The first class has no example and the last example no class.
    told = Labels(values=np.append(classes, -1), names=("nobody", "b", "c", "d"))
    weight, bias, names = metrics.linear_head(points, told)
    assert names == told.names[1 : num_classes + 1]
    assert (weight.dtype, bias.dtype) == (np.float32, np.float32)
    expected = LogisticRegression(C=10.0, max_iter=2000).fit(points[:-1], classes).predict_proba(points)
    np.testing.assert_allclose(softmax(points @ weight.T + bias, axis=1), expected, atol=1e-5)


def test_rows_of_few_labels_by_hand() -> None:
    asked: list[tuple[int, int]] = []

    def accuracy(count: int, draw: int) -> float:
        asked.append((count, draw))
        return 0.25 + draw / 2

    rows = metrics.few_label_rows(accuracy, (1, 0), num_draws=2, num_items=8)
    # With all labels every draw is the same, so one is made.
    assert asked == [(1, 0), (1, 1), (0, 0)]
    assert list(rows) == ["1", "all"]
    assert (rows["1"]["values"], rows["1"]["mean"]) == ([0.25, 0.75], 0.5)
    assert (rows["all"]["values"], rows["all"]["mean"]) == ([0.25], 0.25)


def test_majority_by_hand() -> None:
    assert metrics.majority_share(np.asarray([0, 0, 1, 2])) == 0.5


def test_interval_equals_scipy() -> None:
    values = [0.3, 0.35, 0.31, 0.4, 0.33]
    ours = mean_interval(values)
    low, high = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    assert (ours.low, ours.high) == (pytest.approx(low), pytest.approx(high))
    assert ours.num == 5
    single = mean_interval([0.5])
    assert (single.low, single.mean, single.high) == (None, 0.5, None)


def test_clusters_that_are_the_classes_have_mutual_information_one() -> None:
    corners = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
    found = metrics.clustering(corners, labels(*[0] * 4, *[1] * 4, *[2] * 4), seed=0)
    assert found == {"nmi": pytest.approx(1.0), "ami": pytest.approx(1.0), "num_clusters": 3.0, "num": 12.0}


def test_clusters_by_hand() -> None:
    """Two clusters of (3 of a, 1 of b) and (4 of b): information over the mean of the entropies."""
    points = np.repeat(np.eye(2, dtype=np.float32), 4, axis=0)
    found = metrics.clustering(points, labels(0, 0, 0, 1, 1, 1, 1, 1), seed=0)
    cells = {(0.5, 3 / 8): 3 / 8, (0.5, 5 / 8): 1 / 8}
    information = sum(p * np.log(p / (a * b)) for (a, b), p in cells.items())
    information += 0.5 * np.log(0.5 / (0.5 * 5 / 8))
    entropy = -(3 / 8 * np.log(3 / 8) + 5 / 8 * np.log(5 / 8))
    assert found["nmi"] == pytest.approx(information / ((entropy + np.log(2)) / 2))


def test_clusters_leave_out_what_has_no_label_and_ask_for_two_classes() -> None:
    corners = np.repeat(np.eye(3, dtype=np.float32), 2, axis=0)
    found = metrics.clustering(corners, labels(0, 0, 1, 1, UNLABELLED, UNLABELLED), seed=0)
    assert found["num"] == 4.0
    assert metrics.clustering(corners, labels(0, 0, 0, 0, UNLABELLED, UNLABELLED), seed=0) == {}


@pytest.mark.parametrize("classes", [(0, 1, 2, 3), (0, 0, 1, 2), (0, 0, 0, 1, 2)])
def test_clusters_ask_for_two_examples_a_class(classes: tuple[int, ...]) -> None:
    """With a cluster for each example the agreement is 1 whatever the embedding."""
    points = np.random.default_rng(0).normal(size=(len(classes), 3)).astype(np.float32)
    assert metrics.clustering(points, labels(*classes), seed=0) == {}


def test_a_constant_embedding_has_no_clusters() -> None:
    found = metrics.clustering(np.ones((6, 2), dtype=np.float32), labels(0, 1, 0, 1, 0, 1), seed=0)
    assert found["nmi"] == pytest.approx(0.0)


class TestClassRecall:
    """Retrieval where pairs are matched by class: any source image of the class is right."""

    def test_by_hand(self) -> None:
        teacher = np.eye(4, dtype=np.float32)
        labels = np.array([0, 0, 1, 1])
        # The first finds its class's other image, the second an image of the wrong class, the rest their own.
        student = teacher[[1, 2, 2, 3]]
        assert metrics.class_recall(student, teacher, labels) == {"class_recall@1": 0.75}

    def test_a_constant_embedding_retrieves_nothing(self) -> None:
        constant = np.ones((4, 3), dtype=np.float32)
        assert metrics.class_recall(constant, constant, np.array([0, 0, 1, 1])) == {"class_recall@1": 0.0}

    def test_against_nearest_neighbours_of_scikit_learn(self) -> None:
        from sklearn.neighbors import KNeighborsClassifier

        noise = np.random.default_rng(0)
        labels = noise.integers(0, 5, 60)
        teacher = noise.normal(size=(60, 8)).astype(np.float32) + 2.0 * np.eye(5, 8)[labels]
        student = metrics.unit_rows(noise.normal(size=(60, 8)).astype(np.float32) + np.eye(5, 8)[labels])
        nearest = KNeighborsClassifier(1, metric="cosine").fit(teacher, labels)
        expected = float((nearest.predict(student) == labels).mean())
        assert metrics.class_recall(student, teacher.astype(np.float32), labels) == {
            "class_recall@1": pytest.approx(expected)
        }

    def test_what_has_no_label_is_neither_asked_for_nor_found(self) -> None:
        teacher = np.eye(3, dtype=np.float32)
        found = metrics.class_recall(teacher[[2, 1, 2]], teacher, np.array([0, 1, -1]))
        # Unlabelled, the third image does not count, so the first finds nothing at all: a tie.
        assert found == {"class_recall@1": 0.5}
        assert metrics.class_recall(teacher, teacher, np.array([0, 0, -1])) == {}

    def test_chance_is_that_of_a_random_image(self) -> None:
        assert metrics.same_class_share(np.repeat(np.arange(10), 7)) == pytest.approx(0.1)
        # Three, one, and one without label: (3/4)^2 + (1/4)^2.
        assert metrics.same_class_share(np.array([0, 0, 0, 1, -1])) == pytest.approx(0.625)
