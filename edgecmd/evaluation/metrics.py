"""Step 3 on concepts that nobody trained on: retrieval, clusters, one-shot recognition, kNN, linear probe.

Every function takes embeddings, so that the same numbers can be measured of torch, of an exported
file and of a teacher.

Shapes: N examples, D embedding dimension.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_array
from torch import Tensor, nn

from edgecmd.core.errors import DataError
from edgecmd.core.progress import stage, tracked
from edgecmd.core.seeding import numpy_generator, seed_sequence
from edgecmd.core.statistics import SHARE, mean_interval
from edgecmd.data.duplicates import feature_groups, joined
from edgecmd.data.experiment import Experiment
from edgecmd.data.labelled import UNLABELLED, Labels
from edgecmd.data.modalities.table import target_input
from edgecmd.data.pairs import Targets
from edgecmd.evaluation.right_things import RECALL_AT, by_thing, rank_of_right, right_things
from edgecmd.models.devices import device_of
from edgecmd.models.teacher.place_features import pool_places
from edgecmd.models.trial import running_student

# Scikit-learn is imported where something is fitted: a run that does not evaluate starts without it.
if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

# The first axis is anonymous: pool and test of a probe differ in length.
Embedding = Float[np.ndarray, "_ dim"]
# Similarities in memory at a time.
BLOCK = 2048**2


@torch.no_grad()
def embed_target(
    student: nn.Module, target: Targets, *, offset: float, scale: float, batch_size: int = 256
) -> Embedding:
    """Unit embeddings of targets, float32, (N, D); of a dense student the mean over the places.

    Args:
        student: Encoder; it is put into evaluation mode.
        target: Of any modality; N in the first axis.
        offset: ``data.target_offset``.
        scale: ``data.target_scale``.
        batch_size: Examples at a time.
    """
    student.eval()
    device = device_of(student)
    chunks = []
    for start in tracked(range(0, len(target), batch_size), "embedding targets"):
        shown = target_input(target[start : start + batch_size], offset=offset, scale=scale).to(device)
        with running_student(student):
            chunks.append(whole(student(shown)).cpu().numpy())
    return unit_rows(np.concatenate(chunks))


def whole(features: Float[Tensor, "num dim *grid"]) -> Float[Tensor, "num dim"]:
    """Features of whole images: as they are, or the mean of the unit features of their locations."""
    return pool_places(features) if features.ndim == 4 else features


def unit_rows(features: Embedding) -> Embedding:
    """Divide each row by its L2 norm; a zero row stays zero."""
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(norms, np.finfo(np.float32).tiny))


def recall(
    student: Embedding,
    teacher: Embedding,
    *,
    ranks: Sequence[int] = RECALL_AT,
    shown: Int[np.ndarray, " num"] | None = None,
    right: csr_array | None = None,
) -> dict[str, float]:
    """Cross-modal retrieval: for each target, is what its own source shows among the nearest?

    Things are ranked, not rows: sources that ``shown`` gives one code, and sources whose features the teacher
    cannot tell apart (`edgecmd.data.modalities.signature.SAME_FEATURE`), are one thing, ranked by the
    nearest of its rows. Every thing counts the same, so an order that does not look at the target finds a
    share of rank / things. Ties count against the student: the own thing is ranked behind every equal one,
    so a constant embedding retrieves nothing.

    With ``right``, any right thing counts as found, and all targets weigh the same; see `chance`.

    Args:
        student: Unit embeddings of the target images, (N, D).
        teacher: Features of the source images of the same pairs, (N, D); with ``right`` those of a gallery's
            images, (M, D).
        ranks: How many nearest things are looked at.
        shown: Code of what each pair shows, (N,), where more is known than the features tell: several
            images of one thing, copies that the teacher tells apart. None: the features decide.
        right: Which images of the gallery are right for each target, bool, (N, M).

    Returns:
        ``{"recall@1": share, ...}``.

    Raises:
        DataError: There is only one thing, among which nothing can be retrieved.
    """
    if right is not None:
        first = first_ranks(student, teacher, right)
        return {f"recall@{at}": float(np.mean(first <= at)) for at in ranks}
    codes, source = told_apart(teacher, shown=shown), unit_rows(teacher)
    found = [ranks_of(student[rows] @ source.T, codes, own=codes[rows]) for rows in _blocks(len(student))]
    return _shares(np.concatenate(found), codes, ranks=ranks)


def _blocks(num: int, others: int | None = None) -> list[slice]:
    """All of ``num`` rows of ``others`` numbers each (None: ``num``), as many at a time as fit `BLOCK`."""
    size = max(1, BLOCK // max(1, num if others is None else others))
    return [slice(start, start + size) for start in range(0, num, size)]


def first_ranks(student: Embedding, gallery: Embedding, right: csr_array) -> Int[np.ndarray, " num"]:
    """Rank of the first right thing of each target, from 1; wrong ones that are as near come before it.

    Args:
        student: Unit embeddings of the targets, (N, D).
        gallery: Features of the gallery's images, (M, D); images of equal features are one thing.
        right: Which images are right for each target, bool, (N, M).

    Raises:
        DataError: There is only one thing, among which nothing can be retrieved.
    """
    codes, source = told_apart(gallery, what="images of the gallery"), unit_rows(gallery)
    wanted = right_things(right, codes)
    found = [np.zeros(0, dtype=np.int64)]
    for rows in _blocks(len(student), len(gallery)):
        best, is_right = by_thing(student[rows] @ source.T, codes), wanted[rows].toarray()
        found.append(rank_of_right(best, is_right))
    return np.concatenate(found)


def told_apart(
    teacher: Embedding, *, shown: Int[np.ndarray, " num"] | None = None, what: str = "pairs"
) -> Int[np.ndarray, " num"]:
    """Code of what each source shows, (N,), as `things` gives it, where there are two to retrieve from.

    Args:
        teacher: Features of the sources, (N, D).
        shown: See `recall`.
        what: What the pairs are called in the message, in the plural.

    Raises:
        DataError: There is only one thing, among which nothing can be retrieved.
    """
    codes = things(teacher, shown=shown)
    num = int(codes.max(initial=-1)) + 1
    if num < 2:
        raise DataError(
            f"The {len(codes)} {what} show {num} thing: their sources are copies of one another, or"
            " the teacher's features of them are equal. Retrieval needs 2 things at least. Hold out"
            " pairs of other sources, or take another teacher."
        )
    return codes


def things(teacher: Embedding, *, shown: Int[np.ndarray, " num"] | None = None) -> Int[np.ndarray, " num"]:
    """Code of what each source shows to retrieval, (N,): rows of one code in ``shown`` or of one feature.

    Args:
        teacher: Features of the sources, (N, D).
        shown: See `recall`.
    """
    if not len(teacher):
        return np.zeros(0, dtype=np.int64)
    same = feature_groups(teacher)
    return same if shown is None else joined(shown, same)


def ranked(
    similarity: Float[np.ndarray, "num num"], codes: Int[np.ndarray, " num"], *, ranks: Sequence[int]
) -> dict[str, float]:
    """Share of the rows whose own thing is among the nearest, every thing counting the same.

    Args:
        similarity: Of each row to each row, (N, N); column i belongs to row i.
        codes: Thing of each column, from 0 without gaps, (N,).
        ranks: How many nearest things are looked at.
    """
    return _shares(ranks_of(similarity, codes), codes, ranks=ranks)


def _shares(
    rank: Int[np.ndarray, " num"], codes: Int[np.ndarray, " num"], *, ranks: Sequence[int]
) -> dict[str, float]:
    weight = 1.0 / np.bincount(codes)[codes]
    return {f"recall@{at}": float(np.average(rank <= at, weights=weight)) for at in ranks}


def ranks_of(
    similarity: Float[np.ndarray, "rows num"],
    codes: Int[np.ndarray, " num"],
    *,
    own: Int[np.ndarray, " rows"] | None = None,
) -> Int[np.ndarray, " rows"]:
    """Rank of each row's own thing, from 1; equal ones come before it.

    Args:
        similarity: Of each row to each source, (R, N).
        codes: Thing of each source, from 0 without gaps, (N,).
        own: Thing of each row, (R,); None: those of ``codes``.
    """
    best = by_thing(similarity, codes)
    mine = best[np.arange(len(best)), codes if own is None else own]
    return np.asarray((best >= mine[:, None]).sum(axis=1))


def class_recall(
    student: Embedding,
    teacher: Embedding,
    labels: Int[np.ndarray, " num"],
    *,
    shown: Int[np.ndarray, " num"] | None = None,
) -> dict[str, float]:
    """Cross-modal retrieval where pairs are matched by class: does the nearest source image have the class?

    Which of the images of a class is a target's own says nothing there, so each of them is right, and so is
    a copy of one that another class has too. Ties count against the student: a constant embedding retrieves
    nothing.

    Args:
        student: Unit embeddings of the targets, (N, D).
        teacher: Features of the source images of the same pairs, (N, D).
        labels: Class of each pair, (N,); unlabelled ones are not asked for, nor found.
        shown: See `recall`.

    Returns:
        ``{"class_recall@1": share}``; empty where there are no two classes.
    """
    asked = labels != UNLABELLED
    if len(np.unique(labels[asked])) < 2:
        return {}
    own, seen, source = labels[asked], student[asked], unit_rows(teacher[asked])
    codes = things(teacher[asked], shown=None if shown is None else shown[asked])
    first = np.unique(own, return_index=True)[1]
    # Of a teacher that tells no source apart; then nothing is found.
    apart = not right_sources(own, codes, rows=first).all()
    won = []
    for rows in _blocks(len(own)):
        similarity = seen[rows] @ source.T
        right = right_sources(own, codes, rows=rows) if apart else own[rows, None] == own[None]
        best_right = np.where(right, similarity, -np.inf).max(axis=1)
        best_wrong = np.where(right, -np.inf, similarity).max(axis=1)
        won.append(best_right > best_wrong)
    return {"class_recall@1": float(np.concatenate(won).mean())}


def right_sources(
    labels: Int[np.ndarray, " num"],
    codes: Int[np.ndarray, " num"],
    *,
    rows: slice | np.ndarray = slice(None),
) -> Bool[np.ndarray, "rows num"]:
    """Which sources are right for the targets at ``rows``: those whose thing occurs in the target's class."""
    classes = np.unique(labels, return_inverse=True)[1]
    occurs = np.zeros((classes.max() + 1, codes.max() + 1), dtype=bool)
    occurs[classes, codes] = True
    return np.asarray(occurs[classes[rows]][:, codes])


def same_class_share(labels: Int[np.ndarray, " num"]) -> float:
    """Chance level of `class_recall`: how often an image drawn at random has a target's class."""
    counts = np.unique(labels[labels != UNLABELLED], return_counts=True)[1]
    return float(np.square(counts / max(1, counts.sum())).sum())


def one_shot_across_styles(
    embedding: Embedding, concept: Int[np.ndarray, " num"], style: Int[np.ndarray, " num"]
) -> dict[str, float]:
    """Recognise each concept in one style from a single labelled drawing of it in another style.

    For each ordered pair of styles: the drawings of the concepts that both styles have, in the
    first style, are the one labelled example per class; those of the second style are classified by
    the nearest.

    Args:
        embedding: Unit embeddings, (N, D).
        concept: Concept of each drawing, (N,).
        style: Style of each drawing, (N,).

    Returns:
        ``one_shot`` (mean accuracy over the ordered pairs), ``chance`` and ``num_concepts`` (of
        the last pair); empty where no two styles share two concepts.
    """
    scores, shared = [], np.empty(0)
    for support, query in permutations(np.unique(style), 2):
        shared = np.intersect1d(concept[style == support], concept[style == query])
        if len(shared) < 2:
            continue
        first = np.stack([embedding[(style == support) & (concept == one)][0] for one in shared])
        second = np.stack([embedding[(style == query) & (concept == one)][0] for one in shared])
        # Concepts are what is recognised: drawings that look the same to the student are still two of them.
        scores.append(ranked(second @ first.T, np.arange(len(shared)), ranks=(1,))["recall@1"])
    if not scores:
        return {}
    return {
        "one_shot": float(np.mean(scores)),
        "chance": 1.0 / len(shared),
        "num_concepts": float(len(shared)),
    }


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Probe:
    """Pool of labelled embeddings and the test embeddings to be classified.

    Attributes:
        pool: Embeddings that labels may be drawn for, (P, D).
        pool_labels: Their classes, none `UNLABELLED`.
        test: Embeddings to classify, (N, D).
        test_labels: Their classes, all of which occur in the pool.
        twins: Code of the copies in the pool, (P,); see `draw_labels`.
    """

    pool: Embedding
    pool_labels: Int[np.ndarray, " pool"]
    test: Embedding
    test_labels: Int[np.ndarray, " num"]
    twins: Int[np.ndarray, " pool"] | None = None


def make_probe(
    pool: Embedding,
    pool_labels: Labels,
    test: Embedding,
    test_labels: Labels,
    *,
    twins: Int[np.ndarray, " pool"] | None = None,
) -> Probe:
    """Keep what can be asked: labelled rows, and of the test only classes that the pool has."""
    keep_pool = known(pool_labels)
    keep_test = np.isin(test_labels.values, pool_labels.values[keep_pool]) & (known(test_labels))
    return Probe(
        pool=pool[keep_pool],
        pool_labels=pool_labels.values[keep_pool],
        test=test[keep_test],
        test_labels=test_labels.values[keep_test],
        twins=None if twins is None else twins[keep_pool],
    )


def held_out_probe(whole: Experiment, pool: Embedding, test: Embedding, *, labelling: str) -> Probe:
    """The probe of a labelling: labels of the validation split, tested on the test split.

    Args:
        whole: Both parts with their labels.
        pool: Embeddings of the validation split.
        test: Embeddings of the test split.
        labelling: Such as ``group``.
    """
    told, asked = (part.labelled.labels[labelling] for part in (whole.validation, whole.test))
    return make_probe(pool, told, test, asked, twins=whole.validation.twins)


def draw_labels(
    labels: Int[np.ndarray, " pool"],
    *,
    num_labels: int,
    generator: np.random.Generator,
    twins: Int[np.ndarray, " pool"] | None = None,
) -> Int[np.ndarray, " drawn"]:
    """Rows of ``num_labels`` examples a class, or all of a class that has fewer; 0 stands for all.

    Args:
        labels: Classes of the pool, (P,).
        num_labels: Labels per class.
        generator: Source of randomness.
        twins: Code of the copies, (P,): a second copy of an example is drawn only where a class has no other
            example left, for it would be a label that says nothing new. None: there are no copies.
    """
    drawn = []
    for one in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == one))
        if twins is not None:
            rows = rows[np.argsort(_occurrence(twins[rows]), kind="stable")]
        drawn.append(rows[: num_labels or None])
    return np.sort(np.concatenate(drawn))


def _occurrence(codes: Int[np.ndarray, " num"]) -> Int[np.ndarray, " num"]:
    """How often the code of each row stood before it."""
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    place = np.arange(len(codes)) - np.repeat(starts, np.diff(starts, append=len(codes)))
    found = np.empty(len(codes), dtype=np.int64)
    found[order] = place
    return found


Classifier = Callable[[Embedding, Int[np.ndarray, " drawn"], Embedding, int], Int[np.ndarray, " num"]]


def knn_predict(
    pool: Embedding, labels: Int[np.ndarray, " drawn"], test: Embedding, num_neighbours: int
) -> Int[np.ndarray, " num"]:
    """Classes by the nearest labelled embeddings (scikit-learn, cosine through unit vectors)."""
    from sklearn.neighbors import KNeighborsClassifier

    model = KNeighborsClassifier(n_neighbors=min(num_neighbours, len(pool)), weights="distance")
    return np.asarray(_fitted(model, pool, labels).predict(test))


def linear_predict(
    pool: Embedding,
    labels: Int[np.ndarray, " drawn"],
    test: Embedding,
    num_neighbours: int,  # noqa: ARG001 - every probe has one signature
) -> Int[np.ndarray, " num"]:
    """Classes by logistic regression on frozen embeddings (scikit-learn); the linear probe."""
    return np.asarray(fit_linear(pool, labels).predict(test))


def fit_linear(pool: Embedding, labels: Int[np.ndarray, " drawn"]) -> "LogisticRegression":
    """Multinomial logistic regression with the settings that every probe and exported head uses."""
    from sklearn.linear_model import LogisticRegression

    return _fitted(LogisticRegression(C=10.0, max_iter=2000), pool, labels)


def _fitted(model: Any, pool: Embedding, labels: Int[np.ndarray, " drawn"]) -> Any:  # noqa: ANN401 - untyped
    with warnings.catch_warnings():
        # One example a class is the question here, not the sign of a regression problem.
        warnings.filterwarnings("ignore", message="The number of unique classes")
        return model.fit(pool, labels)


def linear_head(
    embedding: Embedding, labels: Labels
) -> tuple[Float[np.ndarray, "classes dim"], Float[np.ndarray, " classes"], tuple[str, ...]]:
    """A linear probe on all known labels, as an exported head has it.

    Args:
        embedding: Unit embeddings, (N, D).
        labels: Of at least two classes; rows without one are left out.

    Returns:
        Weight and bias, float32, a row per class that occurs, and the names of these classes. Of two classes
        the first scores 0.
    """
    rows = known(labels)
    model = fit_linear(embedding[rows], labels.values[rows])
    weight, bias = np.asarray(model.coef_), np.asarray(model.intercept_)
    if len(model.classes_) == 2:  # scikit-learn keeps one row for two classes
        weight, bias = np.concatenate([0 * weight, weight]), np.concatenate([0 * bias, bias])
    names = tuple(labels.names[index] for index in model.classes_)
    return weight.astype(np.float32), bias.astype(np.float32), names


def class_rows(
    fitted: "LogisticRegression",
) -> tuple[Float[np.ndarray, "classes dim"], Float[np.ndarray, " classes"]]:
    """Weight and bias of a regression, a row per class; fitted to two classes it has the second's alone."""
    weight, bias = fitted.coef_, fitted.intercept_
    if len(weight) == 1:
        return np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return weight, bias


PROBES: dict[str, Classifier] = {"knn": knn_predict, "linear": linear_predict}


Accuracy = Callable[[int, int], float]
"""Test accuracy of a number of labels per class, 0 for all, and of the index of a draw of them."""


def probe_accuracy(probe: Probe, *, method: str, num_neighbours: int, seed: int) -> Accuracy:
    """Test accuracy of a probe.

    The draw depends on (seed, number of labels, draw) alone, so every method sees the same labels.

    Args:
        probe: Labelled pool and test.
        method: A key of `PROBES`.
        num_neighbours: Of kNN.
        seed: Seed of the run.
    """

    def accuracy(num_labels: int, draw: int) -> float:
        generator = numpy_generator(seed, f"labels-{num_labels}", client=draw)
        rows = draw_labels(probe.pool_labels, num_labels=num_labels, generator=generator, twins=probe.twins)
        predicted = PROBES[method](probe.pool[rows], probe.pool_labels[rows], probe.test, num_neighbours)
        return float((predicted == probe.test_labels).mean())

    return accuracy


def accuracies(accuracy: Accuracy, count: int, *, num_draws: int, told: str = "few labels") -> list[float]:
    """Accuracy for each draw of ``count`` labels per class; one of all (0), whose draws are the same."""
    draws = tracked(range(num_draws if count else 1), f"{told}, {count or 'all'} labels per class")
    return [accuracy(count, draw) for draw in draws]


def few_label_rows(
    accuracy: Accuracy, counts: Sequence[int], *, num_draws: int, num_items: int, told: str = "few labels"
) -> dict[str, dict[str, object]]:
    """A row for each number of labels: the accuracies of its draws, their mean and interval.

    Args:
        accuracy: Of one draw.
        counts: Numbers of labels per class; 0 for all.
        num_draws: Independent draws.
        num_items: Test items that bear the interval.
        told: What the progress is called.
    """
    rows: dict[str, dict[str, object]] = {}
    for count in counts:
        values = accuracies(accuracy, count, num_draws=num_draws, told=told)
        interval = mean_interval(values, bounds=SHARE, num_items=num_items)
        rows[str(count or "all")] = {"values": values, **asdict(interval)}
    return rows


def clustering(embedding: Embedding, labels: Labels, *, seed: int) -> dict[str, float]:
    """Zero-label use: k-means with as many clusters as there are classes, held against the classes.

    Args:
        embedding: Unit embeddings, (N, D).
        labels: Classes; examples without one are left out.
        seed: Seed of the run.

    Returns:
        ``nmi`` (mutual information over the mean of the two entropies, 1 for the classes themselves; small
        clusters raise it by chance), ``ami`` (the same adjusted, so that chance is 0), ``num_clusters`` and
        ``num``; empty where there are fewer than two classes, or fewer than two examples a class on average:
        clusters of one example agree with classes of one example whatever the embedding.
    """
    rows = known(labels)
    classes = labels.values[rows]
    num_clusters = len(np.unique(classes))
    if num_clusters < 2 or len(classes) < 2 * num_clusters:
        return {}
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score

    state = int(seed_sequence(seed, "clusters").generate_state(1)[0])
    with warnings.catch_warnings():
        # Equal embeddings make fewer clusters than classes, which the score shows.
        warnings.filterwarnings("ignore", category=ConvergenceWarning)
        with stage("k-means clusters"):
            found = KMeans(num_clusters, n_init=10, random_state=state).fit_predict(embedding[rows])
    return {
        "nmi": float(normalized_mutual_info_score(classes, found)),
        "ami": float(adjusted_mutual_info_score(classes, found)),
        "num_clusters": float(num_clusters),
        "num": float(len(classes)),
    }


def majority_share(labels: Int[np.ndarray, " num"]) -> float:
    """Accuracy of always naming the most frequent class: the floor of every accuracy."""
    return float(np.unique(labels, return_counts=True)[1].max() / len(labels))


def known(labels: Labels) -> Bool[np.ndarray, " num"]:
    """Which examples carry a label."""
    return np.asarray(labels.values != UNLABELLED)
