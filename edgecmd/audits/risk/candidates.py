"""The pairs that a membership attack asks about, and the score that a black box gives a pair.

Shapes: N pairs, K anchors, D embedding dimension, H height, W width, C channels.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import logsumexp

from edgecmd.core.errors import ConfigError, choose
from edgecmd.core.seeding import numpy_generator
from edgecmd.data.experiment import Experiment
from edgecmd.data.labelled import UNLABELLED, Labels
from edgecmd.data.modalities.table import modality_of
from edgecmd.data.pairs import PairedData, Targets, fingerprint
from edgecmd.data.stored.array_files import chosen, chunks, one_after_another
from edgecmd.evaluation.metrics import Embedding, unit_rows
from edgecmd.run import Run

Embed = Callable[[Targets], Embedding]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Pool:
    """Pairs with what the attacker knows of them.

    Attributes:
        target: Target images, uint8, (N, H, W, C).
        teacher: Teacher features of the same pairs, (N, D).
        anchors: Public teacher features, (K, D).
        temperature: Of the student's similarities.
        mirrored: Whether the student was trained on mirror images too, so that they are asked about.
        member: Which pairs the shipped model was trained on, (N,).
        group: What a fair coin decides for together, (N,): a concept, or a pair of its own.
        rows: Place of each among all pairs of the set, those of training first, (N,).
    """

    target: Targets
    teacher: Float[np.ndarray, "num dim"]
    anchors: Float[np.ndarray, "anchors dim"]
    temperature: float
    mirrored: bool
    member: Bool[np.ndarray, " num"]
    group: Int[np.ndarray, " num"]
    rows: Int[np.ndarray, " num"]

    def __len__(self) -> int:
        return len(self.target)

    def fingerprint(self) -> str:
        """SHA-256 of the pairs, the anchors and the groups."""
        return fingerprint(self.target, self.teacher, self.anchors, self.group)


def concept_pool(run: Run) -> Pool:
    """Training pairs as members, validation and test pairs as others; a group is a concept.

    Of pairs with one target, such as the languages that share a word, the first is asked about, and where the
    held-out parts do not name their concepts, a pair is a group of its own: members and others are treated
    alike.

    Raises:
        ConfigError: The loss gives no score of a pair.
    """
    whole = run.task.data
    held = (whole.validation, whole.test)
    parts: list[tuple[PairedData, tuple[str, ...], Labels | None]] = [
        (whole.train, whole.train_ids, whole.train_concept),
        *((one.pairs, one.ids, one.labelled.labels.get("concept")) for one in held),
    ]
    knows = all(labels is not None for _, _, labels in parts)
    group = grouped([_concepts(labels if knows else None, len(pairs)) for pairs, _, labels in parts])
    rows = _asked(whole, len(group))
    return _pool(
        run,
        target=chosen(one_after_another([pairs.target for pairs, _, _ in parts]), rows),
        teacher=np.concatenate([_features(run, pairs, ids) for pairs, ids, _ in parts])[rows],
        member=rows < len(whole.train),
        group=np.unique(group[rows], return_inverse=True)[1].reshape(-1),
        rows=rows,
    )


def pair_pool(run: Run) -> Pool:
    """Training pairs alone, each a group of its own; who is a member is for coins to say.

    Of pairs with one target the first is asked about, and one coin decides about all of them (`coins`).

    Raises:
        ConfigError: The loss gives no score of a pair.
    """
    whole: Experiment = run.task.data
    rows = _asked(whole, len(whole.train))
    return _pool(
        run,
        target=chosen(whole.train.target, rows),
        teacher=_features(run, whole.train, whole.train_ids)[rows],
        member=np.ones(len(rows), dtype=bool),
        group=np.arange(len(rows)),
        rows=rows,
    )


def coins(whole: Experiment, *, seed: int) -> Bool[np.ndarray, " train"]:
    """Which training pairs take part: a fair coin for each, and one for all whose target is the same."""
    if whole.copies is None:
        return fair_coins(len(whole.train), seed=seed)
    _, code = np.unique(whole.copies.target[: len(whole.train)], return_inverse=True)
    return fair_coins(int(code.max()) + 1, seed=seed)[code.reshape(-1)]


def fair_coins(num: int, *, seed: int) -> Bool[np.ndarray, " num"]:
    """Which of ``num`` take part: independent fair coins."""
    return np.asarray(numpy_generator(seed, "membership-coins").integers(0, 2, num) == 1)


def _asked(whole: Experiment, num: int) -> Int[np.ndarray, " num"]:
    """Rows of the first ``num`` pairs of a set, of those with one target the first alone."""
    if whole.copies is None:
        return np.arange(num)
    return np.sort(np.unique(whole.copies.target[:num], return_index=True)[1])


POOLS: dict[str, Callable[[Run], Pool]] = {"concepts": concept_pool, "pairs": pair_pool}


def make_pool(protocol: str, run: Run) -> Pool:
    """Pool of a protocol: ``concepts`` (the shipped model) or ``pairs`` (a model trained again).

    Raises:
        ConfigError: The protocol is unknown, or the loss gives no score of a pair.
    """
    return choose("protocol", protocol, POOLS)(run)


def check_scores(run: Run) -> None:
    """Refuse a loss under which a pair has no score.

    Raises:
        ConfigError: The loss does not bring a target to its teacher feature.
    """
    if not run.loss.uses_teacher:
        raise ConfigError(
            f"distill.loss={run.distill.loss!r} does not bring a drawing to its teacher feature, so a"
            " pair has no score. Audit a student of another loss."
        )


def _pool(run: Run, *, target: Targets, **parts: np.ndarray) -> Pool:
    check_scores(run)
    motion = modality_of(target).motion
    return Pool(
        target=target,
        anchors=unit_rows(run.anchors.cpu().numpy()),
        temperature=run.distill.temperature,
        mirrored=run.distill.augment > 0 and motion is not None and motion.flip,
        **parts,
    )


def _features(run: Run, pairs: PairedData, ids: tuple[str, ...]) -> np.ndarray:
    return unit_rows(run.task.pair_features(pairs, ids).cpu().numpy())


def _concepts(labels: Labels | None, num: int) -> list[str]:
    """Name of each pair's concept; empty where it is not known."""
    if labels is None:
        return [""] * num
    return ["" if one == UNLABELLED else labels.names[one] for one in labels.values]


def grouped(names: list[list[str]]) -> Int[np.ndarray, " num"]:
    """Numbers of groups: equal names share one, and whoever has no name is a group of its own.

    Args:
        names: Lists of names, one after the other.
    """
    every = [name for part in names for name in part]
    codes: dict[str, int] = {}
    keys = [name or f"\0{row}" for row, name in enumerate(every)]
    return np.array([codes.setdefault(key, len(codes)) for key in keys], dtype=np.int64)


def pair_scores(embed: Embed, pool: Pool) -> Float[np.ndarray, " num"]:
    """How sure a black box is of each pair: the logit of the teacher feature against public anchors.

    ``s = z.t / T - logsumexp_k(z.u_k / T)``, the scale on which offline LiRA's scores are about normal
    (Carlini et al. 2022, arXiv 2112.03570, section VI.B); with mirror images the mean of both questions.

    Args:
        embed: Maps uint8 images (N, H, W, C) to unit rows (N, D).
        pool: Pairs and anchors.

    Returns:
        Float64, (N,).
    """
    asked = [embed(pool.target)]
    if pool.mirrored:
        turned = (np.ascontiguousarray(part[:, :, ::-1]) for part in chunks(pool.target))
        asked.append(np.concatenate([embed(part) for part in turned]))
    return np.asarray(np.mean([_logits(one, pool) for one in asked], axis=0))


def _logits(embedding: Embedding, pool: Pool) -> Float[np.ndarray, " num"]:
    z = np.asarray(embedding, dtype=np.float64)
    positive = (z * pool.teacher).sum(axis=1) / pool.temperature
    negative = z @ pool.anchors.astype(np.float64).T / pool.temperature
    return np.asarray(positive - logsumexp(negative, axis=1))
