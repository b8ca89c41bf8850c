"""Typed secrets: invented examples that clients hold a stated number of times. Does the shipped file tell?

An attacker with the exported file and a list of candidates, each with what it would be paired with, asks
which of them somebody typed (Carlini et al. 2019, arXiv 1802.08232). Secrets and decoys are drawn from one
law, each is paired with the source of a random training pair, and only secrets are put among the clients'
pairs; so nothing but the model can tell them apart. The run is trained again with them by its own federation,
privacy and secure sums included, and exported as a device gets it.

Shapes: S secrets and decoys, N training pairs, G things, D embedding dimension.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from jaxtyping import Int

from edgecmd.audits.bounds import clopper_pearson
from edgecmd.audits.risk.candidates import Embed, Pool, check_scores, pair_scores
from edgecmd.audits.risk.membership import Curve, curve
from edgecmd.core.errors import ConfigError
from edgecmd.core.seeding import numpy_generator
from edgecmd.data.duplicates import Alike
from edgecmd.data.experiment import Experiment
from edgecmd.data.modalities.table import modality_of
from edgecmd.data.pairs import PairedData
from edgecmd.data.stored.array_files import one_after_another
from edgecmd.evaluation.metrics import unit_rows
from edgecmd.evaluation.right_things import rank_of_right
from edgecmd.run import Given, Run

RANKS = (1, 10)


@dataclass(frozen=True, kw_only=True, slots=True)
class SecretRecipe:
    """What is planted.

    Attributes:
        num_secrets: Secrets for each of ``copies``.
        copies: How many times a secret is among the pairs of the client that holds it.
        num_decoys: Secrets that nobody holds.
        seed: Of the secrets, their sources and their holders.
    """

    num_secrets: int = 100
    copies: tuple[int, ...] = (1, 10, 100)
    num_decoys: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_secrets < 2 or self.num_decoys < 2:
            raise ConfigError(
                f"--secrets={self.num_secrets} and --decoys={self.num_decoys} must be at least 2: an interval"
                " needs two of each."
            )
        if not self.copies or min(self.copies) < 1 or len(set(self.copies)) < len(self.copies):
            raise ConfigError(
                f"--copies={','.join(map(str, self.copies))} must be different whole numbers from 1, such as"
                " 1,10,100."
            )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Planted:
    """A run whose clients hold secrets.

    Attributes:
        run: The attacked run with the secrets among its pairs.
        pool: Secrets and decoys with what an attacker knows of them; members are the secrets.
        copies: How often a client holds each, 0 for a decoy, (S,).
    """

    run: Run
    pool: Pool
    copies: Int[np.ndarray, " num"]


def plant(run: Run, recipe: SecretRecipe, *, folder: Path) -> Planted:
    """Put secrets among the pairs of a run's clients.

    A secret goes with the source of a training pair, drawn evenly, to the client that holds this pair (the
    first of several), with the pair's labels.

    Args:
        run: What is attacked.
        recipe: How many, how often.
        folder: Where the run with the secrets keeps its files, its ledgers among them.

    Raises:
        ConfigError: Nothing can be invented in the targets' modality, or the loss gives no score of a pair.
    """
    check_scores(run)
    data, modality = run.task.data, modality_of(run.task.data.train.target)
    if modality.invented is None:
        raise ConfigError(
            f"--attacks=secrets plants invented strings, and the targets of data.name={data.name!r} are"
            f" {modality.nouns}. Leave it out; --retrain asks about single pairs of any kind."
        )
    coins = numpy_generator(recipe.seed, "typed-secrets")
    copies = np.concatenate([np.repeat(recipe.copies, recipe.num_secrets), np.zeros(recipe.num_decoys, int)])
    target = modality.invented(len(copies), data.train.target.shape[1:], coins)
    shown = coins.choice(np.unique(np.concatenate(run.parts)), len(copies))
    added = np.repeat(np.arange(len(copies)), copies)
    holder = np.full(len(data.train), -1)
    for client, rows in reversed(list(enumerate(run.parts))):
        holder[rows] = client
    held = holder[shown[added]]
    parts = tuple(
        np.concatenate([rows, len(data.train) + np.flatnonzero(held == client)])
        for client, rows in enumerate(run.parts)
    )
    rows = np.concatenate([np.arange(len(data.train)), shown[added]])
    task = run.task.longer(_longer(data, target[added], rows=rows), rows)
    planted = replace(
        run,
        folder=folder,
        make_task=lambda: task,
        given=Given(parts=parts, student=run.new_student(), loss=run.loss),
        remake=None,
        federation=replace(run.federation, num_workers=1),
        evaluate=replace(run.evaluate, every_rounds=0),
        privacy=replace(run.privacy, ledger_dir=""),
    )
    features = run.task.local_data(shown).features.cpu().numpy()
    pool = Pool(
        target=target,
        teacher=unit_rows(features),
        anchors=unit_rows(run.anchors.cpu().numpy()),
        temperature=run.distill.temperature,
        mirrored=False,
        member=copies > 0,
        group=np.arange(len(copies)),
        rows=shown,
    )
    return Planted(run=planted, pool=pool, copies=copies)


def _longer(data: Experiment, target: np.ndarray, *, rows: np.ndarray) -> Experiment:
    """Training pairs at ``rows``, of which the last ones have ``target`` in place of their own."""
    old = len(rows) - len(target)
    pairs = data.train.take(rows)
    whole = one_after_another([pairs.target[np.arange(old)], target])
    ids = data.train_ids
    return replace(
        data,
        train=PairedData(source=pairs.source, target=whole),
        train_owner=data.train_owner.take(rows),
        train_labels=data.train_labels.take(rows),
        train_subgroup=data.train_subgroup.take(rows),
        train_concept=data.train_concept and data.train_concept.take(rows),
        train_ids=(*ids, *(f"secret-{one:06d}" for one in range(len(target)))) if ids else (),
        copies=data.copies and _copies(data.copies, rows, old=old),
    )


def _copies(known: Alike, rows: np.ndarray, *, old: int) -> Alike:
    """Groups of copies of the longer set: an invented target is like no other."""
    behind = np.arange(old, len(known))
    found = known.take(np.concatenate([rows, behind]))
    new = slice(old, len(rows))
    for codes in (found.target, found.ties[1]):
        codes[new] = max(known.target.max(), known.ties[1].max()) + 1 + np.arange(len(rows) - old)
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Count:
    """How many of some did something, with an exact interval.

    Attributes:
        found: How many.
        num: Of how many.
    """

    found: int
    num: int

    @property
    def interval(self) -> tuple[float, float]:
        """Clopper and Pearson's, at 95%."""
        return clopper_pearson(self.found, self.num)

    def table(self) -> dict[str, object]:
        """Plain values for ``audit.json``."""
        low, high = self.interval
        return {
            "found": self.found,
            "num": self.num,
            "share": self.found / self.num,
            "low": low,
            "high": high,
        }


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Told:
    """What the file tells of secrets that were typed equally often.

    Attributes:
        copies: How often each was typed.
        num: Secrets.
        num_decoys: Decoys.
        num_things: Things that secrets and decoys are paired with.
        curves: How well secrets are told from decoys: ``raw`` by the file's score, ``calibrated`` by its
            difference to the score of a model that never saw them, ``blind`` by that model alone.
        shown: For each of `RANKS`, of how many secrets the file finds the thing when they are typed.
        decoys: The same of decoys.
        seconds: Wall time.
    """

    copies: int
    num: int
    num_decoys: int
    num_things: int
    curves: Mapping[str, Curve]
    shown: tuple[Count, ...]
    decoys: tuple[Count, ...]
    seconds: float = field(default=0.0, compare=False)


def told(embed: Embed, reference: Embed, planted: Planted) -> list[Told]:
    """What a file tells of the secrets, for each number of copies.

    Args:
        embed: The file that was trained with them.
        reference: One of the same kind that never saw any.
        planted: The secrets.
    """
    pool = planted.pool
    own, other = (pair_scores(one, pool) for one in (embed, reference))
    scores = {"raw": own, "calibrated": own - other, "blind": other}
    rank, num_things = ranks(embed(pool.target), pool)
    found = []
    for copies in sorted(set(planted.copies[pool.member].tolist())):
        rows = np.flatnonzero((planted.copies == copies) | ~pool.member)
        member, group = pool.member[rows], np.arange(len(rows))
        found.append(
            Told(
                copies=copies,
                num=int(member.sum()),
                num_decoys=int((~member).sum()),
                num_things=num_things,
                curves={name: curve(score[rows], member, group=group) for name, score in scores.items()},
                shown=_counts(rank[planted.copies == copies]),
                decoys=_counts(rank[~pool.member]),
            )
        )
    return found


def ranks(embedding: np.ndarray, pool: Pool) -> tuple[Int[np.ndarray, " num"], int]:
    """At which place each one's own thing comes among all things, from 1, (S,), and how many these are.

    A thing that is as near comes first.
    """
    things, own = np.unique(pool.teacher, axis=0, return_inverse=True)
    near = np.asarray(embedding, dtype=np.float64) @ things.T.astype(np.float64)
    return rank_of_right(near, own.reshape(-1, 1) == np.arange(len(things))), len(things)


def _counts(rank: np.ndarray) -> tuple[Count, ...]:
    return tuple(Count(found=int((rank <= most).sum()), num=len(rank)) for most in RANKS)


def secrets_folder(run: Run, recipe: SecretRecipe, *, among: Path) -> Path:
    """Where a run with secrets keeps its files, so that the same audit continues it."""
    start = Path(run.student.path or run.student.weights)
    first = start.read_bytes() if start.is_file() else b""
    text = f"{run.described.comparable}\n{recipe}\n{hashlib.sha256(first).hexdigest()}"
    return among / f"secrets-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
